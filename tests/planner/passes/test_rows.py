"""Proofs that rows are independent: what is found of each operation, and that numbers agree."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn_backends as backends
from small_graphs import FLOAT, Array, Lines, drawn, number
from tinygrad_rnn.planner.facts import copied
from tinygrad_rnn.planner.ir import WHOLE, Graph, Value, along
from tinygrad_rnn.planner.passes.rows import Proof, prove
from tinygrad_rnn.planner.stages import EACH, MERGED, ONCE, ROWS, ROWS_ONCE, SUMMED, Extent
from tinygrad_rnn.primitives.indexing import ARRAY

B = 2


class Draw(NamedTuple):
    same: bool


class Step(Lines):
    """A step with an x of (B, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.x(B, 3)

    def turned(self, x: Value) -> Value:
        return self.permute_dims(x, axes=(-1, -2))  # type: ignore[no-any-return]

    def index(self, *shape: int) -> Value:
        return self.x(*shape, index=5, dtype="int64")

    def places(self, *shape: int) -> Value:
        return self.table.source("captured", 5, shape, np.dtype("int64"))

    def draw(self, *shape: int, same: bool) -> Value:
        """Random numbers, anew at each step or not."""
        table = self.table
        return table.source("draw", 0, shape, FLOAT, draw=Draw(same))

    def of(self, value: Value) -> Proof:
        """What is found of a value that nothing but an inner sum reads."""
        return prove(Graph(self.table, (), (), dcaptured=(None, value)), B)


FOUND: dict[str, tuple[Extent, Callable[[Step], Value]]] = {
    "elementwise": (ROWS, lambda s: s.tanh(s.rows)),
    "beside a vector": (ROWS, lambda s: s.add(s.rows, s.w(3))),
    "beside a captured row": (ROWS, lambda s: s.add(s.rows, s.w(1, 3))),
    "beside captured rows": (ROWS, lambda s: s.add(s.rows, s.w(B, 3))),
    "beside what was made of captured rows": (
        ROWS,
        lambda s: s.add(s.rows, s.tanh(s.multiply(s.w(B, 3), s.w(3, index=1)))),
    ),
    "beside captured rows, cut": (
        ROWS,
        lambda s: s.add(s.rows, s.getitem(s.w(B, 6), key=along(-1, 2, slice(3)))),
    ),
    "beside one of each step": (ROWS, lambda s: s.add(s.rows, s.x(index=1))),
    "of each step alone": (EACH, lambda s: s.tanh(s.x(index=1))),
    "captured": (ONCE, lambda s: s.tanh(s.w(B, 3))),
    "draws": (ROWS, lambda s: s.tanh(s.draw(B, 3, same=False))),
    "draws of each step": (EACH, lambda s: s.tanh(s.draw(3, same=False))),
    "draws of a call": (ONCE, lambda s: s.tanh(s.draw(B, 3, same=True))),
    "reduction": (ROWS, lambda s: s.max(s.rows, axis=(-1,), keepdims=False)),
    "sum": (SUMMED, lambda s: s.sum(s.rows, axis=(-2,), keepdims=False)),
    "sum of all": (SUMMED, lambda s: s.sum(s.rows, axis=(-1, -2), keepdims=False)),
    "reshape": (ROWS, lambda s: s.reshape(s.rows, shape=(B, 1, 3))),
    "reshape of places": (MERGED, lambda s: s.reshape(s.x(B, 3, 4, index=1), shape=(6, 4))),
    "product over places": (
        SUMMED,
        lambda s: s.matmul(
            s.turned(s.reshape(s.x(B, 3, 4, index=1), shape=(6, 4))),
            s.reshape(s.x(B, 3, 5, index=2), shape=(6, 5)),
        ),
    ),
    "permutation": (ROWS, lambda s: s.permute_dims(s.x(B, 3, 4, index=1), axes=(-3, -1, -2))),
    "product over rows": (SUMMED, lambda s: s.matmul(s.turned(s.rows), s.x(B, 4, index=1))),
    "product over captured rows": (
        SUMMED,
        lambda s: s.matmul(s.turned(s.rows), s.w(B, 4)),
    ),
    "product of captured rows": (
        SUMMED,
        lambda s: s.matmul(s.turned(s.w(B, 4)), s.rows),
    ),
    "product": (ROWS, lambda s: s.matmul(s.rows, s.w(3, 4))),
    "product with places": (ROWS, lambda s: s.matmul(s.x(B, 3, 4, index=1), s.w(4, 5))),
    "product of rows": (ROWS, lambda s: s.matmul(s.x(B, 3, 4, index=1), s.w(B, 4, 5))),
    "broadcast": (ROWS, lambda s: s.broadcast_to(s.x(B, 1, index=1), shape=(B, 3))),
    "concat": (ROWS, lambda s: s.concat(s.rows, s.w(B, 4), axis=-1)),
    "slice": (ROWS, lambda s: s.getitem(s.rows, key=(WHOLE, slice(2)))),
    "columns by an array": (ROWS, lambda s: s.getitem(s.rows, s.places(4), key=(WHOLE, ARRAY))),
    "embedding": (ROWS, lambda s: s.getitem(s.w(7, 3), s.index(B), key=(ARRAY, WHOLE))),
    "along columns": (
        ROWS,
        lambda s: s.take_along_axis(s.rows, s.reshape(s.index(B), shape=(B, 1)), axis=-1),
    ),
    "into places along columns": (
        ROWS,
        lambda s: s.add_along_axis(
            s.full(0.0, B, 3), s.reshape(s.index(B), shape=(B, 1)), s.x(B, 1, index=3), axis=-1
        ),
    ),
    "into columns": (
        ROWS,
        lambda s: s.index_add(s.full(0.0, B, 5), s.rows, key=(WHOLE, slice(3))),
    ),
    "into rows of an embedding": (
        SUMMED,
        lambda s: s.index_add(s.full(0.0, 7, 3), s.rows, s.index(B), key=(ARRAY, WHOLE)),
    ),
    "a sum of sums": (
        SUMMED,
        lambda s: s.add(
            s.sum(s.rows, axis=(-2,), keepdims=False),
            s.negative(s.sum(s.tanh(s.rows), axis=(-2,), keepdims=False)),
        ),
    ),
    "a sum, scaled": (
        SUMMED,
        lambda s: s.multiply(s.sum(s.rows, axis=(-2,), keepdims=False), s.w(3)),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_rows_are_found_of(name: str) -> None:
    extent, make = FOUND[name]
    s = Step()
    value = make(s)
    proof = s.of(value)
    assert proof.mixed is None
    assert proof.extents[value] is extent


def over_rows(s: Step) -> Value:
    return s.sum(s.rows, axis=(-2,), keepdims=False)  # type: ignore[no-any-return]


def merged(s: Step) -> Value:
    return s.reshape(s.x(B, 3, 4, index=1), shape=(6, 4))  # type: ignore[no-any-return]


MIXED: dict[str, Callable[[Step], Value]] = {
    "has shape (3, 3), without 2 rows": lambda s: s.tanh(s.x(3, 3, index=1)),
    "add lines up rows of (2, 3) with another": lambda s: s.add(s.rows, s.w(4, 2, 3)),
    "add lines up rows of (2,) with another": lambda s: s.add(s.x(B, index=1), s.x(2, 2, index=2)),
    "max reduces over rows": lambda s: s.max(s.rows, axis=(-2,), keepdims=False),
    "flip moves rows": lambda s: s.flip(s.rows, axis=(-1,)),
    "reshape makes (6,) of rows": lambda s: s.reshape(s.rows, shape=(6,)),
    "reshape makes (3, 2) of rows": lambda s: s.reshape(s.rows, shape=(3, 2)),
    "broadcast_to makes (4, 2, 3) of rows": lambda s: s.broadcast_to(s.rows, shape=(4, 2, 3)),
    "permute_dims moves rows": lambda s: s.permute_dims(s.x(B, 3, 4, index=1), axes=(-2, -3, -1)),
    "concat puts rows one below": lambda s: s.concat(s.rows, s.rows, axis=-2),
    "concat joins rows with (2, 3)": lambda s: s.concat(
        s.rows, s.matmul(s.w(2, 2), s.w(2, 3, index=1)), axis=-1
    ),
    "getitem picks among rows": lambda s: s.getitem(s.rows, key=(slice(1), WHOLE)),
    "getitem takes the rows of one operand": lambda s: s.getitem(
        s.rows, s.index(B), key=(WHOLE, ARRAY)
    ),
    "take_along_axis picks among rows": lambda s: s.take_along_axis(
        s.rows, s.reshape(s.index(B), shape=(B, 1)), axis=-2
    ),
    "take_along_axis lines up rows with (1, 1)": lambda s: s.take_along_axis(
        s.rows, s.reshape(s.places(1), shape=(1, 1)), axis=-1
    ),
    "index_add adds to rows": lambda s: s.index_add(
        s.full(0.0, 1, 3), s.rows, s.places(B), key=(ARRAY, WHOLE)
    ),
    "index_add adds to rows of": lambda s: s.index_add(
        s.w(7, 3), s.rows, s.index(B), key=(ARRAY, WHOLE)
    ),
    "index_add takes the rows of one operand": lambda s: s.index_add(
        s.rows, s.x(B, 2, index=1), s.index(B), key=(WHOLE, ARRAY)
    ),
    "matmul sums over rows": lambda s: s.matmul(s.w(4, 2), s.rows),
    "matmul takes the rows of one operand": lambda s: s.matmul(s.x(B, 2, index=1), s.x(B, 2)),
    "matmul takes rows for an axis": lambda s: s.matmul(s.w(5, 4, 2), s.rows),
    "matmul lines up rows with": lambda s: s.matmul(
        s.x(B, 3, 4, index=1), s.reshape(s.matmul(s.w(2, 2), s.w(2, 20, index=1)), shape=(B, 4, 5))
    ),
    "tanh uses a sum over rows": lambda s: s.tanh(over_rows(s)),
    "multiply uses a sum over rows": lambda s: s.multiply(over_rows(s), over_rows(s)),
    "multiply uses a sum over rows of": lambda s: s.multiply(0.5, over_rows(s)),
    "divide uses a sum over rows": lambda s: s.divide(s.w(3), over_rows(s)),
    "add uses a sum over rows": lambda s: s.add(over_rows(s), s.w(3)),
    "tanh takes several places": lambda s: s.tanh(merged(s)),
    "matmul takes several places": lambda s: s.matmul(merged(s), s.w(4, 5)),
    "matmul takes several places of": lambda s: s.matmul(
        merged(s), s.turned(s.reshape(s.x(B, 3, 4, index=2), shape=(6, 4)))
    ),
    "tanh takes the rows of a matrix for": lambda s: s.tanh(s.turned(s.rows)),
    "index_add takes what each step has one": lambda s: s.index_add(
        s.rows, s.x(index=1), key=(WHOLE, 0)
    ),
    "add lines up rows with (2, 3)": lambda s: s.add(
        s.rows, s.matmul(s.w(2, 2), s.w(2, 3, index=1))
    ),
    "copied is a state without rows": lambda s: s.table.value(copied, s.w(3)),
}


@pytest.mark.parametrize("why", MIXED)
def test_rows_are_mixed_by(why: str) -> None:
    s = Step()
    proof = s.of(MIXED[why](s))
    assert proof.mixed is not None and why.removesuffix(" of") in str(proof.mixed)
    assert set(proof.extents.values()) <= {ONCE, EACH}


def mixed(s: Step, ragged: bool = False, **results: Any) -> str | None:
    """Why the rows of these results are not independent."""
    graph = Graph(s.table, **{"ys": (), "states": (), **results})
    found = prove(graph, B, ragged).mixed
    return None if found is None else str(found)


def test_results_have_rows_in_front() -> None:
    s = Step()
    wide = s.broadcast_to(s.w(3), shape=(B, 3))
    for name in ("ys", "dxs"):
        assert mixed(s, **{name: (s.rows, wide)}) is None
        assert "sum is a result without rows" in str(mixed(s, **{name: (over_rows(s),)}))
        assert "reshape is a result without rows" in str(mixed(s, **{name: (merged(s),)}))
        assert "moves rows to another axis" in str(mixed(s, **{name: (s.turned(s.rows),)}))
    h = s.state(B, 3)
    for name in ("states", "dstates"):
        assert mixed(s, **{name: (s.tanh(h),)}) is None
        assert "captured is a state without rows" in str(mixed(s, **{name: (s.w(B, 3),)}))
    assert mixed(s, dxs=(None, s.rows), dstates=(None,), dcaptured=(None,)) is None


def test_outputs_of_ragged_rows_have_rows_of_their_own() -> None:
    s = Step()
    shared = s.matmul(s.w(B, 2), s.w(2, 3, index=1))
    for y in (s.tanh(s.rows), s.w(B, 3, index=2)):
        assert mixed(s, ragged=True, ys=(y,)) is None
    for y in (s.tanh(s.w(3)), shared):
        assert mixed(s, ys=(y,)) is None
        assert "is an output without rows" in str(mixed(s, ragged=True, ys=(y,)))


def test_a_cotangent_with_rows_is_one_of_what_has_rows() -> None:
    s = Step()
    g = s.tanh(s.rows)
    assert mixed(s, dcaptured=(g,)) is None  # of what is nowhere used otherwise
    used = s.matmul(s.x(B, B, index=1), s.w(B, 3))
    assert "has rows, and what it is the cotangent of" in str(mixed(s, ys=(used,), dcaptured=(g,)))
    assert mixed(s, ys=(used,), dcaptured=(over_rows(s),)) is None
    assert mixed(s, ys=(s.add(s.rows, s.w(B, 3)),), dcaptured=(g,)) is None


def test_what_was_judged_before_a_captured_array_had_rows_is_judged_again() -> None:
    s = Step()
    w = s.w(B, 3)
    early = s.tanh(w)
    proof = prove(Graph(s.table, (early, s.add(s.rows, w)), ()), B)
    assert proof.mixed is None
    assert [proof.extents[v] for v in (w, early)] == [ROWS_ONCE, ROWS_ONCE]


def test_an_array_that_all_rows_share_has_none_of_its_own() -> None:
    s = Step()
    w = s.w(B, B)
    product, beside = s.matmul(s.x(B, B, index=1), w), s.add(s.x(B, B, index=2), w)
    for ys in ((product, beside), (beside, product)):
        assert mixed(s, ys=ys) is not None
    alone = prove(
        Graph(s.table, (s.matmul(s.x(1, 1), s.w(1, 1)), s.add(s.x(1, 1), s.w(1, 1))), ()), 1
    )
    assert alone.mixed is None  # of a single row


def test_without_rows_a_value_is_there_once_or_for_each_step() -> None:
    s = Step()
    once, each = s.draw(3, same=True), s.table.source("dy", 0, (3,), FLOAT)
    scalar = s.table.source("scalar", 0, (), FLOAT)
    values = [s.add(once, s.w(3)), s.multiply(each, scalar), s.add(s.tanh(scalar), s.w(3))]
    mixing = s.flip(s.rows, axis=(-2,))
    extents = prove(Graph(s.table, (*values, mixing), ()), B).extents
    assert [extents[v] for v in values] == [ONCE, EACH, ONCE]
    assert [extents[v] for v in (once, each, scalar, s.rows)] == [ONCE, EACH, ONCE, EACH]


# On numbers.


def values_of(graph: Graph, extents: dict[Value, Extent], order: list[int]) -> dict[Value, Array]:
    """Every value, with the rows of what has rows in another order."""
    found: dict[Value, Any] = {}
    for value in graph.values():
        if value.source is None:
            inputs = [found[x] if isinstance(x, Value) else x for x in value.inputs]
            made = value.primitive.forward(backends.get("numpy"), *inputs, **value.parameters)
            found[value] = made if value.output is None else made[value.output]
        else:
            rows = extents[value] in (ROWS, ROWS_ONCE)
            found[value] = number(value)[order] if rows else number(value)
    return found


def test_rows_in_another_order_are_the_same_rows() -> None:
    proved = 0
    for seed in range(300):
        graph = drawn(random.Random(seed), length=4)
        extents, mixed = prove(graph, B)
        if mixed is not None:
            continue
        proved += 1
        before, after = (values_of(graph, extents, order) for order in ([0, 1], [1, 0]))
        for value in graph.values():
            expected = before[value]
            if extents[value] in (ROWS, ROWS_ONCE):
                turned = value.name == "permute_dims" and value.parameters["axes"] == (-1, -2)
                expected = expected[:, ::-1] if turned else expected[::-1]
            if extents[value] is not MERGED:
                np.testing.assert_allclose(after[value], expected, rtol=1e-12, atol=1e-12)
    assert proved > 30
