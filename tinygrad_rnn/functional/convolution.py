"""Convolution and pooling: what is said of a place by what lies around it.

A convolution (which is a cross-correlation, as everywhere in the field) is a primitive
(``primitives/convolution.py``), or in groups a product of the windows (``primitives/windows.py``)
of each; pooling is a reduction. Shapes are PyTorch's, channels before the axes that
are convolved, and any axes may stand in front: (N, C, H, W) as well as (T, N, C, H, W).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from ..primitives.contraction import matmul
from ..primitives.convolution import convolution
from ..primitives.creation import ones
from ..primitives.elementwise import TensorLike, add
from ..primitives.movement import moveaxis, pad, permute_dims, reshape
from ..primitives.reduction import floating, in_float32, max, sum
from ..primitives.windows import (
    Size,
    check_fit,
    elements_of_windows,
    max_in_windows,
    per_axis,
    windows,
)
from ..tensor import Tensor, as_tensor

__all__ = ["avg_pool1d", "avg_pool2d", "conv1d", "conv2d", "max_pool1d", "max_pool2d"]

Padding: TypeAlias = Size | Literal["same", "valid"]


def conv1d(
    input: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """``weight`` laid over each place along the last axis of ``input``, and summed (LeCun 1989).

    ::

        out[..., o, l] = bias[o] + sum_{c, k} weight[o, c, k] * input[..., c, at]
        at = l * stride + k * dilation

    Args:
        input: (..., C, L).
        weight: (O, C / groups, K).
        bias: (O,).
        stride: how far apart the places are.
        padding: how many zeros are put before and behind; "valid" none, "same" so many that O
            places are L, at a stride of 1, one more behind where they are odd.
        dilation: how far apart a window's elements are (Yu & Koltun 2016).
        groups: channels are split into so many, and each group of outputs sees one of them.

    Returns:
        (..., O, (L + 2 * padding - dilation * (K - 1) - 1) // stride + 1).

    Raises:
        ValueError: for shapes that do not fit, or windows longer than the input.
    """
    return _convolved("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """``conv1d`` over the last two axes: (..., C, H, W) to (..., O, places, places).

    ``weight`` is (O, C / groups, K, L); ``stride``, ``padding`` and ``dilation`` are one number or
    a pair.
    """
    return _convolved("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def max_pool1d(
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """The largest of each window along the last axis: (..., L) to (..., places).

    Windows are ``stride`` apart, by default ``kernel_size``, and what is left over at the end is
    dropped. ``padding`` is of -inf and at most half a window. Elements that tie share the
    cotangent equally, where PyTorch gives it to the first.
    """
    return _largest("max_pool1d", 1, input, kernel_size, stride, padding, dilation)


def max_pool2d(
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
) -> Tensor:
    """``max_pool1d`` over the last two axes: (..., H, W) to (..., ., .)."""
    return _largest("max_pool2d", 2, input, kernel_size, stride, padding, dilation)


def avg_pool1d(
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window along the last axis: (..., L) to (..., places).

    As ``max_pool1d``, but ``padding`` is of zeros, which the mean counts, too, unless
    ``count_include_pad`` is False. That of integers is float64, as of ``mean``.
    """
    return _average("avg_pool1d", 1, input, kernel_size, stride, padding, count_include_pad)


def avg_pool2d(
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    count_include_pad: bool = True,
) -> Tensor:
    """``avg_pool1d`` over the last two axes: (..., H, W) to (..., ., .)."""
    return _average("avg_pool2d", 2, input, kernel_size, stride, padding, count_include_pad)


def _convolved(
    operation: str,
    n: int,
    input: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
) -> Tensor:
    x, w = as_tensor(input), as_tensor(weight)
    _check_channels(operation, n, x, w, groups)
    sizes, channels = w.shape[2:], w.shape[0]
    strides = per_axis(operation, "stride", stride, n)
    dilations = per_axis(operation, "dilation", dilation, n)
    widths = pad_widths(operation, padding, sizes, strides, dilations)
    x = moveaxis(x, -n - 1, -1)
    kernel = permute_dims(w, (*range(2, n + 2), 1, 0))
    if groups == 1:
        y = convolution(operation, x, kernel, strides, dilations, tuple(widths))
    else:  # a product for each group, (..., group, places, window) @ (group, window, channels)
        x = _with_padding(x, widths, 0.0)
        check_fit(operation, x.shape[-n - 1 : -1], sizes, strides, dilations)
        seen = windows(x, sizes, strides, dilations)
        found = seen.shape[: seen.ndim - n - 1]
        window = math.prod(kernel.shape[:-1])
        ahead, area, size = found[:-n], math.prod(found[-n:]), math.prod(sizes)
        seen = reshape(seen, (*ahead, area, size, groups, w.shape[1]))
        seen = reshape(moveaxis(seen, -2, -4), (*ahead, groups, area, window))
        kernel = moveaxis(reshape(kernel, (window, groups, channels // groups)), 1, 0)
        y = reshape(moveaxis(matmul(seen, kernel), -3, -2), (*found, channels))
    if bias is not None:
        bias = as_tensor(bias)
        if bias.shape != (channels,):
            raise ValueError(
                f"{operation}: bias of shape {bias.shape} for {channels} channels of the output; "
                f"({channels},) is needed"
            )
        y = y + bias
    return moveaxis(y, -1, -n - 1)


def _largest(
    operation: str,
    n: int,
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
) -> Tensor:
    dilations = per_axis(operation, "dilation", dilation, n)
    x = as_tensor(input)
    if x.dtype.kind == "b":
        raise TypeError(
            f"{operation}: an input of {x.dtype} has no largest elements; use x.astype('uint8')"
        )
    lowest = -math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)
    pools = _pools(operation, n, x, kernel_size, stride, padding, dilations, lowest)
    if pools.few:
        return max_in_windows(*pools)
    seen, axes = pools.windows()
    return max(seen, axis=axes)


@in_float32
def _average(
    operation: str,
    n: int,
    input: TensorLike,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    count_include_pad: bool,
) -> Tensor:
    x = floating(as_tensor(input))  # or a sum of bytes would be one
    options = (kernel_size, stride, padding, (1,) * n)
    total = _total(_pools(operation, n, x, *options, 0.0))
    if count_include_pad:
        return total / math.prod(per_axis(operation, "kernel_size", kernel_size, n))
    counted = ones(x.shape[-n:], x.dtype, backend=x.backend)
    return total / _total(_pools(operation, n, counted, *options, 0.0))


def _total(pools: _Pools) -> Tensor:
    if pools.few:
        return functools.reduce(add, pools.parts())
    seen, axes = pools.windows()
    return sum(seen, axis=axes)


class _Pools(NamedTuple):
    """An input with its padding, and the windows on its last axes."""

    x: Tensor
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def few(self) -> bool:
        """Whether a pass over all windows for each of their elements is the quickest."""
        return math.prod(self.sizes) <= _FEW

    def parts(self) -> list[Tensor]:
        """The first element of all windows, then the second one ..."""
        return [self.x[key] for key in elements_of_windows(self.x.shape, *self[1:])]

    def windows(self) -> tuple[Tensor, tuple[int, ...]]:
        """The windows, and the axes along which each lies."""
        if self.strides == self.sizes and set(self.dilations) == {1}:
            return _apart(len(self.sizes), self.x, self.sizes)
        seen = windows(reshape(self.x, (*self.x.shape, 1)), *self[1:])
        return reshape(seen, seen.shape[:-1]), tuple(range(-len(self.sizes), 0))


_FEW = 32  # elements of a window


def _pools(
    operation: str,
    n: int,
    x: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilations: tuple[int, ...],
    fill: float,
) -> _Pools:
    """The windows of the last ``n`` axes."""
    if x.ndim < n:
        raise ValueError(f"{operation}: an input of at least {n} axes is needed, not {x.shape}")
    sizes = per_axis(operation, "kernel_size", kernel_size, n)
    strides = sizes if stride is None else per_axis(operation, "stride", stride, n)
    wide = pool_padding(operation, padding, sizes)
    x = _with_padding(x, [(w, w) for w in wide], fill, channels=0)
    check_fit(operation, x.shape[x.ndim - n :], sizes, strides, dilations)
    return _Pools(x, sizes, strides, dilations)


def _apart(n: int, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Windows that do not overlap, for which nothing has to be copied."""
    found = [length // size for length, size in zip(x.shape[-n:], sizes, strict=True)]
    whole = [slice(0, m * size) for m, size in zip(found, sizes, strict=True)]
    split = [length for pair in zip(found, sizes, strict=True) for length in pair]
    return reshape(x[(..., *whole)], (*x.shape[:-n], *split)), tuple(range(1 - 2 * n, 0, 2))


def _with_padding(
    x: Tensor, widths: Sequence[tuple[int, int]], fill: float, channels: int = 1
) -> Tensor:
    if not any(map(any, widths)):
        return x
    ahead = x.ndim - len(widths) - channels
    return pad(x, [(0, 0)] * ahead + [*widths] + [(0, 0)] * channels, constant_values=fill)


def _check_channels(operation: str, n: int, x: Tensor, w: Tensor, groups: int) -> None:
    axes = ", ".join("HW"[-n:]) if n > 1 else "L"
    if x.ndim < n + 1 or w.ndim != n + 2:
        raise ValueError(
            f"{operation}: an input (..., C, {axes}) and a weight (O, C / groups, "
            f"{', '.join('K' * n)}) are needed, not {x.shape} and {w.shape}"
        )
    if 0 in w.shape[2:]:
        raise ValueError(
            f"{operation}: a window of {w.shape[2:]} sees nothing; weight is {w.shape}, and each "
            "length of its window has to be 1 or more"
        )
    if not isinstance(groups, (int, np.integer)) or groups < 1 or w.shape[0] % groups:
        raise ValueError(
            f"{operation}: groups={groups!r} does not divide the {w.shape[0]} channels of the "
            f"output; weight is {w.shape}"
        )
    if x.shape[-n - 1] != w.shape[1] * groups:
        raise ValueError(
            f"{operation}: input {x.shape} has {x.shape[-n - 1]} channels along axis {-n - 1}, and "
            f"weight {w.shape} with groups={groups} is for {w.shape[1] * groups}"
            f"{_where_channels_are(n, x, w.shape[1] * groups)}"
        )


def _where_channels_are(n: int, x: Tensor, wanted: int) -> str:
    """The cure of an input whose channels are elsewhere, as far as its shape tells."""
    if x.shape[-1] == wanted and n == 1:
        return (
            "; channels precede places: a sequence (T, B, C) is permute_dims(x, (1, 2, 0)), a "
            "batch (B, L, C) moveaxis(x, -1, -2)"
        )
    if x.shape[-1] == wanted:
        return "; channels precede places: (..., H, W, C) is moveaxis(x, -1, -3)"
    return f"; expand_dims(x, axis={-n - 1}) is an axis of one channel" if wanted == 1 else ""


def pool_padding(operation: str, padding: Size, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """How much each axis is padded on both sides before it is pooled."""
    wide = per_axis(operation, "padding", padding, len(sizes), least=0)
    if any(2 * w > size for w, size in zip(wide, sizes, strict=True)):
        raise ValueError(
            f"{operation}: padding {wide} is more than half of kernel_size {sizes}, and a window "
            "would see nothing else; at most half is possible"
        )
    return wide


def pad_widths(
    operation: str,
    padding: Padding,
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> list[tuple[int, int]]:
    """How much ``padding`` is before and behind each axis."""
    if padding == "valid":
        return [(0, 0)] * len(sizes)
    if padding == "same":
        spans = [d * (size - 1) for d, size in zip(dilations, sizes, strict=True)]
        if set(strides) != {1}:
            raise ValueError(
                f"{operation}: padding='same' is for a stride of 1, not {strides}; give numbers, "
                f"such as {tuple([span // 2 for span in spans])}"
            )
        return [(span // 2, span - span // 2) for span in spans]
    if isinstance(padding, str):
        raise ValueError(f"{operation}: padding is numbers, 'same' or 'valid', not {padding!r}")
    return [(w, w) for w in per_axis(operation, "padding", padding, len(sizes), least=0)]
