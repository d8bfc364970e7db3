"""Compositions: activations, normalisation and losses, written as the equations are.

None has a gradient of its own; all orders follow from the primitives. Names and keywords are those
of ``torch.nn.functional``. The subtle point is stability: what may overflow goes through
``logsumexp`` or ``softplus``, never through ``log(softmax(x))``.
"""

from __future__ import annotations

import math
from typing import Literal

from . import random
from .batching import BatchedArray
from .primitives.axes import negative_axis
from .primitives.creation import ones_like
from .primitives.elementwise import (
    TensorLike,
    erf,
    exp,
    expm1,
    isfinite,
    log,
    relu,
    sigmoid,
    softplus,
    sqrt,
    square,
    tanh,
    where,
)
from .primitives.indexing import take, take_along_axis
from .primitives.movement import expand_dims, moveaxis, squeeze
from .primitives.reduction import max, mean, sum
from .tensor import Tensor, as_tensor, wrap

__all__ = [
    "cross_entropy",
    "dropout",
    "elu",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "mse_loss",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

Reduction = Literal["mean", "sum", "none"]


def softmax(x: TensorLike, /, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along ``axis``; 0 where a whole row is -inf, not nan."""
    powers = exp(_shifted(as_tensor(x), axis))
    total = sum(powers, axis=axis, keepdims=True)
    return powers / where(total == 0, 1.0, total)


def log_softmax(x: TensorLike, /, axis: int = -1) -> Tensor:
    """x - logsumexp(x) along ``axis``."""
    shifted = _shifted(as_tensor(x), axis)
    if not shifted.size:
        return shifted
    return shifted - log(sum(exp(shifted), axis=axis, keepdims=True))


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its largest element along ``axis``, on which neither softmax depends."""
    along = negative_axis(axis, x.ndim, "softmax")
    if not x.size:
        return x
    largest = max(x.detach(), axis=along, keepdims=True)
    return x - where(isfinite(largest), largest, 0.0)


def gelu(x: TensorLike, /, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), or its tanh form."""
    x = as_tensor(x)
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    if approximate != "none":
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def silu(x: TensorLike, /) -> Tensor:
    """x * sigmoid(x), also called swish."""
    x = as_tensor(x)
    return x * sigmoid(x)


def leaky_relu(x: TensorLike, /, negative_slope: float = 0.01) -> Tensor:
    """x where positive, ``negative_slope`` * x elsewhere."""
    x = as_tensor(x)
    return where(x > 0, x, negative_slope * x)


def elu(x: TensorLike, /, alpha: float = 1.0) -> Tensor:
    """x where positive, alpha * (exp(x) - 1) elsewhere."""
    x = as_tensor(x)
    return where(x > 0, x, alpha * expm1(where(x > 0, 0.0, x)))


def layer_norm(
    x: TensorLike,
    /,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last axis (Ba et al. 2016), then * weight + bias."""
    x = as_tensor(x)
    if not x.ndim:
        raise ValueError("layer_norm: a scalar has no last axis")
    for name, factor in (("weight", weight), ("bias", bias)):
        if factor is not None and as_tensor(factor).shape not in ((), x.shape[-1:]):
            raise ValueError(
                f"layer_norm: {name} of shape {as_tensor(factor).shape} for x of shape {x.shape}; "
                f"one of {x.shape[-1:]} is needed"
            )
    centred = x - mean(x, axis=-1, keepdims=True)
    out = centred / sqrt(mean(square(centred), axis=-1, keepdims=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def dropout(x: TensorLike, /, p: float = 0.5, training: bool = True) -> Tensor:
    """x with elements zeroed with probability ``p`` and the others scaled by 1 / (1 - p).

    In ``unroll`` the mask of a row at a time step depends on nothing but the seed, the call, the
    place in the cell, the step and the row (see ``random.py``). In ``vmap`` the examples are the
    rows, each with a mask of its own; an x that is the same for all of them gets one mask.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: a probability p between 0 and 1, not {p}")
    x = as_tensor(x)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0.0
    return where(_uniform_like(x) >= p, x * (1 / (1 - p)), 0.0)


def _uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) for the elements of x: in ``vmap``, for those of all examples."""
    array = x._array
    if isinstance(array, BatchedArray):
        return wrap(BatchedArray(array.batch, _uniform_like(array.value), array.batched), None)
    return random.uniform(x.shape, dtype=x.dtype, backend=x.backend)


def _reduced(losses: Tensor, reduction: Reduction, operation: str) -> Tensor:
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum(losses)
    if reduction == "mean":
        return mean(losses)
    raise ValueError(f"{operation}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def mse_loss(input: TensorLike, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """(input - target)^2, of tensors of the same shape."""
    input, target = as_tensor(input), as_tensor(target)
    if input.shape != target.shape:
        raise ValueError(f"mse_loss: input of shape {input.shape}, target of {target.shape}")
    return _reduced(square(input - target), reduction, "mse_loss")


def cross_entropy(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The negative log-likelihood of ``target`` under softmax(input), in nats.

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...): classes along axis 1, as in PyTorch.
        target: class indices, shaped like ``input`` without the class axis; or class
            probabilities, shaped like ``input``.
        reduction: "mean", "sum" or "none".
        weight: a factor for each class, (C,). "mean" then divides by the sum of the factors used.
        ignore_index: targets of this value contribute neither loss nor gradient.
        label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et
            al. 2016).
    """
    input, target = as_tensor(input), as_tensor(target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing between 0 and 1, not {label_smoothing}")
    if not input.ndim:
        raise ValueError("cross_entropy: the input has no axis of classes")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"cross_entropy: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    logits = moveaxis(input, 1, -1) if input.ndim > 1 else input
    classes = logits.shape[-1]
    factors = (
        ones_like(logits[(0,) * (logits.ndim - 1)].detach())
        if weight is None
        else as_tensor(weight)
    )
    if factors.shape != (classes,):
        raise ValueError(f"cross_entropy: weight of shape {factors.shape} for {classes} classes")
    log_probabilities = log_softmax(logits)
    if target.dtype.kind == "f":
        return _soft_cross_entropy(
            input, log_probabilities, target, factors, reduction, label_smoothing
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: input of shape {input.shape} needs a target of shape "
            f"{logits.shape[:-1]} (classes) or {input.shape} (probabilities), not {target.shape}"
        )
    target = target.astype("int64")  # in which numbers of classes and ignore_index fit
    valid = target != ignore_index
    # A negative index would count from the end; this way it is out of range like a large one.
    chosen = where(valid, where(target < 0, classes - target, target), 0)
    try:
        factor = where(valid, take(factors, chosen), 0.0)
    except IndexError as error:
        raise IndexError(
            f"cross_entropy: a target is neither one of the {classes} classes, 0 to {classes - 1}, "
            f"nor ignore_index={ignore_index}"
        ) from error
    likelihood = squeeze(take_along_axis(log_probabilities, expand_dims(chosen, axis=-1)), axis=-1)
    losses = -factor * where(valid, likelihood, 0.0)
    if label_smoothing:
        spread = where(valid, -sum(log_probabilities * factors, axis=-1), 0.0)
        losses = (1 - label_smoothing) * losses + label_smoothing / classes * spread
    if reduction == "mean":
        return sum(losses) / sum(factor)
    return _reduced(losses, reduction, "cross_entropy")


def _soft_cross_entropy(
    input: Tensor,
    log_probabilities: Tensor,
    target: Tensor,
    factors: Tensor,
    reduction: Reduction,
    label_smoothing: float,
) -> Tensor:
    if target.shape != input.shape:
        raise ValueError(
            f"cross_entropy: input of shape {input.shape}, target probabilities of {target.shape}"
        )
    wanted = moveaxis(target, 1, -1) if target.ndim > 1 else target
    wanted = (1 - label_smoothing) * wanted + label_smoothing / wanted.shape[-1]
    losses = -sum(log_probabilities * wanted * factors, axis=-1)
    if reduction == "mean":
        return sum(losses) / losses.size if losses.size else mean(losses)
    return _reduced(losses, reduction, "cross_entropy")
