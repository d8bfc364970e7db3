"""MyGrad, its memory guard off.

The subtle thing, as on the other side of this library: it has no split; slicing is its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mygrad as mg
from mygrad.nnet.activations import sigmoid

from benchmarks.grid.problem import LEARNING_RATE, Array, Problem, Training
from benchmarks.sides.mygrad_side import VERSIONS  # which turns the guard off

__all__ = ["FORMS", "VERSIONS"]


def split(z: Any, count: int) -> list[Any]:
    hidden = z.shape[-1] // count
    return [z[:, k * hidden : (k + 1) * hidden] for k in range(count)]


def lstm(x: Any, state: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h, c = state
    i, f, g, o = split(x @ w_ih + h @ w_hh + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * mg.tanh(g)
    h = sigmoid(o) * mg.tanh(c)
    return h, (h, c)


def gru(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any, bias_hn: Any) -> tuple[Any, Any]:
    r, z, n = split(x @ w_ih + bias, 3)
    from_r, from_z, from_n = split(h @ w_hh, 3)
    r, z = sigmoid(r + from_r), sigmoid(z + from_z)
    n = mg.tanh(n + r * (from_n + bias_hn))
    h = (1 - z) * n + z * h
    return h, h


def rnn(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h = mg.tanh(x @ w_ih + h @ w_hh + bias)
    return h, h


CELLS: dict[str, Callable[..., tuple[Any, Any]]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


def training(problem: Problem) -> Training:
    cell = CELLS[problem.kind]
    parameters = [mg.tensor(array) for array in problem.parameters]  # copies
    found: list[Array] = []

    def step() -> float:
        nonlocal found
        state = (problem.zeros, problem.zeros) if problem.kind == "LSTM" else problem.zeros
        outputs = []
        for x_t in problem.x:
            h, state = cell(x_t, state, *parameters)
            outputs.append(h)
        loss = mg.mean(mg.square(mg.stack(outputs) - problem.target))
        loss.backward()
        found = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.data -= LEARNING_RATE * gradient
            parameter.null_grad()
        return loss.item()

    return Training(step, lambda: found)


FORMS = {"loop": ("slices, stack, memory guard off", training)}
