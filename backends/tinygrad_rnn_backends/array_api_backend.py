"""Any library that speaks the Python Array API, 2024.12 or later, as a backend.

``register_backend("mine", lambda: ArrayAPIBackend(mine, "mine"))`` is all it takes. Only names of
the standard are used and nothing is computed on the host, so a library gets by without anything of
its own; it may subclass this to do better. Reading folds all index arrays into one and calls
``take``; adding sorts the addresses, so that duplicates stand side by side, and sums each run of
them in a logarithmic number of steps.
"""

from __future__ import annotations

import math
import operator
from types import ModuleType
from typing import Any

import numpy as np

from . import special, summation
from .protocol import Array, ArrayNamespace, Key, Status


class ArrayAPIBackend(ArrayNamespace):
    """Implements ``protocol.Backend`` with the names of the standard in ``namespace``."""

    def __init__(self, namespace: ModuleType, name: str | None = None) -> None:
        self.namespace = namespace
        self.name = namespace.__name__ if name is None else name
        self.array_types: tuple[type, ...] = (type(namespace.asarray(0.0)),)

    def probe(self) -> Status:
        version = getattr(self.namespace, "__version__", "of unknown version")
        return Status(True, f"{self.namespace.__name__} {version}")

    def from_host(self, array: np.ndarray[Any, Any]) -> Array:
        return self.namespace.asarray(np.array(array, order="C"))  # shares the copy at most

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        try:
            return np.from_dlpack(array, device="cpu")
        except (AttributeError, BufferError, RuntimeError, TypeError):
            return np.asarray(array)  # a library without DLPack, or a dtype that it cannot carry

    def sum(self, x: Array, **options: Any) -> Array:
        return summation.floating(self.namespace, x, **options)

    def cumulative_sum(self, x: Array, /, **options: Any) -> Array:
        return summation.cumulative(self.namespace, x, **options)

    def sigmoid(self, x: Array) -> Array:
        return special.sigmoid(self.namespace, x)

    def erf(self, x: Array) -> Array:
        return special.erf(self.namespace, x)

    def getitem(self, x: Array, key: Key) -> Array:
        basic, indices, first = self._split(x.shape, key)
        return self._gather(x[basic], indices, first) if indices else x[basic]

    def index_add(self, x: Array, key: Key, values: Array) -> Array:
        xp = self.namespace
        if not any(entry is None or self._is_array(entry) for entry in key):
            basic, _, _ = self._split(x.shape, key)
            try:  # the standard assigns to ints and slices only
                x[basic] = x[basic] + values
                return x
            except TypeError:
                pass  # immutable arrays; what follows holds for any key
        # Axes that the key does not reach are carried along as rows.
        has_ellipsis = any(entry is Ellipsis for entry in key)
        reached = x.ndim if has_ellipsis else sum(entry is not None for entry in key)
        row = x.shape[reached:]
        positions = self._positions(x.shape[:reached], key, x.device)
        values = xp.broadcast_to(values, (*positions.shape, *row))
        n, rows, width = positions.size, math.prod(x.shape[:reached]), math.prod(row)
        if n == 0:
            return x
        positions = xp.reshape(positions, (n,))
        order = xp.argsort(positions, stable=True)
        positions = xp.take(positions, order, axis=0)
        values = xp.take(xp.reshape(values, (n, width)), order, axis=0)
        totals = self._sums_to_end_of_run(positions, values)
        numbers = xp.arange(rows, dtype=positions.dtype, device=x.device)
        start = xp.minimum(xp.searchsorted(positions, numbers), n - 1)
        addressed = xp.take(positions, start, axis=0) == numbers
        addends = xp.take(totals, start, axis=0)
        addends = xp.where(xp.expand_dims(addressed, axis=1), addends, xp.zeros_like(addends))
        return x + xp.reshape(addends, x.shape)

    def last_writer(self, shape: tuple[int, ...], key: Key) -> Array:
        xp = self.namespace
        arrays: list[Array] = [entry for entry in key if self._is_array(entry)]
        device = arrays[0].device if arrays else None
        positions = self._positions(shape, key, device)
        n = positions.size
        if n == 0:
            return xp.full(shape, -1, dtype=xp.int64, device=device)
        positions = xp.reshape(positions, (n,))
        order = xp.argsort(positions, stable=True)
        positions = xp.take(positions, order, axis=0)
        numbers = xp.arange(math.prod(shape), dtype=xp.int64, device=device)
        last = xp.maximum(xp.searchsorted(positions, numbers, side="right") - 1, 0)
        addressed = xp.take(positions, last, axis=0) == numbers
        writer = xp.where(addressed, xp.take(order, last, axis=0), -1)
        return xp.reshape(xp.astype(writer, xp.int64), shape)

    def _is_array(self, entry: Any) -> bool:
        return isinstance(entry, self.array_types)

    def _split(
        self, shape: tuple[int, ...], key: Key
    ) -> tuple[tuple[Any, ...], list[tuple[int, Any]], int]:
        """A key as a basic one, then ``(axis, index)`` pairs, then where the new axes go.

        The basic key names every axis and stays within bounds, as the standard wants it. By NumPy's
        rule an int beside an array counts as an index array; the axes of these take the place of
        the entries that they come from if those are adjacent, and come first otherwise.
        """
        consumed = sum(entry is not None and entry is not Ellipsis for entry in key)
        dots = sum(entry is Ellipsis for entry in key)
        if consumed > len(shape) or dots > 1:
            raise IndexError(f"{consumed} indices and {dots} ellipses for an array of {shape}")
        has_arrays = any(self._is_array(entry) for entry in key)
        basic: list[Any] = []
        indices: list[tuple[int, Any]] = []
        runs = 0  # of adjacent entries that are indices
        first = axis = 0  # axis of the array; len(basic) is the axis of the result
        in_run = False
        for entry in (*key, *(() if dots else (Ellipsis,))):
            was_in_run, in_run = in_run, False
            if entry is None:
                basic.append(None)
            elif entry is Ellipsis:
                skipped = len(shape) - consumed
                basic += [slice(None)] * skipped
                axis += skipped
            elif isinstance(entry, slice):
                basic.append(_within(shape[axis], entry))
                axis += 1
            else:
                n = shape[axis]
                index = entry if self._is_array(entry) else _wrapped(operator.index(entry), n, axis)
                axis += 1
                if not has_arrays:
                    basic.append(index)
                    continue
                in_run = True
                if not was_in_run:
                    runs += 1
                    first = len(basic) if runs == 1 else 0
                indices.append((len(basic), index))
                basic.append(slice(None))
        return tuple(basic), indices, first

    def _gather(self, x: Array, indices: list[tuple[int, Any]], first: int) -> Array:
        """``x`` at several indices, one for each of some axes, as one ``take`` of rows."""
        xp = self.namespace
        axes = [axis for axis, _ in indices]
        rest = [axis for axis in range(x.ndim) if axis not in axes]
        position: Any = 0
        for axis, index in indices:
            n = x.shape[axis]
            if self._is_array(index):
                index = xp.astype(index, xp.int64)
                # The one look at a value: a library whose device is far away may want to override.
                if bool(xp.any((index < -n) | (index >= n))):
                    raise IndexError(f"an index is out of range for an axis of size {n}")
                index = xp.where(index < 0, index + n, index)
            try:
                position = position * n + index
            except ValueError:
                raise IndexError("index arrays of these shapes do not broadcast together") from None
        rest_shape = [x.shape[axis] for axis in rest]
        table = xp.permute_dims(x, (*axes, *rest))
        table = xp.reshape(table, (math.prod(x.shape[axis] for axis in axes), *rest_shape))
        taken = xp.take(table, xp.reshape(position, (position.size,)), axis=0)
        taken = xp.reshape(taken, (*position.shape, *rest_shape))
        end = position.ndim + first
        order = (*range(position.ndim, end), *range(position.ndim), *range(end, taken.ndim))
        return xp.permute_dims(taken, order)

    def _positions(self, shape: tuple[int, ...], key: Key, device: Any) -> Array:
        """What ``key`` picks from an array of ``shape`` that numbers its own elements."""
        xp = self.namespace
        numbers = xp.arange(math.prod(shape), dtype=xp.int64, device=device)
        return self.getitem(xp.reshape(numbers, shape), key)

    def _sums_to_end_of_run(self, positions: Array, values: Array) -> Array:
        """For each row of ``values``: the sum of it and what follows at the same position.

        ``positions`` are sorted. After a step, each sum covers twice as many rows as before it.
        """
        xp = self.namespace
        distance = 1
        while distance < positions.size:
            same = xp.expand_dims(positions[distance:] == positions[:-distance], axis=1)
            following = values[distance:, :]
            following = xp.where(same, following, xp.zeros_like(following))
            values = xp.concat([values[:-distance, :] + following, values[-distance:, :]], axis=0)
            distance *= 2
        return values


def _wrapped(index: int, n: int, axis: int) -> int:
    if not -n <= index < n:
        raise IndexError(f"index {index} is out of range for axis {axis} of size {n}")
    return index % n


def _within(n: int, entry: slice) -> slice:
    """The same slice of an axis of size n, with bounds that the standard defines."""
    places = range(n)[entry]
    if not places:
        return slice(0, 0)
    stop = places[-1] + (1 if places.step > 0 else -1)
    return slice(places[0], stop if stop >= 0 else None, places.step)
