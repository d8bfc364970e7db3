"""Sums as exact as a pairwise one, for namespaces that add up some axes term by term.

A float32 of a million tenths, added one after the other, is 1 % off; a sum of sums of blocks is
not, since no partial sum meets more than a block of terms. The blocks are views, so that what they
cost is another pass over one number for each of them. float16 is summed in float32, running sums in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

BLOCK = 32  # terms: of so many equal ones a sum is exact to 3e-7
FEW = 2 * BLOCK  # terms that are not worth blocks
_WIDE = 2048  # numbers that are added at once: enough for speed, few enough for the first cache


def floating(
    xp: Any,
    x: Any,
    *,
    axis: Any = None,
    dtype: Any = None,
    keepdims: bool = False,
    block: int = BLOCK,
) -> Any:
    """``xp.sum``, in blocks where x is floating and a sum has more terms than a block."""
    if dtype is not None or not xp.isdtype(x.dtype, "real floating") or x.size <= 2 * block:
        return xp.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)
    return in_blocks(xp, xp.sum, x, axis, keepdims, block=block)


def in_blocks(
    xp: Any,
    add: Callable[..., Any],
    x: Any,
    axis: Any,
    keepdims: bool,
    is_pairwise: Callable[[Any, int], bool] = lambda x, axis: False,
    block: int = BLOCK,
) -> Any:
    """The sum over ``axis``, where ``add`` is the library's: exact along what ``is_pairwise``."""
    ndim = x.ndim
    axes = range(ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    summed = {a % ndim for a in axes}
    if math.prod(x.shape[a] for a in summed) <= 2 * block:
        return add(x, axis=axis, keepdims=keepdims)
    # Neighbours that are all summed, or all kept, are one axis: of a contiguous x this is a view.
    runs: list[tuple[bool, int]] = []
    for a, n in enumerate(x.shape):
        if runs and runs[-1][0] == (a in summed):
            runs[-1] = (runs[-1][0], runs[-1][1] * n)
        else:
            runs.append((a in summed, n))
    total = xp.reshape(x, tuple(n for _, n in runs))
    for a in reversed(range(len(runs))):
        if runs[a][0]:
            total = _along(xp, add, total, a, is_pairwise, block)
    shape = (1 if a in summed else n for a, n in enumerate(x.shape) if keepdims or a not in summed)
    return xp.reshape(total, tuple(shape))


def _along(
    xp: Any,
    add: Callable[..., Any],
    x: Any,
    axis: int,
    is_pairwise: Callable[[Any, int], bool],
    block: int,
) -> Any:
    """The sum over one axis, which stays with length 1."""
    n = x.shape[axis]
    if n <= 2 * block or is_pairwise(x, axis):
        return add(x, axis=axis, keepdims=True)
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    at_once = max(1, min(_WIDE // max(1, math.prod(behind)), n // block))
    whole = n - n % (block * at_once)
    head, tail = (
        x[(*(slice(None),) * axis, part, ...)] for part in (slice(whole), slice(whole, n))
    )
    head = xp.reshape(head, (*before, -1, block, at_once, *behind))
    sums = xp.reshape(add(head, axis=axis + 1), (*before, -1, *behind))
    if whole < n:
        rest = _along(xp, add, tail, axis, is_pairwise, block)
        sums = xp.concat([sums, rest], axis=axis)
    return _along(xp, add, sums, axis, is_pairwise, max(8, block // 2))


def cumulative(xp: Any, x: Any, *, axis: int | None = None, **options: Any) -> Any:
    """``xp.cumulative_sum``, of floats in float64 on the way."""
    if not xp.isdtype(x.dtype, "real floating") or x.dtype == xp.float64 or options.get("dtype"):
        return xp.cumulative_sum(x, axis=axis, **options)
    wide = xp.cumulative_sum(x, axis=axis, dtype=xp.float64, **options)
    return xp.astype(wide, x.dtype)


def indexed(shape: tuple[int, ...], key: Any) -> list[tuple[int, Any]]:
    """For each index array of a key: the length of the axis that it is for, and the array."""
    axis, found = 0, []
    for entry in key:
        if hasattr(entry, "shape"):
            found.append((shape[axis], entry))
        if entry is Ellipsis:
            axis += len(shape) - sum(e is not None and e is not Ellipsis for e in key)
        elif entry is not None:
            axis += 1
    return found
