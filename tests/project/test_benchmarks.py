"""The benchmarks say what they measured, and notice sides that compute something else.

Other libraries are not needed here. The subtle thing is that figures are of no interest: only that
they are there, come from the rounds that they are said to come from, and are held to the targets.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import convolution, distributed, models, recurrent, rows
from benchmarks import products as products_command
from benchmarks.bench import Bench, Result
from benchmarks.blas import pins, products
from benchmarks.grid import targets
from benchmarks.grid.plot import draw
from benchmarks.grid.problem import GATES, SIZES, Problem, Training, problem
from benchmarks.grid.tinygrad_rnn_side import FORMS
from benchmarks.grid.worker import checked
from benchmarks.problem import Size, agree, checksum
from benchmarks.zoo import problem as zoo
from benchmarks.zoo import targets as zoo_targets
from benchmarks.zoo.tinygrad_rnn_side import build

SMALL = Size(3, 2, 4, 5)


def test_a_grid_of_one_cell_is_measured_compared_and_written(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    asked = ["--sizes", "3,2,4,5", "--kinds", "GRU", "--sides", "ours", "ours-cell", "floor"]
    assert recurrent.main([*asked, "--quick", "--rounds", "2", "--write", str(report)]) == 0
    written = report.read_text()
    assert "1 comparisons: the same loss and gradients" in written
    assert "ours / ours-cell |" in written
    assert "the cell in primitives, unroll; planned" in written
    (sides,) = json.loads(report.with_suffix(".json").read_text()).values()
    assert [(side["side"], len(side["rounds"])) for side in sides] == [
        ("ours", 2),
        ("ours-cell", 2),
        ("floor", 2),
    ]


@pytest.mark.parametrize("kind", GATES)
def test_all_forms_of_our_side_compute_the_same(kind: str) -> None:
    given = problem(kind, SMALL)
    found = [checked(build(given)) for _, build in FORMS.values()]
    assert len(found) == 4
    assert all(agree(found[0], other) for other in found[1:])


@pytest.mark.parametrize("kind", GATES)
def test_gradients_are_those_of_the_loss(kind: str) -> None:
    """By a central difference of the loss, along one direction in all weights."""
    given = problem(kind, SMALL)
    rng = np.random.default_rng(2)
    direction = [rng.standard_normal(p.shape).astype(np.float32) for p in given.parameters]

    def loss(step: float) -> float:
        moved = zip(given.parameters, direction, strict=True)
        parameters = tuple((p + step * d).astype(np.float32) for p, d in moved)
        return FORMS["cell"][1](given._replace(parameters=parameters)).step()

    training = FORMS["cell"][1](given)
    training.step()
    pairs = zip(training.gradients(), direction, strict=True)
    expected = sum(float(np.sum(gradient * d)) for gradient, d in pairs)
    assert (loss(1e-2) - loss(-1e-2)) / 2e-2 == pytest.approx(expected, rel=1e-2)


def test_a_step_that_forgets_its_update_is_refused() -> None:
    gradients = [np.ones(3, np.float32)]
    with pytest.raises(RuntimeError, match="does not fall"):
        checked(Training(lambda: 1.0, lambda: gradients))


@pytest.mark.parametrize("loss, gradient", [(1.001, 1.0), (1.0, 1.001), (1.0, float("nan"))])
def test_a_side_that_computes_something_else_is_named(loss: float, gradient: float) -> None:
    bench = Bench(argparse.Namespace())
    checksums = {
        "ours": checksum(1.0, [np.ones(3)]),
        "other": checksum(loss, [np.full(3, gradient)]),
    }
    bench.note("a title", [Result(side, {"checksum": c}) for side, c in checksums.items()])
    assert bench.disagreements == ["a title: other and ours"]


def test_targets_are_met_cell_by_cell_or_on_the_average() -> None:
    ours = np.ones(5)
    times = {("LSTM", "wide"): {"torch": 0.92 * ours, "ours": ours}}
    worst, mean, of_lstm = targets.verdicts(times)
    assert worst[3:] == ["0.92", "0.90", "met"]
    assert mean[3:] == ["0.92", "1.90", "missed"]
    assert of_lstm[3:] == ["0.92", "1.25", "missed"]
    times["GRU", "wide"] = {"torch": 0.92 * ours, "ours": ours}
    times["RNN", "wide"] = {"torch": 50.0 * ours, "ours": ours}
    worst, mean, of_lstm = targets.verdicts(times)
    assert worst[2:] == ["worst: GRU wide", "0.92", "0.95", "met in 2"]
    assert mean[5] == "met"
    assert of_lstm[1] == "1 of LSTM"


def test_a_ratio_is_taken_within_a_round() -> None:
    """A machine that is busy in one round is busy for both sides."""
    times = {
        ("RNN", "long"): {"jax": np.array([2.0, 2.0, 90.0]), "ours": np.array([1.0, 1.0, 45.0])}
    }
    assert targets.ratio(times, ("RNN", "long"), "jax", "ours") == 2.0
    assert targets.ratio(times, ("RNN", "long"), "torch", "ours") is None


def test_the_picture_of_the_whole_grid_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [*((kind, size) for kind in GATES for size in SIZES), ("char_lm",)]
    times = {
        cell: {side: rng.uniform(1, 3, 5) for side in ("torch", "ours", "ours-numpy", "jax")}
        for cell in cells
    }
    picture = tmp_path / "grid.png"
    draw(picture, times, "a machine")
    assert 10_000 < picture.stat().st_size < 80_000


def test_every_size_has_a_target_for_memory() -> None:
    assert list(targets.MEMORY) == list(SIZES)
    assert tuple(GATES) == targets.KINDS


def test_the_grid_starts_from_the_same_numbers_everywhere() -> None:
    one, other = problem("GRU", SMALL), problem("GRU", SMALL)
    assert isinstance(one, Problem)
    for a, b in zip(one.parameters, other.parameters, strict=True):
        np.testing.assert_array_equal(a, b)
    assert [p.shape for p in one.parameters] == [(4, 15), (5, 15), (15,), (5,)]


def test_what_is_computed_of_many_processes_is_what_the_text_shows() -> None:
    """A ring of two sends everything twice, half each time; and the table is made by the code."""
    assert distributed.ring_seconds(2, 100, 1.0, 10.0) == 2 + 10
    text = (Path(distributed.__file__).parent / "README.md").read_text(encoding="utf-8")
    head, *rows = distributed.computed(16 * 2**20, 0.229)
    assert head.startswith("| computed, 16 MiB, 0.229 s a step |")
    assert "\n".join(rows) in text


def test_models_are_measured_and_written(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    asked = ["--models", "sentiment", "--peers", "ours-numpy", "--quick", "--rounds", "2"]
    assert models.main([*asked, "--write", str(report)]) == 0
    written = report.read_text()
    assert "1 comparisons: the same loss and gradients" in written
    assert "Small sizes: the figures mean nothing." in written
    assert "Products: own kernels" in written
    raw = json.loads(report.with_suffix(".json").read_text())
    assert list(raw) == [
        "sentiment, start 1, ours",
        "sentiment, start 1, ours-numpy",
        "sentiment",
    ]
    assert [len(side["rounds"]) for side in raw["sentiment"]] == [2, 2]
    assert all(side["first"]["first"] > 0 for side in raw["sentiment, start 1, ours"])


@pytest.mark.parametrize("model", zoo.MODELS)
def test_a_model_learns_and_its_gradients_are_those_of_its_loss(model: str) -> None:
    """By a central difference of the loss, along the gradient of all weights."""
    given = zoo.problem(model, zoo.SIZES[model][1]).repeatable
    training = build(given)
    found = checked(training)

    training = build(given)
    training.step()
    gradients = dict(zip(given.compared, training.gradients(), strict=True))
    assert all(gradients[name].shape == given.weights[name].shape for name in given.compared)
    length = np.sqrt(sum(float(np.sum(g.astype(np.float64) ** 2)) for g in gradients.values()))

    def loss(step: float) -> float:
        moved = {
            name: (w + step / length * gradients.get(name, 0.0)).astype(np.float32)
            for name, w in given.weights.items()
        }
        return build(given._replace(weights=moved)).step()

    assert loss(0.0) == pytest.approx(found["loss"], rel=1e-5)
    assert (loss(0.02) - loss(-0.02)) / 0.04 == pytest.approx(length, rel=1e-2)


@pytest.mark.parametrize("model", zoo.MODELS)
def test_models_start_from_the_same_numbers_everywhere(model: str) -> None:
    full, small = zoo.SIZES[model]
    assert list(full) == list(small)
    one, other = (zoo.problem(model, small) for _ in range(2))
    for a, b in ((one.weights, other.weights), (vars(one.batch), vars(other.batch))):
        assert list(a) == list(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_targets_of_models_name_the_worst() -> None:
    times = {
        (model,): {"torch": np.full(3, ratio), "ours": np.ones(3)}
        for model, ratio in {"char_lm": 3.0, "translation": 1.4, "ctc": 9.0}.items()
    }
    starts = {"ctc": {"ours": {"first": 1.5, "peak": 20}, "torch": {"first": 0.1, "peak": 10}}}
    worst, mean, memory, first = zoo_targets.verdicts(times, starts)
    assert worst[1:] == ["translation", "1.40", "1.50", "met in 2 of 3"]
    assert mean[1:] == ["mean", "3.36", "2.80", "met"]
    assert memory[1:] == ["ctc", "0.50", "1.00", "met in 0 of 1"]
    assert first[1:] == ["ctc", "1.50", "at most 1.00", "met in 0 of 1"]


def test_what_pins_an_older_kernel_is_warned_of() -> None:
    assert pins({"PATH": "/bin", "OPENBLAS_CORETYPE": ""}) == []
    one, other = pins({"OPENBLAS_CORETYPE": "Haswell", "XLA_FLAGS": "--xla_cpu_max_isa=AVX"})
    assert "OPENBLAS_CORETYPE=Haswell" in one and "OpenBLAS" in one
    assert "JAX" in other


def test_a_side_says_which_kernels_multiply() -> None:
    assert " kernels, " in products("floor") or "pip install threadpoolctl" in products("floor")
    assert products("floor") in products("tinygrad_rnn")


def test_products_are_measured_compared_and_written(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    asked = ["--quick", "--rounds", "1", "--peers", "numpy", "--threads", "1"]
    assert products_command.main([*asked, "--write", str(report)]) == 0
    written = report.read_text()
    assert "3 comparisons: the same loss and gradients" in written
    assert written.count("32x128x512") == 3
    (raw,) = json.loads(report.with_suffix(".json").read_text()).values()
    assert len(raw["weights 32x128x512"][0]["rounds"]) == 1


def test_convolutions_are_measured_and_written(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    asked = ["--quick", "--peers", "--cases", "digits 1", "pool, digits 2", "ConvLSTM 16, 3x3"]
    assert convolution.main([*asked, "--write", str(report)]) == 0
    written = report.read_text()
    assert "0 comparisons: the same loss and gradients" in written
    assert "Batches of two: the figures mean nothing." in written
    raw = json.loads(report.with_suffix(".json").read_text())
    assert {case: [len(side["rounds"]) for side in sides] for case, sides in raw.items()} == {
        case: [2] for case in asked[3:]
    }


def test_half_of_pytorchs_speed_is_what_convolutions_are_held_to() -> None:
    bench = convolution.Convolutions(argparse.Namespace())
    ours = Result("tinygrad_rnn", {}, rounds=[[1.0, 1.0, 2.0]] * 3)
    for other, verdict in ((1.001, "met"), (0.999, "missed")):
        torch = Result("torch", {}, rounds=[[0.4, 0.6, other]] * 3)
        assert bench.beside(ours, [torch])[-1] == verdict
    assert bench.beside(ours, [Result("torch", {}, "not installed")])[-1] == "-"


def test_work_on_rows_is_measured_and_written(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    asked = ["--functions", "cross_entropy", "--quick", "--rounds", "2", "--write", str(report)]
    assert rows.main(asked) == 0
    assert "## 2500 rows of 65" in report.read_text()
    measured = json.loads(report.with_suffix(".json").read_text())["(2500, 65)"]["cross_entropy"]
    assert [len(measured[side]) for side in ("copies", "ours", "literal")] == [2, 2, 2]
