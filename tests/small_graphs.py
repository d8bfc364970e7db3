"""Graphs of a few lines: written down or drawn, and computed on numbers.

``computed`` replays a graph: each value by the forward of its primitive, at one step, from sources
whose numbers are drawn once for each source. So a pass is compared before and after.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn.graph import TABLE
from tinygrad_rnn.planner.facts import copied, detached, full
from tinygrad_rnn.planner.ir import Graph, Table, Value, hashable

Array = np.ndarray[Any, Any]
FLOAT = np.dtype("float64")


def number(value: Value, seed: int = 0) -> Array:
    """What a source is."""
    assert value.source is not None
    kind, index = value.source
    if "turned" in value.parameters:  # as the array that was captured, turned
        axis, (rows, *others) = value.parameters["turned"], value.shape
        shape = (*others[:axis], rows, *others[axis:])
        given = Table().source(kind, index, shape, value.dtype)
        return np.moveaxis(number(given, seed), axis, 0)
    rng = np.random.default_rng([sum(map(ord, kind)), index, seed])
    if value.dtype.kind == "i":
        return rng.integers(0, 2, value.shape).astype(value.dtype)
    if value.dtype.kind == "b":
        return np.asarray(rng.random(value.shape) < 0.5)
    return np.asarray(rng.uniform(0.5, 1.5, value.shape), dtype=value.dtype)


def numbers_of(graph: Graph, seed: int = 0) -> dict[Value, Array]:
    """Every value of a graph at one step."""
    xp = backends.get("numpy")
    found: dict[Value, Any] = {}
    several: dict[Any, Any] = {}
    for value in graph.values():
        if value.source is not None:
            found[value] = number(value, seed)
            continue
        inputs = [found[x] if isinstance(x, Value) else x for x in value.inputs]
        key = value.primitive, value.inputs, hashable(value.parameters)
        if key not in several:
            several[key] = value.primitive.forward(xp, *inputs, **value.parameters)
        made = several[key] if value.output is None else several[key][value.output]
        found[value] = np.asarray(made)
        assert found[value].shape == value.shape and found[value].dtype == value.dtype
    return found


def computed(graph: Graph, seed: int = 0) -> list[Array]:
    """The results of a graph."""
    found = numbers_of(graph, seed)
    return [found[value] for value in graph.results]


def assert_same_results(before: Graph, after: Graph) -> None:
    """Both compute the same from the same."""
    for a, b in zip(computed(before), computed(after), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


class Lines:
    """A graph being written: ``lines.tanh(x)`` applies a primitive of the table."""

    def __init__(self) -> None:
        self.table = Table()

    def x(self, *shape: int, index: int = 0, dtype: Any = FLOAT) -> Value:
        """A part of the step's input."""
        return self.table.source("x", index, shape, np.dtype(dtype))

    def w(self, *shape: int, index: int = 0) -> Value:
        """A captured array."""
        return self.table.source("captured", index, shape, FLOAT)

    def state(self, *shape: int, index: int = 0) -> Value:
        """A state before the step."""
        return self.table.source("state", index, shape, FLOAT)

    def full(self, number: float, *shape: int) -> Value:
        """An array of one number."""
        return self.table.value(full, number=number, shape=shape, dtype=FLOAT)

    def __getattr__(self, name: str) -> Any:
        primitive = {"copied": copied, "detach": detached}.get(name) or TABLE[name]
        if primitive.several:
            return lambda *inputs, **keywords: self.table.apply(primitive, inputs, keywords)
        return lambda *inputs, **keywords: self.table.value(primitive, *inputs, **keywords)

    def graph(self, *ys: Value, states: tuple[Value, ...] = ()) -> Graph:
        """The graph of these results."""
        return Graph(self.table, ys, states)


def drawn(rng: random.Random, length: int = 12) -> Graph:
    """A graph of random lines: much moving, slicing, joining and negating, some arithmetic."""
    lines = Lines()
    values = [lines.x(2, 3, 4), lines.x(2, 3, 4, index=1), lines.w(4), lines.full(1.0, 2, 3, 4)]
    values += [lines.full(0.0, 2, 3, 4), lines.state(2, 3, 4), lines.x(2, 3, 2, 2, index=2)]
    for _ in range(length):
        made = _line(rng, lines, values)
        values += [v for v in made if 0 < math.prod(v.shape) <= 200 and len(v.shape) <= 4]
    floats = [v for v in values if v.dtype == FLOAT]
    like = [v for v in floats if v.shape == (2, 3, 4)]
    return lines.graph(*rng.sample(floats[-8:], 3), states=(like[-1],))


def _line(rng: random.Random, lines: Lines, values: list[Value]) -> list[Value]:
    x = rng.choice(values[-8:])
    n = len(x.shape)
    alike = [v for v in values if v.shape == x.shape and v.dtype == x.dtype]
    y = rng.choice(alike)
    name = rng.choice(_NAMES)
    if name in ("negative", "tanh", "copied", "detach", "alias"):
        return [getattr(lines, name)(x)]
    if name in ("add", "subtract", "multiply"):
        number = rng.choice([0.0, 1.0, 0.5])
        pairs = [(x, y), (y, lines.negative(x)), (lines.negative(x), y), (x, number)]
        return [getattr(lines, name)(*rng.choice(pairs))]
    if name == "where":
        return [lines.where(lines.less(x, y), x, y)]
    if name == "reshape":
        lengths = [k for k in range(1, math.prod(x.shape) + 1) if math.prod(x.shape) % k == 0]
        k = rng.choice(lengths)
        return [lines.reshape(x, shape=rng.choice([(k, math.prod(x.shape) // k), (1, *x.shape)]))]
    if name == "broadcast_to":
        return [lines.broadcast_to(x, shape=(2, *x.shape))]
    if not n:
        return []
    axis = -rng.randint(1, n)
    length = x.shape[axis]
    start = rng.randint(0, length - 1)
    stop = rng.randint(start + 1, length)
    key = [slice(None)] * n
    key[axis] = slice(start, stop)
    if name == "permute_dims":
        axes = list(range(-n, 0))
        rng.shuffle(axes)
        return [lines.permute_dims(x, axes=tuple(axes))]
    if name == "flip":
        return [lines.flip(x, axis=(axis,))]
    if name == "sum":
        return [lines.sum(x, axis=(axis,), keepdims=rng.random() < 0.5)]
    if name == "getitem":
        if rng.random() < 0.3:
            key[axis] = rng.choice([start, start - length, slice(None, None, -1)])
        return [lines.getitem(x, key=tuple(key))]
    if name == "index_add":  # into zeros, as the cotangent of a slice is; or into what is there
        part = lines.getitem(y, key=tuple(key))
        into = rng.choice([lines.full(0.0, *x.shape), x])
        return [lines.index_add(into, part, key=tuple(key))] if into.dtype == x.dtype else []
    if name == "concat":
        return [lines.concat(x, y, *([x] * (rng.random() < 0.3)), axis=axis)]
    if name == "split":
        sizes = (start, length - start) if start else (length,)
        return list(lines.split(x, axis=axis, sizes=sizes))
    return list(lines.unstack(x, axis=axis))


_NAMES = [
    *("negative", "negative", "tanh", "copied", "detach", "alias", "add", "add", "add", "subtract"),
    *("subtract", "multiply", "where", "reshape", "reshape", "broadcast_to", "permute_dims"),
    *("permute_dims", "permute_dims", "flip", "sum", "getitem", "getitem", "index_add"),
    *("index_add", "index_add", "concat", "concat", "split", "split", "unstack"),
]
