"""Our side: the cell in primitives, the loop in Python.

The subtle thing: this is the literal path. ``tg.unroll`` may restructure such a loop; here every
primitive of every step is a node of the graph, as on the other sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tinygrad_rnn as tg
from benchmarks.problem import CHAIN, Array, Data
from benchmarks.sides.numpy_memory import held, numpy_versions

__all__ = ["FORM", "VERSIONS", "chain", "held", "lstm"]

VERSIONS = {"tinygrad_rnn": getattr(tg, "__version__", "this tree"), **numpy_versions()}
FORM = "unstack, split, stack; backward()"

OPERATIONS: dict[str, Callable[..., Any]] = {
    "multiply": lambda y, w: y * w,
    "add": lambda y, w: y + w,
    "tanh": tg.tanh,
    "matmul": lambda y, w: y @ w,
    "sum": lambda y: tg.sum(y, axis=1, keepdims=True),
}


def differentiate(loss: Any, parameters: list[Any]) -> tuple[float, list[Array]]:
    loss.backward()
    gradients = [parameter.grad.numpy() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return loss.item(), gradients


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    x, weights, zeros = tg.tensor(data.x), tg.tensor(data.weights), tg.tensor(data.zeros)
    parameters = [tg.tensor(array, requires_grad=True) for array in data.parameters]
    w_ih, w_hh, bias = parameters

    def forward() -> Any:
        h = c = zeros
        outputs = []
        for x_t in tg.unstack(x, axis=0):
            i, f, g, o = tg.split(x_t @ w_ih + h @ w_hh + bias, 4, axis=-1)
            c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
            h = tg.sigmoid(o) * tg.tanh(c)
            outputs.append(h)
        return tg.sum(tg.stack(outputs, axis=0) * weights)

    return forward, lambda loss: differentiate(loss, parameters)


def chain(operation: str, arrays: list[Array]) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    step = OPERATIONS[operation]
    x, *others = parameters = [tg.tensor(array, requires_grad=True) for array in arrays]

    def forward() -> Any:
        y = x
        for _ in range(CHAIN):
            y = step(y, *others)
        return tg.sum(y)

    return forward, lambda loss: differentiate(loss, parameters)
