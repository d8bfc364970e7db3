"""Sequences of different lengths: put into one batch, and taken out of it again.

What the padding holds never matters. ``unroll`` with ``lengths`` does not let a cell see it; there
are zeros here only because something has to stand there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..planner.loop import beside
from ..primitives.creation import arange, place, tensor
from ..primitives.elementwise import astype, where
from ..primitives.movement import pad, reshape, stack, unstack
from ..structure import flatten, unflatten
from ..tensor import Tensor, as_tensor, on_host


def pad_sequences(sequences: Sequence[Any]) -> tuple[Any, np.ndarray[Any, Any]]:
    """Sequences (T_i, ...) as one batch (T, B, ...), T the longest, and their lengths (B,).

    A sequence may be a structure of Tensors that share axis 0, and then so is the batch; or a list
    of numbers, nested as an array would be. One of no steps takes the dtype of the others.

    Raises ValueError where there are none, or where they differ in more than their lengths.
    """
    if not len(sequences):
        raise ValueError("pad_sequences: there are no sequences, so their shape is not known")
    sequences = [from_lists(sequence) for sequence in sequences]
    structure = flatten(sequences[0])[1]
    rows = []
    for i, sequence in enumerate(sequences):
        leaves, own = flatten(sequence, structure)
        if own != structure:
            raise ValueError(f"pad_sequences: sequence 0 is structured {structure}, {i} {own}")
        rows.append([as_tensor(x) for x in leaves])
    lengths = [_length(row, i) for i, row in enumerate(rows)]
    batch = []
    for column in map(_alike_if_empty, zip(*rows, strict=True)):
        if len({(x.shape[1:], x.dtype) for x in column}) > 1:
            raise ValueError(
                "pad_sequences: sequences (T_i, ...) differ in nothing but T_i; these are "
                + ", ".join(f"{x.dtype} {x.shape}" for x in column)
            )
        batch.append(stack([_pad(x, max(lengths)) for x in column], axis=1))
    return unflatten(structure, batch), np.array(lengths)


def from_lists(sequence: Any) -> Any:
    """A list of numbers, nested as an array would be, as a Tensor; anything else as it is."""
    if isinstance(sequence, list) and not any(hasattr(x, "dtype") for x in flatten(sequence)[0]):
        return tensor(sequence)
    return sequence


def _alike_if_empty(column: tuple[Tensor, ...]) -> list[Tensor]:
    """Sequences of no steps in the dtype, and with the steps' shape, of the first that has any."""
    like = next((x for x in column if x.size), column[0])
    return [
        astype(reshape(x, (0, *like.shape[1:])), like.dtype)
        if x.shape in ((0,), (0, *like.shape[1:]))
        else x
        for x in column
    ]


def batch_of(
    operation: str, sequences: list[Any], lengths: Any, mask: Any, reset: Any
) -> tuple[Any, np.ndarray[Any, Any], Any]:
    """A list given to ``unroll`` or a layer, with its options: a batch, its lengths and resets."""
    if lengths is not None or mask is not None:
        raise ValueError(
            f"{operation}: a list of sequences has their lengths; give no others. Inputs of "
            "several parts are a tuple"
        )
    batch, lengths = pad_sequences(sequences)
    if isinstance(reset, list):
        reset, _ = pad_sequences([on_host("reset", flags).astype(bool) for flags in reset])
    return batch, lengths, reset


def unpad_sequences(batch: Any, lengths: Sequence[int] | np.ndarray[Any, Any]) -> list[Any]:
    """The sequences (T_i, ...) in a batch (T, B, ...), a structure if it is one."""
    host = on_host("unpad_sequences: lengths", lengths)
    if host.dtype.kind not in "iu" or min(lengths, default=0) < 0:
        raise ValueError(f"unpad_sequences: lengths are numbers of steps, not {list(lengths)}")
    leaves, structure = flatten(batch)
    columns = []
    for x in map(as_tensor, leaves):
        if x.ndim < 2 or x.shape[1] != len(lengths) or max(lengths, default=0) > x.shape[0]:
            raise ValueError(
                f"unpad_sequences: lengths {[int(n) for n in lengths]} for a batch of shape "
                f"{x.shape}, which is (T, B, ...)"
            )
        ends = zip(unstack(x, axis=1), lengths, strict=True)
        columns.append([row[: int(n)] for row, n in ends])
    return [unflatten(structure, row) for row in zip(*columns, strict=True)]


def has_values(lengths: Any) -> bool:
    """Whether lengths can be looked at, unlike those of a traced or a batched Tensor."""
    return not (isinstance(lengths, Tensor) and hasattr(lengths._array, "why_no_value"))


def steps_before(lengths: Tensor, steps: int) -> Tensor:
    """``steps_within`` of lengths that have no values, (T, B), unchecked."""
    return reshape(arange(steps, backend=lengths.backend), (-1, 1)) < lengths


def length_of_time(operation: str, name: str, parts: Sequence[Tensor]) -> int:
    """The number of steps that parts of a sequence, (T, ...) each, have in common."""
    lengths = {x.shape[:1] for x in parts}
    if len(lengths) != 1 or () in lengths:
        shapes = ", ".join(str(x.shape) for x in parts) or "none at all"
        raise ValueError(
            f"{operation}: {name} share an axis 0 of time, unlike {shapes}: as many steps each"
        )
    return int(parts[0].shape[0])


def steps_within(operation: str, lengths: Any, steps: int, rows: int) -> np.ndarray[Any, Any]:
    """Booleans (T, B) on the host, True at the steps that each row takes; checked."""
    if not has_values(lengths):
        raise TypeError(
            f"{operation}: lengths are integers on the host, and inside vmap or a traced cell they "
            "have no values; give a mask (T, B) of booleans, arange(T)[:, None] < lengths"
        )
    ends = on_host(f"{operation}: lengths", lengths)
    ends = ends if ends.size else ends.astype(np.int64)
    if ends.dtype.kind not in "iu" or ends.shape != (rows,):
        raise ValueError(
            f"{operation}: lengths are {rows} integers, one for each row, not {ends.dtype} of "
            f"shape {ends.shape}"
        )
    if ends.size and (ends.min() < 0 or ends.max() > steps):
        raise ValueError(
            f"{operation}: lengths {ends.tolist()} for {steps} steps; each is from 0 to {steps}"
        )
    taken: np.ndarray[Any, Any] = np.arange(steps)[:, None] < ends
    return taken


def flags(
    operation: str,
    name: str,
    given: Any,
    shape: tuple[int, int],
    backend: str,
    axes: str = "time, batch",
) -> Tensor:
    """Booleans of a shape, (T, B) unless ``axes`` says otherwise, as a Tensor and checked."""
    found = place(given, backend)
    if found.shape != shape or found.dtype.kind != "b":
        cure = f"; {name}.T has the axes in this order" * (found.shape == shape[::-1] != shape)
        cure += f"; {name} != 0 is bool" * (found.dtype.kind != "b")
        raise ValueError(
            f"{operation}: {name} is bool of shape {shape} ({axes}), not {found.dtype} of "
            f"{found.shape}{cure}"
        )
    return found


def valid_steps(operation: str, x: Tensor, mask: Any, lengths: Any) -> Tensor:
    """Booleans (T, B), True where x (T, B, ...) is no padding, by a mask or lengths or neither."""
    steps, rows = x.shape[:2]
    if mask is not None and lengths is not None:
        raise ValueError(f"{operation}: give lengths or a mask, not both")
    if not has_values(lengths):
        mask = steps_before(lengths, steps)
    elif lengths is not None:
        mask = steps_within(operation, lengths, steps, rows)
    if mask is None:
        mask = np.ones((steps, rows), dtype=bool)
    return flags(operation, "mask", mask, (steps, rows), x.backend)


def without_padding(x: Tensor, valid: Tensor) -> Tensor:
    """x (T, B, ...) with zeros where ``valid`` (T, B) is False, whatever stood there."""
    return where(beside(valid, x), x, 0)


def _length(leaves: list[Tensor], place: int) -> int:
    found = {x.shape[:1] for x in leaves}
    if len(found) != 1 or () in found:
        raise ValueError(
            f"pad_sequences: the Tensors of sequence {place} share an axis 0 of time, unlike "
            + ", ".join(str(x.shape) for x in leaves)
        )
    return found.pop()[0]


def _pad(x: Tensor, steps: int) -> Tensor:
    return pad(x, [(0, steps - x.shape[0])] + [(0, 0)] * (x.ndim - 1))
