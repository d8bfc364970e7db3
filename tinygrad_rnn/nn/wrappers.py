"""Cells made of cells: stacked, and regularised by dropout that recurrent networks can bear.

Each takes any cell and is one itself. Zoneout draws at every step; variational dropout once for a
sequence, which needs no memory: its draws leave the time step out of their counter
(``random.same_at_every_step``), so they come out the same at every one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ..functional import dropout
from ..primitives.elementwise import where
from ..random import same_at_every_step, uniform_like
from ..recurrence import Cell, initial_state
from ..structure import flatten, map_leaves, unflatten
from ..tensor import Tensor
from .cells import RWAState
from .module import Module
from .recurrent import check_cell


class _Wrapper(Module):
    """A cell around another: its state is the other's."""

    def __init__(self, cell: Cell) -> None:
        check_cell(type(self).__name__, cell)
        self.cell = cell

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Any:
        """That of the cell inside."""
        return initial_state(self.cell, batch_shape, dtype, backend)


class Zoneout(_Wrapper):
    """Units keep their previous state at random, with probability ``p`` (Krueger et al. 2017).

    When not training they go that far on average: ``p * previous + (1 - p) * new``. ``p`` may be a
    structure like the state; the paper's choice for an LSTM is ``Zoneout(cell, (0.05, 0.5))``. A
    number is for all parts of the state, but only for the h of an ``RWACell``, whose sums belong
    together. An output that is one of these parts, as h is in all cells here, is what was kept of
    it; so dropout of the output goes around a Zoneout, not into it.
    """

    def __init__(self, cell: Cell, p: Any = 0.1) -> None:
        super().__init__(cell)
        self.p = _probabilities(p, "Zoneout")

    def forward(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step of the cell inside."""
        output, following = self.cell(x, state)
        new, structure = flatten(following)
        rates = _for_leaves("Zoneout", self.p, following, _marked(self.cell, following, _units))
        old = flatten(state, structure)[0]
        kept = [
            self._kept(before, after, p) for before, after, p in zip(old, new, rates, strict=True)
        ]
        kept_of = {id(after): leaf for after, leaf in zip(new, kept, strict=True)}
        output = map_leaves(lambda y: kept_of.get(id(y), y), output)
        return output, unflatten(structure, kept)

    def _kept(self, before: Tensor, after: Tensor, p: float) -> Tensor:
        if p == 0 or after.dtype.kind != "f":
            return after
        if not self.training:
            return p * before + (1 - p) * after
        return where(uniform_like(after) < p, before, after)

    def extra_repr(self) -> str:
        """The probabilities."""
        return f"p={self.p}"


class VariationalDropout(_Wrapper):
    """Dropout with the same mask at every step of a sequence (Gal & Ghahramani 2016).

    ``input_p`` is for x, ``output_p`` for the output, ``state_p`` for the state that the cell is
    given: a structure like it, or a number for h, the first part of each cell's state.
    Within one call of ``unroll`` a row keeps its masks; a cell called by hand draws new ones.
    """

    def __init__(
        self, cell: Cell, input_p: float = 0.0, state_p: Any = 0.0, output_p: float = 0.0
    ) -> None:
        super().__init__(cell)
        self.input_p = _probabilities(input_p, "VariationalDropout")
        self.state_p = _probabilities(state_p, "VariationalDropout")
        self.output_p = _probabilities(output_p, "VariationalDropout")

    def forward(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step of the cell inside."""
        leaves, structure = flatten(state)
        rates = _for_leaves(
            "VariationalDropout", self.state_p, state, _marked(self.cell, state, _first)
        )
        with same_at_every_step():
            x = map_leaves(lambda leaf: self._dropped(leaf, self.input_p), x)
            leaves = [self._dropped(h, p) for h, p in zip(leaves, rates, strict=True)]
        output, state = self.cell(x, unflatten(structure, leaves))
        with same_at_every_step():
            output = map_leaves(lambda leaf: self._dropped(leaf, self.output_p), output)
        return output, state

    def _dropped(self, x: Tensor, p: float) -> Tensor:
        return dropout(x, p, self.training) if p and x.dtype.kind == "f" else x

    def extra_repr(self) -> str:
        """The probabilities."""
        return f"input_p={self.input_p}, state_p={self.state_p}, output_p={self.output_p}"


class StackedCell(Module):
    """Cells on top of each other as one: each is given the output of the one below.

    The state is a tuple of theirs. ``dropout`` falls on what goes from one cell to the next.
    """

    def __init__(self, *cells: Cell, dropout: float = 0.0) -> None:
        if not cells:
            raise ValueError("StackedCell: give at least one cell")
        for cell in cells:
            check_cell("StackedCell", cell)
        self.cells = list(cells)
        self.dropout = _probabilities(dropout, "StackedCell")
        if dropout and len(cells) == 1:
            warnings.warn(
                f"StackedCell: dropout={dropout} falls between cells, and there is one; see "
                "VariationalDropout",
                stacklevel=2,
            )

    def forward(self, x: Any, state: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """One step of all cells, the lowest first."""
        if not isinstance(state, (tuple, list)) or len(state) != len(self.cells):
            raise TypeError(
                f"StackedCell: the state is a tuple of {len(self.cells)}, one of each cell, not "
                f"{flatten(state)[1]}"
            )
        following = []
        for place, (cell, own) in enumerate(zip(self.cells, state, strict=True)):
            x = dropout(x, self.dropout, self.training) if place else x
            x, own = cell(x, own)
            following.append(own)
        return x, tuple(following)

    def initial_state(
        self, batch_shape: Sequence[int], dtype: Any, backend: str
    ) -> tuple[Any, ...]:
        """Those of the cells."""
        return tuple(initial_state(cell, batch_shape, dtype, backend) for cell in self.cells)

    def extra_repr(self) -> str:
        """The probability of dropout."""
        return f"dropout={self.dropout}" if self.dropout else ""


def _probabilities(given: Any, name: str) -> Any:
    for p in flatten(given)[0]:
        if not isinstance(p, (int, float)) or not 0 <= p <= 1:
            raise ValueError(f"{name}: a probability lies between 0 and 1, unlike {p!r}")
    return given


def _for_leaves(name: str, p: Any, state: Any, reached: Any) -> list[Any]:
    """A probability for each leaf of a state: one for those that are reached, or a structure."""
    structure = flatten(state)[1]
    given, own = flatten(p, structure)
    if own.container is None:
        return [p if reach else 0.0 for reach in flatten(reached)[0]]
    if own != structure:
        raise ValueError(
            f"{name}: probabilities structured {own} for a state structured {structure}"
        )
    return given


def _marked(cell: Cell, state: Any, mark: Callable[[Any], Any]) -> Any:
    """A structure of booleans like a state: what ``mark`` makes of that of each cell within."""
    if isinstance(cell, _Wrapper):
        return _marked(cell.cell, state, mark)
    if isinstance(cell, StackedCell) and len(state) == len(cell.cells):
        pairs = zip(cell.cells, state, strict=True)
        return tuple(_marked(each, own, mark) for each, own in pairs)
    return mark(state)


def _units(state: Any) -> Any:
    """The parts that may keep their values each for itself."""
    if isinstance(state, RWAState):
        return RWAState(True, False, False, False)  # type: ignore[arg-type]
    return map_leaves(lambda _: True, state)


def _first(state: Any) -> Any:
    """The first part."""
    leaves, structure = flatten(state)
    return unflatten(structure, [True] + [False] * (len(leaves) - 1))
