"""The column {traced} of the op table: every operation as a cell, planned, beside the literal loop.

Each row's operation is applied at every step of a loop, to inputs that vary with time and to inputs
captured from outside; the state goes through it, too, where it keeps its shape. Values and first
derivatives are compared by ``testing.check_planned``.

The subtle point is what "planned" may mean: an operation that needs values (a boolean mask as an
index) cannot be traced, and then the reason has to say so. These are named below, all others have
to be planned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from op_table import ROWS, Row, Sample, examples
from tinygrad_rnn.planner.planner import plan_cache
from tinygrad_rnn.structure import flatten
from tinygrad_rnn.testing import check_planned

STEPS = 3
rows = pytest.mark.parametrize("row", ROWS, ids=str)


def cell_of(row: Row, sample: Sample, arrays: list[Any], varying: list[bool]) -> tuple[Any, Any]:
    """A cell that applies the operation to x and captured tensors, and an x for it."""
    captured = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    moving = [np.stack([a] * STEPS) for a, moves in zip(arrays, varying, strict=True) if moves]
    for number, a in enumerate(moving):
        if a.dtype.kind == "f":
            moving[number] = a * (1 + 1e-3 * np.arange(STEPS).reshape(-1, *[1] * (a.ndim - 1)))

    def cell(x: Any, h: Any) -> Any:
        given = iter(x[:-1])
        tensors = [next(given) if m else c for m, c in zip(varying, captured, strict=True)]
        out = row(*tensors, **sample.keywords)
        parts = [y for y in flatten(out)[0] if isinstance(y, tg.Tensor)]
        total = sum(tg.sum(tg.tanh(y)) for y in parts if y.dtype == h.dtype)
        return out, tg.tanh(h * 0.5 + total * 0.1)

    return cell, (*moving, np.zeros(STEPS))


@rows
@examples(2)
@given(st.data())
def test_planned_is_literal(row: Row, data: Any) -> None:
    sample = data.draw(row.samples)
    dtype = data.draw(st.sampled_from(["float64", "float32"]))
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in sample.arrays()]
    varying = [i == 0 or bool(data.draw(st.booleans())) for i in range(len(arrays))]
    if not any(varying):
        varying = []
    cell, xs = cell_of(row, sample, arrays, varying)
    xs = tuple(x.astype(dtype) if x.dtype.kind == "f" else x for x in xs)
    state = np.zeros((), dtype=dtype)
    try:
        check_planned(cell, xs, state, atol={"float64": 1e-12, "float32": 1e-6}[dtype])
    except tg.PlanError as error:
        assert row.name in UNTRACEABLE, error
    else:
        assert row.name not in UNTRACEABLE, "it can be traced now: take it from the list"


UNTRACEABLE: frozenset[str] = frozenset()
"""Operations that need the values of their inputs."""


def test_plans_of_single_operations_are_kept_within_bounds() -> None:
    assert len(plan_cache()) <= plan_cache().bound
