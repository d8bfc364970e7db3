"""Kernels over rows in a program: a stage lowered to a ``Loop`` of one step over all rows."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tinygrad_rnn_backends import Backend

from ...kernels.ir import Instruction, Kernel, Loop, Slot, Timetable
from ..facts import copied, full
from ..ir import Number, Value, base, elements, is_view
from ..passes.rowwise import Read, is_total, operand_of, width_in
from ..runtime.functions import places_in
from ..stages import Stage
from .writer import Writer


@functools.cache
def table_of(rows: int) -> Timetable:
    """One step of so many rows."""
    zero = np.zeros(1, np.int64)
    return Timetable(zero, zero, zero, np.array([rows]), zero)


@functools.lru_cache(maxsize=64)
def counters_of(backend: Backend, rows: int, width: int, whole: int) -> Any:
    """For each row of a kernel: of which row of a draw, ``whole`` long, and from which block on."""
    first = np.arange(rows, dtype=np.int64) * width
    return backend.from_host(np.stack([first // whole, first % whole // 4], axis=1))


class RowLowering:
    """A stage on its way to a Loop; its values stay in registers but for those others read."""

    def __init__(self, writer: Writer, stage: Stage, outside: set[Value]) -> None:
        assert stage.rows is not None
        self.writer = writer
        self.rows = stage.rows.count
        self.columns = stage.rows.columns  # if rows are cut anew
        self.values = stage.values
        self.inside = set(stage.values)
        self.outside = outside
        self.arrays: list[str] = []
        self.instructions: list[Instruction] = []
        self.stores: list[Instruction] = []
        self.known: dict[Any, int] = {}
        self.totals: list[tuple[Value, str]] = []

    def write(self, loops: list[Loop]) -> None:
        """The lines that call the kernel, which is added to ``loops``."""
        writer = self.writer
        for value in self.values:
            self._add(value)
        loop = Loop((Kernel((*self.instructions, *self.stores)),), False)
        table = writer.constant(f"of_{self.rows}_rows", table_of(self.rows))
        work = [i.name for i in self.instructions if i.name not in ("load", "constant")]
        writer.line(f"# A kernel of {len(work)} operations on each of {self.rows} rows")
        arrays = ", ".join(self.arrays)
        writer.line(f"loop_{len(loops)}([{arrays}], {table}, None, threads())")
        loops.append(loop)
        for value, part in self.totals:
            self._add_up(value, part)

    # Instructions.

    def _add(self, value: Value) -> None:
        """The instructions of a value, and where it is stored."""
        name, width = value.name, self._width(value)
        if name == "take_along_axis":
            x, index = value.operands
            read = self._read(x, value)
            number = self._emit("pick", (self._place(index, x),), 1, self._slot(read))
        elif name == "add_along_axis":
            x, index, values = value.operands
            operands = self._place(index, value), self._operand(values, value)
            number = self._emit("place", operands, width)
            if x.primitive is not full:
                number = self._emit("add", (self._operand(x, value), number), width)
        elif value.primitive is copied or name == "astype":
            number = self._operand(value.inputs[0], value)
            if value.dtype.kind == "b":
                zero = self._once(("number", 0.0), Instruction("constant", (), 1, 0.0))
                number = self._emit("not_equal", (number, zero), width)
        else:
            number = self._emit(name, tuple([self._operand(x, value) for x in value.inputs]), width)
        self.known[value] = number
        if is_total(value, 1 if self.columns else self.rows):
            part = self.writer.name("parts")
            self.writer.line(f"{part} = pool.empty(({self.rows},), np.{value.dtype.name})")
            self._store(number, Slot(self._array(part), "step", 0, 1, 1, value.dtype.name))
            self.totals.append((value, part))
        elif value in self.outside:
            array = self.writer.array(self.writer.storage.places[value].memory)
            self._store(number, Slot(self._array(array), "step", 0, width, width, value.dtype.name))

    def _width(self, value: Value) -> int:
        if self.columns is not None:
            return self.columns if elements(value.shape) > 1 else 1
        return width_in(value.shape, self.rows) or 1

    def _emit(self, name: str, operands: tuple[int, ...], width: int, argument: Any = None) -> int:
        self.instructions.append(Instruction(name, operands, width, argument))
        return len(self.instructions) - 1

    def _store(self, number: int, slot: Slot) -> None:
        self.stores.append(Instruction("store", (number,), slot.width, slot))

    def _once(self, key: Any, instruction: Instruction) -> int:
        if key not in self.known:
            self.known[key] = self._emit(*instruction)
        return self.known[key]

    def _operand(self, x: Value | Number, value: Value) -> int:
        """The instruction that has an operand: computed here, or loaded."""
        number = x.parameters["number"] if isinstance(x, Value) and x.primitive is full else x
        if not isinstance(number, Value):
            return self._once(
                ("number", float(number)), Instruction("constant", (), 1, float(number))
            )
        read = self._read(number, value)
        if read.owner in self.known and read.width == self._width(read.owner):
            return self.known[read.owner]
        if read.owner.source is not None and read.owner.source.kind == "draw":
            index = read.owner.source.index
            if index in self.writer.context.drawn_in_kernels:
                return self._draw(read.owner, index)
        slot = self._slot(read)
        return self._once(slot, Instruction("load", (), slot.width, slot))

    def _draw(self, draw: Value, index: int) -> int:
        """The instruction that makes random numbers."""
        writer, width = self.writer, self._width(draw)
        if draw in self.known:
            return self.known[draw]
        key, whole = writer.over_steps(draw), elements(draw.shape[1:])
        counters = counters_of(writer.context.backend, self.rows, width, whole)
        rows = self._array(writer.constant("counters", counters))
        slots = [Slot(self._array(key), "all", i, 1, 4, "int64") for i in range(4)]
        slots += [Slot(rows, "step", i, 1, 2, "int64") for i in range(2)]
        operands = [self._once(slot, Instruction("load", (), 1, slot)) for slot in slots]
        self.known[draw] = self._emit("draw", tuple(operands), width)
        return self.known[draw]

    def _read(self, x: Value, value: Value) -> Read:
        if self.columns is not None:
            while is_view(x) and (x.name == "reshape" or elements(x.operands[0].shape) == 1):
                x = x.operands[0]
            one = elements(x.shape) == 1
            return Read(x, 0, 1 if one else self.columns, every=one)
        read = operand_of(x, value, self.rows)
        assert read is not None  # or it would be no work for a kernel
        return read

    def _place(self, index: Value, x: Value) -> int:
        """The instruction that has a column for each row."""
        writer = self.writer
        check = writer.constant("places_in", places_in)
        call = f"{check}(np, {writer.over_steps(index)}, {x.shape[-1]})"
        array = writer.once(("places", base(index), x.shape[-1]), "places", call)
        slot = Slot(self._array(array), "step", 0, 1, 1, "int64")
        return self._once(slot, Instruction("load", (), 1, slot))

    # Memory.

    def _slot(self, read: Read) -> Slot:
        """Where an operand is in memory."""
        writer, owner = self.writer, read.owner
        text = writer.over_steps(owner)
        if read.spread is not None:
            text = f"np.broadcast_to({text}, {read.spread})"
        place = writer.storage.places.get(owner)
        own = place is not None and place.memory.kind == "steps" and place.key is None
        if not own or read.spread is not None:
            text = writer.once(
                ("rows", owner, read.spread), owner.name, f"np.ascontiguousarray({text})"
            )
        array = self._array(text)
        if read.every:
            return Slot(array, "all", 0, read.width, read.width, owner.dtype.name)
        stride = 1 if read.spread else self._width(owner)
        return Slot(array, "step", read.first, read.width, stride, owner.dtype.name)

    def _array(self, expression: str) -> int:
        if expression not in self.arrays:
            self.arrays.append(expression)
        return self.arrays.index(expression)

    def _add_up(self, value: Value, part: str) -> None:
        """The sum over rows, too, of what a kernel has made of each."""
        writer, (x,) = self.writer, value.operands
        backend = writer.constant("xp", writer.context.backend)
        if len(value.parameters["axis"]) < len(x.shape):
            axes = tuple([a + 1 for a in value.parameters["axis"] if a != -1])
            total = f"{backend}.sum({part}.reshape({x.shape[:-1]}), axis={axes})"
        else:
            total = f"{backend}.sum({part})"
        name = writer.array(writer.storage.places[value].memory)
        writer.line(f"{name}[...] = {total}.reshape({value.shape})", value)
