"""The bytes that a planned loop holds: foretold, bounded on request, and all given back.

What is measured is what ``tracemalloc`` sees. The subtle point: buffers stay with the plans for the
next call, though nothing is in them any more. So what the backward pass needs is what is left after
the forward pass when the cache has been cleared; and a measurement starts with an empty cache, too.
"""

from __future__ import annotations

import gc
import re
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from both_ways import (
    KERNELS,
    Case,
    assert_close,
    forget_plans,
    leaf,
    literal,
    planned,
    plans_of,
)
from cells_from_papers import CELLS, inputs_for
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.kernels.cpu import run as cpu
from tinygrad_rnn.structure import flatten

CELLS_OF_NN: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNNCell(32, 32),
    "LSTM": lambda: nn.LSTMCell(32, 32),
    "GRU": lambda: nn.GRUCell(32, 32),
    "layer norm": lambda: nn.LayerNormLSTMCell(32, 32),
    "stack": lambda: nn.StackedCell(nn.LSTMCell(32, 32), nn.LSTMCell(32, 32)),
}


def input_of(steps: int, rows: int, width: int = 32, dtype: str = "float32") -> Tensor:
    return leaf(np.random.default_rng(0), steps, rows, width, dtype=dtype)


def held_by(run: Any, *arguments: Any, **options: Any) -> int:
    """Bytes in arrays that a loop leaves in the graph: its outputs only if backward needs them."""

    def call() -> Tensor:
        outputs, _ = run(*arguments, **options)
        return sum(tg.sum(y) for y in flatten(outputs)[0])

    call()  # what is loaded and cached once is not a residual
    forget_plans()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = traced()
        result = call()
        forget_plans()
        held = traced()[0] - before
        del result
        return held
    finally:
        tracemalloc.stop()


def traced() -> tuple[int, int]:
    """Bytes in arrays, and all bytes, without what Python keeps for reuse; no cycle is freed."""
    gc.freeze()
    gc.collect()
    gc.unfreeze()
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    of_threads = tracemalloc.Filter(False, cpu.__file__)  # what each keeps from its first work on
    snapshot = tracemalloc.take_snapshot().filter_traces([arrays, of_threads])
    in_arrays = sum(statistic.size for statistic in snapshot.statistics("filename"))
    return in_arrays, tracemalloc.get_traced_memory()[0]


def peak_of(call: Callable[[], Any]) -> int:
    """The most bytes that are allocated at a time while a call runs, which is not the first."""
    forget_plans()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# Foretold.


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("name", CELLS_OF_NN)
def test_bytes_held_for_backward_are_those_foretold(name: str, fused: bool) -> None:
    steps, rows = 200, 16
    cell, x = CELLS_OF_NN[name](), input_of(200, 16)
    with plans_of(fused):
        foretold = tg.plan(cell, x).held_bytes(steps, rows)
        measured = held_by(planned, cell, x)
    assert abs(measured - foretold) <= 0.1 * foretold


@pytest.mark.parametrize("name", ["SRU", "LEM", "Mogrifier", "highway", "attentive LSTM"])
def test_bytes_held_by_cells_from_papers_are_those_foretold(name: str) -> None:
    steps, rows = 400, 32
    cell = CELLS[name](rows)
    xs = inputs_for(cell, np.random.default_rng(0), steps, rows, "float32")
    foretold = tg.plan(cell, xs).held_bytes(steps, rows)
    measured = held_by(planned, cell, xs)
    assert abs(measured - foretold) <= 0.1 * foretold


def test_bytes_held_by_ragged_rows_are_those_of_their_steps() -> None:
    cell, x, lengths = nn.GRUCell(32, 32), input_of(300, 16), [300] + 15 * [20]
    plan = tg.plan(cell, x, lengths=lengths)
    measured = held_by(planned, cell, x, lengths=lengths)
    foretold = plan.held_bytes(sum(lengths), 1)
    assert abs(measured - foretold) <= 0.1 * foretold
    assert measured < 0.2 * plan.held_bytes(300, 16)


def test_a_report_says_how_many_bytes_a_row_holds_at_each_step() -> None:
    plan = tg.plan(nn.LSTMCell(32, 32), input_of(10, 4))
    found = re.search(r"(\d+) bytes per step and row", plan.report())
    assert found is not None
    whole = 16_000 * int(found[1])
    assert abs(plan.held_bytes(1000, 16) - whole) <= 0.1 * whole


def test_held_bytes_grow_with_steps_and_rows() -> None:
    plan = tg.plan(nn.LSTMCell(32, 32), input_of(10, 4))
    one = plan.held_bytes(100, 4)
    assert one < plan.held_bytes(200, 4) < 2.1 * one
    assert one < plan.held_bytes(100, 8) < 2.1 * one


def test_nothing_is_held_without_grad() -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(200, 16)
    with tg.no_grad():
        assert held_by(planned, cell, x) < 100_000


# Bounded.


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("every", [1, 3, 7, 20, 50])
def test_gradients_with_a_state_kept_every_k_steps_are_those_without(
    every: int, fused: bool
) -> None:
    cell, x = nn.LSTMCell(6, 5), input_of(20, 3, 6)
    captured = list(cell.parameters())
    for options in ({}, {"reverse": True}, {"lengths": [20, 0, 7]}):
        case = Case(cell, x, None, captured, options)
        with plans_of(fused):
            found = case.results(planned, checkpoint=every)
        assert_close(found, case.results(literal))


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("name", CELLS)
def test_cells_from_papers_with_a_state_kept_every_k_steps(name: str, every: int) -> None:
    tg.manual_seed(0)
    cell = CELLS[name](3)
    xs = inputs_for(cell, np.random.default_rng(0), 7, 3, "float32")
    case = Case(cell, xs, captured=list(cell.parameters()))
    assert_close(case.results(planned, checkpoint=every), case.results(literal))


def test_dropout_is_the_same_when_steps_are_computed_again() -> None:
    cell = nn.VariationalDropout(nn.Zoneout(nn.GRUCell(6, 5), 0.3), 0.3, 0.3, 0.3)
    case = Case(cell, input_of(12, 3, 6), None, list(cell.parameters()))
    assert_close(case.results(planned, checkpoint=4), case.results(literal))


def test_a_second_derivative_with_a_state_kept_every_k_steps() -> None:
    cell = nn.GRUCell(3, 3)
    case = Case(cell, input_of(6, 2, 3), None, list(cell.parameters()))
    assert_close(case.results(planned, order=2, checkpoint=2), case.results(literal, order=2))


def test_a_weight_rebound_before_steps_are_computed_again() -> None:
    cell, x, found = nn.GRUCell(3, 3), input_of(6, 2, 3), []
    for run in (literal, planned):
        before = cell.weight_hh.data
        y, _ = run(cell, x, checkpoint=2)
        cell.weight_hh.data = cell.weight_hh.data * 0
        found.append(tg.grad(tg.square(y).sum(), x).numpy().copy())
        cell.weight_hh.data = before
    assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_checkpointed_calls_in_flight_and_retained() -> None:
    cell = nn.LSTMCell(6, 5)
    xs = [input_of(9, 2, 6), input_of(9, 2, 6) * 0.5]
    ends = [tg.square(planned(cell, x, checkpoint=4)[0]).sum() for x in xs]
    weights = list(cell.parameters())
    for place in (1, 0, 1):
        found = tg.grad(ends[place], weights, retain_graph=True)
        expected = tg.grad(tg.square(literal(cell, xs[place])[0]).sum(), weights)
        for a, b in zip(found, expected, strict=True):
            assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


def test_keeping_fewer_states_holds_less() -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(400, 16)
    whole = tg.plan(cell, x).held_bytes(400, 16)
    assert held_by(planned, cell, x, checkpoint=20) < 0.3 * whole


@pytest.mark.parametrize(
    ("name", "share", "fused"),
    [
        ("RNN", 0.5, False),
        ("LSTM", 0.5, False),
        pytest.param("LSTM", 0.15, True, marks=KERNELS[1].marks),
        ("GRU", 0.2, False),
        ("stack", 0.2, False),
    ],
)
def test_a_budget_of_bytes_is_kept(name: str, share: float, fused: bool) -> None:
    """Over the whole of forward and backward, beside what the caller gets: outputs, gradients."""
    cell, x = CELLS_OF_NN[name](), input_of(1200, 8)
    inputs = [x, *cell.parameters()]

    def step(**options: Any) -> Any:
        y, _ = planned(cell, x, **options)
        return tg.grad(y.sum(), inputs)

    with plans_of(fused):
        expected = step()
        budget = tg.Bytes(int(share * tg.plan(cell, x).held_bytes(1200, 8)))
        assert held_by(planned, cell, x, checkpoint=budget) <= int(budget)
        output = x.numpy().nbytes  # which is as wide as the input
        returned = 2 * output + 2 * sum(t.numpy().nbytes for t in inputs)
        assert peak_of(lambda: step(checkpoint=budget)) <= int(budget) + returned
        for a, b in zip(step(checkpoint=budget), expected, strict=True):
            assert np.abs(a.numpy() - b.numpy()).max() <= 1e-5 * np.abs(b.numpy()).max()


def test_a_budget_that_is_large_enough_changes_nothing() -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(50, 16)
    plain = held_by(planned, cell, x)
    rich = held_by(planned, cell, x, checkpoint=tg.Bytes(10**9))
    assert abs(rich - plain) <= 0.02 * plain + 10_000


def test_a_budget_that_cannot_be_kept_says_so() -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(50, 16)
    with pytest.raises(ValueError, match=r"\b1000\b"):
        planned(cell, x, checkpoint=tg.Bytes(1000))


# Given back.


def step_of(cell: nn.Module, x: Tensor, **options: Any) -> Callable[[], None]:
    weights = list(cell.parameters())

    def step() -> None:
        y, _ = planned(cell, x, **options)
        gradients = tg.grad(tg.square(y).mean(), weights)
        for p, g in zip(weights, gradients, strict=True):
            p.data = p.data - 0.01 * g.data

    return step


def abandoned(cell: nn.Module, x: Tensor) -> Callable[[], None]:
    """Graphs that are never gone through, and one with an error."""

    def step() -> None:
        planned(cell, x)
        y, _ = planned(cell, x)
        with pytest.raises(ValueError, match="cotangent"):
            y.backward()

    return step


STEPS_OF_TRAINING: dict[str, Callable[[], Callable[[], None]]] = {
    "plain": lambda: step_of(nn.LSTMCell(32, 32), input_of(30, 8)),
    "ragged": lambda: step_of(nn.GRUCell(32, 32), input_of(30, 8), lengths=[30, *range(7)]),
    "checkpoint": lambda: step_of(nn.LSTMCell(32, 32), input_of(30, 8), checkpoint=7),
    "dropout": lambda: step_of(nn.Zoneout(nn.GRUCell(32, 32), 0.2), input_of(30, 8)),
    "abandoned": lambda: abandoned(nn.LSTMCell(32, 32), input_of(30, 8)),
}


@pytest.mark.parametrize("name", STEPS_OF_TRAINING)
def test_memory_is_back_where_it_was_with_the_collector_off(name: str) -> None:
    step = STEPS_OF_TRAINING[name]()
    for _ in range(5):
        step()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            step()
        before = traced()
        for _ in range(50):
            step()
        grown = [b - a for a, b in zip(before, traced(), strict=True)]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown[0] <= 4096
    assert grown[1] <= 20_000


def test_a_second_step_uses_the_buffers_of_the_first() -> None:
    step = step_of(nn.LSTMCell(32, 32), input_of(100, 16))
    step()
    step()
    tracemalloc.start()
    try:
        step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    cell, x = nn.LSTMCell(32, 32), input_of(100, 16)
    # The residuals are there already; what is new are outputs and gradients.
    assert peak < 0.6 * tg.plan(cell, x).held_bytes(100, 16)


def test_clearing_the_cache_gives_buffers_back() -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(200, 16)
    forget_plans()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        y, _ = planned(cell, x)
        gradient = tg.grad(y.sum(), cell.weight_hh)
        size = y.numpy().nbytes + gradient.numpy().nbytes
        del y, gradient
        forget_plans()
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert left < 0.1 * size + 200_000


def test_buffers_of_many_lengths_do_not_pile_up() -> None:
    """Every batch of another length has buffers of another size; those of old ones are let go."""
    cell = nn.LSTMCell(32, 32)
    weights = list(cell.parameters())

    def step(steps: int) -> None:
        y, _ = planned(cell, input_of(steps, 8))
        tg.grad(y.sum(), weights)

    forget_plans()
    step(120)
    tracemalloc.start()
    try:
        step(120)
        before, _ = tracemalloc.get_traced_memory()
        for steps in range(60, 120):
            step(steps)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = tg.plan(cell, input_of(120, 8)).held_bytes(120, 8)
    assert after - before < 2 * largest


# Long.


@pytest.mark.parametrize("fused", KERNELS)
def test_20000_steps_of_one_row(fused: bool) -> None:
    cell, x = nn.LSTMCell(32, 32), input_of(20_000, 1)
    with plans_of(fused):
        y, (h, _) = planned(cell, x)
        found = tg.grad(h.sum(), [cell.weight_hh, x])
    assert y.shape == (20_000, 1, 32)
    short, (end, _) = literal(cell, x[-200:])  # what was before is forgotten by then
    assert_allclose(y.numpy()[-20:], short.numpy()[-20:], rtol=1e-4, atol=1e-5)
    expected = tg.grad(end.sum(), cell.weight_hh).numpy()
    assert_allclose(found[0].numpy(), expected, rtol=1e-3, atol=1e-5)
    assert np.isfinite(found[1].numpy()).all()


def test_a_plan_keeps_nobodys_arrays() -> None:
    """Those given, captured, made in the cell: all go when users let go, without the collector."""
    arrays = [np.ones(shape, np.float32) for shape in ((5, 2, 3), (2, 4), (3, 4), (4, 4))]
    watched = [weakref.ref(array) for array in arrays]
    x, h, w, u = map(tg.asarray, arrays)
    w.requires_grad = True
    captured = {"w": w, "u": u}
    del arrays, w, u

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ captured["w"] + h @ captured["u"])
        return h, h

    plan = tg.plan(cell, x, h)
    gc.disable()
    try:
        tg.grad(tg.unroll(cell, x, h, mode="planned")[0].sum(), captured["w"])
        captured.clear()
        del x, h
        assert plan.planned and [array() is None for array in watched] == [True] * 4
    finally:
        gc.enable()
