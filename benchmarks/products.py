"""Matrix products beside other libraries: ``python -m benchmarks.products`` from the root.

GFLOP/s of our kernels, of NumPy's BLAS and of PyTorch's at the shapes of recurrent networks, those
of their backward passes included. Each side runs in a process of its own, and they take turns. See
README.md for how to read the table.

The subtle thing is a turn's figure: its quickest tenth. What others do on the machine can make a
product slower and never quicker, so that the median of a turn tells more of them than of a library.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import PAUSE_SECONDS, Bench, Result, Worker
from benchmarks.blas import pins
from benchmarks.report import Section, machine, spread, write
from benchmarks.sides.products import SIDES, Case

OURS = "tinygrad_rnn"
PEERS = tuple(side for side in SIDES if side != OURS)
FORMS = ("forward", "weights", "inputs")
SHAPES = (
    (6400, 128, 1024),
    (700, 650, 2600),
    (64, 1024, 4096),
    (20, 650, 2600),
    (32, 128, 512),
    (2500, 256, 1024),
    (2500, 256, 65),
    (700, 650, 10000),
)
CASES = [Case(form, *shape) for shape in SHAPES for form in FORMS]
CASES += [Case(form, 10, 128, 40, 64) for form in FORMS]
TARGET = 0.9  # of the best other library


class Products(Bench):
    """The table of products."""

    module = "benchmarks.sides.products"

    def measure(self, cases: Sequence[Case]) -> None:
        """All cases on all sides, which start only once."""
        options = self.options
        with ExitStack() as stack:
            results, workers = [], {}
            for side in [OURS, *options.peers]:
                task = {"side": side, "cases": cases, "threads": options.threads}
                worker = stack.enter_context(Worker(self.module, task, options.threads))
                results.append(Result(side, worker.first, worker.first.get("missing", "")))
                if not results[-1].missing:
                    workers[side] = worker
            self.note("sides", results)
            rows = [self.row(number, case, workers) for number, case in enumerate(cases)]
        explanation = (
            f"GFLOP/s, float32, threads {options.threads}; medians over {options.rounds} rounds. "
            f"*ours / best* is within a round, beside the quicker of the others, and its 10th and "
            f"90th percentile; meant to be at least {TARGET}."
        )
        header = ["product", "of", *workers, "ours / best", "10-90 %", "target"]
        self.add(Section(f"Products, {options.threads} threads", explanation, header, rows))

    def row(self, number: int, case: Case, workers: dict[str, Worker]) -> list[str]:
        first = {side: worker.ask(f"{number} 1") for side, worker in workers.items()}
        results = [Result(side, answer) for side, answer in first.items()]
        for turn in range(self.options.rounds):
            self.progress(f"{case.form} {case}: round {turn + 1} of {self.options.rounds}")
            for result in results[turn % len(results) :] + results[: turn % len(results)]:
                time.sleep(PAUSE_SECONDS)
                seconds = min(first[result.side]["times"])
                count = max(1, min(1000, round(self.options.turn / seconds)))
                times = workers[result.side].ask(f"{number} {count}")["times"]
                result.rounds.append([float(np.percentile(times, 10))])
        self.progress("")
        self.note(f"{case.form} {case}", results)
        speeds = {result.side: case.flops / result.seconds() / 1e9 for result in results}
        row = [str(case), case.form, *(f"{np.median(speed):.0f}" for speed in speeds.values())]
        others = [speed for side, speed in speeds.items() if side != OURS]
        if not others:
            return [*row, "-", "-", "-"]
        ratios = speeds[OURS] / np.max(others, axis=0)
        met = "met" if np.median(ratios) >= TARGET else "missed"
        return [*row, f"{np.median(ratios):.2f}", spread(ratios), met]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.products",
        description="Speed of matrix products, beside other libraries.",
    )
    add = parser.add_argument
    add("--peers", nargs="*", choices=PEERS, default=PEERS, help="beside ours; default: all")
    add("--rounds", type=int, help="turns of each side (default 9, with --quick 2)")
    add("--threads", type=int, nargs="+", default=[1, 2], help="one table each (default 1 2)")
    add("--quick", action="store_true", help="small shapes, short turns: to see that it works")
    add("--write", type=Path, metavar="FILE.md", help="keep the report, and raw figures as JSON")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.turn = 0.01 if options.quick else 0.1
    if options.write and options.write.suffix != ".md":
        parser.error("--write takes the name of a .md file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    heading = (
        f"{machine()}. {options.rounds} rounds, a turn of about {options.turn} s; of a turn its "
        "quickest tenth."
    )
    heading = "\n\n".join([heading, *pins()])
    print(heading)
    raw: dict[str, Any] = {}
    sections: list[Section] = []
    wrong = False
    for threads in options.threads:
        bench = Products(argparse.Namespace(**{**vars(options), "threads": threads}))
        bench.measure([c for c in CASES if not options.quick or c.flops < 5e6])
        bench.sides()
        raw[f"{threads} threads"] = bench.raw
        sections += bench.sections
        wrong = wrong or bool(bench.disagreements)
    if options.write:
        write(options.write, "Matrix products", heading, sections, raw)
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
