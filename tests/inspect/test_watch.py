"""The board: bounded, cheap, honest about what it left out, and left valid by Ctrl-C."""

from __future__ import annotations

import io
import math
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import inspect, nn, optim
from tinygrad_rnn.inspect import board as boards
from tinygrad_rnn.inspect import terminal as terminals
from tinygrad_rnn.inspect.board import Series


def train(steps: int, *, fault: int | None = None, **options: Any) -> inspect.Board:
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    board = inspect.watch(model, optimizer, **options)
    x = tg.ones((4, 3))
    for step in board(range(steps)):
        loss = tg.mean(model(x) ** 2)
        if step == fault:
            loss = loss * math.inf
        optimizer.zero_grad()
        loss.backward()
        norm = optim.clip_grad_norm_(model.parameters(), 0.5) if fault is None else 0.0
        if step != fault:
            optimizer.step()
        board(loss=loss, norm=norm, max_norm=0.5)
    return board


def silent(line: str) -> None:
    pass


def test_it_shows_loss_gradients_updates_and_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "SHARE", math.inf)
    study = train(30, write=silent).study()
    series = study.data["series"]
    expected = {"loss", "norm"}
    expected |= {f"{what} of {p}" for what in ("gradient", "update") for p in ("weight", "bias")}
    assert set(series) == expected and study.data["every"] == 1
    assert [len(series[name]["buckets"]) for name in expected] == [30] * 6
    assert 0 < study.data["clip rate"] < 1
    # Plain SGD goes lr * |g| / |w|, and the bias starts at 0, from which there is no ratio.
    first = series["update of weight"]["buckets"][0]
    assert 0 < first[0] <= 0.1 * 0.5 / 0.1
    ElementTree.fromstring(study._repr_html_())
    assert "clipped in" in str(study) and "gradient of weight" in study.to_svg()


def test_what_is_not_finite_is_a_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "SHARE", math.inf)
    study = train(12, fault=5, write=silent).study()
    assert study.data["series"]["loss"]["buckets"][5] == [1]
    assert study.data["series"]["not finite in weight"]["last"] == 0.0
    assert "1 values not finite" in str(study) and "1 not finite" in study.to_svg()
    assert inspect.Study.from_json(study.to_json()) == study


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1), st.data())
def test_buckets_lose_no_extreme_and_no_fault(values: list[float], data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=len(values), max_size=len(values)))
    series, step = Series(8), 0
    for gap, value in zip(gaps, values, strict=True):
        series.add(step, value)
        step += gap
    finite = [v for v in values if math.isfinite(v)]
    full = [b for b in series.buckets if b[3]]
    assert len(series.buckets) <= 8
    assert sum(b[4] for b in series.buckets) == len(values) - len(finite)
    assert sum(b[3] for b in series.buckets) == len(finite)
    if finite:
        assert min(b[0] for b in full) == min(finite) and max(b[1] for b in full) == max(finite)


def test_a_million_steps_take_less_than_a_megabyte() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(20)])
    board = inspect.watch(model, write=silent)
    for name in [n for p in board.parameters for n in (f"gradient of {p}", f"update of {p}")]:
        for step in range(0, 1_000_000, 997):
            board.step = step
            board._add(name, 1.0 / (step + 1))
    assert len(board.study().to_json()) < 1_000_000


def test_it_looks_less_often_when_looking_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "SHARE", 0.0)
    study = train(400, write=silent).study()
    assert study.data["every"] > 8 and "looked at every" in str(study)
    assert len(study.data["series"]["gradient of weight"]["buckets"]) > 2
    counted = sum(b[3] > 0 if len(b) > 3 else 0 for b in study.data["series"]["loss"]["buckets"])
    assert counted >= 0 and study.data["steps"] == 400


def test_ctrl_c_leaves_a_valid_page(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    board = inspect.watch(model, page=tmp_path / "run.html", write=silent)

    def loop() -> None:
        for step in board(range(100)):
            board(loss=float(step))
            if step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    page = (tmp_path / "run.html").read_text()
    assert page.rstrip().endswith("</html>") and "8 steps" in page
    assert [p.name for p in tmp_path.iterdir()] == ["run.html"]


def test_without_a_terminal_lines_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    train(5, seconds=0.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("step 5: loss ") and not any("\x1b" in line for line in lines)


def test_a_flow_is_shown_beside_the_series() -> None:
    cell = nn.GRUCell(3, 4)
    board = inspect.watch(cell, write=silent)
    found = inspect.flow(cell, tg.ones((6, 2, 3)), lambda y: tg.sum(y[-1]))
    board(loss=1.0, gradients=found)
    study = board.study()
    assert f"gradients at step 1: {found.data['diagnosis']}" in str(study)
    assert "h, step 6" in study.to_svg()


def test_the_live_page_is_for_those_who_know_its_address(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    lines: list[str] = []
    board = inspect.watch(model, serve=True, write=lines.append)
    address = board.address
    assert address is not None and address.startswith("http://127.0.0.1:") and address in lines[0]
    for _ in board(range(3)):
        board(loss=0.25)
        with urllib.request.urlopen(address) as page:
            assert "default-src 'none'" in page.headers["Content-Security-Policy"]
            assert "EventSource" in page.read().decode()
        with urllib.request.urlopen(f"{address}events") as events:
            assert "loss" in events.readline().decode()
        for elsewhere in (address[: address.rindex("/", 0, -1)] + "/guess/", f"{address}../"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(elsewhere)
        other = urllib.request.Request(address, headers={"Host": "example.org"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(other)
    assert board.address is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(TypeError, match="a Module"):
        inspect.watch(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no parameters"):
        inspect.watch(nn.Dropout(0.5))
    board = inspect.watch(nn.Linear(2, 2), write=silent)
    with pytest.raises(ValueError, match="scalar"):
        board(loss=tg.ones(3))


def flowing(steps: int, every: int, **options: Any) -> tuple[inspect.Board, list[float]]:
    """A loop whose loss draws numbers, with a flow that draws some, too."""
    tg.manual_seed(0)
    cell = nn.GRUCell(3, 4)
    xs = tg.ones((6, 2, 3))

    def flow() -> inspect.Study:
        return inspect.flow(cell, tg.dropout(xs, 0.5), lambda hs: tg.sum(hs[-1]))

    board = inspect.watch(cell, write=silent, flow=flow, every=every, **options)
    drawn = []
    for _ in board(range(steps)):
        drawn.append(tg.dropout(tg.ones(20), 0.5).numpy().sum())
        board(loss=1.0)
    return board, drawn


def test_flows_are_taken_by_themselves_and_leave_the_random_numbers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "ASIDE", math.inf)
    board, drawn = flowing(7, every=3)
    study = board.study()
    assert [s["step"] for s in study.data["strips"]] == [2, 5]
    assert study.data["attached"]["flow"]["step"] == 5
    assert "flow at step 6: carried" in str(study) or "flow at step 6: vanishing" in str(study)
    assert "h, step 3, steps 6" in study.to_svg() or "h, step 3, step 6" in study.to_svg()
    assert drawn == flowing(7, every=100)[1]
    board, _ = flowing(120, every=1)
    assert 12 <= len(board.study().data["strips"]) <= boards._STRIPS


def test_flows_that_take_too_long_are_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "ASIDE", 0.0)
    board, _ = flowing(9, every=2)
    assert board.flows == 1 and "3 flows were left out" in str(board.study())
    with pytest.raises(TypeError, match=r"what inspect\.flow does"):
        list(inspect.watch(nn.Linear(2, 2), write=silent, flow=lambda: 3, every=1)([0]))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="every"):
        inspect.watch(nn.Linear(2, 2), every=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("rich_is_there", [True, False])
def test_in_a_terminal_it_is_a_table_if_there_is_rich(
    rich_is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rich_is_there:
        pytest.importorskip("rich")
    else:
        monkeypatch.setattr(terminals, "find_spec", lambda name: None)
    monkeypatch.setattr(boards, "ASIDE", math.inf)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    cell = nn.GRUCell(3, 4)
    found = inspect.flow(cell, tg.ones((6, 2, 3)), lambda hs: tg.sum(hs[-1]))
    board = inspect.watch(cell, flow=lambda: found, every=2)
    for step in board(range(4)):
        board(loss=1.0 / (step + 1), odd=math.nan)
    shown = screen.getvalue()
    assert board.live is None
    if rich_is_there:
        for expected in ("series", "loss", "0.25", "4 not finite", "|dL/dh|", "step 4", "█"):
            assert expected in shown
    else:
        assert "step 4: loss 0.25" in shown and "series" not in shown
