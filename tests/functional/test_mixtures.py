"""Mixture densities: they are densities, they do not underflow, and one part is no mixture."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg

RNG = np.random.default_rng(0)


def test_a_mixture_of_gaussians_is_a_density() -> None:
    logits, mean, log_std = (tg.tensor(RNG.normal(size=s)) for s in ((3,), (3, 2), (3, 2)))
    rho = tg.tensor([0.9, -0.5, 0.0])
    at = np.linspace(-15, 15, 401)
    points = tg.tensor(np.stack(np.meshgrid(at, at), axis=-1))
    ahead = points.shape[:-1]
    parts = [tg.broadcast_to(x, (*ahead, *x.shape)) for x in (logits, mean, log_std)]
    for correlation in (None, tg.broadcast_to(rho, (*ahead, 3))):
        loss = tg.gaussian_mixture_nll_loss(*parts, points, correlation, reduction="none")
        assert_allclose(np.exp(-loss.numpy()).sum() * (at[1] - at[0]) ** 2, 1, rtol=1e-3)


def test_mixtures_of_one_part_are_the_losses_without_a_mixture() -> None:
    x, target = tg.tensor(RNG.normal(size=(4, 1, 3))), RNG.normal(size=(4, 3))
    log_std = tg.tensor(RNG.normal(size=(4, 1, 3)))
    none = tg.zeros((4, 1), dtype="float64")
    found = tg.gaussian_mixture_nll_loss(none, x, log_std, target, reduction="sum")
    var = tg.exp(2 * log_std[:, 0])
    wanted = tg.gaussian_nll_loss(x[:, 0], target, var, full=True, reduction="sum")
    assert_allclose(found.item(), wanted.item(), rtol=1e-5)
    bits = (target > 0) * 1.0
    found = tg.bernoulli_mixture_nll_loss(none, x, bits, reduction="sum")
    wanted = tg.binary_cross_entropy_with_logits(x[:, 0], bits, reduction="sum")
    assert_allclose(found.item(), wanted.item(), rtol=1e-12)


def test_the_bits_of_a_mixture_have_probabilities_that_add_up_to_1() -> None:
    logits, input = tg.tensor(RNG.normal(size=(4,))), tg.tensor(RNG.normal(size=(4, 3)))
    every = np.array(list(np.ndindex(2, 2, 2)))
    parts = [tg.broadcast_to(x, (8, *x.shape)) for x in (logits, input)]
    loss = tg.bernoulli_mixture_nll_loss(*parts, every, reduction="none")
    assert_allclose(np.exp(-loss.numpy()).sum(), 1, rtol=1e-12)


def test_far_from_all_parts_the_loss_and_its_gradient_are_finite() -> None:
    mean = tg.zeros((2, 1))
    mean.requires_grad = True
    loss = tg.gaussian_mixture_nll_loss(tg.zeros((2,)), mean, tg.zeros((2, 1)), tg.tensor([1e4]))
    loss.backward()
    assert_allclose(loss.item(), 5e7, rtol=1e-3)
    assert_allclose(mean.grad.numpy(), [[-5e3], [-5e3]], rtol=1e-3)


def test_shapes_that_do_not_fit_are_named() -> None:
    x = tg.ones((4, 3, 2))
    with pytest.raises(ValueError, match=r"mean \(..., K, D\).*\(4, 2\), \(4, 3, 2\)"):
        tg.gaussian_mixture_nll_loss(x[:, 0], x, x, x[:, 0])
    with pytest.raises(ValueError, match=r"correlation of shape \(4, 2\)"):
        tg.gaussian_mixture_nll_loss(x[..., 0], x, x, x[:, 0], correlation=x[:, 0])
