"""Slices and concats: the cotangents of slices as one ``concat``, which needs no zeros and no sum.

Derivatives leave arrays of zeros behind with something added at a place, and of several slices sums
of such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...graph import TABLE
from ..facts import full
from ..ir import (
    WHOLE,
    Graph,
    Key,
    Number,
    Shape,
    Table,
    Value,
    along,
    elements,
    keeps_all,
    reshape,
)


def join_slices(graph: Graph) -> Graph:
    """What is added to slices of an array, as the ``concat`` of its parts; slices of a concat."""
    return graph.rebuild(_join_slices)


def _join_slices(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name == "index_add" and len(inputs) == 2:
        if keeps_all(value.parameters["key"], value.shape):
            return _sum(table, inputs[0], reshape(table, inputs[1], value.shape))
        place = find_slice(value.parameters["key"], value.shape)
        if place is None or not elements(value.shape):
            return None
        axis, start, stop = place
        shape = list(inputs[0].shape)
        shape[axis] = stop - start
        middle = reshape(table, inputs[1], tuple(shape))
        parts = [
            take_slice(table, inputs[0], axis, 0, start),
            _sum(table, take_slice(table, inputs[0], axis, start, stop), middle),
            take_slice(table, inputs[0], axis, stop, inputs[0].shape[axis]),
        ]
        return join(table, [part for part in parts if part is not None], axis)
    if value.name == "getitem" and len(inputs) == 1:
        place = find_slice(value.parameters["key"], inputs[0].shape)
        if place is not None and len(value.shape) == len(inputs[0].shape):
            return take_slice(table, inputs[0], *place)
    if value.name == "concat":
        return join(table, inputs, value.parameters["axis"])
    if value.name == "add" and all(isinstance(x, Value) and x.name == "concat" for x in inputs):
        return _sum(table, *inputs)
    return None


def find_slice(key: tuple[Any, ...], shape: Shape) -> tuple[int, int, int] | None:
    """The one (negative) axis that a key cuts, and from where to where; an int is one element."""
    if len(key) != len(shape) or any(e is not None and not isinstance(e, slice | int) for e in key):
        return None
    cut = [i for i, entry in enumerate(key) if entry is None or entry != WHOLE]
    if len(cut) != 1 or key[cut[0]] is None:
        return None
    n, entry = shape[cut[0]], key[cut[0]]
    if isinstance(entry, int):
        start = entry % n if n else 0
        return cut[0] - len(shape), start, start + 1
    start, stop, step = entry.indices(n)
    return (cut[0] - len(shape), start, max(start, stop)) if step == 1 else None


def take_slice(table: Table, x: Value, axis: int, start: int, stop: int) -> Value | None:
    """x from ``start`` to ``stop`` along a negative axis, through concats; None if empty."""
    if stop <= start:
        return None
    if (start, stop) == (0, x.shape[axis]):
        return x
    if x.primitive is full:
        shape = (*x.shape[:axis], stop - start, *(x.shape[axis + 1 :] if axis < -1 else ()))
        return table.value(full, number=x.parameters["number"], shape=shape, dtype=x.dtype)
    if x.name == "concat" and x.parameters["axis"] == axis:
        parts = []
        for part, key in parts_of(x):
            first, last = key[axis].start, key[axis].stop
            inside = max(start, first) - first, min(stop, last) - first
            parts.append(take_slice(table, part, axis, *inside))
        return join(table, [part for part in parts if part is not None], axis)
    if x.name == "getitem" and len(x.inputs) == 1:
        source = x.operands[0]
        inner = find_slice(x.parameters["key"], source.shape)
        if inner is not None and inner[0] == axis and len(x.shape) == len(source.shape):
            return take_slice(table, source, axis, inner[1] + start, inner[1] + stop)
    key = along(axis, len(x.shape), slice(start, stop))
    return table.value(TABLE["getitem"], x, key=key)


def join(table: Table, parts: Sequence[Value], axis: int) -> Value:
    """The concat of parts: nested ones taken apart, neighbouring slices of one value as one."""
    flat: list[Value] = []
    for part in [part for part in parts if part.shape[axis]] or parts[:1]:
        nested = part.name == "concat" and part.parameters["axis"] == axis
        for x in part.operands if nested else [part]:
            merged = _merge(table, flat[-1], x, axis) if flat else None
            if merged is None:
                flat.append(x)
            else:
                flat[-1] = merged
    return flat[0] if len(flat) == 1 else table.value(TABLE["concat"], *flat, axis=axis)


def _merge(table: Table, first: Value, second: Value, axis: int) -> Value | None:
    if first.primitive is full and second.primitive is full:
        if first.parameters["number"] == second.parameters["number"]:
            shape = list(first.shape)
            shape[axis] += second.shape[axis]
            parameters = {**first.parameters, "shape": tuple(shape)}
            return table.value(full, **parameters)
        return None
    if first.name == "getitem" == second.name and first.inputs == second.inputs:
        source = first.operands[0]
        places = [find_slice(x.parameters["key"], source.shape) for x in (first, second)]
        whole = len(first.shape) == len(second.shape) == len(source.shape)
        if whole and places[0] and places[1]:
            (a, start, middle), (b, again, stop) = places[0], places[1]
            if a == b == axis and middle == again:
                return take_slice(table, source, axis, start, stop)
    return None


def _sum(table: Table, x: Value | None, y: Value | None) -> Value | None:
    """x + y: of two concats along the same axis part by part, if they are cut alike."""
    if x is None or y is None:
        return None
    if constant(x) == 0 and x.dtype == y.dtype:
        return y
    if constant(y) == 0 and x.dtype == y.dtype:
        return x
    if x.name == y.name == "concat" and x.parameters == y.parameters:
        axis = x.parameters["axis"]
        cuts = [[part.shape for part in side.operands] for side in (x, y)]
        if cuts[0] == cuts[1]:
            pairs = zip(x.operands, y.operands, strict=True)
            return join(table, [s for a, b in pairs if (s := _sum(table, a, b))], axis)
    return table.value(TABLE["add"], x, y)


def constant(x: Value | Number) -> Number | None:
    """The number that all elements of a value are known to be."""
    if not isinstance(x, Value):
        return x
    return x.parameters["number"] if x.primitive is full else None


def parts_of(whole: Value) -> Iterator[tuple[Value, Key]]:
    """The parts of a concat, and the key of each in it."""
    axis, start = whole.parameters["axis"], 0
    for part in whole.operands:
        stop = start + part.shape[axis]
        yield part, along(axis, len(whole.shape), slice(start, stop))
        start = stop
