"""Each pass computes what was there before it: on graphs of five lines, and on drawn ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from op_table import examples
from small_graphs import Lines, assert_same_results, drawn
from tinygrad_rnn.planner.compile import FUSE, SIMPLIFY, through
from tinygrad_rnn.planner.facts import full
from tinygrad_rnn.planner.ir import Graph, Value, check, is_view
from tinygrad_rnn.planner.passes.fuse import push_slices, put_products_first
from tinygrad_rnn.planner.passes.simplify import (
    canonicalize,
    fold_constants,
    own_carries,
    put_rows_in_front,
    subtract_negatives,
)
from tinygrad_rnn.planner.passes.slices import find_slice, join_slices
from tinygrad_rnn.primitives.indexing import ARRAY

EVERY = list(dict.fromkeys([*SIMPLIFY, *FUSE]))


def names(value: Value) -> list[str]:
    """Operations from a value down, along first operands."""
    found = [value.name]
    while value.operands:
        value = value.operands[0]
        found.append(value.name)
    return found


def y(graph: Graph) -> Value:
    return graph.ys[0]


@pytest.mark.parametrize("each", EVERY, ids=[each.__name__ for each in EVERY])
@examples(60)
@given(rng=st.randoms(use_true_random=False))
def test_a_pass_keeps_every_result_of_a_drawn_graph(
    each: Callable[[Graph], Graph], rng: random.Random
) -> None:
    graph = drawn(rng)
    after = each(graph)
    check(after, like=graph)
    assert_same_results(graph, after)


@examples(100)
@given(rng=st.randoms(use_true_random=False))
def test_all_passes_together_keep_every_result_of_a_drawn_graph(rng: random.Random) -> None:
    graph = drawn(rng)
    for each in (*SIMPLIFY, *FUSE):
        after = each(graph)
        check(after, like=graph)
        assert_same_results(graph, after)
        graph = after


# canonicalize


def test_permutations_that_do_not_commute_are_one_in_the_right_order() -> None:
    g = Lines()
    first, second = (-1, -4, -2, -3), (-3, -2, -4, -1)
    x = g.permute_dims(g.permute_dims(g.x(2, 3, 4, 5), axes=first), axes=second)
    before = g.graph(x)
    after = canonicalize(before)
    assert names(y(after)) == ["permute_dims", "x"]
    assert_same_results(before, after)
    there_and_back = g.permute_dims(
        g.permute_dims(g.x(2, 3, 4), axes=(-1, -3, -2)), axes=(-2, -1, -3)
    )
    assert names(y(canonicalize(g.graph(there_and_back)))) == ["x"]


@pytest.mark.parametrize("axis", [-1, -2, -3])
def test_pieces_of_a_split_are_slices(axis: int) -> None:
    g = Lines()
    x = g.x(3, 3, 3)
    before = g.graph(*g.split(x, axis=axis, sizes=(1, 2)), *g.unstack(x, axis=axis))
    after = canonicalize(before)
    assert all(names(value)[-2:] == ["getitem", "x"] for value in after.ys)
    assert_same_results(before, after)


@pytest.mark.parametrize("axis", [(-1,), (-2,), (-1, -3)])
def test_what_is_turned_is_a_slice(axis: tuple[int, ...]) -> None:
    g = Lines()
    before = g.graph(g.flip(g.x(2, 3, 4), axis=axis))
    after = canonicalize(before)
    assert names(y(after)) == ["getitem", "x"]
    assert_same_results(before, after)


def test_a_key_that_keeps_all_is_another_shape_and_an_empty_one_is_not() -> None:
    g = Lines()
    x = g.x(1, 3)
    kept = g.getitem(x, key=(0, slice(None), None))
    assert names(y(canonicalize(g.graph(kept)))) == ["reshape", "x"]
    empty = g.getitem(x, key=(slice(0, 0), slice(None)))
    assert y(canonicalize(g.graph(empty))).shape == (0, 3)
    turned = g.getitem(x, key=(slice(None), slice(None, None, -1)))
    assert names(y(canonicalize(g.graph(turned)))) == ["getitem", "x"]


# put_rows_in_front, fold_constants


def test_a_product_of_rows_and_places_has_rows_in_front() -> None:
    g = Lines()
    product = g.matmul(g.reshape(g.x(2, 3, 4), shape=(6, 4)), g.w(4, 5))
    before = g.graph(g.reshape(product, shape=(2, 3, 5)))
    after = put_rows_in_front(before)
    assert names(y(after)) == ["matmul", "x"] and y(after).shape == (2, 3, 5)
    assert_same_results(before, after)


ZEROS: dict[str, Callable[[Lines, Value, Value], Value]] = {
    "multiply": lambda g, x, zero: g.multiply(x, zero),
    "multiplied": lambda g, x, zero: g.multiply(zero, x),
    "divide": lambda g, x, zero: g.divide(zero, x),
    "matmul": lambda g, x, zero: g.matmul(zero, x),
    "negative": lambda g, x, zero: g.negative(zero),
    "sum": lambda g, x, zero: g.sum(zero, axis=(-1,), keepdims=False),
    "where": lambda g, x, zero: g.where(g.less(x, 0.5), zero, zero),
    "concat": lambda g, x, zero: g.concat(zero, zero, axis=-1),
}


@pytest.mark.parametrize("name", ZEROS)
def test_what_is_0_of_zeros_is_an_array_of_0(name: str) -> None:
    g = Lines()
    before = g.graph(ZEROS[name](g, g.x(3, 3), g.full(0.0, 3, 3)))
    after = fold_constants(before)
    assert y(after).primitive is full
    assert_same_results(before, after)


def test_what_is_not_0_of_zeros_is_left() -> None:
    g = Lines()
    x, zero = g.x(3), g.full(0.0, 3)
    before = g.graph(g.subtract(zero, x), g.divide(x, 2.0), g.where(g.less(x, 1.0), x, zero))
    after = fold_constants(before)
    assert [value.name for value in after.ys] == ["subtract", "divide", "where"]
    assert_same_results(before, after)


def test_neutral_elements_go_unless_they_widen() -> None:
    g = Lines()
    x, one, zero = g.x(3), g.full(1.0, 3), g.full(0.0, 2, 3)
    gone = (g.add(x, 0.0), g.subtract(x, 0.0), g.multiply(one, x), g.divide(x, 1.0))
    assert all(value.name == "x" for value in fold_constants(g.graph(*gone)).ys)
    wider = g.graph(g.add(x, zero))
    assert y(fold_constants(wider)).name == "add"
    assert_same_results(wider, fold_constants(wider))


def test_a_product_of_what_was_reshaped_across_rows_is_left() -> None:
    g = Lines()
    before = g.graph(g.matmul(g.reshape(g.x(4, 3), shape=(6, 2)), g.w(2, 5)))
    assert y(put_rows_in_front(before)) is y(before)


def test_parts_of_a_concat_without_elements_go() -> None:
    g = Lines()
    x, other, nothing = g.x(2, 3), g.x(2, 2, index=1), g.x(2, 0, index=2)
    before = g.graph(g.concat(nothing, x, axis=-1), g.concat(x, nothing, other, axis=-1))
    after = fold_constants(before)
    assert after.ys == (x, g.concat(x, other, axis=-1))
    assert_same_results(before, after)


# join_slices


def test_cotangents_of_slices_are_one_concat_without_zeros() -> None:
    g = Lines()
    total = g.full(0.0, 2, 9)
    for i in (1, 0, 2):
        key = (slice(None), slice(3 * i, 3 * i + 3))
        total = g.index_add(total, g.x(2, 3, index=i), key=key)
    before = g.graph(total)
    after = through((fold_constants, join_slices, fold_constants, join_slices), before)
    assert [x.name for x in y(after).operands] == ["x", "x", "x"]
    assert [x.source.index for x in y(after).operands if x.source] == [0, 1, 2]
    assert_same_results(before, after)


def test_slices_that_overlap_are_added_where_they_do() -> None:
    g = Lines()
    a = g.index_add(g.full(0.0, 2, 6), g.x(2, 4), key=(slice(None), slice(0, 4)))
    b = g.index_add(a, g.x(2, 3, index=1), key=(slice(None), slice(3, 6)))
    before = g.graph(b)
    after = through((fold_constants, join_slices, fold_constants, join_slices), before)
    assert [x.shape[-1] for x in y(after).operands] == [3, 3]
    assert y(after).operands[1].name == "add"
    assert_same_results(before, after)


def test_a_slice_of_a_concat_is_one_of_its_parts() -> None:
    g = Lines()
    whole = g.concat(g.x(2, 3), g.x(2, 2, index=1), axis=-1)
    before = g.graph(
        g.getitem(whole, key=(slice(None), slice(0, 3))),
        g.getitem(whole, key=(slice(None), slice(2, 4))),
        g.getitem(whole, key=(slice(0, 1), slice(None))),
    )
    after = join_slices(before)
    assert [value.name for value in after.ys] == ["x", "concat", "getitem"]
    assert_same_results(before, after)


def test_a_key_cuts_one_axis_or_none_that_counts() -> None:
    whole = slice(None)
    assert find_slice((whole, slice(1, 3)), (2, 4)) == (-1, 1, 3)
    assert find_slice((slice(-1, None), whole), (5, 4)) == (-2, 4, 5)
    assert find_slice((whole, 2), (2, 4)) == (-1, 2, 3) and find_slice((-1, whole), (2, 4)) == (
        -2,
        1,
        2,
    )
    assert find_slice((whole, slice(3, 1)), (2, 4)) == (-1, 3, 3)
    for key in ((slice(1, 3),), (whole, ARRAY), (0, 0), (whole, slice(0, 4, 2)), (whole, None)):
        assert find_slice(key, (2, 4)) is None


@pytest.mark.parametrize("axis", [-1, -2])
def test_what_is_added_to_one_element_of_an_axis_is_a_part_of_a_concat(axis: int) -> None:
    g = Lines()
    key: list[Any] = [slice(None), slice(None)]
    key[axis] = 1
    before = g.graph(g.index_add(g.full(0.0, 3, 3), g.x(3), key=tuple(key)))
    after = join_slices(before)
    assert y(after).name == "concat" and len(y(after).operands) == 3
    assert_same_results(before, after)


def test_neighbouring_slices_of_one_value_are_one_and_others_are_not() -> None:
    g = Lines()
    x, other = g.x(4, 6), g.x(4, 6, index=1)

    def part(value: Value, start: int, stop: int, axis: int = -1) -> Value:
        key: list[Any] = [slice(None), slice(None)]
        key[axis] = slice(start, stop)
        return g.getitem(value, key=tuple(key))  # type: ignore[no-any-return]

    before = g.graph(
        g.concat(part(x, 1, 3), part(x, 3, 4), axis=-1),
        g.concat(part(x, 0, 2), part(x, 2, 6), axis=-1),
        g.concat(part(x, 1, 3), part(x, 4, 5), axis=-1),
        g.concat(part(x, 1, 3), part(other, 3, 4), axis=-1),
        g.concat(part(x, 0, 2, axis=-2), part(x, 2, 4, axis=-2), axis=-1),
        g.concat(part(x, 3, 6), part(x, 0, 3), axis=-1),
    )
    after = join_slices(before)
    made = [value.name for value in after.ys]
    assert made == ["getitem", "x", "concat", "concat", "concat", "concat"]
    assert_same_results(before, after)


# subtract_negatives


def test_negations_nested_in_sums_are_differences() -> None:
    g = Lines()
    a, b, c = (g.x(3, index=i) for i in range(3))
    before = g.graph(
        g.add(g.negative(a), b),
        g.add(a, g.negative(b)),
        g.add(g.negative(a), g.negative(b)),
        g.add(g.negative(g.add(g.negative(a), b)), c),
        g.subtract(a, g.negative(b)),
    )
    after = subtract_negatives(before)
    assert [value.name for value in after.ys][:4] == ["subtract"] * 4
    assert_same_results(before, after)


# own_carries


def test_what_is_carried_owns_its_memory_once() -> None:
    g = Lines()
    x, h = g.x(2, 3), g.state(2, 3)
    made = g.tanh(g.add(x, h))
    view = g.reshape(g.permute_dims(made, axes=(-1, -2)), shape=(2, 3))
    states = (made, made, h, view, g.full(1.0, 2, 3))
    before = g.graph(made, states=states)
    after = own_carries(before)
    assert after.states[0] is made
    assert len(set(after.states)) == len(states)
    assert all(
        v.source is None and not is_view(v) and v.primitive is not full for v in after.states
    )
    assert_same_results(before, after)


# For kernels.


def test_products_come_first_in_a_sum() -> None:
    g = Lines()
    xs = g.matmul(g.x(2, 3), g.w(3, 4))
    hs = g.matmul(g.state(2, 5), g.w(5, 4, index=1))
    before = g.graph(g.add(g.add(xs, g.x(2, 4, index=1)), hs))
    after = put_products_first(before)
    outer, inner = y(after), y(after).operands[0]
    assert outer.operands[1].name == "x" and [v.name for v in inner.operands] == ["matmul"] * 2
    assert_same_results(before, after)


def test_a_sum_that_others_read_is_not_taken_apart() -> None:
    g = Lines()
    xs = g.add(g.matmul(g.x(2, 3), g.w(3, 4)), g.x(2, 4, index=1))
    before = g.graph(g.add(xs, g.matmul(g.state(2, 5), g.w(5, 4, index=1))), g.tanh(xs))
    assert y(put_products_first(before)) is y(before)


@pytest.mark.parametrize("axis", [-1, -2])
def test_slices_are_pushed_through_elementwise_work(axis: int) -> None:
    g = Lines()
    key: list[Any] = [slice(None), slice(None)]
    key[axis] = slice(1, 3)
    gates = g.sigmoid(g.add(g.add(g.x(4, 4), g.w(4)), g.w(4, 1, index=1)))
    before = g.graph(g.getitem(gates, key=tuple(key)))
    after = push_slices(before)
    assert names(y(after))[:3] == ["sigmoid", "add", "add"]
    assert all(v.shape == y(after).shape for v in after.values() if v.name in ("sigmoid", "add"))
    assert_same_results(before, after)


def test_a_wrong_pass_is_found() -> None:
    g = Lines()
    x = g.x(3)
    before, after = g.graph(g.subtract(x, g.tanh(x))), g.graph(g.subtract(g.tanh(x), x))
    with pytest.raises(AssertionError):
        assert_same_results(before, after)
