"""The checker is checked: ``check_grads`` must find wrong rules, and say what is wrong there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Primitive
from tinygrad_rnn.testing import check_grads

X = np.array([[0.3, -1.2, 0.8], [1.5, 0.1, -0.4]])
Y = np.array([1.3, 0.7, -0.6])


def product(left: Any, right: Any) -> Primitive:
    """x * exp(y), with the given vjps."""
    return Primitive("product", "elementwise", lambda xp, x, y: x * xp.exp(y), left, right)


def applied(primitive: Primitive) -> Any:
    return lambda *xs: tg.apply(primitive, *xs)


RIGHT = product(lambda xp, g, y: g * xp.exp(y), lambda xp, g, out: g * out)
OFF = product(lambda xp, g, y: g * xp.exp(y), lambda xp, g, out: 1.001 * g * out)
# On Tensors, what NumPy computes is a constant: the first derivative is right, the second is not.
CONSTANT = product(lambda xp, g, y: g * np.exp(np.asarray(y)), lambda xp, g, out: g * out)
NOT_LINEAR = product(lambda xp, g, y: g * xp.exp(y), lambda xp, g, out: g * out + 1e-3 * g * g)
WRONG_SHAPE = Primitive("double", "reduction", lambda xp, x: 2 * x, lambda xp, g: xp.sum(2 * g))


@pytest.mark.parametrize("mode", ["vjp", "jvp"])
def test_a_right_rule_passes(mode: str, backend: tg.Backend) -> None:
    args = [tg.tensor(a, backend=backend.name) for a in (X, Y)]
    check_grads(applied(RIGHT), args, order=4, modes=(mode,))


@pytest.mark.parametrize("mode", ["vjp", "jvp"])
def test_a_rule_off_by_a_thousandth_fails_at_first_order(mode: str) -> None:
    with pytest.raises(AssertionError, match=f"check_grads: first order, {mode}") as caught:
        check_grads(applied(OFF), (X, Y), order=1, modes=(mode,))
    assert "argument 1 (3,) alone" in str(caught.value)
    assert "argument 0" not in str(caught.value)


@pytest.mark.parametrize("mode", ["vjp", "jvp"])
def test_a_rule_wrong_at_second_order_fails_there(mode: str) -> None:
    check_grads(applied(CONSTANT), (X, Y), order=1)
    with pytest.raises(AssertionError, match=f"check_grads: second order, {mode}"):
        check_grads(applied(CONSTANT), (X, Y), order=2, modes=(mode,))


def test_a_rule_that_is_not_linear_fails_by_vjp() -> None:
    check_grads(applied(NOT_LINEAR), (X, Y), order=1, modes=("jvp",))  # linear near 0
    with pytest.raises(AssertionError, match="first order, vjp"):
        check_grads(applied(NOT_LINEAR), (X, Y), order=1)


def test_modes_that_disagree_fail() -> None:
    almost = product(lambda xp, g, y: g * xp.exp(y), lambda xp, g, out: g * out + 1e-7 * g * g)
    with pytest.raises(AssertionError, match=r"<u, J v> is .* by jvp, .* by vjp"):
        check_grads(applied(almost), (X, Y), order=1)


def test_a_kink_fails() -> None:
    with pytest.raises(AssertionError, match="first order"):
        check_grads(tg.relu, (np.array([1.0, 0.0]),), modes=("jvp",))


def test_a_cotangent_of_another_shape_fails() -> None:
    with pytest.raises((AssertionError, ValueError, RuntimeError), match=r"\(\)"):
        check_grads(applied(WRONG_SHAPE), (X,), order=1)


def test_arguments_and_outputs_may_be_structures_and_integers() -> None:
    def f(weights: Any, places: Any) -> Any:
        taken = tg.take(weights["w"], places, axis=1)
        return {"a": tg.tanh(taken) * weights["b"], "places": places}

    check_grads(f, ({"w": X, "b": np.float64(0.7)}, np.array([2, 0])), order=3)


def test_float32_arguments_are_checked_in_float64() -> None:
    seen = []

    def f(x: Any) -> Any:
        seen.append(x.dtype)
        return tg.sin(x)

    check_grads(f, (X.astype("float32"),))
    assert set(seen) == {np.dtype("float64")}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="no argument has a floating dtype"):
        check_grads(tg.abs, (np.array([1, 2]),))
    with pytest.raises(ValueError, match="'fwd'"):
        check_grads(tg.abs, (X,), modes=("fwd",))
