"""Steps with the rows along another axis, written with the rows in front: the same results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from small_graphs import Lines, assert_same_results
from tinygrad_rnn.planner.ir import Graph, Value, check
from tinygrad_rnn.planner.passes.turn import put_rows_first, turned_axes

B, S, H = 3, 5, 4
ALL = slice(None)


class Step(Lines):
    """A query (B, H), and a memory (S, B, H)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.memory = self.x(B, H), self.w(S, B, H)

    def scores(self) -> Value:
        """(S, B)."""
        product = self.multiply(self.memory, self.query)
        return self.sum(product, axis=(-1,), keepdims=False)  # type: ignore[no-any-return]

    def over_keys(self, scores: Value) -> Value:
        """(B,)."""
        return self.max(scores, axis=(-2,), keepdims=False)  # type: ignore[no-any-return]


def turned(s: Step, result: Value) -> Graph:
    before = s.graph(result)
    after = put_rows_first(before, B)
    check(after, before)
    assert_same_results(before, after)
    return after


STEPS: dict[str, Callable[[Step], Any]] = {
    "scores": lambda s: s.over_keys(s.scores()),
    "a softmax": lambda s: s.over_keys(
        s.subtract(s.scores(), s.max(s.scores(), axis=(-2,), keepdims=True))
    ),
    "a context": lambda s: s.sum(
        s.multiply(s.reshape(s.tanh(s.scores()), shape=(S, B, 1)), s.memory),
        axis=(-3,),
        keepdims=False,
    ),
    "a weight of keys": lambda s: s.sum(
        s.add(s.matmul(s.memory, s.w(H, H, index=1)), s.query), axis=(-3,), keepdims=False
    ),
    "rows in front by a permutation": lambda s: s.matmul(
        s.permute_dims(s.memory, axes=(-2, -3, -1)), s.reshape(s.query, shape=(B, H, 1))
    ),
    "numbers, and what all rows share": lambda s: s.over_keys(
        s.add(s.multiply(s.scores(), 0.5), s.w(S, 1, index=1))
    ),
    "an index": lambda s: s.add(s.getitem(s.memory, key=(1, ALL, ALL)), s.query),
    "more axes": lambda s: s.sum(
        s.multiply(s.getitem(s.memory, key=(ALL, None, ALL, ALL)), s.query),
        axis=(-4, -3),
        keepdims=False,
    ),
    "a broadcast": lambda s: s.over_keys(
        s.multiply(
            s.scores(), s.broadcast_to(s.sum(s.query, axis=(-1,), keepdims=False), shape=(S, B))
        )
    ),
    "a concat": lambda s: s.sum(
        s.concat(s.memory, s.multiply(s.memory, s.query), axis=-3), axis=(-3,), keepdims=False
    ),
    "as many keys as rows": lambda s: s.sum(
        s.multiply(s.w(B, B, H, index=2), s.query), axis=(-3, -1), keepdims=False
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_rows_come_first(name: str) -> None:
    s = Step()
    after = turned(s, STEPS[name](s))
    assert 1 in turned_axes(after).values()
    values = after.values()
    own = [v for v in values if v.name == "captured" and "turned" in v.parameters]
    assert all(v.shape[0] == B for v in own)


AS_THEY_ARE: dict[str, Callable[[Step], Any]] = {
    "rows in front": lambda s: s.add(s.w(B, H, index=1), s.query),
    "a result without rows in front": lambda s: s.scores(),
    "rows in another order": lambda s: s.over_keys(
        s.getitem(s.scores(), key=(ALL, slice(None, None, -1)))
    ),
    "a sum over rows": lambda s: s.sum(s.scores(), axis=(-1,), keepdims=False),
    "rows as columns": lambda s: s.matmul(s.w(2, S, index=1), s.scores()),
}


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_what_is_not_known_here_stays_as_it_is(name: str) -> None:
    s = Step()
    graph = s.graph(AS_THEY_ARE[name](s))
    assert put_rows_first(graph, B) is graph


def test_one_row_is_no_axis_of_rows() -> None:
    s = Lines()
    result = s.sum(s.multiply(s.w(5, 1, 4), s.x(1, 4)), axis=(-3,), keepdims=False)
    graph = s.graph(result)
    assert put_rows_first(graph, 1) is graph and put_rows_first(graph, None) is graph
