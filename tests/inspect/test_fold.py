"""Folded graphs: small, exact when unfolded, and saying what goes from step to step."""

from __future__ import annotations

import cProfile
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn
from tinygrad_rnn.inspect import folding
from tinygrad_rnn.inspect import text as text_module
from tinygrad_rnn.inspect.capture import captured
from tinygrad_rnn.inspect.folding import operations_of

Step = Callable[[int, Tensor], Tensor]


def drawn(study: inspect.Study) -> int:
    """How many operations and leaves a folded graph shows."""
    lines = tg.to_text(study).splitlines()
    return sum(" = " in line and not line.lstrip().startswith(("#", "loop")) for line in lines)


def assert_exact(y: Tensor, study: inspect.Study | None = None) -> inspect.Study:
    """What is folded, saved, read and unfolded again is the graph, operation by operation."""
    folded = inspect.Study.from_json((study or inspect.fold(y)).to_json())
    assert operations_of(inspect.unfold(folded)) == captured("test", y).operations
    assert "?" not in tg.to_text(folded)
    return folded


def lstm(size: int = 3) -> nn.LSTMCell:
    return nn.LSTMCell(size, 4)


def inputs(T: int, requires_grad: bool = False) -> Tensor:
    return tg.ones((T, 2, 3), requires_grad=requires_grad)


def loss_each_step(T: int) -> Tensor:
    cell, readout = lstm(), nn.Linear(4, 1)
    h = c = tg.zeros((2, 4))
    loss: Any = 0
    for x in tg.unstack(inputs(T)):
        y, (h, c) = cell(x, (h, c))
        loss = loss + tg.mse_loss(readout(y), tg.zeros((2, 1)))
    return loss


def loss_in_a_second_loop(T: int) -> Tensor:
    cell, readout = lstm(), nn.Linear(4, 1)
    h = c = tg.zeros((2, 4))
    loss: Any = 0
    outputs = []
    for x in tg.unstack(inputs(T)):
        y, (h, c) = cell(x, (h, c))
        outputs.append(y)
    for y in outputs:
        loss = loss + tg.mse_loss(readout(y), tg.zeros((2, 1)))
    return loss


def two_layers(T: int) -> Tensor:
    hs, _ = tg.unroll(lstm(), inputs(T), mode="literal")
    return tg.sum(tg.unroll(lstm(4), hs, mode="literal")[0])


def bidirectional(T: int) -> Tensor:
    xs = inputs(T, requires_grad=True)
    there = tg.unroll(lstm(), xs, mode="literal")[0]
    back = tg.unroll(lstm(), xs, mode="literal", reverse=True)[0]
    return tg.sum(tg.concat([there, back], axis=-1))


def ragged(T: int) -> Tensor:
    return tg.sum(tg.unroll(lstm(), inputs(T), lengths=[T, 2 * T // 5], mode="literal")[0])


def zoneout(T: int) -> Tensor:
    cell = nn.Zoneout(nn.GRUCell(3, 4), 0.1)
    return tg.sum(tg.unroll(cell, inputs(T), mode="literal")[0])


def with_steps_that_differ(T: int, differs: Callable[[int], bool]) -> Tensor:
    cell = lstm()
    h = c = tg.zeros((2, 4))
    for t, x in enumerate(tg.unstack(inputs(T))):
        h, (h, c) = cell(x, (h, c))
        if differs(t):
            h = tg.relu(h) * 1.5
    return tg.sum(h)


ROWS = {
    "an LSTM, a loss each step": (loss_each_step, 3),
    "two loops, the loss in the second": (loss_in_a_second_loop, 3),
    "two layers": (two_layers, 4),
    "bidirectional": (bidirectional, 4),
    "ragged: two loops": (ragged, 4),
    "zoneout GRU": (zoneout, 1),
    "every third step differs": (lambda T: with_steps_that_differ(T, lambda t: t % 3 == 2), 6),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_recurrent_computation_is_folded_and_unfolds_exactly(row: str) -> None:
    build, carried = ROWS[row]
    y = build(150)
    folded = assert_exact(y)
    assert drawn(folded) < 100
    found = re.findall(r"# carried from step to step: (.*)", tg.to_text(folded))
    assert sum(line.count("from") for line in found) == carried


def test_a_thousand_steps_and_three_differ_in_counts_only() -> None:
    texts = [tg.to_text(assert_exact(loss_each_step(T))) for T in (1000, 3)]
    counts = [re.findall(r"loop t = 2, \.\.\., (\d+): (\d+) steps of 21", text) for text in texts]
    assert counts == [[("1000", "999")], [("3", "2")]]
    for build, _ in ROWS.values():
        if build not in (ragged, ROWS["every third step differs"][0]):
            many, few = (
                re.sub(r"\d+| +", "#", tg.to_text(inspect.fold(build(T)))) for T in (40, 6)
            )
            assert many.splitlines()[-20:] == few.splitlines()[-20:]


def test_what_a_random_branch_leaves_is_two_kinds_of_steps() -> None:
    choose = random.Random(0)
    branches = [choose.random() < 0.5 for _ in range(300)]
    text = tg.to_text(assert_exact(with_steps_that_differ(300, branches.__getitem__)))
    assert "299 steps of 3 kinds" in text  # the first step, from a state without gradient, is one
    counts = [int(n) for n in re.findall(r"kind \d: (\d+) steps", text)]
    assert (
        sorted(counts)[1:] == sorted([sum(branches[1:-1]), 298 - sum(branches[1:-1])])
        and counts.count(1) == 1
    )


def test_a_series_is_read_forwards_and_backwards() -> None:
    text = tg.to_text(inspect.fold(bidirectional(9)))
    assert re.search(r"matmul\(v\d+\[t-1\], ", text)
    assert re.search(r"matmul\(v\d+\[9-t\], ", text)
    assert "9 of v" in text and "backwards" in text


def weights() -> dict[str, Tensor]:
    return {name: tg.eye(3) * 0.5 for name in "wu"}


def leaves() -> dict[str, Tensor]:
    return {name: tg.tensor(x.numpy(), requires_grad=True) for name, x in weights().items()}


def test_loops_within_loops() -> None:
    names = leaves()
    a: Any = tg.ones((2, 3))
    for _ in range(6):
        b = a @ names["u"]
        for _ in range(5):
            c = tg.exp(b) * b
            for _ in range(7):
                c = tg.tanh(c @ names["w"] + b)
            b = b + tg.sin(c)
        a = tg.sigmoid(a + b)
    text = tg.to_text(assert_exact(tg.sum(a), inspect.fold(tg.sum(a), names)))
    assert re.search(r"^loop_\d t = 2, ..., 6: 5 steps of 128 operations", text, re.M)
    assert re.search(r"^  loop_\d s = 1, ..., 5: 5 steps of 25", text, re.M)
    assert re.search(r"^    loop_\d r = 1, ..., 7: 7 steps of 3", text, re.M)
    assert re.search(r"add\(v\d+\[r-1\], .*|matmul\(v\d+\[r-1\], w\)", text)
    assert re.search(r"sin\(v\d+\[last\]\)", text)


def test_interleaved_recurrences_lags_and_trees() -> None:
    names = leaves()
    a = b = tg.ones((2, 3))
    for _ in range(20):
        a = tg.tanh(a @ names["w"])
        b = tg.sigmoid(b @ names["u"]) * a
    text = tg.to_text(assert_exact(tg.sum(a) + tg.sum(b)))
    assert "19 steps of 5 operations" in text and text.count("[t-1]") == 2
    hs = [tg.ones((2, 3)) @ names["w"], tg.ones((2, 3)) @ names["u"]]
    for _ in range(12):
        hs.append(tg.tanh(hs[-1] @ names["w"] + hs[-2] @ names["u"]))
    text = tg.to_text(assert_exact(tg.sum(hs[-1])))
    assert "[t-1]" in text and "[t-2]" in text and "lag 2" in text
    level = [tg.tanh(tg.ones((2, 3)) @ names["w"]) for _ in range(32)]
    while len(level) > 1:
        level = [
            tg.sigmoid((x + y) @ names["u"]) for x, y in zip(level[::2], level[1::2], strict=True)
        ]
    text = tg.to_text(assert_exact(tg.sum(level[0])))
    assert "[2*t-1]" in text and "[2*t]" in text


def test_recursions_are_kinds_of_nodes() -> None:
    """Trees that a recursive function walks through: no stretch repeats, but each node does."""
    names = leaves()
    choose = random.Random(0)

    def leaf() -> Tensor:
        return tg.tanh(tg.ones((2, 3)) @ names["w"])

    def node(left: Tensor, right: Tensor) -> Tensor:
        return tg.tanh((left + right) @ names["w"])

    def full(depth: int) -> Tensor:
        return node(full(depth - 1), full(depth - 1)) if depth else leaf()

    def fibonacci(n: int) -> Tensor:
        return node(fibonacci(n - 1), fibonacci(n - 2)) if n > 1 else leaf()

    def any_tree(count: int) -> Tensor:
        if count == 1:
            return leaf()
        left = choose.randrange(1, count)
        return node(any_tree(left), any_tree(count - left))

    def with_memory(count: int) -> tuple[Tensor, Tensor]:
        """A tree of LSTMs: each leaf begins with another weight than an inner node."""
        if count == 1:
            return leaf(), tg.sigmoid(tg.ones((2, 3)) @ names["w"])
        left = choose.randrange(1, count)
        (h, c), (k, d) = with_memory(left), with_memory(count - left)
        f = tg.sigmoid(h @ names["u"] + k @ names["u"])
        c = f * c + (1.0 - f) * d
        return tg.tanh(c) * f, c

    folded = assert_exact(tg.sum(with_memory(60)[0]))
    assert "kinds" in tg.to_text(folded) and drawn(folded) < 60
    for root in (full(7), fibonacci(11), any_tree(90)):
        folded = assert_exact(tg.sum(root), inspect.fold(tg.sum(root), names))
        text = tg.to_text(folded)
        assert "steps of 4 kinds" in text and "[some earlier step]" in text
        assert drawn(folded) < 20
        assert "<svg" in folded.to_svg()


def test_an_index_that_counts_and_a_number_that_changes() -> None:
    x, w = tg.ones((9, 2, 3), requires_grad=True), tg.eye(3) * 0.5
    h = tg.zeros((2, 3))
    for t in range(9):
        h = tg.tanh(x[t] + h @ w) * 0.9**t
    text = tg.to_text(assert_exact(tg.sum(h), inspect.fold(tg.sum(h), {"x": x})))
    assert "getitem(x, key=(t-1,))" in text and "0.9 ... " in text


def program(seed: int) -> Tensor:
    """A random program of loops within loops, of series, lags and branches."""
    choose = random.Random(seed)
    p = [tg.tensor(np.eye(3) * scale, requires_grad=True) for scale in (1.0, 0.5)]
    series = tg.unstack(tg.tensor(np.ones((8, 2, 3)), requires_grad=choose.random() < 0.5))
    indexed = tg.tensor(np.ones((8, 2, 3)), requires_grad=True)
    kept: list[Tensor] = []
    operations: list[Callable[[Tensor, Tensor], Tensor]] = [
        lambda a, b: tg.tanh(a),
        lambda a, b: tg.tanh(a + b),
        lambda a, b: tg.sin(a * b),
        lambda a, b: a @ p[0],
        lambda a, b: tg.sigmoid(a @ p[1]),
        lambda a, b: a * 0.5,
        lambda a, b: tg.concat(tg.split(a, [1], axis=-1)[::-1], axis=-1),
    ]

    def block(depth: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        own = [choose.choice(operations) for _ in range(choose.randrange(1, 5))]
        inner = block(depth - 1) if depth and choose.random() < 0.6 else None
        steps, back = choose.randrange(1, 7), choose.random() < 0.5
        flags = [choose.random() < 0.3 for _ in range(5)]

        def run(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            for t in range(steps):
                place = 7 - t if back and t < 8 else t % 8
                if flags[0]:
                    b = b + series[place]
                if flags[1]:
                    a = a * indexed[place]
                if flags[2] and kept:
                    a = tg.tanh(a + kept[t % len(kept)])
                for f in own:
                    a, b = f(a, b), a
                if inner is not None:
                    a, b = inner(a, b)
                if flags[3] and t % 3 == 1:
                    a = tg.relu(a)
                if flags[4] and choose.random() < 0.4:
                    a = a - 0.1
                kept.append(a)
            return a, b

        return run

    a, b = tg.tensor(np.ones((2, 3))) @ p[1], tg.tensor(np.ones((2, 3)))
    for _ in range(choose.randrange(1, 4)):
        a, b = block(2)(a, b)
    joined = tg.sum(tg.stack(kept)) if choose.random() < 0.5 else 0.0
    return tg.sum(a + b) + joined


@given(st.integers(0, 10**6))
def test_unfolding_a_folded_program_gives_the_program(seed: int) -> None:
    assert_exact(program(seed))


def test_a_plan_is_drawn_as_its_step() -> None:
    w, u = tg.eye(3) * 0.5, tg.tensor(np.eye(3), dtype="float32", requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    folded = inspect.fold(tg.plan(cell, inputs(9), tg.zeros((2, 3))))
    text = tg.to_text(folded)
    assert "T steps of 4 operations" in text and re.search(r"matmul\(v\d+\[t-1\], captured\d", text)
    assert re.search(r"matmul\(x0\[t\].*all steps at once; test_fold.py:\d+", text)
    assert re.search(r"tanh.*in the loop", text)
    assert "<svg" in folded.to_svg()
    with pytest.raises(ValueError, match="any number of steps"):
        inspect.unfold(folded)
    literal = tg.plan(lambda x, h: (h * float(x.sum().item()), h), inputs(9), tg.zeros((2, 3)))
    with pytest.raises(ValueError, match="not planned"):
        inspect.fold(literal)


def test_names_and_lines_are_those_of_the_code_and_cost_nothing_unless_asked_for() -> None:
    xs = inputs(6)
    before = sys.getprofile()
    with inspect.record():
        outputs, _ = tg.unroll(nn.LSTMCell(3, 4), xs, mode="literal")
        total = tg.sum(outputs)
    assert sys.getprofile() is before
    text = tg.to_text(inspect.fold(total))
    for expected in (
        "sigmoid(f)",
        "matmul(h[t-1], weight_hh)",
        "multiply(v",
        "c = add(",
        "total = sum(outputs",
        "cells.py:",
        "test_fold.py:",
    ):
        assert expected in text
    unrecorded = tg.sum(tg.unroll(nn.LSTMCell(3, 4), xs, mode="literal")[0])
    assert "cells.py" not in tg.to_text(inspect.fold(unrecorded))


def test_a_profiler_goes_on_after_a_look() -> None:
    cell, xs = nn.LSTMCell(3, 4), inputs(6)
    profile = cProfile.Profile()
    profile.enable()
    try:
        with inspect.record():
            total = tg.sum(tg.unroll(cell, xs, mode="literal")[0])
        assert not inspect.explain_nonfinite(cell, xs, loss=tg.sum).data["found"]
        sorted([3, 1, 2])  # something that a profile shows
    finally:
        profile.disable()
    assert "cells.py" in tg.to_text(inspect.fold(total))
    seen = [str(entry.code) for entry in profile.getstats()]
    assert any("sorted" in code for code in seen)


def test_bad_input_is_refused_with_the_cure() -> None:
    x = tg.ones(3, requires_grad=True)
    y = tg.sum(tg.exp(x))
    y.backward()
    with pytest.raises(tg.ReleasedGraphError, match="retain_graph=True"):
        inspect.fold(y)
    for bad in (tg.ones(2), 3.0, None):
        with pytest.raises(TypeError, match="requires grad"):
            inspect.fold(bad)  # type: ignore[arg-type]
    x = tg.ones(3, requires_grad=True)
    with pytest.raises(TypeError, match="names: a module"):
        inspect.fold(tg.sum(x * 2.0), ["x"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not 3"):
        inspect.unfold(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no JSON"):
        inspect.Study.from_json("{")
    with pytest.raises(ValueError, match="no study"):
        inspect.Study.from_json("[]")
    with pytest.raises(ValueError, match="version 2"):
        inspect.Study.from_json('{"format": "tinygrad_rnn study", "version": 2}')
    with pytest.raises(ValueError, match=r"\.svg"):
        inspect.fold(tg.sum(x * x)).save("graph.png")


def test_a_traced_tensor_has_no_graph_and_no_values() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        # What fails here makes the cell one that is not planned.
        assert "no values" in x._repr_html_()  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="no values"):
            inspect.fold(x)
        return h, h + x

    tg.unroll(cell, inputs(9), tg.zeros((2, 3)), mode="planned")


def test_a_graph_too_long_to_read_says_so_and_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    h = tg.ones(1, requires_grad=True)
    for _ in range(5001):
        h = tg.sin(h)
    monkeypatch.setattr(text_module, "_MOST", 5000)
    monkeypatch.setattr(folding, "_LONGEST", 5002)
    with pytest.raises(ValueError, match="fold"):
        tg.to_text(h)
    with pytest.raises(ValueError, match="fold"):
        inspect.graph(h).to_svg()
    with pytest.raises(ValueError, match="5,003 nodes"):
        inspect.graph(tg.sum(h))
    assert "5000 steps of 1" in tg.to_text(inspect.fold(h))
