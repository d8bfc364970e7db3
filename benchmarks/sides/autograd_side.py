"""HIPS autograd.

The subtle thing is its sigmoid. Where SciPy is installed it has one as a single primitive, which
makes the whole pass 10 to 25 % quicker; without SciPy it takes the form of its own LSTM example.
The products are ``np.dot``, as there: quicker than ``@`` for a batch of one, and level otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import autograd.numpy as np
import numpy as onp
from autograd import make_vjp

from benchmarks.problem import CHAIN, Array, Data
from benchmarks.sides.numpy_memory import held, numpy_versions

__all__ = ["FORM", "VERSIONS", "chain", "held", "lstm"]

try:
    from autograd.scipy.special import expit as sigmoid

    SIGMOID = "expit"
except ImportError:

    def sigmoid(x: Any) -> Any:
        return 0.5 * (np.tanh(0.5 * x) + 1.0)

    SIGMOID = "0.5 * (tanh(x / 2) + 1)"

FORM = f"dot, split, concatenate, sigmoid as {SIGMOID}; make_vjp()"
VERSIONS = {"autograd": version("autograd"), **numpy_versions()}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "multiply": lambda y, w: y * w,
    "add": lambda y, w: y + w,
    "tanh": np.tanh,
    "matmul": lambda y, w: y @ w,
    "sum": lambda y: np.sum(y, axis=1, keepdims=True),
}


def differentiate(pending: Any) -> tuple[float, list[Array]]:
    pull, loss = pending
    return float(loss), list(pull(onp.ones_like(loss)))


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    hidden = data.zeros.shape[1]
    weights = data.weights.reshape(-1, hidden)  # concatenate is quicker here than stack

    def loss(parameters: Any) -> Any:
        w_ih, w_hh, bias = parameters
        h = c = data.zeros
        outputs = []
        for x_t in data.x:
            i, f, g, o = np.split(np.dot(x_t, w_ih) + np.dot(h, w_hh) + bias, 4, axis=-1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(h)
        return np.sum(np.concatenate(outputs) * weights)

    record = make_vjp(loss)
    return lambda: record(data.parameters), differentiate


def chain(operation: str, arrays: list[Array]) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    step = OPERATIONS[operation]

    def loss(parameters: Any) -> Any:
        y, *others = parameters
        for _ in range(CHAIN):
            y = step(y, *others)
        return np.sum(y)

    record = make_vjp(loss)
    return lambda: record(tuple(arrays)), differentiate
