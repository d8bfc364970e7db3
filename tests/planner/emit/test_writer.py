"""NumPy programs operation by operation: before the loop and in it, with rows and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
import tinygrad_rnn.functional as F
from both_ways import Case, assert_planned_is_literal, forget_plans, leaf
from small_graphs import Lines
from tinygrad_rnn import Tensor
from tinygrad_rnn.graph import Primitive
from tinygrad_rnn.planner.emit.text import identifier, key_text, shape_text
from tinygrad_rnn.planner.emit.writer import returns_operand
from tinygrad_rnn.planner.runtime.pool import Pool

STEPS, ROWS = 3, 2
RNG = np.random.default_rng(0)
W, WIDE, EACH_ROW = leaf(RNG, 4, 3), leaf(RNG, ROWS, 4, 3), leaf(RNG, ROWS, 1, 4)
VECTOR, NUMBER = leaf(RNG, 4), leaf(RNG)

Operation = Callable[[Tensor, Tensor], Tensor]
OPERATIONS: dict[str, Operation] = {
    "slice": lambda a, s: a[:, 1:] * 2,
    "an element of an axis": lambda a, s: tg.sin(a[:, 0]),
    "what is turned": lambda a, s: a[:, ::-1, 1:] * a[:, :, :3],
    "transpose": lambda a, s: tg.permute_dims(a, (0, 2, 1)) * 3,
    "reshape": lambda a, s: tg.sin(tg.reshape(a, (-1, 8))),
    "reshape of a transpose": lambda a, s: tg.reshape(
        tg.permute_dims(tg.sin(a), (0, 2, 1)), (-1, 8)
    ),
    "broadcast": lambda a, s: tg.broadcast_to(a[:, :1], a.shape) * tg.cos(a),
    "product": lambda a, s: a @ W,
    "product with a scaled matrix": lambda a, s: a @ (W * NUMBER / 2.0),
    "product of matrices": lambda a, s: tg.reshape(a, (-1, 8))[:, 2:6] @ W,
    "product with captured rows": lambda a, s: a @ WIDE,
    "product of rows": lambda a, s: a @ tg.permute_dims(a, (0, 2, 1)),
    "concat": lambda a, s: tg.concat((tg.sin(a), a * 2, tg.cos(a)), axis=-1),
    "concat along another axis": lambda a, s: tg.concat((tg.sin(a), a), axis=1) * 2,
    "sum": lambda a, s: tg.sum(a, axis=-1, keepdims=True) * a,
    "max": lambda a, s: tg.max(a, axis=1),
    "beside captured rows": lambda a, s: a * EACH_ROW - tg.sin(EACH_ROW),
    "beside a captured vector": lambda a, s: (a + VECTOR) / (2 + tg.cos(VECTOR)),
    "beside a captured number": lambda a, s: NUMBER * a,
    "beside a number": lambda a, s: 2.0 - a * 0.5,
    "beside a number of each step": lambda a, s: a * s - s,
    "beside a vector of each step": lambda a, s: a * tg.sin(s * VECTOR),
    "beside a row of each step": lambda a, s: a * (s * tg.reshape(VECTOR, (1, 1, 4))),
    "beside a matrix of each step": lambda a, s: (
        a * tg.reshape(tg.concat((VECTOR, s * VECTOR), axis=0), (2, 4))
    ),
    "where": lambda a, s: tg.where(a > s, a, 0.5 * a),
    "sigmoid": lambda a, s: tg.sigmoid(a),
    "relu": lambda a, s: tg.relu(a) * tg.softplus(a),
    "what has no function of NumPy": lambda a, s: tg.erf(a),
    "softmax": lambda a, s: F.softmax(a, axis=-1),
    "a power": lambda a, s: a**2 + abs(a),
    "a cumulative sum": lambda a, s: tg.cumulative_sum(a, axis=1),
}


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool hands out holds nan, so a value that is read before it is written shows."""
    empty = Pool.empty

    def full_of_nan(self: Pool, shape: Any, dtype: Any = np.float32) -> Any:
        array = empty(self, shape, dtype)
        array.fill(np.nan if array.dtype.kind == "f" else 1)
        return array

    monkeypatch.setattr(Pool, "empty", full_of_nan)
    forget_plans()


def cell_of(operation: Operation, mixes: bool) -> Any:
    """The operation on x, before the loop, and on the state, in it."""

    def cell(xs: Any, h: Tensor) -> Any:
        x, s = xs
        made = operation(tg.reshape(h, (-1, 2, 4)), s)
        added = tg.sum(tg.reshape(made, (made.shape[0], -1)), axis=1, keepdims=True)
        if mixes:
            h = h + 0.1 * tg.flip(h, axis=0)
        return (operation(x, s), made), tg.tanh(0.5 * h + 0.1 * added + tg.reshape(x, (-1, 8)))

    return cell


LAYOUTS: dict[str, tuple[bool, dict[str, Any]]] = {
    "rows, in reverse": (False, {"reverse": True}),
    "ragged": (False, {"lengths": [1, 3]}),
    "no rows": (True, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_written_programs_compute(name: str, layout: str) -> None:
    mixes, options = LAYOUTS[layout]
    xs = leaf(RNG, STEPS, ROWS, 2, 4), leaf(RNG, STEPS)
    captured = (W, WIDE, EACH_ROW, VECTOR, NUMBER)
    cell = cell_of(OPERATIONS[name], mixes)
    assert_planned_is_literal(Case(cell, xs, leaf(RNG, ROWS, 8), captured, options))


def test_what_may_be_memory_of_an_operand_is_copied() -> None:
    g = Lines()
    x = g.x(2, 3)
    own = Primitive("same", "elementwise", lambda xp, x: x)
    assert returns_operand(g.flip(x, axis=(-1,))) and returns_operand(g.table.value(own, x))
    assert not returns_operand(g.erf(x))
    assert not returns_operand(g.sum(x, axis=(-1,), keepdims=False))


def test_text_of_keys_names_and_shapes() -> None:
    key = (slice(None), slice(1, None), slice(None, -1), slice(4, None, -2), 0, None, ...)
    assert key_text(key) == ":, 1:, :-1, 4::-2, 0, None, ..."
    assert [identifier(hint) for hint in ("tanh", "another tanh", "0", "_x")] == [
        "tanh",
        "another_tanh",
        "_0",
        "__x",
    ]
    assert shape_text(["2", "3"]) == "(2, 3)" and shape_text(["2"]) == "(2,)"
