"""What the table cannot draw: results that are as long as values say, and the order of nan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg

NAN = np.nan


def tensor(host: Any, backend: Any, **options: Any) -> tg.Tensor:
    return tg.tensor(np.asarray(host), backend=backend.name, **options)


def test_nonzero_is_an_index_of_what_is_not_0(backend: Any) -> None:
    for host in (np.eye(2, 3), np.array([0, 3, -1]), np.array([[True], [False]]), np.zeros((0, 2))):
        places = tg.nonzero(tensor(host, backend))
        assert all(p.backend == backend.name for p in places)
        for mine, numpys in zip(places, np.nonzero(host), strict=True):
            np.testing.assert_array_equal(mine.numpy(), numpys)
        np.testing.assert_array_equal(tensor(host, backend)[places].numpy(), host[host != 0])


@pytest.mark.parametrize("host", [[[3.0, 1.0], [3.0, NAN]], [2.0], [], [NAN, NAN, 1.0]], ids=str)
def test_sets_are_numpys_and_cotangents_go_to_first_occurrences(host: Any, backend: Any) -> None:
    host = np.asarray(host)
    x = tensor(host, backend, requires_grad=True)
    wanted = np.unique_all(host)
    found = tg.unique_all(x)
    for mine, numpys in zip(found, wanted, strict=True):
        assert mine.dtype == numpys.dtype
        np.testing.assert_array_equal(mine.numpy(), numpys)
    assert found._fields == wanted._fields
    same = (tg.unique_counts(x), tg.unique_inverse(x), (tg.unique_values(x),))
    parts = (found.values, found.counts), (found.values, found.inverse_indices), (found.values,)
    for mine, others in zip(same, parts, strict=True):
        for y, z in zip(mine, others, strict=True):
            np.testing.assert_array_equal(y.numpy(), z.numpy())
    weights = np.arange(1.0, found.values.size + 1)
    gradient = tg.grad(tg.sum(found.values * tensor(weights, backend)), x).numpy()
    by_hand = np.zeros(host.size)
    by_hand[wanted.indices] = weights
    np.testing.assert_array_equal(gradient.ravel(), by_hand)


def test_equal_elements_keep_their_order_and_nan_is_last(backend: Any) -> None:
    x = tensor([1.0, NAN, 0.0, 1.0, 0.0], backend)
    np.testing.assert_array_equal(tg.argsort(x).numpy(), [2, 4, 0, 3, 1])
    np.testing.assert_array_equal(tg.argsort(x, descending=True).numpy(), [1, 0, 3, 2, 4])
    np.testing.assert_array_equal(tg.sort(x).numpy(), [0, 0, 1, 1, NAN])
    np.testing.assert_array_equal(tg.sort(x, descending=True).numpy(), [NAN, 1, 1, 0, 0])
    many = np.arange(100) % 3  # so many that not every way of sorting is stable
    for sign, descending in ((1, False), (-1, True)):
        wanted = np.argsort(sign * many, stable=True)
        found = tg.argsort(tensor(many, backend), descending=descending)
        np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_searching_in_several_arrays_is_searching_in_each(side: Any, backend: Any) -> None:
    arrays = np.array([[0.0, 1.0, 1.0, NAN], [-1.0, 2.0, NAN, NAN], [0.0, 0.0, 0.0, 0.0]])
    values = np.array([[1.0, NAN], [-2.0, 3.0], [0.0, 0.5]])
    wanted = np.stack([np.searchsorted(a, v, side) for a, v in zip(arrays, values, strict=True)])
    search = tg.vmap(lambda a, v: tg.searchsorted(a, v, side=side))
    np.testing.assert_array_equal(
        search(tensor(arrays, backend), tensor(values, backend)).numpy(), wanted
    )
    shuffled, order = arrays[0, ::-1], [3, 1, 2, 0]
    found = tg.searchsorted(
        tensor(shuffled, backend), tensor(values, backend), side=side, sorter=tensor(order, backend)
    )
    np.testing.assert_array_equal(found.numpy(), np.searchsorted(arrays[0], values, side))


@pytest.mark.parametrize("name", ["nonzero", "unique_all", "unique_counts", "unique_values"])
def test_what_depends_on_values_says_so(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: inside vmap"):
        tg.vmap(getattr(tg, name))(tg.ones((2, 3)))
    with pytest.raises(tg.PlanError, match=name):
        cell = lambda x, h: (getattr(tg, name)(x)[0], h)  # noqa: E731
        tg.unroll(cell, tg.ones((4, 3)), tg.ones(3), mode="planned")


def test_a_mask_of_no_axes_keeps_all_or_nothing(backend: Any) -> None:
    x = tensor(np.arange(6.0).reshape(2, 3), backend, requires_grad=True)
    for truth in (True, False):
        y = x[tensor(truth, backend)]
        np.testing.assert_array_equal(y.numpy(), x.numpy()[np.array(truth)])
        np.testing.assert_array_equal(tg.grad(tg.sum(y), x).numpy(), np.full((2, 3), float(truth)))
    for shape in ((0,), (0, 3), (2, 0), (0, 0)):  # of length 0, a mask fits any length
        mask = np.zeros(shape, bool)
        wanted = x.numpy()[mask]
        np.testing.assert_array_equal(x[tensor(mask, backend)].numpy(), wanted)


@pytest.mark.parametrize("k", [4, -1, 2.0, True, "2"])
def test_topk_names_the_numbers_that_there_are(k: Any) -> None:
    said = rf"topk: k is an integer from 0 to 3, .* of float32 \(3,\), not {k!r}"
    with pytest.raises(ValueError, match=said):
        tg.topk(tg.ones(3), k)


def test_a_tensor_of_no_axes_has_none_to_look_along() -> None:
    with pytest.raises(IndexError, match=r"topk: axis -1 .* has no axes; reshape\(x, \(1,\)\)"):
        tg.topk(tg.tensor(1.0), 1)
