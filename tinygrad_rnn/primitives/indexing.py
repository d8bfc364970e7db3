"""Indexing: ``x[key]`` and its transpose, ``index_add``.

A key is any mixture of ints, slices, ellipsis, None, lists, integer and boolean arrays, by NumPy's
rules. It is split into what is static (the parameter ``key``, with ``ARRAY`` where an array stood)
and the integer arrays, which are inputs, so that they can be traced and batched like any other.

The subtle point: the vjp of ``x[key]`` is not an array of zeros with something in it but an
``IndexedCotangent``, which only accumulation understands; a loop over ``x[t]`` stays O(T).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ..apply import apply
from ..entering import refuse_masked
from ..graph import IndexedCotangent, Primitive
from ..tensor import Tensor, as_tensor, backend_of, raw, wrap
from .axes import negative_axis
from .creation import zeros_like
from .elementwise import TensorLike, maximum, where
from .movement import broadcast_shape, broadcast_to, moveaxis, permute_dims, reshape


class _Array:
    """Stands in a static key for an integer array, which is an input."""

    def __repr__(self) -> str:
        return "array"


ARRAY = _Array()
Key = tuple[Any, ...]


def fill(key: Key, arrays: Sequence[Any]) -> Key:
    """A key with its arrays back in their places."""
    if not arrays:
        return key
    remaining = iter(arrays)
    return tuple([next(remaining) if entry is ARRAY else entry for entry in key])


def _batch_getitem(size: int, batched: list[bool], x: Any, *indices: Any, key: Key) -> Any:
    if not any(batched[1:]):
        return apply(_getitem, x, *indices, key=(slice(None), *key))
    first = key.index(ARRAY)
    positions, indices = _lined_up(size, batched[1:], indices)
    if batched[0]:
        x = moveaxis(x, 0, first)
        key, indices = (*key, ARRAY), (positions, *indices)
    return moveaxis(apply(_getitem, x, *indices, key=key), first, 0)


def _batch_index_add(
    size: int, batched: list[bool], x: Any, values: Any, *indices: Any, key: Key
) -> Any:
    x, values = (
        array if is_batched else broadcast_to(array, (size, *array.shape))
        for array, is_batched in zip((x, values), batched, strict=False)
    )
    if not any(batched[2:]):
        return apply(_index_add, x, values, *indices, key=(slice(None), *key))
    first = key.index(ARRAY)
    x, values = moveaxis(x, 0, first), moveaxis(values, 0, first)
    positions, indices = _lined_up(size, batched[2:], indices)
    return moveaxis(apply(_index_add, x, values, positions, *indices, key=(*key, ARRAY)), first, 0)


def _lined_up(
    size: int, batched: list[bool], indices: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The number of each example, and index arrays that broadcast with it in front."""
    ndim = max(index.ndim - b for index, b in zip(indices, batched, strict=True))
    numbers = reshape(wrap(backend_of(indices[0]).arange(size), None), (size, *(1,) * ndim))
    return numbers, tuple(
        reshape(index, (size, *(1,) * (ndim + 1 - index.ndim), *index.shape[1:])) if b else index
        for index, b in zip(indices, batched, strict=True)
    )


_getitem = Primitive(
    "getitem",
    "indexing",
    lambda xp, x, *indices, key: xp.getitem(x, fill(key, indices)),
    lambda xp, g, indices, *, key: IndexedCotangent(fill(key, indices), g),
    batch=_batch_getitem,
)
_take_rows = Primitive(
    "take_rows",
    "indexing",
    lambda xp, x, indices: xp.getitem(x, (indices,)),
    lambda xp, g, indices: IndexedCotangent((indices,), g, as_rows=True),
    batch=lambda size, batched, x, indices: _batch_getitem(size, batched, x, indices, key=(ARRAY,)),
)
_index_add = Primitive(
    "index_add",
    "indexing",
    lambda xp, x, values, *indices, key: xp.index_add(
        xp.asarray(x, copy=True), fill(key, indices), values
    ),
    lambda xp, g, *, key: g,
    lambda xp, g, indices, *, key: xp.getitem(g, fill(key, indices)),
    batch=_batch_index_add,
)


def _batch_along(size: int, batched: list[bool], *arrays: Any, axis: int) -> list[Any]:
    """Arrays that ``take_along_axis`` lines up, with the examples along a new axis of each."""
    return [a if b else reshape(a, (1, *a.shape)) for a, b in zip(arrays, batched, strict=True)]


def _batch_take_along(size: int, batched: list[bool], *arrays: Any, axis: int) -> Any:
    return apply(_take_along, *_batch_along(size, batched, *arrays, axis=axis), axis=axis)


def _batch_add_along(size: int, batched: list[bool], *arrays: Any, axis: int) -> Any:
    x, *others = _batch_along(size, batched, *arrays, axis=axis)
    x = x if batched[0] else broadcast_to(x, (size, *x.shape[1:]))
    return apply(_add_along, x, *others, axis=axis)


_take_along = Primitive(
    "take_along_axis",
    "indexing",
    lambda xp, x, indices, *, axis: xp.take_along_axis(x, indices, axis=axis),
    lambda xp, g, indices, *, axis: IndexedCotangent((indices,), g, axis),
    batch=_batch_take_along,
)
_add_along = Primitive(
    "add_along_axis",
    "indexing",
    lambda xp, x, indices, values, *, axis: xp.add_along_axis(
        xp.asarray(x, copy=True), indices, values, axis=axis
    ),
    lambda xp, g, *, axis: g,
    None,
    lambda xp, g, indices, *, axis: xp.take_along_axis(g, indices, axis=axis),
    batch=_batch_add_along,
)


def getitem(x: TensorLike, key: Any, /) -> Tensor:
    """``x[key]`` for any mixture of ints, slices, ellipsis, None, lists, int and bool arrays."""
    x = as_tensor(x)
    if isinstance(key, (Tensor, np.ndarray)) and not key.shape and key.dtype.kind == "b":
        x, key = reshape(x, (1, *x.shape)), reshape(as_tensor(key), (1,))  # a mask of no axes
    entries = _entries(x, key)
    if not _has_arrays(entries):
        return apply(_getitem, x, key=tuple(entries))
    plan = _Plan(entries)
    if plan.basic is not None:
        x = apply(_getitem, x, key=plan.basic)
    if plan.order is not None:
        x = permute_dims(x, plan.order)
    return apply(_getitem, x, *_index_tensors(x, plan.indices), key=plan.key)


def index_add(x: TensorLike, key: Any, values: TensorLike, /) -> Tensor:
    """A copy of x with ``values`` added at ``key``; elements addressed twice get both."""
    x = as_tensor(x)
    entries = _entries(x, key)
    if not _has_arrays(entries):
        return _add_at(x, values, tuple(entries))
    plan = _Plan(entries)
    inner = x if plan.basic is None else apply(_getitem, x, key=plan.basic)
    if plan.basic is None and plan.order is None:
        return _add_at(x, values, plan.key, _index_tensors(x, plan.indices))
    target = inner if plan.order is None else permute_dims(inner, plan.order)
    addend = _add_at(zeros_like(target), values, plan.key, _index_tensors(x, plan.indices))
    if plan.order is not None:
        addend = permute_dims(addend, sorted(range(len(plan.order)), key=plan.order.__getitem__))
    return _add_at(x, addend, plan.basic) if plan.basic is not None else x + addend


def _add_at(x: Tensor, values: Any, key: Key, indices: Sequence[Tensor] = ()) -> Tensor:
    addressed = apply(_getitem, x.detach(), *indices, key=key).shape
    return apply(_index_add, x, _fitted(x, values, addressed), *indices, key=key)


def _fitted(x: Tensor, values: Any, addressed: tuple[int, ...]) -> Tensor:
    """What is to be put into elements of x, in their shape and dtype."""
    if type(values) in (bool, int, float):
        host = np.asarray(values, dtype=np.result_type(values, x.dtype))
        values = wrap(backend_of(x).from_host(host), None)
    given = as_tensor(values)
    if not np.can_cast(given.dtype, x.dtype, "same_kind"):
        raise TypeError(f"at[]: {given.dtype} values do not fit into a tensor of {x.dtype}")
    if broadcast_shape("at[]", given.shape, addressed) != addressed:
        raise ValueError(f"at[]: values of shape {given.shape} for elements of shape {addressed}")
    return broadcast_to(given.astype(x.dtype), addressed)


def take(x: TensorLike, indices: Any, /, axis: int | None = None) -> Tensor:
    """The slices of x along ``axis`` at integer ``indices`` of any shape, which takes its place.

    ``axis`` may be left out for one axis only. An embedding is ``take(weight, tokens, axis=0)``.
    """
    x = as_tensor(x)
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take: give an axis for a tensor of shape {x.shape}")
        axis = 0
    along = negative_axis(axis, x.ndim, "take") + x.ndim
    return getitem(x, (*(slice(None),) * along, _as_indices(x, indices, "take")))


def take_rows(x: Tensor, indices: Tensor) -> Tensor:
    """``x[indices]`` for integers from 0; as its gradient, a leaf x gets ``Rows``."""
    return apply(_take_rows, x, indices)


def take_along_axis(x: TensorLike, indices: Any, /, axis: int = -1) -> Tensor:
    """``out[..., i, ...] = x[..., indices[..., i, ...], ...]`` along ``axis``; the others agree."""
    x = as_tensor(x)
    places, along = _places_along("take_along_axis", x, indices, axis)
    return apply(_take_along, x, places, axis=along)


def add_along_axis(x: TensorLike, indices: Any, values: TensorLike, /, axis: int = -1) -> Tensor:
    """A copy of x with ``values`` added where ``take_along_axis(x, indices)`` reads, every time."""
    x = as_tensor(x)
    places, along = _places_along("add_along_axis", x, indices, axis)
    addressed = apply(_take_along, x.detach(), places, axis=along).shape
    return apply(_add_along, x, places, _fitted(x, values, addressed), axis=along)


def _places_along(operation: str, x: Tensor, indices: Any, axis: int) -> tuple[Tensor, int]:
    places = _as_indices(x, indices, operation)
    if places.ndim != x.ndim:
        raise ValueError(
            f"{operation}: indices of shape {places.shape} for a tensor of shape {x.shape}; "
            "they need as many axes"
        )
    along = negative_axis(axis, x.ndim, operation)
    kept = [n for i, n in enumerate(x.shape) if i != along + x.ndim]
    given = [n for i, n in enumerate(places.shape) if i != along + x.ndim]
    broadcast_shape(operation, tuple(kept), tuple(given))
    return places, along


def _as_indices(x: Tensor, indices: Any, operation: str) -> Tensor:
    if isinstance(indices, (list, tuple, int)):
        host = np.asarray(indices)
        indices = wrap(backend_of(x).from_host(host if host.size else host.astype(np.int64)), None)
    found = as_tensor(indices)
    if found.dtype.kind not in "iu":
        raise TypeError(
            f"{operation}: indices are {found.dtype}, not integers; use astype('int64')"
        )
    return found


class _At:
    """``x.at[key]``: x with elements replaced or added to, as a new tensor."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __getitem__(self, key: Any) -> _AtKey:
        return _AtKey(self._x, key)


class _AtKey:
    def __init__(self, x: Tensor, key: Any) -> None:
        self._x, self._key = x, key

    def add(self, values: TensorLike) -> Tensor:
        """x with ``values`` added at the key; elements addressed twice get both."""
        return index_add(self._x, self._key, values)

    def set(self, values: TensorLike) -> Tensor:
        """x with ``values`` at the key; of elements addressed twice the last one counts."""
        x = self._x
        entries = _entries(x, self._key)
        addressed = getitem(x.detach(), self._key).shape
        flat = reshape(_fitted(x, values, addressed), (-1,))
        if not flat.size:
            return x
        key = tuple(raw(e, "at[].set") if isinstance(e, Tensor) else e for e in entries)
        writer = wrap(backend_of(x).last_writer(x.shape, key), None)
        return where(writer >= 0, take(flat, maximum(writer, 0), axis=0), x)


# Keys.


def _has_arrays(entries: list[Any]) -> bool:
    return any(isinstance(entry, Tensor) for entry in entries)


def _entries(x: Tensor, key: Any) -> list[Any]:
    """A key as ints, slices, None and integer Tensors, for each axis, and nothing boolean."""
    key = key if isinstance(key, tuple) else (key,)
    entries: list[Any] = []
    masks = []
    for entry in key:
        if entry is None or entry is Ellipsis or isinstance(entry, slice):
            entries.append(entry)
        elif isinstance(entry, (bool, np.bool_)):
            raise IndexError("getitem: True and False are no indices; use 0 and 1, or a bool array")
        elif isinstance(entry, (int, np.integer)):
            entries.append(operator.index(entry))
        else:
            arrays, mask_shape = _index_arrays(x, entry)
            masks += [] if mask_shape is None else [(arrays[0], mask_shape)]
            entries += arrays
    consumed = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if consumed > x.ndim:
        raise IndexError(f"getitem: {consumed} indices for a tensor of shape {x.shape}")
    dots = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise IndexError("getitem: more than one ellipsis")
    missing = [slice(None)] * (x.ndim - consumed)
    if dots and (missing or not _has_arrays(entries)):
        entries[dots[0] : dots[0] + 1] = missing
    elif _has_arrays(entries) and not dots:
        entries += missing
    for first, shape in masks:
        before = entries[: [entry is first for entry in entries].index(True)]
        axis = sum(entry is not None and entry is not Ellipsis for entry in before)
        met = x.shape[axis : axis + len(shape)]
        if any(m not in (0, n) for m, n in zip(shape, met, strict=True)):  # of length 0: nothing
            raise IndexError(
                f"getitem: a mask of shape {shape} at axis {axis} of a tensor of shape {x.shape}"
            )
    return entries  # with an ellipsis of no axes, if it may separate arrays


def _index_arrays(x: Tensor, entry: Any) -> tuple[list[Tensor], tuple[int, ...] | None]:
    """A list, an array or a Tensor as integer Tensors, several for a mask, and a mask's shape."""
    if isinstance(entry, (list, tuple, range)):
        host = np.asarray(entry)
        entry = wrap(backend_of(x).from_host(host if host.size else host.astype(np.int64)), None)
    refuse_masked("getitem", entry)
    try:
        index = as_tensor(entry)
    except TypeError:
        raise IndexError(
            f"getitem: {type(entry).__name__} is no index; use ints, slices, ..., None, lists, "
            "integer or boolean arrays"
        ) from None
    if index.dtype.kind == "b":
        mask = raw(index, "a boolean index")
        if index.ndim == 0:
            raise IndexError("getitem: a boolean index needs at least one axis")
        places = backends.of(mask).nonzero(mask)  # type: ignore[union-attr]
        return [wrap(array, None) for array in places], index.shape
    if index.dtype.kind not in "iu":
        raise IndexError(f"getitem: indices are {index.dtype}, not integers; use astype('int64')")
    return [index.detach()], None


class _Plan:
    """A key with arrays, as three steps: a basic key, a permutation, then arrays side by side.

    By NumPy's rule the axes of the arrays take the place of the entries that they come from if
    those are adjacent, and come first otherwise; an int beside an array counts as one, and an
    ellipsis separates even if it stands for no axes.
    """

    def __init__(self, entries: list[Any]) -> None:
        at = [i for i, e in enumerate(entries) if isinstance(e, (int, Tensor))]
        adjacent = at[-1] - at[0] + 1 == len(at)
        entries = [e for e in entries if e is not Ellipsis]
        basic = tuple(e if e is None or isinstance(e, slice) else slice(None) for e in entries)
        self.basic = basic if any(e != slice(None) for e in basic) else None
        at = [i for i, e in enumerate(entries) if isinstance(e, (int, Tensor))]
        self.indices = [entries[i] for i in at]
        first = at[0]
        self.order = None
        if not adjacent:
            self.order = tuple(at) + tuple(i for i in range(len(entries)) if i not in at)
            first = 0
        self.key = (slice(None),) * first + (ARRAY,) * len(at)


def _index_tensors(x: Tensor, indices: list[Any]) -> list[Tensor]:
    backend = backend_of(x)
    return [i if isinstance(i, Tensor) else wrap(backend.asarray(i), None) for i in indices]


setattr(Tensor, "__getitem__", getitem)  # noqa: B010
setattr(Tensor, "at", property(_At))  # noqa: B010
