"""Convolutions and pooling of one library in a process of its own.

``benchmarks/convolution.py`` starts it. What counts is CPU time, of all threads: what a step of
training costs where several run at once, and what another process on the machine changes least.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.problem import Array, checksum
from benchmarks.sides.numpy_memory import numpy_versions
from benchmarks.worker import main, take_turns


class Case(NamedTuple):
    """A function with its input, its kernel if it has one, and its options."""

    function: str  # or "ConvLSTM", over STEPS frames
    x: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    inner: bool = True  # whether the cotangent of the input is asked for: not of images

    def arrays(self) -> dict[str, Array]:
        """What it is given, and ``weights`` of its result, which are the cotangent."""
        rng = np.random.default_rng(0)

        def random(*shape: int, scale: float = 1.0) -> Array:
            return scale * rng.standard_normal(shape, np.float32)

        given = {"x": random(*self.x)}
        if self.function == "ConvLSTM":
            batch, inputs, *image = self.x
            outputs, _, *sizes = self.kernel
            hidden = outputs // 4
            given = {"x": random(STEPS, batch, inputs, *image)}
            given["w_ih"] = random(outputs, inputs, *sizes, scale=0.2)
            given["w_hh"] = random(outputs, hidden, *sizes, scale=0.05)
            given["bias"] = random(outputs)
            given["peepholes"] = random(3, hidden, *image, scale=0.2)
            given["weights"] = random(STEPS, batch, hidden, *image)
        elif self.kernel:
            given["w"] = random(*self.kernel, scale=0.1)
            given["bias"] = random(self.kernel[0])
        return given


STEPS = 16
SAME = (("padding", "same"),)
HALVING = (("stride", 2), ("padding", 2))
CASES = {
    "caption 1": Case("conv2d", (32, 1, 56, 56), (16, 1, 5, 5), HALVING, inner=False),
    "caption 2": Case("conv2d", (32, 16, 28, 28), (32, 16, 5, 5), HALVING),
    "caption 3": Case("conv2d", (32, 32, 14, 14), (64, 32, 5, 5), HALVING),
    "digits 1": Case("conv2d", (64, 1, 28, 28), (16, 1, 3, 3), SAME, inner=False),
    "digits 2": Case("conv2d", (64, 16, 14, 14), (32, 16, 3, 3), SAME),
    "binding sites": Case("conv1d", (64, 4, 200), (48, 4, 12), inner=False),
    "pool, digits 1": Case("max_pool2d", (64, 16, 28, 28), (), (("kernel_size", 2),)),
    "pool, digits 2": Case("max_pool2d", (64, 32, 14, 14), (), (("kernel_size", 2),)),
    "pool, binding sites": Case("max_pool1d", (64, 48, 189), (), (("kernel_size", 4),)),
    "mean pool": Case("avg_pool2d", (64, 16, 28, 28), (), (("kernel_size", 2),)),
    **{
        f"ConvLSTM {size}, {k}x{k}": Case("ConvLSTM", (8, 1, size, size), (64, 1, k, k))
        for size in (16, 32)
        for k in (3, 5)
    },
}

Passes = tuple[Callable[[], Any], Callable[[Any], Any], dict[str, str], str]
"""What goes forward, what goes back from there, versions, and how it is written."""


def of_ours(case: Case, given: dict[str, Array]) -> Passes:
    import tinygrad_rnn as tg
    from tinygrad_rnn import nn

    own = {name: tg.tensor(a) for name, a in given.items()}
    versions = {"tinygrad_rnn": getattr(tg, "__version__", "this tree"), **numpy_versions()}
    if case.function == "ConvLSTM":
        hidden, (_, inputs, *image) = case.kernel[0] // 4, case.x
        cell = nn.ConvLSTMCell(inputs, hidden, case.kernel[2:], (image[0], image[1]))
        cell.weight_ih.data, cell.weight_hh.data = own["w_ih"], own["w_hh"]
        assert cell.bias is not None
        cell.bias.data = own["bias"]
        peepholes = [cell.weight_ci, cell.weight_cf, cell.weight_co]
        for weight, value in zip(peepholes, own["peepholes"], strict=True):
            assert weight is not None
            weight.data = value
        parameters = [cell.weight_ih, cell.weight_hh, cell.bias, *peepholes]

        def forward() -> Any:
            return tg.sum(tg.unroll(cell, own["x"])[0] * own["weights"])

    else:
        parameters = [x for name, x in own.items() if name != "x" or case.inner]
        for x in parameters:
            x.requires_grad = True
        function, options = getattr(tg, case.function), dict(case.options)
        out = function(*own.values(), **options)
        weights = tg.tensor(_weights(out.shape))

        def forward() -> Any:
            return tg.sum(function(*own.values(), **options) * weights)

    def backward(loss: Any) -> Any:
        return loss.item(), [g.numpy() for g in tg.grad(loss, parameters)]

    return forward, backward, versions, "functions, grad; nn.ConvLSTMCell, unroll"


def of_torch(case: Case, given: dict[str, Array]) -> Passes:
    import os

    import torch
    from torch.nn import functional as F

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    own = {name: torch.from_numpy(a) for name, a in given.items()}
    if case.function == "ConvLSTM":
        parts = [own[name] for name in ("w_ih", "w_hh", "bias")]
        parameters = [*parts, *own["peepholes"]]
        for x in parameters:
            x.requires_grad_()
        w_ih, w_hh, bias, w_ci, w_cf, w_co = parameters

        def forward() -> Any:
            from_x = F.conv2d(own["x"].flatten(0, 1), w_ih, bias, padding="same")
            h = c = torch.zeros(own["weights"].shape[1:])
            outputs = []
            for seen in from_x.unflatten(0, own["x"].shape[:2]).unbind(0):
                i, f, g, o = torch.chunk(seen + F.conv2d(h, w_hh, padding="same"), 4, dim=1)
                i, f = torch.sigmoid(i + w_ci * c), torch.sigmoid(f + w_cf * c)
                c = f * c + i * torch.tanh(g)
                h = torch.sigmoid(o + w_co * c) * torch.tanh(c)
                outputs.append(h)
            return torch.sum(torch.stack(outputs) * own["weights"])

    else:
        parameters = [x for name, x in own.items() if name != "x" or case.inner]
        for x in parameters:
            x.requires_grad_()
        function, options = getattr(F, case.function), dict(case.options)
        out = function(*own.values(), **options)
        weights = torch.from_numpy(_weights(tuple(out.shape)))

        def forward() -> Any:
            return torch.sum(function(*own.values(), **options) * weights)

    def backward(loss: Any) -> Any:
        return loss.item(), [g.numpy() for g in torch.autograd.grad(loss, parameters)]

    form = "functional, autograd.grad; a ConvLSTM by hand, conv2d of all frames ahead of its loop"
    return forward, backward, {"torch": torch.__version__}, form


def _weights(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


SIDES = {"tinygrad_rnn": of_ours, "torch": of_torch}


def serve(task: dict[str, Any], answer: Callable[..., None]) -> None:
    case = CASES[task["case"]]
    if task["small"]:
        batch, *rest = case.x
        case = case._replace(x=(min(batch, 2), *rest))
    forward, backward, versions, form = SIDES[task["side"]](case, case.arrays())

    def once() -> tuple[float, ...]:
        start = process_time()
        pending = forward()
        middle = process_time()
        backward(pending)
        del pending
        return middle - start, process_time() - middle

    found = checksum(*backward(forward()))
    take_turns(once, answer, versions=versions, form=form, checksum=found)


if __name__ == "__main__":
    main(serve)
