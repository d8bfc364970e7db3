"""Functions of Tensors as plans: traced, looked up by structure, run, and differentiated.

A function is a step that there is one of. Its plan is found by what its trace did, as that of a
loop is, so values, numbers and captured Tensors are arguments. A call is one node of the graph;
derivatives of its derivative replay the trace literally.

Random draws are made where ``uniform`` would make them now, in the order of the trace: a plan takes
the numbers of as many calls as the function itself, and gets the same values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..graph import Primitive
from ..kernels.machine import machine_of
from ..kernels.settings import SettingError
from ..structure import unflatten
from ..tensor import Tensor, is_grad_enabled, wrap
from .call import Literal, pull_back_call, record
from .compile import compile_function
from .ir import Value
from .lookup import Unplanned, blame
from .plan import Plan
from .planner import planner
from .trace import Outcome, Step, Wanted, replay, trace_function

MOST = 5000
"""Operations of a function that is planned: of more, preparing would take too long."""


class Ready(NamedTuple):
    """A plan, and what one call of it is given beside its arguments."""

    plan: Plan
    outcome: Outcome


class FunctionCall:
    """One call of a function's plan.

    Args:
        plan: the plan.
        step: the trace, which has the numbers of this call.
    """

    def __init__(self, plan: Plan, step: Step) -> None:
        self.plan = plan
        self.np = plan.machine.np  # the library of the arrays
        self.scalars = [self.np.asarray(number) for number in step.trace.scalars]
        self.places = [random.take(draw) for draw in plan.draws]
        self.held: Any = None
        self._literal: Literal | None = None

    def __repr__(self) -> str:
        return "<a plan of a function>"

    def run(self, arrays: Sequence[Any], hold: bool) -> list[Any]:
        """The forward pass: all outputs."""
        drawn = drawn_for(self.plan, self.places)
        with np.errstate(all="ignore"):
            ys, _, held = self.plan.forward(*self._arguments(arrays, drawn))
        self.held = (drawn, held) if hold else None
        return list(map(self.np.asarray, ys))  # of all elements, NumPy's sums are no arrays

    def pull_back(self, arrays: Sequence[Any], g: Sequence[Any]) -> list[Any]:
        """The backward pass on arrays: cotangents of all arguments, then of captured arrays."""
        if self.plan.distribution.backward is None:  # nothing depends on what requires grad
            return [None] * len(arrays)
        drawn, held = self.held
        with np.errstate(all="ignore"):
            found, _, _ = self.plan.backward(*self._arguments(arrays, drawn), held, g, ())
        return [None if dx is None else self.np.asarray(dx) for dx in found]

    def _arguments(self, arrays: Sequence[Any], drawn: list[Any]) -> Any:
        """What the functions of a plan take."""
        pool = self.np  # CuPy has a pool of its own
        if pool is np:
            pool = planner.pool
            pool.begin_call()
        count = len(self.plan.wanted.xs)
        given = arrays[:count], (), arrays[count:]
        return None, pool, *given, self.scalars, self.plan.constants, drawn

    @property
    def literal(self) -> Literal:
        """The same function on Tensors."""
        if self._literal is None:
            self._literal = _make_literal(self.plan, self.scalars, self.places)
        return self._literal


def drawn_for(plan: Plan, places: Sequence[random.Place]) -> list[Any]:
    """The random numbers that a program reads, or what its kernels make them from."""
    made: list[Any] = []
    for i, place in enumerate(places):
        if plan.extent("draw", i) is None:
            made.append(None)
        elif i in plan.drawn_in_kernels:
            made.append(random.counter(plan.backend, *place))
        else:
            made.append(random.drawn(plan.backend, *place))
    return made


def _make_literal(plan: Plan, scalars: Sequence[Any], places: Sequence[random.Place]) -> Literal:
    """The trace replayed on Tensors; it does not refer to the call."""
    count = len(plan.wanted.xs)

    def run(*tensors: Tensor) -> list[Tensor]:
        def source(value: Value) -> Tensor:
            assert value.source is not None
            kind, index = value.source
            if kind == "draw":
                return wrap(random.drawn(plan.backend, *places[index]), None)
            if kind == "scalar":
                return wrap(scalars[index], None)
            return tensors[index if kind == "x" else count + index]

        made = replay(plan.graph, source)
        return [made[value] for value in plan.graph.ys]

    return Literal(run)


_function = Primitive(
    "planned",
    "contraction",
    lambda xp, *arrays, call: tuple(call.run(arrays, True)),
    pull_back_call,
    joint=True,
    outputs="several",
)


def why_not_planned(tensors: Sequence[Tensor]) -> str | None:
    """None if arguments are such as plans are for, else the reason why they are not."""
    if not tensors:
        return "there is no Tensor among the arguments"
    first = backends.of(tensors[0]._array)
    if any(backends.of(x._array) is None for x in tensors):
        return "a tensor has no values here: inside vmap, or inside a trace"
    if machine_of(first) is None or any(backends.of(x._array) is not first for x in tensors):
        return "arrays are neither NumPy's nor all CuPy's"
    if random.is_elsewhere():
        return "random numbers are drawn for a vmap or a trace around it"
    return None


def prepare_function(
    function: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor]
) -> Ready:
    """Trace a function and find the plan for it, or make one; raises Unplanned."""
    try:
        outcome = trace_function(function, tensors, planner.table)
    except Exception as error:
        raise Unplanned(f"{error}{blame(error)}") from error
    step, recording = outcome.step, is_grad_enabled()
    wanted = Wanted(
        tuple([recording and x.requires_grad for x in tensors]),
        (),
        tuple([recording and x.requires_grad for x in step.captured]),
    )
    key = ("function", step.key, wanted, step.trace.backend.name)
    plan = planner.get(key)
    if plan is None:
        plan = _make_plan(step, wanted)
        planner.put(key, plan)
    if isinstance(plan, str):
        raise Unplanned(plan)
    return Ready(plan, outcome)


def _make_plan(step: Step, wanted: Wanted) -> Plan | str:
    """A plan for a new structure, or the reason why there can be none."""
    count = len(step.graph.values())
    if count > MOST:
        return f"it does {count} operations, more than {MOST}"
    try:
        return compile_function(step, wanted)
    except (SettingError, Warning):  # the environment's, or a warning that is to be an error
        raise
    except Exception as error:  # a mistake of the planner's is no reason to stop
        reason = f"the planner failed on it, please report this: {type(error).__name__}: {error}"
        warnings.warn(f"a function runs literally, since {reason}", stacklevel=2)
        return reason


def run_function(ready: Ready, tensors: Sequence[Tensor]) -> Any:
    """What the function returns for these arguments, by its plan."""
    plan, (step, leaves, made, given) = ready
    every = [*tensors, *step.captured]
    leaves = leaves.copy()
    results = record(_function, FunctionCall(plan, step), every) if made else ()
    for place, result in zip(made, results, strict=True):
        leaves[place] = result
    for place, (kind, index) in given:
        leaves[place] = every[index if kind == "x" else len(tensors) + index]
    return unflatten(step.output, leaves)
