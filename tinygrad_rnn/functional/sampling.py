"""Gradients through what is drawn or decided."""

from __future__ import annotations

from ..primitives.elementwise import TensorLike
from ..primitives.movement import broadcast_shape
from ..random import normal
from ..tensor import Tensor, as_tensor

__all__ = ["rsample_normal", "straight_through"]


def straight_through(value: TensorLike, surrogate: TensorLike) -> Tensor:
    """``value``, with the gradient of ``surrogate``: the straight-through estimator.

    Bengio et al. 2013. Of what is decided and has no derivative, such as ``p > 0.5`` as numbers or
    a one-hot class, the surrogate is what it was decided by, such as p. The shapes are equal; the
    result has the dtype of the surrogate.
    """
    value, surrogate = as_tensor(value), as_tensor(surrogate)
    if value.shape != surrogate.shape:
        raise ValueError(
            f"straight_through: value of shape {value.shape}, surrogate of {surrogate.shape}; they "
            "have to agree"
        )
    return value.detach().astype(surrogate.dtype) + (surrogate - surrogate.detach())


def rsample_normal(mean: TensorLike, std: TensorLike) -> Tensor:
    """mean + std * e, for draws e of a standard normal distribution: reparameterised samples.

    Kingma & Welling 2014, equation 8; PyTorch's ``Normal(mean, std).rsample()``. The shapes
    broadcast; a std may be ``exp(log_std)`` or ``softplus(x)`` of what a network gives. The draws
    follow the rules of ``random.uniform``.
    """
    mean, std = as_tensor(mean), as_tensor(std)
    shape = broadcast_shape("rsample_normal", mean.shape, std.shape)
    dtype = mean.dtype if mean.dtype.kind == "f" else std.dtype
    if dtype.kind != "f":
        raise TypeError(f"rsample_normal: mean is {mean.dtype} and std {std.dtype}, none floating")
    return mean + std * normal(shape, dtype=dtype, backend=mean.backend)
