"""The program of a plan: Python that one can read, for NumPy or, by the same name, CuPy.

Two functions, ``forward`` and ``backward``, are written line by line from the stages of a
``Distribution``. What is computed for all steps is one line; a recurrence is a ``for`` loop whose
values live in arrays over all steps, if something else reads them, and otherwise in scratch memory
that the steps share. Every operation that can writes into planned memory (``out=``).

The subtle thing is who owns memory. A view (a slice, a transpose, another shape) owns none, and
whoever asks about its uses asks about those of what it looks at. The parts of a ``concat`` are
computed in their places in it. A result may overwrite an operand in scratch memory that nothing
reads later; memory that others read is never written twice.
"""

from __future__ import annotations

from typing import Any

from ...kernels.ir import Loop
from ..ir import Value
from ..stages import Distribution
from .functions import FunctionWriter


class Program:
    """The source of a plan's two functions, and the constants and primitives that it names."""

    def __init__(
        self, distribution: Distribution, ragged: bool, backend: Any, compiler: Any = None
    ) -> None:
        self.distribution = distribution
        self.backend = backend
        self.compiler = compiler  # the module that compiles loops, if it is to be used
        self.loops: list[Loop] = []
        self.not_native: list[str] = []  # why loops are no machine code
        self.ragged = ragged
        self.given: dict[str, Any] = {}  # what the source names beside its arguments
        forward = FunctionWriter(self, distribution.forward, backwards=False)
        self.source = forward.function("forward", _forward_results(distribution))
        self.residuals = forward.residuals
        if distribution.backward is not None:
            backward = FunctionWriter(self, distribution.backward, backwards=True)
            backward.held(forward)
            self.source += "\n\n" + backward.function("backward", _backward_results(distribution))


def _forward_results(d: Distribution) -> tuple[list[Value | None], list[Value | None]]:
    return list(d.graph.ys), list(d.graph.states)


def _backward_results(d: Distribution) -> tuple[list[Value | None], list[Value | None]]:
    pairs = zip(d.graph.dstates, d.graph.asked, strict=True)
    return list(d.graph.dxs), [value if asked else None for value, asked in pairs]
