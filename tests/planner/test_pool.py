"""The pool: what is on loan stays its user's, what is returned is used again, little is kept."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.planner.runtime import pool as module
from tinygrad_rnn.planner.runtime.pool import Pool, rounded

Array = np.ndarray[Any, Any]


def address(array: Array) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (5, 3), (2, 1, 9)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "int64"])
def test_an_array_is_as_asked_for(shape: tuple[int, ...], dtype: str) -> None:
    array = Pool().zeros(shape, np.dtype(dtype))
    assert array.shape == shape and array.dtype == dtype and not array.any()
    assert array.flags.c_contiguous and array.flags.writeable


@pytest.mark.parametrize(
    "kept",
    [
        lambda a: a,
        lambda a: a[1:, ::2],
        lambda a: a.T[0],
        lambda a: a.reshape(-1)[:3],
        lambda a: memoryview(a),
        lambda a: np.from_dlpack(a),
        lambda a: a.view(np.uint32)[2:],
    ],
)
def test_memory_that_anything_looks_at_is_nobody_elses(kept: Any) -> None:
    pool = Pool()
    array = pool.zeros((4, 6))
    place, view = address(array), kept(array)
    del array
    others = [pool.zeros((4, 6)) for _ in range(5)]
    assert place not in map(address, others)
    for other in others:
        other += 1
    assert not np.asarray(view).any()
    del view
    assert address(pool.empty((4, 6))) == place


def test_what_is_returned_is_used_again_also_for_what_is_smaller() -> None:
    pool = Pool()
    place = address(pool.empty((1000, 100)))
    assert address(pool.empty((1000, 100))) == place
    assert address(pool.empty((1000, 51))) == place
    assert address(pool.empty((1000, 40))) != place


def test_cycles_return_what_they_held() -> None:
    pool = Pool()
    cycle: list[Any] = [pool.empty((64,))]
    place = address(cycle[0])
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert address(pool.empty((64,))) == place


def test_threads_never_share() -> None:
    pool, wrong = Pool(), []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        kept: list[Array] = []
        for _ in range(2000):
            array = pool.empty((int(rng.integers(1, 40)), 4096))
            array.fill(number)
            kept.append(array)
            if len(kept) > 12:
                gone = kept.pop(int(rng.integers(12)))
                if (gone != number).any():
                    wrong.append(number)
        pool.begin_call()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    del threads
    assert pool.bytes and not pool._loans and pool._asked == pool._lost == 0


def test_what_live_buffers_cost_does_not_grow_with_their_number() -> None:
    """No look-up goes through the loans: an ordered set of them would be seen to be walked."""

    class Watched(dict[Any, Any]):
        def __iter__(self) -> Any:
            raise AssertionError("a buffer was looked for among all that are in use")

    pool = Pool()
    pool._loans = Watched()
    kept = [pool.empty((3, 5)) for _ in range(1000)]
    del kept[::2]
    assert len({address(pool.empty((3, 5))) for _ in range(100)}) == 1


class Need:
    """A pool's memory as its users see it: the most that they had at once."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.most, self.now = pool, 0, 0

    def call(self, sizes: list[int]) -> None:
        """A call of a plan that has buffers of these sizes at once."""
        self.pool.begin_call()
        arrays = [self.pool.empty((size,), np.uint8) for size in sizes]
        self.most = max(self.most, sum(map(rounded, sizes)))
        del arrays


def test_held_is_at_most_half_as_much_again_as_the_last_calls_needed() -> None:
    pool, need = Pool(), Need(Pool())
    need.pool = pool
    rng = np.random.default_rng(0)
    for _ in range(300):
        steps = int(rng.integers(10, 1000))
        need.call([steps * 4096, steps * 1024, steps * 8192 + 5, 100])
        assert pool.bytes <= 1.5 * need.most
    small = Need(pool)
    for _ in range(module._CALLS + 1):
        small.call([1_000_000, 300_000])
    assert pool.bytes <= 1.5 * small.most


def test_what_is_free_stays_while_a_call_needs_more_and_is_counted() -> None:
    pool, sizes = Pool(), [10_000_000, 30_000_000]
    for size in sizes:
        array = pool.empty((size,), np.uint8)
        assert pool.bytes >= size
        del array
    assert pool.bytes == sum(map(rounded, sizes))


def test_sizes_are_rounded_to_eight_in_each_doubling() -> None:
    sizes = [rounded(size) for size in range(2**20 + 1, 2**21 + 1, 999)]
    assert sorted(set(sizes)) == [2**20 + i * 2**17 for i in range(1, 9)]
    assert all(rounded(size) == size for size in sizes)
    assert rounded(2**20 + 1) == 2**20 + 2**17


def test_the_same_calls_over_and_over_take_no_new_memory() -> None:
    need = Need(Pool())
    for _ in range(3):
        need.call([5_000_000, 700_000, 700_000, 64])
    need.pool._collect()
    taken = {id(block.memory) for blocks in need.pool._free.values() for _, block in blocks}
    for _ in range(40):
        need.call([5_000_000, 700_000, 700_000, 64])
        need.pool._collect()
        free = {id(block.memory) for blocks in need.pool._free.values() for _, block in blocks}
        assert free == taken


def test_clear_forgets_what_is_free_and_what_is_in_use() -> None:
    pool = Pool()
    array, _ = pool.zeros((1000,)), pool.empty((2000,))
    pool.clear()
    assert pool.bytes == 0
    assert not array.any()
    del array
    assert pool.bytes == 0 and not pool._free
    assert pool.empty((1000,)).shape == (1000,)


def test_lengths_that_were_long_once_are_not_held_for_ever() -> None:
    cell, rng = nn.LSTMCell(16, 32), np.random.default_rng(0)
    pool = tg.plan_cache().pool

    def step(steps: int) -> None:
        x = tg.tensor(rng.normal(size=(steps, 8, 16)).astype("float32"))
        y, _ = tg.unroll(cell, x, mode="planned")
        tg.square(y).sum().backward()

    pool.clear()
    for _ in range(3):
        step(600)
    pool.begin_call()
    long = max(pool._needed)
    for steps in rng.integers(10, 600, 25).tolist():
        step(steps)
        assert pool.bytes <= 1.5 * long
    for _ in range(10):
        step(100)
    assert pool.bytes <= max(1.5 * long / 5, module._LITTLE)


def test_what_is_small_is_left_to_the_allocator() -> None:
    pool = Pool()
    small, large = pool.empty((module.SMALL,), np.uint8), pool.empty((module.SMALL + 1,), np.uint8)
    assert small.base is None and len(pool._loans) == 1
    assert pool.bytes == rounded(large.nbytes)
