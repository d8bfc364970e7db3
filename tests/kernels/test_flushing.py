"""Cotangents that vanish: below any normal number they are 0 in loops that go backwards."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg

pytest.importorskip("llvmlite")

STEPS, ROWS = 200, 64


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors do not flush"
)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_vanishing_cotangent_ends_at_zero_and_no_sooner(reverse: bool) -> None:
    w = tg.tensor(np.full((ROWS, 1), 0.5), "float32", requires_grad=True)
    xs = tg.tensor(np.ones((STEPS, ROWS, 1)), "float32", requires_grad=True)

    def grown(cell: object) -> np.ndarray:
        _, h = tg.unroll(cell, xs, tg.zeros((ROWS, 1)), reverse=reverse)
        return tg.grad(tg.sum(h), xs).numpy()[:, 0, 0]

    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = h * w + x
        return h, h

    with tg.literal():
        exact = grown(cell)
    assert_array_equal(exact if reverse else exact[::-1], 2.0 ** -np.arange(STEPS, dtype="f"))
    assert 0 < exact.min(where=exact > 0, initial=1) < np.finfo("f").tiny
    normal = np.where(exact < np.finfo("f").tiny, 0, exact)
    assert_array_equal(grown(tg.pure(cell)), normal)


def test_the_mode_of_the_processor_is_left_as_it_was() -> None:
    w = tg.tensor(np.full((ROWS, 1), 0.5), "float32", requires_grad=True)
    xs = tg.tensor(np.ones((STEPS, ROWS, 1)), "float32")

    @tg.pure
    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = h * w + x
        return h, h

    _, h = tg.unroll(cell, xs, tg.zeros((ROWS, 1)))
    tg.grad(tg.sum(h), w)
    assert (np.full(64, 2.0**-126, "f") * np.float32(0.5) > 0).all()


def test_loops_that_go_forwards_keep_numbers_that_are_not_normal() -> None:
    xs = tg.tensor(np.zeros((STEPS, ROWS, 1)), "float32")

    @tg.pure
    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = h * 0.5 + x
        return h, h

    outputs, _ = tg.unroll(cell, xs, tg.ones((ROWS, 1)))
    assert_array_equal(outputs.numpy()[:, 0, 0], 2.0 ** -np.arange(1, STEPS + 1, dtype="f"))
