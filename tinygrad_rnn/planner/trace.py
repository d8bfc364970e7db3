"""Tracing: a cell is run once on arrays that have a shape and no values, and what it did is kept.

``trace`` runs a cell on the sources of one step, ``trace_function`` a function of Tensors on those
of its arguments, as a step that there is one of. ``derive`` runs backward through what was traced,
by the engine's own walk and the table's own rules: they compute with Tensors, and these hold traced
arrays, so the derivative comes out as a graph, too. There is no rule for it here.

An operation on nothing but captured arrays, such as the transpose of a weight, is not one of the
loop's: it is carried out at once and recorded as ever, and its result is captured. Loop-invariant
code is hoisted by never having been inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly, random
from ..graph import Node, Primitive
from ..random import Draw
from ..structure import Structure, flatten, unflatten
from ..tensor import MODE, Tensor, as_tensor, backend_of, is_grad_enabled, pull_back, wrap
from .facts import detached, full
from .ir import NUMBERS, Graph, Number, Shape, Source, Table, Value, hashable

Parts: TypeAlias = "tuple[Structure, list[Tensor]]"
"""A nesting of Tensors, taken apart."""


class Untraceable(Exception):
    """Why a cell cannot be traced."""


class TracedArray:
    """An array of a trace: shape and dtype, but no values. It carries primitives out by noting."""

    __slots__ = ("trace", "value")
    why_no_value = (
        "while a cell is traced, a tensor has a shape and no values; use functions of tinygrad_rnn "
        "(where instead of if), or compute this outside of the cell"
    )

    def __init__(self, trace: Trace, value: Value) -> None:
        self.trace = trace
        self.value = value

    @property
    def shape(self) -> Shape:
        """Of one step."""
        return self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As the array will have it."""
        return self.value.dtype

    @property
    def backend(self) -> Any:
        """That of all arrays of the trace."""
        return self.trace.backend

    @property
    def level(self) -> int:
        """Below that of any vmap inside."""
        return self.trace.level

    @property
    def recorded(self) -> bool:
        """Whether operations on it leave nodes behind."""
        return self.trace.deriving or self.trace.of_step

    def __repr__(self) -> str:
        return f"{self.dtype} {self.shape}, traced: it has no values"

    def detach(self) -> TracedArray:
        """The same without a gradient, which the trace notes."""
        return TracedArray(self.trace, self.trace.table.value(detached, self.value))

    def lifted(self, x: Tensor) -> TracedArray:
        """A Tensor as one of the trace."""
        array = x._array
        own = type(array) is TracedArray and array.trace is self.trace
        return array if own else TracedArray(self.trace, self.trace.enter(x))

    def interpret(
        self, primitive: Primitive, inputs: Sequence[Any], parameters: dict[str, Any]
    ) -> Any:
        """Note that a primitive was applied; the result is traced, too."""
        trace = self.trace
        if not trace.running:
            raise RuntimeError(
                f"{primitive.name}: a tensor was kept from inside a cell that was traced; return "
                "it from the cell, as an output or in the state"
            )
        mode = MODE.get()
        if mode.watch is not None:
            mode.watch.operation(primitive, inputs, (), parameters, ())
        values: list[Any] = []
        numbers = False
        for x in inputs:
            if isinstance(x, Tensor):
                array = x._array
                own = type(array) is TracedArray and array.trace is trace
                values.append(array.value if own else trace.enter(x))
                if own and x._node is not None and not (trace.deriving or trace.of_step):
                    raise Untraceable("a derivative is taken inside the cell")
            else:
                numbers = True
                values.append(x)
        if numbers and not trace.deriving:
            values = trace.with_scalars(primitive, values)
        made = trace.table.apply(primitive, tuple(values), parameters)
        if trace.recording is not mode.recording and not (trace.deriving or trace.of_step):
            if mode.recording:
                raise Untraceable("enable_grad() is used inside, where no_grad() is around it")
            # By no_grad() inside the cell.
            made = tuple([trace.table.value(detached, value) for value in made])
        if primitive.several:
            return tuple([TracedArray(trace, value) for value in made])
        return TracedArray(trace, made[0])


class Trace:
    """What a cell did: its values, what they were made of, and what it captured."""

    level = 0
    of_step = False  # of a whole training step, in which derivatives are taken

    def __init__(self, backend: Any, table: Table, whole: bool = False) -> None:
        self.backend = backend
        self.table = table
        self.whole = whole  # of a function, in which a loop may begin
        self.captured: list[Tensor] = []
        self.arrays: list[Any] = []  # those of the captured Tensors, when they were met
        self.scalars: list[np.ndarray[Any, Any]] = []
        self.draws: list[Draw] = []
        self.constants: list[Any] = []  # arrays that rules made
        self._entered: dict[int, Value] = {}
        self.running = True
        self.recording = is_grad_enabled()
        self.deriving = False

    def input(self, kind: Any, index: int, x: Any) -> Tensor:
        """A source of the step as a Tensor, like ``x``."""
        return wrap(TracedArray(self, self.table.source(kind, index, x.shape, x.dtype)), None)

    def enter(self, x: Tensor) -> Value:
        """Capture a Tensor."""
        known = self._entered.get(id(x))
        if known is not None:
            return known
        array = x._array
        around = MODE.get().recorder
        if type(array) is TracedArray and array.trace is not around:
            raise Untraceable(
                "a tensor of another trace, kept by the cell or of a loop around this"
            )
        own = array.backend if type(array) is TracedArray else backends.of(array)
        if own is not self.backend:
            raise Untraceable(
                f"a captured tensor {x.dtype} {x.shape} is no array of {self.backend.name!r}: it "
                "is on another backend, or traced by a loop around this one"
            )
        if self.deriving:
            return self._constant(x)
        index = len(self.captured)
        self.captured.append(x)  # keeps it alive, and so its id its own
        self.arrays.append(array)
        value = self.table.source("captured", index, x.shape, x.dtype)
        self._entered[id(x)] = value
        return value

    @property
    def entered(self) -> Iterable[Value]:
        """The captured values, by number."""
        return self._entered.values()

    def _constant(self, x: Tensor) -> Value:
        """An array that a rule made, which depends on nothing: part of the plan."""
        host = x.numpy()
        if host.size and (host == host.flat[0]).all():
            number = host.flat[0].item()
            return self.table.value(full, number=number, shape=x.shape, dtype=x.dtype)
        self.constants.append(x._array)
        return self.table.source("constant", len(self.constants) - 1, x.shape, x.dtype)

    def with_scalars(self, primitive: Primitive, values: list[Any]) -> list[Any]:
        """Numbers of the user as arguments of the plan: another value of one is no other plan.

        An exponent stays what it is, since the rule for ``pow`` looks at it.
        """
        if primitive.name == "pow":
            return values
        typed = [v.dtype for v in values if isinstance(v, Value)]
        typed = typed[1:] if primitive.name == "where" and len(typed) > 1 else typed
        return [self._scalar(x, typed) if type(x) in NUMBERS else x for x in values]

    def _scalar(self, number: Number, beside: list[np.dtype[Any]]) -> Value | Number:
        try:
            array = np.asarray(number, dtype=np.result_type(*beside, number))
        except OverflowError:  # comparisons and quotients take it as it is, others refuse it
            return number
        value = self.table.source("scalar", len(self.scalars), (), array.dtype)
        self.scalars.append(array)
        return value

    def draw(self, draw: Draw) -> Tensor:
        """Random numbers: a source."""
        number = len(self.draws)
        value = self.table.source("draw", number, draw.shape, draw.dtype, draw=draw)
        self.draws.append(draw)
        return wrap(TracedArray(self, value), None)


class Step(NamedTuple):
    """A traced step: its structure, and what it captured in this call."""

    key: Any
    graph: Graph  # without derivatives
    output: Structure
    trace: Trace

    @property
    def captured(self) -> list[Tensor]:
        """The captured Tensors."""
        return self.trace.captured


def trace(
    step: Callable[[Any, Any], tuple[Any, Any]],
    xs: Parts,
    states: Parts,
    table: Table,
    *,
    lines: bool = False,
) -> Step:
    """Run ``step(x, state)`` on traced arrays like the given ones: x at one step, and a state.

    Values are interned in ``table``, so a step that does the same as one traced with it before
    makes the same values: its key is little more than its results. ``lines`` asks for the lines
    that values come from, which takes time.

    Raises whatever the step raises, and Untraceable.
    """
    tracer = Trace(backend_of(states[1][0] if states[1] else xs[1][0]), table)
    if lines:
        table.line = anomaly.cell_line
    x = [tracer.input("x", i, x) for i, x in enumerate(xs[1])]
    state = [tracer.input("state", i, h) for i, h in enumerate(states[1])]
    with random.traced(tracer.draw):
        try:
            output, following = step(unflatten(xs[0], x), unflatten(states[0], state))
        finally:
            tracer.running = False
            table.line = None
    leaves, structure = flatten(output)
    after, _ = flatten(following, states[0])
    results = [_value(tracer, leaf) for leaf in [*leaves, *after]]
    graph = Graph(tracer.table, tuple(results[: len(leaves)]), tuple(results[len(leaves) :]))
    return make_step(tracer, graph, structure, *states[:1])


def make_step(tracer: Trace, graph: Graph, structure: Structure, *more: Any) -> Step:
    """What a trace has shown; raises Untraceable if a captured Tensor was rebound."""
    for w, array in zip(tracer.captured, tracer.arrays, strict=True):
        if w._array is not array:
            w._array = array
            raise Untraceable(f"a captured tensor {w.dtype} {w.shape} was rebound inside the cell")
    outside = tuple([(value.shape, value.dtype) for value in tracer.entered])
    key = (
        (*graph.ys, *graph.states),
        outside,
        len(tracer.scalars),
        tuple(tracer.draws),
        structure,
        *more,
    )
    return Step(key, graph, structure, tracer)


class Outcome(NamedTuple):
    """What a traced function returned."""

    step: Step
    leaves: list[Any]  # of what it returned
    made: list[int]  # which of them are the results of its graph
    given: list[tuple[int, Source]]  # which are as they were given, or captured


def trace_function(
    function: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor], table: Table
) -> Outcome:
    """Run a function on traced arrays like those of ``tensors``.

    What it returns beside Tensors is kept as it is. Raises whatever the function raises, and
    Untraceable.
    """
    tracer = Trace(backend_of(tensors[0]), table, whole=True)
    given = [tracer.input("x", i, x) for i, x in enumerate(tensors)]
    with random.traced(tracer.draw):
        try:
            leaves, structure = flatten(function(given))
        finally:
            tracer.running = False
    values = {i: _value(tracer, x) for i, x in enumerate(leaves) if isinstance(x, Tensor)}
    sources = [(i, v.source) for i, v in values.items() if v.source is not None]
    as_given = [(i, source) for i, source in sources if source.kind in ("x", "captured")]
    made = [i for i in values if i not in dict(as_given)]
    graph = Graph(table, tuple([values[i] for i in made]), ())
    return Outcome(make_step(tracer, graph, structure), leaves, made, as_given)


def refuse_loop(tensors: Iterable[Tensor]) -> None:
    """Raise Untraceable if any is of a function's trace, which has no loops in it."""
    for x in tensors:
        array = x._array
        if type(array) is TracedArray and array.trace.whole:
            raise Untraceable("a loop over time runs inside it, which is planned by itself")


def _value(tracer: Trace, leaf: Any) -> Value:
    tensor = as_tensor(leaf)
    array = tensor._array
    own = type(array) is TracedArray and array.trace is tracer
    return array.value if own else tracer.enter(tensor)


class Wanted(NamedTuple):
    """Which parts of x, the state and the captured arrays have a cotangent."""

    xs: tuple[bool, ...]
    states: tuple[bool, ...]
    captured: tuple[bool, ...]


def differentiable(graph: Graph, wanted: Wanted, ragged: bool) -> tuple[bool, ...]:
    """Which outputs and final states depend on anything wanted, by rules that there are.

    If ``ragged``, a row may take no step, and its final state is the first.
    """
    states = wanted.states
    while True:
        asked = {"x": wanted.xs, "state": states, "captured": wanted.captured}
        dependent: set[Value] = set()
        for value in graph.values():
            if value.source is not None:
                kind, index = value.source
                depends = kind in asked and asked[kind][index]
            elif value.primitive is detached:
                depends = False
            else:
                rules = value.primitive.differentiable  # None for all inputs
                pairs = enumerate(value.inputs)
                depends = any(x in dependent for i, x in pairs if rules is None or i in rules)
            if depends:
                dependent.add(value)
        flags = tuple([value in dependent for value in (*graph.ys, *graph.states)])
        after = tuple([a or b for a, b in zip(states, flags[len(graph.ys) :], strict=True)])
        if after == states:
            return (*flags[: len(graph.ys)], *after) if ragged else flags
        states = after


def derive(step: Step, wanted: Wanted) -> Graph:
    """The step with its derivative: the cotangents of what is wanted, given those of its results.

    The state's own cotangents are carried, whatever is wanted, as far as anything wanted depends on
    them.
    """
    tracer, graph = step.trace, step.graph
    tracer.running = tracer.deriving = True
    try:
        leaves: dict[Value, Tensor] = {}
        replayed = replay(graph, lambda value: _leaf(tracer, value, wanted, leaves))
        results = [replayed[value] for value in (*graph.ys, *graph.states)]
        seeds = []
        for i, tensor in enumerate(results):
            kind, index = ("dy", i) if i < len(graph.ys) else ("dstate", i - len(graph.ys))
            value = tracer.table.source(kind, index, tensor.shape, tensor.dtype)  # type: ignore[arg-type]
            seeds.append(wrap(TracedArray(tracer, value), None))
        pairs = [(y, g) for y, g in zip(results, seeds, strict=True) if y._node is not None]
        cotangents: dict[Node, Any] = {}
        nodes = [leaf._node for leaf in leaves.values() if leaf._node is not None]
        if pairs and nodes:
            outputs, given = zip(*pairs, strict=True)
            cotangents = pull_back(outputs, given, nodes)

        def cotangent(source: Source, wanted_too: bool) -> Value | None:
            leaf = next((x for v, x in leaves.items() if v.source == source), None)
            g = None if leaf is None or not wanted_too else cotangents.get(leaf._node)  # type: ignore[arg-type]
            return None if g is None else _value(tracer, g)

        return Graph(
            tracer.table,
            graph.ys,
            graph.states,
            tuple(cotangent(Source("x", i), w) for i, w in enumerate(wanted.xs)),
            tuple(
                cotangent(Source("state", i), True) or _nothing(tracer.table, value)
                for i, value in enumerate(graph.states)
            ),
            tuple(cotangent(Source("captured", i), w) for i, w in enumerate(wanted.captured)),
            wanted.states,
        )
    finally:
        tracer.running = tracer.deriving = False


def _nothing(table: Table, like: Value) -> Value | None:
    """The cotangent of a state that no step reads."""
    if like.dtype.kind != "f":
        return None
    return table.value(full, number=0.0, shape=like.shape, dtype=like.dtype)


def _leaf(tracer: Trace, value: Value, wanted: Wanted, leaves: dict[Value, Tensor]) -> Tensor:
    """A source as a leaf, of which a cotangent is wanted or not."""
    tensor = wrap(TracedArray(tracer, value), None)
    assert value.source is not None
    kind, index = value.source
    if kind in ("x", "state", "captured") and value.dtype.kind == "f":
        asked = {"x": wanted.xs, "state": (True,) * len(wanted.states), "captured": wanted.captured}
        if asked[kind][index]:
            tensor = wrap(tensor._array, Node())
    leaves[value] = tensor
    return tensor


def replay(graph: Graph, source: Callable[[Value], Tensor]) -> dict[Value, Tensor]:
    """Carry a traced step out again, on the Tensors that ``source`` gives for its sources."""
    from ..apply import apply

    tensors: dict[Value, Any] = {}
    several: dict[Any, Any] = {}
    for value in graph.values():
        if value.source is not None:
            tensors[value] = source(value)
            continue
        inputs: list[Any] = [tensors[x] if isinstance(x, Value) else x for x in value.inputs]
        if value.primitive is detached:
            tensors[value] = inputs[0].detach()
        elif value.output is None:
            tensors[value] = apply(value.primitive, *inputs, **value.parameters)
        else:
            key = (value.primitive, value.inputs, hashable(value.parameters))
            if key not in several:
                several[key] = apply(value.primitive, *inputs, **value.parameters)
            tensors[value] = several[key][value.output]
    return tensors
