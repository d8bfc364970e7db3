"""A plan: the program made of a traced step.

A plan is made for a structure: operations, shapes, dtypes, static parameters, and which values come
from outside. What those values are is an argument, so a plan cannot be stale; how many steps there
are is one, too, so preparing one never grows with time.

The subtle point is what a plan keeps: shapes, primitives and its source, and no array of anybody.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

from ..kernels import settings
from ..kernels.machine import Machine, NotCompiled, machine_of, threads, warned
from . import report, storage
from .emit.program import Program, write
from .ir import Graph, Kind, Source
from .passes import fuse, simplify
from .passes.distribute import distribute
from .passes.rows import Mixed, extents, without_rows
from .passes.schedule import Scheduled, scheduled
from .stages import EACH, Distribution, Extent
from .trace import Step, Wanted, derive, differentiable


class Plan:
    """The program of a traced step, or the reason why there is none."""

    reason: str | None
    source: str
    preparation_seconds: float

    @classmethod
    def literal(cls, reason: str) -> Plan:
        """The plan of a loop that runs literally."""
        plan = cls.__new__(cls)
        plan.reason, plan.source, plan.preparation_seconds = reason, f"# literal: {reason}\n", 0.0
        return plan

    def __init__(self, lines: Step, wanted: Wanted, rows: int | None, ragged: bool) -> None:
        start = time.perf_counter()
        self.output = lines.output
        self.wanted = wanted
        self.ragged = ragged
        self.rows = rows
        self.reason: str | None = None
        self.graph = lines.graph
        self.draws = lines.trace.draws
        # Which results depend on anything that a derivative is wanted by.
        self.depends = differentiable(lines.graph, wanted, ragged)
        graph = derive(lines, wanted) if any(self.depends) else lines.graph
        self.constants = lines.trace.constants
        self.backend = lines.trace.backend
        machine = machine_of(self.backend)
        assert machine is not None  # ``prepare`` has seen to it
        self.machine = machine
        self._functions: dict[str, Any] = {}
        graph = simplify.simplified(graph)
        self.mixed: str | None = None  # which operation mixes rows, if one does
        try:
            extents(graph, rows, ragged)
        except Mixed as error:
            if ragged:
                raise
            self.mixed = str(error)
        self.no_kernels = why_not(graph, machine)
        if self.no_kernels is None and self.mixed is None:
            try:
                self._prepare(simplify.simplified(graph, fuse.PASSES), machine.compiler)
            except NotCompiled as error:
                self.no_kernels = warned(str(error))
            except Mixed as error:
                self.no_kernels = f"with products first, rows are not proved independent: {error}"
        if not self._functions or not self.program.loops:
            self._prepare(graph, None)
        lines.trace.forget()
        self.preparation_seconds = time.perf_counter() - start

    def _prepare(self, graph: Graph, compiler: Any) -> None:
        """The program of a simplified graph, its loops compiled if there is a compiler."""
        mixed = self.mixed is not None
        self.extents = without_rows(graph) if mixed else extents(graph, self.rows, self.ragged)
        self.distribution: Distribution = distribute(graph, self.extents, self.ragged)
        self.scheduled = Scheduled({}, [])
        if compiler is not None:
            fuse.drawn_in(self.distribution, compiler)
            self.scheduled = scheduled(self.distribution, compiler)
        self.storage = storage.assign(self.distribution, self.scheduled)
        self.program = write(self.distribution, self.scheduled, self.storage, self.backend)
        self.source = self.program.source
        known = self.extents.items()
        self._sources = {v.source: extent for v, extent in known if v.source is not None}
        self._functions = _compiled(self.program, self.machine)

    @property
    def planned(self) -> bool:
        """Whether there is a program."""
        return self.reason is None

    def forward(self, *arguments: Any) -> Any:
        """The generated function."""
        return self._functions["forward"](*arguments)

    def backward(self, *arguments: Any) -> Any:
        """The generated function."""
        return self._functions["backward"](*arguments)

    def report(self) -> str:
        """What became of the loop, in words."""
        return report.report(self)

    def held_bytes(self, steps: int, rows: int) -> int:
        """The bytes that a call with so many steps holds for its backward pass.

        Of sequences of unequal lengths, ``steps`` is the sum of them and ``rows`` 1.
        """
        return report.held_bytes(self, steps, rows)

    def evaluations(self, lengths: Any, steps: int | None = None) -> int:
        """How many times a row takes a step, computed for rows of these lengths."""
        ends = [int(n) for n in lengths]
        return sum(ends) if self.planned and self.ragged else len(ends) * (steps or max(ends))

    def __str__(self) -> str:
        return report.summary(self)

    @property
    def has_rows(self) -> bool:
        """Whether the rows of a batch are computed each by itself."""
        return self.mixed is None

    @property
    def reads_steps(self) -> bool:
        """Whether it reads anything that each step has one of, for all rows."""
        return EACH in self._sources.values()

    def extent(self, kind: Kind, index: int) -> Extent | None:
        """The extent of a source; None for one that the program does not read."""
        return self._sources.get(Source(kind, index))


def why_not(graph: Graph, machine: Machine) -> str | None:
    """None if the loops of a graph may be machine code, else the reason why not."""
    if settings.switch("TINYGRAD_RNN_JIT") is False:
        return f"TINYGRAD_RNN_JIT={os.environ['TINYGRAD_RNN_JIT']} asks for the NumPy program"
    floating = machine.compiler.DTYPES - {"bool"}
    if not any(value.dtype.name in floating for value in graph.results):
        return f"kernels are for {' and '.join(sorted(floating))}"
    reason: str | None = machine.compiler.available()
    return None if reason is None else warned(reason)


def _compiled(program: Program, machine: Machine) -> dict[str, Any]:
    names: dict[str, Any] = {"np": machine.np, "inf": math.inf, "nan": math.nan, **program.given}
    if program.loops:
        try:
            loops = machine.compiler.compile(program.loops)
        except Exception as error:  # of many kinds: the compiler's own
            raise NotCompiled(f"{type(error).__name__}: {error}") from error
        names |= {f"loop_{number}": loop for number, loop in enumerate(loops)}
        names["threads"], names["gemm"] = threads, machine.gemm
    exec(compile(program.source, "<plan>", "exec"), names)
    return names
