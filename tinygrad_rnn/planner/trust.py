"""Which cells are taken to be pure unseen: those marked so, and those of the library."""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any, TypeVar

import numpy as np

from .. import anomaly
from ..tensor import Tensor
from .definitions import VALUES, class_of, code_of

T = TypeVar("T")

_marked: dict[int, weakref.ref[Any]] = {}
_methods: dict[tuple[int, str], weakref.ref[Any]] = {}


def pure(cell: T) -> T:
    """Mark a cell as pure, so that ``unroll`` plans it at its first call; returns the same object.

    A pure cell does the same at every step: what it returns depends on x, the state and what it
    captures, and on no counter, global or random number of its own (draws by
    ``tinygrad_rnn.random`` are known). A function can be marked, an object, a class (its instances,
    not those of subclasses) and a bound method. Nobody looks: one that is marked and is not pure
    gives other results than the literal loop. ``testing.check_planned`` finds that.

    Raises:
        TypeError: for what cannot be called, or has no weak references (``__slots__`` without
            ``"__weakref__"``).
    """
    if not callable(cell):
        raise TypeError(f"pure: a cell is a callable cell(x, state), not {type(cell).__name__}")
    try:
        _mark(cell)
    except TypeError:
        raise TypeError(
            f"pure: a {type(cell).__name__} cannot be marked, since it has no weak references; "
            'add "__weakref__" to its __slots__, or mark its class'
        ) from None
    return cell


def _mark(x: Any) -> None:
    """Mark a function, class or instance; of a bound method, that of its object."""
    if isinstance(x, types.MethodType):
        owner, method = x.__self__, (id(x.__self__), x.__func__.__name__)
        _methods[method] = weakref.ref(owner, lambda _: _methods.pop(method, None) and None)
    else:
        place = id(x)
        _marked[place] = weakref.ref(x, lambda _: _marked.pop(place, None) and None)


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
        if kind in VALUES or kind is float or isinstance(x, Tensor) or id(x) in seen:
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
            if code_of(x.__code__).origin != "ours" and not is_marked(x):
                return False
            pending += [cell.cell_contents for cell in x.__closure__ or ()]
        elif _is_of_ours(kind) and not is_marked(x):
            if not has_forward_of_ours(kind):
                return False
            pending += getattr(x, "__dict__", {}).values()
        elif not isinstance(x, (np.ndarray, np.dtype)) and not is_marked(x):
            return False
    return True


def _is_of_ours(kind: type) -> bool:
    return class_of(kind).origin == "ours"


def has_forward_of_ours(kind: type) -> bool:
    """Whether the ``forward`` of a class, if it has one, is written in the library."""
    rule = getattr(kind, "forward", None)
    return rule is None or anomaly.is_library(rule.__code__.co_filename)
