"""What the Array API asks of a namespace about itself: its dtypes, devices and capabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .dtypes import canonical_dtype, default_dtype
from .primitives.creation import device_of
from .tensor import Tensor

__array_api_version__ = "2024.12"

_NAMES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = {name: np.dtype(name) for name in (*_NAMES, "float32", "float64")}


class FloatInfo(NamedTuple):
    """The limits of a floating dtype, as ``finfo`` returns them."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype[Any]


class IntegerInfo(NamedTuple):
    """The limits of an integer dtype, as ``iinfo`` returns them."""

    bits: int
    max: int
    min: int
    dtype: np.dtype[Any]


def _dtype_of(x: Any) -> np.dtype[Any]:
    return x.dtype if isinstance(x, Tensor) else canonical_dtype(x)


def finfo(type: Any, /) -> FloatInfo:
    """The limits of a floating dtype, or of that of a Tensor, as Python numbers."""
    dtype = _dtype_of(type)
    if dtype.kind != "f":
        raise TypeError(f"finfo: {dtype} is no floating dtype; iinfo is for integers")
    found = np.finfo(dtype)
    eps, largest, least, smallest = map(
        float, (found.eps, found.max, found.min, found.smallest_normal)
    )
    return FloatInfo(found.bits, eps, largest, least, smallest, dtype)


def iinfo(type: Any, /) -> IntegerInfo:
    """The limits of an integer dtype, or of that of a Tensor, as Python numbers."""
    dtype = _dtype_of(type)
    if dtype.kind not in "iu":
        raise TypeError(f"iinfo: {dtype} is no integer dtype; finfo is for floats")
    found = np.iinfo(dtype)
    return IntegerInfo(found.bits, int(found.max), int(found.min), dtype)


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind.

    A kind is "bool", "signed integer", "unsigned integer", "integral", "real floating", "complex
    floating", which no Tensor has, "numeric", a dtype, or a tuple of those.
    """
    return bool(np.isdtype(canonical_dtype(dtype), kind))


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion turns a dtype, or that of a Tensor, into the dtype ``to``."""
    return bool(np.can_cast(_dtype_of(from_), canonical_dtype(to)))


class NamespaceInfo:
    """What ``__array_namespace_info__()`` returns. Devices are those of the chosen backend."""

    def capabilities(self) -> dict[str, Any]:
        """Boolean indices and shapes that depend on values are possible, outside of ``vmap``."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Any:
        """The device of the chosen backend, as its library calls it."""
        return device_of(backends.default())

    def devices(self) -> list[Any]:
        """That device; other backends have others."""
        return [self.default_device()]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """The dtypes of Python floats and ints, and of indices."""
        integer = np.dtype("int64")
        return {"real floating": default_dtype(), "integral": integer, "indexing": integer}

    def dtypes(
        self, *, device: Any = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, np.dtype[Any]]:
        """The standard's dtypes, of a kind (as in ``isdtype``) or all; float16 is not in it."""
        return {n: d for n, d in _DTYPES.items() if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> NamespaceInfo:
    """What the standard wants to know about this namespace."""
    return NamespaceInfo()
