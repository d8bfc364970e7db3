"""Passes that leave a graph smaller: the same results from fewer and plainer values.

Each pass is a function ``Graph -> Graph`` and rebuilds the graph by one rule, which looks at a
value whose inputs are done. ``PASSES`` is their order. There is no language of patterns: a rule
reads as the sentence it stands for.

The subtle thing is what derivatives leave behind. The cotangents of slices are arrays of zeros with
something added at a place, and of several slices sums of such; here they become one ``concat`` of
the parts, which needs no zeros and no sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...graph import TABLE
from ...primitives.indexing import ARRAY
from ..ir import WHOLE, Graph, Number, Shape, Table, Value, along, is_view
from ..trace import copied, detached, full


def plain(graph: Graph) -> Graph:
    """Without operations that change nothing; pieces of a split, and what is turned, as slices."""
    return graph.rebuilt(_plain)


def _plain(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.primitive in (detached, TABLE["alias"]):
        return inputs[0]  # type: ignore[no-any-return]
    name, parameters, n = value.name, value.parameters, len(value.shape)
    if name == "split":
        stop = sum(parameters["sizes"][: (value.output or 0) + 1])
        start = stop - parameters["sizes"][value.output or 0]
        return sliced(table, inputs[0], parameters["axis"], start, stop)
    if name == "flip":
        turned = [slice(None, None, -1 if a in parameters["axis"] else None) for a in range(-n, 0)]
        return table.value(TABLE["getitem"], inputs[0], key=tuple(turned))
    if name == "unstack":
        key = along(parameters["axis"], len(inputs[0].shape), value.output)
        return table.value(TABLE["getitem"], inputs[0], key=key)
    if name in ("reshape", "broadcast_to", "astype", "permute_dims", "getitem"):
        return _movement(table, value, inputs)
    return None


def _movement(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    x: Value = inputs[0]
    if value.name == "permute_dims":
        axes = value.parameters["axes"]
        if x.name == "permute_dims":
            inner = x.parameters["axes"]
            axes, x = tuple([inner[a] for a in axes]), x.inputs[0]  # type: ignore[assignment]
        if axes == tuple(range(-len(axes), 0)):
            return x
        return table.value(TABLE["permute_dims"], x, axes=axes)
    if value.name == "getitem":
        keeps_all = _keeps_all(value.parameters["key"], x.shape)
        return reshaped(table, x, value.shape) if keeps_all else None
    if x.shape == value.shape and x.dtype == value.dtype:
        return x
    if value.name == "reshape" and x.name == "reshape":
        return reshaped(table, x.operands[0], value.shape)
    return None


def _keeps_all(key: tuple[Any, ...], shape: Shape) -> bool:
    """Whether a key keeps all elements in order: it adds axes, or drops some of length 1."""
    lengths = iter(shape)
    for entry in key:
        n = 1 if entry is None else next(lengths)
        if isinstance(entry, slice):
            if n > 1 and entry.indices(n) != (0, n, 1):
                return False
        elif n != 1 or entry is ARRAY:
            return False
    return True


def stacked(graph: Graph) -> Graph:
    """Products of (B * S, K), as derivatives make them of (B, S, K), with rows along axis 0."""
    return graph.rebuilt(_stacked)


def _stacked(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name == "reshape":
        return reshaped(table, inputs[0], value.shape)
    if value.name != "matmul" or len(value.shape) != 2 or inputs[0].name != "reshape":
        return None
    (x,), (n, k) = inputs[0].operands, inputs[0].shape
    if not x.shape or x.shape[0] in (0, n) or n % x.shape[0]:
        return None
    x = reshaped(table, x, (x.shape[0], n // x.shape[0], k))
    return reshaped(table, table.value(value.primitive, x, inputs[1]), value.shape)


def folded(graph: Graph) -> Graph:
    """Without arithmetic on constants: what is added to 0, multiplied by 0 or 1, or moved."""
    return graph.rebuilt(_folded)


def _folded(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    numbers = [_constant(x) for x in inputs]
    name, shape, dtype = value.name, value.shape, value.dtype
    arrays = [x for x in inputs if isinstance(x, Value)]

    def same(x: Any) -> bool:
        return isinstance(x, Value) and x.shape == shape and x.dtype == dtype

    if name in ("add", "subtract") and numbers[1] == 0 and same(inputs[0]):
        return inputs[0]  # type: ignore[no-any-return]
    if name == "add" and numbers[0] == 0 and same(inputs[1]):
        return inputs[1]  # type: ignore[no-any-return]
    if name in ("multiply", "divide") and numbers[1] == 1 and same(inputs[0]):
        return inputs[0]  # type: ignore[no-any-return]
    if name == "multiply" and numbers[0] == 1 and same(inputs[1]):
        return inputs[1]  # type: ignore[no-any-return]
    zero = name in ("multiply", "matmul") and 0 in numbers
    zero = zero or (name == "divide" and numbers[0] == 0)
    linear = ("negative", "reshape", "broadcast_to", "permute_dims", "getitem", "sum", "astype")
    zero = zero or (name in linear and numbers[0] == 0)
    zero = zero or (name == "where" and numbers[1:] == [0, 0])
    zero = zero or (name == "concat" and all(n == 0 for n in numbers))
    if zero and dtype.kind == "f":
        return _full(table, 0, value)
    if name in ("reshape", "broadcast_to", "permute_dims", "getitem") and numbers[0] is not None:
        return _full(table, numbers[0], value) if len(arrays) == 1 else None
    return None


def _constant(x: Value | Number) -> Number | None:
    """The number that all elements of a value are known to be."""
    if not isinstance(x, Value):
        return x
    return x.parameters["number"] if x.primitive is full else None


def _full(table: Table, number: Number, like: Value) -> Value:
    return table.value(full, number=number, shape=like.shape, dtype=like.dtype)


def placed(graph: Graph) -> Graph:
    """What is added to slices of an array, as the ``concat`` of its parts; slices of a concat."""
    return graph.rebuilt(_placed)


def _placed(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name == "index_add" and len(inputs) == 2:
        if _keeps_all(value.parameters["key"], value.shape):
            return _sum(table, inputs[0], reshaped(table, inputs[1], value.shape))
        place = sliced_axis(value.parameters["key"], value.shape)
        if place is None or not elements(value.shape):
            return None
        axis, start, stop = place
        shape = list(inputs[0].shape)
        shape[axis] = stop - start
        middle = reshaped(table, inputs[1], tuple(shape))
        parts = [
            sliced(table, inputs[0], axis, 0, start),
            _sum(table, sliced(table, inputs[0], axis, start, stop), middle),
            sliced(table, inputs[0], axis, stop, inputs[0].shape[axis]),
        ]
        return joined(table, [part for part in parts if part is not None], axis)
    if value.name == "getitem" and len(inputs) == 1:
        place = sliced_axis(value.parameters["key"], inputs[0].shape)
        if place is not None and len(value.shape) == len(inputs[0].shape):
            return sliced(table, inputs[0], *place)
    if value.name == "concat":
        return joined(table, inputs, value.parameters["axis"])
    if value.name == "add" and all(isinstance(x, Value) and x.name == "concat" for x in inputs):
        return _sum(table, *inputs)
    return None


def sliced_axis(key: tuple[Any, ...], shape: Shape) -> tuple[int, int, int] | None:
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


def sliced(table: Table, x: Value, axis: int, start: int, stop: int) -> Value | None:
    """x from ``start`` to ``stop`` along a negative axis, through concats; None if empty."""
    if stop <= start:
        return None
    if (start, stop) == (0, x.shape[axis]):
        return x
    if x.primitive is full:
        shape = (*x.shape[:axis], stop - start, *(x.shape[axis + 1 :] if axis < -1 else ()))
        return table.value(full, number=x.parameters["number"], shape=shape, dtype=x.dtype)
    if x.name == "concat" and x.parameters["axis"] == axis:
        parts, before = [], 0
        for part in x.operands:
            n = part.shape[axis]
            inside = sliced(table, part, axis, max(start - before, 0), min(stop - before, n))
            parts += [] if inside is None else [inside]
            before += n
        return joined(table, parts, axis)
    if x.name == "getitem" and len(x.inputs) == 1:
        source = x.operands[0]
        inner = sliced_axis(x.parameters["key"], source.shape)
        if inner is not None and inner[0] == axis and len(x.shape) == len(source.shape):
            return sliced(table, source, axis, inner[1] + start, inner[1] + stop)
    key = along(axis, len(x.shape), slice(start, stop))
    return table.value(TABLE["getitem"], x, key=key)


def joined(table: Table, parts: Sequence[Value], axis: int) -> Value:
    """The concat of parts: nested ones taken apart, neighbouring slices of one value as one."""
    flat: list[Value] = []
    for part in [part for part in parts if part.shape[axis]] or parts[:1]:
        nested = part.name == "concat" and part.parameters["axis"] == axis
        for x in part.operands if nested else [part]:
            merged = _merged(table, flat[-1], x, axis) if flat else None
            if merged is None:
                flat.append(x)
            else:
                flat[-1] = merged
    return flat[0] if len(flat) == 1 else table.value(TABLE["concat"], *flat, axis=axis)


def _merged(table: Table, first: Value, second: Value, axis: int) -> Value | None:
    if first.primitive is full and second.primitive is full:
        if first.parameters["number"] == second.parameters["number"]:
            shape = list(first.shape)
            shape[axis] += second.shape[axis]
            parameters = {**first.parameters, "shape": tuple(shape)}
            return table.value(full, **parameters)
        return None
    if first.name == "getitem" == second.name and first.inputs == second.inputs:
        source = first.operands[0]
        places = [sliced_axis(x.parameters["key"], source.shape) for x in (first, second)]
        whole = len(first.shape) == len(second.shape) == len(source.shape)
        if whole and places[0] and places[1]:
            (a, start, middle), (b, again, stop) = places[0], places[1]
            if a == b == axis and middle == again:
                return sliced(table, source, axis, start, stop)
    return None


def _sum(table: Table, x: Value | None, y: Value | None) -> Value | None:
    """x + y: of two concats along the same axis part by part, if they are cut alike."""
    if x is None or y is None:
        return None
    if _constant(x) == 0 and x.dtype == y.dtype:
        return y
    if _constant(y) == 0 and x.dtype == y.dtype:
        return x
    if x.name == y.name == "concat" and x.parameters == y.parameters:
        axis = x.parameters["axis"]
        cuts = [[part.shape for part in side.operands] for side in (x, y)]
        if cuts[0] == cuts[1]:
            pairs = zip(x.operands, y.operands, strict=True)
            return joined(table, [s for a, b in pairs if (s := _sum(table, a, b))], axis)
    return table.value(TABLE["add"], x, y)


def reshaped(table: Table, x: Value, shape: Shape) -> Value:
    """The same elements in another shape."""
    if x.name == "reshape":
        x = x.operands[0]
    return x if x.shape == shape else table.value(TABLE["reshape"], x, shape=shape)


def differences(graph: Graph) -> Graph:
    """Sums with a negative part as differences: -x + y is y - x."""
    return graph.rebuilt(_ordered_sum)


def _ordered_sum(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "add" or not all(isinstance(x, Value) for x in inputs):
        return None
    first, second = inputs
    if second.name == "negative":
        return table.value(TABLE["subtract"], first, second.inputs[0])
    if first.name == "negative":
        return table.value(TABLE["subtract"], second, first.inputs[0])
    return None


def owned(graph: Graph) -> Graph:
    """What goes round as values of their own: copies of views, of inputs, of what goes round twice.

    Each then has memory of its own, and the next step may not find it overwritten.
    """

    def each(values: Sequence[Value | None]) -> tuple[Value | None, ...]:
        found: list[Value | None] = []
        for value in values:
            while value is not None and (value in found or not _owns_memory(value)):
                value = graph.table.value(copied, value)
            found.append(value)
        return tuple(found)

    states: Any = each(graph.states)
    return replace(graph, states=states, dstates=each(graph.dstates))


def _owns_memory(value: Value) -> bool:
    return value.source is None and not is_view(value) and value.primitive is not full


PASSES = (plain, stacked, folded, placed, folded, placed, differences, owned)
"""In this order; what is no longer needed drops out, since nothing reads it."""


def simplified(graph: Graph, passes: Sequence[Callable[[Graph], Graph]] = PASSES) -> Graph:
    """A graph after all passes."""
    for each in passes:
        graph = each(graph)
    return graph


def elements(shape: Shape) -> int:
    """How many elements a shape has."""
    return math.prod(shape)
