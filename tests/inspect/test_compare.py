"""Planned against literal: every operation is in one class, and the report counts the same."""

from __future__ import annotations

import gc
import inspect as python
import re
import tracemalloc
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn

w = tg.ones((3, 4), requires_grad=True)
u = tg.eye(4) * 0.5


def elman(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    z = x @ w + h @ u
    h = tg.tanh(z)
    y = tg.exp(h) * 2.0
    return y, h


def inputs(T: int = 9, rows: int = 2) -> Tensor:
    return tg.ones((T, rows, 3))


CELLS: dict[str, tuple[Any, Any]] = {
    "a function": (elman, tg.zeros((2, 4))),
    "an LSTM": (nn.LSTMCell(3, 4), None),
    "a GRU": (nn.GRUCell(3, 4), None),
    "a layer norm LSTM": (nn.LayerNormLSTMCell(3, 4), None),
    "zoneout": (nn.Zoneout(nn.GRUCell(3, 4), 0.1), None),
}
_NOUN = re.compile(r"(\d+) (product|elementwise operation|reduction|rearrangement|look-up)")


@pytest.mark.parametrize("name", CELLS)
def test_each_operation_is_in_one_class_and_the_report_counts_them_alike(name: str) -> None:
    cell, state = CELLS[name]
    study = inspect.compare(cell, inputs(), state)
    report = tg.plan(cell, inputs(), state).report()
    for of_pass, part in zip(("forward", "backward"), halves(report), strict=True):
        for in_loop, mark in ((True, "Loop over time"), (False, "For all steps at once")):
            reported = Counter[str]()
            for line in part.splitlines():
                if line.strip().startswith(mark):
                    reported += Counter({noun: int(n) for n, noun in _NOUN.findall(line)})
            counted = Counter(
                v["kind"]
                for v in study.data["values"]
                if v["pass"] == of_pass and "kind" in v and (v["loop"] is not None) == in_loop
            )
            assert counted == reported
    classes = {"before the loop", "in the loop", "after the loop", "sum over time"}
    classes |= {"computed again", "rearranged with sums of other lines"}
    assert {v["class"] for v in study.data["values"]} <= classes
    sums = re.search(r"Sums over time, after the loop: (\d+) product", report)
    products = [v for v in study.data["values"] if v["class"] == "sum over time"]
    assert sum(v["operation"] == "product" for v in products) == int(sums.group(1) if sums else 0)


def halves(report: str) -> tuple[str, str]:
    forward, _, backward = report.partition("Backward pass;")
    return forward, backward.partition("Held for the backward pass")[0]


def test_a_line_is_linked_to_what_became_of_it_and_to_the_program() -> None:
    study = inspect.compare(elman, inputs(), tg.zeros((2, 4)))
    first = python.getsourcelines(elman)[1]
    became = {line["place"]: line["became"] for line in study.data["source"]}
    product = {
        (b["pass"], b["class"]): b["operations"] for b in became[f"test_compare.py:{first + 1}"]
    }
    assert product["forward", "before the loop"] == ["matmul"]
    assert sorted(product["forward", "in the loop"]) == ["add", "matmul"]
    assert product["backward", "sum over time"] == ["product"]
    (squashed,) = became[f"test_compare.py:{first + 2}"]
    assert squashed["class"] == "in the loop" and squashed["operations"] == ["tanh"]
    linked = [p for line in study.data["program"] for p in line["places"]]
    assert {f"test_compare.py:{first + n}" for n in (1, 2)} <= set(linked)
    text = str(study)
    assert "z = x @ w + h @ u" in text and "program lines" in text
    assert "state 0 of one step is needed to compute that of the next" in text
    literal = study.data["literal"]
    assert any("tanh" in str(item) for item in literal["items"])


def test_no_line_of_a_cell_is_passed_over() -> None:
    """Sums that the planner takes apart are told of where they were written."""
    source = inspect.compare(nn.LSTMCell(3, 4), inputs()).data["source"]
    became = {line["text"].strip(): line["became"] for line in source}
    bias = next(b for text, b in became.items() if "projected + self.bias" in text)
    assert {
        "pass": "forward",
        "class": "rearranged with sums of other lines",
        "operations": ["add"],
    } in bias
    for text, told in became.items():
        computes = any(op in text for op in ("@", "tanh(", "activation(", "+ "))
        assert not computes or any(b["pass"] == "forward" for b in told) or "self.weight_hr" in text


def test_the_memory_that_is_plotted_is_that_of_the_graph() -> None:
    cell = nn.LSTMCell(64, 256)
    xs = tg.ones((12, 64, 64))
    memory = inspect.compare(cell, xs).data["memory"]
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        loss = tg.sum(tg.unroll(cell, xs, mode="literal")[0])
        gc.collect()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert loss.requires_grad
    assert abs(memory["literal"] - measured) < 0.1 * measured
    assert memory["literal by step"] == sorted(memory["literal by step"])
    assert memory["plan"] > 0


def test_a_cell_without_a_plan_is_refused_and_the_study_is_drawn() -> None:
    def branching(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return h, h + x if float(tg.sum(x).item()) else h

    with pytest.raises(ValueError, match="no plan to compare with"):
        inspect.compare(branching, inputs(), tg.zeros((2, 3)))
    study = inspect.compare(elman, inputs(), tg.zeros((2, 4)))
    ElementTree.fromstring(study.to_svg())
    ElementTree.fromstring(study._repr_html_())
    assert inspect.Study.from_json(study.to_json()) == study
