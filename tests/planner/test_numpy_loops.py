"""Loops of NumPy operations: what may be named once before a loop, and what anew at each step.

What a pool hands out holds nan here, so a value that is read before it is written shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import Case, assert_planned_is_literal, forget_plans, leaf, literal, planned
from tinygrad_rnn import Tensor
from tinygrad_rnn.planner.runtime.pool import Pool

ROWS = 3


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Pool.empty

    def full_of_nan(self: Pool, shape: Any, dtype: Any = np.float32) -> Any:
        array = empty(self, shape, dtype)
        array.fill(np.nan if array.dtype.kind == "f" else 1)
        return array

    monkeypatch.setattr(Pool, "empty", full_of_nan)
    forget_plans()


def turned(x: Tensor, h: Tensor) -> Any:
    """A view of scratch memory that is no view in another shape: it is copied at each step."""
    flat = tg.reshape(tg.permute_dims(tg.tanh(h), (0, 2, 1)), (ROWS, 4))
    y = tg.sin(flat) * x
    return y, tg.reshape(y, (ROWS, 2, 2))


def halves(x: Tensor, h: Tensor) -> Any:
    """Views of scratch memory at the same place at each step."""
    a, b = tg.split(tg.tanh(h), 2, axis=-1)
    h = tg.concat((tg.sin(b), a * x[:, :2]), axis=-1)
    return h, h


def grown() -> Any:
    """The gradient of w is a sum over time that grows in the loop, larger than its terms."""
    w, u = leaf(np.random.default_rng(1), ROWS, 4, 4), leaf(np.random.default_rng(2), 4, 1)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(((w + h[:, :, None]) @ u)[:, :, 0] + x)
        return h, h

    return cell, w


@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["equal", "ragged"])
@pytest.mark.parametrize(("cell", "state"), [(turned, (ROWS, 2, 2)), (halves, (ROWS, 4))])
def test_views_of_what_the_steps_share(cell: Any, state: Any, lengths: Any) -> None:
    rng = np.random.default_rng(0)
    options = {} if lengths is None else {"lengths": lengths}
    case = Case(cell, leaf(rng, 5, ROWS, 4), leaf(rng, *state), (), options)
    assert_planned_is_literal(case)
    with tg.no_grad():  # nothing is held, so that tanh is in what the steps share
        found, expected = (
            run(cell, case.xs, case.state, **options)[0] for run in (planned, literal)
        )
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
        (storage,) = tg.plan(cell, case.xs, case.state, **options).storage
    kinds = {value.name: place.memory.kind for value, place in storage.places.items()}
    assert kinds["tanh"] == "scratch"


@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["equal", "ragged"])
def test_a_sum_that_grows_in_a_loop(lengths: Any) -> None:
    rng = np.random.default_rng(0)
    cell, w = grown()
    options = {} if lengths is None else {"lengths": lengths}
    case = Case(cell, leaf(rng, 5, ROWS, 4), leaf(rng, ROWS, 4), w, options)
    assert_planned_is_literal(case)
    plan = tg.plan(cell, case.xs, case.state, **options)
    assert any(storage.totals for storage in plan.storage)
