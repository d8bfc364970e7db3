"""min-char-rnn: our gradients against a backward pass written by hand, for 1,000 steps of training.

The hand-written side is NumPy alone. Ours has the same weights, a planned loop, and the library's
gradients; clipping and Adagrad are the same few lines for both. The subtle point is that training
at the gist's rate is chaotic: what starts one rounding error apart is far apart after 100 steps.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import Each

Arrays = list[np.ndarray[Any, Any]]
CLIP = 5.0
SIDE_BY_SIDE = "rate 0.01, side by side"
LED = "rate 0.1, the same weights at each step"
CONTROL = "rate 0.1, by hand twice, weights 1 ulp off"


def by_hand(weights: Arrays, xs: Any, targets: Any, h: Any) -> tuple[float, Arrays, Any]:
    """The loss of a window, its gradients, and the last state; rows are vectors."""
    w, u, b, v, c = weights
    states, probabilities, loss = [h], [], 0.0
    for x, target in zip(xs, targets, strict=True):
        states.append(np.tanh(w[x] + states[-1] @ u + b))
        logits = states[-1] @ v + c
        powers = np.exp(logits - logits.max())
        probabilities.append(powers / powers.sum())
        loss -= np.log(probabilities[-1][target])
    dw, du, db, dv, dc = gradients = [np.zeros_like(p) for p in weights]
    later = np.zeros_like(h)
    for t in reversed(range(len(xs))):
        dy = probabilities[t].copy()
        dy[targets[t]] -= 1
        dv += np.outer(states[t + 1], dy)
        dc += dy
        da = (v @ dy + later) * (1 - states[t + 1] ** 2)
        dw[xs[t]] += da
        du += np.outer(states[t], da)
        db += da
        later = u @ da
    return float(loss), gradients, states[-1]


class Adagrad:
    """The gist's: it clips each element, and adds its epsilon under the root."""

    def __init__(self, weights: Arrays, rate: float) -> None:
        self.rate = rate
        self.sums = [np.zeros_like(p) for p in weights]

    def __call__(self, weights: Arrays, gradients: Arrays) -> Arrays:
        """The weights after a step."""
        clipped = [np.clip(g, -CLIP, CLIP) for g in gradients]
        self.sums = [m + g * g for m, g in zip(self.sums, clipped, strict=True)]
        pairs = zip(weights, clipped, self.sums, strict=True)
        return [p - self.rate * g / np.sqrt(m + 1e-8) for p, g, m in pairs]


class Ours:
    """The same network of the library: a planned loop, gradients by ``grad``."""

    def __init__(self, weights: Arrays) -> None:
        size, hidden = weights[0].shape
        self.model = Each(nn.RNNCell(size, hidden), size)
        self.parameters = [nn.Parameter(p) for p in weights]
        cell, readout = self.model.cell, self.model.readout
        cell.weight_ih, cell.weight_hh, cell.bias, readout.weight, readout.bias = self.parameters

    def __call__(self, weights: Arrays, xs: Any, targets: Any, h: Any) -> tuple[float, Arrays, Any]:
        """As ``by_hand``."""
        for p, array in zip(self.parameters, weights, strict=True):
            p.data = array
        inputs = tg.one_hot(xs, len(weights[0]), dtype="float64")[:, None]
        outputs, state = tg.unroll(self.model.cell, inputs, tg.tensor(h[None]))
        logits = self.model.readout(outputs[:, 0])
        loss = tg.cross_entropy(logits, targets, reduction="sum")
        found = tg.grad(loss, self.parameters)
        return loss.item(), [g.numpy() for g in found], state.numpy()[0]


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Two trainings, side by side or one led by the other."""
    text = Path(__file__).parents[2].joinpath("LICENSE").read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    codes, size = np.array([alphabet.index(letter) for letter in text]), len(alphabet)
    draw = np.random.default_rng(seed).normal
    shapes = (size, s.hidden), (s.hidden, s.hidden), (s.hidden, size)
    w, u, v = (draw(size=shape) * 0.01 for shape in shapes)
    hand = [w, u, np.zeros(s.hidden), v, np.zeros(size)]
    ours = [p.copy() for p in hand]
    gradients_of: Any = Ours(ours)
    if case == CONTROL:
        ours = [np.nextafter(p, 1) for p in hand]
        gradients_of = by_hand
    rate = 0.01 if case == SIDE_BY_SIDE else 0.1
    steppers = Adagrad(hand, rate), Adagrad(ours, rate)
    apart, curve, place = [], [], len(codes)
    for step in range(s.steps):
        if place + s.window + 1 > len(codes):  # the text begins again, and so does the state
            place, h, h_of_ours = 0, np.zeros(s.hidden), np.zeros(s.hidden)
        window = codes[place : place + s.window], codes[place + 1 : place + s.window + 1]
        place += s.window
        if case == LED:
            ours, h_of_ours = hand, h
        expected, gradients, h = by_hand(hand, *window, h)
        loss, found, h_of_ours = gradients_of(ours, *window, h_of_ours)
        hand, ours = steppers[0](hand, gradients), steppers[1](ours, found)
        off = [abs(loss - expected) / expected]
        if case == LED:
            pairs = zip(gradients, found, strict=True)
            off += [float(abs(g - f).max() / abs(g).max()) for g, f in pairs]
        apart.append(max(off))
        curve.append((step + 1.0, max(apart[-1], 1e-17)))
    measures = {"last loss": expected, "furthest apart": max(apart)}
    return Outcome(measures, curve[:: max(1, s.steps // 100)])


def judge(found: Found, s: SimpleNamespace) -> bool:
    """Every loss of every seed."""
    runs = [run for case in (SIDE_BY_SIDE, LED) for run in found[case]]
    return all(run["furthest apart"] <= 1e-9 for run in runs)


PAGE = Experiment(
    name="min_char_rnn",
    title="min-char-rnn equals its hand-written backward",
    paper="Karpathy 2015, gist d4dee566867f8291f086",
    setting="""100 tanh units, windows of 25 characters, Adagrad, gradients clipped to 5, float64,
        1,000 steps over the text of this repository's LICENSE, which begins again (and the state
        with it) every 42 steps. The gist's rate is 0.1, and makes a network that amplifies
        rounding: the last case is the training by hand against itself, from weights that are one
        unit in the last place apart. So ours is compared side by side at a rate of 0.01, and at
        0.1 led by the training by hand, at whose weights and states both are evaluated, losses
        and gradients.""",
    published="no final loss; a backward pass of 20 lines",
    criterion="""All 1,000 losses agree to 1e-9, relative, side by side at rate 0.01, and all
        losses and gradients (to the largest of their array) at the weights of the training by
        hand at rate 0.1; from every seed.""",
    cases=(SIDE_BY_SIDE, LED, CONTROL),
    shown={"last loss": ".4f", "furthest apart": ".1e"},
    run=run,
    full={"hidden": 100, "window": 25, "steps": 1000},
    quick={"cases": (SIDE_BY_SIDE, LED), "steps": 100},
    judge=judge,
    seeds=5,
    axes=("steps", "log losses apart, relative"),
)
