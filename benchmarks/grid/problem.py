"""The training step that every side computes: which sizes and cells, and the numbers to start from.

One layer over T steps, its outputs against a fixed target by a mean squared error, the gradients
of all weights, and plain gradient descent. The cells are PyTorch's, with one bias in place of two::

    LSTM   i, f, g, o = split(x @ w_ih + h @ w_hh + bias)
           c = sigmoid(f) * c + sigmoid(i) * tanh(g);  h = sigmoid(o) * tanh(c)
    GRU    r, z, n = split(x @ w_ih + bias);  from_r, from_z, from_n = split(h @ w_hh)
           r, z = sigmoid(r + from_r), sigmoid(z + from_z)
           n = tanh(n + r * (from_n + bias_hn));  h = (1 - z) * n + z * h
    RNN    h = tanh(x @ w_ih + h @ w_hh + bias)

The subtle thing is the learning rate. The weights go on learning while they are timed, for
thousands of steps: slowly enough to stay finite, quickly enough that a step which forgets the
update is noticed, by a loss that does not fall.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.problem import Array, Size

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SIZES = {
    "charrnn": Size(25, 1, 65, 100),
    "small": Size(50, 32, 64, 128),
    "medium": Size(100, 64, 128, 256),
    "long": Size(500, 16, 32, 128),
    "ptb": Size(35, 20, 650, 650),
    "wide": Size(35, 64, 512, 1024),
}
LEARNING_RATE = 1.0


class Problem(NamedTuple):
    """One batch of sequences and one set of weights, float32."""

    kind: str
    x: Array  # (T, B, I)
    target: Array  # (T, B, H)
    zeros: Array  # (B, H), the first h and c
    parameters: tuple[Array, ...]  # w_ih (I, G*H), w_hh (H, G*H), bias (G*H,); GRU: bias_hn (H,)


class Training(NamedTuple):
    """A side's training: ``step()`` gives the loss, ``gradients()`` what the first step found."""

    step: Callable[[], float]
    gradients: Callable[[], list[Array]]


def problem(kind: str, size: Size) -> Problem:
    rng = np.random.default_rng(0)
    steps, batch, inputs, hidden = size
    width = GATES[kind] * hidden

    def uniform(*shape: int) -> Array:
        return rng.uniform(-(hidden**-0.5), hidden**-0.5, shape).astype(np.float32)

    return Problem(
        kind,
        x=rng.standard_normal((steps, batch, inputs)).astype(np.float32),
        target=rng.uniform(-1, 1, (steps, batch, hidden)).astype(np.float32),
        zeros=np.zeros((batch, hidden), np.float32),
        parameters=(
            uniform(inputs, width),
            uniform(hidden, width),
            uniform(width),
            *([uniform(hidden)] if kind == "GRU" else []),
        ),
    )
