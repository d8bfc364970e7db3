"""One call of a plan: what it is given, what it holds, and how it is differentiated.

The call is one node of the graph. Differentiated on arrays, it runs the plan's backward pass. Asked
for a derivative that can be differentiated again, it replays its trace literally, on the inputs
that it kept: every operation of every step is then a node, and the cell is not called again.

With checkpoints the steps are run in segments, and all that is held is the state at the start of
each; the backward pass runs a segment's forward pass again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..apply import outputs_of
from ..graph import Node, Primitive
from ..primitives.elementwise import alias
from ..tensor import Tensor, enable_grad, is_grad_enabled, pull_back, wrap
from .ir import Kind, Value, base
from .loop import Unroll
from .plan import Plan
from .planner import planner
from .runtime.steps import Steps
from .stages import EACH, ONCE, ROWS, ROWS_ONCE
from .trace import Step, replay


class Bytes(int):
    """A budget of memory for a loop, in bytes."""


class Call:
    """One call of a plan.

    Args:
        plan: the plan.
        step: the traced step, which has the arguments of this call.
        steps: where the rows of each step are.
        order: the rows in the order in which they end, last first; None if all end together.
        every: how many steps a segment has, at whose start the state is held; None holds all.
        counts: how many parts x and the state have.
        since: the time step of the first of these, and the random call that it belongs to.
    """

    def __init__(
        self,
        plan: Plan,
        step: Step,
        steps: Steps,
        order: Any,
        every: int | None,
        counts: tuple[int, int],
        since: tuple[int, random.Call | None] = (0, None),
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.order = order
        self.every = every
        self.counts = counts  # of the parts of x and of the state
        self.np = plan.machine.np  # the library of the arrays
        self.scalars = [self.np.asarray(number) for number in step.trace.scalars]
        self.first, call = since
        self.key = (call or random.Call()).number() if plan.draws else None
        self.starts: list[list[Any]] = []  # the states that segments start from
        self.held: Any = None  # of the only segment: what its backward pass needs
        self.literal: Literal  # the same loop on Tensors

    def __repr__(self) -> str:
        return f"<{self.steps.steps} steps of a plan>"

    # The steps, in segments.

    @property
    def segments(self) -> list[Steps]:
        """The steps, cut after every so many, in the order of the loop."""
        if self.every is None or self.every >= self.steps.steps:
            return [self.steps]
        total = self.steps.steps
        cuts = range(0, total, self.every)
        return [self.steps.segment(i, min(i + self.every, total)) for i in cuts]

    @property
    def pool(self) -> Any:
        """Where memory comes from: CuPy has a pool of its own."""
        return planner.pool if self.np is np else self.np

    def split(self, arrays: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Arrays of x, of the state, and captured ones."""
        xs, states = self.counts
        return arrays[:xs], arrays[xs : xs + states], arrays[xs + states :]

    def _copy(self, array: Any, shape: tuple[int, ...]) -> Any:
        """A copy of an array, of this shape."""
        if array.shape == shape:
            return self.np.array(array)
        return self.np.array(self.np.broadcast_to(array, shape))

    def put_in_order(self, states: Sequence[Any]) -> list[Any]:
        """States (B, ...) with the rows in the order of the loop."""
        return [h if self.order is None else h[self.order] for h in states]

    def restore_order(self, array: Any) -> Any:
        """Rows (B, ...) back in the user's order."""
        if self.order is None:
            return array
        found = self.np.empty_like(array)
        found[self.order] = array
        return found

    def outside(self, captured: Sequence[Any]) -> list[Any]:
        """Captured arrays; rows, if there are some, in front and in the order of the loop."""
        turned = self.plan.turned
        fronts = [
            self.np.moveaxis(w, turned[i], 0) if i in turned else w for i, w in enumerate(captured)
        ]
        return [self._of_rows("captured", i, w) for i, w in enumerate(fronts)]

    def _of_rows(self, kind: Kind, index: int, w: Any) -> Any:
        by_rows = self.order is not None and self.plan.extent(kind, index) is ROWS_ONCE
        return w[self.order] if by_rows else w

    def over_steps(self, kind: Kind, index: int, x: Any, part: Steps) -> Any:
        """x (T, B, ...), or a cotangent, with the rows of all steps one below the other."""
        whole = part is self.steps
        if self.plan.extent(kind, index) is not ROWS:
            return x if whole else x[part.first : part.first + part.steps]
        if self.order is not None:
            return x[part.step_of, part.row_of]
        x = x if whole else x[part.first : part.first + part.steps]
        return self.np.ascontiguousarray(x).reshape(part.total, *x.shape[2:])

    def draws(self, part: Steps) -> list[Any]:
        """The random numbers of some steps."""
        if self.key is None:
            return []
        backend, np, found = self.plan.backend, self.np, []
        for i, draw in enumerate(self.plan.draws):
            if draw.same:
                found.append(self._of_rows("draw", i, random.drawn(backend, draw, self.key, 0)))
            elif self.plan.extent("draw", i) is ROWS:
                rows = part.step_of + self.first, part.row_of
                found.append(random.drawn(backend, draw, self.key, *rows))
            else:
                n = draw.shape[0] if draw.shape else 1
                times = np.arange(part.first, part.first + part.steps) + self.first
                flat = draw._replace(shape=draw.shape or (1,))
                rows = np.repeat(times, n), np.tile(np.arange(n), part.steps)
                array = random.drawn(backend, flat, self.key, *rows)
                found.append(array.reshape(part.steps, *draw.shape))
        return found

    # Running them.

    def arguments(self, part: Steps, xs: Any, states: Any, outside: Any, drawn: Any) -> Any:
        """What the functions of a plan take for a segment."""
        x = [self.over_steps("x", i, x, part) for i, x in enumerate(xs)]
        return part, self.pool, x, states, outside, self.scalars, self.plan.constants, drawn

    def forward(self, part: Steps, xs: Any, states: Any, outside: Any) -> tuple[Any, ...]:
        """The forward pass of a segment: outputs, final states, and what is held."""
        drawn = self.draws(part)
        ys, ends, held = self.plan.forward(*self.arguments(part, xs, states, outside, drawn))
        return ys, ends, (drawn, held)

    @property
    def is_plain(self) -> bool:
        """Whether all rows take all steps, all are held, and arrays are given as they are."""
        whole = self.every is None or self.every >= self.steps.steps
        return self.order is None and whole and not self.plan.turned

    def run(self, arrays: Sequence[Any], hold: bool) -> list[Any]:
        """The forward pass: outputs (T, B, ...), then final states."""
        if self.np is np:
            planner.pool.begin_call()
        xs, states, captured = self.split(arrays)
        if self.is_plain:
            return self._run_plain(xs, states, captured, hold)
        graph, segments = self.plan.distribution.graph, self.segments
        state, outside = self.put_in_order(states), self.outside(captured)
        outputs = [_OverTime(self, value) for value in graph.ys]
        with np.errstate(all="ignore"):
            for part in segments:
                if len(segments) > 1 and hold:
                    self.starts.append(state)
                ys, state, held = self.forward(part, xs, state, outside)
                for output, y in zip(outputs, ys, strict=True):
                    output.put(part, y)
                if len(segments) > 1:  # or they would be held until the next ones are there
                    state, held, ys = [self.np.array(h) for h in state], None, None
        self.held = held if hold else None
        finals = [
            self._copy(self.restore_order(h), value.shape)
            for h, value in zip(state, graph.states, strict=True)
        ]
        return [output.array for output in outputs] + finals

    def _run_plain(self, xs: Any, states: Any, captured: Any, hold: bool) -> list[Any]:
        """The same without segments and rows in another order, which is quicker to say."""
        plan, steps = self.plan, self.steps
        rows, drawn = plan.shared_by_rows, self.draws(steps)
        x = [self._below(x) if flag else x for x, flag in zip(xs, rows.xs, strict=True)]
        pool = self.pool
        with np.errstate(all="ignore"):
            ys, ends, held = plan.functions["forward"](
                *(steps, pool, x, states, captured, self.scalars, plan.constants, drawn)
            )
        self.held = (drawn, held) if hold else None
        graph = plan.distribution.graph
        found = [
            self._beside(y) if flag else self._over_time(value, y)
            for y, value, flag in zip(ys, graph.ys, rows.ys, strict=True)
        ]
        return found + [
            self._copy(h, value.shape) for h, value in zip(ends, graph.states, strict=True)
        ]

    def _pull_back_plain(self, xs: Any, states: Any, captured: Any, g: Sequence[Any]) -> list[Any]:
        """Likewise backward."""
        plan, steps, (drawn, held) = self.plan, self.steps, self.held
        graph, rows, count = plan.distribution.graph, plan.shared_by_rows, len(self.plan.graph.ys)
        x = [self._below(x) if flag else x for x, flag in zip(xs, rows.xs, strict=True)]
        dy = [self._below(y) if flag else y for y, flag in zip(g[:count], rows.dys, strict=True)]
        pool = self.pool
        with np.errstate(all="ignore"):
            dxs, before, totals = plan.functions["backward"](
                *(steps, pool, x, states, captured, self.scalars, plan.constants, drawn),
                *(held, dy, g[count:]),
            )
        found = [
            self._beside(dx) if flag else None if value is None else self._over_time(value, dx)
            for dx, value, flag in zip(dxs, graph.dxs, rows.dxs, strict=True)
        ] or [None] * len(xs)
        for dh, h in zip(before, states, strict=True):
            found.append(None if dh is None else self._copy(dh, h.shape))
        for dw, w in zip(totals, captured, strict=True):
            found.append(None if dw is None else self.np.asarray(dw).reshape(w.shape))
        return found

    def _below(self, x: Any) -> Any:
        """(T, B, ...) with the rows of all steps one below the other."""
        return self.np.ascontiguousarray(x).reshape(self.steps.total, *x.shape[2:])

    def _beside(self, y: Any) -> Any:
        """The other way round."""
        return y.reshape(self.steps.steps, self.steps.rows, *y.shape[1:])

    def _over_time(self, value: Value, array: Any) -> Any:
        """What there is once, or at each step, over all steps."""
        output = _OverTime(self, value)
        output.put(self.steps, array)
        return output.array

    def pull_back(self, arrays: Sequence[Any], g: Sequence[Any]) -> list[Any]:
        """The backward pass on arrays: cotangents of x, the state and captured arrays."""
        graph, segments = self.plan.distribution.graph, self.segments
        if self.plan.distribution.backward is None:  # nothing depends on what requires grad
            return [None] * len(arrays)
        if self.np is np:
            planner.pool.begin_call()
        xs, states, captured = self.split(arrays)
        if self.is_plain and self.held is not None:
            return self._pull_back_plain(xs, states, captured, g)
        dys, dstate = g[: len(graph.ys)], self.put_in_order(g[len(graph.ys) :])
        dxs = [None if value is None else _OverTime(self, value) for value in graph.dxs]
        outside, totals = self.outside(captured), [None] * len(captured)
        with np.errstate(all="ignore"):
            for number in range(len(segments))[::-1]:
                part = segments[number]
                held = self.held
                if held is None:
                    _, _, held = self.forward(part, xs, self.starts[number], outside)
                dy = [self.over_steps("dy", i, y, part) for i, y in enumerate(dys)]
                start = self.starts[number] if self.starts else self.put_in_order(states)
                arguments = self.arguments(part, xs, start, outside, held[0])
                dx, before, dw = self.plan.backward(*arguments, held[1], dy, dstate)
                for output, array in zip(dxs, dx, strict=True):
                    if output is not None:
                        output.put(part, array)
                totals = [b if a is None else a + b for a, b in zip(totals, dw, strict=True)]
                if len(segments) > 1:
                    dstate = [
                        self.np.zeros_like(h) if d is None else self._copy(d, h.shape)
                        for d, h in zip(before, dstate, strict=True)
                    ]
        found = [None if dx is None else dx.array for dx in dxs]
        for dh, h in zip(before, states, strict=True):
            found.append(None if dh is None else self.restore_order(self._copy(dh, h.shape)))
        for i, (dw, w) in enumerate(zip(totals, captured, strict=True)):
            by_rows = self.plan.extent("captured", i) is ROWS_ONCE
            dw = self.restore_order(dw) if dw is not None and by_rows else dw
            if dw is not None and i in self.plan.turned:
                dw = self.np.moveaxis(dw, 0, self.plan.turned[i])
            found.append(None if dw is None else self.np.asarray(dw).reshape(w.shape))
        return found


class _OverTime:
    """An output, or the cotangent of x, put together from segments: (T, B, ...)."""

    def __init__(self, call: Call, value: Value) -> None:
        self.call, self.value = call, value
        self.array: Any = None

    def put(self, part: Steps, array: Any) -> None:
        """The array over the steps of a segment."""
        call, extent = self.call, self.call.plan.extents[self.value]
        steps, whole = call.steps, part is call.steps
        if extent is ROWS_ONCE and call.order is not None:
            array, extent = part.repeated(array), ROWS
        if extent in (ONCE, ROWS_ONCE):
            array = call.np.array(call.np.broadcast_to(array, (part.steps, *array.shape)))
            extent = EACH
        elif base(self.value).source is not None:  # the user's own array is none of the plan's
            array = call.np.array(array)
        if call.order is not None and extent is ROWS:
            if self.array is None:
                shape = (steps.length, steps.rows, *array.shape[1:])
                self.array = call.pool.zeros(shape, array.dtype)
            self.array[part.step_of, part.row_of] = array
            return
        if extent is ROWS:
            array = array.reshape(part.steps, part.rows, *array.shape[1:])
        if whole and part.steps == steps.length:
            self.array = array
            return
        if self.array is None:
            self.array = call.pool.zeros((steps.length, *array.shape[1:]), array.dtype)
        self.array[part.first : part.first + part.steps] = array


class Replayed(NamedTuple):
    """The graph of a loop that was run literally, to be pulled back through."""

    leaves: dict[int, Tensor]  # by position, the inputs that it can give cotangents of
    outputs: Sequence[Tensor]
    linked: bool  # to the graph that the inputs come from


class Literal:
    """The same loop on Tensors: for derivatives that can be differentiated again, or of a batch.

    It runs when it is first pulled back through, and its graph is kept for the next time.
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]]) -> None:
        self._run = run
        self._replayed: Replayed | None = None

    def pull_back(
        self, inputs: Sequence[Tensor], g: Sequence[Tensor], wanted: Sequence[int]
    ) -> list[Tensor | None]:
        """The cotangents of the wanted inputs, at their positions."""
        linked = is_grad_enabled() and any(x.requires_grad for x in inputs)
        wanted = [i for i in wanted if inputs[i].dtype.kind == "f"]
        graph = self._replayed
        if graph is None or linked > graph.linked or not graph.leaves.keys() >= set(wanted):
            graph = self._replayed = self._replay(inputs, wanted, linked)
        found: list[Tensor | None] = [None] * len(inputs)
        pairs = [(y, dy) for y, dy in zip(graph.outputs, g, strict=True) if y.requires_grad]
        if pairs:
            outputs, given = zip(*pairs, strict=True)
            record = linked or (is_grad_enabled() and any(dy.requires_grad for dy in given))
            nodes = {i: graph.leaves[i]._node for i in wanted}
            targets = [node for node in nodes.values() if node is not None]
            cotangents = pull_back(outputs, given, targets, create_graph=record, retain_graph=True)
            for i, node in nodes.items():
                found[i] = cotangents[node]  # type: ignore[index]
        return found

    def _replay(self, inputs: Sequence[Tensor], wanted: Sequence[int], linked: bool) -> Replayed:
        every, leaves = list(inputs), {}
        with enable_grad():
            for i in wanted:
                x = inputs[i]
                own = linked and x.requires_grad
                every[i] = leaves[i] = alias(x) if own else wrap(x._array, Node())
            return Replayed(leaves, self._run(*every), linked)


def make_literal(call: Call, unroll: Unroll, lengths: Any, length: int, reverse: bool) -> Literal:
    """The same loop on Tensors, literally: the trace is replayed at each step, not the cell.

    ``unroll`` runs a cell literally. What is returned does not refer to the call.
    """
    plan, key, scalars, (parts, states_end) = call.plan, call.key, call.scalars, call.counts
    first = call.first
    states_end += parts

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        xs, states, captured = tensors[:parts], tensors[parts:states_end], tensors[states_end:]
        count = wrap(plan.machine.np.arange(length), None)
        has_draws = bool(plan.draws)

        def cell(x: Any, state: Any) -> Any:
            leaves = x[:-1]
            t = int(x[-1].numpy()) + first if has_draws else 0

            def source(value: Value) -> Tensor:
                assert value.source is not None
                kind, index = value.source
                if kind == "draw":
                    draw = plan.draws[index]
                    assert key is not None  # as there are draws
                    return wrap(random.drawn(plan.backend, draw, key, t), None)
                if kind == "scalar":
                    return wrap(scalars[index], None)
                found: Tensor = {"x": leaves, "state": state, "captured": captured}[kind][index]
                return found

            made = replay(plan.graph, source)
            return tuple(made[v] for v in plan.graph.ys), tuple(made[v] for v in plan.graph.states)

        ys, finals = unroll(cell, (*xs, count), tuple(states), lengths, reverse)
        return (*ys, *finals)

    return Literal(run)


def pull_back_call(xp: Any, g: Any, arrays: Any, *, call: Any, wanted: Sequence[int]) -> Any:
    """The rule of what is one call of a plan: by its program, or on Tensors literally."""
    if isinstance(xp, backends.protocol.ArrayNamespace):
        return call.pull_back(arrays, g)
    return call.literal.pull_back(arrays, g, wanted)


_unroll = Primitive(
    "unroll",
    "contraction",
    lambda xp, *arrays, call: tuple(call.run(arrays, True)),
    pull_back_call,
    joint=True,
    outputs="several",
)


def run_and_record(call: Call, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Run a call of a loop on Tensors, and record it if anything requires grad."""
    return record(_unroll, call, tensors)


def record(primitive: Primitive, call: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Run a call on Tensors as a primitive, and record it if anything requires grad."""
    arrays = [x._array for x in tensors]
    numbers = tuple(i for i, x in enumerate(tensors) if x._node is not None)
    depends = call.plan.depends
    hold = any(depends) and is_grad_enabled()
    out = tuple(call.run(arrays, hold))
    if not hold:
        return [wrap(part, None) for part in out]
    saved, metas = primitive.collector(numbers)(arrays, out)
    parents = tuple([x._node for x in tensors if x._node is not None])
    node = Node(primitive, call.plan.backend, {"call": call}, parents, numbers, saved, metas)
    results = outputs_of(node, out)
    return [y if d else wrap(y._array, None) for y, d in zip(results, depends, strict=True)]
