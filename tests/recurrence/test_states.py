"""A state has the rows of the input and keeps its dtype; errors say which part, where, and why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

CELLS = {
    "RNN": lambda: nn.RNNCell(2, 5),
    "GRU": lambda: nn.GRUCell(2, 5),
    "GRU of the paper": lambda: nn.GRUCell(2, 5, reset_after=False),
    "LSTM": lambda: nn.LSTMCell(2, 5),
    "LSTM with projection": lambda: nn.LSTMCell(2, 5, proj_size=3),
    "peephole": lambda: nn.PeepholeLSTMCell(2, 5),
    "layer norm": lambda: nn.LayerNormLSTMCell(2, 5),
    "RWA": lambda: nn.RWACell(2, 5),
    "zoneout": lambda: nn.Zoneout(nn.LSTMCell(2, 5)),
    "variational dropout": lambda: nn.VariationalDropout(nn.GRUCell(2, 5), 0.5),
    "stack": lambda: nn.StackedCell(nn.GRUCell(2, 5), nn.LSTMCell(5, 5)),
}


@pytest.mark.parametrize("mode", ["auto", "literal"])
@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize(("rows", "of_state"), [((1,), (4,)), ((4,), (1,)), ((4,), ()), ((), (4,))])
def test_a_state_of_other_rows_is_refused(make: Any, rows: Any, of_state: Any, mode: Any) -> None:
    cell = make()
    state = cell.initial_state(of_state, "float32", "numpy")
    with pytest.raises(ValueError, match=r"state has the rows of x|have 1 row, and the state .*4"):
        cell(tg.ones((*rows, 2)), state)
    with pytest.raises(ValueError, match=r"state has the rows of x|have 1 row, and the state .*4"):
        tg.unroll(cell, tg.ones((3, *rows, 2)), state, mode=mode)
    with pytest.raises(ValueError, match=r"rows"):
        nn.Recurrent(cell)(tg.ones((3, *rows, 2)), state, mode=mode)
    right = cell.initial_state(rows, "float32", "numpy")
    assert tg.unroll(cell, tg.ones((3, *rows, 2)), right)[0].shape[1:-1] == rows


def test_what_is_said_of_rows_is_a_cure() -> None:
    cell, h = nn.GRUCell(2, 5), tg.ones((1, 5))
    with pytest.raises(ValueError, match=r"given as broadcast_to\(h, \(4, 5\)\)"):
        cell(tg.ones((4, 2)), h)
    tg.unroll(cell, tg.ones((3, 4, 2)), tg.broadcast_to(h, (4, 5)))
    with pytest.raises(ValueError, match=r"broadcast_to\(xs, \(T, 4, \.\.\.\)\)"):
        tg.unroll(cell, tg.ones((3, 1, 2)), tg.ones((4, 5)))
    tg.unroll(cell, tg.broadcast_to(tg.ones((3, 1, 2)), (3, 4, 2)), tg.ones((4, 5)))


@pytest.mark.parametrize("parts", [1, 2])
def test_so_is_one_of_a_cell_of_ones_own(parts: int) -> None:
    def cell(x: Tensor, state: tuple[Tensor, ...]) -> Any:
        state = tuple(tg.tanh(h + x) for h in state)
        return state[0], state

    xs, state = tg.ones((3, 1, 5)), (tg.zeros((4, 5)),) * parts
    with pytest.raises(ValueError, match=r"have 1 row, and the state .* has 4"):
        tg.unroll(cell, xs, state)
    # A memory beside a state of rows, and a state that is only a vector, are nobody's rows.
    tg.unroll(lambda x, s: (x @ s[0], (s[0], x)), xs, (tg.ones((5, 5)), tg.zeros((1, 5))))
    tg.unroll(lambda x, h: (x, h + x[0]), xs, tg.zeros(5))


@pytest.mark.parametrize("order", ["luong", "bahdanau"])
@pytest.mark.parametrize("rows", [(1, 3, 3), (3, 1, 3), (3, 3, 1), (1, 1, 3)])
def test_a_decoder_says_so_of_its_tokens_state_and_memory(order: Any, rows: Any) -> None:
    width = 4 + (6 if order == "luong" else 5)
    attention = nn.MultiplicativeAttention(6, 5)
    decoder = nn.AttentionDecoder(nn.Embedding(9, 4), nn.GRUCell(width, 6), attention, order)
    memories = [decoder.remember(tg.ones((7, n, 5))) for n in rows]
    state = decoder.initial_state(memories[1])
    with pytest.raises(ValueError, match=r"tokens, state and memory have the same rows, not \("):
        decoder.step(np.zeros(rows[0], int), state, memories[2])
    assert decoder.step(np.zeros(rows[1], int), state, memories[1])[0].shape == (rows[1], 9)


# Dtypes.

SCALE = np.float64(0.5)
TABLE = np.ones((2, 2))


def by_a_scalar(x: Tensor, h: Any) -> Any:
    z = tg.tanh(x + h["a"])
    z = z * SCALE  # here
    return z, {"a": z + 1.0, "b": h["b"]}


def by_an_array(x: Tensor, h: Any) -> Any:
    y = x @ tg.tensor(np.ones((2, 2), "float32"))
    z = tg.matmul(h["a"] + y, TABLE)  # here
    return z, {"a": z, "b": h["b"]}


def after_others(x: Tensor, h: Any) -> Any:
    """Something is split before, and something else is converted on purpose."""
    left, right = tg.split(h["a"] + tg.astype(tg.astype(x, "float64"), "float32"), 2, axis=-1)
    z = tg.concat([right, left], axis=-1) * SCALE  # here
    return z, {"a": z, "b": h["b"]}


@pytest.mark.parametrize("mode", ["auto", "literal"])
@pytest.mark.parametrize(
    ("cell", "operation", "line"),
    [
        (after_others, "multiply", r"axis=-1\) \* SCALE  # here"),
        (by_a_scalar, "multiply", r"z = z \* SCALE  # here"),
        (by_an_array, "matmul", r"z = tg\.matmul\(h\[.a.\] \+ y, TABLE\)  # here"),
    ],
)
def test_the_line_that_changed_the_dtype_is_named(
    cell: Any, operation: str, line: str, mode: Any
) -> None:
    state = {"a": tg.zeros((3, 2)), "b": tg.zeros((3, 1))}
    for recording in (tg.enable_grad, tg.no_grad):
        with recording(), pytest.raises(TypeError) as info:
            tg.unroll(cell, tg.ones((4, 3, 2)), state, mode=mode)
        said = str(info.value)
        assert "given a state['a'] of float32 (3, 2) and returned float64 (3, 2)" in said
        assert f"{operation} made float64 of float32 at {__file__}" in said
        assert re.search(line, said)
        assert "a NumPy scalar" in said and "float(x)" in said


def test_without_a_line_the_error_is_the_same_but_for_it() -> None:
    def counting(x: Tensor, h: Tensor) -> Any:  # another thing the second time
        counting.calls += 1
        if counting.calls > 1:
            raise RuntimeError("not again")
        return h, h * SCALE

    counting.calls = 0
    with pytest.raises(TypeError, match=r"given a state of float32 \(1,\) .* step to step$"):
        tg.unroll(counting, tg.ones((2, 1)), tg.zeros(1), mode="literal")
    with pytest.raises(
        TypeError, match=r"returned int64 \(1,\); both must agree from step to step"
    ):
        tg.unroll(lambda x, h: (h, tg.argmax(x, keepdims=True)), tg.ones((2, 1)), tg.zeros(1))


def test_lists_of_numbers_are_sequences() -> None:
    outputs, final = tg.unroll(lambda x, h: (x + h, x + h), [[1.0, 2.0], [3.0], []], tg.zeros(3))
    assert [y.tolist() for y in outputs] == [[1.0, 3.0], [3.0], []]
    assert final.tolist() == [3.0, 3.0, 0.0]
