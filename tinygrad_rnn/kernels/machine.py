"""What a plan is made for: whether its loops run as machine code, and on how many threads.

The extra ``jit`` brings what that needs; where it is missing or fails, the NumPy program runs, and
a warning says so once. ``TINYGRAD_RNN_JIT=0`` asks for the NumPy program. Kernels for a CPU are for
float32 only, because they approximate functions to its rounding; a GPU has functions for float64,
too.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import settings
from .cpu import run as cpu
from .gpu import run as gpu
from .gpu.device import library_of
from .ir import Loop


class Compiler(Protocol):
    """What makes loops machine code."""

    @property
    def SUPPORTED(self) -> frozenset[str]:
        """The names of instructions, besides loads, constants and stores."""

    @property
    def DTYPES(self) -> frozenset[str]:
        """What slots may hold."""

    def available(self) -> str | None:
        """None, or why there is none here."""

    def compile(self, loops: list[Loop]) -> Sequence[Callable[..., None]]:
        """A function ``(arrays, table, context, threads)`` for each loop."""


@dataclass(frozen=True, eq=False)
class Machine:
    """The processor that the arrays of a backend are for, and what runs there."""

    np: Any  # the library of the arrays, as programs call it
    compiler: Compiler  # ``cpu.run`` or ``gpu.run``
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


def warn_once(reason: str) -> str:
    """A reason why there are no kernels, after a warning that says so, once."""
    if not _told:
        _told.add(reason)
        cure = "pip install 'tinygrad_rnn[jit]'; TINYGRAD_RNN_JIT=0 asks for NumPy in silence"
        warnings.warn(f"planned loops run on NumPy, slower: {reason}. {cure}", stacklevel=2)
    return reason


@functools.cache
def threads() -> int:
    """How many threads share rows: ``chosen_threads``, decided once."""
    return chosen_threads()[0]


def chosen_threads() -> tuple[int, str]:
    """How many threads share rows at most, and why so many.

    As many as there are processors, unless the environment asks for fewer. It makes no difference
    what else runs: a thread of the pool sleeps while it waits, but for some tenths of a millisecond
    after its work, so two of them on two processors took 0.6 of the time of one where nothing else
    ran, as long beside one busy program, and 0.75 of it beside two (a step of
    ``examples/char_lm.py``).

    Raises:
        SettingError: if ``TINYGRAD_RNN_NUM_THREADS`` is not an integer from 1.
    """
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    of = f"of {processors} processor{'s' * (processors > 1)}"
    ours = "TINYGRAD_RNN_NUM_THREADS"
    if (asked := settings.count(ours)) is not None:
        return min(asked, processors), f"{of}: {ours}={asked}"
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # read as leniently as a BLAS does
        text = os.environ.get(name, "").partition(",")[0].strip()
        if text.isascii() and text.isdecimal() and int(text):
            return min(int(text), processors), f"{of}: {name}={text}; {ours} would come first"
    return processors, f"{of}; {ours} asks for fewer"


def gemm(count: int, a: Any, b: Any, out: Any) -> None:
    """out = a @ b on so many threads, the axes before the last two broadcasting."""
    cpu.product(a, b, out, threads=count)
