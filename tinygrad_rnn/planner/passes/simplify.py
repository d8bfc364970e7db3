"""Passes that leave a graph smaller: the same results from fewer and plainer values.

Each pass is a function ``Graph -> Graph`` and rebuilds the graph by one rule, which looks at a
value whose inputs are done. There is no language of patterns: a rule reads as the sentence it
stands for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...graph import TABLE
from ..facts import copied, detached, facts_of, full
from ..ir import Graph, Number, Table, Value, along, is_view, keeps_all, reshape
from .slices import constant, take_slice


def canonicalize(graph: Graph) -> Graph:
    """Without operations that change nothing; pieces of a split, and what is turned, as slices."""
    return graph.rebuild(_canonicalize)


def _canonicalize(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.primitive in (detached, TABLE["alias"]):
        return inputs[0]  # type: ignore[no-any-return]
    name, parameters, n = value.name, value.parameters, len(value.shape)
    if name == "split":
        stop = sum(parameters["sizes"][: (value.output or 0) + 1])
        start = stop - parameters["sizes"][value.output or 0]
        return take_slice(table, inputs[0], parameters["axis"], start, stop)
    if name == "flip":
        turned = [slice(None, None, -1 if a in parameters["axis"] else None) for a in range(-n, 0)]
        return table.value(TABLE["getitem"], inputs[0], key=tuple(turned))
    if name == "unstack":
        key = along(parameters["axis"], len(inputs[0].shape), value.output)
        return table.value(TABLE["getitem"], inputs[0], key=key)
    if facts_of(name).moves or name == "astype":
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
        if len(axes) > 2 and _keeps_order(axes, x.shape):
            return reshape(table, x, value.shape)
        return table.value(TABLE["permute_dims"], x, axes=axes)
    if value.name == "getitem":
        whole = keeps_all(value.parameters["key"], x.shape)
        return reshape(table, x, value.shape) if whole else None
    if x.shape == value.shape and x.dtype == value.dtype:
        return x
    if value.name == "reshape" and x.name == "reshape":
        return reshape(table, x.operands[0], value.shape)
    return None


def _keeps_order(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a permutation moves axes of length 1 only."""
    long = [axis for axis in axes if shape[axis] != 1]
    return long == sorted(long)


def put_rows_in_front(graph: Graph) -> Graph:
    """Products of (B * S, K), as derivatives make them of (B, S, K), with rows along axis 0."""
    return graph.rebuild(_put_rows_in_front)


def _put_rows_in_front(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name == "reshape":
        return reshape(table, inputs[0], value.shape)
    if value.name != "matmul" or len(value.shape) != 2 or inputs[0].name != "reshape":
        return None
    (x,), (n, k) = inputs[0].operands, inputs[0].shape
    if not x.shape or x.shape[0] in (0, n) or n % x.shape[0]:
        return None
    x = reshape(table, x, (x.shape[0], n // x.shape[0], k))
    return reshape(table, table.value(value.primitive, x, inputs[1]), value.shape)


def fold_constants(graph: Graph) -> Graph:
    """Without arithmetic on constants: what is added to 0, multiplied by 0 or 1, or moved.

    What has no elements is a constant, so sums and products over nothing are zeros.
    """
    return graph.rebuild(_fold_constants)


def _fold_constants(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    numbers = [0 if isinstance(x, Value) and 0 in x.shape else constant(x) for x in inputs]
    name, shape, dtype = value.name, value.shape, value.dtype
    arrays = [x for x in inputs if isinstance(x, Value)]

    def same(x: Any) -> bool:
        return isinstance(x, Value) and x.shape == shape and x.dtype == dtype

    if 0 in shape and value.source is None and value.primitive is not full:
        return _full(table, 0, value)
    if name == "concat" and any(0 in x.shape for x in arrays):
        parts = [x for x in arrays if 0 not in x.shape]
        return parts[0] if len(parts) == 1 else table.again(value, tuple(parts))
    if name in ("add", "subtract") and numbers[1] == 0 and same(inputs[0]):
        return inputs[0]  # type: ignore[no-any-return]
    if name == "add" and numbers[0] == 0 and same(inputs[1]):
        return inputs[1]  # type: ignore[no-any-return]
    if name in ("multiply", "divide") and numbers[1] == 1 and same(inputs[0]):
        return inputs[0]  # type: ignore[no-any-return]
    if name == "multiply" and numbers[0] == 1 and same(inputs[1]):
        return inputs[1]  # type: ignore[no-any-return]
    zero = name in ("multiply", "matmul") and 0 in numbers
    zero = zero or (facts_of(name).linear and numbers[0] == 0)
    zero = zero or (name == "where" and numbers[1:] == [0, 0])
    zero = zero or (name == "concat" and all(n == 0 for n in numbers))
    if zero and dtype.kind == "f":
        return _full(table, 0, value)
    if facts_of(name).moves and numbers[0] is not None:
        return _full(table, numbers[0], value) if len(arrays) == 1 else None
    return None


def _full(table: Table, number: Number, like: Value) -> Value:
    return table.value(full, number=number, shape=like.shape, dtype=like.dtype)


def subtract_negatives(graph: Graph) -> Graph:
    """Sums with a negative part as differences: -x + y is y - x."""
    return graph.rebuild(_subtract_negatives)


def _subtract_negatives(table: Table, value: Value, inputs: tuple[Any, ...]) -> Value | None:
    if value.name != "add" or not all(isinstance(x, Value) for x in inputs):
        return None
    first, second = inputs
    if second.name == "negative":
        return table.value(TABLE["subtract"], first, second.inputs[0])
    if first.name == "negative":
        return table.value(TABLE["subtract"], second, first.inputs[0])
    return None


def own_carries(graph: Graph) -> Graph:
    """What is carried as values of their own: copies of views, of inputs, of what is carried twice.

    Each then has memory of its own, and the next step may not find it overwritten. What is
    carried in both passes, as zeros may be, is made in both.
    """
    found: list[Value | None] = []

    def own(value: Value | None) -> Value | None:
        while value is not None and (value in found or not _owns_memory(value)):
            value = graph.table.value(copied, value)
        found.append(value)
        return value

    states: Any = tuple([own(value) for value in graph.states])
    return replace(graph, states=states, dstates=tuple([own(value) for value in graph.dstates]))


def _owns_memory(value: Value) -> bool:
    return value.source is None and not is_view(value) and value.primitive is not full
