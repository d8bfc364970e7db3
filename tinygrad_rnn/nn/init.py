"""Initial weights, drawn on the host by NumPy: one seed gives the same model on every backend.

Each function returns a NumPy array of the default dtype. The subtle point is the shape: weights are
(in, out), and a recurrent cell's matrix holds its gates side by side, each drawn for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..random import host_generator
from ..tensor import default_dtype

HostArray: TypeAlias = np.ndarray[Any, Any]
Initialiser: TypeAlias = Callable[[Sequence[int]], HostArray]


def zeros(shape: Sequence[int]) -> HostArray:
    """Zeros."""
    return np.zeros(tuple(shape), dtype=default_dtype())


def uniform(shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> HostArray:
    """Uniform in [low, high)."""
    return host_generator().uniform(low, high, tuple(shape)).astype(default_dtype())


def normal(shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> HostArray:
    """Normal."""
    return host_generator().normal(mean, std, tuple(shape)).astype(default_dtype())


def xavier_uniform(shape: Sequence[int]) -> HostArray:
    """Uniform with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), of shape (in, out)."""
    fan_in, fan_out = shape
    bound = math.sqrt(6 / max(fan_in + fan_out, 1))
    return uniform(shape, -bound, bound)


def orthogonal(shape: Sequence[int]) -> HostArray:
    """A random matrix (in, out) with orthonormal rows or columns (Saxe et al. 2013)."""
    rows, columns = shape
    tall = host_generator().normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # without it, the distribution is not uniform
    drawn: HostArray = q if rows >= columns else q.T
    return drawn.astype(default_dtype())


def side_by_side(initialiser: Initialiser, rows: int, columns: int, gates: int) -> HostArray:
    """A matrix (rows, gates * columns) whose gates are drawn one after the other."""
    return np.concatenate([initialiser((rows, columns)) for _ in range(gates)], axis=1)
