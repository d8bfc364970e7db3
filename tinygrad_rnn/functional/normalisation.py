"""Layer normalisation, written as its equation."""

from __future__ import annotations

from ..planner.planned import composition
from ..primitives.elementwise import TensorLike, sqrt, square
from ..primitives.reduction import in_float32, mean
from ..tensor import Tensor, as_tensor

__all__ = ["layer_norm"]


@in_float32
def layer_norm(
    x: TensorLike,
    /,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last axis (Ba et al. 2016), then * weight + bias."""
    x = as_tensor(x)
    if not x.ndim:
        raise ValueError("layer_norm: a scalar has no last axis")
    for name, factor in (("weight", weight), ("bias", bias)):
        if isinstance(factor, (list, tuple)):
            raise TypeError(
                f"layer_norm: {name} is a Tensor {x.shape[-1:]}, not a {type(factor).__name__}; it "
                "is always the last axis that is normalised, so no shape is given"
            )
        if factor is not None and as_tensor(factor).shape not in ((), x.shape[-1:]):
            raise ValueError(
                f"layer_norm: {name} of shape {as_tensor(factor).shape} for x of shape {x.shape}; "
                f"one of {x.shape[-1:]} is needed"
            )
    weight = None if weight is None else as_tensor(weight)
    bias = None if bias is None else as_tensor(bias)
    return _layer_norm(x, weight, bias, eps)


@composition()
def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - mean(x, axis=-1, keepdims=True)
    out = centred / sqrt(mean(square(centred), axis=-1, keepdims=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias
