"""Layers without a state, and ``Sequential``, which puts one behind the other.

Weights are stored (in, out), so that a product reads ``x @ weight`` as in the equations; unlike in
PyTorch, whose ``Linear.weight`` is (out, in).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np

import tinygrad_rnn_backends as backends

from ..anomaly import is_library
from ..functional import dropout, embedding, layer_norm
from ..primitives.creation import place
from ..primitives.elementwise import TensorLike
from ..primitives.movement import concat, reshape, split
from ..recurrence.ragged import valid_steps, without_padding
from ..tensor import Tensor, as_tensor
from . import init
from .module import Module, Parameter


class Sequential(Module):
    """Modules and functions, each applied to the output of the one before.

    A pair ``(output, state)``, which recurrent layers return, hands on its output only; what the
    last one returns is returned whole. Parameters are called ``"0.weight"``, as in PyTorch::

        model = nn.Sequential(nn.Embedding(1000, 64), nn.LSTM(64, 128), nn.Linear(128, 10))
        logits = model(tokens, lengths=lengths)  # (T, B), (B,) to (T, B, 10)
        logits = model([[5, 2, 7], [1]])  # a list of sequences to a list of (T_i, 10)

    Indexing gives a stage, slicing a Sequential that shares them.
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

    @property
    def takes(self) -> tuple[str, ...]:
        """Which options any of the stages takes."""
        return tuple({name: None for stage in self for name in getattr(stage, "takes", ())})

    def forward(
        self,
        x: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        mode: Literal["auto", "literal", "planned"] | None = None,
    ) -> Any:
        """The output of the last stage.

        Args:
            x: what the first stage takes; or a list of sequences (T_i, ...), to each of which the
                stages are applied, so that what comes out is a list, too.
            lengths: for the recurrent layers and embeddings among the stages, as they take it. Of
                the padding, other stages make what they make of zeros.
            mask: likewise.
            reset: for the recurrent layers.
            mode: for the recurrent layers, as for ``unroll``.

        Raises TypeError for an option that no stage takes.
        """
        given = {"lengths": lengths, "mask": mask, "reset": reset, "mode": mode}
        given = {name: option for name, option in given.items() if option is not None}
        unused = [name for name in given if name not in self.takes]
        if unused:
            raise TypeError(
                f"Sequential: {unused[0]} is for recurrent layers and embeddings; no stage is one"
            )
        if isinstance(x, list):
            x = _sequences(self, x)
        for i, stage in enumerate(self):
            if i and isinstance(x, tuple) and len(x) == 2:
                x, _ = x
            options = {k: v for k, v in given.items() if k in getattr(stage, "takes", ())}
            if not isinstance(x, list) or getattr(stage, "takes_lists", False):
                x = stage(x, **options)
            else:
                x = [stage(sequence) for sequence in x]
        return x

    takes_lists = True

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
    ``bias_init``. Raises ValueError for an x whose last axis is not ``in_features``. An x of
    float64 makes all float64; it warns of that once, since it is seldom meant.
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
        look_at_dtype("Linear", "x", x, self.weight)
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

    With ``sparse`` the gradient of ``weight`` stays rows and their places until the optimiser: see
    ``functional.embedding``, and ``optim.SparseAdam``.

    A list of arrays or Tensors (T_i, ...) are sequences, and gives a list of (T_i, ...,
    embedding_dim). With ``lengths`` (B,) or ``mask`` (T, B), x is (T, B, ...): what stands in the
    padding may be any number and gives zeros.
    """

    takes = ("lengths", "mask")
    takes_lists = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        sparse: bool = False,
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
        self.padding_idx, self.sparse = padding_idx, sparse
        self.weight = Parameter(initial)

    def forward(self, x: Any, lengths: Any = None, mask: Any = None) -> Any:
        """See the class."""
        if isinstance(x, list) and any(isinstance(part, (Tensor, np.ndarray)) for part in x):
            if lengths is not None or mask is not None:
                raise ValueError("Embedding: a list of sequences has their lengths; give no others")
            sequences = _sequences(self, x)
            ends = np.cumsum([sequence.shape[0] for sequence in sequences]).tolist()
            return list(split(self._rows(concat(sequences)), ends[:-1]))
        indices = place(x, self.weight.backend)
        if lengths is None and mask is None:
            return self._rows(indices)
        if indices.ndim < 2:
            raise ValueError(
                f"Embedding: lengths and mask speak of rows; x is (T, B, ...), not {indices.shape}"
            )
        valid = valid_steps("Embedding", indices, mask, lengths)
        return without_padding(self._rows(without_padding(indices, valid)), valid)

    def _rows(self, indices: Tensor) -> Tensor:
        return embedding(indices, self.weight, self.padding_idx, sparse=self.sparse)

    def extra_repr(self) -> str:
        """Sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        sparse = ", sparse=True" if self.sparse else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{sparse}"


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


class TimeDistributed(Module):
    """A module applied to every step: x (T, B, ...) goes through it as (T * B, ...) (Keras's name).

    So what takes a batch, such as a ``Sequential`` of convolutions, takes sequences of them, in one
    call. ``module`` returns a Tensor with its rows along axis 0; what comes out is (T, B, ...).
    """

    def __init__(self, module: Callable[[Any], Any]) -> None:
        if not callable(module):
            raise TypeError(
                f"TimeDistributed: takes a module or a function, not a {type(module).__name__}"
            )
        self.module = module

    def forward(self, x: TensorLike) -> Tensor:
        """See the class."""
        x = as_tensor(x)
        if x.ndim < 2:
            raise ValueError(f"TimeDistributed: x is (T, B, ...), not {x.shape}")
        rows = reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
        try:
            out = self.module(rows)
        except (TypeError, ValueError) as error:
            error.add_note(f"TimeDistributed: x {x.shape} is given to its module as {rows.shape}")
            raise
        if not isinstance(out, Tensor) or out.shape[:1] != (x.shape[0] * x.shape[1],):
            found = out.shape if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(
                f"TimeDistributed: the module returns a Tensor with the {x.shape[0] * x.shape[1]} "
                f"rows along axis 0, not {found}; recurrent layers take (T, B, ...) themselves"
            )
        return reshape(out, (*x.shape[:2], *out.shape[1:]))


def check_sizes(operation: str, least: int = 0, **sizes: Any) -> None:
    """Raise ValueError for what is no integer of at least ``least``."""
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < least:
            raise ValueError(f"{operation}: {name} is an integer of at least {least}, not {size!r}")


def _sequences(module: Module, given: list[Any]) -> list[Tensor]:
    """A list of sequences as Tensors (T_i, ...) on the backend of a module."""
    weight = next(module.parameters(), None)
    home = backends.default().name if weight is None else weight.backend
    sequences = [place(sequence, home) for sequence in given]
    wrong = [x.shape for x in sequences if not x.ndim]
    if wrong:
        raise ValueError(
            f"{type(module).__name__}: a list holds sequences (T_i, ...), not numbers; of one "
            "sequence make a Tensor, tinygrad_rnn.tensor(list)"
        )
    # A sequence of no steps is float by the look of it.
    kinds = {x.dtype for x in sequences if x.size} or {x.dtype for x in sequences}
    (first, *_) = kinds
    return [x if x.size else x.astype(first) for x in sequences]


class PromotionWarning(UserWarning):
    """A layer whose weights are float32 was given float64, and computes in float64, slowly."""


_promoted: set[str] = set()  # whose users have been told
_meant: ContextVar[bool] = ContextVar("tinygrad_rnn_promotion_is_meant", default=False)


@contextmanager
def promotion_is_meant() -> Iterator[None]:
    """Nothing is said of float64 in this block."""
    token = _meant.set(True)
    try:
        yield
    finally:
        _meant.reset(token)


def look_at_dtype(operation: str, name: str, x: Tensor, weight: Tensor, *also: str) -> None:
    """Warn, once in a process for each operation, of an input that promotes a weight."""
    if x._array.dtype is weight._array.dtype or operation in _promoted or _meant.get():
        return
    if x.dtype.kind == "f" and x.dtype.itemsize > max(weight.dtype.itemsize, 4):
        warnings.warn(
            f"{operation}: {name} is {x.dtype} and the weights are {weight.dtype}, so everything "
            "from here on is computed in float64, several times slower. NumPy's floats are float64 "
            "unless told otherwise: convert the data where they come in, x.astype('float32'). If "
            "float64 is meant, set_default_dtype('float64') before the model is made",
            PromotionWarning,
            stacklevel=_levels_to_the_user(),
        )
        _promoted.update((operation, *also))


def _levels_to_the_user() -> int:
    """How many calls up from ``look_at_dtype`` the first line is that is not the library's own."""
    frame: Any = inspect.currentframe()
    level = -1
    while frame is not None and is_library(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level + 1


def _with_last_axis(operation: str, x: Any, size: int, name: str, weight: Tensor | None) -> Tensor:
    """x as a Tensor (..., size)."""
    if isinstance(x, tuple):
        raise TypeError(
            f"{operation}: expected a Tensor (..., {size}), not a tuple; a recurrent layer returns "
            "(output, state), of which the output goes on"
        )
    found = as_tensor(x) if weight is None else place(x, weight.backend)
    if found.shape[-1:] != (size,):
        raise ValueError(
            f"{operation}: expected (..., {size}), not {found.shape}; the last axis is {name}"
        )
    return found
