"""What examples share: progress that one can watch, Ctrl-C between two steps, checkpoints.

A checkpoint is one safetensors file with all that a run needs to go on as if it had never stopped:
weights, the optimiser's state, the recurrent state, where the random numbers were, and as JSON
whatever else the example puts in. It is replaced in one instant; a run killed while it saves has
lost nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim, serialization


@contextmanager
def progress(begun: int, steps: int) -> Iterator[Callable[[int, str], None]]:
    """``show(step, text)``: a bar if there are rich and a terminal, else a line every 50 steps."""
    if sys.stdout.isatty() and find_spec("rich"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        text = TextColumn("{task.description}")
        with Progress(MofNCompleteColumn(), BarColumn(), Remaining(), text) as bar:
            task = bar.add_task("", completed=begun, total=steps)
            yield lambda step, text: bar.update(task, completed=step, description=text)
        return

    def show(step: int, text: str) -> None:
        if step % 50 == 0 or step == steps:
            print(f"step {step} of {steps}: {text}", flush=True)

    yield show


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to, so that it cuts no step and no file in half."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def save_run(
    path: str | os.PathLike[str],
    model: nn.Module,
    optimizer: optim.Optimizer,
    states: Sequence[tg.Tensor],
    about: dict[str, Any],
) -> None:
    """Write a checkpoint; ``about`` is anything that JSON can hold."""
    arrays = {f"model.{name}": x for name, x in model.state_dict().items()}
    for i, held in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{i}.{name}": x for name, x in held.items()}
    arrays |= {f"state.{i}": x for i, x in enumerate(states)}
    text = json.dumps(about | {"random": tg.random.get_state()})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    serialization.save(path, arrays, {"run": text})


class Run(NamedTuple):
    """What a checkpoint holds: arrays by name, and ``about`` as it was saved."""

    arrays: dict[str, np.ndarray]
    about: dict[str, Any]

    def restore_model(self, model: nn.Module) -> None:
        """Give a model its weights back."""
        model.load_state_dict(self._under("model."))

    def restore(self, model: nn.Module, optimizer: optim.Optimizer) -> list[tg.Tensor]:
        """Put everything back to where ``save_run`` found it; returns ``states``."""
        self.restore_model(model)
        state: dict[str, dict[str, Any]] = {}
        for name, array in self._under("optimizer.").items():
            i, _, key = name.partition(".")
            state.setdefault(i, {})[key] = array if array.ndim else int(array)
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        tg.random.set_state(self.about["random"])
        backend = next(model.parameters()).backend
        states = self._under("state.")
        return [tg.tensor(states[str(i)], backend=backend) for i in range(len(states))]

    def _under(self, prefix: str) -> dict[str, np.ndarray]:
        names = [name for name in self.arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.arrays[name] for name in names}


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read a checkpoint; ValueError if the file is damaged or something else."""
    arrays, metadata = serialization.load(path)
    if "run" not in metadata:
        raise ValueError(f"{os.fspath(path)!r} holds arrays, but no run that could be resumed")
    return Run(arrays, json.loads(metadata["run"]))


def positive_float(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a positive number, not {text!r}")
    return value


def positive(text: str) -> int:
    """The type of an option that is an integer above 0."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"a positive integer, not {text!r}")
    return int(text)
