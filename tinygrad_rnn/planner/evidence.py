"""Evidence that a cell is pure: what it did at each step, and what it left behind.

A planned loop does at each step what one step did, so a cell must do the same at every step. No
reading of code can tell. So a cell that is met for the first time runs literally, and is watched:
the operations of each step, their static parameters, numbers and captured values, which results
they read, draws, and what was read on the host. Steps are compared with the first one while they
run. If all were alike, and nothing that the cell can reach changed after the first, the call
counts; after eight steps in calls that count the cell is known, and planned from then on.

A value that the step made is the same if the same operation of the step made it; a captured one if
it is the same array, not written to, or if its values are equal. So nothing is compared but numbers
and names, unless a cell makes its constants anew at each step.

A change that shows neither in a cell's steps nor in what it can reach (``reach``) is not noticed;
the mode "literal" is right even then, and ``testing.check_planned`` compares the two.
"""

from __future__ import annotations

import functools
import random as python_random
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import locks

from .. import anomaly, random
from ..graph import Primitive
from ..random import Draw
from ..structure import flatten
from ..tensor import MODE, Tensor
from .ir import hashable
from .loop import Cell
from .reach import Reach, digest

ENOUGH = 8  # steps in calls that count
TRIES = 3  # calls running that may not count
HELD = 64 << 20  # bytes of captured values
_RECORDS = 1024
_BRANCHES = 64  # of one cell
_OFTEN = 16  # steps after each of which is looked at what can be reached; then at the last


# What is known of cells.


class Record:
    """What is known of a cell."""

    def __init__(self) -> None:
        self.steps: dict[tuple[Any, ...], int] = {}  # seen alike, by the operations of one
        self.misses = 0  # calls running that did not count
        self.reason = ""  # of the last of them

    def knows(self, operations: tuple[Any, ...]) -> bool:
        """Whether steps of such operations have been seen to be alike, and enough of them."""
        return self.steps.get(operations, 0) >= ENOUGH

    @property
    def known(self) -> bool:
        """Whether there is anything to be planned."""
        return any(n >= ENOUGH for n in self.steps.values())

    @property
    def hopeless(self) -> bool:
        """Whether it runs literally for good."""
        return self.misses >= TRIES


class Records:
    """What is known of cells, by what a cell is known by; the least recently met one goes first."""

    def __init__(self) -> None:
        self._records: OrderedDict[Any, Record] = OrderedDict()
        self._warned: set[Any] = set()
        self._lock = locks.lock()

    def get(self, key: Any) -> Record | None:
        """What is known of a cell; None for one that is met for the first time."""
        return self._records.get(key)

    def count(self, key: Any, operations: tuple[Any, ...], steps: int) -> None:
        """Steps of such operations were alike."""
        with self._lock:
            record = self._record(key)
            while len(record.steps) >= _BRANCHES and operations not in record.steps:
                record.steps.pop(next(iter(record.steps)))
            record.steps[operations] = record.steps.get(operations, 0) + steps
            record.misses = 0

    def miss(self, key: Any, reason: str, following: Any) -> None:
        """A call of a cell does not count; it goes by another key now if one is ``following``."""
        with self._lock:
            record = self._record(key)
            record.misses += 1
            record.reason = reason
            if following is not None:
                follower = self._record(following)
                follower.misses = max(follower.misses, record.misses)
                follower.reason = reason

    def _record(self, key: Any) -> Record:
        record = self._records.setdefault(key, Record())
        self._records.move_to_end(key)
        while len(self._records) > _RECORDS:
            self._records.popitem(last=False)
        return record

    def note_warning(self, kind: Any) -> bool:
        """Note that somebody is warned of such cells; whether nobody was before."""
        with self._lock:
            first = kind not in self._warned
            self._warned.add(kind)
            return first

    def clear(self) -> None:
        """As if no cell had been met before."""
        with self._lock:
            self._records.clear()
            self._warned.clear()


def name_of(cell: Any, kind: str = "the cell") -> str:
    """A cell as messages name it, with its file and line if it is a function."""
    while isinstance(cell, (types.MethodType, functools.partial)):
        cell = cell.func if isinstance(cell, functools.partial) else cell.__func__
    code = getattr(cell, "__code__", None)
    if code is None:
        return f"{kind} {type(cell).__name__}"
    return f"{kind} {cell.__qualname__} ({code.co_filename}:{code.co_firstlineno})"


# Watching a cell.


class Operations:
    """The operations of a step, in order: what one call is compared with another by."""

    def __init__(self, whole: bool = False) -> None:
        self.names: list[Any] = []
        self.whole = whole  # those of a function, in which loops are planned by themselves

    def call(self, cell: Cell, x: Any, state: Any) -> Any:
        """``cell(x, state)``, watched."""
        self.names.clear()
        return watched(self, cell, x, state)

    def operation(
        self, primitive: Primitive, inputs: Any, arrays: Any, parameters: Any, out: Any
    ) -> None:
        """A primitive was applied."""
        self.names.append(primitive)

    def draw(self, draw: Draw, out: Tensor) -> None:
        """Random numbers were drawn."""
        self.names.append("draw")

    def detach(self, x: Tensor) -> None:
        """A value was taken out of the graph."""
        self.names.append("detach")

    def read(self, x: Tensor, asked: str) -> None:
        """A value was read on the host."""
        self.names.append(("read", _of_value(x._array)))

    def loop(self) -> None:
        """A loop of ``unroll`` begins."""
        self.names.append("loop")


def is_watched() -> bool:
    """Whether this is within a step that is watched.

    If it is within a function that is, that is told of the loop, which runs as ever.
    """
    watch = MODE.get().watch
    if watch is None or not watch.whole:
        return watch is not None
    watch.loop()
    return False


def watched(watch: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, of whose operations ``watch`` is told."""
    mode = MODE.get()
    token = MODE.set(mode.but(watch=watch))
    try:
        return function(*arguments)
    finally:
        MODE.reset(token)


def _of_value(array: Any) -> Any:
    """What of a captured value matters between calls: of floats, whether all are 0."""
    host = backends.of(array).to_host(array)  # type: ignore[union-attr]
    return not host.any() if host.dtype.kind == "f" else digest(host)


class _Unlike(Exception):
    """Steps differ."""


class Evidence(Operations):
    """What a cell does at the steps of one call, compared with the first of them.

    An operation is noted as a tuple: primitive, static parameters, where each input came from, and
    what came out. Where from is a tuple of names, since an array may be known by several: ("x", 0),
    ("state", 1), ("made", 7) by the seventh operation of this step, ("captured", 2) at the first.
    """

    def __init__(self, cell: Any, once: bool = False) -> None:
        """``once``: it is a function, which is called once, and compared with nothing."""
        super().__init__(once)
        self.cell = cell
        self.called = name_of(cell, "the function" if once else "the cell")
        self.steps = 0
        self.reason: str | None = None
        self._first: list[Any] = []  # what the first step did
        self._place = 0  # in that
        self._origins: dict[int, tuple[Any, int, tuple[Any, ...]]] = {}
        self._captured: list[Any] = []  # arrays, or weak references to large ones
        self._places: dict[int, int] = {}  # among those, of arrays by id
        self._digests: dict[int, Any] = {}
        self._fresh: list[Any] = []  # arrays of this step only
        self._before = Reach(cell, exactly=True) if once else None
        self._generators = _generators(Reach(cell).generators)

    def call(self, cell: Cell, x: Any, state: Any) -> Any:
        """``cell(x, state)``, watched until something differs."""
        if self.reason is not None:
            return cell(x, state)
        self._begin(x, state)
        result = watched(self, cell, x, state)
        if self.reason is None:
            self._end(result)
        return result

    @property
    def operations(self) -> tuple[Any, ...]:
        """Those of each step."""
        return tuple(self.names)

    def finish(self) -> str | None:
        """Look for the last time; the reason why this call does not count, or None."""
        if self.reason is None and self.steps < 2 and not self.whole:
            self.reason = "one step is no evidence"
        if self.reason is None:
            self._look(last=True)
        if self.reason is None:
            now = _generators(Reach(self.cell).generators)
            if self._generators != now:
                self.reason = (
                    f"{self.called} draws random numbers, other than tinygrad_rnn.random's"
                )
        return self.reason

    # One step.

    def _begin(self, x: Any, state: Any) -> None:
        self._place = 0
        self._fresh.clear()
        for kind, tree in (("x", x), ("state", state)):
            for i, leaf in enumerate(flatten(tree)[0]):
                array = leaf._array
                place = self._places.get(id(array))
                if place is not None and self._array_at(place) is array:
                    known: tuple[Any, ...] = (("captured", place),)
                else:
                    known = ()
                    if self.steps == 0:  # an initial state may be captured as well
                        known = (("captured", self._capture(array)),)
                old = self._origins.get(id(array))
                if old is not None and old[0]() is array and old[1] == self.steps:
                    known = old[2]
                self._remember(array, (*known, (kind, i)))

    def _end(self, result: Any) -> None:
        leaves, structure = flatten(result)
        if not self._note("return", "return", structure, leaves):
            return
        self._fresh.clear()
        if self.steps == 0:
            self._hold()
        self.steps += 1
        if self.steps <= _OFTEN:
            self._look()

    def _look(self, last: bool = False) -> None:
        """Whether anything that can be reached has changed, or an array was written to."""
        now = Reach(self.cell, exactly=True)
        if self._before is None:
            self._before = now
        else:
            name = self._before.changed(now)
            if name is not None:
                self.reason = f"{self.called} changes {name}"
                return
        for place in range(len(self._captured)):
            array = self._array_at(place)
            large = array is not None and array.nbytes > 1 << 20
            if array is None or not getattr(array.flags, "writeable", True):
                continue
            if large and not last and place in self._digests:
                continue
            found = digest(backends.of(array).to_host(array))  # type: ignore[union-attr]
            if self._digests.setdefault(place, found) != found:
                self.reason = f"an array that {self.called} captures was written to"
                return

    # What the step does.

    def loop(self) -> None:
        """A loop of ``unroll`` begins."""
        self.reason = self.reason or "a loop over time runs inside it, which is planned by itself"

    def operation(
        self, primitive: Primitive, inputs: Any, arrays: Any, parameters: Any, out: Any
    ) -> None:
        """A primitive was applied."""
        if self.reason is not None:
            return
        results = out if primitive.several else (out,)
        shapes = tuple([(y.shape, y.dtype) for y in results])
        static = hashable(parameters), shapes, MODE.get().recording
        if self._note(primitive, primitive, static, inputs):
            given = {id(array) for array in arrays}
            for i, y in enumerate(results):
                if id(y) not in given:  # which some return as they are
                    self._remember(y, (("made", self._place, i),))

    def draw(self, draw: Draw, out: Tensor) -> None:
        """Random numbers were drawn."""
        if self._note("draw", "draw", draw):
            self._remember(out._array, (("made", self._place, 0),))

    def detach(self, x: Tensor) -> None:
        """A value was taken out of the graph."""
        self._note("detach", "detach", (), (x,))

    def read(self, x: Tensor, asked: str) -> None:
        """A value was read on the host."""
        array, found = x._array, self._origins.get(id(x._array))
        ours = found is not None and found[0]() is array
        if self.reason is None and ours and not any(n[0] == "captured" for n in found[2]):  # type: ignore[index]
            self.reason = f"a value of a step is read on the host, by {asked}{_line()}"
        elif self.reason is None:
            self._note("read", ("read", _of_value(array)), _value(array))

    # Comparing it with the first.

    def _note(self, what: Any, name: Any, parameters: Any, inputs: Any = ()) -> bool:
        """Note what is done, by a name; whether nothing has differed yet."""
        if self.reason is not None:
            return False
        try:
            self._compare(what, parameters, inputs)
        except _Unlike:
            return False
        except (TypeError, ValueError) as error:
            self.reason = f"{_name_of(what)} cannot be compared: {error}{_line()}"
            return False
        if self.steps == 0 and what != "return":
            self.names.append(name)
        return True

    def _compare(self, what: Any, parameters: Any, inputs: Any) -> None:
        """Keep it at the first step; later, raise _Unlike if it was something else there."""
        origins = [self._origin(x) for x in inputs]
        self._place += 1
        if self.steps == 0:
            self._first.append((what, parameters, origins))
            return
        if self._place > len(self._first):
            self._unlike(", where its first step was done", what)
        first, before, earlier = self._first[self._place - 1]
        if first is not what:
            self._unlike(f", where its first step did {_name_of(first)}", what)
        if before != parameters or len(earlier) != len(origins):
            self._unlike(": parameters, shapes or dtypes changed", what)
        for now, then in zip(origins, earlier, strict=True):
            if now != then and not self._same(now, then):
                self._unlike(_why(now), what)

    def _unlike(self, why: str, what: Any) -> None:
        where = "" if what == "return" else _line()
        self.reason = f"{self.called} is not the same at every step: {_name_of(what)}{where}{why}"
        raise _Unlike

    def _origin(self, x: Any) -> tuple[Any, ...]:
        """Where an input came from."""
        if not isinstance(x, Tensor):
            if type(x) in (int, float, bool):
                return (("number", type(x), repr(x)),)
            if backends.of(x) is None and not isinstance(x, np.generic):
                return (("object", type(x).__name__),)
            return (("value", _value(x)),)
        array = x._array
        found = self._origins.get(id(array))
        if found is not None and found[0]() is array:
            if found[1] == self.steps:
                return found[2]
            captured = tuple([name for name in found[2] if name[0] == "captured"])
            return captured or (("kept",),)
        place = self._places.get(id(array))
        if place is not None and self._array_at(place) is array:
            return (("captured", place),)
        if type(array) not in backends._of_type:
            self._unlike(": a value is inside vmap", "an input")
        if self.steps == 0:
            return (("captured", self._capture(array)),)
        self._fresh.append(array)
        return (("fresh", array),)

    def _same(self, now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
        """Whether two origins are one, or an array made anew has the values of the first."""
        if now[0][0] == "fresh":
            array, place = now[0][1], next((n[1] for n in then if n[0] == "captured"), None)
            held = None if place is None else self._array_at(place)
            if held is None or not _equal(array, held):
                return False
            self._remember(array, then)
            return True
        return any(name in now for name in then)

    # Arrays.

    def _remember(self, array: Any, names: tuple[Any, ...]) -> None:
        self._origins[id(array)] = weakref.ref(array), self.steps, names

    def _capture(self, array: Any) -> int:
        place = len(self._captured)
        self._captured.append(array)
        self._places[id(array)] = place
        if self.whole and getattr(array.flags, "writeable", True):
            self._digests[place] = digest(backends.of(array).to_host(array))  # type: ignore[union-attr]
        return place

    def _array_at(self, place: int) -> Any:
        held = self._captured[place]
        return held() if isinstance(held, weakref.ref) else held

    def _hold(self) -> None:
        """Hold captured arrays up to a limit, small ones first: others live if they are held."""
        total = 0
        for place in sorted(range(len(self._captured)), key=lambda i: self._captured[i].nbytes):
            total += self._captured[place].nbytes
            if total > HELD:
                self._captured[place] = weakref.ref(self._captured[place])


def _value(x: Any) -> Any:
    found = backends.of(x)
    host = np.asarray(x) if found is None else found.to_host(x)
    return host.shape, host.dtype, digest(host)


def _equal(a: Any, b: Any) -> bool:
    """Whether two arrays are the same in every element, nan included."""
    if a.shape != b.shape or a.dtype != b.dtype or type(a) is not type(b):
        return False
    same = a == b
    if a.dtype.kind == "f":
        same = same | ((a != a) & (b != b))
    return bool(same.all())


def _name_of(what: Any) -> str:
    return what.name if isinstance(what, Primitive) else f"its {what}"


def _why(now: tuple[Any, ...]) -> str:
    if now[0][0] == "number":
        return ": a Python number changed"
    if now[0][0] == "kept":
        return ", of a value that it kept from an earlier step"
    return ": a captured value changed" if now[0][0] == "fresh" else ", of other values"


def _line() -> str:
    return f" at {anomaly.place()}"


def _generators(reached: tuple[Any, ...]) -> list[Any]:
    """The states of all generators of random numbers that are not tinygrad_rnn's."""
    legacy = np.random.get_state(legacy=False)
    found: list[Any] = [
        python_random.getstate(),
        *_state_of(legacy),
        *_state_of(random.host_generator()),
    ]
    for generator in reached:
        found += _state_of(generator)
    return found


def _state_of(generator: Any) -> list[Any]:
    if isinstance(generator, python_random.Random):
        return [generator.getstate()]
    if isinstance(generator, np.random.RandomState):
        generator = generator.get_state(legacy=False)
    state: Any = generator
    found: list[Any] = []
    if not isinstance(generator, dict):
        bits = getattr(generator, "bit_generator", generator)
        state = bits.state
        found.append(getattr(getattr(bits, "seed_seq", None), "n_children_spawned", 0))
    for leaf in flatten(state)[0]:
        found.append(leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf)
    return found
