"""What names and containers held when they were looked at: compared later, and put back."""

from __future__ import annotations

import operator
import random as python_random
import types
from collections import OrderedDict, deque
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
            elif [*now] != [*before] or not _same_parts(now, before):
                _fill(holder, before)
        elif key is not None:
            setattr(holder, key, before)
        elif len(now) != len(before) or not _same_parts(now, before):
            _fill(holder, before)


class Contents(NamedTuple):
    """The elements of an array, or how far a generator of random numbers has come."""

    holder: Any
    before: Any

    @classmethod
    def of(cls, x: Any) -> Contents:
        """What it holds now, copied."""
        if isinstance(x, python_random.Random):
            return cls(x, x.getstate())
        if isinstance(x, np.random.RandomState):
            return cls(x, x.get_state(legacy=False))
        if isinstance(x, np.random.Generator):
            return cls.of(x.bit_generator)
        return cls(x, x.state if isinstance(x, np.random.BitGenerator) else x.copy())

    def restore(self) -> None:
        """Have it hold again what it held."""
        x, before = self
        if isinstance(x, python_random.Random):
            x.setstate(before)
        elif isinstance(x, np.random.RandomState):
            x.set_state(before)
        elif isinstance(x, np.random.BitGenerator):
            x.state = before
        else:
            x[...] = before


def _fill(holder: Any, parts: Any) -> None:
    """Have a container hold these parts, whatever its class makes of ``update`` and the like."""
    kinds: tuple[Any, ...] = OrderedDict, dict, list, deque, set
    kind = next(kind for kind in kinds if isinstance(holder, kind))
    kind.clear(holder)
    if issubclass(kind, dict):
        for key, part in parts.items():
            kind.__setitem__(holder, key, part)
    else:
        (kind.update if kind is set else kind.extend)(holder, parts)


def _same_parts(now: Any, before: Any) -> bool:
    return all(map(operator.is_, _parts_of(now), _parts_of(before)))


def _parts_of(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [*x, *x.values()]
    return [*x] if isinstance(x, (list, deque, set)) else [x]
