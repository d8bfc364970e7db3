"""A plan: a compiled step that can be called, or the reason why there is none.

A plan is made for a structure: operations, shapes, dtypes, static parameters, and which values are
captured. What those values are is an argument, so a plan cannot be stale; how many steps there
are is one, too, so preparing one never grows with time.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from . import report
from .compiled import Compiled
from .ir import Kind, Source, Value, base
from .passes.turn import turned_axes
from .stages import EACH, ROWS, Extent


class Rows(NamedTuple):
    """What has the rows of all steps, one below the other: by position."""

    xs: list[bool]
    dys: list[bool]
    ys: list[bool]
    dxs: list[bool]


class Plan(Compiled):
    """The program of a traced step, or the reason why there is none."""

    reason: str | None = None
    standing: str = ""  # whether the default mode plans the cell that was asked about

    @staticmethod
    def literal(reason: str) -> Plan:
        """The plan of a loop that runs literally."""
        return _Literal(reason)

    def __repr__(self) -> str:
        return f"<Plan, {self}>"

    @property
    def planned(self) -> bool:
        """Whether there is a program."""
        return self.reason is None

    def forward(self, *arguments: Any) -> Any:
        """The generated function."""
        return self.functions["forward"](*arguments)

    def backward(self, *arguments: Any) -> Any:
        """The generated function."""
        return self.functions["backward"](*arguments)

    def report(self) -> str:
        """What became of the loop, in words."""
        return f"{report.report(self)} {self.standing}".rstrip()

    def held_bytes(self, steps: int, rows: int) -> int:
        """The bytes that a call with so many steps holds for its backward pass.

        Of sequences of unequal lengths, ``steps`` is the sum of them and ``rows`` 1. Of a literal
        loop, which holds a graph, nothing is foretold: 0.
        """
        return report.held_bytes(self, steps, rows)

    def evaluations(self, lengths: Any, steps: int | None = None) -> int:
        """How many times a row takes a step, computed for rows of these lengths."""
        ends = [int(n) for n in lengths]
        return sum(ends) if self.planned and self.ragged else len(ends) * (steps or max(ends))

    def __str__(self) -> str:
        return report.summary(self)

    @cached_property
    def _sources(self) -> dict[Source, Extent]:
        return {v.source: extent for v, extent in self.extents.items() if v.source is not None}

    @cached_property
    def shared_by_rows(self) -> Rows:
        """Which parts of x, outputs and cotangents of either have the rows of all steps."""
        rows = self._rows_of("x", len(self.wanted.xs)), self._rows_of("dy", len(self.graph.ys))
        d = self.distribution
        made = [
            [v is not None and self._stands(v) for v in part] for part in (d.graph.ys, d.graph.dxs)
        ]
        return Rows(*rows, *made)

    def _rows_of(self, kind: Kind, count: int) -> list[bool]:
        return [self.extent(kind, i) is ROWS for i in range(count)]

    def _stands(self, value: Value) -> bool:
        """Whether a result is an array of the plan's own with the rows of all steps."""
        return self.extents[value] is ROWS and base(value).source is None

    @cached_property
    def turned(self) -> dict[int, int]:
        """By the number of a captured array, the axis that it is to have in front."""
        return turned_axes(self.distribution.graph)

    @property
    def reads_steps(self) -> bool:
        """Whether it reads anything that each step has one of, for all rows."""
        return EACH in self._sources.values()

    def extent(self, kind: Kind, index: int) -> Extent | None:
        """The extent of a source; None for one that the program does not read."""
        return self._sources.get(Source(kind, index))


class _Literal(Plan):
    """No program."""

    source = ""
    preparation_seconds = 0.0

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.source = f"# literal: {reason}\n"

    def report(self) -> str:
        """Why there is none."""
        assert self.reason is not None
        return report.of_literal(self.reason)

    def held_bytes(self, steps: int, rows: int) -> int:
        """Nothing is foretold."""
        return 0

    def __str__(self) -> str:
        return f"literal: {self.reason}"
