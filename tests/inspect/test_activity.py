"""Units over a text: one that was planted ranks first, and values are exact to 1/255."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn
from tinygrad_rnn.inspect.reading import similar, units_for, values_of

TEXT = 'He said "no, not now" and left.\nShe wrote "maybe 17 then" to us all.\n' * 6
UNITS = 16


class Quoting(nn.GRUCell):
    """A GRU beside a unit that is 1 within quotes; it is told of the marks by x[..., 0]."""

    def forward(self, x: Tensor, state: Any) -> Any:
        rest, _ = super().forward(x, state[..., :UNITS])
        flag = state[..., UNITS:]
        mark = x[..., :1]
        flag = mark * (1.0 - flag) + (1.0 - mark) * flag
        h = tg.concat([rest, flag], axis=-1)
        return h, h


def inputs(text: str = TEXT) -> Tensor:
    table = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
    table[:, 0] = 0.0
    table[ord('"'), 0] = 1.0
    return tg.tensor(table[[ord(c) for c in text]])[:, None]


def study(text: str = TEXT, **options: Any) -> inspect.Study:
    tg.manual_seed(0)
    return inspect.activity(
        Quoting(8, UNITS), inputs(text), text, tg.zeros((1, UNITS + 1)), **options
    )


class Gate(nn.GRUCell):
    """A GRU beside a gate that is open within quotes, and shows in no state by itself."""

    def forward(self, x: Tensor, state: Any) -> Any:
        rest, _ = super().forward(x, state[..., :UNITS])
        flag = state[..., UNITS:]
        mark = x[..., :1]
        flag = mark * (1.0 - flag) + (1.0 - mark) * flag
        quote = tg.sigmoid(8.0 * flag - 4.0 + 0.5 * rest[..., :1])
        h = tg.concat([rest, 0.0 * quote + flag], axis=-1)
        return h, h


@pytest.mark.parametrize("kind", [Quoting, Gate])
def test_a_planted_unit_or_gate_that_knows_quotes_ranks_first_of_all(kind: Any) -> None:
    tg.manual_seed(0)
    found = inspect.activity(kind(8, UNITS), inputs(), TEXT, tg.zeros((1, UNITS + 1)))
    units = found.data["units"]
    planted = {f"h[{UNITS}]"} | ({"quote[0]"} if kind is Gate else set())
    assert {u["name"] for u in units[: len(planted)]} == planted
    assert all(u["knows"] == "in quotes" and u["bits"] > 0.7 for u in units[: len(planted)])
    others = units[len(planted) :]
    assert {"r", "z", "n", "h"} <= {u["name"].partition("[")[0] for u in others}
    assert max(u["bits"] for u in others) < units[len(planted) - 1]["bits"]


@pytest.mark.parametrize("order", ["luong", "bahdanau"])
def test_attention_is_that_of_the_decoder(order: Any) -> None:
    tg.manual_seed(0)
    embedding, attention = nn.Embedding(7, 3), nn.AdditiveAttention(5, 4, 6)
    beside = 5 if order == "luong" else 4
    decoder = nn.AttentionDecoder(embedding, nn.GRUCell(3 + beside, 5), attention, order)
    values = tg.tensor(np.random.default_rng(0).normal(size=(4, 2, 4)), "float32")
    memory = decoder.remember(values, lengths=[4, 2])
    tokens = tg.tensor([[1, 2], [3, 4], [5, 6]])
    found = inspect.activity(
        decoder, tokens, ["a", "b", "c"], row=1, memory=memory, sources=list("wxyz")
    )
    _, weights = decoder(tokens, memory, return_weights=True)
    assert found.data["attention"]["sources"] == list("wxyz")
    assert_allclose(found.data["attention"]["weights"], weights.numpy()[:, 1], atol=1e-4)
    assert {"r", "z", "n"} <= set(found.data["gates"]) and "attention: w" in found.to_svg()
    with pytest.raises(TypeError, match="memory="):
        inspect.activity(decoder, tokens, "abc")
    with pytest.raises(TypeError, match="memory="):
        inspect.activity(nn.GRUCell(3, 4), tg.ones((3, 2, 3)), "abc", memory=memory)


def test_values_are_those_of_the_loop_to_a_byte() -> None:
    data = study().data
    tg.manual_seed(0)
    hs, _ = tg.unroll(Quoting(8, UNITS), inputs(), tg.zeros((1, UNITS + 1)), mode="literal")
    for unit in data["units"]:
        name, _, number = unit["name"][:-1].partition("[")
        if name == "h":
            step = (unit["high"] - unit["low"]) / 255
            own = hs.numpy()[:, 0, int(number)]
            assert_allclose(values_of(unit), own, atol=step / 2 + 1e-6)
            assert abs(values_of(unit)[17] - own[17]) <= step


def test_passages_are_told_apart_and_found_again() -> None:
    found = study()
    begin = TEXT.index("no, not")
    names = [name for name, _ in units_for(found, begin, begin + 8)]
    assert f"h[{UNITS}]" in names
    period = len(TEXT) // 6
    best = [begin for begin, _, _ in similar(found, begin, begin + 8)]
    assert {(b - begin) % period for b in best} == {0}


def test_gates_predicates_words_and_attention() -> None:
    words = ["the", "cat", "sat", "on", "the", "mat"]
    xs = tg.tensor(np.random.default_rng(1).normal(size=(6, 2, 3)), dtype="float32")
    weights = tg.softmax(tg.tensor(np.random.default_rng(2).normal(size=(6, 4))))
    found = inspect.activity(
        nn.LSTMCell(3, 5),
        xs,
        words,
        row=1,
        predicates={"an article": lambda parts: [p == "the" for p in parts]},
        attention=(weights, list("wxyz")),
    )
    data = found.data
    assert set(data["gates"]) == {"i", "f", "g", "o"} and len(data["units"]) == 6 * 5
    assert data["attention"]["sources"] == list("wxyz") and len(data["path"]) == 6
    assert_allclose(data["attention"]["weights"], weights.numpy(), atol=1e-4)
    assert "cat" in str(found)


def test_it_is_small_plain_and_drawn() -> None:
    found = study()
    ElementTree.fromstring(found._repr_html_())
    assert inspect.Study.from_json(found.to_json()) == found
    assert "in quotes" in str(found) and '"no, not now"' in str(found)
    cell = nn.GRUCell(4, 256)
    large = inspect.activity(cell, tg.ones((2000, 1, 4)), "x" * 2000)
    assert len(large.to_json()) < 2_000_000 and large.data["left out"] > 0


def test_bad_input_is_refused() -> None:
    cell = nn.GRUCell(8, 4)
    with pytest.raises(ValueError, match="3 parts of a text"):
        inspect.activity(cell, inputs("abcd"), "abc")
    with pytest.raises(ValueError, match="row 3"):
        inspect.activity(cell, inputs("abcd"), "abcd", row=3)
    with pytest.raises(ValueError, match="attention"):
        inspect.activity(cell, inputs("abcd"), "abcd", attention=np.ones((3, 2)))
    with pytest.raises(ValueError, match="no steps"):
        inspect.activity(cell, inputs("abcd")[:0], "")
    with pytest.raises(ValueError, match=r"xs\[:, None\]"):
        inspect.activity(cell, inputs("abcd")[:, 0], "abcd")
    found = inspect.activity(cell, inputs("abcd"), "abcd")
    for ask in (units_for, similar):
        for begin, end in ((3, 2), (-1, 2), (0, 9)):
            with pytest.raises(ValueError, match="no passage"):
                ask(found, begin, end)
        with pytest.raises(ValueError, match="of an activity"):
            ask(inspect.Study("note", {"text": "?"}), 0, 1)
