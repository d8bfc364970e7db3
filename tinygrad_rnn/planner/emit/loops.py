"""A stage that goes step by step, as a ``for`` loop over NumPy operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..facts import facts_of
from ..ir import Number, Value, base, is_view, writes_into
from ..passes.slices import parts_of
from ..stages import ONCE, ROWS, ROWS_ONCE, Stage
from .text import at, dtype_text, key_text
from .writer import Writer


class LoopWriter:
    """A stage that goes step by step."""

    def __init__(self, writer: Writer, stage: Stage, number: int) -> None:
        self.writer = writer
        self.stage = stage
        self.number = number
        self.inside = set(stage.values)
        self.before = {c.before: c for c in stage.carries}
        self.after = {c.after: c for c in stage.carries}
        self.sequences: dict[str, str] = {}  # what the loop goes over: expression -> name of a step
        self.local: dict[Value, str] = {}  # what a value is called within a step
        self.scratch: dict[Value, str] = {}
        self.free: list[tuple[tuple[Any, ...], Any, str]] = []
        self.copies: list[str] = []
        self.body: list[str] = []

    def write(self) -> None:
        """Write the loop."""
        writer, values = self.writer, self.stage.values
        carried = {c.after: c.before for c in self.stage.carries}

        def together(part: Value, whole: Value) -> bool:  # not in scratch memory, if others read it
            of_all_steps = carried.get(whole) in writer.states or bool(self._outside(whole))
            return not self._outside(part) or of_all_steps

        self.placed: dict[Value, tuple[Value, Any]] = {}
        self._carries()
        self.placed = parts_in_place(values, carried, together)
        for value in values:
            own = value not in self.placed and value not in writer.names
            if own and not is_view(value) and self._outside(value):
                writer.names[value] = writer.name(value.name)
                writer._allocate(writer.names[value], value)
        for value in self.stage.sums:
            name = writer.sums[value] = writer.name("total")
            writer.line(f"{name} = pool.zeros({value.shape}{dtype_text(value)})")
        self.last_use = self._last_uses()
        for place, value in enumerate(values):
            if not is_view(value):
                self._step(value, place)
            if value in self.stage.sums:
                total = writer.sums[value]
                x = self._operand(value)
                rows = f"[:{x}.shape[0]]" if writer.ragged and writer._rows(value) else ""
                self.body.append(f"{total}{rows} += {x}")
            self._release(place)
        self._emit()

    def _carries(self) -> None:
        """Memory for states: of all steps, if something else reads it, else of the latest only."""
        writer = self.writer
        for before, after in self.stage.carries:
            outside = [
                n
                for x in (before, after)
                for n in writer.read_outside.get(x, ())
                if n != self.number
            ]
            everywhere = bool(outside) and not (writer.ragged and writer.backwards)
            if everywhere:
                array = f"{writer.steps}.all_after({writer._states(before)})"
                writer.names[after] = writer.once(("after", after), "after", array)
                continue
            assert before.source is not None
            given = "dstates" if writer.backwards else "states"
            name = writer.rolling[before] = writer.name("carried")
            writer.line(f"{name} = np.array({given}[{before.source.index}], order='C')")
            if writer._rows(before) and writer.ragged:
                self.local[before] = self._over(f"{writer.steps}.rows_of({name})", name)
            else:
                self.local[before] = name
            if before in writer.read_outside and outside:
                self._save(before)

    def _save(self, before: Value) -> None:
        """Keep what is carried for others, where it could not be kept in one array."""
        writer = self.writer
        if any(n != self.number for n in writer.read_outside.get(before, ())):
            name = writer.names[before] = writer.name("kept")
            writer._allocate(name, before)
            step = self._over(self._each(before, name), name)
            self.body.append(f"{step}[...] = {self.local[before]}")

    def _outside(self, value: Value) -> set[int]:
        """Where else a value is read."""
        return self.writer.read_outside.get(value, set()) - {self.number}

    def _over(self, expression: str, hint: str) -> str:
        """The name of one step of a sequence that the loop goes over."""
        found = self.sequences.get(expression)
        if found is None:
            found = self.sequences[expression] = self.writer.name(f"{hint}_t")
        return found

    def _each(self, value: Value, name: str) -> str:
        each = "each" if self.writer._rows(value) or self.writer.extents[value] is ROWS else ""
        return f"{self.writer.steps}.{each or 'each_step'}({name})"

    def _operand(self, x: Value | Number) -> str:
        """An operand within a step."""
        if not isinstance(x, Value):
            return repr(x)
        if x in self.local:
            return self.local[x]
        self.local[x] = found = self._local(x)
        return found

    def _local(self, x: Value) -> str:
        writer, extents = self.writer, self.writer.extents
        owner = base(x)
        if is_view(x) and (owner in self.inside or owner in self.before):
            view = writer._view(x, self._operand, step=True)
            if self._at_one_place(x):
                return writer.once(("scratch", self, x), f"{owner.name}_part", view)
            name = writer.name(f"{x.name}_t")
            self.body.append(f"{name} = {view}")
            return name
        if x in self.before:
            return self._over(self._before_expression(x), writer.states[x])
        if extents[x] is ONCE:
            return self._once(x)
        if extents[x] is ROWS_ONCE:
            name = writer.over_steps(x)
            return self._over(f"{writer.steps}.rows_of({name})", name) if writer.ragged else name
        if x.source is not None and x.source.kind == "state" and x in writer.states:
            name = writer.states[x]
            flipped = "[::-1]" if writer.backwards else ""
            return self._over(f"steps.before({name}){flipped}", name)
        name = writer.over_steps(x)
        return self._over(self._each(x, name), name)

    def _before_expression(self, x: Value) -> str:
        return f"{self.writer.steps}.before({self.writer.states[x]})"

    def _at_one_place(self, x: Value) -> bool:
        """Whether a value, or what a view looks at, is in scratch memory: the same at each step."""
        if not is_view(x):
            return x in self.scratch and not self.writer.ragged
        inner = x.operands[0]  # what is not contiguous would be copied to another shape
        return (x.name != "reshape" or inner in self.scratch) and self._at_one_place(inner)

    def _once(self, x: Value) -> str:
        """What does not vary with time; the transpose of a matrix as a contiguous copy."""
        writer = self.writer
        if x.name == "permute_dims" and x.shape != ():
            inner = writer._view(x, writer.over_steps)
            return writer.once(("copy", x), "turned", f"np.ascontiguousarray({inner})")
        return writer.over_steps(x)

    def _target(self, value: Value) -> tuple[str | None, bool]:
        """Where a value goes within a step, and whether that memory is contiguous."""
        writer = self.writer
        if value in self.placed:
            whole, key = self.placed[value]
            if whole in writer.names:
                place = writer.key_over_steps(whole, key)
                part, hint = f"{writer.names[whole]}[{place}]", f"{value.name}_part"
                name = writer.names[value] = writer.once(("part", value), hint, part)
                return self._over(self._each(whole, name), name), False
            inner = self._scratch(whole)
            part, hint = f"{inner}[{key_text(key)}]", f"{value.name}_part"
            if not writer.ragged:
                return writer.once(("part", self, value), hint, part), False
            name = writer.name(f"{value.name}_t")
            self.body.append(f"{name} = {part}")
            return name, False
        if value in writer.names:
            name = writer.names[value]
            return self._over(self._each(value, name), name), True
        if writes_into(value) or value.name == "concat":
            return self._scratch(value), True
        return None, True

    def _scratch(self, value: Value) -> str:
        """Memory that the steps share: some that is free again, or new."""
        found = self.scratch.get(value)
        if found is None:
            writer = self.writer
            shape, dtype = value.shape, value.dtype
            same = [entry for entry in self.free if entry[:2] == (shape, dtype)]
            if same:
                self.free.remove(same[-1])
                memory = same[-1][2]
            else:
                memory = writer.name("scratch")
                rows = "steps.rows" if writer.extents[value] is ROWS else None
                lengths = [rows or str(shape[0]), *map(str, shape[1:])] if shape else []
                text = ", ".join(lengths)
                comma = "," if len(lengths) == 1 else ""
                writer.line(f"{memory} = pool.empty(({text}{comma}){dtype_text(value)})")
            self.memory_of[value] = memory
            if writer.ragged and writer.extents[value] is ROWS:
                found = self._over(f"{writer.steps}.rows_of({memory})", memory)
            else:
                found = memory
            self.scratch[value] = found
        return found

    def _last_uses(self) -> dict[Value, int]:
        """For what owns scratch memory, the last place in the order that reads it."""
        self.memory_of: dict[Value, str] = {}
        found: dict[Value, int] = {}
        for place, value in enumerate(self.stage.values):
            for x in [value, *value.operands]:
                owner = base(x)
                while owner in self.placed:
                    owner = self.placed[owner][0]
                found[owner] = place
        return found

    def _release(self, place: int) -> None:
        for value in list(self.memory_of):
            if self.last_use.get(value, -1) <= place:
                memory = self.memory_of.pop(value)
                self.free.append((value.shape, value.dtype, memory))

    def _step(self, value: Value, place: int) -> None:
        """The lines that compute a value within a step."""
        writer = self.writer
        if value.name == "concat":
            self._joined(value)
        else:
            operands = [self._operand(x) for x in value.inputs]
            if facts_of(value.name).ufunc:  # may overwrite what nobody reads any more
                self._release_before(place)
            out, contiguous = self._target(value)
            self.local[value] = out or writer.name(f"{value.name}_t")
            if out is None:
                expression = writer._expression(value, operands)
                self.body.append(f"{self.local[value]} = {expression}{at(value)}")
            else:
                self._compute(value, out, operands, contiguous)
        carry = self.after.get(value)
        if carry is not None and carry.before in writer.rolling:
            self.copies.append(f"{self.local[carry.before]}[...] = {self.local[value]}")
            if value in self.memory_of:
                self.last_use[value] = len(self.stage.values)

    def _compute(self, value: Value, out: str, operands: list[str], contiguous: bool) -> None:
        writer = self.writer

        def line(text: str, value: Value) -> None:
            self.body.append(text + at(value))

        if value.name == "matmul" and len(value.shape) == 2 and contiguous:
            line(f"np.dot({', '.join(operands)}, out={out})", value)
        else:
            writer._compute(value, out, operands, out, line)

    def _release_before(self, place: int) -> None:
        """Free operands that are read here for the last time, so that ``out`` may be one."""
        value = self.stage.values[place]
        for x in value.operands:
            if x in self.memory_of and self.last_use[x] == place and x.shape == value.shape:
                memory = self.memory_of.pop(x)
                self.free.append((x.shape, x.dtype, memory))

    def _joined(self, value: Value) -> None:
        """Copy the parts of a concat that were not computed in their places."""
        out, _ = self._target(value)
        assert out is not None
        self.local[value] = out
        for part, key in parts_of(value):
            if self.placed.get(part, (None,))[0] is not value:
                self.body.append(f"{out}[{key_text(key)}] = {self._operand(part)}")

    def _emit(self) -> None:
        writer = self.writer
        order = "last step to first" if writer.backwards else "first step to last"
        carried = ", ".join(
            writer.states.get(c.before) or writer.rolling[c.before] for c in self.stage.carries
        )
        writer.line(f"# A recurrence, {order}: {carried or 'sums over time'}")
        names, expressions = list(self.sequences.values()), list(self.sequences)
        if not names:
            writer.line("for _ in range(steps.steps):")
        elif len(names) == 1:
            writer.line(f"for {names[0]} in {expressions[0]}:")
        else:
            writer.line(f"for {', '.join(names)} in zip(")
            for expression in expressions:
                writer.line(f"    {expression},")
            writer.line("):")
        for text in [*self.body, *self.copies]:
            writer.line("    " + text)


def parts_in_place(
    values: list[Value],
    carried: dict[Value, Value],
    together: Callable[[Value, Value], bool],
) -> dict[Value, tuple[Value, Any]]:
    """Which values are computed in their places in a concat: the concat, and the key there."""
    inside = set(values)
    found: dict[Value, tuple[Value, Any]] = {}
    for whole in values:
        if whole.name != "concat":
            continue
        for part, key in parts_of(whole):
            own = part in inside and part not in carried and part not in found
            direct = writes_into(part)
            once = whole.operands.count(part) == 1 and part.dtype == whole.dtype
            if own and direct and once and together(part, whole):
                found[part] = (whole, key)
    return found
