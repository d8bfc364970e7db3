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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log_std", [(0, 0), (-100, -100), (-40, -44), (-1e4, 3), (100, 100)])
@pytest.mark.parametrize("correlation", [None, 10.0, -10.0, 0.5])
@pytest.mark.parametrize("target", [(0, 0), (1, 0), (50, -50)])
def test_the_loss_and_its_gradients_are_finite_for_all_that_a_network_may_say(
    dtype: str, log_std: tuple[float, float], correlation: float | None, target: tuple[float, float]
) -> None:
    mean, spread = (tg.tensor([x] * 2, dtype=dtype, requires_grad=True) for x in ((0, 0), log_std))
    given = [tg.zeros((2,), dtype=dtype, requires_grad=True), mean, spread]
    rho = None
    if correlation is not None:
        angle = tg.tensor([correlation] * 2, dtype=dtype, requires_grad=True)
        given.append(angle)
        rho = tg.tanh(angle)
    loss = tg.gaussian_mixture_nll_loss(*given[:3], tg.tensor(target, dtype=dtype), rho)
    assert np.isfinite(loss.item())
    for gradient in tg.grad(loss, given):
        assert np.isfinite(gradient.numpy()).all()


def test_deviations_and_correlations_out_of_bounds_find_back() -> None:
    logits, mean = tg.zeros((1,)), tg.zeros((1, 2))
    log_std = tg.tensor([[-40.0, -44.0]], requires_grad=True)
    tg.gaussian_mixture_nll_loss(logits, mean, log_std, tg.tensor([1.0, 1.0])).backward()
    assert (log_std.grad.numpy() < -1e6).all()
    for sign in (1.0, -1.0):
        rho, at = tg.tensor([sign], requires_grad=True), tg.tensor([1.0, -sign])
        tg.gaussian_mixture_nll_loss(logits, mean, tg.zeros((1, 2)), at, rho).backward()
        assert rho.grad.item() * sign > 1e6


def test_two_dimensions_that_are_almost_one_do_not_cancel() -> None:
    """In float32 one^2 + other^2 - 2 rho one other may be below 0."""
    rho = np.float32([1 - 2**-20])
    at = np.float32([[[3.0, 3.0001]], [[0.3, 0.3]], [[7.1, 7.1]]])
    parts = [np.zeros((3, 1)), np.zeros((3, 1, 2)), np.zeros((3, 1, 2))]
    losses = [
        tg.gaussian_mixture_nll_loss(
            *(p.astype(d) for p in parts), at[:, 0].astype(d), np.repeat(rho, 3)[:, None].astype(d),
            reduction="none",
        ).numpy()
        for d in (np.float32, np.float64)
    ]  # fmt: skip
    assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_shapes_that_do_not_fit_are_named() -> None:
    x = tg.ones((4, 3, 2))
    with pytest.raises(ValueError, match=r"mean \(..., K, D\).*\(4, 2\), \(4, 3, 2\)"):
        tg.gaussian_mixture_nll_loss(x[:, 0], x, x, x[:, 0])
    with pytest.raises(ValueError, match=r"correlation of shape \(4, 2\)"):
        tg.gaussian_mixture_nll_loss(x[..., 0], x, x, x[:, 0], correlation=x[:, 0])
