"""Schedule, storage and lowering without a compiler: loops interpreted in float64 are the cell's.

What a pool hands out holds nan here, so a value that is read before it is written shows.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from test_planned_random import SHOWN, Draft

import tinygrad_rnn as tg
from both_ways import Case, assert_close, assert_planned_is_literal, leaf
from cells_from_papers import CELLS, inputs_for
from loop_interpreter import interpreted
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.kernels.ir import Kernel, Product
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


OURS: dict[str, Any] = {
    "RNN": lambda: nn.RNNCell(3, 4),
    "LSTM": lambda: nn.LSTMCell(3, 4),
    "GRU": lambda: nn.GRUCell(3, 4),
    "LSTM of layer norm": lambda: nn.LayerNormLSTMCell(3, 4),
    "two layers": lambda: nn.StackedCell(nn.LSTMCell(3, 4), nn.GRUCell(4, 5)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"reverse": True},
    "ragged": {"lengths": [5, 0, 3]},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", OURS)
def test_cells_of_ours_run_in_loops_alone(name: str, options: str) -> None:
    tg.set_default_dtype("float64")
    try:
        cell = OURS[name]()
    finally:
        tg.set_default_dtype("float32")
    x = leaf(np.random.default_rng(0), 5, ROWS, 3)
    case = Case(cell, x, None, list(cell.parameters()), OPTIONS[options])
    with interpreted() as compiler:
        assert_planned_is_literal(case)
        plan = tg.plan(cell, x, **OPTIONS[options])
        assert plan.scheduled.reasons == []
        assert compiler.loops


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CELLS)
def test_cells_from_papers(name: str, options: str) -> None:
    cell = CELLS[name](ROWS)
    xs = inputs_for(cell, np.random.default_rng(0), 5, ROWS, "float32")
    with interpreted():
        assert_planned_is_literal(Case(cell, xs, None, list(cell.parameters()), OPTIONS[options]))


def test_random_programs() -> None:
    with interpreted() as compiler:
        for seed in [*range(2000, 2040), *SHOWN]:
            rng = random.Random(seed)
            program = Draft(rng).program()
            case = program.case(rng, 3, "float64")
            try:
                assert_planned_is_literal(case)
            except Exception as error:
                error.add_note(str(program))
                raise
    assert len(compiler.loops) > 50


# Statements.


def loops_of(cell: Any, *states: Tensor) -> list[Any]:
    """The loops of both passes of a cell of float64."""
    x = leaf(np.random.default_rng(0), 5, ROWS, 4)
    with interpreted() as compiler:
        tg.plan(cell, x, states if len(states) > 1 else states[0])
        return compiler.loops


def state(width: int = 4) -> Tensor:
    return tg.tensor(np.ones((ROWS, width)))


def weight(rows: int = 4, columns: int = 4) -> Tensor:
    return tg.tensor(np.ones((rows, columns)), requires_grad=True)


def test_a_product_is_added_to_what_was_computed_before_the_loop() -> None:
    w, u = weight(), weight()

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    product, kernel = loops_of(cell, state())[0].statements
    assert isinstance(product, Product) and isinstance(kernel, Kernel)
    assert product.accumulate and product.a.place == "before" and product.out.place == "step"
    assert [i.name for i in kernel.instructions] == ["load", "tanh", "store"]
    assert kernel.instructions[0].argument == product.out
    assert kernel.instructions[2].argument == product.a._replace(place="after")


def test_backwards_the_latest_cotangent_of_a_state_has_one_place() -> None:
    w, u = weight(), weight()

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    _, loop = loops_of(cell, state())
    kernel, product = loop.statements
    assert loop.backwards and product.out.place == "rows" and not product.accumulate
    loads = [i.argument for i in kernel.instructions if i.name == "load"]
    assert product.out in loads
    (store,) = [i.argument for i in kernel.instructions if i.name == "store"]
    assert store == product.a and store.place == "step"  # for the sums over time


def test_what_is_read_in_the_registers_has_no_memory() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.sin(tg.cos(x + h) * 0.5)
        return h, h

    loop = loops_of(cell, state())[0]
    (kernel,) = loop.statements
    stores = [i for i in kernel.instructions if i.name == "store"]
    assert len(stores) <= 3  # the state, and what is not cheap of what the derivative needs
    assert all(i.argument.place in ("after", "step") for i in stores)


def test_gates_are_columns_of_one_product() -> None:
    u = weight(4, 8)

    def cell(x: Tensor, h: Tensor) -> Any:
        a, b = tg.split(h @ u, 2, axis=-1)
        h = tg.tanh(a + x) * tg.sigmoid(b)
        return h, h

    product, kernel = loops_of(cell, state())[0].statements
    assert (product.out.place, product.out.width, product.out.stride) == ("rows", 8, 8)
    columns = {
        (i.argument.column, i.argument.width)
        for i in kernel.instructions
        if i.name == "load" and i.argument.buffer == product.out.buffer
    }
    assert columns == {(0, 4), (4, 4)}
    (gates,) = [s for s in loops_of(cell, state())[1].statements if isinstance(s, Product)]
    assert (gates.a.width, gates.out.width) == (8, 4)  # the cotangents of both, side by side


def test_a_product_of_a_product_comes_after_it() -> None:
    w, u, v = weight(), weight(4, 6), weight(6, 4)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w + (h @ u) @ v)
        return h, h

    first, second, kernel = loops_of(cell, state())[0].statements
    assert first.out == second.a and second.accumulate
    assert kernel.instructions[-1].argument.place == "after"


def test_two_states_that_are_exchanged_have_two_places() -> None:
    def cell(x: Tensor, state: Any) -> Any:
        a, b = state
        return a, (tg.tanh(b + x), tg.sin(a))

    case = Case(cell, leaf(np.random.default_rng(0), 5, ROWS, 4), (state(), state() * 2), ())
    with interpreted():
        assert_planned_is_literal(case)


def test_steps_of_one_row_and_steps_of_many_are_the_same_loop() -> None:
    cell = nn.LSTMCell(3, 4)
    x = tg.ones((6, 2, 3))
    with interpreted():
        together, _ = tg.unroll(cell, x, mode="planned")
        alone, _ = tg.unroll(cell, x[:, :1], mode="planned")
    assert_close({"row": alone.numpy()[:, 0]}, {"row": together.numpy()[:, 0]})


@pytest.mark.parametrize(
    "reduced",
    [
        lambda h: tg.sum(tg.broadcast_to(h[:, :1], (ROWS, 4)), axis=-1, keepdims=True),
        lambda h: tg.max(tg.broadcast_to(h[:, :1], (ROWS, 4)), axis=-1, keepdims=True),
        lambda h: tg.vecdot(tg.repeat(h[:, :1], 3, axis=-1), tg.repeat(h[:, 1:2], 3, axis=-1))[
            :, None
        ],
        lambda h: tg.sum(tg.repeat(h[:, :2], 2, axis=-1), axis=-1, keepdims=True),
        lambda h: tg.sum(tg.broadcast_to(h[:, None, :], (ROWS, 5, 4)), axis=1),
    ],
)
def test_what_is_repeated_counts_as_often(reduced: Any) -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + 0.3 * reduced(h))
        return h, h

    x = leaf(np.random.default_rng(0), 5, ROWS, 4)
    with interpreted():
        assert_planned_is_literal(Case(cell, x, state(), ()))
        assert tg.plan(cell, x, state()).scheduled.reasons == []
