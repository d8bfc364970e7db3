"""Loop distribution: what has to go step by step, and what need not (Allen & Kennedy 1987).

The values of one step depend on each other, and through the state on those of the step before. The
strongly connected components of that graph are the recurrences: each is a loop of its own.
Everything else is computed for all steps at once, and a cotangent of what does not vary with time
is a sum over time, which no loop needs.

The forward pass computes what outputs and states need and nothing else. The backward pass computes
anew whatever is cheap and at hand; only what is neither is held for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..ir import Graph, Value, ordered
from ..stages import Carry, Distribution, Extent, Pass, Stage, states_of
from .residuals import is_cheap, residuals
from .sums import add_in_loops, contraction, read_by, terms


def distribute(
    graph: Graph,
    extents: dict[Value, Extent],
    ragged: bool,
    by_kernels: bool = False,
    cheap: Callable[[Value], bool] = is_cheap,
) -> Distribution:
    """Both passes of a graph as stages, and what has to be held between them.

    Where loops may be machine code (``by_kernels``), sums over time of a matrix of each row grow in
    them, for there a step costs no call. What is ``cheap`` the backward pass computes again rather
    than hold it.
    """
    states = [graph.table.source("state", i, v.shape, v.dtype) for i, v in enumerate(graph.states)]
    for before, after in zip(states, graph.states, strict=True):
        extents.setdefault(before, extents[after])
    results = [*graph.ys, *graph.states]
    forward = _pass(results, states, graph.states, ())
    forward.results = list(graph.ys)
    asked = [v for v, flag in zip(graph.dstates, graph.asked, strict=True) if flag]
    wanted = [v for v in (*graph.dxs, *asked) if v is not None]
    totals = [None if v is None else terms(v, extents) for v in graph.dcaptured]
    every = [term for each in totals for term in each or ()]
    sums = [value for term in every for value in read_by(term, extents)]
    grown = [term.value for term in every if contraction(term.value, extents) is None]
    if not wanted and not sums:
        return Distribution(graph, extents, ragged, forward, None, [], totals)
    cotangents = [
        None if v is None else graph.table.source("dstate", i, v.shape, v.dtype)
        for i, v in enumerate(graph.dstates)
    ]
    for cotangent, g in zip(cotangents, graph.dstates, strict=True):
        if cotangent is not None and g is not None:
            extents.setdefault(cotangent, extents[g])
    held = residuals([*wanted, *sums], forward, cheap)
    backward = _pass(
        *([*wanted, *sums], cotangents, graph.dstates, held),
        *(grown, by_kernels),
        ragged=ragged,
    )
    read = {x for value in backward.values for x in value.operands} | set(wanted) | set(sums)
    held = [value for value in held if value in read]
    forward.results += [*held, *states_of(backward)]
    added = {value for stage in backward.stages for value in stage.sums}
    backward.results = [v for v in graph.dxs if v is not None]
    backward.results += [x for t in every if t.value not in added for x in read_by(t, extents)]
    return Distribution(graph, extents, ragged, forward, backward, held, totals)


def _pass(
    results: Sequence[Value],
    before: Sequence[Value | None],
    after: Sequence[Value | None],
    held: Iterable[Value],
    sums: Sequence[Value] = (),
    by_kernels: bool = False,
    *,
    ragged: bool | None = None,
) -> Pass:
    """The stages of a pass, which is the backward one if it is said whether it is ``ragged``.

    Rows then come in at steps of their own, and whatever is carried needs a loop.
    """
    late = bool(ragged)
    pairs = list(zip(before, after, strict=True))
    possible = [Carry(b, a) for b, a in pairs if b is not None and a is not None]
    order, carries = ordered(results, held), list[Carry]()
    while True:  # what a step reads of a state needs what the step before made of it
        needed = [c for c in possible if c.before in order or c.after in results]
        if needed == carries:
            break
        carries = needed
        order = ordered([*results, *(x for c in carries for x in c)], held)
    computed = [v for v in order if v.source is None]
    parts = _components(order, dict(carries))
    stages: list[Stage] = []
    for part in parts:
        inside = [v for v in part if v.source is None]
        if inside:
            rounds = [c for c in carries if c.after in part and (c.before in part or late)]
            stages.append(Stage(inside, rounds))
    add_in_loops(stages, sums, by_kernels)
    for stage in stages:
        if stage.loop:  # it makes what else is carried, too
            stage.carries = [c for c in carries if c.after in stage.values]
    needs = [v for v in [*order, *held] if v.source is not None or v in set(held)]
    needs = list(dict.fromkeys(needs))
    return Pass(_together(stages), carries, needs, set(computed), ragged is not None, late)


def _components(order: Sequence[Value], carried: dict[Value, Value]) -> list[list[Value]]:
    """The strongly connected components, each after those that it depends on (Tarjan 1972).

    A state before the step depends on the one after it. Within a component values keep the order
    that they have within a step.
    """
    place = {value: i for i, value in enumerate(order)}
    number: dict[Value, int] = {}
    low: dict[Value, int] = {}
    stack: list[Value] = []
    waiting: set[Value] = set()
    found: list[list[Value]] = []

    def edges(value: Value) -> list[Value]:
        inputs = [carried[value]] if value in carried else value.operands
        return [x for x in inputs if x in place]

    for root in order:
        work = [(root, iter(edges(root)))] if root not in number else []
        for value, _ in work:
            number[value] = low[value] = len(number)
            stack.append(value)
            waiting.add(value)
        while work:
            value, remaining = work[-1]
            for x in remaining:
                if x not in number:
                    number[x] = low[x] = len(number)
                    stack.append(x)
                    waiting.add(x)
                    work.append((x, iter(edges(x))))
                    break
                if x in waiting:
                    low[value] = min(low[value], number[x])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[value])
                if low[value] == number[value]:
                    at = stack.index(value)
                    component = sorted(stack[at:], key=place.__getitem__)
                    del stack[at:]
                    waiting -= set(component)
                    found.append(component)
    return found


def _together(stages: list[Stage]) -> list[Stage]:
    """Neighbouring stages that are no loops as one."""
    merged: list[Stage] = []
    for stage in stages:
        if merged and not stage.loop and not merged[-1].loop:
            merged[-1].values += stage.values
        else:
            merged.append(stage)
    return merged
