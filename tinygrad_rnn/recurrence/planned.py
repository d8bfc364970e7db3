"""Plans: a traced step made into a program once, looked up by its structure, and run.

Every call traces its one step again and finds the plan by what the trace did: operations, shapes,
dtypes, static parameters, and which values came from outside. What those values are is an argument,
so a plan cannot be stale; how many steps there are is one, too, so preparing never grows with time.

The subtle point is purity. A plan computes each step by what one step did, so a cell must do the
same at every step. Before a structure is planned, and when a cell is first met, its step is traced
twice; if the second trace differs, the cell runs literally, and the plan says why.
"""

from __future__ import annotations

import traceback
import weakref
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly
from ..structure import Structure, flatten, unflatten
from ..tensor import Tensor, is_anomaly_detected, is_grad_enabled, wrap
from . import kernels
from .call import Bytes, Call, literally, recorded
from .ir import Table, spelled
from .memory import Steps
from .plan import Plan, cache
from .report import bytes_of_loop
from .rows import Mixed
from .trace import Step, Wanted, trace


class PlanError(RuntimeError):
    """A cell cannot be planned: the reason, and the line of yours that is to blame."""


class Unplanned(Exception):
    """Why this call is not planned."""


class Prepared(NamedTuple):
    """A plan, and what one call of it is given."""

    plan: Plan
    step: Step
    xs: list[Tensor]
    ragged: bool


def prepare(loop: Any, in_segments: bool = False) -> Prepared:
    """Trace the step of a loop and find the plan for it, or make one; raises Unplanned.

    A plan that is run in segments has the cotangent of every state: where a segment starts.
    """
    if is_anomaly_detected():
        raise Unplanned("detect_anomaly looks at every operation of every step")
    states, structure = flatten(loop.initial)
    backend = backends.of(loop.xs[0]._array)
    known = kernels.machine_of(backend) is not None
    given = [*loop.xs, *states, *(x for x in (loop.valid, loop.reset) if x is not None)]
    if loop.reset is not None:
        given += flatten(loop.reset_state)[0]
    for x in given:
        own = backends.of(x._array)
        if own is None:
            raise Unplanned("a tensor has no values here: inside vmap, or inside a cell's trace")
        if not known or own is not backend:
            names = f"{x.backend!r} beside {loop.xs[0].backend!r}"
            raise Unplanned(f"arrays are neither NumPy's nor all CuPy's, but of {names}")
    plain, start = (loop.plain_step, (loop.x_structure, loop.xs)), (structure, states)
    if loop.lengths is not None and loop.reset is None and not all(loop.full):
        found = _found(*plain, start, loop, True, in_segments)
        # Rows that are read from their ends are at different steps: none is common to them.
        if found is not None and not (loop.reverse and found.plan.reads_steps):
            return found
    step, xs = plain if loop.valid is None and loop.reset is None else loop.masked_step()
    found = _found(step, xs, start, loop, False, in_segments)
    assert found is not None
    return found


def _found(
    step: Any,
    xs: tuple[Structure, list[Tensor]],
    states: tuple[Structure, list[Tensor]],
    loop: Any,
    ragged: bool,
    in_segments: bool,
) -> Prepared | None:
    """The plan of a step; None for steps of unequal lengths whose rows are not independent."""
    at_one = [_at_one_step(x) for x in xs[1]]
    global _signatures
    if len(_signatures) > _ENOUGH_VALUES:
        _signatures = Table()
    traced = _traced(step, (xs[0], at_one), states, _signatures)
    recording = is_grad_enabled()
    wanted = Wanted(
        *(
            tuple([recording and x.requires_grad for x in part])
            for part in (xs[1], states[1], traced.captured)
        )
    )
    if in_segments and any(map(any, wanted)):
        wanted = wanted._replace(states=tuple([h.dtype.kind == "f" for h in states[1]]))
    key = (traced.key, wanted, ragged, traced.trace.backend.name)
    plan = cache.get(key)
    if plan is None:
        plan = _made(step, (xs[0], at_one), states, traced, wanted, loop.batch, ragged)
        cache.put(key, plan)
    elif isinstance(plan, Plan) and not _is_known(loop.cell):
        _compare(traced, _traced(step, (xs[0], at_one), states, _signatures))
    if isinstance(plan, str):
        if ragged and plan.startswith(_MIXED):
            return None
        raise Unplanned(plan)
    _remember(loop.cell)
    return Prepared(plan, traced, xs[1], ragged)


_MIXED = "rows are not independent"

_known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Cells of which two traces were the same. Their structure alone may be that of another cell."""


def _code(cell: Any) -> Any:
    """What a cell is known by: a function by its code, anything else by its class.

    Both may be made anew for each call.
    """
    return getattr(cell, "__code__", type(cell))


def _is_known(cell: Any) -> bool:
    return _known.get(id(_code(cell))) is _code(cell)


def _remember(cell: Any) -> None:
    if not _is_known(cell):
        with suppress(TypeError):  # without weak references a cell is traced twice each time
            _known[id(_code(cell))] = _code(cell)


def _at_one_step(x: Tensor) -> Tensor:
    """What a trace is shown of x (T, ...): that it is like its first step."""
    return wrap(x._array[0, ...], x._node)


_signatures = Table()
"""The values of all traces: those of steps that do the same are the same."""

_ENOUGH_VALUES = 100_000


def _traced(step: Any, xs: Any, states: Any, table: Table, lines: bool = False) -> Step:
    try:
        return trace(step, xs, states, table, lines=lines)
    except Exception as error:
        raise Unplanned(f"{error}{_blamed(error)}") from error


def _blamed(error: BaseException) -> str:
    """The innermost line of an error's traceback that is not the library's own."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not anomaly.is_library(frame.filename):
            return f" at {frame.filename}:{frame.lineno}: {frame.line}"
    return ""


def _made(
    step: Any, xs: Any, states: Any, first: Step, wanted: Wanted, rows: Any, ragged: bool
) -> Plan | str:
    """A plan for a new structure, or the reason why there can be none."""
    second = _traced(step, xs, states, Table(), lines=True)
    _compare(first, second)
    try:
        return Plan(second, wanted, rows, ragged)
    except Mixed as error:
        return f"{_MIXED}: {error}"


def _compare(first: Step, second: Step) -> None:
    """Raise Unplanned if two traces of one step differ: for its cell, not for its structure."""

    def same(a: Any, b: Any) -> bool:
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    changed = None
    arrays = zip(first.captured, second.captured, strict=False)
    if first.key[1:] != second.key[1:] or spelled(first.graph) != spelled(second.graph):
        changed = "operations, shapes or static parameters changed"
    elif not all(map(same, first.trace.scalars, second.trace.scalars)):
        changed = "a Python number changed, such as a counter"
    elif not all(a is b or same(a.numpy(), b.numpy()) for a, b in arrays):
        changed = "a captured array changed, such as a draw"
    if changed is not None:
        again = "the cell did something else when it was called again with the same"
        raise Unplanned(f"{again} ({changed}); a planned cell is pure")


def run_planned(loop: Any, checkpoint: Any) -> tuple[Any, Any]:
    """The results of a loop by its plan; raises Unplanned where there is none."""
    prepared = prepare(loop, checkpoint is not None)
    plan, step = prepared.plan, prepared.step
    states, structure = flatten(loop.initial)
    steps, order = _layout(loop, prepared)
    every = segment_length(plan, steps, checkpoint)
    call = Call(plan, step, steps, order, every, (len(prepared.xs), len(states)))
    lengths = None if order is None else loop.lengths
    call.literal = literally(call, loop.literally, lengths, loop.steps, loop.reverse)
    tensors = [*prepared.xs, *states, *step.captured]
    results = recorded(call, tensors)
    ys = len(plan.graph.ys)
    return unflatten(step.output, results[:ys]), unflatten(structure, results[ys:])


def segment_length(plan: Plan, steps: Steps, checkpoint: int | Bytes | None) -> int | None:
    """After how many steps the state is held, for a number of steps or a budget; None for all.

    Raises ValueError for what is neither, and for a budget that no number of steps keeps to.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, bool) or not isinstance(checkpoint, int) or checkpoint < 1:
        raise ValueError(
            f"unroll: checkpoint is a number of steps from 1 on, or Bytes(n), not {checkpoint!r}"
        )
    if not isinstance(checkpoint, Bytes):
        return int(checkpoint)
    each, state = bytes_of_loop(plan, steps.rows)
    count = steps.steps

    def needed(every: int) -> int:
        return every * each + -(-count // every) * state

    best = max((k for k in range(1, count + 1) if needed(k) <= checkpoint), default=0)
    if not best:
        least = min(range(1, count + 1), key=needed)
        raise ValueError(
            f"unroll: checkpoint=Bytes({int(checkpoint)}) is too little for {count} steps; the "
            f"least is Bytes({needed(least)}), with the state held every {least} steps"
        )
    return best


_layouts: dict[Any, Steps] = {}


def _layout(loop: Any, prepared: Prepared) -> tuple[Steps, Any]:
    """Where the rows of each step are, and the order of the rows if they end at different steps."""
    rows = loop.batch if prepared.plan.has_rows else None
    library = prepared.plan.machine.np
    if not prepared.ragged:
        key = (loop.steps, rows, loop.reverse, library)
        found = _layouts.get(key)
        if found is None:
            if len(_layouts) > 64:
                _layouts.clear()
            found = _layouts[key] = Steps(loop.steps, rows, reverse=loop.reverse, library=library)
        return found, None
    lengths = np.asarray(loop.lengths)
    order = np.argsort(-lengths, kind="stable")
    ends = lengths[order]
    longest = int(ends[0]) if len(ends) else 0
    counts = (np.arange(longest)[:, None] < ends).sum(1)
    place = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    row_of = order[place]
    step_of = np.repeat(np.arange(longest), counts)
    if loop.reverse:
        step_of = lengths[row_of] - 1 - step_of
    steps = Steps(
        *(longest, rows),
        counts=counts,
        row_of=row_of,
        step_of=step_of,
        length=loop.steps,
        library=library,
    )
    return steps, library.asarray(order)
