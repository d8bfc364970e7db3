"""Random numbers: their ranges and distributions, and whose they are in loops, vmap and replays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import literal, planned
from tinygrad_rnn import random

N = 200_000


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(5)


def values(x: Any) -> Any:
    return x.numpy().astype("float64")


# Ranges.


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1000, 1001), (-2, 2), (0.1, 0.3), (-1e4, 1), (-3.3, -3.2)], ids=str
)
def test_uniform_stays_below_its_upper_end(dtype: str, low: float, high: float) -> None:
    x = values(random.uniform((N,), low, high, dtype=dtype))
    assert low <= x.min() and x.max() < high
    step = np.spacing(np.dtype(dtype).type(max(abs(low), abs(high))))
    assert x.max() > high - 2 * max(step, (high - low) / 1e4)
    np.testing.assert_allclose(x.mean(), (low + high) / 2, atol=step + (high - low) / 100)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_uniform_like_stays_below_1(dtype: str) -> None:
    for x in (tg.zeros((N,), dtype), tg.zeros((N,), "int32")):
        drawn = random.uniform_like(x)
        assert drawn.dtype == (x.dtype if x.dtype.kind == "f" else np.float32)
        assert values(drawn).min() >= 0 and values(drawn).max() < 1
        assert len(np.unique(drawn.numpy())) > 1000


def test_ends_that_no_number_lies_between_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float16 has no number in \[1000\.1, 1000\.2\)"):
        random.uniform(3, 1000.1, 1000.2, dtype="float16")
    np.testing.assert_array_equal(random.uniform(3, 1000, 1000.2, dtype="float16").numpy(), 1000)
    np.testing.assert_array_equal(random.uniform(3, 2, 2).numpy(), 2)
    for low, high in ((1, 0), (0, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match="low <= high"):
            random.uniform(3, low, high)
    with pytest.raises(TypeError, match="floating dtype, not int64"):
        random.uniform(3, dtype="int64")


# Distributions.


def test_normal(backend: Any) -> None:
    x = values(random.normal((N,), 2.0, 3.0, dtype="float64"))
    z = (x - 2) / 3
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        np.testing.assert_allclose(np.mean(z**power), moment, atol=0.06)
    assert random.normal(3, dtype="float64").dtype == np.float64
    assert random.normal((2, 3)).backend == backend.name
    with pytest.raises(ValueError, match="deviation of 0 or more"):
        random.normal(3, 0.0, -1.0)


def test_bernoulli(backend: Any) -> None:
    p = tg.tensor([0.0, 0.25, 1.0])
    x = random.bernoulli(p, (N, 3))
    assert x.dtype == bool
    np.testing.assert_allclose(values(x).mean(axis=0), [0, 0.25, 1], atol=0.01)
    assert random.bernoulli(p).shape == (3,)
    assert random.bernoulli(0.5, (2, 1), dtype="float32").dtype == np.float32
    np.testing.assert_allclose(values(random.bernoulli(0.7, N)).mean(), 0.7, atol=0.01)
    with pytest.raises(TypeError, match="before the shape"):
        random.bernoulli((3, 2), 0.5)
    with pytest.raises(ValueError, match="needs a shape"):
        random.bernoulli(0.5)
    for bad in (lambda: random.bernoulli(1.5, 3), lambda: random.bernoulli(p, (3, 2))):
        with pytest.raises(ValueError, match="bernoulli"):
            bad()


def test_bernoulli_refuses_logits() -> None:
    with pytest.raises(ValueError, match="sigmoid"):
        random.bernoulli(tg.tensor([1.5]))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_categorical(axis: int, dtype: str) -> None:
    p = np.array([0.0, 0.2, 0.5, 0.0, 0.3, 0.0])
    with np.errstate(divide="ignore"):
        logits = (np.log(p) + 3).astype(dtype)
    wide = np.broadcast_to(logits, (N, 6)) if axis else np.broadcast_to(logits[:, None], (6, N))
    x = random.categorical(tg.tensor(wide), axis=axis)
    assert x.shape == (N,) and x.dtype == np.int64
    shares = np.bincount(x.numpy(), minlength=6) / N
    np.testing.assert_allclose(shares, p, atol=0.01)
    assert not shares[p == 0].any()
    with pytest.raises(ValueError, match="nan, or all -inf"):
        random.categorical(tg.full((2, 3), -math.inf))
    with pytest.raises(ValueError, match="no classes"):
        random.categorical(tg.zeros((2, 0)))


def test_a_class_alone_is_always_drawn(backend: Any) -> None:
    logits = tg.full((1000, 4), -math.inf).at[:, 2].set(0.0)
    assert set(random.categorical(logits).tolist()) == {2}


def test_gumbel_softmax_draws_classes_and_hands_gradients_on(backend: Any) -> None:
    p = np.array([0.2, 0.5, 0.3])
    logits = tg.broadcast_to(tg.log(tg.tensor(p.tolist())), (N, 3))
    for tau in (0.5, 5.0):
        soft = tg.gumbel_softmax(logits, tau)
        shares = np.bincount(soft.numpy().argmax(axis=1)) / N
        np.testing.assert_allclose(shares, p, atol=0.01)
        np.testing.assert_allclose(values(soft.sum(axis=1)), 1, rtol=1e-5)
    x = tg.tensor([[0.1, 2.0, 0.3]], requires_grad=True)
    weights = tg.tensor([[1.0, 2.0, 3.0]])
    gradients = []
    for hard in (False, True):
        tg.manual_seed(1)
        y = tg.gumbel_softmax(x, 0.7, hard)
        assert not hard or sorted(y.tolist()[0]) == [0, 0, 1]
        gradients.append(tg.grad(tg.sum(weights * y), x).numpy())
    np.testing.assert_array_equal(*gradients)
    columns = tg.gumbel_softmax(tg.zeros((4, 2)), hard=True, axis=0)
    np.testing.assert_array_equal(columns.sum(axis=0).numpy(), [1, 1])
    with pytest.raises(ValueError, match="temperature"):
        tg.gumbel_softmax(x, 0.0)


# Whose they are.

LOGITS = [0.3, -0.2, 1.0, -math.inf]
DRAWS: dict[str, Callable[..., Any]] = {
    "uniform": lambda *shape: random.uniform(shape, -1, 3),
    "normal": lambda *shape: random.normal(shape, 1.0, 2.0),
    "bernoulli": lambda *shape: random.bernoulli(0.4, shape, dtype="float32"),
    "categorical": lambda *shape: random.categorical(
        tg.broadcast_to(tg.tensor(LOGITS), (*shape, 4))
    ).astype("float32"),
    "gumbel_softmax": lambda *shape: tg.gumbel_softmax(tg.zeros((*shape, 3)))[..., 0],
}
draws = pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))


@draws
def test_cells_draw_the_same_literally_planned_and_ragged(draw: Any) -> None:
    w = tg.tensor([[0.5, -0.2], [0.1, 0.4]], requires_grad=True)

    def cell(x: Any, h: Any) -> Any:
        h = tg.tanh(x + h @ w) + 0.1 * draw(*h.shape)
        return h, h

    xs = tg.tensor(np.random.default_rng(0).normal(size=(7, 3, 2)).astype("float32"))
    found = []
    for run, options in ((literal, {}), (planned, {}), (planned, {"checkpoint": 3})):
        tg.manual_seed(3)
        ys, _ = run(cell, xs, tg.zeros((3, 2)), **options)
        found.append((ys.numpy(), tg.grad(ys.sum(), w).numpy()))
    for ys, g in found[1:]:
        np.testing.assert_allclose(ys, found[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(g, found[0][1], rtol=1e-4, atol=1e-5)
    tg.manual_seed(3)
    short, _ = literal(cell, xs[:, :2], tg.zeros((2, 2)), lengths=[7, 4])
    np.testing.assert_allclose(short.numpy()[:, 0], found[0][0][:, 0], rtol=1e-6, atol=1e-6)


@draws
def test_examples_of_vmap_have_draws_of_their_own(draw: Any) -> None:
    each = tg.vmap(lambda x: x * 0 + draw(50))(tg.ones((3, 50))).numpy()
    alike = [np.array_equal(each[i], each[j]) for i in range(3) for j in range(i)]
    assert not any(alike)
    nested = tg.vmap(tg.vmap(lambda x: x * 0 + draw(50)))(tg.ones((2, 3, 50)))
    assert len({row.tobytes() for part in nested.numpy() for row in part}) == 6
    captured = draw(50)
    shared = tg.vmap(lambda x: x * 0 + captured)(tg.ones((3, 50))).numpy()
    np.testing.assert_array_equal(shared, np.broadcast_to(captured.numpy(), (3, 50)))
    passed = tg.vmap(lambda x, r: x * 0 + r, in_axes=(0, None))(tg.ones((3, 50)), captured)
    np.testing.assert_array_equal(passed.numpy(), shared)


def test_uniform_like_follows_what_it_is_like() -> None:
    fixed = tg.ones(20)
    each = tg.vmap(lambda x: random.uniform_like(fixed) + 0 * x)(tg.ones((2, 20))).numpy()
    np.testing.assert_array_equal(each[0], each[1])
    each = tg.vmap(random.uniform_like)(tg.ones((2, 20))).numpy()
    assert not np.array_equal(each[0], each[1])


@draws
def test_a_replay_draws_what_was_drawn_whatever_runs_around_it(draw: Any) -> None:
    def f(x: Any) -> Any:
        return x * draw(3) + tg.vmap(lambda z: z * draw(3))(tg.stack([x, x]))[1]

    x = tg.ones(3)
    tg.manual_seed(0)
    value = f(x).numpy()
    for replayed in (f, tg.checkpoint(f)):
        tg.manual_seed(0)
        jacobian = tg.jacobian(replayed)(x).numpy()  # pulls back in a vmap of its own
        np.testing.assert_allclose(np.diag(jacobian), value, rtol=1e-6)
    tg.manual_seed(0)
    each = tg.vmap(lambda x: tg.value_and_grad(lambda x: tg.sum(tg.checkpoint(f)(x)))(x))
    values, gradients = each(tg.ones((2, 3)))
    np.testing.assert_allclose(gradients.numpy().sum(axis=1), values.numpy(), rtol=1e-5)
