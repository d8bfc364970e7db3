"""Memories that have the rows of the batch along another axis, turned so that rows come first.

What an encoder gives is (S, B, H), and a cell may look at it as it is: its scores are (S, B), and
their softmax goes along axis 0. For a loop all that has rows has them in front. So the axis of rows
is followed from the input and the state through every primitive, in both directions, and where it
is another than the first the same step is written again with the rows in front.

A captured array is then given turned, and its cotangent is turned back. A step that does anything
that is not known here stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...graph import TABLE
from ..ir import WHOLE, Graph, Shape, Table, Value, elements, ordered, reshape


class _Unknown(Exception):
    """A use of rows for which there is no rule."""


def put_rows_first(graph: Graph, batch: int | None) -> Graph:
    """A step, before it is differentiated, in which whatever has rows has them along axis 0."""
    captured = [v for v in graph.values() if v.name == "captured"]
    if batch in (None, 1) or not any(batch in v.shape[1:] for v in captured):
        return graph
    values = graph.values()
    axes = _axes_of_rows(values, batch)
    if not any(axes.values()):
        return graph
    try:
        return _Turning(graph, axes).run(values)
    except _Unknown:
        return graph


def turned_axes(graph: Graph) -> dict[int, int]:
    """By the number of a captured array, the axis of its rows, which it is to have in front."""
    found = {}
    for value in ordered(graph.results):
        if value.source is not None and "turned" in value.parameters:
            found[value.source.index] = value.parameters["turned"]
    return found


def _axes_of_rows(values: list[Value], batch: int) -> dict[Value, int]:
    """The axis of each value that is that of the rows, as far as it is found."""
    found: dict[Value, int] = {}
    for value in values:
        if value.name in ("x", "state", "draw") and value.shape[:1] == (batch,):
            found[value] = 0
    while True:
        before = len(found)
        for value in values:
            for x, mine, its in _same_axes(value):
                if found.get(x) == mine:
                    found.setdefault(value, its)
        for value in values[::-1]:
            for x, mine, its in _same_axes(value):
                if found.get(value) == its and x.shape[mine] == batch:
                    found.setdefault(x, mine)
        if len(found) == before:
            return found


def _same_axes(value: Value) -> Iterator[tuple[Value, int, int]]:
    """Which axes of operands are which of a value, of the same lengths."""
    name, shape = value.name, value.shape
    if value.source is not None:
        return
    for place, x in enumerate(value.operands):
        shift = len(shape) - len(x.shape)
        if name == "permute_dims":
            for its, axis in enumerate(value.parameters["axes"]):
                yield x, axis + len(shape), its
        elif name == "reshape":
            for mine, n in enumerate(x.shape):
                for its, m in enumerate(shape):
                    if n == m and elements(x.shape[:mine]) == elements(shape[:its]):
                        yield x, mine, its
        elif name == "getitem" and len(value.operands) == 1:
            yield from ((x, *pair) for pair in _kept_by(value))
        elif name in ("sum", "max"):
            summed = {axis + len(x.shape) for axis in value.parameters["axis"]}
            kept = [axis for axis in range(len(x.shape)) if axis not in summed]
            for its, mine in enumerate(kept):
                yield x, mine, mine if value.parameters["keepdims"] else its
        elif name == "matmul":
            for mine in range(len(x.shape) - (1 if place == 0 else 2)):
                yield x, mine, mine + shift
        elif value.primitive.kind == "elementwise" or name in ("broadcast_to", "concat"):
            joined = value.parameters["axis"] + len(shape) if name == "concat" else None
            for mine, n in enumerate(x.shape):
                if n == shape[mine + shift] and mine != joined:
                    yield x, mine, mine + shift


def _kept_by(value: Value) -> Iterator[tuple[int, int]]:
    """The axes that an index keeps whole: of the operand, and of the result."""
    key = value.parameters["key"]
    mine = its = 0
    for entry in key:
        if entry == WHOLE:
            yield mine, its
        mine += entry is not None
        its += entry is None or isinstance(entry, slice)
    rest = len(value.operands[0].shape) - mine
    yield from ((mine + i, its + i) for i in range(rest))


class _Turning:
    """A step on its way to one with the rows in front."""

    def __init__(self, graph: Graph, axes: dict[Value, int]) -> None:
        self.graph = graph
        self.table: Table = graph.table
        self.axes = axes
        self.new: dict[Value, Value] = {}

    def run(self, values: list[Value]) -> Graph:
        for value in values:
            self.new[value] = self._turned(value)
        for result in self.graph.results:
            if self.axes.get(result, 0):
                raise _Unknown
        return self.graph.with_results(self.new)

    def _turned(self, value: Value) -> Value:
        axis = self.axes.get(value)
        if value.source is not None:
            if not axis:
                return value
            if value.name != "captured":
                raise _Unknown
            shape = _in_front(value.shape, axis)
            index = value.source.index
            return self.table.source("captured", index, shape, value.dtype, turned=axis)
        known = [self.axes.get(x) for x in value.operands]
        if not axis and not any(known):
            return self.table.again(value, self._inputs(value))
        pairs = set(_same_axes(value))
        rows = [(x, own, axis) for x, own in zip(value.operands, known, strict=True)]
        if axis is None or any(row not in pairs for row in rows if row[1] is not None):
            raise _Unknown  # rows are gone, or those of one axis meet those of another
        if value.primitive.kind == "elementwise":
            return self._aligned(value, axis)
        rule: Any = getattr(self, f"_{value.name}", None)
        if rule is None or not known or known[0] is None:
            raise _Unknown
        made: Value = rule(value, axis, known[0])
        return made

    def _inputs(self, value: Value) -> tuple[Any, ...]:
        return tuple([self.new[x] if isinstance(x, Value) else x for x in value.inputs])

    def _beside(self, x: Value, rank: int, axis: int) -> Value:
        """An operand in as many axes, the rows in front; without rows it is the same for all."""
        new, own = self.new[x], self.axes.get(x)
        place = axis - rank + len(x.shape)  # of rows, if it has them
        if own is None:
            if place < 0:
                return new
            if x.shape[place] != 1:
                raise _Unknown
            return reshape(self.table, new, (*x.shape[:place], *x.shape[place + 1 :]))
        if own != place:
            raise _Unknown
        ones = (1,) * (rank - len(x.shape))
        return reshape(self.table, new, (new.shape[0], *ones, *new.shape[1:]))

    def _aligned(self, value: Value, axis: int) -> Value:
        rank = len(value.shape)
        inputs = [self._beside(x, rank, axis) if isinstance(x, Value) else x for x in value.inputs]
        return self.table.again(value, tuple(inputs))

    def _broadcast_to(self, value: Value, axis: int, own: int) -> Value:
        x = self._beside(value.operands[0], len(value.shape), axis)
        return self.table.value(value.primitive, x, shape=_in_front(value.shape, axis))

    def _reshape(self, value: Value, axis: int, own: int) -> Value:
        x = self.new[value.operands[0]]
        return reshape(self.table, x, _in_front(value.shape, axis))

    def _sum(self, value: Value, axis: int, own: int) -> Value:
        x, n = self.new[value.operands[0]], len(value.operands[0].shape)
        summed = tuple(sorted(_place(a + n, own) - n for a in value.parameters["axis"]))
        return self.table.value(value.primitive, x, **{**value.parameters, "axis": summed})

    _max = _sum

    def _permute_dims(self, value: Value, axis: int, own: int) -> Value:
        x, n = self.new[value.operands[0]], len(value.shape)
        order = [a + n for a in value.parameters["axes"]]
        moved = [_place(a, own) - n for a in order if a != own]
        return self.table.value(value.primitive, x, axes=(-n, *moved))

    def _getitem(self, value: Value, axis: int, own: int) -> Value:
        x = self.new[value.operands[0]]
        entries, mine = [], 0
        for entry in value.parameters["key"]:
            if entry is None or mine != own:
                entries.append(entry)
            mine += entry is not None
        return self.table.value(value.primitive, x, key=(WHOLE, *entries))

    def _concat(self, value: Value, axis: int, own: int) -> Value:
        n = len(value.shape)
        joined = _place(value.parameters["axis"] + n, axis) - n
        parts = [self._beside(x, n, axis) for x in value.operands]
        if any(self.axes.get(x) is None for x in value.operands):
            raise _Unknown
        return self.table.value(TABLE["concat"], *parts, axis=joined)

    def _matmul(self, value: Value, axis: int, own: int) -> Value:
        x, y = value.operands
        of_both = self.axes.get(y) == axis == own and axis < len(value.shape) - 2
        if not of_both and (len(y.shape) > 2 or self.axes.get(y) is not None):
            raise _Unknown
        return self.table.value(value.primitive, self.new[x], self.new[y])


def _in_front(shape: Shape, axis: int) -> Shape:
    """A shape with one axis moved to the front."""
    return (shape[axis], *shape[:axis], *shape[axis + 1 :])


def _place(axis: int, rows: int) -> int:
    """Where an axis is when that of the rows is moved to the front."""
    return axis + 1 if axis < rows else axis
