"""The table: every primitive with its derivative, its public function and its operators.

elementwise, reduction, movement, contraction, indexing; windows and convolution; functions,
bitwise, sorting and linalg for what is asked for less often; and creation, where Tensors come from.
``TABLE``, taken from here, is whole.
"""

from ..graph import TABLE
from . import (
    bitwise,
    contraction,
    convolution,
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
    "convolution",
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
