"""How a cell stands when a call of ``unroll`` begins: trusted, known by evidence, or to be watched.

What is known of a cell hangs on what can be reached from it, on no object: a cell made anew is
known.
"""

from __future__ import annotations

import warnings
from typing import Any

import tinygrad_rnn_backends as backends

from ..tensor import Tensor
from .evidence import ENOUGH, Record, name_of
from .planner import planner
from .reach import Reach
from .trust import is_marked, is_ours

LONG = 300  # steps of a call that is worth a warning


def is_traced(x: Any) -> bool:
    """Whether something is a Tensor without values."""
    return isinstance(x, Tensor) and type(x._array) not in backends._of_type


class Standing:
    """How a cell stands when a call begins.

    ``trusted`` cells are planned at once. Others have a ``record`` by what can be reached from
    them, which is None for one that is met for the first time.
    """

    def __init__(self, cell: Any, kind: str = "cell", fully: bool = False) -> None:
        self.cell = cell
        self.kind = kind  # what it is: what is known of it as another does not count
        self.trusted = is_marked(cell) or is_ours(cell)
        self.reach: Reach | None = None
        self.record: Record | None = None
        if not self.trusted:
            self.reach = Reach(cell, fully=fully)
            self.record = planner.cells.get(self.key)

    @property
    def key(self) -> Any:
        """By what it is known: if something cannot be seen, by the first that can."""
        assert self.reach is not None
        reach = self.reach
        return self.kind, reach.key if reach.refused is None else reach.key[:3]

    @property
    def reason(self) -> str | None:
        """Why it is never planned by itself; None if it may be."""
        if self.reach is not None and self.reach.refused is not None:
            return f"the {self.kind} reaches {self.reach.refused}"
        if self.record is not None and self.record.hopeless:
            return self.record.reason
        return None

    @property
    def known(self) -> bool:
        """Whether it is planned, if its operations are those that were seen."""
        return self.trusted or (
            self.reason is None and self.record is not None and self.record.known
        )

    def knows(self, operations: tuple[Any, ...]) -> bool:
        """Whether it may be planned, having done these operations and changed nothing."""
        assert self.reach is not None
        seen = self.record is not None and self.record.knows(operations)
        return seen and not self.reach.moved()

    def restore(self) -> None:
        """Put a cell back as it was before it was traced."""
        if self.reach is not None and not self.trusted:
            self.reach.restore()

    def changed(self) -> bool:
        """Whether the cell is another one now."""
        return self.reach is not None and Reach(self.cell).key != self.reach.key

    def gained(self) -> str | None:
        """The name of something that the cell reaches and that holds a traced Tensor now."""
        if self.reach is None or self.trusted:
            return None
        return self.reach.gained(is_traced)

    def describe(self) -> str:
        """What the default mode does with the cell."""
        if self.trusted:
            return "Default: planned, being trusted."
        if self.known:
            return "Default: planned, since its steps were seen to be alike."
        seen = max(self.record.steps.values(), default=0) if self.record is not None else 0
        return f"Default: literal until {ENOUGH} steps were alike ({seen} so far); see pure."

    def settle(self, reason: str | None, operations: tuple[Any, ...] | None, steps: int) -> None:
        """Add what a call has shown: that its steps were alike, or the reason why it is none.

        A cell that has changed meanwhile is another one: what it did not show goes with it.
        """
        after = Reach(self.cell)
        if reason is None:
            assert operations is not None
            planner.cells.count(self.key, operations, steps)
        else:
            following = self.kind, after.key
            is_another = after.refused is None and following != self.key
            planner.cells.miss(self.key, reason, following if is_another else None)

    def warn(self, steps: int) -> None:
        """Say once that a cell of many steps runs literally for good."""
        if steps <= LONG or self.record is None or not self.record.hopeless:
            return
        if not planner.cells.note_warning(self.key[1][:3]):
            return
        warnings.warn(
            f"unroll: {name_of(self.cell)} runs literally, step by step, since "
            f"{self.record.reason}. If what it returns depends on x, the state and what it "
            "captures, and on nothing else, mark it with @tinygrad_rnn.pure",
            stacklevel=5,
        )
