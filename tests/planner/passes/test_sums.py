"""Sums over time: the terms, each summed and then moved, are the sum that they were taken from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn_backends as backends
from op_table import examples
from small_graphs import Lines, numbers_of
from tinygrad_rnn.planner.ir import WHOLE, Value
from tinygrad_rnn.planner.passes.sums import contraction, read_by, terms
from tinygrad_rnn.planner.runtime.functions import row_products
from tinygrad_rnn.planner.stages import EACH, ONCE, ROWS, SUMMED, Extent, Term
from tinygrad_rnn.primitives.indexing import ARRAY

STEPS = 3


def extents_of(g: Lines, value: Value, varying: Extent = SUMMED) -> dict[Value, Extent]:
    """Captured values are there once, as what is made of them; all else varies."""
    found: dict[Value, Extent] = {}
    for v in g.graph(value).values():
        if v.source is not None:
            found[v] = ONCE if v.source.kind == "captured" else varying
        else:
            found[v] = varying if varying in [found[x] for x in v.operands] else ONCE
    return found


def over_time(g: Lines, value: Value) -> Any:
    """A value summed over steps, at each of which sources have other numbers."""
    return sum(_at(g, value, t) for t in range(STEPS))


def _at(g: Lines, value: Value, t: int) -> Any:
    found = numbers_of(g.graph(value), seed=t)
    once = numbers_of(g.graph(value))
    for v in found:  # what is captured is the same at each
        if v.source is not None and v.source.kind == "captured":
            found[v] = once[v]
    for v in g.graph(value).values():
        if v.source is None:
            found[v] = _applied(v, [found[x] if isinstance(x, Value) else x for x in v.inputs])
    return found[value]


def _applied(value: Value, inputs: list[Any]) -> Any:
    return value.primitive.forward(backends.get("numpy"), *inputs, **value.parameters)


def added_up(g: Lines, parts: list[Term]) -> Any:
    """What a program makes of terms."""
    total: Any = 0.0
    for term in parts:
        array = over_time(g, term.value)
        for movement in term.after:
            others = [
                numbers_of(g.graph(x))[x] if isinstance(x, Value) else x
                for x in movement.inputs[1:]
            ]
            array = _applied(movement, [array, *others])
        total = total - array if term.negative else total + array
    return total


def check(g: Lines, value: Value, varying: Extent = SUMMED) -> list[Term]:
    parts = terms(value, extents_of(g, value, varying))
    np.testing.assert_allclose(added_up(g, parts), over_time(g, value), rtol=1e-12)
    return parts


def test_a_double_negation_is_none() -> None:
    g = Lines()
    a, b, c = (g.x(2, 3, index=i) for i in range(3))
    signs = check(g, g.negative(g.subtract(a, g.negative(g.subtract(b, g.negative(c))))))
    assert [(t.value, t.negative) for t in signs] == [(a, True), (b, True), (c, True)]


def test_differences_of_differences() -> None:
    g = Lines()
    a, b, c, d = (g.x(2, 3, index=i) for i in range(4))
    found = check(g, g.subtract(g.subtract(a, b), g.subtract(c, d)))
    assert [t.negative for t in found] == [False, True, True, False]


def test_movements_come_after_the_sum_the_last_one_last() -> None:
    g = Lines()
    x = g.x(2, 3, 4, 5)
    first = g.permute_dims(x, axes=(-1, -4, -2, -3))
    second = g.permute_dims(first, axes=(-3, -2, -4, -1))
    (term,) = check(g, g.reshape(second, shape=(6, 20)))
    assert term.value is x and [v.name for v in term.after] == ["permute_dims"] * 2 + ["reshape"]


def test_what_does_not_vary_is_multiplied_with_the_sum() -> None:
    g = Lines()
    x, w = g.x(2, 3), g.w(3)
    (term,) = check(g, g.divide(g.multiply(x, w), 2.0))
    assert term.value is x and [v.name for v in term.after] == ["multiply", "divide"]
    (term,) = check(g, g.multiply(w, x))  # the first operand is the one that goes into the sum
    assert term.value.name == "multiply"


def test_what_is_not_linear_is_a_term() -> None:
    g = Lines()
    x = g.x(2, 3)
    for value in (g.multiply(x, x), g.tanh(x), g.add(x, 1.0), g.add(x, g.x(1, 3, index=1))):
        (term,) = check(g, value)
        assert term.value is value and term.after == ()


def test_rows_are_not_moved_before_they_are_summed() -> None:
    g = Lines()
    value = g.reshape(g.x(2, 6), shape=(2, 3, 2))
    (term,) = check(g, value, ROWS)
    assert term.value is value
    (term,) = check(g, value, EACH)
    assert term.value.name == "x"


def test_a_sum_of_products_reads_their_factors() -> None:
    g = Lines()
    x, y = g.x(5, 3), g.x(5, 4, index=1)
    product = g.matmul(g.permute_dims(x, axes=(-1, -2)), y)
    assert contraction(product, {}) == "product"
    assert read_by(Term(product, False, ()), {}) == [x, y]
    total = g.sum(x, axis=(-2,), keepdims=False)
    assert contraction(total, {}) == "sum" and read_by(Term(total, False, ()), {}) == [x]
    assert read_by(Term(g.tanh(x), False, ()), {}) == [g.tanh(x)]
    assert contraction(g.sum(x, axis=(-1,), keepdims=False), {}) is None
    assert contraction(g.matmul(g.x(3, 5), g.w(5, 4)), {}) is None


@pytest.mark.parametrize("varying", [ROWS, EACH])
def test_a_sum_of_products_of_each_row_reads_both_factors(varying: Extent) -> None:
    g = Lines()
    x, y = g.x(3, 5, 1), g.x(3, 1, 4, index=1)
    product = g.matmul(x, y)
    extents = extents_of(g, product, varying)
    assert contraction(product, extents) == "row products"
    assert read_by(Term(product, False, ()), extents) == [x, y]
    weighted = g.matmul(x, g.w(3, 1, 4))  # of which one factor is the same at each step
    assert contraction(weighted, extents_of(g, weighted, varying)) is None


@pytest.mark.parametrize("steps", [0, 1, 5, 5000])
def test_products_of_each_row_are_one_over_all_steps(steps: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, 2, 4, 3)).astype(np.float32)
    y = rng.standard_normal((steps, 2, 3, 5)).astype(np.float32)
    exact = np.einsum("tbij,tbjk->bik", x.astype(np.float64), y.astype(np.float64))
    found = row_products(np, x, y)
    assert found.dtype == np.float32 and found.shape == (2, 4, 5)
    np.testing.assert_allclose(found, exact, atol=1e-6 * max(steps, 1))


def test_what_is_added_at_places_of_zeros_reads_values_and_places() -> None:
    g = Lines()
    zeros, values = g.full(0.0, 7, 3), g.x(2, 3)
    places = g.x(2, index=1, dtype="int64")
    added = g.index_add(zeros, values, places, key=(ARRAY, WHOLE))
    assert contraction(added, {}) == "places"
    assert read_by(Term(added, False, ()), {}) == [values, places]
    assert contraction(g.index_add(g.w(7, 3), values, places, key=(ARRAY, WHOLE)), {}) is None
    columns = g.index_add(g.full(0.0, 3, 7), g.x(3, 2, index=2), places, key=(WHOLE, ARRAY))
    assert contraction(columns, {}) is None
    assert contraction(g.index_add(zeros, values, key=(slice(2), WHOLE)), {}) is None


@pytest.mark.parametrize("varying", [SUMMED, EACH, ROWS])
@examples(60)
@given(rng=st.randoms(use_true_random=False))
def test_terms_of_drawn_sums(varying: Extent, rng: random.Random) -> None:
    g = Lines()
    values = [g.x(2, 3, 4, index=i) for i in range(4)]
    for _ in range(10):
        x, y = rng.choice(values[-5:]), rng.choice(values)
        axes = rng.sample(range(-3, 0), 3)
        made = {
            "add": lambda x=x, y=y: g.add(x, y),
            "subtract": lambda x=x, y=y: g.subtract(x, y),
            "negative": lambda x=x: g.negative(x),
            "scaled": lambda x=x: g.multiply(x, g.w(*x.shape)),
            "halved": lambda x=x: g.divide(x, 2.0),
            "tanh": lambda x=x: g.tanh(x),
            "permuted": lambda x=x, axes=tuple(axes): g.permute_dims(x, axes=axes),
        }
        name = rng.choice(list(made))
        if x.shape == y.shape or name not in ("add", "subtract"):
            values.append(made[name]())
    check(g, values[-1], varying)
