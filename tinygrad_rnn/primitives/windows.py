"""Windows along axes, and their transpose: what convolutions and pooling are composed of.

``windows`` puts beside each place the elements that a kernel meets there; behind it a convolution
is a product of matrices, and pooling a reduction. Its vjp is ``overlap_add``, which adds each
element of each window where it came from; and the vjp of that is ``windows``, so that derivatives
of any order need nothing else.

Channels are the last axis, behind those that windows are taken of, so that what is copied lies
side by side.

``max_in_windows`` is of the last axes themselves, and copies nothing.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

from tinygrad_rnn_backends.protocol import Lengths, count_windows

from ..apply import apply, show
from ..graph import Primitive
from ..tensor import Tensor, as_tensor
from .elementwise import TensorLike

Size: TypeAlias = int | Sequence[int]
"""One length for all axes, or one for each."""

_windows = Primitive(
    "windows",
    "movement",
    lambda xp, x, *, sizes, strides, dilations: xp.windows(x, sizes, strides, dilations),
    lambda xp, g, x_shape, *, sizes, strides, dilations: xp.overlap_add(
        g, tuple(x_shape[-len(sizes) - 1 : -1]), sizes, strides, dilations
    ),
)
_overlap_add = Primitive(
    "overlap_add",
    "movement",
    lambda xp, x, *, lengths, sizes, strides, dilations: xp.overlap_add(
        x, lengths, sizes, strides, dilations
    ),
    lambda xp, g, *, lengths, sizes, strides, dilations: xp.windows(g, sizes, strides, dilations),
)


def windows(
    x: TensorLike, /, sizes: Sequence[int], strides: Size = 1, dilations: Size = 1
) -> Tensor:
    """(..., L1, ..., Ln, C) to (..., O1, ..., On, K1, ..., Kn, C): what lies in windows K, copied.

    ``sizes`` are K1 to Kn, one for each of the n axes in front of the last one. A window's elements
    are ``dilations`` apart, and windows ``strides``; O is (L - dilation * (K - 1) - 1) // stride +
    1. Raises ValueError where not one window fits.
    """
    x = as_tensor(x)
    n = _count("windows", "sizes", sizes)
    sizes = per_axis("windows", "sizes", sizes, n)
    strides = per_axis("windows", "strides", strides, n)
    dilations = per_axis("windows", "dilations", dilations, n)
    along = zip(x.shape[-n - 1 : -1], sizes, strides, dilations, strict=x.ndim > n)
    if x.ndim <= n or any(count_windows(*each) < 1 for each in along):
        raise ValueError(
            f"windows: {sizes}, dilations {dilations}, do not fit into the {n} axes in front of "
            f"the last one of {show(x)}; pad it, or take smaller ones"
        )
    return apply(_windows, x, sizes=sizes, strides=strides, dilations=dilations)


def overlap_add(
    x: TensorLike,
    /,
    lengths: Sequence[int],
    sizes: Sequence[int],
    strides: Size = 1,
    dilations: Size = 1,
) -> Tensor:
    """Windows (..., O1, ..., On, K1, ..., Kn, C) put where they came from, and added up there.

    The transpose of ``windows`` of axes of ``lengths`` L1 to Ln: (..., L1, ..., Ln, C). What no
    window reached is 0. Raises ValueError unless x is what such axes have for windows.
    """
    x = as_tensor(x)
    n = _count("overlap_add", "lengths", lengths)
    lengths = per_axis("overlap_add", "lengths", lengths, n)
    sizes = per_axis("overlap_add", "sizes", sizes, n)
    strides = per_axis("overlap_add", "strides", strides, n)
    dilations = per_axis("overlap_add", "dilations", dilations, n)
    along = zip(lengths, sizes, strides, dilations, strict=True)
    expected = (*(count_windows(*each) for each in along), *sizes)
    if x.shape[-2 * n - 1 : -1] != expected:
        raise ValueError(
            f"overlap_add: axes of {lengths} have windows (..., {', '.join(map(str, expected))}, "
            f"C) for sizes {sizes}, strides {strides} and dilations {dilations}, not {show(x)}"
        )
    return apply(
        _overlap_add, x, lengths=lengths, sizes=sizes, strides=strides, dilations=dilations
    )


def _count(operation: str, name: str, given: Sequence[int]) -> int:
    """The number of axes, which is that of the integers given."""
    if not isinstance(given, (tuple, list)) or not given:
        raise ValueError(
            f"{operation}: {name} are integers, one for each axis, such as (3,) or (3, 3), not "
            f"{given!r}"
        )
    return len(given)


def elements_of_windows(
    shape: Sequence[int], sizes: Lengths, strides: Lengths, dilations: Lengths
) -> list[tuple[Any, ...]]:
    """Keys of the first element of all windows on the last axes, of the second ..."""
    along = []
    for length, size, stride, dilation in zip(
        shape[len(shape) - len(sizes) :], sizes, strides, dilations, strict=True
    ):
        span = stride * (count_windows(length, size, stride, dilation) - 1) + 1
        along.append([slice(k, k + span, stride) for k in range(0, size * dilation, dilation)])
    ahead = (slice(None),) * (len(shape) - len(sizes))
    return [(*ahead, *key) for key in itertools.product(*along)]


def _max_in_windows(xp: Any, x: Any, **options: Any) -> Any:
    return functools.reduce(xp.maximum, [x[key] for key in elements_of_windows(x.shape, **options)])


def _shares_of_max(xp: Any, g: Any, x: Any, out: Any, **options: Any) -> Any:
    keys = elements_of_windows(x.shape, **options)
    chosen = [x[key] == out for key in keys]
    share = g / functools.reduce(operator.add, [xp.astype(each, g.dtype) for each in chosen])
    total = xp.zeros_like(x)
    for key, each in zip(keys, chosen, strict=True):
        total = xp.index_add(total, key, xp.where(each, share, 0))
    return total


_largest = Primitive(
    "max_in_windows",
    "movement",
    lambda xp, x, *, sizes, strides, dilations: _max_in_windows(
        xp, x, sizes=sizes, strides=strides, dilations=dilations
    ),
    _shares_of_max,
)


def max_in_windows(x: Tensor, sizes: Lengths, strides: Lengths, dilations: Lengths) -> Tensor:
    """The largest of each window, which fit: (..., L1, ..., Ln) to (..., O1, ..., On).

    Elements that tie share the cotangent equally.
    """
    return apply(_largest, x, sizes=sizes, strides=strides, dilations=dilations)


def check_fit(
    operation: str, lengths: Sequence[int], sizes: Lengths, strides: Lengths, dilations: Lengths
) -> None:
    """Raise ValueError where not one window fits into axes of these lengths."""
    along = zip(lengths, sizes, strides, dilations, strict=True)
    if any(count_windows(*each) < 1 for each in along):
        dilated = "" if set(dilations) == {1} else f", dilation {dilations},"
        raise ValueError(
            f"{operation}: a window of {sizes}{dilated} does not fit into {tuple(lengths)}, "
            "padding included; pad more, or take a smaller one"
        )


def per_axis(operation: str, name: str, given: Size, n: int, least: int = 1) -> tuple[int, ...]:
    """One integer for each of ``n`` axes, of at least ``least``."""
    several: Any = given if isinstance(given, (tuple, list)) else [given]
    try:
        found = tuple([operator.index(k) for k in several])
    except TypeError:
        found = ()
    found = found * n if len(found) == 1 else found
    if len(found) != n or any(k < least for k in found):
        what = "an integer" if n == 1 else f"an integer or {n} of them"
        raise ValueError(f"{operation}: {name} is {what}, at least {least}, not {given!r}")
    return found
