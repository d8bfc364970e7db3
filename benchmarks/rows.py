"""Losses, normalisation and dropout beside moving their memory: ``python -m benchmarks.rows``.

Each is a pass forward and one backward over rows of float32. Beside it stand the literal path, on
which every operation is a pass of NumPy's, and the time that this machine takes to copy the rows
twice on as many threads: a loss that reads its logits, reads them again and writes their gradient
moves about as much.

The subtle thing is what else runs: figures are 10th percentiles, of the rounds in which least did,
and rounds alternate between all three.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from benchmarks.blas import pins
from benchmarks.optimisers import copying, times
from benchmarks.report import Section, machine, write
from tinygrad_rnn import Tensor
from tinygrad_rnn import functional as F
from tinygrad_rnn.kernels.machine import threads

SHAPES = [(256, 64), (2500, 65), (2500, 256), (700, 10_000)]
TARGETS = {("cross_entropy", (700, 10_000)): 1.5}
"""Times as long as two copies at most."""

FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda x, y, t: F.cross_entropy(x, t),
    "cross_entropy, smooth": lambda x, y, t: F.cross_entropy(x, t, label_smoothing=0.1),
    "log_softmax": lambda x, y, t: F.log_softmax(x),
    "softmax": lambda x, y, t: F.softmax(x),
    "layer_norm": lambda x, y, t: F.layer_norm(x),
    "gelu": lambda x, y, t: F.gelu(x),
    "dropout": lambda x, y, t: F.dropout(x, 0.2),
    "mse_loss": lambda x, y, t: F.mse_loss(x, y),
    "of logits": lambda x, y, t: F.binary_cross_entropy_with_logits(x, y),
}


def of_shape(shape: tuple[int, int], names: list[str], rounds: int) -> tuple[Section, Any]:
    """The table of rows of one shape."""
    rng = np.random.default_rng(0)
    x = tg.tensor(rng.standard_normal(shape, np.float32), requires_grad=True)
    y = tg.tensor(rng.random(shape, np.float32))
    t = tg.tensor(rng.integers(0, shape[1], shape[0]))
    copy = copying(x.size)
    raw: dict[str, Any] = {}
    rows = []
    for name in names:
        f, cotangent = FUNCTIONS[name], tg.ones_like(x)

        def step(f: Any = f, cotangent: Tensor = cotangent) -> Any:
            out = f(x, y, t)
            return tg.grad(out, x, cotangent if out.ndim else None)

        def copies() -> None:
            copy()
            copy()

        sides = {"copies": copies, "ours": step, "literal": tg.literal()(step)}
        found = raw[name] = times(sides, rounds)
        copied, ours, literal = (np.percentile(found[s], 10) for s in ("copies", "ours", "literal"))
        target = TARGETS.get((name, shape))
        cells = [f"{1e3 * ms:.0f}" for ms in (copied, ours, np.median(found["ours"]))]
        met = "-" if target is None else "met" if ours <= target * copied else "missed"
        verdict = f"{target or ''} {met}".strip()
        rows.append([name, *cells, f"{ours / copied:.2f}", verdict, f"{literal / ours:.2f}"])
    header = ["", "copies", "us", "median", "x copies", "target", "literal is"]
    explanation = (
        "Forward and backward pass, microseconds, beside two copies of the rows. All but the "
        "median are 10th percentiles. literal is: its time over ours."
    )
    return Section(f"{shape[0]} rows of {shape[1]:,}", explanation, header, rows), raw


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rows", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=[*FUNCTIONS])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="the small shapes: does it work?")
    parser.add_argument("--write", type=Path, metavar="FILE.md")
    options = parser.parse_args(arguments)
    heading = f"{machine()}. NumPy {np.__version__}. Threads: {threads()}. {options.rounds} rounds."
    heading = "\n\n".join([heading, *pins()])
    print(heading, flush=True)
    sections, raw = [], {}
    for shape in SHAPES[: 2 if options.quick else None]:
        section, raw[str(shape)] = of_shape(shape, options.functions, options.rounds)
        sections.append(section)
        print(f"\n{section}", flush=True)
    if options.write:
        write(options.write, "Work on rows", heading, sections, raw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
