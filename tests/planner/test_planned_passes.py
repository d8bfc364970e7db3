"""Each pass of the planner, checked after it ran, and loops checked before they are compiled.

``ir.check`` raises for a graph that no pass may leave: values that do not fit their operations, a
circle, results of other shapes. The subtle point is memory that nobody wrote: a loop that reads it
gives the right numbers on a lucky day. So every load of scratch memory is looked for a store.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from cells_from_papers import CELLS, inputs_for
from tinygrad_rnn import nn
from tinygrad_rnn.kernels.ir import STORES, Kernel, Loop
from tinygrad_rnn.planner.compile import FUSE, SIMPLIFY, through
from tinygrad_rnn.planner.ir import Graph, Table, check, sources, spell
from tinygrad_rnn.planner.passes.rows import prove
from tinygrad_rnn.planner.trace import Step, Wanted, derive, trace
from tinygrad_rnn.structure import flatten

OURS: dict[str, Any] = {
    "RNNCell": nn.RNNCell,
    "LSTMCell": nn.LSTMCell,
    "GRUCell": nn.GRUCell,
    "PeepholeLSTMCell": nn.PeepholeLSTMCell,
    "LayerNormLSTMCell": nn.LayerNormLSTMCell,
    "RWACell": nn.RWACell,
}
ROWS, WIDTH = 3, 4
ours = pytest.mark.parametrize("name", OURS)
names = pytest.mark.parametrize("name", [*OURS, *CELLS])


def made(name: str) -> tuple[Any, Any]:
    """A cell, and what it takes over time."""
    if name in OURS:
        return OURS[name](WIDTH, WIDTH), tg.ones((2, ROWS, WIDTH))
    cell = CELLS[name](ROWS)
    return cell, inputs_for(cell, np.random.default_rng(0), 2, ROWS, "float32")


def traced(name: str) -> Step:
    """A cell's step, of float32."""
    cell, xs = made(name)
    leaves, structure = flatten(xs)
    state = cell.initial_state((ROWS,), "float32", "numpy")
    states, state_structure = flatten(state)
    at_one = [x.detach()[0] for x in leaves]
    return trace(cell, (structure, at_one), (state_structure, states), Table())


def derived(step: Step) -> Graph:
    """The step with the cotangents of its states and of what it captured."""
    xs = 1 + max(v.source.index for v in sources(step.graph, "x") if v.source)
    floating = tuple(w.dtype.kind == "f" for w in step.captured)
    return derive(step, Wanted((False,) * xs, (True,) * len(step.graph.states), floating))


@names
def test_every_pass_leaves_a_sound_graph_with_the_same_results(name: str) -> None:
    graph = derived(traced(name))
    check(graph)
    for each in (*SIMPLIFY, *FUSE):
        after = each(graph)
        check(after, like=graph)
        graph = after


@names
def test_passes_change_nothing_the_second_time(name: str) -> None:
    graph = through(SIMPLIFY, derived(traced(name)))
    assert spell(through(SIMPLIFY, graph)) == spell(graph)


def test_the_checker_finds_a_value_of_another_shape() -> None:
    graph = derived(traced("LSTMCell"))
    value = next(v for v in graph.values() if v.name == "tanh")
    value.shape = (ROWS, WIDTH + 1)
    with pytest.raises(AssertionError):
        check(graph)


def test_the_checker_finds_results_of_another_dtype() -> None:
    graph, other = derived(traced("LSTMCell")), derived(traced("RNNCell"))
    with pytest.raises((AssertionError, ValueError)):
        check(graph, like=other)


def unwritten(loop: Loop, scratch: set[int]) -> list[str]:
    """The statements that read columns of scratch memory which none before has written."""
    written: set[tuple[int, int]] = set()
    found = []

    def elements(slot: Any, lengths: tuple[int, ...]) -> set[tuple[int, int]]:
        """Of one row, at all indices of its axes."""
        starts = {slot.column}
        for length, stride in zip(lengths, slot.along, strict=True):
            starts = {start + i * stride for start in starts for i in range(length)}
        return {(slot.buffer, start + c * slot.step) for start in starts for c in range(slot.width)}

    for number, statement in enumerate(loop.statements):
        if isinstance(statement, Kernel):
            lengths = statement.lengths
            reads = [i.argument for i in statement.instructions if i.name == "load"]
            stores = [i.argument for i in statement.instructions if i.name in STORES]
        else:
            a, out = (
                slot._replace(along=(slot.stride // statement.times,))
                for slot in (statement.a, statement.out)
            )
            lengths, stores = (statement.times,), [out]
            reads = [a, out] if statement.accumulate else [a]
        for slot in reads:
            if slot.buffer in scratch and not elements(slot, lengths) <= written:
                found.append(f"statement {number} reads {slot}")
        for slot in stores:
            written |= elements(slot, lengths)
    return found


def loops_of(name: str) -> list[tuple[Loop, set[int]]]:
    """The loops of both passes, and which of their arrays are scratch memory."""
    cell, xs = made(name)
    plan = tg.plan(cell, xs)
    assert plan.no_kernels is None, plan.no_kernels
    found = []
    for number, loop in enumerate(plan.program.loops):
        line = next(x for x in plan.source.splitlines() if f"loop_{number}([" in x)
        arrays = line.split("[")[1].split("]")[0].split(", ")
        found.append((loop, {i for i, name in enumerate(arrays) if name.startswith("scratch")}))
    return found


@names
def test_loops_read_no_memory_that_nobody_wrote(name: str) -> None:
    for loop, scratch in loops_of(name):
        assert unwritten(loop, scratch) == []


def test_a_read_of_memory_that_nobody_wrote_is_found() -> None:
    loop, scratch = next(pair for pair in loops_of("GRUCell") if pair[1])
    backwards = loop._replace(statements=loop.statements[::-1])
    assert unwritten(backwards, scratch)


@ours
@pytest.mark.parametrize("direction", [0, 1], ids=["forward", "backward"])
def test_a_step_is_few_products_and_kernels(name: str, direction: int) -> None:
    both = loops_of(name)
    assert len(both) == 2  # one each way
    loop, _ = both[direction]
    kernels = sum(isinstance(s, Kernel) for s in loop.statements)
    products = len(loop.statements) - kernels
    assert products == 1
    assert kernels <= (1 if name in ("RNNCell", "LSTMCell", "GRUCell") else 2)


def test_a_cell_that_mixes_rows_is_not_proved_independent() -> None:
    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(x + h)
        return h - tg.mean(h, axis=0, keepdims=True), h

    x, h = tg.ones((ROWS, WIDTH)), tg.ones((ROWS, WIDTH))
    step = trace(cell, (flatten(x)[1], [x]), (flatten(h)[1], [h]), Table(), lines=True)
    mixed = str(prove(through(SIMPLIFY, step.graph), ROWS).mixed)
    assert re.search(r"test_planned_passes.py:\d+", mixed)
