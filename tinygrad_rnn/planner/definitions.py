"""What is known of a function's code and of a class, found out once for each.

Code is known by what it names: globals, attributes, imports. A class by where it was written: in
the library, installed with Python and NumPy, or by the user, whose code alone is looked into; and
by what can be seen of its instances.
"""

from __future__ import annotations

import datetime
import decimal
import dis
import enum
import fractions
import importlib
import itertools
import logging
import os
import pathlib
import random as python_random
import re
import sys
import sysconfig
import types
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly

Origin = Literal["ours", "installed", "theirs"]
Sort = Literal[
    "member",
    "generator",
    "immutable",
    "number",
    "class",
    "module",
    "array",
    "parts",
    "logger",
    "object",
]

VALUES = frozenset([int, bool, str, bytes, complex, type(None), type(...), range])
"""Classes of values: two that are equal are the same."""

IMMUTABLE = (
    *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal),
    *(fractions.Fraction, uuid.UUID, re.Pattern, pathlib.PurePath, np.dtype, np.ufunc),
)
GENERATORS = (
    *(np.random.Generator, np.random.BitGenerator, np.random.RandomState, python_random.Random),
)
_SORTS: list[tuple[Any, Sort]] = [
    (enum.Enum, "member"),
    (GENERATORS, "generator"),
    (IMMUTABLE, "immutable"),
    ((int, float, complex, str, bytes, np.generic), "number"),
    (type, "class"),
    (types.ModuleType, "module"),
    (np.ndarray, "array"),
    ((staticmethod, classmethod, property, weakref.ref), "parts"),
    (logging.Logger, "logger"),
]

_TAKING = (
    *("recv", "get_nowait", "read", "fetchone", "update", "write", "compress", "spawn", "feed"),
    *("execute", "seek", "advance", "dump", "decode"),
)
"""Methods by which C code changes what cannot be seen: sockets, queues, files, digests, cursors."""

_HIDING_FILES = frozenset(
    (
        *("secrets.py", "uuid.py", "tempfile.py", "glob.py", "genericpath.py", "inspect.py"),
        *("threading.py", "locale.py", "_ufunc_config.py", "_npyio_impl.py"),
    )
)
_BY_NAME = frozenset(
    ("getattr", "setattr", "vars", "attrgetter", "__dict__", "__getattribute__", "__setattr__")
)
"""What finds an attribute by a name that may be made while the code runs."""

_STANDARD = sysconfig.get_path("stdlib") + os.sep, "<frozen "
_PACKAGES = os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep
_NUMPY = os.path.dirname(np.__file__) + os.sep
OUR_ROOTS = frozenset(["tinygrad_rnn", "tinygrad_rnn_backends"])
INSTALLED_ROOTS = sys.stdlib_module_names | {"numpy", "cupy", "builtins"}


class Code(NamedTuple):
    """What the code of a function names, that of functions within it included."""

    token: int
    origin: Origin
    names: tuple[str, ...]  # globals
    attributes: dict[str, None]
    imports: tuple[str, ...]
    by_name: bool  # whether it may name attributes that are not among those
    refused: str | None


class Class(NamedTuple):
    """What is known of a class."""

    token: int
    origin: Origin
    bases: tuple[weakref.ref[type], ...]  # those of the user, itself included
    whole: bool  # whether methods are called by those of a class of the library
    slots: tuple[str, ...]
    taking: bool  # whether to look at an instance, or to call it, may change it unseen
    sort: Sort  # of its instances


_tokens: dict[int, tuple[weakref.ref[Any], int, Any]] = {}
_numbers = itertools.count()
_ENOUGH_TOKENS = 20_000


def _describe_once(x: Any, describe: Callable[[Any, int], Any] | None) -> tuple[int, Any]:
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
    description = None if describe is None else describe(x, number)
    _tokens[id(x)] = weakref.ref(x), number, description
    return number, description


def token_of(x: Any) -> int:
    """A number that is an object's own as long as it lives; TypeError without weak references."""
    return _describe_once(x, None)[0]


def code_of(code: types.CodeType) -> Code:
    """What is known of the code of a function."""
    description: Code = _describe_once(code, _describe_code)[1]
    return description


def class_of(kind: type) -> Class:
    """What is known of a class."""
    description: Class = _describe_once(kind, _describe_class)[1]
    return description


def _describe_code(code: types.CodeType, token: int) -> Code:
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
    origin, name = _origin_of_file(code.co_filename), os.path.basename(code.co_filename)
    hiding = name in _HIDING_FILES or code is importlib.import_module.__code__
    refused = None
    if origin == "installed" and hiding:
        refused = f"{code.co_name} of {name}, which may give something else each time"
    if code.co_name == "__hash__":  # as dataclasses have it: all that it decides is found by ==
        names -= {"hash", "id"}
    by_name = not _BY_NAME.isdisjoint(names | attributes)
    listed = tuple(sorted(names)), dict.fromkeys(sorted(attributes)), tuple(sorted(imports))
    return Code(token, origin, *listed, by_name, refused)


def _origin_of_file(file: str) -> Origin:
    if anomaly.is_library(file):
        return "ours"
    standard = file.startswith(_STANDARD) and not any(folder in file for folder in _PACKAGES)
    return "installed" if standard or file.startswith(_NUMPY) else "theirs"


def _describe_class(kind: type, token: int) -> Class:
    mro = kind.__mro__
    origins = {base: _origin_of_class(base) for base in mro}
    members = [(base, *item) for base in mro for item in vars(base).items()]
    slots = tuple(
        name
        for base, name, member in members
        if base.__module__ != "builtins"
        and isinstance(member, types.MemberDescriptorType)
        and not (name[:2] == "__" == name[-2:])  # those of C, which are not to be written
    )
    written = any(type(member) is types.FunctionType for _, _, member in members)
    taking = hasattr(kind, "__next__") or (
        origins[kind] == "installed"  # and in C: what is written in Python can be looked into
        and not (written or issubclass(kind, (dict, list, tuple, set, frozenset, deque)))
        and any(hasattr(kind, method) for method in _TAKING)
    )
    return Class(
        token,
        origins[kind],
        tuple(weakref.ref(base) for base in mro if origins[base] == "theirs"),
        any(origins[base] == "ours" and base.__name__ != "Module" for base in mro),
        slots,
        taking,
        _sort_of(kind),
    )


def _origin_of_class(kind: type) -> Origin:
    root = str(kind.__module__).partition(".")[0]
    if root in OUR_ROOTS:
        return "ours"
    return "installed" if root in INSTALLED_ROOTS and root != "__main__" else "theirs"


def _sort_of(kind: type) -> Sort:
    for bases, sort in _SORTS:
        if issubclass(kind, bases):
            return sort
    return "array" if kind in backends._of_type else "object"
