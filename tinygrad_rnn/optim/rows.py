"""New values in some rows of an array: written there if nobody else can see it, else into a copy.

Arrays are shared: by graphs that saved them, by what ``.numpy()`` and ``state_dict()`` gave away.
So nothing is ever written to, with this exception: an array of which only its Tensor, or its place
among an optimiser's moments, knows. Python counts who knows of an object, and a view of an array
knows of it, too. To copy a large array for a few rows would take longer than all else in a step.
"""

from __future__ import annotations

import operator
import sys
from functools import partial
from pickle import PickleBuffer
from typing import Any

import numpy as np

from tinygrad_rnn_backends import Backend

from ..atomic import Change, is_journal_kept
from ..graph import Array, Rows
from ..tensor import Tensor, wrap

_count = getattr(sys, "getrefcount", None)


def _holders(p: Tensor) -> int:
    return _count(p._array)  # type: ignore[misc, no-any-return]


def _holders_in(arrays: dict[str, Any], name: str) -> int:
    return _count(arrays[name])  # type: ignore[misc, no-any-return]


# What is counted where there is one holder: the call itself may be another.
_ALONE = _holders(wrap(np.empty(1), None)) if _count else None
_ALONE_IN = _holders_in({"": np.empty(1)}, "") if _count else None


def owns_array(p: Tensor) -> bool:
    """Whether the array of a Tensor may be written to: nobody else knows of it or its memory."""
    return _count is not None and _holders(p) == _ALONE and _is_own(p._array)


def owns_rows(arrays: dict[str, Any], name: str) -> bool:
    """The same of an array in a dictionary."""
    return _count is not None and _holders_in(arrays, name) == _ALONE_IN and _is_own(arrays[name])


def _is_own(array: Array) -> bool:
    """Whether an array's memory is no other's, a lease of the pool being one's own."""
    return (
        type(array) is np.ndarray
        and not is_journal_kept()
        and array.flags.writeable
        and (array.base is None or isinstance(array.base, PickleBuffer))
    )


def rows_of(xp: Backend, gradient: Array) -> Any:
    """A gradient as ``Rows`` if some of its rows are zero throughout, else as it is."""
    if not gradient.shape or 0 in gradient.shape:
        return gradient
    flat = xp.reshape(gradient, (gradient.shape[0], -1))
    if not xp.any(flat[:, 0] == 0):  # which takes little time where all rows have a gradient
        return gradient
    (places,) = xp.nonzero(xp.any(flat != 0, axis=1))
    if places.shape[0] == gradient.shape[0]:
        return gradient
    parts = [(places, xp.take(gradient, places, axis=0))]
    return Rows(xp, tuple(gradient.shape), gradient.dtype, parts)


def writing(array: Array, places: Array, rows: Array) -> Change:
    """What writes rows into an array of NumPy."""
    return partial(operator.setitem, array), places, rows


def with_rows(xp: Backend, array: Array, places: Array, rows: Array) -> Array:
    """A copy with other rows at places, each of which comes once."""
    made = xp.asarray(array, copy=True)
    if type(made) is np.ndarray:
        made[places] = rows
        return made
    # Elsewhere rows can only be added to: x - x is 0, to which anything is added exactly.
    made = xp.index_add(made, (places,), -xp.take(array, places, axis=0))
    return xp.index_add(made, (places,), rows)
