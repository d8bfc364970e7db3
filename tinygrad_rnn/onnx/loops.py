"""Nodes with a loop in them: LSTM, GRU and RNN, Scan, Loop and If; and sequences, which loops fill.

The first four are cells, applied by ``unroll``: a plan is made of them as of any cell. What ONNX
leaves to options (other activations, clipping, the batch in front) is part of the cell's equations,
so there is one cell of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..functional import elu
from ..primitives.creation import zeros
from ..primitives.elementwise import maximum, minimum, relu, sigmoid, softplus, tanh
from ..primitives.movement import (
    concat,
    expand_dims,
    flip,
    moveaxis,
    reshape,
    split,
    stack,
    unstack,
)
from ..recurrence import pure, unroll
from ..tensor import Tensor
from .functions import hard_sigmoid, leaky_relu, softsign, thresholded_relu
from .library import ImportedModelError

Activation = Callable[[Tensor], Tensor]


# Activations.


def _affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def _scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * tanh(beta * x)


# Each with the defaults of alpha and beta, for those that have them.
_ACTIVATIONS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "relu": (relu, ()),
    "tanh": (tanh, ()),
    "sigmoid": (sigmoid, ()),
    "softsign": (softsign, ()),
    "softplus": (softplus, ()),
    "affine": (_affine, (1.0, 0.0)),
    "leakyrelu": (leaky_relu, (0.01,)),
    "thresholdedrelu": (thresholded_relu, (1.0,)),
    "scaledtanh": (_scaled_tanh, (1.0, 1.0)),
    "hardsigmoid": (hard_sigmoid, (0.2, 0.5)),
    "elu": (elu, (1.0,)),
}


def _activations(call: Any, names: Sequence[str], directions: int) -> list[list[Activation]]:
    """Those of each direction; alphas and betas are used up one after the other."""
    asked = call.attribute("activations") or list(names) * directions
    left = [list(call.attribute(f"activation_{x}") or []) for x in ("alpha", "beta")]
    found = []
    for name in asked:
        if name.lower() not in _ACTIVATIONS:
            raise ImportedModelError(f"{call.node}: the activation {name!r} is not known here")
        function, defaults = _ACTIVATIONS[name.lower()]
        own = [
            given.pop(0) if given else default
            for given, default in zip(left, defaults, strict=False)
        ]
        options = dict(zip(("alpha", "beta"), own, strict=False))
        found.append(partial(function, **options) if options else function)
    if len(found) != len(names) * directions:
        raise ImportedModelError(f"{call.node}: {len(names)} activations a direction, not {asked}")
    return [found[i : i + len(names)] for i in range(0, len(found), len(names))]


# Recurrent layers.


class _Weights(NamedTuple):
    """Those of one direction, turned for ``x @ w``."""

    w: Tensor  # (I, G * H)
    r: Tensor  # (H, G * H)
    b: Any  # (2, G * H), or None
    p: Any  # peepholes (3, H), or None


def _clipped(call: Any) -> Activation:
    bound = call.attribute("clip")
    if bound is None:
        return lambda x: x
    return lambda x: minimum(maximum(x, -bound), bound)


def _lstm_cell(call: Any, weights: _Weights, activations: list[Activation]) -> Any:
    f, g, h_of = activations
    clip = _clipped(call)
    bias = None if weights.b is None else weights.b[0] + weights.b[1]

    def cell(x: Tensor, state: Any) -> Any:
        h, c = state
        gates = x @ weights.w + h @ weights.r
        i, o, forget, new = split(gates if bias is None else gates + bias, 4, axis=-1)
        if weights.p is not None:
            i, forget = i + weights.p[0] * c, forget + weights.p[2] * c
        i = f(clip(i))
        forget = 1 - i if call.attribute("input_forget", 0) else f(clip(forget))
        c = forget * c + i * g(clip(new))
        if weights.p is not None:
            o = o + weights.p[1] * c
        h = f(clip(o)) * h_of(c)
        return h, (h, c)

    return cell


def _gru_cell(call: Any, weights: _Weights, activations: list[Activation]) -> Any:
    f, g = activations
    clip = _clipped(call)
    size = weights.r.shape[0]
    for_gates, for_new = split(weights.r, [2 * size], axis=-1)
    in_gates = in_new = hidden_new = None
    if weights.b is not None:
        in_gates = weights.b[0, : 2 * size] + weights.b[1, : 2 * size]
        in_new, hidden_new = weights.b[0, 2 * size :], weights.b[1, 2 * size :]
    after = call.attribute("linear_before_reset", 0)

    def plus(x: Tensor, b: Any) -> Tensor:
        return x if b is None else x + b

    def cell(x: Tensor, h: Tensor) -> Any:
        from_x, new = split(x @ weights.w, [2 * size], axis=-1)
        z, r = split(f(clip(plus(from_x + h @ for_gates, in_gates))), 2, axis=-1)
        if after:
            recurrent = r * plus(h @ for_new, hidden_new)
        else:
            recurrent = plus((r * h) @ for_new, hidden_new)
        new = g(clip(plus(new, in_new) + recurrent))
        h = (1 - z) * new + z * h
        return h, h

    return cell


def _rnn_cell(call: Any, weights: _Weights, activations: list[Activation]) -> Any:
    (f,) = activations
    clip = _clipped(call)
    bias = None if weights.b is None else weights.b[0] + weights.b[1]

    def cell(x: Tensor, h: Tensor) -> Any:
        total = x @ weights.w + h @ weights.r
        h = f(clip(total if bias is None else total + bias))
        return h, h

    return cell


def _recurrent(make: Any, names: Sequence[str], states: int) -> Any:
    def layer(
        call: Any,
        x: Any,
        w: Any,
        r: Any,
        b: Any = None,
        lengths: Any = None,
        h: Any = None,
        c: Any = None,
        p: Any = None,
    ) -> tuple[Any, ...]:
        x, w, r, b, h, c, p = (call.run.tensor(v) for v in (x, w, r, b, h, c, p))
        directions, size = w.shape[0], r.shape[-1]
        direction = call.attribute("direction", "forward").lower()
        orders = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        if len(orders.get(direction, ())) != directions:
            raise ImportedModelError(
                f"{call.node}: the direction {direction!r} of weights for {directions}"
            )
        batch_first = bool(call.attribute("layout", 0))
        given: list[Any] = [h, c][:states]
        if batch_first:
            x = moveaxis(x, 0, 1)
            given = [None if s is None else moveaxis(s, 0, 1) for s in given]
        call.room(x.shape[0], x.shape[1], directions * size)
        start = zeros((directions, x.shape[1], size), x.dtype, backend=x.backend)
        given = [start if s is None else s for s in given]
        if lengths is not None:
            lengths = lengths.numpy() if isinstance(lengths, Tensor) else lengths
        outputs, finals = [], []
        functions = _activations(call, names, directions)
        for d, reverse in enumerate(orders[direction]):
            weights = _Weights(
                w[d].T,
                r[d].T,
                None if b is None else reshape(b[d], (2, -1)),
                None if p is None else reshape(p[d], (3, -1)),
            )
            cell = make(call, weights, functions[d])
            state: Any = given[0][d] if states == 1 else tuple(s[d] for s in given)
            output, final = unroll(pure(cell), x, state, lengths=lengths, reverse=reverse)
            outputs.append(output)
            finals.append([final] if states == 1 else list(final))
        together = [stack(list(each)) for each in zip(*finals, strict=True)]
        if batch_first:  # (B, T, D, H), and states (B, D, H)
            over_time = moveaxis(stack(outputs, axis=2), 0, 1)
            return over_time, *[moveaxis(s, 0, 1) for s in together]
        return stack(outputs, axis=1), *together

    return layer


# Scan, Loop and If.


def _scan(call: Any, *inputs: Any) -> tuple[Any, ...]:
    inputs = tuple(call.run.tensor(x) for x in inputs)
    if call.opset < 9:
        return _scan_of_rows(call, *inputs)
    count = call.attribute("num_scan_inputs")
    states, xs = list(inputs[: len(inputs) - count]), list(inputs[len(inputs) - count :])
    axes = call.attribute("scan_input_axes") or [0] * count
    backwards = call.attribute("scan_input_directions") or [0] * count
    for i, (axis, reverse) in enumerate(zip(axes, backwards, strict=True)):
        xs[i] = moveaxis(xs[i], axis, 0) if axis else xs[i]
        xs[i] = flip(xs[i], 0) if reverse else xs[i]
    outputs, finals = _scanned(call, states, xs)
    axes = call.attribute("scan_output_axes") or [0] * len(outputs)
    backwards = call.attribute("scan_output_directions") or [0] * len(outputs)
    for i, (axis, reverse) in enumerate(zip(axes, backwards, strict=True)):
        outputs[i] = flip(outputs[i], 0) if reverse else outputs[i]
        outputs[i] = moveaxis(outputs[i], 0, axis) if axis else outputs[i]
    return *finals, *outputs


def _scanned(call: Any, states: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Over axis 0 of xs: outputs and final states."""
    body = call.attribute("body")

    def cell(x: Any, state: Any) -> Any:
        found = [call.run.tensor(y) for y in call.body(body, [*state, *x])]
        call.room(xs[0].shape[0], sum(y.size for y in found))
        return tuple(found[len(state) :]), tuple(found[: len(state)])

    outputs, finals = unroll(pure(cell), tuple(xs), tuple(states))
    return list(outputs), list(finals)


def _scan_of_rows(call: Any, lengths: Any, *inputs: Any) -> tuple[Any, ...]:
    """As in opset 8: a batch comes first, each row of which is scanned."""
    if lengths is not None or any(call.attribute("directions") or []):
        raise ImportedModelError(f"{call.node}: lengths and directions of opset 8 are not known")
    count = call.attribute("num_scan_inputs")
    rows = []
    for row in zip(*[unstack(x) for x in inputs], strict=True):
        outputs, finals = _scanned(
            call, list(row[: len(row) - count]), list(row[len(row) - count :])
        )
        rows.append([*finals, *outputs])
    return tuple(stack(list(each)) for each in zip(*rows, strict=True))


def _loop(call: Any, trips: Any, condition: Any, *carried: Any) -> tuple[Any, ...]:
    body = call.attribute("body")
    most = None if trips is None else _number(trips)
    steps = call.run.limits.steps
    if most is not None and most > steps:
        raise ImportedModelError(
            f"{call.node}: {most:,} rounds are more than {steps:,}; max_steps of load allows more"
        )
    going = condition is None or bool(_host(condition).all())
    state, kept, number = list(carried), [], 0
    while going and (most is None or number < most):
        if number >= steps:
            raise ImportedModelError(f"{call.node}: more than {steps:,} rounds; see max_steps")
        on = np.array(True)
        condition, *rest = call.body(body, [np.array(number, dtype=np.int64), on, *state])
        state, outputs = rest[: len(state)], rest[len(state) :]
        kept.append(outputs)
        call.room(sum(getattr(y, "size", 0) for y in outputs), number + 1)
        going, number = bool(_host(condition).all()), number + 1
    if not kept:
        missing = len(body.outputs) - 1 - len(state)
        empty = zeros((0,), "float32", backend=call.run.backend)
        return *state, *[empty] * missing
    return *state, *[stack([call.run.tensor(y) for y in each]) for each in zip(*kept, strict=True)]


def _if(call: Any, condition: Any) -> tuple[Any, ...]:
    branch = "then_branch" if bool(_host(condition).all()) else "else_branch"
    return tuple(call.body(call.attribute(branch), []))


def _host(x: Any) -> np.ndarray[Any, Any]:
    return np.asarray(x.numpy() if isinstance(x, Tensor) else x)


# Sequences and what may be missing.


def _number(x: Any) -> int:
    return int(_host(x).reshape(-1)[0])


def _insert(call: Any, sequence: list[Any], x: Any, place: Any = None) -> list[Any]:
    at = len(sequence) if place is None else _number(place)
    if not -len(sequence) <= at <= len(sequence):
        raise IndexError(f"SequenceInsert: place {at} of {len(sequence)}")
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], x, *sequence[at:]]


def _erase(call: Any, sequence: list[Any], place: Any = None) -> list[Any]:
    at = -1 if place is None else _number(place)
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], *sequence[at + 1 :]]


def _joined(call: Any, sequence: list[Any]) -> Any:
    parts = [call.run.tensor(x) for x in sequence]
    call.room(sum(x.size for x in parts))
    axis = call.attribute("axis")
    if call.attribute("new_axis", 0):
        parts = [expand_dims(x, axis) for x in parts]
    return concat(parts, axis=axis)


FUNCTIONS: dict[str, Any] = {
    "LSTM": _recurrent(_lstm_cell, ("sigmoid", "tanh", "tanh"), 2),
    "GRU": _recurrent(_gru_cell, ("sigmoid", "tanh"), 1),
    "RNN": _recurrent(_rnn_cell, ("tanh",), 1),
    "Scan": _scan,
    "Loop": _loop,
    "If": _if,
    "SequenceEmpty": lambda call: [],
    "SequenceConstruct": lambda call, *xs: list(xs),
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SequenceAt": lambda call, sequence, place: sequence[_number(place)],
    "SequenceLength": lambda call, sequence: np.array(len(sequence), dtype=np.int64),
    "ConcatFromSequence": _joined,
    "Optional": lambda call, x=None: x,
    "OptionalHasElement": lambda call, x=None: np.array(x is not None),
    "OptionalGetElement": lambda call, x: x,
}
