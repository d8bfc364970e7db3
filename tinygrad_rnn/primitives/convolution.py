"""Convolutions: products of a kernel with what it meets at each place, which nobody need copy.

There are three, and the derivatives of each are the other two: ``convolution`` of an input and a
kernel; ``transposed_convolution``, which takes the cotangent of its result back to the input; and
``kernel_cotangent``, which takes it to the kernel. So derivatives of any order need nothing else.

All are linear in both operands and can be written with ``windows`` and one product of matrices,
(places, window) @ (window, channels): so they are here, for any backend. On NumPy, large ones are
made without the windows (``kernels/convolution.py``), which take K times the memory of the input.

Channels are the last axis, as in ``windows.py``. A kernel is (K1, ..., Kn, C, O).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from tinygrad_rnn_backends.protocol import Lengths

from ..apply import apply
from ..graph import Primitive
from ..kernels import convolution as kernels
from ..tensor import Tensor, namespace
from .contraction import matmul
from .movement import matrix_transpose, pad, reshape
from .windows import check_fit, overlap_add, windows

Widths: TypeAlias = tuple[tuple[int, int], ...]
"""How many zeros are put before and behind each axis."""


def convolution(
    operation: str,
    x: Tensor,
    kernel: Tensor,
    strides: Lengths,
    dilations: Lengths,
    padding: Widths,
) -> Tensor:
    """(..., L1, ..., Ln, C) and (K1, ..., Kn, C, O) to (..., O1, ..., On, O), for an operation.

    Raises ValueError, which names it, where not one window fits.
    """
    n = len(strides)
    wide = [b + length + a for length, (b, a) in zip(x.shape[-n - 1 : -1], padding, strict=True)]
    check_fit(operation, wide, kernel.shape[:n], strides, dilations)
    return apply(_convolution, x, kernel, strides=strides, dilations=dilations, padding=padding)


# On arrays, of any backend.


def _convolve(
    xp: Any, x: Any, w: Any, *, strides: Lengths, dilations: Lengths, padding: Widths
) -> Any:
    made = kernels.convolution(x, w, strides, dilations, padding)
    if made is not None:
        return made
    n = len(strides)
    seen = xp.windows(_padded(xp, x, padding), w.shape[:n], strides, dilations)
    found = seen.shape[: -n - 1]
    matrix = xp.reshape(w, (math.prod(w.shape[:-1]), w.shape[-1]))
    return xp.reshape(xp.matmul(_matrix(xp, seen, n + 1), matrix), (*found, w.shape[-1]))


def _convolve_transposed(
    xp: Any,
    y: Any,
    w: Any,
    *,
    lengths: Lengths,
    strides: Lengths,
    dilations: Lengths,
    padding: Widths,
) -> Any:
    made = kernels.transposed_convolution(y, w, lengths, strides, dilations, padding)
    if made is not None:
        return made
    n = len(strides)
    matrix = xp.reshape(w, (math.prod(w.shape[:-1]), w.shape[-1]))
    seen = xp.matmul(_matrix(xp, y, 1), matrix.T)
    seen = xp.reshape(seen, (*y.shape[:-1], *w.shape[:-1]))
    wide = tuple(b + length + a for length, (b, a) in zip(lengths, padding, strict=True))
    return xp.overlap_add(seen, wide, w.shape[:n], strides, dilations)[_inside(lengths, padding)]


def _convolve_with_cotangent(
    xp: Any,
    x: Any,
    y: Any,
    *,
    sizes: Lengths,
    strides: Lengths,
    dilations: Lengths,
    padding: Widths,
) -> Any:
    made = kernels.kernel_cotangent(x, y, sizes, strides, dilations, padding)
    if made is not None:
        return made
    seen = xp.windows(_padded(xp, x, padding), sizes, strides, dilations)
    matrix = _matrix(xp, seen, len(sizes) + 1)
    return xp.reshape(xp.matmul(matrix.T, _matrix(xp, y, 1)), (*sizes, x.shape[-1], y.shape[-1]))


def _matrix(xp: Any, x: Any, columns: int) -> Any:
    """The last axes as columns, all others as rows."""
    shape = x.shape
    return xp.reshape(x, (math.prod(shape[:-columns]), math.prod(shape[-columns:])))


def _padded(xp: Any, x: Any, padding: Widths) -> Any:
    n = len(padding)
    for i, (before, behind) in enumerate(padding):
        axis = x.ndim - n - 1 + i
        around = [(*x.shape[:axis], k, *x.shape[axis + 1 :]) for k in (before, behind)]
        if before or behind:
            first, last = (xp.zeros(shape, dtype=x.dtype) for shape in around)
            x = xp.concat([first, x, last], axis=axis)
    return x


def _inside(lengths: Lengths, padding: Widths) -> tuple[Any, ...]:
    kept = [slice(b, b + length) for length, (b, _) in zip(lengths, padding, strict=True)]
    return (..., *kept, slice(None))


# For vmap: what each example has its own kernel for is a product of matrices for each.


def _batch_convolution(
    size: int, batched: list[bool], x: Tensor, w: Tensor, **options: Any
) -> Tensor:
    if not batched[1]:
        return apply(_convolution, x, w, **options)
    n = len(options["strides"])
    seen = _seen(x, w.shape[1 : n + 1], **options)
    y = matmul(_matrices(seen, batched[0], n + 1), _matrices(w, True, 1))
    return reshape(y, (size, *seen.shape[batched[0] : -n - 1], w.shape[-1]))


def _batch_transposed(
    size: int, batched: list[bool], y: Tensor, w: Tensor, *, lengths: Lengths, **options: Any
) -> Tensor:
    if not batched[1]:
        return apply(_transposed, y, w, lengths=lengths, **options)
    n, padding = len(lengths), options["padding"]
    seen = matmul(_matrices(y, batched[0], 1), matrix_transpose(_matrices(w, True, 1)))
    seen = reshape(seen, (size, *y.shape[batched[0] : -1], *w.shape[1:-1]))
    wide = [b + length + a for length, (b, a) in zip(lengths, padding, strict=True)]
    sizes = w.shape[1 : n + 1]
    found = overlap_add(seen, wide, sizes, options["strides"], options["dilations"])
    return found[_inside(lengths, padding)]


def _batch_kernel_cotangent(
    size: int, batched: list[bool], x: Tensor, y: Tensor, *, sizes: Lengths, **options: Any
) -> Tensor:
    seen = _matrices(_seen(x, sizes, **options), batched[0], len(sizes) + 1)
    g = matmul(matrix_transpose(seen), _matrices(y, batched[1], 1))
    return reshape(g, (size, *sizes, x.shape[-1], y.shape[-1]))


def _seen(
    x: Tensor, sizes: Sequence[int], *, strides: Lengths, dilations: Lengths, padding: Widths
) -> Tensor:
    around = [(0, 0)] * (x.ndim - len(sizes) - 1)
    return windows(pad(x, [*around, *padding, (0, 0)]), sizes, strides, dilations)


def _matrices(x: Tensor, batched: bool, columns: int) -> Tensor:
    """The last axes as columns, all others as rows, but for the first one if it is the batch's."""
    ahead, shape = x.shape[:batched], x.shape[batched:]
    return reshape(x, (*ahead, math.prod(shape[:-columns]), math.prod(shape[-columns:])))


# The table.


def _make(xp: Any, primitive: Primitive, *operands: Any, **options: Any) -> Any:
    """A primitive as rules use it, on Tensors or on arrays."""
    if xp is namespace:
        return apply(primitive, *operands, **options)
    return primitive.forward(xp, *operands, **options)


def _lengths(x_shape: Sequence[int], n: int) -> Lengths:
    """Of the axes in front of the last one."""
    return tuple(x_shape[-n - 1 : -1])


_convolution: Primitive = Primitive(
    "convolution",
    "contraction",
    _convolve,
    lambda xp, g, w, x_shape, *, strides, **options: _make(
        *(xp, _transposed, g, w),
        lengths=_lengths(x_shape, len(strides)),
        strides=strides,
        **options,
    ),
    lambda xp, g, x, w_shape, **options: _make(
        xp, _kernel_cotangent, x, g, sizes=tuple(w_shape[:-2]), **options
    ),
    batch=_batch_convolution,
)
_transposed: Primitive = Primitive(
    "transposed_convolution",
    "contraction",
    _convolve_transposed,
    lambda xp, g, w, *, lengths, **options: _make(xp, _convolution, g, w, **options),
    lambda xp, g, y, w_shape, *, lengths, **options: _make(
        xp, _kernel_cotangent, g, y, sizes=tuple(w_shape[:-2]), **options
    ),
    batch=_batch_transposed,
)
_kernel_cotangent: Primitive = Primitive(
    "kernel_cotangent",
    "contraction",
    _convolve_with_cotangent,
    lambda xp, g, y, x_shape, *, sizes, **options: _make(
        xp, _transposed, y, g, lengths=_lengths(x_shape, len(sizes)), **options
    ),
    lambda xp, g, x, *, sizes, **options: _make(xp, _convolution, x, g, **options),
    batch=_batch_kernel_cotangent,
)
