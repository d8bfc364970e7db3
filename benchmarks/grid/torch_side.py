"""PyTorch eager on the CPU: its own layers, and the same cell written by hand.

The subtle thing is its second bias, for h. It starts at zero here and learns like the first, so
that a layer computes what the others do at its first step, with all the work that it always has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from benchmarks.grid.problem import LEARNING_RATE, Array, Problem, Training
from benchmarks.sides.torch_side import VERSIONS

__all__ = ["FORMS", "VERSIONS"]

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def training(problem: Problem, outputs_of: Callable[[Any], Any], parameters: list[Any]) -> Any:
    x, target = torch.from_numpy(problem.x), torch.from_numpy(problem.target)
    optimiser = torch.optim.SGD(parameters, lr=LEARNING_RATE)

    def step() -> float:
        optimiser.zero_grad()
        loss = mse_loss(outputs_of(x), target)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def layer(problem: Problem) -> Training:
    inputs, hidden = problem.x.shape[-1], problem.zeros.shape[-1]
    model = getattr(torch.nn, problem.kind)(inputs, hidden)
    w_ih, w_hh, bias, *bias_hn = map(torch.from_numpy, problem.parameters)
    with torch.no_grad():
        model.weight_ih_l0.copy_(w_ih.T)
        model.weight_hh_l0.copy_(w_hh.T)
        model.bias_ih_l0.copy_(bias)
        model.bias_hh_l0.zero_()
        if bias_hn:
            model.bias_hh_l0[-hidden:] = bias_hn[0]

    def gradients() -> list[Array]:
        dw_ih, dw_hh, dbias, dbias_hh = (p.grad.numpy() for p in model.parameters())
        return [dw_ih.T, dw_hh.T, dbias, *([dbias_hh[-hidden:]] if bias_hn else [])]

    step = training(problem, lambda x: model(x)[0], list(model.parameters()))
    return Training(step, gradients)


def lstm(x: Any, state: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h, c = state
    i, f, g, o = torch.chunk(x @ w_ih + h @ w_hh + bias, 4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, (h, c)


def gru(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any, bias_hn: Any) -> tuple[Any, Any]:
    r, z, n = torch.chunk(x @ w_ih + bias, 3, dim=-1)
    from_r, from_z, from_n = torch.chunk(h @ w_hh, 3, dim=-1)
    r, z = torch.sigmoid(r + from_r), torch.sigmoid(z + from_z)
    n = torch.tanh(n + r * (from_n + bias_hn))
    h = (1 - z) * n + z * h
    return h, h


def rnn(x: Any, h: Any, w_ih: Any, w_hh: Any, bias: Any) -> tuple[Any, Any]:
    h = torch.tanh(x @ w_ih + h @ w_hh + bias)
    return h, h


CELLS: dict[str, Callable[..., tuple[Any, Any]]] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


def by_hand(problem: Problem) -> Training:
    # Copies: from_numpy shares the memory, and the update is in place.
    parameters = [torch.tensor(array, requires_grad=True) for array in problem.parameters]
    zeros = torch.from_numpy(problem.zeros)
    cell = CELLS[problem.kind]

    def outputs_of(x: Any) -> Any:
        state = (zeros, zeros) if problem.kind == "LSTM" else zeros
        outputs = []
        for x_t in x.unbind(0):
            h, state = cell(x_t, state, *parameters)
            outputs.append(h)
        return torch.stack(outputs)

    step = training(problem, outputs_of, parameters)
    return Training(step, lambda: [np.asarray(p.grad) for p in parameters])


FORMS = {
    "layer": ("nn, mse_loss, optim.SGD", layer),
    "cell": ("the cell by hand, unbind, chunk, stack", by_hand),
}
