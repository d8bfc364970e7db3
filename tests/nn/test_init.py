"""Initial weights: the distribution each rule promises, and one model for one seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn import init
from tinygrad_rnn_backends import Backend

SHAPE = (200, 300)

# Each with its variance on SHAPE, worked out by hand.
DRAWN = {
    "uniform": (partial(init.uniform, low=-0.5, high=1.0), 1.5**2 / 12),
    "normal": (partial(init.normal, mean=1.0, std=0.5), 0.25),
    "torch_uniform": (init.torch_uniform, 1 / 300 / 3),
    "torch_uniform size": (partial(init.torch_uniform, size=200), 1 / 200 / 3),
    "xavier_uniform": (init.xavier_uniform, 2 / 500),
    "xavier_uniform gain": (partial(init.xavier_uniform, gain=3.0), 9 * 2 / 500),
    "xavier_normal": (init.xavier_normal, 2 / 500),
    "xavier_normal gain": (partial(init.xavier_normal, gain=3.0), 9 * 2 / 500),
    "kaiming_uniform": (init.kaiming_uniform, 2 / 200),
    "kaiming_uniform fan_out": (partial(init.kaiming_uniform, mode="fan_out"), 2 / 300),
    "kaiming_uniform gain": (partial(init.kaiming_uniform, gain=1.0), 1 / 200),
    "kaiming_normal": (init.kaiming_normal, 2 / 200),
    "kaiming_normal fan_out": (partial(init.kaiming_normal, mode="fan_out"), 2 / 300),
    "kaiming_normal gain": (partial(init.kaiming_normal, gain=1.0), 1 / 200),
    "orthogonal": (init.orthogonal, 1 / 300),
    "orthogonal gain": (partial(init.orthogonal, gain=3.0), 9 / 300),
}
FIXED = {
    "zeros": init.zeros,
    "ones": init.ones,
    "constant": partial(init.constant, value=0.3),
    "identity": init.identity,
}
EVERY: dict[str, Callable[[Sequence[int]], Any]] = {k: f for k, (f, _) in DRAWN.items()} | FIXED
MATRICES = ["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"]
MATRICES += ["orthogonal", "identity"]


@pytest.fixture(autouse=True)
def seed() -> None:
    tg.manual_seed(0)


@pytest.mark.parametrize("name", DRAWN)
def test_the_variance_is_that_of_the_rule(name: str) -> None:
    initialiser, variance = DRAWN[name]
    assert initialiser(SHAPE).var() == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("name", [name for name in DRAWN if "uniform" in name])
def test_a_uniform_draw_fills_its_bounds_and_keeps_to_them(name: str) -> None:
    initialiser, variance = DRAWN[name]
    drawn, middle = initialiser(SHAPE), 0.25 if name == "uniform" else 0.0
    bound = math.sqrt(3 * variance)
    assert drawn.min() == pytest.approx(middle - bound, rel=1e-3)
    assert drawn.max() == pytest.approx(middle + bound, rel=1e-3)
    assert np.abs(drawn - middle).max() <= bound * (1 + 1e-6)
    assert drawn.mean() == pytest.approx(middle, abs=0.02 * bound)


@pytest.mark.parametrize("name", ["normal", "xavier_normal", "kaiming_normal"])
def test_a_normal_draw_has_the_tails_of_one(name: str) -> None:
    drawn = EVERY[name](SHAPE)
    beyond = np.abs(drawn - drawn.mean()) > 2 * drawn.std()
    assert beyond.mean() == pytest.approx(0.0455, rel=0.1)


@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7), (1, 5)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape: tuple[int, int]) -> None:
    drawn = init.orthogonal(shape)
    assert drawn.shape == shape
    product = drawn.T @ drawn if shape[0] >= shape[1] else drawn @ drawn.T
    assert_allclose(product, np.eye(min(shape)), atol=1e-6)
    tg.manual_seed(0)
    assert_allclose(init.orthogonal(shape, gain=1.7), 1.7 * drawn, rtol=1e-6)


def test_orthogonal_matrices_prefer_no_sign() -> None:
    """A QR decomposition alone gives every first column a negative first element."""
    first = np.array([init.orthogonal((3, 3))[0, 0] for _ in range(200)])
    assert np.mean(first > 0) == pytest.approx(0.5, abs=0.1)


def test_identity_is_scaled_and_cut_to_shape() -> None:
    assert_array_equal(init.identity((2, 2)), [[1, 0], [0, 1]])
    assert_array_equal(init.identity((2, 3), gain=0.5), [[0.5, 0, 0], [0, 0.5, 0]])


def test_constants() -> None:
    assert_array_equal(init.zeros((2,)), [0, 0])
    assert_array_equal(init.ones((1, 2)), [[1, 1]])
    assert_array_equal(init.constant((2,), value=-3), [-3, -3])


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


@pytest.mark.parametrize("name", EVERY)
def test_the_dtype_is_the_default_one(name: str, request: pytest.FixtureRequest) -> None:
    assert EVERY[name](SHAPE).dtype == np.float32
    request.getfixturevalue("float64")
    assert EVERY[name](SHAPE).dtype == np.float64


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", EVERY)
def test_shapes_without_elements_are_drawn(name: str, shape: tuple[int, int]) -> None:
    assert EVERY[name](shape).shape == shape


@pytest.mark.parametrize("name", [name for name in EVERY if name.split()[0] not in MATRICES])
def test_rules_without_fans_draw_vectors(name: str) -> None:
    assert EVERY[name]((5,)).shape == (5,)


@pytest.mark.parametrize("name", ["xavier_uniform", "xavier_normal", "kaiming_uniform"])
def test_the_same_seed_gives_the_same_numbers(name: str) -> None:
    first, following = EVERY[name](SHAPE), EVERY[name](SHAPE)
    assert not np.array_equal(first, following)
    tg.manual_seed(0)
    assert_array_equal(EVERY[name](SHAPE), first)


# The gain of an activation, by which the variance it leaves of a normal input is made up for.


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3])
def test_the_gain_of_a_rectifier_keeps_the_second_moment(slope: float) -> None:
    x = np.random.default_rng(0).normal(size=200_000)
    left = np.mean(np.where(x > 0, x, slope * x) ** 2)
    gain = init.calculate_gain("leaky_relu", slope)
    assert gain**2 * left == pytest.approx(1, rel=0.01)
    assert init.calculate_gain("leaky_relu", 0.0) == init.calculate_gain("relu")


def test_other_gains_are_those_of_pytorch() -> None:
    gains = [init.calculate_gain(name) for name in ("linear", "sigmoid", "tanh")]
    assert gains == [1, 1, 5 / 3]


# In layers and cells.


def test_defaults_have_the_variance_they_should() -> None:
    cell, linear, embedding = nn.GRUCell(200, 100), nn.Linear(200, 100), nn.Embedding(100, 100)
    assert linear.weight.numpy().var() == pytest.approx(2 / 300, rel=0.05)
    assert not linear.bias.numpy().any()
    assert embedding.weight.numpy().var() == pytest.approx(1, rel=0.05)
    for gate in np.split(cell.weight_ih.numpy(), 3, axis=1):
        assert gate.var() == pytest.approx(2 / 300, rel=0.05)
    for gate in np.split(cell.weight_hh.numpy(), 3, axis=1):
        assert_allclose(gate @ gate.T, np.eye(100), atol=1e-5)
    assert not cell.bias.numpy().any() and not cell.bias_hn.numpy().any()
    bias = nn.LSTMCell(2, 3).bias.numpy()
    assert_array_equal(bias, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0])


def test_layers_take_other_rules() -> None:
    as_torch = partial(init.torch_uniform, size=50)
    layer = nn.Linear(50, 400, weight_init=as_torch, bias_init=as_torch)
    for p in layer.parameters():
        assert np.abs(p.numpy()).max() == pytest.approx(1 / math.sqrt(50), rel=0.02)
    table = nn.Embedding(3, 2, weight_init=init.ones)
    assert_array_equal(table.weight.numpy(), np.ones((3, 2)))


def test_a_rule_of_ones_own_gives_the_default_dtype() -> None:
    rng = np.random.default_rng(0)
    layer = nn.Linear(2, 3, weight_init=lambda shape: rng.normal(size=shape))
    assert layer.weight.dtype == np.float32
    nested = nn.Linear(1, 2, weight_init=lambda shape: [[1, 2]])
    assert nested.weight.tolist() == [[1, 2]]


def test_one_seed_gives_the_same_numbers_on_every_backend(backend: Backend) -> None:
    def built() -> list[Any]:
        tg.manual_seed(3)
        model = nn.Sequential(nn.Embedding(5, 4), nn.LSTMCell(4, 3), nn.Linear(3, 2))
        return [p.numpy() for p in model.parameters()]

    found = built()
    with tg.use_backend("numpy"):
        expected = built()
    assert len(found) == 6
    for a, b in zip(found, expected, strict=True):
        assert_array_equal(a, b)


def test_gates_are_drawn_each_for_itself() -> None:
    joined = init.side_by_side(init.orthogonal, (4, 4), 3)
    tg.manual_seed(0)
    assert_array_equal(joined, np.hstack([init.orthogonal((4, 4)) for _ in range(3)]))
    assert init.side_by_side(init.ones, (4,), 3).shape == (12,)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4)])
def test_rules_of_matrices_say_what_they_draw(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{name}: draws a matrix \(in, out\), not shape \("):
        EVERY[name](shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: init.torch_uniform(()), "torch_uniform: a shape without axes needs size="),
        (lambda: init.calculate_gain("elu"), "calculate_gain: one of linear, .*, not 'elu'"),
        (lambda: init.kaiming_normal((2, 3), mode="in"), "kaiming_normal: mode .* not 'in'"),
        (
            lambda: nn.Linear(2, 3, weight_init=lambda shape: init.zeros(shape[::-1])),
            r"<lambda>: returned shape \(3, 2\) when asked for \(2, 3\)",
        ),
        (
            lambda: nn.Linear(2, 3, bias_init=partial(np.resize, new_shape=4)),
            r"functools\.partial.*returned shape \(4,\) when asked for \(3,\)",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
