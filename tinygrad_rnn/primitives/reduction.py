"""Reductions: primitives that take axes away, and what is composed of them.

``axis`` is an int, a tuple of ints or None for all; ``keepdims`` leaves axes of length 1. Inside
the table axes are negative tuples, so a batch axis in front changes none.

Elements that tie for ``max`` share the cotangent equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ..apply import apply, show
from ..dtypes import canonical_dtype
from ..graph import Primitive
from ..tensor import Tensor, as_tensor
from .axes import Axis, count, kept, negative_axes, negative_axis
from .elementwise import TensorLike, astype, exp, isfinite, log, sqrt, square, where
from .movement import concat, pad, permute_dims, reshape

Arguments = ParamSpec("Arguments")
T = TypeVar("T")  # a Tensor or a tuple of Tensors


def _spread(xp: Any, g: Any, shape: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    """The transpose of a sum: repeat the cotangent along the axes that were summed."""
    return xp.broadcast_to(xp.reshape(g, kept(shape, axis)), shape)


def _share_of_extremum(
    xp: Any, g: Any, x: Any, out: Any, *, axis: tuple[int, ...], keepdims: bool
) -> Any:
    shape = kept(x.shape, axis)
    chosen = x == xp.reshape(out, shape)
    dtype = xp.float32 if _is_half(g) else g.dtype  # to count them in
    winners = xp.sum(xp.astype(chosen, dtype), axis=axis, keepdims=True)
    return xp.where(chosen, xp.reshape(g, shape) / winners, 0)


_sum = Primitive(
    "sum",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.sum(x, axis=axis, keepdims=keepdims),
    lambda xp, g, x_shape, *, axis, keepdims: _spread(xp, g, x_shape, axis),
)
_max = Primitive(
    "max",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.max(x, axis=axis, keepdims=keepdims),
    _share_of_extremum,
)
_min = Primitive(
    "min",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.min(x, axis=axis, keepdims=keepdims),
    _share_of_extremum,
)
_cumulative_sum = Primitive(
    "cumulative_sum",
    "reduction",
    lambda xp, x, *, axis: xp.cumulative_sum(x, axis=axis),
    lambda xp, g, *, axis: xp.flip(xp.cumulative_sum(xp.flip(g, axis=axis), axis=axis), axis=axis),
)


def _shares_of_products(xp: Any, g: Any, x: Any, out: Any, *, axis: int) -> Any:
    """What comes before an element, times ``r``: all that its cotangents are multiplied by.

    r[i] = g[i] + x[i + 1] * r[i + 1], in a logarithmic number of steps; after each, ``r[i]`` has
    twice as many terms. Nothing is divided by, so zeros need no special case.
    """

    def part(a: Any, *bounds: int | None) -> Any:
        return a[(..., slice(*bounds), *(slice(None),) * (-axis - 1))]

    if not x.shape[axis]:
        return g
    one = xp.ones_like(part(x, 0, 1))
    before = xp.concat([one, part(out, 0, -1)], axis=axis)
    factor = xp.concat([part(x, 1, None), one], axis=axis)
    r, known, n = g, 1, x.shape[axis]
    while known < n:
        following = part(factor, 0, -known) * part(r, known, None)
        r = xp.concat([part(r, 0, -known) + following, part(r, -known, None)], axis=axis)
        product = part(factor, 0, -known) * part(factor, known, None)
        factor = xp.concat([product, part(factor, -known, None)], axis=axis)
        known *= 2
    return before * r


_cumulative_prod = Primitive(
    "cumulative_prod",
    "reduction",
    lambda xp, x, *, axis: xp.cumulative_prod(x, axis=axis),
    _shares_of_products,
)
_any = Primitive(
    "any",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.any(x, axis=axis, keepdims=keepdims),
)
_all = Primitive(
    "all",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.all(x, axis=axis, keepdims=keepdims),
)
_argmax = Primitive(
    "argmax",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.argmax(x, axis=axis, keepdims=keepdims),
)
_argmin = Primitive(
    "argmin",
    "reduction",
    lambda xp, x, *, axis, keepdims: xp.argmin(x, axis=axis, keepdims=keepdims),
)


def _reduce(primitive: Primitive, x: TensorLike, axis: Axis, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    axes = negative_axes(axis, x.ndim, primitive.name)
    return apply(primitive, x, axis=axes, keepdims=bool(keepdims))


def _chosen(
    primitive: Primitive, x: Tensor, axis: Axis, axes: int | tuple[int, ...], keepdims: bool
) -> Tensor:
    """The primitive over ``axes``; of nothing there is no extremum, and the error says so."""
    try:
        return apply(primitive, x, axis=axes, keepdims=bool(keepdims))
    except (TypeError, ValueError):
        if count(x.shape, (axes,) if isinstance(axes, int) else axes):
            raise
    raise ValueError(
        f"{primitive.name}: {show(x)} has no elements along axis={axis}, and of nothing there is "
        "no extremum; concat a first value to it, or leave the empty case out"
    )


def _extremum(primitive: Primitive, x: TensorLike, axis: Axis, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    return _chosen(primitive, x, axis, negative_axes(axis, x.ndim, primitive.name), keepdims)


def in_float32(f: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """``f``, but of float16 it is computed in float32, and only its results are float16 again.

    A square of 300, a sum over 70,000 or an eps of 1e-8 is beyond float16 where the result is not.
    The casts are part of the graph, so that this holds for derivatives of any order.
    """

    @wraps(f)
    def evaluate(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        given = (*args, *kwargs.values()) if kwargs else args
        for x in given:
            if _is_half(x):
                break
        else:  # at once, since this is in the way of every call
            return f(*args, **kwargs)
        wide: Any = {name: _widened(x) for name, x in kwargs.items()}
        out: Any = f(*[_widened(x) for x in args], **wide)
        dtypes = [canonical_dtype(x.dtype) for x in given if hasattr(x, "dtype")]
        dtype = np.result_type(*(d for d in dtypes if d.kind == "f"))
        several = isinstance(out, tuple)
        narrow: Any = tuple([astype(y, dtype) for y in out]) if several else astype(out, dtype)
        return narrow  # type: ignore[no-any-return]

    return evaluate


_HALF = np.dtype("float16")


def _is_half(x: Any) -> bool:
    dtype = getattr(x._array if isinstance(x, Tensor) else x, "dtype", None)
    return dtype is not None and canonical_dtype(dtype) == _HALF


def _widened(x: Any) -> Any:
    return astype(x, "float32") if _is_half(x) else x


def floating(x: Tensor) -> Tensor:
    """x as its mean is computed, as in NumPy: integers in float64."""
    return x if x.dtype.kind == "f" else astype(x, "float64")


def sum(
    x: TensorLike, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None
) -> Tensor:
    """The sum over ``axis``, in ``dtype`` if that is given; 0 of nothing."""
    if dtype is not None:
        return astype(_reduce(_sum, astype(x, dtype), axis, keepdims), dtype)
    return _reduce(_sum, x, axis, keepdims)


@in_float32
def mean(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over ``axis``; nan of nothing. That of integers is float64."""
    x = floating(as_tensor(x))
    n = count(x.shape, negative_axes(axis, x.ndim, "mean"))
    return sum(x, axis=axis, keepdims=keepdims) / (n or math.nan)


def max(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over ``axis``; elements that tie share the cotangent equally."""
    return _extremum(_max, x, axis, keepdims)


def min(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over ``axis``; elements that tie share the cotangent equally."""
    return _extremum(_min, x, axis, keepdims)


def prod(
    x: TensorLike, /, axis: Axis = None, keepdims: bool = False, *, dtype: Any = None
) -> Tensor:
    """The product over ``axis``, in ``dtype`` if that is given; 1 of nothing.

    A tree of products of halves: no element is divided by, so zeros need no special case in a
    derivative of any order.
    """
    x = as_tensor(x)
    if dtype is not None:
        x = astype(x, dtype)
    elif x.dtype.kind != "f":  # as NumPy's, the product of small integers is a large one
        x = astype(x, "uint64" if x.dtype.kind == "u" else "int64")
    return _product(x, axis, keepdims)


@in_float32
def _product(x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    axes = negative_axes(axis, x.ndim, "prod")
    shape = (
        kept(x.shape, axes)
        if keepdims
        else tuple(n for i, n in enumerate(x.shape) if i - x.ndim not in axes)
    )
    others = tuple(a for a in range(-x.ndim, 0) if a not in axes)
    n = count(x.shape, axes)
    x = reshape(permute_dims(x, others + axes), (*(x.shape[a] for a in others), n))
    if n == 0:
        return reshape(astype(sum(x, axis=-1) + 1, x.dtype), shape)
    while n > 1:
        half = n // 2
        pairs = x[..., :half] * x[..., half : 2 * half]
        x = concat([pairs, x[..., 2 * half :]], axis=-1) if n % 2 else pairs
        n = half + n % 2
    return reshape(x, shape)


@in_float32
def var(
    x: TensorLike, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """The variance over ``axis``: the sum of squared deviations / (number - ``correction``)."""
    x = floating(as_tensor(x))
    freedom = count(x.shape, negative_axes(axis, x.ndim, "var")) - correction
    deviations = x - mean(x, axis=axis, keepdims=True)
    total = sum(square(deviations), axis=axis, keepdims=keepdims)
    return total / (freedom if freedom > 0 else math.nan)


@in_float32
def std(
    x: TensorLike, /, axis: Axis = None, *, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    """The standard deviation over ``axis``, the root of ``var``; of equal elements, flat."""
    x = as_tensor(x)
    axes = negative_axes(axis, x.ndim, "std")
    variance = var(x, axis=axes, correction=correction, keepdims=keepdims)
    flat = variance == 0
    return where(flat, 0.0, sqrt(where(flat, 1.0, variance)))


@in_float32
def logsumexp(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) over ``axis``, which does not overflow; -inf of nothing or of only -inf.

    The derivative is softmax(x), and where all are -inf it is 0. The maximum that is subtracted and
    added again is a constant to it: the function does not depend on it.
    """
    x = as_tensor(x)
    axes = negative_axes(axis, x.ndim, "logsumexp")
    if not count(x.shape, axes):
        return sum(x, axis=axes, keepdims=keepdims) - math.inf
    largest = max(x.detach(), axis=axes, keepdims=True)
    shift = where(isfinite(largest), largest, 0.0)
    total = sum(exp(x - shift), axis=axes, keepdims=keepdims)
    nothing = total == 0
    found = log(where(nothing, 1.0, total)) + (shift if keepdims else reshape(shift, total.shape))
    return where(nothing, -math.inf, found)


def _cumulative(
    primitive: Primitive, x: TensorLike, axis: int | None, dtype: Any, initial: int | None
) -> Tensor:
    x = as_tensor(x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"{primitive.name}: give an axis for a tensor of shape {x.shape}")
        axis = 0
    along = negative_axis(axis, x.ndim, primitive.name)
    evaluate = _apply_in_float32 if primitive is _cumulative_prod else apply
    out = evaluate(primitive, x if dtype is None else astype(x, dtype), axis=along)
    if dtype is not None:
        out = astype(out, dtype)
    if initial is not None:
        ahead = [(int(i == along), 0) for i in range(-x.ndim, 0)]
        out = pad(out, ahead, constant_values=initial)
    return out


_apply_in_float32 = in_float32(apply)


def cumulative_sum(
    x: TensorLike, /, axis: int | None = None, include_initial: bool = False, *, dtype: Any = None
) -> Tensor:
    """Running sums along ``axis``, which may be left out for one axis only.

    ``include_initial`` puts a 0 in front, so that the result is one longer.
    """
    return _cumulative(_cumulative_sum, x, axis, dtype, 0 if include_initial else None)


def cumulative_prod(
    x: TensorLike, /, axis: int | None = None, include_initial: bool = False, *, dtype: Any = None
) -> Tensor:
    """Running products along ``axis``, which may be left out for one axis only.

    ``include_initial`` puts a 1 in front, so that the result is one longer.
    """
    return _cumulative(_cumulative_prod, x, axis, dtype, 1 if include_initial else None)


def diff(
    x: TensorLike,
    /,
    axis: int = -1,
    n: int = 1,
    *,
    prepend: TensorLike | None = None,
    append: TensorLike | None = None,
) -> Tensor:
    """x[1:] - x[:-1] along ``axis``, ``n`` times over.

    ``prepend`` and ``append`` are joined to x along that axis first.
    """
    x = as_tensor(x)
    along = negative_axis(axis, x.ndim, "diff")
    if n < 0:
        raise ValueError(f"diff: n={n} differences; at least 0")
    parts = [part for part in (prepend, x, append) if part is not None]
    x = concat(parts, axis=along) if len(parts) > 1 else x
    behind = (slice(None),) * (-along - 1)
    for _ in range(n):
        x = x[(..., slice(1, None), *behind)] - x[(..., slice(None, -1), *behind)]
    return x


def any(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element over ``axis`` is true."""
    return _reduce(_any, x, axis, keepdims)


def all(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements over ``axis`` are true."""
    return _reduce(_all, x, axis, keepdims)


def _arg(primitive: Primitive, x: TensorLike, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    if axis is None:
        out = _chosen(primitive, reshape(x, (-1,)), axis, -1, False)
        return reshape(out, (1,) * x.ndim) if keepdims else out
    along = negative_axis(axis, x.ndim, primitive.name)
    return _chosen(primitive, x, axis, along, keepdims)


def argmax(x: TensorLike, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the (first) largest element, along ``axis`` or of the flattened tensor."""
    return _arg(_argmax, x, axis, keepdims)


def argmin(x: TensorLike, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the (first) smallest element, along ``axis`` or of the flattened tensor."""
    return _arg(_argmin, x, axis, keepdims)


def _method(function: Any) -> Any:
    def method(self: Tensor, axis: Axis = None, keepdims: bool = False, **options: Any) -> Tensor:
        out: Tensor = function(self, axis=axis, keepdims=keepdims, **options)
        return out

    method.__name__, method.__doc__ = function.__name__, function.__doc__
    return method


for _function in (sum, mean, max, min, prod, var, std, any, all, argmax, argmin):
    setattr(Tensor, _function.__name__, _method(_function))
