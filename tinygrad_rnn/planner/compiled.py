"""What a compiled step consists of: from its graph to its functions, all that a plan keeps of it.

It holds shapes, primitives and source, and no array of anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tinygrad_rnn_backends import Backend

from ..kernels.machine import Machine
from ..random import Draw
from ..structure import Structure
from .emit.program import Program
from .ir import Graph, Value
from .passes.rows import Proof
from .passes.rowwise import drawn_in_kernels
from .passes.schedule import Scheduled
from .stages import Distribution, Extent
from .storage import Storage
from .trace import Wanted


@dataclass(eq=False, kw_only=True)
class Compiled:
    """A step on its way through the pipeline, as each of its parts left it."""

    graph: Graph  # as traced, without derivatives
    output: Structure
    draws: list[Draw]
    constants: list[Any]  # arrays that rules made
    backend: Backend
    wanted: Wanted
    depends: tuple[bool, ...]  # which results depend on anything that a derivative is wanted by
    rows: int | None
    proof: Proof
    distribution: Distribution
    scheduled: Scheduled
    storage: list[Storage]  # of each pass
    program: Program
    functions: dict[str, Any]  # "forward" and "backward"
    machine: Machine
    no_kernels: str | None  # why no loop may be machine code
    preparation_seconds: float
    whole: bool = False  # a function's, which is called once and not at each step

    @property
    def extents(self) -> dict[Value, Extent]:
        """Of all values of the distributed graph."""
        return self.distribution.extents

    @property
    def ragged(self) -> bool:
        """Whether rows end at steps of their own."""
        return self.distribution.ragged

    @property
    def has_rows(self) -> bool:
        """Whether the rows of a batch are computed each by itself."""
        return self.proof.mixed is None

    @cached_property
    def drawn_in_kernels(self) -> frozenset[int]:
        """The draws that kernels make where they read them."""
        return drawn_in_kernels(self.distribution)

    @property
    def source(self) -> str:
        """The program."""
        return self.program.source
