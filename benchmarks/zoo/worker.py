"""One model of one side in a process of its own: ``python -m benchmarks.zoo.worker TASK``.

TASK names a library, those of its forms to choose from, a model and its sizes, and what to measure:
"turns" (how long a step takes) or "start" (the first step in a fresh process, and how much memory
it and those after it take). ``bench.py`` starts it.

The subtle thing is where memory starts to count: when the library is imported and the batch and the
weights are there as arrays of NumPy. All that comes after does count, such as the model, the
optimiser's state, compiled programs, and what the library imports only then.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.grid.problem import Training
from benchmarks.grid.worker import RESET, TRIED_STEPS, checked, resident, seconds_of
from benchmarks.worker import main, take_turns, turn, warm_up
from benchmarks.zoo.problem import Problem, problem

STEPS_AFTER_THE_FIRST = 10

Forms = dict[str, tuple[str, Callable[[Problem], Training]]]


def serve(task: dict[str, Any], answer: Callable[..., None]) -> None:
    side = import_module(f"benchmarks.zoo.{task['side']}_side")
    forms = {name: side.FORMS[name] for name in task["forms"]}
    given = problem(task["model"], task["sizes"])
    measure = {"turns": turns, "start": start}[task["measure"]]
    measure(forms, given, lambda **values: answer(versions=side.VERSIONS, **values))


def turns(forms: Forms, given: Problem, answer: Callable[..., None]) -> None:
    """Take turns with the quickest of the forms, after all have computed the right thing."""
    found = [checked(build(given.repeatable)) for _, build in forms.values()]
    tried = []
    for (sentence, build), check in zip(forms.values(), found, strict=True):
        once = seconds_of(build(given))
        seconds = 0.0
        if len(forms) > 1:
            warm_up(once)
            seconds = float(np.median(turn(once, TRIED_STEPS)["times"]))
        tried.append((seconds, sentence, once, check))
    _, sentence, once, check = min(tried, key=lambda each: each[0])
    del tried
    take_turns(once, answer, form=sentence, checksum=check)


def start(forms: Forms, given: Problem, answer: Callable[..., None]) -> None:
    """Seconds of the first step and of later ones, and the bytes resident at their highest."""
    sentence, build = next(iter(forms.values()))
    measured = RESET.exists()
    before = resident("VmRSS") if measured else 0
    if measured:
        RESET.write_text("5")  # forget the largest size so far
    once = seconds_of(build(given))
    (first,) = once()
    after_the_first = resident("VmHWM") - before if measured else None
    for _ in range(STEPS_AFTER_THE_FIRST):
        (later,) = once()
    peak = resident("VmHWM") - before if measured else None
    answer(form=sentence, first=first, later=later, first_peak=after_the_first, peak=peak)


if __name__ == "__main__":
    main(serve)
