"""Planned execution is the literal one to rounding, whatever the cell, and shows how it got there.

First the cells: those of the library, of papers, and those that are awkward for some reason. Then
derivatives of derivatives, for which the loop's trace is replayed and the cell is not called again.
Last the evidence: what is in the loop and what is not, what is cached, and when it is not planned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from both_ways import (
    KERNELS,
    Case,
    Counted,
    assert_close,
    assert_planned_is_literal,
    cotangents,
    forget_plans,
    layers_run,
    leaf,
    literal,
    planned,
    plans_of,
)
from cells_from_papers import CELLS, inputs_for, lstm
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.structure import flatten, unflatten
from tinygrad_rnn.testing import check_planned

STEPS, ROWS, INPUT, HIDDEN = 5, 3, 3, 4

CELLS_OF_NN: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNNCell(INPUT, HIDDEN),
    "RNN of relu": lambda: nn.RNNCell(INPUT, HIDDEN, nonlinearity="relu"),
    "LSTM": lambda: nn.LSTMCell(INPUT, HIDDEN),
    "LSTM with projection": lambda: nn.LSTMCell(INPUT, HIDDEN, proj_size=2),
    "LSTM without bias": lambda: nn.LSTMCell(INPUT, HIDDEN, bias=False),
    "LSTM of other activations": lambda: nn.LSTMCell(
        INPUT, HIDDEN, activation=tg.softplus, gate_activation=tg.hardsigmoid
    ),
    "LSTM of gelu": lambda: nn.LSTMCell(INPUT, HIDDEN, activation=tg.gelu),
    "peephole": lambda: nn.PeepholeLSTMCell(INPUT, HIDDEN),
    "layer norm": lambda: nn.LayerNormLSTMCell(INPUT, HIDDEN),
    "GRU": lambda: nn.GRUCell(INPUT, HIDDEN),
    "GRU of the paper": lambda: nn.GRUCell(INPUT, HIDDEN, reset_after=False),
    "RWA": lambda: nn.RWACell(INPUT, HIDDEN),
    "zoneout": lambda: nn.Zoneout(nn.LSTMCell(INPUT, HIDDEN), (0.3, 0.5)),
    "zoneout in evaluation": lambda: nn.Zoneout(nn.GRUCell(INPUT, HIDDEN), 0.3).eval(),
    "variational dropout": lambda: nn.VariationalDropout(nn.LSTMCell(INPUT, HIDDEN), 0.3, 0.3, 0.3),
    "stack": lambda: nn.StackedCell(
        nn.LSTMCell(INPUT, HIDDEN), nn.GRUCell(HIDDEN, 2), nn.RNNCell(2, HIDDEN), dropout=0.3
    ),
}


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def rng_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def randomised(cell: nn.Module) -> nn.Module:
    """With nothing at zero or one, where it would hide something."""
    rng = rng_of(1)
    for p in cell.parameters():
        p.data = tg.tensor(p.numpy() + rng.normal(size=p.shape) / 5, dtype=p.dtype)
    return cell


def case_of(cell: Any, dtype: str, steps: int = STEPS, **options: Any) -> Case:
    """A cell on random inputs, from a random state where all it has are zeros."""
    rng = rng_of()
    x = leaf(rng, steps, ROWS, INPUT, dtype=dtype)
    state = None
    if not isinstance(cell, nn.RWACell):
        zeros, structure = flatten(cell.initial_state((ROWS,), dtype, "numpy"))
        leaves = [leaf(rng, *h.shape, dtype=h.dtype) for h in zeros]
        state = unflatten(structure, leaves)
    return Case(cell, x, state, list(cell.parameters()), options)


# The cells of the library.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CELLS_OF_NN)
def test_cells_in_float64(name: str) -> None:
    tg.manual_seed(0)
    cell = randomised(CELLS_OF_NN[name]())
    assert_planned_is_literal(case_of(cell, "float64"))
    assert_planned_is_literal(case_of(cell, "float64", reverse=True, lengths=[2, 5, 0]))


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("name", CELLS_OF_NN)
def test_cells_in_float32(name: str, fused: bool) -> None:
    tg.manual_seed(0)
    cell = randomised(CELLS_OF_NN[name]())
    with plans_of(fused):
        assert_planned_is_literal(case_of(cell, "float32"))


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("size", [1, 2, 5, 7, 8, 9, 16, 17, 33])
def test_sizes_that_no_vector_register_has(size: int, fused: bool) -> None:
    rng = rng_of(size)
    cell, x = nn.LSTMCell(size, size), leaf(rng, 3, 2, size, dtype="float32")
    with plans_of(fused):
        assert_planned_is_literal(Case(cell, x, captured=list(cell.parameters())))


SIZES = [(25, 1, 65, 100), (4, 64, 128, 256), (40, 48, 16, 64), (3, 2, 300, 512)]


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_sizes_at_which_a_plan_may_choose_otherwise(
    kind: Any, sizes: tuple[int, int, int, int], fused: bool
) -> None:
    """Rows for several threads, matrices beyond a cache, products that are worth merging."""
    steps, rows, inputs, hidden = sizes
    cell, rng = kind(inputs, hidden), rng_of()
    x = leaf(rng, steps, rows, inputs, dtype="float32")
    with plans_of(fused):
        for options in ({}, {"lengths": rng.integers(0, steps + 1, rows)}):
            case = Case(cell, x, None, list(cell.parameters()), options)
            assert_close(case.results(planned), case.results(literal))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True, dropout=0.3),
    "GRU": lambda: nn.GRU(INPUT, HIDDEN, 2, learn_initial_state=True),
    "RNN": lambda: nn.RNN(INPUT, HIDDEN, 3, bias=False),
    "Recurrent": lambda: nn.Recurrent(nn.PeepholeLSTMCell(INPUT, HIDDEN), reverse=True),
    "Bidirectional": lambda: nn.Bidirectional(nn.LSTMCell(INPUT, HIDDEN), nn.RWACell(INPUT, 2)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", [{}, {"lengths": [2, 5, 0]}], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, options: dict[str, Any]) -> None:
    tg.manual_seed(0)
    layer = randomised(LAYERS[name]())
    x = leaf(rng_of(), STEPS, ROWS, INPUT)

    def results(run: Any) -> dict[str, Any]:
        tg.manual_seed(1)
        with layers_run(run):
            outputs, state = layer(x, **options)
        ends = [outputs, *flatten(state)[0]]
        inputs = {"x": x, **dict(layer.named_parameters())}
        gradients = tg.grad(ends, inputs, cotangents(ends))
        found = {**dict(enumerate(ends)), **gradients}
        return {str(name): y.numpy().copy() for name, y in found.items()}

    assert_close(results(planned), results(literal))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sampled", [0.0, 0.5])
@pytest.mark.parametrize("attention", ["additive", "general", "multihead"])
@pytest.mark.parametrize("order", ["luong", "bahdanau"])
def test_an_attention_decoder_with_teacher_forcing(
    order: Any, attention: str, sampled: float
) -> None:
    tg.manual_seed(0)
    embedding = nn.Embedding(7, 3)
    looking = {
        "additive": lambda: nn.AdditiveAttention(HIDDEN, HIDDEN, 5),
        "general": lambda: nn.MultiplicativeAttention(HIDDEN, HIDDEN),
        "multihead": lambda: nn.MultiheadAttention(HIDDEN, 2),
    }[attention]()
    decoder = nn.AttentionDecoder(embedding, nn.GRUCell(3 + HIDDEN, HIDDEN), looking, order)
    values = leaf(rng_of(), 6, ROWS, HIDDEN)
    tokens = rng_of().integers(0, 7, (STEPS, ROWS))

    def results(run: Any) -> dict[str, Any]:
        tg.manual_seed(1)
        memory = decoder.remember(values, lengths=[6, 2, 4])
        with layers_run(run):
            ends = decoder(
                tokens,
                memory,
                lengths=[5, 3, 1],
                return_weights=True,
                sampling_probability=sampled,
            )
        inputs = {"values": values, **dict(decoder.named_parameters())}
        gradients = tg.grad(list(ends), inputs, cotangents(list(ends)))
        found = {"logits": ends[0], "weights": ends[1], **gradients}
        return {name: y.numpy().copy() for name, y in found.items()}

    assert_close(results(planned), results(literal))


# Cells from papers.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", CELLS)
def test_cells_from_papers_in_float64(name: str) -> None:
    tg.manual_seed(0)
    cell = CELLS[name](ROWS)
    xs = inputs_for(cell, rng_of(), STEPS, ROWS, "float64")
    captured = list(cell.parameters())
    assert_planned_is_literal(Case(cell, xs, captured=captured))
    assert_planned_is_literal(Case(cell, xs, captured=captured, options={"lengths": [5, 0, 2]}))


@pytest.mark.parametrize("fused", KERNELS)
@pytest.mark.parametrize("name", CELLS)
def test_cells_from_papers_in_float32(name: str, fused: bool) -> None:
    tg.manual_seed(0)
    cell = CELLS[name](ROWS)
    xs = inputs_for(cell, rng_of(), 9, ROWS, "float32")
    with plans_of(fused):
        assert_planned_is_literal(Case(cell, xs, captured=list(cell.parameters())))


# Awkward cells.


class Weights:
    """Parameters drawn by name as they are first asked for."""

    def __init__(self, dtype: str = "float64") -> None:
        self.rng, self.dtype = rng_of(2), dtype
        self.made: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.made:
            self.made[name] = leaf(self.rng, *shape, dtype=self.dtype)
            self.made[name].data = self.made[name].data * (shape[0] ** -0.5 if shape else 1)
        return self.made[name]


def assert_plannable(
    cell: Callable[..., Any], xs: Any, state: Any, weights: Weights | None = None, order: int = 1
) -> None:
    """In both directions; the captured weights are made by the first call."""
    literal(cell, xs, state)
    captured = {} if weights is None else weights.made
    for reverse in (False, True):
        assert_planned_is_literal(Case(cell, xs, state, captured, {"reverse": reverse}), order)


def elman(w: Weights) -> Callable[..., Any]:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w("w", 3, 4) + h @ w("u", 4, 4) + w("b", 4))
        return h, h

    return cell


def x_of(*shape: int, seed: int = 0) -> Tensor:
    return leaf(rng_of(seed), STEPS, *shape)


def h_of(*shape: int, seed: int = 9) -> Tensor:
    return leaf(rng_of(seed), *shape)


def test_two_layers_written_as_one_function() -> None:
    w = Weights()

    def cell(x: Tensor, state: Any) -> Any:
        below, above = state
        h, below = lstm(x @ w("w1", 3, 16) + below[0] @ w("u1", 4, 16) + w("b1", 16), below[1])
        h, above = lstm(h @ w("w2", 4, 16) + above[0] @ w("u2", 4, 16) + w("b2", 16), above[1])
        return h @ w("v", 4, 2), (below, above)

    state = ((h_of(3, 4), h_of(3, 4)), (h_of(3, 4), h_of(3, 4)))
    assert_plannable(cell, x_of(3, 3), state, w, order=2)


def test_a_memory_that_is_read_and_written() -> None:
    """A neural Turing machine with one head (Graves et al. 2014, equations 2 to 9)."""
    w, slots, width = Weights(), 5, 3

    def cell(x: Tensor, state: Any) -> Any:
        h, memory, weights, read = state
        h = tg.tanh(tg.concat([x, read, h], axis=-1) @ w("controller", 3 + width + 4, 4))
        key = tg.tanh(h @ w("key", 4, width))
        likeness = tg.squeeze(memory @ key[:, :, None], axis=-1) / (
            tg.sqrt(tg.sum(tg.square(memory), axis=-1) + 0.1)
            * tg.sqrt(tg.sum(tg.square(key), axis=-1, keepdims=True) + 0.1)
        )
        by_content = tg.softmax(tg.softplus(h @ w("strength", 4, 1)) * likeness)
        gate = tg.sigmoid(h @ w("gate", 4, 1))
        weights = gate * by_content + (1 - gate) * weights
        shift = tg.softmax(h @ w("shift", 4, 3))
        moved = [tg.roll(weights, n, axis=-1) * shift[:, n + 1 : n + 2] for n in (-1, 0, 1)]
        sharp = (moved[0] + moved[1] + moved[2]) ** (1 + tg.softplus(h @ w("sharp", 4, 1)))
        weights = sharp / tg.sum(sharp, axis=-1, keepdims=True)
        read = tg.squeeze(weights[:, None, :] @ memory, axis=1)
        erase = tg.sigmoid(h @ w("erase", 4, width))[:, None, :]
        memory = memory * (1 - weights[:, :, None] * erase)
        memory = memory + weights[:, :, None] * tg.tanh(h @ w("add", 4, width))[:, None, :]
        return tg.concat([h, read], axis=-1), (h, memory, weights, read)

    start = tg.softmax(h_of(3, slots).detach())
    state = (h_of(3, 4), h_of(3, slots, width), start, h_of(3, width))
    assert_plannable(cell, x_of(3, 3), state, w)


class Parts(NamedTuple):
    mean: Tensor
    extremes: dict[str, Tensor]


def test_inputs_outputs_and_states_may_be_nested() -> None:
    w = Weights()

    def cell(x: Any, state: Parts) -> Any:
        mean = tg.tanh(state.mean @ w("u", 4, 4) + x["a"][0] @ w("w", 3, 4) + x["b"])
        highest = tg.maximum(state.extremes["highest"], mean)
        lowest = tg.minimum(state.extremes["lowest"], mean)
        outputs = {"range": highest - lowest, "both": (mean, Parts(mean * 2, {"low": lowest}))}
        return outputs, Parts(mean, {"highest": highest, "lowest": lowest})

    xs = {"a": (x_of(3, 3),), "b": x_of(3, 1)}
    extremes = {"highest": h_of(3, 4, seed=4), "lowest": h_of(3, 4, seed=5)}
    assert_plannable(cell, xs, Parts(h_of(3, 4), extremes), w)
    outputs, state = planned(cell, xs, Parts(h_of(3, 4), extremes))
    assert list(outputs) == ["range", "both"] and isinstance(outputs["both"][1], Parts)
    assert isinstance(state, Parts) and list(state.extremes) == ["highest", "lowest"]


def test_a_state_returned_with_its_keys_in_another_order() -> None:
    def cell(x: Tensor, state: dict[str, Tensor]) -> Any:
        return state["b"], {"b": tg.tanh(state["a"] + x), "a": state["b"] * 0.5}

    assert_plannable(cell, x_of(3, 4), {"a": h_of(3, 4), "b": h_of(3, 4, seed=3)})


@pytest.mark.parametrize("gated", [True, False])
def test_a_python_if_on_what_is_no_tensor(gated: bool) -> None:
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        new = tg.tanh(x @ w("w", 3, 4) + h @ w("u", 4, 4))
        if gated and h.shape[-1] == 4 and h.dtype == np.float64:
            new = tg.sigmoid(new) * h
        return new, new

    assert_plannable(cell, x_of(3, 3), h_of(3, 4), w)


def test_dropout_draws_the_same_masks_and_leaves_the_same_draws_to_others() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(tg.dropout(x, 0.5) + tg.dropout(h, 0.2))
        return (h, tg.random.uniform((3, 4), dtype="float64")), h

    x, h = x_of(3, 4), h_of(3, 4)
    assert_plannable(cell, x, h)
    found = {}
    for run in (literal, planned, planned):
        forget_plans() if run is literal else None
        tg.manual_seed(3)
        for _ in range(2):  # another call of unroll, another mask
            (_, noise), _ = run(cell, x, h)
        found[run] = [noise.numpy().copy(), tg.random.uniform(5).numpy()]
    for a, b in zip(found[planned], found[literal], strict=True):
        assert_array_equal(a, b)


def test_masks_of_a_call_differ_from_those_of_the_call_before() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        return tg.dropout(x, 0.5), h

    x, h = tg.ones((STEPS, 3, 40)), tg.zeros((3, 4))
    first, second = (planned(cell, x, h)[0].numpy().copy() for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_tokens_are_embedded_inside_the_cell() -> None:
    w = Weights()

    def cell(x: Any, h: Tensor) -> Any:
        tokens, weights = x
        embedded = tg.take(w("table", 6, 4), tokens, axis=0) + w("table", 6, 4)[tokens] * weights
        h = tg.tanh(embedded + h @ w("u", 4, 4))
        return h, h

    tokens = tg.tensor(rng_of().integers(0, 6, (STEPS, 3)))
    assert_plannable(cell, (tokens, x_of(3, 1)), h_of(3, 4), w)


def test_parts_of_a_state_that_are_counts_and_flags() -> None:
    def cell(x: Tensor, state: Any) -> Any:
        h, count, seen = state
        seen = tg.logical_or(seen, tg.any(x > 0.5, axis=-1))
        count = count + seen.astype("int64")
        h = tg.where(seen[:, None], h * 0.5 + x, h) / (1.0 + count[:, None])
        return (h, count), (h, count, seen)

    state = (h_of(3, 4), tg.zeros(3, "int64"), tg.zeros(3, "bool"))
    assert_plannable(cell, x_of(3, 4), state)


def test_a_state_that_all_rows_share() -> None:
    w = Weights()

    def cell(x: Tensor, state: Any) -> Any:
        h, total, number = state
        h = tg.tanh(h @ w("u", 4, 4) + x - total / number)
        return h, (h, total + tg.mean(h, axis=0), number + 1)

    assert_plannable(cell, x_of(3, 4), (h_of(3, 4), h_of(4), tg.tensor(1)), w)


def test_carries_that_are_passed_on_swapped_delayed_or_the_same() -> None:
    def cell(x: Tensor, state: Any) -> Any:
        fixed, a, b, before, twin, last = state
        h = tg.tanh(a * 0.5 + x * before + fixed + last)
        return b + twin, (fixed, b, a, x, h, h)

    assert_plannable(cell, x_of(3, 4), tuple(h_of(3, 4, seed=i) for i in range(6)))


def test_what_the_state_does_not_reach_and_what_reaches_no_state() -> None:
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        apart = tg.softmax(x @ w("w", 3, 4)) @ w("v", 4, 2)
        return (apart, w("v", 4, 2) * 2, x, h), tg.tanh(h @ w("u", 4, 4))

    assert_plannable(cell, x_of(3, 3), h_of(3, 4), w)


def test_outputs_may_be_numbers_as_ever() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        return (x, 0.5, 2), h

    xs, h = x_of(3, 4), h_of(3, 4)
    found, expected = planned(cell, xs, h)[0], literal(cell, xs, h)[0]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a.numpy(), b.numpy())


def test_a_weight_used_in_many_ways_gets_all_of_its_gradient() -> None:
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        u = w("u", 4, 4)
        h = tg.tanh(x @ u + h @ u.T + (h @ tg.square(u)) * u[0] + tg.sum(u, axis=0))
        return h @ u[:, :2], h

    assert_plannable(cell, x_of(3, 4), h_of(3, 4), w, order=2)


def test_one_tensor_as_input_state_and_captured() -> None:
    x = leaf(rng_of(), 3, 3, 3)

    def cell(step: Tensor, h: Tensor) -> Any:
        h = tg.tanh(step @ h + x[0] * 0.5)
        return h, h

    found = {}
    for run in (literal, planned):
        y, last = run(cell, x, x[1])
        found[run] = tg.grad([y, last], x, cotangents([y, last])).numpy().copy()
    assert_allclose(found[planned], found[literal], rtol=1e-11, atol=1e-12)


def test_what_was_computed_before_gets_its_gradient_through_the_plan() -> None:
    w = Weights()
    source, table = leaf(rng_of(), STEPS, 3, 4), w("table", 4, 4)

    def loss(run: Any) -> Tensor:
        xs, u, start = tg.tanh(source @ table), tg.sin(table), tg.cos(source[0])
        y, h = run(lambda x, h: (tg.tanh(x + h @ u),) * 2, xs, start)
        return tg.sum(tg.square(y)) + tg.sum(h)

    expected = tg.grad(loss(literal), [source, table])
    for g, e in zip(tg.grad(loss(planned), [source, table]), expected, strict=True):
        assert_allclose(g.numpy(), e.numpy(), rtol=1e-11, atol=1e-12)


def test_gradients_add_up_in_grad() -> None:
    w, x, h = Weights(), x_of(3, 3), h_of(3, 4)
    cell = elman(w)

    def backward(*runs: Any) -> list[Any]:
        for run in runs:
            tg.square(run(cell, x, h)[0]).sum().backward()
        found = []
        for p in (x, h, *w.made.values()):
            found.append(p.grad.numpy().copy())
            p.grad = None
        return found

    once = backward(literal)
    for a, b in zip(backward(planned, literal, planned), once, strict=True):
        assert_allclose(a, 3 * b, rtol=1e-10, atol=1e-12)


def test_mixed_dtypes() -> None:
    w, narrow = Weights(), leaf(rng_of(), 4, dtype="float32")

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w("w", 3, 4) + h * narrow)
        return (h.astype("float32"), (h > 0).astype("int8")), h

    x = leaf(rng_of(), STEPS, 3, 3, dtype="float32")
    literal(cell, x, h_of(3, 4))
    case = Case(cell, x, h_of(3, 4), {**w.made, "narrow": narrow})
    assert_planned_is_literal(case)


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_without_a_batch_axis_too(rows: int | None) -> None:
    w, front = Weights(), () if rows is None else (rows,)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w("w", 3, 4) + h @ w("u", 4, 4))
        return tg.sum(h), h

    assert_plannable(cell, x_of(*front, 3), h_of(*front, 4), w, order=2)


@pytest.mark.parametrize("steps", [1, 2, 3, 17])
def test_few_steps_and_more(steps: int) -> None:
    cell = nn.LSTMCell(INPUT, HIDDEN)
    assert_planned_is_literal(case_of(cell, "float32", steps))


def test_a_cell_in_a_cell_is_planned_or_not_and_right() -> None:
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        inner, last = tg.unroll(
            lambda y, s: (tg.tanh(y[:, None] * w("v", 4) + s @ w("u", 4, 4)),) * 2, x.T, h
        )
        return tg.sum(inner, axis=0), last

    xs, h = x_of(3, 3), h_of(3, 4)
    literal(cell, xs, h)
    case = Case(cell, xs, h, w.made)
    assert_close(case.results(tg.unroll), case.results(literal))


def test_detach_and_no_grad_inside_a_cell_cut_the_gradient() -> None:
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        with tg.no_grad():
            scale = tg.sigmoid(h)
        h = tg.tanh(x + h.detach() * 0.5 + h @ w("u", 4, 4) * scale)
        return h, h

    xs, h = x_of(3, 4), h_of(3, 4)
    literal(cell, xs, h)
    case = Case(cell, xs, h, w.made)
    assert_close(case.results(tg.unroll), case.results(literal))


# Derivatives of derivatives.


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [*CELLS_OF_NN, *CELLS])
def test_second_derivatives(name: str) -> None:
    tg.manual_seed(0)
    if name in CELLS:
        cell = CELLS[name](ROWS)
        xs = inputs_for(cell, rng_of(), 3, ROWS, "float64")
        case = Case(cell, xs, captured=list(cell.parameters()))
    else:
        case = case_of(randomised(CELLS_OF_NN[name]()), "float64", steps=3)
    assert_close(case.results(planned, order=2), case.results(literal, order=2))


def test_a_third_derivative() -> None:
    cell = nn.GRUCell(2, 2)
    for p in cell.parameters():
        p.data = p.data * 0.5
    x = tg.tensor(rng_of().normal(size=(3, 2, 2)), dtype="float32", requires_grad=True)
    case = Case(cell, x)
    assert_close(case.results(planned, order=3), case.results(literal, order=3))


def as_function(run: Any) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A loop as a function of its weights, input and state, and where to look at it."""
    rng = rng_of(7)
    points = tuple(tg.tensor(rng.normal(size=s) / 2) for s in [(3, 4), (4, 4), (4, 3, 3), (3, 4)])

    def f(w: Tensor, u: Tensor, xs: Tensor, h: Tensor) -> Tensor:
        y, last = run(lambda x, h: (tg.tanh(x @ w + h @ u),) * 2, xs, h)
        return tg.sum(tg.sin(y)) + tg.sum(tg.square(last))

    return f, points


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "jvp": lambda f, xs, vs: tg.jvp(f, xs, vs),
    "hvp": lambda f, xs, vs: tg.hvp(f, xs, vs),
    "jvp of grad": lambda f, xs, vs: tg.jvp(
        lambda *xs: tg.value_and_grad(f, argnums=(0, 1))(*xs)[1], xs, vs
    ),
    "vmap": lambda f, xs, vs: tg.vmap(f)(*map(_doubled, xs, vs)),
    "vmap of grad": lambda f, xs, vs: tg.vmap(tg.value_and_grad(f, argnums=(0, 1, 2, 3)))(
        *map(_doubled, xs, vs)
    ),
    "vmap of the inputs only": lambda f, xs, vs: tg.vmap(f, in_axes=(None, None, 0, None))(
        xs[0], xs[1], _doubled(xs[2], vs[2]), xs[3]
    ),
    "vmap of hvp": lambda f, xs, vs: tg.vmap(partial(tg.hvp, f), in_axes=(None, 0))(
        xs, tuple(map(_doubled, vs, xs))
    ),
    "grad of vmap": lambda f, xs, vs: tg.value_and_grad(
        lambda *xs: tg.sum(tg.vmap(f)(*map(_doubled, xs, vs))), argnums=(0, 1, 2, 3)
    )(*xs),
    "jacobian": lambda f, xs, vs: tg.jacobian(f, argnums=3)(*xs),
    "hessian": lambda f, xs, vs: tg.hessian(f, argnums=3)(*xs),
    "checkpoint": lambda f, xs, vs: tg.value_and_grad(tg.checkpoint(f), argnums=(0, 1, 2))(*xs),
}


def _doubled(x: Tensor, v: Tensor) -> Tensor:
    return tg.stack([x, x + 0.1 * v])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_of_a_planned_loop(name: str) -> None:
    """What ``vmap`` hands in is no array, so a loop inside it may run literally."""
    found = {}
    for run in (literal, tg.unroll if "vmap" in name else planned):
        f, xs = as_function(run)
        vs = tuple(cotangents(list(xs), seed=5))
        result = flatten(TRANSFORMS[name](f, xs, vs))[0]
        found[run] = {str(i): y.numpy().copy() for i, y in enumerate(result)}
    expected, other = found.values()
    assert_close(other, expected)


def test_a_second_derivative_does_not_call_the_cell_again() -> None:
    w = Weights()
    cell = Counted(elman(w))
    x, h = x_of(3, 3), h_of(3, 4)
    y, _ = planned(cell, x, h)
    calls = cell.calls
    g = tg.grad(tg.square(y).sum(), [x, w("u", 4, 4)], create_graph=True)
    tg.grad(tg.square(g[0]).sum() + tg.square(g[1]).sum(), [x, w("w", 3, 4)])
    assert cell.calls == calls


def test_a_second_derivative_uses_what_the_weights_were() -> None:
    w = Weights()
    x, h, cell = x_of(3, 3), h_of(3, 4), elman(w)
    found = {}
    for run in (literal, planned):
        y, _ = run(cell, x, h)
        u, before = w("u", 4, 4), w("u", 4, 4).data
        u.data = u.data * 2
        g = tg.grad(tg.square(y).sum(), x, create_graph=True)
        found[run] = tg.grad(tg.square(g).sum(), u).numpy().copy()
        u.data = before
    assert_allclose(found[planned], found[literal], rtol=1e-10, atol=1e-12)


# How it got there.


@pytest.mark.parametrize("name", [*CELLS_OF_NN, *CELLS])
def test_plans_describe_themselves(name: str) -> None:
    tg.manual_seed(0)
    cell = CELLS[name](ROWS) if name in CELLS else CELLS_OF_NN[name]()
    xs = inputs_for(cell, rng_of(), STEPS, ROWS, "float32") if name in CELLS else x_of32(ROWS, 3)
    plan = tg.plan(cell, xs)
    assert plan.planned and plan.reason is None
    assert plan.preparation_seconds > 0
    compile(plan.source, "<plan>", "exec")  # it is Python
    report = plan.report()
    assert re.search(r"Prepared in [\d.]+ ms", report)
    assert max(map(len, report.splitlines())) <= 120


def x_of32(*shape: int) -> Tensor:
    return tg.tensor(rng_of().normal(size=(STEPS, *shape)), dtype="float32", requires_grad=True)


@pytest.mark.parametrize("fused", KERNELS)
def test_one_product_and_one_kernel_a_step_are_left_of_an_lstm(fused: bool) -> None:
    with plans_of(fused):
        report = tg.plan(nn.LSTMCell(64, 32), x_of32(16, 64)).report()
    # The only words of the report that a test holds on to.
    assert re.search(r"\b1 product\b", report)
    if fused:
        assert re.search(r"\b1 kernel\b", report)


def test_all_loops_of_cells_are_machine_code() -> None:
    for make in CELLS_OF_NN.values():
        case = case_of(make(), "float32")
        plan = tg.plan(case.cell, case.xs, case.state)
        assert plan.program.loops and not plan.scheduled.reasons


def test_a_report_names_the_lines_of_what_was_hoisted_and_of_what_was_not() -> None:
    w = Weights("float32")

    def cell(x: Tensor, h: Tensor) -> Any:
        from_x = x @ w("w", 3, 4)
        h = tg.tanh(from_x + h @ w("u", 4, 4))
        return h, h

    first = cell.__code__.co_firstlineno
    report = tg.plan(cell, x_of32(3, 3), tg.zeros((3, 4))).report()
    assert f"{Path(__file__).name}:{first + 1}" in report
    assert f"{Path(__file__).name}:{first + 2}" in report


def test_the_cell_is_called_twice_for_a_new_structure_and_once_after_that() -> None:
    forget_plans()
    w = Weights()
    elman(w)(x_of(3, 3)[0][None], h_of(1, 4))  # makes the weights
    cell = Counted(elman(w))
    planned(cell, x_of(3, 3), h_of(3, 4))
    assert cell.calls == 2
    planned(cell, x_of(3, 3, seed=1), h_of(3, 4))
    assert cell.calls == 3
    planned(cell, x_of(2, 3), h_of(2, 4))
    planned(Counted(elman(Weights())), x_of(3, 3), h_of(3, 4))
    assert len(tg.plan_cache()) <= 2  # another cell of the same structure has the same plan


def test_the_number_of_steps_is_not_part_of_a_plan() -> None:
    forget_plans()
    cache, cell = tg.plan_cache(), nn.LSTMCell(2, 3)
    planned(cell, tg.ones((10, 2, 2)))
    misses, hits = cache.misses, cache.hits
    planned(cell, tg.ones((10_000, 2, 2)))
    assert (cache.misses, cache.hits, len(cache)) == (misses, hits + 1, 1)


def test_numbers_are_arguments_of_a_plan() -> None:
    forget_plans()
    cache, x, h = tg.plan_cache(), x_of(3, 4), h_of(3, 4)
    for rate in (0.1, 0.2, 0.3):
        case = Case(lambda x, h, rate=rate: (tg.tanh(x * rate + h),) * 2, x, h)
        assert_close(case.results(planned), case.results(literal))
    assert len(cache) == 1


def test_the_cache_says_what_it_holds() -> None:
    forget_plans()
    cache = tg.plan_cache()
    planned(nn.GRUCell(2, 3), tg.ones((4, 2, 2)))
    planned(nn.GRUCell(2, 3), tg.ones((4, 2, 2)))
    assert len(cache) == 1 and cache.hits >= 1 and cache.misses >= 1 and cache.bound >= 1
    assert str(len(cache)) in str(cache) and str(cache.bound) in str(cache)
    cache.clear()
    assert len(cache) == 0


def test_what_auto_gives_is_what_planned_gives() -> None:
    cell = tg.pure(Counted(nn.LSTMCell(3, 4)))
    cell.initial_state = cell.cell.initial_state
    x = x_of32(3, 3)
    planned_outputs, _ = planned(cell, x)
    calls = cell.calls
    outputs, _ = tg.unroll(cell, x)
    assert cell.calls == calls + 1
    assert_array_equal(outputs.numpy(), planned_outputs.numpy())


def test_check_planned_is_content_with_what_is_right() -> None:
    w = Weights()
    check_planned(elman(w), x_of(3, 3), h_of(3, 4))
    check_planned(elman(w), x_of(3, 3), h_of(3, 4), lengths=[5, 1, 0], reverse=True)
    check_planned(nn.LSTMCell(3, 4), x_of32(3, 3), reset=np.eye(5, 3, dtype=bool))


def test_check_planned_names_what_differs() -> None:
    def impure(x: Tensor, h: Tensor) -> Any:
        impure.calls += 1
        h = tg.tanh(x + h) if impure.calls < 4 else tg.tanh(x - h)
        return h, h

    impure.calls = 0
    with pytest.raises(AssertionError, match="output"):
        check_planned(impure, x_of(3, 4), h_of(3, 4))


def test_a_tolerance_can_be_given_to_check_planned() -> None:
    with pytest.raises(AssertionError):
        check_planned(nn.LSTMCell(3, 4), x_of32(3, 3) * 3, rtol=1e-12)


# Where it is literal at once.


def test_detect_anomaly_runs_literally() -> None:
    cell = Counted(elman(Weights()))
    with tg.detect_anomaly():
        tg.unroll(cell, x_of(3, 3), h_of(3, 4))
    assert cell.calls == STEPS


def test_detect_anomaly_names_the_line_of_the_cell() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.log(h - x)
        return h, h

    caught = pytest.raises(FloatingPointError, match="log")
    with caught, np.errstate(all="ignore"), tg.detect_anomaly():
        tg.unroll(cell, tg.ones((3, 2)), tg.ones(2))


def test_a_hook_inside_a_cell_sees_every_step() -> None:
    seen: list[float] = []
    w = Weights()

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x @ w("w", 3, 4) + h)
        h.register_hook(lambda g: seen.append(g.sum().item()))
        return h, h

    y, _ = tg.unroll(cell, x_of(3, 3), h_of(3, 4))
    y.sum().backward()
    assert len(seen) == STEPS


def test_hooks_on_what_the_loop_is_given_and_gives_run_once_as_ever() -> None:
    w = Weights()
    cell = elman(w)
    found: dict[Any, list[Any]] = {}
    for run in (literal, planned):
        seen: list[Any] = []
        x, h = x_of(3, 3), h_of(3, 4)
        literal(cell, x, h)
        removers = [
            t.register_hook(lambda g, seen=seen: seen.append(g.numpy().copy()))
            for t in (x, h, w("u", 4, 4))
        ]
        y, last = run(cell, x, h)
        y.register_hook(lambda g, seen=seen: seen.append(g.numpy().copy()))
        (tg.square(y).sum() + last.sum()).backward()
        for remove in removers:
            remove()
        found[run] = sorted(seen, key=lambda g: g.shape)
    assert len(found[planned]) == 4
    for a, b in zip(found[planned], found[literal], strict=True):
        assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_without_grad_nothing_is_recorded_or_kept() -> None:
    w = Weights()
    cell, x, h = elman(w), x_of(3, 3), h_of(3, 4)
    with tg.no_grad():
        y, last = planned(cell, x, h)
    assert not y.requires_grad and not last.requires_grad
    expected, _ = literal(cell, x, h)
    assert_allclose(y.numpy(), expected.numpy(), rtol=1e-11)


def test_outputs_that_need_no_gradient_have_none() -> None:
    u = leaf(rng_of(), 4, 4)

    def cell(x: Tensor, h: Tensor) -> Any:
        return (x > 0, tg.tanh(h @ u)), h

    x, h = x_of(3, 4).detach(), h_of(3, 4).detach()
    (flags, y), last = planned(cell, x, h)
    assert not flags.requires_grad and y.requires_grad
    assert not last.requires_grad


@pytest.mark.parametrize("mode", ["auto", "literal"])
def test_another_backend_runs_literally(mode: Any) -> None:
    w = tg.tensor(rng_of().normal(size=(3, 3)), backend="array_api_strict", requires_grad=True)
    x = tg.tensor(rng_of().normal(size=(STEPS, 2, 3)), backend="array_api_strict")
    cell = Counted(lambda x, h: (tg.tanh(x + h @ w),) * 2)
    y, _ = tg.unroll(cell, x, x[0], lengths=[5, 2], mode=mode)
    y.sum().backward()
    assert cell.calls == STEPS and y.backend == w.grad.backend == "array_api_strict"


def test_another_backend_cannot_be_planned() -> None:
    x = tg.ones((3, 2, 2), backend="array_api_strict")
    with pytest.raises(tg.PlanError, match="array_api_strict"):
        planned(lambda x, h: (x, h), x, x[0])
