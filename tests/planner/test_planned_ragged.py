"""Sequences of different lengths, planned: each row is what it is alone, and no step is wasted.

A row *alone* is the row without its padding, in a batch of its own, run literally. So what stands
in the padding has no influence: it is nan here, or would be, were it ever used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from both_ways import (
    KERNELS,
    Case,
    assert_close,
    assert_planned_is_literal,
    cotangents,
    layers_run,
    leaf,
    literal,
    planned,
    plans_of,
)
from cells_from_papers import AttentiveLSTMCell, lstm
from op_table import examples
from tinygrad_rnn import Tensor, nn

WIDTH, MEMORY = 4, 3


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Looking:
    """An LSTM whose rows each have a memory (B, S, E), a gain (B, W) and a flag (B,) of their own.

    ``Looking.of_row(row)`` is the cell of one row alone, with the same weights.
    """

    def __init__(self, rows: int, dtype: str) -> None:
        rng = rng_of(3)
        self.u = leaf(rng, WIDTH + MEMORY, 4 * WIDTH, dtype=dtype)
        self.v = leaf(rng, WIDTH, MEMORY, dtype=dtype)
        self.memory = leaf(rng, rows, 5, MEMORY, dtype=dtype)
        self.gain = leaf(rng, rows, WIDTH, dtype=dtype)
        self.flag = tg.tensor(rng.random(rows) < 0.5)

    def of_row(self, row: int) -> Looking:
        cell = object.__new__(Looking)
        cell.u, cell.v = self.u, self.v
        for name in ("memory", "gain", "flag"):
            own = getattr(self, name).detach()[row : row + 1]
            own.requires_grad = own.dtype.kind == "f"
            setattr(cell, name, own)
        return cell

    def captured(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("u", "v", "memory", "gain")}

    def __call__(self, x: Tensor, state: Any) -> Any:
        h, c = state
        scores = tg.squeeze(self.memory @ (h @ self.v)[:, :, None], axis=-1)
        weights = tg.softmax(scores)
        read = tg.squeeze(weights[:, None, :] @ self.memory, axis=1)
        gates = tg.concat([x * self.gain, read], axis=-1) @ self.u * 0.3
        gates = tg.where(self.flag[:, None], gates, gates * 0.5)
        h, state = lstm(gates, c)
        return (h, weights), state


def assert_rows_alone(lengths: list[int], reverse: bool, dtype: str) -> None:
    rows, steps, rng = len(lengths), max([4, *lengths]), rng_of(sum(lengths))
    cell = Looking(rows, dtype)
    numbers = rng.normal(size=(steps, rows, WIDTH))
    for row, length in enumerate(lengths):
        numbers[length:, row] = np.nan
    x = tg.tensor(numbers, dtype=dtype, requires_grad=True)
    state = tuple(leaf(rng, rows, WIDTH, dtype=dtype) for _ in range(2))
    outputs, final = planned(cell, x, state, lengths=lengths, reverse=reverse)
    ends = [*outputs, *final]
    pulled = [g.numpy() for g in cotangents(ends)]
    inputs = {"x": x, "h": state[0], "c": state[1], **cell.captured()}
    gradients = tg.grad(ends, inputs, [tg.tensor(g) for g in pulled], allow_unused=True)
    found = {k: np.zeros(inputs[k].shape) if g is None else g.numpy() for k, g in gradients.items()}
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == "float64" else {"atol": 2e-5}
    weights = {name: np.zeros(cell.captured()[name].shape) for name in ("u", "v")}
    for row, length in enumerate(lengths):
        own = slice(row, row + 1)
        alone = cell.of_row(row)
        own_x = tg.tensor(numbers[:length, own], dtype=dtype, requires_grad=True)
        own_state = tuple(tg.tensor(h.numpy()[own], requires_grad=True) for h in state)
        own_outputs, own_final = literal(alone, own_x, own_state, reverse=reverse)
        for y, own_y in zip(outputs, own_outputs, strict=True):
            assert_allclose(y.numpy()[:length, own], own_y.numpy(), **tolerance)
            assert_array_equal(y.numpy()[length:, row], 0)
        for h, own_h in zip(final, own_final, strict=True):
            assert_allclose(h.numpy()[own], own_h.numpy(), **tolerance)
        given = [g[:length, own] for g in pulled[:2]] + [g[own] for g in pulled[2:]]
        targets = {"x": own_x, "h": own_state[0], "c": own_state[1], **alone.captured()}
        expected = tg.grad(
            [*own_outputs, *own_final], targets, list(map(tg.tensor, given)), allow_unused=True
        )
        expected = {
            k: np.zeros(targets[k].shape) if g is None else g.numpy() for k, g in expected.items()
        }
        assert_allclose(found["x"][:length, own], expected["x"], **tolerance)
        assert_array_equal(found["x"][length:, row], 0)
        for name in ("h", "c", "memory", "gain"):
            assert_allclose(found[name][own], expected[name], err_msg=name, **tolerance)
        for name, total in weights.items():
            total += expected[name]
    for name, total in weights.items():
        assert_allclose(found[name], total, err_msg=name, **tolerance)


@examples(25)
@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=5), reverse=st.booleans())
def test_rows_are_what_they_are_alone(lengths: list[int], reverse: bool) -> None:
    assert_rows_alone(lengths, reverse, "float64")


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "lengths", [[3, 0, 5, 1], [0, 0], [5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [4, 4, 4], [7], [0, 6, 0]]
)
def test_rows_are_what_they_are_alone_in_float32(
    lengths: list[int], reverse: bool, fused: bool
) -> None:
    with plans_of(fused):
        assert_rows_alone(lengths, reverse, "float32")


@pytest.mark.parametrize("options", ["lengths", "mask", "reset", "lengths and reset", "all"])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_masks_and_resets_as_literally(options: str, reverse: bool) -> None:
    rng, rows, steps = rng_of(4), 4, 6
    cell = Looking(rows, "float64")
    case = Case(
        cell,
        leaf(rng, steps, rows, WIDTH),
        (leaf(rng, rows, WIDTH), leaf(rng, rows, WIDTH)),
        cell.captured(),
        {"reverse": reverse},
    )
    if "lengths" in options:
        case.options["lengths"] = [2, 6, 0, 4]
    if options in ("mask", "all"):
        case.options["mask"] = rng.random((steps, rows)) < 0.6
    if "reset" in options or options == "all":
        case.options["reset"] = rng.random((steps, rows)) < 0.4
    assert_planned_is_literal(case)
    if "reset" in case.options:
        case.options["reset_state"] = (leaf(rng, rows, WIDTH), tg.zeros((rows, WIDTH), "float64"))
        assert_planned_is_literal(case)


def test_the_second_derivative_of_ragged_rows() -> None:
    cell = Looking(3, "float64")
    rng = rng_of(5)
    state = (leaf(rng, 3, WIDTH), leaf(rng, 3, WIDTH))
    case = Case(cell, leaf(rng, 4, 3, WIDTH), state, cell.captured(), {"lengths": [1, 4, 0]})
    assert_planned_is_literal(case, order=2)


def test_gradients_reach_the_state_that_resets_start_from() -> None:
    rng, fresh = rng_of(6), leaf(rng_of(7), 3, WIDTH)
    u, x, h = leaf(rng, WIDTH, WIDTH), leaf(rng, 5, 3, WIDTH), leaf(rng, 3, WIDTH)
    reset = rng.random((5, 3)) < 0.5

    def gradients(run: Any) -> list[Any]:
        y, last = run(
            lambda x, h: (tg.tanh(x + h @ u),) * 2, x, h, reset=reset, reset_state=fresh * 1.0
        )
        return [g.numpy() for g in tg.grad([y, last], [fresh, h, x, u], cotangents([y, last]))]

    for a, b in zip(gradients(planned), gradients(literal), strict=True):
        assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_inputs_that_all_rows_share() -> None:
    """One of (T,) is the same for all rows, also at the steps that some skip."""
    rng = rng_of(8)

    def cell(x: Any, h: Tensor) -> Any:
        own, shared, step = x
        h = tg.tanh(own + h * shared + step.astype("float64") * 0.1)
        return h, h

    xs = (leaf(rng, 5, 3, WIDTH), leaf(rng, 5), tg.arange(5))
    case = Case(cell, xs, leaf(rng, 3, WIDTH), options={"lengths": [5, 0, 2]})
    assert_planned_is_literal(case)
    case.options["reverse"] = True
    assert_planned_is_literal(case)


def test_a_list_of_sequences() -> None:
    rng, u = rng_of(9), leaf(rng_of(), WIDTH, WIDTH)
    sequences = [leaf(rng, n, WIDTH) for n in (2, 0, 5)]
    h = leaf(rng, 3, WIDTH)

    def results(run: Any) -> dict[str, Any]:
        outputs, last = run(lambda x, h: (tg.tanh(x + h @ u),) * 2, sequences, h)
        assert [len(y) for y in outputs] == [2, 0, 5]
        ends = [y for y in outputs if len(y)] + [last]
        found = [*ends, *tg.grad(ends, [u, h, sequences[2]], cotangents(ends))]
        return {str(i): y.numpy().copy() for i, y in enumerate(found)}

    assert_close(results(planned), results(literal))


def test_dropout_of_a_row_does_not_depend_on_the_rows_around_it() -> None:
    """Rows are put into another order inside; masks belong to the rows as they were given."""
    x = tg.ones((6, 4, 50), "float64")

    def masks(run: Any, **options: Any) -> Any:
        tg.manual_seed(5)
        return run(
            lambda x, h: (tg.dropout(x, 0.5), h + x[:, 0]), x, tg.zeros(4, "float64"), **options
        )[0].numpy()

    full = masks(literal)
    for lengths in ([2, 6, 0, 4], [6, 5, 4, 3]):
        ragged = masks(planned, lengths=lengths)
        for row, length in enumerate(lengths):
            assert_array_equal(ragged[:length, row], full[:length, row])


def test_tokens_in_the_padding_may_be_anything() -> None:
    table = leaf(rng_of(), 5, WIDTH)
    tokens = np.array([[1, 4], [2, 999], [3, -7]])
    h = leaf(rng_of(1), 2, WIDTH)

    def gradient(run: Any) -> Any:
        y, _ = run(lambda x, h: (tg.tanh(table[x] + h),) * 2, tg.tensor(tokens), h, lengths=[3, 1])
        return y.numpy(), tg.grad(y.sum(), table).numpy()

    for a, b in zip(gradient(planned), gradient(literal), strict=True):
        assert_allclose(a, b, rtol=1e-12)


# Without waste.


@pytest.mark.parametrize(
    "lengths", [[3, 0, 5, 1], [5, 5, 5, 5], [0, 0, 0, 0], [1000, 10, 10, 10], [0, 0, 0, 6]]
)
def test_no_row_is_evaluated_beyond_its_end(lengths: list[int]) -> None:
    cell = Looking(4, "float64")
    x = tg.zeros((max(6, *lengths), 4, WIDTH), "float64")
    state = (tg.zeros((4, WIDTH), "float64"),) * 2
    plan = tg.plan(cell, x, state, lengths=lengths)
    assert plan.planned
    assert plan.evaluations(lengths) == sum(lengths)


def test_all_cells_of_the_library_have_independent_rows() -> None:
    lengths = [3, 0, 5, 1]
    x = tg.zeros((5, 4, WIDTH))
    cells = [
        nn.RNNCell(WIDTH, WIDTH),
        nn.LSTMCell(WIDTH, WIDTH, proj_size=2),
        nn.GRUCell(WIDTH, WIDTH),
        nn.PeepholeLSTMCell(WIDTH, WIDTH),
        nn.LayerNormLSTMCell(WIDTH, WIDTH),
        nn.RWACell(WIDTH, WIDTH),
        nn.Zoneout(nn.LSTMCell(WIDTH, WIDTH)),
        nn.StackedCell(nn.LSTMCell(WIDTH, 2), nn.GRUCell(2, 3)),
    ]
    for cell in cells:
        assert tg.plan(cell, x, lengths=lengths).evaluations(lengths) == sum(lengths), cell
    memory = AttentiveLSTMCell(4)
    plan = tg.plan(memory, tg.zeros((5, 4, 3)), lengths=lengths)
    assert plan.evaluations(lengths) == sum(lengths)


def test_what_is_not_evaluated_is_not_in_the_outputs_of_a_decoder_either() -> None:
    tg.manual_seed(0)
    decoder = nn.AttentionDecoder(
        nn.Embedding(6, 3), nn.GRUCell(3 + WIDTH, WIDTH), nn.AdditiveAttention(WIDTH, WIDTH, 3)
    )
    values = leaf(rng_of(), 5, 4, WIDTH, dtype="float32")
    tokens = rng_of().integers(0, 6, (6, 4))

    def results(run: Any) -> dict[str, Any]:
        memory = decoder.remember(values, lengths=[5, 1, 3, 2])
        with layers_run(run):
            logits = decoder(tokens, memory, lengths=[2, 6, 0, 4])
        inputs = {"values": values, **dict(decoder.named_parameters())}
        gradients = tg.grad(tg.square(logits).sum(), inputs)
        return {k: g.numpy().copy() for k, g in {"logits": logits, **gradients}.items()}

    assert_close(results(planned), results(literal))


# Rows that depend on each other.


def mixing(x: Tensor, h: Tensor) -> Any:
    centre = tg.mean(h, axis=0, keepdims=True)  # mixes rows
    h = tg.tanh(x + h - centre)
    return h, h


@pytest.mark.parametrize("reverse", [False, True])
def test_a_cell_that_mixes_rows_is_masked(reverse: bool) -> None:
    rng = rng_of(10)
    case = Case(mixing, leaf(rng, 5, 3, WIDTH), leaf(rng, 3, WIDTH), (), {"lengths": [5, 0, 2]})
    case.options["reverse"] = reverse
    assert_planned_is_literal(case)
    lengths = case.options["lengths"]
    plan = tg.plan(mixing, case.xs, case.state, lengths=lengths, reverse=reverse)
    assert plan.planned
    assert plan.evaluations(lengths) == 5 * 3
    line = mixing.__code__.co_firstlineno + 1
    assert f"{Path(__file__).name}:{line}" in plan.report()


def first_row(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(h + h[0])


def reversed_rows(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(x + tg.flip(h, axis=0))


def products_of_rows(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(x + tg.softmax(h @ h.T) @ h)


def shifted_rows(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(x + tg.roll(h, 1, axis=0))


def folded_rows(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(x + tg.reshape(tg.reshape(h, (4, 3)).T, (3, 4)))


def numbered_rows(x: Tensor, h: Tensor) -> Any:
    return x, tg.tanh(x + h * tg.arange(3.0, dtype="float64")[:, None])


@pytest.mark.parametrize(
    "cell",
    [first_row, reversed_rows, products_of_rows, shifted_rows, folded_rows, numbered_rows],
)
@pytest.mark.parametrize("lengths", [[5, 1, 3], [1, 5, 0]])
def test_other_ways_in_which_rows_depend_on_their_place(cell: Any, lengths: list[int]) -> None:
    rng = rng_of(11)
    case = Case(cell, leaf(rng, 5, 3, WIDTH), leaf(rng, 3, WIDTH), (), {"lengths": lengths})
    assert_planned_is_literal(case)


def test_a_captured_array_whose_axis_only_looks_like_the_rows() -> None:
    """A matrix (3, 3) beside 3 rows: it is multiplied from the right, so it has none."""
    rng, u, b = rng_of(12), leaf(rng_of(), 3, 3), leaf(rng_of(1), 3)
    table = leaf(rng_of(2), 3, 3)

    def cell(x: Any, h: Tensor) -> Any:
        token, x = x
        h = tg.tanh(x @ u + h @ u.T + b + table[token])
        return tg.sum(h, axis=-1), h

    xs = (tg.tensor(rng.integers(0, 3, (5, 3))), leaf(rng, 5, 3, 3))
    case = Case(cell, xs, leaf(rng, 3, 3), [u, b, table], {"lengths": [1, 5, 0]})
    assert_planned_is_literal(case)
    plan = tg.plan(cell, xs, case.state, lengths=[1, 5, 0])
    assert plan.evaluations([1, 5, 0]) == 6


def test_captured_rows_that_are_used_transposed() -> None:
    """(W, B) and (1, B): the rows are not where they usually are."""
    rng = rng_of(13)
    columns, wide = leaf(rng, WIDTH, 3), leaf(rng, 1, 3)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + h * columns.T + wide.T)
        return h, h

    state = leaf(rng, 3, WIDTH)
    options = {"lengths": [1, 5, 0]}
    assert_planned_is_literal(Case(cell, leaf(rng, 5, 3, WIDTH), state, [columns, wide], options))


def test_one_row_of_captured_values_for_all() -> None:
    rng = rng_of(14)
    row = leaf(rng, 1, WIDTH)
    case = Case(
        lambda x, h: (tg.tanh(x + h * row),) * 2,
        leaf(rng, 5, 3, WIDTH),
        leaf(rng, 3, WIDTH),
        [row],
        {"lengths": [1, 5, 0]},
    )
    assert_planned_is_literal(case)
    assert tg.plan(case.cell, case.xs, case.state, lengths=[1, 5, 0]).evaluations([1, 5, 0]) == 6
