"""Activations, each the equation it is named after, with PyTorch's names and keywords.

What may overflow goes through ``logsumexp`` or ``softplus``, or is shifted first, never through
``log(softmax(x))``.
"""

from __future__ import annotations

import math
from typing import Literal

from ..planner.planned import composition
from ..primitives.axes import negative_axis
from ..primitives.creation import one_hot
from ..primitives.elementwise import (
    TensorLike,
    clip,
    erf,
    exp,
    expm1,
    isfinite,
    log,
    relu,
    sigmoid,
    softplus,
    tanh,
    where,
)
from ..primitives.movement import moveaxis, split
from ..primitives.reduction import argmax, in_float32, max, sum
from ..random import uniform
from ..tensor import Tensor, as_tensor
from .sampling import straight_through

__all__ = [
    "elu",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardsigmoid",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]


@in_float32
def softmax(x: TensorLike, /, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along ``axis``; 0 where a whole row is -inf, not nan."""
    x = as_tensor(x)
    return _softmax(x, negative_axis(axis, x.ndim, "softmax"))


@composition()
def _softmax(x: Tensor, axis: int) -> Tensor:
    powers = exp(_shifted(x, axis))
    total = sum(powers, axis=axis, keepdims=True)
    return powers / where(total == 0, 1.0, total)


@in_float32
def log_softmax(x: TensorLike, /, axis: int = -1) -> Tensor:
    """x - logsumexp(x) along ``axis``; -inf where a whole row is, not nan."""
    x = as_tensor(x)
    return _log_softmax(x, negative_axis(axis, x.ndim, "log_softmax"))


@composition()
def _log_softmax(x: Tensor, axis: int) -> Tensor:
    shifted = _shifted(x, axis)
    if not shifted.size:
        return shifted
    total = sum(exp(shifted), axis=axis, keepdims=True)
    return shifted - log(where(total == 0, 1.0, total))


@in_float32
def gumbel_softmax(
    logits: TensorLike, tau: float = 1.0, hard: bool = False, axis: int = -1
) -> Tensor:
    """softmax((logits + g) / tau) for draws g of a Gumbel distribution: classes, differentiably.

    Jang et al. 2017, Maddison et al. 2017. The largest element is class k with the probability
    softmax(logits)[k]; the lower the temperature ``tau``, the nearer it is to 1 and the others to
    0. ``hard`` makes them 1 and 0, with the gradient of the soft ones. The draws belong to elements
    and follow the rules of ``random.uniform``: in ``vmap`` each example has its own.
    """
    if not tau > 0:
        raise ValueError(f"gumbel_softmax: a temperature tau above 0, not {tau}")
    logits = as_tensor(logits)
    along = negative_axis(axis, logits.ndim, "gumbel_softmax")
    dtype = logits.dtype if logits.dtype.kind == "f" else None
    draws = uniform(logits.shape, dtype=dtype, backend=logits.backend)
    noise = -log(-log(clip(draws, min=2.0**-25)))  # of draws in steps of 2**-24, from 0 on
    soft = softmax((logits + noise) / tau, axis=along)
    if not hard:
        return soft
    classes = moveaxis(one_hot(argmax(soft, axis=along), soft.shape[along]), -1, along)
    return straight_through(classes, soft)


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its largest element along ``axis``, on which neither softmax depends."""
    if not x.size:
        return x
    largest = max(x.detach(), axis=axis, keepdims=True)
    return x - where(isfinite(largest), largest, 0.0)


def gelu(x: TensorLike, /, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), or its tanh form."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return _gelu(as_tensor(x), approximate)


@composition()
def _gelu(x: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def silu(x: TensorLike, /) -> Tensor:
    """x * sigmoid(x), also called swish."""
    return _silu(as_tensor(x))


@composition(least=2**16)
def _silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def leaky_relu(x: TensorLike, /, negative_slope: float = 0.01) -> Tensor:
    """x where positive, ``negative_slope`` * x elsewhere."""
    x = as_tensor(x)
    return where(x > 0, x, negative_slope * x)


def elu(x: TensorLike, /, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    x = as_tensor(x)
    return where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x)))


def hardsigmoid(x: TensorLike, /) -> Tensor:
    """x / 6 + 1 / 2, clipped to [0, 1]: what PyTorch and Keras 3 (``hard_sigmoid``) mean by it."""
    return clip(as_tensor(x) / 6 + 0.5, 0.0, 1.0)


def logsigmoid(x: TensorLike, /) -> Tensor:
    """log(sigmoid(x)), which stays finite where sigmoid(x) is 0 in its dtype."""
    return -softplus(-as_tensor(x))


def glu(x: TensorLike, /, axis: int = -1) -> Tensor:
    """The first half of x along ``axis`` times the sigmoid of the second (Dauphin et al. 2017)."""
    x = as_tensor(x)
    if x.shape[negative_axis(axis, x.ndim, "glu")] % 2:
        raise ValueError(f"glu: axis={axis} of shape {x.shape} does not split into two halves")
    values, gates = split(x, 2, axis=axis)
    return values * sigmoid(gates)
