"""Clipping: what keeps an exploding gradient from destroying what was learned.

Call it between ``backward`` and ``step``. Gradients are replaced, never written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..atomic import commit
from ..dtypes import native_dtype
from ..graph import Array
from ..tensor import Tensor, backend_of, regrading, wrap
from .formulas import Kernel, kernel_of, squared_norm, suits
from .settings import flag, number

_VERY_LITTLE, _LITTLE = 2**12, 2**17
"""So many elements are worth a kernel: of the norm, which replaces three passes; of one pass."""


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
    norm = math.sqrt(_squared_norm([grad for _, grad in given]))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise FloatingPointError(
                f"clip_grad_norm_: the norm of the gradients is {norm}; find the operation by "
                "tinygrad_rnn.detect_anomaly()"
            )
        return norm
    if norm > max_norm:
        factor = max_norm / norm
        kernel = None
        if factor >= _least_factor(np.dtype(np.float32)):
            kernel = _kernel(given, lambda xp, grad: [grad * factor])
        _replace(given, kernel, lambda grad: _scaled(grad, factor))
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value] (Mikolov 2012).

    One Tensor stands for a list of it. This turns the direction of the whole, unlike
    ``clip_grad_norm_``. An infinite element is clipped like any other; NaN stays, and is left for
    the optimiser to refuse. Raises ValueError if there are no parameters.
    """
    bound = number("clip_grad_value_: clip_value", clip_value, "(0, inf)")
    given = _with_gradients("clip_grad_value_", parameters)
    kernel = _kernel(given, lambda xp, grad: [xp.minimum(xp.maximum(grad, -bound), bound)])
    _replace(given, kernel, lambda grad: _clipped(grad, bound))


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


def _squared_norm(grads: list[Tensor]) -> float:
    """Together, in float64."""
    in_kernel = [grad._array for grad in grads if suits(grad._array)]
    worth = len(in_kernel) > 1 or sum([array.size for array in in_kernel]) >= _VERY_LITTLE
    total = squared_norm(in_kernel) if worth else None
    left = grads if total is None else [grad for grad in grads if not suits(grad._array)]
    return (total or 0.0) + sum(map(_squares, left))


def _squares(grad: Tensor) -> float:
    xp = backend_of(grad)
    return float(xp.to_host(xp.asarray(xp.sum(xp.astype(grad._array, xp.float64) ** 2))))


def _scaled(grad: Tensor, factor: float) -> Array:
    """In float64 if the dtype of the gradient would round the factor, float16 or near underflow."""
    xp = backend_of(grad)
    if grad.dtype != np.float16 and factor >= _least_factor(grad.dtype):
        return grad._array * factor
    wide = xp.astype(grad._array, xp.float64) * factor
    return xp.astype(xp.asarray(wide), native_dtype(xp, grad.dtype))


def _least_factor(dtype: np.dtype[Any]) -> float:
    """The least factor that a dtype holds to its precision."""
    limits = np.finfo(dtype)
    return float(limits.tiny / limits.eps)


def _kernel(
    given: list[tuple[Tensor, Tensor]], function: Callable[..., list[Any]]
) -> Kernel | None:
    """That of a function of a gradient, if there is one and the gradients are large enough."""
    worth = sum([grad.size for _, grad in given]) >= _LITTLE
    return kernel_of(function, 1) if worth else None


def _clipped(grad: Tensor, bound: float) -> Array:
    bound = min(bound, float(np.finfo(grad.dtype).max))
    return backend_of(grad).clip(grad._array, -bound, bound)


def _replace(
    given: list[tuple[Tensor, Tensor]], kernel: Kernel | None, rule: Callable[[Tensor], Array]
) -> None:
    """Give every parameter its new gradient, by a kernel where it suits, or none of them."""
    in_kernel = [kernel is not None and suits(grad._array) for _, grad in given]
    made: Iterator[list[Array]] = iter(())
    if kernel is not None:
        pairs = zip(given, in_kernel, strict=True)
        made = iter(kernel.run([(grad._array,) for (_, grad), suited in pairs if suited])[1])
    changes = []
    for (p, grad), suited in zip(given, in_kernel, strict=True):
        array = next(made)[0] if suited else rule(grad)
        # asarray: what NumPy computes from 0-d arrays are scalars
        changes.append(regrading(p, wrap(backend_of(p).asarray(array), None)))
    commit(changes)
