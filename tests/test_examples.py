"""The examples run as their help says, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tinygrad_rnn.serialization import load, save

ROOT = Path(__file__).resolve().parents[1]
CHAR_LM = ROOT / "examples" / "char_lm.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends"))),
    "PYTHONIOENCODING": "utf-8",
    "OPENBLAS_NUM_THREADS": "1",  # small matrices, and other tests beside this one
}
SMALL = "--limit 20000 --embedding 6 --hidden 8 --layers 2 --batch 4 --window 10 --length 20".split()


def run(
    *options: str | Path, folder: Path, script: Path = CHAR_LM, status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(script), *map(str, options)]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("texts")


def test_char_lm_quick_learns_and_says_how_much(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path).stdout
    measured = dict(re.findall(r"^  (\S[\w -]*?) +(\d\.\d+)$", out, re.MULTILINE))
    assert set(measured) == {"order-2 n-gram", "order-4 n-gram", "LSTM"}
    bits = {name: float(text) for name, text in measured.items()}
    assert bits["order-4 n-gram"] < bits["order-2 n-gram"] < 3.2
    assert bits["LSTM"] < bits["order-2 n-gram"] - 0.05
    assert out.rstrip().splitlines()[-1].startswith("Verdict: the LSTM beats the order-2 n-gram")
    assert "chars/s" in out
    sample = out.partition("\n\n")[2]
    assert len(sample) > 500

    only = run("--quick", "--sample-only", "--prime", "The “é", "--length", "30", folder=tmp_path)
    assert only.stdout.startswith("The “é")
    assert len(only.stdout) == len("The “é") + 30 + 1
    again = run("--quick", "--sample-only", "--prime", "The “é", "--length", "30", folder=tmp_path)
    assert again.stdout == only.stdout
    assert os.listdir(tmp_path) == ["runs"]


def test_char_lm_resumed_is_char_lm_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit: weights, optimiser, state, and what it writes; the text begins anew at 112."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    straight = run(*SMALL, "--steps", "130", "--out", once, folder=tmp_path).stdout
    run(*SMALL, "--steps", "130", "--out", twice, "--minutes", "1e-9", folder=tmp_path)
    assert int(about(twice)["step"]) == 1
    ...
