"""Plans: a traced step made into a program once, looked up by its structure, and run.

Every call traces its one step again and finds the plan by what the trace did: operations, shapes,
dtypes, static parameters, and which values are captured. What those values are is an argument,
so a plan cannot be stale; how many steps there are is one, too, so preparing never grows with time.

A cell is known by the operations of a step (``evidence``); if a trace has others, the cell is put
back as it was and the call runs literally.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly
from ..kernels.machine import machine_of
from ..kernels.settings import SettingError
from ..structure import flatten, unflatten
from ..tensor import MODE, Tensor, is_anomaly_detected, is_grad_enabled, unrecorded, wrap
from .call import Bytes, Call, make_literal, run_and_record
from .compile import compile_step
from .evidence import Operations
from .ir import Table, spell
from .loop import Cell, Loop
from .passes.rows import Mixed
from .plan import Plan
from .planner import planner
from .report import bytes_of_loop
from .runtime.steps import Steps
from .trace import Parts, Step, TracedArray, Wanted, trace


class PlanError(RuntimeError):
    """A cell cannot be planned: the reason, and the line of yours that is to blame."""


class Unplanned(Exception):
    """Why this call is not planned."""


class Unseen(Unplanned):
    """A cell does what it has not been seen to do."""


class Prepared(NamedTuple):
    """A plan, and what one call of it is given."""

    plan: Plan
    step: Step
    xs: list[Tensor]
    ragged: bool


def check_fit(loop: Loop) -> None:
    """Raise Unplanned for a loop that is not planned, whatever its cell does."""
    if is_anomaly_detected():
        raise Unplanned("detect_anomaly looks at every operation of every step")
    recorded = MODE.get().recorder is not None
    backend = _backend_of(loop.xs[0], recorded)
    known = machine_of(backend) is not None
    given = [*loop.xs, *loop.states, *(x for x in (loop.valid, loop.reset) if x is not None)]
    if loop.reset is not None:
        given += flatten(loop.reset_state)[0]
    for x in given:
        own = _backend_of(x, recorded)
        if own is None:
            raise Unplanned("a tensor has no values here: inside vmap, or inside a cell's trace")
        if not known or own is not backend:
            names = f"{x.backend!r} beside {loop.xs[0].backend!r}"
            raise Unplanned(f"arrays are neither NumPy's nor all CuPy's, but of {names}")


def _backend_of(x: Tensor, recorded: bool) -> Any:
    """That of an array with values, or that will have some when a step is run."""
    array = x._array
    whole = recorded and type(array) is TracedArray
    return array.backend if whole else backends.of(array)


def prepare(
    loop: Loop, in_segments: bool = False, knows: Callable[[tuple[Any, ...]], bool] | None = None
) -> Prepared:
    """Trace the step of a loop and find the plan for it, or make one; raises Unplanned.

    A plan that is run in segments has the cotangent of every state: where a segment starts. If
    operations are given that the cell may do, it raises Unseen for others.
    """
    check_fit(loop)
    if knows is not None:
        loop.watch = operations = Operations()
    try:
        found = _prepare(loop, in_segments)
    finally:
        loop.watch = None
    if knows is not None and not knows(tuple(operations.names)):
        raise Unseen("the cell does what it has not been seen to do")
    return found


def _prepare(loop: Loop, in_segments: bool) -> Prepared:
    start = loop.state_structure, loop.states
    plain = loop.plain_step, (loop.x_structure, loop.xs)
    if loop.lengths is not None and loop.reset is None and not loop.all_full:
        found = _find_plan(*plain, start, loop, True, in_segments)
        # Rows that are read from their ends are at different steps: none is common to them.
        if found is not None and not (loop.reverse and found.plan.reads_steps):
            return found
    whole = loop.reset is None and loop.all_full
    step, xs = plain if whole else loop.masked_step()
    found = _find_plan(step, xs, start, loop, False, in_segments)
    assert found is not None
    return found


def _find_plan(
    step: Cell,
    xs: Parts,
    states: Parts,
    loop: Loop,
    ragged: bool,
    in_segments: bool,
) -> Prepared | None:
    """The plan of a step; None for steps of unequal lengths whose rows are not independent."""
    at_one = [_at_one_step(x) for x in xs[1]]
    traced = _trace(step, (xs[0], at_one), states, planner.table)
    recording = is_grad_enabled()
    wanted = Wanted(
        *(
            tuple([recording and x.requires_grad for x in part])
            for part in (xs[1], states[1], traced.captured)
        )
    )
    if in_segments and any(map(any, wanted)):
        wanted = wanted._replace(states=tuple([h.dtype.kind == "f" for h in states[1]]))
    key = (traced.key, wanted, ragged, loop.batch, traced.trace.backend.name)
    plan = planner.get(key)
    if plan is None:
        plan = _make_plan(step, (xs[0], at_one), states, traced, wanted, loop.batch, ragged)
        planner.put(key, plan)
    if isinstance(plan, str):
        if ragged and plan.startswith(_MIXED):
            return None
        raise Unplanned(plan)
    return Prepared(plan, traced, xs[1], ragged)


_MIXED = "rows are not independent"


def _at_one_step(x: Tensor) -> Tensor:
    """What a trace is shown of x (T, ...): that it is like its first step."""
    array = x._array
    if type(array) is TracedArray:
        array = _Like(array.shape[1:], array.dtype, array.backend)
    else:
        array = array[0, ...]
    return wrap(array, x._node)


class _Like(NamedTuple):
    """An array to trace a step with, of which nothing but this is looked at."""

    shape: tuple[int, ...]
    dtype: Any
    backend: Any


def _trace(
    step: Cell,
    xs: Parts,
    states: Parts,
    table: Table,
    *,
    lines: bool = False,
) -> Step:
    try:
        return trace(step, xs, states, table, lines=lines)
    except Exception as error:
        raise Unplanned(f"{error}{blame(error)}") from error


_NUMPY = os.path.dirname(np.__file__) + os.sep


def blame(error: BaseException) -> str:
    """The innermost line of an error's traceback that is not the library's own."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not anomaly.is_library(frame.filename) and not frame.filename.startswith(_NUMPY):
            return f" at {frame.filename}:{frame.lineno}: {frame.line}"
    return ""


def _make_plan(
    step: Cell,
    xs: Parts,
    states: Parts,
    first: Step,
    wanted: Wanted,
    rows: int | None,
    ragged: bool,
) -> Plan | str:
    """A plan for a new structure, or the reason why there can be none."""
    second = _trace(step, xs, states, Table(), lines=True)
    _compare(first, second)
    reason: str | None = None
    for instead in ("as a program of NumPy", "literally"):
        try:
            with unrecorded():
                plan = compile_step(second, wanted, rows, ragged, reason)
        except Mixed as error:
            return f"{_MIXED}: {error}"
        except (SettingError, Warning):  # the environment's, or a warning that is to be an error
            raise
        except Exception as error:  # a mistake of the planner's is no reason to stop
            kind = type(error).__name__
            reason = f"the planner failed on it, please report this: {kind}: {error}"
            warnings.warn(f"a loop runs {instead}, since {reason}", stacklevel=2)
        else:
            return plan
    assert reason is not None
    return reason


def _compare(first: Step, second: Step) -> None:
    """Raise Unplanned if two traces of one step differ: for its cell, not for its structure."""

    def same(a: Any, b: Any) -> bool:
        if type(a) is TracedArray or type(b) is TracedArray:
            return type(a) is type(b) and a.value is b.value
        return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    def on_host(a: Any) -> Any:
        return a if type(a) is TracedArray else first.trace.backend.to_host(a)

    changed = None
    arrays = zip(first.trace.arrays, second.trace.arrays, strict=False)
    if first.key[1:] != second.key[1:] or spell(first.graph) != spell(second.graph):
        changed = "operations, shapes or static parameters changed"
    elif not all(map(same, first.trace.scalars, second.trace.scalars)):
        changed = "a Python number changed, such as a counter"
    elif not all(a is b or same(*map(on_host, (a, b))) for a, b in arrays):
        changed = "a captured array changed, such as a draw"
    if changed is not None:
        again = "the cell did something else when it was called again with the same"
        raise Unplanned(f"{again} ({changed}); a planned cell is pure")


def run_planned(
    loop: Loop, checkpoint: int | None, knows: Callable[[tuple[Any, ...]], bool] | None = None
) -> tuple[Any, Any]:
    """The results of a loop by its plan; raises Unplanned where there is none."""
    prepared = prepare(loop, checkpoint is not None, knows)
    plan, step = prepared.plan, prepared.step
    steps, order = lay_out(loop, prepared)
    every = segment_length(plan, steps, checkpoint)
    counts = len(prepared.xs), len(loop.states)
    call = Call(plan, step, steps, order, every, counts, loop.since)
    lengths = None if order is None else loop.lengths
    call.literal = make_literal(call, loop.literally, lengths, loop.steps, loop.reverse)
    tensors = [*prepared.xs, *loop.states, *step.captured]
    results = run_and_record(call, tensors)
    ys = len(plan.graph.ys)
    return unflatten(step.output, results[:ys]), unflatten(loop.state_structure, results[ys:])


def segment_length(plan: Plan, steps: Steps, checkpoint: int | Bytes | None) -> int | None:
    """After how many steps the state is held, for a number of steps or a budget; None for all.

    Raises ValueError for a budget that no number of steps keeps to.
    """
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Bytes):
        return int(checkpoint)
    each, besides, start = bytes_of_loop(plan, steps.rows)
    count = steps.steps
    lengths = np.arange(1, count + 1)
    needed = lengths * each + besides + -(-count // lengths) * start
    within = np.flatnonzero(needed <= checkpoint)
    if not within.size:
        least = int(needed.argmin())
        raise ValueError(
            f"unroll: checkpoint=Bytes({int(checkpoint)}) is too little for {count} steps; the "
            f"least is Bytes({needed[least]}), with the state held every {least + 1} steps"
        )
    return int(lengths[within[-1]])


def lay_out(loop: Loop, prepared: Prepared) -> tuple[Steps, Any]:
    """Where the rows of each step are, and the order of the rows if they end at different steps."""
    rows = loop.batch if prepared.plan.has_rows else None
    library = prepared.plan.machine.np
    if not prepared.ragged:
        return planner.layout(loop.steps, rows, loop.reverse, library), None
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
