"""Bytes that a graph of NumPy arrays holds, for the sides that compute with NumPy.

The subtle thing: tracing starts just before the forward pass, so data and parameters do not count,
and neither does a view of them; an array that only a view keeps alive counts in full.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.blas import numpy_blas
from benchmarks.problem import Data


def held(forward: Callable[[], Any], data: Data) -> dict[str, int]:
    gc.collect()
    tracemalloc.start()
    pending = forward()
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    del pending
    arrays = python = 0
    for trace in snapshot.traces:
        if trace.domain == np.lib.tracemalloc_domain:
            arrays += trace.size
        else:
            python += trace.size
    return {"arrays": arrays, "objects": python, "input": data.x.nbytes}


def numpy_versions() -> dict[str, str]:
    return {"numpy": np.__version__, **numpy_blas()}
