"""What a plan is made for: whether its loops run as machine code, and on how many threads.

The extra ``jit`` brings what that needs; where it is missing or fails, the NumPy program runs, and
a warning says so once. ``TINYGRAD_RNN_JIT=0`` asks for the NumPy program. The subtle point is
dtypes: kernels for a CPU are for float32 only, because they approximate functions to its rounding;
a GPU has functions for float64, too.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cpu import run as cpu
from .gpu import run as gpu
from .gpu.device import library_of


@dataclass(frozen=True, eq=False)
class Machine:
    """The processor that the arrays of a backend are for, and what runs there."""

    np: Any  # the library of the arrays, as programs call it
    compiler: Any  # of loops: ``cpu.run`` or ``gpu.run``
    gemm: Callable[..., None]  # products around them


_machines: dict[str, Machine] = {}


def machine_of(backend: Any) -> Machine | None:
    """What plans for the arrays of a backend are made for; None if there are no such plans."""
    name = "" if backend is None else backend.name
    if name == "numpy" and name not in _machines:
        _machines[name] = Machine(np, cpu, gemm)
    if name == "cupy" and name not in _machines:
        _machines[name] = Machine(library_of(backend), gpu, gpu.gemm)
    return _machines.get(name)


class NotCompiled(Exception):
    """Why loops could not be compiled, although they should have been."""


_told: set[str] = set()


def warned(reason: str) -> str:
    """A reason why there are no kernels, after a warning that says so, once."""
    if not _told:
        _told.add(reason)
        cure = "pip install 'tinygrad_rnn[jit]'; TINYGRAD_RNN_JIT=0 asks for NumPy in silence"
        warnings.warn(f"planned loops run on NumPy, slower: {reason}. {cure}", stacklevel=2)
    return reason


@functools.cache
def threads() -> int:
    """How many threads share rows: as many as a BLAS would take, of the processors there are."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    for name in ("TINYGRAD_RNN_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        asked = os.environ.get(name, "")
        if asked.isdigit() and int(asked) > 0:
            return min(int(asked), processors)
    return processors


def gemm(count: int, a: Any, b: Any, out: Any) -> None:
    """out = a @ b on so many threads."""
    cpu.product(a, b, out, threads=count)
