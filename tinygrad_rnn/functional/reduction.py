"""What becomes of the losses of a batch: their mean, their sum, or themselves."""

from __future__ import annotations

from typing import Literal

from ..primitives.elementwise import TensorLike
from ..primitives.reduction import mean, sum
from ..tensor import Tensor

Reduction = Literal["mean", "sum", "none"]


def reduced(
    operation: str, losses: Tensor, reduction: Reduction, divisor: TensorLike | None = None
) -> Tensor:
    """The losses reduced; for "mean", their sum over ``divisor`` if that is not their number."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return sum(losses)
    if reduction == "mean":
        return mean(losses) if divisor is None else sum(losses) / divisor
    raise ValueError(f"{operation}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")
