"""``planned``: a function of Tensors, or a whole training step, that runs by a plan.

Each call traces the function again, so what it does is what it did just now: values, numbers and
what it captures are arguments of the plan, and a branch that it takes by a setting leads to another
plan. What a trace cannot stand for is a function that looks at values, keeps a traced Tensor, or
writes to what it captures. So a function that is met for the first time runs as it is and is
watched, by the rules that a cell of ``unroll`` is watched by; what is known of it hangs on what can
be reached from it. A step that differentiates is traced at once, and put back if it cannot be
planned; with ``retrace=False`` a plan runs without a trace, as long as its ``Guard`` holds.

``composition`` is the short way for functions of the library, which are known to do nothing but
compute: what their arguments are says everything, and they are traced once for each kind of them.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, overload

import numpy as np

from .. import random
from ..atomic import journal
from ..dtypes import default_dtype
from ..kernels import settings
from ..kernels.cpu.run import available
from ..structure import flatten, unflatten
from ..tensor import MODE, Mode, Tensor
from ..transforms import needs_graph
from .evidence import ENOUGH, TRIES, Evidence, Operations, watched
from .function import Ready, prepare_function, run_function, why_not_planned
from .guard import Guard
from .lookup import Unplanned, Unseen
from .plan import Plan
from .planner import planner
from .reach import Reach, digest
from .report import of_literal
from .standing import Standing, is_traced
from .training import ReadyStep, prepare_step, run_step
from .trust import is_marked

P = ParamSpec("P")
R = TypeVar("R")

LEAST = 2**14
"""Elements of all arguments below which a function runs as it is: to trace it takes longer."""

_SMALL = "its arguments are small: it runs as it is"
_CAPTURED = "an argument is a tensor that it reaches as well, and may be told from others"


class _Known(NamedTuple):
    """A plan that runs without a trace."""

    ready: ReadyStep
    guard: Guard
    objects: list[Any]  # among the arguments, which are known by their ids


class Planned(Generic[P, R]):
    """A function that runs by a plan where there is one; see ``planned``."""

    def __init__(self, function: Callable[P, R], retrace: bool = True) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.retrace = retrace
        self._known: dict[Any, _Known] = {}
        self._hopeless: str | None = None  # why steps are not traced any more
        self._last: Plan | str = "it has not been called yet"
        self._differentiates: bool | None = None
        self._misses = 0  # steps running that could not be planned

    def __repr__(self) -> str:
        return f"planned({self.function!r})"

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    def report(self) -> str:
        """How the last call ran: its plan in words, or why it ran as it is."""
        last = self._last
        return of_literal(last, "function") if isinstance(last, str) else last.report()

    @property
    def source(self) -> str:
        """The program of the last call."""
        last = self._last
        return f"# literal: {last}\n" if isinstance(last, str) else last.source

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns."""
        mode = MODE.get()
        reason = why_literal(mode)
        if reason is None and not self.retrace and not kwargs and len(args) == len(_tensors(args)):
            known = self._known.get(_key_of(mode, _tensors(args)))  # without taking them apart
            if known is not None and known.guard.holds():
                self._last = known.ready.plan
                return run_step(known.ready, args)  # type: ignore[no-any-return, arg-type]
        call = _Arguments(self.function, args, kwargs)
        key = None
        if reason is None and not self.retrace:
            key = call.key(mode)
            known = self._known.get(key)
            if known is not None and known.guard.holds():
                self._last = known.ready.plan
                return run_step(known.ready, call.tensors)  # type: ignore[no-any-return]
        if self._differentiates is None:
            self._differentiates = "backward" in Reach(self.function).attributes
        if self._differentiates:
            return self._step(call, reason, key)
        return self._function(call, reason)

    def _function(self, call: _Arguments, reason: str | None) -> R:
        """The result of a function of Tensors."""
        reason = reason or why_not_planned(call.tensors)
        if reason is None and sum(x.size for x in call.tensors) < LEAST:
            reason = _SMALL
        if reason is not None:
            self._last = reason
            return self.function(*call.args, **call.kwargs)
        standing = Standing(call.subject, "function", fully=True)
        if standing.reach is not None and call.is_within(standing.reach):
            self._last = _CAPTURED
            return self.function(*call.args, **call.kwargs)
        if standing.known:
            try:
                ready = _prepare(call.on, call.tensors, standing)
            except Unseen:
                standing.restore()
            except Unplanned as unplanned:
                standing.restore()
                if not standing.trusted:
                    standing.settle(str(unplanned), (), 0)
                self._last = str(unplanned)
                return self.function(*call.args, **call.kwargs)
            except BaseException:
                standing.restore()
                raise
            else:
                self._last = ready.plan
                return run_function(ready, call.tensors)  # type: ignore[no-any-return]
        return self._as_evidence(standing, call)

    def _step(self, call: _Arguments, reason: str | None, key: Any) -> R:
        """The result of a function that differentiates inside: a training step."""
        reason = reason or self._hopeless
        if reason is None:
            reach = Reach((call.subject, call.arrays), fully=True)
            trusted = is_marked(self.function) or not self.retrace
            if reach.refused is not None and not trusted:
                reason = f"the function reaches {reach.refused}"
            elif call.is_within(reach):
                reason = _CAPTURED
        if reason is None:
            try:
                ready = prepare_step(call.on, call.tensors)
            except Unplanned as unplanned:
                reach.restore()
                reason = str(unplanned)
                self._misses += not isinstance(unplanned, Unseen)
            except BaseException:
                reach.restore()
                raise
            else:
                name = reach.gained(is_traced)
                if name is None:
                    self._last, self._misses = ready.plan, 0
                    result = run_step(ready, call.tensors)
                    self._keep(key, call, ready)
                    return result  # type: ignore[no-any-return]
                ready.recorded.recorder.journal.undo()
                reach.restore()
                reason = f"it keeps a tensor in {name}; return it, and keep what is returned"
                self._misses += 1
            self._hopeless = reason if self._misses >= TRIES else None
        self._last = reason
        with journal():
            return self.function(*call.args, **call.kwargs)

    def _keep(self, key: Any, call: _Arguments, ready: ReadyStep) -> None:
        """Have a plan run for calls like this one from now on, if a guard sees all that counts."""
        recorder = ready.recorded.recorder
        if key is None or recorder.looked_at_a_value:
            return
        if any(x._node is not None for x in call.tensors):
            return
        guard = Guard(
            call.subject, recorder.captured, recorder.grads.items(), recorder.live_containers()
        )
        if guard.partial is not None:
            return
        recorder.keep()
        self._known[key] = _Known(ready, guard, call.objects)
        while len(self._known) > _STEPS:
            self._known.pop(next(iter(self._known)), None)

    def _as_evidence(self, standing: Standing, call: _Arguments) -> R:
        """The result of the function as it is, watched."""
        args, kwargs = call.args, call.kwargs
        if standing.reason is not None:
            self._last = standing.reason
            return self.function(*args, **kwargs)
        evidence = Evidence(standing.cell, once=True)
        result, _ = evidence.call(
            lambda x, state: (self.function(*args, **kwargs), ()), tuple(call.tensors), ()
        )
        reason = evidence.finish()
        standing.settle(reason, evidence.operations, ENOUGH)
        self._last = reason or "it was met for the first time, and watched"
        return result  # type: ignore[no-any-return]


_STEPS = 128
"""Kinds of arguments for which a step runs without a trace; the oldest of more are forgotten."""

_PLAIN = frozenset([bool, int, float, str, type(None), np.ndarray])


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    return [x for x in args if isinstance(x, Tensor)]


def _shared(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Where each Tensor was given first, if any is given twice."""
    ids = [*map(id, tensors)]
    return tuple(map(ids.index, ids)) if len({*ids}) < len(ids) else ()


def _key_of(mode: Mode, tensors: Sequence[Tensor]) -> Any:
    """What calls with nothing but Tensors have in common."""
    kinds: list[Any] = [mode.recording, default_dtype(), _shared(tensors)]
    for x in tensors:
        array = x._array
        kinds.append((type(array), array.shape, array.dtype, x._node is None))
    return tuple(kinds)


class _Arguments:
    """What a function is called with: Tensors, and what else there is."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.leaves, self.structure = flatten((args, kwargs))
        self.places = [i for i, x in enumerate(self.leaves) if isinstance(x, Tensor)]
        self.tensors: list[Tensor] = [self.leaves[i] for i in self.places]

    @property
    def objects(self) -> list[Any]:
        """What may change among them."""
        return [x for x in self.leaves if type(x) not in _PLAIN and not isinstance(x, Tensor)]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """Arrays among them, which may be written to."""
        return tuple([x for x in self.leaves if type(x) is np.ndarray])

    def is_within(self, reach: Reach) -> bool:
        """Whether any Tensor is one that can be reached from the function, too."""
        return not reach.tensors.isdisjoint(map(id, self.tensors))

    @property
    def subject(self) -> Any:
        """The function, together with what it is given that may change."""
        rest = self.objects
        return functools.partial(self.function, *rest) if rest else self.function

    def key(self, mode: Mode) -> Any:
        """What calls have in common that may run by the same plan."""
        if not self.kwargs and len(self.args) == len(_tensors(self.args)):
            return _key_of(mode, self.args)
        kinds: list[Any] = [self.structure, mode.recording, default_dtype(), _shared(self.tensors)]
        for x in self.leaves:
            if isinstance(x, Tensor):
                array = x._array
                kinds.append((type(array), array.shape, array.dtype, x._node is None))
            elif isinstance(x, np.ndarray):
                kinds.append((x.shape, x.dtype, digest(x)))
            elif type(x) in _PLAIN:
                kinds.append((type(x), repr(x) if type(x) is float else x))  # -0.0 is not 0.0
            else:
                kinds.append(id(x))
        return tuple(kinds)

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """What the function returns for other Tensors; Unplanned if it changes what holds them."""
        leaves, structure = self.leaves.copy(), self.structure
        one: dict[int, Tensor] = {}  # for one that is given twice
        for place, given, x in zip(self.places, self.tensors, tensors, strict=True):
            leaves[place] = one.setdefault(id(given), x)
        args, kwargs = rebuilt = unflatten(structure, leaves)
        result = self.function(*args, **kwargs)
        after, now = flatten(rebuilt, structure)
        if now != structure or any(a is not b for a, b in zip(after, leaves, strict=True)):
            raise Unplanned("it changes what its arguments hold")
        return result


def _prepare(
    function: Callable[[Sequence[Tensor]], Any], tensors: list[Tensor], standing: Standing
) -> Ready:
    if standing.trusted:
        return prepare_function(function, tensors)
    operations = Operations(whole=True)
    ready = prepare_function(lambda own: watched(operations, function, own), tensors)
    if not standing.knows(tuple(operations.names)):
        raise Unseen("the function does what it has not been seen to do")
    return ready


def why_literal(mode: Mode) -> str | None:
    """Why nothing is planned here; None where plans may run."""
    if mode.literal:
        return "literal() turns every plan off"
    if mode.anomaly:
        return "detect_anomaly looks at every operation"
    if mode.watch is not None:
        return "it runs inside a function or a cell that is watched"
    if mode.recorder is not None:
        return "it runs inside a step that is planned as a whole"
    if needs_graph():
        return "derivatives of a derivative are to come, which go through every operation"
    return None


@overload
def planned(function: Callable[P, R], *, retrace: bool = True) -> Planned[P, R]: ...
@overload
def planned(*, retrace: bool) -> Callable[[Callable[P, R]], Planned[P, R]]: ...
def planned(function: Any = None, *, retrace: bool = True) -> Any:
    """A function of Tensors, or a whole training step, that runs by a plan; also a decorator.

    ::

        @tg.planned
        def step(x, y):
            optimizer.zero_grad()
            loss = tg.cross_entropy(model(x), y)
            loss.backward()
            norm = optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss, norm

    Each call traces the function, on arguments that have shapes and no values, and runs the plan
    for what it did: a program with kernels, prepared once for each structure of operations, shapes
    and dtypes. Arguments and results are any nesting of tuples, lists and dicts; what is no Tensor
    is passed on as it is. Captured Tensors and Python numbers are arguments of the plan, random
    draws are those that the function itself would make, and derivatives come out by the same rules,
    to any order. Results are equal to rounding; ``with literal():`` runs the function itself.

    So does any call that cannot be planned, with the same results: one that looks at a value
    (``if``, ``.item()``, NumPy), keeps a Tensor or changes something that it can reach or is given,
    has a loop of ``unroll`` in it (which is planned by itself), runs inside ``vmap`` or another
    trace, is given a Tensor that it reaches as well, reaches NumPy arrays of more than 16 MiB that
    are not read-only, or has arguments of fewer than 2**14 elements, for which tracing takes longer
    than it saves. A function of yours runs as it is and is watched when it is first called, and
    planned from the next call on if nothing changed in what it can reach; ``@tinygrad_rnn.pure``
    trusts it at once. ``planned(f).report()`` says how the last call ran.

    A function that calls ``backward`` is a training step, of any size, with loops in it. Its
    gradients, parameters and optimiser states are all changed at its end or, if it raises, not at
    all: also where the step runs literally. The loss comes back released, ``.grad`` is filled, and
    adds up where nothing zeroes it. Values are there when the step has returned them: whoever asks
    inside (``loss.item()``, ``if norm > 1``) gets a TypeError that says so. Python runs once for
    each call, so counters count and schedules step; where a trace is given up and Python runs
    again, names, containers, arrays and generators of random numbers are put back before, and only
    what went elsewhere, as what it printed, is there twice. A step runs literally, with the reason
    in the report, under ``detect_anomaly``, with ``retain_graph`` or ``create_graph``, with hooks,
    with sparse embeddings, where it rebinds ``p.data`` by hand, reads a parameter or a state after
    its update, updates one twice, returns what can still be differentiated, or keeps a Tensor
    (return it, and keep what is returned). A loop over a cell of yours has to be watched first, as
    ever. Tracing takes Python about as long as the step itself, so with ``retrace`` a small model
    gains nothing.

    Args:
        function: what to plan.
        retrace: False is your word that a training step does the same in each call with arguments
            of the same structure, shapes, dtypes, numbers and objects; of a function that does not
            call ``backward`` it changes nothing. The step's plan then runs without a trace, which
            is what small models gain most from. It is traced again if something that it reaches,
            also behind ``pure``, is bound to something else, a container is filled otherwise, a
            NumPy array is written to, a Tensor that it captures has another shape, dtype or
            backend, is frozen or gets a hook, gradients are there that were not, or the grad mode
            is another; and at every call, if it reaches arrays of more than 64 KB that may be
            written to, or looks at the value of a Tensor that it captures. Settings of optimisers
            are read by the update at each call; what the step itself makes of them stays what it
            was. And **Python in it does not run**: it prints and logs nothing, a counter does not
            count, a scheduler inside does not step, and what it gets from elsewhere, as random
            numbers from NumPy, a file, a ``bytearray``, a context variable or the clock, stays
            what it was. Put those outside.

    Raises:
        TypeError: for what cannot be called; at a call, for a value that is asked for in a step.
    """
    if function is None:
        return functools.partial(planned, retrace=retrace)
    if not callable(function):
        raise TypeError(f"planned: a function of Tensors, not a {type(function).__name__}")
    return Planned(function, retrace)


# Functions of the library.


def composition(least: int = LEAST) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Plan a function of the library: one that computes from its arguments, and nothing else.

    What it is given are Tensors and what can be a key: numbers, strings, tuples of them. It is
    traced once for each kind of arguments, and captures nothing but constants. It runs as it is
    where kernels do nothing of it, and when a kind is met for the first time, which may be the
    last: to prepare a plan takes as long as hundreds of calls.

    Args:
        least: elements of all arguments from which on there is a plan.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = planner.compositions.setdefault(function, {})

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            mode = MODE.get()
            literal = mode.literal or mode.anomaly or mode.watch is not None
            if literal or mode.recorder is not None or needs_graph():
                return function(*args, **kwargs)
            size, tensors, kinds, fits = 0, list[Tensor](), list[Any](), False
            for x in (*args, *kwargs.values()):
                if not isinstance(x, Tensor):
                    kinds.append((type(x), repr(x) if type(x) is float else x))
                    continue
                array = x._array
                if type(array) is not np.ndarray:
                    return function(*args, **kwargs)
                size += array.size
                tensors.append(x)
                fits = fits or array.dtype == np.float32
                kinds.append((array.shape, array.dtype, x._node is None))
            if size < least or not fits:
                return function(*args, **kwargs)
            key = (mode.recording, default_dtype(), *kwargs, *kinds)
            ready = known.get(key)
            if ready is None:
                ready = _meet(known, key, function, args, kwargs, tensors)
            if isinstance(ready, str) or (ready.plan.draws and random.is_elsewhere()):
                return function(*args, **kwargs)
            return run_function(ready, tensors)  # type: ignore[no-any-return]

        return call

    return decorate


def _meet(
    known: dict[Any, Any],
    key: Any,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
) -> Ready | str:
    """How a function of the library runs on a kind of arguments not known yet, or why as it is."""
    # A number that changes with every call, such as a probability, is no other structure.
    structure = [x[:1] if type(x) is tuple and x[0] is float else x for x in key]
    text = f"{function.__module__}.{function.__qualname__}{structure}"
    kind = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    if kind not in planner.met:
        if len(planner.met) < _MOST_MET:
            planner.met.add(kind)
        return "it is met for the first time"
    if len(known) >= _KINDS:
        known.clear()
    found = known[key] = _prepare_composition(function, args, kwargs, tensors)
    return found


_KINDS = 512
"""Kinds of arguments that are known of a function of the library, before it begins again."""

_MOST_MET = 4096
"""Kinds that are planned, of all such functions; others run as they are for good.

What was met is written to checkpoints: a run that goes on in another process is to compute what it
would have computed in the first one, to the bit.
"""


def _prepare_composition(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
) -> Ready | str:
    """How a function of the library runs, or why it runs as it is."""

    def on(own: Sequence[Tensor]) -> Any:
        rest = iter(own)
        mine = [next(rest) if isinstance(x, Tensor) else x for x in (*args, *kwargs.values())]
        return function(*mine[: len(args)], **dict(zip(kwargs, mine[len(args) :], strict=True)))

    if settings.switch("TINYGRAD_RNN_JIT") is False or available() is not None:
        return "there are no kernels"
    try:
        ready = prepare_function(on, tensors)
    except Unplanned as reason:
        return str(reason)
    return ready if ready.plan.program.loops else "kernels do nothing of it"
