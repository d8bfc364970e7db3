"""A loop: one call of ``unroll``, checked; what the literal loop runs and the planner reads.

It has what was given, and one step: the cell with what ``lengths``, ``mask`` and ``reset`` make of
it. Which steps are taken in which order, and how, is for others to say.

The subtle part is ragged input. A step that a row does not take must leave its state as it was and
contribute nothing, though the loop computes it. What is not chosen gets a cotangent of 0, but 0 *
nan would reach a weight's gradient. So such a step sees neither the padding, which may hold nan,
nor the carried state beside an input that it never met, which may make nan of both. It is given
what the row's first step is given, input and initial state: a pair that is evaluated anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..graph import topological_order
from ..primitives.creation import arange, zeros_like
from ..primitives.elementwise import astype, where
from ..primitives.movement import flip, reshape
from ..primitives.reduction import any, argmax
from ..structure import Structure, flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor, detect_anomaly, enable_grad, origin

Cell = Callable[[Any, Any], tuple[Any, Any]]


Unroll = Callable[[Cell, Any, Any, Any, bool], tuple[Any, Any]]
"""Runs (cell, xs, state, lengths, reverse)."""


class Watch(Protocol):
    """Whoever wants to see a cell at work: it calls the cell."""

    def call(self, cell: Cell, x: Any, state: Any) -> Any:
        """``cell(x, state)``."""
        ...


@dataclass
class Loop:
    """One call of ``unroll``.

    Args:
        cell: what is applied at each step.
        xs: the parts of the input (T, ...).
        x_structure: how they are put together.
        initial: the state before the first step.
        reverse: whether the last step is the first.
        literally: runs (cell, xs, state, lengths, reverse) literally.
        lengths: how many steps each row takes, (B,) on the host, or None.
        valid: which rows take which steps, (T, B), or None.
        full: at which steps all of them do.
        reset: which rows start from ``reset_state`` before which steps, (T, B), or None.
        reset_state: the state they start from.
        watch: sees the cell at work.
        since: the time step of the first of these steps, and the random call that it belongs to.
    """

    cell: Cell
    xs: list[Tensor]
    x_structure: Structure
    initial: Any
    reverse: bool
    literally: Unroll
    lengths: Any = None
    valid: Tensor | None = None
    full: list[bool] | None = None
    reset: Tensor | None = None
    reset_state: Any = None
    watch: Watch | None = None
    since: tuple[int, random.Call | None] = (0, None)

    def __post_init__(self) -> None:
        self.steps: int = self.xs[0].shape[0]
        self.states: list[Tensor]
        self.states, self.state_structure = flatten(self.initial)
        self.batch: int | None = None
        for shape in [h.shape for h in self.states] + [x.shape[1:] for x in self.xs]:
            if shape:
                self.batch = shape[0]
                break

    def all_rows_at(self, step: int) -> bool:
        """Whether all rows take a step."""
        return self.valid is None or (self.full is not None and self.full[step])

    def after(self, taken: int, state: Any, call: random.Call | None) -> Loop:
        """What is left of it when the first steps have been taken, to a state."""
        left = self.steps - taken
        part = slice(0, left) if self.reverse else slice(taken, None)
        lengths = self.lengths
        if lengths is not None:
            skipped = 0 if self.reverse else taken
            lengths = np.clip(lengths - skipped, 0, left)
        return replace(
            self,
            xs=[x[part] for x in self.xs],
            initial=state,
            lengths=lengths,
            valid=None if self.valid is None else self.valid[part],
            full=None if self.full is None else self.full[part],
            reset=None if self.reset is None else self.reset[part],
            watch=None,
            since=(0 if self.reverse else self.since[0] + taken, call),
        )

    @property
    def all_full(self) -> bool:
        """Whether all rows take all steps."""
        return self.valid is None or (self.full is not None and all(self.full))

    def step(self, x: Any, state: Any, valid: Any, reset: Any, spare: Any) -> tuple[Any, Any]:
        """One step, with flags (B,) of the rows that take it and that start afresh, or None."""
        before = state
        if reset is not None:
            state = _choose(reset, self.reset_state, state)
        if valid is not None:
            state = _choose(valid, state, spare)
        output, following = self.check_step(x, state)
        leaves, structure = flatten(output)
        leaves = [as_tensor(y) for y in leaves]
        if self.valid is not None:
            self.check_rows("output", structure, leaves)
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

    def check_step(self, x: Any, state: Any) -> tuple[Any, Any]:
        """The cell applied once, and what it returned checked."""
        watch = self.watch
        result = self.cell(x, state) if watch is None else watch.call(self.cell, x, state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"unroll: a cell returns (output, state), not {flatten(result)[1]}; "
                "a state of several parts is one tuple: return h, (h, c)"
            )
        return result[0], _check_state(self.cell, x, state, result[1])

    def check_rows(self, name: str, structure: Structure, leaves: list[Tensor]) -> None:
        """Raise ValueError for leaves that have not the rows along axis 0."""
        for place, leaf in enumerate(leaves):
            if leaf.shape[:1] != (self.batch,):
                path = _paths(name, structure)[place]
                raise ValueError(
                    f"unroll: with lengths, mask or reset, axis 0 of {path} has to be the "
                    f"{self.batch} rows, which may differ; its shape is {leaf.shape}. Broadcast it "
                    f"to ({self.batch}, ...), or compute from the outputs what all rows share"
                )

    def without_padding(self) -> tuple[list[Tensor], Any]:
        """What a row is given at steps that it skips: by inputs put there, and a state.

        Both are those of the row's first step, the last one in time if reversed. A row without any
        takes another row's. No gradient flows through them.
        """
        valid = self.valid
        if valid is None or self.all_full or not self.batch:
            return self.xs, self.initial
        backend = self.xs[0].backend
        taken = astype(valid, "int32")
        step = argmax(flip(taken, axis=0) if self.reverse else taken, axis=0)
        step = self.steps - 1 - step if self.reverse else step
        own = arange(self.batch, dtype=step.dtype, backend=backend)
        takes = any(valid, axis=0)
        row = where(takes, own, argmax(astype(takes, "int32")))
        step = step[row]

        def fill(x: Tensor) -> Tensor:
            if x.ndim == 1:
                return x  # the same for all rows
            first = x.detach()[step, row]
            # Where no row takes a step, what stands there may be nan.
            return where(beside(valid, x), x, where(any(takes), first, zeros_like(first)))

        start = self.initial
        if self.reset is not None:
            start = _choose(self.reset[step, own], self.reset_state, start)
        return [fill(x) for x in self.xs], map_leaves(lambda h: h.detach()[row], start)


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
    return where(beside(flags, x), x, False if x.dtype.kind == "b" else 0)


def beside(flags: Tensor, x: Tensor) -> Tensor:
    """Flags (B,) or (T, B) shaped to choose between elements of x, which starts with these axes."""
    return reshape(flags, flags.shape + (1,) * (x.ndim - flags.ndim))


def _choose(flags: Any, chosen: Any, other: Any) -> Any:
    return map_leaves(lambda a, b: where(beside(flags, a), a, b), chosen, other)


def _check_state(cell: Cell, x: Any, given: Any, returned: Any) -> Any:
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
    for place, (a, b) in enumerate(zip(before, after, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            part = _paths("state", structure)[place] if structure.container else "state"
            cause = "" if a.dtype == b.dtype else _find_promotion(cell, x, given, place)
            raise TypeError(
                f"unroll: the cell was given a {part} of {a.dtype} {a.shape} and returned "
                f"{b.dtype} {b.shape}; both must agree from step to step{cause}"
            )
    return unflatten(structure, after) if numbers else returned


def _find_promotion(cell: Cell, x: Any, state: Any, place: int) -> str:
    """The line that gave a part of the state its dtype, by one more step; nothing if not found."""

    def own(leaf: Tensor) -> Tensor:
        if backends.of(leaf._array) is None:
            raise TypeError("a tensor without values")
        return Tensor(leaf.detach(), requires_grad=leaf.dtype.kind == "f")

    try:
        with enable_grad(), detect_anomaly():
            after = flatten(cell(map_leaves(own, x), map_leaves(own, state))[1])[0][place]
    except Exception:  # of a cell that is not the same twice, or whose numbers are not finite
        return ""
    if not isinstance(after, Tensor) or after._node is None:
        return ""
    order = topological_order([after._node])
    dtypes = {after._node: after.dtype}
    for node in order:
        if node.outputs:
            dtypes[node] = node.outputs[0][1]
        dtypes |= {parent: meta[1] for parent, meta in zip(node.parents, node.metas, strict=False)}
    alike = {after._node}  # from which the dtype came, each from the one before it
    for node in order:
        if node in alike:
            alike |= {parent for parent in node.parents if dtypes.get(parent) == after.dtype}
    made = [
        n for n in alike if n.witness and n.metas and after.dtype not in [m[1] for m in n.metas]
    ]
    if not made:
        return ""
    first = min(made, key=lambda node: node.serial)
    return (
        f". {origin(first)} made {dtypes[first]} of {first.metas[0][1]} at {first.witness.line}: a "
        "NumPy scalar or array beside it decides the dtype, where a Python number does not; "
        "float(x) makes one of a scalar, astype converts the rest"
    )
