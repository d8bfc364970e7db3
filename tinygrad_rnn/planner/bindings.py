"""What names and containers held when they were looked at: compared later, and put back."""

from __future__ import annotations

import operator
import types
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Slot(str):
    """The name of an attribute that is in no ``__dict__``."""

    __slots__ = ()


class Binding(NamedTuple):
    """What a holder held: by a key, the content of a closure's cell, or the whole of it.

    Of the whole a copy was made, unless it cannot change (None).
    """

    name: str
    holder: Any
    key: Any
    before: Any

    def now(self) -> Any:
        """What is held now."""
        holder, key = self.holder, self.key
        if isinstance(holder, types.CellType):
            return holder.cell_contents
        if key is None:
            return holder
        if type(key) is Slot:
            return getattr(holder, key, None)
        return holder.get(key) if isinstance(holder, dict) else vars(holder).get(key)

    def has_moved(self) -> bool:
        """Whether something else is held now."""
        holder, before = self.holder, self.before
        if self.key is not None or type(holder) is types.CellType:
            return self.now() is not before
        if before is None:
            return False
        if type(holder) is np.ndarray:
            return not np.array_equal(holder, before)
        return len(holder) != len(before) or not _same_parts(holder, before)

    def has_gained(self, wanted: Callable[[Any], bool]) -> bool:
        """Whether something of a kind is held now that was not."""
        now = self.now()
        if now is self.before:
            return False
        old = {id(x) for x in _parts_of(self.before)}
        return any(id(x) not in old and wanted(x) for x in _parts_of(now))

    def restore(self) -> None:
        """Bind again what was bound, and fill a container as it was filled."""
        _, holder, key, before = self
        now = self.now()
        if now is before or (before is None and key is None):
            return
        if isinstance(holder, types.CellType):
            holder.cell_contents = before
        elif isinstance(holder, np.ndarray):
            holder[...] = before
        elif type(key) is Slot:
            object.__setattr__(holder, key, before)
        elif isinstance(holder, dict):
            if key is not None:
                holder[key] = before
            elif [*now] != [*before]:
                holder.clear()
                holder.update(before)
            else:
                holder.update({k: x for k, x in before.items() if now[k] is not x})
        elif key is not None:
            setattr(holder, key, before)
        elif len(now) != len(before) or not _same_parts(now, before):
            holder.clear()
            (holder.update if isinstance(holder, set) else holder.extend)(before)


def _same_parts(now: Any, before: Any) -> bool:
    return all(map(operator.is_, _parts_of(now), _parts_of(before)))


def _parts_of(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [*x, *x.values()]
    return [*x] if isinstance(x, (list, deque, set)) else [x]
