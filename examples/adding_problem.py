"""The adding problem: remember two numbers over a hundred steps, and answer their sum.

Each step of a sequence has a number from [0, 1) and a mark: 1 at two steps, one in each half, else
0. After the last step the network says the sum of the marked numbers; always saying 1 has a mean
squared error of 1/6, and a plain RNN stays there: its gradients vanish. The task is Hochreiter &
Schmidhuber's of 1997 (with numbers from [-1, 1], both marks in the first half), this form of it Le,
Jaitly & Hinton's of 2015, whose IRNN takes part: a ReLU whose recurrent weights start as identity.

    python examples/adding_problem.py                     15 seconds of one core
    python examples/adding_problem.py --T 200 --seeds 5   harder, and from five seeds
    python examples/adding_problem.py --quick             seconds: does it run?

A run ends when its error on sequences for validation is below --enough; what is printed is of other
sequences. "off": answers that miss by more than 4 % of the range of sums, the criterion of 1997.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import NamedTuple

import support
import numpy as np
from support import positive, positive_float

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

BASELINE, SOLVED = 1 / 6, 0.04  # the error of the answer 1, and the aim
PUBLISHED = "published (1997, table 7): LSTM, T = 100, 1 of 2,560 off after 74,000 sequences"
IRNN = partial(nn.RNNCell, nonlinearity="relu", recurrent_init=nn.init.identity)
CELLS = {  # and their learning rates
    "RNN": (nn.RNNCell, 0.001),
    "IRNN": (IRNN, 0.001),
    "LSTM": (nn.LSTMCell, 0.01),
    "GRU": (nn.GRUCell, 0.01),
    "RWA": (nn.RWACell, 0.01),
}


class Run(NamedTuple):
    """What became of one cell from one seed; the curve: sequences seen, and validation errors."""

    curve: list[tuple[int, float]]
    error: float
    off: float
    seconds: float

    @property
    def verdict(self) -> str:
        """Whether it is solved, and whether anything was learned at all."""
        failed = "FAILED: at the baseline" if self.error > 0.8 * BASELINE else "not solved"
        return "solved" if self.error < SOLVED else failed


def sequences(generator: np.random.Generator, T: int, rows: int) -> tuple[tg.Tensor, tg.Tensor]:
    """Numbers and marks (T, rows, 2), and the sums (rows, 1)."""
    numbers, marks = generator.random((T, rows)), np.zeros((T, rows))
    marks[generator.integers(0, T // 2, rows), np.arange(rows)] = 1
    marks[generator.integers(T // 2, T, rows), np.arange(rows)] = 1
    sums = (numbers * marks).sum(axis=0)[:, None]
    return tg.tensor(np.stack([numbers, marks], axis=-1), "float32"), tg.tensor(sums, "float32")


def train(name: str, seed: int, args: argparse.Namespace) -> Run:
    """Train one cell on sequences that are never the same twice."""
    tg.manual_seed(seed)
    generator = np.random.default_rng(seed)
    make, rate = CELLS[name]
    cell, readout = make(2, args.hidden), nn.Linear(args.hidden, 1)
    parameters = [*cell.parameters(), *readout.parameters()]
    optimizer = optim.Adam(parameters, lr=rate)

    def answer(xs: tg.Tensor) -> tg.Tensor:
        outputs, _ = tg.unroll(cell, xs)
        return readout(outputs[-1])

    curve, unseen = [], sequences(np.random.default_rng(2**32), args.T, 500)
    with support.training(None, cell, readout, optimizer, generator, curve) as show:
        while show.step < args.steps and not (curve and curve[-1][1] < args.enough):
            xs, sums = sequences(generator, args.T, args.batch)
            loss = tg.mse_loss(answer(xs), sums)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step = show.step + 1
            if step % 50 == 0 or step == args.steps:
                with tg.no_grad():
                    error = tg.mse_loss(answer(unseen[0]), unseen[1]).item()
                curve.append((step * args.batch, error))
            show(step)
    xs, sums = sequences(np.random.default_rng(2**32 + 1), args.T, 2560)
    with tg.no_grad():
        misses = (answer(xs) - sums).numpy()
    off = float((abs(misses) > 0.04 * 2).mean())
    return Run(curve, float((misses**2).mean()), off, 60 * show.minutes)


def plot(runs: dict[str, list[Run]], args: argparse.Namespace) -> None:
    """Curves: a colour for each cell, a line for each seed."""
    figure = support.Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for number, (name, found) in enumerate(runs.items()):
        for run in found:
            label = name if run is found[0] else None
            axis.semilogy(*zip(*run.curve, strict=True), f"C{number}", linewidth=1, label=label)
    axis.axhline(BASELINE, color="black", linestyle="--", linewidth=1, label="always 1")
    axis.axhline(SOLVED, color="black", linestyle=":", linewidth=1, label="solved")
    axis.set(title=f"The adding problem, T = {args.T}", xlabel="sequences", ylabel="squared error")
    axis.set_ylim(1e-3, 1)  # an IRNN can be wrong by far more, once in a while
    axis.legend(ncols=2, fontsize="small")
    support.save_picture(figure, args.plot)


def main() -> None:
    """Train every cell from every seed, print, plot."""
    parser = support.command_line(__doc__)
    add = parser.add_argument
    add("--cells", nargs="+", choices=CELLS, default=[*CELLS], help="which to compare (all)")
    add("--seeds", type=positive, default=1, help="runs of each, from --seed on (1)")
    add("--T", type=positive, default=100, help="steps of a sequence (100)")
    add("--steps", type=positive, default=3000, help="steps of the optimiser, at most (3000)")
    add("--enough", type=positive_float, default=0.002, help="error that ends a run (0.002)")
    add("--hidden", type=positive, default=32, help="units of the cell (32)")
    add("--batch", type=positive, default=32, help="sequences in a step of the optimiser (32)")
    args = support.arguments(parser, T=8, steps=100)
    if args.T < 2 or args.seed + args.seeds > 2**32:
        sys.exit("adding_problem.py: --T is at least 2, and no seed beyond 2**32 - 1")
    print(f"T = {args.T}; always answering 1 has the error 1/6 = {BASELINE:.4f}\n{PUBLISHED}\n")
    runs: dict[str, list[Run]] = {}
    for name in args.cells:
        for seed in range(args.seed, args.seed + args.seeds):
            run = train(name, seed, args)
            runs.setdefault(name, []).append(run)
            effort = f"{run.curve[-1][0]:7,} sequences, {run.seconds:3.0f} s"
            measured = f"error {run.error:.4f}, {run.off:5.1%} off, after {effort}"
            print(f"{name:5}seed {seed}: {measured}: {run.verdict}", flush=True)
    for name, found in runs.items():
        errors = [run.error for run in found]
        spread = f"mean {np.mean(errors):.4f}, worst {max(errors):.4f}"
        print(f"{name:5}solved {sum(e < SOLVED for e in errors)} of {len(errors)}; error: {spread}")
    plot(runs, args)


if __name__ == "__main__":
    main()
