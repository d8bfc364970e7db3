"""What every benchmark here does: sides at work in processes of their own, taking turns.

In a round every side has one turn, one after the other, and gives the median of its turn; a ratio
is taken within a round and then its median over the rounds. See README.md for how to read them.

The subtle thing is the pause before a turn. The thread pools of the side before it go on spinning
for some milliseconds after its last product, and on two cores that would be charged to the next.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problem import TOLERANCE, agree
from benchmarks.report import Section, spread

ROOT = Path(__file__).resolve().parents[1]
FLOOR = "floor"
PAUSE_SECONDS = 0.05

# How many threads a library takes; XLA, which has no setting of its own, reads the last.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")


class Worker:
    """A side at work: ``first`` is its answer when warm, ``ask(k)`` the times of k iterations.

    ``module`` is run with the task as JSON; ``task["environment"]``, if given, is set before.
    """

    def __init__(self, module: str, task: Mapping[str, Any], threads: int) -> None:
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        environment |= task.get("environment", {})
        paths = [str(ROOT), str(ROOT / "backends"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.first = self._answer()

    def ask(self, count: int | str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # then the answer below says that it ended
            print(count, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"missing": "failed: it ended"}
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@dataclass
class Result:
    """One side of one comparison; a round holds the seconds of each part, and of all together."""

    side: str
    first: dict[str, Any]
    missing: str = ""
    rounds: list[list[float]] = field(default_factory=list)
    faults: list[float] = field(default_factory=list)

    @property
    def absent(self) -> str:
        """What to print in place of a figure, or nothing; the reason stands under "Sides"."""
        return self.missing.partition(":")[0]

    def seconds(self, part: int = -1) -> Any:
        return np.array(self.rounds)[:, part]


class Bench:
    """What was asked for on the command line, and what has been found so far."""

    module = "benchmarks.worker"

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sections: list[Section] = []
        self.raw: dict[str, Any] = {}
        self.installed: dict[str, None] = {}  # a set that keeps its order
        self.compared = 0
        self.disagreements: list[str] = []

    def run(self, title: str, tasks: Mapping[str, Mapping[str, Any]]) -> list[Result]:
        """Start a worker for each side's task and let them take turns; every side gets a result."""
        results, workers, counts = [], {}, {}
        with ExitStack() as stack:
            for side, task in tasks.items():
                self.progress(f"{title}: starting {side}")
                worker = stack.enter_context(Worker(self.module, task, self.options.threads))
                result = Result(side, worker.first, worker.first.get("missing", ""))
                results.append(result)
                if not result.missing and "seconds" in worker.first:
                    workers[side] = worker
                    counts[side] = max(1, round(self.options.turn / worker.first["seconds"]))
            alive = [result for result in results if result.side in workers]
            for number in range(self.options.rounds if alive else 0):
                self.progress(f"{title}: round {number + 1} of {self.options.rounds}")
                first = number % len(alive)
                for result in alive[first:] + alive[:first]:
                    time.sleep(PAUSE_SECONDS)
                    answer = workers[result.side].ask(counts[result.side])
                    if "missing" in answer:
                        raise SystemExit(f"{title}: {result.side} {answer['missing']}")
                    times = np.array(answer["times"])
                    parts = np.median(times, axis=0).tolist()
                    result.rounds.append([*parts, float(np.median(times.sum(1)))])
                    result.faults.append(answer["faults"])
        self.progress("")
        self.note(title, results)
        return results

    def progress(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def note(self, title: str, results: list[Result]) -> None:
        """Keep the raw figures and the versions, and compare the checksums."""
        self.raw[title] = [vars(result) for result in results]
        answered = [r for r in results if "checksum" in r.first and r.side != FLOOR]
        for result in results:
            versions = result.first.get("versions", {})
            words = ", ".join(f"{name} {version}" for name, version in versions.items())
            form, products = (result.first.get(name, "") for name in ("form", "products"))
            line = f"* {result.side}: " + (result.missing or f"{words}; {form}")
            if products:
                line += f". Products: {products}"
            if versions or result.missing:
                self.installed.setdefault(line)
        for result in answered[1:]:
            self.compared += 1
            if not agree(answered[0].first["checksum"], result.first["checksum"]):
                self.disagreements.append(f"{title}: {result.side} and {answered[0].side}")

    def add(self, section: Section) -> None:
        self.sections.append(section)
        print(f"\n{section}", flush=True)

    def sides(self) -> None:
        agreement = f"{self.compared} comparisons: the same loss and gradients, to {TOLERANCE}."
        if self.disagreements:
            agreement = f"These differ by more than {TOLERANCE}: {'; '.join(self.disagreements)}."
        self.add(Section("Sides", "\n".join([agreement, "", *self.installed])))


def ratio(result: Result, ours: Result | None) -> list[str]:
    """How many times as fast as this side ours is: the median over rounds, and the spread."""
    if ours is None or ours.missing or result.side in (ours.side, FLOOR):
        return ["-", "-"]
    ratios = result.seconds() / ours.seconds()
    return [f"{np.median(ratios):.2f}", spread(ratios)]
