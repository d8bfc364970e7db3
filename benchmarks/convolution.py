"""Convolutions and pooling beside PyTorch: ``python -m benchmarks.convolution`` from the root.

Each at the sizes that examples have, and a ConvLSTM over 16 frames: forward and backward pass of a
weighted sum. See README.md for how to read the table.

The subtle thing is that CPU time counts, of all threads, and not the clock's: convolutions were to
cost at most twice as much as PyTorch's, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench, Result
from benchmarks.blas import pins
from benchmarks.report import Section, machine, spread, write
from benchmarks.sides.convolution import CASES, SIDES

OURS, TORCH = SIDES
TARGET = 2.0  # times PyTorch's CPU time at most


class Convolutions(Bench):
    """One table: a row for each case."""

    module = "benchmarks.sides.convolution"

    def measure(self, case: str) -> list[str]:
        """A case on all sides; its row."""
        options = self.options
        sides = [OURS, *options.peers]
        tasks = {side: {"side": side, "case": case, "small": options.quick} for side in sides}
        ours, *others = self.run(case, tasks)
        return [case, *self.times(ours), *self.beside(ours, others)]

    def times(self, result: Result) -> list[str]:
        """Milliseconds of both passes."""
        if result.missing:
            return [result.absent, "-"]
        return [f"{1e3 * np.median(result.seconds(part)):.2f}" for part in (0, 1)]

    def beside(self, ours: Result, others: list[Result]) -> list[str]:
        """The other side's times, and ours over them."""
        if not others:
            return ["-"] * 5
        (torch,) = others
        if ours.missing or torch.missing:
            return [*self.times(torch), *["-"] * 3]
        ratios = ours.seconds() / torch.seconds()
        verdict = "met" if np.median(ratios) <= TARGET else "missed"
        return [*self.times(torch), f"{np.median(ratios):.2f}", spread(ratios), verdict]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convolution",
        description="CPU time of convolutions and pooling, beside PyTorch.",
    )
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, default=[*CASES], help="default: all")
    add("--peers", nargs="*", choices=[TORCH], default=[TORCH], help="beside ours; default: torch")
    add("--rounds", type=int, help="turns of each side (default 9, with --quick 2)")
    add("--threads", type=int, default=1, help="on every side (default 1)")
    add("--quick", action="store_true", help="batches of two, short turns: does it work?")
    add("--write", type=Path, metavar="FILE.md", help="keep the report, and raw figures as JSON")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.turn = 0.02 if options.quick else 0.2
    if options.write and options.write.suffix != ".md":
        parser.error("--write takes the name of a .md file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write if asked to."""
    options = parse(arguments)
    small = " Batches of two: the figures mean nothing." if options.quick else ""
    heading = (
        f"{machine()}. Threads on every side: {options.threads}. {options.rounds} rounds, a turn "
        f"of about {options.turn} s.{small}"
    )
    heading = "\n\n".join([heading, *pins()])
    print(heading)
    bench = Convolutions(options)
    rows = [bench.measure(case) for case in options.cases]
    explanation = (
        "CPU time in ms, medians over the rounds. *ours / torch* is that of both passes, within a "
        f"round, with its 10th and 90th percentile; meant to be at most {TARGET}."
    )
    header = ["case", "ours, forward", "backward", "torch, forward", "backward", "ours / torch"]
    header += ["10-90 %", "target"]
    bench.add(Section("Convolutions and pooling", explanation, header, rows))
    bench.sides()
    if options.write:
        write(options.write, "Convolutions", heading, bench.sections, bench.raw)
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}")
    return 1 if bench.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
