"""A whole training step as one plan: forward pass, loss, backward pass, clipping and update.

The step is traced by a ``Recorder``, to which every operation goes, also one on nothing but
parameters. ``backward`` in it is the engine's own walk, on traced arrays, so the gradients come out
as values of the same graph. A loop of ``unroll``, clipping and an optimiser's update are values,
too: results of a call of an object that is made anew for each step. What the program then computes
is committed at once, parameters, state and gradients, or nothing is.

The subtle point is that while a step is traced, its gradients and parameters are not yet what they
will be. So what is set in the meantime is noted and set back, and whoever asks for a value that is
not there yet is told so, and the step runs literally.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import numpy as np

import tinygrad_rnn_backends as backends

from .. import random
from ..atomic import Change, Journal, commit, journal
from ..graph import Node, Primitive, topological_order
from ..random import Draw
from ..structure import Structure, flatten, unflatten
from ..tensor import MODE, Tensor, backend_of, is_regraded, regrade, regraded, wrap
from .call import Call
from .compile import compile_function
from .facts import called
from .function import MOST, drawn_for
from .ir import Graph, Shape, Source, Table, Value
from .lookup import Prepared, Unplanned, Unseen, blame, lay_out, prepare, segment_length
from .loop import Loop
from .plan import Plan
from .planner import planner
from .trace import Outcome, Step, Trace, TracedArray, Untraceable, Wanted, make_step

Meta = tuple[Shape, np.dtype[Any]]
Maker = Callable[[bool], Any]
"""Makes an object for a step; told whether the trace is that of an earlier one."""

OBJECT = np.dtype(object)


_ANY = Table().source("constant", 0, (), OBJECT)


class Unrecorded(Untraceable):
    """What a step does that a plan cannot do."""


class NoValue(TypeError):
    """A step looks at a value that is yet to be computed."""


class Recorder(Trace):
    """The trace of a step, to which every operation goes."""

    level = -1  # below that of a cell inside
    of_step = True
    recorded = True

    def __init__(self, backend: Any, table: Table) -> None:
        super().__init__(backend, table, whole=True)
        self.makers: list[Maker] = []  # of the objects that a step calls
        self.events: list[tuple[str, int]] = []  # draws and calls in their order
        self.effects: list[Value] = []  # changes that are part of the result
        self.updated: set[int] = set()  # Tensors that an optimiser has changed, by id
        self.pending: list[tuple[Any, Any]] = []  # those optimisers, and their states
        self.journal = Journal()  # of what is set while it is traced
        self.grads: dict[Node, Any] = {}  # the gradients of leaves that it found
        self.looked_at_a_value = False  # of a Tensor that is captured, on the host
        self.again = False  # whether the trace stands for more calls than its own

    # What ``apply`` asks of an array that carries primitives out.

    def interpret(
        self, primitive: Primitive, inputs: Sequence[Any], parameters: dict[str, Any]
    ) -> Any:
        """Note that a primitive was applied."""
        return TracedArray(self, _ANY).interpret(primitive, inputs, parameters)

    def lifted(self, x: Tensor) -> TracedArray:
        """A Tensor as one of the trace."""
        return TracedArray(self, _ANY).lifted(x)

    def draw(self, draw: Draw) -> Tensor:
        """Random numbers: a source."""
        self.events.append(("draw", len(self.draws)))
        return super().draw(draw)

    def enter(self, x: Tensor) -> Value:
        """Capture a Tensor: a parameter, or what is in no graph."""
        if id(x) not in self._entered:
            if x._node is not None and not x.is_leaf:
                self.refuse("a captured tensor is part of a graph; detach() it")
            if x._node is not None and x._node.hooks:
                self.refuse("a captured tensor has a hook")
        self.use(x)
        return super().enter(x)

    # What a step may not do.

    def refuse(self, why: str) -> NoReturn:
        """Raise, with the reason why a step has no plan."""
        raise Unrecorded(why)

    def ask(self, asked: str) -> NoReturn:
        """The value of a Tensor that has none is asked for."""
        raise NoValue(
            f"{asked}: inside a planned step a tensor has a shape and no values yet; return it "
            "from the step and look at what is returned, or choose with where instead of if"
        )

    def read(self, x: Tensor) -> None:
        """The value of a Tensor with an array is asked for."""
        self.use(x)
        self.looked_at_a_value |= not self.deriving  # rules look at constants of their own

    def use(self, x: Tensor) -> None:
        """A Tensor with an array is an input of an operation."""
        if id(x) in self.updated:
            self.refuse("a parameter is read after it was updated")

    def read_grad(self, leaf: Node) -> None:
        """The gradient of a leaf is asked for."""
        if not is_regraded(self.journal, leaf):
            self.grads.setdefault(leaf, leaf.grad)

    @contextmanager
    def walk(self, keeps_graph: bool | None) -> Iterator[None]:
        """Rules of derivatives run in this block."""
        if keeps_graph:
            self.refuse("create_graph or retain_graph is asked for")
        self.deriving = True
        try:
            yield
        finally:
            self.deriving = False

    def live_containers(self) -> list[Any]:
        """Containers of optimisers that an update reads when it runs: settings and state."""
        found: list[Any] = []
        for optimizer, state in self.pending:
            found += [state, *optimizer.param_groups]
        return found

    def keep(self) -> None:
        """Stand for more calls than its own: what is set in the trace is not set back for them."""
        self.again = True
        self.journal = Journal()

    # Calls of objects.

    def with_numbers(self, primitive: Primitive, inputs: Sequence[Any]) -> list[Any]:
        """Numbers as arguments of the plan, also where rules of derivatives read them."""
        if self.deriving:
            return list(inputs)
        values = [self.lifted(x).value if isinstance(x, Tensor) else x for x in inputs]
        entered = self.with_scalars(primitive, values)
        return [
            wrap(TracedArray(self, new), None) if new is not old else x
            for x, old, new in zip(inputs, values, entered, strict=True)
        ]

    def call_source(self, make: Maker) -> Value:
        """An object that is made anew at each step: at its place among the draws."""
        number = len(self.makers)
        self.makers.append(make)
        self.events.append(("call", number))
        return self.table.source("call", number, (), OBJECT)

    def called(
        self, source: Value, method: str, given: Sequence[Value], metas: tuple[Meta, ...]
    ) -> tuple[Value, ...]:
        """The results of a method of an object, given arrays."""
        parameters = {"method": method, "metas": metas}
        return self.table.apply(called, (source, *given), parameters)

    def compute(
        self, function: Callable[..., list[Any]], given: Sequence[Tensor], metas: Sequence[Meta]
    ) -> list[Tensor]:
        """What a function of arrays returns: arrays of these shapes and dtypes."""
        source = self.call_source(lambda again: _Function(function))
        values = self.called(source, "run", [self.lifted(x).value for x in given], tuple(metas))
        return [wrap(TracedArray(self, value), None) for value in values]

    def update(self, optimizer: Any, members: Sequence[Any], grads: Sequence[Tensor]) -> Tensor:
        """An optimiser's step, committed with all the rest; whether it is not passed over."""
        if any(id(member.p) in self.updated for member in members):
            self.refuse("a parameter is updated twice")
        now = _Members(optimizer, members)
        source = self.call_source(lambda again: now.update(again))
        given = [self.lifted(grad).value for grad in grads]
        metas = (((), OBJECT), ((), np.dtype(bool)))
        changes, done = self.called(source, "run", given, metas)
        self.effects.append(changes)
        self.updated |= {id(member.p) for member in members}
        self.pending.append((optimizer, optimizer.state))
        optimizer.state = _Pending()
        return wrap(TracedArray(self, done), None)


class _Pending(dict[Any, Any]):
    """The state of an optimiser that has stepped in a trace: nobody may look at it yet."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise Unrecorded("the state of an optimiser is read, or changed, after its step")

    __getitem__ = __setitem__ = __iter__ = __len__ = __contains__ = _refuse
    get = items = keys = values = update = setdefault = pop = copy = _refuse


class _Function(NamedTuple):
    """A function of arrays, as an object that a step calls."""

    function: Callable[..., list[Any]]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """What it returns."""
        return self.function(*arrays)


class _Members:
    """Parameters of an optimiser that a step updates, and their settings as they are."""

    def __init__(self, optimizer: Any, members: Sequence[Any]) -> None:
        self.optimizer, self.members = optimizer, members
        self._groups = self._values()

    def _values(self) -> list[Any]:
        return [value for group in self.optimizer.param_groups for value in group.values()]

    def update(self, again: bool) -> _Update:
        """The update of this step, by the settings of now if it is another one than was traced."""
        if again:
            values = self._values()
            known = self._groups
            if len(values) != len(known) or not all(map(operator.is_, values, known)):
                self.members, self._groups = self.optimizer.current(self.members), values
        return _Update(self.optimizer, self.members)


class _Update(NamedTuple):
    """An optimiser's update of some of its parameters."""

    optimizer: Any
    members: Sequence[Any]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The changes that it makes, and whether it is not passed over."""
        grads = [wrap(array, None) for array in arrays]
        changes = self.optimizer.changes(list(zip(self.members, grads, strict=True)))
        return [changes or [], np.asarray(changes is not None)]


# Loops.


class _LoopRun(NamedTuple):
    """One call of a loop's plan, as an object that a step calls."""

    call: Call
    hold: bool
    kept: Sequence[int]  # the inputs that have a cotangent
    given: int  # how many inputs there are

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Outputs and final states."""
        return self.call.run(arrays, self.hold)

    def pull_back(self, arrays: Sequence[Any]) -> list[Any]:
        """Cotangents: given a result, which says that this comes later, inputs and cotangents."""
        inputs, g = arrays[1 : 1 + self.given], arrays[1 + self.given :]
        found = self.call.pull_back(inputs, g)
        self.call.held = None
        return [found[i] for i in self.kept]


def _rule(
    xp: Any, g: Any, *, recorder: Recorder, source: Value, inputs: Any, kept: Any
) -> list[Tensor | None]:
    """The rule of a loop: one more call of the object."""
    metas = tuple([(x.shape, x.dtype) for x in inputs[1:]])
    given = [*inputs, *(recorder.lifted(x).value for x in g)]
    values = recorder.called(source, "pull_back", given, tuple([metas[i] for i in kept]))
    found: list[Tensor | None] = [None] * len(metas)
    for i, value in zip(kept, values, strict=True):
        found[i] = wrap(TracedArray(recorder, value), None)
    return found


_loop = Primitive(
    "unroll in a step", "contraction", lambda xp, *arrays: (), _rule, joint=True, outputs="several"
)


def run_in_step(
    loop: Loop, checkpoint: int | None, knows: Callable[[tuple[Any, ...]], bool] | None = None
) -> tuple[Any, Any]:
    """What stands for the results of a loop in the trace of a step; raises Unplanned."""
    recorder: Recorder = MODE.get().recorder
    prepared = prepare(loop, checkpoint is not None, knows)
    plan, step = prepared.plan, prepared.step
    steps, order = lay_out(loop, prepared)
    every = segment_length(plan, steps, checkpoint)
    tensors = [*prepared.xs, *loop.states, *step.captured]
    numbers = tuple([i for i, x in enumerate(tensors) if x._node is not None])
    hold = any(plan.depends) and bool(numbers) and MODE.get().recording
    kept = _given_back(plan, prepared) if hold else ()
    options = steps, order, every, (len(prepared.xs), len(loop.states)), loop.since
    count = len(tensors)
    source = recorder.call_source(
        lambda again: _LoopRun(Call(plan, step, *options), hold, kept, count)
    )
    graph = plan.distribution.graph
    metas = [((steps.length, *y.shape), y.dtype) for y in graph.ys]
    metas += [(h.shape, h.dtype) for h in graph.states]
    given = [recorder.lifted(x).value for x in tensors]
    made = recorder.called(source, "run", given, tuple(metas))
    arrays = [TracedArray(recorder, value) for value in made]
    results = [wrap(array, None) for array in arrays]
    if hold:
        parameters = {
            "recorder": recorder,
            "source": source,
            "inputs": [made[0], *given],
            "kept": kept,
        }
        parents = tuple([x._node for x in tensors if x._node is not None])
        own = tuple([(given[i].shape, given[i].dtype) for i in numbers])
        node = Node(_loop, None, parameters, parents, numbers, ((),), own)
        node.outputs = tuple(metas)
        results = [
            wrap(array, Node(None, None, None, (node,), (), (), (), i) if depends else None)
            for i, (array, depends) in enumerate(zip(arrays, plan.depends, strict=True))
        ]
    ys = len(graph.ys)
    return unflatten(step.output, results[:ys]), unflatten(loop.state_structure, results[ys:])


def _given_back(plan: Plan, prepared: Prepared) -> tuple[int, ...]:
    """The positions of the inputs that the plan has a cotangent of."""
    d = plan.distribution
    if d.backward is None:
        return ()
    asked = zip(d.graph.dstates, d.graph.asked, strict=True)
    flags = [g is not None for g in d.graph.dxs]
    flags += [flag and g is not None for g, flag in asked]
    flags += [terms is not None for terms in d.totals]
    return tuple([i for i, flag in enumerate(flags) if flag])


# The step.


class Recorded(NamedTuple):
    """The trace of a step: what it returned, and what it left behind."""

    outcome: Outcome
    in_graph: dict[int, Any]  # of the leaves that it made: the primitive that they come from
    grads: list[tuple[Node, Any]]  # the new gradient of a leaf: a Tensor, None, or a result
    renewed: list[tuple[int, Node]]  # captured Tensors that are the gradient of a leaf
    changes: int  # the results from this one on are changes
    recorder: Recorder


class ReadyStep(NamedTuple):
    """A plan, and what one call of it is given beside its arguments."""

    plan: Plan
    recorded: Recorded


def record_step(
    function: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor], table: Table
) -> Recorded:
    """Trace a step: nothing that it does to Tensors and optimisers is left behind.

    Raises whatever the step raises, and Untraceable.
    """
    recorder = Recorder(backend_of(tensors[0]) if tensors else backends.default(), table)
    if any(x._node is not None and not x.is_leaf for x in tensors):
        recorder.refuse("an argument is part of a graph; detach() it")
    if any(x._node is not None and x._node.hooks for x in tensors):
        recorder.refuse("an argument has a hook")
    given = [recorder.input("x", i, x) for i, x in enumerate(tensors)]
    for mine, x in zip(given, tensors, strict=True):
        mine._node = x._node
    mode = MODE.get()
    token = MODE.set(mode.but(recorder=recorder))
    try:
        with journal() as kept, random.traced(recorder.draw):
            recorder.journal = kept
            leaves, structure = flatten(function(given))
            nodes = regraded(kept)
            if nodes is None:
                recorder.refuse("a tensor is rebound inside, other than by an optimiser")
            grads = [(node, node.grad) for node in nodes]
            recorded = _finish(recorder, leaves, structure, given, grads)
            kept.undo_slots()
    finally:
        for optimizer, state in recorder.pending:
            optimizer.state = state
        MODE.reset(token)
        recorder.running = False
    return recorded


def _finish(
    recorder: Recorder,
    leaves: list[Any],
    structure: Structure,
    given: Sequence[Tensor],
    grads: list[tuple[Node, Any]],
) -> Recorded:
    """What a trace has shown, as a graph: what is returned, gradients, and changes."""
    results: list[Value] = []
    made: list[int] = []
    back: list[tuple[int, Source]] = []
    in_graph: dict[int, Any] = {}
    places = {id(x): i for i, x in enumerate(given)}
    for i, x in enumerate(leaves):
        if id(x) in places:
            back.append((i, Source("x", places[id(x)])))
        elif isinstance(x, Tensor) and type(x._array) is TracedArray:
            made.append(i)
            results.append(recorder.lifted(x).value)
            if x._node is not None and not x.is_leaf:
                in_graph[i] = _released(recorder, x._node)
    new: list[tuple[Node, Any]] = []
    for node, grad in grads:
        if grad is not None and type(grad._array) is TracedArray:
            new.append((node, len(results)))
            results.append(recorder.lifted(grad).value)
        else:
            new.append((node, grad))
    count = len(results)
    graph = Graph(recorder.table, (*results, *recorder.effects), ())
    step = make_step(recorder, graph, structure, tuple(recorder.events))
    leaves = [None if i in made else x for i, x in enumerate(leaves)]
    found = {id(grad): node for node, grad in recorder.grads.items() if grad is not None}
    renewed = [(i, found[id(x)]) for i, x in enumerate(recorder.captured) if id(x) in found]
    outcome = Outcome(step, leaves, made, back)
    return Recorded(outcome, in_graph, new, renewed, count, recorder)


def _released(recorder: Recorder, node: Node) -> Any:
    """The primitive that made a result whose graph a backward pass has gone through."""
    order = topological_order([node])
    if all(each.saved is not None for each in order):
        recorder.refuse("it returns a tensor that can still be differentiated; detach() it")
    return node.primitive or _loop


def prepare_step(
    function: Callable[[Sequence[Tensor]], Any], tensors: Sequence[Tensor]
) -> ReadyStep:
    """Trace a step and find the plan for it, or make one.

    Raises Unplanned for what cannot be traced, and what the step itself raises as it is.
    """
    try:
        recorded = record_step(function, tensors, planner.table)
    except (NoValue, Unseen):
        raise
    except Exception as error:
        raise Unplanned(f"{error}{blame(error)}") from error
    step = recorded.outcome.step
    key = ("step", step.key, recorded.changes, step.trace.backend.name)
    plan = planner.get(key)
    if plan is None:
        plan = _make_plan(step, len(tensors))
        planner.put(key, plan)
    if isinstance(plan, str):
        recorded.recorder.journal.undo()
        raise Unplanned(plan)
    return ReadyStep(plan, recorded)


def _make_plan(step: Step, count: int) -> Plan | str:
    size = len(step.graph.values())
    if size > MOST:
        return f"it does {size} operations, more than {MOST}"
    none = Wanted((False,) * count, (), (False,) * len(step.captured))
    return compile_function(step, none)


def run_step(ready: ReadyStep, tensors: Sequence[Tensor]) -> Any:
    """What a step returns for these arguments, by its plan; it has changed what it changes."""
    plan, recorded = ready
    outcome, in_graph, grads, renewed, first, recorder = recorded
    captured = [x._array for x in outcome.step.captured]
    for i, leaf in renewed:
        captured[i] = leaf.grad._array
    try:
        results = _run(plan, outcome.step, recorder, [x._array for x in tensors], captured)
    except BaseException as error:
        if not recorder.again:
            recorder.journal.undo()
        if isinstance(error, IndexError):
            raise IndexError(
                f"planned: {error}, somewhere in a step that runs as a plan; with "
                "tinygrad_rnn.literal() around it the error names the operation"
            ) from error
        raise
    changes: list[Change] = []
    for node, grad in grads:
        new = wrap(results[grad], None) if type(grad) is int else grad
        changes.append(regrade(node, new))
    for own in results[first:]:
        changes += own
    leaves = outcome.leaves.copy()
    for result, place in zip(results, outcome.made, strict=False):
        made = in_graph.get(place)
        leaves[place] = wrap(result, None if made is None else Node(made, saved=None))
    for place, (_, index) in outcome.given:
        leaves[place] = tensors[index]
    commit(changes)
    return unflatten(outcome.step.output, leaves)


def _run(
    plan: Plan, step: Step, recorder: Recorder, xs: list[Any], captured: list[Any]
) -> list[Any]:
    """The results of the program."""
    places: list[random.Place] = []
    calls: list[Any] = []
    for kind, number in recorder.events:
        if kind == "draw":
            places.append(random.take(plan.draws[number]))
        else:
            calls.append(recorder.makers[number](recorder.again))
    drawn = drawn_for(plan, places)
    library = plan.machine.np
    pool = library
    if library is np:
        pool = planner.pool
        pool.begin_call()
    scalars = [library.asarray(number) for number in step.trace.scalars]
    with np.errstate(all="ignore"):
        ys, _, _ = plan.forward(None, pool, xs, calls, captured, scalars, plan.constants, drawn)
    return [y if isinstance(y, list) else library.asarray(y) for y in ys]
