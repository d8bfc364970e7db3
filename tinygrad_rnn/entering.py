"""What may enter: arrays of real numbers, in the byte order of this machine, without a mask."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .dtypes import canonical_dtype
from .graph import Array


def real(array: Array) -> Array:
    """An array of real numbers, as it is; TypeError for one of anything else."""
    if canonical_dtype(array.dtype).kind not in "biuf":
        raise TypeError(f"an array of {array.dtype} holds no real numbers")
    return array


def native(array: Array) -> Array:
    """An array in the byte order of this machine: itself, or a copy of one from another's files."""
    dtype = array.dtype
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        return array.astype(dtype.newbyteorder("="))
    return array


def refuse_masked(operation: str, data: Any) -> None:
    """TypeError for a masked array: whatever does not know of its mask reads what it hides."""
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(
            f"{operation}: a masked array would enter without its mask; put numbers in its place "
            "by data.filled(0), and leave them out by where, or by the mask= of what takes one: "
            "~numpy.ma.getmaskarray(data)"
        )


def type_name(x: Any) -> str:
    """What errors call the type of x: where it is from, too, since libraries share names."""
    kind = type(x)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def operation_called() -> str:
    """The function or module of this library that was called, and a colon: how an error opens.

    Of those that called each other the first one counts, since that is what its caller wrote.
    """
    name = ""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tinygrad_rnn"):
        code = frame.f_code
        if code.co_name == "__call__" and "self" in frame.f_locals:
            name = type(frame.f_locals["self"]).__name__
        elif not code.co_name.startswith("_") and "<" not in code.co_qualname:
            name = code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return f"{name}: " if name else ""
