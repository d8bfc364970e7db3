"""Who multiplies NumPy's matrices outside of plans: NumPy's BLAS, or what plans have.

The kernels of ``cpu/`` take every large enough product of float32 where NumPy brought OpenBLAS and
the processor has AVX2 or AVX-512: there they are quicker, and more exact. And there is one pool of
threads then, for this is also where plans run; those of a BLAS spin for a while after each product,
in the way of others. What is left to NumPy takes OpenBLAS one thread.

Shapes, strides and the processor decide, never a clock: a run repeats to the bit. The bits do not
depend on how many threads there are, either. ``TINYGRAD_RNN_PRODUCTS=0`` leaves all products to
NumPy, as does ``TINYGRAD_RNN_JIT=0`` or the lack of llvmlite; it is read at the first large one,
which also waits for the compiler (a quarter of a second).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from . import settings
from .cpu import run as cpu
from .machine import threads

Array = np.ndarray[Any, Any]

LARGE = cpu.SMALL + 1
"""Of products with fewer multiplications NumPy's are."""

_FLOAT32 = np.dtype(np.float32)
_FEW_COLUMNS = 8  # of a result; a vector holds as many or twice as many


def product(x: Array, y: Array, out: Array | None = None) -> Array | None:
    """x @ y for arrays of at least two axes; None if NumPy shall make it, or refuse to.

    ``out`` is what it is to be written to, of its shape, its rows contiguous.
    """
    (m, k), (rows, n) = x.shape[-2:], y.shape[-2:]
    if not x.dtype == _FLOAT32 == y.dtype or rows != k or not ours():
        return None
    if x.ndim == 2 == y.ndim:
        if m == 1 or n < _FEW_COLUMNS:
            return None
        out = np.empty((m, n), np.float32) if out is None else out
    else:
        try:
            batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        except ValueError:
            return None
        out = np.empty((*batch, m, n), np.float32) if out is None else out
    cpu.product(x, y, out, threads=threads())
    return out


def serve(backend: Any) -> None:
    """Have NumPy's backend ask ``product`` for what is large enough."""
    backend.product, backend.large = product, LARGE


@functools.cache
def ours() -> bool:
    """Whether large products of float32 are for our kernels here; decided once.

    Raises:
        SettingError: if an environment variable that is asked about it means nothing.
    """
    wanted = [settings.switch(f"TINYGRAD_RNN_{name}") for name in ("JIT", "PRODUCTS")]
    return False not in wanted and "openblas" in _blas() and cpu.available() is None and cpu.wide()


def _blas() -> str:
    """The name of NumPy's."""
    built: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    return str(built.get("Build Dependencies", {}).get("blas", {}).get("name", "")).lower()
