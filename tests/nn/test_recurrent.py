"""Recurrent layers: ragged rows equal rows alone, in every configuration that Hypothesis draws.

PyTorch's and Keras's numbers are in ``test_recurrent_fixtures.py``; what is shown here needs no
other library. A row *alone* is the row without its padding, in a batch of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from op_table import examples
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.structure import flatten, map_leaves
from tinygrad_rnn.testing import check_grads
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]
SIZE = 3  # of the input


@pytest.fixture
def float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


class Made(NamedTuple):
    """A layer and how it came about, for Hypothesis to print."""

    layer: nn.Module
    how: str


@st.composite
def stacked(draw: Any, kinks: bool = True) -> Made:
    """An RNN, LSTM or GRU of any configuration."""
    name = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    options: dict[str, Any] = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "learn_initial_state": draw(st.booleans()),
    }
    if name == "RNN" and kinks:
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if name == "LSTM":
        options["proj_size"] = draw(st.sampled_from([0, 1]))
    if name == "GRU":
        options["reset_after"] = draw(st.booleans())
    tg.manual_seed(draw(st.integers(0, 9)))
    return Made(randomised(getattr(nn, name)(SIZE, 2, **options)), f"{name} {options}")


@st.composite
def composed(draw: Any) -> Made:
    """A cell of any kind, or two of them in two directions."""
    kinds = [nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.PeepholeLSTMCell, nn.LayerNormLSTMCell]
    kinds.append(nn.RWACell)
    tg.manual_seed(draw(st.integers(0, 9)))
    # Four units, for of two a layer norm makes little more than signs.
    one, other = (draw(st.sampled_from(kinds))(SIZE, 4) for _ in range(2))
    reverse, learned = draw(st.booleans()), draw(st.booleans()) and not isinstance(one, nn.RWACell)
    layer: nn.Module = nn.Recurrent(one, reverse=reverse, learn_initial_state=learned)
    how = f"{one} reverse={reverse} learned={learned}"
    if draw(st.booleans()):
        layer = nn.Bidirectional(layer, nn.LSTM(SIZE, 4, 2) if draw(st.booleans()) else other)
        how = f"{how} and {layer.backward_layer}"
    return Made(randomised(layer), how)


layers = stacked() | composed()
smooth = stacked(kinks=False) | composed()


def randomised(layer: nn.Module) -> nn.Module:
    """With no bias and no initial state at zero, where it would hide something."""
    rng = np.random.default_rng(0)
    for name, p in layer.named_parameters():
        if "bias" in name or "initial" in name:
            p.data = tg.tensor(rng.normal(size=p.shape) / 2, dtype=p.dtype)
    return layer


def batch(rows: int, steps: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(steps, rows, SIZE))


def axis_of_rows(layer: nn.Module) -> int:
    """Where the rows stand in the final states of a layer."""
    return 1 if isinstance(layer, (nn.RNN, nn.LSTM, nn.GRU)) else 0


def states_of_row(layer: nn.Module, state: Any, row: int) -> list[Array]:
    """The final states of one row: an LSTM's in a Bidirectional have layers in front."""
    if isinstance(layer, nn.Bidirectional):
        parts = zip((layer.forward_layer, layer.backward_layer), state, strict=True)
        return [h for part, own in parts for h in states_of_row(part, own, row)]
    axis = axis_of_rows(layer)
    return [np.take(h.numpy(), [row], axis=axis) for h in flatten(state)[0]]


def weighed(outputs: Tensor, state: Any, weights: Array) -> Tensor:
    """A number that depends on every element of a row's outputs and final state."""
    loss = tg.sum(outputs * weights[: outputs.shape[0], None, None])
    return loss + sum(tg.sum(tg.sin(h)) for h in flatten(state)[0])


# Ragged rows.


@pytest.mark.usefixtures("float64")
@examples(60)
@given(made=layers, lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3), nan=st.booleans())
def test_padding_changes_no_output_state_or_gradient(
    made: Made, lengths: list[int], nan: bool
) -> None:
    layer, steps = made.layer, max(4, *lengths)
    xs = batch(len(lengths), steps)
    for row, length in enumerate(lengths):
        xs[length:, row] = np.nan if nan else 7.0
    x = tg.tensor(xs, requires_grad=True)
    outputs, state = layer(x, lengths=lengths)
    weights = np.random.default_rng(1).normal(size=steps)
    weighed(outputs, state, weights).backward()
    together = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    for row, length in enumerate(lengths):
        alone = tg.tensor(xs[:length, row : row + 1], requires_grad=True)
        own_outputs, own_state = layer(alone)
        assert_allclose(outputs.numpy()[:length, row : row + 1], own_outputs.numpy(), atol=1e-12)
        assert_array_equal(outputs.numpy()[length:, row], 0)
        found = states_of_row(layer, state, row)
        for a, b in zip(found, states_of_row(layer, own_state, 0), strict=True):
            assert_allclose(a, b, atol=1e-12)
        loss = weighed(own_outputs, own_state, weights)
        if loss.requires_grad:  # not so for a row without steps and without a learned state
            loss.backward()
        gradient = alone.grad.numpy() if alone.grad is not None else np.zeros(alone.shape)
        assert_allclose(x.grad.numpy()[:length, row : row + 1], gradient, atol=1e-11)
        assert_array_equal(x.grad.numpy()[length:, row], 0)
    for name, p in layer.named_parameters():
        expected = 0 if p.grad is None else p.grad.numpy()
        got = 0 if together[name] is None else together[name].numpy()
        assert_allclose(got, expected, atol=1e-11, err_msg=name)


@pytest.mark.usefixtures("float64")
@examples(40)
@given(made=layers, data=st.data())
def test_a_masked_step_might_as_well_not_be_there(made: Made, data: Any) -> None:
    pair = st.lists(st.booleans(), min_size=2, max_size=2)
    flags = np.array(data.draw(st.lists(pair, min_size=1, max_size=5)))
    xs = np.where(flags[:, :, None], batch(2, len(flags)), np.nan)
    outputs, state = made.layer(tg.tensor(xs), mask=flags)
    for row in range(2):
        taken = flags[:, row]
        own_outputs, own_state = made.layer(tg.tensor(xs[taken, row : row + 1]))
        assert_allclose(outputs.numpy()[taken, row], own_outputs.numpy()[:, 0], atol=1e-12)
        assert_array_equal(outputs.numpy()[~taken, row], 0)
        found = states_of_row(made.layer, state, row)
        for a, b in zip(found, states_of_row(made.layer, own_state, 0), strict=True):
            assert_allclose(a, b, atol=1e-12)


@pytest.mark.usefixtures("float64")
@examples(40)
@given(made=stacked(), data=st.data())
def test_reset_puts_several_sequences_into_one_row(made: Made, data: Any) -> None:
    """Also backwards, each from its own end, and with steps that are skipped in between."""
    steps = data.draw(st.integers(1, 6))
    flag = st.lists(st.booleans(), min_size=steps, max_size=steps)
    starts, taken = np.array(data.draw(flag)), np.array(data.draw(flag))
    xs = np.where(taken[:, None, None], batch(1, steps), np.nan)
    outputs, _ = made.layer(tg.tensor(xs), mask=taken[:, None], reset=starts[:, None])
    piece, pieces = [], []
    for t in np.flatnonzero(taken):
        if starts[t] and piece:
            pieces.append(piece)
            piece = []
        piece.append(t)
    for places in [*pieces, piece]:
        alone, _ = made.layer(tg.tensor(xs[places]))
        assert_allclose(outputs.numpy()[places], alone.numpy(), atol=1e-12)


@pytest.mark.usefixtures("float64")
@examples(30)
@given(made=layers, lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_a_list_of_sequences_in_gives_a_list_out(made: Made, lengths: list[int]) -> None:
    xs = batch(len(lengths), 4)
    sequences = [tg.tensor(xs[:length, row]) for row, length in enumerate(lengths)]
    found, state = made.layer(sequences)
    outputs, expected = made.layer(tg.tensor(xs), lengths=lengths)
    assert isinstance(found, list)
    for row, (length, own) in enumerate(zip(lengths, found, strict=True)):
        assert_allclose(own.numpy(), outputs.numpy()[:length, row], atol=1e-12)
    for a, b in zip(flatten(state)[0], flatten(expected)[0], strict=True):
        assert_allclose(a.numpy(), b.numpy(), atol=1e-12)


def test_unroll_takes_a_list_of_sequences_too() -> None:
    def count(x: dict[str, Tensor], total: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        total = total + x["a"] * x["b"]
        return (total, -total), total

    sequences = [{"a": tg.ones((n,)) * n, "b": tg.ones((n,))} for n in (2, 0, 3)]
    outputs, state = tg.unroll(count, sequences, tg.zeros((3,)))
    assert [y.tolist() for y, _ in outputs] == [[2, 4], [], [3, 6, 9]]
    assert [y.tolist() for _, y in outputs] == [[-2, -4], [], [-3, -6, -9]]
    assert state.tolist() == [4, 0, 9]


def test_sequences_go_into_a_batch_and_out_again() -> None:
    one, two = tg.ones((2, 3), requires_grad=True), tg.tensor(np.arange(9.0).reshape(3, 3))
    padded, lengths = tg.pad_sequences([one.astype("float64"), two])
    assert padded.shape == (3, 2, 3) and lengths.tolist() == [2, 3]
    assert_array_equal(padded.numpy()[2, 0], 0)
    back = tg.unpad_sequences(padded, lengths)
    assert_array_equal(back[0].numpy(), one.numpy())
    assert_array_equal(back[1].numpy(), two.numpy())
    tg.sum(back[0] * 2).backward()
    assert_array_equal(one.grad.numpy(), np.full((2, 3), 2.0))


# Arguments.


@pytest.mark.usefixtures("float64")
@examples(20)
@given(made=layers, ragged=st.booleans())
def test_batch_first_swaps_two_axes_of_everything_but_the_states(made: Made, ragged: bool) -> None:
    xs, mask = batch(2, 5), np.random.default_rng(2).random((5, 2)) < 0.7
    reset = np.random.default_rng(3).random((5, 2)) < 0.3
    options: dict[str, Any] = {"mask": mask, "reset": reset} if ragged else {}
    outputs, state = made.layer(tg.tensor(xs), **options)
    twin = copy.copy(made.layer)
    twin.batch_first = True
    found, own_state = twin(
        tg.tensor(xs.swapaxes(0, 1)), **{key: flags.T for key, flags in options.items()}
    )
    assert_array_equal(found.numpy(), outputs.numpy().swapaxes(0, 1))
    for a, b in zip(flatten(own_state)[0], flatten(state)[0], strict=True):
        assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_one_sequence_needs_no_batch(name: str, batch_first: bool) -> None:
    layer = getattr(nn, name)(SIZE, 2, 2, bidirectional=True, batch_first=batch_first)
    xs = batch(1, 4)
    outputs, state = layer(tg.tensor(xs[:, 0]))
    assert outputs.shape == (4, 4)
    layer.batch_first = False
    expected, expected_state = layer(tg.tensor(xs))
    assert_allclose(outputs.numpy(), expected.numpy()[:, 0], rtol=1e-12)
    for a, b in zip(flatten(state)[0], flatten(expected_state)[0], strict=True):
        assert_allclose(a.numpy(), b.numpy()[:, 0], rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("layers_", [1, 2])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_a_state_is_carried_from_call_to_call(name: str, layers_: int) -> None:
    layer = getattr(nn, name)(SIZE, 2, layers_)
    xs = tg.tensor(batch(2, 6))
    outputs, state = layer(xs)
    first, between = layer(xs[:2])
    second, last = layer(xs[2:], between)
    assert_allclose(tg.concat([first, second]).numpy(), outputs.numpy(), rtol=1e-12)
    for a, b in zip(flatten(last)[0], flatten(state)[0], strict=True):
        assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_outputs_of_both_directions_and_states_of_all_layers_stand_where_they_should() -> None:
    layer = nn.LSTM(SIZE, 4, 3, bidirectional=True, proj_size=2)
    x = tg.tensor(batch(5, 6), dtype="float32")
    outputs, (h, c) = layer(x)
    assert outputs.shape == (6, 5, 4) and h.shape == (6, 5, 2) and c.shape == (6, 5, 4)
    assert_array_equal(h[4].numpy(), outputs[-1, :, :2].numpy())  # forwards, at the last step
    assert_array_equal(h[5].numpy(), outputs[0, :, 2:].numpy())  # backwards, at the first
    below, _ = tg.unroll(layer.cell(0), x)
    assert_array_equal(h[0].numpy(), below[-1].numpy())


def test_a_learned_initial_state_starts_at_zero_and_gets_gradients(backend: Backend) -> None:
    tg.manual_seed(0)
    layer = nn.LSTM(SIZE, 2, learn_initial_state=True)
    assert list(layer.state_dict())[3:] == ["initial_h_l0", "initial_c_l0"]
    x = tg.tensor(batch(4, 3), dtype="float32", backend=backend.name)
    zeros = tg.zeros((1, 4, 2))
    assert_array_equal(layer(x)[0].numpy(), layer(x, (zeros, zeros))[0].numpy())
    start = [tg.ones((1, 4, 2), requires_grad=True) for _ in range(2)]
    layer.initial_h_l0.data = layer.initial_c_l0.data = tg.ones(2)
    tg.sum(layer(x)[0]).backward()
    tg.sum(layer(x, tuple(start))[0]).backward()
    for p, h in zip((layer.initial_h_l0, layer.initial_c_l0), start, strict=True):
        assert_allclose(p.grad.numpy(), h.grad.numpy().sum((0, 1)), rtol=1e-5)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("learned", [True, False])
def test_reset_state_is_what_reset_starts_from(learned: bool) -> None:
    layer = randomised(nn.GRU(SIZE, 2, 2, learn_initial_state=learned))
    xs = tg.tensor(batch(2, 4))
    carried, fresh = tg.ones((2, 2, 2)), layer.initial_state_for(xs)
    reset = np.array([[0, 0], [0, 0], [1, 0], [0, 0]], bool)
    outputs, _ = layer(xs, carried, reset=reset, reset_state=fresh)
    before, _ = layer(xs, carried)
    after, _ = layer(xs[2:, :1])
    assert_allclose(outputs[:2].numpy(), before[:2].numpy(), rtol=1e-12)
    assert_allclose(outputs[2:, 0].numpy(), after[:, 0].numpy(), rtol=1e-12)
    assert_allclose(outputs[:, 1].numpy(), before[:, 1].numpy(), rtol=1e-12)


def test_dropout_falls_between_layers_only() -> None:
    tg.manual_seed(0)
    x = tg.tensor(batch(50, 3), dtype="float32")
    layer = nn.RNN(SIZE, 4, 2, dropout=0.5)
    below, _ = tg.unroll(layer.cell(0), x)
    once, twice = layer(x)[0], layer(x)[0]
    assert not np.array_equal(once.numpy(), twice.numpy())
    assert (once.numpy() != 0).mean() > 0.9  # nothing fell on the outputs themselves
    above, _ = tg.unroll(layer.cell(1), below)
    assert_array_equal(layer.eval()(x)[0].numpy(), above.numpy())
    layer.train().dropout = 1.0
    nothing, _ = tg.unroll(layer.cell(1), below * 0)
    assert_array_equal(layer(x)[0].numpy(), nothing.numpy())
    with pytest.warns(
        UserWarning, match=r"RNN: dropout=0.5 falls between layers, and there is one"
    ):
        one = nn.RNN(SIZE, 4, dropout=0.5)
    assert_array_equal(one(x)[0].numpy(), one(x)[0].numpy())
    with pytest.warns(UserWarning, match="StackedCell: dropout=0.5 falls between cells"):
        nn.StackedCell(nn.GRUCell(SIZE, 4), dropout=0.5)
    for kind in (nn.LSTM, nn.GRU):
        with pytest.warns(UserWarning, match="add an nn.Dropout behind it") as told:
            kind(SIZE, 4, bidirectional=True, dropout=0.1)
        assert told[0].filename == __file__
    nn.StackedCell(nn.GRUCell(SIZE, 4)), nn.LSTM(SIZE, 4), nn.LSTM(SIZE, 4, 2, dropout=0.1)


@pytest.mark.usefixtures("float64")
@examples(20)
@given(made=layers)
def test_the_initial_state_can_be_asked_for(made: Made) -> None:
    x = tg.tensor(batch(2, 3))
    expected, _ = made.layer(x)
    found, _ = made.layer(x, made.layer.initial_state_for(x))
    assert_allclose(found.numpy(), expected.numpy(), rtol=1e-14)


def test_tokens_may_come_batch_first_too() -> None:
    def count(x: Any, total: Tensor) -> tuple[Tensor, Tensor]:
        token, features = x
        total = total + token + tg.sum(features, axis=-1)
        return total, total

    tokens, features = np.arange(6).reshape(2, 3), np.ones((2, 3, 4))
    x = (tg.tensor(tokens), tg.tensor(features))
    outputs, last = nn.Recurrent(count, batch_first=True)(x, tg.zeros((2,), "float64"))
    assert_array_equal(outputs.numpy(), np.cumsum(tokens + 4, axis=1))
    assert_array_equal(last.numpy(), outputs.numpy()[:, -1])
    embedding, cell = nn.Embedding(6, 3), nn.GRUCell(3, 2)
    layer = nn.Recurrent(lambda x, h: cell(embedding(x), h), batch_first=True)
    found, _ = layer(tokens, tg.zeros((2, 2)), lengths=[3, 1])
    assert found.shape == (2, 3, 2) and not found.numpy()[1, 1:].any()


def test_resets_come_as_a_list_beside_a_list_of_sequences() -> None:
    def count(x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return total + x, total + x

    sequences, starts = [tg.ones(3), tg.ones(2)], [[False, True, False], [True, True]]
    for layer in (nn.Recurrent(count), nn.Recurrent(count, batch_first=True)):
        outputs, _ = layer(sequences, tg.zeros(2), reset=starts)
        assert [y.tolist() for y in outputs] == [[1, 1, 2], [1, 1]]


def test_a_state_that_reset_discards_may_hold_nan() -> None:
    """Though some rows skip steps, at which they are given what they are given at their first."""
    cell = nn.GRUCell(SIZE, 2)
    x, carried = tg.tensor(batch(2, 3), dtype="float32"), tg.tensor([[np.nan, 1.0], [1.0, 1.0]])
    reset = np.array([[True, True], [False, False], [False, False]])
    fresh = tg.zeros((2, 2))
    options = {"reset": reset, "reset_state": fresh, "lengths": [1, 3]}
    outputs, _ = tg.unroll(cell, x, carried.astype("float32"), **options)
    tg.sum(outputs).backward()
    assert all(np.isfinite(p.grad.numpy()).all() for p in cell.parameters())


def test_an_input_that_has_other_rows_is_refused_where_rows_are_spoken_of() -> None:
    with pytest.raises(
        ValueError, match=r"axis 1 of xs has to be the 2 rows; one has shape \(3, 5"
    ):
        tg.unroll(
            lambda x, h: (h, h),
            (tg.ones((3, 2, 1)), tg.ones((3, 5))),
            tg.ones((2, 1)),
            lengths=[3, 1],
        )


def test_numpy_arrays_go_where_the_weights_are(backend: Backend) -> None:
    layer = nn.Sequential(nn.Embedding(5, SIZE), nn.GRU(SIZE, 2), nn.Linear(2, 1))
    assert layer(np.array([[1, 2], [3, 4]])).backend == backend.name
    outputs, _ = nn.LSTM(SIZE, 2)(batch(2, 3).astype(np.float32))
    assert outputs.backend == backend.name
    outputs, _ = tg.unroll(nn.GRUCell(SIZE, 2), batch(2, 3).astype(np.float32), lengths=[3, 1])
    assert outputs.backend == backend.name


def test_settings_of_a_layer_are_attributes_that_count() -> None:
    layer = nn.GRU(SIZE, 2, 2)
    x = tg.tensor(batch(2, 3), dtype="float32")
    before = layer(x)[0].numpy()
    layer.activation = tg.relu
    assert not np.allclose(layer(x)[0].numpy(), before)
    assert nn.LSTM(3, 4, proj_size=2).proj_size == 2
    scaled = type("Scaled", (nn.Module,), {"forward": lambda self, x: tg.tanh(x * self.scale)})()
    scaled.scale = nn.Parameter(np.float32(1.0))
    assert list(nn.RNN(3, 4, 2, nonlinearity=scaled).state_dict())[3] == "activation.scale"


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("rows", [0, 2])
def test_no_steps_and_no_rows_are_no_error(steps: int, rows: int) -> None:
    for layer in (nn.LSTM(SIZE, 4, 2, bidirectional=True), nn.Recurrent(nn.RWACell(SIZE, 4))):
        outputs, state = layer(tg.zeros((steps, rows, SIZE)))
        assert outputs.shape[:2] == (steps, rows)
        assert all(rows in h.shape for h in flatten(state)[0])
        assert layer([tg.zeros((0, SIZE))])[0][0].shape[0] == 0


# Parameters.


def test_names_shapes_and_number_of_parameters() -> None:
    layer = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    names = ["weight_ih", "weight_hh", "bias", "weight_hr"]
    suffixes = ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert list(layer.state_dict()) == [f"{n}_{s}" for s in suffixes for n in names]
    assert layer.weight_ih_l0.shape == (3, 16) and layer.weight_ih_l1_reverse.shape == (4, 16)
    assert layer.weight_hh_l0.shape == (2, 16) and layer.weight_hr_l1.shape == (4, 2)
    assert list(nn.GRU(3, 4).state_dict())[-1] == "bias_hn_l0"
    assert list(nn.GRU(3, 4, bias=False).state_dict()) == ["weight_ih_l0", "weight_hh_l0"]
    wanted = 64 * 512 + 128 * 512 + 512
    assert sum(p.size for p in nn.LSTM(64, 128).parameters()) == wanted


def test_what_is_done_to_a_parameter_reaches_the_cell() -> None:
    layer = nn.GRU(SIZE, SIZE, 2)
    x = tg.tensor(batch(2, 3), dtype="float32")
    before = layer(x)[0].numpy()
    layer.weight_ih_l1 = layer.weight_ih_l0  # tied
    tied = layer(x)[0].numpy()
    assert not np.allclose(before, tied)
    assert "weight_ih_l1" not in layer.state_dict()
    layer.weight_ih_l0.data = tg.zeros((SIZE, 3 * SIZE))
    assert not np.allclose(layer(x)[0].numpy(), tied)
    twin = copy.deepcopy(layer)
    assert twin.cell(1).weight_ih is twin.weight_ih_l0 is not layer.weight_ih_l0
    assert_array_equal(twin(x)[0].numpy(), layer(x)[0].numpy())


def test_a_layer_looks_like_its_arguments() -> None:
    layer = nn.Bidirectional(nn.LSTM(3, 4, 2, dropout=0.1), nn.Recurrent(nn.GRUCell(3, 4)))
    assert repr(layer) == (
        "Bidirectional(\n"
        "  (forward_layer): LSTM(3, 4, num_layers=2, dropout=0.1)\n"
        "  (backward_layer): Recurrent(\n"
        "    (cell): GRUCell(3, 4, bias=True)\n"
        "  )\n"
        ")"
    )


# Derivatives of layers as wholes.


def as_function(layer: nn.Module, lengths: list[int]) -> tuple[Callable[..., Any], list[Tensor]]:
    """A layer as a function of its input and all of its weights."""
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        outputs, state = nn.functional_call(layer, named, x, lengths=lengths)
        return tg.sum(tg.sin(outputs)) + sum(tg.sum(tg.sin(h)) for h in flatten(state)[0])

    weights = [p.detach().astype("float64") for p in layer.parameters()]
    return run, [tg.tensor(batch(2, 3) / 2), *weights]


@pytest.mark.usefixtures("float64")
@examples(15)
@given(made=smooth, lengths=st.lists(st.integers(0, 3), min_size=2, max_size=2))
def test_first_and_second_derivatives_equal_finite_differences(
    made: Made, lengths: list[int]
) -> None:
    check_grads(*as_function(made.layer, lengths), step=3e-4)


@pytest.mark.usefixtures("float64")
@examples(10)
@given(made=smooth, lengths=st.lists(st.integers(0, 3), min_size=2, max_size=2))
def test_hvp_is_a_difference_of_gradients_and_vmap_is_one_at_a_time(
    made: Made, lengths: list[int]
) -> None:
    run, arguments = as_function(made.layer, lengths)
    rng = np.random.default_rng(4)
    direction = tuple(tg.tensor(rng.normal(size=x.shape)) for x in arguments)
    everything = tuple(range(len(arguments)))
    gradient = tg.value_and_grad(run, argnums=everything)
    step, curved = 1e-5, tg.hvp(run, tuple(arguments), direction)
    ahead, behind = (
        gradient(*(x + s * v for x, v in zip(arguments, direction, strict=True)))[1]
        for s in (step, -step)
    )
    for found, a, b in zip(curved, ahead, behind, strict=True):
        expected = (a.numpy() - b.numpy()) / (2 * step)
        assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)
    pairs = [tg.stack([x, x + 0.1 * v]) for x, v in zip(arguments, direction, strict=True)]
    values, gradients = tg.vmap(gradient)(*pairs)
    for i in range(2):
        value, own = gradient(*(x[i] for x in pairs))
        assert_allclose(values[i].item(), value.item(), rtol=1e-10)
        for a, b in zip(gradients, own, strict=True):
            assert_allclose(a[i].numpy(), b.numpy(), rtol=1e-8, atol=1e-11)


def test_layers_run_and_train_on_every_backend(backend: Backend) -> None:
    tg.manual_seed(0)
    layer = nn.GRU(SIZE, 4, 2, bidirectional=True, dropout=0.2, learn_initial_state=True)
    x = tg.tensor(batch(3, 4), dtype="float32", backend=backend.name)
    outputs, h = layer(x, lengths=[4, 0, 2], reset=np.eye(4, 3, dtype=bool))
    assert outputs.backend == h.backend == backend.name and outputs.dtype == np.float32
    tg.sum(outputs).backward()
    assert all(p.grad.backend == backend.name for p in layer.parameters())


# Bad input.


def x_of(*shape: int) -> Tensor:
    return tg.ones(shape)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.LSTM(3, 4, 0),
            ValueError,
            "LSTM: num_layers is an integer of at least 1, not 0",
        ),
        (lambda: nn.GRU(3, 4, dropout=2), ValueError, "GRU: dropout is a probability"),
        (lambda: nn.GRU(3, 4, forget_bias=1.0), TypeError, "forget_bias"),
        (
            lambda: nn.LSTM(3, 4)(x_of(5, 2, 4)),
            ValueError,
            r"LSTM: expected x \(T, B, 3\) or \(T, 3\), .* not \(5, 2, 4\)",
        ),
        (lambda: nn.RNN(3, 4)(x_of(2, 5, 2, 3)), ValueError, r"RNN: expected x \(T, B, 3\)"),
        (
            lambda: nn.RNN(3, 4)({"a": x_of(5, 2, 3)}),
            ValueError,
            r"RNN: expected x .* not \{'a': \*\}",
        ),
        (
            lambda: nn.GRU(3, 4, 2)(x_of(5, 2, 3), x_of(1, 2, 4)),
            ValueError,
            r"GRU: the h of state is float32 \(1, 2, 4\); for x \(5, 2, 3\) .* \(2, 2, 4\)",
        ),
        (
            lambda: nn.LSTM(3, 4, proj_size=2)(x_of(5, 2, 3), (x_of(1, 2, 2), x_of(1, 2, 2))),
            ValueError,
            r"the c of state is float32 \(1, 2, 2\); .* \(1, 2, 4\)",
        ),
        (
            lambda: nn.LSTM(3, 4)(x_of(5, 2, 3), x_of(1, 2, 4)),
            TypeError,
            r"LSTM: state is a tuple \(h, c\), not structured \*",
        ),
        (
            lambda: nn.GRU(3, 4)(x_of(5, 2, 3), (x_of(1, 2, 4),)),
            TypeError,
            r"GRU: state is a Tensor h, not structured \(\*,\)",
        ),
        (
            lambda: nn.LSTM(3, 4)([x_of(5, 3), x_of(2, 3)], lengths=[5, 2]),
            ValueError,
            "LSTM: a list of sequences has their lengths",
        ),
        (lambda: nn.LSTM(3, 4)([]), ValueError, "pad_sequences: there are no sequences"),
        (
            lambda: nn.LSTM(3, 4)([x_of(5, 3), x_of(2, 4)]),
            ValueError,
            r"pad_sequences: .* float32 \(5, 3\), float32 \(2, 4\)",
        ),
        (
            lambda: tg.pad_sequences([(x_of(2, 1), x_of(2)), x_of(2, 1)]),
            ValueError,
            r"sequence 0 is structured \(\*, \*\), 1 \*",
        ),
        (
            lambda: tg.pad_sequences([(x_of(2, 1), x_of(3))]),
            ValueError,
            r"sequence 0 share an axis 0 of time, unlike \(2, 1\), \(3,\)",
        ),
        (
            lambda: tg.unpad_sequences(x_of(3, 2, 1), [4, 1]),
            ValueError,
            r"unpad_sequences: lengths \[4, 1\] for a batch of shape \(3, 2, 1\)",
        ),
        (
            lambda: nn.LSTM(3, 4)(x_of(5, 2, 3), lengths=[6, 1]),
            ValueError,
            r"lengths \[6, 1\] for 5 steps",
        ),
        (
            lambda: nn.LSTM(3, 4, batch_first=True)(x_of(2, 5, 3), mask=[True, False]),
            ValueError,
            r"LSTM: mask of shape \(2,\), expected \(batch, time\)",
        ),
        (
            lambda: nn.GRU(3, 4, bidirectional=True)(x_of(5, 2, 3), reset=np.zeros((5, 3), bool)),
            ValueError,
            r"reset is bool of shape \(5, 2\)",
        ),
        (
            lambda: nn.GRU(3, 4)(x_of(5, 2, 3), reset=np.zeros((5, 2), bool), reset_state=x_of(1)),
            ValueError,
            "the h of reset_state is",
        ),
        (
            lambda: tg.unroll(
                nn.GRUCell(3, 4), x_of(5, 2, 3), reset=np.zeros((5, 2), bool), reset_state=x_of(4)
            ),
            ValueError,
            r"unroll: reset_state is structured \* of \['float32 \(4,\)'\]",
        ),
        (
            lambda: nn.GRU(3, 4)(tg.ones((5, 2, 3), dtype="int64")),
            TypeError,
            "GRU: x is int64; numbers of symbols go through an Embedding",
        ),
        (
            lambda: nn.GRU(3, 4)(x_of(5, 3), lengths=[5]),
            ValueError,
            r"GRU: lengths speaks of rows, and one sequence \(T, 3\) has none; .* x\[:, None\]",
        ),
        (
            lambda: nn.GRU(3, 4)(x_of(5, 2, 3), tg.zeros((1, 2, 4), "float64")),
            ValueError,
            r"GRU: the h of state is float64 \(1, 2, 4\); .* it is float32",
        ),
        (
            lambda: nn.Recurrent(nn.GRU(3, 4)),
            TypeError,
            "Recurrent: expected a cell, which takes a step, not the layer GRU",
        ),
        (
            lambda: tg.unroll(nn.GRU(3, 4), x_of(5, 2, 3), x_of(1, 4)),
            TypeError,
            "unroll: GRU is a layer, which reads whole sequences",
        ),
        (lambda: nn.Recurrent(nn.GRUCell), TypeError, "Recurrent: expected a cell"),
        (
            lambda: nn.Recurrent(nn.RWACell(3, 4), learn_initial_state=True),
            ValueError,
            "Recurrent: RWACell learns its initial state by itself",
        ),
        (lambda: nn.Recurrent(3), TypeError, r"Recurrent: expected a cell\(x, state\), not 3"),
        (
            lambda: nn.Recurrent(lambda x, h: (h, h), learn_initial_state=True),
            TypeError,
            "initial_state",
        ),
        (
            lambda: nn.Bidirectional(nn.GRUCell(3, 4), nn.GRU(3, 4, batch_first=True)),
            ValueError,
            "Bidirectional: batch_first is for it to have",
        ),
        (
            lambda: nn.Bidirectional(nn.GRU(3, 4), nn.GRU(3, 4))(x_of(5, 2, 3), x_of(2, 2, 4)),
            TypeError,
            r"Bidirectional: state is a pair \(forward, backward\), not \*",
        ),
        (lambda: nn.GRU(3, 4).cell(1), ValueError, "GRU: there is no cell l1 in GRU"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_failed_call_leaves_the_layer_as_it_was() -> None:
    layer = nn.LSTM(3, 4)
    before = map_leaves(lambda p: p.numpy().copy(), layer.state_dict())
    with pytest.raises(ValueError, match="expected x"):
        layer(x_of(5, 2, 4))
    for name, p in layer.state_dict().items():
        assert_array_equal(p.numpy(), before[name])
