"""What becomes of the losses of a batch: their mean, their sum, or themselves."""

from __future__ import annotations

from typing import Literal

from ..primitives.elementwise import TensorLike
from ..primitives.reduction import mean, sum
from ..tensor import Tensor

__all__ = ["Reduction", "reduced"]

Reduction = Literal["mean", "sum", "none"]


def reduced(
    operation: str,
    losses: Tensor,
    reduction: Reduction,
    divisor: TensorLike | None = None,
    others: str = "",
) -> Tensor:
    """The losses reduced; for "mean", their sum over ``divisor`` if that is not their number.

    ``others`` are the reductions, as an error lists them, that the operation does itself.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum(losses)
    if reduction == "mean":
        return mean(losses) if divisor is None else sum(losses) / divisor
    raise ValueError(
        f"{operation}: reduction is {others}'mean', 'sum' or 'none', not {reduction!r}"
    )
