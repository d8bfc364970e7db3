"""Schedules of loops of a few lines: which kernels can do, at which level, and into which place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from loop_interpreter import OF_NUMPY
from small_graphs import Lines
from tinygrad_rnn.planner.ir import Value
from tinygrad_rnn.planner.passes.schedule import Schedule, keeps_latest, why_not
from tinygrad_rnn.planner.passes.windows import Window, iteration_of, window_of
from tinygrad_rnn.planner.stages import EACH, ONCE, ROWS, Carry, Extent, Stage

ROWS_OF_BATCH = 3


class Compiler:
    """Of exactly two dtypes, and of all functions but erf."""

    SUPPORTED = frozenset(OF_NUMPY) - {"erf"}
    DTYPES = frozenset({"float64", "bool"})

    def available(self) -> None:
        """Not asked."""

    def compile(self, loops: Any) -> Any:
        """Not asked."""


class Step(Lines):
    """A step of a loop: the state h and an input x of four columns, and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.h = self.state(ROWS_OF_BATCH, 4)
        self.rows = self.x(ROWS_OF_BATCH, 4)

    def stage(self, after: Value, *others: Value) -> tuple[Stage, dict[Value, Extent]]:
        """Everything that the state after the step and other values are made of."""
        values = self.graph(after, *others).values()
        extents = dict.fromkeys(values, ROWS)
        for value in values:
            if value.source is not None and value.source.kind == "captured":
                extents[value] = ONCE
            elif value.source is not None and value.shape[:1] != (ROWS_OF_BATCH,):
                extents[value] = EACH
        extents[self.h] = ROWS
        return Stage([v for v in values if v.source is None], [Carry(self.h, after)]), extents

    def schedule(self, after: Value, *others: Value, outside: Any = ()) -> Schedule:
        """The schedule of what is computed; others and ``outside`` are read elsewhere, too."""
        stage, extents = self.stage(after, *others)
        assert why_not(stage, extents, Compiler()) is None
        return Schedule(stage, extents, {*others, *outside})

    def product(self, value: Value, columns: int = 4, index: int = 0) -> Value:
        """Times a weight of its own."""
        return self.matmul(value, self.w(value.shape[-1], columns, index=index))  # type: ignore[no-any-return]


def reason(after: Value, s: Step) -> str | None:
    stage, extents = s.stage(after)
    return why_not(stage, extents, Compiler())


# What kernels can do.


def test_what_fits() -> None:
    s = Step()
    flags = s.less(s.h, s.rows)  # bool and float64: all the dtypes that there are
    h = s.where(flags, s.h, s.sum(s.h, axis=(-1,), keepdims=True))
    assert reason(s.concat(s.tanh(h), s.product(h), axis=-1), s) is None
    assert reason(s.add(s.h, s.w(4)), s) is None
    assert reason(s.add(s.h, s.w(1)), s) is None
    assert reason(s.add(s.h, s.x(4, index=1)), s) is None  # one row for each step

    matrices = s.x(ROWS_OF_BATCH, 2, 4, index=1)
    assert reason(s.matmul(matrices, s.w(4, 4)), s) is None
    assert reason(s.matmul(matrices, s.reshape(s.h, shape=(ROWS_OF_BATCH, 4, 1))), s) is None
    assert reason(s.concat(s.h, s.rows, axis=-1), s) is None
    assert reason(s.tanh(s.permute_dims(matrices, axes=(-3, -1, -2))), s) is None
    assert reason(s.max(matrices, axis=(-2,), keepdims=False), s) is None


UNFIT: dict[str, Any] = {
    "erf": lambda s: s.erf(s.h),
    "astype of float32, float64": lambda s: s.astype(s.h, dtype=np.dtype("float32")),
    "a product with a matrix of each step": lambda s: s.matmul(s.h, s.x(4, 4, index=1)),
    "a product of a view by broadcast_to": lambda s: s.product(
        s.broadcast_to(s.sum(s.h, axis=(-1,), keepdims=True), shape=(ROWS_OF_BATCH, 4))
    ),
    "a view by reshape": lambda s: s.reshape(
        s.permute_dims(s.tanh(s.reshape(s.h, shape=(ROWS_OF_BATCH, 2, 2))), axes=(-3, -1, -2)),
        shape=(ROWS_OF_BATCH, 4),
    ),
}


@pytest.mark.parametrize("why", UNFIT)
def test_what_does_not_fit(why: str) -> None:
    s = Step()
    found = reason(s.sin(UNFIT[why](s)), s)
    assert found is not None and why in found


def test_elements_are_found_through_views() -> None:
    s = Step()
    whole = s.x(ROWS_OF_BATCH, 6, index=1)
    part = s.getitem(whole, key=(slice(None), slice(2, 5)))
    inner = s.getitem(
        s.reshape(part, shape=(ROWS_OF_BATCH, 1, 3)), key=(slice(None), 0, slice(1, 3))
    )
    _, extents = s.stage(s.tanh(part), inner)
    assert window_of(part, extents) == Window(whole, 2, (3,), (1,))
    assert window_of(inner, extents) == Window(whole, 3, (2,), (1,))
    assert window_of(whole, extents).whole and not window_of(part, extents).whole
    one = s.sum(s.h, axis=(-1,), keepdims=True)
    wide = s.broadcast_to(one, shape=(ROWS_OF_BATCH, 4))
    _, extents = s.stage(s.tanh(wide))
    assert window_of(wide, extents) == Window(one, 0, (4,), (0,))
    places = s.x(ROWS_OF_BATCH, 2, 3, 4, index=2)
    turned = s.permute_dims(places, axes=(-4, -2, -1, -3))
    last = s.getitem(turned, key=(slice(None), 2, slice(None, None, -1), None, slice(None)))
    joined = s.reshape(turned, shape=(ROWS_OF_BATCH, 12, 2))
    mixed = s.reshape(turned, shape=(ROWS_OF_BATCH, 24))
    _, extents = s.stage(s.tanh(s.h), last, joined, mixed)
    assert window_of(turned, extents) == Window(places, 0, (3, 4, 2), (4, 1, 12))
    assert window_of(last, extents) == Window(places, 11, (4, 1, 2), (-1, 0, 12))
    assert window_of(joined, extents) == Window(places, 0, (12, 2), (1, 12))
    assert window_of(mixed, extents) == Window(mixed, 0, (24,), (1,))  # no regular strides


def product_of(s: Step, left: tuple[int, ...], right: tuple[int, ...], turned: Any = ()) -> Any:
    """How a kernel goes over a product of matrices of each row, of which some are turned."""
    sides = []
    for index, shape in enumerate((left, right)):
        matrix = s.x(ROWS_OF_BATCH, *(shape[::-1] if index in turned else shape), index=index + 1)
        sides.append(s.permute_dims(matrix, axes=(-3, -1, -2)) if index in turned else matrix)
    product = s.matmul(*sides)
    _, extents = s.stage(s.tanh(s.h), product)
    return iteration_of(product, extents)


def test_columns_of_products_of_each_row_are_neighbours_in_memory() -> None:
    s = Step()
    scores = product_of(s, (5, 8), (8, 1))
    assert scores.lengths == (5,) and scores.width == 8 and scores.reduces
    context = product_of(s, (1, 5), (5, 8))
    assert context.lengths == (5,) and context.width == 8
    assert context.reduces_axes and context.wide and not context.reduces
    turned = product_of(s, (8, 5), (5, 1), turned=[0])  # keys.T times cotangents of scores
    assert turned.lengths == (5,) and turned.width == 8 and turned.reduces_axes
    back = product_of(s, (1, 8), (8, 5), turned=[1])  # a cotangent times values.T
    assert back.lengths == (5,) and back.width == 8 and back.reduces
    outer = product_of(s, (5, 1), (1, 8))
    assert outer.lengths == (5,) and outer.width == 8 and outer.wide and not outer.reduces_axes
    assert product_of(s, (1, 1), (1, 1)).lengths == ()


def test_what_is_made_of_numbers_of_an_axis_stays_with_them() -> None:
    s = Step()
    keys = s.x(ROWS_OF_BATCH, 5, 4, index=1)
    scores = s.matmul(keys, s.reshape(s.h, shape=(ROWS_OF_BATCH, 4, 1)))
    scaled = s.multiply(s.reshape(scores, shape=(ROWS_OF_BATCH, 5)), 0.5)
    powers = s.exp(scaled)  # is worth vectors
    after = s.multiply(s.h, s.sum(powers, axis=(-1,), keepdims=True))
    schedule = s.schedule(after)
    lengths = [schedule.iterations[v].lengths for v in (scores, scaled, powers, after)]
    assert lengths == [(5,), (5,), (), ()]
    assert [schedule.level[v] for v in (scores, scaled, powers, after)] == [0, 0, 1, 1]


# Levels.


def test_a_product_is_read_one_level_later() -> None:
    s = Step()
    first = s.tanh(s.h)
    product = s.product(first)
    after = s.sin(product)
    levels = s.schedule(after).level
    assert [levels[v] for v in (first, product, after)] == [0, 0, 1]


def test_work_is_done_as_late_as_its_readers_allow() -> None:
    s = Step()
    early = s.tanh(s.rows)
    product = s.product(s.h)
    after = s.add(s.sin(product), early)
    assert s.schedule(after).level[early] == 1
    assert s.schedule(after, outside={early}).level[early] == 0
    two = s.product(early, index=1)
    assert s.schedule(s.sin(s.multiply(product, two))).level[early] == 0


def test_columns_of_what_a_kernel_makes_are_read_one_level_later() -> None:
    s = Step()
    whole = s.tanh(s.h)
    part = s.getitem(whole, key=(slice(None), slice(0, 2)))
    read = s.sin(part)
    after = s.concat(read, read, axis=-1)
    schedule = s.schedule(after)
    assert schedule.level[read] == schedule.level[whole] + 1
    assert not schedule.whole(part) and schedule.whole(whole)


# Sums.


def test_products_are_added_in_one_place() -> None:
    s = Step()
    first, second = s.product(s.h), s.product(s.rows, index=1)
    inner = s.add(s.tanh(s.rows), first)
    outer = s.add(inner, second)
    after = s.sin(outer)
    schedule = s.schedule(after)
    assert schedule.added == {inner: (inner.operands[0], first), outer: (inner, second)}
    assert schedule.whole_sum(inner) is outer and schedule.merges(inner, outer)
    assert schedule.level[inner] == schedule.level[outer]
    assert schedule.left_by_kernel(inner) and not schedule.left_by_kernel(outer)
    apart = s.schedule(after, outside={inner})
    assert apart.whole_sum(inner) is inner
    assert apart.level[outer] == apart.level[inner] + 1


def test_what_is_read_twice_is_no_addend() -> None:
    s = Step()
    product = s.product(s.h)
    total = s.add(s.rows, product)
    assert s.schedule(s.multiply(total, product)).added == {}
    assert s.schedule(s.tanh(total), outside={product}).added == {}
    assert total in s.schedule(s.tanh(total)).added
    assert not s.schedule(s.tanh(total)).left_by_kernel(total)  # x is no kernel's


# Carries.


def test_a_state_that_is_written_by_a_product_after_all_its_readers_has_one_place() -> None:
    s = Step()
    after = s.product(s.tanh(s.product(s.h)), index=1)
    (carry,) = s.stage(after)[0].carries
    assert keeps_latest(carry, s.schedule(after))
    assert not keeps_latest(carry, s.schedule(after, outside={after}))
    assert not keeps_latest(carry, s.schedule(after, outside={s.h}))


def test_a_state_that_is_read_elementwise_by_the_kernel_that_writes_it_has_one_place() -> None:
    s = Step()
    after = s.tanh(s.add(s.h, s.rows))
    (carry,) = s.stage(after)[0].carries
    assert keeps_latest(carry, s.schedule(after))


def test_a_state_that_is_read_later_than_it_is_written_has_two_places() -> None:
    s = Step()
    product = s.product(s.h)
    first = s.getitem(s.h, key=(slice(None), slice(0, 1)))  # column 0 is read for all others
    # The second reads what it writes, and before the third is written by a kernel a product reads.
    for after in (s.multiply(s.rows, first), product, s.tanh(product)):
        (carry,) = s.stage(after)[0].carries
        assert not keeps_latest(carry, s.schedule(after))
    after = s.tanh(s.h)
    late = s.add(s.sin(s.product(after)), s.h)
    (carry,) = s.stage(after, late)[0].carries
    assert not s.schedule(after, late).overwrites(carry)


def test_what_a_kernel_leaves_early_in_the_place_of_a_state_overwrites_it_early() -> None:
    s = Step()
    rest = s.tanh(s.rows)
    read = s.add(s.sin(s.product(s.rows)), s.h)  # of the state, at the level of the second product
    after = s.add(rest, s.product(read, index=1))
    for early in (False, True):
        schedule = s.schedule(after, outside={rest} if early else ())
        (carry,) = s.stage(after)[0].carries
        assert (schedule.level[rest], schedule.level[read]) == (0 if early else 1, 1)
        assert schedule.left_by_kernel(after) and schedule.overwrites(carry) != early
