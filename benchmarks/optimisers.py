"""An optimiser's step beside moving its memory: ``python -m benchmarks.optimisers``.

A step reads the parameter, its gradient and its moments, and writes all but the gradient. So there
is a floor, the time that this machine takes to copy as many bytes on as many threads; and beside it
the literal path, on which every operation of an update is a pass of NumPy's.

The subtle thing is memory that is fresh: to touch it for the first time takes longer than to fill
it. Both sides have had theirs before they are timed, and rounds alternate between all of them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from benchmarks.report import Section, machine, spread, write
from tinygrad_rnn import nn, optim
from tinygrad_rnn.kernels.machine import threads

KINDS: dict[str, tuple[Callable[[Any], optim.Optimizer], int]] = {
    "SGD": (lambda p: optim.SGD(p), 3),
    "SGD, momentum": (lambda p: optim.SGD(p, momentum=0.9), 5),
    "RMSprop": (optim.RMSprop, 5),
    "Adagrad": (optim.Adagrad, 5),
    "Adadelta": (optim.Adadelta, 7),
    "Adam": (optim.Adam, 7),
    "AdamW": (optim.AdamW, 7),
}
"""Each with how many arrays of the parameter's size a step moves."""

SMALL = [(65, 400), (100, 400), (400,), (100, 65), (65,)]
"""The parameters of a small character model: an LSTM of 100 units and a projection."""


def copying(size: int) -> Callable[[], None]:
    """A copy of so many float32, shared among the threads."""
    source, target = np.ones(size, np.float32), np.zeros(size, np.float32)
    count = threads()
    pool = ThreadPoolExecutor(count)
    parts = [slice(*part) for part in pairwise(size * i // count for i in range(count + 1))]

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

    return copy


def with_gradients(shapes: list[tuple[int, ...]]) -> list[tg.Tensor]:
    """Parameters that have a gradient."""
    rng = np.random.default_rng(0)
    params = []
    for shape in shapes:
        p = tg.tensor(rng.standard_normal(shape, np.float32), requires_grad=True)
        p.grad = tg.tensor(rng.standard_normal(shape, np.float32))
        params.append(p)
    return params


def both(name: str, shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], Any]]:
    """A step, or the norm for clipping; and the literal one, of parameters of its own."""

    def of(params: list[tg.Tensor]) -> Callable[[], Any]:
        if name in KINDS:
            return KINDS[name][0](params).step
        return lambda: optim.clip_grad_norm_(params, 1e9)

    other = of(with_gradients(shapes))
    return {"ours": of(with_gradients(shapes)), "literal": tg.literal()(lambda: other())}


def times(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every round; each side has run before."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 2):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if i > 1:
                found[name].append(round(1e3 * (time.perf_counter() - start), 4))
    return found


def beside_memory(size: int, rounds: int) -> tuple[Section, dict[str, Any]]:
    """Steps of one large parameter, and clipping of its gradient."""
    copy = copying(size)
    moved = {name: arrays for name, (_, arrays) in KINDS.items()} | {"norm for clipping": 1}
    raw = {name: times({"copy": copy, **both(name, [(size,)])}, rounds) for name in moved}
    copied = min(float(np.percentile(found["copy"], 10)) for found in raw.values())
    rows = []
    for name, arrays in moved.items():
        ours, literal = (float(np.percentile(raw[name][side], 10)) for side in ("ours", "literal"))
        floor, median = copied * arrays / 2, float(np.median(raw[name]["ours"]))
        cells = [f"{x:.2f}" for x in (floor, ours, median, ours / floor, literal / ours)]
        rows.append([name, f"{arrays}", *cells])
    header = ["", "arrays", "floor", "ms", "median", "x floor", "literal is"]
    explanation = (
        f"One parameter of {size:,} float32, milliseconds. The floor moves as many arrays at the "
        f"best rate at which memory was copied, {8e-6 * size / copied:.1f} GB/s. All but the "
        "median are 10th percentiles, of rounds in which least else ran. literal is: its time over "
        "ours."
    )
    return Section("Beside moving memory", explanation, header, rows), raw


def of_small(rounds: int) -> tuple[Section, dict[str, Any]]:
    """Steps of small parameters, where Python takes longer than arithmetic."""
    raw = {name: times(both(name, SMALL), 20 * rounds) for name in [*KINDS, "norm for clipping"]}
    rows = []
    for name, found in raw.items():
        ours, literal = (1e3 * np.array(found[side]) for side in ("ours", "literal"))
        ratio = np.median(literal) / np.median(ours)
        rows.append([name, f"{np.median(ours):.0f}", spread(ours, 0), f"{ratio:.2f}"])
    explanation = f"Parameters {', '.join(map(str, SMALL))} together, microseconds."
    return Section("Small parameters", explanation, ["", "us", "10-90 %", "literal is"], rows), raw


def of_rows(words: int, rounds: int) -> tuple[Section, dict[str, Any]]:
    """Training an embedding of many words, of which a batch has few."""
    raw: dict[str, Any] = {}
    rows = []
    rng = np.random.default_rng(0)
    weights = tg.tensor(rng.standard_normal((700, 100), np.float32))
    batches = [tg.tensor(rng.zipf(1.3, 700) % words) for _ in range(rounds + 2)]

    def training(sparse: bool, make: Callable[..., optim.Optimizer]) -> Callable[[], Any]:
        layer = nn.Embedding(words, 100, sparse=sparse)
        optimizer, given = make(layer.parameters()), iter(batches)

        def step() -> None:
            optimizer.zero_grad()
            tg.sum(layer(next(given)) * weights).backward()
            optim.clip_grad_norm_(layer.parameters(), 1.0)
            optimizer.step()

        return step

    for name, sparse, make in (
        ("SparseAdam", True, optim.SparseAdam),
        ("Adagrad", True, optim.Adagrad),
        ("SGD", True, optim.SGD),
        ("Adam, dense", False, optim.Adam),
    ):
        found = raw[name] = times({"ours": training(sparse, make)}, rounds)["ours"]
        rows.append([name, f"{np.median(found):.2f}", spread(found)])
    explanation = (
        f"An embedding of {words:,} words and 100 dimensions, 700 tokens by Zipf's law: look-up, "
        "backward pass, clipping and step, milliseconds."
    )
    return Section("Rows", explanation, ["", "ms", "10-90 %"], rows), raw


def main() -> int:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=10_000_000, help="elements of the parameter")
    parser.add_argument("--words", type=int, default=200_000, help="rows of the embedding")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    heading = f"{machine()}. NumPy {np.__version__}. Threads: {threads()}. {options.rounds} rounds."
    print(heading, flush=True)
    sections, raw = [], {}
    for measure, argument in ((beside_memory, options.size), (of_rows, options.words)):
        section, figures = measure(argument, options.rounds)
        sections.append(section)
        raw[section.title] = figures
        print(f"\n{section}", flush=True)
    section, raw["Small parameters"] = of_small(options.rounds)
    sections.append(section)
    print(f"\n{section}")
    if options.write:
        write(options.write, "Steps of optimisers", heading, sections, raw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
