"""Truncated BPTT: learning while a long sequence is still being read.

``unroll`` runs the steps, a few at a time, and ``backward`` walks back through them; this file only
says how far. The graph is cut where it is linked. Wherever a later walk will have to stop, the
state goes on through a node of its own, and stopping there means that this node forgets what it was
computed from. So one graph serves all the walks through it, nodes keep the values that they were
computed with, and what no walk will reach again is freed at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..graph import Node
from ..planner.loop import Cell, beside
from ..primitives.creation import asarray
from ..primitives.elementwise import alias, where
from ..primitives.movement import concat
from ..structure import flatten, map_leaves
from ..tensor import Tensor, as_tensor
from .ragged import flags, length_of_time, steps_within
from .unroll import initial_state_beside, unroll_part


class Window(NamedTuple):
    """What ``truncated_bptt`` gives after each backward pass. None of it has a graph."""

    loss: Tensor
    """What ``loss`` returned, a scalar."""
    outputs: Any
    """The cell's, of the steps of this window: (k1, B, ...)."""
    state: Any
    """The one after the last of these steps."""


def detach(state: Any, rows: Any = None) -> Any:
    """``state`` with the same values and no graph: gradients stop here.

    Args:
        state: a Tensor or any structure of Tensors.
        rows: booleans (B,): only in the rows where it is True, along axis 0 of each Tensor.

    Raises:
        TypeError: for a state that holds something else.
        ValueError: for ``rows`` that are not booleans (B,), or a Tensor that has other rows.
    """
    for h in flatten(state)[0]:
        if not isinstance(h, Tensor):
            raise TypeError(f"detach: a state is made of Tensors; there is a {type(h).__name__}")
    if rows is None:
        return map_leaves(Tensor.detach, state)
    return map_leaves(lambda h: _detached_in(rows, h), state)


def _detached_in(rows: Any, h: Tensor) -> Tensor:
    flags = rows if isinstance(rows, Tensor) else asarray(rows, backend=h.backend)
    if flags.dtype.kind != "b" or flags.ndim != 1 or h.shape[:1] != flags.shape:
        raise ValueError(
            f"detach: rows are booleans (B,) for a state (B, ...), not {flags.dtype} "
            f"{flags.shape} for one of shape {h.shape}"
        )
    return where(beside(flags, h), h.detach(), h)


def truncated_bptt(
    cell: Cell,
    xs: Any,
    targets: Any,
    loss: Callable[[Any, Any], Tensor],
    state: Any = None,
    *,
    k1: int,
    k2: int | None = None,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
) -> Generator[Window, None, None]:
    """Run ``cell`` over ``xs`` and give gradients after every ``k1`` steps.

    ::

        for window in tg.truncated_bptt(cell, xs, targets, loss, k1=10, k2=30):
            optimizer.step()
            optimizer.zero_grad()

    This is BPTT(k2; k1) of Williams & Peng (1990). At t = k1, 2 k1, ..., and at t = T if that is no
    multiple, the loss of the steps since the last such t is propagated back through the last k2
    steps, t - k2 to t - 1; what was computed before them is constant. The gradients are added to
    ``.grad``, as by ``backward``, and you are given a ``Window``. Parameters that you change then
    are used from the next step on. The steps before keep the values computed with the old ones: in
    the next walk each step counts with the parameters that it was run with.

    A walk that comes to step 0 goes on into the initial state, and so does one that comes to a
    ``reset``: an initial state can be learned.

    Args:
        cell: as ``unroll`` takes it. What depends on parameters belongs in here or in ``loss``:
            what was computed before this call, an embedding of all of ``xs`` perhaps, gets its
            gradients, but keeps the value that it had then.
        xs: a Tensor (T, B, ...), or a structure of Tensors that share axis 0.
        targets: the same, with the same T. Whatever else ``loss`` needs of each step can be a part
            of it: the mask of the steps that count.
        loss: ``loss(outputs, targets)``, a scalar. It is given what belongs to the k1 steps of a
            window, along axis 0, and averages over them, as ``mse_loss`` does; the last window may
            be shorter, and is then averaged over fewer. It may have parameters of its own: a
            readout.
        state: the initial state; if None, ``cell.initial_state`` is asked.
        k1: steps from one backward pass to the next, at least 1.
        k2: steps that each goes back, at least ``k1``; None is ``k1``.
        lengths: how many steps each row takes, B integers on the host, as for ``unroll``.
        mask: booleans (T, B), as for ``unroll``.
        reset: booleans (T, B), as for ``unroll``. Where ``state`` was left out, it puts there what
            the cell gives as its initial state with the parameters of the moment.

    The graph never holds more than k2 steps, however large T is, and no step is run twice. What a
    cell draws are the numbers that one ``unroll`` of all steps draws: ``VariationalDropout`` keeps
    its masks for the whole sequence.

    If the cell, the loss or the backward pass raises, ``.grad`` is as it was before that window,
    and the iteration has ended. It may be left after any window.

    Raises:
        ValueError: for k1 < 1 or k2 < k1; for parts of ``xs``, ``targets``, ``lengths``, ``mask``
            or ``reset`` that do not fit T; for a loss that is no scalar.
        TypeError: for k1 or k2 that are no integers; without ``state``, for a cell without
            ``initial_state``.
    """
    _check_horizon(k1, k2)
    sequence = Sequence("truncated_bptt", cell, xs, targets, loss, state, lengths, mask, reset)
    return Windows(sequence, loss, int(k1), int(k1 if k2 is None else k2), _accumulate).run()


def _accumulate(value: Tensor) -> None:
    # Other walks will come through these steps, and through what was there before the call.
    value.backward(retain_graph=True)


class Sequence:
    """What ``unroll`` is told, of which it is given some steps at a time, by an ``operation``."""

    def __init__(
        self,
        operation: str,
        cell: Cell,
        xs: Any,
        targets: Any,
        loss: Any,
        state: Any,
        lengths: Any,
        mask: Any,
        reset: Any,
    ) -> None:
        if isinstance(xs, list):
            raise TypeError(
                f"{operation}: put a list of sequences into one batch first: "
                "xs, lengths = pad_sequences(xs)"
            )
        for name, given in (("cell", cell), ("loss", loss)):
            if not callable(given):
                raise TypeError(
                    f"{operation}: {name} is a function of two arguments or a module, not {given!r}"
                )
        if getattr(cell, "reads_sequences", False):
            raise TypeError(
                f"{operation}: {type(cell).__name__} is a layer, which reads whole sequences; give "
                "a cell, such as those in nn"
            )
        self.operation, self.cell = operation, cell
        self.xs, self.targets = map_leaves(as_tensor, xs), map_leaves(as_tensor, targets)
        parts, targets = (flatten(given)[0] for given in (self.xs, self.targets))
        self.steps = length_of_time(
            operation, "xs and targets", [*parts, *targets] if parts else []
        )
        self.lengths = None if lengths is None else self._check_lengths(lengths, mask)
        self.mask = None if mask is None else self._check_flags(mask, "mask")
        self.reset = None if reset is None else self._check_flags(reset, "reset")
        self.given = None if state is None else map_leaves(as_tensor, state)
        self.call = random.Call()

    def initial(self) -> Any:
        """The initial state; what the cell gives depends on its parameters, which change."""
        if self.given is not None:
            return self.given
        return initial_state_beside(self.cell, flatten(self.xs)[0])

    def unroll(self, first: int, last: int, state: Any) -> tuple[Any, Any]:
        """Steps ``first`` to ``last`` - 1."""
        lengths, mask, reset = self.lengths, self.mask, self.reset
        outputs, state = unroll_part(
            self.cell,
            map_leaves(lambda x: x[first:last], self.xs),
            state,
            lengths=None if lengths is None else np.clip(lengths - first, 0, last - first),
            mask=None if mask is None else mask[first:last],
            reset=None if reset is None else reset[first:last],
            reset_state=None if reset is None else self.initial(),
            since=(first, self.call),
        )
        return outputs, map_leaves(as_tensor, state)

    def _check_lengths(self, lengths: Any, mask: Any) -> np.ndarray[Any, Any]:
        if mask is not None:
            raise ValueError(f"{self.operation}: give lengths or a mask, not both")
        taken = steps_within(self.operation, lengths, self.steps, self._rows())
        return np.asarray(taken.sum(axis=0))

    def _check_flags(self, given: Any, name: str) -> Tensor:
        backend = flatten(self.xs)[0][0].backend
        return flags(self.operation, name, given, (self.steps, self._rows()), backend)

    def _rows(self) -> int:
        for x in flatten(self.xs)[0]:
            if x.ndim > 1:
                return int(x.shape[1])
        raise ValueError(
            f"{self.operation}: lengths, mask and reset speak of rows; xs has no (T, B)"
        )


class Windows:
    """The loop over the windows, with the state that goes on from one to the next.

    ``walk`` is given the loss of each, and leaves its graph to the walks that follow.
    """

    def __init__(
        self,
        sequence: Sequence,
        loss: Callable[[Any, Any], Tensor],
        k1: int,
        k2: int,
        walk: Callable[[Tensor], None],
    ) -> None:
        self.sequence, self.loss, self.walk = sequence, loss, walk
        steps = sequence.steps
        self.ends = [*range(k1, steps, k1), steps] if steps else []
        # For each end where the next walk will stop; after the last end there is none.
        self.stops = [end - k2 for end in self.ends[1:]] + self.ends[-1:]
        self.cuts = frozenset(self.stops)
        self.state = sequence.initial()
        self.links: dict[int, list[Node]] = {}  # by which the state comes to the cuts

    def run(self) -> Generator[Window, None, None]:
        """One after the other, each when it is asked for."""
        for (start, end), stop in zip(pairwise([0, *self.ends]), self.stops, strict=True):
            window = self._window(start, end)
            self._cut(stop)
            if stop == end:
                self.state = window.state
            yield window

    def _window(self, start: int, end: int) -> Window:
        outputs = self._forward(start, end)
        value = self.loss(outputs, map_leaves(lambda y: y[start:end], self.sequence.targets))
        check_loss(self.sequence.operation, value)
        self.walk(value)
        return Window(value.detach(), detach(outputs), detach(self.state))

    def _forward(self, start: int, end: int) -> Any:
        """The outputs of a window, which is run in pieces if there are cuts within."""
        pieces = []
        cuts = [step for step in range(start + 1, end) if step in self.cuts]
        for first, last in pairwise([start, *cuts, end]):
            outputs, self.state = self.sequence.unroll(first, last, self.state)
            pieces.append(outputs)
            if last in self.cuts:
                self.state = map_leaves(alias, self.state)
                leaves = flatten(self.state)[0]
                self.links[last] = [h._node for h in leaves if h._node is not None]
        return pieces[0] if len(pieces) == 1 else map_leaves(lambda *ys: concat(ys), *pieces)

    def _cut(self, stop: int) -> None:
        """From now on no walk goes further back than to step ``stop``."""
        for node in self.links.pop(stop, []):
            node.parents = ()


def check_loss(operation: str, value: Any) -> None:
    """Raise ValueError for what is no scalar Tensor."""
    if not isinstance(value, Tensor) or value.size != 1:
        shown = value.shape if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{operation}: loss(outputs, targets) returns a scalar Tensor, not {shown}; "
            "average over the steps and the batch"
        )


def _check_horizon(k1: Any, k2: Any) -> None:
    for name, k in (("k1", k1), ("k2", k1 if k2 is None else k2)):
        if not isinstance(k, (int, np.integer)):
            raise TypeError(f"truncated_bptt: {name} is a number of steps, not {k!r}")
    if k1 < 1 or (k2 is not None and k2 < k1):
        raise ValueError(
            f"truncated_bptt: 1 <= k1 <= k2, unlike k1={k1} and k2={k2}: the loss of the last k1 "
            "steps goes back through all of them, and through k2 - k1 steps more"
        )
