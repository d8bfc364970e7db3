"""Changes that come all at once: what an interrupt must never find half done.

Ctrl-C, a signal handler that raises, an exception sent to a thread: all of them come between two
instructions of Python. So what belongs together, new weights and the moments beside them, is
computed first and then assigned by one call into C, which runs no instruction. The interrupt finds
everything as it was, or everything as it should be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import call
from typing import Any, TypeAlias

Change: TypeAlias = tuple[Callable[[Any, Any], Any], Any, Any]
"""``(make, of, value)``, for a ``make`` in C that never fails: a slot's ``__set__``, say."""


def attributes(of: Any, **values: Any) -> Change:
    """That of attributes of an object which has a ``__dict__``."""
    return dict.update, vars(of), values


def commit(changes: Iterable[Change]) -> None:
    """Make all changes, in order, or none."""
    columns = tuple(zip(*changes, strict=True))
    if columns:
        deque(map(call, *columns), maxlen=0)  # the quickest way to exhaust an iterator, and in C
