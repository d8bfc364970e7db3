"""Layers without a state, and ``Sequential``, which puts one behind the other.

Weights are stored (in, out), so that a product reads ``x @ weight`` as in the equations; that is
the subtle difference from PyTorch, whose ``Linear.weight`` is (out, in).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ..functional import dropout, layer_norm
from ..primitives.elementwise import TensorLike, where
from ..primitives.indexing import take
from ..primitives.movement import expand_dims
from ..recurrence.ragged import placed
from ..tensor import Tensor, as_tensor
from . import init
from .module import Module, Parameter


class Sequential(Module):
    """Modules and functions, each applied to the output of the one before.

    A pair ``(output, state)``, which recurrent layers return, hands on its output only; what the
    last one returns is returned whole. Parameters are called ``"0.weight"``, as in PyTorch::

        nn.Sequential(nn.Embedding(1000, 64), nn.LSTM(64, 128), nn.Linear(128, 10))

    Indexing gives a stage, slicing a Sequential that shares them. Where stages need more than one
    argument, such as ``lengths``, write a module with a ``forward`` of its own.
    """

    def __init__(self, *stages: Callable[[Any], Any]) -> None:
        for i, stage in enumerate(stages):
            if not callable(stage):
                raise TypeError(
                    f"Sequential: stage {i} is a {type(stage).__name__}, not a module or a "
                    "function; of a list, Sequential(*stages)"
                )
            setattr(self, str(i), stage)
        self.length = len(stages)

    def forward(self, x: Any) -> Any:
        """See the class."""
        for i, stage in enumerate(self):
            if i and isinstance(x, tuple) and len(x) == 2:
                x, _ = x
            x = stage(x)
        return x

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return (getattr(self, str(i)) for i in range(self.length))

    def __getitem__(self, index: int | slice) -> Any:
        stages = tuple(self)
        return Sequential(*stages[index]) if isinstance(index, slice) else stages[index]


class Linear(Module):
    """``x @ weight + bias``: (..., in_features) to (..., out_features).

    ``weight`` (in_features, out_features) is drawn by ``weight_init``, ``bias`` (out_features,) by
    ``bias_init``. Raises ValueError for an x whose last axis is not ``in_features``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_init: init.Initialiser = init.xavier_uniform,
        bias_init: init.Initialiser = init.zeros,
    ) -> None:
        check_sizes("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(init.draw(weight_init, (in_features, out_features)))
        self.bias = Parameter(init.draw(bias_init, (out_features,))) if bias else None

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        x = _with_last_axis("Linear", x, self.in_features, "in_features", self.weight)
        out = x @ self.weight
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Rows of ``weight`` (num_embeddings, embedding_dim): integers (...) to (..., embedding_dim).

    ``weight`` is drawn by ``weight_init``, normal with standard deviation 1 as in PyTorch. The row
    ``padding_idx``, counted from the end if negative, starts at zero and gets no gradient. Raises
    IndexError for an integer below 0 or beyond the last row.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        weight_init: init.Initialiser = init.normal,
    ) -> None:
        check_sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        initial = init.draw(weight_init, (num_embeddings, embedding_dim))
        if padding_idx is not None:
            if padding_idx not in range(-num_embeddings, num_embeddings):
                raise ValueError(
                    f"Embedding: padding_idx {padding_idx} is none of {num_embeddings} embeddings"
                )
            padding_idx %= num_embeddings
            initial = np.where(np.arange(num_embeddings)[:, None] == padding_idx, 0, initial)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = padding_idx
        self.weight = Parameter(initial)

    def forward(self, x: Any) -> Tensor:
        """See the class."""
        indices = placed(x, self.weight.backend)
        if indices.dtype.kind not in "iu":
            raise TypeError(f"Embedding: takes integers, not {indices.dtype}; use astype('int64')")
        indices = indices.astype("int64")  # in which every number of a row fits
        # A negative index would count from the end; this way it is out of range like a large one.
        chosen = where(indices < 0, indices - self.num_embeddings, indices)
        try:
            rows = take(self.weight, chosen, axis=0)
        except IndexError:
            raise IndexError(
                f"Embedding: indices{_range(indices)} for {self.num_embeddings} embeddings, which "
                f"are numbered 0 to {self.num_embeddings - 1}"
            ) from None
        if self.padding_idx is None:
            return rows
        padding = expand_dims(indices == self.padding_idx, axis=-1)
        return where(padding, rows.detach(), rows)

    def extra_repr(self) -> str:
        """Sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Module):
    """In training, zeroes elements with probability ``p`` and scales the others by 1 / (1 - p).

    After ``eval()`` it does nothing (Srivastava et al. 2014). In ``unroll`` every time step has a
    mask of its own; ``VariationalDropout`` keeps one for the whole sequence.
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: a probability p between 0 and 1, not {p}")
        self.p = p

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.p}"


class LayerNorm(Module):
    """The last axis shifted to mean 0, scaled to variance 1, then * weight + bias (Ba et al. 2016).

    Args:
        normalized_shape: the size of the last axis; PyTorch's shape of one element will do.
        eps: added to the variance before the root.
        elementwise_affine: whether there are ``weight``, which starts at 1, and ``bias``.
        bias: whether, then, there is ``bias``, which starts at 0.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        if isinstance(normalized_shape, (tuple, list)):
            if len(normalized_shape) != 1:
                raise ValueError(
                    "LayerNorm: normalises the last axis, so normalized_shape is one size, not "
                    f"{normalized_shape}; reshape x to join its last axes"
                )
            (normalized_shape,) = normalized_shape
        check_sizes("LayerNorm", normalized_shape=normalized_shape)
        self.normalized_shape, self.eps = normalized_shape, eps
        shape = (normalized_shape,)
        self.weight = Parameter(init.ones(shape)) if elementwise_affine else None
        self.bias = Parameter(init.zeros(shape)) if elementwise_affine and bias else None

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        size = self.normalized_shape
        x = _with_last_axis("LayerNorm", x, size, "normalized_shape", self.weight)
        return layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The size, and what is left out."""
        absent = [name for name in ("weight", "bias") if getattr(self, name) is None]
        return f"{self.normalized_shape}" + (f", no {' and '.join(absent)}" if absent else "")


def check_sizes(operation: str, least: int = 0, **sizes: Any) -> None:
    """Raise ValueError for what is no integer of at least ``least``."""
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < least:
            raise ValueError(f"{operation}: {name} is an integer of at least {least}, not {size!r}")


def _with_last_axis(operation: str, x: Any, size: int, name: str, weight: Tensor | None) -> Tensor:
    """x as a Tensor (..., size)."""
    if isinstance(x, tuple):
        raise TypeError(
            f"{operation}: expected a Tensor (..., {size}), not a tuple; a recurrent layer returns "
            "(output, state), of which the output goes on"
        )
    found = as_tensor(x) if weight is None else placed(x, weight.backend)
    if found.shape[-1:] != (size,):
        raise ValueError(
            f"{operation}: expected (..., {size}), not {found.shape}; the last axis is {name}"
        )
    return found


def _range(indices: Tensor) -> str:
    """The range of integers as part of an error, where they are known: not inside ``vmap``."""
    if backends.of(indices._array) is None:
        return ""
    host = indices.numpy()
    return f" from {host.min()} to {host.max()}"
