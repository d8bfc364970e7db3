"""The program of a plan: Python that one can read, for NumPy or, by the same name, CuPy.

Two functions, ``forward`` and ``backward``, are written line by line from the stages of a
``Distribution``. What is computed for all steps is one line; a recurrence is a ``for`` loop over
the steps, or one call of machine code. Every operation that can writes into memory that ``storage``
has planned (``out=``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinygrad_rnn_backends import Backend

from ...kernels.ir import Loop
from ..passes.rowwise import drawn_in_kernels
from ..passes.schedule import Scheduled
from ..stages import Distribution
from ..storage import Storage
from .functions import FunctionWriter, WholeWriter
from .writer import Context


class Program(NamedTuple):
    """The source of a plan's functions, what it names, and the loops that it calls."""

    source: str
    given: dict[str, Any]
    loops: list[Loop]


def write(
    distribution: Distribution,
    scheduled: Scheduled,
    storages: list[Storage],
    backend: Backend,
    whole: bool = False,
) -> Program:
    """The program of a distribution whose values have their places; ``whole``: of one step."""
    drawn = drawn_in_kernels(distribution)
    context, loops = Context(backend, bool(scheduled.schedules), drawn), list[Loop]()
    writer = WholeWriter if whole else FunctionWriter
    functions = [
        writer(distribution, part, storage, context).write(scheduled.schedules, loops)
        for part, storage in zip(distribution.passes, storages, strict=True)
    ]
    return Program("\n\n".join(functions), context.given, loops)
