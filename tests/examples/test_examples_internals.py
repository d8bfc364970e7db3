"""The examples for those who extend the library run, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "internals"


def python(*options: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    command = [sys.executable, "-W", "error", *options]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def run(script: str) -> str:
    done = python(str(FOLDER / script))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_add_a_primitive() -> None:
    out = run("add_a_primitive.py")
    x = np.array([-2.0, 0.5, 3.0], dtype=np.float32)
    assert "v2 = softsign(x)" in out
    assert (
        f"first derivative:  tensor({np.array2string(1 / (1 + abs(x)) ** 2, separator=', ')})"
        in out
    )
    second = -2 * np.sign(x) / (1 + abs(x)) ** 3
    assert f"second derivative: tensor({np.array2string(second, separator=', ')}" in out


def test_the_primitive_takes_ten_lines() -> None:
    lines = (FOLDER / "add_a_primitive.py").read_text(encoding="utf-8").splitlines()
    first = lines.index("_softsign = tg.Primitive(")
    last = next(i for i, line in enumerate(lines) if "tg.apply(_softsign, x)" in line)
    code = [line for line in lines[first : last + 1] if line.strip()]
    assert len(code) <= 10


def test_add_a_backend() -> None:
    """It asserts itself that both backends give the same gradient."""
    numpy, strict = run("add_a_backend.py").splitlines()
    assert numpy.split("|")[1:] == strict.split("|")[1:]


def test_add_a_backend_without_its_library_says_what_to_install() -> None:
    script = str(FOLDER / "add_a_backend.py")
    code = f"import sys, runpy; sys.modules['array_api_strict'] = None; runpy.run_path({script!r})"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "add_a_backend.py needs the library that it adds: pip install array-api-strict"
    ]
