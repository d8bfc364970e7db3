"""One side of a comparison, in a process of its own: ``python -m benchmarks.worker TASK``.

TASK is a JSON object naming a side and what to compute. The worker warms up, answers with what it
computed, then reads numbers from stdin, runs that many iterations and answers with their times, one
line of JSON each, until stdin closes. ``benchmarks.eager`` starts it; nobody need do so by hand.

The subtle thing: two libraries in one process spin their thread pools against each other and share
caches and an allocator. A worker that waits for its next line does nothing at all.
"""

from __future__ import annotations

import cProfile
import io
import json
import os
import pstats
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from time import perf_counter
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from benchmarks.problem import Size, chain_data, checksum, lstm_data

WARM_SECONDS = 0.5
PROFILE_SECONDS = 2.0


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass, which includes freeing the graph."""
    start = perf_counter()
    pending = forward()
    middle = perf_counter()
    backward(pending)
    del pending
    return middle - start, perf_counter() - middle


def warm_up(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> float:
    """Run for a while, three times at least; the seconds of the last iteration."""
    start, count = perf_counter(), 0
    while True:
        seconds = sum(timed(forward, backward))
        count += 1
        if count >= 3 and perf_counter() - start > WARM_SECONDS:
            return seconds


def turn(forward: Callable[[], Any], backward: Callable[[Any], Any], count: int) -> dict[str, Any]:
    """The times of ``count`` iterations, and how many fresh pages of memory each had to ask for."""
    timed(forward, backward)  # wakes the caches and the threads; not counted
    before = page_faults()
    times = [timed(forward, backward) for _ in range(count)]
    return {"times": times, "faults": (page_faults() - before) / count}


def page_faults() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else float("nan")


def profile(forward: Callable[[], Any], backward: Callable[[Any], Any], seconds: float) -> str:
    """Where the time goes, by function: the first 25 by their own time."""
    count = max(1, round(PROFILE_SECONDS / seconds))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(count):
        timed(forward, backward)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join([f"{count} iterations", *(line for line in lines if line)])


def serve(task: dict[str, Any], answer: Callable[..., None]) -> None:
    side = import_module(f"benchmarks.sides.{task['side']}_side")
    if task["kind"] == "chain":
        forward, backward = side.chain(task["operation"], chain_data(task["operation"]))
    else:
        data = lstm_data(Size(*task["size"]))
        forward, backward = side.lstm(data)
    result = checksum(*backward(forward()))
    seconds = warm_up(forward, backward)
    ready = {"versions": side.VERSIONS, "form": side.FORM, "checksum": result}
    if task["kind"] == "memory":
        answer(**ready, held=side.held(forward, data))
    elif task["kind"] == "profile":
        answer(**ready, profile=profile(forward, backward, seconds))
    else:
        answer(**ready, seconds=seconds)
        for line in sys.stdin:
            answer(**turn(forward, backward, int(line)))


def main() -> None:
    # Answers leave by a copy of stdout; whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    task = json.loads(sys.argv[1])
    try:
        serve(task, answer)
    except ModuleNotFoundError as error:
        if error.name == task["side"]:
            answer(missing="not installed")
        else:
            answer(missing=f"failed: {error}")
    except Exception as error:
        traceback.print_exc()
        reason = str(error).replace(os.getcwd() + os.sep, "")  # a report names no folder of ours
        answer(missing=f"failed: {type(error).__name__}: {reason}")


if __name__ == "__main__":
    main()
