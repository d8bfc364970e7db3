"""Clipping: what keeps an exploding gradient from destroying what was learned.

Call it between ``backward`` and ``step``. Gradients are replaced, never written in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend

from ..atomic import commit
from ..dtypes import canonical_dtype
from ..graph import Array, Rows
from ..tensor import MODE, Tensor, backend_of, regrading, wrap
from .formulas import Kernel, are_there, kernel_of, squared_norm, suits
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
    as in a generator that has been read before. Inside a step that is ``planned`` as a whole the
    norm is a Tensor, which has a value when the step has returned it.
    """
    max_norm = number("clip_grad_norm_: max_norm", max_norm, "(0, inf]")
    flag("clip_grad_norm_: error_if_nonfinite", error_if_nonfinite)
    given = _with_gradients("clip_grad_norm_", parameters)
    recorder = MODE.get().recorder
    if recorder is None:
        norm, arrays = _clipped_norm([g for _, g in given], max_norm, error_if_nonfinite)
        _replace(given, arrays)
        return norm

    def function(*arrays: Array) -> list[Array]:
        norm, clipped = _clipped_norm([wrap(a, None) for a in arrays], max_norm, error_if_nonfinite)
        return [np.asarray(norm), *clipped]

    metas = [((), np.dtype(np.float64)), *((g.shape, g.dtype) for _, g in given)]
    norm, *clipped = recorder.compute(function, [g for _, g in given], metas)
    commit(regrading(p, g) for (p, _), g in zip(given, clipped, strict=True))
    return norm  # type: ignore[no-any-return]


def _clipped_norm(
    grads: list[Tensor], max_norm: float, error_if_nonfinite: bool
) -> tuple[float, list[Array]]:
    """The joint norm of gradients, and arrays of what they become."""
    norm = math.sqrt(_squared_norm(grads))
    if not math.isfinite(norm) and error_if_nonfinite:
        raise FloatingPointError(
            f"clip_grad_norm_: the norm of the gradients is {norm}; find the operation by "
            "tinygrad_rnn.detect_anomaly()"
        )
    if not (math.isfinite(norm) and norm > max_norm):
        return norm, [grad._array for grad in grads]
    factor = max_norm / norm
    kernel = None
    if factor >= _least_factor(np.dtype(np.float32)):
        kernel = _kernel(grads, lambda xp, grad: [grad * factor])
    return norm, _through(grads, kernel, lambda xp, array: _scaled(xp, array, factor))


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value] (Mikolov 2012).

    One Tensor stands for a list of it. This turns the direction of the whole, unlike
    ``clip_grad_norm_``. An infinite element is clipped like any other; NaN stays, and is left for
    the optimiser to refuse. Raises ValueError if there are no parameters.
    """
    bound = number("clip_grad_value_: clip_value", clip_value, "(0, inf)")
    given = _with_gradients("clip_grad_value_", parameters)
    grads = [grad for _, grad in given]

    def clipped(grads: list[Tensor]) -> list[Array]:
        kernel = _kernel(grads, lambda xp, grad: [xp.minimum(xp.maximum(grad, -bound), bound)])
        return _through(grads, kernel, lambda xp, array: _clipped(xp, array, bound))

    recorder = MODE.get().recorder
    if recorder is None:
        return _replace(given, clipped(grads))
    metas = [(grad.shape, grad.dtype) for grad in grads]
    new = recorder.compute(lambda *a: clipped([wrap(x, None) for x in a]), grads, metas)
    return commit(regrading(p, g) for (p, _), g in zip(given, new, strict=True))


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


def _values(grad: Tensor) -> Array:
    """What a gradient holds: its array; if that is rows, theirs."""
    array = grad._array
    return array.summed()[1] if type(array) is Rows else array


def _squared_norm(grads: list[Tensor]) -> float:
    """Together, in float64."""
    values = [_values(grad) for grad in grads]
    total, left = None, values
    worth = len(values) > 1 or sum([array.size for array in values]) >= _VERY_LITTLE
    if worth and are_there():
        in_kernel = [array for array in values if suits(array)]
        total = squared_norm(in_kernel) if in_kernel else None
        if total is not None:
            left = [array for array in values if not suits(array)]
    return (total or 0.0) + sum(map(_squares, left))


def _squares(array: Array) -> float:
    xp: Any = backends.of(array)
    return float(xp.to_host(xp.asarray(xp.sum(xp.astype(array, xp.float64) ** 2))))


def _scaled(xp: Backend, array: Array, factor: float) -> Array:
    """In float64 if the dtype would round the factor, float16 or near underflow."""
    dtype = canonical_dtype(array.dtype)
    if dtype != np.float16 and factor >= _least_factor(dtype):
        return array * factor
    wide = xp.astype(array, xp.float64) * factor
    return xp.astype(xp.asarray(wide), array.dtype)


def _least_factor(dtype: np.dtype[Any]) -> float:
    """The least factor that a dtype holds to its precision."""
    limits = np.finfo(dtype)
    return float(limits.tiny / limits.eps)


def _kernel(grads: list[Tensor], function: Callable[..., list[Any]]) -> Kernel | None:
    """That of a function of a gradient, if there is one and the gradients are large enough."""
    worth = sum([_values(grad).size for grad in grads]) >= _LITTLE
    return kernel_of(function, 1) if worth else None


def _clipped(xp: Backend, array: Array, bound: float) -> Array:
    bound = min(bound, float(np.finfo(canonical_dtype(array.dtype)).max))
    return xp.clip(array, -bound, bound)


def _through(
    grads: list[Tensor], kernel: Kernel | None, rule: Callable[[Backend, Array], Array]
) -> list[Array]:
    """What gradients become, by a kernel where it suits."""
    values = [_values(grad) for grad in grads]
    in_kernel = [kernel is not None and suits(array) for array in values]
    made: Iterator[list[Array]] = iter(())
    if kernel is not None:
        pairs = zip(values, in_kernel, strict=True)
        made = iter(kernel.run([(array,) for array, suited in pairs if suited])[1])
    arrays: list[Array] = []
    for grad, array, suited in zip(grads, values, in_kernel, strict=True):
        xp = backend_of(grad)
        # asarray: what NumPy computes from 0-d arrays are scalars
        new = next(made)[0] if suited else xp.asarray(rule(xp, array))
        arrays.append(grad._array.with_values(new) if type(grad._array) is Rows else new)
    return arrays


def _replace(given: list[tuple[Tensor, Tensor]], arrays: list[Array]) -> None:
    """Give every parameter its new gradient, or none of them."""
    pairs = zip(given, arrays, strict=True)
    commit(regrading(p, wrap(a, None)) for (p, old), a in pairs if a is not old._array)
