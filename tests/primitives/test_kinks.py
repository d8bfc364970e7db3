"""Ties, kinks and ends of the number line: each choice that DESIGN states, to second order.

The subtle point is 0 * inf. A formula that is right everywhere else gives nan where one factor of a
derivative vanishes and the other explodes; most tests here ask for a finite number instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg

Array = np.ndarray[Any, Any]
INF = np.inf


def derivatives(
    f: Callable[..., Any], *hosts: Any, backend: tg.Backend | None = None, dtype: str = "float64"
) -> tuple[Array, list[Array], list[Array]]:
    """The value, the gradient of its sum, and the gradient of that gradient's sum."""
    name = "numpy" if backend is None else backend.name
    xs = [tg.tensor(np.asarray(h, dtype), requires_grad=True, backend=name) for h in hosts]
    with np.errstate(all="ignore"):
        y = f(*xs)
        first = tg.grad(tg.sum(y), xs, create_graph=True)
        total = sum(tg.sum(g) for g in first)
        second = tg.grad(total, xs, allow_unused=True)
    zeros = [np.zeros(x.shape) for x in xs]
    return (
        y.numpy(),
        [g.numpy() for g in first],
        [z if g is None else g.numpy() for z, g in zip(zeros, second, strict=True)],
    )


def check(f: Callable[..., Any], hosts: Any, value: Any, *gradients: Any, **options: Any) -> None:
    """Compare the value and the first derivative by each input exactly; the second must be 0."""
    y, first, second = derivatives(f, *hosts, **options)
    np.testing.assert_array_equal(y, value)
    for g, wanted in zip(first, gradients, strict=True):
        np.testing.assert_array_equal(g, np.asarray(wanted))
    assert not any(g.any() for g in second)


# Ties.


@pytest.mark.parametrize(("name", "sign"), [("max", 1), ("min", -1)])
def test_extremes_share_equally(name: str, sign: int, backend: tg.Backend) -> None:
    f = getattr(tg, name)
    x = sign * np.array([[1.0, 3.0, 3.0], [3.0, 2.0, 0.0]])
    third = 1 / 3
    check(f, (x,), sign * 3, [[0, third, third], [third, 0, 0]], backend=backend)
    rows = [[0, 0.5, 0.5], [1, 0, 0]]
    check(lambda x: f(x, axis=1), (x,), [sign * 3] * 2, rows, backend=backend)
    check(lambda x: f(x, axis=-1, keepdims=True), (x,), [[sign * 3]] * 2, rows, backend=backend)
    check(lambda x: f(x, axis=(0, 1)), (np.ones((2, 2)),), 1, np.full((2, 2), 0.25))
    wanted = [0.5, 0.5, 0] if sign > 0 else [0, 0, 1]
    check(f, ([INF, INF, -INF],), sign * INF, wanted, backend=backend)


@pytest.mark.parametrize(("name", "sign"), [("maximum", 1), ("minimum", -1)])
def test_choices_give_half_to_each(name: str, sign: int, backend: tg.Backend) -> None:
    f = getattr(tg, name)
    x, y = sign * np.array([1.0, 2.0, 4.0]), sign * np.array([1.0, 3.0, 2.0])
    wanted = sign * np.array([1, 3, 4])
    check(f, (x, y), wanted, [0.5, 0, 1], [0.5, 1, 0], backend=backend)
    check(lambda x: f(x, x), (x,), x, [1, 1, 1], backend=backend)
    check(lambda x: f(x, sign * 2), (x,), sign * np.array([2, 2, 4]), [0, 0.5, 1], backend=backend)
    check(lambda x: f(sign * 2.0, x), (x,), sign * np.array([2, 2, 4]), [0, 0.5, 1])


def test_clip_passes_at_its_bounds(backend: tg.Backend) -> None:
    x = [-2.0, -1.0, 0.0, 1.0, 2.0]
    check(lambda x: tg.clip(x, -1, 1), (x,), [-1, -1, 0, 1, 1], [0, 1, 1, 1, 0], backend=backend)
    check(lambda x: tg.clip(x, min=-1.0), (x,), [-1, -1, 0, 1, 2], [0, 1, 1, 1, 1])
    check(lambda x: tg.clip(x, max=1.0), (x,), [-2, -1, 0, 1, 1], [1, 1, 1, 1, 0])
    check(tg.clip, (x, -1.0, 1.0), [-1, -1, 0, 1, 1], [0, 1, 1, 1, 0], 1, 1, backend=backend)
    check(tg.clip, (x, 1.0, -1.0), [-1] * 5, [0] * 5, 0, 5)  # max below min: max, as in NumPy
    check(lambda x: tg.clip(x), (x,), x, [1] * 5)


# Kinks at 0.


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("abs", [2, 0, 0, 3], [-1, 0, 0, 1]),
        ("relu", [0, 0, 0, 3], [0, 0, 0, 1]),
        ("sign", [-1, 0, 0, 1], [0, 0, 0, 0]),
        ("leaky_relu", [-0.02, 0, 0, 3], [0.01, 0.01, 0.01, 1]),
    ],
)
def test_kinks_at_zero(name: str, value: Any, gradient: Any, backend: tg.Backend) -> None:
    check(getattr(tg, name), ([-2.0, -0.0, 0.0, 3.0],), value, gradient, backend=backend)


def test_sqrt_has_an_infinite_derivative_at_zero(backend: tg.Backend) -> None:
    y, (g,), _ = derivatives(tg.sqrt, [0.0, 4.0], backend=backend)
    np.testing.assert_array_equal(y, [0, 2])
    np.testing.assert_array_equal(g, [INF, 0.25])


def test_an_infinite_derivative_is_no_warning() -> None:
    x = tg.tensor([0.0, 4.0], requires_grad=True)
    tg.sum(tg.sqrt(x)).backward()  # pytest makes warnings errors
    np.testing.assert_array_equal(x.grad.numpy(), [INF, 0.25])


def test_std_of_equal_elements_is_flat(backend: tg.Backend) -> None:
    x = [[1.0, 1.0, 1.0], [1.0, 3.0, 2.0]]
    y, (g,), (h,) = derivatives(lambda x: tg.std(x, axis=1), x, backend=backend)
    np.testing.assert_allclose(y, [0, np.sqrt(2 / 3)])
    np.testing.assert_allclose(g[0], 0)
    assert np.isfinite(g).all()
    assert np.isfinite(h).all()
    assert np.isnan(tg.std(tg.tensor([1.0, np.nan])).item())


@pytest.mark.parametrize("n", [3, 49, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_mean_of_equal_elements_is_exact(n: int, dtype: str, backend: tg.Backend) -> None:
    x = tg.ones(n, dtype=dtype, backend=backend.name)
    assert tg.mean(x).item() == 1
    assert tg.var(x).item() == tg.std(x).item() == 0
    assert {f(x).dtype.name for f in (tg.mean, tg.var, tg.std)} == {dtype}


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("name", ["mean", "var", "std"])
def test_means_of_integers_are_numpys(name: str, dtype: str, backend: tg.Backend) -> None:
    host = np.array([[1, 0, 2], [200, 7, 0]]).astype(dtype)
    x = tg.tensor(host, backend=backend.name)
    found, wanted = getattr(tg, name)(x, axis=1), getattr(np, name)(host, axis=1)
    assert found.dtype == wanted.dtype == np.float64
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-15)


def test_means_of_float16_do_not_overflow() -> None:
    x = tg.full(100, 1000.0, dtype="float16", requires_grad=True)
    mean = tg.mean(x)
    assert mean.dtype == np.float16 and mean.item() == 1000
    mean.backward()
    assert x.grad.dtype == np.float16
    np.testing.assert_array_equal(x.grad.numpy(), np.full(100, 0.01, "float16"))
    apart = np.where(np.arange(1000) % 2, 200, -200).astype("float16")
    for name, value in (("mean", 0), ("var", 40000), ("std", 200)):
        found = getattr(tg, name)(tg.tensor(apart))
        assert found.dtype == np.float16 and found.item() == value
    assert tg.std(tg.tensor(apart * 2)).item() == 400  # whose square is no float16


# Products and powers of 0.


@pytest.mark.parametrize(
    ("x", "gradient", "mixed"),
    [
        ([2.0, 0.0, 3.0], [0, 6, 0], {(0, 1): 3, (1, 2): 2, (0, 2): 0}),
        ([0.0, 0.0, 3.0], [0, 0, 0], {(0, 1): 3, (1, 2): 0, (0, 2): 0}),
        ([0.0, 0.0, 0.0], [0, 0, 0], {(0, 1): 0, (1, 2): 0, (0, 2): 0}),
        ([2.0, 5.0, 3.0], [15, 6, 10], {(0, 1): 3, (1, 2): 2, (0, 2): 5}),
    ],
)
def test_prod_with_zeros(x: Any, gradient: Any, mixed: Any, backend: tg.Backend) -> None:
    point = tg.tensor(np.array(x), backend=backend.name)
    value, g = tg.value_and_grad(tg.prod)(point)
    assert value.item() == np.prod(x)
    np.testing.assert_array_equal(g.numpy(), gradient)
    second = tg.hessian(tg.prod)(point).numpy()
    np.testing.assert_array_equal(np.diag(second), 0)
    for (i, j), wanted in mixed.items():
        assert second[i, j] == second[j, i] == wanted


def test_powers_of_zero(backend: tg.Backend) -> None:
    """By exponent: x ** p at 0 and its derivatives in x, for numbers and for tensors."""
    for p, value, first, second in (
        (0, 1, 0, 0),
        (1, 0, 1, 0),
        (2, 0, 0, 2),
        (3, 0, 0, 0),
        (4, 0, 0, 0),
        (0.5, 0, INF, -INF),
        (1.5, 0, 0, INF),
        (-1, INF, -INF, INF),
    ):
        for exponent in (p, float(p), tg.tensor(np.array(float(p)), backend=backend.name)):
            y, (g,), (h,) = derivatives(lambda x, e=exponent: x**e, 0.0, backend=backend)
            assert (y, g, h) == (value, first, second)


def test_powers_by_their_exponent(backend: tg.Backend) -> None:
    y, (_, g), (_, h) = derivatives(tg.pow, [0.0, 0.0, 2.0], [0.0, 2.0, 0.0], backend=backend)
    np.testing.assert_array_equal(y, [1, 0, 1])
    np.testing.assert_allclose(g, [0, 0, np.log(2)])
    assert h[1] == 0
    y, (g,), (h,) = derivatives(lambda e: 0.0**e, [0.0, 2.0], backend=backend)
    np.testing.assert_array_equal([y, g, h], [[1, 0], [0, 0], [0, 0]])
    y, (g,), (h,) = derivatives(lambda e: 2.0**e, [0.0, 3.0], backend=backend)
    log = np.log(2)
    np.testing.assert_allclose([y, g, h], [[1, 8], [log, 8 * log], [log**2, 8 * log**2]])


def test_negative_bases(backend: tg.Backend) -> None:
    for exponent in (3, 3.0, tg.tensor(np.array(3.0), backend=backend.name)):
        y, (g,), (h,) = derivatives(lambda x, e=exponent: x**e, -2.0, backend=backend)
        assert (y, g, h) == (-8, 12, -12)


def test_remainder_is_exact(backend: tg.Backend) -> None:
    """x - floor(x / y) * y would lose what x is larger by, and be nan beside an infinite y."""
    x = np.array([1e6 + 0.25, -1e6 - 0.25, 7.5, -7.5, 5.5, -5.5], dtype="float32")
    y = np.array([0.7, 0.7, -2.0, 2.0, INF, INF], dtype="float32")
    found = tg.remainder(tg.tensor(x, backend=backend.name), tg.tensor(y, backend=backend.name))
    np.testing.assert_array_equal(found.numpy(), np.remainder(x, y))
    check(tg.remainder, ([7.5, -7.5], [2.0, 2.0]), [1.5, 0.5], [1, 1], [-3, 4], backend=backend)


# Of nothing.


@pytest.mark.parametrize(
    ("name", "value"), [("sum", 0), ("prod", 1), ("mean", np.nan), ("logsumexp", -INF)]
)
def test_reductions_of_nothing(name: str, value: float, backend: tg.Backend) -> None:
    f = getattr(tg, name)
    x = np.zeros((2, 0))
    check(lambda x: f(x, axis=1), (x,), [value] * 2, x, backend=backend)
    check(lambda x: f(x, axis=0, keepdims=True), (x,), x[:1], x, backend=backend)
    check(lambda x: tg.softmax(x, axis=1), (x,), x, x, backend=backend)


# Far out: nothing overflows, and no derivative is nan.

FAR = [-1e4, -100.0, 0.0, 100.0, 1e4]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("f", "value", "gradient"),
    [
        (tg.sigmoid, [0, 0, 0.5, 1, 1], [0, 0, 0.25, 0, 0]),
        (tg.tanh, [-1, -1, 0, 1, 1], [0, 0, 1, 0, 0]),
        (tg.softplus, [0, 0, np.log(2), 100, 1e4], [0, 0, 0.5, 1, 1]),
        (tg.erf, [-1, -1, 0, 1, 1], [0, 0, 2 / np.sqrt(np.pi), 0, 0]),
        (tg.silu, [0, 0, 0, 100, 1e4], [0, 0, 0.5, 1, 1]),
        (tg.gelu, [0, 0, 0, 100, 1e4], [0, 0, 0.5, 1, 1]),
        (lambda x: tg.gelu(x, approximate="tanh"), [0, 0, 0, 100, 1e4], [0, 0, 0.5, 1, 1]),
        (tg.elu, [-1, -1, 0, 100, 1e4], [0, 0, 1, 1, 1]),
        (lambda x: tg.log(tg.sigmoid(x[2:])), [-np.log(2), 0, 0], [0, 0, 0.5, 0, 0]),
        (lambda x: -tg.softplus(-x), [-1e4, -100, -np.log(2), 0, 0], [1, 1, 0.5, 0, 0]),
    ],
)
def test_activations_far_out(
    f: Any, value: Any, gradient: Any, dtype: str, backend: tg.Backend
) -> None:
    y, (g,), (h,) = derivatives(f, FAR, dtype=dtype, backend=backend)
    assert y.dtype == g.dtype == h.dtype == dtype
    np.testing.assert_allclose(y, value, rtol=1e-6, atol=1e-25)
    np.testing.assert_allclose(g, gradient, rtol=1e-6, atol=1e-25)
    np.testing.assert_allclose(h[[0, 1, 3, 4]], 0, atol=1e-25)


def test_sigmoid_and_softplus_keep_their_small_values() -> None:
    """Relative accuracy, where 1 - something would round to 0."""
    x = np.array([-30.0, -50.0, -300.0])
    y, (g,), _ = derivatives(tg.sigmoid, x)
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-12)
    np.testing.assert_allclose(g, np.exp(x), rtol=1e-12)
    y, (g,), _ = derivatives(tg.softplus, x)
    np.testing.assert_allclose([y, g], [np.exp(x)] * 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_softmax_and_company_far_out(shift: float, dtype: str, backend: tg.Backend) -> None:
    """Adding a number to all elements changes a logsumexp by it, and nothing else."""
    near = np.array([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]])
    p = np.exp(near) / np.exp(near).sum(axis=1, keepdims=True)
    options = {"dtype": dtype, "backend": backend}
    tolerance = {"rtol": 2e-3 if dtype == "float32" and shift else 1e-6, "atol": 1e-6}
    rows = np.log(np.exp(near).sum(axis=1))
    y, (g,), _ = derivatives(lambda x: tg.logsumexp(x, axis=1), near + shift, **options)
    np.testing.assert_allclose(y, rows + shift, rtol=1e-6)
    np.testing.assert_allclose(g, p, **tolerance)
    y, (g,), _ = derivatives(lambda x: tg.square(tg.softmax(x)), near + shift, **options)
    np.testing.assert_allclose(y, p**2, **tolerance)
    wanted = 2 * p * (p - (p * p).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(g, wanted, **tolerance)
    y, (g,), _ = derivatives(lambda x: tg.log_softmax(x)[:, 0], near + shift, **options)
    np.testing.assert_allclose(y, near[:, 0] - rows, rtol=1e-3 if shift else 1e-6)
    np.testing.assert_allclose(g, np.array([1, 0, 0]) - p, **tolerance)
    target = tg.tensor([2, 0], backend=backend.name)
    y, (g,), _ = derivatives(lambda x: tg.cross_entropy(x, target), near + shift, **options)
    wanted = -(near[0, 2] - rows[0] + near[1, 0] - rows[1]) / 2
    np.testing.assert_allclose(y, wanted, rtol=1e-3 if shift else 1e-6)
    np.testing.assert_allclose(g, (p - np.eye(3)[[2, 0]]) / 2, **tolerance)


def test_cross_entropy_of_certainty(backend: tg.Backend) -> None:
    logits = [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]
    right, wrong = (tg.tensor(t, backend=backend.name) for t in ([0, 1], [1, 0]))
    check(lambda x: tg.cross_entropy(x, right), (logits,), 0, np.zeros((2, 3)), backend=backend)
    gradient = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]) / 2
    check(lambda x: tg.cross_entropy(x, wrong), (logits,), 2e4, gradient, backend=backend)


# Masked by -inf, as attention scores are.


def test_elements_that_are_minus_infinity(backend: tg.Backend) -> None:
    x = [[0.0, -INF, 1.0], [-INF, -INF, 2.0]]
    e = np.e
    for f, wanted in (
        (lambda x: tg.logsumexp(x, axis=1), [np.log(1 + e), 2]),
        (tg.softmax, [[1 / (1 + e), 0, e / (1 + e)], [0, 0, 1]]),
        (lambda x: tg.log_softmax(x)[:, 2], [1 - np.log(1 + e), 0]),
        (lambda x: tg.max(x, axis=1), [1, 2]),
    ):
        y, (g,), (h,) = derivatives(f, x, backend=backend)
        np.testing.assert_allclose(y, wanted, rtol=1e-12)
        assert np.isfinite(g).all()
        assert np.isfinite(h).all()
        np.testing.assert_array_equal(g[np.isinf(np.array(x))], 0)


def test_scores_masked_by_where(backend: tg.Backend) -> None:
    """A gradient reaches the scores that count, and 0 the others, also of a row without any."""
    scores = np.array([[0.0, 5.0, 1.0], [2.0, 3.0, 4.0]])
    mask = tg.tensor(np.array([[True, False, True], [False] * 3]), backend=backend.name)

    def attend(x: Any) -> Any:
        return tg.softmax(tg.where(mask, x, -INF)) * tg.tensor(scores, backend=backend.name)

    y, (g,), (h,) = derivatives(attend, scores, backend=backend)
    p = np.e / (1 + np.e)
    np.testing.assert_allclose(y, [[0, 0, p], [0, 0, 0]], rtol=1e-12)
    np.testing.assert_allclose(g, [[-p * (1 - p), 0, p * (1 - p)], [0, 0, 0]], rtol=1e-12)
    assert np.isfinite(h).all()


def test_rows_of_minus_infinity(backend: tg.Backend) -> None:
    x = np.array([[-INF, -INF], [0.0, 0.0]])
    with np.errstate(all="ignore"):
        y = tg.logsumexp(tg.tensor(x, backend=backend.name), axis=1)
    np.testing.assert_array_equal(y.numpy(), [-INF, np.log(2)])
    check(tg.softmax, (x[:1],), [[0, 0]], [[0, 0]], backend=backend)
    assert tg.logsumexp(tg.tensor([INF, 0.0], backend=backend.name)).item() == INF


def test_ignored_targets_ignore_their_logits(backend: tg.Backend) -> None:
    logits = [[-INF, 0.0, 1.0], [0.0, 1.0, 2.0]]
    target = tg.tensor([-100, 2], backend=backend.name)
    y, (g,), _ = derivatives(lambda x: tg.cross_entropy(x, target), logits, backend=backend)
    p = np.exp([0.0, 1, 2]) / np.exp([0.0, 1, 2]).sum()
    np.testing.assert_allclose(y, -np.log(p[2]))
    np.testing.assert_allclose(g, [[0, 0, 0], p - [0, 0, 1]], atol=1e-15)


def test_targets_may_be_bytes(backend: tg.Backend) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 256))
    host = np.array([255, 0, 7], dtype="uint8")
    targets = [tg.tensor(host, dtype, backend=backend.name) for dtype in ("uint8", "int64")]
    x = tg.tensor(logits, backend=backend.name)
    found = [tg.cross_entropy(x, target, reduction="none").numpy() for target in targets]
    np.testing.assert_array_equal(*found)


# What is not a number stays so.


@pytest.mark.parametrize(
    "f",
    [
        tg.sum, tg.mean, tg.max, tg.min, tg.prod, tg.std, tg.logsumexp, tg.exp, tg.relu, tg.sigmoid,
        tg.softplus, tg.softmax, tg.silu, tg.gelu, tg.elu, tg.leaky_relu, tg.abs, tg.sqrt, tg.erf,
        lambda x: tg.clip(x, -1, 1), lambda x: tg.maximum(x, 0.0), lambda x: tg.minimum(0.0, x),
        lambda x: x**2, lambda x: x**0.5, tg.layer_norm, tg.cumulative_sum,
    ],
)  # fmt: skip
def test_nan_passes_through(f: Any, backend: tg.Backend) -> None:
    with np.errstate(all="ignore"):
        y = f(tg.tensor(np.array([1.0, np.nan]), backend=backend.name)).numpy()
    assert np.isnan(y.flat[-1])


# Kinks of angles, lengths and norms.


def test_at_the_origin_there_is_no_direction(backend: tg.Backend) -> None:
    check(tg.hypot, (0.0, 0.0), 0, 0, 0, backend=backend)
    check(tg.atan2, (0.0, 0.0), 0, 0, 0, backend=backend)
    check(lambda x: tg.linalg.vector_norm(x), ([0.0, 0.0],), 0, [0, 0], backend=backend)
    check(lambda x: tg.linalg.vector_norm(x, ord=3), ([0.0, 0.0],), 0, [0, 0], backend=backend)
    check(lambda x: tg.linalg.matrix_norm(x), ([[0.0], [0.0]],), 0, [[0], [0]], backend=backend)
    check(lambda x: tg.copysign(x, -1.0), ([0.0, 2.0],), [-0.0, -2], [0, -1], backend=backend)


def test_logaddexp_of_nothing_is_flat(backend: tg.Backend) -> None:
    check(tg.logaddexp, (-INF, -INF), -INF, 0, 0, backend=backend)
    check(tg.logaddexp, (-INF, 2.0), 2, 0, 1, backend=backend)
    check(tg.logaddexp, (INF, 2.0), INF, 1, 0, backend=backend)


def test_cumulative_products_of_zeros_need_no_division(backend: tg.Backend) -> None:
    y, (first,), _ = derivatives(tg.cumulative_prod, [2.0, 0.0, 3.0, 0.0, 5.0], backend=backend)
    np.testing.assert_array_equal(y, [2, 0, 0, 0, 0])
    np.testing.assert_array_equal(first, [1, 2 + 6, 0, 0, 0])


def test_steep_ends_are_infinitely_steep() -> None:
    for f, end in ((tg.asin, 1.0), (tg.asin, -1.0), (tg.acosh, 1.0), (tg.atanh, 1.0)):
        _, (first,), _ = derivatives(f, end)
        assert first == INF
    assert derivatives(tg.acos, 1.0)[1] == [-INF]
