"""Losses between what a model gives and what it should give, for each element or each class.

All take ``reduction``: "mean", "sum" or "none". At a target that is to be ignored, or that has
probability 0, the input may be infinite or nan, and 0 * nan is nan in a gradient, too. So such
inputs are replaced first, by ``where``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..planner.planned import composition
from ..primitives.axes import negative_axis
from ..primitives.creation import asarray, place
from ..primitives.elementwise import (
    TensorLike,
    abs,
    astype,
    clip,
    exp,
    isinf,
    log,
    logical_and,
    relu,
    softplus,
    sqrt,
    square,
    where,
)
from ..primitives.indexing import take, take_along_axis
from ..primitives.movement import broadcast_shape, broadcast_to, expand_dims, moveaxis, squeeze
from ..primitives.reduction import in_float32, sum
from ..tensor import Tensor, as_tensor, seen
from .activations import log_softmax
from .reduction import Reduction, reduced

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]


# Of numbers: input and target have the same shape.


@in_float32
def mse_loss(input: TensorLike, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """(input - target)^2, of tensors of the same shape."""
    return _mse(*_pair("mse_loss", input, target), reduction)


@composition(least=2**17)
def _mse(input: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    return reduced("mse_loss", square(input - target), reduction)


@in_float32
def l1_loss(input: TensorLike, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """abs(input - target), of tensors of the same shape; the derivative is 0 where they agree."""
    return _l1(*_pair("l1_loss", input, target), reduction)


@composition(least=2**17)
def _l1(input: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    return reduced("l1_loss", abs(input - target), reduction)


@in_float32
def huber_loss(
    input: TensorLike, target: TensorLike, reduction: Reduction = "mean", delta: float = 1.0
) -> Tensor:
    """Of d = input - target: d^2 / 2 up to ``delta``, then delta * (abs(d) - delta / 2).

    Huber 1964; the tensors have the same shape, and ``delta`` is positive.
    """
    input, target = _pair("huber_loss", input, target)
    if not delta > 0:
        raise ValueError(f"huber_loss: a positive delta, not {delta}")
    return _huber("huber_loss", input, target, delta, 1.0, reduction)


@in_float32
def smooth_l1_loss(
    input: TensorLike, target: TensorLike, reduction: Reduction = "mean", beta: float = 1.0
) -> Tensor:
    """``huber_loss`` with delta = ``beta``, divided by it: ``l1_loss``, rounded up to ``beta``.

    Girshick 2015; the tensors have the same shape. ``beta`` = 0 is ``l1_loss`` itself.
    """
    input, target = _pair("smooth_l1_loss", input, target)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: a beta of 0 or more, not {beta}")
    if not beta:
        return _l1(input, target, reduction)
    return _huber("smooth_l1_loss", input, target, beta, beta, reduction)


@in_float32
def gaussian_nll_loss(
    input: TensorLike,
    target: TensorLike,
    var: TensorLike,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> Tensor:
    """(log(var) + (input - target)^2 / var) / 2, for a normal distribution (Nix & Weigend 1994).

    Args:
        input: the means, of any shape.
        target: of the same shape.
        var: the variances, positive (on NumPy, one below 0 raises ValueError): of the same shape,
            or (..., 1) or without the last axis, for one that the last axis shares; or a number.
        full: add the constant log(2 * pi) / 2.
        eps: what a smaller variance counts as. Its derivative is that at ``eps``, so that it grows.
        reduction: "mean", "sum" or "none".
    """
    operation = "gaussian_nll_loss"
    input, target = _pair(operation, input, target)
    var = _beside(var, input)
    if not eps > 0:
        raise ValueError(f"{operation}: a positive eps, not {eps}")
    if var.ndim and var.shape == input.shape[:-1]:
        var = expand_dims(var, axis=-1)
    if var.shape not in ((), input.shape, (*input.shape[:-1], 1)):
        raise ValueError(
            f"{operation}: var of shape {var.shape} for an input of {input.shape}; it needs that "
            f"shape, or {(*input.shape[:-1], 1)} for one variance along the last axis"
        )
    host = seen(var)
    if host is not None and (host < 0).any():
        raise ValueError(
            f"{operation}: var is negative in places; make it positive by softplus or exp"
        )
    return _gaussian_nll(input, target, var, full, eps, reduction)


@composition()
def _gaussian_nll(
    input: Tensor, target: Tensor, var: Tensor, full: bool, eps: float, reduction: Reduction
) -> Tensor:
    raised = clip(var.detach(), min=eps) - var.detach()
    var = var + raised
    losses = 0.5 * (log(var) + square(input - target) / var)
    losses = losses + 0.5 * math.log(2 * math.pi) if full else losses
    return reduced("gaussian_nll_loss", losses, reduction)


@composition()
def _huber(
    operation: str,
    input: Tensor,
    target: Tensor,
    delta: float,
    divisor: float,
    reduction: Reduction,
) -> Tensor:
    """Both cases at once: within ``delta`` the two factors are d and d / 2."""
    difference = input - target
    near = clip(difference, -delta, delta)
    losses = near * (difference - near / 2)
    return reduced(operation, losses if divisor == 1 else losses / divisor, reduction)


def _pair(operation: str, input: TensorLike, target: TensorLike) -> tuple[Tensor, Tensor]:
    """Both as Tensors of one shape; a target of integers does not widen a floating input."""
    input = as_tensor(input)
    if not isinstance(target, Tensor):
        target = place(target, input.backend)
    if input.shape != target.shape:
        raise ValueError(
            f"{operation}: input of shape {input.shape}, target of {target.shape}; "
            "they have to agree (reshape or broadcast_to)"
        )
    if input.dtype.kind == "f" and target.dtype.kind != "f":
        target = astype(target, input.dtype)
    elif target.dtype.kind != "f":  # differences of small integers would wrap around
        input = astype(input, "float64")
    return input, target


# Of probabilities.


@in_float32
def binary_cross_entropy(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-target * log(input) - (1 - target) * log(1 - input), in nats, of probabilities.

    Of logits, ``binary_cross_entropy_with_logits`` is exact where a sigmoid has rounded to 0 or 1.

    Args:
        input: probabilities between 0 and 1, of any shape; on NumPy, others raise ValueError.
        target: probabilities, of the same shape.
        weight: a factor for each element; broadcasts to the input. "mean" still divides by the
            number of elements.
        reduction: "mean", "sum" or "none".

    As in PyTorch, no logarithm counts as less than -100. What is less has the derivative 0.
    """
    operation = "binary_cross_entropy"
    input, target = _pair(operation, input, target)
    host = seen(input)
    if host is not None and not ((host >= 0) & (host <= 1) | np.isnan(host)).all():
        raise ValueError(
            f"{operation}: the input is not between 0 and 1; of logits it is "
            "binary_cross_entropy_with_logits(input, target)"
        )
    factor = None if weight is None else _fitting(operation, "weight", weight, input)
    return _binary_cross_entropy(input, target, factor, reduction)


@composition()
def _binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: Reduction
) -> Tensor:
    losses = -target * _log_of(input) - (1 - target) * _log_of(1 - input)
    losses = losses if weight is None else losses * weight
    return reduced("binary_cross_entropy", losses, reduction)


def _log_of(probability: Tensor) -> Tensor:
    tiny = probability < math.exp(-100)
    return where(tiny, -100.0, log(where(tiny, 1.0, probability)))


@in_float32
def binary_cross_entropy_with_logits(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    reduction: Reduction = "mean",
    pos_weight: TensorLike | None = None,
) -> Tensor:
    """-target * log(p) - (1 - target) * log(1 - p) for p = sigmoid(input), in nats.

    Args:
        input: logits, of any shape.
        target: probabilities between 0 and 1, of the same shape.
        weight: a factor for each element; broadcasts to the input. "mean" still divides by the
            number of elements.
        reduction: "mean", "sum" or "none".
        pos_weight: a factor for the first term, such as one for each class, (C,), in the last axis;
            broadcasts to the input.
    """
    operation = "binary_cross_entropy_with_logits"
    input, target = _pair(operation, input, target)
    factor = None if weight is None else _fitting(operation, "weight", weight, input)
    hits = None if pos_weight is None else _fitting(operation, "pos_weight", pos_weight, input)
    return _of_logits(input, target, factor, hits, reduction)


@composition()
def _of_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    pos_weight: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    hit = _weighed(target, softplus(-input))
    miss = _weighed(1 - target, softplus(input))
    losses = (hit if pos_weight is None else _weighed(pos_weight, hit)) + miss
    losses = losses if weight is None else _weighed(weight, losses)
    return reduced("binary_cross_entropy_with_logits", losses, reduction)


def _weighed(weight: Tensor, loss: Tensor) -> Tensor:
    """Their product, but 0 where the weight is: what never happens may cost infinitely much."""
    never = logical_and(weight == 0, isinf(loss))
    return weight * where(never, 0.0, loss)


def _beside(x: TensorLike, input: Tensor) -> Tensor:
    """x as a Tensor; a number with the digits that the input has."""
    if type(x) in (bool, int, float):
        return asarray(float(x), dtype=input.dtype, backend=input.backend)
    return as_tensor(x)


def _fitting(operation: str, name: str, factor: TensorLike, input: Tensor) -> Tensor:
    factor = _beside(factor, input)
    if broadcast_shape(operation, factor.shape, input.shape) != input.shape:
        raise ValueError(
            f"{operation}: {name} of shape {factor.shape} does not broadcast to the input's, "
            f"{input.shape}"
        )
    return factor


@in_float32
def kl_div(
    input: TensorLike,
    target: TensorLike,
    reduction: Reduction | Literal["batchmean"] = "mean",
    log_target: bool = False,
) -> Tensor:
    """target * (log(target) - input), each element's share of the Kullback-Leibler divergence.

    Args:
        input: log-probabilities, of any shape.
        target: probabilities of the same shape; a probability of 0 contributes nothing, neither
            loss nor gradient.
        reduction: "batchmean" divides the sum by the length of axis 0: the divergence as it is
            defined, averaged over the batch. "mean" divides by the number of elements.
        log_target: whether ``target`` holds log-probabilities, too.
    """
    input, target = _pair("kl_div", input, target)
    if reduction == "batchmean" and not input.ndim:
        raise ValueError("kl_div: a scalar has no axis 0 for 'batchmean'; use 'sum'")
    return _kl_div(input, target, reduction, log_target)


@composition()
def _kl_div(
    input: Tensor, target: Tensor, reduction: Reduction | Literal["batchmean"], log_target: bool
) -> Tensor:
    never = target == (-math.inf if log_target else 0)
    certain, input = where(never, 0.0 if log_target else 1.0, target), where(never, 0.0, input)
    p, log_p = (exp(certain), certain) if log_target else (certain, log(certain))
    losses = where(never, 0.0, p * (log_p - input))
    if reduction != "batchmean":
        return reduced("kl_div", losses, reduction, others="'batchmean', ")
    return reduced("kl_div", losses, "mean", divisor=input.shape[0] or math.nan)


# Of directions.


@in_float32
def cosine_similarity(x1: TensorLike, x2: TensorLike, axis: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between x1 and x2 along ``axis``: x1 . x2 / (norm(x1) * norm(x2)).

    The shapes broadcast; ``axis``, one of the broadcast shape's, is taken away. Neither norm counts
    as less than ``eps``, so that the similarity to a vector of zeros is 0, with a finite gradient.
    """
    x1, x2 = as_tensor(x1), as_tensor(x2)
    shape = broadcast_shape("cosine_similarity", x1.shape, x2.shape)
    along = negative_axis(axis, len(shape), "cosine_similarity")
    return _cosine(broadcast_to(x1, shape), broadcast_to(x2, shape), along, eps)


@composition()
def _cosine(x1: Tensor, x2: Tensor, along: int, eps: float) -> Tensor:
    return sum(_unit(x1, along, eps) * _unit(x2, along, eps), axis=along)


def _unit(x: Tensor, axis: int, eps: float) -> Tensor:
    return x / sqrt(clip(sum(square(x), axis=axis, keepdims=True), min=eps * eps))


@in_float32
def cosine_embedding_loss(
    input1: TensorLike,
    input2: TensorLike,
    target: TensorLike,
    margin: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """1 - cos(input1, input2) where target is 1; where it is -1, max(0, cos - margin).

    Args:
        input1: vectors (N, D) or one (D,).
        input2: of the same shape.
        target: 1 for pairs that are to be alike, -1 for others, (N,) or ().
        margin: how alike the others may be, between -1 and 1.
        reduction: "mean", "sum" or "none".
    """
    input1, input2, target = as_tensor(input1), as_tensor(input2), as_tensor(target)
    if target.dtype.kind == "u":
        target = astype(target, "int64")  # which has a -1 to compare with
    if input1.shape != input2.shape or not input1.ndim or input1.shape[:-1] != target.shape:
        raise ValueError(
            "cosine_embedding_loss: two inputs (N, D) and a target (N,) are needed, not "
            f"{input1.shape}, {input2.shape} and {target.shape}"
        )
    cosine = cosine_similarity(input1, input2, axis=-1)
    unlike = where(target == -1, relu(cosine - margin), 0.0)
    return reduced("cosine_embedding_loss", where(target == 1, 1 - cosine, unlike), reduction)


# Of classes, which lie along axis 1.


@in_float32
def nll_loss(
    input: TensorLike,
    target: TensorLike | Sequence[Any],
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """The negative log-likelihood -input[target], of log-probabilities.

    Args:
        input: log-probabilities (C,), (N, C) or (N, C, d1, ...): classes along axis 1, as in
            PyTorch.
        target: class indices, shaped like ``input`` without the class axis.
        weight: a factor for each class, (C,). "mean" then divides by the sum of the factors used.
        ignore_index: targets of this value contribute neither loss nor gradient.
        reduction: "mean", "sum" or "none". The mean of nothing is nan.
    """
    return _nll("nll_loss", input, _target(target, input), weight, ignore_index, reduction)


@in_float32
def cross_entropy(
    input: TensorLike,
    target: TensorLike | Sequence[Any],
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The negative log-likelihood of ``target`` under softmax(input), in nats.

    Of logits (T, B, V), as recurrent layers give them, and targets (T, B)::

        loss = cross_entropy(moveaxis(logits, -1, 1), targets)

    Args:
        input: logits (C,), (N, C) or (N, C, d1, ...): classes along axis 1, as in PyTorch.
        target: class indices, shaped like ``input`` without the class axis; or class
            probabilities, shaped like ``input``.
        weight: a factor for each class, (C,). "mean" then divides by the sum of the factors used.
        ignore_index: class indices of this value contribute neither loss nor gradient.
        reduction: "mean", "sum" or "none". The mean of nothing is nan.
        label_smoothing: the share of the target that is spread evenly over all classes (Szegedy et
            al. 2016).
    """
    target = _target(target, input)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing between 0 and 1, not {label_smoothing}")
    if target.dtype.kind == "f":
        if ignore_index >= 0:
            raise ValueError(
                f"cross_entropy: ignore_index={ignore_index} is for class indices only, and the "
                "target holds probabilities; leave out the rows before"
            )
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    return _nll(
        "cross_entropy",
        input,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        are_logits=True,
    )


def _nll(
    operation: str,
    input: TensorLike,
    target: Tensor,
    weight: TensorLike | None,
    ignore_index: int,
    reduction: Reduction,
    label_smoothing: float = 0.0,
    *,
    are_logits: bool = False,
) -> Tensor:
    """Of class indices, under the log-probabilities that scores (..., C) are, or are logits of."""
    scores = _classes_last(operation, input)
    classes = scores.shape[-1]
    if target.shape != scores.shape[:-1]:
        shape = as_tensor(input).shape
        classes_last = target.shape == shape[:-1]
        raise ValueError(
            f"{operation}: input of shape {shape} needs a target of shape {scores.shape[:-1]} "
            f"(class indices), not {target.shape}"
            + ("; if its last axis is the classes, moveaxis(input, -1, 1)" if classes_last else "")
        )
    if target.dtype.kind == "f":
        raise TypeError(f"{operation}: targets are {target.dtype}, not class indices")
    target = astype(target, "int64")  # in which numbers of classes and ignore_index fit
    factors = None if weight is None else _class_weights(operation, weight, classes)
    try:
        return _nll_of(
            operation,
            scores,
            target,
            factors,
            int(ignore_index),
            label_smoothing,
            are_logits,
            reduction,
        )
    except IndexError as error:
        raise IndexError(
            f"{operation}: a target is neither one of the {classes} classes, 0 to {classes - 1}, "
            f"nor ignore_index={ignore_index}"
        ) from error


@composition()
def _nll_of(
    operation: str,
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    are_logits: bool,
    reduction: Reduction,
) -> Tensor:
    classes = scores.shape[-1]
    valid = target != ignore_index
    # A negative index would count from the end; this way it is out of range like a large one.
    chosen = where(valid, where(target < 0, classes - target, target), 0)
    log_p = where(expand_dims(valid, axis=-1), scores, 0.0)
    log_p = log_softmax(log_p) if are_logits else log_p
    factor = astype(valid, log_p.dtype)
    likelihood = squeeze(take_along_axis(log_p, expand_dims(chosen, axis=-1)), axis=-1)
    if weight is not None:
        factor = where(valid, take(weight, chosen), 0.0)
        log_p = _weighed(weight, log_p)
    losses = -_weighed(factor, likelihood)
    if label_smoothing:
        spread = where(valid, -sum(log_p, axis=-1), 0.0)
        losses = (1 - label_smoothing) * losses + label_smoothing / classes * spread
    total = sum(factor)
    return reduced(operation, losses, reduction, divisor=where(total == 0, math.nan, total))


def _soft_cross_entropy(
    input: TensorLike,
    target: Tensor,
    weight: TensorLike | None,
    reduction: Reduction,
    label_smoothing: float,
) -> Tensor:
    if target.shape != as_tensor(input).shape:
        raise ValueError(
            f"cross_entropy: input of shape {as_tensor(input).shape}, target probabilities of "
            f"{target.shape}; they have to agree (class indices are integers: astype('int64'))"
        )
    logits, wanted = (_classes_last("cross_entropy", x) for x in (input, target))
    factors = None
    if weight is not None:
        factors = _class_weights("cross_entropy", weight, wanted.shape[-1])
    return _soft(logits, wanted, factors, float(label_smoothing), reduction)


@composition()
def _soft(
    logits: Tensor,
    wanted: Tensor,
    weight: Tensor | None,
    label_smoothing: float,
    reduction: Reduction,
) -> Tensor:
    log_p = log_softmax(logits)
    wanted = (1 - label_smoothing) * wanted + label_smoothing / wanted.shape[-1]
    wanted = wanted if weight is None else wanted * weight
    return reduced("cross_entropy", -sum(_weighed(wanted, log_p), axis=-1), reduction)


def _target(target: TensorLike | Sequence[Any], input: TensorLike) -> Tensor:
    """A target, on the backend of the input."""
    return place(target, as_tensor(input).backend)


def _classes_last(operation: str, input: TensorLike) -> Tensor:
    input = as_tensor(input)
    if not input.ndim:
        raise ValueError(f"{operation}: the input has no axis of classes; give it shape (C,)")
    return moveaxis(input, 1, -1) if input.ndim > 1 else input


def _class_weights(operation: str, weight: TensorLike, classes: int) -> Tensor:
    weight = as_tensor(weight)
    if weight.shape != (classes,):
        raise ValueError(f"{operation}: weight of shape {weight.shape} for {classes} classes")
    return weight
