"""Loop distribution: what has to go step by step, and what need not (Allen & Kennedy 1987).

The values of one step depend on each other, and through the state on those of the step before. The
strongly connected components of that graph are the recurrences: each is a loop of its own.
Everything else is computed for all steps at once, and a cotangent of what does not vary with time
is a sum over time, which no loop needs.

The subtle point is the division of work between the passes. The forward pass computes what outputs
and states need and nothing else. The backward pass computes anew whatever is cheap and at hand;
only what is neither is held for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...graph import TABLE
from ...primitives.indexing import ARRAY
from ..ir import Graph, Value, base, ordered, users
from .rows import ONCE, ROWS, SUMMED, Extent
from .simplify import elements


class Carry(NamedTuple):
    """What goes round: what a step is given, and what it makes of it."""

    before: Value
    after: Value


@dataclass
class Stage:
    """Values computed together: step by step if there are carries, else for all steps at once."""

    values: list[Value]
    carries: list[Carry] = field(default_factory=list)
    sums: list[Value] = field(default_factory=list)  # added up over time, in a loop

    @property
    def loop(self) -> bool:
        """Whether it goes step by step."""
        return bool(self.carries or self.sums)


@dataclass
class Pass:
    """The forward or the backward pass: its stages in order, and what it needs from before."""

    stages: list[Stage]
    carries: list[Carry]  # all of them, also those that are no recurrence
    needs: list[Value]  # sources and values of the other pass that it reads
    values: set[Value]  # all that it computes


class Term(NamedTuple):
    """A sum over time: of ``value``, subtracted if ``negative``; then reshaped and transposed."""

    value: Value
    negative: bool
    after: tuple[Value, ...]  # movements to be carried out on the sum, the last one first


@dataclass
class Distribution:
    """A graph, distributed."""

    graph: Graph
    extents: dict[Value, Extent]
    forward: Pass
    backward: Pass | None
    residuals: list[Value]  # values of the forward pass held for the backward one
    totals: list[list[Term] | None]  # what the cotangent of each captured array is the sum of


def distribute(graph: Graph, extents: dict[Value, Extent], ragged: bool) -> Distribution:
    """Both passes of a graph as stages, and what has to be held between them."""
    states = [graph.table.source("state", i, v.shape, v.dtype) for i, v in enumerate(graph.states)]
    for before, after in zip(states, graph.states, strict=True):
        extents.setdefault(before, extents[after])
    results = [*graph.ys, *graph.states]
    forward = _pass(results, states, graph.states, ())
    asked = [v for v, flag in zip(graph.dstates, graph.asked, strict=True) if flag]
    wanted = [v for v in (*graph.dxs, *asked) if v is not None]
    totals = [None if v is None else terms(v, extents) for v in graph.dcaptured]
    every = [term for each in totals for term in each or ()]
    sums = [value for term in every for value in read_by(term)]
    grown = [term.value for term in every if contraction(term.value) is None]
    if not wanted and not sums:
        return Distribution(graph, extents, forward, None, [], totals)
    cotangents = [
        None if v is None else graph.table.source("dstate", i, v.shape, v.dtype)
        for i, v in enumerate(graph.dstates)
    ]
    for cotangent, g in zip(cotangents, graph.dstates, strict=True):
        if cotangent is not None and g is not None:
            extents.setdefault(cotangent, extents[g])
    held = _residuals([*wanted, *sums], forward)
    backward = _pass([*wanted, *sums], cotangents, graph.dstates, held, grown, late=ragged)
    read = {x for value in backward.values for x in value.operands} | set(wanted) | set(sums)
    residuals = [value for value in held if value in read]
    return Distribution(graph, extents, forward, backward, residuals, totals)


def _pass(
    results: Sequence[Value],
    before: Sequence[Value | None],
    after: Sequence[Value | None],
    held: Iterable[Value],
    sums: Sequence[Value] = (),
    *,
    late: bool = False,
) -> Pass:
    """The stages of a pass; ``late`` if rows come in at steps of their own.

    They have no array of all states then, so that whatever goes round needs a loop.
    """
    pairs = list(zip(before, after, strict=True))
    possible = [Carry(b, a) for b, a in pairs if b is not None and a is not None]
    order, carries = ordered(results, held), list[Carry]()
    while True:  # what a step reads of a state needs what the step before made of it
        found = [c for c in possible if c.before in order or c.after in results]
        if found == carries:
            break
        carries = found
        order = ordered([*results, *(x for c in carries for x in c)], held)
    computed = [v for v in order if v.source is None]
    parts = _components(order, dict(carries))
    stages: list[Stage] = []
    for part in parts:
        inside = [v for v in part if v.source is None]
        if inside:
            rounds = [c for c in carries if c.after in part and (c.before in part or late)]
            stages.append(Stage(inside, rounds))
    _add_in_loops(stages, sums)
    for stage in stages:
        if stage.loop:  # it makes what else goes round, too
            stage.carries = [c for c in carries if c.after in stage.values]
    needs = [v for v in [*order, *held] if v.source is not None or v in set(held)]
    return Pass(_together(stages), carries, list(dict.fromkeys(needs)), set(computed))


def _components(order: Sequence[Value], goes_round: dict[Value, Value]) -> list[list[Value]]:
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
        inputs = [goes_round[value]] if value in goes_round else value.operands
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


_COSTLY = {"divide", "pow", "floor_divide", "remainder", "sqrt", "exp", "expm1", "log", "log1p"}
_COSTLY |= {"sin", "cos", "tanh", "sigmoid", "softplus", "erf", "copied"}
CHEAP = frozenset(["reshape", "permute_dims", "getitem", "broadcast_to", "full"]) | {
    name for name, p in TABLE.items() if p.kind == "elementwise" and name not in _COSTLY
}
"""What costs about as much to compute again as to store and read."""


def _residuals(results: Sequence[Value], forward: Pass) -> list[Value]:
    """The values of the forward pass that the backward one is given, for what it computes.

    One that is cheap is computed again, if all that it is made of is there anyway; of a view, what
    it looks at is held.
    """
    order = ordered(results)
    used = users(order)
    backward = {v for v in order if v not in forward.values}
    asked = set(results)
    read = [
        v
        for v in order
        if v in forward.values and (v in asked or any(u in backward for u in used[v]))
    ]
    kept: set[Value] = {v for v in read if v.name not in CHEAP}
    for value in read:  # in order: what it is made of was decided before
        if value in kept:
            continue
        again = ordered([value], kept)
        if any(v.name not in CHEAP for v in again if v.source is None):
            kept.add(base(value))
    return [v for v in order if v in kept]


LINEAR = frozenset(
    ["reshape", "permute_dims", "astype", "sum", "negative", "multiply", "divide", "broadcast_to"]
)


def terms(
    value: Value,
    extents: dict[Value, Extent],
    negative: bool = False,
    after: tuple[Value, ...] = (),
) -> list[Term]:
    """A sum over time pushed through what is linear: of a sum, the sums of its parts."""
    operands = [x for x in value.operands if extents[x] is not ONCE]
    alike = all(x.shape == value.shape and x.dtype == value.dtype for x in operands)
    if value.name in ("add", "subtract") and len(operands) == 2 and alike:
        flipped = negative != (value.name == "subtract")
        first, second = (
            terms(x, extents, sign, after)
            for x, sign in zip(operands, (negative, flipped), strict=True)
        )
        return first + second
    if value.name == "negative":
        return terms(operands[0], extents, not negative, after)
    moved = value.name in ("reshape", "permute_dims") and extents[value] is not ROWS
    scaled = value.name in LINEAR and len(operands) == 1 and value.inputs[0] is operands[0]
    if contraction(value) is None and (moved or (scaled and extents[value] is SUMMED)):
        return terms(operands[0], extents, negative, (value, *after))
    return [Term(value, negative, after)]


def read_by(term: Term) -> list[Value]:
    """The values that a sum over time is computed from, all steps of them."""
    kind = contraction(term.value)
    if kind == "product":
        return [term.value.operands[0].operands[0], term.value.operands[1]]
    if kind == "places":
        return [*term.value.operands[1:]]
    return [term.value.operands[0]] if kind == "sum" else [term.value]


def _add_in_loops(stages: list[Stage], sums: Sequence[Value]) -> None:
    """Let large sums over time grow in a loop: their terms of all steps would fill memory."""
    for value in dict.fromkeys(sums):
        stage = next((s for s in stages if value in s.values), None)
        largest = max([elements(x.shape) for x in value.operands], default=None)
        if stage is None or largest is None:  # a constant
            continue
        if elements(value.shape) > 2 * largest:
            stage.sums.append(value)


def contraction(value: Value) -> str | None:
    """How a sum over time is one with a sum over rows: a product, a sum, or added to places."""
    if value.name == "matmul" and len(value.shape) == 2:
        x = value.operands[0]
        if x.name == "permute_dims" and x.parameters["axes"] == (-1, -2):
            return "product"
    if value.name == "sum" and -len(value.operands[0].shape) in value.parameters["axis"]:
        return "sum"
    if value.name == "index_add" and len(value.operands) == 3:
        first = value.parameters["key"][0] is ARRAY
        return "places" if first and value.operands[0].name == "full" else None
    return None
