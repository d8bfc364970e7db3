"""Linear algebra, the extension ``linalg`` of the Array API: ``tinygrad_rnn.linalg.inv(x)``.

Matrices are the last two axes, vectors the last one; whatever axes come before them are kept. What
these functions are is in ``primitives/linalg.py`` and ``primitives/contraction.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from . import names
from .primitives.contraction import matmul, outer, tensordot, vecdot
from .primitives.linalg import (
    cholesky,
    cross,
    det,
    diagonal,
    eigh,
    eigvalsh,
    inv,
    matrix_norm,
    matrix_power,
    matrix_rank,
    pinv,
    qr,
    slogdet,
    solve,
    svd,
    svdvals,
    trace,
    vector_norm,
)
from .primitives.movement import matrix_transpose

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(names.of_linalg(name))
