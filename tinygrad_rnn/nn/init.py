"""Initial weights, drawn on the host by NumPy: one seed gives the same model on every backend.

An initialiser is a function of a shape that returns a NumPy array of the default dtype; options are
bound by ``functools.partial``::

    nn.Linear(64, 10, weight_init=partial(init.xavier_normal, gain=init.calculate_gain("tanh")))

What is used unless you say otherwise: ``Linear`` weights ``xavier_uniform``, biases ``zeros``;
``Embedding`` ``normal``; recurrent cells ``xavier_uniform`` from the input and ``orthogonal`` from
the state, biases ``zeros`` but for an LSTM's forget gate, 1.

Weights are (in, out), so ``fan_in`` is ``shape[0]``, PyTorch's ``shape[1]``; and a recurrent matrix
holds its gates ``side_by_side``, each drawn for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ..dtypes import default_dtype
from ..random import host_generator

HostArray: TypeAlias = np.ndarray[Any, Any]
Initialiser: TypeAlias = Callable[[Sequence[int]], HostArray]
Fan: TypeAlias = Literal["fan_in", "fan_out"]


def zeros(shape: Sequence[int]) -> HostArray:
    """Zeros."""
    return constant(shape, value=0.0)


def ones(shape: Sequence[int]) -> HostArray:
    """Ones."""
    return constant(shape, value=1.0)


def constant(shape: Sequence[int], *, value: float) -> HostArray:
    """``value`` everywhere."""
    return np.full(tuple(shape), value, dtype=default_dtype())


def uniform(shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> HostArray:
    """Uniform in [low, high)."""
    return host_generator().uniform(low, high, tuple(shape)).astype(default_dtype())


def normal(shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> HostArray:
    """Normal."""
    return host_generator().normal(mean, std, tuple(shape)).astype(default_dtype())


def torch_uniform(shape: Sequence[int], *, size: int | None = None) -> HostArray:
    """Uniform within 1 / sqrt(size) of 0, as PyTorch draws the weights and biases of its layers.

    ``size`` is ``hidden_size`` for all arrays of a recurrent layer, ``in_features`` for both of a
    ``Linear``. Left out, it is the last axis: that of the hidden units, except in the ``weight_hr``
    of a projection. So an LSTM as PyTorch draws it has ``input_init``, ``recurrent_init`` and
    ``bias_init=torch_uniform`` and ``forget_bias=0.0``; but PyTorch has two biases, whose sum is
    wider than this one.
    """
    if size is None and not shape:
        raise ValueError("torch_uniform: a shape without axes needs size=")
    bound = 1 / math.sqrt(max(shape[-1] if size is None else size, 1))
    return uniform(shape, -bound, bound)


def calculate_gain(nonlinearity: str, negative_slope: float = 0.01) -> float:
    """The factor on standard deviations that makes up for what an activation takes away.

    sqrt(2) for "relu" and sqrt(2 / (1 + negative_slope**2)) for "leaky_relu" (He et al. 2015), 5/3
    for "tanh", 1 for "sigmoid" and "linear"; these are PyTorch's.
    """
    gains = {
        "linear": 1.0,
        "sigmoid": 1.0,
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + negative_slope**2)),
    }
    if nonlinearity not in gains:
        raise ValueError(f"calculate_gain: one of {', '.join(gains)}, not {nonlinearity!r}")
    return gains[nonlinearity]


def xavier_uniform(shape: Sequence[int], *, gain: float = 1.0) -> HostArray:
    """Uniform with variance gain^2 * 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    return _uniform_of_std(shape, _xavier_std("xavier_uniform", shape, gain))


def xavier_normal(shape: Sequence[int], *, gain: float = 1.0) -> HostArray:
    """Normal with variance gain^2 * 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""
    return normal(shape, std=_xavier_std("xavier_normal", shape, gain))


def kaiming_uniform(
    shape: Sequence[int], *, gain: float = math.sqrt(2), mode: Fan = "fan_in"
) -> HostArray:
    """Uniform with variance gain^2 / fan (He et al. 2015, eq. 10); the default gain is relu's.

    ``mode`` "fan_in" keeps the variance of activations, "fan_out" that of gradients.
    """
    return _uniform_of_std(shape, _kaiming_std("kaiming_uniform", shape, gain, mode))


def kaiming_normal(
    shape: Sequence[int], *, gain: float = math.sqrt(2), mode: Fan = "fan_in"
) -> HostArray:
    """Normal with variance gain^2 / fan; see ``kaiming_uniform``."""
    return normal(shape, std=_kaiming_std("kaiming_normal", shape, gain, mode))


def _xavier_std(name: str, shape: Sequence[int], gain: float) -> float:
    fan_in, fan_out = _matrix(name, shape)
    return gain * math.sqrt(2 / max(fan_in + fan_out, 1))


def _kaiming_std(name: str, shape: Sequence[int], gain: float, mode: Fan) -> float:
    fan_in, fan_out = _matrix(name, shape)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{name}: mode is 'fan_in' or 'fan_out', not {mode!r}")
    return gain / math.sqrt(max(fan_in if mode == "fan_in" else fan_out, 1))


def _uniform_of_std(shape: Sequence[int], std: float) -> HostArray:
    return uniform(shape, -math.sqrt(3) * std, math.sqrt(3) * std)


def orthogonal(shape: Sequence[int], *, gain: float = 1.0) -> HostArray:
    """A random matrix with orthonormal rows or columns, times ``gain`` (Saxe et al. 2013)."""
    rows, columns = _matrix("orthogonal", shape)
    tall = host_generator().normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # without it, the distribution is not uniform
    drawn: HostArray = gain * (q if rows >= columns else q.T)
    return drawn.astype(default_dtype())


def identity(shape: Sequence[int], *, gain: float = 1.0) -> HostArray:
    """The identity times ``gain``: a recurrent matrix that keeps the state (Le et al. 2015)."""
    rows, columns = _matrix("identity", shape)
    return (gain * np.eye(rows, columns)).astype(default_dtype())


def _matrix(name: str, shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(
            f"{name}: draws a matrix (in, out), not shape {tuple(shape)}; "
            "for a vector take zeros, constant, uniform or normal"
        )
    return shape[0], shape[1]


def draw(initialiser: Initialiser, shape: Sequence[int]) -> HostArray:
    """What ``initialiser`` gives for a shape, checked, in the default dtype."""
    drawn = np.asarray(initialiser(tuple(shape)), dtype=default_dtype())
    if drawn.shape != tuple(shape):
        name = getattr(initialiser, "__name__", repr(initialiser))
        raise ValueError(
            f"initialiser {name}: returned shape {drawn.shape} when asked for {tuple(shape)}"
        )
    return drawn


def side_by_side(initialiser: Initialiser, shape: Sequence[int], gates: int) -> HostArray:
    """Arrays of one shape for all ``gates``, each drawn for itself, joined along the last axis."""
    return np.concatenate([draw(initialiser, shape) for _ in range(gates)], axis=-1)
