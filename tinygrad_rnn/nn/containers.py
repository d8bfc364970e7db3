"""Where a module may keep its parts: whatever has an order, which is that of its parameters.

A set has none, so a state saved by position would be read by another; an iterator can be read once,
so what it gives would be trained in the first step at most. Both are refused. What is no container,
such as an object of some class that is no Module, is not looked into.
"""

from __future__ import annotations

import copy
from collections import UserDict, UserList, deque
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from dataclasses import fields, is_dataclass
from functools import lru_cache
from inspect import GEN_CREATED, getgeneratorstate
from itertools import chain
from types import GeneratorType, MappingProxyType, SimpleNamespace
from typing import Any

Parts = Iterable[tuple[Any, Any]]


def parts_of(value: Any) -> Parts:
    """What an ordered container holds, by key or number; nothing for anything else."""
    take_apart = way_into(type(value))
    return () if take_apart is None else take_apart(value)


def _way_into(kind: type) -> Callable[[Any], Parts] | None:
    """How containers of a type are taken apart; None for what is no container with an order."""
    if issubclass(kind, (dict, MappingProxyType, UserDict)):
        return lambda value: value.items()
    if issubclass(kind, ItemsView):
        return lambda value: value
    if issubclass(kind, (list, tuple, deque, UserList, ValuesView, KeysView)):
        return enumerate
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        return lambda value: [(n, getattr(value, n)) for n in names if hasattr(value, n)]
    if issubclass(kind, SimpleNamespace):
        return lambda value: vars(value).items()
    return None


way_into: Callable[[type], Callable[[Any], Parts] | None] = lru_cache(1024)(_way_into)


def with_parts(value: Any, parts: list[Any]) -> Any:
    """A container like ``value``, which is left as it is, of other parts in the same order."""
    pairs = dict(zip([key for key, _ in parts_of(value)], parts, strict=True))
    if isinstance(value, (ItemsView, ValuesView)):
        return pairs.items() if isinstance(value, ItemsView) else pairs.values()
    if isinstance(value, KeysView):
        return dict.fromkeys(parts).keys()
    if isinstance(value, MappingProxyType):
        return MappingProxyType(pairs)
    if isinstance(value, tuple):
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    twin = copy.copy(value)
    if isinstance(value, (dict, UserDict)):
        for key, part in pairs.items():
            twin[key] = part
    elif isinstance(value, (list, UserList)):
        twin[:] = parts
    elif isinstance(value, deque):
        twin.clear()
        twin.extend(parts)
    else:
        for name, part in pairs.items():
            object.__setattr__(twin, name, part)  # which a frozen dataclass has, too
    return twin


UNORDERED = (set, frozenset)
_EMPTY: tuple[Iterable[Any], ...] = ([], (), {}, {}.values(), {}.items(), set(), reversed([]))
READ_ONCE: tuple[type, ...] = (
    *(type(iter(x)) for x in _EMPTY),
    *(GeneratorType, map, filter, zip, enumerate, reversed, chain),
)


def refused(where: str, given: Any, counts: tuple[type, ...]) -> Any:
    """A set or an iterator as it may be kept: TypeError if it holds what would count elsewhere.

    Of an iterator the first thing is looked at, and put back.
    """
    value: Iterable[Any] = given
    if isinstance(given, UNORDERED):
        if any(_holds(part, counts) for part in value):
            raise TypeError(
                f"{where}: a {type(value).__name__} of parameters or modules has no order, by "
                "which they are saved and trained; make it a list"
            )
        return value
    if isinstance(value, GeneratorType) and getgeneratorstate(value) != GEN_CREATED:
        return value  # it may be waiting to be sent something
    first = list(zip((None,), value, strict=False))  # what comes first, if there is anything
    if first and _holds(first[0][1], counts):
        raise TypeError(
            f"{where}: a {type(value).__name__} of parameters or modules can be read only once, so "
            "they would not be trained; make it a list"
        )
    return chain([first[0][1]], value) if first else value


def _holds(value: Any, counts: tuple[type, ...]) -> bool:
    pending: list[Any] = [value]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if isinstance(value, counts):
            return True
        if id(value) not in seen:
            seen.add(id(value))
            unordered = value if isinstance(value, (set, frozenset)) else ()
            pending += [*unordered, *(part for _, part in parts_of(value))]
    return False
