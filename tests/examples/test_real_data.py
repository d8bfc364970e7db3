"""The applications on the data that packages bring; ``.ci/run`` installs these and runs this."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.data


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("datasets")


def test_there_is_as_much_as_the_readers_say(datasets: Any) -> None:
    images, labels = datasets.digits()
    assert images.shape == (5000, 28, 28) and set(np.bincount(labels)) == {500}
    reviews = datasets.reviews()
    assert len(reviews) == 12_808 and len({film for film, _, _ in reviews}) == 508
    exercises = datasets.exercises()
    assert len(exercises) == 140 and len({person for person, _, _ in exercises}) == 10
    hours = datasets.traffic()
    assert len(hours) == 17_520 and sum(hour["traffic_volume"] == "" for hour in hours) == 104
    sites = datasets.binding_sites()
    assert Counter(label for _, _, label in sites) == {1: 3997, 0: 4000}
    assert {len(sequence) for _, sequence, _ in sites} == {200}
    conversations = datasets.conversations()
    assert len(conversations) == 1079
    assert ("What was the first state?", "Delaware") in conversations
    chorales = datasets.chorales()
    assert len(chorales) == 364
    assert all(x.min() >= 0 and x.max() < 90 and x.shape[1] == 4 for x in chorales.values())
    messages = datasets.messages()  # of whatever versions pip finds for this Python
    assert len(messages) > 9_000 and ("Password", "Mot de passe") in messages


@pytest.mark.parametrize(
    "name",
    [
        "anomalies",
        "binding_sites",
        "caption",
        "chat",
        "chorales",
        "digits",
        "gestures",
        "keras_summary",
        "sentiment",
        "speech_digits",
        "traffic_forecast",
        "translate",
        "video_frames",
        "weather_forecast",
    ],
)
def test_quick_runs_end_with_a_table(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py"), "--quick"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^  \S.* \d", done.stdout, re.MULTILINE)
    if name != "weather_forecast":
        assert re.search(r"^Verdict: ", done.stdout, re.MULTILINE)
