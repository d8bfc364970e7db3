"""What is kept between calls: plans, memory for them, and what is known of cells."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from tinygrad_rnn_backends import locks

from .evidence import Records
from .ir import Table
from .plan import Plan
from .runtime.pool import Pool
from .runtime.steps import Steps

_ENOUGH_VALUES = 100_000


class Planner:
    """Plans by the structure of their steps, the least recently used one of which goes first.

    Beside them stand what makes them quick to look up and to run: the ``table`` of the values of
    all traces, the layouts of time, the ``pool`` of memory; and what is known of ``cells`` and was
    ``met`` by functions of the library, which clearing the plans does not touch.
    """

    def __init__(self, bound: int = 128) -> None:
        self._bound = bound
        self.hits = self.misses = 0
        self.pool = Pool()
        self.cells = Records()
        self.compositions: dict[Any, dict[Any, Any]] = {}  # of the library, by function
        self.met: set[str] = set()  # kinds of arguments that these were given
        self._plans: OrderedDict[Any, Plan | str] = OrderedDict()
        self._table = Table()
        self._layouts: dict[Any, Steps] = {}
        self._lock = locks.lock()

    @property
    def table(self) -> Table:
        """The values of all traces: those of steps that do the same are the same."""
        if len(self._table) > _ENOUGH_VALUES:
            self.clear()  # the plans were found by what is forgotten
        return self._table

    def layout(self, steps: int, rows: int | None, reverse: bool, library: Any) -> Steps:
        """The layout of so many steps, of rows of equal lengths."""
        key = (steps, rows, reverse, library)
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) > 8:  # each may hold a few integers for each row of each step
                self._layouts.clear()
            found = self._layouts[key] = Steps(steps, rows, reverse=reverse, library=library)
        return found

    @property
    def bound(self) -> int:
        """How many there may be."""
        return self._bound

    @bound.setter
    def bound(self, bound: int) -> None:
        with self._lock:
            self._bound = bound
            self._shrink()

    def _shrink(self) -> None:
        while len(self._plans) > self._bound:
            self._plans.popitem(last=False)

    def get(self, key: Any) -> Plan | str | None:
        """The plan, or the reason why there is none, if it is known."""
        with self._lock:
            found = self._plans.get(key)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            try:
                self._plans.move_to_end(key)
            except KeyError:  # a signal handler has made it go
                self._plans[key] = found
            return found

    def put(self, key: Any, plan: Plan | str) -> None:
        """Keep a plan, or a reason."""
        with self._lock:
            self._plans[key] = plan
            self._shrink()

    def clear(self) -> None:
        """Forget all plans and give their memory back."""
        with self._lock:
            self._plans.clear()
            self.hits = self.misses = 0
        self._table = Table()
        self._layouts.clear()
        for known in self.compositions.values():
            known.clear()
        self.pool.clear()
        _trim_heap()

    def __len__(self) -> int:
        return len(self._plans)

    def __str__(self) -> str:
        lines = [
            f"{len(self)} of at most {self.bound} plans; {self.hits} hits, {self.misses} misses; "
            f"{self.pool.bytes / 2**20:.1f} MiB of buffers; plan_cache().clear() forgets them"
        ]
        with self._lock:
            plans = list(self._plans.values())
        for found in plans:
            lines.append(f"  {found if isinstance(found, Plan) else 'literal: ' + found}")
        return "\n".join(lines)


def _trim_heap() -> None:
    """Have the C library give the system what was freed: that of GNU keeps what it can."""
    with suppress(AttributeError, OSError, TypeError):  # another library, or another system
        ctypes.CDLL(None).malloc_trim(0)


planner = Planner()


def plan_cache() -> Planner:
    """The plans that are kept, by the structure of their steps.

    ``len()`` of it is how many there are, ``bound`` how many there may be, ``hits`` and ``misses``
    count look-ups, and ``clear()`` forgets all plans and gives their memory back.
    """
    return planner
