"""The text of native loops: each ``Loop`` a function in LLVM's language, each ``Kernel`` another.

A kernel is straight-line code on vectors of columns, in a loop over the columns of each row. The
statements of a step follow one another, and the loop over time surrounds them.

What needs the sum of a row cannot be in the same loop over its columns as the sum. So a value's
level says how many reductions lie before it, each level has loops of its own, and what crosses from
one to the next waits in scratch memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from ..ir import BY_COLUMN, STORES, Instruction, Kernel, Loop, Slot, Timetable
from .functions import (
    APPROXIMATED,
    ELEMENTWISE,
    REDUCTIONS,
    SLOW,
    Keys,
    Reduction,
    key_schedule,
    uniform,
)
from .gemm import CHAIN
from .llvm import Code, Value, vector

ARRAY_DATA = object.__basicsize__
"""Where NumPy's array objects have the address of their data: it is their first field."""


def slots(loop: Loop) -> list[Slot]:
    """All that the statements of a loop read or write."""
    found: dict[Slot, None] = {}
    for statement in loop.statements:
        if isinstance(statement, Kernel):
            found.update(dict.fromkeys(statement.slots))
        else:
            found.update(dict.fromkeys((statement.a, statement.b, statement.out)))
    return list(found)


_KINDS = {"bool": "i1", "int64": "i64"}


def _kind(slot: Slot) -> str:
    return _KINDS.get(slot.dtype, "float")


def _in_memory(kind: str) -> str:
    return "i8" if kind == "i1" else kind


def write_loop(
    name: str, loop: Loop, multiply: int, lanes: int, flushing: bool = False
) -> list[Code]:
    """The functions of a loop, the one called ``name`` last.

    It takes the addresses of the array objects, of those of the timetable and of the packed
    matrices, each numbered as the statement that multiplies by it; and runs steps [first, last) of
    the timetable on rows [row, end) of the batch.

    Args:
        name: of the function.
        loop: what it does.
        multiply: the address of the function of that name in ``gemm.py``.
        lanes: floats in a vector.
        flushing: whether the loop, if it goes backwards, takes what is smaller than any normal
            number for 0. A cotangent that vanishes over hundreds of steps ends up there, where
            each operation takes a hundred times as long.
    """
    code = Code(
        f"define void @{name}(ptr %arrays, ptr %timetable, ptr %packed, "
        "i64 %first, i64 %last, i64 %row, i64 %end)"
    )

    def data(objects: str, number: int) -> str:
        array = code.entry(objects, number, "ptr")
        return code.entry(code.address(array, ARRAY_DATA, "i8"), 0, "ptr")

    buffers = {n: data("%arrays", n) for n in sorted({slot.buffer for slot in slots(loop)})}
    tables = {name: data("%timetable", n) for n, name in enumerate(Timetable._fields)}
    kernels = []
    steps = (
        (code.integer("sub", "%last", 1), code.integer("sub", "%first", 1), -1)
        if loop.backwards
        else ("%first", "%last", 1)
    )
    mode = code.flushing() if flushing and loop.backwards else nullcontext()
    with mode, code.loop(*steps) as t:
        rows = code.integer("sub", code.smaller(code.entry(tables["count"], t), "%end"), "%row")
        with code.when(code.emit(f"icmp sgt i64 {rows}, 0")):
            first_row = {
                place: code.integer("add", code.entry(tables[place], t), "%row")
                for place in ("step", "before", "after")
            }
            first_row |= {"rows": "%row", "each": code.entry(tables["index"], t), "all": 0}

            def address(slot: Slot) -> str:
                offset = code.integer("mul", first_row[slot.place], slot.stride)
                offset = code.integer("add", offset, slot.column)
                return code.address(buffers[slot.buffer], offset, _in_memory(_kind(slot)))

            for n, statement in enumerate(loop.statements):
                if isinstance(statement, Kernel):
                    kernel = f"{name}.kernel{n}"
                    kernels.append(_KernelWriter(kernel, statement, lanes).write())
                    addresses = "".join(f", ptr {address(s)}" for s in statement.slots)
                    code.do(f"call void @{kernel}(i64 {rows}{addresses})")
                else:
                    a, _, out, accumulate, times = statement
                    function = code.emit(f"inttoptr i64 {multiply} to ptr")
                    code.do(
                        f"call void {function}(i64 {code.integer('mul', rows, times)}, "
                        f"i64 {out.width}, i64 {a.width}, "
                        f"ptr {address(a)}, i64 {a.stride // times}, i64 1, "
                        f"ptr {code.entry('%packed', n, 'ptr')}, "
                        f"ptr {address(out)}, i64 {out.stride // times}, i1 {int(accumulate)})"
                    )
    return [*kernels, code]


class _KernelWriter:
    """Writes a kernel as a function of the number of rows, and of the address of each slot."""

    def __init__(self, name: str, kernel: Kernel, lanes: int):
        self.kernel = kernel
        self.instructions = kernel.instructions
        self.lanes = lanes
        self.slots = kernel.slots
        parameters = "".join(f", ptr %slot{i}" for i in range(len(self.slots)))
        self.code = Code(f"define internal void @{name}(i64 %rows{parameters})")
        self.numbers: dict[int, Value] = {}  # the values of width 1, in this row
        self.rows: dict[Slot, str] = {}  # where this row of each slot is, at this index
        self.loops = kernel.levels()
        overwritten = {i.argument for i in self.instructions if i.name in STORES}
        self.again: set[int] = set()  # what is loaded or computed wherever it is needed
        for n, i in enumerate(self.instructions):
            loaded = i.name == "load" and i.argument not in overwritten
            cheap = i.name in ELEMENTWISE and i.name not in SLOW
            wide = [x for x in i.operands if self.instructions[x].width > 1]
            if i.width > 1 and (loaded or (cheap and self.again.issuperset(wide))):
                self.again.add(n)
        self.scratch = {
            x: self.code.variable("float", self.instructions[x].width)
            for n, i in enumerate(self.instructions)
            for x in i.operands
            if self.instructions[x].width > 1 and x not in self.again
            if self.loops[n][0] > self.loops[x][0]
        }
        self.kinds: dict[int, str] = {}  # of what is in scratch memory
        self.keys: dict[int, Keys] = {}  # of draws, in this row
        self.chains: dict[Instruction, str] = {}  # of sums along an axis, what is added in a row

    def write(self) -> Code:
        """The function."""
        with self.code.loop(0, "%rows") as row:
            for i, slot in enumerate(self.slots):
                stride = 0 if slot.place in ("each", "all") else slot.stride
                offset = self.code.integer("mul", row, stride)
                self.rows[slot] = self.code.address(f"%slot{i}", offset, _in_memory(_kind(slot)))
            for instruction in self.instructions:
                if self.kernel.reduced_axes(instruction):
                    self._start(instruction, 0, self.rows[instruction.argument])
            self._at_each_index(0)
        return self.code

    def _start(self, store: Instruction, axis: int, place: str) -> None:
        """Put what a reduction along axes starts from where its result will be."""
        code, slot, lanes = self.code, store.argument, self.lanes
        if axis < len(self.kernel.lengths):
            if not slot.along[axis]:
                return self._start(store, axis + 1, place)
            with code.loop(0, self.kernel.lengths[axis]) as index:
                offset = code.integer("mul", index, slot.along[axis])
                return self._start(store, axis + 1, code.address(place, offset))
        start = REDUCTIONS[STORES[store.name] or ""].start
        whole = slot.width - slot.width % lanes if slot.step == 1 else 0
        with code.loop(0, whole, lanes) as column:
            code.store(code.constant(start, lanes), code.address(place, column))
        for left in range(whole, slot.width):
            code.store(code.constant(start), code.address(place, left * slot.step))

    def _at_each_index(self, axis: int) -> None:
        """Write the loops over the axes of a row, and in the innermost one all instructions."""
        if axis == len(self.kernel.lengths):
            return self._at_one_index()
        code, length = self.code, self.kernel.lengths[axis]
        many = axis == len(self.kernel.lengths) - 1 and length > 2 * CHAIN
        sums = [
            i
            for i in dict.fromkeys(self.instructions)
            if STORES.get(i.name) == "sum" and axis in self.kernel.reduced_axes(i)
        ]
        if not (many and sums):
            return self._at_indices(axis, 0, length)
        with code.loop(0, length, CHAIN) as start:  # no sum takes in more in a row
            for i in sums:
                self.chains[i] = code.variable("float", i.width)
                for first, last, lanes in self._vectors_of(i.width):
                    with code.loop(first, last, lanes) as column:
                        place = code.address(self.chains[i], column)
                        code.store(code.constant(0, lanes), place)
            end = code.smaller(code.integer("add", start, CHAIN), length)
            places = dict(self.rows)
            self._at_indices(axis, start, end)
            self.rows = places
            for i in sums:
                chain = self.chains.pop(i)
                for first, last, lanes in self._vectors_of(i.width):
                    with code.loop(first, last, lanes) as column:
                        more = code.load(code.address(chain, column), lanes)
                        total = self._load(i.argument, column, lanes) + more
                        self._put(total, i.argument, column)

    def _at_indices(self, axis: int, start: str | int, end: str | int) -> None:
        code, first = self.code, dict(self.rows)
        with code.loop(start, end) as index:
            for slot, place in first.items():
                offset = code.integer("mul", index, slot.along[axis])
                self.rows[slot] = code.address(place, offset, _in_memory(_kind(slot)))
            self._at_each_index(axis + 1)

    def _vectors_of(self, width: int) -> list[tuple[int, int, int]]:
        """Columns from one to another by so many at a time: whole vectors, and what is left."""
        whole = width - width % self.lanes
        parts = ((0, whole, self.lanes), (whole, width, width % self.lanes))
        return [part for part in parts if part[0] < part[1]]

    def _at_one_index(self) -> None:
        # These wait until they are needed, if nothing overwrites what they are made of first.
        of = {n: x for n, x in enumerate(self.loops) if n not in self.again}
        for level in sorted({level for level, _ in of.values()}):
            for n in of:
                if of[n] == (level, 1):
                    self._number(n)
            for width in sorted({w for at, w in of.values() if at == level and w != 1}):
                self._columns(width, [n for n in of if of[n] == (level, width)])

    def _apply(self, name: str, operands: Sequence[Value]) -> Value:
        """Write an elementwise function; all but approximations round as NumPy does.

        For the backward pass may compute again what the forward pass stored, and compare the two.
        """
        self.code.fused = name in APPROXIMATED
        return ELEMENTWISE[name](*operands)

    def _number(self, n: int) -> None:
        """Write an instruction on values of width 1."""
        i = self.instructions[n]
        operands = [self.numbers[x] for x in i.operands]
        if i.name in STORES:
            self._store(operands[0], i, 0)
        elif i.name == "load":
            self.numbers[n] = self._load(i.argument, 0, 1)
        elif i.name == "constant":
            kind = "i1" if isinstance(i.argument, bool | np.bool) else "float"
            self.numbers[n] = self.code.constant(float(i.argument), kind=kind)
        elif i.name in REDUCTIONS:
            self.numbers[n] = operands[0].floating()
        elif i.name == "pick":
            self.numbers[n] = self._load(i.argument, operands[0].text, 1)
        elif i.name in BY_COLUMN:
            self._keys(n)
            self.numbers[n] = self._by_column(n, 0, 1)
        else:
            self.numbers[n] = self._apply(i.name, operands)

    def _keys(self, n: int) -> None:
        """Write what a draw has for all columns of a row."""
        name, operands, _, _ = self.instructions[n]
        if name == "draw":
            self.keys[n] = key_schedule(*[self.numbers[x] for x in operands[:2]])

    def _by_column(self, n: int, column: str | int, lanes: int) -> Value:
        """Write an instruction that knows columns by their numbers, from ``column`` on."""
        name, operands, _, _ = self.instructions[n]
        if name == "draw":
            *_, site, step, row, block = (self.numbers[x] for x in operands)
            first = self.code.integer("add", block.text, self.code.integer("sdiv", column, 4))
            counter = site, step, row, self.code.whole(first)
            return uniform(self.keys[n], counter, lanes)
        place, value = (self.numbers[x] for x in operands)
        there = self.code.whole(self.code.integer("sub", place.text, column)).is_lane(lanes)
        return there.choose(value.floating(), 0)

    def _columns(self, width: int, numbers: Sequence[int]) -> None:
        """Write a loop over columns for some instructions, and another for what is left over."""
        code = self.code
        reductions = {
            n: REDUCTIONS[self.instructions[n].name]
            for n in numbers
            if self.instructions[n].name in REDUCTIONS
        }
        for n in numbers:
            self._keys(n)
        for first, last, lanes in self._vectors_of(width):
            partial = {n: code.variable(vector("float", lanes)) for n in reductions}
            for n, reduction in reductions.items():
                code.store(code.constant(reduction.start, lanes), partial[n])
            if reductions and last - first > CHAIN * lanes:
                self._in_chains(numbers, (first, last, lanes), partial, reductions)
            else:
                with code.loop(first, last, lanes) as column:
                    self._vectors(numbers, column, lanes, partial)
            for n, reduction in reductions.items():
                total = reduction.lanes(code.load(partial[n], lanes))
                before = self.numbers.get(n) if first else None
                self.numbers[n] = total if before is None else reduction.combine(before, total)

    def _in_chains(
        self,
        numbers: Sequence[int],
        columns: tuple[int, int, int],
        partial: dict[int, str],
        reductions: dict[int, Reduction],
    ) -> None:
        """The loop over columns, of which reductions take in so many in a row and no more."""
        code, (first, last, lanes) = self.code, columns
        chain = {n: code.variable(vector("float", lanes)) for n in reductions}
        with code.loop(first, last, CHAIN * lanes) as start:
            for n, reduction in reductions.items():
                code.store(code.constant(reduction.start, lanes), chain[n])
            end = code.smaller(code.integer("add", start, CHAIN * lanes), last)
            with code.loop(start, end, lanes) as column:
                self._vectors(numbers, column, lanes, chain)
            for n, reduction in reductions.items():
                before, more = code.load(partial[n], lanes), code.load(chain[n], lanes)
                code.store(reduction.combine(before, more), partial[n])

    def _vectors(
        self, numbers: Sequence[int], column: str, lanes: int, partial: dict[int, str]
    ) -> None:
        """Write some instructions for the columns that begin with ``column``."""
        code = self.code
        vectors: dict[int, Value] = {}

        def operand(x: int) -> Value:
            if x not in vectors:
                if self.instructions[x].width == 1:
                    return self.numbers[x]
                i = self.instructions[x]
                if x in self.again and i.name == "load":
                    vectors[x] = self._load(i.argument, column, lanes)
                elif x in self.again:
                    vectors[x] = self._apply(i.name, [operand(y) for y in i.operands])
                else:
                    place = code.address(self.scratch[x], column, _in_memory(self.kinds[x]))
                    vectors[x] = code.load(place, lanes, self.kinds[x])
            return vectors[x]

        for n in numbers:
            i = self.instructions[n]
            if i.name == "load":
                vectors[n] = self._load(i.argument, column, lanes)
            elif i.name in STORES:
                self._store(operand(i.operands[0]).spread(lanes), i, column)
            elif i.name in REDUCTIONS:
                combine = REDUCTIONS[i.name].combine
                value = operand(i.operands[0]).floating()
                code.store(combine(code.load(partial[n], lanes), value), partial[n])
            elif i.name in BY_COLUMN:
                vectors[n] = self._by_column(n, column, lanes)
            else:
                vectors[n] = self._apply(i.name, [operand(x) for x in i.operands])
            if n in self.scratch:
                self.kinds[n] = vectors[n].kind
                place = code.address(self.scratch[n], column, _in_memory(vectors[n].kind))
                code.store(vectors[n], place)

    def _load(self, slot: Slot, column: str | int, lanes: int) -> Value:
        kind = _kind(slot)
        places = self._places(slot, column, lanes)
        if len(places) == 1:
            return self.code.load(places[0], lanes, kind)
        return self.code.join([self.code.load(place, 1, kind) for place in places])

    def _places(self, slot: Slot, column: str | int, lanes: int) -> list[str]:
        """Where columns are: of the first one if they are neighbours, else of each."""
        code, kind = self.code, _in_memory(_kind(slot))
        first = code.address(self.rows[slot], code.integer("mul", column, slot.step), kind)
        if slot.step == 1:
            return [first]
        return [code.address(first, lane * slot.step, kind) for lane in range(lanes)]

    def _store(self, value: Value, store: Instruction, column: str | int) -> None:
        slot = store.argument
        if _kind(slot) != "i1":
            value = value.floating()
        if store in self.chains:
            place = self.code.address(self.chains[store], column)
            return self.code.store(self.code.load(place, value.lanes) + value, place)
        if self.kernel.reduced_axes(store):
            combine = REDUCTIONS[STORES[store.name] or ""].combine
            value = combine(self._load(slot, column, value.lanes), value)
        self._put(value, slot, column)

    def _put(self, value: Value, slot: Slot, column: str | int) -> None:
        places = self._places(slot, column, value.lanes)
        parts = [value] if len(places) == 1 else [value.part(i, 1) for i in range(value.lanes)]
        for part, place in zip(parts, places, strict=True):
            self.code.store(part, place)
