"""A stage of a plan as a ``Loop`` for machine code: kernels, products, and where values live.

Values are put in levels: a product comes after the elementwise work that it reads, and what reads a
product after that. The work of one level is one kernel, then follow its products. A value that only
its own kernel reads never leaves the registers.

The subtle thing is what may be overwritten. A product adds its result to what a kernel left in its
place, or to an array that nothing else reads. A state of which only the latest is needed lives in
one place; it may be written there only after the last statement that reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...kernels.ir import Instruction, Kernel, Loop, Place, Product, Slot
from ..ir import Number, Value, base, elements, is_view
from ..passes.slices import sliced_axis
from ..stages import EACH, ONCE, ROWS, ROWS_ONCE, Carry, Stage


class NotNative(Exception):
    """Why a stage cannot be machine code."""


class Part(NamedTuple):
    """Columns of a value: what a view of it looks at."""

    owner: Value
    column: int
    width: int


def width_of(value: Value) -> int:
    """How many columns a value of rows has; 1 broadcasts."""
    return elements(value.shape[1:])


class Lowering:
    """One stage on its way to a Loop; ``writer`` is the function being written."""

    def __init__(self, writer: Any, stage: Stage, number: int, compiler: Any) -> None:
        self.writer = writer
        self.stage = stage
        self.number = number
        self.compiler = compiler
        self.extents = writer.extents
        self.values = [v for v in stage.values if not is_view(v)]
        self.inside = set(self.values)
        self.carry_of = {c.after: c for c in stage.carries}
        self.before = {c.before: c for c in stage.carries}
        self.readers: dict[Value, list[Value]] = {v: [] for v in self.values}
        for value in self.values:
            for x in value.operands:
                if base(x) in self.inside:
                    self.readers[base(x)].append(value)
        self.arrays: list[str] = []
        self.memory: dict[Value, Slot] = {}
        self.copies: dict[Value, list[Slot]] = {}  # where else a kernel puts a value
        self.added: dict[Value, tuple[Value, Value]] = {}  # a sum: what is there, what is added
        self.in_place: set[Value] = set()  # sums in the array of their first part
        self.level: dict[Value, int] = {}
        self.moved: dict[Value, list[tuple[Value, Slot]]] = {}  # parts of a concat to be copied
        self.after: list[tuple[Value, str]] = []  # what others read, by name

    # Whether it can be done.

    def check(self) -> None:
        """Raise NotNative for anything that kernels and products cannot do."""
        if self.stage.sums:
            raise NotNative("sums over time that grow in the loop")
        for value in self.values:
            dtypes = {x.dtype.name for x in [value, *value.operands]}
            if not dtypes <= self.compiler.DTYPES:
                raise NotNative(f"{value.name} of {', '.join(sorted(dtypes))}")
            if self.extents[value] is not ROWS:
                raise NotNative(f"{value.name} does not go by rows")
            if value.name == "matmul":
                if len(value.shape) != 2 or self.extents[value.operands[1]] is not ONCE:
                    raise NotNative("a product of more than two axes, or with a varying matrix")
            elif value.name == "concat":
                if value.parameters["axis"] != -1 or len(value.shape) != 2:
                    raise NotNative("a concat along another axis than the last of two")
            elif value.name in ("sum", "max"):
                if value.parameters["axis"] != (-1,) or len(value.operands[0].shape) != 2:
                    raise NotNative(f"{value.name} over other axes than the last of two")
            elif value.name not in self.compiler.SUPPORTED and value.name != "copied":
                raise NotNative(value.name)
            self._check_widths(value)

    def _check_widths(self, value: Value) -> None:
        for x in value.operands:
            extent = self.extents[x]
            if extent is ONCE and value.name != "matmul":
                if elements(x.shape) not in (1, width_of(value)):
                    raise NotNative(f"{value.name} with {list(x.shape)}")
                continue
            if extent is EACH:
                if elements(x.shape) not in (1, width_of(value)):
                    raise NotNative(f"{value.name} with {list(x.shape)} of each step")
                continue
            if extent is ONCE:
                continue
            part = self.part(x)
            full = value.name in ("matmul", "concat", "sum", "max")
            if full and part.width != width_of(x):
                raise NotNative(f"{value.name} of a number for all of {list(x.shape)}")
            if not full and part.width not in (1, width_of(value)):
                raise NotNative(f"{value.name} with {list(x.shape)}")
            if not full and len(x.shape) != len(value.shape) and part.width != 1:
                raise NotNative(f"{value.name} with {list(x.shape)}")

    def part(self, x: Value) -> Part:
        """The columns that a value of rows has, looking through views."""
        if not is_view(x) or self.extents[x] in (ONCE, EACH):
            return Part(x, 0, width_of(x))
        y = x.operands[0]
        inner = self.part(y)
        if x.name == "reshape":
            return inner
        if x.name == "broadcast_to":
            if inner.width == 1 or inner.width == width_of(x):
                return inner
        elif x.name == "getitem":
            key = x.parameters["key"]
            place = sliced_axis(key, y.shape)
            if place is not None and place[0] == -1 and inner.width == width_of(y):
                rest = elements(y.shape[1:-1])
                if rest == 1:
                    return Part(inner.owner, inner.column + place[1], place[2] - place[1])
        raise NotNative(f"a view by {x.name} of {list(y.shape)}")

    # Levels.

    def _whole(self, x: Value) -> bool:
        """Whether an operand is all columns of a value, which a register can hold."""
        part = self.part(x)
        return part.owner.name != "concat" and part.width == width_of(part.owner)

    def _is_product(self, value: Value) -> bool:
        return value.name == "matmul" or value in self.added

    def _find_sums(self) -> None:
        """Sums of which a product is an operand: it is added to what is there already."""
        for value in self.values:
            if value.name != "add" or len(value.operands) != 2 or len(value.shape) != 2:
                continue
            for product, rest in (value.operands, value.operands[::-1]):
                alone = product in self.inside and self.readers[product] == [value]
                alone = alone and not self._outside(product) and product not in self.carry_of
                fits = product.shape == value.shape == rest.shape and rest is not product
                if alone and product.name == "matmul" and fits and self.extents[rest] is ROWS:
                    self.added[value] = (rest, product)
                    break

    def _levels(self) -> None:
        level = self.level
        for value in self.values:
            found = 0
            if value in self.added:
                rest, product = self.added[value]
                found = max(level[product], self._after(rest, value))
            else:
                for x in value.operands:
                    if self.extents[x] is ROWS:
                        found = max(found, self._after(x, value))
            level[value] = found
        for value in self.values[::-1]:  # as late as its readers allow, if nothing else needs it
            free = not self._is_product(value) and not self._outside(value)
            if free and value not in self.carry_of and self.readers[value]:
                latest = min(self._latest(value, reader) for reader in self.readers[value])
                level[value] = max(level[value], latest)

    def _after(self, x: Value, reader: Value) -> int:
        """The first level at which a value may read x."""
        owner = self.part(x).owner
        if owner not in self.inside:
            return 0
        later = self._is_product(owner) and not self._merges(owner, reader)
        by_kernel = reader.name != "matmul"
        if by_kernel and not self._whole(x):
            later = True
        return self.level[owner] + int(later)

    def _merges(self, product: Value, reader: Value) -> bool:
        """Whether a sum's first part is a product into the same place."""
        first = reader in self.added and self.added[reader][0] is product
        alone = self.readers[product] == [reader] and not self._outside(product)
        return first and alone and self._is_product(product)

    def _whole_sum(self, value: Value) -> Value:
        """The sum that a sum of products goes on into, in one place."""
        while further := [s for s in self.readers[value] if self._merges(value, s)]:
            value = further[0]
        return value

    def _latest(self, value: Value, reader: Value) -> int:
        level = self.level[reader]
        if reader.name == "matmul":
            return level
        apart = any(
            self.part(x).owner is value and not self._whole(x)
            for x in reader.operands
            if self.extents[x] is ROWS
        )
        return level - int(apart)

    # Memory.

    def _outside(self, value: Value) -> set[int]:
        found: set[int] = self.writer.read_outside.get(value, set()) - {self.number}
        return found

    def _array(self, expression: str) -> int:
        if expression not in self.arrays:
            self.arrays.append(expression)
        return self.arrays.index(expression)

    def slot(self, name: str, place: Place, value: Value, column: int = 0) -> Slot:
        """Where an array of rows like a value's is."""
        width = width_of(value)
        return Slot(self._array(name), place, column, width, width, value.dtype.name)

    def _needs_memory(self, value: Value) -> bool:
        if self._is_product(value) or value.name == "concat" or value in self.carry_of:
            return True
        if self._outside(value):
            return True
        return any(
            self._is_product(r)
            or self.level[r] != self.level[value]
            or not all(
                self._whole(x)
                for x in r.operands
                if self.extents[x] is ROWS and self.part(x).owner is value
            )
            for r in self.readers[value]
            if r.name != "concat" and not (r in self.added and self.added[r][0] is value)
        )

    def _carries(self) -> None:
        writer = self.writer
        for carry in self.stage.carries:
            outside = self._outside(carry.before) | self._outside(carry.after)
            late = writer.ragged and writer.backwards
            if not outside and self._in_one_place(carry):
                self._roll(carry)
            elif late:
                raise NotNative("rows that come in late, of a state that others read")
            else:
                name = writer._states(carry.before)
                # The timetable is the forward pass's: what is after for it is before backwards.
                places: list[Place] = ["before", "after"]
                before, after = reversed(places) if writer.backwards else places
                self.memory[carry.before] = self.slot(name, before, carry.before)
                self.memory[carry.after] = self.slot(name, after, carry.after)

    def _roll(self, carry: Carry) -> None:
        writer = self.writer
        assert carry.before.source is not None
        given = "dstates" if writer.backwards else "states"
        name = writer.rolling[carry.before] = writer.name("carried")
        writer.line(f"{name} = np.array({given}[{carry.before.source.index}], order='C')")
        self.memory[carry.before] = self.memory[carry.after] = self.slot(name, "rows", carry.after)

    def _in_one_place(self, carry: Carry) -> bool:
        """Whether all reads of a state come before it is written."""
        written = self.level[carry.after]
        product = self._is_product(carry.after)
        if carry.after in self.added:
            rest = self.part(self.added[carry.after][0]).owner
            if self._left_by_kernel(carry.after):
                written, product = self.level[rest], False  # a kernel leaves it there
        if carry.after.name == "concat":
            return False
        for value in self.values:
            for x in value.operands:
                if self.extents[x] is not ROWS or self.part(x).owner is not carry.before:
                    continue
                level = self.level[value]
                if self._is_product(value):  # reads after the kernel of its level
                    if value is carry.after or level > written or not product:
                        return False
                    if level == written:
                        return False
                elif level > written or (level == written and not product and not self._whole(x)):
                    return False
        return True

    def _memory(self) -> None:
        """A place for each value that needs one: of all steps, or scratch that the steps share."""
        writer = self.writer
        for value, (rest, _) in self.added.items():  # onto an array that nothing else reads
            whole = self._whole_sum(value)
            if whole in self.memory or self._outside(whole) or not self._writable(rest):
                continue
            self.memory[whole] = self.slot(writer.over_steps(rest), "step", rest)
            self.in_place.add(value)
        for value in self.values:
            if value in self.memory or not self._needs_memory(value):
                continue
            if value.name != "concat" and self._in_concat(value) and not self._is_product(value):
                continue  # its columns there are its memory
            merged = next((s for s in self.readers[value] if self._merges(value, s)), None)
            if merged is not None or any(p is value for _, p in self.added.values()):
                continue  # written into the sum's place
            if self._outside(value):
                name = writer.names[value] = writer.name(value.name)
                writer._allocate(name, value)
                self.memory[value] = self.slot(name, "step", value)
            else:
                name = writer.name("scratch")
                writer.line(
                    f"{name} = pool.empty((steps.rows, {width_of(value)}), np.{value.dtype.name})"
                )
                self.memory[value] = self.slot(name, "rows", value)
        joined = [value for value in self.values if value.name == "concat"]
        for value in sorted(joined, key=lambda whole: not self._has_all_steps(whole)):
            self._parts(value)

    def _writable(self, rest: Value) -> bool:
        """Whether an array over all steps is this pass's own and read by nothing else."""
        if rest in self.inside or rest.source is not None or is_view(rest):
            return False
        writer = self.writer
        if self.extents[rest] is not ROWS or rest not in writer.part.values:
            return False
        computed = [v for stage in writer.part.stages for v in stage.values]
        users = [v for v in computed if rest in map(base, v.operands)]
        inside = writer.read_outside.get(rest, set()) == {self.number}
        return inside and len(users) == 1 and rest not in {c.after for c in writer.part.carries}

    def _in_concat(self, value: Value) -> bool:
        """Whether a value's memory is its columns of a concat, which has all steps if it has to."""
        joined = [r for r in self.readers[value] if r.name == "concat" and value in r.operands]
        if self._outside(value):
            joined = [whole for whole in joined if self._has_all_steps(whole)]
        return bool(joined)

    def _has_all_steps(self, whole: Value) -> bool:
        """Whether a concat is kept of all steps."""
        if whole in self.memory:
            return self.memory[whole].place != "rows"
        return bool(self._outside(whole))

    def _parts(self, whole: Value) -> None:
        column, slot = 0, self.memory[whole]
        for part in whole.operands:
            width = width_of(part)
            place = slot._replace(column=slot.column + column, width=width)
            owner = self.part(part)
            direct = owner.owner in self.inside and self._whole(part)
            if direct and not self._is_product(owner.owner):
                if owner.owner in self.memory or owner.owner in self.copies:
                    self.copies.setdefault(owner.owner, []).append(place)
                else:
                    self.memory[owner.owner] = place
                    self.copies.setdefault(owner.owner, [])
            else:
                self.moved.setdefault(whole, []).append((part, place))
            column += width

    # The loop.

    def lower(self) -> Loop:
        """The loop; the arrays that it is to be called with are in ``arrays``."""
        self.check()
        self._find_sums()
        self._levels()
        self._carries()
        self._memory()
        statements: list[Kernel | Product] = []
        for level in range(max(self.level.values()) + 1):
            at_level = [v for v in self.values if self.level[v] == level]
            kernel = _KernelBuilder(self)
            for value in at_level:
                if value in self.added:
                    self._prepare_sum(value, kernel)
                elif value.name == "concat":
                    for part, place in self.moved.get(value, ()):
                        kernel.store(kernel.operand(part), place)
                elif value.name != "matmul":
                    kernel.add(value)
            for value in self.added:  # of a later level, whose first part is made here
                rest = self.part(self.added[value][0]).owner
                early = self.level[value] > level and self.level.get(rest) == level
                if early and self._left_by_kernel(value):
                    kernel.store(kernel.operand(self.added[value][0]), self._place(value))
            if kernel.instructions:
                statements.append(kernel.kernel())
            for value in at_level:
                if value.name == "matmul" and not self._is_addend(value):
                    statements.append(self._product(value, self._place(value), False))
                elif value in self.added:
                    product = self.added[value][1]
                    statements.append(self._product(product, self._place(value), True))
        self._bind()
        return Loop(tuple(statements), self.writer.backwards)

    def _is_addend(self, value: Value) -> bool:
        return any(product is value for _, product in self.added.values())

    def _place(self, value: Value) -> Slot:
        found = self.memory.get(value)
        if found is None:
            found = self._place(next(s for s in self.readers[value] if self._merges(value, s)))
        return found

    def _prepare_sum(self, value: Value, kernel: _KernelBuilder) -> None:
        """Put what a product is added to in its place, if it is not there."""
        rest = self.added[value][0]
        owner = self.part(rest).owner
        place = self._place(value)
        if owner in self.inside and self._is_product(owner) and self._merges(owner, value):
            return
        if value in self.in_place:
            return
        if self._left_by_kernel(value) and self.level[owner] < self.level[value]:
            return  # its own kernel did
        kernel.store(kernel.operand(rest), place)

    def _left_by_kernel(self, value: Value) -> bool:
        """Whether what a product is added to is left in its place by the kernel that makes it."""
        rest = self.added[value][0]
        owner = self.part(rest).owner
        return owner in self.inside and not self._is_product(owner) and self._whole(rest)

    def _product(self, value: Value, out: Slot, accumulate: bool) -> Product:
        a, b = value.operands
        part = self.part(a)
        source = self._read(part)
        matrix = self.writer.over_steps(b)
        k, n = b.shape
        slot = Slot(self._array(matrix), "all", 0, n, n)
        return Product(source._replace(width=k), slot, out, accumulate)

    def _read(self, part: Part) -> Slot:
        """Where columns of a value are in memory."""
        slot = self.memory.get(part.owner)
        slot = self._outside_slot(part.owner) if slot is None else slot
        return slot._replace(column=slot.column + part.column, width=part.width)

    def _outside_slot(self, x: Value) -> Slot:
        writer, extent = self.writer, self.extents[x]
        if extent in (ONCE, EACH):
            flat = writer.once(("flat", x), "flat", f"np.ascontiguousarray({writer.over_steps(x)})")
            width = elements(x.shape)
            place: Place = "all" if extent is ONCE else "each"
            return Slot(self._array(flat), place, 0, width, width, x.dtype.name)
        if x.source is not None and x in writer.states and x.source.kind == "state":
            return self.slot(writer.states[x], "before", x)
        name = writer.once(("whole", x), "whole", f"np.ascontiguousarray({writer.over_steps(x)})")
        return self.slot(name, "rows" if extent is ROWS_ONCE else "step", x)

    def _bind(self) -> None:
        """Names for what others read: arrays over all steps, or columns of one."""
        writer = self.writer
        for value in self.values:
            if not self._outside(value) or value in writer.names:
                continue
            slot = self.memory[value]
            array = self.arrays[slot.buffer]
            if slot.place in ("before", "after"):  # of an array of states
                array = f"{writer.steps}.all_after({array})"
            part = (
                ""
                if slot.width == slot.stride
                else f"[:, {slot.column}:{slot.column + slot.width}]"
            )
            self.after.append((value, array + part))


class _KernelBuilder:
    """The instructions of one kernel."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.instructions: list[Instruction] = []
        self.stores: list[tuple[int, Slot]] = []
        self.known: dict[Any, int] = {}

    def kernel(self) -> Kernel:
        """What was built: stores last, since they may overwrite what was loaded."""
        stores = [Instruction("store", (n,), place.width, place) for n, place in self.stores]
        return Kernel((*self.instructions, *stores))

    def emit(self, instruction: Instruction) -> int:
        self.instructions.append(instruction)
        return len(self.instructions) - 1

    def add(self, value: Value) -> None:
        """A value of this kernel, stored wherever it is needed."""
        if value in self.known:
            return
        lowering = self.lowering
        operands = tuple([self.operand(x) for x in value.inputs])
        if value.name == "copied":
            number = operands[0]
        else:
            number = self.emit(Instruction(value.name, operands, width_of(value)))
        self.known[value] = number
        if value in lowering.memory:
            self.store(number, lowering.memory[value])
        for place in lowering.copies.get(value, ()):
            self.store(number, place)

    def store(self, number: int, place: Slot) -> None:
        self.stores.append((number, place))

    def operand(self, x: Value | Number) -> int:
        """The instruction that has an operand: computed here, or loaded."""
        lowering = self.lowering
        if not isinstance(x, Value):
            return self._once(("number", float(x)), Instruction("constant", (), 1, float(x)))
        if lowering.extents[x] in (ONCE, EACH):
            slot = lowering._outside_slot(x)
            return self._once(slot, Instruction("load", (), slot.width, slot))
        part = lowering.part(x)
        if part.owner in self.known and lowering._whole(x):
            return self.known[part.owner]
        same = part.owner in lowering.inside and not lowering._is_product(part.owner)
        if same and lowering._whole(x) and part.owner not in lowering.memory:
            self.add(part.owner)
            return self.known[part.owner]
        slot = lowering._read(part)
        return self._once(slot, Instruction("load", (), slot.width, slot))

    def _once(self, key: Any, instruction: Instruction) -> int:
        if key not in self.known:
            self.known[key] = self.emit(instruction)
        return self.known[key]
