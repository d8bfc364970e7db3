"""What a function does, as a graph whose loops are values.

The function is run once on arrays that have a shape and no values, by the planner's tracing, and
every ``unroll`` in it becomes one value: its cell is run on sources of one step, within the same
trace. A step may read values from outside of the loop, such as what a decoder attends to. They are
recognised by not depending on the step's sources, and are inputs of the loop like its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .. import anomaly, random
from ..planner.ir import Table, Value, ordered
from ..planner.trace import Trace, TracedArray, Untraceable
from ..recurrence.ragged import steps_before
from ..recurrence.unroll import make_loop, note_loops
from ..structure import Structure, flatten, unflatten
from ..tensor import Tensor, as_tensor, no_grad, wrap
from .library import ExportError
from .recurrent import Step, native


class Meta(NamedTuple):
    """What a trace knows of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


looped: Any = SimpleNamespace(name="unroll")  # stands where other values have a primitive


class Recorded(NamedTuple):
    """A function as a graph: its inputs, its results and how these are put together."""

    trace: Trace
    inputs: list[Value]
    outputs: list[Value]
    structure: Structure


def record(function: Callable[..., Any], metas: list[Meta], xp: Any) -> Recorded:
    """Run a function of arrays like ``metas`` on no values.

    Raises ExportError where it asks for a value or draws a random number, with the line that does.
    """
    table = Table()
    table.line = anomaly.cell_line
    with no_grad():
        trace = Trace(xp, table)
        numbers = itertools.count(len(metas))

        def note(**call: Any) -> tuple[Any, Any]:
            return _noted(trace, numbers, **call)

        given = [trace.input("x", i, meta) for i, meta in enumerate(metas)]
        try:
            with random.traced(_refuse), note_loops(note):
                result = function(*given)
            leaves, structure = flatten(result)
            outputs = [value_of(trace, leaf) for leaf in leaves]
        except Untraceable as error:
            raise ExportError(f"export: {error}") from error
        except Exception as error:
            if TracedArray.why_no_value in str(error):
                raise ExportError(
                    f"export: {line_of(error)} asks for a value, and a model is written as what "
                    "it does for all of them; use functions of tinygrad_rnn (where instead of if)"
                ) from error
            error.add_note("This happened when the model was run for export, on sizes of its own.")
            raise
        finally:
            trace.running = False
    values = [array._array.value for array in given]
    return Recorded(trace, values, outputs, structure)


def value_of(trace: Trace, leaf: Any) -> Value:
    """The value of a Tensor of the trace; another is captured."""
    tensor = as_tensor(leaf)
    array: Any = tensor._array
    own = type(array) is TracedArray and array.trace is trace
    return array.value if own else trace.enter(tensor)


def line_of(error: BaseException) -> str:
    """The user's line that an error comes from."""
    found, walk = "an unknown line", error.__traceback__
    while walk is not None:
        name = walk.tb_frame.f_code.co_filename
        if not anomaly.is_library(name):
            found = f"{name}:{walk.tb_lineno}"
        walk = walk.tb_next
    return found


def _refuse(draw: Any) -> Tensor:
    raise ExportError(
        f"export: random numbers are drawn at {anomaly.cell_line()}; a model is exported as it is "
        "in eval(), and draws outside of dropout have to be inputs"
    )


def _noted(
    trace: Trace,
    numbers: Any,
    cell: Any,
    xs: Any,
    state: Any,
    lengths: Any,
    mask: Any,
    reset: Any,
    reset_state: Any,
    reverse: bool,
) -> tuple[Any, Any]:
    """A loop as one value of the trace: the results of ``unroll``."""
    if isinstance(xs, list):
        raise ExportError(
            "export: a list of sequences is as many arrays as there are rows; give one batch, and "
            "lengths"
        )
    given = None
    if lengths is not None:
        if mask is not None:
            raise ValueError("unroll: give lengths or a mask, not both")
        given = as_tensor(lengths)
        mask = steps_before(given, flatten(xs)[0][0].shape[0])
    loop = make_loop(cell, xs, state, None, mask, reset, reset_state, reverse)
    flags = [flag for flag in (loop.valid, loop.reset) if flag is not None]
    parts = [value_of(trace, x) for x in [*loop.xs, *flags]]
    states = [value_of(trace, h) for h in loop.states]
    at_step = [trace.input("x", next(numbers), Meta(v.shape[1:], v.dtype)) for v in parts]
    before = [trace.input("x", next(numbers), Meta(v.shape, v.dtype)) for v in states]
    x = unflatten(loop.x_structure, at_step[: len(loop.xs)])
    rest = at_step[len(loop.xs) :]
    valid = rest.pop(0) if loop.valid is not None else None
    start = unflatten(loop.state_structure, before)
    output, following = loop.step(x, start, valid, rest.pop(0) if rest else None, start)
    leaves, structure = flatten(output)
    outputs = [value_of(trace, leaf) for leaf in leaves]
    after = [value_of(trace, leaf) for leaf in flatten(following, loop.state_structure)[0]]
    sources = [x._array.value for x in [*at_step, *before]]
    inside = set(sources)
    for value in ordered([*outputs, *after]):
        if any(x in inside for x in value.operands):
            inside.add(value)
    step = Step(
        loop,
        parts,
        states,
        None if given is None else value_of(trace, given),
        sources,
        outputs,
        after,
        inside,
        native(loop, parts, reset is None and (mask is None or given is not None)),
    )
    metas = [Meta((loop.steps, *y.shape), y.dtype) for y in outputs]
    metas += [Meta(h.shape, h.dtype) for h in states]
    beside = [] if step.lengths is None else [step.lengths]
    if step.native is not None:
        parts = parts[:1]
    operands = (*parts, *states, *beside, *([] if step.native else step.free))
    made = [
        Value(looped, operands, {"step": step}, number, *meta) for number, meta in enumerate(metas)
    ]
    line = anomaly.cell_line()
    for value in made:
        value.line = line
    results = [wrap(TracedArray(trace, value), None) for value in made]
    return (
        unflatten(structure, results[: len(outputs)]),
        unflatten(loop.state_structure, results[len(outputs) :]),
    )
