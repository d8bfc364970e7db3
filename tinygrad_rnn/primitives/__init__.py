"""The table: every primitive with its derivative, its public function and its operators.

elementwise, reduction, movement, contraction, indexing; windows, of which convolutions are made;
functions, bitwise, sorting and linalg for what is asked for less often; and creation, where Tensors
come from. ``TABLE``, taken from here, is whole.
"""

from ..graph import TABLE
from . import (
    bitwise,
    contraction,
    creation,
    elementwise,
    functions,
    indexing,
    linalg,
    movement,
    reduction,
    sorting,
    windows,
)

__all__ = [
    "TABLE",
    "bitwise",
    "contraction",
    "creation",
    "elementwise",
    "functions",
    "indexing",
    "linalg",
    "movement",
    "reduction",
    "sorting",
    "windows",
]
