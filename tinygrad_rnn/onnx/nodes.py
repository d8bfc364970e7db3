"""Nodes at work: values by name, each operation a function on Tensors.

Numbers on the way to a shape stay on the host: ``Shape`` gives an array of NumPy, and what is
computed from nothing but such arrays is one, too. So a model that is on a GPU, or traced, still
knows its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..primitives.creation import tensor
from ..tensor import Tensor
from . import loops
from .functions import FUNCTIONS
from .graph import Graph, Node
from .library import ImportedModelError


class Limits(NamedTuple):
    """How much a model may ask for when it runs."""

    elements: int  # of any array that a node makes
    steps: int  # of a Loop


class Call:
    """A node as its function sees it: attributes, the opset, and what bounds it."""

    def __init__(self, run: Run, node: Node, known: dict[str, Any]) -> None:
        self.run, self.node, self.known = run, node, known
        self.opset = run.opset

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is where the file does not say."""
        return self.node.attributes.get(name, default)

    def room(self, *shape: int) -> tuple[int, ...]:
        """A shape that an array may have; ImportedModelError for one with too many elements."""
        if any(n < 0 for n in shape) or math.prod(shape) > self.run.limits.elements:
            raise ImportedModelError(
                f"{self.node}: an array of shape {shape} is more than {self.run.limits.elements:,} "
                "elements; max_elements of load allows for more"
            )
        return shape

    def body(self, graph: Graph, inputs: Sequence[Any]) -> list[Any]:
        """A graph within the node, which sees the names around it."""
        known = {**self.known, **graph.initial, **dict(zip(graph.inputs, inputs, strict=True))}
        return self.run.graph(graph, known)


class Run:
    """One run of a model."""

    def __init__(self, opset: int, backend: str, limits: Limits) -> None:
        self.opset, self.backend, self.limits = opset, backend, limits

    def graph(self, graph: Graph, known: dict[str, Any]) -> list[Any]:
        """The outputs of a graph whose inputs are known; what it adds to ``known`` is its own."""
        known[""] = None
        for node in graph.nodes:
            inputs = [known[name] for name in node.inputs]
            try:
                outputs = self._node(Call(self, node, known), inputs)
            except Exception as error:
                error.add_note(f"This happened in {node} of a model of ONNX.")
                raise
            known.update(zip(node.outputs, outputs, strict=False))
            known[""] = None
        return [known[name] for name in graph.outputs]

    def _node(self, call: Call, inputs: list[Any]) -> Sequence[Any]:
        kind = call.node.kind
        if kind in loops.FUNCTIONS:
            found = loops.FUNCTIONS[kind](call, *inputs)
            return found if isinstance(found, tuple) else (found,)
        arrays = [x for x in inputs if x is not None]
        on_host = bool(arrays) and all(isinstance(x, np.ndarray) for x in arrays)
        backend = "numpy" if on_host else self.backend
        found = FUNCTIONS[kind](call, *[self.tensor(x, backend) for x in inputs])
        outputs = found if isinstance(found, tuple) else (found,)
        return [x.numpy() if on_host and isinstance(x, Tensor) else x for x in outputs]

    def tensor(self, x: Any, backend: str | None = None) -> Any:
        """An array of the host as a Tensor; anything else as it is."""
        return tensor(x, backend=backend or self.backend) if isinstance(x, np.ndarray) else x


KNOWN = frozenset([*FUNCTIONS, *loops.FUNCTIONS])
