"""What a plan says of itself: what was hoisted, what is carried, and what is held.

The words may change; what they have to tell may not. So a report is taken apart into its stages, by
their headings, and numbers and the lines of cells are looked for in the right one. The cells stand
at the top, so that the line of an operation is found by its text.

The subtle point of measuring what is held: a pool keeps the buffers that a call is done with. It is
told to forget them first, which leaves what the graph itself refers to.
"""

from __future__ import annotations

import gc
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from both_ways import KERNELS, forget_plans, plans_of
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.structure import flatten

STEPS, ROWS, INPUTS, WIDTH = 6, 4, 8, 16


def lstm(x: Tensor, state: Any, w: dict[str, Tensor], layer: str = "") -> Any:
    h, c = state
    from_x = x @ w["w" + layer]
    i, f, g, o = tg.split(from_x + h @ w["u" + layer], 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    h = tg.sigmoid(o) * tg.tanh(c)
    return h, (h, c)


def centred(x: Tensor, h: Tensor) -> Any:
    centre = tg.mean(h, axis=0, keepdims=True)
    h = tg.tanh(x + h - centre)
    return h, h


def branching(x: Tensor, h: Tensor) -> Any:
    if tg.sum(h) > 0:
        h = tg.tanh(h)
    return h, h + x


def numbers(*shape: int, dtype: str = "float32") -> Tensor:
    rng = np.random.default_rng(0)
    return tg.tensor(0.1 * rng.normal(size=shape), dtype=dtype, requires_grad=True)


WEIGHTS = {
    "w": numbers(INPUTS, 4 * WIDTH),
    "u": numbers(WIDTH, 4 * WIDTH),
    "w2": numbers(WIDTH, 4 * WIDTH),
    "u2": numbers(WIDTH, 4 * WIDTH),
}


def state(layers: int = 1, dtype: str = "float32") -> tuple[Tensor, ...]:
    return tuple(tg.zeros((ROWS, WIDTH), dtype) for _ in range(2 * layers))


def one_layer(x: Tensor, state: Any) -> Any:
    return lstm(x, state, WEIGHTS)


def two_layers(x: Tensor, state: Any) -> Any:
    h1, c1, h2, c2 = state
    y, (h1, c1) = lstm(x, (h1, c1), WEIGHTS)
    y, (h2, c2) = lstm(y, (h2, c2), WEIGHTS, "2")
    return y, (h1, c1, h2, c2)


def plan_of_lstm() -> Any:
    return tg.plan(one_layer, numbers(STEPS, ROWS, INPUTS), state())


def at(text: str) -> str:
    """The file and number of the first line of this file that contains a text."""
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if text in line)
    return f"{Path(__file__).name}:{number}:"


def stages(report: str) -> dict[str, list[str]]:
    """The stages of each pass: headings are indented by two, what is said of them by more."""
    found: dict[str, list[str]] = {}
    for line in report.splitlines():
        if line and not line.startswith(" "):
            entries = found.setdefault(line.split()[0], [])
        elif line.startswith("    "):
            entries[-1] += "\n" + line
        elif line:
            entries.append(line)
    return found


def loops(entries: list[str]) -> list[str]:
    return [entry for entry in entries if entry.lstrip().startswith("Loop")]


def rest(entries: list[str]) -> list[str]:
    return [entry for entry in entries if not entry.lstrip().startswith("Loop")]


# What was planned.


@pytest.mark.parametrize("name", ["Forward", "Backward"])
def test_one_product_a_step_is_left_in_each_loop_of_an_lstm(name: str) -> None:
    (loop,) = loops(stages(plan_of_lstm().report())[name])
    heading, *rows = loop.splitlines()
    assert re.search(r"\b1 product\b", heading)
    (product,) = [row for row in rows if " @ " in row.split(Path(__file__).name)[0]]
    assert at('tg.split(from_x + h @ w["u"') in product


def test_the_product_of_the_input_is_hoisted_with_its_line_and_shapes() -> None:
    forward = stages(plan_of_lstm().report())["Forward"]
    (hoisted,) = rest(forward)
    assert f"({INPUTS}, {4 * WIDTH})" in hoisted and at('from_x = x @ w["w"') in hoisted
    assert at('from_x = x @ w["w"') not in loops(forward)[0]


def test_what_goes_round_is_named_with_the_line_that_makes_it() -> None:
    (loop,) = loops(stages(plan_of_lstm().report())["Forward"])
    rows = loop.splitlines()
    assert any("state 0" in row and at("h = tg.sigmoid(o)") in row for row in rows)
    assert any("state 1" in row and at("c = tg.sigmoid(f)") in row for row in rows)


def test_gradients_of_weights_are_one_product_each_over_all_steps() -> None:
    backward = stages(plan_of_lstm().report())["Backward"]
    (sums,) = [entry for entry in rest(backward) if "Sums over time" in entry]
    heading, *rows = sums.splitlines()
    assert re.search(r"\b2 products\b", heading) and len(rows) == 2
    for width, text in ((INPUTS, 'from_x = x @ w["w"'), (WIDTH, 'tg.split(from_x + h @ w["u"')):
        assert any(f", {width}).T @ " in row and at(text) in row for row in rows)


def test_two_cells_in_one_function_are_two_loops_each_way() -> None:
    report = tg.plan(two_layers, numbers(STEPS, ROWS, INPUTS), state(2)).report()
    forward = stages(report)["Forward"]
    assert len(loops(forward)) == 2 == len(loops(stages(report)["Backward"]))
    assert all(re.search(r"\b1 product\b", entry) for entry in forward)  # four stages, in order
    assert [entry in loops(forward) for entry in forward] == [False, True, False, True]


def test_without_grad_there_is_no_backward_pass() -> None:
    with tg.no_grad():
        plan = plan_of_lstm()
    assert set(stages(plan.report())) & {"Forward", "Backward", "Held"} == {"Forward"}
    assert plan.held_bytes(STEPS, ROWS) == 0


def test_a_cell_that_mixes_rows_names_the_line() -> None:
    plan = tg.plan(
        centred, numbers(STEPS, ROWS, WIDTH), tg.zeros((ROWS, WIDTH)), lengths=[6, 3, 2, 1]
    )
    opening = plan.report().split("Forward pass")[0]
    lines = (at("centre = tg.mean(h, axis=0"), at("h = tg.tanh(x + h - centre)"))
    assert any(line[:-1] in opening for line in lines) and "not independent" in opening
    independent = tg.plan(
        one_layer, numbers(STEPS, ROWS, INPUTS), state(), lengths=[6, 3, 2, 1]
    ).report()
    assert "not independent" not in independent and "sum of the lengths" in independent


def test_draws_and_captured_rows_are_counted() -> None:
    memory = numbers(ROWS, WIDTH)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(tg.dropout(x, 0.5) @ WEIGHTS["w"][:, :WIDTH] + h * memory)
        return h, h

    words = " ".join(
        tg.plan(cell, numbers(STEPS, ROWS, INPUTS), tg.zeros((ROWS, WIDTH))).report().split()
    )
    assert "1 shared by all rows, 1 with an entry per row" in words
    assert "1 a step" in words


def test_a_report_fits_a_terminal_and_is_the_same_again_but_for_the_time() -> None:
    def report() -> str:
        forget_plans()
        return plan_of_lstm().report()

    lines, again = report().splitlines(), report().splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert [line for line in lines if " ms" not in line] == [x for x in again if " ms" not in x]


@pytest.mark.parametrize("fused", KERNELS)
def test_kernels_are_counted_or_it_is_said_why_there_are_none(fused: bool) -> None:
    with plans_of(fused):
        report = plan_of_lstm().report()
    passes = stages(report)
    for (loop,) in (loops(passes["Forward"]), loops(passes["Backward"])):
        assert bool(re.search(r"\b1 kernel\b", loop)) == fused
    assert ("TINYGRAD_RNN_JIT" in report) == (not fused)


# What was not planned.


def test_a_branch_on_a_value_is_the_reason_with_its_line_and_what_to_do() -> None:
    plan = tg.plan(branching, numbers(STEPS, ROWS, WIDTH), tg.zeros((ROWS, WIDTH)))
    assert plan.reason is not None and plan.reason in plan.report()
    assert at("if tg.sum(h) > 0")[:-1] in plan.report()
    assert "where instead of if" in plan.report().split("What to do:")[1]
    assert str(plan) == f"literal: {plan.reason}"
    assert plan.held_bytes(STEPS, ROWS) == 0


def counting() -> Callable[..., Any]:
    steps = [0]

    def cell(x: Tensor, h: Tensor) -> Any:
        steps[0] += 1
        return h, h + x * steps[0]

    return cell


def drawing() -> Callable[..., Any]:
    rng = np.random.default_rng(0)
    return lambda x, h: (h, h + x * tg.tensor(rng.normal(size=(ROWS, WIDTH)), dtype="float32"))


@pytest.mark.parametrize(
    ("make", "advice"), [(counting, "into the state"), (drawing, "tinygrad_rnn.random")]
)
def test_what_is_impure_is_told_what_to_do(make: Callable[..., Any], advice: str) -> None:
    plan = tg.plan(make(), numbers(STEPS, ROWS, WIDTH), tg.zeros((ROWS, WIDTH)))
    assert advice in plan.report().split("What to do:")[1]


def test_the_cache_lists_a_line_for_each_plan() -> None:
    forget_plans()
    plan = tg.plan(two_layers, numbers(STEPS, ROWS, INPUTS), state(2))
    tg.plan(counting(), numbers(STEPS, ROWS, WIDTH), tg.zeros((ROWS, WIDTH)))  # is not planned
    _, planned = str(tg.plan_cache()).splitlines()
    assert planned.strip() == str(plan)
    assert "2 loops forward of 1 + 1 products" in planned and "float32" in planned


# What is held.


def dropping(rows: int) -> tuple[Callable[..., Any], Any]:
    w, u = numbers(32, 32), numbers(32, 32)

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(tg.dropout(x, 0.3) @ w + tg.dropout(h, 0.2) @ u)
        return h, h

    return cell, tg.zeros((rows, 32))


def projecting(rows: int) -> tuple[Callable[..., Any], Any]:
    cell, v = nn.GRUCell(32, 32), numbers(32, 48)

    def step(x: Tensor, h: Tensor) -> Any:
        y, h = cell(x, h)
        return y @ v, h

    return step, tg.zeros((rows, 32))


def plain(make: Callable[[], Any]) -> Callable[[int], tuple[Any, Any]]:
    return lambda rows: (make(), None)


HOLDING = {
    "LSTM": plain(lambda: nn.LSTMCell(32, 32)),
    "GRU": plain(lambda: nn.GRUCell(32, 32)),
    "layer norm": plain(lambda: nn.LayerNormLSTMCell(32, 32)),
    "dropout": dropping,
    "output of its own": projecting,
}


@pytest.mark.parametrize("ragged", [False, True], ids=["batch", "ragged"])
@pytest.mark.parametrize("name", HOLDING)
def test_bytes_held_are_those_foretold(name: str, ragged: bool) -> None:
    steps, rows = 257, 33  # what buffers are rounded up to shows
    cell, initial = HOLDING[name](rows)
    lengths = [steps] * 10 + [60] * 23 if ragged else None
    x = numbers(steps, rows, 32)

    def run() -> Any:
        outputs = tg.unroll(cell, x, initial, lengths=lengths, mode="planned")
        tg.plan_cache().pool.clear()
        gc.collect()
        return outputs

    run()  # what is made once is not held by a call
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        y, _ = run()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    plan = tg.plan(cell, x, initial, lengths=lengths)
    if lengths or name == "output of its own":  # and no view of states that are held
        measured -= sum(_memory(leaf) for leaf in flatten(y)[0])
    foretold = plan.held_bytes(sum(lengths), 1) if lengths else plan.held_bytes(steps, rows)
    assert plan.ragged == ragged
    assert abs(measured - foretold) <= 0.1 * measured


def _memory(x: Tensor) -> int:
    """The bytes of the block that a Tensor lies in, which may be larger than it needs."""
    array: Any = x.numpy()
    while isinstance(array.base, np.ndarray):
        array = array.base
    return int(array.nbytes if array.base is None else array.base.raw().nbytes)


def test_the_report_lists_what_is_held_and_its_sum_with_lines() -> None:
    plan = plan_of_lstm()
    held = plan.report().split("Held for the backward pass")[1]
    each = 4 * WIDTH * 7  # four gates, the tanh of c, and both states
    assert f"{each:,} bytes per step and row" in held
    assert plan.held_bytes(2001, ROWS) - plan.held_bytes(1, ROWS) == pytest.approx(
        2000 * ROWS * each, rel=0.13
    )
    assert at("c = tg.sigmoid(f)") in held and at("h = tg.sigmoid(o)") in held
    assert f"{plan.held_bytes(100, ROWS):,} bytes" in held


def test_what_is_cheap_is_computed_again_instead_of_held() -> None:
    plan = tg.plan(nn.GRUCell(INPUTS, WIDTH), numbers(STEPS, ROWS, INPUTS))
    again = plan.report().split("computed again")[1]
    assert "1 elementwise operation" in again and "(1 - z) * n" in again
