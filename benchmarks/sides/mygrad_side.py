"""MyGrad.

The subtle thing is its memory guard, which locks every array that a graph holds: its manual says to
turn it off where speed counts, so it is off. It has no split; slicing is its way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mygrad as mg
from mygrad.nnet.activations import sigmoid

from benchmarks.problem import CHAIN, Array, Data
from benchmarks.sides.numpy_memory import held, numpy_versions

__all__ = ["FORM", "VERSIONS", "chain", "held", "lstm"]

VERSIONS = {"mygrad": mg.__version__, **numpy_versions()}
FORM = "slices, stack, memory guard off; backward()"

mg.turn_memory_guarding_off()

OPERATIONS: dict[str, Callable[..., Any]] = {
    "multiply": lambda y, w: y * w,
    "add": lambda y, w: y + w,
    "tanh": mg.tanh,
    "matmul": lambda y, w: y @ w,
    "sum": lambda y: mg.sum(y, axis=1, keepdims=True),
}


def differentiate(loss: Any, parameters: list[Any]) -> tuple[float, list[Array]]:
    loss.backward()
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.null_grad()
    return loss.item(), gradients


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    hidden = data.zeros.shape[1]
    parameters = [mg.tensor(array) for array in data.parameters]
    w_ih, w_hh, bias = parameters

    def forward() -> Any:
        h = c = data.zeros
        outputs = []
        for x_t in data.x:
            z = x_t @ w_ih + h @ w_hh + bias
            i, f, g, o = (z[:, k * hidden : (k + 1) * hidden] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * mg.tanh(g)
            h = sigmoid(o) * mg.tanh(c)
            outputs.append(h)
        return mg.sum(mg.stack(outputs) * data.weights)

    return forward, lambda loss: differentiate(loss, parameters)


def chain(operation: str, arrays: list[Array]) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    step = OPERATIONS[operation]
    x, *others = parameters = [mg.tensor(array) for array in arrays]

    def forward() -> Any:
        y = x
        for _ in range(CHAIN):
            y = step(y, *others)
        return mg.sum(y)

    return forward, lambda loss: differentiate(loss, parameters)
