"""The floor: only the matrix products of the pass, in the shapes of the literal loop.

Left out are sums, activations and the addition of one step's weight gradient to the next. No NumPy
library that runs the loop step by step can be quicker than this; one that multiplies all steps at
once can, since larger products run closer to the machine's peak.

The subtle thing is ``np.dot``. With one row in the batch, ``np.matmul`` computes the products of a
column by a row (the weight gradients) in a loop of its own, eight times slower than BLAS does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.problem import Array, Data
from benchmarks.sides.numpy_memory import numpy_versions

VERSIONS = numpy_versions()
FORM = "np.dot with out="


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    h = data.weights[0]  # any numbers of the right shape
    z, dh = h @ data.w_hh, np.empty_like(h)
    dz = z.copy()
    dw_ih, dw_hh = np.empty_like(data.w_ih), np.empty_like(data.w_hh)

    def forward() -> None:
        for x_t in data.x:
            np.dot(x_t, data.w_ih, out=z)
            np.dot(h, data.w_hh, out=z)

    def backward(pending: None) -> tuple[float, list[Array]]:
        for x_t in data.x:
            np.dot(x_t.T, dz, out=dw_ih)
            np.dot(h.T, dz, out=dw_hh)
            np.dot(dz, data.w_hh.T, out=dh)
        return 0.0, []  # nothing to compare

    return forward, backward
