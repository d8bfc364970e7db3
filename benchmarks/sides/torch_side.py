"""PyTorch eager on the CPU.

The subtle thing is memory: PyTorch allocates outside Python, so the bytes are those of the distinct
storages that the graph asks to save, where two views of one array count once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.problem import CHAIN, Array, Data

VERSIONS = {"torch": torch.__version__, "MKL": str(torch.backends.mkl.is_available())}
FORM = "unbind, chunk, stack; backward()"

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

OPERATIONS: dict[str, Callable[..., Any]] = {
    "multiply": lambda y, w: y * w,
    "add": lambda y, w: y + w,
    "tanh": torch.tanh,
    "matmul": lambda y, w: y @ w,
    "sum": lambda y: torch.sum(y, dim=1, keepdim=True),
}


def differentiate(loss: Any, parameters: list[Any]) -> tuple[float, list[Array]]:
    loss.backward()
    gradients = [parameter.grad.numpy() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return loss.item(), gradients


def lstm(data: Data) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    # from_numpy shares the memory, so that `held` can tell the input from what is saved beside it
    x, weights, zeros = map(torch.from_numpy, (data.x, data.weights, data.zeros))
    parameters = [torch.from_numpy(array).requires_grad_() for array in data.parameters]
    w_ih, w_hh, bias = parameters

    def forward() -> Any:
        h = c = zeros
        outputs = []
        for x_t in x.unbind(0):
            i, f, g, o = torch.chunk(x_t @ w_ih + h @ w_hh + bias, 4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.sum(torch.stack(outputs) * weights)

    return forward, lambda loss: differentiate(loss, parameters)


def chain(operation: str, arrays: list[Array]) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    step = OPERATIONS[operation]
    x, *others = parameters = [torch.from_numpy(array).requires_grad_() for array in arrays]

    def forward() -> Any:
        y = x
        for _ in range(CHAIN):
            y = step(y, *others)
        return torch.sum(y)

    return forward, lambda loss: differentiate(loss, parameters)


def held(forward: Callable[[], Any], data: Data) -> dict[str, int]:
    saved: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pending = forward()
    given = {array.ctypes.data for array in data}
    arrays = sum(size for address, size in saved.items() if address not in given)
    del pending
    return {"arrays": arrays, "input": saved.get(data.x.ctypes.data, 0)}
