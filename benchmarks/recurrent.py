"""Recurrent training steps beside other libraries: ``python -m benchmarks.recurrent``.

Forward pass, mean squared loss, backward pass and update of LSTM, GRU and RNN over a grid of sizes.
See README.md for how to read the tables; ``grid/`` has what each side runs.

The subtle thing is what is compared with what: a layer with a layer, a cell that is written by hand
with one that is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.bench import FLOOR, Bench, Result, ratio
from benchmarks.blas import pins
from benchmarks.grid import targets
from benchmarks.grid.plot import draw
from benchmarks.grid.problem import GATES, SIZES
from benchmarks.grid.targets import Cell
from benchmarks.problem import Size
from benchmarks.report import Section, machine, spread, write


class Side(NamedTuple):
    """A module of ``grid``, which of its forms may be chosen, and for which kinds of cell."""

    module: str
    forms: tuple[str, ...]
    kinds: tuple[str, ...] = tuple(GATES)
    environment: Mapping[str, str] = {}


SIDES = {
    "ours": Side("tinygrad_rnn", ("layer",)),
    "ours-step": Side("tinygrad_rnn", ("step",)),
    "ours-cell": Side("tinygrad_rnn", ("cell",)),
    "ours-numpy": Side("tinygrad_rnn", ("layer",), environment={"TINYGRAD_RNN_JIT": "0"}),
    "ours-literal": Side("tinygrad_rnn", ("literal",)),
    "torch": Side("torch", ("layer",)),
    "torch-cell": Side("torch", ("cell",)),
    "jax": Side("jax", ("hoisted", "plain")),
    "autograd": Side("autograd", ("best", "plain"), targets.GATED),
    "mygrad": Side("mygrad", ("loop",), targets.GATED),
    FLOOR: Side(FLOOR, ("products",)),
}
LITERAL = "ours-literal"
QUICK_SIZES = ("charrnn", "small")
COMPILED = ("ours", "ours-step", "ours-cell", "ours-numpy", "jax")  # those that prepare anything

MEDIANS = "Medians over the rounds; 10th and 90th percentile in brackets."
BY_HAND = ("torch-cell", LITERAL)  # compared with our cell that is written by hand

# What the table of ratios has, in its order.
PAIRS = (
    ("torch", "ours"),
    ("torch", "ours-numpy"),
    ("torch-cell", "ours-cell"),
    ("ours", "ours-cell"),
    ("jax", "ours"),
    ("jax", "ours-step"),
    ("ours", "ours-step"),
    ("autograd", "ours"),
    ("mygrad", "ours"),
    (LITERAL, "ours-cell"),
    (FLOOR, "ours"),
)


class Recurrent(Bench):
    """The tables of the grid."""

    module = "benchmarks.grid.worker"

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.times: dict[Cell, dict[str, Any]] = {}
        self.summaries: list[Section] = []

    def tasks(self, measure: str, cell: Cell, sides: Sequence[str]) -> dict[str, dict[str, Any]]:
        kind, size = cell
        return {
            name: {
                "measure": measure,
                "kind": kind,
                "size": list(self.options.sizes[size]),
                "side": SIDES[name].module,
                "forms": SIDES[name].forms,
                "environment": dict(SIDES[name].environment),
            }
            for name in sides
            if kind in SIDES[name].kinds and name in self.options.sides
        }

    def title(self, cell: Cell) -> str:
        kind, size = cell
        return f"{kind} {size}, {self.options.sizes[size]}"

    def speed(self, cell: Cell) -> None:
        results = self.run(self.title(cell), self.tasks("turns", cell, list(SIDES)))
        measured = {result.side: result for result in results if not result.missing}
        self.times[cell] = {side: result.seconds() for side, result in measured.items()}
        rows = []
        for result in results:
            if result.missing:
                rows.append([result.side, result.absent, *["-"] * 9])
                continue
            against = "ours-cell" if result.side in BY_HAND else "ours"
            wanted = targets.least(cell, result.side, against)
            rows.append(
                [
                    result.side,
                    f"{1e3 * np.median(result.seconds()):.3f}",
                    spread(1e3 * result.seconds(), digits=3),
                    times_floor(result, measured.get(FLOOR)),
                    f"{np.median(result.faults):.0f}",
                    against,
                    *ratio(result, measured.get(against)),
                    f"{wanted:.2f}" if wanted else "-",
                    *checksums(result),
                ]
            )
        header = ["side", "ms", "10-90 %", "x floor", "faults"]
        header += ["against", "ours is", "10-90 %", "target"]
        self.add(Section(self.title(cell), "", [*header, "loss", "gradient"], rows))

    def summarise(self) -> None:
        """Targets, ratios and milliseconds of all cells together, to stand before the rest."""
        sides = [side for side in SIDES if any(side in times for times in self.times.values())]
        pairs = [pair for pair in PAIRS if set(pair) <= set(sides)]
        milliseconds = [
            [" ".join(cell), *(median_ms(times.get(side)) for side in sides)]
            for cell, times in self.times.items()
        ]
        ratios = [
            [" ".join(cell), *(self.ratio_and_spread(cell, *pair) for pair in pairs)]
            for cell in self.times
        ]
        ratios.append(["geometric mean", *(self.mean(*pair) for pair in pairs)])
        explanation = "The first side's time over the second's: above 1 the second is the quicker."
        header = ["time of a side beside another", "cells", "figure", "found", "at least"]
        columns = [f"{slower} / {faster}" for slower, faster in pairs]
        self.summaries = [
            Section("Targets", explanation, [*header, "verdict"], targets.verdicts(self.times)),
            Section("Ratios", f"{explanation} {MEDIANS}", ["cell", *columns], ratios),
            Section("Milliseconds of a training step", "", ["cell", *sides], milliseconds),
        ]

    def ratio_and_spread(self, cell: Cell, slower: str, faster: str) -> str:
        found = targets.ratio(self.times, cell, slower, faster)
        if found is None:
            return "-"
        times = self.times[cell]
        return f"{found:.2f} ({spread(times[slower] / times[faster])})"

    def mean(self, slower: str, faster: str) -> str:
        found = [targets.ratio(self.times, cell, slower, faster) for cell in self.times]
        return f"{targets.geometric_mean([value for value in found if value is not None]):.2f}"

    def memory(self) -> None:
        rows = []
        for cell in self.cells():
            sides = [side for side in SIDES if side != FLOOR]
            wanted = targets.MEMORY.get(cell[1])
            for result in self.run(
                f"memory, {self.title(cell)}", self.tasks("memory", cell, sides)
            ):
                start = [" ".join(cell), result.side]
                if result.missing:
                    rows.append([*start, result.absent, *["-"] * 3])
                    continue
                stages = (f"{size / 1e6:.0f}" for size in result.first["resident"].values())
                ours = wanted and result.side.startswith("ours")
                rows.append([*start, *stages, f"{wanted}" if ours else "-"])
        explanation = (
            "Millions of bytes by which resident memory grows: by the libraries and kernels that a "
            "small problem of another kind loads; then, at its largest, during the first step, and "
            "during the ten after it. PyTorch's nn.LSTM, with its libraries, is the target."
        )
        header = ["cell", "side", "libraries", "first step", "later steps", "at most"]
        self.add(Section("Memory", explanation, header, rows))

    def preparation(self) -> None:
        rows = []
        for cell in self.cells():
            tasks = self.tasks("preparation", cell, COMPILED)
            for result in self.run(f"preparation, {self.title(cell)}", tasks):
                start = [" ".join(cell), result.side]
                if result.missing:
                    rows.append([*start, result.absent, *["-"] * 5])
                    continue
                first, steady = (1e3 * result.first[name] for name in ("first", "steady"))
                look_up = result.first["look_up"]
                wanted = targets.PREPARATION_MS.get(result.side)
                rows.append(
                    [
                        *start,
                        f"{first:.2f}",
                        f"{steady:.2f}",
                        f"{first - steady:.2f}",
                        f"{wanted:.0f}" if wanted else "-",
                        f"{1e3 * look_up:.4f}" if look_up is not None else "-",
                        f"{targets.LOOK_UP_MS}" if wanted else "-",
                    ]
                )
        explanation = (
            "Milliseconds of the first step of a structure that is new, and of the steps after it; "
            "the libraries are loaded. The difference is what it takes to prepare, and to touch "
            "new memory. Look-up is that of a cell whose plan is known, tracing included."
        )
        header = ["cell", "side", "first step", "later steps", "difference", "at most"]
        header += ["look-up", "at most"]
        self.add(Section("Preparation", explanation, header, rows))

    def cells(self) -> list[Cell]:
        return [(kind, size) for kind in self.options.kinds for size in self.options.sizes]

    def save(self, heading: str) -> None:
        if self.options.write:
            sections = [*self.summaries, *self.sections]
            write(self.options.write, "Recurrent training steps", heading, sections, self.raw)

    def picture(self, heading: str) -> str:
        """Where the picture is, or why there is none."""
        if not any("torch" in times for times in self.times.values()):
            return "no picture: it shows ratios to PyTorch, which was not measured"
        path = self.options.write.with_suffix(".png")
        try:
            draw(path, self.times, heading)
        except ImportError as error:
            return f"no picture: {error}"
        return str(path)


def times_floor(result: Result, floor: Result | None) -> str:
    if floor is None:
        return "-"
    return f"{np.median(result.seconds() / floor.seconds()):.2f}"


def median_ms(seconds: Any) -> str:
    return "-" if seconds is None else f"{1e3 * np.median(seconds):.3g}"


def checksums(result: Result) -> list[str]:
    if result.side == FLOOR:
        return ["-", "-"]
    check = result.first["checksum"]
    return [f"{check['loss']:.6g}", f"{sum(check['products']):.6g}"]


def named_size(text: str) -> tuple[str, Size]:
    return text, SIZES[text] if text in SIZES else Size(*map(int, text.split(",")))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent",
        description="One training step of recurrent layers, beside other libraries.",
    )
    add = parser.add_argument
    names = ", ".join(SIZES)
    add("--sizes", nargs="+", type=named_size, metavar="SIZE", help=f"of {names}; or T,B,I,H")
    add("--kinds", nargs="+", choices=GATES, help="default: all, with --quick the first")
    add("--sides", nargs="+", choices=SIDES, help="default: all but the literal one")
    add("--literal", action="store_true", help="also our cell with mode='literal'")
    add("--rounds", type=int, help="turns of each side (default 15, with --quick 3)")
    add("--threads", type=int, default=2, help="of BLAS, OpenMP and XLA, on every side (default 2)")
    add(
        "--quick",
        action="store_true",
        help="one kind, two sizes, short turns: does it work?",
    )
    add("--memory", action="store_true", help="also how much resident memory grows")
    add("--prepare", action="store_true", help="also what a first step and a look-up take")
    add("--no-speed", action="store_true", help="only what --memory and --prepare ask for")
    add("--write", type=Path, metavar="FILE.md", help="keep the report, figures and a picture")
    options = parser.parse_args(arguments)
    default_sizes = QUICK_SIZES if options.quick else tuple(SIZES)
    options.sizes = dict(options.sizes or map(named_size, default_sizes))
    options.kinds = options.kinds or list(GATES)[: 1 if options.quick else None]
    options.sides = options.sides or [side for side in SIDES if side != LITERAL]
    if options.literal:
        options.sides = [*options.sides, LITERAL]
    options.rounds = options.rounds or (3 if options.quick else 15)
    options.turn = 0.1 if options.quick else 0.4
    if options.write and options.write.suffix != ".md":
        parser.error("--write takes the name of a .md file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    computer = machine()
    heading = (
        f"{computer}. Threads on every side: {options.threads}. {options.rounds} rounds, "
        f"a turn of about {options.turn} s or one step. float32."
    )
    heading = "\n\n".join([heading, *pins()])
    print(heading)
    bench = Recurrent(options)
    for cell in [] if options.no_speed else bench.cells():
        bench.speed(cell)
        bench.summarise()
        bench.save(heading)  # now, too: the whole grid takes long
    for section in bench.summaries:
        print(f"\n{section}")
    further: list[tuple[bool, Callable[[], None]]] = [
        (options.memory, bench.memory),
        (options.prepare, bench.preparation),
    ]
    for wanted, measure in further:
        if wanted:
            measure()
    bench.sides()
    bench.save(heading)
    if options.write:
        picture = bench.picture(f"{computer.partition(', load')[0]}; {options.threads} threads")
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}, {picture}")
    return 1 if bench.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
