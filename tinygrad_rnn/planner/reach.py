"""What can be reached from a cell: what it is known by, and whether it has changed.

From attributes, closures, defaults, containers and the globals that functions name, one walk makes
a list of atoms. There are two kinds of it. By the first a cell is known, from call to call: codes
and classes, integers and strings by value, floats by whether they are 0, Tensors by kind, anything
opaque by a weak reference. A lambda made anew is the same cell; one with another setting is not.
The second is exact, and two of them tell whether anything changed in between, and what.

Some things cannot be seen: how far an iterator has come, what a file says next, what time it is. A
cell that reaches such a thing is refused, with its name.
"""

from __future__ import annotations

import builtins
import contextlib
import datetime
import enum
import functools
import logging
import operator
import os
import pathlib
import random as python_random
import sys
import time
import types
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..tensor import Tensor
from .bindings import Binding, Contents, Slot
from .definitions import (
    INSTALLED_ROOTS,
    OUR_ROOTS,
    VALUES,
    Class,
    Sort,
    class_of,
    code_of,
    token_of,
)
from .trust import has_forward_of_ours, is_marked

_MOST = 2000
_MOST_THROUGH = 50_000  # where nothing is watched, and what there is only compared
"""Things to look at: a cell that reaches more is refused, since looking would take too long."""

_COPIED = 1 << 16  # bytes of an array that is compared as a whole
_KEPT = 1 << 24  # bytes of all arrays that are copied to be put back

_HIDING = frozenset(
    (os.stat.__module__, "_decimal", "_signal", "_thread", "decimal", "gc", "sys", "time")
)
"""Modules of C whose functions look at what is nowhere to be reached: a clock, files, settings."""

_HARMLESS = frozenset((time.sleep, sys.intern, sys.getsizeof, sys.exc_info, os.fspath, os.getpid))
_BUILTINS = dict(vars(builtins))
_UNSEEN = frozenset(
    ["globals", "eval", "exec", "open", "input", "id", "hash", "__import__", "__builtins__"]
)
"""Builtins whose results are nowhere to be reached."""

_GLOBAL = (np.random.mtrand._rand, python_random._inst)  # generators that modules draw from
_NOW = frozenset(("now", "today", "utcnow"))
_COUNTING = frozenset(("cache_info", "__subclasses__"))
_READING = frozenset(("read_text", "read_bytes", "open", "exists", "stat", "iterdir", "glob"))

_CALLED = ("forward", "initial_state")
_WRITTEN = (types.FunctionType, types.BuiltinFunctionType)
_MAKING = ("__init__", "__new__", "__post_init__")
_NOISE = frozenset(
    [
        *(*_MAKING, "__repr__", "__str__", "__del__", "__reduce__", "__getstate__", "__setstate__"),
        *("__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__"),
        *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__parameters__"),
        *("__abstractmethods__", "_abc_impl", "__orig_bases__", "__firstlineno__", "__slots__"),
        *("__static_attributes__", "__classdictcell__"),
    ]
)
"""Attributes of classes that no step calls or reads."""


def digest(array: np.ndarray[Any, Any]) -> Any:
    """A checksum of an array."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _is_code(x: Any) -> bool:
    return isinstance(x, (type, types.ModuleType, *_WRITTEN))


class Reach:
    """What can be reached from a cell, as it is now.

    ``key`` is the list of atoms, ``refused`` is what there is that cannot be seen, ``generators``
    are those of random numbers. ``tensors`` are the ids of those that there are.

    Args:
        cell: the cell, or the function.
        exactly: whether the atoms are to tell any change.
        fully: whether ``restore`` is to put arrays and generators back, too. What reaches more than
            can be copied is refused.
    """

    refused: str | None = None
    partial: str | None = None  # why a comparison by ``bindings`` would not tell of all
    generators: tuple[Any, ...] = ()
    _dates = _files = _by_name = False

    def __init__(
        self, cell: Any, exactly: bool = False, fully: bool = False, through: bool = False
    ) -> None:
        self.exactly = exactly
        self._through = through  # also what is marked as pure
        self.tensors: set[int] = set()
        self._fully = fully
        self._contents = [Contents.of(x) for x in (*_GLOBAL, random.host_generator()) if fully]
        self._states: set[int] = set()  # arrays of optimisers, which nobody writes to
        self._copied = 0  # bytes
        self._atoms: list[Any] = []
        self._pending: list[tuple[Any, Any]] = [("the cell", cell)]
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that an id is nobody else's
        self._bindings: list[Binding] = []
        self._attributes: dict[str, None] = {}  # that any function names
        self._spaces: list[tuple[Any, str]] = []  # modules and classes, which are read by name
        self._read: set[tuple[int, str]] = set()  # what was
        try:
            self._all()
        except Exception as error:  # of whatever kind: it comes from a class of the user's
            self.refuse(f"something that cannot be looked at: {type(error).__name__}: {error}")
        self.key = tuple(self._atoms)

    def _all(self) -> None:
        self._walk()
        looked: Any = None
        while (now := (len(self._spaces), len(self._attributes), self._by_name)) != looked:
            looked = now
            for space, how in self._spaces:
                self._read_by_name(space, how, self._attributes)
            self._walk()
        names = self._attributes.keys()
        if (self._dates or "datetime64" in names) and not names.isdisjoint(_NOW):
            self.refuse("a clock")
        if self._files and not names.isdisjoint(_READING):
            self.refuse("a file")
        if counting := _COUNTING & names:
            self.refuse(f"{min(counting)}()")

    def _read_by_name(self, space: Any, how: str, asked: Iterable[str]) -> None:
        """Go on with what functions name of a module or class, or what is called without."""
        held, pending = vars(space), self._pending
        whole = how == "whole" or self._by_name
        if how in ("made", "used", "whole"):  # a class of the user's
            asked = [
                name
                for name in held
                if (name not in _NOISE or (how == "made" and name in _MAKING))
                and (whole or name in asked or name in _CALLED or name[:2] == "__")
            ]
        elif how == "module" and self._by_name:
            asked = [name for name, x in held.items() if name in asked or not _is_code(x)]
        for name in asked:
            value = held.get(name, asked)
            if value is asked or (how == "ours" and type(value) in _WRITTEN):
                continue
            if (id(space), name) not in self._read:
                self._read.add((id(space), name))
                self._bindings.append(Binding(name, space, name, value))
                pending.append((name, value))

    def refuse(self, what: str) -> None:
        """Note something that cannot be seen."""
        if self.refused is None:
            self.refused = what

    def _are_too_many(self, things: int) -> bool:
        """Whether no more are looked at, which is noted."""
        most = _MOST_THROUGH if self._through else _MOST
        if things > most:
            self.partial = f"more than {most} things"
            self.refuse(self.partial)
        return things > most

    def _walk(self) -> None:
        pending, seen = self._pending, self._seen
        while pending:
            name, x = pending.pop()
            kind = type(x)
            if kind in VALUES or kind is float or isinstance(x, Tensor):
                self._items({name: x})
                continue
            place = seen.get(id(x))
            if place is not None:
                self._atoms += (name, "again", place)
                continue
            seen[id(x)] = len(seen)
            if self._are_too_many(len(seen)):
                pending.clear()
                return
            look = _BY_CLASS.get(kind) or _BY_SORT[class_of(kind).sort]
            look(self, name, x)

    def _items(self, held: dict[Any, Any]) -> None:
        """Values and Tensors by name; whatever else is there is pending."""
        atoms, exactly = self._atoms, self.exactly
        for name, x in held.items():
            kind = type(x)
            if kind in VALUES:
                atoms += (name, kind, x)
            elif kind is float:
                atoms += (name, float, repr(x) if exactly else x == 0)
            elif not isinstance(x, Tensor):
                self._pending.append((name, x))
            else:
                self.tensors.add(id(x))
                if exactly:
                    self._alive += (x, x._array)
                    atoms += (name, id(x), (id(x._array), x._node is None))
                else:
                    atoms += (name, Tensor, None)
                if kind.__dictoffset__:  # of a Tensor of a class of the user's
                    self._pending.append((name, x.__dict__))

    # Kinds of things.

    def _function(self, name: str, f: types.FunctionType) -> None:
        code = code_of(f.__code__)
        self._atoms += (name, "function", code.token)
        if is_marked(f) and not self._through:
            return
        if f.__closure__:
            for variable, cell in zip(f.__code__.co_freevars, f.__closure__, strict=True):
                try:
                    content = cell.cell_contents
                except ValueError:  # not assigned yet
                    continue
                if variable == "__class__":  # for super(), which makes none
                    self._spaces.append((content, "used"))
                    continue
                self._bindings.append(Binding(variable, cell, None, content))
                self._pending.append((variable, content))
        for given in (f.__defaults__, f.__kwdefaults__, f.__dict__):
            if given:
                self._pending.append((name, given))
        if code.origin != "theirs":
            if code.refused:
                self.refuse(code.refused)
            return
        known = f.__globals__
        for variable in code.names:
            if variable in known:
                value = known[variable]
                self._bindings.append(Binding(variable, known, variable, value))
                self._pending.append((variable, value))
            elif variable in _UNSEEN:
                self.refuse(f"{variable}()")
            elif (value := vars(builtins).get(variable)) is not _BUILTINS.get(variable):
                self._pending.append((variable, value))
        self._attributes.update(code.attributes)
        self._by_name |= code.by_name
        for module in code.imports:
            if module in sys.modules:
                self._pending.append((module, sys.modules[module]))

    def _method(self, name: str, method: types.MethodType) -> None:
        self._atoms += (name, "method", None)
        if self._through or not is_marked(method):
            self._pending += [(name, method.__func__), (name, method.__self__)]

    def _builtin(self, name: str, f: Any) -> None:
        owner = getattr(f, "__self__", None)
        self._atoms += (name, "builtin", f.__name__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self._pending.append((name, owner))
        elif f.__module__ in _HIDING and f not in _HARMLESS:
            self.refuse(f"{f.__module__}.{f.__name__}()")

    def _partial(self, name: str, f: functools.partial[Any]) -> None:
        self._atoms += (name, "partial", len(f.args))
        if self._through or not is_marked(f):
            self._pending += [(name, f.func), (name, f.args), (name, f.keywords)]
            if f.__dict__:
                self._pending.append((name, f.__dict__))

    def _sequence(self, name: str, parts: Any) -> None:
        self._atoms += (name, type(parts).__name__, len(parts))
        if self._are_too_many(len(parts)):
            return
        if type(parts) is not tuple:
            before = [*parts] if isinstance(parts, (list, deque, set)) else None
            self._bindings.append(Binding(name, parts, None, before))
        self._pending += [(name, part) for part in parts]

    def _dict(self, name: str, parts: dict[Any, Any]) -> None:
        self._atoms += (name, dict, len(parts))
        if self._are_too_many(len(parts)):
            return
        self._bindings.append(Binding(name, parts, None, dict(parts)))
        if all(type(key) is str for key in parts):
            self._pending += parts.items()
        else:
            for key, value in parts.items():
                self._pending += [(name, key), (name, value)]

    def _class(self, name: str, kind: type) -> None:
        about = class_of(kind)
        self._atoms += (name, type, about.token)
        if about.origin != "theirs":
            self._dates |= issubclass(kind, datetime.date)
            self._spaces.append((kind, "ours"))
            return
        self._spaces += [(base(), "whole" if about.whole else "made") for base in about.bases]
        if type(kind) is not type:
            self._pending.append((name, type(kind)))

    def _module(self, name: str, module: types.ModuleType) -> None:
        self._atoms += (name, "module", module.__name__)
        root = module.__name__.partition(".")[0]
        installed = "installed" if root in INSTALLED_ROOTS else "module"
        self._spaces.append((module, "ours" if root in OUR_ROOTS else installed))

    def _parts(self, name: str, x: Any) -> None:
        """Something made of others: the atoms are its own."""
        kind = type(x)
        self._atoms += (name, "parts", kind.__name__)
        if kind is property:
            self._pending += [(name, f) for f in (x.fget, x.fset, x.fdel) if f is not None]
        elif isinstance(x, (staticmethod, classmethod)):
            self._pending.append((name, x.__func__))
        elif kind is types.CellType:
            self._pending.append((name, x.cell_contents))
        elif isinstance(x, weakref.ref):
            self._pending.append((name, x()))
        elif kind is types.MappingProxyType:
            self._pending.append((name, dict(x)))
        elif kind is ContextVar:
            self._pending.append((name, x.get(None)))
        else:
            self._pending.append((name, x.__self__))

    def _plain(self, name: str, x: Any) -> None:
        """What is known by its kind alone, or what has no state."""
        self._atoms += (name, type(x).__name__, getattr(x, "__name__", None))

    def _logger(self, name: str, x: logging.Logger) -> None:
        self._atoms += (name, "logger", x.name)
        self._spaces.append((x, "installed"))  # not all that it leads to, such as files

    def _immutable(self, name: str, x: Any) -> None:
        self._atoms += (name, type(x).__name__, str(x))
        self._files |= isinstance(x, pathlib.Path)

    def _number(self, name: str, x: Any) -> None:
        inexact = not self.exactly and isinstance(x, (float, np.inexact))
        about = class_of(type(x))
        self._atoms += (name, about.token, x == 0 if inexact else repr(x))
        if type(x) not in VALUES and hasattr(x, "__dict__"):
            self._attributes_of(name, x, about)

    def _member(self, name: str, x: enum.Enum) -> None:
        self._atoms += (name, class_of(type(x)).token, x.name)
        held = vars(x)
        self._bindings.append(Binding(name, held, None, held.copy()))
        self._pending += [(key, part) for key, part in held.items() if key != "_sort_order_"]

    def _generator(self, name: str, x: Any) -> None:
        self._atoms += (name, "generator", type(x).__name__)
        if isinstance(x, python_random.SystemRandom):
            self.refuse("a generator of the system's")
        elif self._fully:
            self._contents.append(Contents.of(x))
        self.generators += (x,)

    def _array(self, name: str, x: Any) -> None:
        if self._fully and getattr(x.flags, "writeable", True) and id(x) not in self._states:
            self._copied += x.nbytes
            if self._copied <= _KEPT:
                self._contents.append(Contents.of(x))
            else:
                self.refuse(
                    f"{name}, too large to copy in case it is written to; make it read-only"
                )
        small = isinstance(x, np.ndarray) and x.dtype.kind in "iub" and x.size <= 16
        if self._through and isinstance(x, np.ndarray) and x.flags.writeable and not small:
            if x.nbytes > _COPIED:
                self.partial = f"{name}, an array of {x.nbytes:,} bytes, which may be written to"
            else:
                self._bindings.append(Binding(name, x, None, x.copy()))
        if isinstance(x, np.ndarray) and x.dtype.hasobject:
            self._atoms += (name, "objects", x.shape)
            self._pending.append((name, x.ravel().tolist()))
        elif self.exactly or small:
            if not self.exactly and x.flags.writeable:
                self._bindings.append(Binding(name, x, None, x.copy()))
            host = x if isinstance(x, np.ndarray) else backends.of(x).to_host(x)  # type: ignore[union-attr]
            self._atoms += (name, (x.shape, str(x.dtype)), digest(host))
        else:
            self._atoms += (name, type(x).__name__, str(x.dtype))

    def _object(self, name: str, x: Any) -> None:
        kind = type(x)
        about = class_of(kind)
        self._atoms += (name, "object", about.token)
        if is_marked(x) and not self._through:
            return
        if about.origin == "theirs":
            if id(kind) not in self._seen:
                self._seen[id(kind)] = len(self._seen)
                if type(kind) is not type:
                    self._pending.append((name, type(kind)))
                for base in about.bases:
                    entry = base(), "whole" if about.whole else "used"
                    self._spaces.append(entry)
                    self._read_by_name(*entry, ())  # at once: what it names is then known
        elif about.origin == "ours" and not has_forward_of_ours(kind):
            self._pending.append((name, kind.forward))
        if kind in (operator.attrgetter, operator.methodcaller):
            asked = [name for name in x.__reduce__()[1] if isinstance(name, str)]
            self._attributes.update(dict.fromkeys(".".join(asked).split(".")))
        if about.taking:
            self.refuse(f"{name}, a {kind.__name__}, which may give something else each time")
        elif not self._attributes_of(name, x, about):
            self._opaque(name, x)
        if self.exactly:
            with contextlib.suppress(TypeError, ValueError, BufferError):
                self._atoms += (name, "bytes", zlib.crc32(memoryview(x)))

    def _attributes_of(self, name: str, x: Any, about: Class) -> bool:
        """Look at attributes and parts, if there are any to be seen."""
        held = getattr(x, "__dict__", None)
        visible = bool(about.slots)
        if type(held) is dict:
            visible = True
            self._bindings.append(Binding(name, held, None, held.copy()))
            self._items(held)
            if self._fully and (about.origin == "ours" or about.whole):
                state = held.get("state")
                for parts in state.values() if type(state) is dict else ():
                    self._states |= {*map(id, parts.values())} if type(parts) is dict else set()
        for slot in about.slots:
            try:
                value = getattr(x, slot)
            except AttributeError:
                continue
            if about.origin != "installed":  # those of C are not to be written
                self._bindings.append(Binding(slot, x, Slot(slot), value))
            self._pending.append((slot, value))
        if isinstance(x, dict):
            self._dict("", x)
        elif isinstance(x, (list, tuple, deque, set, frozenset)):
            self._sequence("", x)
        else:
            return visible
        return True

    def _opaque(self, name: str, x: Any) -> None:
        if type(x) is object:
            return
        try:
            self._atoms += (name, "opaque", token_of(x))
        except TypeError:
            self.refuse(f"{name}, a {type(x).__name__}, which cannot be looked into")
            return
        with contextlib.suppress(TypeError, ValueError, BufferError):
            if self._fully and not memoryview(x).readonly:
                self.refuse(f"{name}, a {type(x).__name__}, which may be written to")

    @property
    def attributes(self) -> Iterable[str]:
        """The names of attributes that functions of the user's ask for."""
        return self._attributes

    @property
    def bindings(self) -> Iterable[Binding]:
        """What names and containers hold."""
        return self._bindings

    # What became of it.

    def changed(self, now: Reach) -> str | None:
        """The name of something that is not as it was, by a later look."""
        a, b = self._atoms, now._atoms
        if a == b:
            return None
        for i in range(0, min(len(a), len(b)), 3):
            if a[i : i + 3] != b[i : i + 3]:
                return str(a[i])
        return str((a if len(a) > len(b) else b)[min(len(a), len(b))])

    def gained(self, wanted: Callable[[Any], bool]) -> str | None:
        """The name of something that is there now, was not, and is of a kind."""
        return next((str(x.name) for x in self._bindings if x.has_gained(wanted)), None)

    def moved(self) -> bool:
        """Whether anything is bound or held otherwise now; less than ``changed``, and quicker."""
        return any(binding.has_moved() for binding in self._bindings)

    def restore(self) -> None:
        """Bind again what was bound, and fill containers as they were filled."""
        for binding in reversed(self._bindings):
            binding.restore()
        for contents in self._contents:
            contents.restore()


Look: TypeAlias = Callable[[Reach, str, Any], None]

_BY_CLASS: dict[type, Look] = {
    types.FunctionType: Reach._function,
    types.MethodType: Reach._method,
    types.BuiltinFunctionType: Reach._builtin,
    functools.partial: Reach._partial,
    **dict.fromkeys([list, tuple, deque, set, frozenset], Reach._sequence),
    dict: Reach._dict,
    type: Reach._class,
    types.ModuleType: Reach._module,
    **dict.fromkeys(
        [
            *(property, staticmethod, classmethod, types.CellType, weakref.ref),
            *(types.MappingProxyType, ContextVar, types.MethodWrapperType),
        ],
        Reach._parts,
    ),
    **dict.fromkeys(
        [
            *(types.WrapperDescriptorType, types.MethodDescriptorType, types.GetSetDescriptorType),
            *(types.MemberDescriptorType, types.ClassMethodDescriptorType),
        ],
        Reach._plain,
    ),
    slice: Reach._immutable,
    type(Binding.name): Reach._plain,  # a field of a named tuple
    np.ndarray: Reach._array,
}
_BY_SORT: dict[Sort, Look] = {
    "member": Reach._member,
    "generator": Reach._generator,
    "immutable": Reach._immutable,
    "number": Reach._number,
    "class": Reach._class,
    "module": Reach._module,
    "array": Reach._array,
    "parts": Reach._parts,
    "logger": Reach._logger,
    "object": Reach._object,
}
"""How to look at something: by its class, or by the sort of things that its class makes."""
