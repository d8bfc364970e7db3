"""``check_planned`` is content with rounding, names what it finds, and checks under ``-O``, too."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, testing
from tinygrad_rnn.testing import check_planned

ROOT = Path(__file__).resolve().parents[1]
BIAS = tg.tensor([0.1], requires_grad=True)


def test_rounding_of_a_sum_that_cancels_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient by the bias sums 9,600 terms of which a hundredth is left."""

    def cell(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x + BIAS + 0.9 * h)
        return h, h

    x = np.random.default_rng(21).standard_normal((300, 4, 8)).astype("float32")
    run = testing._run_in

    def wrong_by(share: float) -> Any:
        def altered(mode: str, *arguments: Any) -> Any:
            found = run(mode, *arguments)
            if mode == "planned":
                found["the gradient by BIAS"] = found["the gradient by BIAS"] * np.float32(
                    1 + share
                )
            return found

        return altered

    for share in (0.0, 6e-5):
        monkeypatch.setattr(testing, "_run_in", wrong_by(share))
        check_planned(cell, x, tg.zeros((4, 8)))
        with pytest.raises(AssertionError, match="differs") if share else nullcontext():
            check_planned(cell, x, tg.zeros((4, 8)), rtol=2e-5 if share else 1e-3)
    for share in (1e-3, -1e-2):
        monkeypatch.setattr(testing, "_run_in", wrong_by(share))
        with pytest.raises(AssertionError, match="the gradient by BIAS differs by"):
            check_planned(cell, x, tg.zeros((4, 8)))


def test_what_changes_from_call_to_call_is_not_taken_for_rounding() -> None:
    def cell(x: Tensor, h: Tensor) -> Any:
        cell.calls += 1
        h = tg.tanh(x + h) * (1 + 1e-4 * (cell.calls > 6))
        return h, h

    cell.calls = 0  # the literal loop is over before anything changes
    with pytest.raises(AssertionError, match="differs"):
        check_planned(cell, np.ones((6, 2, 3), "float32"), tg.zeros((2, 3)))


def test_check_planned_names_what_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tg.ones(4, requires_grad=True)

    class Own(nn.Module):
        def __init__(self) -> None:
            self.parts = [nn.LSTMCell(3, 4)]

        def forward(self, x: Tensor, state: Any) -> Any:
            y, state = self.parts[0](x, state)
            return y * inner, state

    def closure(x: Tensor, h: Tensor) -> Any:
        h = tg.tanh(x[:, :1] * inner * BIAS[0] + h)
        return h, h

    x = tg.tensor(np.random.default_rng(0).standard_normal((5, 3, 3)).astype("float32"))
    own = Own()
    state = own.parts[0].initial_state((3,), "float32", "numpy")
    found = [
        {*testing._run_in("literal", cell, x, start, {})}
        for cell, start in [(own, state), (closure, tg.zeros((3, 4)))]
    ]
    assert "the gradient by parts.0.weight_ih" in found[0]
    assert {"the gradient by inner", "the gradient by BIAS"} <= found[1]
    assert not any("captured leaf" in name for name in found[1])


UNDER_O = """
import numpy as np, tinygrad_rnn as tg
from tinygrad_rnn import testing
from tinygrad_rnn_backends import numpy_backend
assert False, "this is not run under -O"
def cell(x, h):
    cell.calls += 1
    h = tg.tanh(x + h) if cell.calls < 4 else tg.tanh(x - h)
    return h, h
cell.calls = 0
class Wrong(numpy_backend.NumpyBackend):
    def sigmoid(self, x):
        return super().sigmoid(x) * 1.01
square = tg.Primitive("wrong_square", "elementwise", lambda xp, x: x * x, lambda xp, g, x: g * x)
checks = [
    lambda: testing.check_planned(cell, np.ones((9, 2, 3)), tg.zeros((2, 3), dtype="float64")),
    lambda: testing.check_backend(Wrong()),
    lambda: testing.check_grads(lambda x: tg.apply(square, x).sum(), [np.ones(3)]),
]
for check in checks:
    try:
        check()
    except AssertionError as error:
        print("raised", str(error).split(":")[0])
"""


def test_the_checks_check_under_python_O() -> None:
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "backends")))
    done = subprocess.run(
        [sys.executable, "-O", "-c", UNDER_O],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line.split("(")[0] for line in done.stdout.splitlines()]
    assert said == ["raised check_planned", "raised check_backend", "raised check_grads"]
