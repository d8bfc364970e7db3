"""One step under watch: every operation with what it read, what it made, its line and its name.

``watched(f)`` runs a function and keeps all of that, constants included, which a graph does not
hold. It is for one step: the values stay alive as long as what is returned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ..apply import apply
from ..structure import flatten
from ..tensor import Tensor
from .capture import in_nn, is_of_user, line_of, put_back

_APPLY = apply.__code__
_CELLS = ("cells.py", "convolution.py")  # files of nn whose variables name parts of a step


@dataclass(eq=False)
class Done:
    """An operation that was carried out."""

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Tensor, ...]
    parameters: dict[str, Any]
    line: str


@dataclass
class Watched:
    """What a function did."""

    result: Any = None
    operations: list[Done] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # of Tensors, by identity
    alive: list[Any] = field(default_factory=list)

    def maker(self, x: Any) -> Done | None:
        """The operation that made a Tensor, if it was one of these."""
        return self._makers().get(id(x))

    def _makers(self) -> dict[int, Done]:
        return {id(out): done for done in self.operations for out in done.outputs}

    def users(self, done: Done) -> Iterator[Done]:
        """The operations that read what one made, in order."""
        made = {id(out) for out in done.outputs}
        return (other for other in self.operations if made & {id(x) for x in other.inputs})

    def name_of(self, done: Done, wanted: Callable[[Tensor], bool]) -> tuple[str, Tensor] | None:
        """What it made, by the name that it or the nearest value computed from it has."""
        pending, seen = [done], {id(done)}
        while pending:
            current = pending.pop(0)
            for out in current.outputs:
                if id(out) in self.names and wanted(out):
                    return self.names[id(out)], out
            for user in self.users(current):
                if id(user) not in seen:
                    seen.add(id(user))
                    pending.append(user)
        return None


def watched(f: Callable[[], Any]) -> Watched:
    """Run ``f()``, and keep what it did. An error of its own is raised as it is."""
    found = Watched()
    known: set[int] = set()

    def note(frame: FrameType, event: str, result: Any) -> None:
        if event != "return" or result is None:
            return
        code = frame.f_code
        if code is _APPLY:
            outputs = result if isinstance(result, tuple) else (result,)
            if id(outputs[0]) in known:
                return  # by way of another call of itself
            known.add(id(outputs[0]))
            given = frame.f_locals
            line = line_of(frame) or "an unknown line"
            done = Done(
                given["primitive"].name, given["inputs"], outputs, given["parameters"], line
            )
            found.operations.append(done)
            return
        file = code.co_filename
        cell = in_nn(file) and code.co_name == "forward" and file.endswith(_CELLS)
        if cell or (is_of_user(file) and not in_nn(file)):
            for name, value in frame.f_locals.items():
                if isinstance(value, Tensor) and not name.startswith("_"):
                    found.names.setdefault(id(value), name)
                    found.alive.append(value)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        found.result = f()
    finally:
        put_back(before)
    found.alive.append(flatten(found.result))
    return found


def host(x: Any) -> Any:
    """A Tensor, array or number as a NumPy array."""
    if isinstance(x, Tensor):
        return x.numpy()
    own = backends.of(x)
    return np.asarray(x) if own is None else own.to_host(x)


def is_finite(x: Any) -> bool:
    """Whether nothing in it is nan or inf; integers and booleans are finite."""
    array = host(x)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
