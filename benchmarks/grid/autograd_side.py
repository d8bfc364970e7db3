"""HIPS autograd: the quickest form of its loop that we found, and the one that most users write.

The subtle thing is that neither may hoist the input's product: the gradient of taking one step out
of an array is, for every step, an array of zeros as large as all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import autograd.numpy as np
from autograd import value_and_grad

from benchmarks.grid.problem import GATES, LEARNING_RATE, Array, Problem, Training
from benchmarks.sides.autograd_plain_side import sigmoid as sigmoid_by_tanh
from benchmarks.sides.autograd_side import SIGMOID, VERSIONS, sigmoid

__all__ = ["FORMS", "VERSIONS"]


class Style(NamedTuple):
    """How a form writes products, gates and the logistic function."""

    dot: Callable[[Any, Any], Any]
    split: Callable[[Any, int], Any]
    sigmoid: Callable[[Any], Any]


def sliced(z: Any, count: int) -> list[Any]:
    hidden = z.shape[-1] // count
    return [z[:, k * hidden : (k + 1) * hidden] for k in range(count)]


BEST = Style(np.dot, partial(np.split, axis=-1), sigmoid)
PLAIN = Style(lambda a, b: a @ b, sliced, sigmoid_by_tanh)


def lstm(style: Style, x: Any, state: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h, c = state
    dot, split, sigmoid = style
    i, f, g, o = split(dot(x, w_ih) + dot(h, w_hh) + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def gru(
    style: Style, x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any, bias_hn: Any
) -> tuple[Any, Any]:
    dot, split, sigmoid = style
    r, z, n = split(dot(x, w_ih) + bias, 3)
    from_r, from_z, from_n = split(dot(h, w_hh), 3)
    r, z = sigmoid(r + from_r), sigmoid(z + from_z)
    n = np.tanh(n + r * (from_n + bias_hn))
    h = (1 - z) * n + z * h
    return h, h


def rnn(style: Style, x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h = np.tanh(style.dot(x, w_ih) + style.dot(h, w_hh) + bias)
    return h, h


CELLS: dict[str, Callable[..., tuple[Any, Any]]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
assert CELLS.keys() == GATES.keys()


def training(problem: Problem, style: Style) -> Training:
    cell = CELLS[problem.kind]
    target = problem.target.reshape(-1, problem.target.shape[-1])

    def loss(parameters: Any) -> Any:
        state = (problem.zeros, problem.zeros) if problem.kind == "LSTM" else problem.zeros
        outputs = []
        for x_t in problem.x:
            h, state = cell(style, x_t, state, *parameters)
            outputs.append(h)
        return np.mean(np.square(np.concatenate(outputs) - target))

    differentiated = value_and_grad(loss)
    parameters = tuple(array.copy() for array in problem.parameters)
    found: tuple[Array, ...] = ()

    def step() -> float:
        nonlocal found
        value, found = differentiated(parameters)
        for array, gradient in zip(parameters, found, strict=True):
            array -= LEARNING_RATE * gradient
        return float(value)

    return Training(step, lambda: list(found))


FORMS = {
    "best": (f"dot, split, concatenate, sigmoid as {SIGMOID}", partial(training, style=BEST)),
    "plain": ("@, slices, sigmoid as 0.5 * (tanh(x / 2) + 1)", partial(training, style=PLAIN)),
}
