"""Distributed steps compute what the steps do; their loops are what brute force finds recurrent."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn_backends as backends
from small_graphs import FLOAT, Array, Lines, number
from tinygrad_rnn.planner.facts import facts_of
from tinygrad_rnn.planner.ir import Graph, Kind, Value, ordered, sources
from tinygrad_rnn.planner.passes.distribute import distribute
from tinygrad_rnn.planner.passes.residuals import residuals
from tinygrad_rnn.planner.passes.simplify import own_carries
from tinygrad_rnn.planner.stages import ONCE, ROWS, Distribution, Pass, Stage, states_of

STEPS, WIDTH = 3, 4
Known = dict[tuple[Value, int], Array]


def split(graph: Graph, ragged: bool = False) -> Distribution:
    """A graph, distributed: what is captured is there once, as what is made of it."""
    extents: dict[Value, Any] = {}
    for value in graph.values():
        once = value.source is not None and value.source.kind == "captured"
        once = once or (value.source is None and all(extents[x] is ONCE for x in value.operands))
        extents[value] = ONCE if once else ROWS
    return distribute(graph, extents, ragged)


def drawn_step(rng: random.Random) -> Graph:
    """A step of three states, and something like a derivative of it, of random lines."""
    g = Lines()
    states = [g.state(2, WIDTH, index=i) for i in range(3)]
    forward = [g.x(2, WIDTH), g.w(2, WIDTH), *states]
    for _ in range(8):
        forward.append(line(rng, g, forward))
    after = tuple(rng.choice([rng.choice(forward[5:]), states[i]]) for i in range(3))
    cotangents = [g.table.source("dstate", i, (2, WIDTH), FLOAT) for i in range(3)]
    backward = [*rng.sample(forward, 4), g.table.source("dy", 0, (2, WIDTH), FLOAT), *cotangents]
    for _ in range(8):
        backward.append(line(rng, g, backward))
    given = set(backward[4:8])  # a cotangent is made of others
    made = [v for v in backward[8:] if given & set(ordered([v]))] or cotangents
    drawn = Graph(
        g.table,
        (rng.choice(forward), rng.choice(forward)),
        after,
        (rng.choice([None, rng.choice(made)]),),
        tuple(rng.choice([None, rng.choice(made), rng.choice(made)]) for _ in range(3)),
        (rng.choice([None, rng.choice(made)]),),
        tuple(rng.random() < 0.5 for _ in range(3)),
    )
    return own_carries(drawn)


def line(rng: random.Random, g: Lines, values: list[Value]) -> Value:
    x, y = rng.choice(values[-6:]), rng.choice(values)
    name = rng.choice(["tanh", "negative", "add", "multiply"])
    made: Value = getattr(g, name)(*[x, y][: 1 if name in ("tanh", "negative") else 2])
    return made


def source_at(value: Value, t: int) -> Array:
    assert value.source is not None
    return number(value, 0 if value.source.kind == "captured" else t)


def applied(value: Value, known: Known, t: int) -> Array:
    """A value at a step; all that it is made of has to be known there."""
    inputs = [known[x, t] if isinstance(x, Value) else x for x in value.inputs]
    made: Array = value.primitive.forward(backends.get("numpy"), *inputs, **value.parameters)
    return made


def literally(graph: Graph) -> Known:
    """Every value at every step: the loop over steps, and the one back."""
    known: Known = {}
    passes: list[tuple[tuple[Value | None, ...], Kind, range]]
    passes = [(graph.states, "state", range(STEPS)), (graph.dstates, "dstate", range(STEPS)[::-1])]
    for after, kind, steps in passes:
        carried: dict[int, Array] = {}
        results = [v for v in graph.results if kind == "dstate" or v in (*graph.ys, *graph.states)]
        for t in steps:
            made = [v for v in after if v is not None]
            for value in ordered([*results, *made, *sources(graph, kind)]):
                if (value, t) in known:
                    continue
                if value.source is None:
                    known[value, t] = applied(value, known, t)
                elif value.source.kind == kind and value.source.index in carried:
                    known[value, t] = carried[value.source.index]
                else:
                    known[value, t] = source_at(value, 0 if value.source.kind == kind else t)
            carried = {i: known[v, t] for i, v in enumerate(after) if v is not None}
    return known


def carried_out(d: Distribution) -> Known:
    """The stages of both passes, each in its order, on what its pass is given and nothing else."""
    given: Known = {}
    for part in d.passes:
        known: Known = {}
        for value in part.needs:
            if value.source is None or value.source.kind not in ("state", "dstate"):
                of_forward = value.source is None
                for t in range(STEPS):
                    known[value, t] = given[value, t] if of_forward else source_at(value, t)
            elif part.backwards and value.source.kind == "state":
                known |= {(value, t): given[value, t] for t in range(STEPS)}
            elif value not in dict(part.carries):  # of what nobody carries
                known |= {(value, t): source_at(value, 0) for t in range(STEPS)}
        steps = range(STEPS)[::-1] if part.backwards else range(STEPS)
        for before, _ in part.carries:
            known[before, steps[0]] = source_at(before, 0)
        for stage in part.stages:
            assert not stage.sums
            pairs = [(v, t) for t in steps for v in stage.values]  # a loop, step by step
            if not stage.loop:
                pairs = [(v, t) for v in stage.values for t in steps]
            for value, t in pairs:
                known[value, t] = applied(value, known, t)
                for before, after in part.carries:
                    if after is value:
                        known[before, t + steps.step] = known[value, t]
        for before, after in part.carries:  # what is no value of a stage is carried as well
            if after not in part.values:
                for t in steps:
                    known[before, t + steps.step] = known[after, t]
        given |= known
        assert all((value, t) in known for value in part.results for t in steps)
    return given


def needs_itself(value: Value, part: Pass) -> bool:
    """Whether a value depends on itself at an earlier step."""
    carried = dict(part.carries)
    seen: set[Value] = set()
    pending = [value]
    while pending:
        x = pending.pop()
        made_of = x.operands if x in part.values else [carried[x]] if x in carried else []
        for y in made_of:
            if y is value:
                return True
            if y not in seen:
                seen.add(y)
                pending.append(y)
    return False


@pytest.mark.parametrize("seed", range(40))
def test_distributed_stages_compute_what_the_steps_do(seed: int) -> None:
    graph = drawn_step(random.Random(seed))
    found = split(graph)
    expected, got = literally(graph), carried_out(found)
    values = [*graph.ys, *graph.states]
    if found.backward is not None:
        values += [v for v in graph.dxs if v is not None]
        values += [v for v, asked in zip(graph.dstates, graph.asked, strict=True) if v and asked]
    for value in values:
        for t in range(STEPS):
            np.testing.assert_allclose(got[value, t], expected[value, t], rtol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_distributed_loops_are_the_recurrences_and_nothing_else(seed: int) -> None:
    found = split(drawn_step(random.Random(seed)))
    for part in found.passes:
        assert sorted(map(id, part.values)) == sorted(id(v) for s in part.stages for v in s.values)
        assert all(c.before in found.extents for c in part.carries)
        for stage in part.stages:
            for value in stage.values:
                assert needs_itself(value, part) == stage.loop
            if stage.loop:
                assert stage.carries == [c for c in part.carries if c.after in stage.values]
                one = {c.before for c in stage.carries} | set(stage.values)
                assert all(any(x in one for x in v.operands) for v in stage.values)
        together = [stage.loop for stage in part.stages]
        assert (False, False) not in pairwise(together)


@pytest.mark.parametrize("seed", range(40))
def test_distributed_passes_hold_what_the_backward_one_reads(seed: int) -> None:
    found = split(drawn_step(random.Random(seed)))
    if found.backward is None:
        return  # nothing was asked for
    read = {x for s in found.backward.stages for v in s.values for x in v.operands}
    read |= set(found.backward.results)
    assert set(found.residuals) <= read
    outside = {v for v in found.backward.needs if v.source is None}
    assert outside <= set(found.residuals) <= set(found.forward.results)
    assert set(states_of(found.backward)) <= set(found.forward.results)
    assert found.backward.values.isdisjoint(found.residuals)


def step() -> tuple[Lines, Value, Value, Value]:
    """Lines, an x, and two states."""
    g = Lines()
    return g, g.x(2, WIDTH), g.state(2, WIDTH), g.state(2, WIDTH, index=1)


def stages(part: Pass) -> list[tuple[list[str], list[str]]]:
    """Of each stage the names of its values, and of the sources that are carried."""
    return [([v.name for v in s.values], [repr(c.before) for c in s.carries]) for s in part.stages]


def test_what_only_follows_a_recurrence_is_computed_after_its_loop() -> None:
    g, x, h, c = step()
    after = g.add(g.multiply(h, g.sin(x)), x)
    found = split(g.graph(g.tanh(c), states=(after, g.cos(after))))
    before, loop, behind = found.forward.stages
    assert [v.name for v in before.values] == ["sin"]
    assert [v.name for v in loop.values] == ["multiply", "add"]
    assert [(c.before, c.after) for c in loop.carries] == [(h, after)]
    assert [v.name for v in behind.values] == ["cos", "tanh"]
    assert behind.carries == [] and found.forward.carries[1].before is c


def test_two_recurrences_are_two_loops_unless_each_needs_the_other() -> None:
    g, x, h, c = step()
    first = g.tanh(g.add(h, x))
    second = g.sin(g.add(c, first))
    found = split(g.graph(second, states=(first, second)))
    assert [len(s.carries) for s in found.forward.stages] == [1, 1]
    crossed = split(g.graph(second, states=(g.tanh(g.add(h, c)), second)))
    assert [len(s.carries) for s in crossed.forward.stages] in ([1, 1], [2])
    one = split(g.graph(x, states=(g.tanh(c), g.sin(h))))
    assert [len(s.carries) for s in one.forward.stages] == [2]


def backwards(ragged: bool, dstate: Any) -> Distribution:
    g, x, h, _ = step()
    after = g.tanh(g.add(h, x))
    g_after = g.table.source("dstate", 0, (2, WIDTH), FLOAT)
    dx = g.multiply(g_after, after)
    states, dstates = (after,), (dstate(g, g_after, dx),)
    return split(Graph(g.table, (after,), states, (dx,), dstates, (), (False,)), ragged)


def test_rows_that_come_in_late_need_a_loop_for_whatever_is_carried() -> None:
    def of_nothing_before(g: Lines, g_after: Value, dx: Value) -> Value:
        return g.tanh(g.table.source("dy", 0, (2, WIDTH), FLOAT))  # type: ignore[no-any-return]

    late, together = (backwards(r, of_nothing_before).backward for r in (True, False))
    assert late is not None and together is not None
    assert late.late and late.backwards and not together.late
    assert [s.loop for s in together.stages] == [False]
    assert [s.loop for s in late.stages if "tanh" in [v.name for v in s.values]] == [True]
    forward = backwards(True, of_nothing_before).forward
    assert not forward.late and not forward.backwards


def test_what_nobody_wants_a_cotangent_of_has_no_backward_pass() -> None:
    g, x, h, _ = step()
    after = g.tanh(g.add(h, x))
    dstate = g.table.source("dstate", 0, (2, WIDTH), FLOAT)
    inner = g.multiply(dstate, after)
    for asked in (False, True):
        graph = Graph(g.table, (after,), (after,), (None,), (inner,), (), (asked,))
        found = split(graph)
        assert (found.backward is not None) == asked
        assert found.residuals == ([after] if asked else [])


def test_a_sum_that_is_larger_than_what_it_is_made_of_grows_in_a_loop() -> None:
    g, x, h, _ = step()
    after = g.tanh(g.add(h, x))
    d = g.table.source("dy", 0, (2, WIDTH), FLOAT)
    for wide in (False, True):
        columns = (2, WIDTH, 1) if wide else (2, WIDTH)
        outer = g.add(g.reshape(d, shape=columns), g.reshape(g.sin(x), shape=(2, 1, WIDTH)))
        total = outer if wide else g.multiply(d, g.sin(x))
        found = split(Graph(g.table, (after,), (after,), (None,), (None,), (total,), (False,)))
        assert found.backward is not None
        grown: list[Stage] = [s for s in found.backward.stages if s.sums]
        assert [s.sums for s in grown] == ([[total]] if wide else [])
        assert (total in found.backward.results) != wide


def test_a_sum_of_products_of_each_row_needs_no_loop() -> None:
    g, x, h, _ = step()
    after = g.tanh(g.add(h, x))
    d = g.table.source("dy", 0, (2, WIDTH), FLOAT)
    column, row = g.reshape(d, shape=(2, WIDTH, 1)), g.reshape(g.sin(x), shape=(2, 1, WIDTH))
    for total in (g.multiply(column, row), g.multiply(row, column), g.matmul(column, row)):
        found = split(Graph(g.table, (after,), (after,), (None,), (None,), (total,), (False,)))
        assert found.backward is not None
        assert not any(stage.sums for stage in found.backward.stages)
        assert {column, row} <= {*found.backward.results}


# Residuals.


def held(graph: Graph, results: list[Value]) -> list[Value]:
    forward = split(graph).forward
    return residuals(results, forward)


def test_what_is_costly_is_held_and_what_is_cheap_is_computed_again() -> None:
    g, x, h, _ = step()
    costly, cheap = g.tanh(x), g.multiply(x, h)
    assert not facts_of("tanh").cheap and facts_of("multiply").cheap
    d = g.table.source("dy", 0, (2, WIDTH), FLOAT)
    graph = g.graph(costly, states=(cheap,))
    assert held(graph, [g.multiply(d, costly)]) == [costly]
    assert held(graph, [g.multiply(d, cheap)]) == []
    assert held(graph, [costly]) == [costly]  # asked for itself


def test_what_is_cheap_but_made_of_what_is_not_at_hand_is_held() -> None:
    g, x, h, _ = step()
    inner = g.tanh(x)
    cheap = g.multiply(inner, h)
    d = g.table.source("dy", 0, (2, WIDTH), FLOAT)
    graph = g.graph(cheap, states=(cheap,))
    assert held(graph, [g.multiply(d, cheap)]) == [cheap]
    both = [g.multiply(d, cheap), g.multiply(d, inner)]
    assert held(graph, both) == [inner]  # which is at hand then


def test_of_a_view_what_it_looks_at_is_held() -> None:
    g, x, h, _ = step()
    inner = g.tanh(x)
    view = g.getitem(inner, key=(slice(None), slice(0, 2)))
    d = g.table.source("dy", 0, (2, 2), FLOAT)
    graph = g.graph(view, states=(g.add(h, inner),))
    assert held(graph, [g.multiply(d, view)]) == [inner]
