"""Attention: what a network looks up, step by step, in a memory of many vectors.

The memory is remembered once, ``memory = attention.remember(values, mask)``, and read at every
step, ``context, weights = attention.read(query, memory)``. Whatever does not depend on the query,
the keys above all, is computed when it is remembered.

Values come time-first (S, B, E), a memory has the rows along axis 0 (B, S, E). So it can be
gathered, repeated and split by rows like any state, which is what beam search does.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from ..functional.attention import allowed_pairs, attend, masked_softmax
from ..primitives.contraction import matmul
from ..primitives.creation import place
from ..primitives.elementwise import TensorLike, logical_and, tanh, where
from ..primitives.movement import expand_dims, moveaxis, reshape, squeeze
from ..primitives.reduction import any, mean
from ..recurrence.ragged import flags, valid_steps, without_padding
from ..tensor import Tensor, as_tensor
from .layers import Linear
from .module import Module


class Memory(NamedTuple):
    """What is attended to, the rows along axis 0.

    ``keys`` (B, S, A) are what queries are compared with, ``values`` (B, S, E) what a context is a
    mean of, ``mask`` (B, S) booleans, True for what is there.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor


class _Attention(Module):
    """What attentions have in common: a memory, and queries that are answered from it.

    A subclass says what a memory keeps of the values (``_keys``, ``_values``) and how it is read
    (``_read``).
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        self.query_size, self.key_size = query_size, key_size

    @property
    def context_size(self) -> int:
        """The width of a context."""
        return self.key_size

    def remember(self, values: TensorLike, mask: Any = None, lengths: Any = None) -> Memory:
        """A memory of ``values`` (S, B, E), to be read by any number of queries.

        Args:
            values: what is attended to, for example the outputs of an encoder.
            mask: booleans (S, B), True for what is there.
            lengths: instead of a mask, how many values each row has, (B,) integers on the host.

        What the mask leaves out has no influence, and may be nan. Raises ValueError for values, a
        mask or lengths that do not fit.
        """
        name = f"{type(self).__name__}.remember"
        if isinstance(values, (list, tuple)):
            raise TypeError(
                f"{name}: values are a Tensor (S, B, {self.key_size}), not a "
                f"{type(values).__name__}; of the (outputs, state) of a layer, the outputs"
            )
        values = as_tensor(values)
        if values.ndim != 3 or values.shape[-1] != self.key_size:
            cure = ""
            if values.ndim == 4:
                cure = (
                    "; regions of pictures (B, C, H, W) are "
                    "permute_dims(reshape(x, (B, C, H * W)), (2, 0, 1))"
                )
            raise ValueError(
                f"{name}: expected values (S, B, {self.key_size}), not {values.shape}{cure}"
            )
        valid = valid_steps(name, values, mask, lengths)
        values = moveaxis(without_padding(values, valid), 0, 1)
        return Memory(self._keys(values), self._values(values), moveaxis(valid, 0, 1))

    def read(self, query: TensorLike, memory: Memory) -> tuple[Tensor, Tensor]:
        """A query (B, Q), or a sequence of them (T, B, Q), answered from the memory.

        Returns the context (..., B, E), a mean of the values, and its weights (..., B, S), which
        add up to 1. A row without values has context 0 and weights 0; its query may be nan. Raises
        ValueError for a query of another width than ``query_size``, or of other rows than the
        memory's; TypeError for a memory that is none.
        """
        if not isinstance(memory, Memory):
            raise TypeError(
                f"{type(self).__name__}.read: the memory is what remember(values) gives, not a "
                f"{type(memory).__name__}"
            )
        query = as_tensor(query)
        rows = memory.mask.shape[0]
        if query.shape[-2:] != (rows, self.query_size):
            raise ValueError(
                f"{type(self).__name__}.read: expected queries (..., {rows}, {self.query_size}) "
                f"for a memory of {rows} rows, not {query.shape}"
            )
        something = expand_dims(any(memory.mask, axis=-1), axis=-1)
        context, weights = self._read(where(something, query, 0), memory)
        return where(something, context, 0), weights

    def _keys(self, values: Tensor) -> Tensor:
        """What queries are compared with, (B, S, E) to (B, S, A)."""
        raise NotImplementedError

    def _values(self, values: Tensor) -> Tensor:
        """What a context is a mean of."""
        return values

    def _read(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """``read``, of queries that fit."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.query_size}, {self.key_size}"


class _ScoredAttention(_Attention):
    """One score for each value; the context is the mean of the values by the softmax of scores."""

    def forward(
        self,
        query: TensorLike,
        values: TensorLike,
        mask: Any = None,
        lengths: Any = None,
        return_weights: bool = False,
    ) -> Any:
        """``remember`` and ``read`` in one: the context (..., B, E), of values (S, B, E).

        ``query`` is (B, Q), or a sequence (T, B, Q). With ``return_weights`` the weights
        (..., B, S) are returned, too. Arguments and errors are those of ``remember`` and ``read``.
        """
        context, weights = self.read(query, self.remember(values, mask, lengths))
        return (context, weights) if return_weights else context

    def _read(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(self._scores(query, memory.keys), memory.mask)
        context = matmul(expand_dims(weights, axis=-2), memory.values)
        return squeeze(context, axis=-2), weights

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """(..., B, Q) and (B, S, A) to (..., B, S)."""
        raise NotImplementedError


class AdditiveAttention(_ScoredAttention):
    """Scores ``v . tanh(query @ W + key @ U)`` (Bahdanau et al. 2015), without biases, as there.

    ::

        context = attention(query, values, lengths=lengths)  # or by remember and read

    Args:
        query_size: Q, the width of queries (B, Q).
        key_size: E, that of the values (S, B, E), of which keys are made.
        hidden_size: that of the tanh.

    ``query.weight`` is W (query_size, hidden_size), ``key.weight`` U (key_size, hidden_size) and
    ``score.weight`` v (hidden_size, 1).
    """

    def __init__(self, query_size: int, key_size: int, hidden_size: int) -> None:
        super().__init__(query_size, key_size)
        self.query = Linear(query_size, hidden_size, bias=False)
        self.key = Linear(key_size, hidden_size, bias=False)
        self.score = Linear(hidden_size, 1, bias=False)

    def _keys(self, values: Tensor) -> Tensor:
        keys: Tensor = self.key(values)
        return keys

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = tanh(expand_dims(self.query(query), axis=-2) + keys)
        return squeeze(self.score(hidden), axis=-1)


class MultiplicativeAttention(_ScoredAttention):
    """The scores of Luong et al. 2015, equation 8.

    * "dot": ``query . key``, for a ``key_size`` equal to ``query_size``;
    * "general": ``query . (key @ W)``, with W = ``key.weight`` (key_size, query_size);
    * "concat": ``v . tanh([query; key] @ W)``. The halves of W and v are those of ``additive``, an
      ``AdditiveAttention`` of hidden size ``query_size``: it is the same function.

    ``query_size`` is Q, the width of queries (B, Q), and ``key_size`` E, that of the values
    (S, B, E), of which keys are made. It is called as ``AdditiveAttention`` is.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        score: Literal["dot", "general", "concat"] = "general",
    ) -> None:
        super().__init__(query_size, key_size)
        if score not in ("dot", "general", "concat"):
            raise ValueError(
                f"MultiplicativeAttention: score is 'dot', 'general' or 'concat', not {score!r}"
            )
        if score == "dot" and query_size != key_size:
            raise ValueError(
                f"MultiplicativeAttention: score='dot' of a query of {query_size} and a key of "
                f"{key_size}; sizes that differ need score='general'"
            )
        self.kind = score
        self.key = Linear(key_size, query_size, bias=False) if score == "general" else None
        self.additive = (
            AdditiveAttention(query_size, key_size, query_size) if score == "concat" else None
        )

    def _keys(self, values: Tensor) -> Tensor:
        if self.additive is not None:
            return self.additive._keys(values)
        return values if self.key is None else self.key(values)

    def _scores(self, query: Tensor, keys: Tensor) -> Tensor:
        if self.additive is not None:
            return self.additive._scores(query, keys)
        return squeeze(matmul(keys, expand_dims(query, axis=-1)), axis=-1)

    def extra_repr(self) -> str:
        """Sizes, and which score."""
        return f"{super().extra_repr()}, score={self.kind!r}"


class MultiheadAttention(_Attention):
    """Scaled dot-product attention of several heads side by side (Vaswani et al. 2017).

    ::

        head_i = scaled_dot_product_attention(query @ W_i, key @ U_i, value @ V_i)
        out = [head_1; ...; head_n] @ W

    The W_i of all heads are ``q_proj``, the U_i ``k_proj``, the V_i ``v_proj`` and W ``out_proj``,
    each a ``Linear`` with or without bias.

    Args:
        embed_dim: the width of queries, of outputs and of all heads together.
        num_heads: a divisor of it.
        dropout: the probability with which a weight is dropped in training.
        bias: of the four.
        kdim: the width of keys, unless ``embed_dim``.
        vdim: the width of values, likewise.
        batch_first: query, key, value and output have the rows along axis 0, the mask as well.

    As the attention of a decoder, by ``remember`` and ``read``, it takes keys and values from the
    same Tensor (kdim = vdim); the weights are then the mean over the heads, and the context of a
    row of nothing is 0, not the bias of ``out_proj``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        if not isinstance(num_heads, (int, np.integer)) or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                "MultiheadAttention: num_heads is a positive integer that divides embed_dim "
                f"{embed_dim}, not {num_heads!r}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(
                f"MultiheadAttention: dropout is a probability between 0 and 1, not {dropout}"
            )
        super().__init__(embed_dim, embed_dim if kdim is None else kdim)
        self.num_heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        self.value_size = embed_dim if vdim is None else vdim
        self.q_proj = Linear(embed_dim, embed_dim, bias)
        self.k_proj = Linear(self.key_size, embed_dim, bias)
        self.v_proj = Linear(self.value_size, embed_dim, bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias)

    @property
    def context_size(self) -> int:
        """The width of an output."""
        return self.query_size

    def forward(
        self,
        query: TensorLike,
        key: TensorLike,
        value: TensorLike,
        mask: Any = None,
        attn_mask: Any = None,
        is_causal: bool = False,
        return_weights: bool = False,
    ) -> Any:
        """The output (L, B, embed_dim), with ``return_weights`` also (B, num_heads, L, S).

        Without it the output comes alone, unlike in PyTorch, whose ``out, weights = layer(...)``
        would split it along L here.

        Args:
            query: (L, B, embed_dim).
            key: (S, B, kdim).
            value: (S, B, vdim).
            mask: booleans (S, B), True for keys that are there: **the opposite** of PyTorch's
                ``key_padding_mask``.
            attn_mask: broadcasts to (B, num_heads, L, S). Booleans, True where a query may attend
                to a key (again the opposite of PyTorch's module, and as in its function), or
                numbers that are added to the scores.
            is_causal: query i attends to keys 0 to i only.
            return_weights: the weights of each head, before dropout; their mean over axis 1 is what
                PyTorch gives.

        A query that may attend to nothing gets the bias of ``out_proj``. It may be nan, and so may
        a key that nothing attends to, and its value. Raises ValueError for shapes that do not fit.
        """
        query, key, value = as_tensor(query), as_tensor(key), as_tensor(value)
        if self.batch_first and query.ndim == key.ndim == value.ndim == 3:
            query, key, value = (moveaxis(x, 0, 1) for x in (query, key, value))
        self._check(query, key, value)
        attn_mask = None if attn_mask is None else place(attn_mask, key.backend)
        scores = (query.shape[1], self.num_heads, query.shape[0], key.shape[0])
        allowed, bias = allowed_pairs("MultiheadAttention", attn_mask, is_causal, scores, query)
        if mask is not None:
            there = self._rows_first(mask, key)[:, None, None, :]
            allowed = there if allowed is None else logical_and(allowed, there)
        if allowed is not None:
            # What no pair needs is replaced before the products whose weights have a gradient.
            asking = moveaxis(any(allowed, axis=(1, 3)), 0, 1)
            asked = moveaxis(any(allowed, axis=(1, 2)), 0, 1)
            query = without_padding(query, asking)
            key, value = without_padding(key, asked), without_padding(value, asked)
        keys, values = moveaxis(self.k_proj(key), 0, 1), moveaxis(self.v_proj(value), 0, 1)
        queries = moveaxis(self.q_proj(query), 0, 1)
        out, weights = self._attend(queries, keys, values, allowed, bias)
        out = out if self.batch_first else moveaxis(out, 0, 1)
        return (out, weights) if return_weights else out

    def _rows_first(self, mask: Any, key: Tensor) -> Tensor:
        """The mask of a key (S, B, kdim), checked in the order in which it is given; (B, S)."""
        steps, rows = key.shape[:2]
        if self.batch_first:
            shape, axes = (rows, steps), "batch, time"
            return flags("MultiheadAttention", "mask", mask, shape, key.backend, axes)
        return moveaxis(valid_steps("MultiheadAttention", key, mask, None), 0, 1)

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        sizes = (self.query_size, self.key_size, self.value_size)
        shapes = [x.shape for x in (query, key, value)]
        if (
            {len(shape) for shape in shapes} != {3}
            or tuple(shape[-1] for shape in shapes) != sizes
            or len({shape[1] for shape in shapes}) > 1
            or shapes[1][0] != shapes[2][0]
        ):
            raise ValueError(
                f"MultiheadAttention: expected query (L, B, {sizes[0]}), key (S, B, {sizes[1]}) "
                f"and value (S, B, {sizes[2]}), not {', '.join(map(str, shapes))}"
                + (", the first two axes swapped by batch_first" if self.batch_first else "")
            )

    def _attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        allowed: Tensor | None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The output (B, L, E) and the weights (B, num_heads, L, S), of what was projected."""
        rows, steps, width = query.shape

        def heads(x: Tensor) -> Tensor:
            parts = (*x.shape[:-1], self.num_heads, width // self.num_heads)
            return moveaxis(reshape(x, parts), -2, 1)

        out, weights = attend(
            heads(query),
            heads(keys),
            heads(values),
            allowed,
            bias,
            self.dropout if self.training else 0.0,
        )
        return self.out_proj(reshape(moveaxis(out, 1, -2), (rows, steps, width))), weights

    def _keys(self, values: Tensor) -> Tensor:
        keys: Tensor = self.k_proj(values)
        return keys

    def _values(self, values: Tensor) -> Tensor:
        projected: Tensor = self.v_proj(values)
        return projected

    def _read(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        projected = self.q_proj(query)
        single = query.ndim == 2
        queries = expand_dims(projected, axis=1) if single else moveaxis(projected, 0, 1)
        allowed = memory.mask[:, None, None, :]
        out, weights = self._attend(queries, memory.keys, memory.values, allowed)
        weights = mean(weights, axis=1)
        if single:
            return squeeze(out, axis=1), squeeze(weights, axis=1)
        return moveaxis(out, 0, 1), moveaxis(weights, 0, 1)

    def extra_repr(self) -> str:
        """Sizes."""
        widths = f"{self.query_size}, {self.num_heads}"
        if (self.key_size, self.value_size) != (self.query_size, self.query_size):
            widths += f", kdim={self.key_size}, vdim={self.value_size}"
        return widths + (", batch_first=True" if self.batch_first else "")
