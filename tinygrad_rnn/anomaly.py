"""What ``detect_anomaly`` looks for: the first operation that makes a nan or an inf, and its line.

An operation that was given a nan made none: what is named then is its input, which came from
outside, since whatever was computed has been looked at. And a saved array that was written to
between the forward and the backward pass gives a wrong gradient and no nan at all, so checksums of
what was saved are compared, too.
"""

from __future__ import annotations

import os
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .graph import Node, Primitive, describe


class Witness(NamedTuple):
    """What is remembered of an operation: the user's line and checksums of what it saved."""

    line: str
    checksums: list[int]


STEPS: ContextVar[tuple[int, ...]] = ContextVar("tinygrad_rnn_steps", default=())
"""The time step that each loop around this is at, the outermost first."""

NAMERS: list[Callable[[Any], str | None]] = []
"""Functions that know what a Tensor is called, as the modules above this do of parameters."""

_LIBRARY = (os.path.dirname(__file__) + os.sep, os.path.dirname(backends.__file__) + os.sep)


_CELLS = os.path.join(os.path.dirname(__file__), "nn") + os.sep


def is_library(filename: str) -> bool:
    """Whether a file is the library's own."""
    return filename.startswith(_LIBRARY)


def cell_line() -> str:
    """The innermost line of the stack that is a user's, or of a cell of ``nn``: file and text."""
    for frame in reversed(traceback.extract_stack()):
        of_cells = frame.filename.startswith(_CELLS)
        if of_cells or not is_library(frame.filename):
            name = os.path.basename(frame.filename)
            return f"{name}:{frame.lineno}: {frame.line}"
    return "an unknown line"


def place() -> str:
    """Where this happens: the user's line, that of a layer or cell called from it, and the step."""
    frames = traceback.extract_stack()[::-1]
    line = next((_shown(f) for f in frames if not is_library(f.filename)), "an unknown line")
    cell = next((f for f in frames if _is_of_nn(f) or not is_library(f.filename)), None)
    if cell is not None and _is_of_nn(cell):
        line += f" (in {os.path.basename(cell.filename)}:{cell.lineno}: {cell.line})"
    steps = ", within step ".join(str(step) for step in reversed(STEPS.get()))
    return f"{line}, at step {steps}" if steps else line


def _shown(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno}: {frame.line}"


def _is_of_nn(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_CELLS)


class _NotFinite(NamedTuple):
    """Which of "nan" and "inf" an array holds, and where."""

    kind: str
    where: str


def _not_finite(x: Any) -> _NotFinite | None:
    """What is not finite in an array, a Tensor or a number, if anything is."""
    array = x._array if hasattr(x, "_node") else x  # of a Tensor, which is defined above this
    found = backends.of(array)
    host = np.asarray(array) if isinstance(array, (np.generic, float)) else None
    host = found.to_host(array) if found is not None else host
    if host is None or host.dtype.kind != "f" or np.isfinite(host).all():
        return None
    kind = "nan" if np.isnan(host).any() else "inf"
    places = np.argwhere(np.isnan(host) if kind == "nan" else np.isinf(host))
    if not host.ndim:
        return _NotFinite(kind, "")
    rows = sorted({int(row) for row in places[:, 0]})
    where = f"; first at index {tuple(map(int, places[0]))} of shape {host.shape}"
    if host.ndim > 1 and len(rows) > 1:
        where += f", along axis 0 at {', '.join(map(str, rows[:8]))}" + ", ..." * (len(rows) > 8)
    return _NotFinite(kind, where)


def look_at(primitive: Primitive, inputs: Sequence[Any], out: Any) -> str:
    """Where an operation was called from; raises if it made a nan or an inf, or was given one."""
    line = place()
    for part in out if primitive.several else (out,):
        bad = _not_finite(part)
        if bad is None:
            continue
        for i, x in enumerate(inputs):
            given = _not_finite(x)
            if given is not None:
                called = next(filter(None, (name(x) for name in NAMERS)), f"input {i}")
                raise FloatingPointError(
                    f"{primitive.name} was given {given.kind}: {called} held it already, at {line}"
                    f"{given.where}"
                )
        raise FloatingPointError(
            f"{primitive.name} made {bad.kind} in the forward pass, at {line}{bad.where}"
        )
    return line


def checksums_of(node: Node) -> list[int]:
    """A checksum for each array that a node saved."""
    sums = []
    for reads in node.saved:
        for value in reads:
            for array in value if isinstance(value, tuple) else (value,):
                found = backends.of(array)
                if found is not None:
                    sums.append(zlib.crc32(np.ascontiguousarray(found.to_host(array)).tobytes()))
    return sums


class AnomalyWatch:
    """What ``detect_anomaly`` does in a backward pass; see ``graph.Watch``."""

    node: Node | None = None  # the one at work

    def before(self, node: Node) -> None:
        """Compare what the node saved with what it holds now."""
        self.node = node
        if node.witness is not None and checksums_of(node) != node.witness.checksums:
            raise RuntimeError(
                f"an array that {describe(node)} saved was written to before the backward "
                "pass; copy it (tinygrad_rnn.tensor copies, asarray shares)"
            )

    def after(self, node: Node, cotangent: Any) -> None:
        """Raise if a vjp of the node made a nan or an inf."""
        bad = _not_finite(cotangent)
        if bad is not None:
            raise FloatingPointError(f"made {bad.kind}{bad.where}")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # Rules that compute with Tensors raise by themselves, for one of their own operations.
        node = self.node
        if isinstance(error, FloatingPointError) and node is not None:
            hint = (
                "" if node.witness else "; run the forward pass in detect_anomaly to see its line"
            )
            raise FloatingPointError(
                f"the vjp of {describe(node)} in the backward pass: {error}{hint}"
            ) from error
