"""The backward debugger: totals are those of ``backward`` bit for bit, and back undoes forth."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_fold import program

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn
from tinygrad_rnn.graph import TABLE
from tinygrad_rnn.inspect import replaying
from tinygrad_rnn.inspect.rules import rule_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def leaves(names: str, seed: int = 0) -> dict[str, Tensor]:
    rng = np.random.default_rng(seed)
    return {
        n: tg.tensor(rng.normal(size=(3, 3)), dtype="float32", requires_grad=True) for n in names
    }


def recorded_lstm(steps: int = 6) -> tuple[Tensor, nn.LSTMCell]:
    xs = np.random.default_rng(1).normal(size=(steps, 2, 3)).astype("float32")
    cell = nn.LSTMCell(3, 4)
    with inspect.record(values=True):
        hs, _ = tg.unroll(cell, tg.tensor(xs, requires_grad=True), mode="literal")
        loss = tg.sum(hs * hs)
    return loss, cell


def indexed() -> Tensor:
    w = leaves("w")["w"]
    x = tg.ones((4, 3), requires_grad=True)
    rows = [x[i] @ w for i in (0, 2, 2)]
    return tg.sum(tg.stack(rows) * x[tg.tensor([0, 0, 1])] + tg.max(w, axis=0))


def small_attention() -> Tensor:
    own = leaves("qkv")
    attended = tg.scaled_dot_product_attention(*own.values())
    return tg.mean(tg.layer_norm(attended) ** 3)


LOSSES: dict[str, Callable[[], Tensor]] = {
    "an LSTM": lambda: recorded_lstm()[0],
    "a ragged GRU": lambda: tg.sum(
        tg.unroll(nn.GRUCell(3, 4), tg.ones((5, 2, 3)), lengths=[5, 2], mode="literal")[0]
    ),
    "a planned loop": lambda: tg.sum(
        tg.unroll(nn.GRUCell(3, 4), tg.ones((9, 2, 3)), mode="planned")[0]
    ),
    "indices, ties": indexed,
    "attention": small_attention,
    "a random program": lambda: program(7),
    "another": lambda: program(23),
}


@pytest.mark.parametrize("name", LOSSES)
def test_to_the_end_gives_the_totals_of_backward_bit_for_bit(name: str) -> None:
    loss = LOSSES[name]()
    walk = inspect.replay(loss)
    nodes, totals = walk._captured.leaf_nodes, walk.totals
    while walk.number < len(walk) - 1:
        walk.next()
    last = {}
    for n in range(len(walk)):
        c = walk.contribution(n)
        last[c.parent] = c.total
    loss.backward()
    for node, total in zip(nodes, totals.values(), strict=True):
        assert node.grad is not None
        assert np.array_equal(node.grad.numpy(), total)
        assert np.array_equal(last[node], total)


def test_back_undoes_forth_and_the_graph_is_left_alone() -> None:
    loss, _ = recorded_lstm(30)
    walk = inspect.replay(loss)
    assert len(walk) > 300  # more than one mark
    seen = [walk.text(n) for n in range(0, len(walk), 41)]
    walk.go(len(walk) - 1)
    while walk.number:
        walk.previous()
    assert [walk.text(n) for n in range(0, len(walk), 41)] == seen
    here = walk.go(100)
    assert walk.next().number == 101
    assert str(walk.previous()) == str(here)
    steps = []
    walk.go(0)
    while walk.number < len(walk) - 1:
        steps.append(walk.next_step().steps)
    assert [s[0] for s in steps if s] == list(range(30, 1, -1))
    for expected in (2, 3, 4):
        assert walk.previous_step().steps == (expected,)
    loss.backward()


def test_each_rule_of_the_table_is_shown_as_it_was_written() -> None:
    rules = [v for p in TABLE.values() for v in p.vjps if v is not None]
    texts = [rule_of(v).text for v in rules]
    assert len(texts) >= 56 and not [t for t in texts if "source is not there" in t]
    assert rule_of(TABLE["tanh"].vjps[0]).text == "g * (1 - out * out)"
    assert [rule_of(v).text for v in TABLE["multiply"].vjps] == ["g * y", "g * x"]


def test_a_stop_shows_the_rule_what_it_reads_its_parts_and_what_is_added() -> None:
    loss, _ = recorded_lstm()
    walk = inspect.replay(loss)
    walk.add_breakpoint("gate=f")
    stop = walk.resume()
    assert (stop.operation, stop.gate, stop.steps) == ("sigmoid", "f", (6,))
    assert stop.line is not None and "cells.py" in stop.line
    assert stop.rule == "g * (out - out * out)"
    parts = {part.text: part.value for part in stop.parts}
    out = dict(stop.reads)["out"]
    assert_allclose(parts["out - out * out"], out - out * out)
    assert_allclose(parts["g * (out - out * out)"], stop.part)
    uses = list(walk.contributions_to("weight_hh"))
    assert [u.use for u in uses] == [1, 2, 3, 4, 5, 6]
    for earlier, later in pairwise(uses):
        assert np.array_equal(earlier.total, later.before)
        assert np.array_equal(later.before + later.part, later.total)
    walk.go(0)
    with pytest.raises(ValueError, match="gate=f"):
        walk.add_breakpoint("f")
    for condition, holds in {
        "op=tanh": lambda s: s.operation == "tanh",
        "|part|>0.5": lambda s: np.abs(s.part).max() > 0.5,
        "step=4": lambda s: s.steps == (4,),
        "name=h": lambda s: s.name == "h",
    }.items():
        fresh = inspect.replay(loss)
        fresh.add_breakpoint(condition)
        found = fresh.resume()
        assert holds(found) and not any(holds(fresh.stop(n)) for n in range(1, found.number))


def test_into_a_value_and_out_again_and_a_nan_is_larger_than_any_bound() -> None:
    loss, _ = recorded_lstm(3)
    walk = inspect.replay(loss)
    for n in range(0, len(walk), 7):
        here = walk.go(n)
        inside = walk.into()
        if here.to < 0:  # a leaf has no rule
            assert inside.number == n
            continue
        assert inside.node == here.to and inside.number > n
        back = walk.out()
        assert back.to == here.to and back.number >= n
    assert walk.go(0).node == walk.out().node == walk.stop(0).node
    x = tg.tensor([0.0, 4.0], requires_grad=True)
    walk = inspect.replay(tg.sum(tg.sqrt(x) * tg.tensor([0.0, 1.0])), {"x": x})
    walk.add_breakpoint("|part|>10")
    assert walk.resume().operation == "sqrt"


def test_bptt_by_hand_is_reproduced_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = runpy.run_path(str(EXAMPLES / "bptt_by_hand.py"), run_name="example")
    given = example["numbers"](0)
    graph = given | {f"U{t}": 1 * given["U"] for t in (1, 2, 3)}
    for _ in example["run"](example["FORWARD"], graph, {"tanh": tg.tanh}):
        pass
    paper = {name: x.numpy() for name, x in graph.items()}
    walk = inspect.replay(graph["L"], graph)
    lines = 0
    for _, name in example["run"](example["BACKWARD"], paper, {}):
        if name:
            assert_allclose(walk.total(name[1:]), paper[name], rtol=1e-12, atol=1e-15)
            lines += 1
    assert lines == 17
    sys.modules.pop("support", None)


def test_a_finite_difference_agrees_at_every_contribution() -> None:
    loss, _ = recorded_lstm(3)
    walk = inspect.replay(loss)
    for n in range(0, len(walk), 3):
        by_difference, total, _ = walk.difference(n)
        assert_allclose(by_difference, total, rtol=1e-4, atol=1e-6)
    unrecorded = inspect.replay(LOSSES["a ragged GRU"]())
    with pytest.raises(RuntimeError, match=r"record\(values=True\)"):
        unrecorded.difference(5)


def test_primitives_of_ones_own_work() -> None:
    cube = tg.Primitive(
        "cube", "elementwise", lambda xp, x: x * x * x, lambda xp, g, x: g * (3 * x * x)
    )
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    walk = inspect.replay(tg.sum(tg.apply(cube, x)), {"x": x})
    stop = walk.next()
    assert stop.rule == "g * (3 * x * x)" and stop.target == "x"
    assert_allclose(stop.total, [3.0, 12.0])
    made: dict[str, Any] = {}
    exec("rule = lambda xp, g, x: g * 2", made)
    double = tg.Primitive("double", "elementwise", lambda xp, x: 2 * x, made["rule"])
    stop = inspect.replay(tg.sum(tg.apply(double, x))).next()
    assert "source is not there" in stop.rule
    assert_allclose(stop.total, [2.0, 2.0])


def test_in_a_terminal_and_without_one() -> None:
    loss, _ = recorded_lstm(3)
    keys = iter(["n", "N", "p", "b op=tanh", "c", "w bias", "x", "goto 5", "goto 999", "?", "q"])
    written: list[str] = []
    inspect.replay(loss).interact(lambda prompt: next(keys), written.append)
    assert written[0].startswith("[0 of ") and written[1].startswith("[1 of ")
    assert "breakpoint: op=tanh" in written[4] and "= tanh(...)" in written[5]
    assert written[6].count("total") == 3 and "by difference" in written[7]
    assert written[8].startswith("[5 of ") and "numbered 0 to" in written[9]
    assert "goto N" in written[10] and len(written) == 11
    written.clear()
    inspect.replay(loss).interact(write=written.append)
    assert "no terminal" in written[-1]


def test_two_leaves_of_one_name_are_told_apart() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 2)
    with inspect.record():
        loss = tg.sum(second(tg.tanh(first(tg.ones((2, 3))))))
    walk = inspect.replay(loss)
    assert sorted(walk.totals) == ["bias", "bias_2", "weight", "weight_2"]
    sizes = walk.study().data["sizes"]
    assert {name: len(own) for name, own in sizes.items()} == dict.fromkeys(walk.totals, 1)
    assert walk.totals["bias_2"].shape != walk.totals["bias"].shape


def test_bad_input_is_refused() -> None:
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="scalar"):
        inspect.replay(x * 2.0)
    with pytest.raises(TypeError, match="requires grad"):
        inspect.replay(tg.ones(()))
    y = tg.sum(tg.exp(x))
    y.backward()
    with pytest.raises(tg.ReleasedGraphError, match="replay"):
        inspect.replay(y)
    walk = inspect.replay(tg.sum(tg.exp(x)), {"x": x})
    with pytest.raises(ValueError, match="no contribution to 'u'"):
        walk.total("u")
    with pytest.raises(IndexError, match="numbered 0 to 1"):
        walk.go(2)


def test_it_is_a_document_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, _ = recorded_lstm(4)
    study = inspect.replay(loss).study()
    again = inspect.Study.from_json(study.to_json())
    assert str(again) == str(study) and "gradient of weight_hh" in str(study)
    assert "g * (1 - out * out)" in study._repr_html_()
    sizes = study.data["sizes"]["weight_hh"]
    walk = inspect.replay(loss)
    parts = [np.linalg.norm(u.part) for u in walk.contributions_to("weight_hh")]
    assert_allclose(sizes, parts[::-1], rtol=1e-6)
    assert not study.data["later uses"] and "weight_hh, part 4" in study.to_svg()
    monkeypatch.setattr(replaying, "_SHOWN", 30)
    study = inspect.replay(loss).study()
    own = [s for s in study.data["stops"] if s["target"] == "weight_hh"]
    later = study.data["later uses"]["weight_hh"]
    assert len(own) + len(later) == len(parts) and "at step 2: " in later[-2]
    assert later[-1].partition("; total ")[2] == study.data["totals"]["weight_hh"]
    for name, make in LOSSES.items():
        assert "gradient of" in str(inspect.replay(make()).study()), name
