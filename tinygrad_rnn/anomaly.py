"""What ``detect_anomaly`` looks for: the first operation that makes a nan or an inf, and its line.

The subtle point is who is to blame. A saved array that was written to between the forward and the
backward pass gives a wrong gradient and no nan at all, so checksums of what was saved are compared,
too.
"""

from __future__ import annotations

import os
import traceback
import zlib
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .graph import Node, Primitive, describe


class Witness(NamedTuple):
    """What is remembered of an operation: the user's line and checksums of what it saved."""

    line: str
    checksums: list[int]


_LIBRARY = (os.path.dirname(__file__) + os.sep, os.path.dirname(backends.__file__) + os.sep)


_CELLS = os.path.join(os.path.dirname(__file__), "nn") + os.sep


def is_library(filename: str) -> bool:
    """Whether a file is the library's own."""
    return filename.startswith(_LIBRARY)


def user_line() -> str:
    """The innermost line of the stack that is not the library's own."""
    for frame in reversed(traceback.extract_stack()):
        if not is_library(frame.filename):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "an unknown line"


def cell_line() -> str:
    """The innermost line of the stack that is a user's, or of a cell of ``nn``: file and text."""
    for frame in reversed(traceback.extract_stack()):
        of_cells = frame.filename.startswith(_CELLS)
        if of_cells or not is_library(frame.filename):
            name = os.path.basename(frame.filename)
            return f"{name}:{frame.lineno}: {frame.line}"
    return "an unknown line"


def _not_finite(x: Any) -> str | None:
    """Which of "nan" and "inf" an array or Tensor of floats holds, if any."""
    array = x._array if hasattr(x, "_node") else x  # of a Tensor, which is defined above this
    found = backends.of(array)
    host = np.asarray(array) if isinstance(array, np.generic) else None
    host = found.to_host(array) if found is not None else host
    if host is None or host.dtype.kind != "f" or np.isfinite(host).all():
        return None
    return "nan" if np.isnan(host).any() else "inf"


def look_at(primitive: Primitive, out: Any) -> str:
    """The line of the user that an operation was called from; raises if it made a nan or an inf."""
    line = user_line()
    for part in out if primitive.several else (out,):
        bad = _not_finite(part)
        if bad is not None:
            raise FloatingPointError(f"{primitive.name} made {bad} in the forward pass, at {line}")
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
            raise FloatingPointError(f"made {bad}")

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
