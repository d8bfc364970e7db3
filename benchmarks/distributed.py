"""What it costs to average gradients over processes: measured here, and computed for more.

    mpiexec -n 2 python -m mpi4py -m benchmarks.distributed
    python -m benchmarks.distributed --model-only

Measured: a training step of a 2-layer LSTM language model, the part of it that is communication,
and the average beside one Allreduce of as many bytes, in turns. Computed, and called so: that part
for up to 1,000 processes on other networks, by the cost of a ring.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

import tinygrad_rnn as tg
from benchmarks.blas import pins, products
from benchmarks.report import machine
from tinygrad_rnn import distributed, nn, optim

NETWORKS = {  # seconds of latency, bytes a second
    "InfiniBand 100 Gb/s": (2e-6, 12.5e9),
    "Ethernet 10 Gb/s": (30e-6, 1.25e9),
    "Ethernet 1 Gb/s": (50e-6, 0.125e9),
    "Internet 100 Mb/s": (40e-3, 0.0125e9),
}
PROCESSES = (2, 16, 128, 1000)


def ring_seconds(count: int, size: int, latency: float, bandwidth: float) -> float:
    """A sum of ``size`` bytes over ``count`` processes in a ring: each sends 2 (p - 1) pieces."""
    return 2 * (count - 1) * latency + 2 * (count - 1) / count * size / bandwidth


def computed(size: int, step: float) -> list[str]:
    """The share of communication by that formula, as the rows of a table."""
    rows = [
        f"| computed, {size / 2**20:.0f} MiB, {step:.3f} s a step | "
        + " | ".join(f"p = {count:,}" for count in PROCESSES)
        + " |",
        "|---|" + "---:|" * len(PROCESSES),
    ]
    for name, (latency, bandwidth) in NETWORKS.items():
        times = [ring_seconds(count, size, latency, bandwidth) for count in PROCESSES]
        shares = " | ".join(f"{100 * t / (t + step):.0f} %" for t in times)
        rows.append(f"| {name} | {shares} |")
    return rows


class Model(nn.Module):
    """A language model: tokens (T, B) to logits (T, B, V)."""

    def __init__(self, vocabulary: int, size: int) -> None:
        self.embedding = nn.Embedding(vocabulary, size)
        self.lstm = nn.LSTM(size, size, num_layers=2)
        self.readout = nn.Linear(size, vocabulary)

    def forward(self, tokens: tg.Tensor) -> tg.Tensor:
        return self.readout(self.lstm(self.embedding(tokens))[0])


def seconds(action: Callable[[], object]) -> float:
    """How long it takes from when all processes are here until it is done in this one."""
    distributed.from_main(None)
    distributed.gather(None)
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measured(steps: int, batch: int, size: int, vocabulary: int, rounds: int) -> tuple[int, float]:
    """Print the figures of this machine; returns the bytes of the gradients, the time of a step."""
    tg.manual_seed(0)
    model = Model(vocabulary, size)
    optimizer = optim.Adam(model.parameters())
    distributed.broadcast(model, optimizer)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocabulary, size=(steps + 1, batch))
    own = distributed.own_rows(tokens, axis=1)

    def learn() -> None:
        logits = model(tg.tensor(own[:-1]))
        loss = tg.cross_entropy(tg.moveaxis(logits, -1, 1), tg.tensor(own[1:]), reduction="sum")
        optimizer.zero_grad()
        loss.backward()

    def average() -> None:
        distributed.average_gradients(model.parameters(), own[1:].size)

    def update() -> None:
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    learn()
    nbytes = sum(p.grad.numpy().nbytes for p in model.parameters() if p.grad is not None)
    sent = np.zeros(nbytes // 4, dtype=np.float32)
    received = np.empty_like(sent)
    communicator = distributed._processes().communicator

    def allreduce() -> None:
        communicator.Allreduce(sent, received)

    actions = {"learn": learn, "average": average, "update": update}
    if communicator is not None:
        actions["Allreduce"] = allreduce
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 2):
        each = {name: seconds(action) for name, action in actions.items()}
        slowest = {name: max(distributed.gather(value)) for name, value in each.items()}
        if number > 1:  # warm
            for name, value in slowest.items():
                times[name].append(value)
    found = {name: statistics.median(values) for name, values in times.items()}
    step = found["learn"] + found["average"] + found["update"]
    if distributed.is_main():
        print("\n".join([machine(), *pins(), f"Products: {products('tinygrad_rnn')}"]))
        print(
            f"{distributed.size()} processes, (T, B, H, V) = {(steps, batch, size, vocabulary)}, "
            f"gradients of {nbytes / 2**20:.1f} MiB, medians of {rounds} rounds, the slowest "
            "process each\n"
            f"  a step                    {step * 1e3:8.1f} ms\n"
            f"  averaging gradients       {found['average'] * 1e3:8.1f} ms, "
            f"{100 * found['average'] / step:.1f} % of it"
        )
        if communicator is not None:
            pairs = zip(times["average"], times["Allreduce"], strict=True)
            ratio = statistics.median(a / b for a, b in pairs)
            best = min(times["average"]) / min(times["Allreduce"])
            print(
                f"  one Allreduce of as much  {found['Allreduce'] * 1e3:8.1f} ms; averaging is "
                f"{ratio:.2f} times that, {best:.2f} of the quickest of each"
            )
    return nbytes, step


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-only", action="store_true", help="compute, measure nothing")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (10)")
    for name, default in (("steps", 20), ("batch", 20), ("size", 460), ("vocabulary", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    args = parser.parse_args()
    size, step = 16 * 2**20, 0.229
    if not args.model_only:
        size, step = measured(args.steps, args.batch, args.size, args.vocabulary, args.rounds)
    if distributed.is_main():
        print("\n".join(computed(size, step)))


if __name__ == "__main__":
    main()
