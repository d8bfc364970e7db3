"""Dropout. In ``vmap`` each example is a row that gets a mask of its own."""

from __future__ import annotations

from ..planner.planned import composition
from ..primitives.elementwise import TensorLike, where
from ..random import uniform_like
from ..tensor import Tensor, as_tensor

__all__ = ["dropout"]


def dropout(x: TensorLike, /, p: float = 0.5, training: bool = True) -> Tensor:
    """x with elements zeroed with probability ``p`` and the others scaled by 1 / (1 - p).

    In ``unroll`` the mask of a row at a time step depends on nothing but the seed, the call, the
    place in the cell, the step and the row (see ``random.py``). In ``vmap`` the examples are the
    rows, each with a mask of its own; an x that is the same for all of them gets one mask.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: a probability p between 0 and 1, not {p}")
    x = as_tensor(x)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0.0
    return _dropout(x, float(p))


@composition()
def _dropout(x: Tensor, p: float) -> Tensor:
    return where(uniform_like(x) >= p, x * (1 / (1 - p)), 0.0)
