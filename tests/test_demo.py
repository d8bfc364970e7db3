"""``python -m tinygrad_rnn demo``: it learns, says so, and can be stopped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tinygrad_rnn import demo
from tinygrad_rnn.__main__ import main


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "HIDDEN", 48)
    monkeypatch.setattr(demo, "BATCH", 4)


def test_prose_is_prose() -> None:
    text = demo.prose()
    assert len(text) > 50_000
    assert ">>>" not in text and "::=" not in text and "  " not in text


def test_it_learns_and_says_what_to_try_next(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seconds", "2"]) == 0
    told = capsys.readouterr().out
    found = re.search(r"never saw: ([\d.]+) bits a character, where guessing takes ([\d.]+)", told)
    assert found and float(found[1]) < float(found[2]) - 1
    assert "python -m tinygrad_rnn doctor" in told


@pytest.mark.parametrize(("steps", "status"), [(0, 130), (3, 0)])
def test_it_can_be_stopped(
    steps: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C shows what was learned so far, if anything was."""
    whole = demo.train

    def interrupted(*arguments: Any) -> Iterator[tuple[float, float]]:
        for step, told in enumerate(whole(*arguments)):
            if step == steps:
                raise KeyboardInterrupt
            yield told

    monkeypatch.setattr(demo, "train", interrupted)
    assert main(["demo", "--seconds", "60"]) == status
    told = capsys.readouterr().out
    assert "Stopped" in told and (f"done, {steps} steps" in told) == bool(steps)


@pytest.mark.parametrize("given", ["0", "-3", "nan", "soon"])
def test_seconds_are_above_0(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--seconds", given])
    assert "seconds" in capsys.readouterr().err
