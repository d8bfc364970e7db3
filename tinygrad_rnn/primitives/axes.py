"""Axes as the table wants them: negative integers, checked once where they enter.

Counted from the end, an axis stays right when a transform adds an axis in front.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Axis: TypeAlias = "int | Sequence[int] | None"


def negative_axis(axis: int, ndim: int, operation: str) -> int:
    """One axis of an array of ``ndim`` axes; raises AxisError, which is an IndexError, too."""
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"{operation}: axis must be an integer, not {axis!r}") from None
    if not ndim:
        raise np.exceptions.AxisError(
            f"{operation}: axis {index} is out of range, for a 0-d tensor has no axes; "
            "reshape(x, (1,)) has one"
        )
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(
            f"{operation}: axis {index} is out of range for {ndim} axes "
            f"({-ndim} to {ndim - 1} are possible)"
        )
    return index if index < 0 else index - ndim


def negative_axes(axis: Axis, ndim: int, operation: str) -> tuple[int, ...]:
    """Several axes, or all for None; each may occur once."""
    if axis is None:
        return tuple(range(-ndim, 0))
    if isinstance(axis, int):
        return (negative_axis(axis, ndim, operation),)
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(negative_axis(a, ndim, operation) for a in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{operation}: an axis is named twice in axis={axis!r}")
    return axes


def count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[a] for a in axes)


def kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """``shape`` with length 1 along the reduced axes, as ``keepdims`` leaves it."""
    ndim = len(shape)
    return tuple(1 if i - ndim in axes else n for i, n in enumerate(shape))
