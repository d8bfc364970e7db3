"""The graph of one time step: values, how they are made, and how a graph is rebuilt.

A value is an operation of the table on earlier values, or a source: an input of the step, a state,
a captured array, a cotangent. It knows its shape and dtype at one step, and nothing of how
many steps there are: a plan holds for any number.

Values are interned: the same primitive on the same inputs with the same parameters is the same
object. So common subexpressions are one by construction, a replay of a trace gives the values that
are there already, and a pass (``Graph -> Graph``) builds anew whatever changed above a value that
it replaced and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

import tinygrad_rnn_backends as backends

from ..graph import TABLE, Primitive
from ..primitives.indexing import ARRAY
from .facts import called, facts_of

Number: TypeAlias = "bool | int | float"
Shape: TypeAlias = "tuple[int, ...]"
NUMBERS = (bool, int, float)

Kind = Literal["x", "state", "captured", "scalar", "constant", "draw", "dy", "dstate", "call"]


class Source(NamedTuple):
    """Where a value comes from that no operation made.

    A part of the step's input (x) or of the state before it, a captured array or number (captured,
    scalar), an array that a rule made (constant), random numbers (draw), an object whose methods
    are called (call), and the cotangents of an output (dy) and of the state after the step
    (dstate). ``index`` counts within the kind.
    """

    kind: Kind
    index: int  # type: ignore[assignment]  # tuples have a method of this name


Key: TypeAlias = "tuple[Any, ...]"
"""A basic index, as a primitive has it: slices, ints, None, ..."""

WHOLE = slice(None)


def along(axis: int, ndim: int, entry: Any) -> Key:
    """The key that takes ``entry`` of one axis, counted from the end, and the whole of others."""
    return (*(WHOLE,) * (ndim + axis), entry, *(WHOLE,) * (-axis - 1))


class Value:
    """What an operation makes at one step; compared by identity, since equal ones are interned."""

    __slots__ = ("dtype", "inputs", "line", "output", "parameters", "primitive", "shape", "source")

    def __init__(
        self,
        primitive: Primitive | None,
        inputs: tuple[Value | Number, ...],
        parameters: dict[str, Any],
        output: int | None,
        shape: Shape,
        dtype: np.dtype[Any],
        source: Source | None = None,
    ) -> None:
        self.primitive: Any = primitive  # None for a source
        self.inputs = inputs
        self.parameters = parameters
        self.output = output  # which one, of a primitive with several
        self.shape = shape
        self.dtype = dtype
        self.source = source
        self.line: str | None = None  # of the user, where it is known

    @property
    def name(self) -> str:
        """The name of its primitive in the table, or of its kind of source.

        One that somebody else named like one of the table is none of it.
        """
        if self.source is not None:
            return self.source.kind
        name: str = self.primitive.name
        return name if TABLE.get(name) is self.primitive else f"another {name}"

    @property
    def operands(self) -> list[Value]:
        """Its inputs but for numbers."""
        return [x for x in self.inputs if isinstance(x, Value)]

    @property
    def bytes(self) -> int:
        """Its size at one step."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{self.name}:{self.dtype}{list(self.shape)}"


class Table:
    """Values by what they are: the one place where they are made."""

    def __init__(self) -> None:
        self._values: dict[Any, Value] = {}
        self.line: Callable[[], str] | None = None  # asked for the user's line, if set

    def __len__(self) -> int:
        return len(self._values)

    def source(
        self, kind: Kind, index: int, shape: Shape, dtype: np.dtype[Any], **parameters: Any
    ) -> Value:
        """The source of this kind and number."""
        key = (kind, index, shape, dtype, *parameters.values())
        known = self._values.get(key)
        if known is None:
            known = Value(None, (), parameters, None, shape, dtype, Source(kind, index))
            self._values[key] = known
        return known

    def apply(
        self, primitive: Primitive, inputs: tuple[Value | Number, ...], parameters: dict[str, Any]
    ) -> tuple[Value, ...]:
        """The values that a primitive makes, one if it has not several outputs."""
        # Types, since 1, 1.0 and True are equal as parts of a key.
        types = tuple(map(type, inputs))
        key = (primitive, inputs, types, hashable(parameters) if parameters else None)
        known: Any = self._values.get(key)
        if known is None:
            metas = tuple([(x.shape, x.dtype) if isinstance(x, Value) else x for x in inputs])
            made = metas_of(primitive, metas, parameters)
            numbers = range(len(made)) if primitive.several else (None,)
            known = tuple(
                Value(primitive, inputs, parameters, number, shape, dtype)
                for number, (shape, dtype) in zip(numbers, made, strict=True)
            )
            if self.line is not None:
                line = self.line()
                for value in known:
                    value.line = line
            self._values[key] = known
        values: tuple[Value, ...] = known
        return values

    def value(self, primitive: Primitive, *inputs: Value | Number, **parameters: Any) -> Value:
        """The value of a primitive with one output."""
        return self.apply(primitive, inputs, parameters)[0]

    def again(self, value: Value, inputs: tuple[Value | Number, ...]) -> Value:
        """The same operation on other inputs."""
        if value.source is not None or inputs == value.inputs:
            return value
        found = self.apply(value.primitive, inputs, value.parameters)[value.output or 0]
        found.line = found.line or value.line
        return found


def hashable(parameters: dict[str, Any]) -> Any:
    """Static parameters as part of a key; slices are not hashable before Python 3.12."""
    if not parameters:
        return ()
    return tuple([(name, _hashable(x)) for name, x in parameters.items()])


def _hashable(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple([_hashable(part) for part in x])
    return ("slice", x.start, x.stop, x.step) if isinstance(x, slice) else (type(x), x)


_known_metas: dict[Any, Any] = {}


def metas_of(
    primitive: Primitive, metas: tuple[Any, ...], parameters: dict[str, Any]
) -> tuple[tuple[Shape, np.dtype[Any]], ...]:
    """Shape and dtype of each output, given those of the inputs (or numbers).

    The shape rule of the table: elementwise inputs broadcast, a product drops the axes that it
    contracts, and otherwise the forward itself is asked, on zeros that take no memory (of matrices
    on identities, which have an inverse).
    """
    key = (primitive, metas, tuple(map(type, metas)), hashable(parameters))
    known: Any = _known_metas.get(key)
    if known is None:
        if len(_known_metas) > 20_000:
            _known_metas.clear()
        known = _known_metas[key] = tuple(_metas_of(primitive, metas, parameters))
    found: tuple[tuple[Shape, np.dtype[Any]], ...] = known
    return found


def _metas_of(
    primitive: Primitive, metas: tuple[Any, ...], parameters: dict[str, Any]
) -> Iterator[tuple[Shape, np.dtype[Any]]]:
    if primitive is called:
        yield from parameters["metas"]
        return
    xp = backends.get("numpy")
    shapes = [meta[0] for meta in metas if isinstance(meta, tuple)]
    if primitive is TABLE["matmul"]:
        (left, left_dtype), (right, right_dtype) = metas
        if left[-1] != right[-2]:
            raise ValueError(f"{primitive.name}: shapes {left} and {right} have no product")
        leading = np.broadcast_shapes(left[:-2], right[:-2])
        yield (*leading, left[-2], right[-1]), np.result_type(left_dtype, right_dtype)
        return
    if primitive.kind == "elementwise":
        metas = tuple([((), x[1]) if isinstance(x, tuple) else x for x in metas])
    zeros = [
        np.broadcast_to(np.zeros((), dtype=x[1]), x[0]) if isinstance(x, tuple) else x
        for x in metas
    ]
    if primitive.kind == "matrix":
        zeros = [np.eye(*x.shape[-2:], dtype=x.dtype) + x if np.ndim(x) > 1 else x for x in zeros]
    with np.errstate(all="ignore"):
        out = primitive.forward(xp, *zeros, **parameters)
    for part in out if primitive.several else (out,):
        if primitive.kind == "elementwise":
            yield np.broadcast_shapes(*shapes), np.asarray(part).dtype
        else:
            yield tuple(part.shape), np.asarray(part).dtype


@dataclass(frozen=True)
class Graph:
    """One step and its derivative: what is loop-carried, what comes out, what is summed over time.

    ``states`` are the states after the step, as ``ys`` its outputs. Backwards the cotangents of the
    states before it, ``dstates``, are carried; ``dxs`` come out, and ``dcaptured``, for each
    captured array, is made of sums over time. None stands for a cotangent that nobody asked for, or
    of what nothing depends on; a state that no step reads has one of zeros.
    """

    table: Table
    ys: tuple[Value, ...]
    states: tuple[Value, ...]
    dxs: tuple[Value | None, ...] = ()
    dstates: tuple[Value | None, ...] = ()
    dcaptured: tuple[Value | None, ...] = ()
    asked: tuple[bool, ...] = ()  # of which states the cotangent at the start is a result

    @property
    def results(self) -> list[Value]:
        """All that is to be computed."""
        parts = (*self.ys, *self.states, *self.dxs, *self.dstates, *self.dcaptured)
        return [value for value in parts if value is not None]

    def values(self) -> list[Value]:
        """All values that the results need, each after its inputs."""
        return ordered(self.results)

    def rebuild(
        self, rule: Callable[[Table, Value, tuple[Value | Number, ...]], Value | None]
    ) -> Graph:
        """The graph with each value as ``rule(table, value, inputs)`` makes it, None as it was.

        The rule sees inputs that were rebuilt already. It may return any value of the same shape
        and dtype.
        """
        new: dict[Value, Value] = {}
        for value in self.values():
            inputs = tuple([new[x] if isinstance(x, Value) else x for x in value.inputs])
            made = rule(self.table, value, inputs)
            new[value] = self.table.again(value, inputs) if made is None else made
        return self.with_results(new)

    def with_results(self, new: dict[Value, Value]) -> Graph:
        """The graph with other results in place of these."""

        def each(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple([None if value is None else new[value] for value in values])

        return replace(
            self,
            ys=each(self.ys),
            states=each(self.states),
            dxs=each(self.dxs),
            dstates=each(self.dstates),
            dcaptured=each(self.dcaptured),
        )


def ordered(results: Iterable[Value], known: Iterable[Value] = ()) -> list[Value]:
    """What values are made from, each after its inputs; ``known`` ones are not looked into."""
    done: set[Value] = set(known)
    order: list[Value] = []
    pending: list[tuple[Value, bool]] = [(value, False) for value in list(results)[::-1]]
    while pending:
        value, seen = pending.pop()
        if value in done:
            continue
        if seen:
            done.add(value)
            order.append(value)
            continue
        pending.append((value, True))
        pending += [(x, False) for x in value.operands[::-1] if x not in done]
    return order


def check(graph: Graph, like: Graph | None = None) -> None:
    """Raise AssertionError for a graph that no pass may leave: run after each pass, in tests.

    Each value has the shape and dtype that its primitive makes of its inputs; there is no
    cycle; and the results are of the shapes and dtypes of those of ``like``.
    """
    place = {value: i for i, value in enumerate(graph.values())}
    for value, i in place.items():
        assert all(place[x] < i for x in value.operands), f"{value} comes before an input of it"
        if value.source is None:
            metas = tuple([(x.shape, x.dtype) if isinstance(x, Value) else x for x in value.inputs])
            made = metas_of(value.primitive, metas, value.parameters)[value.output or 0]
            assert made == (value.shape, value.dtype), f"{value} should be {made}"
    for state, after in zip(sources(graph, "state"), graph.states, strict=False):
        assert (state.shape, state.dtype) == (after.shape, after.dtype), f"{state} became {after}"
    if like is not None:
        for mine, theirs in zip(graph.results, like.results, strict=True):
            own, other = (mine.shape, mine.dtype), (theirs.shape, theirs.dtype)
            assert own == other, f"{theirs} became {mine}"


def spell(graph: Graph) -> list[Any]:
    """A graph spelled out: equal for graphs of the same structure, whatever their tables."""
    number = {value: i for i, value in enumerate(graph.values())}
    lines: list[Any] = []
    for value in number:
        inputs = tuple([(type(x), number[x] if isinstance(x, Value) else x) for x in value.inputs])
        made = (value.primitive, inputs, value.output, value.source)
        lines.append((*made, hashable(value.parameters), value.shape, value.dtype))
    return [*lines, tuple([number[value] for value in graph.results])]


def sources(graph: Graph, kind: Kind) -> list[Value]:
    """The sources of one kind that a graph reads, by number."""
    found = [v for v in graph.values() if v.source is not None and v.source.kind == kind]
    return sorted(found, key=lambda v: v.source.index if v.source else 0)


def is_view(value: Value) -> bool:
    """Whether a value owns no memory: it looks at its operand's."""
    return len(value.inputs) == 1 and facts_of(value.name).moves


def base(value: Value) -> Value:
    """The value whose memory a view looks at."""
    while is_view(value):
        value = value.operands[0]
    return value


def writes_into(value: Value) -> bool:
    """Whether an operation can write its result into memory that is given to it."""
    facts = facts_of(value.name)
    if facts.of_floats:
        return value.operands[0].dtype.kind == "f"
    return value.name == "matmul" or facts.ufunc is not None or facts.into is not None


def users(values: Iterable[Value]) -> dict[Value, list[Value]]:
    """For each value those that are made from it, one entry for each time."""
    readers: dict[Value, list[Value]] = {}
    for value in values:
        readers.setdefault(value, [])
        for x in value.operands:
            readers.setdefault(x, []).append(value)
    return readers


def keeps_all(key: tuple[Any, ...], shape: Shape) -> bool:
    """Whether a key keeps all elements in order: it adds axes, or drops some of length 1."""
    lengths = iter(shape)
    for entry in key:
        n = 1 if entry is None else next(lengths)
        if isinstance(entry, slice):
            start, stop, step = entry.indices(n)
            if len(range(start, stop, step)) != n or (n > 1 and step != 1):
                return False
        elif n != 1 or entry is ARRAY:
            return False
    return True


def reshape(table: Table, x: Value, shape: Shape) -> Value:
    """The same elements in another shape."""
    if x.name == "reshape":
        x = x.operands[0]
    return x if x.shape == shape else table.value(TABLE["reshape"], x, shape=shape)


def elements(shape: Shape) -> int:
    """How many elements a shape has."""
    return math.prod(shape)
