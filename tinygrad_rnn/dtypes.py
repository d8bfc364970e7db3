"""Dtypes: the default one, and those of a backend by the names of NumPy's."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinygrad_rnn_backends import Backend

_default_dtype = np.dtype(np.float32)


def set_default_dtype(dtype: Any) -> None:
    """The dtype of Python floats, creation functions and parameters: float32 unless set."""
    global _default_dtype
    found = np.dtype(dtype).newbyteorder("=")
    if found.kind != "f":
        raise TypeError(f"set_default_dtype: a floating dtype, not {found}")
    _default_dtype = found


def default_dtype() -> np.dtype[Any]:
    """The dtype that ``set_default_dtype`` set."""
    return _default_dtype


@lru_cache(256, typed=True)  # asked at every operation; a dtype has one name for good
def canonical_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype of the same name as a backend's own."""
    if isinstance(dtype, np.dtype):
        return dtype
    try:
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    except TypeError:
        return np.dtype(str(dtype).rpartition(".")[2])


@lru_cache(1024, typed=True)
def native_dtype(backend: Backend, dtype: Any) -> Any:
    """A backend's own dtype of the same name as ``dtype``."""
    return getattr(backend, canonical_dtype(dtype).name)
