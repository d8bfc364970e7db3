"""Recurrent weighted average against LSTM: how many steps of training each takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import Last, train
from .adding import sequences

CELLS = {"LSTM": nn.LSTMCell, "RWA": nn.RWACell}


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train until the error is below the aim, or for long."""
    model, generator = Last(CELLS[case](2, s.hidden), 1), np.random.default_rng(seed)
    unseen = sequences(np.random.default_rng(2**32), s.length, 500)

    def loss() -> tg.Tensor:
        xs, sums = sequences(generator, s.length, 100)
        return tg.mse_loss(model(xs), sums)

    def error() -> float:
        return tg.mse_loss(model(unseen[0]), unseen[1]).item()

    trained = train(
        model.parameters(), loss, error, steps=s.steps, rate=0.001, enough=0.04, every=20
    )
    return Outcome({"solved": float(trained.enough), "steps": trained.steps}, trained.curve)


def judge(found: Found, s: SimpleNamespace) -> bool:
    """The ratio of the means."""
    lstm, rwa = (np.mean([run["steps"] for run in found[case]]) for case in CELLS)
    return bool(lstm >= s.ratio * rwa) and all(run["solved"] for run in found["RWA"])


PAGE = Experiment(
    name="rwa",
    title="Recurrent weighted average against LSTM",
    paper="Ostmeyer & Cowell 2017, section 3",
    setting="""The adding problem, T = 100; 64 units, fresh batches of 100, Adam 0.001, gradients
        clipped to norm 1, until a mean squared error of 0.04, or for 5,000 batches. In the paper:
        250 units, T = 100 and 1,000, Adam 0.001, no clipping, and an LSTM whose forget bias is 1,
        too.""",
    published="""RWA trains faster than LSTM on most tasks, by a factor of at least five
        (`jostmey/rwa`, README)""",
    criterion="""RWA reaches the aim from every seed, and LSTM takes at least five times as many
        steps in the mean. (A run that does not reach it counts with all its steps.)""",
    cases=tuple(CELLS),
    shown={"solved": ".0%", "steps": ",.0f"},
    run=run,
    full={"hidden": 64, "steps": 5000, "length": 100, "ratio": 5},
    quick={"hidden": 32, "length": 30, "steps": 1000, "ratio": 1},
    judge=judge,
    axes=("steps", "log mean squared error"),
    remark="""RWA takes fewer steps from every seed, but 2.2 times fewer, not five.""",
)
