"""Train the same network on every backend that can be used here, and see that it stays the same.

A GRU reads Python's manual and guesses each next character. Nothing in the code names a backend but
``use_backend``; weights are drawn on the host, so they begin alike. At the end come the losses side
by side, by how much the weights have come apart by rounding, and the time that a step takes. The
last run begins on one backend and moves on in between, by ``model.to``; the optimiser follows.

    python examples/swap_backend.py                              ten seconds on one core
    python examples/swap_backend.py --hidden 1024 --batch 256    a size that a GPU is made for
    python examples/swap_backend.py --quick                      seconds: does it run?

NumPy is always there; CuPy, for a GPU, comes with the extra cuda12 or cuda13. array_api_strict,
which does what the Array API standard says and nothing more, is registered here as any other
library that speaks the standard could be.
"""

from __future__ import annotations

from argparse import Namespace
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import NamedTuple

import support
import numpy as np
from support import arguments, command_line, positive
from texts import python_manual

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import ContiguousBatches, Vocabulary
from tinygrad_rnn_backends import ArrayAPIBackend


class Run(NamedTuple):
    """What is compared: losses by step, the weights at the end, and the median time of a step."""

    losses: list[float]
    weights: dict[str, np.ndarray]
    seconds: float


def train(route: list[str], text: str, args: Namespace) -> Run:
    """The same training on any backend, or, in equal parts, on one after the other."""
    characters = Vocabulary.from_sequences([text])
    batches = ContiguousBatches(characters.encode(text), args.batch, steps=32)
    tg.manual_seed(args.seed)
    with tg.use_backend(route[0]):
        embedding, gru = nn.Embedding(len(characters), 32), nn.GRU(32, args.hidden)
        model = nn.Sequential(embedding, gru, nn.Linear(args.hidden, len(characters)))
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    losses, seconds = [], []
    for step in range(args.steps):
        with tg.use_backend(route[step * len(route) // args.steps]) as backend:
            begun = perf_counter()
            model.to(backend.name)
            inputs, targets = batches[step % len(batches)]
            loss = tg.cross_entropy(tg.moveaxis(model(inputs), -1, 1), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())  # which waits for a GPU
            seconds.append(perf_counter() - begun)
    weights = {name: weight.numpy() for name, weight in model.state_dict().items()}
    return Run(losses, weights, median(seconds))


def register_strict() -> None:
    """Make array_api_strict a backend, if it is installed."""
    if find_spec("array_api_strict") and "array_api_strict" not in tg.available_backends():
        import array_api_strict

        tg.register_backend("array_api_strict", lambda: ArrayAPIBackend(array_api_strict))


def usable(first: str) -> list[str]:
    """The backends that can be used here, ``first`` before all; of the others it says why not."""
    found = tg.available_backends()
    for name, status in found.items():
        print(f"{name:18}{status.detail}")
    return [first, *(name for name in found if found[name].usable and name != first)]


def main() -> None:
    """Train, compare."""
    register_strict()
    parser = command_line(__doc__, plot=False, resume=False)
    add = parser.add_argument
    add("--hidden", type=positive, default=128, metavar="N", help="size of the state (128)")
    add("--batch", type=positive, default=32, metavar="N", help="places read at once (32)")
    add("--steps", type=positive, default=60, metavar="N", help="batches to learn from (60)")
    args = arguments(parser, hidden=24, batch=8, steps=12)
    text = support.read(python_manual)[:200_000]
    names = usable(args.backend)
    routes = [[name] for name in names] + ([names] if len(names) > 1 else [])
    runs = [train(route, text, args) for route in routes]

    shown = [0, args.steps // 4, args.steps // 2, args.steps - 1]
    after = "".join(f"{f'loss {i + 1}':>10}" for i in shown)
    print(f"\n{'':34}{after}{'apart':>10}{'ms/step':>10}")
    for route, run in zip(routes, runs, strict=True):
        losses = "".join(f"{run.losses[i]:10.5f}" for i in shown)
        apart = max(np.abs(run.weights[name] - w).max() for name, w in runs[0].weights.items())
        print(f"{', then '.join(route):34}{losses}{apart:10.1e}{1000 * run.seconds:10.1f}")
    print(f"apart: the largest difference of a weight from that of {names[0]}, at the end")


if __name__ == "__main__":
    main()
