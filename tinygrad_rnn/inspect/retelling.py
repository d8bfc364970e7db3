"""A cell told again from its trace, so that its gates can be reached from outside.

What a cell calls ``f`` is a local variable of its: nothing can be added to it and its gradient is
nobody's output. But a trace knows the operation that it is, and can be carried out again with
something in between. ``Retold`` is such a cell: it computes what the original does, adds a tap to
each state and to what goes into each gate, and puts states and gates among its outputs. The
cotangent of a tap of zeros is that of the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .. import random
from ..apply import apply
from ..planner.facts import detached
from ..planner.ir import Graph, Table, Value, hashable
from ..planner.trace import Step, TracedArray, Untraceable, trace
from ..planner.trust import pure
from ..structure import flatten, unflatten
from ..tensor import Tensor, wrap
from .watching import watched

SQUASHING = frozenset(["sigmoid", "tanh", "relu", "softplus", "erf", "clip"])


class Gate(NamedTuple):
    """A named part of a step: what goes into its activation, and the activation."""

    name: str
    before: Value
    after: Value
    function: str


@pure
class Retold:
    """The traced step of a cell as a cell with taps.

    It is called on ``(x, taps)``, taps by name, and returns ``(output, states, activations)`` as
    its output. Untraceable says why there is no trace.
    """

    def __init__(self, cell: Any, xs: Any, state: Any) -> None:
        leaves, structure = flatten(xs)
        at_one = [wrap(x._array[0, ...], x._node) for x in leaves]
        states = flatten(state)
        given = (structure, at_one), (states[1], states[0])
        try:
            seen = watched(lambda: trace(cell, *given, Table()))
        except Exception as error:  # if it is the cell's own, a literal loop raises it, too
            raise Untraceable(f"{type(error).__name__}: {error}") from error
        step: Step = seen.result
        self.graph: Graph = step.graph
        self.step, self.structure = step, states[1]
        self.x_structure = structure
        named: dict[Value, str] = {}
        for x in seen.alive:
            if isinstance(x, Tensor) and type(x._array) is TracedArray:
                named.setdefault(x._array.value, seen.names[id(x)])
        self.state_names = _state_names(self.graph, named)
        self.gates = _gates(self.graph, named, self.state_names)
        taken = [v for v in self.graph.states if v.source is None and v.dtype.kind == "f"]
        self.tapped: dict[Value, str] = {
            v: name
            for v, name in zip(self.graph.states, self.state_names, strict=True)
            if v in taken
        }
        self.tapped |= {g.before: g.name for g in self.gates if g.before not in self.tapped}

    @property
    def shapes(self) -> dict[str, Any]:
        """What a tap of each name has to be like at one step: (shape, dtype)."""
        return {name: (v.shape, v.dtype) for v, name in self.tapped.items()}

    def __call__(self, x: Any, state: Any) -> Any:
        """One step."""
        x, taps = x
        sources = {"x": flatten(x)[0], "state": flatten(state)[0]}
        sources["captured"] = self.step.trace.captured
        sources["draw"] = [_drawn(d, self.step.trace.backend) for d in self.step.trace.draws]
        tensors: dict[Value, Any] = {}
        several: dict[Any, Any] = {}
        for value in self.graph.values():
            made = self._made(value, sources, tensors, several)
            name = self.tapped.get(value)
            tensors[value] = made + taps[name] if name in taps else made
        output = unflatten(self.step.output, [tensors[y] for y in self.graph.ys])
        after = [tensors[v] for v in self.graph.states]
        kept = tuple([tensors[g.after] for g in self.gates])
        return (output, tuple(after), kept), unflatten(self.structure, after)

    def _made(self, value: Value, sources: Any, tensors: Any, several: Any) -> Any:
        if value.source is not None:
            kind, index = value.source
            if kind == "scalar":
                return self.step.trace.scalars[index].item()
            return sources[kind][index]
        inputs = [tensors[x] if isinstance(x, Value) else x for x in value.inputs]
        if value.primitive is detached:
            cut: Tensor = tensors[value.inputs[0]]
            return cut.detach()
        if value.output is None:
            return apply(value.primitive, *inputs, **value.parameters)
        key = (value.primitive, value.inputs, hashable(value.parameters))
        if key not in several:
            several[key] = apply(value.primitive, *inputs, **value.parameters)
        return several[key][value.output]


def _drawn(draw: Any, backend: Any) -> Tensor:
    """The numbers of a draw, as the cell itself draws them."""

    def numbers() -> Tensor:
        return random.uniform(
            draw.shape, draw.low, draw.high, dtype=draw.dtype, backend=backend.name
        )

    if not draw.same:
        return numbers()
    with random.same_at_every_step():
        return numbers()


def _state_names(graph: Graph, named: dict[Value, str]) -> list[str]:
    """Names for the states: what the cell calls them, if it calls two of them differently."""
    names = [named.get(v) or f"state{n}" for n, v in enumerate(graph.states)]
    return [name if names.count(name) == 1 else f"state{n}" for n, name in enumerate(names)]


def _gates(graph: Graph, named: dict[Value, str], states: Sequence[str]) -> list[Gate]:
    """Named values that are an activation, or go into one."""
    users: dict[Value, list[Value]] = {}
    for value in graph.values():
        for x in value.operands:
            users.setdefault(x, []).append(value)
    found: dict[str, Gate] = {}
    for value, name in named.items():
        if name in states or name in found or value.source is not None:
            continue
        if value not in users and value not in graph.ys:
            continue
        if value.name in SQUASHING:
            found[name] = Gate(name, value.operands[0], value, value.name)
            continue
        after = next((u for u in users.get(value, []) if u.name in SQUASHING), None)
        if after is not None and value.dtype.kind == "f":
            found[name] = Gate(name, value, after, after.name)
    return list(found.values())
