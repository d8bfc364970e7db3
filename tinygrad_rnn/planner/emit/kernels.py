"""A loop over time lowered to a ``Loop`` for machine code: kernels and products over slots.

What is computed at which level is the schedule's, and where it lives the storage's. Here they
become instructions: what a kernel makes and reads itself stays in registers, all else is loaded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...kernels import ir as machine
from ...kernels.ir import Instruction, Kernel, Loop, Product, Slot
from ..ir import Number, Value, elements, is_view
from ..passes.schedule import Schedule
from ..passes.slices import parts_of
from ..passes.windows import (
    Iteration,
    Read,
    Strides,
    contiguous,
    iteration,
    width_of,
)
from ..stages import EACH, ONCE, ROWS_ONCE, Stage
from ..storage import Place, side_by_side
from .writer import Writer


class Spot(NamedTuple):
    """Where the rows of a value are in memory, and its elements in a row."""

    array: int
    place: machine.Place
    first: int
    stride: int
    strides: Strides  # along each axis of a row
    dtype: str

    def slot(self, over: Iteration, strides: Strides, first: int = 0) -> Slot:
        """The elements at these strides along all axes, for a kernel."""
        along, step = over.along(strides)
        width = over.width if step else 1
        fields = (self.array, self.place, self.first + first, width, self.stride, self.dtype)
        return Slot(*fields, along, step or 1)


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
        """The statements of each level: kernels, then products."""
        schedule = self.schedule
        statements: list[Kernel | Product] = []
        for level in range(max(schedule.level.values()) + 1):
            at_level = [v for v in schedule.values if schedule.level[v] == level]
            kernels: dict[tuple[int, ...], _KernelBuilder] = {}
            for value in at_level:
                if value in schedule.added:
                    if self._is_to_be_put(value):
                        self._copy(schedule.added[value][0], self.spot(value), kernels)
                elif value.name == "concat":
                    self._join(value, kernels)
                elif value not in schedule.products:
                    self._builder(schedule.iterations[value], kernels).add(value)
            for value, owner in self._left_for_later(level):
                over = schedule.iterations[owner]
                spot = self.spot_at(owner, self.storage.places[value])
                self._builder(over, kernels).put(owner, spot)
            statements += [kernel.kernel() for kernel in kernels.values() if kernel.instructions]
            for value in at_level:
                if value in schedule.added:
                    product = schedule.added[value][1]
                    statements.append(self._product(product, self.spot(value), True))
                elif value in schedule.products and value not in schedule.addends:
                    statements.append(self._product(value, self.spot(value), False))
        return Loop(tuple(statements), self.writer.part.backwards)

    def _builder(
        self, over: Iteration, kernels: dict[tuple[int, ...], _KernelBuilder]
    ) -> _KernelBuilder:
        return kernels.setdefault(over.lengths, _KernelBuilder(self, over.lengths))

    def _left_for_later(self, level: int) -> list[tuple[Value, Value]]:
        """Sums, and the first part of each, that is made at this level and left in their place."""
        schedule, found = self.schedule, []
        for value, (rest, _) in schedule.added.items():
            owner = schedule.window(rest).owner
            made = schedule.left_by_kernel(value) and schedule.level[owner] == level
            if made and value not in self.storage.in_place:
                found.append((value, owner))
        return found

    def _is_to_be_put(self, value: Value) -> bool:
        """Whether what a product is added to has to be put in its place at the sum's own level."""
        schedule, rest = self.schedule, self.schedule.added[value][0]
        owner = schedule.window(rest).owner
        merged = owner in schedule.inside and schedule.merges(owner, value)
        left = schedule.left_by_kernel(value)
        return not merged and not left and value not in self.storage.in_place

    def _join(self, whole: Value, kernels: dict[tuple[int, ...], _KernelBuilder]) -> None:
        """Copy the operands of a concat that no kernel puts there."""
        for part, key in parts_of(whole):
            if self.schedule.owner_in_kernel(part) is None:
                place = self.storage.places[whole]._replace(key=key)
                self._copy(part, self.spot_at(part, place), kernels)

    def _copy(self, x: Value, spot: Spot, kernels: dict[tuple[int, ...], _KernelBuilder]) -> None:
        over = iteration(x.shape[1:])
        self._builder(over, kernels).copy(x, over, spot)

    def _product(self, value: Value, out: Spot, accumulate: bool) -> Product:
        a, b = value.operands
        k, n = b.shape
        times = elements(value.shape[1:-1])
        matrix = Slot(self._array(self.writer.over_steps(b)), "all", 0, n, n, b.dtype.name)
        window = self.schedule.window(a)
        left = self.read(window.owner)
        return Product(
            Slot(left.array, left.place, left.first + window.first, k, left.stride, left.dtype),
            matrix,
            Slot(out.array, out.place, out.first, n, out.stride, out.dtype),
            accumulate,
            times,
        )

    # Where values are.

    def spot(self, value: Value) -> Spot:
        """Where a value of this loop is."""
        return self.spot_at(value, self.storage.places[value])

    def spots(self, value: Value) -> list[Spot]:
        """Everywhere that a kernel puts a value."""
        places = [self.storage.places[value]] if value in self.storage.places else []
        places += self.storage.copies.get(value, [])
        return [self.spot_at(value, place) for place in places]

    def read(self, owner: Value) -> Spot:
        """Where a value is that is read: of this loop, of another stage, or given."""
        return self.spot(owner) if owner in self.own else self.outside(owner)

    def outside(self, x: Value) -> Spot:
        """Where a value is that another stage made, or that is given."""
        extent, writer = self.extents[x], self.writer
        if extent in (ONCE, EACH):
            flat = writer.once(("flat", x), "flat", f"np.ascontiguousarray({writer.over_steps(x)})")
            width = elements(x.shape)
            rows: machine.Place = "all" if extent is ONCE else "each"
            return Spot(self._array(flat), rows, 0, width, contiguous(x.shape), x.dtype.name)
        if not is_view(x):  # of one that is, a copy has regular strides
            place = self.storage.of_all_steps(x)
            apart = place.key is not None and not side_by_side(place.memory.like)
            if place.at != "step" or (place.memory.kind == "steps" and not apart):
                return self.spot_at(x, place)
        name = writer.once(("whole", x), "whole", f"np.ascontiguousarray({writer.over_steps(x)})")
        rows = "rows" if extent is ROWS_ONCE else "step"
        array = self._array(name)
        return Spot(array, rows, 0, width_of(x), contiguous(x.shape[1:]), x.dtype.name)

    def spot_at(self, value: Value, place: Place) -> Spot:
        """Where a value is at a place."""
        memory = place.memory
        rows: machine.Place = "step" if memory.of_all_steps else "rows"
        if place.at != "step":
            rows = place.at
            if memory.kind == "states" and self.writer.part.backwards:
                # The timetable is the forward pass's: what is after for it is before backwards.
                rows = "before" if place.at == "after" else "after"
        shape, strides, first = memory.like.shape[1:], contiguous(memory.like.shape[1:]), 0
        if place.key is not None:
            cuts = [entry.indices(n) for entry, n in zip(place.key[1:], shape, strict=True)]
            first = sum(cut[0] * stride for cut, stride in zip(cuts, strides, strict=True))
            shape = tuple([len(range(*cut)) for cut in cuts])
        if value.shape[1:] != shape:  # the same but for axes of length 1
            long = iter([stride for n, stride in zip(shape, strides, strict=True) if n != 1])
            strides = tuple([0 if n == 1 else next(long) for n in value.shape[1:]])
        array = self._array(self.writer.array(memory))
        stride, dtype = width_of(memory.like), memory.like.dtype.name
        return Spot(array, rows, first, stride, strides, dtype)

    def _array(self, expression: str) -> int:
        if expression not in self.arrays:
            self.arrays.append(expression)
        return self.arrays.index(expression)


class _KernelBuilder:
    """The instructions of one kernel, over axes of these lengths."""

    def __init__(self, lowering: Lowering, lengths: tuple[int, ...]) -> None:
        self.lowering = lowering
        self.lengths = lengths
        self.instructions: list[Instruction] = []
        self.stores: list[Instruction] = []
        self.known: dict[Any, int] = {}

    def kernel(self) -> Kernel:
        """What was built: stores last, since they may overwrite what was loaded."""
        return Kernel((*self.instructions, *self.stores), self.lengths)

    def emit(self, instruction: Instruction) -> int:
        """Add an instruction; its number."""
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def add(self, value: Value) -> None:
        """A value of this kernel, stored wherever it is needed."""
        if value in self.known:
            return
        over = self.lowering.schedule.iterations[value]
        reads = iter(self.lowering.schedule.read_of[value])
        operands = tuple(
            [
                self._read(over, next(reads)) if isinstance(x, Value) else self._number(x)
                for x in value.inputs
            ]
        )
        if value.name in ("copied", "copy"):
            number = operands[0]
        elif value.name in ("sum", "max", "matmul"):
            number = self._reduced(value, over, operands)
        else:
            number = self.emit(Instruction(value.name, operands, over.width))
        self.known[value] = number
        for spot in self.lowering.spots(value):
            self.put(value, spot)
        if value in self.lowering.schedule.sums:
            self._grow(value, over)

    def _grow(self, value: Value, over: Iteration) -> None:
        """Add a value to a sum over time, and what rounding takes from it to the next (Kahan)."""
        storage, lowering = self.lowering.storage, self.lowering
        places = [Place(each[value]) for each in (storage.totals, storage.lost)]
        spots = [lowering.spot_at(value, place) for place in places]
        total, lost = (self._load(spot.slot(over, over.strides(spot.strides))) for spot in spots)

        def apply(name: str, *operands: int) -> int:
            return self.emit(Instruction(name, operands, over.width if over.wide else 1))

        added = apply("subtract", self.known[value], lost)
        grown = apply("add", total, added)
        lost = apply("subtract", apply("subtract", grown, total), added)
        lost = apply("where", apply("isfinite", grown), lost, self._number(0.0))
        for number, spot in zip((grown, lost), spots, strict=True):
            self._store("store", number, over, spot, over.strides(spot.strides))

    def _reduced(self, value: Value, over: Iteration, operands: tuple[int, ...]) -> int:
        """What is added up over columns, of a product if it is one."""
        number, name = operands[0], value.name
        if name == "matmul":
            widths = [self.instructions[x].width for x in operands]
            number = self.emit(Instruction("multiply", operands, max(widths)))
            name = "sum"
        if over.reduces and self.instructions[number].width < over.width:  # the same in each column
            if name == "max":
                return number
            times = self._number(float(over.width))
            return self.emit(Instruction("multiply", (number, times), 1))
        return self.emit(Instruction(name, (number,), 1)) if over.reduces else number

    def put(self, value: Value, spot: Spot) -> None:
        """Store a value of this kernel."""
        over = self.lowering.schedule.iterations[value]
        name = "store"
        if over.reduces_axes:
            name = "store max" if value.name == "max" else "store sum"
        self._store(name, self.known[value], over, spot, over.strides(spot.strides))

    def copy(self, x: Value, over: Iteration, spot: Spot) -> None:
        """Store an operand, which a kernel of this level may have made."""
        schedule = self.lowering.schedule
        window = schedule.window(x)
        read = Read(x, window.owner, window.first, window.strides)
        self._store("store", self._read(over, read), over, spot, spot.strides)

    def _store(self, name: str, number: int, over: Iteration, spot: Spot, strides: Strides) -> None:
        slot = spot.slot(over, strides)
        self.stores.append(Instruction(name, (number,), slot.width, slot))

    def _number(self, number: Number) -> int:
        constant = Instruction("constant", (), 1, float(number))
        return self._once(("number", float(number)), constant)

    def _read(self, over: Iteration, read: Read) -> int:
        """The instruction that has an operand: computed here, or loaded."""
        lowering, owner = self.lowering, read.owner
        schedule = lowering.schedule
        made = owner in schedule.iterations and schedule.iterations[owner].lengths == self.lengths
        if made and schedule.fits_registers(over, read):
            if owner not in lowering.storage.places:
                self.add(owner)
            if owner in self.known:
                return self.known[owner]
        return self._load(lowering.read(owner).slot(over, read.strides, read.first))

    def _load(self, slot: Slot) -> int:
        return self._once(slot, Instruction("load", (), slot.width, slot))

    def _once(self, key: Any, instruction: Instruction) -> int:
        if key not in self.known:
            self.known[key] = self.emit(instruction)
        return self.known[key]
