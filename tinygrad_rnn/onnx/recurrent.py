"""Loops as nodes of ONNX: LSTM, GRU and RNN for the cells that it knows, Scan for any other.

Gates are ``i o f c`` there and ``z r h``, where ours are ``i f g o`` and ``r z n``. A projected
LSTM is none of ONNX's: h @ weight_hr enters the gates by ``weight_hh``, so their product enters
them alike, and outputs are projected after the loop. A state that is given goes in by the
pseudo-inverse: what it becomes is projected to what was given.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..nn.cells import GRUCell, LSTMCell, PeepholeLSTMCell, RNNCell
from ..planner.ir import Value, ordered
from ..planner.loop import Loop
from ..primitives.elementwise import relu, sigmoid, tanh
from .writer import Writer

Array = np.ndarray[Any, Any]


class Native(NamedTuple):
    """A cell that ONNX has a node for."""

    kind: str
    cell: Any
    order: tuple[int, ...]  # in which its gates are there
    activations: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    def goes_with(self, other: Native) -> bool:
        """Whether both may be directions of one node."""
        return bool(self._form() == other._form())

    def _form(self) -> Any:
        cell = self.cell
        return self.kind, type(cell), cell.hidden_size, cell.weight_ih.shape, self.options

    @property
    def projection(self) -> Array | None:
        """(H, P), of a projected LSTM."""
        weight = getattr(self.cell, "weight_hr", None)
        return None if weight is None else weight.numpy()

    def weights(self) -> dict[str, Array]:
        """As ONNX has them, with a first axis of one direction.

        They are w (1, G * H, I), r (1, G * H, H), b (1, 2 * G * H), and of peepholes p (1, 3 * H).
        """
        cell, order, size = self.cell, list(self.order), self.cell.hidden_size
        from_input, hidden = cell.weight_ih.numpy(), cell.weight_hh.numpy()
        if self.projection is not None:
            hidden = self.projection @ hidden
        bias = np.zeros((2, len(order), size), dtype=from_input.dtype)
        if cell.bias is not None:
            bias[0] = cell.bias.numpy().reshape(len(order), size)
        if getattr(cell, "bias_hn", None) is not None:
            bias[1, 2] = cell.bias_hn.numpy()
        found = {
            "w": _gates(from_input, order, size),
            "r": _gates(hidden, order, size),
            "b": bias[:, order].reshape(1, -1),
        }
        if isinstance(cell, PeepholeLSTMCell):
            each = (cell.weight_ci, cell.weight_co, cell.weight_cf)
            found["p"] = np.concatenate([x.numpy() for x in each])[None]
        return found


class Step(NamedTuple):
    """One step of a loop that became a value."""

    loop: Loop  # cell, order
    xs: list[Value]  # (T, ...): the parts of the input, then the flags
    states: list[Value]  # before the first step
    lengths: Value | None  # as they were given, beside the flags made from them
    sources: list[Value]  # xs and states at one step
    outputs: list[Value]
    following: list[Value]  # the states after the step
    inside: set[Value]  # what depends on the sources
    native: Native | None  # if ONNX has a node for it

    @property
    def free(self) -> list[Value]:
        """What the step reads from outside."""
        found: dict[Value, None] = {}
        for value in ordered([*self.outputs, *self.following]):
            if value in self.inside:
                reads = value.operands if value.source is None else []
                found.update(dict.fromkeys(x for x in reads if x not in self.inside))
            elif value in self.outputs or value in self.following:
                found[value] = None
        return [*found]


_ACTIVATIONS: dict[Any, str] = {tanh: "Tanh", sigmoid: "Sigmoid", relu: "Relu"}


def native(loop: Loop, parts: list[Value], plain: bool) -> Native | None:
    """What ONNX has for the cell of a loop, if it has it; ``plain`` is a loop without masks."""
    cell: Any = loop.cell
    if type(cell) not in (LSTMCell, PeepholeLSTMCell, GRUCell, RNNCell) or not plain:
        return None
    gate = getattr(cell, "gate_activation", tanh)
    if len(loop.xs) != 1 or parts[0].dtype.kind != "f" or len(parts[0].shape) not in (2, 3):
        return None
    if cell.activation not in _ACTIVATIONS or gate not in _ACTIVATIONS:
        return None
    weights = [x for x in vars(cell).values() if hasattr(x, "_array")]
    if any(backends.of(x._array) is None or x.dtype != parts[0].dtype for x in weights):
        return None
    of_gate, of_state = _ACTIVATIONS[gate], _ACTIVATIONS[cell.activation]
    if isinstance(cell, GRUCell):
        options = (("linear_before_reset", int(cell.reset_after)),)
        return Native("GRU", cell, (1, 0, 2), (of_gate, of_state), options)
    if isinstance(cell, RNNCell):
        return Native("RNN", cell, (0,), (of_state,), ())
    return Native("LSTM", cell, (0, 3, 1, 2), (of_gate, of_state, of_state), ())


def _gates(weight: Array, order: list[int], size: int) -> Array:
    """(I, G * H) as (1, G * H, I), its gates in another order."""
    return weight.T.reshape(len(order), size, -1)[order].reshape(1, len(order) * size, -1)


def pairs(values: list[Value]) -> dict[Value, Value]:
    """Of loops that are both directions of one node, the second by the first."""
    found: dict[Value, Value] = {}
    firsts = [v for v in values if v.source is None and "step" in v.parameters]
    firsts = list({id(v.parameters["step"]): v for v in firsts}.values())
    for one, other in itertools.pairwise(firsts):
        a, b = one.parameters["step"], other.parameters["step"]
        if (
            one not in found.values()
            and a.native is not None
            and b.native is not None
            and a.native.goes_with(b.native)
            and (a.xs[0], a.lengths) == (b.xs[0], b.lengths)
            and (a.loop.reverse, b.loop.reverse) == (False, True)
            and not any(x.parameters.get("step") is a for x in ordered(b.states))
        ):
            found[one] = other
    return found


def write_native(w: Writer, steps: list[Step]) -> list[list[str]]:
    """One node for a loop, or for two of both directions: the names of outputs, then states."""
    cells = [step.native for step in steps]
    assert all(cells)
    first: Any = cells[0]
    (x, lengths), count = (steps[0].xs[0], steps[0].lengths), len(steps)
    alone = len(x.shape) == 2  # one sequence without a batch
    source = w.op("Unsqueeze", w.name(x), w.ints(1)) if alone else w.name(x)
    sizes = "" if lengths is None else w.cast(w.name(lengths), lengths.dtype, np.dtype(np.int32))
    arrays = [cell.weights() for cell in cells]  # type: ignore[union-attr]
    named = {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
    weights = {name: w.constant(array) for name, array in named.items()}
    initial = [
        _initial(w, step, number, alone) for step in steps for number in range(len(step.states))
    ]
    states = len(steps[0].states)
    given = [
        initial[number] if count == 1 else w.op("Concat", *initial[number::states], axis=0)
        for number in range(states)
    ]
    inputs = [source, weights["w"], weights["r"], weights["b"], sizes, *given]
    if "p" in weights:
        inputs.append(weights["p"])
    direction = "bidirectional" if count == 2 else "reverse" if steps[0].loop.reverse else "forward"
    outputs = w.ops(
        first.kind,
        1 + states,
        *inputs,
        hidden_size=first.cell.hidden_size,
        direction=direction,
        activations=[name for cell in cells for name in cell.activations],  # type: ignore[union-attr]
        **dict(first.options),
    )
    found = []
    for place, step in enumerate(steps):
        names = []
        for number, name in enumerate(outputs):
            axis = 1 if number == 0 else 0
            if count == 2:
                piece = w.op("Slice", name, w.ints(place), w.ints(place + 1), w.ints(axis))
            else:
                piece = name
            piece = w.op("Squeeze", piece, w.ints(axis))
            if number and lengths is not None:  # a row of no steps keeps its state
                none = w.op("Equal", sizes, w.constant(np.array(0, dtype=np.int32)))
                start = w.op("Squeeze", initial[place * states + number - 1], w.ints(0))
                piece = w.op("Where", w.op("Unsqueeze", none, w.ints(1)), start, piece)
            projection = step.native.projection if step.native is not None else None
            if number < 2 and projection is not None:
                piece = w.op("MatMul", piece, w.constant(projection))
            if alone:
                piece = w.op("Squeeze", piece, w.ints(1 if number == 0 else 0))
            names.append(piece)
        found.append(names)
    return found


def _initial(w: Writer, step: Step, number: int, alone: bool) -> str:
    """A state as (1, B, H)."""
    name = w.name(step.states[number])
    projection = step.native.projection if step.native is not None else None
    if number == 0 and projection is not None:
        wide = np.linalg.pinv(projection.astype(np.float64)).astype(projection.dtype)
        name = w.op("MatMul", name, w.constant(wide))
    return w.op("Unsqueeze", name, w.ints(0, 1) if alone else w.ints(0))
