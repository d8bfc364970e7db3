"""A loop over time lowered to a ``Loop`` for machine code: kernels and products over slots.

What is computed at which level is the schedule's, and where it lives the storage's. Here they
become instructions: what a kernel makes and reads itself stays in registers, all else is loaded.
"""

from __future__ import annotations

from typing import Any

from ...kernels import ir as machine
from ...kernels.ir import Instruction, Kernel, Loop, Product, Slot
from ..ir import Number, Value, elements
from ..passes.schedule import Columns, Schedule, width_of
from ..passes.slices import parts_of
from ..stages import EACH, ONCE, ROWS_ONCE, Stage
from ..storage import Place
from .writer import Writer


class Lowering:
    """One stage on its way to a Loop, which is called with ``arrays``, by name."""

    def __init__(self, writer: Writer, stage: Stage, schedule: Schedule) -> None:
        self.writer = writer
        self.schedule = schedule
        self.storage = writer.storage
        self.extents = writer.extents
        self.own = schedule.inside | {c.before for c in stage.carries}
        self.arrays: list[str] = []

    def lower(self) -> Loop:
        """The statements of each level: a kernel, then products."""
        schedule = self.schedule
        statements: list[Kernel | Product] = []
        for level in range(max(schedule.level.values()) + 1):
            at_level = [v for v in schedule.values if schedule.level[v] == level]
            kernel = _KernelBuilder(self)
            for value in at_level:
                if value in schedule.added:
                    if self._is_to_be_put(value):
                        kernel.store(kernel.operand(schedule.added[value][0]), self.slot(value))
                elif value.name == "concat":
                    self._join(value, kernel)
                elif value.name != "matmul":
                    kernel.add(value)
            for value in self._left_for_later(level):
                kernel.store(kernel.operand(schedule.added[value][0]), self.slot(value))
            if kernel.instructions:
                statements.append(kernel.kernel())
            for value in at_level:
                if value in schedule.added:
                    product = schedule.added[value][1]
                    statements.append(self._product(product, self.slot(value), True))
                elif value.name == "matmul" and value not in schedule.addends:
                    statements.append(self._product(value, self.slot(value), False))
        return Loop(tuple(statements), self.writer.part.backwards)

    def _left_for_later(self, level: int) -> list[Value]:
        """Sums of a later level whose first part is made at this one, and left in their place."""
        schedule, found = self.schedule, []
        for value, (rest, _) in schedule.added.items():
            owner = schedule.columns(rest).owner
            early = schedule.level[value] > level and schedule.level.get(owner) == level
            if early and schedule.left_by_kernel(value):
                found.append(value)
        return found

    def _is_to_be_put(self, value: Value) -> bool:
        """Whether what a product is added to has to be put in its place at the sum's own level."""
        schedule, rest = self.schedule, self.schedule.added[value][0]
        owner = schedule.columns(rest).owner
        merged = owner in schedule.inside and schedule.merges(owner, value)
        early = schedule.left_by_kernel(value) and schedule.level[owner] < schedule.level[value]
        return not merged and not early and value not in self.storage.in_place

    def _join(self, whole: Value, kernel: _KernelBuilder) -> None:
        """Copy the operands of a concat that no kernel puts there."""
        for part, key in parts_of(whole):
            if self.schedule.owner_in_kernel(part) is None:
                place = self.storage.places[whole]._replace(key=key)
                kernel.store(kernel.operand(part), self._slot(part, place))

    def _product(self, value: Value, out: Slot, accumulate: bool) -> Product:
        a, b = value.operands
        k, n = b.shape
        matrix = Slot(self._array(self.writer.over_steps(b)), "all", 0, n, n, b.dtype.name)
        left = self.read(self.schedule.columns(a))._replace(width=k)
        return Product(left, matrix, out, accumulate)

    # Slots.

    def slot(self, value: Value) -> Slot:
        """Where a value of this loop is."""
        return self._slot(value, self.storage.places[value])

    def slots(self, value: Value) -> list[Slot]:
        """Everywhere that a kernel puts a value."""
        places = [self.storage.places[value]] if value in self.storage.places else []
        places += self.storage.copies.get(value, [])
        return [self._slot(value, place) for place in places]

    def read(self, columns: Columns) -> Slot:
        """Where columns of a value are in memory."""
        owner = columns.owner
        slot = self.slot(owner) if owner in self.own else self.outside(owner)
        return slot._replace(column=slot.column + columns.first, width=columns.width)

    def outside(self, x: Value) -> Slot:
        """Where a value is that another stage made, or that is given."""
        extent, writer = self.extents[x], self.writer
        if extent in (ONCE, EACH):
            flat = writer.once(("flat", x), "flat", f"np.ascontiguousarray({writer.over_steps(x)})")
            width = elements(x.shape)
            rows: machine.Place = "all" if extent is ONCE else "each"
            return Slot(self._array(flat), rows, 0, width, width, x.dtype.name)
        place = self.storage.of_all_steps(x)
        if place.at != "step" or place.memory.kind == "steps":
            return self._slot(x, place)
        name = writer.once(("whole", x), "whole", f"np.ascontiguousarray({writer.over_steps(x)})")
        width = width_of(x)
        rows = "rows" if extent is ROWS_ONCE else "step"
        return Slot(self._array(name), rows, 0, width, width, x.dtype.name)

    def _slot(self, value: Value, place: Place) -> Slot:
        memory = place.memory
        rows: machine.Place = "step" if memory.of_all_steps else "rows"
        if place.at != "step":
            rows = place.at
            if memory.kind == "states" and self.writer.part.backwards:
                # The timetable is the forward pass's: what is after for it is before backwards.
                rows = "before" if place.at == "after" else "after"
        column = 0 if place.key is None else place.key[-1].start
        array = self._array(self.writer.array(memory))
        width, stride = width_of(value), width_of(memory.like)
        return Slot(array, rows, column, width, stride, memory.like.dtype.name)

    def _array(self, expression: str) -> int:
        if expression not in self.arrays:
            self.arrays.append(expression)
        return self.arrays.index(expression)


class _KernelBuilder:
    """The instructions of one kernel."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.instructions: list[Instruction] = []
        self.stores: list[tuple[int, Slot]] = []
        self.known: dict[Any, int] = {}

    def kernel(self) -> Kernel:
        """What was built: stores last, since they may overwrite what was loaded."""
        stores = [Instruction("store", (n,), slot.width, slot) for n, slot in self.stores]
        return Kernel((*self.instructions, *stores))

    def emit(self, instruction: Instruction) -> int:
        """Add an instruction; its number."""
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def add(self, value: Value) -> None:
        """A value of this kernel, stored wherever it is needed."""
        if value in self.known:
            return
        operands = tuple([self.operand(x) for x in value.inputs])
        if value.name == "copied":
            number = operands[0]
        else:
            number = self.emit(Instruction(value.name, operands, width_of(value)))
        self.known[value] = number
        for slot in self.lowering.slots(value):
            self.store(number, slot)

    def store(self, number: int, slot: Slot) -> None:
        """Store what an instruction made."""
        self.stores.append((number, slot))

    def operand(self, x: Value | Number) -> int:
        """The instruction that has an operand: computed here, or loaded."""
        lowering, schedule = self.lowering, self.lowering.schedule
        if not isinstance(x, Value):
            return self._once(("number", float(x)), Instruction("constant", (), 1, float(x)))
        if lowering.extents[x] in (ONCE, EACH):
            return self._load(lowering.outside(x))
        owner = schedule.columns(x).owner
        if schedule.whole(x):
            made_here = owner in schedule.inside and not schedule.is_product(owner)
            if made_here and owner not in lowering.storage.places:
                self.add(owner)
            if owner in self.known:
                return self.known[owner]
        return self._load(lowering.read(schedule.columns(x)))

    def _load(self, slot: Slot) -> int:
        return self._once(slot, Instruction("load", (), slot.width, slot))

    def _once(self, key: Any, instruction: Instruction) -> int:
        if key not in self.known:
            self.known[key] = self.emit(instruction)
        return self.known[key]
