"""From sequences to layers: lists, lengths, modes and dtypes, and what a search says of layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn import layers

SEQUENCES = [[5, 2, 6, 1], [1, 3], [], [4]]
LENGTHS = [4, 2, 0, 1]


def batch(padding: int) -> np.ndarray[Any, Any]:
    found = np.full((4, 4), padding)
    for row, sequence in enumerate(SEQUENCES):
        found[: len(sequence), row] = sequence
    return found


def tagger() -> nn.Sequential:
    tg.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(7, 3), tg.tanh, nn.LSTM(3, 4, bidirectional=True), nn.Linear(8, 5)
    )


def test_a_list_of_sequences_goes_through_all_stages() -> None:
    model = tagger()
    found = model(SEQUENCES)
    alone = [model(np.array(s, "int64").reshape(-1, 1)) for s in SEQUENCES]
    for together, own in zip(found, alone, strict=True):
        assert_allclose(together.numpy(), own.numpy()[:, 0], rtol=1e-5, atol=1e-7)
    same = model([tg.tensor(np.array(s, "int64")) for s in SEQUENCES])
    for one, other in zip(found, same, strict=True):
        assert_array_equal(one.numpy(), other.numpy())
    whole, (h, _) = nn.Sequential(*[*model][:3])(SEQUENCES)  # of a last layer all is returned
    assert [y.shape for y in whole] == [(4, 8), (2, 8), (0, 8), (1, 8)] and h.shape == (2, 4, 4)


@pytest.mark.parametrize("padding", [0, -1, 10**6])
@pytest.mark.parametrize("by", ["lengths", "mask"])
def test_lengths_reach_layers_and_embeddings(by: str, padding: int) -> None:
    model = tagger()
    mask = np.arange(4)[:, None] < np.array(LENGTHS)
    options = {"lengths": LENGTHS} if by == "lengths" else {"mask": mask}
    found = model(batch(padding), **options)
    for row, own in enumerate(model(SEQUENCES)):
        assert_allclose(found.numpy()[: len(own), row], own.numpy(), rtol=1e-5, atol=1e-7)
    found.sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    model.zero_grad()
    tg.concat(model(SEQUENCES)).sum().backward()
    for name, p in model.named_parameters():
        if name != "3.bias":  # which the padding, zeros by then, has a part in
            assert_allclose(gradients[name], p.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_options_go_to_those_who_take_them_also_within() -> None:
    model = nn.Sequential(nn.Embedding(7, 3), nn.Sequential(nn.GRU(3, 4), nn.Linear(4, 2)))
    reset = np.zeros((4, 4), bool)
    reset[2] = True
    halves = [model(batch(0)[part]).numpy() for part in (slice(2), slice(2, None))]
    assert_allclose(model(batch(0), reset=reset).numpy(), np.concatenate(halves), rtol=1e-5)
    assert_allclose(model(batch(0), mode="literal").numpy(), model(batch(0)).numpy(), rtol=1e-5)
    for option in ({"lengths": [1]}, {"reset": reset}, {"mode": "literal"}):
        with pytest.raises(TypeError, match=f"Sequential: {next(iter(option))} is for recurrent"):
            nn.Sequential(nn.Linear(3, 2), tg.tanh)(tg.ones((2, 1, 3)), **option)
    with pytest.raises(ValueError, match="a list of sequences has their lengths"):
        model(SEQUENCES, lengths=LENGTHS)
    with pytest.raises(ValueError, match="a list holds sequences"):
        model([1, 2, 3])


def test_embeddings_of_sequences_are_those_of_each() -> None:
    embedding = nn.Embedding(7, 3, padding_idx=0)
    given = [np.array(s) for s in SEQUENCES]
    for found, own in zip(embedding(given), SEQUENCES, strict=True):
        assert_array_equal(found.numpy(), embedding.weight.numpy()[np.array(own, "int64")])
    assert embedding([[1, 2], [3, 4]]).shape == (2, 2, 3)  # numbers nested as an array would be
    assert embedding([np.array([1, 2]), np.array([3, 4])])[1].shape == (2, 3)
    valid = np.arange(4)[:, None] < np.array(LENGTHS)
    found = embedding(batch(-7), lengths=LENGTHS)
    assert_array_equal(found.numpy()[~valid], 0)
    assert_array_equal(found.numpy(), embedding(batch(99), mask=valid).numpy())
    with pytest.raises(ValueError, match="rectangular"):
        embedding(SEQUENCES)
    with pytest.raises(ValueError, match=r"speak of rows; x is \(T, B, \.\.\.\), not \(3,\)"):
        embedding([1, 2, 3], lengths=[1])
    with pytest.raises(ValueError, match="has their lengths; give no others"):
        embedding(given, lengths=LENGTHS)


# Modes, and drawings.

LAYERS = {
    "LSTM": lambda: nn.LSTM(2, 3, 2, bidirectional=True),
    "Recurrent": lambda: nn.Recurrent(nn.GRUCell(2, 3)),
    "Bidirectional": lambda: nn.Bidirectional(nn.GRU(2, 3), nn.RNNCell(2, 3)),
    "Encoder": lambda: nn.Encoder(None, nn.GRU(2, 3), nn.Recurrent(nn.RNNCell(3, 2))),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_layers_take_a_mode_and_drawings_say_so(make: Any) -> None:
    layer, x = make(), tg.ones((4, 2, 2))
    drawn = {mode: layer(x, mode=mode)[0] for mode in ("literal", "planned")}
    assert_allclose(drawn["literal"].numpy(), drawn["planned"].numpy(), rtol=1e-5, atol=1e-7)
    text, dot = ({mode: f(y) for mode, y in drawn.items()} for f in (tg.to_text, tg.to_dot))
    assert 'mode="literal" shows the operations' in text["planned"].splitlines()[-1]
    assert 'mode=\\"literal\\" shows' in dot["planned"]
    assert "mode=" not in text["literal"] + dot["literal"]
    assert text["literal"].count("matmul") > 4 > text["planned"].count("matmul")
    with pytest.raises(ValueError, match="mode is 'auto', 'literal' or 'planned'"):
        layer(x, mode="fast")


# What a search says of the state of a layer.


@pytest.mark.parametrize("search", [nn.greedy_search, nn.beam_search, nn.sample])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_search_over_the_state_of_a_layer_says_what_to_do(search: Any, kind: Any) -> None:
    rnn, embedding, out = kind(3, 4, 2), nn.Embedding(7, 3), nn.Linear(4, 7)
    options = {"stop": 2, "max_length": 5} | ({"beam_size": 3} if search is nn.beam_search else {})

    def by_layer(tokens: Any, state: Any) -> Any:
        y, state = rnn(embedding(tokens)[None], state)
        return out(y[0]), state

    _, state = rnn(tg.ones((3, 3, 3)))
    cure = r"nn\.StackedCell\(\*map\(rnn\.cell, range\(rnn\.num_layers\)\)\)"
    with pytest.raises(ValueError, match=rf"rows on axis 1.*{cure}"):
        search(by_layer, state, start=np.array([1, 1, 1]), **options)
    with pytest.raises(ValueError) as info:
        search(by_layer, state, start=1, **options)  # how many rows there are is not said
    assert "rows on axis 1" in "".join(info.value.__notes__)
    with pytest.raises(TypeError, match=rf"{kind.__name__} is a layer.*{cure}"):
        search(rnn, state, start=1, **options)

    cell = nn.StackedCell(*map(rnn.cell, range(rnn.num_layers)))  # as the error says
    if kind is nn.LSTM:
        h_n, c_n = state
        rows_first = tuple(zip(*map(tg.unstack, (h_n, c_n)), strict=True))
    else:
        rows_first = tuple(tg.unstack(state))

    def by_cell(tokens: Any, state: Any) -> Any:
        y, state = cell(embedding(tokens), state)
        return out(y), state

    assert len(search(by_cell, rows_first, start=1, **options)) == 3


# float64 by accident.


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_promoted", set())


@pytest.mark.usefixtures("untold")
@pytest.mark.parametrize("mode", ["auto", "literal"])
def test_weights_that_are_promoted_are_told_of_once(mode: Any) -> None:
    x, calls = np.ones((9, 2, 3)), 3
    lstm, linear, cell = nn.LSTM(3, 4, 2), nn.Linear(4, 2), nn.GRUCell(3, 4)
    with pytest.warns(nn.PromotionWarning) as told:
        for _ in range(calls):
            assert linear(lstm(x, mode=mode)[0]).dtype == np.float64
            tg.unroll(cell, x, mode=mode)
            tg.unroll(cell, x.astype("float32"), tg.zeros((2, 4), dtype="float64"), mode=mode)
    said = [str(each.message) for each in told]
    assert [each.partition(":")[0] for each in said] == ["LSTM", "Linear", "GRUCell"]
    assert all("x.astype('float32')" in each and "set_default_dtype" in each for each in said)
    assert {each.filename for each in told} == {__file__}


@pytest.mark.usefixtures("untold")
@pytest.mark.filterwarnings("error")
def test_nothing_is_said_where_nothing_is_promoted_or_it_is_meant() -> None:
    nn.LSTM(3, 4)(np.ones((2, 1, 3), "float32"))
    nn.Linear(3, 4)(np.ones((2, 3), "float32"))
    tg.set_default_dtype("float64")
    try:
        double = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
        double(np.ones((2, 1, 3)))
        double(np.ones((2, 1, 3), "float32"))  # the weights stay as wide as they are
    finally:
        tg.set_default_dtype("float32")
    tg.testing.check_grads(nn.Linear(2, 1), [np.ones((1, 2))], order=1)
    with pytest.raises(nn.PromotionWarning):
        nn.Linear(3, 4)(np.ones((2, 3)))


@pytest.mark.usefixtures("untold")
def test_a_cell_in_its_state_alone_is_told_of() -> None:
    with pytest.warns(nn.PromotionWarning, match="LSTMCell: the state h is float64"):
        nn.LSTMCell(3, 4)(tg.ones((1, 3)), (tg.zeros((1, 4), dtype="float64"),) * 2)
