"""Where every value lives, decided once: what both emitters and the report read.

A pass has memories: an array over all steps for what something else reads, one with the state at
the start as well, the latest of a state, or scratch memory that the steps share. A value has a
place in one of them: the whole, or a part of it, as the operands of a ``concat`` are computed in
their places. A view (a slice, a transpose, another shape) has none: it looks at another's.

In a NumPy loop a result takes scratch memory that nothing reads later. A product adds its result to
what a kernel left in its place, or to an array that nothing else reads. A state of which only the
latest is needed lives in one place if it is written there after all statements that read it. A
value of a kernel without a place never leaves the registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .facts import called, facts_of
from .ir import Key, Value, base, elements, is_view, writes_into
from .passes.schedule import Schedule, Scheduled, keeps_latest
from .passes.slices import parts_of
from .runtime.pool import rounded
from .runtime.steps import exact
from .stages import EACH, ROWS, ROWS_ONCE, Carry, Distribution, Extent, Pass, Stage, states_of

Kind = Literal[
    "given",
    "steps",
    "states",
    "latest",
    "scratch",
    "total",
    "grown",
    "result",
    "local",
]


@dataclass(frozen=True, eq=False)
class Memory:
    """An array of a pass.

    ``given`` to it; over all ``steps``; all ``states``, the one at the start as well; the
    ``latest`` of a state; ``scratch`` that the steps share; the ``total`` of a sum that grows in a
    loop, or what has ``grown`` in one of kernels. What cannot write into memory that is there makes
    its own: a ``result`` over all steps, or a ``local`` one at each.
    """

    kind: Kind
    like: Value  # a value of the shape and dtype that it has at one step

    @property
    def of_all_steps(self) -> bool:
        """Whether it is there once a loop is done."""
        return self.kind in ("given", "steps", "states", "result")

    def size(self, extent: Extent, steps: int, rows: int, most: int) -> int:
        """The bytes of so many steps of rows, of which ``most`` are active at a time."""
        by_rows = extent in (ROWS, ROWS_ONCE)
        shape = self.like.shape[1:] if by_rows else self.like.shape
        count = once = most if by_rows else 1
        if self.of_all_steps:
            count = {ROWS: steps * rows, EACH: steps}.get(extent, once)
        if self.kind == "states":
            count += once
        dtype = exact(self.like.dtype) if self.kind == "total" else self.like.dtype
        return elements(shape) * dtype.itemsize * count

    def bytes(self, extent: Extent, steps: int, rows: int, most: int) -> int:
        """The bytes of the buffer: one of the pool's is rounded up."""
        size = self.size(extent, steps, rows, most)
        return (
            rounded(size) if self.kind in ("steps", "states", "scratch", "total", "grown") else size
        )


class Place(NamedTuple):
    """Where a value is in a memory: of states, that ``before`` or ``after`` the step."""

    memory: Memory
    at: Literal["step", "before", "after"] = "step"
    key: Key | None = None  # of the part that it is, at one step


class Storage:
    """The places of a pass's values."""

    def __init__(self) -> None:
        self.places: dict[Value, Place] = {}
        self.copies: dict[Value, list[Place]] = {}  # where else a value is put
        self.latest: dict[Value, Memory] = {}  # by the state before, if only the latest is kept
        self.totals: dict[Value, Memory] = {}  # of sums that grow in a loop
        self.lost: dict[Value, Memory] = {}  # what rounding took from them, in loops of kernels
        self.in_place: set[Value] = set()  # sums in the array of their first part

    def of_all_steps(self, value: Value) -> Place:
        """Where to find a value, which is no view, of all steps."""
        places: list[Place] = [self.places[value], *self.copies.get(value, ())]
        return next(place for place in places if place.memory.of_all_steps)

    def is_part(self, value: Value, whole: Value, key: Key) -> bool:
        """Whether an operand of a concat is computed in its place there."""
        return self.places.get(value) == self.places[whole]._replace(key=key)

    @property
    def memories(self) -> list[Memory]:
        """All of them, each once."""
        places = [*self.places.values(), *(p for each in self.copies.values() for p in each)]
        found = [*(p.memory for p in places), *self.latest.values()]
        return list(dict.fromkeys([*found, *self.totals.values(), *self.lost.values()]))


def side_by_side(whole: Value) -> bool:
    """Whether each operand of a concat has neighbouring elements of a row."""
    axis = whole.parameters["axis"]
    return elements(whole.shape[1:axis]) == 1 if axis > -len(whole.shape) else False


def assign(distribution: Distribution, scheduled: Scheduled, whole: bool = False) -> list[Storage]:
    """A place for every value of each pass, in the order of ``distribution.passes``.

    ``whole``: there is one step, that of a function.
    """
    return [
        _Assignment(distribution, part, scheduled, whole).storage for part in distribution.passes
    ]


def held(distribution: Distribution, storage: Storage) -> list[Memory]:
    """The memories of the forward pass, of draws as well, that are held for the backward one."""
    if distribution.backward is None:
        return []
    values = [*distribution.residuals, *states_of(distribution.backward)]
    memories = [storage.of_all_steps(base(value)).memory for value in values]
    draws = [storage.places[v].memory for v in distribution.forward.needs if v.name == "draw"]
    return list(dict.fromkeys([m for m in memories if m.kind != "given"] + draws))


class _Assignment:
    """The storage of one pass, stage by stage."""

    def __init__(
        self, distribution: Distribution, part: Pass, scheduled: Scheduled, whole: bool
    ) -> None:
        self.storage = Storage()
        self.places = self.storage.places
        self.extents = distribution.extents
        self.part = part
        self.readers = part.readers()
        self.carried = {c.after: c for c in part.carries}
        for value in part.needs:
            if value.name == "state" and part.backwards:  # those of the forward pass
                self.places[value] = Place(Memory("given", value), "before")
            elif value.name not in ("state", "dstate"):
                self.places[value] = Place(Memory("given", value))
        for number, stage in enumerate(part.stages):
            if stage in scheduled.schedules:
                _Kernels(self, number, stage, scheduled.schedules[stage]).assign()
            elif stage.loop:
                self._numpy_loop(number, stage)
            elif stage.rows is not None:
                self._row_kernel(number, stage)
            elif whole:
                self._one_step(number, stage)
            else:
                self._all_steps(stage)

    def outside(self, number: int, value: Value) -> bool:
        """Whether other stages than this read a value, or it is read at the end."""
        return bool(self.readers.get(value, set()) - {number})

    def all_states(self, carry: Carry) -> None:
        """A state of all steps, and at the start."""
        memory = Memory("states", carry.before)
        self.places[carry.before] = Place(memory, "before")
        self.places[carry.after] = Place(memory, "after")

    def latest(self, carry: Carry) -> Memory:
        """The latest of a state only."""
        memory = self.storage.latest[carry.before] = Memory("latest", carry.before)
        self.places[carry.before] = Place(memory)
        return memory

    def _all_steps(self, stage: Stage) -> None:
        rows = {value for value in stage.values if self.extents[value] is ROWS}
        parts = self._parts(stage, lambda part, whole: {part, whole} <= rows)
        for value in stage.values:
            if value in self.carried:
                self.all_states(self.carried[value])
        for value in stage.values:
            if is_view(value) or value in self.places or value in parts:
                continue
            writes = value in rows and (value.name == "concat" or writes_into(value))
            self.places[value] = Place(Memory("steps" if writes else "result", value))
        for value, (whole, key) in parts.items():
            self.places[value] = self.places[whole]._replace(key=key)

    def _one_step(self, number: int, stage: Stage) -> None:
        """What is read later in memory of its own; the rest shares scratch memory.

        What an object is given, it may keep or give back, so that counts as read later, too.
        """
        calls = [value for value in stage.values if value.primitive is called]
        given = {base(x) for value in calls for x in value.operands}

        def kept(value: Value) -> bool:
            return value in given or self.outside(number, value)

        parts = self._parts(stage, lambda part, whole: not kept(part) or kept(whole))
        for value in stage.values:
            if value not in parts and not is_view(value) and kept(value):
                writes = value.name == "concat" or writes_into(value)
                self.places[value] = Place(Memory("steps" if writes else "result", value))
        _share_scratch(stage, self.places, parts, ())

    def _row_kernel(self, number: int, stage: Stage) -> None:
        """What is read later in memory of its own; a kernel has all else in registers."""
        for value in stage.values:
            if self.outside(number, value) and value not in stage.again:
                self.places[value] = Place(Memory("steps", value))

    def _parts(
        self, stage: Stage, together: Callable[[Value, Value], bool]
    ) -> dict[Value, tuple[Value, Key]]:
        """Which values are computed in their places in a concat: the concat, and the key there."""
        inside = set(stage.values)
        found: dict[Value, tuple[Value, Key]] = {}
        for whole in stage.values:
            for part, key in parts_of(whole) if whole.name == "concat" else ():
                own = part in inside and part not in self.carried and part not in found
                once = whole.operands.count(part) == 1 and part.dtype == whole.dtype
                if own and writes_into(part) and once and together(part, whole):
                    found[part] = whole, key
        return found

    def _numpy_loop(self, number: int, stage: Stage) -> None:
        places = self.places
        for carry in stage.carries:
            read = [self.outside(number, value) for value in carry]
            if any(read) and not self.part.late:
                self.all_states(carry)
                continue
            self.latest(carry)
            if read[0]:
                self.storage.copies[carry.before] = [Place(Memory("steps", carry.before))]

        def together(part: Value, whole: Value) -> bool:  # not in scratch memory, if others read it
            return not self.outside(number, part) or whole in places or self.outside(number, whole)

        parts = self._parts(stage, together)
        for value in stage.values:
            own = value not in parts and value not in places and not is_view(value)
            if own and self.outside(number, value):
                places[value] = Place(Memory("steps", value))
        for value in stage.sums:
            self.storage.totals[value] = Memory("total", value)
        _share_scratch(stage, places, parts, self.storage.latest)


def _share_scratch(
    stage: Stage,
    places: dict[Value, Place],
    parts: dict[Value, tuple[Value, Key]],
    latest: Iterable[Value],
) -> None:
    """Place what a step makes for itself: in scratch memory, which is free after its last use."""

    def owner(value: Value) -> Value:
        value = base(value)
        return parts[value][0] if value in parts else value

    last_use = {owner(x): i for i, v in enumerate(stage.values) for x in [v, *v.operands]}
    for carry in stage.carries:
        if carry.before in latest:  # it is copied there after the others are computed
            last_use[carry.after] = len(stage.values)
    live: dict[Value, Memory] = {}
    free: list[Memory] = []

    def release(value: Value) -> None:
        free.append(live.pop(value))

    def place(value: Value) -> None:
        if value in places:
            return
        if value.name != "concat" and not writes_into(value):
            places[value] = Place(Memory("local", value))
            return
        shape, dtype = value.shape, value.dtype
        fitting = [m for m in free if (m.like.shape, m.like.dtype) == (shape, dtype)]
        memory = fitting[-1] if fitting else Memory("scratch", value)
        if fitting:
            free.remove(memory)
        live[value] = memory
        places[value] = Place(memory)

    for i, value in enumerate(stage.values):
        if not is_view(value):
            if facts_of(value.name).ufunc:  # it may overwrite what nothing reads any more
                for x in value.operands:
                    if x in live and last_use[x] == i and x.shape == value.shape:
                        release(x)
            if value in parts:
                whole, key = parts[value]
                place(whole)
                places[value] = places[whole]._replace(key=key)
            else:
                place(value)
        for value in [v for v in live if last_use[v] <= i]:
            release(value)


class _Kernels:
    """The storage of a loop of kernels and products."""

    def __init__(
        self, assignment: _Assignment, number: int, stage: Stage, schedule: Schedule
    ) -> None:
        self.assignment = assignment
        self.number = number
        self.stage = stage
        self.schedule = schedule
        self.storage = assignment.storage
        self.places = assignment.places
        self.concats = [value for value in schedule.values if value.name == "concat"]

    def assign(self) -> None:
        """Place what needs memory."""
        for carry in self.stage.carries:
            if keeps_latest(carry, self.schedule):
                self.places[carry.after] = Place(self.assignment.latest(carry))
            else:
                self.assignment.all_states(carry)
        self._sums_in_place()
        for value in self.schedule.values:
            if value not in self.places and self._needs_memory(value):
                kind: Kind = "steps" if value in self.schedule.outside else "scratch"
                self.places[value] = Place(Memory(kind, value))
        for whole in sorted(self.concats, key=lambda whole: not self._of_all_steps(whole)):
            self._parts(whole)
        for value in self.stage.sums:
            self.storage.totals[value] = Memory("grown", value)
            self.storage.lost[value] = Memory("grown", value)
        for value in self.schedule.values:  # a sum's first part is where the sum is
            if self.schedule.whole_sum(value) is not value:
                self.places[value] = self.places[self.schedule.whole_sum(value)]

    def _sums_in_place(self) -> None:
        """Sums added to an array of this pass's own that nothing else reads."""
        for value, (rest, _) in self.schedule.added.items():
            whole = self.schedule.whole_sum(value)
            free = whole not in self.places and whole not in self.schedule.outside
            if free and self._writable(rest):
                self.places[whole] = self.places[rest]
                self.storage.in_place.add(value)

    def _writable(self, rest: Value) -> bool:
        if rest in self.schedule.inside or rest not in self.places:
            return False
        assignment, place = self.assignment, self.places[rest]
        own = place.memory.kind == "steps" and place.memory.like is rest
        own = own and assignment.extents[rest] is ROWS
        computed = [v for stage in assignment.part.stages for v in stage.values]
        readers = [v for v in computed if rest in map(base, v.operands)]
        return own and assignment.readers[rest] == {self.number} and len(readers) == 1

    def _needs_memory(self, value: Value) -> bool:
        schedule = self.schedule
        if schedule.whole_sum(value) is not value or value in schedule.addends:
            return False  # it is written where the sum is
        if schedule.is_product(value) or value.name == "concat":
            return True
        if self._in_concat(value):
            return False  # its columns there are its memory
        if value in schedule.outside or schedule.iterations[value].reduces_axes:
            return True
        readers = [r for r in schedule.readers[value] if not self._is_rest(value, r)]
        return any(not self._reads_no_memory(value, reader) for reader in readers)

    def _is_rest(self, value: Value, reader: Value) -> bool:
        """Whether a product is added to a value, which is left in the sum's place."""
        return reader in self.schedule.added and self.schedule.added[reader][0] is value

    def _reads_no_memory(self, value: Value, reader: Value) -> bool:
        schedule = self.schedule
        if reader.name == "concat":
            parts = [x for x in reader.operands if base(x) is value]
            return all(schedule.owner_in_kernel(x) is not None for x in parts)
        if schedule.is_product(reader) or schedule.level[reader] != schedule.level[value]:
            return False
        return schedule.reads_in_registers(reader, value)

    def _in_concat(self, value: Value) -> bool:
        """Whether columns of a concat are a value's memory, of all steps if it needs them."""
        joined = [r for r in self.schedule.readers[value] if r.name == "concat"]
        outside = value in self.schedule.outside
        return any(
            value in r.operands and side_by_side(r) and (not outside or self._of_all_steps(r))
            for r in joined
        )

    def _of_all_steps(self, whole: Value) -> bool:
        if whole in self.places:
            return self.places[whole].memory.of_all_steps
        return whole in self.schedule.outside

    def _parts(self, whole: Value) -> None:
        """Let kernels put the operands of a concat into it."""
        for part, key in parts_of(whole):
            owner = self.schedule.owner_in_kernel(part)
            if owner is not None:
                place = self.places[whole]._replace(key=key)
                if owner in self.places:
                    self.storage.copies.setdefault(owner, []).append(place)
                else:
                    self.places[owner] = place
