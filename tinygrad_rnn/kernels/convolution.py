"""Convolutions of NumPy's arrays, channels last, and their derivatives: without copies of windows.

What windows see is a matrix (places, window), of which ``cpu/gather.py`` is told where it is. So
the convolution is its product with the kernel; the kernel's cotangent that of its transpose with
the cotangent; and the input's is a convolution of the cotangent again, for each remainder of places
by the stride one of its own, so that no zeros are multiplied.

Each returns None for what is left to windows and products: what is small, is not float32, or where
products are not ours (``products.py``).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import products
from .cpu import gather
from .cpu.gather import Rows
from .machine import threads

Array = np.ndarray[Any, Any]
Lengths = tuple[int, ...]
Widths = tuple[tuple[int, int], ...]

_FLOAT32 = np.dtype(np.float32)
_KEPT = 32  # tables: of many places they are large


def convolution(
    x: Array, w: Array, strides: Lengths, dilations: Lengths, padding: Widths
) -> Array | None:
    """(..., L1, ..., Ln, C) and (K1, ..., Kn, C, O) to (..., O1, ..., On, O)."""
    n, (inner, outputs) = len(strides), w.shape[-2:]
    seen = _seen(x.shape[-n - 1 : -1], w.shape[:n], strides, dilations, padding)
    ahead = x.shape[: -n - 1]
    out_shape = (*ahead, *seen.places, outputs)
    terms = math.prod(w.shape[:-1])
    if terms > gather.TERMS or not _ours(math.prod(out_shape) * terms, x, w):
        return None
    tables = _tables(math.prod(ahead), inner, outputs, seen, strides, dilations)
    out = np.empty(out_shape, np.float32)
    matrix = np.reshape(w, (terms, outputs))
    given = _padded(x, padding)
    gather.product(given, tables.rows, tables.columns, matrix, out, tables.places, threads())
    return out


def kernel_cotangent(
    x: Array, g: Array, sizes: Lengths, strides: Lengths, dilations: Lengths, padding: Widths
) -> Array | None:
    """(..., L1, ..., Ln, C) and (..., O1, ..., On, O) to (K1, ..., Kn, C, O)."""
    n, inner, outputs = len(strides), x.shape[-1], g.shape[-1]
    shape = (*sizes, inner, outputs)
    if not _ours(math.prod(shape[:-1]) * g.size, x, g):
        return None
    seen = _seen(x.shape[-n - 1 : -1], sizes, strides, dilations, padding)
    count = math.prod(x.shape[: -n - 1])
    tables = _turned_tables(count, inner, outputs, seen, strides, dilations)
    out = np.empty(shape, np.float32)
    matrix = np.reshape(g, (-1, outputs))
    flat = out.reshape(-1, outputs)
    given = _padded(x, padding)
    gather.sum_of_products(given, tables.rows, tables.columns, matrix, flat, threads())
    return out


def transposed_convolution(
    g: Array, w: Array, lengths: Lengths, strides: Lengths, dilations: Lengths, padding: Widths
) -> Array | None:
    """(..., O1, ..., On, O) and (K1, ..., Kn, C, O) to (..., L1, ..., Ln, C)."""
    n, (inner, outputs) = len(strides), w.shape[-2:]
    terms = math.prod(w.shape[:n]) * outputs
    if terms > gather.TERMS or not _ours(g.size * math.prod(w.shape[:-1]), g, w):
        return None
    axes = [
        _phases(*each)
        for each in zip(
            lengths, w.shape[:n], strides, dilations, [before for before, _ in padding], strict=True
        )
    ]
    wide = tuple(map(_reach, axes, g.shape[-n - 1 : -1]))
    whole = all(phase.kernel for along in axes for phase in along)
    ahead = g.shape[: -n - 1]
    out = (np.empty if whole else np.zeros)((*ahead, *lengths, inner), np.float32)
    given = _padded(g, wide)
    count, before = math.prod(ahead), tuple(b for b, _ in wide)
    for phases in itertools.product(*axes):
        if not all(phase.kernel for phase in phases):
            continue
        tables = _phase_tables(
            phases, count, given.shape[-n - 1 :], before, lengths, strides, inner
        )
        part = w[np.ix_(*(phase.kernel for phase in phases))]
        matrix = np.reshape(np.moveaxis(part, -1, -2), (-1, inner))
        gather.product(given, tables.rows, tables.columns, matrix, out, tables.places, threads())
    return out


def _ours(multiplications: int, *arrays: Array) -> bool:
    alike = all(type(a) is np.ndarray and a.dtype == _FLOAT32 for a in arrays)
    return alike and multiplications >= products.LARGE and products.ours()


def _padded(x: Array, widths: Sequence[tuple[int, int]]) -> Array:
    """With zeros around the axes in front of the last one, and C-contiguous."""
    if not any(map(any, widths)):
        return x if x.flags.c_contiguous and x.flags.aligned else x.copy(order="C")
    n = len(widths)
    ahead, along = x.shape[: -n - 1], x.shape[-n - 1 : -1]
    total = [b + length + a for (b, a), length in zip(widths, along, strict=True)]
    out = np.zeros((*ahead, *total, x.shape[-1]), np.float32)
    inside: list[Any] = [slice(b, b + length) for (b, _), length in zip(widths, along, strict=True)]
    out[(..., *inside, slice(None))] = x
    return out


class _Seen(NamedTuple):
    """Axes with their padding, the windows on them, and at how many places these are."""

    lengths: Lengths
    sizes: Lengths
    places: Lengths


def _seen(
    lengths: Lengths, sizes: Lengths, strides: Lengths, dilations: Lengths, padding: Widths
) -> _Seen:
    wide = tuple(before + n + after for n, (before, after) in zip(lengths, padding, strict=True))
    along = zip(wide, sizes, strides, dilations, strict=True)
    return _Seen(wide, sizes, tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in along))


class _Tables(NamedTuple):
    """Where the rows of a matrix are, its columns, and the rows of a result, in elements."""

    rows: Rows
    columns: Array
    places: Rows


@functools.lru_cache(_KEPT)
def _tables(
    count: int, channels: int, outputs: int, seen: _Seen, strides: Lengths, dilations: Lengths
) -> _Tables:
    """Of ``count`` images: places by what is in a window there."""
    along, window = _apart(seen, channels, strides, dilations)
    of_result = zip(seen.places, _steps(seen.places, outputs), strict=True)
    return _Tables(
        _rows((count, math.prod(seen.lengths) * channels), *along),
        _sums(*window, (channels, 1)),
        _rows((count, math.prod(seen.places) * outputs), *of_result),
    )


@functools.lru_cache(_KEPT)
def _turned_tables(
    count: int, channels: int, outputs: int, seen: _Seen, strides: Lengths, dilations: Lengths
) -> _Tables:
    """What is in a window, by places."""
    along, window = _apart(seen, channels, strides, dilations)
    columns = _sums((count, math.prod(seen.lengths) * channels), *along)
    if dilations[-1] == 1:  # what is beside each other in a window is so in memory
        rows = _rows(*window[:-1], (seen.sizes[-1] * channels, 1))
    else:
        rows = _rows(*window, (channels, 1))
    return _Tables(rows, columns, rows)


def _apart(
    seen: _Seen, channels: int, strides: Lengths, dilations: Lengths
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Along each axis how many places there are and how far apart; and the elements of a window."""
    steps = _steps(seen.lengths, channels)
    along = [(n, s * step) for n, s, step in zip(seen.places, strides, steps, strict=True)]
    window = [(k, d * step) for k, d, step in zip(seen.sizes, dilations, steps, strict=True)]
    return along, window


def _steps(lengths: Lengths, channels: int) -> list[int]:
    """How many elements it is from one place to the next along each axis."""
    return [channels * math.prod(lengths[i + 1 :]) for i in range(len(lengths))]


def _sums(*axes: tuple[int, int]) -> Array:
    """Where what is so many times along each axis, so far apart, is: the last axis first."""
    total = np.zeros(1, np.int64)
    for count, step in axes:
        total = np.add.outer(total, np.arange(count) * step).ravel()
    return total


def _rows(*axes: tuple[int, int]) -> Rows:
    """Rows that are so many times along each axis: those along the last are a group."""
    return Rows(_sums(*axes[:-1]), *axes[-1])


class _Phase(NamedTuple):
    """Places along an axis with the same remainder by the stride: what they get from where."""

    first: int  # the first of them
    count: int  # type: ignore[assignment]  # tuples have a method of this name
    kernel: tuple[int, ...]  # the elements of the kernel that reach them
    origins: tuple[int, ...]  # for each of these, where the first place has it from


@functools.lru_cache(_KEPT)
def _phases(length: int, size: int, stride: int, dilation: int, before: int) -> tuple[_Phase, ...]:
    phases = []
    for first in range(min(stride, length)):
        reached = [k for k in range(size) if (first + before - k * dilation) % stride == 0]
        origins = [(first + before - k * dilation) // stride for k in reached]
        count = len(range(first, length, stride))
        phases.append(_Phase(first, count, tuple(reached), tuple(origins)))
    return tuple(phases)


def _reach(phases: Sequence[_Phase], length: int) -> tuple[int, int]:
    """How far before and beyond an axis of this length the places have something from."""
    lowest = min([0, *(o for phase in phases for o in phase.origins)])
    highest = max([0, *(o + phase.count for phase in phases for o in phase.origins)])
    return -lowest, max(0, highest - length)


@functools.lru_cache(_KEPT)
def _phase_tables(
    phases: tuple[_Phase, ...],
    count: int,
    padded: Lengths,
    before: Lengths,
    lengths: Lengths,
    strides: Lengths,
    inner: int,
) -> _Tables:
    """The places of some phases, by what they get from where in the padded cotangent."""
    *wide, outputs = padded
    steps, out_steps = _steps(tuple(wide), outputs), _steps(lengths, inner)
    along = [(phase.count, step) for phase, step in zip(phases, steps, strict=True)]
    of_result = [
        (phase.count, stride * step)
        for phase, stride, step in zip(phases, strides, out_steps, strict=True)
    ]
    rows = _rows((count, math.prod(padded)), *along)
    places = _rows((count, math.prod(lengths) * inner), *of_result)
    first = sum(phase.first * step for phase, step in zip(phases, out_steps, strict=True))
    columns = np.zeros(1, np.int64)
    for phase, ahead, step in zip(phases, before, steps, strict=True):
        columns = np.add.outer(columns, (np.asarray(phase.origins) + ahead) * step).ravel()
    columns = np.add.outer(columns, np.arange(outputs)).ravel()
    return _Tables(rows, columns, places._replace(groups=places.groups + first))
