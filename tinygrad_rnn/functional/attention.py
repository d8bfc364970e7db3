"""Attention: weights that add up to 1 over keys, and the values they add up.

The score of what a mask leaves out never reaches the softmax, and a row without any key has weights
0, not nan. A key, a value or a query that no pair of the two needs may hold nan itself: it is
replaced on entry, since 0 * nan would reach a gradient.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..primitives.contraction import matmul
from ..primitives.creation import arange
from ..primitives.elementwise import TensorLike, exp, logical_and, logical_not, where
from ..primitives.movement import broadcast_shape, expand_dims, matrix_transpose, reshape
from ..primitives.reduction import any, in_float32, max, sum
from ..tensor import Tensor, as_tensor
from .activations import softmax
from .regularisation import dropout

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: TensorLike,
    key: TensorLike,
    value: TensorLike,
    attn_mask: TensorLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    return_weights: bool = False,
) -> Any:
    """softmax(query @ key.T * scale) @ value (Vaswani et al. 2017, equation 1).

    Args:
        query: (..., L, E); the leading axes of query, key and value broadcast.
        key: (..., S, E).
        value: (..., S, V).
        attn_mask: broadcasts to (..., L, S). Booleans, True where a query may attend to a key; or
            numbers that are added to the scores, of which -inf (or the lowest finite one) leaves
            out a pair.
        dropout_p: the probability with which a weight is dropped, always: pass 0 in evaluation.
        is_causal: query i attends to keys 0 to i only, and to those of them that the mask allows.
        scale: 1 / sqrt(E) unless given.
        return_weights: also return the weights.

    Returns:
        (..., L, V), and with ``return_weights`` the weights (..., L, S) before dropout. Both are 0
        for a query that may attend to nothing.

    Raises:
        ValueError: for shapes that do not fit.
        TypeError: for a mask of integers.
    """
    query, key, value = as_tensor(query), as_tensor(key), as_tensor(value)
    operation = "scaled_dot_product_attention"
    shape = _scores_shape(operation, query, key, value)
    allowed, bias = allowed_pairs(operation, attn_mask, is_causal, shape, query)
    out, weights = attend(query, key, value, allowed, bias, dropout_p, scale)
    return (out, weights) if return_weights else out


@in_float32
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``scaled_dot_product_attention`` with its mask taken apart by ``allowed_pairs``."""
    if allowed is not None:
        seen = expand_dims(any(allowed, axis=-2), axis=-1)
        key, value = where(seen, key, 0.0), where(seen, value, 0.0)
        query = where(any(allowed, axis=-1, keepdims=True), query, 0.0)
    scale = 1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    scores = matmul(query * scale, matrix_transpose(key))
    scores = scores if bias is None else scores + bias
    weights = softmax(scores) if allowed is None else masked_softmax(scores, allowed)
    return matmul(dropout(weights, dropout_p), value), weights


@in_float32
def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """softmax over the last axis of what the mask allows, 0 elsewhere, and 0 for a row of nothing.

    ``mask`` holds booleans and broadcasts with ``scores``, which may be nan where it is False. No
    infinity is involved, so ``detect_anomaly`` finds none.
    """
    if not scores.shape[-1]:
        return scores
    largest = max(where(mask, scores.detach(), _lowest(scores)), axis=-1, keepdims=True)
    powers = where(mask, exp(where(mask, scores, largest) - largest), 0.0)
    total = sum(powers, axis=-1, keepdims=True)
    return powers / where(total == 0, 1.0, total)


def allowed_pairs(
    operation: str,
    attn_mask: TensorLike | None,
    is_causal: bool,
    shape: tuple[int, ...],
    like: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Which pairs count, and what is added to their scores (..., L, S); None for all and nothing.

    Both have as many axes as the scores and broadcast to their shape.
    """
    allowed = bias = None
    if attn_mask is not None:
        mask = as_tensor(attn_mask)
        _check_mask(f"{operation}: attn_mask", mask, shape)
        mask = reshape(mask, (1,) * (len(shape) - mask.ndim) + mask.shape)
        if mask.dtype.kind == "b":
            allowed = mask
        else:
            allowed = logical_not(mask <= _lowest(mask))
            bias = where(allowed, mask, 0.0)
    if is_causal:
        queries, keys = (arange(n, backend=like.backend) for n in shape[-2:])
        causal = expand_dims(queries, axis=1) >= keys
        causal = reshape(causal, (1,) * (len(shape) - 2) + shape[-2:])
        allowed = causal if allowed is None else logical_and(allowed, causal)
    return allowed, bias


def _check_mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    if mask.dtype.kind not in "bf":
        raise TypeError(
            f"{name} is {mask.dtype}; it is bool, True where a query may attend to a key (compare "
            "it, as in mask != 0), or floating, to be added to the scores"
        )
    if broadcast_shape(f"{name} and scores (..., L, S)", mask.shape, shape) != shape:
        raise ValueError(
            f"{name} of shape {mask.shape} does not broadcast to the scores (..., L, S), {shape}"
        )


def _scores_shape(operation: str, query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    """(..., L, S), of shapes that fit."""
    shapes: list[Any] = [x.shape for x in (query, key, value)]
    if (
        min(map(len, shapes)) < 2
        or shapes[0][-1] != shapes[1][-1]
        or shapes[1][-2] != shapes[2][-2]
    ):
        raise ValueError(
            f"{operation}: query (..., L, E), key (..., S, E) and value (..., S, V) are needed, "
            f"not {', '.join(map(str, shapes))}"
        )
    leading = broadcast_shape(f"{operation}: leading axes", *(shape[:-2] for shape in shapes))
    return (*leading, shapes[0][-2], shapes[1][-2])


def _lowest(x: Tensor) -> float:
    return float(np.finfo(x.dtype).min)
