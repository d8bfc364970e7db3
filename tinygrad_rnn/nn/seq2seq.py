"""From one sequence to another: an encoder, a bridge, and a decoder that attends.

    values, final = encoder(source, lengths=source_lengths)
    memory = decoder.remember(values, lengths=source_lengths)
    logits = decoder(shift_right(targets, start), memory, bridge(final), lengths=target_lengths)

The parts know nothing of each other: what is encoded may be a sentence or the regions of an image,
and the cell of the decoder may be anybody's. The decoder is a cell, too: ``decoder.step(tokens,
state, memory)``, its memory bound by ``functools.partial``, is what ``unroll`` runs in training and
what ``nn.search`` runs when nobody knows the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..dtypes import default_dtype
from ..primitives.creation import full_like, place, zeros
from ..primitives.elementwise import TensorLike, astype, logical_and, result_type, tanh, where
from ..primitives.movement import concat, moveaxis, reshape
from ..primitives.reduction import argmax
from ..random import uniform_like
from ..recurrence import Cell, initial_state, unroll
from ..recurrence.ragged import valid_steps, without_padding
from ..structure import flatten, unflatten
from ..tensor import Tensor, as_tensor
from .attention import Memory
from .layers import Linear
from .module import Module
from .recurrent import GRU, LSTM, RNN, Bidirectional, Recurrent
from .wrappers import StackedCell, VariationalDropout, Zoneout

Mode = Literal["auto", "literal", "planned"]


class Encoder(Module):
    """Recurrent layers on top of each other, the lowest on an embedding of its input.

    Args:
        embedding: a module applied to the input of all steps at once, such as ``nn.Embedding`` for
            tokens; or None.
        layers: as in ``nn.LSTM``, or ``nn.Recurrent(cell)``: called
            ``output, state = layer(x, lengths=, mask=)``, time first.
    """

    takes = ("lengths", "mask", "mode")  # of what ``Sequential`` is given

    def __init__(self, embedding: Module | None, *layers: Module) -> None:
        if not layers:
            raise ValueError("Encoder: give at least one recurrent layer")
        if not all(map(callable, layers)):
            raise TypeError(
                "Encoder: layers are given one by one, Encoder(embedding, *layers); not "
                + ", ".join(type(layer).__name__ for layer in layers)
            )
        if any(getattr(layer, "batch_first", False) for layer in layers):
            raise ValueError("Encoder: layers with batch_first=False are needed; time comes first")
        self.embedding, self.layers = embedding, list(layers)

    def forward(
        self, x: TensorLike, lengths: Any = None, mask: Any = None, mode: Mode = "auto"
    ) -> tuple[Tensor, Any]:
        """What to attend to, (S, B, E), and the final state, a list of them for several layers.

        ``x`` is (S, B) tokens or (S, B, I); ``lengths`` (B,) or ``mask`` (S, B) say what of it is
        there. The rest has no influence, may hold nan or any token, and gives zeros. ``mode`` is
        that of ``unroll``.
        """
        if isinstance(x, (list, tuple)):
            raise TypeError(
                f"Encoder: expected x (S, B, ...), not a {type(x).__name__}; of a list of "
                "sequences, x, lengths = pad_sequences(list)"
            )
        x = place(x, next(self.parameters()).backend)
        if x.ndim < 2:
            raise ValueError(f"Encoder: expected x (S, B, ...), not {x.shape}")
        if lengths is not None or mask is not None:
            x = without_padding(x, valid_steps("Encoder", x, mask, lengths))
        values = x if self.embedding is None else self.embedding(x)
        states = []
        for layer in self.layers:
            options = {} if mode == "auto" else {"mode": mode}
            values, state = layer(values, lengths=lengths, mask=mask, **options)
            states.append(state)
        return values, states if len(states) > 1 else states[0]


class Bridge(Module):
    """From the final state of an encoder to the first one of a decoder: tanh of a ``Linear`` each.

    Every part of the encoder's state, (layers * directions, B, H) or (B, H), becomes one vector a
    row, its layers and directions side by side. What tanh gives suits h and c; a cell whose state
    holds sums, as that of ``RWACell`` does, is better left to its own.

    Args:
        sizes: one number, the width of all these vectors together: every part of the decoder's
            state is made of all of the encoder's. Or their widths one by one, as many as the
            decoder's state has parts: the first is made of the first (h of h), and so on. So
            ``2 * H`` for a bidirectional GRU, ``(2 * H, 2 * H)`` from a bidirectional LSTM, whose
            parts are h_n and c_n, to an ``LSTMCell``.
        cell: the decoder's. Its ``initial_state`` tells which parts there are.

    Raises ValueError for as many sizes as the cell's state does not have; TypeError for no cell.
    """

    def __init__(self, sizes: int | Sequence[int], cell: Cell) -> None:
        _check_cell("Bridge", cell)
        if not hasattr(cell, "initial_state"):
            raise TypeError(
                "Bridge: the cell has no initial_state(batch_shape, dtype, backend), which would "
                "tell what its state looks like"
            )
        wanted = initial_state(cell, (1,), default_dtype(), backends.default().name)
        parts, self._structure = flatten(wanted)
        shapes = [part.shape for part in parts]
        if any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"Bridge: every part of a cell's state is (B, H), not {shapes}")
        self._of_all = not isinstance(sizes, Sequence)
        widths = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,) * len(parts)
        if len(widths) != len(parts):
            raise ValueError(
                f"Bridge: {len(widths)} sizes, {widths}, for a cell whose state has {len(parts)} "
                f"parts; sizes={sum(widths)} makes each of all"
            )
        self.sizes = widths[:1] if self._of_all else widths
        self.linears = [Linear(n, shape[1]) for n, shape in zip(widths, shapes, strict=True)]

    def forward(self, state: Any) -> Any:
        """The initial state, structured as the cell's; ValueError for other sizes than promised."""
        parts = [as_tensor(part) for part in flatten(state)[0]]
        vectors = [_row_vectors(part) for part in parts]
        vectors = [concat(vectors, axis=-1)] if self._of_all else vectors
        if tuple(x.shape[-1] for x in vectors) != self.sizes:
            raise ValueError(
                f"Bridge: made for parts of sizes {self.sizes}{' in all' * self._of_all}, each "
                "(layers * directions, B, H) or (B, H); not "
                + ", ".join(str(part.shape) for part in parts)
            )
        vectors = vectors * len(self.linears) if self._of_all else vectors
        pairs = zip(self.linears, vectors, strict=True)
        return unflatten(self._structure, [tanh(linear(x)) for linear, x in pairs])


def _row_vectors(part: Tensor) -> Tensor:
    """(layers * directions, B, H) to (B, layers * directions * H)."""
    if part.ndim == 2:
        return part
    if part.ndim != 3:
        raise ValueError(
            f"Bridge: a part of a state is (layers * directions, B, H) or (B, H), not {part.shape}"
        )
    groups, rows, width = part.shape
    return reshape(moveaxis(part, 0, 1), (rows, groups * width))


def _check_cell(operation: str, cell: Any) -> None:
    """A cell takes a step; a layer takes them all."""
    if isinstance(cell, (RNN, LSTM, GRU, Recurrent, Bidirectional)) or not callable(cell):
        raise TypeError(
            f"{operation}: a cell is called cell(x, state) for one step, as an nn.GRUCell is; a "
            f"{type(cell).__name__} is none"
        )


def shift_right(targets: Any, start: int) -> Tensor:
    """What a decoder is given so as to say ``targets`` (T, B): ``start``, and all but the last.

    Raises TypeError for a start that is no integer.
    """
    if not isinstance(start, (int, np.integer)) or isinstance(start, bool):
        raise TypeError(f"shift_right: start is a token, an integer, not {start!r}")
    targets = place(targets, backends.default().name)
    return concat([full_like(targets[:1], start), targets[:-1]])


class DecoderState(NamedTuple):
    """Between two steps of an ``AttentionDecoder``: the cell's state, and what is handed on.

    ``handed_on`` (B, ...) is the output, for Bahdanau's next query; or the attentional vector, for
    Luong's next input.
    """

    cell: Any
    handed_on: Tensor


class AttentionDecoder(Module):
    """A cell that looks at a memory at every step, and says what comes next.

    With ``order="bahdanau"`` (Bahdanau et al. 2015) it looks before the cell, with the output of
    the step before, and reads out all there is::

        context = attention.read(previous h, memory)
        h, state = cell([embedding; context], state)
        logits = readout([h; context; embedding])

    With ``order="luong"`` (Luong et al. 2015) it looks after the cell, with its new output. The
    result is handed on to the next step (their *input feeding*), at the first one zero::

        h, state = cell([embedding; previous attentional], state)
        context = attention.read(h, memory)
        attentional = tanh(combine([context; h]))
        logits = readout(attentional)

    Args:
        embedding: of the tokens that it is given, ``nn.Embedding`` or any module that makes
            (..., ``embedding_dim``) of integers (...).
        cell: any cell, of outputs (B, ``attention.query_size``). Its inputs are as wide as an
            embedding and, beside it, a context (Bahdanau) or an output (Luong).
        attention: those of ``nn``, or any that has ``remember``, ``read`` and the numbers
            ``query_size`` and ``context_size``.
        order: "luong" or "bahdanau".
        vocabulary_size: the number of logits, that of the embeddings unless given.
        embedding_dim: the width of an embedding, which only an ``nn.Embedding`` tells by itself.

    Raises ValueError for sizes that do not fit, TypeError for parts that are none.
    """

    def __init__(
        self,
        embedding: Module,
        cell: Cell,
        attention: Any,
        order: Literal["luong", "bahdanau"] = "luong",
        vocabulary_size: int | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        if order not in ("luong", "bahdanau"):
            raise ValueError(f"AttentionDecoder: order is 'luong' or 'bahdanau', not {order!r}")
        self.embedding, self.cell, self.attention, self.order = embedding, cell, attention, order
        _check_cell("AttentionDecoder", cell)
        if not hasattr(attention, "remember"):
            raise TypeError(
                "AttentionDecoder: the attention is one of nn, such as AdditiveAttention, or has "
                "their remember, read, query_size and context_size; not a "
                f"{type(attention).__name__}"
            )
        if vocabulary_size is None:
            vocabulary_size = getattr(embedding, "num_embeddings", None)
        if embedding_dim is None:
            embedding_dim = getattr(embedding, "embedding_dim", None)
        if not callable(embedding) or vocabulary_size is None or embedding_dim is None:
            raise TypeError(
                "AttentionDecoder: the embedding is an nn.Embedding, or a module that is given "
                "with vocabulary_size and embedding_dim, which it does not tell; not a "
                f"{type(embedding).__name__}"
            )
        self.vocabulary_size = vocabulary_size
        embedded, output, context = embedding_dim, attention.query_size, attention.context_size
        beside = output if order == "luong" else context
        self.input_size = embedded + beside
        taken = getattr(cell, "input_size", self.input_size)
        if taken != self.input_size:
            raise ValueError(
                f"AttentionDecoder: the cell takes inputs of {taken}, but is given "
                f"{self.input_size}: an embedding of {embedded} and {beside} beside it"
            )
        put_out = getattr(cell, "output_size", output)
        if put_out != output:
            raise ValueError(
                f"AttentionDecoder: the cell puts out {put_out}, but the attention takes queries "
                f"of {output}; query_size={put_out} is needed"
            )
        self.combine = Linear(context + output, output, bias=False) if order == "luong" else None
        read = output if order == "luong" else output + context + embedded
        self.readout = Linear(read, self.vocabulary_size)

    def remember(self, values: TensorLike, mask: Any = None, lengths: Any = None) -> Memory:
        """A memory of values (S, B, E); ``mask`` (S, B) or ``lengths`` say what of it is there.

        The regions of pictures x (B, E, H, W) are such values:
        ``permute_dims(reshape(x, (B, E, H * W)), (2, 0, 1))``.
        """
        memory: Memory = self.attention.remember(values, mask, lengths)
        return memory

    def initial_state(
        self, memory: Memory | TensorLike, state: Any = None, output: TensorLike | None = None
    ) -> DecoderState:
        """Where decoding starts.

        Args:
            memory: what will be attended to, as in ``forward``.
            state: the cell's, for example from a ``Bridge``; if None, the cell is asked for it.
            output: (B, query_size), with which Bahdanau's order looks first. If None it is h, the
                first part of the state (of the uppermost cell in a ``StackedCell``), as wide as a
                query in all cells of ``nn``; zeros, if it is not.
        """
        memory = memory if isinstance(memory, Memory) else self.remember(memory)
        like = memory.values
        rows = (like.shape[0], self.attention.query_size)
        if state is None:
            state = initial_state(self.cell, rows[:1], like.dtype, like.backend)
        elif hasattr(self.cell, "initial_state"):
            wanted = flatten(initial_state(self.cell, rows[:1], like.dtype, like.backend))[1]
            if flatten(state, wanted)[1] != wanted:
                raise TypeError(
                    f"AttentionDecoder: the state of the cell is structured {wanted}, not "
                    f"{flatten(state)[1]}; a Bridge makes one of another"
                )
        for part in flatten(state)[0]:
            if part.shape[:1] != rows[:1]:
                raise ValueError(
                    f"AttentionDecoder: a state of shape {part.shape} for a memory of {rows[0]} "
                    "rows, which have to be its axis 0"
                )
        dtype = result_type(like, self.readout.weight)
        nothing = zeros(rows, dtype, backend=like.backend)
        if self.order == "luong":
            return DecoderState(state, nothing)
        if output is None:
            output = _output_of(self.cell, state)
            output = output if output.shape == rows else nothing
        output = as_tensor(output)
        if output.shape != rows:
            raise ValueError(f"AttentionDecoder: an output of shape {output.shape}, not {rows}")
        return DecoderState(state, astype(output, dtype))

    def step(
        self, tokens: TensorLike, state: DecoderState, memory: Memory
    ) -> tuple[Tensor, DecoderState]:
        """Tokens (B,) to logits (B, V) of what comes after them."""
        (logits, _), state = self._step(tokens, state, memory)
        return logits, state

    def _step(
        self, tokens: TensorLike, state: DecoderState, memory: Memory
    ) -> tuple[tuple[Tensor, Tensor], DecoderState]:
        """``step`` with the weights (B, S) beside the logits."""
        if not isinstance(state, DecoderState):
            raise TypeError(
                "AttentionDecoder.step: the state is a DecoderState, as initial_state(memory, "
                f"state) makes it of the cell's, not a {type(state).__name__}"
            )
        embedded = self.embedding(tokens)
        rows = embedded.shape[-2:-1], state.handed_on.shape[-2:-1], memory.mask.shape[:1]
        if len({*rows}) > 1:
            raise ValueError(
                f"AttentionDecoder: tokens, state and memory have the same rows, not {rows[0]}, "
                f"{rows[1]} and {rows[2]}; start from initial_state(memory, state)"
            )
        if self.combine is None:
            context, weights = self.attention.read(state.handed_on, memory)
            h, following = self.cell(concat([embedded, context], axis=-1), state.cell)
            logits = self.readout(concat([h, context, embedded], axis=-1))
            return (logits, weights), DecoderState(following, h)
        h, following = self.cell(concat([embedded, state.handed_on], axis=-1), state.cell)
        context, weights = self.attention.read(h, memory)
        attentional = tanh(self.combine(concat([context, h], axis=-1)))
        return (self.readout(attentional), weights), DecoderState(following, attentional)

    def forward(
        self,
        tokens: Any,
        memory: Memory | TensorLike,
        state: Any = None,
        lengths: Any = None,
        mask: Any = None,
        return_weights: bool = False,
        sampling_probability: float = 0.0,
        mode: Mode = "auto",
    ) -> Any:
        """Logits (T, B, V) of what comes after each of the tokens that are given (teacher forcing).

        Args:
            tokens: (T, B), for example ``shift_right(targets, start)``.
            memory: what ``remember`` gave; or values (S, B, E), all of which are there.
            state: the cell's initial state, as for ``initial_state``; or what that gave.
            lengths: how many tokens each row has, (B,); the logits of the others are zero.
            mask: instead of lengths, booleans (T, B).
            return_weights: also return the weights (T, B, S).
            sampling_probability: that of being given, at a row's step, what the model itself found
                most likely (argmax) at the one before, instead of the token (Bengio et al. 2015,
                scheduled sampling). Each row and step draws for itself; the first never does. No
                gradient flows through the choice.
            mode: as for ``unroll``.

        Raises ValueError for tokens, a memory and a state of different rows.
        """
        memory = memory if isinstance(memory, Memory) else self.remember(memory)
        tokens = place(tokens, memory.values.backend)
        rows = memory.mask.shape[0]
        if tokens.ndim != 2 or tokens.shape[1] != rows or tokens.dtype.kind not in "iu":
            raise ValueError(
                f"AttentionDecoder: expected tokens (T, {rows}), integers, for a memory of {rows} "
                f"rows; not {tokens.dtype} {tokens.shape}. Rows are axis 1 of both, tokens (T, B) "
                "and values (S, B, E)"
            )
        if not 0 <= sampling_probability <= 1:
            raise ValueError(
                "AttentionDecoder: sampling_probability is between 0 and 1, not "
                f"{sampling_probability}"
            )
        embeddings = getattr(self.embedding, "num_embeddings", self.vocabulary_size)
        if sampling_probability and embeddings < self.vocabulary_size:
            raise ValueError(
                f"AttentionDecoder: sampling needs an embedding of all {self.vocabulary_size} "
                f"tokens that can be predicted; there are {embeddings}"
            )
        if not isinstance(state, DecoderState):
            state = self.initial_state(memory, state)
        cell: Cell = partial(self._step, memory=memory)
        if sampling_probability:
            tokens = astype(tokens, "int64")
            cell = _sampling(cell, sampling_probability)
            state = state, full_like(tokens[0], _NOTHING)
        options: dict[str, Any] = {} if mode == "auto" else {"mode": mode}
        (logits, weights), _ = unroll(cell, tokens, state, lengths=lengths, mask=mask, **options)
        return (logits, weights) if return_weights else logits

    def extra_repr(self) -> str:
        """The order."""
        return f"order={self.order!r}"


_NOTHING = -1  # has been predicted


def _sampling(cell: Cell, probability: float) -> Cell:
    """The cell, given its own prediction for some of the tokens; it rides in the state."""

    def step(tokens: Tensor, state: tuple[DecoderState, Tensor]) -> tuple[Any, Any]:
        own, predicted = state
        # Of the state, since a draw is a floating number, and in ``vmap`` each example's own.
        chosen = uniform_like(own.handed_on[:, 0]) < probability
        given = where(logical_and(chosen, predicted != _NOTHING), predicted, tokens)
        (logits, weights), own = cell(given, own)
        return (logits, weights), (own, astype(argmax(logits, axis=-1), tokens.dtype))

    return step


def _output_of(cell: Cell, state: Any) -> Tensor:
    """What a cell put out, as far as its state shows it: h is the first part."""
    while isinstance(cell, (Zoneout, VariationalDropout)):
        cell = cell.cell
    if isinstance(cell, StackedCell):
        return _output_of(cell.cells[-1], state[-1])
    h: Tensor = flatten(state)[0][0]
    return h
