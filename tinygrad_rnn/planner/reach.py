"""What can be reached from a cell: what it is known by, and whether it has changed.

From attributes, closures, defaults, containers and the globals that functions name, one walk makes
a list of atoms. There are two kinds of it. By the first a cell is known, from call to call: codes
and classes, integers and strings by value, floats by whether they are 0, Tensors by kind, anything
opaque by a weak reference. A lambda made anew is the same cell; one with another setting is not.
The second is exact, and two of them tell whether anything changed in between, and what.

The subtle point is what cannot be seen: how far an iterator has come, what a file says next, what
time it is. A cell that reaches such a thing is refused, with its name.
"""

from __future__ import annotations

import builtins
import contextlib
import datetime
import decimal
import dis
import enum
import fractions
import functools
import gc
import itertools
import logging
import operator
import os
import pathlib
import random as python_random
import re
import sys
import sysconfig
import time
import types
import uuid
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly
from ..tensor import Tensor

_MOST = 2000
"""Things to look at: a cell that reaches more is refused, since looking would take too long."""

_SMALL = 1 << 20  # bytes of an array of which every one is read

_VALUES = frozenset([int, bool, str, bytes, complex, type(None), type(...), range])
_IMMUTABLE = (
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal),
    *(fractions.Fraction, uuid.UUID, re.Pattern, pathlib.PurePath, np.dtype, np.ufunc),
)
_GENERATORS = (
    *(np.random.Generator, np.random.BitGenerator, np.random.RandomState, python_random.Random),
)
_TAKING = (
    *("recv", "get_nowait", "read", "fetchone", "update", "write", "compress", "spawn", "feed"),
    *("execute", "seek", "advance", "dump", "decode"),
)
"""Methods by which C code changes what cannot be seen: sockets, queues, files, digests, cursors."""

_CLOCKS = frozenset(
    [
        f
        for module in (time, gc)
        for f in vars(module).values()
        if isinstance(f, types.BuiltinFunctionType)
    ]
    + [os.urandom, os.times, os.stat, os.listdir, os.scandir, os.read, os.open]
    + [sys._getframe, sys.getrefcount, sys.getallocatedblocks]
)
_CLOCK_FILES = frozenset(
    ("secrets.py", "uuid.py", "tempfile.py", "glob.py", "genericpath.py", "inspect.py")
)
_BUILTINS = dict(vars(builtins))
_UNSEEN = frozenset(
    ["globals", "eval", "exec", "open", "input", "id", "hash", "__import__", "__builtins__"]
)
"""Builtins whose results are nowhere to be reached."""

_NOW = frozenset(("now", "today", "utcnow"))
_READING = frozenset(("read_text", "read_bytes", "open", "exists", "stat", "iterdir", "glob"))

_OURS, _INSTALLED, _THEIRS = "ours", "installed", "theirs"

_STANDARD = sysconfig.get_path("stdlib") + os.sep, "<frozen "
_PACKAGES = os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep
_NUMPY = os.path.dirname(np.__file__) + os.sep
_ROOTS = frozenset(["tinygrad_rnn", "tinygrad_rnn_backends"])
_KNOWN_ROOTS = sys.stdlib_module_names | {"numpy", "cupy", "builtins"}
_CALLED = ("forward", "initial_state")
_WRITTEN = (types.FunctionType, types.BuiltinFunctionType)
_MAKING = ("__init__", "__new__", "__post_init__")
_NOISE = frozenset(
    [
        *_MAKING,
        "__repr__",
        "__str__",
        "__del__",
        "__reduce__",
        "__getstate__",
        "__setstate__",
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__qualname__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__match_args__",
        "__parameters__",
        "__abstractmethods__",
        "_abc_impl",
        "__orig_bases__",
        "__firstlineno__",
        "__static_attributes__",
        "__classdictcell__",
        "__slots__",
    ]
)


class _Slot(str):
    """The name of an attribute that is in no ``__dict__``."""

    __slots__ = ()


class Code(NamedTuple):
    """What the code of a function names, that of functions within it included."""

    token: int
    origin: str
    names: tuple[str, ...]  # globals
    attributes: dict[str, None]
    imports: tuple[str, ...]
    refused: str | None


class Class(NamedTuple):
    """What is known of a class."""

    token: int
    origin: str
    bases: tuple[weakref.ref[type], ...]  # those of the user, itself included
    whole: bool  # whether methods are called by those of a class of the library
    slots: tuple[str, ...]
    taking: bool
    handler: Callable[..., None]


_tokens: dict[int, tuple[weakref.ref[Any], int, Any]] = {}
_numbers = itertools.count()
_ENOUGH_TOKENS = 20_000


def _about(x: Any, describe: Callable[[Any, int], Any] | None = None) -> tuple[int, Any]:
    """A number for an object as long as it lives, and what was found out about it once.

    Raises TypeError for what has no weak references.
    """
    entry = _tokens.get(id(x))
    if entry is not None and entry[0]() is x:
        return entry[1], entry[2]
    if len(_tokens) > _ENOUGH_TOKENS:
        for key, (ref, *_) in list(_tokens.items()):
            if ref() is None:
                _tokens.pop(key, None)
    number = next(_numbers)
    found = None if describe is None else describe(x, number)
    _tokens[id(x)] = weakref.ref(x), number, found
    return number, found


def _code(code: types.CodeType, token: int) -> Code:
    names, attributes, imports = set(), set(), set()
    pending = [code]
    while pending:
        part = pending.pop()
        pending += [c for c in part.co_consts if isinstance(c, types.CodeType)]
        attributes |= {c for c in part.co_consts if isinstance(c, str) and c.isidentifier()}
        for step in dis.get_instructions(part):
            if step.opname == "IMPORT_NAME":
                imports.add(step.argval)
            elif step.opname.endswith(("_GLOBAL", "_NAME")):
                names.add(step.argval)
            elif "ATTR" in step.opname or step.opname in ("LOAD_METHOD", "IMPORT_FROM"):
                attributes.add(step.argval)
    file, origin = code.co_filename, _THEIRS
    if anomaly.is_library(file):
        origin = _OURS
    elif file.startswith(_NUMPY) or (
        file.startswith(_STANDARD) and not any(folder in file for folder in _PACKAGES)
    ):
        origin = _INSTALLED
    refused = None
    if origin is _INSTALLED and os.path.basename(file) in _CLOCK_FILES:
        refused = f"{os.path.basename(file)}, which may give something else each time"
    listed = tuple(sorted(names)), dict.fromkeys(sorted(attributes)), tuple(sorted(imports))
    return Code(token, origin, *listed, refused)


def _class(kind: type, token: int) -> Class:
    bases = tuple(weakref.ref(base) for base in kind.__mro__ if _origin(base) is _THEIRS)
    slots = tuple(
        name
        for base in kind.__mro__
        if base.__module__ != "builtins"
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    )
    origin = _origin(kind)
    written = any(
        type(x) is types.FunctionType for base in kind.__mro__ for x in vars(base).values()
    )
    taking = hasattr(kind, "__next__") or (
        origin is _INSTALLED  # and in C: what is written in Python can be looked into
        and not (written or issubclass(kind, (dict, list, tuple, set, frozenset, deque)))
        and any(hasattr(kind, method) for method in _TAKING)
    )
    whole = any(_origin(base) is _OURS and base.__name__ != "Module" for base in kind.__mro__)
    return Class(token, origin, bases, whole, slots, taking, _handler(kind))


def _origin(kind: type) -> str:
    root = str(kind.__module__).partition(".")[0]
    if root in _ROOTS:
        return _OURS
    return _INSTALLED if root in _KNOWN_ROOTS and root != "__main__" else _THEIRS


_marked: dict[int, weakref.ref[Any]] = {}


def mark(x: Any) -> None:
    """Take a function, class or instance to be pure; a bound method, of its object.

    Raises TypeError for what has no weak references.
    """
    place = id(x)
    if isinstance(x, types.MethodType):
        owner, method = x.__self__, x.__func__.__name__
        _methods[id(owner), method] = weakref.ref(
            owner, lambda _: _methods.pop((place_of_owner, method), None) and None
        )
        place_of_owner = id(owner)
        return
    _marked[place] = weakref.ref(x, lambda _: _marked.pop(place, None) and None)


_methods: dict[tuple[int, str], weakref.ref[Any]] = {}


def is_marked(x: Any) -> bool:
    """Whether it is, or is an instance of a class that is: of that very class."""
    if not _marked and not _methods:
        return False
    if isinstance(x, types.MethodType):
        ref = _methods.get((id(x.__self__), x.__func__.__name__))
        if ref is not None and ref() is x.__self__:
            return True
        return is_marked(x.__func__) or is_marked(x.__self__)
    for part in (x, type(x)):
        ref = _marked.get(id(part))
        if ref is not None and ref() is part:
            return True
    return False


def is_ours(cell: Any) -> bool:
    """Whether a cell is one of the library's own classes, and all that it holds and calls is."""
    pending, seen = [cell], set()
    while pending:
        x = pending.pop()
        kind = type(x)
        if kind in _VALUES or kind is float or isinstance(x, Tensor) or id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, (list, tuple)) and (kind in (list, tuple) or _is_of_ours(kind)):
            pending += x
        elif kind is dict:
            pending += x.values()
        elif kind is functools.partial:
            pending += (x.func, x.args, x.keywords)
        elif kind is types.MethodType and not is_marked(x):
            pending += (x.__func__, x.__self__)
        elif kind is types.FunctionType:
            if _about(x.__code__, _code)[1].origin is not _OURS and not is_marked(x):
                return False
            pending += [cell.cell_contents for cell in x.__closure__ or ()]
        elif _is_of_ours(kind) and not is_marked(x):
            rule = kind.forward if hasattr(kind, "forward") else None
            if rule is not None and not anomaly.is_library(rule.__code__.co_filename):
                return False
            pending += getattr(x, "__dict__", {}).values()
        elif not isinstance(x, (np.ndarray, np.dtype)) and not is_marked(x):
            return False
    return True


def _is_of_ours(kind: type) -> bool:
    return _about(kind, _class)[1].origin is _OURS


def digest(array: np.ndarray[Any, Any]) -> Any:
    """A checksum of an array: of a large one, of its sums by rows and columns."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if flat.size <= _SMALL:
        return zlib.crc32(flat.data)
    words = flat[: flat.size // 8192 * 8192].view(np.uint64).reshape(-1, 1024)
    sums = words.sum(0), words.sum(1), flat[words.nbytes :]
    return tuple(zlib.crc32(np.ascontiguousarray(part).data) for part in sums)


class Reach:
    """What can be reached from a cell, as it is now.

    ``key`` is the list of atoms, ``refused`` is what there is that cannot be seen, ``generators``
    are those of random numbers.
    """

    refused: str | None = None
    generators: tuple[Any, ...] = ()
    _dates = _files = False

    def __init__(self, cell: Any, exactly: bool = False) -> None:
        self.exactly = exactly
        self._atoms: list[Any] = []
        self._pending: list[tuple[Any, Any]] = [("the cell", cell)]
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # so that an id is nobody else's
        self._saved: list[tuple[Any, Any, Any, Any]] = []  # name, container, key, content
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
        looked = 0, 0
        while (now := (len(self._spaces), len(self._attributes))) != looked:
            looked = now
            for space, how in self._spaces:
                self._read_by_name(space, how, self._attributes)
            self._walk()
        names = self._attributes.keys()
        if (self._dates or "datetime64" in names) and not names.isdisjoint(_NOW):
            self.refuse("a clock")
        if self._files and not names.isdisjoint(_READING):
            self.refuse("a file")

    def _read_by_name(self, space: Any, how: str, asked: Iterable[str]) -> None:
        """Go on with what functions name of a module or class, or what is called without."""
        held, pending = vars(space), self._pending
        if how in ("made", "used", "whole"):  # a class of the user's
            asked = [
                name
                for name in held
                if (name not in _NOISE or (how == "made" and name in _MAKING))
                and (how == "whole" or name in asked or name in _CALLED or name[:2] == "__")
            ]
        for name in asked:
            value = held.get(name, asked)
            if value is asked or (how == "ours" and type(value) in _WRITTEN):
                continue
            if (id(space), name) not in self._read:
                self._read.add((id(space), name))
                self._saved.append((name, space, name, value))
                pending.append((name, value))

    def refuse(self, what: str) -> None:
        """Note something that cannot be seen."""
        if self.refused is None:
            self.refused = what

    def _walk(self) -> None:
        pending, seen = self._pending, self._seen
        while pending:
            name, x = pending.pop()
            kind = type(x)
            if kind in _VALUES or kind is float or isinstance(x, Tensor):
                self._items({name: x})
                continue
            place = seen.get(id(x))
            if place is not None:
                self._atoms += (name, "again", place)
                continue
            seen[id(x)] = len(seen)
            if len(seen) > _MOST:
                self.refuse(f"more than {_MOST} things")
                pending.clear()
                return
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, name, x)
                continue
            about = _about(kind, _class)[1]
            if about.handler is Reach._object:
                self._object(name, x, about)
            else:
                about.handler(self, name, x)

    def _items(self, held: dict[Any, Any]) -> None:
        """Values and Tensors by name; whatever else is there is pending."""
        atoms, exactly = self._atoms, self.exactly
        for name, x in held.items():
            kind = type(x)
            if kind in _VALUES:
                atoms += (name, kind, x)
            elif kind is float:
                atoms += (name, float, repr(x) if exactly else x == 0)
            elif not isinstance(x, Tensor):
                self._pending.append((name, x))
            else:
                if exactly:
                    self._alive += (x, x._array)
                    atoms += (name, id(x), (id(x._array), x._node is None))
                else:
                    atoms += (name, Tensor, None)
                if kind.__dictoffset__:  # of a Tensor of a class of the user's
                    self._pending.append((name, x.__dict__))

    # Kinds of things.

    def _function(self, name: str, f: types.FunctionType) -> None:
        code: Code = _about(f.__code__, _code)[1]
        self._atoms += (name, "function", code.token)
        if is_marked(f):
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
                self._saved.append((variable, cell, None, content))
                self._pending.append((variable, content))
        for given in (f.__defaults__, f.__kwdefaults__, f.__dict__):
            if given:
                self._pending.append((name, given))
        if code.origin is not _THEIRS:
            if code.refused:
                self.refuse(code.refused)
            return
        known = f.__globals__
        for variable in code.names:
            if variable in known:
                value = known[variable]
                self._saved.append((variable, known, variable, value))
                self._pending.append((variable, value))
            elif variable in _UNSEEN:
                self.refuse(f"{variable}()")
            elif (value := vars(builtins).get(variable)) is not _BUILTINS.get(variable):
                self._pending.append((variable, value))
        self._attributes.update(code.attributes)
        for module in code.imports:
            if module in sys.modules:
                self._pending.append((module, sys.modules[module]))

    def _method(self, name: str, method: types.MethodType) -> None:
        self._atoms += (name, "method", None)
        if not is_marked(method):
            self._pending += [(name, method.__func__), (name, method.__self__)]

    def _builtin(self, name: str, f: Any) -> None:
        owner = getattr(f, "__self__", None)
        self._atoms += (name, "builtin", f.__name__)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self._pending.append((name, owner))
        elif f in _CLOCKS and f is not time.sleep:
            self.refuse(f"{f.__module__}.{f.__name__}()")

    def _partial(self, name: str, f: functools.partial[Any]) -> None:
        self._atoms += (name, "partial", len(f.args))
        if not is_marked(f):
            self._pending += [(name, f.func), (name, f.args), (name, f.keywords)]
            if f.__dict__:
                self._pending.append((name, f.__dict__))

    def _sequence(self, name: str, parts: Any) -> None:
        self._atoms += (name, type(parts).__name__, len(parts))
        if len(parts) > _MOST:
            self.refuse(f"more than {_MOST} things")
            return
        if type(parts) is not tuple:
            before = parts.copy() if isinstance(parts, (list, deque, set)) else None
            self._saved.append((name, parts, None, before))
        self._pending += [(name, part) for part in parts]

    def _dict(self, name: str, parts: dict[Any, Any]) -> None:
        self._atoms += (name, dict, len(parts))
        if len(parts) > _MOST:
            self.refuse(f"more than {_MOST} things")
            return
        self._saved.append((name, parts, None, parts.copy()))
        if all(type(key) is str for key in parts):
            self._pending += parts.items()
        else:
            for key, value in parts.items():
                self._pending += [(name, key), (name, value)]

    def _kind(self, name: str, kind: type) -> None:
        about: Class = _about(kind, _class)[1]
        self._atoms += (name, type, about.token)
        if about.origin is not _THEIRS:
            self._dates |= issubclass(kind, datetime.date)
            self._spaces.append((kind, "ours"))
            return
        self._spaces += [(base(), "whole" if about.whole else "made") for base in about.bases]
        if type(kind) is not type:
            self._pending.append((name, type(kind)))

    def _module(self, name: str, module: types.ModuleType) -> None:
        self._atoms += (name, "module", module.__name__)
        ours = module.__name__.partition(".")[0] in _ROOTS
        self._spaces.append((module, "ours" if ours else "module"))

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
        self._spaces.append((x, "module"))  # not all that it leads to, such as files

    def _immutable(self, name: str, x: Any) -> None:
        self._atoms += (name, type(x).__name__, str(x))
        self._files |= isinstance(x, pathlib.Path)

    def _number(self, name: str, x: Any) -> None:
        inexact = not self.exactly and isinstance(x, (float, np.inexact))
        token = _about(type(x), _class)[0]
        self._atoms += (name, token, x == 0 if inexact else repr(x))
        if type(x) not in _VALUES and hasattr(x, "__dict__"):
            self._attributes_of(name, x, _about(type(x), _class)[1])

    def _member(self, name: str, x: enum.Enum) -> None:
        self._atoms += (name, _about(type(x), _class)[0], x.name)
        self._pending.append((name, x.value))

    def _generator(self, name: str, x: Any) -> None:
        self._atoms += (name, "generator", type(x).__name__)
        if isinstance(x, (python_random.SystemRandom,)):
            self.refuse("a generator of the system's")
        self.generators += (x,)

    def _array(self, name: str, x: Any) -> None:
        small = isinstance(x, np.ndarray) and x.dtype.kind in "iub" and x.size <= 16
        if isinstance(x, np.ndarray) and x.dtype.hasobject:
            self._atoms += (name, "objects", x.shape)
            self._pending.append((name, x.ravel().tolist()))
        elif self.exactly or small:
            if not self.exactly and x.flags.writeable:
                self._saved.append((name, x, None, x.copy()))
            host = x if isinstance(x, np.ndarray) else backends.of(x).to_host(x)  # type: ignore[union-attr]
            self._atoms += (name, (x.shape, str(x.dtype)), digest(host))
        else:
            self._atoms += (name, type(x).__name__, str(x.dtype))

    def _object(self, name: str, x: Any, about: Class) -> None:
        kind = type(x)
        self._atoms += (name, "object", about.token)
        if is_marked(x):
            return
        if about.origin is _THEIRS:
            if id(kind) not in self._seen:
                self._seen[id(kind)] = len(self._seen)
                for base in about.bases:
                    entry = base(), "whole" if about.whole else "used"
                    self._spaces.append(entry)
                    self._read_by_name(*entry, ())  # at once: what it names is then known
        elif about.origin is _OURS:
            rule = getattr(kind, "forward", None)
            if rule is not None and not anomaly.is_library(rule.__code__.co_filename):
                self._pending.append((name, rule))
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
            self._saved.append((name, held, None, held.copy()))
            self._items(held)
        for slot in about.slots:
            try:
                value = getattr(x, slot)
            except AttributeError:
                continue
            self._saved.append((slot, x, _Slot(slot), value))
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
            self._atoms += (name, "opaque", _about(x)[0])
        except TypeError:
            self.refuse(f"{name}, a {type(x).__name__}, which cannot be looked into")
            return

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

    def kept(self, wanted: Callable[[Any], bool]) -> str | None:
        """The name of something that is there now, was not, and is of a kind."""
        for name, holder, key, before in self._saved:
            now = _content(holder, key)
            if now is before:
                continue
            old = {id(x) for x in _parts_of(before)}
            if any(id(x) not in old and wanted(x) for x in _parts_of(now)):
                return str(name)
        return None

    def moved(self) -> bool:
        """Whether anything is bound or held otherwise now; less than ``changed``, and quicker."""
        for _, holder, key, before in self._saved:
            if key is None and type(holder) is not types.CellType:
                if before is None:
                    continue
                if type(holder) is np.ndarray:
                    if not np.array_equal(holder, before):
                        return True
                elif len(holder) != len(before) or not _same_parts(holder, before):
                    return True
            elif _content(holder, key) is not before:
                return True
        return False

    def restore(self) -> None:
        """Bind again what was bound, and fill containers as they were filled."""
        for _, holder, key, before in reversed(self._saved):
            now = _content(holder, key)
            if now is before or (before is None and key is None):
                continue
            if isinstance(holder, types.CellType):
                holder.cell_contents = before
            elif isinstance(holder, np.ndarray):
                holder[...] = before
            elif type(key) is _Slot:
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


def _content(holder: Any, key: Any) -> Any:
    """What is held now: the content of a closure's cell, an item or the whole."""
    if isinstance(holder, types.CellType):
        return holder.cell_contents
    if key is None:
        return holder
    if type(key) is _Slot:
        return getattr(holder, key, None)
    return holder.get(key) if isinstance(holder, dict) else vars(holder).get(key)


def _same_parts(now: Any, before: Any) -> bool:
    return all(map(operator.is_, _parts_of(now), _parts_of(before)))


def _parts_of(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [*x, *x.values()]
    return [*x] if isinstance(x, (list, deque, set)) else [x]


_HANDLERS: dict[type, Callable[[Reach, str, Any], None]] = {
    types.FunctionType: Reach._function,
    types.MethodType: Reach._method,
    types.BuiltinFunctionType: Reach._builtin,
    functools.partial: Reach._partial,
    **dict.fromkeys([list, tuple, deque, set, frozenset], Reach._sequence),
    dict: Reach._dict,
    type: Reach._kind,
    types.ModuleType: Reach._module,
    **dict.fromkeys(
        [
            property,
            staticmethod,
            classmethod,
            types.CellType,
            weakref.ref,
            types.MappingProxyType,
            ContextVar,
            types.MethodWrapperType,
        ],
        Reach._parts,
    ),
    **dict.fromkeys(
        [
            types.WrapperDescriptorType,
            types.MethodDescriptorType,
            types.GetSetDescriptorType,
            types.MemberDescriptorType,
            types.ClassMethodDescriptorType,
        ],
        Reach._plain,
    ),
    slice: Reach._immutable,
    np.ndarray: Reach._array,
}


def _handler(kind: type) -> Callable[..., None]:
    """How to look at instances of a class."""
    kinds: list[tuple[Any, Any]] = [
        (enum.Enum, Reach._member),
        (_GENERATORS, Reach._generator),
        (_IMMUTABLE, Reach._immutable),
        ((int, float, complex, str, bytes, np.generic), Reach._number),
        (type, Reach._kind),
        (types.ModuleType, Reach._module),
        (np.ndarray, Reach._array),
        ((staticmethod, classmethod, property, weakref.ref), Reach._parts),
        (logging.Logger, Reach._logger),
    ]
    for bases, handler in kinds:
        if issubclass(kind, bases):
            return handler  # type: ignore[no-any-return]
    return Reach._array if kind in backends._of_type else Reach._object
