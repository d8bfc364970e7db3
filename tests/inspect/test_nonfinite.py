"""Planted faults are found: step, row, gate, operation and line; and what is meant is no fault."""

from __future__ import annotations

import inspect as python
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, inspect, nn
from tinygrad_rnn.inspect import nonfinite
from tinygrad_rnn.structure import map_leaves

T, ROWS = 12, 4


class Gated(nn.Module):
    """A unit with a gate f; a large x makes its exp overflow, and x = 0 its derivative infinite."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.w = nn.Parameter(tg.eye(3) * 0.1)
        self.u = nn.Parameter(tg.eye(3) * 0.5)
        self.b = nn.Parameter(tg.ones(3))

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Tensor:
        return tg.zeros((*batch_shape, 3), dtype, backend=backend)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z = x @ self.w + h @ self.u
        if self.fault == "values":
            f = tg.exp(z)  # overflows
            return (h := tg.tanh(f / (f + 1.0) - z)), h
        f = tg.sqrt(tg.abs(x * (self.b + 0.1 * h)))  # has no derivative
        return (h := tg.tanh(z + f)), h


LINES = {
    "values": ("exp", "# overflows"),
    "gradients": ("sqrt", "# has no derivative"),
}


def line_of(comment: str) -> int:
    lines, first = python.getsourcelines(Gated)
    return first + next(n for n, line in enumerate(lines) if comment in line)


def series(seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 1.0, (T, ROWS, 3)).astype("float32")


def squares(outputs: Tensor, *targets: Tensor) -> Tensor:
    return tg.sum(outputs * outputs)


@pytest.mark.parametrize("how", ["planned", "ragged", "truncated"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("fault", LINES)
def test_a_planted_fault_is_found(fault: str, place: str, how: str) -> None:
    lengths = [T, 7, 9, 3]
    row = 2
    end = lengths[row] if how == "ragged" else T
    step = {"first": 0, "middle": end // 2, "last": end - 1}[place]
    xs = series()
    xs[step, row, 1] = 5000.0 if fault == "values" else 0.0
    options: dict[str, Any] = {}
    if how == "ragged":
        options["lengths"] = lengths
        for r, n in enumerate(lengths):
            xs[n:, r] = np.nan  # padding
    if how == "truncated":
        options |= {"truncate": 5, "targets": tg.zeros((T, 1))}
    study = inspect.explain_nonfinite(Gated(fault), tg.tensor(xs), loss=squares, **options)
    data = inspect.Study.from_json(study.to_json()).data
    operation, comment = LINES[fault]
    assert data["found"] and data["where"] == fault and data["planned"]
    assert (data["step"], data["row"], data["unit"]) == (step, row, 1)
    assert (data["gate"], data["operation"]) == ("f", operation)
    assert data["line"].endswith(f"test_nonfinite.py:{line_of(comment)}")
    text = str(study)
    assert f"step {step + 1} of {T} (index {step}), row 2, unit 1, of f" in text
    if fault == "values":
        assert "read z = " in text and "divide" in text and "exp overflows" in text
    else:
        assert "the derivative of sqrt at 0 is infinite" in text


def test_reversed_reset_and_masked_loops_are_understood() -> None:
    mask = np.ones((T, ROWS), dtype=bool)
    mask[3:6, 2] = False
    for options in (
        {"reverse": True},
        {"mask": mask},
        {"reset": ~mask, "reset_state": tg.ones((ROWS, 3)) * 0.1},
    ):
        xs = series()
        xs[7, 2, 0] = 5000.0
        study = inspect.explain_nonfinite(Gated("values"), tg.tensor(xs), **options)
        assert (study.data["step"], study.data["row"], study.data["gate"]) == (7, 2, "f")


def test_all_is_finite_and_nothing_is_left_behind() -> None:
    cell = Gated("values")
    study = inspect.explain_nonfinite(cell, tg.tensor(series()), loss=squares)
    assert not study.data["found"] and "All finite: values and gradients" in str(study)
    assert cell.w.grad is None and cell.u.grad is None


def test_declared_masks_are_no_fault_and_a_row_masked_entirely_is() -> None:
    def attending(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        scores = tg.where(x[..., :3] > 0.0, h, -tg.inf)
        powers = tg.exp(scores - tg.max(scores, axis=-1, keepdims=True))
        weights = powers / tg.sum(powers, axis=-1, keepdims=True)
        h = tg.tanh(weights + h)
        return h, h

    xs = np.ones((T, ROWS, 3), dtype="float32")
    xs[:, :, 0] = -1.0
    h0 = tg.zeros((ROWS, 3), requires_grad=True)
    found = inspect.explain_nonfinite(attending, tg.tensor(xs), h0, loss=squares)
    assert not found.data["found"]
    xs[4, 1] = -1.0  # nothing is left to attend to
    data = inspect.explain_nonfinite(attending, tg.tensor(xs), h0).data
    assert (data["step"], data["row"], data["gate"]) == (4, 1, "powers")
    assert data["operation"] == "subtract" and data["made"] == "nan"


def test_zero_times_infinity_behind_where_is_recognised() -> None:
    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        safe = tg.where(x > 0.0, tg.sqrt(x * (1.0 + h)), 0.0)
        h = tg.tanh(safe + h)
        return h, h

    xs = series()
    xs[5, 1, 2] = 0.0
    h0 = tg.zeros((ROWS, 3), requires_grad=True)
    study = inspect.explain_nonfinite(cell, tg.tensor(xs), h0, loss=squares)
    assert (study.data["step"], study.data["operation"]) == (5, "sqrt")
    assert study.data["made"] == "nan" and "0 * inf behind a where" in study.data["cure"]


def test_a_gradient_of_weights_alone_and_a_loss_are_found_too() -> None:
    w = tg.ones(3, requires_grad=True)

    def cell(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        g = tg.sqrt(tg.abs(x * w))
        h = tg.tanh(0.5 * h + g)
        return h, h

    for step in (0, 5, T - 1):
        xs = series()
        xs[step, 3, 1] = 0.0
        data = inspect.explain_nonfinite(
            cell, tg.tensor(xs), tg.zeros((ROWS, 3)), loss=squares
        ).data
        assert (data["step"], data["row"], data["operation"]) == (step, 3, "sqrt")
    # Of tokens there is no gradient: the step is found by halves.
    table = tg.tensor(np.eye(5, 3)[::-1], "float32", requires_grad=True)  # row 0 is of zeros

    def reading(token: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        g = tg.sqrt(tg.abs(tg.sum(table[token], axis=-1, keepdims=True)))
        h = tg.tanh(0.5 * h + g)
        return h, h

    for step in (0, 5, T - 1):
        tokens = np.full((T, ROWS), 3)
        tokens[step, 2] = 0
        data = inspect.explain_nonfinite(
            reading, tg.tensor(tokens), tg.zeros((ROWS, 3)), loss=squares
        ).data
        assert (data["step"], data["row"], data["operation"]) == (step, 2, "sqrt")
    xs = tg.tensor(series())
    study = inspect.explain_nonfinite(Gated("values"), xs, loss=lambda y: tg.log(tg.sum(y) * 0.0))
    assert study.data["in"] == "loss" and study.data["operation"] == "log"
    assert "log of 0" in str(study)
    study = inspect.explain_nonfinite(Gated("values"), xs, loss=lambda y: tg.sqrt(tg.sum(y) * 0.0))
    assert study.data["where"] == "gradients" and study.data["operation"] == "sqrt"


def test_what_came_from_outside_is_named() -> None:
    cell = Gated("values")
    xs = series()
    xs[6, 3, 0] = np.nan
    assert "the input x of this step" in str(inspect.explain_nonfinite(cell, tg.tensor(xs)))
    # An infinite input that a gate swallows shows in the gradient of the weights it came by.
    xs[6, 3, 0] = np.inf
    lstm = nn.LSTMCell(3, 2)
    data = inspect.explain_nonfinite(lstm, tg.tensor(xs), loss=squares).data
    assert (data["where"], data["step"], data["row"]) == ("gradients", 6, 3)
    assert data["outside"] == "the input x of this step"
    cell.u.data = np.full((3, 3), np.nan, dtype="float32")
    study = inspect.explain_nonfinite(cell, tg.tensor(series()))
    assert study.data["step"] == 0 and "Parameter float32 (3, 3)" in study.data["outside"]


def test_a_fault_of_a_kernel_alone_is_not_blamed_on_the_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = nonfinite.unroll

    def broken(*args: Any, **options: Any) -> Any:
        results = genuine(*args, **options)
        return map_leaves(lambda x: tg.where(tg.ones(x.shape) > 0, tg.nan, x), results)

    monkeypatch.setattr(nonfinite, "unroll", broken)
    study = inspect.explain_nonfinite(Gated("values"), tg.tensor(series()))
    assert study.data["verdict"] == "not reproduced"
    assert "not reproduced literally" in str(study)


def test_the_same_random_numbers_are_drawn_again() -> None:
    class Dropped(Gated):
        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            kept = tg.dropout(x, 0.5)
            return super().forward(kept, h)

    tg.manual_seed(3)
    xs = series()
    xs[:, :, 1] = 300.0
    data = inspect.explain_nonfinite(Dropped("values"), tg.tensor(xs) * 10.0).data
    assert data["operation"] == "exp" and data["gate"] == "f"


def test_a_cell_that_cannot_be_planned_is_run_literally_and_bad_input_refused() -> None:
    def branching(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        if x.sum().item() > 1e3:
            h = tg.log(h * 0.0)
        return h, h + x

    xs = series()
    xs[8, 0, 0] = 5000.0
    study = inspect.explain_nonfinite(branching, tg.tensor(xs), tg.zeros((ROWS, 3)))
    assert study.data["step"] == 8 and study.data["operation"] == "log"
    assert not study.data["planned"] and study.data["why"]
    ok = tg.tensor(series())
    with pytest.raises(ValueError, match="scalar"):
        inspect.explain_nonfinite(Gated("values"), ok, loss=lambda y: y)
    with pytest.raises(ValueError, match="truncate"):
        inspect.explain_nonfinite(Gated("values"), ok, truncate=3, reverse=True)
    with pytest.raises(ValueError, match="loss="):
        inspect.explain_nonfinite(Gated("values"), ok, targets=ok)


def test_the_finding_is_drawn(tmp_path: Any) -> None:
    xs = series()
    xs[5, 1, 1] = 5000.0
    study = inspect.explain_nonfinite(Gated("values"), tg.tensor(xs))
    assert "step 6" in study.to_svg() and "exp" in study._repr_html_()
    assert "exp" in study.save(tmp_path / "found.html").read_text()
