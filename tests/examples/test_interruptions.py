"""Ctrl-C at any moment: a run that is resumed is the run that never stopped, bit for bit."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn.planner.planner import planner

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``example(name)``: a module of examples/, with data packages and files in tmp_path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("support"), "_run", None)
    return importlib.import_module


class Presses:
    """Press Ctrl-C in the steps whose numbers, counted over a whole program, are in ``at``."""

    def __init__(self, support: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: set[int] = set()
        self.steps = 0
        show = support.Training.__call__

        def press(training: Any, *args: Any, **values: float) -> None:
            self.steps += 1
            if self.steps in self.at:
                signal.raise_signal(signal.SIGINT)
            show(training, *args, **values)

        monkeypatch.setattr(support.Training, "__call__", press)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested data, by where they are."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {name: value.numpy() if isinstance(value, tg.Tensor) else value}
    return {k: v for key, item in items for k, v in flat(item, f"{name}/{key}").items()}


def whole_run(example: Any, name: str, argv: list[str], monkeypatch: Any) -> dict[str, Any]:
    """Run an example; returns what it measured, and all that it trained from the last seed."""
    planner.clear()
    planner.met.clear()  # as in a process of its own
    monkeypatch.setattr(sys, "argv", argv)
    example(name).main()
    return flat(example("support")._run.turns)


TWO = ["--seeds", "2", "--epochs", "1"]
FEW = ["--epochs", "1", "--hidden", "4", "--batch"]
INTERRUPTED = {
    "adding_problem": ["--seeds", "2", "--steps", "3", "--cells", "IRNN", "RWA"],
    "anomalies": TWO,
    "binding_sites": TWO,
    "caption": TWO,
    "chat": TWO,
    "chorales": TWO,
    "digits": TWO,
    "generate_names": [*FEW, "400"],
    "gestures": TWO,
    "keras_summary": TWO,
    "name_country": [*FEW, "400"],
    "seq2seq_g2p": [*FEW, "2000", "--beam", "1", "--minutes", "60", "--word", "cake"],
    "sentiment": TWO,
    "speech_digits": TWO,
    "stress_tagging": [*FEW, "4000"],
    "traffic_forecast": TWO,
    "translate": ["--epochs", "6"],
    "video_frames": TWO,
    "weather_forecast": ["--epochs", "1"],
}
"""Options of runs that are over in seconds."""


def small(example: Any, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little for an example to read."""
    if name in small_data.WRITERS:
        small_data.WRITERS[name](folder)
    elif name == "speech_digits":
        speech, few = example("speech_digits"), example("speech").utterances
        monkeypatch.setattr(speech, "Espeak", small_data.Tones)
        monkeypatch.setattr(speech, "utterances", lambda s, n, *to: few(s, max(n // 10, 3), *to))


@pytest.mark.data  # not for the data, which are small ones, but for the time of 19 examples
@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal of POSIX does")
@pytest.mark.parametrize("name", INTERRUPTED)
def test_runs_that_were_stopped_again_and_again_are_those_that_were_not(
    name: str, example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small(example, name, tmp_path, monkeypatch)
    presses = Presses(example("support"), monkeypatch)
    argv = [f"{name}.py", "--quick", *INTERRUPTED[name]]
    wanted = whole_run(example, name, argv, monkeypatch)
    wanted_lines = capsys.readouterr().out.splitlines()

    steps, stops = presses.steps, 0
    at = sorted({1, steps // 2 + 1, steps})
    for before, now in zip([0, *at], at, strict=False):
        presses.steps, presses.at = 0, {now - before}
        with pytest.raises(SystemExit) as ended:
            whole_run(example, name, argv, monkeypatch)
        assert ended.value.code == 130
        said = capsys.readouterr().out.splitlines()[-1]
        found = re.fullmatch(r"Stopped at step \d+( of \d+)?\. To go on: (.*)", said)
        assert found, said
        argv = shlex.split(found[2])[1:]
        assert argv[-1] == "--resume" and argv.count("--resume") == 1
        argv[0] = f"{name}.py"
        stops += 1
    assert stops == len(at)
    presses.at = set()
    found = whole_run(example, name, argv, monkeypatch)
    differ = {k for k in wanted if "minutes" not in k and not np.array_equal(wanted[k], found[k])}
    assert found.keys() == wanted.keys() and not differ
    lines = capsys.readouterr().out.splitlines()
    of_results = [x for x in wanted_lines if re.match(r"  |Verdict|\w+ +solved", x)]
    assert of_results and set(of_results) <= set(lines)


def test_parts_of_a_training_are_modules_generators_and_lists(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a loop by hand, which stops at each of its steps once."""
    support = example("support")
    presses = Presses(support, monkeypatch)

    def train() -> tuple[list[float], float, np.ndarray]:
        args = support.arguments(support.command_line(""))
        generator, curve = np.random.default_rng(args.seed), []
        model = tg.nn.Sequential(tg.nn.Linear(2, 1), tg.nn.Dropout(0.5))
        optimizer = tg.optim.Adam(model.parameters(), lr=0.1)
        with support.training(6, model, optimizer, generator, curve) as show:
            while show.step < 6:
                loss = tg.mean(model(tg.tensor(generator.random((4, 2)), "float32")) ** 2)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                curve.append(loss.item())
                show(show.step + 1)
        return curve, generator.random(), model[0].weight.numpy()

    monkeypatch.setattr(sys, "argv", ["mine.py", "--seed", "3"])
    curve, drawn, weight = train()
    assert len(set(curve)) == 6
    for i in range(6):
        presses.steps, presses.at = 0, {1}
        with pytest.raises(SystemExit):
            train()
        monkeypatch.setattr(sys, "argv", ["mine.py", "--seed", "3", "--resume"])
        assert len(support._run.turns[0]["trainings"][0]["parts"][3]) == i + 1
        if i == 3:  # and once more, before the training that was stopped
            support.arguments(support.command_line(""))
            tg.random.normal((3,))
            assert support._run.last_words().startswith("Stopped. To go on: ")
    again = train()
    assert again[:2] == (curve, drawn)
    assert_array_equal(again[2], weight)


PROGRAM = """
import importlib, json, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
name, module, function, times, argv = json.loads(sys.argv[1])
sys.argv = argv
sys.path[:0] = [os.path.dirname(argv[0]), os.getcwd()]
owner = importlib.import_module(module)
for part in function.split(".")[:-1]:
    owner = getattr(owner, part)
function = function.rpartition(".")[2]
before = getattr(owner, function)
def press(*args, **options):
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)
    return before(*args, **options)
setattr(owner, function, press)
importlib.import_module(name).main()
"""


def pressed_in(module: str, function: str, folder: Path, *options: str, times: int = 1) -> str:
    """What digits.py says whose user presses Ctrl-C when it calls a function; it ends with 130."""
    argv = [str(EXAMPLES / "digits.py"), "--quick", "--epochs", "1", *options]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(["digits", module, function, times, argv])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (130 if times else 0), done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal of POSIX does")
def test_ctrl_c_outside_of_training_is_a_line_and_keeps_what_was_trained(tmp_path: Path) -> None:
    small_data.mlxtend(tmp_path)
    out = pressed_in("datasets", "digits", tmp_path)
    assert out == "\nStopped; nothing was trained yet.\n"
    assert not list(tmp_path.rglob("*.safetensors"))

    out = pressed_in("support", "Training.__call__", tmp_path, times=2)
    assert out.splitlines()[-1] == "Stopped at once; nothing more was saved."

    out = pressed_in("support", "save_picture", tmp_path)
    assert re.search(r"^Stopped. To go on: .*digits.py --quick --epochs 1 --resume$", out, re.M)
    verdicts = [line for line in out.splitlines() if line.startswith("Verdict")]
    out = pressed_in("support", "compare", tmp_path, "--resume")
    assert "step " not in out and "Stopped. To go on: " in out
    out = pressed_in("support", "compare", tmp_path, "--resume", times=0)
    assert "step " not in out and verdicts == [x for x in out.splitlines() if x[:7] == "Verdict"]


def test_a_run_that_cannot_be_saved_says_why(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small_data.mlxtend(tmp_path)
    presses = Presses(example("support"), monkeypatch)
    presses.at = {1}
    argv = ["digits.py", "--quick", "--epochs", "1", "--plot", "here.png"]
    monkeypatch.setattr(example("support"), "_checkpoint", lambda quick: Path("here.png", "file"))
    Path("here.png").write_text("no folder")
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        example("digits").main()
    assert ended.value.code == 130
    assert "\nStopped at step 1 of 1. It could not be saved: " in capsys.readouterr().out


def test_a_run_that_is_saved_again_does_not_keep_what_it_has_saved(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Ctrl-C is pressed once more while it is being saved."""
    support, path = example("support"), tmp_path / "run.safetensors"
    path.write_bytes(b"another's")
    run = support.Run(path, {})
    save_checkpoint = support.distributed.save_checkpoint

    def pressed(*args: Any, **options: Any) -> None:
        save_checkpoint(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(support.distributed, "save_checkpoint", pressed)
        run.save()
    run.save()
    assert (tmp_path / "run-1.safetensors").read_bytes() == b"another's"
    assert sorted(file.name for file in tmp_path.glob("run*")) == [
        "run-1.safetensors",
        "run.safetensors",
    ]


def test_a_checkpoint_that_is_there_is_kept_and_one_of_another_run_refused(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small_data.mlxtend(tmp_path)
    support = example("support")
    presses = Presses(support, monkeypatch)
    presses.at = {1}

    def ends(*options: str) -> Any:
        presses.steps = 0
        monkeypatch.setattr(sys, "argv", ["digits.py", "--quick", "--epochs", "1", *options])
        with pytest.raises(SystemExit) as ended:
            example("digits").main()
        return ended.value.code

    assert "no file 'runs/digits_quick.safetensors'; leave out --resume to begin" in ends(
        "--resume"
    )
    assert ends("--seed", "1") == ends("--seed", "2") == 130
    assert "will be kept as runs/digits_quick-1.safetensors" in capsys.readouterr().out
    refused = ends("--seed", "1", "--resume")
    assert refused.startswith("digits.py: runs/digits_quick.safetensors was begun with seed 2, and")
    assert ends("--seed", "1", "--resume", "runs/digits_quick-1.safetensors") == 130
    assert sorted(os.listdir("runs")) == ["digits_quick-1.safetensors", "digits_quick.safetensors"]
    Path("runs/digits_quick.safetensors").write_bytes(b"other")
    assert "no intact safetensors file" in ends("--resume")
    tg.serialization.save_checkpoint("mine.safetensors", extra=1)
    assert "is no run of an example" in ends("--resume", "mine.safetensors")


def test_ctrl_c_is_taken_care_of_before_what_takes_long_to_import() -> None:
    for path in [EXAMPLES / "support.py", *EXAMPLES.glob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name != "support.py" and "main" not in {getattr(n, "name", "") for n in tree.body}:
            continue
        names = [
            node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in tree.body
            if isinstance(node, (ast.Import, ast.ImportFrom))
        ]
        slow = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
        assert slow[0] == ("interruption" if path.name == "support.py" else "support"), path.name
