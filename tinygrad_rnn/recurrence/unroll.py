"""``unroll``: a cell applied over time, by a plan where there is one and literally elsewhere.

There is no backpropagation through time in this file, which is the point of it. In ``_Loop.run``,
the definition, the loop runs, every primitive of every step becomes a node of the graph,
and ``backward`` walks through them as through any others: BPTT is what reverse mode does on an
unrolled graph. Whatever runs this loop faster is measured against it.

The subtle part is ragged input. A step that a row does not take must leave its state as it was and
contribute nothing, though the loop computes it. What is not chosen gets a cotangent of 0, but 0 *
nan would reach a weight's gradient. So such a step sees neither the padding, which may hold nan,
nor the carried state beside an input that it never met, which may make nan of both. It is given
what the row's first step is given, input and initial state: a pair that is evaluated anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from .. import random
from ..dtypes import default_dtype
from ..planner.call import Bytes
from ..planner.lookup import PlanError, Unplanned, prepare, run_planned
from ..planner.plan import Plan
from ..primitives.creation import arange, asarray, tensor, zeros_like
from ..primitives.elementwise import astype, result_type, where
from ..primitives.movement import flip, reshape, stack, unstack
from ..primitives.reduction import any, argmax
from ..structure import Structure, flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor, no_grad
from .ragged import batch_of, flags, steps_within, unpad_sequences

Cell = Callable[[Any, Any], tuple[Any, Any]]


def unroll(
    cell: Cell,
    xs: Any,
    state: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    reset_state: Any = None,
    reverse: bool = False,
    mode: Literal["auto", "literal", "planned"] = "auto",
    checkpoint: int | Bytes | None = None,
) -> tuple[Any, Any]:
    """Apply ``cell(x, state) -> (output, state)`` for each step along axis 0 of ``xs``.

    Args:
        cell: any callable made of primitives.
        xs: a Tensor (T, B, ...), or a tuple, dict or named tuple of Tensors that share axis 0; one
            of (T,) is the same for all rows, at steps that they skip, too. Or a list of sequences
            (T_i, ...) of different lengths, a row each: the outputs are such a list, too, and so
            may ``reset`` be.
        state: a structure of Tensors that the cell takes and returns, batch along axis 0. If None,
            ``cell.initial_state(batch_shape, dtype, backend)`` is asked for it.
        lengths: how many steps each row takes, B integers on the host. Outputs after a row's end
            are zero, and its final state is the one at its end. Not together with ``mask``.
        mask: booleans (T, B); where False, a row skips the step: its state is carried and its
            output is zero.
        reset: booleans (T, B); where True, a row starts that step from the initial state. A step
            that the row does not take resets nothing.
        reset_state: what ``reset`` starts from, if that is not ``state`` as it was given. A state
            that was carried over from other steps is not where anything starts: give another.
        reverse: from the last step of each row to its first; outputs stay at the steps of their
            inputs. ``reset``, too, goes with this order: it precedes its step in reading.
        mode: "literal" runs the loop step by step, each operation a node of the graph. "planned"
            traces one step and runs a program made for its structure; "auto" does so where it can,
            and runs literally elsewhere. The results are equal to rounding.
        checkpoint: hold the state of every so many steps only, and compute the others again in the
            backward pass; or ``Bytes(n)``, a budget that chooses how many. A loop that runs
            literally holds every step.

    Returns:
        ``(outputs, state)``: the outputs stacked along axis 0, structured as the cell's, and the
        final state. For T = 0 they are empty, and the final state is the initial one.

    A planned cell is called on values that have a shape and nothing else, once for each call of
    ``unroll`` and a second time when it or its structure is new. It must do the same at every step:
    its results depend on x, the state and what it captures, and on no counter, global or random
    number of its own (those of ``tinygrad_rnn.random`` are known). What a call of a new cell
    rebinds is found, put back, and makes it run literally. ``testing.check_planned`` compares.

    Raises:
        PlanError: for "planned", where the cell cannot be planned, with the reason and your line.
        ValueError: for unequal time lengths, bad lengths or masks; with them, for inputs, outputs
            or a state that have not the rows along their axis of rows.
        TypeError: for a state of another structure, shape or dtype than the cell was given.
    """
    if mode not in ("auto", "literal", "planned"):
        raise ValueError(f"unroll: mode is 'auto', 'literal' or 'planned', not {mode!r}")
    if checkpoint is not None and (
        isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1
    ):
        raise ValueError(
            f"unroll: checkpoint is a number of steps from 1 on, or Bytes(n), not {checkpoint!r}"
        )
    if getattr(cell, "reads_sequences", False):
        raise TypeError(
            f"unroll: {type(cell).__name__} is a layer, which reads whole sequences; call it as it "
            "is, or unroll a cell, such as those in nn"
        )
    if isinstance(xs, list):
        batch, lengths, reset = batch_of("unroll", xs, lengths, mask, reset)
        loop = _Loop(cell, batch, state, lengths, None, reset, reset_state, reverse)
        outputs, state = _executed(loop, mode, checkpoint)
        return unpad_sequences(outputs, lengths), state
    loop = _Loop(cell, xs, state, lengths, mask, reset, reset_state, reverse)
    return _executed(loop, mode, checkpoint)


def _executed(loop: _Loop, mode: str, checkpoint: Any) -> tuple[Any, Any]:
    """The results of a loop, planned if it may and can be."""
    if mode == "literal" or loop.steps == 0 or loop.batch == 0:
        return loop.run()
    try:
        return run_planned(loop, checkpoint)
    except Unplanned as found:
        reason = str(found)
    results = loop.run()  # an error of the cell's own is raised as it is
    if mode == "planned":
        raise PlanError(f"unroll: mode='planned', but {reason}")
    return results


def plan(
    cell: Cell,
    xs: Any,
    state: Any = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    reverse: bool = False,
) -> Plan:
    """The plan by which ``unroll`` with these arguments runs; nothing is run.

    ``print(plan.source)`` shows the program, ``print(plan.report())`` what became of it. For a
    cell that cannot be planned, ``plan.planned`` is False and ``plan.reason`` says why.
    """
    if isinstance(xs, list):
        xs, lengths, reset = batch_of("plan", xs, lengths, mask, reset)
    loop = _Loop(cell, xs, state, lengths, mask, reset, None, reverse)
    if loop.steps == 0 or loop.batch == 0:
        return Plan.literal("there are no steps, or no rows: nothing is computed")
    try:
        return prepare(loop).plan
    except Unplanned as reason:
        return Plan.literal(str(reason))


def initial_state(cell: Cell, batch_shape: Sequence[int], dtype: Any, backend: str) -> Any:
    """What ``cell.initial_state`` gives; TypeError for a cell without it."""
    make = getattr(cell, "initial_state", None)
    if make is None:
        raise TypeError(
            "unroll: give a state, or a cell with initial_state(batch_shape, dtype, backend); "
            f"{type(cell).__name__} has none"
        )
    return make(tuple(batch_shape), dtype, backend)


def initial_state_beside(cell: Cell, xs: Sequence[Tensor]) -> Any:
    """That for inputs: of vectors (T, B, I), or of integers (T, B) where there are no vectors."""
    floating = [x for x in xs if x.dtype.kind == "f"]
    dtype = result_type(*floating) if floating else default_dtype()
    vectors = [x for x in floating if x.ndim > 2] or floating
    whole = [x for x in xs if x.dtype.kind != "f"]
    if whole and (not vectors or vectors[0].ndim < 3):
        return initial_state(cell, whole[0].shape[1:], dtype, xs[0].backend)
    return initial_state(cell, vectors[0].shape[1:-1], dtype, xs[0].backend)


class _Loop:
    """One call of ``unroll``, checked; ``run`` is the loop."""

    def __init__(
        self,
        cell: Cell,
        xs: Any,
        state: Any,
        lengths: Any,
        mask: Any,
        reset: Any,
        reset_state: Any,
        reverse: bool,
    ) -> None:
        leaves, self.x_structure = flatten(xs)
        if not leaves:
            raise ValueError("unroll: xs is empty")
        self.xs = [tensor(x) if isinstance(x, np.ndarray) else as_tensor(x) for x in leaves]
        self.steps = _time_length(self.xs)
        self.cell = cell
        self.reverse = reverse
        self.initial = self._initial(state)
        self.states, self.state_structure = flatten(self.initial)
        self.batch = self._batch_length()
        self._check_batch(lengths=lengths, mask=mask, reset=reset)
        self.lengths = lengths
        self.valid = self._valid(lengths, mask)
        self.reset = self._flags(reset, "reset")
        self.reset_state = self.initial if reset_state is None else self._fresh(reset_state)

    def run(self) -> tuple[Any, Any]:
        """The loop, step by step: the definition of what any other way has to compute."""
        if self.steps == 0:
            return self._nothing()
        xs, spare = self.without_padding()
        columns = [unstack(x) for x in xs]
        valid, reset = (
            [None] * self.steps if given is None else unstack(given)
            for given in (self.valid, self.reset)
        )
        outputs: list[list[Tensor]] = []
        structure: Structure | None = None  # of the outputs
        state = self.initial
        order = range(self.steps)[::-1] if self.reverse else range(self.steps)
        with random.loop() as at_step:
            for t in order:
                at_step(t)
                x = unflatten(self.x_structure, [column[t] for column in columns])
                taking = None if self.full[t] else valid[t]
                output, state = self.step(x, state, taking, reset[t], spare)
                leaves, own = flatten(output, structure)
                structure = own if structure is None else structure
                if own != structure:
                    raise TypeError(
                        f"unroll: the cell returned outputs structured {structure}, then {own}; "
                        "they must agree from step to step"
                    )
                outputs.append(leaves)
        if self.reverse:
            outputs.reverse()
        assert structure is not None
        joined = [stack(list(steps)) for steps in zip(*outputs, strict=True)]
        return unflatten(structure, joined), state

    def step(self, x: Any, state: Any, valid: Any, reset: Any, spare: Any) -> tuple[Any, Any]:
        """One step, with flags (B,) of the rows that take it and that start afresh, or None."""
        before = state
        if reset is not None:
            state = _choose(reset, self.reset_state, state)
        if valid is not None:
            state = _choose(valid, state, spare)
        output, following = self._step(x, state)
        leaves, structure = flatten(output)
        leaves = [as_tensor(y) for y in leaves]
        if self.valid is not None:
            self._check_rows("output", structure, leaves)
        if valid is not None:
            following = _choose(valid, following, before)
            leaves = [_zero_unless(valid, y) for y in leaves]
        return unflatten(structure, leaves), following

    def plain_step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """One step that all rows take."""
        return self.step(x, state, None, None, None)

    def masked_step(self) -> tuple[Any, tuple[Structure, list[Tensor]]]:
        """A step that takes its flags as part of x, and such an x."""
        xs, spare = self.without_padding()
        given = (unflatten(self.x_structure, xs), self.valid, self.reset)
        leaves, structure = flatten(tuple(part for part in given if part is not None))
        has_valid, has_reset = self.valid is not None, self.reset is not None

        def step(parts: Any, state: Any) -> tuple[Any, Any]:
            x, *flags = parts
            valid = flags.pop(0) if has_valid else None
            return self.step(x, state, valid, flags.pop(0) if has_reset else None, spare)

        return step, (structure, leaves)

    @staticmethod
    def literally(cell: Cell, xs: Any, state: Any, lengths: Any, reverse: bool) -> tuple[Any, Any]:
        """``unroll`` in mode "literal"."""
        return _Loop(cell, xs, state, lengths, None, None, None, reverse).run()

    def _step(self, x: Any, state: Any) -> tuple[Any, Any]:
        result = self.cell(x, state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"unroll: a cell returns (output, state), not {flatten(result)[1]}; "
                "a state of several parts is one tuple: return h, (h, c)"
            )
        return result[0], _checked_state(state, result[1])

    def _nothing(self) -> tuple[Any, Any]:
        """For T = 0: a step on zeros tells what the outputs would look like."""
        x = [_zeros(x, x.shape[1:]) for x in self.xs]
        with no_grad():
            output, _ = self._step(unflatten(self.x_structure, x), self.initial)
        return map_leaves(lambda y: _zeros(as_tensor(y), (0, *y.shape)), output), self.initial

    def _initial(self, state: Any) -> Any:
        if state is not None:
            return map_leaves(as_tensor, state)
        return initial_state_beside(self.cell, self.xs)

    def _fresh(self, reset_state: Any) -> Any:
        """``reset_state``, shaped like the state it replaces."""
        fresh = map_leaves(as_tensor, reset_state)
        after, own = flatten(fresh)
        before, structure = flatten(self.initial, own)
        shapes = [[f"{leaf.dtype} {leaf.shape}" for leaf in leaves] for leaves in (after, before)]
        if own != structure or shapes[0] != shapes[1]:
            raise ValueError(
                f"unroll: reset_state is structured {own} of {shapes[0]}, the state {structure} of "
                f"{shapes[1]}; they must agree"
            )
        return fresh

    def _batch_length(self) -> int | None:
        for shape in [*(h.shape for h in self.states), *(x.shape[1:] for x in self.xs)]:
            if shape:
                return int(shape[0])
        return None

    def _check_batch(self, **options: Any) -> None:
        """Whether there are rows for the options given to speak of."""
        given = [name for name, value in options.items() if value is not None]
        if not given:
            return
        leaves, structure = flatten(self.initial)
        if self.batch is None:
            raise ValueError(
                f"unroll: {given[0]} speaks of rows, but there is no batch axis: xs have shapes "
                f"{[x.shape for x in self.xs]} and the state {[h.shape for h in leaves]}; a batch "
                "of one is xs[:, None] and a state (1, ...)"
            )
        self._check_rows("state", structure, leaves)
        for x in self.xs:
            if x.ndim > 1 and x.shape[1] != self.batch:
                raise ValueError(
                    f"unroll: with {given[0]}, axis 1 of xs has to be the {self.batch} rows; one "
                    f"has shape {x.shape}. Broadcast to (T, {self.batch}, ...) what all rows share"
                )

    def _check_rows(self, name: str, structure: Structure, leaves: list[Tensor]) -> None:
        for place, leaf in enumerate(leaves):
            if leaf.shape[:1] != (self.batch,):
                path = _paths(name, structure)[place]
                raise ValueError(
                    f"unroll: with lengths, mask or reset, axis 0 of {path} has to be the "
                    f"{self.batch} rows, which may differ; its shape is {leaf.shape}. Broadcast it "
                    f"to ({self.batch}, ...), or compute from the outputs what all rows share"
                )

    def _valid(self, lengths: Any, mask: Any) -> Tensor | None:
        """Which rows take which steps (T, B), or None; and in ``full`` the steps that all take."""
        self.full: list[bool] = [lengths is None and mask is None] * self.steps
        if lengths is None:
            return self._flags(mask, "mask")
        if mask is not None:
            raise ValueError("unroll: give lengths or a mask, not both")
        assert self.batch is not None
        taken = steps_within("unroll", lengths, self.steps, self.batch)
        self.full = [bool(every) for every in np.all(taken, axis=1).tolist()]
        self.lengths = taken.sum(axis=0)
        return asarray(taken, backend=self.xs[0].backend)

    def _flags(self, given: Any, name: str) -> Tensor | None:
        if given is None:
            return None
        assert self.batch is not None
        return flags("unroll", name, given, (self.steps, self.batch), self.xs[0].backend)

    def without_padding(self) -> tuple[list[Tensor], Any]:
        """What a row is given at steps that it skips: by inputs put there, and a state.

        Both are those of the row's first step, the last one in time if reversed. A row without any
        takes another row's. No gradient flows through them.
        """
        valid = self.valid
        if valid is None or all(self.full) or not self.batch:
            return self.xs, self.initial
        backend = self.xs[0].backend
        taken = astype(valid, "int32")
        step = argmax(flip(taken, axis=0) if self.reverse else taken, axis=0)
        step = self.steps - 1 - step if self.reverse else step
        own = arange(self.batch, dtype=step.dtype, backend=backend)
        takes = any(valid, axis=0)
        row = where(takes, own, argmax(astype(takes, "int32")))
        step = step[row]

        def filled(x: Tensor) -> Tensor:
            if x.ndim == 1:
                return x  # the same for all rows
            first = x.detach()[step, row]
            # Where no row takes a step, what stands there may be nan.
            return where(_beside(valid, x), x, where(any(takes), first, zeros_like(first)))

        start = self.initial
        if self.reset is not None:
            start = _choose(self.reset[step, own], self.reset_state, start)
        return [filled(x) for x in self.xs], map_leaves(lambda h: h.detach()[row], start)


def _time_length(xs: list[Tensor]) -> int:
    if min(x.ndim for x in xs) < 1:
        raise ValueError("unroll: xs needs an axis of time in front")
    steps = {x.shape[0] for x in xs}
    if len(steps) > 1:
        raise ValueError(
            f"unroll: the parts of xs have different numbers of steps: {sorted(steps)}"
        )
    return steps.pop()


def _zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return asarray(np.zeros(shape, dtype=x.dtype), backend=x.backend)


def _paths(name: str, structure: Structure) -> list[str]:
    """How to reach each leaf of a structure called ``name``, in Python."""
    container = structure.container
    if container is None:
        return [name]
    keys = structure.keys or range(len(structure.children))
    by_name = bool(structure.keys) and not issubclass(container, dict)
    return [
        path
        for key, child in zip(keys, structure.children, strict=True)
        for path in _paths(f"{name}.{key}" if by_name else f"{name}[{key!r}]", child)
    ]


def _zero_unless(flags: Tensor, x: Tensor) -> Tensor:
    return where(_beside(flags, x), x, False if x.dtype.kind == "b" else 0)


def _beside(flags: Tensor, x: Tensor) -> Tensor:
    """Flags (B,) or (T, B) shaped to choose between elements of x, which starts with these axes."""
    return reshape(flags, flags.shape + (1,) * (x.ndim - flags.ndim))


def _choose(flags: Any, chosen: Any, other: Any) -> Any:
    return map_leaves(lambda a, b: where(_beside(flags, a), a, b), chosen, other)


def _checked_state(given: Any, returned: Any) -> Any:
    """The state that a cell returned, if it is like the one that it was given."""
    before, structure = flatten(given)
    after, own = flatten(returned, structure)
    if own != structure:
        raise TypeError(
            f"unroll: the cell was given a state structured {structure} and returned {own}. A cell "
            "returns (output, state): where PyTorch writes h, c = cell(x, (h, c)), write "
            "output, (h, c) = cell(x, (h, c))"
        )
    numbers = [leaf for leaf in after if not isinstance(leaf, Tensor)]
    after = [as_tensor(leaf) for leaf in after] if numbers else after
    for a, b in zip(before, after, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise TypeError(
                f"unroll: the cell was given a state of {a.dtype} {a.shape} and returned "
                f"{b.dtype} {b.shape}; both must agree from step to step"
            )
    return unflatten(structure, after) if numbers else returned
