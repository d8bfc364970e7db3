"""Study: what happens in a recurrent network, made visible. In a terminal, a notebook, or a file.

``fold`` draws the graph of any loop once. Everything that is found out is a ``Study``, one document
of plain data; its text, its drawing and its page say the same.

Nothing here costs anything until it is asked for: the tools are imported when one is first used,
and what they record is recorded only while they look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..nn.module import Module
from ..planner.plan import Plan
from ..tensor import Tensor

if TYPE_CHECKING:
    from .tools import (
        Board,
        Replay,
        Study,
        activity,
        compare,
        explain_nonfinite,
        flow,
        fold,
        graph,
        page,
        record,
        replay,
        similar,
        unfold,
        units_for,
        values_of,
        watch,
    )

__all__ = [
    "Board",
    "Replay",
    "Study",
    "activity",
    "compare",
    "explain_nonfinite",
    "flow",
    "fold",
    "graph",
    "page",
    "record",
    "replay",
    "similar",
    "to_dot",
    "to_text",
    "unfold",
    "units_for",
    "values_of",
    "watch",
]


def to_text(y: Tensor | Study, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that leads to ``y``, a line for each operation, in the order of computation.

    Args:
        y: a Tensor that requires grad; or a ``Study``, such as ``inspect.fold(y)``, which is
            written as it is.
        names: what to call certain tensors, ``{"w": w}``; others are called v1, v2, ...

    Raises:
        TypeError: for a Tensor that has no graph.
        ValueError: for a graph of more than 500,000 nodes; ``fold`` shows a loop once.
    """
    from . import text

    return text.to_text(y, names)


def to_dot(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The same graph in the language of Graphviz, leaves as boxes; raises as ``to_text``."""
    from . import text

    return text.to_dot(y, names)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import tools

    return getattr(tools, name)


def _repr_html_(x: Any) -> str:
    """What a notebook shows: no scripts, and no more than 20 kB."""
    from .notebook import html_of

    return html_of(x)


for _kind in (Tensor, Module, Plan):
    _kind._repr_html_ = _repr_html_  # type: ignore[union-attr]
