"""A loop over time as a ``for`` loop of NumPy operations."""

from __future__ import annotations

from ..ir import Number, Value, base, is_view
from ..passes.slices import parts_of
from ..stages import ONCE, ROWS_ONCE, Stage
from ..storage import Place
from .text import at, key_text
from .writer import Writer


class LoopWriter:
    """A stage that goes step by step."""

    def __init__(self, writer: Writer, stage: Stage) -> None:
        self.writer = writer
        self.storage = writer.storage
        self.stage = stage
        self.inside = set(stage.values)
        self.before = {c.before for c in stage.carries}
        self.after = {c.after: c for c in stage.carries}
        self.sequences: dict[str, str] = {}  # what the loop goes over: expression -> name of a step
        self.local: dict[Value, str] = {}  # what a value is called within a step
        self.body: list[str] = []
        self.ends: list[str] = []  # of a step

    def write(self) -> None:
        """Write the loop."""
        for carry in self.stage.carries:
            if carry.before in self.storage.latest:
                self._latest(carry.before)
        for value in self.stage.values:
            if not is_view(value):
                self._step(value)
            if value in self.stage.sums:
                total, x = self.writer.array(self.storage.totals[value]), self._operand(value)
                by_rows = self.writer.ragged and self.writer.by_rows(value)
                self.body.append(f"{total}{f'[:{x}.shape[0]]' * by_rows} += {x}")
        self._emit()

    def _latest(self, before: Value) -> None:
        """A state of which the latest is kept, and what others read of it."""
        name = self.local[before] = self._shared_memory(self.storage.places[before])
        for place in self.storage.copies.get(before, ()):
            copy = self.writer.array(place.memory)
            self.body.append(f"{self._over(self._each(before, copy), copy)}[...] = {name}")

    def _shared_memory(self, place: Place) -> str:
        """The memory that the steps share: of the rows that are active."""
        name = self.writer.array(place.memory)
        if self.writer.ragged and self.writer.by_rows(place.memory.like):
            return self._over(f"{self.writer.steps}.rows_of({name})", name)
        return name

    def _over(self, expression: str, hint: str) -> str:
        """The name of one step of a sequence that the loop goes over."""
        found = self.sequences.get(expression)
        if found is None:
            found = self.sequences[expression] = self.writer.name(f"{hint}_t")
        return found

    def _each(self, value: Value, name: str) -> str:
        each = "each" if self.writer.by_rows(value) else "each_step"
        return f"{self.writer.steps}.{each}({name})"

    def _operand(self, x: Value | Number) -> str:
        """An operand within a step."""
        if not isinstance(x, Value):
            return repr(x)
        if x not in self.local:
            self.local[x] = self._local(x)
        return self.local[x]

    def _local(self, x: Value) -> str:
        writer, extent = self.writer, self.writer.extents[x]
        if is_view(x) and (base(x) in self.inside or base(x) in self.before):
            view = writer.view(x, self._operand, step=True)
            if self._at_one_place(x):
                return writer.once(("scratch", self, x), f"{base(x).name}_part", view)
            name = writer.name(f"{x.name}_t")
            self.body.append(f"{name} = {view}")
            return name
        if extent is ONCE:
            return self._once(x)
        if extent is ROWS_ONCE:
            name = writer.over_steps(x)
            return self._over(f"{writer.steps}.rows_of({name})", name) if writer.ragged else name
        if not is_view(x):
            place = self.storage.of_all_steps(x)
            if place.at == "before":
                name, owner = writer.array(place.memory), writer.steps_of(place.memory)
                turned = "[::-1]" if owner != writer.steps else ""
                return self._over(f"{owner}.before({name}){turned}", name)
        name = writer.over_steps(x)
        return self._over(self._each(x, name), name)

    def _at_one_place(self, x: Value) -> bool:
        """Whether a value, or what a view looks at, is in scratch memory: the same at each step."""
        if not is_view(x):
            place = self.storage.places.get(x)
            shared = place is not None and place.memory.kind == "scratch" and place.key is None
            return shared and not self.writer.ragged
        inner = x.operands[0]  # what is not contiguous would be copied to another shape
        return (x.name != "reshape" or not is_view(inner)) and self._at_one_place(inner)

    def _once(self, x: Value) -> str:
        """What does not vary with time; the transpose of a matrix as a contiguous copy."""
        writer = self.writer
        if x.name == "permute_dims" and x.shape != ():
            inner = writer.view(x, writer.over_steps)
            return writer.once(("copy", x), "turned", f"np.ascontiguousarray({inner})")
        return writer.over_steps(x)

    def _target(self, value: Value) -> str | None:
        """Where a value goes within a step; None if it is a result of its own."""
        place = self.storage.places[value]
        if place.memory.kind == "local":
            return None
        if place.memory.of_all_steps:
            name = self.writer.over_steps(value)
            return self._over(self._each(value, name), name)
        whole = self._shared_memory(place)
        if place.key is None:
            return whole
        part, hint = f"{whole}[{key_text(place.key)}]", f"{value.name}_part"
        if not self.writer.ragged:
            return self.writer.once(("part", self, value), hint, part)
        name = self.writer.name(f"{value.name}_t")
        self.body.append(f"{name} = {part}")
        return name

    def _step(self, value: Value) -> None:
        """The lines that compute a value within a step."""
        writer = self.writer

        def line(text: str, value: Value) -> None:
            self.body.append(text + at(value))

        out = self._target(value)
        if value.name == "concat":
            assert out is not None
            for part, key in parts_of(value):
                if not self.storage.is_part(part, value, key):
                    self.body.append(f"{out}[{key_text(key)}] = {self._operand(part)}")
        else:
            operands = [self._operand(x) for x in value.inputs]
            if out is None:
                out = writer.name(f"{value.name}_t")
                line(f"{out} = {writer.expression(value, operands)}", value)
            else:
                whole = self.storage.places[value].key is None
                writer.compute(value, operands, out, line, "np.dot(" if whole else None)
        self.local[value] = out
        carry = self.after.get(value)
        if carry is not None and carry.before in self.storage.latest:
            self.ends.append(f"{self.local[carry.before]}[...] = {out}")

    def _emit(self) -> None:
        writer, places = self.writer, self.storage.places
        order = "last step to first" if writer.part.backwards else "first step to last"
        carried = ", ".join(writer.array(places[c.before].memory) for c in self.stage.carries)
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
        for text in [*self.body, *self.ends]:
            writer.line("    " + text)
