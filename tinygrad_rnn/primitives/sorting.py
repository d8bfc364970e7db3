"""Sorting, searching and sets.

Places have no derivative, so there are few rows here: what is sorted or picked is taken from x at
places that were found without it, and the cotangent goes back there.

How many elements are not zero, or different, is a matter of values. ``nonzero`` and the functions
of sets look at them, so they can be neither mapped nor planned.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..apply import apply, show
from ..graph import Primitive
from ..tensor import Tensor, as_tensor, raw, wrap
from .axes import Axis, negative_axis
from .elementwise import TensorLike, astype, isnan, logical_and, logical_not, logical_or
from .indexing import take, take_along_axis
from .movement import broadcast_to, expand_dims, reshape
from .reduction import sum

Side = Literal["left", "right"]


def _order(xp: Any, x: Any, *, axis: int, descending: bool, stable: bool) -> Any:
    if not descending:
        return xp.argsort(x, axis=axis, stable=stable)
    # Backwards, what is in descending order ascends, and so that equal elements keep theirs.
    order = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=stable)
    return x.shape[axis] - 1 - xp.flip(order, axis=axis)


_argsort = Primitive("argsort", "reduction", _order)


def _batch_searchsorted(
    size: int, batched: list[bool], x: Tensor, values: Tensor, *, side: Side
) -> Tensor:
    """Many values in one array are searched for at once; in many arrays, it is counted."""
    if not batched[0]:
        return apply(_searchsorted, x, values, side=side)
    if not batched[1]:
        values = broadcast_to(values, (size, *values.shape))
    x = reshape(x, (size, *(1,) * (values.ndim - 1), x.shape[-1]))
    values = expand_dims(values, axis=-1)
    before = _precedes(x, values) if side == "left" else logical_not(_precedes(values, x))
    return sum(astype(before, "int64"), axis=-1)


def _precedes(x: Tensor, y: Tensor) -> Tensor:
    """Whether x comes before y in the order that sorting has: nan is last."""
    return logical_or(x < y, logical_and(isnan(y), logical_not(isnan(x))))


_searchsorted = Primitive(
    "searchsorted",
    "indexing",
    lambda xp, x, values, *, side: xp.searchsorted(x, values, side=side),
    batch=_batch_searchsorted,
)


def argsort(
    x: TensorLike, /, axis: int = -1, descending: bool = False, stable: bool = True
) -> Tensor:
    """The places at which sorted elements are found, along ``axis``. Not differentiable."""
    x = as_tensor(x)
    along = negative_axis(axis, x.ndim, "argsort")
    return apply(_argsort, x, axis=along, descending=bool(descending), stable=bool(stable))


def sort(x: TensorLike, /, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """x in ascending order along ``axis``, nan last; or in the reverse of that order.

    Each cotangent goes to the element that came to its place; ``stable`` keeps equal ones in order.
    """
    x = as_tensor(x)
    order = argsort(x.detach(), axis=axis, descending=descending, stable=stable)
    return take_along_axis(x, order, axis=axis)


class TopK(NamedTuple):
    """What ``topk`` returns."""

    values: Tensor
    indices: Tensor


def topk(x: TensorLike, /, k: int, axis: int = -1, largest: bool = True) -> TopK:
    """The ``k`` largest elements along ``axis``, the largest first, and their ``indices``.

    Or the smallest, the smallest first. Of equal elements the first come first; nan is larger than
    any number. The cotangents of the ``values`` go where these were.
    """
    x = as_tensor(x)
    along = negative_axis(axis, x.ndim, "topk")
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or not 0 <= k <= x.shape[along]:
        raise ValueError(
            f"topk: k is an integer from 0 to {x.shape[along]}, the elements along axis {axis} of "
            f"{show(x)}, not {k!r}"
        )
    order = argsort(x.detach(), axis=along, descending=largest)
    indices = order[(..., slice(0, int(k)), *(slice(None),) * (-along - 1))]
    return TopK(take_along_axis(x, indices, axis=along), indices)


def searchsorted(
    x1: TensorLike, x2: TensorLike, /, *, side: Side = "left", sorter: TensorLike | None = None
) -> Tensor:
    """For each of the values ``x2``, of any shape: before which element of ``x1`` it belongs.

    ``x1`` is one axis in ascending order, or ``sorter``, from ``argsort``, puts it in that order.
    ``side`` is "left", before equal elements, or "right", behind them. Not differentiable.
    """
    x1, x2 = as_tensor(x1), as_tensor(x2)
    if side not in ("left", "right"):
        raise ValueError(f"searchsorted: side={side!r}; 'left' or 'right'")
    if x1.ndim != 1:
        raise ValueError(
            f"searchsorted: {show(x1._array)} has {x1.ndim} axes and needs one; reshape it, or "
            "vmap over the others"
        )
    if sorter is not None:
        x1 = take(x1, sorter, axis=0)
    return apply(_searchsorted, x1, x2, side=side)


def count_nonzero(x: TensorLike, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements over ``axis`` are not 0, or true; int64."""
    x = as_tensor(x)
    counted = x if x.dtype.kind == "b" else x != 0
    return sum(astype(counted, "int64"), axis=axis, keepdims=keepdims)


def nonzero(x: TensorLike, /) -> tuple[Tensor, ...]:
    """Where x is not 0, or true: for each axis the indices, in row-major order; an index of x."""
    x = as_tensor(x)
    if not x.ndim:
        raise ValueError("nonzero: a 0-d tensor has no places; use x != 0, or reshape(x, (1,))")
    array = raw(x, "nonzero")
    return tuple([wrap(places, None) for places in backends.of(array).nonzero(array)])  # type: ignore[union-attr]


# Sets.


class UniqueAll(NamedTuple):
    """What ``unique_all`` returns."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What ``unique_counts`` returns."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What ``unique_inverse`` returns."""

    values: Tensor
    inverse_indices: Tensor


def _unique(operation: str, x: TensorLike) -> UniqueAll:
    x = as_tensor(x)
    array = raw(x, operation)
    found: Any = backends.of(array).unique_all(array)  # type: ignore[union-attr]
    indices, inverse, counts = [wrap(part, None) for part in found[1:]]
    values = take(reshape(x, (-1,)), indices, axis=0)
    return UniqueAll(values, indices, reshape(inverse, x.shape), counts)


def unique_all(x: TensorLike, /) -> UniqueAll:
    """The different elements of x, flattened and sorted, each nan counting as different.

    Returns ``values``; the ``indices`` of their first occurrences in the flattened x, to which
    cotangents go; ``inverse_indices`` of x's shape, with ``values[inverse_indices]`` equal to x;
    and ``counts``.
    """
    return _unique("unique_all", x)


def unique_counts(x: TensorLike, /) -> UniqueCounts:
    """The ``values`` of ``unique_all`` and their ``counts``."""
    found = _unique("unique_counts", x)
    return UniqueCounts(found.values, found.counts)


def unique_inverse(x: TensorLike, /) -> UniqueInverse:
    """The ``values`` of ``unique_all`` and the ``inverse_indices``."""
    found = _unique("unique_inverse", x)
    return UniqueInverse(found.values, found.inverse_indices)


def unique_values(x: TensorLike, /) -> Tensor:
    """The ``values`` of ``unique_all``."""
    return _unique("unique_values", x).values
