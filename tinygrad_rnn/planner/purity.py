"""What a cell could change while it is traced: its attributes, what it closes over, its globals.

A planned cell does the same at every step. Two traces alike show it for two steps; a counter that
acts on every fourth is not seen in them. But it is seen here: what a trace rebound is found, and
put back, so that the loop which then runs literally finds the cell as it was.

The subtle point is what does not matter. A cell that counts its calls and never looks at the count
is pure enough. So a name that was rebound counts only if the cell's code reads it more often than
it writes it: ``self.t += 1`` is one of each. And where to stop: at attributes of the cell and of
what it holds, at what functions close over, at globals that are numbers, at captured Tensors.
"""

from __future__ import annotations

import dis
import functools
import operator
from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from ..tensor import Tensor
from .trace import TracedArray

_PLAIN = (bool, int, float, str, bytes, complex, type(None))
_MOST = 2000  # things to look at: a cell that holds more is not looked at to the end


def codes(cell: Any) -> frozenset[Any]:
    """What a cell is known by: the code of its functions and the classes of its parts.

    A cell may be made anew for each call. Wrappers, partials and closures are looked through.
    """
    found: set[Any] = set()
    seen: set[int] = set()
    pending = [cell]
    while pending and len(seen) < _MOST:
        part = pending.pop()
        if (not callable(part) and type(part) not in (list, tuple)) or id(part) in seen:
            continue
        seen.add(id(part))
        if type(part) is FunctionType:
            found.add(part.__code__)
            pending += [x for _, x in _closure(part)] if part.__closure__ else []
        elif type(part) is MethodType:
            pending += [part.__func__, part.__self__]
        elif isinstance(part, functools.partial):
            pending += [part.func, *part.args, *part.keywords.values()]
        elif type(part) in (list, tuple):
            pending += part
        elif not isinstance(part, (type, BuiltinFunctionType)):
            found.add(type(part))
            pending += getattr(part, "__dict__", {}).values()
    return frozenset(found)


def _closure(function: FunctionType) -> Iterator[tuple[CellType, Any]]:
    for cell in function.__closure__ or ():
        try:
            yield cell, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _parts(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tensor) and type(x._array) is TracedArray


class Snapshot:
    """What a cell holds, as it was."""

    def __init__(self, cell: Any) -> None:
        self._bindings: list[tuple[str, Callable[[], Any], Callable[[Any], None], Any]] = []
        self._contents: list[tuple[str, Any, list[Any]]] = []
        self._arrays: list[tuple[str, Tensor, Any]] = []
        self._seen: set[int] = set()
        self._codes: set[CodeType] = set()
        self._look("the cell", cell)

    def _look(self, name: str, start: Any) -> None:
        pending = [(name, start)]
        while pending and len(self._seen) < _MOST:
            name, x = pending.pop()
            if (
                isinstance(x, (*_PLAIN, type, ModuleType, BuiltinFunctionType))
                or id(x) in self._seen
            ):
                continue
            self._seen.add(id(x))
            if isinstance(x, Tensor):
                self._arrays.append((name, x, x._array))
            elif isinstance(x, MethodType):
                pending += [(name, x.__func__), (name, x.__self__)]
            elif isinstance(x, FunctionType):
                pending += self._of_function(x)
            elif isinstance(x, functools.partial):
                pending += [(name, part) for part in (x.func, *x.args, *x.keywords.values())]
            elif isinstance(x, (list, dict, deque)):
                self._contents.append((name, x, _parts(x)))
                pending += [(name, part) for part in _parts(x)]
            elif isinstance(x, tuple):
                pending += [(name, part) for part in x]
            else:
                pending += self._of_object(x)

    def _of_function(self, function: FunctionType) -> list[tuple[str, Any]]:
        self._codes.add(function.__code__)
        names = function.__code__.co_freevars
        found = []
        for name, (cell, content) in zip(names, _closure(function), strict=False):
            rebind = functools.partial(setattr, cell, "cell_contents")
            now = functools.partial(getattr, cell, "cell_contents")
            self._bindings.append((name, now, rebind, content))
            found.append((name, content))
        known = function.__globals__
        for name in function.__code__.co_names:
            value = known.get(name)
            if name in known and isinstance(value, (*_PLAIN, Tensor, list, dict)):
                rebind = functools.partial(known.__setitem__, name)
                self._bindings.append((name, functools.partial(known.get, name), rebind, value))
                found.append((name, value))
        return found

    def _of_object(self, x: Any) -> list[tuple[str, Any]]:
        attributes = getattr(x, "__dict__", None)
        if not isinstance(attributes, dict):
            return []
        found: list[tuple[str, Any]] = []
        for name in ("__call__", "forward"):
            method = getattr(type(x), name, None)
            if isinstance(method, FunctionType):
                self._codes.add(method.__code__)
        for name, value in attributes.items():
            rebind = functools.partial(attributes.__setitem__, name)
            self._bindings.append((name, functools.partial(attributes.get, name), rebind, value))
            found.append((name, value))
        return found

    def changed(self) -> str | None:
        """The name of something that is another now, if it is read or keeps a traced tensor."""
        for name, now, _, before in self._bindings:
            if now() is not before and (_is_traced(now()) or self._read(name, 0)):
                return name
        for name, container, parts in self._contents:
            now_there = _parts(container)
            same = len(now_there) == len(parts) and all(map(operator.is_, now_there, parts))
            # calls.append(1) reads the name once, and what it has put there not at all.
            if not same and (any(map(_is_traced, now_there)) or self._read(name, 1)):
                return name
        return next((name for name, x, array in self._arrays if x._array is not array), None)

    def _read(self, name: str, once: int) -> bool:
        """Whether code of the cell reads a name more often than it writes it, and than ``once``."""
        loads = stores = 0
        pending = list(self._codes)
        while pending:
            code = pending.pop()
            pending += [c for c in code.co_consts if isinstance(c, CodeType)]
            for instruction in dis.get_instructions(code):
                if instruction.argval == name:
                    loads += instruction.opname.startswith("LOAD")
                    stores += instruction.opname.startswith("STORE")
        return loads > stores + once

    def restore(self) -> None:
        """Bind again what was bound, and fill lists as they were filled."""
        for _, now, rebind, before in self._bindings:
            if now() is not before:
                rebind(before)
        for _, container, parts in self._contents:
            if isinstance(container, dict):
                for key in list(container)[len(parts) :]:
                    del container[key]
                container.update(zip(container, parts, strict=False))
            else:
                container.clear()
                container.extend(parts)
        for _, x, array in self._arrays:
            x._array = array
