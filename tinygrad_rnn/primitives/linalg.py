"""Linear algebra: solving, factorizing and measuring matrices, which are the last two axes.

Rows are what LAPACK does; norms, powers, ranks and traces are composed. A factorization is computed
again in its backward pass, where what it depends on is a Tensor: derivatives of any order follow.

Of matrices that have to be symmetric one triangle is read, and the gradient is that for symmetric
changes. Vectors that belong to equal eigenvalues or singular values have no derivative. They are
taken as if they did not mix, so that the first derivative of the values, and of norms, is right
there; of what is made of the vectors it is not.

References: Giles, "Collected matrix derivative results for forward and reverse mode algorithmic
differentiation" (2008); Townsend, "Differentiating the singular value decomposition" (2016);
Golub and Pereyra (1973) for ``pinv``; Walter and Lehmann (2010) for QR.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, NamedTuple

import numpy as np

from ..apply import apply, apply_several, show
from ..graph import Primitive
from ..tensor import Tensor, as_tensor, backend_of
from .axes import Axis, kept, negative_axes, negative_axis
from .contraction import matmul
from .creation import eye, zeros_like
from .elementwise import TensorLike, astype, isfinite, logical_and, sqrt, square, where
from .elementwise import abs as magnitude
from .indexing import getitem
from .movement import (
    broadcast_shape,
    broadcast_to,
    expand_dims,
    matrix_transpose,
    reshape,
    roll,
)
from .reduction import in_float32, sum
from .reduction import max as largest
from .reduction import min as smallest
from .sorting import count_nonzero

Order = float | Literal["fro", "nuc"]


# Solving.


def _transposed(xp: Any, x: Any) -> Any:
    return xp.matrix_transpose(x)


def _of_logarithm(xp: Any, g: Any, x: Any) -> Any:
    """The gradient of log|det x|, times g for each matrix."""
    return g[..., None, None] * _transposed(xp, xp.linalg.inv(x))


def _of_determinant(xp: Any, g: Any, x: Any, out: Any) -> Any:
    """The cofactors: det(x) times the inverse, or where there is none what the SVD makes of them.

    Of x = u s vh they are det(u vh) u t vh, where t[i] is the product of all s[j] but s[i].
    """
    singular = (out == 0)[..., None, None]
    identity = xp.tril(xp.triu(xp.ones_like(x)))
    regular = _of_logarithm(xp, g * out, xp.where(singular, identity, x))
    u, s, vh = xp.linalg.svd(x)
    one = xp.ones_like(s[..., :1])
    before = xp.cumulative_prod(xp.concat([one, s[..., :-1]], axis=-1), axis=-1)
    behind = xp.concat([one, xp.flip(s, axis=-1)[..., :-1]], axis=-1)
    others = before * xp.flip(xp.cumulative_prod(behind, axis=-1), axis=-1)
    g = g * (xp.linalg.det(u) * xp.linalg.det(vh))
    irregular = g[..., None, None] * ((u * others[..., None, :]) @ vh)
    return xp.where(singular, irregular, regular)


_inv = Primitive(
    "inv",
    "matrix",
    lambda xp, x: xp.linalg.inv(x),
    lambda xp, g, out: -(_transposed(xp, out) @ g @ _transposed(xp, out)),
)
_solve = Primitive(
    "solve",
    "matrix",
    lambda xp, x, y: xp.linalg.solve(x, y),
    lambda xp, g, x, out: -(xp.linalg.solve(_transposed(xp, x), g) @ _transposed(xp, out)),
    lambda xp, g, x: xp.linalg.solve(_transposed(xp, x), g),
)
_det = Primitive(
    "det",
    "matrix",
    lambda xp, x: xp.linalg.det(x),
    _of_determinant,
)
_slogdet = Primitive(
    "slogdet",
    "matrix",
    lambda xp, x: tuple(xp.linalg.slogdet(x)),
    lambda xp, g, x: _of_logarithm(xp, g[1], x),
    outputs="several",
)


def _of_pseudo_inverse(xp: Any, g: Any, x: Any, out: Any) -> Any:
    """Where the rank stays the same (Golub and Pereyra)."""
    pt, gt = _transposed(xp, out), _transposed(xp, g)
    left = (gt - x @ (out @ gt)) @ out @ pt
    right = pt @ out @ (gt - (gt @ out) @ x)
    return left + right - pt @ g @ pt


_pinv = Primitive(
    "pinv",
    "matrix",
    lambda xp, x, rtol: xp.linalg.pinv(x, rtol=rtol),
    _of_pseudo_inverse,
)


# Factorizing.


def _lower_half(xp: Any, x: Any) -> Any:
    """The lower triangle with half of the diagonal: what is left of a symmetric sum."""
    return (xp.tril(x) + xp.tril(x, k=-1)) / 2


def _symmetric(xp: Any, x: Any) -> Any:
    return (x + _transposed(xp, x)) / 2


def _of_cholesky(xp: Any, g: Any, out: Any) -> Any:
    inner = _lower_half(xp, _transposed(xp, out) @ g)
    half = xp.linalg.solve(_transposed(xp, out), inner)
    whole = xp.linalg.solve(_transposed(xp, out), _transposed(xp, half))
    return _symmetric(xp, whole)


_cholesky = Primitive("cholesky", "matrix", lambda xp, x: xp.linalg.cholesky(x), _of_cholesky)


def _of_qr(xp: Any, g: Any, x: Any, *, mode: str) -> Any:
    q, r = xp.linalg.qr(x, mode="reduced")
    gq, gr = g
    rows, columns = x.shape[-2:]
    if columns > rows:  # what stands to the right of a square matrix is a product, q^T x
        gq = gq + x[..., :, rows:] @ _transposed(xp, gr[..., :, rows:])
        beyond = q @ gr[..., :, rows:]
        r, gr = r[..., :, :rows], gr[..., :, :rows]
    inner = r @ _transposed(xp, gr) - _transposed(xp, gq) @ q
    mirrored = xp.tril(inner) + _transposed(xp, xp.tril(inner, k=-1))
    right = gq + q @ mirrored
    found = _transposed(xp, xp.linalg.solve(r, _transposed(xp, right)))
    return xp.concat([found, beyond], axis=-1) if columns > rows else found


_qr = Primitive(
    "qr",
    "matrix",
    lambda xp, x, *, mode: tuple(xp.linalg.qr(x, mode=mode)),
    _of_qr,
    outputs="several",
)


def _gaps(xp: Any, x: Any) -> Any:
    """1 / (x[j] - x[i]) for each i and j, and 0 where they are equal."""
    gaps = x[..., None, :] - x[..., :, None]
    return xp.where(gaps == 0, 0, 1 / xp.where(gaps == 0, 1, gaps))


def _of_eigh(xp: Any, g: Any, x: Any) -> Any:
    values, vectors = xp.linalg.eigh(x)
    by_values, by_vectors = g
    turned = _gaps(xp, values) * (_transposed(xp, vectors) @ by_vectors)
    stretched = vectors * by_values[..., None, :]
    inner = (stretched + vectors @ turned) @ _transposed(xp, vectors)
    return _symmetric(xp, inner)


_eigh = Primitive(
    "eigh", "matrix", lambda xp, x: tuple(xp.linalg.eigh(x)), _of_eigh, outputs="several"
)


def _of_svd(xp: Any, g: Any, x: Any, *, full_matrices: bool) -> Any:
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    gu, gs, gv = g[0], g[1], _transposed(xp, g[2])
    v, ut = _transposed(xp, vh), _transposed(xp, u)
    gaps = _gaps(xp, s * s)
    inverse = xp.where(s == 0, 0, 1 / xp.where(s == 0, 1, s))
    columns, rows = s[..., None, :], s[..., :, None]
    inner_u, inner_v = ut @ gu, vh @ gv
    inner = gaps * (inner_u - _transposed(xp, inner_u)) * columns
    inner = inner + gaps * (inner_v - _transposed(xp, inner_v)) * rows
    out = (u @ inner + u * gs[..., None, :]) @ vh
    if x.shape[-2] > x.shape[-1]:  # what of u's changes leaves the space that it spans
        out = out + ((gu - u @ inner_u) * inverse[..., None, :]) @ vh
    if x.shape[-2] < x.shape[-1]:
        out = out + (u * inverse[..., None, :]) @ _transposed(xp, gv - v @ inner_v)
    return out


_svd = Primitive(
    "svd",
    "matrix",
    lambda xp, x, *, full_matrices: tuple(xp.linalg.svd(x, full_matrices=full_matrices)),
    _of_svd,
    outputs="several",
)


# What users call.


def _matrices(operation: str, x: TensorLike, *, square: bool = False, low: int = 2) -> Tensor:
    """A Tensor of floats that holds matrices, or an error that says what it holds instead."""
    x = as_tensor(x)
    if x.dtype.kind != "f":
        raise TypeError(
            f"linalg.{operation}: {show(x._array)} has no floating dtype; use astype('float64')"
        )
    if x.ndim < low:
        raise ValueError(
            f"linalg.{operation}: {show(x._array)} holds no matrix; its last two axes would be one"
        )
    if square and x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"linalg.{operation}: {show(x._array)} holds no square matrices; linalg.pinv, qr and "
            "svd take others"
        )
    return x


def _factorized(cure: str, primitive: Primitive, *xs: Any) -> Tensor:
    """A primitive that LAPACK may refuse; the error then says what to do, too."""
    try:
        return apply(primitive, *xs)
    except ValueError as error:
        raise ValueError(f"linalg.{error}; {cure}") from error


_SINGULAR = "a matrix that is singular has no inverse; linalg.pinv(x) is what comes nearest"


@in_float32
def inv(x: TensorLike, /) -> Tensor:
    """The inverses of square matrices (..., n, n).

    Raises ValueError for one that is singular, on backends that look.
    """
    return _factorized(_SINGULAR, _inv, _matrices("inv", x, square=True))


@in_float32
def solve(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """y with ``x1 @ y`` equal to x2, for square matrices x1 (..., n, n).

    x2 is one vector (n,) or matrices (..., n, k); axes before the last two broadcast. Raises
    ValueError for a matrix that is singular, on backends that look.
    """
    x1 = _matrices("solve", x1, square=True)
    x2 = _matrices("solve", x2, low=1)
    right = expand_dims(x2, axis=-1) if x2.ndim == 1 else x2
    if right.shape[-2] != x1.shape[-1]:
        raise ValueError(
            f"linalg.solve: {show(x1._array)} has {x1.shape[-1]} unknowns, and {show(x2._array)} "
            f"gives {right.shape[-2]} numbers for them"
        )
    leading = broadcast_shape("linalg.solve", x1.shape[:-2], right.shape[:-2])
    x1 = broadcast_to(x1, (*leading, *x1.shape[-2:]))
    y = _factorized(_SINGULAR, _solve, x1, broadcast_to(right, (*leading, *right.shape[-2:])))
    return reshape(y, y.shape[:-1]) if x2.ndim == 1 else y


@in_float32
def det(x: TensorLike, /) -> Tensor:
    """The determinants of square matrices (..., n, n), of shape (...).

    The derivative are the cofactors, also of a singular matrix.
    """
    return apply(_det, _matrices("det", x, square=True))


class SlogdetResult(NamedTuple):
    """What ``slogdet`` returns."""

    sign: Tensor
    logabsdet: Tensor


def slogdet(x: TensorLike, /) -> SlogdetResult:
    """The signs of the determinants and the logarithms of their absolute values, of shape (...).

    The sign has the derivative 0. A singular matrix gives 0 and -inf, and a backward pass raises
    LinAlgError there, on backends that look.
    """
    evaluate = in_float32(lambda y: apply_several(_slogdet, y))
    return SlogdetResult(*evaluate(_matrices("slogdet", x, square=True)))


def _tolerance(x: Tensor, rtol: Any) -> Any:
    return float(max(x.shape[-2:]) * np.finfo(x.dtype).eps) if rtol is None else rtol


@in_float32
def pinv(x: TensorLike, /, *, rtol: Any = None) -> Tensor:
    """The pseudo-inverses (..., n, m) of matrices (..., m, n), of Moore and Penrose.

    Singular values up to ``rtol``, one number or one for each matrix, times the largest count as 0;
    by default max(m, n) times the eps of the dtype. The derivative is that at constant rank.
    """
    x = _matrices("pinv", x)
    return apply(_pinv, x, _tolerance(x, rtol))


# Factorizations.


@in_float32
def cholesky(x: TensorLike, /, *, upper: bool = False) -> Tensor:
    """Lower triangular factors, ``l @ l.mT`` equal to x; or ``upper`` ones, ``u.mT @ u``.

    Of symmetric positive definite matrices (..., n, n), of which the lower triangle is read; the
    gradient is symmetric. Raises ValueError for one that is not, on backends that look.
    """
    x = _matrices("cholesky", x, square=True)
    factor = _factorized("add a small multiple of eye(n), if it should be", _cholesky, x)
    return matrix_transpose(factor) if upper else factor


class QRResult(NamedTuple):
    """What ``qr`` returns."""

    Q: Tensor
    R: Tensor


def qr(x: TensorLike, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """Q with orthonormal columns and R upper triangular, ``q @ r`` equal to x (..., m, n).

    "reduced": Q (..., m, k) and R (..., k, n), k = min(m, n); "complete": Q (..., m, m) and R
    (..., m, n), which has no derivative for m > n, as the further columns are not determined.
    The derivative takes the inverse of R, or of its first m columns.
    """
    x = _matrices("qr", x)
    if mode not in ("reduced", "complete"):
        raise ValueError(f"linalg.qr: mode={mode!r}; 'reduced' or 'complete'")
    if mode == "complete" and x.shape[-2] > x.shape[-1]:
        _refuse_gradient("qr", "mode='reduced'", x)
    evaluate = in_float32(lambda y: apply_several(_qr, y, mode=mode))
    return QRResult(*evaluate(x))


def _refuse_gradient(operation: str, cure: str, x: Tensor) -> None:
    if x.requires_grad:
        raise ValueError(
            f"linalg.{operation}: the further columns of {show(x._array)} are not determined, so "
            f"they have no derivative; use {cure}, or x.detach()"
        )


class EighResult(NamedTuple):
    """What ``eigh`` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def eigh(x: TensorLike, /) -> EighResult:
    """Eigenvalues (..., n), ascending, and eigenvectors, the columns of (..., n, n).

    Of symmetric matrices, of which the lower triangle is read; the gradient is symmetric.
    """
    evaluate = in_float32(lambda y: apply_several(_eigh, y))
    return EighResult(*evaluate(_matrices("eigh", x, square=True)))


def eigvalsh(x: TensorLike, /) -> Tensor:
    """The eigenvalues of ``eigh``."""
    return eigh(_matrices("eigvalsh", x, square=True)).eigenvalues


class SVDResult(NamedTuple):
    """What ``svd`` returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def svd(x: TensorLike, /, *, full_matrices: bool = True) -> SVDResult:
    """U and Vh with orthonormal columns and rows, S descending: ``(u * s) @ vh`` is x (..., m, n).

    U is (..., m, k) and Vh (..., k, n), k = min(m, n); or with ``full_matrices`` both are square,
    which has no derivative if m and n differ, as the further vectors are not determined.
    """
    x = _matrices("svd", x)
    if full_matrices and x.shape[-2] != x.shape[-1]:
        _refuse_gradient("svd", "full_matrices=False", x)
    evaluate = in_float32(lambda y: apply_several(_svd, y, full_matrices=bool(full_matrices)))
    return SVDResult(*evaluate(x))


def svdvals(x: TensorLike, /) -> Tensor:
    """The singular values (..., min(m, n)) of matrices (..., m, n), descending."""
    return svd(_matrices("svdvals", x), full_matrices=False).S


# Norms.


@in_float32
def vector_norm(
    x: TensorLike, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """(sum of abs(x)**ord)**(1 / ord) over ``axis``; ord 2 is the length.

    inf is the largest absolute value, -inf the smallest, and 0 counts those that are not 0. The
    derivative of a norm of zeros is 0. What is squared is scaled first, so nothing overflows.
    """
    x = _matrices("vector_norm", x, low=0)
    if isinstance(ord, str):
        raise ValueError(f"linalg.vector_norm: ord={ord!r}; a number, inf or -inf")
    axes = negative_axes(axis, x.ndim, "linalg.vector_norm")
    size = magnitude(x)
    if ord == 0:
        return astype(count_nonzero(x, axis=axes, keepdims=keepdims), x.dtype)
    if ord == 1 or not x.size:
        return sum(size, axis=axes, keepdims=keepdims)
    if abs(ord) == math.inf:
        return (largest if ord > 0 else smallest)(size, axis=axes, keepdims=keepdims)
    scale = largest(size.detach(), axis=axes, keepdims=True)
    scale = where(logical_and(scale > 0, isfinite(scale)), scale, 1.0)
    terms = square(x / scale) if ord == 2 else (size / scale) ** ord
    total = sum(terms, axis=axes, keepdims=True)
    flat = total == 0
    total = where(flat, 1.0, total)
    root = sqrt(total) if ord == 2 else total ** (1 / ord)
    norm = where(flat, 0.0, scale * root)
    if keepdims:
        return norm
    return reshape(norm, tuple(n for i, n in enumerate(x.shape) if i - x.ndim not in axes))


@in_float32
def matrix_norm(x: TensorLike, /, *, keepdims: bool = False, ord: Order = "fro") -> Tensor:
    """The norms of matrices (..., m, n), of shape (...).

    "fro": the length of all elements; "nuc": the sum of the singular values; 2 and -2: the largest
    and the smallest of those; 1 and -1: the largest and smallest sum of absolute values of a
    column; inf and -inf: of a row.
    """
    x = _matrices("matrix_norm", x)
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord == "nuc" or ord in (2, -2):
        values = svdvals(x)
        out = sum(values, axis=-1) if ord == "nuc" else _extreme(ord, values)
    elif ord in (1, -1, math.inf, -math.inf):
        out = _extreme(ord, sum(magnitude(x), axis=-2 if ord in (1, -1) else -1))
    else:
        raise ValueError(
            f"linalg.matrix_norm: ord={ord!r}; 'fro', 'nuc', 1, -1, 2, -2, inf or -inf"
        )
    return reshape(out, kept(x.shape, (-2, -1))) if keepdims else out


def _extreme(ord: Any, values: Tensor) -> Tensor:
    return (largest if ord > 0 else smallest)(values, axis=-1)


def matrix_rank(x: TensorLike, /, *, rtol: Any = None) -> Tensor:
    """How many singular values are above ``rtol`` times the largest; int64, of shape (...).

    ``rtol`` is one number or one for each matrix; by default max(m, n) times the eps of the dtype.
    """
    x = _matrices("matrix_rank", x).detach()
    values = svdvals(x)
    if not values.size:
        return sum(astype(values, "int64"), axis=-1)
    tolerance = _tolerance(x, rtol)
    tolerance = tolerance if isinstance(tolerance, float) else expand_dims(tolerance, axis=-1)
    return count_nonzero(values > largest(values, axis=-1, keepdims=True) * tolerance, axis=-1)


# Diagonals, powers and products.


def diagonal(x: TensorLike, /, *, offset: int = 0) -> Tensor:
    """The diagonals of matrices (..., m, n), ``offset`` above the main one; the last axis."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"linalg.diagonal: {show(x._array)} holds no matrix")
    row, column = max(-offset, 0), max(offset, 0)
    length = max(0, min(x.shape[-2] - row, x.shape[-1] - column))
    places = [range(start, start + length) for start in (row, column)]
    return getitem(x, (..., *places))


def trace(x: TensorLike, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sums of the diagonals of matrices (..., m, n), in ``dtype`` if that is given."""
    return sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def matrix_power(x: TensorLike, n: int, /) -> Tensor:
    """The product of ``n`` square matrices (..., n, n), or of ``-n`` inverses."""
    x = _matrices("matrix_power", x, square=True)
    times = operator.index(n)
    if times == 0:
        return zeros_like(x) + eye(x.shape[-1], dtype=x.dtype, backend=backend_of(x).name)
    factor = inv(x) if times < 0 else x
    out = None
    for bit in bin(abs(times))[:1:-1]:  # the lowest first
        if bit == "1":
            out = factor if out is None else matmul(out, factor)
        factor = matmul(factor, factor)
    return out  # type: ignore[return-value]


def cross(x1: TensorLike, x2: TensorLike, /, *, axis: int = -1) -> Tensor:
    """The cross products of vectors of length 3 along ``axis``, the other axes broadcasting."""
    x1, x2 = as_tensor(x1), as_tensor(x2)
    places = [negative_axis(axis, x.ndim, "linalg.cross") for x in (x1, x2)]
    if places[0] != places[1] or x1.shape[places[0]] != 3 or x2.shape[places[0]] != 3:
        raise ValueError(
            f"linalg.cross: axis {axis} of {show(x1._array)} and {show(x2._array)} has to be the "
            "same, counted from the end, and of length 3"
        )
    along = places[0]
    ahead = roll(x1, -1, axis=along) * roll(x2, -2, axis=along)
    return ahead - roll(x1, -2, axis=along) * roll(x2, -1, axis=along)
