"""``load``: a model of ONNX as a module, whose weights can be trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ..nn.module import Module, Parameter
from ..primitives.creation import tensor
from ..tensor import Tensor
from .graph import Graph, read
from .library import ImportedModelError
from .nodes import KNOWN, Limits, Run


class OnnxModule(Module):
    """A model that was read: ``module(x)``, ``module(x, lengths)``, ``module(x=x, h=h)``.

    Arrays of floats in the file (outside of loops and branches) are parameters, in ``weights`` by
    their names there. It runs nodes one after the other as functions on Tensors, loops by
    ``unroll``; so it has gradients, moves to other backends, and can be a part of another module.
    """

    def __init__(self, graph: Graph, opset: int, limits: Limits) -> None:
        trained = {k: x for k, x in graph.initial.items() if x.dtype.kind == "f" and x.ndim}
        others = {k: x for k, x in graph.initial.items() if k not in trained}
        self.graph, self.opset, self.limits = graph._replace(initial=others), opset, limits
        self.weights = {name: Parameter(array) for name, array in trained.items()}

    @property
    def inputs(self) -> list[str]:
        """What the inputs are called."""
        return list(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """What the outputs are called."""
        return list(self.graph.outputs)

    def forward(self, *given: Any, **named: Any) -> Any:
        """The output, or a tuple of them, in the order of ``outputs``.

        Inputs are Tensors or arrays, in the order of ``inputs`` or by name; a list is a sequence.
        Raises TypeError for inputs that are missing or unknown, and whatever its operations raise,
        with a note saying which node did.
        """
        values = self._inputs(given, named)
        backend = self._backend(values)
        known: dict[str, Any] = {**self.graph.initial, **self.weights}
        for name, value in values.items():
            known[name] = _placed(value, backend)
        run = Run(self.opset, backend, self.limits)
        found = run.graph(self.graph, known)
        found = [run.tensor(x) if isinstance(x, np.ndarray) else x for x in found]
        return found[0] if len(found) == 1 else tuple(found)

    def _inputs(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        wanted = self.graph.inputs
        values = {**dict(zip(wanted, given, strict=False)), **named}
        unknown = [name for name in named if name not in wanted]
        if len(given) > len(wanted) or unknown or len(values) < len(given) + len(named):
            raise TypeError(
                f"OnnxModule: the inputs are {', '.join(wanted)}; "
                f"{len(given)} were given and {', '.join(named) or 'none by name'}"
            )
        missing = [name for name in wanted if name not in values]
        if missing:
            raise TypeError(f"OnnxModule: the inputs {', '.join(missing)} are missing")
        return values

    def _backend(self, values: Mapping[str, Any]) -> str:
        tensors = [*self.weights.values(), *(x for x in values.values() if isinstance(x, Tensor))]
        return tensors[0].backend if tensors else backends.default().name

    def extra_repr(self) -> str:
        """Inputs, outputs, and how many nodes there are."""
        names = ", ".join(self.graph.inputs), ", ".join(self.graph.outputs)
        return f"{names[0]} -> {names[1]}; {len(self.graph.nodes)} nodes of opset {self.opset}"


def load(
    path: str | os.PathLike[str], *, max_elements: int = 2**28, max_steps: int = 10**6
) -> OnnxModule:
    """A model of ONNX as a module: LSTM, GRU, RNN, Scan and Loop, and what stands around them.

    Nothing in the file is executed, and it opens no other one. Gates keep ONNX's order; a row of
    ``sequence_lens`` 0 keeps its initial state. ``clip`` does as in onnxruntime.

    Args:
        path: the file, of opset 7 to 28.
        max_elements: the most elements that any array may have that a node makes.
        max_steps: the most rounds of a Loop.

    Raises:
        ImportError: without the extra ``onnx``.
        FileNotFoundError: if there is no such file.
        ImportedModelError: a ValueError, for a file that is damaged, of a newer opset, or larger
            inside than it is long; and for operations that are not known, named one by one.
    """
    graph, opset = read(path, KNOWN)
    return OnnxModule(graph, opset, Limits(max_elements, max_steps))


def _placed(value: Any, backend: str) -> Any:
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, list):
        return [_placed(x, backend) for x in value]
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ImportedModelError(f"OnnxModule: an input of {array.dtype} holds no real numbers")
    return tensor(array, backend=backend)
