"""A graph as stages of two passes: what distribution makes of it, and programs are written from.

A stage is computed for all steps at once, or step by step if something in it is loop-carried. How
often there is a value, once, for each row, for each step or for both, is its extent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from .ir import Graph, Value, base


class Extent(Enum):
    """What a value has one of: for the whole call, for each step, for each row, or both."""

    ONCE = "once"  # the same for all steps and rows
    ROWS_ONCE = "rows once"  # one for each row, the same at all steps
    EACH = "each step"  # one for each step, for no row in particular
    ROWS = "rows"  # one for each row of each step
    MERGED = "merged"  # several for each row, one below the other: on the way to such a sum
    SUMMED = "summed"  # of each step, summed over its rows: on the way to a sum over time


ONCE, ROWS_ONCE, EACH, ROWS, MERGED, SUMMED = Extent


class Carry(NamedTuple):
    """A loop-carried value: what a step is given, and what it makes of it."""

    before: Value
    after: Value


class Rows(NamedTuple):
    """Rows that a kernel goes over: how many, and of how many columns if only elements matter."""

    count: int  # type: ignore[assignment]  # tuples have a method of this name, nobody's here
    columns: int | None = None


@dataclass(eq=False)
class Stage:
    """Values computed together: step by step if there are carries, else for all steps at once."""

    values: list[Value]
    carries: list[Carry] = field(default_factory=list)
    sums: list[Value] = field(default_factory=list)  # added up over time, in a loop
    rows: Rows | None = None  # if one kernel computes it, row by row
    by_step: bool = False  # though nothing is carried: each row has matrices, the same at all steps
    again: frozenset[Value] = frozenset()  # what each kernel that reads it computes for itself

    @property
    def loop(self) -> bool:
        """Whether it goes step by step."""
        return bool(self.carries or self.sums or self.by_step)


@dataclass
class Pass:
    """The forward or the backward pass: its stages in order, and what it needs from before."""

    stages: list[Stage]
    carries: list[Carry]  # all of them, also those that are no recurrence
    needs: list[Value]  # sources and values of the other pass that it reads
    values: set[Value]  # all that it computes
    backwards: bool
    late: bool  # rows come in at steps of their own, so that there is no array of all states
    results: list[Value] = field(default_factory=list)  # read of all steps at its end

    def readers(self) -> dict[Value, set[int]]:
        """For what owns memory: the numbers of the stages that read it, END for the results."""
        readers: dict[Value, set[int]] = {}
        for number, stage in enumerate(self.stages):
            for value in stage.values:
                for x in value.operands:
                    readers.setdefault(base(x), set()).add(number)
        for value in self.results:
            readers.setdefault(base(value), set()).add(END)
        return readers


END = -1


class Term(NamedTuple):
    """A sum over time: of ``value``, subtracted if ``negative``; then reshaped and transposed."""

    value: Value
    negative: bool
    after: tuple[Value, ...]  # movements to be carried out on the sum, the last one first


@dataclass
class Distribution:
    """A graph, distributed."""

    graph: Graph
    extents: dict[Value, Extent]
    ragged: bool  # rows end at steps of their own
    forward: Pass
    backward: Pass | None
    residuals: list[Value]  # values of the forward pass held for the backward one
    totals: list[list[Term] | None]  # what the cotangent of each captured array is the sum of

    @property
    def passes(self) -> list[Pass]:
        """The passes that there are."""
        return [self.forward] if self.backward is None else [self.forward, self.backward]


def states_of(part: Pass) -> list[Value]:
    """The states before a step that a pass needs."""
    return [x for x in part.needs if x.source is not None and x.source.kind == "state"]
