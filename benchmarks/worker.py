"""One side of a comparison, in a process of its own: ``python -m benchmarks.worker TASK``.

TASK is a JSON object naming a side and what to compute. The worker warms up, answers with what it
computed, then reads numbers from stdin, runs that many iterations and answers with their times, one
line of JSON each, until stdin closes. ``bench.py`` starts it; nobody need do so by hand.

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
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from benchmarks.blas import products
from benchmarks.problem import Size, chain_data, checksum, lstm_data

WARM_SECONDS = 0.5
PROFILE_SECONDS = 2.0


Seconds = tuple[float, ...]  # of each part of an iteration


def timed(forward: Callable[[], Any], backward: Callable[[Any], Any]) -> Seconds:
    """Seconds of the forward and of the backward pass, which includes freeing the graph."""
    start = perf_counter()
    pending = forward()
    middle = perf_counter()
    backward(pending)
    del pending
    return middle - start, perf_counter() - middle


def warm_up(once: Callable[[], Seconds]) -> float:
    """Run for a while, three times at least; the seconds of the last iteration."""
    start, count = perf_counter(), 0
    while True:
        seconds = sum(once())
        count += 1
        if count >= 3 and perf_counter() - start > WARM_SECONDS:
            return seconds


def turn(once: Callable[[], Seconds], count: int) -> dict[str, Any]:
    """The times of ``count`` iterations, and how many fresh pages of memory each had to ask for."""
    once()  # wakes the caches and the threads; not counted
    before = page_faults()
    times = [once() for _ in range(count)]
    return {"times": times, "faults": (page_faults() - before) / count}


def take_turns(once: Callable[[], Seconds], answer: Callable[..., None], **ready: Any) -> None:
    """Warm up, say so, and then take a turn whenever told to."""
    answer(**ready, seconds=warm_up(once))
    for line in sys.stdin:
        answer(**turn(once, int(line)))


def page_faults() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else float("nan")


def profile(once: Callable[[], Seconds]) -> str:
    """Where the time goes, by function: the first 25 by their own time."""
    count = max(1, round(PROFILE_SECONDS / warm_up(once)))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(count):
        once()
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
    ready = {"versions": side.VERSIONS, "form": side.FORM, "checksum": result}
    once = partial(timed, forward, backward)
    if task["kind"] == "memory":
        warm_up(once)
        answer(**ready, held=side.held(forward, data))
    elif task["kind"] == "profile":
        answer(**ready, profile=profile(once))
    else:
        take_turns(once, answer, **ready)


def main(serve: Callable[[dict[str, Any], Callable[..., None]], None]) -> None:
    # Answers leave by a copy of stdout; whatever a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    task = json.loads(sys.argv[1])

    def answer(**values: Any) -> None:
        if "versions" in values:
            values["products"] = products(task["side"])
        print(json.dumps(values), file=answers, flush=True)

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
    main(serve)
