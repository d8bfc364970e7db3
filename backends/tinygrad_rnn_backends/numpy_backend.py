"""NumPy: the reference backend, always there.

Its namespace already is the Array API's. Duplicate indices need care: ``np.add.at`` is fast on one
axis but slow for rows, and which of two assignments to one element wins is not defined by NumPy, so
``last_writer`` takes a maximum instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from . import special, summation
from .protocol import Array, ArrayNamespace, Key, Lengths, Status, count_windows

_KEPT_BELOW = 32 * 2**20 - 2**17  # bytes; glibc's threshold goes no higher than 32 MiB
_EXP_LIMIT = {"e": 10.0, "f": 80.0, "d": 700.0}  # by dtype: sigmoid is 1 here, exp overflows beyond
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio, which spreads multiples (Knuth 6.4)
_FEW = 1 << 10  # elements, of which nothing takes long
_BLOCK = 1 << 15  # elements that stay in the cache together with their positions


Product: TypeAlias = Callable[..., Array | None]
"""``(x, y, out=None)``: the product of arrays of at least two axes, or None for NumPy's BLAS's."""


class NumpyBackend(ArrayNamespace):
    """Implements ``protocol.Backend`` on ``numpy.ndarray``."""

    name = "numpy"
    array_types: tuple[type, ...] = (np.ndarray,)
    namespace = np
    product: Product = staticmethod(lambda x, y: None)
    """What is asked first for a product of ``large`` or more multiplications; see ``Product``."""
    large = math.inf

    def __init__(self) -> None:
        # glibc hands a graph that is freed back to the system, and the next one pays a page fault
        # for every 4 kB: 2 to 5 % of a training step. It stops doing so for blocks smaller than the
        # largest one that was ever freed; this one is never touched, so it takes no memory itself.
        np.empty(_KEPT_BELOW, dtype=np.uint8)

    @staticmethod
    def probe() -> Status:
        return Status(True, f"NumPy {np.__version__}")

    def from_host(self, array: np.ndarray[Any, Any]) -> Array:
        return np.array(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        host: np.ndarray[Any, Any] = array
        return host

    def readonly(self, array: Array) -> Array:
        view = array.view()
        view.flags.writeable = False
        return view

    def matmul(self, x: Array, y: Array) -> Array:
        if x.ndim == 2 == y.ndim:
            if len(x) * y.size >= self.large and (made := self.product(x, y)) is not None:
                return made
            # With an inner length of 1, np.matmul leaves BLAS aside: 9 times slower.
            return np.dot(x, y)
        if x.ndim >= 2 <= y.ndim and x.size * y.shape[-1] >= self.large:
            made = self.product(x, y)
            return np.matmul(x, y) if made is None else made
        return np.matmul(x, y)

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        # np.where branches at every element, and where these are irregular it guesses wrong at half
        # of them. Where one side is 0, the other one's bits are kept or not: 4 to 10 times faster.
        if _is_zero(y) and _is_maskable(condition, x):
            return _masked(condition, x)
        if _is_zero(x) and _is_maskable(condition, y):
            return _masked(np.logical_not(condition), y)
        return np.where(condition, x, y)

    def sum(self, x: Array, *, axis: Any = None, dtype: Any = None, keepdims: Any = False) -> Array:
        kind = x.dtype.char
        if kind == "e" and dtype is None:
            return self.sum(x.astype(np.float32), axis=axis, keepdims=keepdims).astype(x.dtype)
        terms = x.size if axis is None else 1
        for a in () if axis is None else axis if type(axis) is tuple else (axis,):
            terms *= x.shape[a]
        if terms <= summation.FEW or dtype is not None or kind not in "fd":
            return np.add.reduce(x, axis=axis, dtype=dtype, keepdims=keepdims)
        if x.flags.c_contiguous and (terms == x.size or axis in (-1, (-1,))):
            return np.add.reduce(x, axis=axis, keepdims=keepdims)  # which is pairwise already
        if type(axis) is tuple and not keepdims and not x.flags.c_contiguous:
            x, axis = _in_memory_order(x, axis)
        return summation.in_blocks(np, np.add.reduce, x, axis, keepdims, _is_innermost)

    def cumulative_sum(self, x: Array, /, **options: Any) -> Array:
        return summation.cumulative(np, x, **options)

    def sigmoid(self, x: Array) -> Array:
        limit = _EXP_LIMIT.get(x.dtype.char)
        if limit is None:
            return special.sigmoid(np, x)
        # Looking for large values is twice as fast as np.minimum(x, limit), and they are rare; for
        # few elements the calls are what costs.
        if x.size < 1024 or not np.maximum.reduce(x, axis=None, initial=0.0) <= limit:
            x = np.minimum(x, limit)
        grown = np.exp(x)
        total = grown + 1
        return np.divide(grown, total, out=total) if total.ndim else grown / total

    def erf(self, x: Array) -> Array:
        return special.erf(np, x)

    def index_add(self, x: Array, key: Key, values: Array) -> Array:
        place: Any = tuple(key)
        if not any(isinstance(entry, np.ndarray) for entry in place):
            x[place] += values
        elif x.dtype.char == "e" or (x.dtype.char == "f" and _collide(x.shape, place)):
            total = self.index_add(np.zeros(x.shape), place, np.asarray(values, np.float64))
            np.add(x, total, out=x, casting="same_kind")
        elif len(place) == 1 and x.ndim > 1 and x.flags.c_contiguous:
            _add_rows(x, place[0], values)
        else:
            np.add.at(x, place, values)
        return x

    def last_writer(self, shape: tuple[int, ...], key: Key) -> Array:
        size = math.prod(shape)
        addressed = np.arange(size).reshape(shape)[tuple(key)].ravel()
        writer = np.full(size, -1, dtype=np.int64)
        np.maximum.at(writer, addressed, np.arange(addressed.size))
        return writer.reshape(shape)

    def windows(self, x: Array, sizes: Lengths, strides: Lengths, dilations: Lengths) -> Array:
        """One copy of a view that has them all."""
        n = len(sizes)
        along = list(zip(x.shape[-n - 1 : -1], sizes, strides, dilations, strict=True))
        steps = x.strides[-n - 1 : -1]
        view = np.lib.stride_tricks.as_strided(
            x,
            (*x.shape[: -n - 1], *(count_windows(*each) for each in along), *sizes, x.shape[-1]),
            (
                *x.strides[: -n - 1],
                *(step * stride for step, stride in zip(steps, strides, strict=True)),
                *(step * dilation for step, dilation in zip(steps, dilations, strict=True)),
                x.strides[-1],
            ),
        )
        return view.copy(order="C")


def _is_zero(x: Any) -> bool:
    return type(x) in (int, float) and x == 0 and math.copysign(1, x) > 0


def _is_maskable(condition: Any, x: Any) -> bool:
    return (
        type(x) is type(condition) is np.ndarray
        and x.dtype.char in "fd"
        and (condition.dtype.char == "?" and condition.size >= _FEW)
    )


def _masked(condition: Array, x: Array) -> Array:
    bits = np.dtype(f"i{x.itemsize}")
    kept = condition.astype(bits)
    np.negative(kept, out=kept)
    return np.bitwise_and(kept, x.view(bits)).view(x.dtype)


def _in_memory_order(x: Array, axis: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """A view for the same sum, whose neighbours in memory are neighbours: blocks need no copy."""
    order = sorted(range(x.ndim), key=lambda a: -abs(x.strides[a]))
    summed = {a % x.ndim for a in axis}
    kept = [a for a in order if a not in summed]
    if kept != sorted(kept):
        return x, axis
    return x.transpose(order), tuple([i for i, a in enumerate(order) if a in summed])


def _is_innermost(x: Array, axis: int) -> bool:
    """Whether NumPy sums along an axis pairwise: the one along which memory is closest."""
    strides = [abs(step) for step, n in zip(x.strides, x.shape, strict=True) if n > 1]
    return bool(abs(x.strides[axis]) == min(strides, default=0))


def _collide(shape: tuple[int, ...], key: Key) -> bool:
    """Whether so many indices may be the same that what they add up to is better summed wide."""
    found = summation.indexed(shape, key)
    if math.prod(np.broadcast_shapes(*(index.shape for _, index in found))) <= summation.FEW:
        return False
    places: Any = np.zeros((), dtype=np.uint64)
    for n, index in found:
        n = max(1, n)
        places = places * np.uint64(n) + (index.astype(np.int64) % n).view(np.uint64)
    buckets = (places * np.uint64(_GOLDEN)) >> np.uint64(48)  # 2**16 of them
    return bool(np.bincount(buckets.ravel().astype(np.int64)).max() > summation.FEW)


def _add_rows(x: Array, rows: Array, values: Array) -> None:
    """``np.add.at(x, rows, values)`` of a contiguous x, on a flat view of it and in blocks."""
    width = math.prod(x.shape[1:])
    starts = (np.arange(len(x)) * width)[rows]  # raises before anything is written
    values = np.broadcast_to(values, starts.shape + x.shape[1:]).reshape(starts.size, width)
    flat = x.reshape(-1)
    starts, columns = starts.reshape(-1, 1), np.arange(width)
    rows_at_once = max(1, _BLOCK // max(1, width))
    for i in range(0, len(starts), rows_at_once):
        block = slice(i, i + rows_at_once)
        np.add.at(flat, (starts[block] + columns).ravel(), values[block].ravel())
