"""Three units at equal numbers of parameters, on Bach's chorales."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

from .. import data
from ..experiment import Experiment, Found, Outcome
from ..training import Each

Part = tuple[np.ndarray, np.ndarray]
UNITS = {"tanh": (nn.RNNCell, 100), "GRU": (nn.GRUCell, 46), "LSTM": (nn.LSTMCell, 36)}


@cache
def parts() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """For training, validation and test: 60, 20 and 20 % of the chorales, drawn once."""
    rolls = data.chorales()
    order = np.random.default_rng(0).permutation(len(rolls))
    first, second = round(0.6 * len(rolls)), round(0.8 * len(rolls))
    train, valid, test = order[:first], order[first:second], order[second:]
    return [rolls[i] for i in train], [rolls[i] for i in valid], [rolls[i] for i in test]


def padded(rolls: list[np.ndarray]) -> Part:
    """Rolls as one batch (T, B, 88), and their lengths."""
    lengths = np.array([len(roll) for roll in rolls])
    batch = np.zeros((lengths.max(), len(rolls), 88), dtype=np.float32)
    for row, roll in enumerate(rolls):
        batch[: len(roll), row] = roll
    return batch, lengths


def total(model: Each, part: Part) -> tg.Tensor:
    """The negative log-likelihood of all steps, each predicted from those before."""
    batch, lengths = part
    before = np.concatenate([np.zeros_like(batch[:1]), batch[:-1]])
    lost = tg.binary_cross_entropy_with_logits(model(before, lengths), batch, reduction="none")
    mask = (np.arange(len(batch))[:, None] < lengths)[..., None].astype(np.float32)
    return (lost * mask).sum()


def batches(rolls: list[np.ndarray], generator: np.random.Generator) -> Iterator[Part]:
    """All of them in a new order, 20 at a time."""
    order = generator.permutation(len(rolls))
    for first in range(0, len(rolls), 20):
        yield padded([rolls[i] for i in order[first : first + 20]])


def fit(cell: Any, rate: float, seed: int, s: SimpleNamespace) -> dict[str, Any]:
    """Train until validation has not improved for a while; what the best weights do there."""
    train, valid, test = parts()
    model, generator = Each(cell, 88), np.random.default_rng(seed)
    stepper = optim.Adam(model.parameters(), lr=rate)
    best: dict[str, Any] = {"valid": float("inf"), "curve": []}
    ends = padded(valid), padded(test)
    for epoch in range(1, s.epochs + 1):
        for part in batches(train[: s.most], generator):
            loss = total(model, part) / int(part[1].sum())
            stepper.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(list(model.parameters()), 1.0)
            stepper.step()
        with tg.no_grad():
            on_valid, on_test = (total(model, p).item() / int(p[1].sum()) for p in ends)
        best["curve"].append((float(epoch), on_valid))
        if on_valid < best["valid"]:
            best.update(valid=on_valid, test=on_test, epoch=epoch)
        elif epoch - best["epoch"] >= s.patience:
            break
    return best


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """The learning rate of several that is best for validation."""
    make, units = UNITS[case]
    found = []
    for rate in s.rates:
        tg.manual_seed(seed)
        found.append((fit(make(88, units), rate, seed, s), rate))
    best, rate = min(found, key=lambda pair: pair[0]["valid"])
    return Outcome({"test": best["test"], "valid": best["valid"], "rate": rate}, best["curve"])


def judge(found: Found, s: SimpleNamespace) -> bool:
    """The order of the means; of the small form, that something was learned."""
    if s.bound is not None:
        return all(run["test"] < s.bound for runs in found.values() for run in runs)
    tanh, gru, lstm = (np.mean([run["test"] for run in found[case]]) for case in UNITS)
    return bool(max(gru, lstm) < tanh)


PAGE = Experiment(
    name="chorales",
    title="Three units at equal parameters, on chorales",
    paper="Chung, Gulcehre, Cho & Bengio 2014, table 2",
    setting="""364 four-part chorales of music21, quarter notes on 88 keys, 60 / 20 / 20 % drawn
        once: not the files or the split of the paper. The paper's sizes: 100 tanh units, 46 GRU,
        36 LSTM (17,900 to 18,900 parameters, and the readout's). Adam, batches of 20, gradients
        clipped to norm 1, the best of the rates 0.001, 0.003 and 0.01 and of the epochs by
        validation, until 20 epochs without improvement; no weight noise. Negative log-likelihood,
        nats a step.""",
    published="""JSB Chorales, test: tanh 9.10†, GRU 8.54, LSTM 8.67†""",
    criterion="""On test, both gated units have a lower negative log-likelihood than tanh, in the
        mean over seeds.""",
    cases=tuple(UNITS),
    shown={"test": ".3f", "valid": ".3f", "rate": ".4f"},
    run=run,
    full={
        "rates": (0.001, 0.003, 0.01),
        "epochs": 300,
        "patience": 20,
        "most": 1000,
        "bound": None,
    },
    quick={"cases": ("tanh", "GRU"), "rates": (0.01,), "epochs": 12, "most": 100, "bound": 11.6},
    judge=judge,
    axes=("epochs", "validation, nats a step"),
    remark="""One seed: LSTM is ahead of tanh, GRU is not.""",
)
