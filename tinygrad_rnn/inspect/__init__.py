"""Study: what happens in a recurrent network, made visible. In a terminal, a notebook, or a file.

``fold`` draws the graph of any loop once. Everything that is found out is a ``Study``, one document
of plain data; its text, its drawing and its page say the same.

The subtle point is that nothing here costs anything until it is asked for: the tools are imported
when one is first used, and what they record is recorded only while they look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..nn.module import Module
from ..planner.plan import Plan
from ..tensor import Tensor
from .text import to_dot, to_text

if TYPE_CHECKING:
    from .tools import Replay, Study, explain_nonfinite, flow, fold, graph, record, replay, unfold

__all__ = [
    "Replay",
    "Study",
    "explain_nonfinite",
    "flow",
    "fold",
    "graph",
    "record",
    "replay",
    "to_dot",
    "to_text",
    "unfold",
]


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
