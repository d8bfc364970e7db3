"""Mixture densities: losses of networks whose output are the parameters of a distribution.

Bishop 1994; for sequences, Graves 2013, "Generating sequences with recurrent neural networks". A
mixture is summed as a logarithm, so that no density underflows.
"""

from __future__ import annotations

import math

import numpy as np

from ..primitives.creation import place
from ..primitives.elementwise import TensorLike, astype, clip, exp, log1p, softplus, square
from ..primitives.movement import expand_dims, unstack
from ..primitives.reduction import in_float32, logsumexp, sum
from ..tensor import Tensor, as_tensor
from .activations import log_softmax
from .reduction import Reduction, reduced

__all__ = ["bernoulli_mixture_nll_loss", "gaussian_mixture_nll_loss"]


@in_float32
def gaussian_mixture_nll_loss(
    logits: TensorLike,
    mean: TensorLike,
    log_std: TensorLike,
    target: TensorLike,
    correlation: TensorLike | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """-log sum_k softmax(logits)_k N(target; mean_k, exp(log_std_k)), in nats.

    Graves 2013, section 4.1, for any number of dimensions; its end-of-stroke bit is a
    ``binary_cross_entropy_with_logits`` that is added.

    A deviation below tiny^(1/4) of its dtype, 3.3e-10 in float32, counts as that, and a correlation
    nearer than eps to 1 or -1 as one so far from it; their derivatives are those there. In float32,
    loss and gradients are so finite for targets within 100 of the means, and within 1e9 if
    dimensions are independent.

    Args:
        logits: of the K weights, (..., K).
        mean: (..., K, D).
        log_std: logarithms of the standard deviations, (..., K, D).
        target: (..., D).
        correlation: of two dimensions, D = 2, (..., K), between -1 and 1, as tanh gives it;
            dimensions are independent unless it is given.
        reduction: "mean", "sum" or "none", (...).
    """
    operation = "gaussian_mixture_nll_loss"
    logits, mean, log_std = as_tensor(logits), as_tensor(mean), as_tensor(log_std)
    target = place(target, mean.backend)
    _check(operation, logits, target, mean=mean, log_std=log_std)
    dimensions = mean.shape[-1]
    log_std = _bounded(log_std, low=math.log(_finfo(log_std).tiny) / 4)
    z = (expand_dims(target, axis=-2) - mean) * exp(-log_std)
    log_density = -sum(log_std, axis=-1) - 0.5 * dimensions * math.log(2 * math.pi)
    if correlation is None:
        log_density = log_density - 0.5 * sum(square(z), axis=-1)
    else:
        rho = as_tensor(correlation)
        if rho.shape != logits.shape or dimensions != 2:
            raise ValueError(
                f"{operation}: correlation of shape {rho.shape}; for D = 2 it is shaped like "
                f"logits, {logits.shape}, and here D = {dimensions}"
            )
        nearest = 1 - float(_finfo(rho).eps)
        rho = _bounded(rho, low=-nearest, high=nearest)
        one, other = unstack(z, axis=-1)
        # a sum of squares, where one^2 + other^2 - 2 rho one other may cancel to below 0
        distance = square(one - rho * other) / ((1 - rho) * (1 + rho)) + square(other)
        log_density = log_density - 0.5 * (distance + log1p(-rho) + log1p(rho))
    return _mixed(operation, logits, log_density, reduction)


@in_float32
def bernoulli_mixture_nll_loss(
    logits: TensorLike,
    input: TensorLike,
    target: TensorLike,
    reduction: Reduction = "mean",
) -> Tensor:
    """-log sum_k softmax(logits)_k prod_d p_kd^t_d (1 - p_kd)^(1 - t_d), p = sigmoid(input).

    Bits that belong together, such as the notes of a chord, which independent bits do not say.
    With K = 1 it is the sum over D of ``binary_cross_entropy_with_logits``.

    Args:
        logits: of the K weights, (..., K).
        input: logits of the bits, (..., K, D).
        target: bits (..., D), or probabilities between 0 and 1.
        reduction: "mean", "sum" or "none", (...).
    """
    operation = "bernoulli_mixture_nll_loss"
    logits, input = as_tensor(logits), as_tensor(input)
    target = place(target, input.backend)
    _check(operation, logits, target, input=input)
    bits = expand_dims(target.astype(input.dtype), axis=-2)
    # log p where the bit is 1, log(1 - p) where it is 0
    log_density = -sum(bits * softplus(-input) + (1 - bits) * softplus(input), axis=-1)
    return _mixed(operation, logits, log_density, reduction)


def _mixed(operation: str, logits: Tensor, log_density: Tensor, reduction: Reduction) -> Tensor:
    return reduced(operation, -logsumexp(log_softmax(logits) + log_density, axis=-1), reduction)


def _finfo(x: Tensor) -> np.finfo[np.floating]:
    return np.finfo(np.result_type(x.dtype, np.float32))


def _bounded(x: Tensor, low: float, high: float | None = None) -> Tensor:
    """x limited to what is between, where the cotangent passes outside, too, so that x returns."""
    fixed = astype(x.detach(), _finfo(x).dtype)
    return clip(fixed, low, high) + (x - x.detach())


def _check(operation: str, logits: Tensor, target: Tensor, **parts: Tensor) -> None:
    for name, part in parts.items():
        expected = (*logits.shape, *target.shape[-1:])
        if not target.ndim or part.shape != expected or target.shape[:-1] != logits.shape[:-1]:
            raise ValueError(
                f"{operation}: logits (..., K), {name} (..., K, D) and target (..., D) are needed, "
                f"not {logits.shape}, {part.shape} and {target.shape}"
            )
