"""The two-sequence problem: the class is told by the first steps, and noise follows."""

from __future__ import annotations

from functools import partial
from math import log
from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import Last, train


def sequences(generator: np.random.Generator, steps: int, rows: int) -> tuple[tg.Tensor, tg.Tensor]:
    """Noise of variance 0.2, the class added as +1 or -1 to 3 steps (T, rows, 1); the classes."""
    classes = generator.integers(0, 2, (rows, 1))
    numbers = generator.normal(0, 0.2**0.5, (steps, rows, 1))
    numbers[:3] += 2 * classes - 1
    return tg.tensor(numbers, "float32"), tg.tensor(classes, "float32")


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train until 1,000 unseen sequences are as right as noise allows, or for long."""
    lstm = partial(nn.LSTMCell, forget_bias=log(s.length))
    make, rate = {"LSTM": (lstm, 0.01), "RNN": (nn.RNNCell, 0.001)}[case]
    model, generator = Last(make(1, s.hidden), 1), np.random.default_rng(seed)
    unseen = sequences(np.random.default_rng(2**32), s.length, 1000)

    def loss() -> tg.Tensor:
        xs, classes = sequences(generator, s.length, 32)
        return tg.binary_cross_entropy_with_logits(model(xs), classes)

    def wrong(given: tuple[tg.Tensor, tg.Tensor] = unseen) -> float:
        xs, classes = given
        with tg.no_grad():
            return float(((model(xs).numpy() > 0) != (classes.numpy() > 0.5)).mean())

    trained = train(model.parameters(), loss, wrong, steps=s.steps, rate=rate, enough=s.enough)
    final = wrong(sequences(np.random.default_rng(2**32 + 1), s.length, 2560))
    return Outcome({"wrong": final, "sequences": trained.steps * 32}, trained.curve)


def judge(found: Found, s: SimpleNamespace) -> bool:
    """LSTM only."""
    return all(run["wrong"] <= 0.01 for run in found["LSTM"])


PAGE = Experiment(
    name="two_sequences",
    title="Noise and signal on one line",
    paper="Hochreiter & Schmidhuber 1997, experiment 3b (Bengio et al. 1994)",
    setting="""Sequences of 100 numbers with noise of variance 0.2; the first 3 have the class, +1
        or -1, added. 8 units, LSTM with the forget bias log 100, fresh batches of 32, Adam (0.01;
        RNN 0.001), until 0.2 % of 1,000 unseen sequences are wrong (the mean of the first three
        numbers alone leaves 0.01 %), or for 6,000 batches.""",
    published="""T = 100, N = 3: after 41,740 sequences†, 0.8 % of 2,560 wrong†""",
    criterion="""LSTM has at most 1 % of 2,560 fresh sequences wrong, from every seed. (The RNN is
        shown, and decides nothing.)""",
    cases=("LSTM", "RNN"),
    shown={"wrong": ".2%", "sequences": ",.0f"},
    run=run,
    full={"hidden": 8, "steps": 6000, "length": 100, "enough": 0.002},
    quick={"cases": ("LSTM",), "length": 40},
    judge=judge,
    axes=("steps", "wrong"),
)
