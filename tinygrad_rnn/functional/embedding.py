"""Embedding: rows of a matrix by their numbers."""

from __future__ import annotations

from typing import Any

import tinygrad_rnn_backends as backends

from ..primitives.creation import place
from ..primitives.elementwise import TensorLike, where
from ..primitives.indexing import take, take_rows
from ..tensor import MODE, Tensor, as_tensor

__all__ = ["embedding"]


def embedding(
    input: Any, weight: TensorLike, padding_idx: int | None = None, *, sparse: bool = False
) -> Tensor:
    """Rows of ``weight`` (V, ...) by number: integers of any shape S to (S, ...).

    Row ``padding_idx``, counted from the end if negative, gets no gradient.

    With ``sparse`` the gradient of a leaf stays rows and their places until the optimiser, so that
    a step takes time for the rows that occur and not for all V. ``weight.grad`` then is a Tensor
    like any other, but what is computed of it is dense, except for sums with other such gradients
    and products with a number. ``clip_grad_norm_``, ``clip_grad_value_``, ``SparseAdam``, and where
    they say so ``SGD`` and ``Adagrad`` work on the rows; all others make it dense. It is dense from
    the start where the weight was computed or is used otherwise, too (tied to an output layer),
    under ``create_graph``, inside ``vmap`` and in functions that are planned; a whole step that is
    to be planned runs as it is, to be quick.

    Raises:
        IndexError: for an integer below 0 or beyond the last row.
        TypeError: for what are no integers.
        ValueError: for a weight without axes, and a ``padding_idx`` that is no row.
    """
    weight = as_tensor(weight)
    indices = place(input, weight.backend)
    if not weight.ndim:
        raise ValueError(f"embedding: weight is (V, ...), not {weight.shape}")
    count = weight.shape[0]
    if indices.dtype.kind not in "iu":
        raise TypeError(f"embedding: takes integers, not {indices.dtype}; use astype('int64')")
    if padding_idx is not None and padding_idx not in range(-count, count):
        raise ValueError(f"embedding: padding_idx {padding_idx} is none of {count} embeddings")
    indices = indices.astype("int64")  # in which every number of a row fits
    # A negative index would count from the end; this way it is out of range like a large one.
    chosen = where(indices < 0, indices - count, indices)
    recorder = MODE.get().recorder
    if sparse and recorder is not None and weight.is_leaf and weight.requires_grad:
        recorder.refuse("an embedding in it has sparse gradients")
    as_rows = sparse and weight.is_leaf and _run_as_they_stand(weight, chosen)
    try:
        rows = take_rows(weight, chosen) if as_rows else take(weight, chosen, axis=0)
    except IndexError:
        raise IndexError(
            f"embedding: indices{_range(indices)} for {count} embeddings, which are numbered "
            f"0 to {count - 1}{_cure(indices)}"
        ) from None
    if padding_idx is None:
        return rows
    padding = indices == padding_idx % count
    return where(padding.reshape(*padding.shape, *(1,) * (weight.ndim - 1)), rows.detach(), rows)


def _run_as_they_stand(*tensors: Tensor) -> bool:
    """Whether they are neither traced nor batched, nor is anybody to see what a trace would do."""
    mode = MODE.get()
    if mode.watch is not None or mode.recorder is not None or not mode.recording:
        return False
    return all(backends.of(x._array) is not None for x in tensors)


def _range(indices: Tensor) -> str:
    """The range of integers as part of an error, where they are known: not inside ``vmap``."""
    if backends.of(indices._array) is None:
        return ""
    host = indices.numpy()
    return f" from {host.min()} to {host.max()}"


def _cure(indices: Tensor) -> str:
    """What to do about a number below 0, such as the -100 that losses ignore."""
    if backends.of(indices._array) is None or indices.numpy().min() >= 0:
        return ""
    return "; where padding is negative, maximum(x, 0) makes symbols of it"
