"""Buffers that are used again while plans run.

The subtle point is when a buffer may be used again. Nobody says so, and nobody has to: the pool
looks whether anything but itself still refers to it. An output that a user keeps, a view of it, a
graph that waits for its backward pass, another library's array on the same memory: each holds a
reference to the buffer, and none of them is ever written to.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # of NumPy or CuPy

_GRAIN = 64


def _references_when_free() -> int:
    """What ``sys.getrefcount`` says of an object that only a list and the asking loop hold."""
    for item in [object()]:
        return sys.getrefcount(item)
    return 0


_FREE = _references_when_free()


class Pool:
    """Buffers by size, taken again once nothing outside refers to them."""

    def __init__(self) -> None:
        self._buffers: dict[int, list[Array]] = {}
        self._sizes: dict[Any, int] = {}
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of any content, which nobody else refers to."""
        size = self._sizes.get((shape, dtype))
        if size is None:
            if len(self._sizes) > 10_000:
                self._sizes.clear()
            count = math.prod(shape)
            size = self._sizes[shape, dtype] = rounded(count * np.dtype(dtype).itemsize)
        with self._lock:
            for buffer in self._buffers.get(size, ()):
                if sys.getrefcount(buffer) == _FREE:
                    # Made under the lock: from now on the array refers to the buffer.
                    return np.ndarray(shape, dtype, buffer)
            return np.ndarray(shape, dtype, self._other(size))

    def _other(self, size: int) -> Array:
        """A free buffer of up to twice the size, as longer sequences left them; or a new one."""
        for own in sorted(own for own in self._buffers if size < own <= 2 * size):
            for buffer in self._buffers[own]:
                if sys.getrefcount(buffer) == _FREE:
                    return buffer
        buffer = np.empty(size, dtype=np.uint8)
        self._buffers.setdefault(size, []).append(buffer)
        return buffer

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of zeros, which nobody else refers to."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    @property
    def bytes(self) -> int:
        """What the buffers take, in use or not."""
        with self._lock:
            return sum(size * len(buffers) for size, buffers in self._buffers.items())

    def clear(self) -> None:
        """Forget all buffers; those in use are freed by their users."""
        with self._lock:
            self._buffers.clear()


def rounded(size: int) -> int:
    """A size that others share: with at most an eighth of it to spare."""
    if size <= _GRAIN:
        return _GRAIN
    grain = max(_GRAIN, 1 << ((size - 1).bit_length() - 4))
    return -(-size // grain) * grain
