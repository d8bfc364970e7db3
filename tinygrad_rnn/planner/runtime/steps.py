"""The layout of time: how many steps and rows there are, and where each step's rows are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from tinygrad_rnn_backends import locks

from ...kernels.ir import Timetable

Array: TypeAlias = Any  # of NumPy or CuPy


def exact(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What terms of a dtype are added up in, one after the other, however many there are."""
    return np.dtype(np.float64) if dtype.kind == "f" else dtype


class Steps:
    """How many steps and rows there are, and where each step's rows are in arrays over all steps.

    Arrays over all steps have the rows of each step one below the other: (total, ...). Those of a
    state have those of the start as well. Of equal lengths they are in the order of time, and read
    backwards if the loop goes backwards; of unequal lengths (``counts``, the active rows of each
    step, never growing) in the order in which the loop goes.
    """

    def __init__(
        self,
        steps: int,
        rows: int | None,
        *,
        reverse: bool = False,
        counts: Array | None = None,
        row_of: Array | None = None,
        step_of: Array | None = None,
        length: int | None = None,
        first: int = 0,
        library: Any = np,
    ) -> None:
        self.library = library  # of the arrays, and so of what they are indexed with
        self.steps = steps
        self.first = first  # the step in time that is the first of these
        self.length = steps if length is None else length  # of time: rows may all end before
        self.rows = 1 if rows is None else rows
        self.has_rows = rows is not None
        self.reverse = reverse
        self.counts: Any = counts
        self.total = steps * self.rows if counts is None else int(counts.sum())
        self._row_of, self._step_of = row_of, step_of

    # Arrays over all steps, as a sequence of those of each step, in the order of the loop.

    def each(self, array: Array) -> Sequence[Array]:
        """The rows of each step."""
        if self.counts is not None:
            return [array[start:stop] for start, stop in pairwise(self._starts)]
        if not self.has_rows:
            return self.each_step(array)
        parts: Sequence[Array] = array.reshape(self.steps, self.rows, *array.shape[1:])
        return parts[::-1] if self.reverse else parts

    def each_step(self, array: Array) -> Sequence[Array]:
        """What an array (steps, ...) without rows has of each step: arrays, of numbers too."""
        parts = array[: self.steps][::-1] if self.reverse else array[: self.steps]
        return parts if parts.ndim > 1 else [parts[t, ...] for t in range(self.steps)]

    def before(self, states: Array) -> Sequence[Array]:
        """The state before each step, of an array that has the one at the start as well."""
        if self.counts is None:
            return self.each(self.all_before(states))
        starts = [0, *(self.rows + start for start in self._starts)]
        return [states[s : s + n] for s, n in zip(starts, self.counts.tolist(), strict=False)]

    def rows_of(self, array: Array) -> Sequence[Array]:
        """The active rows of an array (rows, ...) at each step."""
        assert self.counts is not None
        return [array[:n] for n in self.counts.tolist()]

    # Of a state, in one go.

    def all_before(self, states: Array) -> Array:
        """The state before each step, as an array over all steps."""
        if self.counts is not None:
            return states[self._before_rows]
        return states[self.rows :] if self.reverse else states[: self.total]

    def all_after(self, states: Array) -> Array:
        """The state after each step, as an array over all steps: a view."""
        return states[: self.total] if self.reverse and self.counts is None else states[self.rows :]

    def start(self, states: Array) -> Array:
        """The state at the start."""
        return states[self.total :] if self.reverse and self.counts is None else states[: self.rows]

    def final(self, states: Array) -> Array:
        """The state at the end, of each row at its own."""
        if self.counts is not None:
            return states[self._final_rows]
        return states[: self.rows] if self.reverse else states[self.total :]

    def spread(self, array: Array) -> Array:
        """What each step has one of, (steps, ...), for all rows of the step."""
        return array[self.step_of - self.first]

    def repeated(self, array: Array) -> Array:
        """What each row has one of, (rows, ...) in the loop's order, for all steps it takes."""
        if self.counts is not None:
            return array[self._index(self._places)]
        shape = array.shape
        every = self.library.broadcast_to(array, (self.steps, *shape))
        return every.reshape(self.total, *shape[1:])

    def added(self, xp: Any, array: Array) -> Array:
        """The sum over the steps of each row, (rows, ...), of an array over all steps."""
        if self.counts is None:
            return xp.sum(self.library.asarray(self.each(array)), axis=0)
        total = self.library.zeros((self.rows, *array.shape[1:]), dtype=exact(array.dtype))
        for part in self.each(array):
            total[: len(part)] += part
        return total.astype(array.dtype, copy=False)

    def by_step(self, array: Array) -> Array:
        """An array over all steps as (steps, rows, ...); 0 where a row has ended."""
        if self.counts is None:
            return array.reshape(self.steps, self.rows, *array.shape[1:])
        padded = self.library.zeros((self.steps, self.rows, *array.shape[1:]), dtype=array.dtype)
        steps = np.repeat(np.arange(self.steps), self.counts)
        padded[self._index(steps), self._index(self._places)] = array
        return padded

    @cached_property
    def row_of(self) -> Array:
        """Which row each of all rows of all steps is: its number in the user's batch."""
        if self._row_of is not None:
            return self._index(self._row_of)
        return self._index(np.tile(np.arange(self.rows), self.steps))

    @cached_property
    def step_of(self) -> Array:
        """Which step it belongs to, in the user's counting."""
        if self._step_of is not None:
            return self._index(self._step_of)
        times = np.arange(self.first, self.first + self.steps)
        return self._index(np.repeat(times, self.rows))

    def _index(self, index: Array) -> Any:
        """Where the arrays are."""
        return self.library.asarray(index)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum(self.counts).tolist()]

    @cached_property
    def _before_rows(self) -> Array:
        assert self.counts is not None
        return self._index(np.repeat(self._state_starts[:-1], self.counts) + self._places)

    @cached_property
    def _places(self) -> Array:
        """Which row of its step each of all rows is, in the loop's order."""
        return np.arange(self.total) - np.repeat(np.array(self._starts)[:-1], self.counts)

    @cached_property
    def _final_rows(self) -> Array:
        assert self.counts is not None
        rows = np.arange(self.rows)
        ends = (self.counts[:, None] > rows).sum(0)
        return self._index(self._state_starts[ends] + rows)

    @cached_property
    def _state_starts(self) -> Array:
        """The first row of the state at the start and after each step."""
        return np.array([0, *(self.rows + start for start in self._starts[:-1])])

    def segment(self, start: int, stop: int) -> Steps:
        """Some of the steps: from one to another in the order of the loop."""
        if self.counts is None:
            first = self.steps - stop if self.reverse else start
            rows = self.rows if self.has_rows else None
            options: Any = {"reverse": self.reverse, "library": self.library}
            return Steps(stop - start, rows, first=self.first + first, **options)
        own = slice(self._starts[start], self._starts[stop])
        return Steps(
            stop - start,
            self.rows,
            counts=self.counts[start:stop],
            row_of=self.row_of[own],
            step_of=self.step_of[own],
            length=self.length,
            first=start,
            library=self.library,
        )

    @cached_property
    def backwards(self) -> Steps:
        """The same steps in the opposite order, as the backward pass goes."""
        if self.counts is not None:
            return _Backwards(self)
        rows = self.rows if self.has_rows else None
        return Steps(self.steps, rows, reverse=not self.reverse, library=self.library)

    @cached_property
    def table(self) -> Timetable:
        """For native loops."""
        order = np.arange(self.steps)[:: -1 if self.reverse else 1]
        if self.counts is None:
            step = order * self.rows
            after = step if self.reverse else step + self.rows
            before = step + self.rows if self.reverse else step
            count = np.full(self.steps, self.rows)
        else:
            step = np.array(self._starts[:-1])
            after = self.rows + step
            before = np.concatenate([[0], after[:-1]])
            count, order = self.counts, np.arange(self.steps)
        parts = (step, before, after, count, order)
        return Timetable(*[np.ascontiguousarray(part, dtype=np.int64) for part in parts])


for _each in vars(Steps).values():
    if isinstance(_each, cached_property) and hasattr(_each, "lock"):  # before Python 3.12
        locks.renew_in_child(_each.lock)


class _Backwards(Steps):
    """Steps of unequal lengths, backwards: rows come in where they end."""

    def __init__(self, forwards: Steps) -> None:
        super().__init__(
            forwards.steps,
            forwards.rows,
            reverse=True,
            counts=forwards.counts,
            row_of=forwards.row_of,
            step_of=forwards.step_of,
            library=forwards.library,
        )

    def each(self, array: Array) -> Sequence[Array]:
        return super().each(array)[::-1]

    def rows_of(self, array: Array) -> Sequence[Array]:
        return super().rows_of(array)[::-1]
