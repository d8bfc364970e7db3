"""The floor: the matrix products of the training step and nothing else.

Those that no step waits for are made once, for all steps together: the input's, and those of the
weights' gradients. What remains in the loop is h @ w_hh forwards and dz @ w_hh.T backwards, against
a contiguous transpose. ``np.dot``, since ``np.matmul`` is slower with one row.

The subtle thing: the floor belongs to a BLAS. A library that brings a quicker one can be below it.
"""

from __future__ import annotations

import numpy as np

from benchmarks.grid.problem import Problem, Training
from benchmarks.sides.numpy_memory import numpy_versions

VERSIONS = numpy_versions()


def products(problem: Problem) -> Training:
    w_ih, w_hh, *_ = problem.parameters
    steps, batch, inputs = problem.x.shape
    hidden, width = w_hh.shape
    x = problem.x.reshape(-1, inputs)
    h = problem.target  # any numbers of the right shape
    z = np.empty((steps, batch, width), np.float32)
    dz = np.resize(h, z.shape)
    dh = np.empty((batch, hidden), np.float32)
    w_hh_t = np.ascontiguousarray(w_hh.T)
    dw_ih, dw_hh = np.empty_like(w_ih), np.empty_like(w_hh)
    over_all = h.reshape(-1, hidden), z.reshape(-1, width), dz.reshape(-1, width)

    def step() -> float:
        all_h, all_z, all_dz = over_all
        np.dot(x, w_ih, out=all_z)
        for t in range(steps):
            np.dot(h[t], w_hh, out=z[t])
        for t in range(steps):
            np.dot(dz[t], w_hh_t, out=dh)
        np.dot(x.T, all_dz, out=dw_ih)
        np.dot(all_h.T, all_dz, out=dw_hh)
        return 0.0

    return Training(step, lambda: [])  # nothing to compare


FORMS = {"products": ("np.dot with out=, hoisted over time", products)}
