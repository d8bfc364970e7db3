"""A recurrent computation seen from its steps: which rows take which, and what each starts from.

The tools that look into a loop let it run by its plan, with the states of all steps among its
outputs, and then take single steps again. ``Steps`` knows what a step of a ragged, masked, reset or
reversed loop starts from; ``Tapped`` is the cell that hands out its states and, where it is asked,
adds zeros to them: the cotangent of these zeros is that of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import random
from ..nn.module import Module
from ..planner.trust import pure
from ..primitives.creation import asarray
from ..recurrence.unroll import initial_state_beside
from ..structure import flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor
from .watching import host

Cell = Callable[[Any, Any], tuple[Any, Any]]


@pure
class Tapped:
    """A cell whose output is ``(output, leaves of the state)``.

    With ``taps`` its input is ``(x, taps)``, a tap for each floating leaf of the state, added to
    what the next step starts from: its cotangent is what comes from the steps that follow.
    """

    def __init__(self, cell: Cell, taps: bool) -> None:
        self.cell, self.taps = cell, taps

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step."""
        given: tuple[Tensor, ...] = ()
        if self.taps:
            x, given = x
        output, following = self.cell(x, state)
        if not self.taps:
            return (output, tuple(flatten(following)[0])), following
        leaves, structure = flatten(following)
        taps = iter(given)
        tapped = [h + next(taps) if h.dtype.kind == "f" else h for h in leaves]
        return (output, tuple(leaves)), unflatten(structure, tapped)


def check_cell(asked: str, cell: Any) -> None:
    """Raise TypeError for a layer, which is made of cells."""
    if not callable(cell):
        raise TypeError(
            f"{asked}: a cell, cell(x, state) -> (output, state), not a {type(cell).__name__}"
        )
    if isinstance(cell, Module) and not hasattr(cell, "initial_state") and hasattr(cell, "cell"):
        raise TypeError(
            f"{asked}: {type(cell).__name__} is a layer, which has cells: give one of them, such "
            "as layer.cell(0), and what that reads"
        )


def _is_of_one_row(cell: Any, xs: list[Tensor], states: list[Tensor]) -> bool:
    """Whether vectors are what a step reads and carries, and not numbers of several rows."""
    if not states or any(h.ndim != 1 for h in states) or xs[0].ndim != 2:
        return False
    return hasattr(cell, "initial_state") or xs[0].shape[1] != states[0].shape[0]


class Steps:
    """Which rows take which steps, in the order of the loop, and what a step starts from."""

    def __init__(
        self,
        asked: str,
        cell: Cell,
        xs: Any,
        state: Any,
        lengths: Any,
        mask: Any,
        reset: Any,
        reverse: bool,
    ) -> None:
        check_cell(asked, cell)
        self.cell = cell
        self.xs = map_leaves(as_tensor, xs)
        leaves, _ = flatten(self.xs)
        self.initial = initial_state_beside(cell, leaves) if state is None else state
        self.initial = map_leaves(as_tensor, self.initial)
        self.states, self.structure = flatten(self.initial)
        self.count = leaves[0].shape[0]
        self.rows = next((h.shape[0] for h in self.states if h.shape), 1)
        if _is_of_one_row(cell, leaves, self.states):
            raise ValueError(
                f"{asked}: xs {leaves[0].shape} are of one row without an axis of rows; give xs "
                "with one, xs[:, None]"
            )
        valid = np.ones((self.count, self.rows), dtype=bool)
        if lengths is not None:
            valid = np.arange(self.count)[:, None] < np.asarray(host(lengths))
        elif mask is not None:
            valid = np.asarray(host(mask)).astype(bool)
        self.valid = valid
        self.ragged = not bool(valid.all())
        self.resets = None if reset is None else np.asarray(host(reset)).astype(bool)
        self.order = list(range(self.count))[:: -1 if reverse else 1]

    def zeros(self) -> tuple[Tensor, ...]:
        """A tap for each floating leaf of the state at all steps."""
        return tuple(
            asarray(np.zeros((self.count, *h.shape), dtype=h.dtype), backend=h.backend)
            for h in self.states
            if h.dtype.kind == "f"
        )

    def before(
        self, states: list[Any], step: int, row: int, start: Any, carried: bool = False
    ) -> list[Any]:
        """The leaves of the state that the rows start a step from, given those after each step.

        A row that does not take it is given what ``row`` has, as by the loop something that is
        computed anyway; unless it is to be what is ``carried``. ``start`` is what ``reset`` starts
        from.
        """
        place = self.order.index(step)
        found = [np.array(host(h)) for h in self.states]
        fresh = [host(h) for h in flatten(start)[0]]
        left = np.ones(self.rows, dtype=bool)  # rows whose state is still the initial one
        for earlier in self.order[:place][::-1]:
            new = left & self.valid[earlier]
            for mine, all_steps in zip(found, states, strict=True):
                if mine.ndim and new.any():
                    mine[new] = all_steps[earlier][new]
            left &= ~new
            if not left.any():
                break
        if carried:
            return found
        if self.resets is not None:
            for mine, first in zip(found, fresh, strict=True):
                mine[self.resets[step]] = first[self.resets[step]]
        others = ~self.valid[step]
        for mine in found:
            if mine.ndim and others.any():
                mine[others] = mine[row]
        return found

    def x_at(self, step: int, row: int) -> Any:
        """The input of a step, rows that do not take it being given that of ``row``."""
        others = ~self.valid[step]

        def at(x: Tensor) -> Tensor:
            part = np.array(host(x[step]))
            if part.ndim and part.shape[0] == self.rows and others.any():
                part[others] = part[row]
            return asarray(part, backend=x.backend)

        return map_leaves(at, self.xs)

    def take(self, step: int, x: Any, state: Any, at: random.Position) -> Any:
        """One step of the cell by itself, with the random numbers that the loop drew in it."""
        with random.replay(at), random.loop() as at_step:
            at_step(step)
            return self.cell(x, state)
