"""One side of the grid in a process of its own: ``python -m benchmarks.grid.worker TASK``.

TASK names a library, those of its forms to choose from, a cell and its sizes, and what to measure:
"turns" (how long a step takes), "memory" or "preparation". ``bench.py`` starts it.

The subtle thing is what has to be there before memory and preparation are measured: the libraries
that a first call loads. A small problem with another cell loads them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.grid.problem import Problem, Training, problem
from benchmarks.problem import Size, checksum
from benchmarks.worker import main, take_turns, turn, warm_up

FALLING_STEPS = 3
TRIED_STEPS = 3
STEPS_AFTER_THE_FIRST = 10
LOADING = Size(3, 2, 4, 5)
ANOTHER = {"LSTM": "GRU", "GRU": "RNN", "RNN": "LSTM"}

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds_of(training: Training) -> Callable[[], tuple[float]]:
    def once() -> tuple[float]:
        start = perf_counter()
        training.step()
        return (perf_counter() - start,)

    return once


def checked(training: Training) -> dict[str, Any]:
    """The loss and gradients of the first step; RuntimeError if the steps after it do not learn."""
    first = training.step()
    gradients = training.gradients()
    found = checksum(first, gradients)
    for _ in range(FALLING_STEPS):
        last = training.step()
    if gradients and not last < first:
        raise RuntimeError(f"the loss does not fall: {first}, after {FALLING_STEPS} steps {last}")
    return found


def serve(task: dict[str, Any], answer: Callable[..., None]) -> None:
    side = import_module(f"benchmarks.grid.{task['side']}_side")
    forms = {name: side.FORMS[name] for name in task["forms"]}
    given = problem(task["kind"], Size(*task["size"]))
    measure = {"turns": turns, "memory": memory, "preparation": preparation}[task["measure"]]
    measure(side, forms, given, lambda **values: answer(versions=side.VERSIONS, **values))


Forms = dict[str, tuple[str, Callable[[Problem], Training]]]


def turns(side: Any, forms: Forms, given: Problem, answer: Callable[..., None]) -> None:
    """Take turns with the quickest of the forms."""
    tried = []
    for name, (sentence, build) in forms.items():
        training = build(given)
        found = checked(training)
        once = seconds_of(training)
        seconds = 0.0
        if len(forms) > 1:
            warm_up(once)
            seconds = float(np.median(turn(once, TRIED_STEPS)["times"]))
        if hasattr(side, "remark"):
            sentence += f"; {side.remark(name, given)}"
        tried.append((seconds, sentence, once, found))
    _, sentence, once, found = min(tried, key=lambda each: each[0])
    del tried, training
    take_turns(once, answer, form=sentence, checksum=found)


def memory(side: Any, forms: Forms, given: Problem, answer: Callable[..., None]) -> None:
    """Bytes resident, beside those before anything was computed, at their highest in each stage."""
    if not RESET.exists():
        answer(missing="not measured: the system does not tell the largest resident size")
        return
    sentence, build = next(iter(forms.values()))
    training = build(given)
    before = resident("VmRSS")
    load(build, given.kind)
    loaded = resident("VmRSS")
    stages = {"libraries": loaded - before}
    for stage, count in (("first", 1), ("later", STEPS_AFTER_THE_FIRST)):
        RESET.write_text("5")  # forget the largest size so far
        for _ in range(count):
            training.step()
        stages[stage] = resident("VmHWM") - loaded
    answer(form=sentence, resident=stages)


def resident(name: str) -> int:
    """Bytes: the resident size now ("VmRSS") or at its largest ("VmHWM")."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def preparation(side: Any, forms: Forms, given: Problem, answer: Callable[..., None]) -> None:
    """What the first step takes more than those after it, and what finding a known plan takes."""
    sentence, build = next(iter(forms.values()))
    load(build, given.kind)
    training = build(given)
    once = seconds_of(training)
    (first,) = once()
    warm_up(once)
    steady = float(np.median(turn(once, TRIED_STEPS)["times"]))
    look_up = side.look_up(given) if hasattr(side, "look_up") else None
    answer(form=sentence, first=first, steady=steady, look_up=look_up)


def load(build: Callable[[Problem], Training], kind: str) -> None:
    """Have whatever a first step imports or starts, whichever cell it is for."""
    training = build(problem(ANOTHER[kind], LOADING))
    training.step()
    training.step()


if __name__ == "__main__":
    main(serve)
