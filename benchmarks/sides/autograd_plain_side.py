"""HIPS autograd as most users write it: ``@``, gates by slicing, sigmoid by tanh, ``stack``.

``autograd_side.py`` is the quickest form that we found; this is the form of the library's own LSTM
example. The subtle cost is that of a slice: its gradient is an array of zeros for all four gates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as np
from autograd import make_vjp

from benchmarks.problem import Data
from benchmarks.sides.autograd_side import VERSIONS, chain, differentiate, held

__all__ = ["FORM", "VERSIONS", "chain", "held", "lstm"]

FORM = "@, slices, stack, sigmoid as 0.5 * (tanh(x / 2) + 1); make_vjp()"


def sigmoid(x: Any) -> Any:
    return 0.5 * (np.tanh(0.5 * x) + 1.0)


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    hidden = data.zeros.shape[1]

    def loss(parameters: Any) -> Any:
        w_ih, w_hh, bias = parameters
        h = c = data.zeros
        outputs = []
        for t in range(len(data.x)):
            z = data.x[t] @ w_ih + h @ w_hh + bias
            i, f = sigmoid(z[:, :hidden]), sigmoid(z[:, hidden : 2 * hidden])
            g, o = np.tanh(z[:, 2 * hidden : 3 * hidden]), sigmoid(z[:, 3 * hidden :])
            c = f * c + i * g
            h = o * np.tanh(c)
            outputs.append(h)
        return np.sum(np.stack(outputs) * data.weights)

    record = make_vjp(loss)
    return lambda: record(data.parameters), differentiate
