"""Layers without a state.

Weights are stored (in, out), so that a product reads ``x @ weight`` as in the equations; that is
the subtle difference from PyTorch, whose ``Linear.weight`` is (out, in).
"""

from __future__ import annotations

import tinygrad_rnn_backends as backends

from ..primitives.creation import asarray
from ..primitives.indexing import take
from ..tensor import Tensor
from . import init
from .module import Module, Parameter


class Linear(Module):
    """``x @ weight + bias``: (..., in_features) to (..., out_features).

    ``weight`` (in_features, out_features) is drawn by Xavier's rule, ``bias`` (out_features,) is 0.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.xavier_uniform((in_features, out_features)))
        self.bias = Parameter(init.zeros((out_features,))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"Linear: expected (..., {self.in_features}), not {x.shape}")
        out = x @ self.weight
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of ``weight`` (num_embeddings, embedding_dim): integers (...) to (..., embedding_dim).

    ``weight`` is normal with standard deviation 1, as in PyTorch.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter(init.normal((num_embeddings, embedding_dim)))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        try:
            return take(self.weight, x, axis=0)
        except IndexError:
            last = self.num_embeddings - 1
            raise IndexError(
                f"Embedding: indices{_range(x)} for {self.num_embeddings} embeddings, which are "
                f"numbered 0 to {last}"
            ) from None

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}"


def _range(x: Tensor) -> str:
    """The range of integers as part of an error, where they are known: not inside ``vmap``."""
    x = asarray(x)
    if backends.of(x._array) is None:
        return ""
    host = x.numpy()
    return f" from {host.min()} to {host.max()}"
