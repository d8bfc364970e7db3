"""Masks of sequences of different lengths, and means over what they leave."""

from __future__ import annotations

import math
from typing import Any

import tinygrad_rnn_backends as backends

from ..primitives.axes import Axis, negative_axes
from ..primitives.creation import arange, place
from ..primitives.elementwise import TensorLike, astype, where
from ..primitives.movement import broadcast_to, reshape
from ..primitives.reduction import in_float32, sum
from ..tensor import Tensor, as_tensor

__all__ = ["masked_mean", "sequence_mask"]


def sequence_mask(lengths: Any, maxlen: int | None = None) -> Tensor:
    """Booleans (T, B), True at the first ``lengths`` (B,) steps of each row: a ``mask``.

    As layers and ``unroll`` take it, time first (TensorFlow's function of this name has rows
    first). T is ``maxlen``, or the longest of the lengths.
    """
    found = place(lengths, backends.default().name)
    if found.shape == (0,):  # an empty list has no dtype of its own
        found = astype(found, "int64")
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(
            f"sequence_mask: lengths are integers (B,), not {found.dtype} {found.shape}"
        )
    host = found.numpy() if backends.of(found._array) is not None else None
    if host is None and maxlen is None:
        raise ValueError("sequence_mask: lengths without values, as in a trace, need maxlen")
    low, high = (0, 0) if host is None or not host.size else (int(host.min()), int(host.max()))
    if low < 0 or (maxlen is not None and high > maxlen):
        possible = "0 or more" if maxlen is None else f"between 0 and {maxlen}"
        raise ValueError(
            f"sequence_mask: lengths from {low} to {high}; {possible} steps are possible"
        )
    maxlen = high if maxlen is None else maxlen
    steps = reshape(arange(maxlen, dtype="int64", backend=found.backend), (maxlen, 1))
    return steps < astype(found, "int64")


@in_float32
def masked_mean(
    x: TensorLike, mask: TensorLike, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    """The mean over ``axis`` of the elements of x where ``mask`` is True; nan where none is.

    Args:
        x: (d1, ..., dn); what is masked may be anything, also nan, and gets no gradient.
        mask: booleans of the first axes of x, such as (T, B) for (T, B, D), or of all of them;
            lengths of 1 stand for any.
        axis: as in ``mean``.
        keepdims: as in ``mean``.
    """
    x = as_tensor(x)
    axis = negative_axes(axis, x.ndim, "masked_mean")
    given = place(mask, x.backend)
    if given.dtype.kind != "b":
        raise TypeError(f"masked_mean: the mask is {given.dtype}, not bool; compare it, mask != 0")
    fits = [m in (1, n) for m, n in zip(given.shape, x.shape, strict=False)]
    if given.ndim > x.ndim or not all(fits):
        raise ValueError(
            f"masked_mean: a mask of shape {given.shape} for x of shape {x.shape}; it has the "
            "lengths of the first axes of x, or 1"
        )
    wide = reshape(given, (*given.shape, *(1,) * (x.ndim - given.ndim)))
    kept = broadcast_to(wide, x.shape)
    total = sum(where(kept, x, 0), axis=axis, keepdims=keepdims)
    number = sum(astype(kept, total.dtype), axis=axis, keepdims=keepdims)
    return total / where(number == 0, math.nan, number)
