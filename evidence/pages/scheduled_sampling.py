"""Scheduled sampling against teacher forcing: what a decoder makes of its own mistakes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import train

SYMBOLS = 8


class Speaker(nn.Module):
    """A decoder that is given, at each step, the right symbol before or the one it said itself.

    As a cell its input is (the right symbol before, one-hot; whether that is what it is given), its
    state (h, what it said at the step before, one-hot).
    """

    def __init__(self, hidden: int) -> None:
        self.hidden_size = hidden
        self.cell, self.readout = nn.GRUCell(SYMBOLS, hidden), nn.Linear(hidden, SYMBOLS)

    def forward(self, x: Any, state: Any) -> Any:
        """One step; the output are logits."""
        (right, teacher), (h, said) = x, state
        h, _ = self.cell(tg.where(teacher, right, said), h)
        logits = self.readout(h)
        best = logits >= tg.max(logits, axis=-1, keepdims=True)
        return logits, (h, best.astype(logits.dtype).detach())


class Model(nn.Module):
    """A GRU that reads a sequence, and a speaker that says it backwards from the last state."""

    def __init__(self, hidden: int) -> None:
        self.reader, self.speaker = nn.GRU(SYMBOLS, hidden), Speaker(hidden)

    def forward(self, codes: np.ndarray, teacher: np.ndarray) -> tg.Tensor:
        """Logits (T, B, symbols); ``teacher`` (T, B) says where the right symbol is given."""
        steps, rows = codes.shape
        _, final = self.reader(tg.one_hot(codes, SYMBOLS, dtype="float32"))
        right = np.zeros((steps, rows, SYMBOLS), dtype=np.float32)
        right[1:] = np.eye(SYMBOLS)[codes[:0:-1]]
        nothing = tg.zeros((rows, SYMBOLS))
        given = tg.tensor(right), tg.tensor(teacher[..., None])
        return tg.unroll(self.speaker, given, (final[0], nothing))[0]


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train either way; then it speaks by itself."""
    model, generator = Model(s.hidden), np.random.default_rng(seed)
    unseen = np.random.default_rng(2**32).integers(0, SYMBOLS, (s.length, 500))
    done = 0

    def loss() -> tg.Tensor:
        nonlocal done
        part = 1.0 if case == "teacher forcing" else max(s.least, 1 - done / (0.8 * s.steps))
        done += 1
        codes = generator.integers(0, SYMBOLS, (s.length, 32))
        logits = model(codes, generator.random(codes.shape) < part)
        return tg.cross_entropy(tg.moveaxis(logits, -1, 1), codes[::-1].copy())

    def wrong() -> float:
        with tg.no_grad():
            logits = model(unseen, np.zeros(unseen.shape, dtype=bool))
        return float((logits.numpy().argmax(axis=-1) != unseen[::-1]).mean())

    trained = train(model.parameters(), loss, wrong, steps=s.steps, rate=0.003, every=100)
    return Outcome({"right by itself": 1 - trained.curve[-1][1]}, trained.curve)


def judge(found: Found, s: SimpleNamespace) -> bool:
    """The means; of the small form that both learn."""
    teacher, scheduled = (
        float(np.mean([run["right by itself"] for run in found[case]])) for case in PAGE.cases
    )
    return min(teacher, scheduled) > s.chance and (s.small or scheduled > teacher)


PAGE = Experiment(
    name="scheduled_sampling",
    title="Scheduled sampling against teacher forcing",
    paper="Bengio, Vinyals, Jaitly & Shazeer 2015, section 4",
    setting="""Another task than the paper's (captions, parsing, speech): 12 of 8 symbols, read by
        a GRU of 48 units and said backwards by another from its last state alone. Adam 0.003,
        3,000 batches of 32. The part of steps at which the right symbol is given falls linearly
        from 1 to 0.25; else the most likely symbol of the step before is given, as when the
        network speaks by itself, which is how it is judged: symbols right, of 500 sequences.""",
    published="""captions, CIDEr: 89.5 with teacher forcing, 92.1 with scheduled sampling†""",
    criterion="""By itself, the network has more symbols right after scheduled sampling than after
        teacher forcing, in the mean over seeds.""",
    cases=("teacher forcing", "scheduled sampling"),
    shown={"right by itself": ".1%"},
    run=run,
    full={
        "hidden": 48,
        "length": 12,
        "steps": 3000,
        "least": 0.25,
        "chance": 0.125,
        "small": False,
    },
    quick={"length": 4, "steps": 300, "chance": 0.4, "small": True},
    judge=judge,
    seeds=3,
    axes=("steps", "symbols wrong, by itself"),
)
