"""Clipping: what keeps an exploding gradient from destroying what was learned.

Call it between ``backward`` and ``step``. Gradients are replaced, never written in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..atomic import commit
from ..dtypes import native_dtype
from ..graph import Array
from ..tensor import Tensor, backend_of, regrading, wrap
from .settings import flag, number


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, *, error_if_nonfinite: bool = True
) -> float:
    """Scale all gradients so that their joint norm is at most ``max_norm`` (Pascanu et al. 2013).

    One Tensor stands for a list of it, one that comes twice counts once, and a parameter without a
    gradient counts as zero. Squares are summed in float64, whatever the gradients are. Returns the
    norm before. If that is not finite, the gradients are left as they are, and raises
    FloatingPointError unless ``error_if_nonfinite`` is False: for an optimiser with
    ``nonfinite="skip"``, which will pass over them. Raises ValueError if there are no parameters,
    as in a generator that has been read before.
    """
    max_norm = number("clip_grad_norm_: max_norm", max_norm, "(0, inf]")
    flag("clip_grad_norm_: error_if_nonfinite", error_if_nonfinite)
    given = _with_gradients("clip_grad_norm_", parameters)
    norm = math.sqrt(sum(_squared_norm(grad) for _, grad in given))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise FloatingPointError(
                f"clip_grad_norm_: the norm of the gradients is {norm}; find the operation by "
                "tinygrad_rnn.detect_anomaly()"
            )
        return norm
    if norm > max_norm:
        _replace(given, [_scaled(grad, max_norm / norm) for _, grad in given])
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value] (Mikolov 2012).

    One Tensor stands for a list of it. This turns the direction of the whole, unlike
    ``clip_grad_norm_``. An infinite element is clipped like any other; NaN stays, and is left for
    the optimiser to refuse. Raises ValueError if there are no parameters.
    """
    bound = number("clip_grad_value_: clip_value", clip_value, "(0, inf)")
    given = _with_gradients("clip_grad_value_", parameters)
    _replace(given, [_clipped(grad, bound) for _, grad in given])


def _with_gradients(
    name: str, parameters: Tensor | Iterable[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The parameters that have a gradient, each once, with it."""
    if not isinstance(parameters, Iterable):
        raise TypeError(
            f"{name}: parameters are Tensors, as model.parameters() gives them, "
            f"not a {type(parameters).__name__}"
        )
    given = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not given:
        raise ValueError(
            f"{name}: there are no parameters; a generator, as model.parameters() gives it, can be "
            "read only once, so call it again or keep a list of it"
        )
    for p in given:
        if not isinstance(p, Tensor):
            raise TypeError(
                f"{name}: parameters are Tensors, as model.parameters() gives them, "
                f"not {type(p).__name__}"
            )
    once = {id(p): p for p in given}.values()
    return [(p, p.grad) for p in once if p.grad is not None]


def _squared_norm(grad: Tensor) -> float:
    xp = backend_of(grad)
    return float(xp.to_host(xp.asarray(xp.sum(xp.astype(grad._array, xp.float64) ** 2))))


def _scaled(grad: Tensor, factor: float) -> Array:
    """In float64 if the dtype of the gradient would round the factor, float16 or near underflow."""
    xp, limits = backend_of(grad), np.finfo(grad.dtype)
    if grad.dtype != np.float16 and factor >= limits.tiny / limits.eps:
        return grad._array * factor
    wide = xp.astype(grad._array, xp.float64) * factor
    return xp.astype(xp.asarray(wide), native_dtype(xp, grad.dtype))


def _clipped(grad: Tensor, bound: float) -> Array:
    bound = min(bound, float(np.finfo(grad.dtype).max))
    return backend_of(grad).clip(grad._array, -bound, bound)


def _replace(given: list[tuple[Tensor, Tensor]], arrays: list[Array]) -> None:
    """Give every parameter its new gradient, or none of them."""
    # asarray: what NumPy computes from 0-d arrays are scalars
    new = [wrap(backend_of(p).asarray(a), None) for (p, _), a in zip(given, arrays, strict=True)]
    commit(regrading(p, grad) for (p, _), grad in zip(given, new, strict=True))
