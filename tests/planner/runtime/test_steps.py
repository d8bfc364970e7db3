"""The layout of time: what each step has of an array over all steps, spelled out row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn.graph import TABLE
from tinygrad_rnn.planner.runtime.functions import INTO, dot_of_many, over_time
from tinygrad_rnn.planner.runtime.steps import Steps, exact

XP = backends.get("numpy")
LAYOUTS: dict[str, Any] = {
    "equal": lambda: Steps(4, 3),
    "reverse": lambda: Steps(4, 3, reverse=True),
    "one row": lambda: Steps(3, 1, reverse=True),
    "ragged": lambda: Steps(4, 3, counts=np.array([3, 2, 2, 1])),
    "ragged, some of no step": lambda: Steps(2, 4, counts=np.array([2, 1])),
    "a segment": lambda: Steps(6, 3).segment(1, 5),
    "a segment in reverse": lambda: Steps(6, 3, reverse=True).segment(1, 5),
    "a segment of ragged rows": lambda: Steps(5, 3, counts=np.array([3, 3, 2, 2, 1])).segment(1, 4),
}

EQUAL = ["equal", "reverse", "a segment", "a segment in reverse"]


def places(steps: Steps) -> list[list[int]]:
    """Where the rows of each step are, in the order of the loop."""
    if steps.counts is None:
        times = range(steps.steps)[:: -1 if steps.reverse else 1]
        return [[t * steps.rows + r for r in range(steps.rows)] for t in times]
    found, start = [], 0
    for count in steps.counts:
        found.append(list(range(start, start + count)))
        start += count
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_of_an_array_are_in_the_order_of_the_loop(layout: str) -> None:
    steps = LAYOUTS[layout]()
    array = np.arange(steps.total)
    assert steps.total == sum(map(len, places(steps)))
    assert [part.tolist() for part in steps.each(array)] == places(steps)
    back = [part.tolist() for part in steps.backwards.each(array)]
    assert back == places(steps)[::-1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_of_a_state_follow_each_other(layout: str) -> None:
    steps = LAYOUTS[layout]()
    x, start = np.arange(1.0, steps.total + 1), np.arange(steps.rows) * 100.0
    states = np.full(steps.total + steps.rows, np.nan)
    steps.start(states)[...] = start
    sequences = (steps.before(states), steps.each(x), steps.each(steps.all_after(states)))
    for before, given, after in zip(*sequences, strict=True):
        after[...] = 2 * before + given
    row, seen = start.copy(), np.zeros(steps.total)
    for rows in places(steps):
        seen[rows] = row[: len(rows)]
        row[: len(rows)] = 2 * row[: len(rows)] + x[rows]
    np.testing.assert_array_equal(steps.final(states), row)
    np.testing.assert_array_equal(steps.all_before(states), seen)
    np.testing.assert_array_equal(steps.all_after(states), 2 * seen + x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_in_a_timetable_are_where_numpy_has_them(layout: str) -> None:
    steps = LAYOUTS[layout]()
    table, rows = steps.table, places(steps)
    assert table.step.tolist() == [each[0] for each in rows]
    assert table.count.tolist() == [len(each) for each in rows]
    states = np.arange(steps.total + steps.rows)
    before = [part[0] for part in steps.before(states)]
    after = [part[0] for part in steps.each(steps.all_after(states))]
    assert (table.before.tolist(), table.after.tolist()) == (before, after)
    order = steps.each_step(np.arange(steps.steps)[:, None])
    if steps.counts is None:
        assert table.index.tolist() == [int(part[0]) for part in order]
    else:
        assert table.index.tolist() == list(range(steps.steps))
    assert all(part.dtype == np.int64 and part.flags.c_contiguous for part in table)


@pytest.mark.parametrize("layout", EQUAL)
def test_steps_and_rows_have_numbers(layout: str) -> None:
    steps, first = LAYOUTS[layout](), int("segment" in layout)
    for number, rows in enumerate(places(steps)):
        time = steps.steps - 1 - number if steps.reverse else number
        assert steps.step_of[rows].tolist() == [first + time] * steps.rows
        assert steps.row_of[rows].tolist() == list(range(steps.rows))


def test_steps_of_ragged_rows_keep_the_numbers_of_their_user() -> None:
    row_of, step_of = np.array([2, 0, 1, 2, 0]), np.array([7, 7, 7, 8, 8])
    steps = Steps(2, 3, counts=np.array([3, 2]), row_of=row_of, step_of=step_of, length=9)
    last = steps.segment(1, 2)
    assert (last.row_of.tolist(), last.step_of.tolist(), last.length) == ([2, 0], [8, 8], 9)
    assert (last.total, last.rows, last.steps, last.first) == (2, 3, 1, 1)
    back = steps.backwards
    assert back.row_of.tolist() == row_of.tolist() and back.step_of.tolist() == step_of.tolist()
    assert [part.tolist() for part in steps.rows_of(np.arange(3))] == [[0, 1, 2], [0, 1]]
    assert [part.tolist() for part in back.rows_of(np.arange(3))] == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_repeat_what_rows_have_and_add_it_up_again(layout: str) -> None:
    steps = LAYOUTS[layout]()
    array = np.arange(steps.rows * 2.0).reshape(-1, 2)
    repeated = steps.repeated(array)
    times = np.zeros(steps.rows)
    for rows in places(steps):
        np.testing.assert_array_equal(repeated[rows], array[: len(rows)])
        times[: len(rows)] += 1
    np.testing.assert_array_equal(steps.added(XP, repeated), array * times[:, None])
    assert steps.added(XP, repeated.astype("float32")).dtype == np.float32


@pytest.mark.parametrize("layout", EQUAL)
def test_steps_spread_what_each_has(layout: str) -> None:
    steps = LAYOUTS[layout]()
    array = np.arange(steps.steps)
    spread = steps.spread(array)
    assert spread.tolist() == np.repeat(array, steps.rows).tolist()
    order = array[::-1] if steps.reverse else array
    assert [int(part) for part in steps.each_step(array)] == order.tolist()
    assert all(part.shape == () for part in steps.each_step(array))
    longer = np.arange(steps.steps + 1)[:, None]  # with one at the end
    assert [int(part[0]) for part in steps.each_step(longer)] == order.tolist()


def test_steps_without_rows_are_those_of_an_array() -> None:
    steps = Steps(3, None, reverse=True)
    assert (steps.rows, steps.total, steps.has_rows) == (1, 3, False)
    assert [part.tolist() for part in steps.each(np.arange(6).reshape(3, 2))] == [
        [4, 5],
        [2, 3],
        [0, 1],
    ]
    assert not steps.segment(0, 2).has_rows and not steps.backwards.has_rows
    assert steps.segment(0, 2).first == 1 and steps.segment(2, 3).first == 0
    assert steps.length == 3 and Steps(3, 1, length=7).length == 7


def test_floating_terms_are_added_in_float64() -> None:
    assert exact(np.dtype("float32")) == exact(np.dtype("float64")) == np.dtype("float64")
    assert exact(np.dtype("int64")) == np.dtype("int64")


# Functions that programs call.


@pytest.mark.parametrize("name", INTO)
def test_what_writes_into_memory_computes_what_the_primitive_does(name: str) -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 30.0])
    function = {"astype": lambda x: x, "copied": lambda x: x}.get(name) or getattr(tg, name, None)
    function = function or getattr(tg.functional, name)
    operands = [x > 0, x, x * 2] if name == "where" else [x]
    expected = function(*map(tg.tensor, operands)).numpy()
    out = np.full(5, np.nan)
    INTO[name](np, *operands, out)
    np.testing.assert_allclose(out, expected, rtol=1e-15)


@pytest.mark.parametrize("terms", [1, 4095, 4096, 4097, 9000])
def test_a_dot_of_many_takes_each_term_once(terms: int) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (2, terms)).astype(np.float32)
    y = np.random.default_rng(1).integers(-3, 4, (terms, 3)).astype(np.float32)
    out = np.full((2, 3), np.nan, np.float32)
    dot_of_many(np, x, y, out)
    np.testing.assert_array_equal(out, x @ y)


def test_a_primitive_over_time_takes_what_varies_step_by_step() -> None:
    x, w = np.arange(6.0).reshape(3, 2), np.array([10.0, 20.0])
    for varies, arrays in (([True, False], (x, w)), ([False, True], (w, x))):
        np.testing.assert_array_equal(over_time(TABLE["subtract"], varies, *arrays).shape, (3, 2))
    np.testing.assert_array_equal(over_time(TABLE["subtract"], [True, False], x, w), x - w)
    np.testing.assert_array_equal(over_time(TABLE["multiply"], [True, False], x, 2.0), x * 2)
    first, second = over_time(TABLE["split"], [True], x, axis=-1, sizes=(1, 1))
    np.testing.assert_array_equal(first, x[:, :1])
    np.testing.assert_array_equal(second, x[:, 1:])
