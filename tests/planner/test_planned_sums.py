"""Sums over time are as exact as pairwise ones: a million terms, relative 1e-6 in float32.

Terms are nearly equal and positive: a sum that takes one after the other goes wrong in the third
digit then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor
from tinygrad_rnn.kernels.cpu import run as native

Cell = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def filled(shape: tuple[int, ...], number: float, dtype: str) -> Tensor:
    return tg.tensor(np.full(shape, number, dtype), requires_grad=True)


def recurrent(dtype: str) -> tuple[list[Tensor], Cell, int]:
    w, u, b = filled((2, 3), 0.3, dtype), filled((3, 3), 0.1, dtype), filled((3,), 0.1, dtype)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.sigmoid(x @ w + h @ u + b)
        return h, h

    return [w, u, b], cell, 3


def elementwise(dtype: str) -> tuple[list[Tensor], Cell, int]:
    v, b = filled((3,), 0.3, dtype), filled((), 0.1, dtype)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.sigmoid(x[:, :1] * v + h * v + b)
        return h, h

    return [v, b], cell, 3


def without_recurrence(dtype: str) -> tuple[list[Tensor], Cell, int]:
    w, s = filled((2, 3), 0.3, dtype), filled((), 0.5, dtype)
    return [w, s], lambda x, h: ((x @ w) * s, h), 1


def rows_of_their_own(dtype: str) -> tuple[list[Tensor], Cell, int]:
    """An array captured for each row: a sum over the steps alone."""
    v = filled((2, 3), 0.3, dtype)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(h * 0.5 + x[:, :1] * v * 0.01)
        return h, h

    return [v], cell, 3


def grown_in_the_loop(dtype: str) -> tuple[list[Tensor], Cell, int]:
    """A sum much larger than what its terms are made of."""
    m = filled((2, 4, 4), 0.3, dtype)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        a = tg.reshape(tg.concat([x, x], axis=-1), (2, 1, 4))
        b = tg.reshape(tg.concat([x, h], axis=-1), (2, 4, 1))
        z = tg.sum(m * (a * b), axis=1)
        h = tg.tanh((z[:, :2] + z[:, 2:]) * 0.1)
        return h, h

    return [m], cell, 2


CASES = {
    "recurrent": (recurrent, 1000, 1000),
    "recurrent over time": (recurrent, 30_000, 2),
    "elementwise": (elementwise, 1000, 1000),
    "without recurrence": (without_recurrence, 1000, 1000),
    "a sum for each row": (rows_of_their_own, 30_000, 2),
    "grown in the loop": (grown_in_the_loop, 5000, 2),
}


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "NumPy"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_over_many_steps_are_exact(
    monkeypatch: pytest.MonkeyPatch, name: str, kernels: bool
) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_JIT", str(int(kernels)))
    make, steps, rows = CASES[name]
    x = (np.random.default_rng(0).random((steps, rows, 2)) * 0.1 + 0.05).astype("float32")
    tg.plan_cache().clear()
    found: dict[str, list[Any]] = {}
    for dtype in ("float32", "float64"):
        weights, cell, width = make(dtype)
        state = tg.zeros((rows, width), dtype=dtype)
        y, _ = tg.unroll(cell, tg.tensor(x.astype(dtype)), state, mode="planned")
        found[dtype] = [g.numpy() for g in tg.grad(y.sum(), weights)]
    for mine, exact in zip(found["float32"], found["float64"], strict=True):
        assert mine.dtype == "float32"
        assert (np.abs(mine - exact) / np.abs(exact)).max() < 1e-6


@pytest.mark.skipif(native.available() is not None, reason="no kernels without llvmlite")
@pytest.mark.parametrize("number", [0.1, 0.3, 1 / 3])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("terms", [4096, 4097, 1_000_000])
def test_products_of_a_million_equal_terms_are_exact(
    number: float, accumulate: bool, terms: int
) -> None:
    a, b = np.full((2, terms), number, np.float32), np.full((terms, 3), number, np.float32)
    out = np.full((2, 3), 2, np.float32)
    native.product(a, b, out, accumulate=accumulate)
    exact = float(a[0, 0]) ** 2 * terms + 2 * accumulate
    assert (np.abs(out - exact) / exact).max() < 1e-6
