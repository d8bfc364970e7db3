"""Training steps of seven whole models beside other libraries: ``python -m benchmarks.models``.

Forward pass, loss, backward pass, clipping at a norm and Adam, as users of each library write them.
See README.md for how to read the tables; ``zoo/`` has the models and what each side runs.

The subtle thing is what a model adds to its loops: a projection to a vocabulary, dropout,
embeddings, a loss, an optimiser. Where a library is slow there, a quick layer helps nobody.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench, Result, ratio
from benchmarks.blas import pins
from benchmarks.grid.plot import draw
from benchmarks.grid.targets import geometric_mean
from benchmarks.recurrent import Side
from benchmarks.report import Section, machine, spread, write
from benchmarks.zoo import targets
from benchmarks.zoo.problem import MODELS, SIZES

OURS = "ours"
SIDES = {
    OURS: Side("tinygrad_rnn", ("step",)),
    "ours-numpy": Side("tinygrad_rnn", ("step",), environment={"TINYGRAD_RNN_JIT": "0"}),
    "torch": Side("torch", ("step",)),
    "jax": Side("jax", ("hoisted", "plain")),
}
PEERS = tuple(side for side in SIDES if side != OURS)
DEFAULT_PEERS = ("torch", "jax")


class Models(Bench):
    """The tables of the seven models."""

    module = "benchmarks.zoo.worker"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.times: dict[Any, dict[str, Any]] = {}
        self.starts: dict[str, dict[str, dict[str, Any]]] = {}
        self.summaries: list[Section] = []

    def sizes(self, model: str) -> dict[str, int]:
        full, small = SIZES[model]
        return small if self.options.quick else full

    def tasks(self, measure: str, model: str, side: str) -> dict[str, dict[str, Any]]:
        return {
            side: {
                "measure": measure,
                "model": model,
                "sizes": self.sizes(model),
                "side": SIDES[side].module,
                "forms": SIDES[side].forms[: 1 if self.options.quick else None],
                "environment": dict(SIDES[side].environment),
            }
        }

    def measure(self, model: str) -> None:
        """First steps, one process after the other; then the sides take turns."""
        sizes = ", ".join(f"{letter}={size}" for letter, size in self.sizes(model).items())
        self.starts[model] = {}
        for side in self.options.sides:
            started = [
                self.run(f"{model}, start {number + 1}, {side}", self.tasks("start", model, side))
                for number in range(self.options.starts)
            ]
            answers = [result.first for (result,) in started if not result.missing]
            if answers:
                self.starts[model][side] = {
                    what: float(np.median([answer[what] for answer in answers]))
                    for what in ("first", "peak")
                    if answers[0][what] is not None
                }
        tasks = {}
        for side in self.options.sides:
            tasks |= self.tasks("turns", model, side)
        results = self.run(model, tasks)
        measured = {result.side: result for result in results if not result.missing}
        self.times[model,] = {side: result.seconds() for side, result in measured.items()}
        rows = [self.row(model, result, measured.get(OURS)) for result in results]
        header = [
            "side",
            "ms",
            "10-90 %",
            "ours is",
            "10-90 %",
            "target",
            "faults",
            "first step, s",
        ]
        self.add(Section(f"{model}, {sizes}", "", [*header, "peak, MB", "loss", "gradient"], rows))

    def row(self, model: str, result: Result, ours: Result | None) -> list[str]:
        if result.missing:
            return [result.side, result.absent, *["-"] * 9]
        started = self.starts[model].get(result.side, {})
        least, check = targets.least(model, result.side), result.first["checksum"]
        return [
            result.side,
            f"{1e3 * np.median(result.seconds()):.3f}",
            spread(1e3 * result.seconds(), digits=3),
            *ratio(result, ours),
            f"{least:.2f}" if least else "-",
            f"{np.median(result.faults):.0f}",
            seconds(started),
            megabytes(started),
            f"{check['loss']:.6g}",
            f"{sum(check['products']):.6g}",
        ]

    def summarise(self) -> None:
        """Targets and all models in one table, to stand before the rest."""
        sides = [side for side in SIDES if any(side in times for times in self.times.values())]
        others = [side for side in sides if side != OURS]
        speeds, beginnings = [], []
        for (model,), times in self.times.items():
            taken = (milliseconds(times[side]) if side in times else "-" for side in sides)
            speeds.append([model, *taken, *(self.ratio(model, side) for side in others)])
            started = [self.starts[model].get(side, {}) for side in sides]
            beginnings.append([model, *map(seconds, started), *map(megabytes, started)])
        speeds.append(["geometric mean", *["-"] * len(sides), *map(self.mean, others)])
        ratios = [f"{side} / ours" for side in others]
        columns = ["what", "worst model", "found", "at least", "verdict"]
        verdicts = targets.verdicts(self.times, self.starts)
        self.summaries = [
            Section("Targets", "", columns, verdicts),
            Section(
                "Training steps",
                "Milliseconds, and the time of a side over ours: above 1 ours is the quicker. "
                "Medians over the rounds; 10th and 90th percentile in brackets.",
                ["model", *sides, *ratios],
                speeds,
            ),
            Section(
                "The beginning",
                "Seconds of the first step in a fresh process, then megabytes of resident memory "
                "at its highest in that step and ten more, less what there was after importing. "
                f"Medians of {self.options.starts}.",
                ["model", *(f"{side}, s" for side in sides), *(f"{side}, MB" for side in sides)],
                beginnings,
            ),
        ]

    def ratio(self, model: str, side: str) -> str:
        found = targets.of(self.times, model, side)
        if found is None:
            return "-"
        times = self.times[model,]
        return f"{found:.2f} ({spread(times[side] / times[OURS])})"

    def mean(self, side: str) -> str:
        found = [targets.of(self.times, model, side) for (model,) in self.times]
        measured = [value for value in found if value is not None]
        return f"{geometric_mean(measured):.2f}" if measured else "-"

    def save(self, heading: str) -> None:
        if self.options.write:
            sections = [*self.summaries, *self.sections]
            title = "Training steps of whole models"
            write(self.options.write, title, heading, sections, self.raw)

    def picture(self, heading: str) -> str:
        """Where the picture is, or why there is none."""
        if not any("torch" in times for times in self.times.values()):
            return "no picture: it shows ratios to PyTorch, which was not measured"
        path = self.options.write.with_suffix(".png")
        try:
            draw(path, self.times, heading, than="PyTorch")
        except ImportError as error:
            return f"no picture: {error}"
        return str(path)


def milliseconds(times: Any) -> str:
    return f"{1e3 * np.median(times):.4g}"


def seconds(started: dict[str, Any]) -> str:
    return f"{started['first']:.2f}" if started else "-"


def megabytes(started: dict[str, Any]) -> str:
    return f"{started['peak'] / 1e6:.0f}" if started.get("peak") else "-"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models",
        description="One training step of seven whole models, beside other libraries.",
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all seven")
    add("--peers", nargs="*", choices=PEERS, default=DEFAULT_PEERS, help="default: torch jax")
    add("--rounds", type=int, help="turns of each side (default 15, with --quick 3)")
    add("--threads", type=int, default=2, help="of BLAS, OpenMP and XLA, on every side (default 2)")
    add("--quick", action="store_true", help="small sizes, short turns: does it work?")
    add("--write", type=Path, metavar="FILE.md", help="keep the report, figures and a picture")
    options = parser.parse_args(arguments)
    options.sides = [OURS, *options.peers]
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.starts = 1 if options.quick else 3
    options.turn = 0.05 if options.quick else 0.4
    if options.write and options.write.suffix != ".md":
        parser.error("--write takes the name of a .md file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    computer = machine()
    sizes = " Small sizes: the figures mean nothing." if options.quick else ""
    heading = (
        f"{computer}. Threads on every side: {options.threads}. {options.rounds} rounds, "
        f"a turn of about {options.turn} s or one step. float32.{sizes}"
    )
    heading = "\n\n".join([heading, *pins()])
    print(heading)
    bench = Models(options)
    for model in options.models:
        bench.measure(model)
        bench.summarise()
        bench.save(heading)  # now, too: all of them take long
    for section in bench.summaries:
        print(f"\n{section}")
    bench.sides()
    bench.save(heading)
    if options.write:
        picture = bench.picture(f"{computer.partition(', load')[0]}; {options.threads} threads")
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}, {picture}")
    return 1 if bench.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
