"""Eager speed and memory beside other libraries: ``python -m benchmarks.eager`` from the root.

Each side runs in a process of its own (``worker.py``). In a round every side has one turn, one
after the other, and gives the median of its turn; a ratio is taken within a round and then its
median over the rounds. See README.md for how to read the tables.

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
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.problem import CHAIN, OPERATIONS, SIZES, TOLERANCE, Size, agree
from benchmarks.report import Section, machine, spread, write

ROOT = Path(__file__).resolve().parents[1]
OURS, FLOOR = "tinygrad_rnn", "floor"
PEERS = ("torch", "autograd", "autograd_plain", "mygrad")
PARTS = ("lstm", "ops", "memory", "profile")
PAUSE_SECONDS = 0.05

# How many times as fast as each peer we mean to be, by size.
TARGETS = {
    "torch": dict(zip(SIZES, (0.85, 1.0, 1.0), strict=True)),
    "autograd": dict(zip(SIZES, (2.5, 2.5, 1.7), strict=True)),
    "autograd_plain": dict(zip(SIZES, (2.5, 2.5, 1.7), strict=True)),
}
MEMORY_TARGET = 1.1


class Worker:
    """A side at work: ``first`` is its answer when warm, ``ask(k)`` the times of k iterations."""

    def __init__(self, task: dict[str, Any], threads: int) -> None:
        environment = dict(os.environ)
        for name in ("OMP", "OPENBLAS", "MKL"):
            environment[f"{name}_NUM_THREADS"] = str(threads)
        paths = [str(ROOT), str(ROOT / "backends"), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.first = self._answer()

    def ask(self, count: int) -> dict[str, Any]:
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
    """One side of one comparison; ``rounds`` holds its (forward, backward, both) seconds."""

    side: str
    first: dict[str, Any]
    missing: str = ""
    rounds: list[tuple[float, float, float]] = field(default_factory=list)
    faults: list[float] = field(default_factory=list)

    @property
    def absent(self) -> str:
        """What to print in place of a figure, or nothing; the reason stands under "Sides"."""
        return self.missing.partition(":")[0]

    def seconds(self, part: int = 2) -> Any:
        return np.array(self.rounds)[:, part]


class Bench:
    """What was asked for on the command line, and what has been found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.sections: list[Section] = []
        self.raw: dict[str, Any] = {}
        self.installed: dict[str, None] = {}  # a set that keeps its order
        self.compared = 0
        self.disagreements: list[str] = []

    def run(self, title: str, sides: list[str], task: dict[str, Any]) -> list[Result]:
        """Start a worker for each side and let them take turns; every side gets a result."""
        results, workers, counts = [], {}, {}
        with ExitStack() as stack:
            for side in sides:
                self.progress(f"{title}: starting {side}")
                worker = stack.enter_context(Worker({"side": side, **task}, self.options.threads))
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
                    both = float(np.median(times.sum(1)))
                    forward, backward = np.median(times, axis=0).tolist()
                    result.rounds.append((forward, backward, both))
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
        answered = [r for r in results if not r.missing and r.side != FLOOR]
        for result in results:
            versions = result.first.get("versions", {})
            words = ", ".join(f"{name} {version}" for name, version in versions.items())
            form = result.first.get("form", "")
            line = f"* {result.side}: " + (result.missing or f"{words}; {form}")
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

    def lstm(self, size: Size) -> None:
        results = self.run(f"LSTM {size}", [OURS, *self.options.peers, FLOOR], lstm_task(size))
        by_side = {result.side: result for result in results}
        floor = by_side[FLOOR].seconds()
        rows = []
        for result in results:
            if result.missing:
                rows.append([result.side, result.absent, *["-"] * 10])
                continue
            forward, backward, both = 1e3 * np.median(np.array(result.rounds), axis=0)
            target = TARGETS.get(result.side, {}).get(size)
            rows.append(
                [
                    result.side,
                    f"{both:.2f}",
                    spread(1e3 * result.seconds()),
                    f"{forward:.2f}",
                    f"{backward:.2f}",
                    f"{np.median(result.seconds() / floor):.2f}",
                    f"{np.median(result.faults):.0f}",
                    *ratio(result, by_side[OURS]),
                    f"{target:.2f}" if target else "-",
                    *checksums(result),
                ]
            )
        speed = size.flops / np.median(floor) / 1e9
        explanation = (
            f"Milliseconds of one forward and backward pass, float32, "
            f"threads {self.options.threads}. The floor, its matrix products alone, runs at "
            f"{speed:.0f} GFLOP/s."
        )
        header = ["side", "ms", "10-90 %", "forward", "backward", "x floor", "faults", "ours is"]
        header += ["10-90 %", "target", "loss", "gradient"]
        self.add(Section(f"LSTM, {size}", explanation, header, rows))

    def operations(self) -> None:
        rows = []
        for operation in OPERATIONS:
            task = {"kind": "chain", "operation": operation}
            results = self.run(f"operation {operation}", [OURS, *self.options.peers], task)
            for result in results:
                if result.missing:
                    rows.append([operation, result.side, result.absent, *["-"] * 7])
                    continue
                scale = 1e6 / CHAIN
                forward, backward, both = scale * np.median(np.array(result.rounds), axis=0)
                rows.append(
                    [
                        operation,
                        result.side,
                        f"{both:.2f}",
                        spread(scale * result.seconds()),
                        f"{forward:.2f}",
                        f"{backward:.2f}",
                        *ratio(result, results[0]),
                        *checksums(result),
                    ]
                )
        explanation = (
            f"Microseconds of one operation on four numbers and of its derivative, in a chain of "
            f"{CHAIN}. All but tanh and sum have two differentiable inputs."
        )
        header = ["operation", "side", "us", "10-90 %", "forward", "backward", "ours is"]
        header += ["10-90 %", "value", "gradient"]
        self.add(Section("One operation", explanation, header, rows))

    def memory(self, size: Size) -> None:
        task = {**lstm_task(size), "kind": "memory"}
        results = self.run(f"memory {size}", [OURS, *self.options.peers], task)
        needed = size.saved_bytes
        rows = []
        for result in results:
            if result.missing:
                rows.append([result.side, result.absent, *["-"] * 5])
                continue
            held = result.first["held"]
            total = sum(held.values())
            objects = f"{held['objects'] / 1e6:.2f}" if "objects" in held else "not counted"
            rows.append(
                [
                    result.side,
                    f"{held['arrays'] / 1e6:.2f}",
                    objects,
                    f"{held['input'] / 1e6:.2f}",
                    f"{total / 1e6:.2f}",
                    f"{total / needed:.3f}",
                    f"{MEMORY_TARGET:.2f}" if result.side == OURS and size == SIZES[-1] else "-",
                ]
            )
        explanation = (
            f"Millions of bytes that the graph keeps alive between the forward and the backward "
            f"pass. What the derivative needs, 7*T*B*H*4 and the input, is {needed / 1e6:.2f}."
        )
        header = ["side", "new arrays", "Python objects", "input", "held", "x needed", "target"]
        self.add(Section(f"Memory, {size}", explanation, header, rows))

    def profile(self, size: Size) -> None:
        task = {**lstm_task(size), "kind": "profile"}
        (result,) = self.run(f"profile {size}", [OURS], task)
        block = result.missing or result.first["profile"]
        explanation = "Our side under cProfile, which makes Python calls look dearer than they are."
        self.add(Section(f"Where the time goes, {size}", explanation, block=block))


def lstm_task(size: Size) -> dict[str, Any]:
    return {"kind": "lstm", "size": list(size)}


def ratio(result: Result, ours: Result) -> list[str]:
    """How many times as fast as this side ours is: the median over rounds, and the spread."""
    if ours.missing or result.side in (OURS, FLOOR):
        return ["-", "-"]
    ratios = result.seconds() / ours.seconds()
    return [f"{np.median(ratios):.2f}", spread(ratios)]


def checksums(result: Result) -> list[str]:
    if result.side == FLOOR:
        return ["-", "-"]
    check = result.first["checksum"]
    return [f"{check['loss']:.6g}", f"{sum(check['products']):.6g}"]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def size(text: str) -> Size:
        return Size(*map(int, text.split(",")))

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.eager",
        description="Speed and memory of an LSTM in primitives, beside other libraries.",
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:3], help="default: all but profile")
    add("--sizes", nargs="+", type=size, default=SIZES, metavar="T,B,I,H", help="memory: the last")
    add("--peers", nargs="*", choices=PEERS, default=PEERS, help="beside ours; default: all")
    add("--rounds", type=int, help="turns of each side (default 15, with --quick 3)")
    add("--threads", type=int, default=2, help="of BLAS and OpenMP, on every side (default 2)")
    add("--quick", action="store_true", help="few and short turns: to see that it works")
    add("--profile", action="store_true", help="also show where our time goes, by function")
    add("--write", type=Path, metavar="FILE.md", help="keep the report, and raw figures as JSON")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.turn = 0.1 if options.quick else 0.4
    if options.profile:
        options.parts = [*options.parts, "profile"]
    if options.write and options.write.suffix != ".md":
        parser.error("--write takes the name of a .md file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    heading = (
        f"{machine()}. Threads on every side: {options.threads}. {options.rounds} rounds, "
        f"a turn of about {options.turn} s or one iteration."
    )
    print(heading)
    bench = Bench(options)
    for size in options.sizes:
        if "lstm" in options.parts:
            bench.lstm(size)
    if "ops" in options.parts:
        bench.operations()
    if "memory" in options.parts:
        bench.memory(options.sizes[-1])
    for size in options.sizes:
        if "profile" in options.parts:
            bench.profile(size)
    bench.sides()
    if options.write:
        write(options.write, heading, bench.sections, bench.raw)
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}")
    return 1 if bench.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
