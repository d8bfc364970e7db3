"""Pieces of the text of a program: names, keys, dtypes, and the user's line as a comment."""

from __future__ import annotations

import re
from typing import Any

from ..ir import Value


def identifier(hint: str) -> str:
    """A hint as a name that Python takes."""
    return re.sub(r"\W", "_", hint if hint[:1].isalpha() else f"_{hint}")


def at(value: Value) -> str:
    """The line of the user's, as a comment."""
    return f"  # {value.line}" if value.line else ""


def key_text(key: tuple[Any, ...]) -> str:
    """A basic key as one writes it."""

    def entry(e: Any) -> str:
        if not isinstance(e, slice):
            return "..." if e is ... else repr(e)
        first, last = ("" if x is None else str(x) for x in (e.start, e.stop))
        return f"{first}:{last}" + ("" if e.step is None else f":{e.step}")

    return ", ".join(entry(e) for e in key)


def dtype_text(value: Value) -> str:
    """The dtype as a last argument."""
    return f", np.{value.dtype.name}"


def shape_text(lengths: list[str]) -> str:
    """A shape of these lengths."""
    return f"({', '.join(lengths)}{',' * (len(lengths) == 1)})"
