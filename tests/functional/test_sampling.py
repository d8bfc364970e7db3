"""Gradients through draws and decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg


def test_straight_through_has_one_value_and_the_other_gradient(backend: Any) -> None:
    p = tg.tensor([0.1, 0.7, 0.3], requires_grad=True)
    hard = tg.straight_through(p > 0.5, p * p)
    assert_array_equal(hard.numpy(), [0, 1, 0])
    (g,) = tg.grad(hard, [p], tg.ones_like(p))
    assert_allclose(g.numpy(), [0.2, 1.4, 0.6], rtol=1e-6)
    with pytest.raises(ValueError, match="straight_through: value of shape"):
        tg.straight_through(p, p[:2])


def test_a_reparameterised_sample_moves_with_its_mean_and_spreads_with_its_deviation() -> None:
    mean, std = tg.zeros((20_000, 1)), tg.tensor([0.5, 2.0])
    mean.requires_grad = std.requires_grad = True
    tg.manual_seed(0)
    drawn = tg.rsample_normal(mean, std)
    assert drawn.shape == (20_000, 2) and drawn.dtype == np.float32
    assert_allclose(drawn.numpy().mean(axis=0), 0, atol=0.05)
    assert_allclose(drawn.numpy().std(axis=0), [0.5, 2], rtol=0.02)
    of_mean, of_std = tg.grad(drawn, [mean, std], tg.ones_like(drawn))
    assert_array_equal(of_mean.numpy(), 2)
    assert_allclose(of_std.numpy(), (drawn.numpy() / [0.5, 2]).sum(axis=0), rtol=1e-3, atol=0.1)
    tg.manual_seed(0)
    assert_array_equal(tg.rsample_normal(mean, std).numpy(), drawn.numpy())
    with pytest.raises(TypeError, match="none floating"):
        tg.rsample_normal(tg.tensor([1]), tg.tensor([1]))
