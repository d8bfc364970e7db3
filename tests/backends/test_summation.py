"""Sums are as exact as a pairwise one, whichever axes are summed and however x lies in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends

TENTH = float(np.float32(0.1))
MANY = 1_000_000


def tenths(*shape: int) -> Any:
    return tg.full(shape, 0.1)


def assert_sums(found: tg.Tensor, terms: int, one: float = TENTH) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.numpy(), terms * one, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((MANY, 2), 0),
        ((MANY, 1), 0),
        ((MANY,), None),
        ((1000, 1000, 2), (0, 1)),
        ((2, MANY, 2), 1),
        ((2, MANY // 4, 3), (1, 2)),
        ((1000, 3, 1000), (0, 2)),
        ((3, 1000, 1000), (1, 2)),
        ((MANY - 7, 3), 0),
    ],
    ids=str,
)
def test_a_million_tenths(shape: Any, axis: Any, backend: Any) -> None:
    x = tenths(*shape)
    terms = x.size // math.prod(np.zeros(shape, bool).any(axis=axis).shape)
    assert_sums(tg.sum(x, axis=axis), terms)
    assert_sums(tg.mean(x, axis=axis, keepdims=True), 1)
    assert float(tg.max(tg.var(x, axis=axis)).item()) < 1e-12


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, (0, 1), (0, 2), (1, 2), None], ids=str)
def test_in_any_order_of_memory(order: Any, axis: Any) -> None:
    numpy = backends.get("numpy")
    host = np.full((300, 2, 3000), 0.1, np.float32).transpose(order)
    for x in (host, host[::2], host[:, ::-1], host[..., 1:]):
        wide = np.sum(x, axis=axis, dtype=np.float64, keepdims=True)
        found = numpy.sum(x, axis=axis, keepdims=True)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wide, rtol=1e-6)


@given(
    shape=st.lists(st.sampled_from((0, 1, 2, 65, 130)), min_size=0, max_size=3).map(tuple),
    data=st.data(),
)
def test_any_shape_and_axis_is_numpys(shape: Any, data: Any, backend: Any) -> None:
    axes = st.lists(st.sampled_from(range(len(shape))), unique=True) if shape else st.just([])
    axis = data.draw(st.one_of(st.none(), axes.map(tuple)))
    host = np.random.default_rng(0).normal(size=shape)
    for keepdims in (False, True):
        found = backend.to_host(
            backend.asarray(backend.sum(backend.from_host(host), axis=axis, keepdims=keepdims))
        )
        wanted = np.sum(host, axis=axis, keepdims=keepdims)
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-11)


def test_gradients_of_broadcasts(backend: Any) -> None:
    bias = tg.zeros((2,), requires_grad=True)
    column = tg.zeros((MANY, 1), requires_grad=True)
    scalar = tg.zeros((), requires_grad=True)
    row = tg.zeros((1, 2), requires_grad=True)
    loss = tg.sum((bias + row + scalar + column) * tenths(MANY, 2))
    first = tg.grad(loss, [bias, row, scalar, column])
    for g, terms in zip(first, (MANY, MANY, 2 * MANY, 2), strict=True):
        assert_sums(g, terms)
    spread = tg.broadcast_to(bias, (MANY, 2))
    (g,) = tg.grad([spread], [bias], [tenths(MANY, 2)], create_graph=True)
    assert_sums(g, MANY)


@pytest.mark.parametrize("places", [0, -1], ids=["first", "last"])
def test_rows_that_are_added_to_a_million_times(places: int, backend: Any) -> None:
    table = tg.zeros((3, 2), requires_grad=True)
    tokens = tg.full((MANY // 2,), places)
    g = tg.grad(tg.sum(tg.take(table, tokens, axis=0) * tenths(MANY // 2, 2)), table)
    assert_sums(g[places], MANY // 2)
    assert_sums(g[1], 0)
    both = tg.zeros((2, 3)).at[tokens, tokens].add(tenths(MANY // 2))
    assert_sums(both[places, places], MANY // 2)
    flat = tg.zeros((3,)).at[tokens].add(0.1)
    assert_sums(flat[places], MANY // 2)


def test_few_among_many_rows() -> None:
    """One row of 100,000 meets all: there is less than one index for each."""
    numpy = backends.get("numpy")
    values = np.full((50_000, 1), 0.1, np.float32)
    x = numpy.index_add(np.zeros((100_000, 1), np.float32), (np.full(50_000, 7),), values)
    np.testing.assert_allclose(x[7], 5000, rtol=1e-6)
    small = numpy.index_add(
        np.zeros((300, 1), np.float16),
        (np.full(5000, 7, np.uint8),),
        values[:5000].astype(np.float16),
    )
    np.testing.assert_allclose(small[7], 500, rtol=1e-3)
    mixed = numpy.index_add(
        np.zeros((2, 300), np.float32), (None, slice(None), np.full(5000, 7)), np.float32(0.1)
    )
    np.testing.assert_allclose(mixed[:, 7], 500, rtol=1e-6)


def test_running_sums(backend: Any) -> None:
    x = tg.full((MANY,), 0.1, requires_grad=True)
    total = tg.cumulative_sum(x)
    np.testing.assert_allclose(total.numpy(), TENTH * np.arange(1, MANY + 1), rtol=1e-6)
    (g,) = tg.grad([total], [x], [tenths(MANY)])
    np.testing.assert_allclose(g.numpy()[::-1], TENTH * np.arange(1, MANY + 1), rtol=1e-6)


def test_losses_of_a_million(backend: Any) -> None:
    x = tenths(MANY, 1)
    assert_sums(tg.l1_loss(x, tg.zeros_like(x), reduction="sum"), MANY)
    logits = tg.zeros((MANY, 2))
    losses = tg.cross_entropy(logits, tg.zeros((MANY,), int), reduction="sum")
    assert_sums(losses, MANY, float(np.float32(math.log(2))))


def test_crowded_indices_are_summed_wide_by_cupys_logic() -> None:
    logic = backends.CupyBackend(xp=np)
    x, values = np.zeros((2, 3), np.float32), np.full((2, MANY // 2), 0.1, np.float32)
    found = logic.index_add(x, (slice(None), np.full(MANY // 2, -1, np.int8)), values)
    np.testing.assert_allclose(found[:, 2], TENTH * MANY / 2, rtol=1e-6)
    few = logic.index_add(x[0], (np.array([0, 0, 1]),), np.ones(3, np.float32))
    np.testing.assert_array_equal(few[:2], [2, 1])
