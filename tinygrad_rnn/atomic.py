"""Changes that come all at once: what an interrupt must never find half done.

Ctrl-C, a signal handler that raises, an exception sent to a thread: all of them come between two
instructions of Python. So what belongs together, new weights and the moments beside them, is
computed first and then assigned by one call into C, which runs no instruction. The interrupt finds
everything as it was, or everything as it should be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import call
from typing import Any, TypeAlias

Change: TypeAlias = tuple[Callable[[Any, Any], Any], Any, Any]
"""``(make, of, value)``, for a ``make`` in C that never fails: a slot's ``__set__``, say."""


def attributes(of: Any, **values: Any) -> Change:
    """That of attributes of an object which has a ``__dict__``."""
    return dict.update, vars(of), values


class Journal:
    """What changes have been made, so that they can be undone."""

    def __init__(self) -> None:
        self.slots: dict[tuple[Any, int], tuple[Any, Any]] = {}  # (owner, what it held) by slot
        self._containers: dict[int, tuple[Any, Any]] = {}  # and a copy of a dict or list

    def note(self, make: Any, of: Any) -> None:
        """``make(of, value)`` is about to be called."""
        if isinstance(of, (dict, list)):
            self._containers.setdefault(id(of), (of, of.copy()))
        else:
            self.note_slot(make.__self__, of)

    def note_slot(self, slot: Any, of: Any) -> None:
        """A slot of an object is about to be set."""
        if (slot, id(of)) not in self.slots:
            self.slots[slot, id(of)] = of, slot.__get__(of)

    def undo_slots(self) -> None:
        """Set slots to what they held: Tensors and their gradients."""
        for (slot, _), (of, before) in self.slots.items():
            slot.__set__(of, before)
        self.slots.clear()

    def undo(self) -> None:
        """Undo all changes."""
        self.undo_slots()
        for of, before in self._containers.values():
            of.clear()
            of.update(before) if isinstance(of, dict) else of.extend(before)
        self._containers.clear()


_journal: ContextVar[Journal | None] = ContextVar("tinygrad_rnn_journal", default=None)


@contextmanager
def journal() -> Iterator[Journal]:
    """Changes in this block are noted, and undone if it raises."""
    kept = Journal()
    token = _journal.set(kept)
    try:
        yield kept
    except BaseException:
        kept.undo()
        raise
    finally:
        _journal.reset(token)


def is_journal_kept() -> bool:
    """Whether changes are noted here, so that they can be undone."""
    return _journal.get() is not None


def note_slot(slot: Any, of: Any) -> None:
    """A slot of an object is about to be set by itself, which ``commit`` does not see."""
    kept = _journal.get()
    if kept is not None:
        kept.note_slot(slot, of)


def commit(changes: Iterable[Change]) -> None:
    """Make all changes, in order, or none."""
    kept = _journal.get()
    if kept is not None:
        changes = list(changes)
        for make, of, _ in changes:
            kept.note(make, of)
    columns = tuple(zip(*changes, strict=True))
    if columns:
        deque(map(call, *columns), maxlen=0)  # the quickest way to exhaust an iterator, and in C
