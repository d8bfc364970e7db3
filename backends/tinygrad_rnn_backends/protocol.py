"""The one page a plugin author reads: what a backend is.

A backend is an array namespace plus the few things the namespace lacks. Every name of the Python
Array API standard (2024.12) is looked up on the backend itself, so the rules of the library read
``xp.exp(x)`` or ``xp.sum(x, axis=-1)`` and never ask which library answers. Below that come the
names that sequence models need and the standard does not have. There is no derivative, optimiser
or model code in a backend, and there must not be.

Arrays are shared with the graph, so no method may write into an argument, except ``index_add``,
whose caller owns the array that it passes.

To plug a library in, subclass ``ArrayNamespace`` (or take ``ArrayAPIBackend`` as it is), then call
``tinygrad_rnn.register_backend(name, factory)`` or declare an entry point in the group
``tinygrad_rnn.backends``, and run ``tinygrad_rnn.testing.check_backend(name)`` against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType, ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""An array of whatever library the backend speaks for."""

Key: TypeAlias = Sequence["int | slice | EllipsisType | Array | None"]
"""An index: as in NumPy, but integer arrays belong to the backend and there are no boolean ones."""
Lengths: TypeAlias = tuple[int, ...]


class BackendUnavailable(RuntimeError):
    """The backend exists but cannot be used here; the message says why, and what would help."""


class Status(NamedTuple):
    """What ``python -m tinygrad_rnn doctor`` prints of one backend."""

    usable: bool
    detail: str
    """The version and device found; or why there is none, and the cure."""


class Backend(Protocol):
    """What the library asks of a backend. Shapes are tuples, dtypes are the library's own."""

    name: str
    """The name users select it by, which is the name that it is registered under."""
    array_types: tuple[type, ...]
    """The exact types of its arrays, which no other backend has: operations find it from these."""

    def __getattr__(self, name: str) -> Any:
        """Any function, dtype or constant of the Array API namespace."""

    def __hash__(self) -> int:
        """By identity: there is one object for each backend."""

    # Crossing between host and device: always asked for by name, never implied.
    def from_host(self, array: np.ndarray[Any, Any]) -> Array:
        """A new array with the values and dtype of a NumPy array."""

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A NumPy array with the same values; on the host it may share memory."""

    def readonly(self, array: Array) -> Array:
        """What users are handed: a view that refuses writes, or the array where there is none."""

    def synchronize(self) -> None:
        """Wait until all work submitted so far is done."""

    # Functions missing from the standard. They keep the dtype and pass NaN on.
    def sigmoid(self, x: Array) -> Array:
        """1 / (1 + exp(-x)): accurate relative to its size, never overflowing."""

    def erf(self, x: Array) -> Array:
        """The error function, to a few units in the last place."""

    # As the standard has it, and as exact as a pairwise sum along every axis; float16 in float32.
    # ``summation.floating`` makes that of a library's own, which may add up term by term.
    def sum(
        self, x: Array, *, axis: Any = None, dtype: Any = None, keepdims: bool = False
    ) -> Array:
        """The sum over an axis, several, or all."""

    # Indexing by NumPy's rules, with arrays of any integer dtype; the standard has it in part only.
    # An index out of range raises IndexError before anything is written; a device may instead let
    # those in arrays wrap around, because to look at them it would have to wait, but it may not
    # touch memory outside ``x``.
    def getitem(self, x: Array, key: Key) -> Array:
        """``x[key]``; basic keys may give a view."""

    def index_add(self, x: Array, key: Key, values: Array) -> Array:
        """``x[key] += values``, every duplicate counted; returns ``x``, or a new array.

        ``values`` has the dtype of ``x`` and broadcasts to ``x[key]``. What many duplicates add up
        to is as exact as ``sum``.
        """

    def last_writer(self, shape: tuple[int, ...], key: Key) -> Array:
        """For each element of an ``x`` of this shape: which element of ``x[key]`` is it, or -1.

        The elements of ``x[key]`` are counted in row-major order; where several are the same
        element of ``x``, the last one counts. int64, of shape ``shape``.
        """

    # Windows and their transpose, of which convolutions and pooling are made. Lengths are tuples,
    # one for each of the n axes in front of the last one. What they return shares no memory.
    def windows(self, x: Array, sizes: Lengths, strides: Lengths, dilations: Lengths) -> Array:
        """(..., L1, ..., Ln, C) to (..., O1, ..., On, K1, ..., Kn, C): windows K at O places.

        A window's elements are ``dilations`` apart, and windows ``strides``.
        """

    def overlap_add(
        self, x: Array, lengths: Lengths, sizes: Lengths, strides: Lengths, dilations: Lengths
    ) -> Array:
        """Back from there to (..., L1, ..., Ln, C): elements that came from one place added up."""


class ArrayNamespace:
    """Looks names up in ``namespace`` once, then finds them in its own dictionary."""

    name: str
    namespace: ModuleType

    def __getattr__(self, name: str) -> Any:
        # Asked for by copy, pickle and inspect, or missing in a subclass: not of the namespace.
        if name.startswith("__") or name in ("name", "namespace"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        try:
            value = getattr(self.namespace, name)
        except AttributeError:
            raise AttributeError(f"backend {self.name!r} has no function {name!r}") from None
        self.__dict__[name] = value
        return value

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    def readonly(self, array: Array) -> Array:
        return array

    def synchronize(self) -> None:
        """Eager host libraries have nothing to wait for."""

    def getitem(self, x: Array, key: Key) -> Array:
        return x[tuple(key)]

    def take_along_axis(self, x: Array, indices: Array, /, *, axis: int = -1) -> Array:
        return self.getitem(x, self._along(x, indices, axis))

    def add_along_axis(self, x: Array, indices: Array, values: Array, /, *, axis: int) -> Array:
        """``index_add`` at the places that ``take_along_axis`` reads."""
        return self.index_add(x, self._along(x, indices, axis), values)

    def _along(self, x: Array, indices: Array, axis: int) -> Key:
        """Indices along an axis, beside the own place of each element along the others."""
        key: list[Array] = [
            self.reshape(self.arange(n), tuple([n if i == j else 1 for j in range(x.ndim)]))
            for i, n in enumerate(x.shape)
        ]
        key[axis] = indices
        return key

    def windows(self, x: Array, sizes: Lengths, strides: Lengths, dilations: Lengths) -> Array:
        # Axis by axis, the last one first: what it gives lies behind the axes still to come.
        for done, along in enumerate(zip(sizes[::-1], strides[::-1], dilations[::-1], strict=True)):
            axis = -2 - 2 * done
            keys = _places(axis, count_windows(x.shape[axis], *along), *along)
            x = self.stack([x[key] for key in keys], axis=-2 - done)
        return x

    def overlap_add(
        self, x: Array, lengths: Lengths, sizes: Lengths, strides: Lengths, dilations: Lengths
    ) -> Array:
        # The same backwards.
        steps = zip(lengths, sizes, strides, dilations, strict=True)
        for left, (length, *along) in zip(range(len(sizes))[::-1], steps, strict=True):
            axis, window = -2 - 2 * left, -2 - left
            shape = x.shape[:window] + x.shape[window + 1 :]
            total = self.zeros((*shape[:axis], length, *shape[axis + 1 :]), dtype=x.dtype)
            for k, key in enumerate(_places(axis, shape[axis], *along)):
                part = x[(..., k, *(slice(None),) * (-window - 1))]
                total = self.index_add(total, key, part)
            x = total
        return x


def count_windows(length: int, size: int, stride: int, dilation: int) -> int:
    """How many windows fit into a length; 0 or less if not one does."""
    return (length - dilation * (size - 1) - 1) // stride + 1


def _places(axis: int, n: int, size: int, stride: int, dilation: int) -> list[tuple[Any, ...]]:
    """Keys of what stands first, second, ... in each of ``n`` windows along a negative axis."""
    after = (slice(None),) * (-axis - 1)
    span = stride * (n - 1) + 1
    return [(..., slice(k, k + span, stride), *after) for k in range(0, size * dilation, dilation)]
