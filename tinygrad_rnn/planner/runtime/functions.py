"""What programs call beside NumPy: operations that it has no function with ``out`` for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

import tinygrad_rnn_backends as backends

from ... import batching
from ...tensor import no_grad, wrap


def _sigmoid_into(np: Any, x: Any, out: Any) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


def _where_into(np: Any, condition: Any, x: Any, y: Any, out: Any) -> None:
    np.copyto(out, y)
    np.copyto(out, x, where=condition)


def _relu_into(np: Any, x: Any, out: Any) -> None:
    np.maximum(x, 0, out=out)


def _softplus_into(np: Any, x: Any, out: Any) -> None:
    beyond = np.log1p(np.exp(-np.abs(x)))
    np.add(np.maximum(x, 0, out=out), beyond, out=out)


def _copy_into(np: Any, x: Any, out: Any) -> None:
    np.copyto(out, x, casting="unsafe")


INTO: dict[str, Callable[..., None]] = {
    "sigmoid": _sigmoid_into,
    "where": _where_into,
    "relu": _relu_into,
    "softplus": _softplus_into,
    "astype": _copy_into,
    "copied": _copy_into,
}
"""``function(np, *operands, out)`` by the name of the primitive."""


def product_into(np: Any, x: Any, y: Any, out: Any) -> None:
    """x @ y, made by whom ``matmul`` has it made."""
    if np is numpy:
        own: Any = backends.get("numpy")
        if x.size * y.shape[-1] >= own.large and own.product(x, y, out) is not None:
            return
        if x.ndim == 2 == y.ndim and out.flags.c_contiguous:
            np.dot(x, y, out=out)
            return
    np.matmul(x, y, out=out)


def places_in(np: Any, index: Any, length: int) -> Any:
    """Indices along an axis of this length as int64 from 0 on; IndexError for others.

    A GPU lets them wrap around: to look at them it would have to wait.
    """
    flat = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
    if np is numpy:
        low, high = flat.min(), flat.max()
        if low >= 0 and high < length:
            return flat
        if low < -length or high >= length:
            outside = high if high >= length else low
            raise IndexError(f"index {outside} is out of bounds for an axis of length {length}")
    return flat % length


_TERMS = 4096


def dot_of_many(np: Any, x: Any, y: Any, out: Any) -> None:
    """``np.dot``, exact for many terms as well: sums of some of them are added in float64."""
    if x.shape[1] <= _TERMS:
        np.dot(x, y, out=out)
        return
    total, part = np.zeros(out.shape), np.empty_like(out)
    for start in range(0, x.shape[1], _TERMS):
        some = slice(start, start + _TERMS)
        np.dot(x[:, some], y[some], out=part)
        total += part
    out[...] = total


def row_products(np: Any, x: Any, y: Any) -> Any:
    """sum_t x_t @ y_t, of matrices with an axis of time in front: one product, side by side."""
    steps, terms = len(x), x.shape[-1]
    many = max(1, _TERMS // max(1, terms))
    parts = []
    for start in range(0, max(1, steps), many):
        left, right = (z[start : start + many] for z in (x, y))
        left, right = np.moveaxis(left, 0, -2), np.moveaxis(right, 0, -3)
        left = left.reshape(*left.shape[:-2], -1)
        right = right.reshape(*right.shape[:-3], -1, right.shape[-1])
        parts.append(backends.get("numpy").matmul(left, right) if np is numpy else left @ right)
    if len(parts) == 1:
        return parts[0]
    return sum(part.astype(np.float64) for part in parts).astype(parts[0].dtype)


def over_time(primitive: Any, varies: list[bool], *arrays: Any, **parameters: Any) -> Any:
    """A primitive on arrays of which some have an axis of time in front: for all steps at once."""
    steps = next(len(a) for a, flag in zip(arrays, varies, strict=True) if flag)
    arrays = tuple([numpy.asarray(x) if isinstance(x, numpy.generic) else x for x in arrays])
    values = [x if type(x) in (bool, int, float) else wrap(x, None) for x in arrays]
    with no_grad():
        out = batching.in_one_go(primitive, steps, varies, values, parameters)
    return tuple([part._array for part in out]) if primitive.several else out._array
