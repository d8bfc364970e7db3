"""Work handed to threads that are awake: done once and rightly, whoever comes or stays away."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from typing import Any

import numpy as np
import pytest

from tinygrad_rnn.kernels.cpu import desks, threads
from tinygrad_rnn.kernels.cpu import run as native

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(native.available() is not None, reason="no kernels, no llvmlite")

PATIENT = 1 << 40


def operands(m: int, k: int, n: int) -> tuple[Array, Array, Array]:
    """Small integers, of which float32 makes exact sums, and what their product is."""
    rng = np.random.default_rng(m + n)
    a, b = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((m, k), (k, n)))
    return a, b, a @ b


def multiply(a: Array, b: Array, places: Any, count: int) -> Array:
    out = np.full((len(a), b.shape[1]), np.nan, np.float32)
    native._multiply_with_help(native._machine().functions, False, a, b, out, places, count)
    return out


def states(places: Any, count: int) -> list[int]:
    return [places[desks.WORDS * n] for n in range(count)]


class Sitting:
    """Threads that sit at desks until they are sent off."""

    def __init__(self, count: int) -> None:
        self.work = native._machine().functions.desk_work
        self.places, self.count = desks.desks(count), count
        self.threads = [threading.Thread(target=self.sit, args=(n,)) for n in range(count)]

    def sit(self, number: int) -> None:
        self.work.attend(ctypes.byref(self.places, 8 * desks.WORDS * number), PATIENT)

    def __enter__(self) -> Any:
        for thread in self.threads:
            thread.start()
        while states(self.places, self.count) != [desks.WAITING] * self.count:
            time.sleep(0.001)
        return self.places

    def __exit__(self, *exception: object) -> None:
        self.work.send_off(self.places, self.count)
        for thread in self.threads:
            thread.join()


SHAPES = [(70, 90, 33), (33, 200, 500), (2, 70, 16), (500, 3, 17), (3, 5, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["as it is", "transposed"])
@pytest.mark.parametrize("here", [0, 1, 3])
def test_a_product_is_made_whoever_sits_there(
    shape: tuple[int, int, int], layout: str, here: int
) -> None:
    a, b, expected = operands(*shape)
    if layout == "transposed":
        b = np.ascontiguousarray(b.T).T
    with Sitting(3) as places:
        native._machine().functions.desk_work.send_off(places, 3 - here)
        for _ in range(20):
            assert np.array_equal(multiply(a, b, places, 4), expected)


def test_who_sits_there_does_a_part_and_waits_for_the_next() -> None:
    a, b, _ = operands(64, 300, 500)
    with Sitting(1) as places:
        left = []
        for _ in range(300):
            multiply(a, b, places, 2)
            assert states(places, 1) == [desks.WAITING]
            left.append(native._blocks.parts[2 * desks.WORDS - 1])
        assert 0 in left  # in a product, at least, the other part was another thread's
    assert states(places, 1) == [desks.AWAY]


def test_a_thread_leaves_when_nothing_comes() -> None:
    places = desks.desks(1)
    native._machine().functions.desk_work.attend(places, 10)
    assert states(places, 1) == [desks.AWAY]


def test_machine_code_outlives_whoever_compiled_it() -> None:
    """Where several threads multiply at once for the first time, each compiles; one is kept."""
    work = native._Machine().functions.desk_work
    threads.sit_at(native._machine().functions.desk_work)
    gc.collect()
    places = desks.desks(1)
    work.attend(places, 10)
    work.send_off(places, 1)
    assert states(places, 1) == [desks.AWAY]


def test_several_at_once_may_have_work_for_the_same_desks() -> None:
    wrong: list[int] = []
    with Sitting(2) as places:

        def work(size: int) -> None:
            a, b, expected = operands(size, 100, 200)
            for _ in range(200):
                if not np.array_equal(multiply(a, b, places, 3), expected):
                    wrong.append(size)

        others = [threading.Thread(target=work, args=(size,)) for size in (20, 60, 90)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert states(places, 2) == [desks.WAITING] * 2
    assert not wrong


def test_products_that_follow_one_another_find_somebody_awake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    helped = threading.Event()
    make = native._multiply_with_help

    def spy(*arguments: Any) -> None:
        make(*arguments)
        helped.set()

    monkeypatch.setattr(native, "_multiply_with_help", spy)
    monkeypatch.setattr(native, "_SOON", 1e12)
    monkeypatch.setattr(desks, "PATIENCE", 10_000_000)
    a, b, expected = operands(64, 128, 512)
    while not helped.is_set():
        out = np.empty_like(expected)
        native.product(a, b, out, threads=2)
        assert np.array_equal(out, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_has_desks_of_its_own() -> None:
    a, b, expected = operands(64, 300, 500)
    out = np.empty_like(expected)
    native.product(a, b, out, threads=2)
    before = threads._workers._desks
    child = os.fork()
    if not child:
        own = threads._workers._desks
        fresh = own is not before and states(own, 64) == [desks.AWAY] * 64
        for _ in range(10):
            native.product(a, b, out, threads=2)
        os._exit(0 if fresh and np.array_equal(out, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
