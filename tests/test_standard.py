"""What the Array API asks of the package, in the places where it differed.

The standard's own suite does the rest: ``python tests/array_api_suite.py FOLDER``.
"""

from __future__ import annotations

import inspect
from typing import Any

import array_api_strict
import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.testing import check_grads


def test_limits_of_dtypes_are_python_numbers() -> None:
    for dtype in (tg.float32, "float64", np.dtype("float16"), tg.zeros(1)):
        found = tg.finfo(dtype)
        wanted = np.finfo(tg.result_type(dtype))
        assert all(type(x) is float for x in found[1:5])
        assert found[1:5] == (wanted.eps, wanted.max, wanted.min, wanted.smallest_normal)
        assert (found.bits, found.dtype) == (wanted.bits, wanted.dtype)
    for integer in (tg.int8, "uint64", tg.zeros(1, "int32")):
        found, limits = tg.iinfo(integer), np.iinfo(tg.result_type(integer))
        assert all(type(x) is int for x in found[:3])
        assert found[:3] == (limits.bits, limits.max, limits.min)


def test_kinds_and_casts_of_dtypes() -> None:
    assert tg.isdtype(tg.float32, "real floating")
    assert tg.isdtype("uint8", ("bool", "unsigned integer"))
    assert tg.isdtype(tg.zeros(1).dtype, tg.float32)
    assert not tg.isdtype(tg.int64, "real floating")
    assert tg.can_cast(tg.int8, tg.int16)
    assert not tg.can_cast(tg.zeros(1, "float64"), "float32")


def test_the_namespace_describes_itself(backend: Any) -> None:
    info = tg.__array_namespace_info__()
    x = tg.zeros(2)
    assert x.__array_namespace__() is tg
    assert tg.__array_api_version__ == "2024.12"
    assert info.devices() == [info.default_device()] == [x.device]
    assert info.default_dtypes()["real floating"] == x.dtype
    assert list(info.dtypes(kind="real floating")) == ["float32", "float64"]
    assert len(info.dtypes()) == 11
    y = tg.ones_like(x, device=x.device).to_device(x.device)
    assert tg.asarray(y, device=y.device) is y


LATER = {"broadcast_shapes", "isin"}  # are of 2025.12
THEIR_OWN = {"set_array_api_strict_flags", "get_array_api_strict_flags"}
THEIR_OWN |= {"reset_array_api_strict_flags", "ArrayAPIStrictFlags", "Device"}


def test_every_function_of_the_standard_is_there_with_its_keywords() -> None:
    for theirs, mine in ((array_api_strict, tg), (array_api_strict.linalg, tg.linalg)):
        functions = {n: f for n, f in vars(theirs).items() if inspect.isfunction(f)}
        for name in functions.keys() & set(theirs.__all__) - LATER - THEIR_OWN:
            known = inspect.signature(getattr(mine, name)).parameters
            asked = inspect.signature(functions[name]).parameters.values()
            keywords = {p.name for p in asked if p.kind is p.KEYWORD_ONLY}
            assert keywords <= known.keys(), (name, keywords)


def test_asarray_shares_copies_or_refuses(backend: Any) -> None:
    host = np.arange(3.0)
    array = backend.from_host(host)
    assert tg.asarray(array, copy=False)._array is array
    assert tg.asarray(array)._array is array
    copied = tg.asarray(array, copy=True)
    assert copied._array is not array
    x = tg.tensor(host, backend=backend.name, requires_grad=True)
    assert tg.asarray(x, copy=False) is x
    y = tg.asarray(x, copy=True)
    np.testing.assert_array_equal(tg.grad(tg.sum(y * y), x).numpy(), 2 * host)
    for again in (x.astype("float64", copy=True), tg.reshape(x, (3,), copy=True)):
        assert again._array is not x._array
        np.testing.assert_array_equal(tg.grad(tg.sum(again), x).numpy(), [1, 1, 1])
    with pytest.raises(ValueError, match="copy=False"):
        tg.asarray(array, dtype="float32", copy=False)
    assert tg.reshape(x, (3, 1), copy=False).shape == (3, 1)
    assert tg.asarray([tg.ones(()), 2]).tolist() == [1, 2]


def test_dtype_of_sums_and_products(backend: Any) -> None:
    x = tg.asarray(np.array([100, 100, 100], "uint8"), backend=backend.name)
    assert (tg.sum(x).dtype, tg.prod(x).dtype) == (np.uint64, np.uint64)
    for f, value in ((tg.sum, 300), (tg.prod, 10**6)):
        assert (f(x, dtype="float32").dtype, f(x, dtype="float32").item()) == (np.float32, value)
        assert (f(x, dtype="uint8").dtype, f(x, dtype="uint8").item()) == (np.uint8, value % 256)
    for g in (tg.cumulative_sum, tg.cumulative_prod):
        assert (g(x).dtype, g(x, dtype="float64").dtype) == (np.uint64, np.float64)
        assert g(x, dtype="uint8").dtype == np.uint8
    y = tg.ones(3, "float64", requires_grad=True)
    assert tg.grad(tg.sum(y, dtype="float32"), y).dtype == np.float64


def test_floor_divide_at_infinities_and_zeros() -> None:
    inf = np.inf
    cases = (
        (inf, 2.0, inf), (inf, -2.0, -inf), (-inf, 3.0, -inf), (inf, inf, np.nan),
        (1.0, inf, 0.0), (1.0, -inf, -0.0), (-1.0, inf, -0.0), (-1.0, -inf, 0.0),
        (0.0, 2.0, 0.0), (-0.0, 2.0, -0.0), (0.0, -2.0, -0.0), (1.0, 0.0, inf),
        (-1.0, 0.0, -inf), (0.0, 0.0, np.nan), (-7.0, 2.0, -4.0), (1e308, -1e308, -1.0),
    )  # fmt: skip
    for x, y, wanted in cases:
        with np.errstate(all="ignore"):
            for found in (tg.tensor(x) // y, x // tg.tensor(y), tg.tensor(x) // tg.tensor(y)):
                if abs(x) < 1e300:
                    np.testing.assert_array_equal(found.numpy(), np.float32(wanted))
                    assert np.signbit(found.numpy()) == np.signbit(wanted) or wanted != wanted
            found = tg.floor_divide(np.array([x]), np.array([y]))
        np.testing.assert_array_equal(found.numpy(), [wanted])


def test_operators_of_integers_are_those_of_bits(backend: Any) -> None:
    x, y = np.array([6, -3, 5]), np.array([3, 1, 2])
    a, b = (tg.asarray(backend.from_host(z)) for z in (x, y))
    for mine, wanted in (
        (a & b, x & y), (a | b, x | y), (a ^ b, x ^ y), (~a, ~x),
        (a << b, x << y), (a >> b, x >> y), (a & 3, x & 3), (3 | a, 3 | x),
        (1 << b, 1 << y), (64 >> b, 64 >> y),
    ):  # fmt: skip
        np.testing.assert_array_equal(mine.numpy(), wanted)
        assert mine.dtype == wanted.dtype
    a <<= 1
    np.testing.assert_array_equal(a.numpy(), x << 1)


# Linear algebra, beyond what the table draws.


def test_factorizations_are_named_and_put_together_again(backend: Any) -> None:
    x = tg.asarray(backend.from_host(np.random.default_rng(0).normal(size=(2, 4, 3))))
    for full in (True, False):
        u, s, vh = tg.linalg.svd(x, full_matrices=full)
        np.testing.assert_allclose(((u[..., :3] * s[..., None, :]) @ vh).numpy(), x.numpy())
        assert u.shape == (2, 4, 4 if full else 3)
    for mode in ("complete", "reduced"):
        q, r = tg.linalg.qr(x, mode=mode)
        np.testing.assert_allclose((q @ r).numpy(), x.numpy())
    symmetric = x.mT @ x
    values, vectors = tg.linalg.eigh(symmetric)
    again = (vectors * values[..., None, :]) @ vectors.mT
    np.testing.assert_allclose(again.numpy(), symmetric.numpy())
    sign, logarithm = tg.linalg.slogdet(symmetric)
    np.testing.assert_allclose((sign * tg.exp(logarithm)).numpy(), tg.linalg.det(symmetric).numpy())
    fields = ("U", "S", "Vh"), ("Q", "R"), ("eigenvalues", "eigenvectors"), ("sign", "logabsdet")
    found = (
        tg.linalg.svd(x),
        tg.linalg.qr(x),
        tg.linalg.eigh(symmetric),
        tg.linalg.slogdet(symmetric),
    )
    assert [type(f)._fields for f in found] == list(fields)  # type: ignore[attr-defined]


def test_third_derivatives_of_linear_algebra() -> None:
    x = np.array([[2.0, 0.3], [-0.4, 1.1]])
    for f in (
        tg.linalg.inv,
        tg.linalg.det,
        tg.linalg.svdvals,
        lambda x: tg.linalg.cholesky(x @ x.mT),
        lambda x: tg.linalg.eigvalsh(x + x.mT),
        lambda x: tg.linalg.qr(x).R,
        lambda x: tg.linalg.solve(x, x[0]),
        lambda x: tg.linalg.pinv(x[:, :1] @ x[:1]),  # of rank 1
        tg.linalg.vector_norm,
    ):
        check_grads(f, [x], order=3)


def test_values_have_a_derivative_where_their_vectors_have_none() -> None:
    """At equal singular values and eigenvalues, and at those that are 0."""
    for host in (np.eye(2), np.ones((2, 3)), np.zeros((2, 2))):
        x = tg.tensor(host, requires_grad=True)
        gradient = tg.grad(tg.sum(tg.linalg.svdvals(x)), x)
        assert np.isfinite(gradient.numpy()).all()
    x = tg.tensor(np.eye(3), requires_grad=True)
    np.testing.assert_allclose(tg.grad(tg.linalg.matrix_norm(x, ord="nuc"), x).numpy(), np.eye(3))
    values = tg.linalg.eigvalsh(x)
    np.testing.assert_allclose(tg.grad(tg.sum(values * values), x).numpy(), 2 * np.eye(3))


def test_what_has_no_derivative_says_so() -> None:
    x = tg.ones((3, 2), requires_grad=True)
    with pytest.raises(ValueError, match=r"linalg\.qr.*mode='reduced', or x\.detach\(\)"):
        tg.linalg.qr(x, mode="complete")
    with pytest.raises(ValueError, match=r"linalg\.svd.*full_matrices=False"):
        tg.linalg.svd(x)
    assert tg.linalg.svd(x.detach()).U.shape == (3, 3)
    assert tg.linalg.qr(x.mT, mode="complete").Q.requires_grad


def test_cofactors_of_singular_matrices(backend: Any) -> None:
    rank_1 = np.outer([1.0, 2.0, -1.0], [3.0, 1.0, 2.0])
    regular = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 1.0]])
    rank_2 = regular * [1.0, 1.0, 0.0]
    stacked = backend.from_host(np.stack([rank_1, rank_2, regular, np.zeros((3, 3)), np.eye(3)]))
    x = tg.asarray(stacked)
    x.requires_grad = True
    found = tg.grad(tg.sum(tg.linalg.det(x)), x).numpy()

    def minor(a: Any, i: int, j: int) -> float:
        rest = np.delete(np.delete(a, i, axis=0), j, axis=1)
        return (-1) ** (i + j) * (rest[0, 0] * rest[1, 1] - rest[0, 1] * rest[1, 0])

    wanted = [[[minor(a, i, j) for j in range(3)] for i in range(3)] for a in x.numpy()]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    check_grads(tg.linalg.det, [x[1:3]])
    check_grads(tg.linalg.det, [x[4:]], order=3)


@pytest.mark.parametrize("name", tg.linalg.__all__)
def test_linear_algebra_of_float16_is_float16(name: str) -> None:
    f = getattr(tg.linalg, name)
    shape = (3, 3)
    x = (tg.eye(3) * 4 + 1).astype("float16")
    arguments = {"matrix_power": (x, 2), "outer": (x[0], x[0]), "cross": (x, x), "vecdot": (x, x)}
    arguments |= dict.fromkeys(("matmul", "solve", "tensordot"), (x, x))
    out = f(*arguments.get(name, (x,)))
    parts = out if isinstance(out, tuple) else (out,)
    assert all(y.dtype == (np.int64 if name == "matrix_rank" else np.float16) for y in parts)
    assert x.shape == shape


def test_norms_neither_overflow_nor_underflow() -> None:
    for size in (1e200, 1e-200):
        x = tg.tensor(np.array([3.0, -4.0]) * size, requires_grad=True)
        y = tg.linalg.vector_norm(x)
        np.testing.assert_allclose(y.item(), 5 * size)
        np.testing.assert_allclose(tg.grad(y, x).numpy(), [0.6, -0.8])
        np.testing.assert_allclose(tg.hypot(x[0], x[1]).item(), 5 * size)
    assert tg.linalg.vector_norm(tg.zeros((2, 0)), axis=1).tolist() == [0, 0]


def test_rtol_for_each_matrix(backend: Any) -> None:
    x = tg.asarray(backend.from_host(np.stack([np.diag([1.0, 0.1])] * 2)))
    rtol = tg.asarray(backend.from_host(np.array([0.01, 0.5])))
    assert tg.linalg.matrix_rank(x, rtol=rtol).tolist() == [2, 1]
    found = tg.linalg.pinv(x, rtol=rtol)
    np.testing.assert_allclose(found.numpy(), [np.diag([1.0, 10.0]), np.diag([1.0, 0.0])])
    each = tg.vmap(lambda m, r: tg.linalg.pinv(m, rtol=r))(x, rtol)
    np.testing.assert_array_equal(each.numpy(), found.numpy())


def test_rows_of_a_batch_of_matrices_are_independent() -> None:
    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(tg.linalg.solve(x, h[..., None])[..., 0])
        return h, h

    rng = np.random.default_rng(0)
    xs = tg.tensor(rng.normal(size=(9, 4, 3, 3)) + 3 * np.eye(3), requires_grad=True)
    h = tg.tensor(rng.normal(size=(4, 3)))
    plan = tg.plan(cell, xs, h)
    assert "independent" in str(plan.report())
    literal, planned = (
        tg.grad(tg.sum(tg.unroll(cell, xs, h, mode=mode)[0]), xs).numpy()
        for mode in ("literal", "planned")
    )
    np.testing.assert_allclose(planned, literal, rtol=1e-10, atol=1e-14)
