"""Contraction: products of matrices. One row, ``matmul``; everything else is composed of it.

Where one matrix meets a whole batch, as the weights of a layer meet (T, B, I), the batch is folded
into the rows, so that its gradient is one product and not a sum of many.

On NumPy, large products of float32 are made by the kernels that plans have, if those are to be had;
``kernels/products.py`` says which, and what asks for NumPy's BLAS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tinygrad_rnn_backends as backends

from ..apply import apply, show
from ..graph import Primitive
from ..kernels import products
from ..tensor import Tensor, as_tensor
from .axes import negative_axes, negative_axis
from .elementwise import TensorLike, astype, in_place, multiply, result_type
from .indexing import getitem
from .movement import (
    broadcast_shape,
    broadcast_to,
    expand_dims,
    moveaxis,
    permute_dims,
    reshape,
)
from .reduction import in_float32, sum

products.serve(backends.get("numpy"))


def _rows(xp: Any, x: Any) -> Any:
    return xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _transposed(xp: Any, x: Any) -> Any:
    return x.T if x.ndim == 2 else xp.matrix_transpose(x)


def _product(xp: Any, x: Any, y: Any) -> Any:
    if x.ndim > 2 == y.ndim:
        return xp.reshape(xp.matmul(_rows(xp, x), y), (*x.shape[:-1], y.shape[-1]))
    return xp.matmul(x, y)


def _left_cotangent(xp: Any, g: Any, y: Any) -> Any:
    return _product(xp, g, _transposed(xp, y))


def _right_cotangent(xp: Any, g: Any, x: Any, y_shape: Any) -> Any:
    if x.ndim > 2 == len(y_shape):
        x, g = _rows(xp, x), _rows(xp, g)
    return xp.matmul(_transposed(xp, x), g)


def _batch_matmul(size: int, batched: list[bool], x: Any, y: Any) -> Any:
    """Line up the batch axis with the leading axes of the other operand."""
    ndims = [a.ndim - b for a, b in zip((x, y), batched, strict=True)]
    ndim = max(ndims)
    x, y = (
        reshape(a, (size, *(1,) * (ndim - own), *a.shape[1:])) if is_batched else a
        for a, own, is_batched in zip((x, y), ndims, batched, strict=True)
    )
    return apply(_matmul, x, y)


_matmul = Primitive(
    "matmul", "contraction", _product, _left_cotangent, _right_cotangent, batch=_batch_matmul
)


def matmul(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The matrix product of the last two axes, the others broadcasting; 1-D operands are vectors.

    (..., n, k) @ (..., k, m) gives (..., n, m); a vector (k,) stands for a row on the left, for a
    column on the right, and its axis of length 1 does not appear in the result.
    """
    x1, x2 = as_tensor(x1), as_tensor(x2)
    if x1.ndim >= 2 <= x2.ndim:
        try:
            return apply(_matmul, x1, x2)
        except (TypeError, ValueError):
            _check_shapes(x1, x2)
            raise
    if not x1.ndim or not x2.ndim:
        raise ValueError(
            f"matmul: shapes {x1.shape} and {x2.shape}: a scalar is no matrix; use multiply"
        )
    left = expand_dims(x1, axis=0) if x1.ndim == 1 else x1
    right = expand_dims(x2, axis=1) if x2.ndim == 1 else x2
    try:
        out: Tensor = apply(_matmul, left, right)
    except (TypeError, ValueError):
        _check_shapes(x1, x2)
        raise
    shape = list(out.shape)
    if x2.ndim == 1:
        del shape[-1]
    if x1.ndim == 1:
        del shape[-1 if x2.ndim == 1 else -2]
    return reshape(out, shape)


def _check_shapes(x1: Tensor, x2: Tensor) -> None:
    """Raise for shapes without a product: asked only when the backend has refused them."""
    mine, theirs = x1.shape[-1], x2.shape[-2:][0]
    operands = f"matmul({show(x1)}, {show(x2)})"
    if mine != theirs:
        place = "last but one axis" if x2.ndim > 1 else "only axis"
        raise ValueError(
            f"{operands}: the last axis of the first, of length {mine}, and the {place} of the "
            f"second, of length {theirs}, must agree"
        ) from None
    try:
        broadcast_shape("matmul", x1.shape[:-2], x2.shape[:-2])
    except ValueError:
        raise ValueError(
            f"{operands}: the axes before the last two, {x1.shape[:-2]} and {x2.shape[:-2]}, do "
            "not broadcast; aligned from the right, each pair must be equal or contain a 1"
        ) from None


def outer(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """All products of an element of x1, flattened, and one of x2: (n,) and (m,) give (n, m)."""
    x1, x2 = as_tensor(x1), as_tensor(x2)
    return multiply(reshape(x1, (-1, 1)), reshape(x2, (1, -1)))


@in_float32
def vecdot(x1: TensorLike, x2: TensorLike, /, axis: int = -1) -> Tensor:
    """The inner products along ``axis``, the others broadcasting."""
    x1, x2 = as_tensor(x1), as_tensor(x2)
    lengths = [x.shape[negative_axis(axis, x.ndim, "vecdot")] for x in (x1, x2)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"vecdot: axis {axis} of shapes {x1.shape} and {x2.shape} differs")
    if axis >= 0 and x1.ndim != x2.ndim:
        raise ValueError("vecdot: tensors of different ndim need a negative axis")
    products = multiply(x1, x2)
    return astype(sum(products, axis=axis), products.dtype)  # a sum of int32 is an int64


def tensordot(
    x1: TensorLike, x2: TensorLike, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Tensor:
    """The sum of products over pairs of axes.

    ``axes`` is how many last axes of x1 meet the first ones of x2, or two sequences of axes. The
    remaining axes of x1, then those of x2, make up the result.
    """
    x1, x2 = as_tensor(x1), as_tensor(x2)
    if isinstance(axes, int):
        if not 0 <= axes <= min(x1.ndim, x2.ndim):
            raise ValueError(f"tensordot: axes={axes} for shapes {x1.shape} and {x2.shape}")
        axes = (range(x1.ndim - axes, x1.ndim), range(axes))
    pair = [(a,) if isinstance(a, int) else tuple(a) for a in axes]
    mine = [a + x1.ndim for a in negative_axes(pair[0], x1.ndim, "tensordot")]
    theirs = [a + x2.ndim for a in negative_axes(pair[1], x2.ndim, "tensordot")]
    if [x1.shape[a] for a in mine] != [x2.shape[a] for a in theirs]:
        raise ValueError(
            f"tensordot: axes {tuple(mine)} of shape {x1.shape} and {tuple(theirs)} of "
            f"{x2.shape} have different lengths"
        )
    left = [a for a in range(x1.ndim) if a not in mine]
    right = [a for a in range(x2.ndim) if a not in theirs]
    summed = math.prod(x1.shape[a] for a in mine)
    rows = math.prod(x1.shape[a] for a in left)
    columns = math.prod(x2.shape[a] for a in right)
    product = matmul(
        reshape(permute_dims(x1, left + mine), (rows, summed)),
        reshape(permute_dims(x2, theirs + right), (summed, columns)),
    )
    return reshape(product, [x1.shape[a] for a in left] + [x2.shape[a] for a in right])


def einsum(subscripts: str, /, *operands: TensorLike) -> Tensor:
    """Einstein's summation: ``einsum("bij,bjk->bik", x, y)``.

    A letter for each axis, the same one where lengths are matched (or are 1); letters that are
    missing behind ``->`` are summed over, and ``...`` stands for axes without one. Operands are
    contracted from left to right, each pair by one matrix product.
    """
    if not isinstance(subscripts, str):
        raise TypeError("einsum: the first argument is a string such as 'ij,jk->ik'")
    tensors = [as_tensor(x) for x in operands]
    terms, result = _einsum_terms(subscripts.replace(" ", ""), [x.ndim for x in tensors])
    lengths: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        for letter, n in zip(term, x.shape, strict=True):
            known = lengths.setdefault(letter, n)
            if known != n and 1 not in (known, n):
                raise ValueError(
                    f"einsum: {letter!r} of {subscripts!r} is {known} in one operand and {n} in "
                    f"another; shapes {', '.join(str(x.shape) for x in tensors)}"
                )
            lengths[letter] = n if known == 1 else known
    pairs = [_diagonal(term, x) for term, x in zip(terms, tensors, strict=True)]
    pairs = [(term, broadcast_to(x, [lengths[c] for c in term])) for term, x in pairs]
    term, x = pairs[0]
    for i, (other, y) in enumerate(pairs[1:], start=2):
        needed = set(result).union(*(t for t, _ in pairs[i:]))
        term, x = _contract(term, x, other, y, needed)
    spare = tuple(i for i, letter in enumerate(term) if letter not in result)
    x = sum(x, axis=spare) if spare else x
    term = "".join(letter for letter in term if letter in result)
    out = permute_dims(x, [term.index(letter) for letter in result])
    return astype(out, result_type(*tensors))  # a sum of int32 is an int64


def _einsum_terms(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result, an ellipsis spelled out by digits."""
    inputs, arrow, result = subscripts.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: {len(terms)} terms in {subscripts!r} for {len(ndims)} operands")
    widest = 0
    for i, (term, ndim) in enumerate(zip(terms, ndims, strict=True)):
        letters = term.replace("...", "", 1)
        dots = ndim - len(letters)
        if not all(c.isascii() and c.isalpha() for c in letters) or (
            dots < 0 if "..." in term else dots != 0
        ):
            raise ValueError(f"einsum: term {term!r} does not describe an operand of {ndim} axes")
        widest = max(widest, dots)
        terms[i] = term.replace("...", "".join(_DOTS[:dots][::-1]))
    ellipsis = "".join(_DOTS[:widest][::-1])
    if not arrow:
        letters = "".join(c for c in inputs if c.isalpha())
        return terms, ellipsis + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    result = result.replace("...", ellipsis)
    known = set("".join(terms))
    if len(set(result)) != len(result) or not set(result) <= known:
        raise ValueError(f"einsum: {subscripts!r} asks for axes that no operand has, or has twice")
    return terms, result


_DOTS = [chr(code) for code in range(0x2460, 0x2474)]  # no letters: they stand for "..."


def _diagonal(term: str, x: Tensor) -> tuple[str, Tensor]:
    """Take the diagonal of axes with the same letter."""
    while len(set(term)) < len(term):
        letter = next(c for c in term if term.count(c) > 1)
        i = term.index(letter)
        j = term.index(letter, i + 1)
        if x.shape[i] != x.shape[j]:
            raise ValueError(f"einsum: no diagonal {letter!r} of axes of shape {x.shape}")
        places = list(range(x.shape[i]))
        x = getitem(moveaxis(moveaxis(x, j, 0), i + 1, 0), (places, places))
        term = letter + "".join(c for k, c in enumerate(term) if k not in (i, j))
    return term, x


def _contract(left: str, x: Tensor, right: str, y: Tensor, needed: set[str]) -> tuple[str, Tensor]:
    """One pair of operands as a (batched) matrix product."""
    for_one = [c for c in left if c not in right and c not in needed]
    if for_one:
        x = sum(x, axis=tuple(left.index(c) for c in for_one))
        left = "".join(c for c in left if c not in for_one)
    for_other = [c for c in right if c not in left and c not in needed]
    if for_other:
        y = sum(y, axis=tuple(right.index(c) for c in for_other))
        right = "".join(c for c in right if c not in for_other)
    shared = [c for c in left if c in right]
    batch = [c for c in shared if c in needed]
    summed = [c for c in shared if c not in needed]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    size = dict(zip(left, x.shape, strict=True)) | dict(zip(right, y.shape, strict=True))

    def arranged(term: str, t: Tensor, groups: Sequence[list[str]], *tail: list[str]) -> Tensor:
        letters = [c for group in (*groups, *tail) for c in group]
        shape = [size[c] for group in groups for c in group]
        shape += [math.prod(size[c] for c in group) for group in tail]
        return reshape(permute_dims(t, [term.index(c) for c in letters]), shape)

    product = matmul(
        arranged(left, x, [batch], rows, summed), arranged(right, y, [batch], summed, columns)
    )
    term = "".join(batch + rows + columns)
    return term, reshape(product, [size[c] for c in term])


def _rmatmul(self: Tensor, other: TensorLike) -> Tensor:
    return matmul(other, self)


for _name, _operation in (
    ("__matmul__", matmul),
    ("__rmatmul__", _rmatmul),
    ("__imatmul__", in_place("@=", matmul)),
):
    setattr(Tensor, _name, _operation)
