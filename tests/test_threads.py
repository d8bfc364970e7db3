"""Threads and tasks: modes are private to each, and what is shared is added to safely."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn


def in_threads(work: Callable[[int], Any], count: int = 6) -> list[Any]:
    """The results of ``work(0)``, ``work(1)``, ..., all started together."""
    barrier = threading.Barrier(count)

    def start(i: int) -> Any:
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def train(seed: int, backend: str = "numpy") -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    x = tg.tensor(rng.normal(size=(5, 2, 3)), backend=backend)
    w = tg.tensor(rng.normal(size=(3, 3)), requires_grad=True, backend=backend)
    for _ in range(5):
        y, _ = tg.unroll(lambda x, h: (tg.tanh(x @ w + h),) * 2, x, x[0])
        g = tg.grad(tg.square(y).sum(), w, create_graph=True)
        (tg.square(y).sum() + tg.square(g).sum()).backward()
        w.data = w.data - w.grad.data * 0.001
        w.grad = None
    return w.numpy()


def test_threads_with_graphs_of_their_own_get_the_results_of_one() -> None:
    backends = ["numpy", "array_api_strict"]
    got = in_threads(lambda i: train(i, backends[i % 2]))
    for i, w in enumerate(got):
        assert_allclose(w, train(i), rtol=1e-11)


def test_no_grad_is_private_to_its_thread() -> None:
    entered, checked = threading.Event(), threading.Event()
    x = tg.ones(2, requires_grad=True)

    def without() -> bool:
        with tg.no_grad(), tg.detect_anomaly():
            entered.set()
            assert checked.wait(10)
            return (x * 2.0).requires_grad

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(without)
        assert entered.wait(10)
        assert tg.is_grad_enabled()
        assert (x * 2.0).requires_grad
        with np.errstate(all="ignore"):
            tg.log(x * 0.0)  # no anomaly is looked for here
        checked.set()
        assert future.result() is False


def test_use_backend_is_private_to_its_thread_and_the_default_is_not() -> None:
    def made(i: int) -> list[str]:
        names = ["numpy", "array_api_strict"]
        found = []
        for _ in range(50):
            with tg.use_backend(names[i % 2]):
                found.append(tg.zeros(1).backend)
        assert set(found) == {names[i % 2]}
        return [tg.zeros(1).backend]

    assert in_threads(made) == [["numpy"]] * 6
    tg.set_default_backend("array_api_strict")
    try:
        assert in_threads(lambda i: tg.zeros(1).backend, 2) == ["array_api_strict"] * 2
    finally:
        tg.set_default_backend("numpy")


def test_a_shared_parameter_accumulates_from_all_threads() -> None:
    w = tg.zeros(3, requires_grad=True)
    passes = 100

    def work(i: int) -> None:
        for k in range(passes):
            (w * float(i + k)).sum().backward()

    in_threads(work, 8)
    total = sum(i + k for i in range(8) for k in range(passes))
    assert w.grad.tolist() == [total] * 3


def test_one_model_serves_threads_that_only_read_it() -> None:
    cell = nn.GRUCell(3, 4)
    xs = [tg.random.uniform((6, 2, 3)) for _ in range(6)]

    def gradients(i: int) -> list[Tensor]:
        y, _ = tg.unroll(cell, xs[i])
        return tg.grad(tg.square(y).sum(), list(cell.parameters()))

    for i, found in enumerate(in_threads(gradients)):
        for a, b in zip(found, gradients(i), strict=True):
            assert a.tolist() == b.tolist()
    assert all(p.grad is None for p in cell.parameters())


def test_two_passes_over_one_retained_graph_at_once() -> None:
    x = tg.tensor(np.linspace(0.0, 1.0, 5), requires_grad=True)
    y = x
    for _ in range(200):
        y = tg.sin(y) + x
    y = y.sum()
    expected = tg.grad(y, x, retain_graph=True).tolist()
    for g in in_threads(lambda i: tg.grad(y, x, retain_graph=True)):
        assert g.tolist() == expected


def test_vmap_and_loops_in_threads_do_not_see_each_other() -> None:
    def work(i: int) -> list[float]:
        x = tg.tensor(np.full((4, 3), float(i)))
        inner = tg.vmap(tg.vmap(lambda a: tg.value_and_grad(lambda b: b * b)(a)[1]))
        return sorted({v for row in inner(x).tolist() for v in row})

    for _ in range(10):
        assert in_threads(work) == [[2.0 * i] for i in range(6)]


def test_a_checkpoint_replays_its_own_draws_whatever_other_threads_draw() -> None:
    def work(i: int) -> None:
        for _ in range(30):
            x = tg.ones(64, requires_grad=True)
            tg.random.uniform(3)
            y = tg.checkpoint(lambda x: tg.dropout(tg.dropout(x, 0.3), 0.3))(x)
            y.sum().backward()
            assert y.tolist() == x.grad.tolist()

    in_threads(work)


def test_draws_in_threads_are_all_different() -> None:
    tg.manual_seed(0)
    found = in_threads(lambda i: [tuple(tg.random.uniform(4).tolist()) for _ in range(50)])
    assert len({draw for draws in found for draw in draws}) == 6 * 50


def test_asyncio_tasks_have_modes_of_their_own() -> None:
    x = tg.ones(2, requires_grad=True)

    async def work(i: int) -> tuple[bool, str]:
        mode = tg.no_grad() if i % 2 else tg.enable_grad()
        with mode, tg.use_backend(["numpy", "array_api_strict"][i % 2]):
            for _ in range(5):
                await asyncio.sleep(0)
                y, z = x * 2.0, tg.zeros(1)
            return y.requires_grad, z.backend

    async def main() -> list[tuple[bool, str]]:
        return await asyncio.gather(*(work(i) for i in range(4)))

    expected = [(True, "numpy"), (False, "array_api_strict")] * 2
    assert asyncio.run(main()) == expected
    assert tg.is_grad_enabled()


def test_a_task_inherits_the_mode_it_was_started_in() -> None:
    async def enabled() -> bool:
        return tg.is_grad_enabled()

    async def main() -> tuple[bool, bool]:
        with tg.no_grad():
            inside = asyncio.create_task(enabled())
        return await inside, await enabled()

    assert asyncio.run(main()) == (False, True)


def test_an_error_in_one_thread_leaves_the_others_alone() -> None:
    w = tg.ones(2, requires_grad=True)

    def work(i: int) -> None:
        if i == 0:
            with pytest.raises(ValueError, match="cotangent"):
                (w * 2.0).backward()
        else:
            (w * 2.0).sum().backward()

    in_threads(work)
    assert w.grad.tolist() == [10, 10]
