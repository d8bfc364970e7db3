"""The tools, in one place to be imported from when one is first asked for."""

from __future__ import annotations

from .board import Board, watch
from .capture import record
from .comparing import compare
from .document import Study, page
from .flowing import flow
from .folding import fold, graph, unfold
from .nonfinite import explain_nonfinite
from .reading import activity, similar, units_for, values_of
from .replaying import Replay, replay

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
    "unfold",
    "units_for",
    "values_of",
    "watch",
]
