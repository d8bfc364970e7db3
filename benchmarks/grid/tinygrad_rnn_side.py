"""Our side: a layer of ``nn``, and the same cell written by hand over ``unroll``.

The subtle thing is that "cell" and "layer" are to take the same time: no cell is special. "literal"
is the same cell, every primitive of every step a node of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from benchmarks.grid.problem import LEARNING_RATE, Problem, Training
from benchmarks.sides.numpy_memory import numpy_versions
from tinygrad_rnn import functional as F
from tinygrad_rnn import nn, optim

VERSIONS = {"tinygrad_rnn": tg.__version__, **numpy_versions()}
for extra in ("llvmlite", "scipy-openblas32"):
    try:
        VERSIONS[extra] = version(extra)
    except PackageNotFoundError:
        VERSIONS[extra] = "not installed"

LOOK_UPS = 200


def training(
    problem: Problem,
    outputs_of: Callable[[Any], Any],
    parameters: list[Any],
    whole: Callable[[Any], Any] = lambda step: step,
) -> Training:
    """A step of training; ``whole`` is what is made of it."""
    x, target = tg.tensor(problem.x), tg.tensor(problem.target)
    optimiser = optim.SGD(parameters, lr=LEARNING_RATE)

    @whole
    def step(x: Any, target: Any) -> Any:
        optimiser.zero_grad()
        loss = F.mse_loss(outputs_of(x), target)
        loss.backward()
        optimiser.step()
        return loss

    gradients = lambda: [parameter.grad.numpy() for parameter in parameters]  # noqa: E731
    return Training(lambda: step(x, target).item(), gradients)


def layer(problem: Problem, whole: Callable[[Any], Any] = lambda step: step) -> Training:
    inputs, hidden = problem.x.shape[-1], problem.zeros.shape[-1]
    model = getattr(nn, problem.kind)(inputs, hidden)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_l0", "bias_hn_l0")
    model.load_state_dict(dict(zip(names, problem.parameters, strict=False)))
    parameters = [getattr(model, name) for name in names[: len(problem.parameters)]]
    return training(problem, lambda x: model(x)[0], parameters, whole)


def lstm(x: Any, state: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h, c = state
    i, f, g, o = tg.split(x @ w_ih + h @ w_hh + bias, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    h = tg.sigmoid(o) * tg.tanh(c)
    return h, (h, c)


def gru(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any, bias_hn: Any) -> tuple[Any, Any]:
    r, z, n = tg.split(x @ w_ih + bias, 3, axis=-1)
    from_r, from_z, from_n = tg.split(h @ w_hh, 3, axis=-1)
    r, z = tg.sigmoid(r + from_r), tg.sigmoid(z + from_z)
    n = tg.tanh(n + r * (from_n + bias_hn))
    h = (1 - z) * n + z * h
    return h, h


def rnn(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h = tg.tanh(x @ w_ih + h @ w_hh + bias)
    return h, h


CELLS: dict[str, Callable[..., tuple[Any, Any]]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


def by_hand(problem: Problem) -> tuple[Callable[[Any, Any], Any], Any, list[Any]]:
    """The cell as a closure over its weights, the first state, and the weights."""
    parameters = [tg.tensor(array, requires_grad=True) for array in problem.parameters]
    zeros = tg.tensor(problem.zeros)

    def cell(x: Any, state: Any) -> tuple[Any, Any]:
        return CELLS[problem.kind](x, state, *parameters)

    state = (zeros, zeros) if problem.kind == "LSTM" else zeros
    return tg.pure(cell), state, parameters  # what is measured is the plan, from the first step on


def unrolled(problem: Problem, mode: Any = "auto") -> Training:
    cell, state, parameters = by_hand(problem)
    return training(problem, lambda x: tg.unroll(cell, x, state, mode=mode)[0], parameters)


def remark(form: str, problem: Problem) -> str:
    """Whether the loop is planned: ``unroll`` does not say so unless it is asked."""
    if form == "literal":
        return "literal as asked for"
    cell, state, _ = by_hand(problem)
    plan = tg.plan(cell, tg.tensor(problem.x), state)
    return "planned" if plan.planned else f"literal, since {plan.reason}"


def look_up(problem: Problem) -> float:
    """Seconds of tracing a cell whose plan is known and finding that plan."""
    cell, state, _ = by_hand(problem)
    x = tg.tensor(problem.x)
    seconds = []
    for _ in range(LOOK_UPS):
        start = perf_counter()
        tg.plan(cell, x, state)
        seconds.append(perf_counter() - start)
    return float(np.median(seconds))


FORMS = {
    "layer": ("nn, F.mse_loss, optim.SGD", layer),
    "step": (
        "the same, the whole step planned with retrace=False",
        partial(layer, whole=partial(tg.planned, retrace=False)),
    ),
    "cell": ("the cell in primitives, unroll", unrolled),
    "literal": ("the cell in primitives, unroll", partial(unrolled, mode="literal")),
}
