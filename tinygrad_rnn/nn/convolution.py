"""Convolutional layers and pooling, of which only the convolutions have weights.

Names, arguments and shapes are PyTorch's, and so is that of a weight, (out_channels, in_channels /
groups, window): what ``conv2d`` is given. Axes in front of the channels may be any, so that frames
(T, B, C, H, W) need no loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..functional.convolution import (
    Padding,
    avg_pool1d,
    avg_pool2d,
    conv1d,
    conv2d,
    max_pool1d,
    max_pool2d,
    pad_widths,
    pool_padding,
)
from ..primitives.creation import place, zeros
from ..primitives.elementwise import TensorLike, result_type, sigmoid, tanh
from ..primitives.movement import split
from ..primitives.windows import Size, per_axis
from ..tensor import Tensor
from . import init
from .cells import Pair, check_pair
from .layers import check_sizes, look_at_dtype
from .module import Module, Parameter


class _Convolution(Module):
    """What both have in common: their weights, and how they are shown."""

    axes: int
    function: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        weight_init: init.Initialiser = init.xavier_uniform,
        bias_init: init.Initialiser = init.zeros,
    ) -> None:
        name, n = type(self).__name__, self.axes
        check_sizes(name, 1, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups={groups} has to divide in_channels {in_channels} and "
                f"out_channels {out_channels}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        self.stride = per_axis(name, "stride", stride, n)
        self.dilation = per_axis(name, "dilation", dilation, n)
        self.padding: Padding = padding
        pad_widths(name, padding, self.kernel_size, self.stride, self.dilation)
        if not isinstance(padding, str):
            self.padding = per_axis(name, "padding", padding, n, least=0)
        self.weight = Parameter(
            kernel(weight_init, out_channels, in_channels // groups, self.kernel_size)
        )
        self.bias = Parameter(init.draw(bias_init, (out_channels,))) if bias else None

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        x = place(x, self.weight.backend)
        look_at_dtype(type(self).__name__, "x", x, self.weight)
        options = (self.stride, self.padding, self.dilation, self.groups)
        out: Tensor = type(self).function(x, self.weight, self.bias, *options)
        return out

    def extra_repr(self) -> str:
        """Sizes, and what differs from the defaults."""
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        ordinary = {"stride": (1,), "padding": (0,), "dilation": (1,)}
        for name, usual in ordinary.items():
            if getattr(self, name) != usual * self.axes:
                shown.append(f"{name}={getattr(self, name)!r}")
        shown += [f"groups={self.groups}"] if self.groups > 1 else []
        return ", ".join([*shown, f"bias={self.bias is not None}"])


class Conv1d(_Convolution):
    """``conv1d`` with weights: (..., in_channels, L) to (..., out_channels, places).

    ``weight`` (out_channels, in_channels / groups, kernel_size) is drawn by ``weight_init``, as a
    matrix (window, out_channels); ``bias`` (out_channels,) by ``bias_init``. ``padding`` is a
    number, "same" or "valid".

    A sequence (T, B, C) is ``permute_dims(x, (1, 2, 0))``. Of lengths a convolution knows nothing:
    set what is behind them to 0 before each, ``x * sequence_mask(lengths)[..., None]``.
    """

    axes = 1
    function = staticmethod(conv1d)


class Conv2d(_Convolution):
    """``conv2d`` with weights: (..., in_channels, H, W) to (..., out_channels, ., .).

    As ``Conv1d``; ``weight`` is (out_channels, in_channels / groups, kernel height and width), and
    sizes are one number or a pair. Pictures (B, H, W) are ``x[:, None]``, and (B, H, W, C)
    ``moveaxis(x, -1, -3)``.
    """

    axes = 2
    function = staticmethod(conv2d)


def kernel(
    weight_init: init.Initialiser, outputs: int, inputs: int, sizes: Sequence[int]
) -> init.HostArray:
    """Initial weights (outputs, inputs, *sizes), drawn as the matrix that they multiply by."""
    drawn = init.draw(weight_init, (inputs * math.prod(sizes), outputs))
    return drawn.T.reshape(outputs, inputs, *sizes).copy()


class _Pool(Module):
    """A layer without weights: a function of windows, and its options."""

    axes: int
    function: Any

    def __init__(self, kernel_size: Size, stride: Size | None = None, **options: Any) -> None:
        name, n = type(self).__name__, self.axes
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n)
        self.stride = self.kernel_size if stride is None else per_axis(name, "stride", stride, n)
        pool_padding(name, options["padding"], self.kernel_size)
        per_axis(name, "dilation", options.get("dilation", 1), n)
        self.options = options

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        out: Tensor = type(self).function(x, self.kernel_size, self.stride, **self.options)
        return out

    def extra_repr(self) -> str:
        """Sizes and options."""
        shown = {"kernel_size": self.kernel_size, "stride": self.stride, **self.options}
        return ", ".join(f"{name}={value}" for name, value in shown.items())


class _MaxPool(_Pool):
    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
    ) -> None:
        super().__init__(kernel_size, stride, padding=padding, dilation=dilation)


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding=padding, count_include_pad=count_include_pad)


class MaxPool1d(_MaxPool):
    """``max_pool1d``: the largest of each window, (..., L) to (..., places)."""

    axes, function = 1, staticmethod(max_pool1d)


class MaxPool2d(_MaxPool):
    """``max_pool2d``: the largest of each window, (..., H, W) to (..., ., .)."""

    axes, function = 2, staticmethod(max_pool2d)


class AvgPool1d(_AvgPool):
    """``avg_pool1d``: the mean of each window, (..., L) to (..., places)."""

    axes, function = 1, staticmethod(avg_pool1d)


class AvgPool2d(_AvgPool):
    """``avg_pool2d``: the mean of each window, (..., H, W) to (..., ., .)."""

    axes, function = 2, staticmethod(avg_pool2d)


class ConvLSTMCell(Module):
    """An LSTM over images, whose products are convolutions (Shi et al. 2015, equation 3).

    x is (B, in_channels, H, W), and the state (h, c), each (B, hidden_channels, H, W)::

        i, f, g, o = split(conv2d(x, weight_ih, bias) + conv2d(h, weight_hh), 4)
        i, f = sigmoid(i + weight_ci * c), sigmoid(f + weight_cf * c)
        c' = f * c + i * tanh(g)
        h' = sigmoid(o + weight_co * c') * tanh(c')

    Windows of ``kernel_size`` are padded so that H and W stay. ``weight_ci, weight_cf, weight_co``
    (hidden_channels, H, W), the paper's peepholes, start at zero; ``peephole=False`` leaves them
    out. The bias of the forget gate starts at ``forget_bias``.

    Args:
        in_channels: channels of x.
        hidden_channels: channels of h and c.
        kernel_size: one number or a pair.
        image_size: H and W, which a state of zeros and peepholes have.
        bias: whether there is one.

    Clips are (T, B, in_channels, H, W), to ``unroll`` or to ``nn.Recurrent(cell)``.
    """

    feature_axis = -3
    """The channels, along which ``nn.Bidirectional`` puts two outputs side by side."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        kernel_size: Size,
        image_size: tuple[int, int],
        bias: bool = True,
        *,
        peephole: bool = True,
        forget_bias: float = 1.0,
        weight_init: init.Initialiser = init.xavier_uniform,
    ) -> None:
        check_sizes("ConvLSTMCell", 1, in_channels=in_channels, hidden_channels=hidden_channels)
        sizes = per_axis("ConvLSTMCell", "kernel_size", kernel_size, 2)
        self.image_size = per_axis("ConvLSTMCell", "image_size", image_size, 2)
        self.in_channels, self.hidden_channels, self.kernel_size = (
            in_channels,
            hidden_channels,
            sizes,
        )
        n = hidden_channels
        self.weight_ih = Parameter(kernel(weight_init, 4 * n, in_channels, sizes))
        self.weight_hh = Parameter(kernel(weight_init, 4 * n, n, sizes))
        self.bias = None
        if bias:
            initial = init.zeros((4 * n,))
            initial[n : 2 * n] += forget_bias
            self.bias = Parameter(initial)
        area = (n, *self.image_size)
        self.weight_ci = Parameter(init.zeros(area)) if peephole else None
        self.weight_cf = Parameter(init.zeros(area)) if peephole else None
        self.weight_co = Parameter(init.zeros(area)) if peephole else None

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        """One step: (B, in_channels, H, W) and a pair of states to h and the next pair."""
        if x.dtype.kind != "f":
            raise TypeError(
                f"ConvLSTMCell: x is {x.dtype}; frames are floating numbers: x.astype('float32'), "
                "and divide bytes by 255"
            )
        h, c = check_pair("ConvLSTMCell", state)
        shape = (*x.shape[:-3], self.hidden_channels, *self.image_size)
        if x.shape[-3:] != (self.in_channels, *self.image_size) or not h.shape == c.shape == shape:
            raise ValueError(
                f"ConvLSTMCell: x (B, {self.in_channels}, {self.image_size[0]}, "
                f"{self.image_size[1]}) and h and c (B, {', '.join(map(str, shape[-3:]))}) are "
                f"needed, not {x.shape}, {h.shape} and {c.shape}"
            )
        look_at_dtype("ConvLSTMCell", "x", x, self.weight_ih)
        from_x = conv2d(x, self.weight_ih, self.bias, padding="same")
        gates = from_x + conv2d(h, self.weight_hh, padding="same")
        i, f, g, o = split(gates, 4, axis=-3)
        i = sigmoid(i if self.weight_ci is None else i + self.weight_ci * c)
        f = sigmoid(f if self.weight_cf is None else f + self.weight_cf * c)
        c = f * c + i * tanh(g)
        o = sigmoid(o if self.weight_co is None else o + self.weight_co * c)
        h = o * tanh(c)
        return h, (h, c)

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Pair:
        """Zeros (h, c) for rows (B,), or for those of frames, of which ``unroll`` gives (B, C, H).

        Raises ValueError for frames without rows or without channels.
        """
        if len(batch_shape) == 2:
            height, width = self.image_size
            raise ValueError(
                f"ConvLSTMCell: frames are (T, B, {self.in_channels}, {height}, {width}), and at "
                f"each step of these there is {(*batch_shape, width)} to read; one clip (T, C, H, "
                "W) is a batch as x[:, None], and expand_dims(x, axis=-3) is an axis of one channel"
            )
        rows = batch_shape if len(batch_shape) == 1 else batch_shape[:-2]
        shape = (*rows, self.hidden_channels, *self.image_size)
        dtype = result_type(dtype, self.weight_hh)
        return zeros(shape, dtype, backend=backend), zeros(shape, dtype, backend=backend)

    def extra_repr(self) -> str:
        """Sizes."""
        return (
            f"{self.in_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}, "
            f"image_size={self.image_size}, bias={self.bias is not None}"
        )
