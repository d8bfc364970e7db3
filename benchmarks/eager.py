"""Eager speed and memory beside other libraries: ``python -m benchmarks.eager`` from the root.

Each side runs in a process of its own, and they take turns (``bench.py``). See README.md for how to
read the tables. The subtle thing is what is compared: every primitive of every step is a node of
the graph on all sides; none may plan the loop as a whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import FLOOR, Bench, Result, ratio
from benchmarks.blas import pins
from benchmarks.problem import CHAIN, OPERATIONS, SIZES, Size
from benchmarks.report import Section, machine, spread, write

OURS = "tinygrad_rnn"
PEERS = ("torch", "autograd", "autograd_plain", "mygrad")
PARTS = ("lstm", "ops", "memory", "profile")

# How many times as fast as each peer we mean to be, by size.
TARGETS = {
    "torch": dict(zip(SIZES, (0.85, 1.0, 1.0), strict=True)),
    "autograd": dict(zip(SIZES, (2.5, 2.5, 1.7), strict=True)),
    "autograd_plain": dict(zip(SIZES, (2.5, 2.5, 1.7), strict=True)),
}
MEMORY_TARGET = 1.1


class Eager(Bench):
    """The tables of the literal path."""

    def lstm(self, size: Size) -> None:
        sides = [OURS, *self.options.peers, FLOOR]
        results = self.run(f"LSTM {size}", tasks(sides, lstm_task(size)))
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
            results = self.run(f"operation {operation}", tasks([OURS, *self.options.peers], task))
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
        results = self.run(f"memory {size}", tasks([OURS, *self.options.peers], task))
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
        (result,) = self.run(f"profile {size}", tasks([OURS], task))
        block = result.missing or result.first["profile"]
        explanation = "Our side under cProfile, which makes Python calls look dearer than they are."
        self.add(Section(f"Where the time goes, {size}", explanation, block=block))


def tasks(sides: Sequence[str], task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {side: {"side": side, **task} for side in sides}


def lstm_task(size: Size) -> dict[str, Any]:
    return {"kind": "lstm", "size": list(size)}


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
    heading = "\n\n".join([heading, *pins()])
    print(heading)
    bench = Eager(options)
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
        write(options.write, "Eager speed", heading, bench.sections, bench.raw)
        print(f"\nwritten: {options.write}, {options.write.with_suffix('.json')}")
    return 1 if bench.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
