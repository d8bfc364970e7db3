"""``unroll``: a cell applied over time, by a plan where there is one and literally elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np

from .. import random
from ..batching import running_batches
from ..dtypes import default_dtype
from ..kernels.settings import is_set, switch
from ..planner.call import Bytes
from ..planner.evidence import Evidence, is_watched, name_of
from ..planner.lookup import PlanError, Unplanned, Unseen, check_fit, prepare, run_planned
from ..planner.loop import Cell, Loop
from ..planner.plan import Plan
from ..planner.reach import Reach
from ..planner.standing import Standing
from ..planner.trace import refuse_loop
from ..planner.training import run_in_step
from ..primitives.creation import asarray, tensor
from ..primitives.elementwise import result_type
from ..structure import flatten, map_leaves
from ..tensor import MODE, Tensor, as_tensor, no_grad
from ..transforms import needs_graph
from .loop import run
from .ragged import batch_of, flags, length_of_time, steps_within, unpad_sequences

Note = Callable[..., tuple[Any, Any]]
_note: ContextVar[Note | None] = ContextVar("tinygrad_rnn_loops_noted", default=None)


@contextmanager
def note_loops(note: Note) -> Iterator[None]:
    """Loops in this block are not run: ``note`` is told of each, and gives what stands for it.

    It is called with what ``unroll`` was given, by name: for whoever makes a graph of a model, and
    wants its loops as they are.
    """
    token = _note.set(note)
    try:
        yield
    finally:
        _note.reset(token)


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
        state: a structure of Tensors that the cell takes and returns, batch along axis 0: it has
            the rows of xs (``broadcast_to`` gives all of them the same). If None,
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

    A planned cell is called once for each call of ``unroll``, on values that have a shape and
    nothing else. So it must do the same at every step: its results depend on x, the state and what
    it captures, and on no counter, global or random number of its own (those of
    ``tinygrad_rnn.random`` are known). In mode "auto" this is shown before it is relied on: a cell
    of yours runs literally, and is planned once 8 steps, of one call or several, were alike, if
    nothing changed in what it can reach. It is known by its code and by what it holds, integers and
    strings by value, floats by whether they are 0: one made anew for each call is known, one whose
    integer is another each time never is. ``@tinygrad_rnn.pure`` and the mode "planned" trust it at
    once, as cells of the library are. The limit that remains: a cell that changes in a way that
    shows neither in those steps nor in what can be reached from it, such as one that looks at a
    file or the clock by means of its own. ``testing.check_planned`` compares both ways, and so does
    every call while ``TINYGRAD_RNN_CHECK=1`` is in the environment. A call of more than 256 steps,
    or with ``checkpoint``, is planned from its 65th step on.

    Raises:
        PlanError: for "planned", where the cell cannot be planned, with the reason and your line;
            and if a check by ``TINYGRAD_RNN_CHECK=1`` fails.
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
    note = _note.get()
    if note is not None:
        return note(
            cell=cell,
            xs=xs,
            state=state,
            lengths=lengths,
            mask=mask,
            reset=reset,
            reset_state=reset_state,
            reverse=reverse,
        )
    if isinstance(xs, list):
        batch, lengths, reset = batch_of("unroll", xs, lengths, mask, reset)
        loop = make_loop(cell, batch, state, lengths, None, reset, reset_state, reverse)
        outputs, state = _execute(loop, mode, checkpoint)
        return unpad_sequences(outputs, lengths), state
    loop = make_loop(cell, xs, state, lengths, mask, reset, reset_state, reverse)
    return _execute(loop, mode, checkpoint)


def unroll_part(
    cell: Cell,
    xs: Any,
    state: Any,
    *,
    lengths: Any,
    mask: Any,
    reset: Any,
    reset_state: Any,
    since: tuple[int, random.Call],
) -> tuple[Any, Any]:
    """``unroll`` of some steps of a sequence, which draw what they draw when all are one call.

    ``since`` is the first of them, and the call that they all belong to.
    """
    loop = make_loop(cell, xs, state, lengths, mask, reset, reset_state, reverse=False)
    if MODE.get().recorder is None:  # a step that is recorded runs often, each time for a new call
        loop.since = since
    return _execute(loop, "auto", None)


SWITCH = 256
"""Steps of a call beyond which it is planned before it ends: after SEEN of them."""
SEEN = 64


def _execute(loop: Loop, mode: str, checkpoint: int | None) -> tuple[Any, Any]:
    """The results of a loop, planned if it may and can be."""
    if MODE.get().recorder is not None:
        return _execute_in_step(loop, mode, checkpoint)
    refuse_loop([*loop.xs, *loop.states])
    literal = mode == "literal" or MODE.get().literal or needs_graph()
    if literal or loop.steps == 0 or loop.batch == 0:
        return run(loop)
    if is_watched() and mode == "auto":
        return run(loop)
    check = is_set("TINYGRAD_RNN_CHECK") and switch("TINYGRAD_RNN_CHECK")
    at = random.position() if check else None
    standing = Standing(loop.cell)
    planned = True
    if mode == "planned" or standing.known:
        try:
            asked = mode == "auto" and not standing.trusted
            results = run_planned(loop, checkpoint, standing.knows if asked else None)
            if mode == "planned" and (name := standing.gained()) is not None:
                raise Unplanned(
                    f"{name_of(loop.cell)} changes {name}: it keeps a tensor of a trace"
                )
        except Unseen:
            standing.restore()
            results, planned = _as_evidence(loop, standing, checkpoint)
        except Unplanned as reason:
            standing.restore()
            results = run(loop)  # an error of the cell's own is raised as it is
            if mode == "planned":
                raise PlanError(f"unroll: mode='planned', but {reason}") from None
            return results
        except IndexError:
            standing.restore()
            _name_index(loop)
            raise
        except BaseException:
            standing.restore()
            raise
    else:
        results, planned = _as_evidence(loop, standing, checkpoint)
    if at is not None and planned:
        _check(loop, results, at)
    return results


def _name_index(loop: Loop) -> None:
    """Raise what the literal loop says of an index out of range: a program knows no operations."""
    try:
        with random.replay(random.position()), no_grad():
            run(loop)
    except IndexError as named:
        raise named from None


def _execute_in_step(loop: Loop, mode: str, checkpoint: int | None) -> tuple[Any, Any]:
    """What stands for the results of a loop inside a step that is traced, or Unplanned."""
    if mode == "literal" or MODE.get().literal or needs_graph() or not (loop.steps and loop.batch):
        raise Unplanned("a loop inside runs literally")
    standing = Standing(loop.cell)
    try:
        if mode != "planned" and not standing.known:
            if standing.reason is not None:
                raise Unplanned(standing.reason)
            raise Unseen(f"{name_of(loop.cell)} is yet to be watched")
        asked = mode == "auto" and not standing.trusted
        return run_in_step(loop, checkpoint, standing.knows if asked else None)
    except BaseException:
        standing.restore()
        raise


def _as_evidence(loop: Loop, standing: Standing, checkpoint: int | None) -> tuple[Any, bool]:
    """The results of a loop that runs literally and is watched, and whether its end was planned."""
    try:
        check_fit(loop)
    except Unplanned:
        return run(loop), False
    if loop.steps == 1 or running_batches():  # neither shows anything
        return run(loop), False
    if standing.reason is not None:
        standing.warn(loop.steps)
        results = run(loop)
        standing.settle(standing.reason, (), 0)
        return results, False
    loop.watch = evidence = Evidence(loop.cell)
    switched = False

    def rest(state: Any) -> Any:
        nonlocal switched
        if evidence.finish() is not None:
            return None
        loop.watch = None
        standing.settle(None, evidence.operations, evidence.steps)
        now = Standing(loop.cell)
        left = loop.after(SEEN, state, random.this_call())
        if left.lengths is not None and not left.lengths.any():
            return None
        try:
            found = run_planned(left, checkpoint, now.knows)
        except Unplanned:
            now.restore()
            return None
        switched = True
        return found

    long = loop.steps > SWITCH or checkpoint is not None
    results = run(loop, rest if long else None, SEEN)
    if loop.watch is not None:
        loop.watch = None
        standing.settle(evidence.finish(), evidence.operations, evidence.steps)
    return results, switched


ROUNDING = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-11}
"""How far planned and literal may be apart, relative to the largest magnitude of an array."""


def _check(loop: Loop, results: tuple[Any, Any], at: random.Position) -> None:
    """Compare what a plan gave with the literal loop; raises PlanError."""
    with random.replay(at), no_grad():
        expected = run(loop)
    pairs = zip(flatten(results)[0], flatten(expected, flatten(results)[1])[0], strict=True)
    for i, (found, literal) in enumerate(pairs):
        a, b = found.numpy(), literal.numpy()
        finite = np.isfinite(b) if b.dtype.kind == "f" else np.ones(b.shape, dtype=bool)
        scale = float(np.max(np.abs(b), where=finite, initial=0.0))
        apart = float(np.max(np.abs(a * 1.0 - b), where=finite, initial=0.0))
        same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
        if not same or apart > ROUNDING.get(b.dtype.name, 0.0) * scale:
            raise PlanError(
                f"unroll: TINYGRAD_RNN_CHECK: planned and literal differ by {apart:.2g} in part "
                f"{i} of outputs and state, whose largest element is {scale:.2g}: "
                f"{name_of(loop.cell)} is not pure, or not numerically stable"
            )


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
    loop = make_loop(cell, xs, state, lengths, mask, reset, None, reverse)
    if loop.steps == 0 or loop.batch == 0:
        return Plan.literal("there are no steps, or no rows: nothing is computed")
    standing = Standing(cell)
    reason = standing.reason
    if reason is None and not standing.known and standing.record is not None:
        reason = standing.record.reason or None
    if reason is not None:
        return Plan.literal(reason)
    try:
        found, name = prepare(loop).plan, None
        if not standing.trusted and standing.changed():  # perhaps it has set itself up
            before = Reach(cell, exactly=True)
            found = prepare(loop).plan
            name = before.changed(Reach(cell, exactly=True))
    except Unplanned as unplanned:
        return Plan.literal(str(unplanned))
    finally:
        standing.restore()
    if name is not None:
        return Plan.literal(f"{name_of(cell)} changes {name} when it is called, like a counter")
    found = copy.copy(found)
    found.standing = standing.describe()
    return found


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


def make_loop(
    cell: Cell,
    xs: Any,
    state: Any,
    lengths: Any,
    mask: Any,
    reset: Any,
    reset_state: Any,
    reverse: bool,
) -> Loop:
    """The loop of a call, its arguments checked."""
    leaves, structure = flatten(xs)
    if not leaves:
        raise ValueError("unroll: xs is empty")
    parts = [tensor(x) if isinstance(x, np.ndarray) else as_tensor(x) for x in leaves]
    length_of_time("unroll", "xs", parts)
    if state is None:
        state = initial_state_beside(cell, parts)
    loop = Loop(cell, parts, structure, map_leaves(as_tensor, state), reverse, _literally)
    _check_one_row(loop)
    _check_batch(loop, lengths=lengths, mask=mask, reset=reset)
    if lengths is not None:
        if mask is not None:
            raise ValueError("unroll: give lengths or a mask, not both")
        assert loop.batch is not None
        taken = steps_within("unroll", lengths, loop.steps, loop.batch)
        loop.full = [bool(every) for every in np.all(taken, axis=1).tolist()]
        loop.lengths = taken.sum(axis=0)
        loop.valid = asarray(taken, backend=parts[0].backend)
    else:
        loop.valid = _flags(loop, mask, "mask")
    loop.reset = _flags(loop, reset, "reset")
    loop.reset_state = loop.initial if reset_state is None else _fresh(loop, reset_state)
    return loop


def _literally(cell: Cell, xs: Any, state: Any, lengths: Any, reverse: bool) -> tuple[Any, Any]:
    """``unroll`` in mode "literal"."""
    return run(make_loop(cell, xs, state, lengths, None, None, None, reverse))


def _fresh(loop: Loop, reset_state: Any) -> Any:
    """``reset_state``, shaped like the state it replaces."""
    fresh = map_leaves(as_tensor, reset_state)
    after, own = flatten(fresh)
    before, structure = flatten(loop.initial, own)
    shapes = [[f"{leaf.dtype} {leaf.shape}" for leaf in leaves] for leaves in (after, before)]
    if own != structure or shapes[0] != shapes[1]:
        raise ValueError(
            f"unroll: reset_state is structured {own} of {shapes[0]}, the state {structure} of "
            f"{shapes[1]}; they must agree"
        )
    return fresh


def _check_one_row(loop: Loop) -> None:
    """Refuse inputs of one row beside a state of several, which would silently make them many."""
    if loop.batch == 1:  # the state's rows, or it has none
        return
    vectors = [x for x in loop.xs if x.ndim > 2]
    rows = {h.shape[0] if h.ndim > 1 else 1 for h in loop.states}
    if vectors and all(x.shape[1] == 1 for x in vectors) and len(rows) == 1 and rows != {1}:
        (count,) = rows
        raise ValueError(
            f"unroll: xs {[x.shape for x in loop.xs]} have 1 row, and the state "
            f"{[h.shape for h in loop.states]} has {count}; a state has the rows of xs. What all "
            f"rows read is broadcast_to(xs, (T, {count}, ...)), and a state without rows, of which "
            "a cell makes what it likes, gets an axis: state[None]"
        )


def _check_batch(loop: Loop, **options: Any) -> None:
    """Whether there are rows for the options given to speak of."""
    given = [name for name, value in options.items() if value is not None]
    if not given:
        return
    if loop.batch is None:
        raise ValueError(
            f"unroll: {given[0]} speaks of rows, but there is no batch axis: xs have shapes "
            f"{[x.shape for x in loop.xs]} and the state {[h.shape for h in loop.states]}; a batch "
            "of one is xs[:, None] and a state (1, ...)"
        )
    loop.check_rows("state", loop.state_structure, loop.states)
    for x in loop.xs:
        if x.ndim > 1 and x.shape[1] != loop.batch:
            raise ValueError(
                f"unroll: with {given[0]}, axis 1 of xs has to be the {loop.batch} rows; one "
                f"has shape {x.shape}. Broadcast to (T, {loop.batch}, ...) what all rows share"
            )


def _flags(loop: Loop, given: Any, name: str) -> Tensor | None:
    if given is None:
        return None
    assert loop.batch is not None
    return flags("unroll", name, given, (loop.steps, loop.batch), loop.xs[0].backend)
