"""One function of a program: stages one after the other, then sums over time."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

from ...kernels.ir import Kernel, Loop
from ...primitives.indexing import ARRAY
from ..ir import Value, is_view
from ..passes.slices import parts_of
from ..passes.sums import contraction, read_by
from ..runtime.functions import over_time
from ..stages import EACH, ONCE, ROWS, ROWS_ONCE, Stage, Term
from .kernels import Lowering, NotNative
from .loops import LoopWriter, parts_in_place
from .text import dtype_text, key_text
from .writer import Writer, states_of


class FunctionWriter(Writer):
    """A function of a plan: its arguments, its stages in order, and what it returns."""

    def function(self, name: str, results: tuple[list[Value | None], list[Value | None]]) -> str:
        """The text of the function; ``results``: of all steps, and at the end."""
        arguments = "steps, pool, xs, states, captured, scalars, constants, draws"
        if self.backwards:
            arguments += ", held, dys, dstates"
        self._arguments()
        for number, stage in enumerate(self.part.stages):
            if stage.loop:
                if not self._as_machine_code(stage, number):
                    LoopWriter(self, stage, number).write()
            else:
                self._all_steps(stage)
        first, second = results
        ys = ", ".join("None" if v is None else self.over_steps(v) for v in first)
        ends = ", ".join("None" if v is None else self._final(v) for v in second)
        tail = self._totals() if self.backwards else self._held()
        self.line(f"return [{ys}], [{ends}], [{tail}]")
        return "\n".join([f"def {name}({arguments}):", *self.lines])

    def _as_machine_code(self, stage: Stage, number: int) -> bool:
        """Write a stage as one call of a native loop, if it can be one."""
        compiler = self.program.compiler
        if compiler is None:
            return False
        kept = ("lines", "names", "states", "rolling", "counts", "derived")
        before = {name: copy(getattr(self, name)) for name in kept}
        lowering = Lowering(self, stage, number, compiler)
        try:
            loop = lowering.lower()
        except NotNative as reason:
            vars(self).update(before)
            self.program.not_native.append(str(reason))
            return False
        name = f"loop_{len(self.program.loops)}"
        self.program.loops.append(loop)
        order = "last step to first" if self.backwards else "first step to last"
        self.line(f"# A recurrence as machine code, {order}: {described(loop)}")
        self.line(f"{name}([{', '.join(lowering.arrays)}], steps.table, None, threads())")
        for value, expression in lowering.after:
            self.names[value] = self.name(value.name)
            self.line(f"{self.names[value]} = {expression}")
        return True

    def _arguments(self) -> None:
        if self.backwards:
            self.line("back = steps.backwards")
        for value in self.part.needs:
            if value.source is None:
                continue
            kind, index = value.source
            if kind in ("state", "dstate"):
                continue
            plural = {"captured": "captured", "dy": "dys"}.get(kind, f"{kind}s")
            hint = {"captured": "w", "scalar": "number", "draw": "drawn"}.get(kind, kind)
            self.names[value] = self.name(hint)
            self.line(f"{self.names[value]} = {plural}[{index}]")

    def _held(self) -> str:
        """What is held for the backward pass, and in which order."""
        backward = self.distribution.backward
        if backward is None:
            return ""
        states = states_of(backward.needs)
        self.residuals = [*self.distribution.residuals, *states]
        return ", ".join(
            self.states[x] if x in states else self.over_steps(x) for x in self.residuals
        )

    def held(self, forward: Writer) -> None:
        """Take what the forward pass held."""
        for i, value in enumerate(forward.residuals):
            name = self.name(value.name if value.source is None else "h")
            self.line(f"{name} = held[{i}]")
            if value.source is None:
                self.names[value] = name
            else:
                self.states[value] = name

    def _all_steps(self, stage: Stage) -> None:
        carried = {c.after: c.before for c in self.part.carries}
        rows = {value for value in stage.values if self.extents[value] is ROWS}
        placed = parts_in_place(stage.values, carried, lambda part, whole: {part, whole} <= rows)
        for value in stage.values:
            if not is_view(value):
                self._one(value, placed, carried)

    def _one(
        self, value: Value, placed: dict[Value, tuple[Value, Any]], carried: dict[Value, Value]
    ) -> None:
        """The line, or lines, that compute a value for all steps."""
        extent = self.extents[value]
        mixed = extent is ROWS and any(self.extents[x] in (ROWS_ONCE, EACH) for x in value.operands)
        out = None
        if value in carried or (value.name == "concat" and extent is ROWS):
            out = self._memory(value, carried)
        if value in placed:
            whole, key = placed[value]
            array = self._memory(whole, carried)
            out = self.names[value] = self.name(value.name)
            self.line(f"{out} = {array}[{self.key_over_steps(whole, key)}]")
        if value.name == "concat" and extent is ROWS:
            for x in value.operands:
                if placed.get(x, (None,))[0] is not value:
                    operand = self._with_rows if mixed else lambda _, x: self.operand(x)
                    self._copy_part(value, x, self.names[value], operand)
            return
        if value not in self.names:
            self.names[value] = self.name(value.name)
        name = self.names[value]
        if extent is not EACH:
            of_rows = partial(self._with_rows, value)
            operands = [of_rows(x) if mixed else self.operand(x) for x in value.inputs]
            self._compute(value, name, operands, out, self.line, allocate=extent is ROWS)
        else:
            self._over_time(value, name, out)

    def _memory(self, value: Value, carried: dict[Value, Value]) -> str:
        """The array over all steps that a value will be in."""
        if value not in self.names:
            name = self.names[value] = self.name(value.name)
            if value in carried:
                self.line(f"{name} = {self.steps}.all_after({self._states(carried[value])})")
            else:
                self._allocate(name, value)
        return self.names[value]

    def _copy_part(self, whole: Value, x: Value, name: str, operand: Any) -> None:
        for part, key in parts_of(whole):
            if part is x:
                self.line(f"{name}[{key_text(key)}] = {operand(whole, x)}")

    def _over_time(self, value: Value, name: str, out: str | None) -> None:
        """A primitive on operands of which some have an axis of time in front."""
        batched = self.constant("over_time", over_time)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        flags = [isinstance(x, Value) and self.extents[x] is EACH for x in value.inputs]
        arrays = ", ".join(self.operand(x) for x in value.inputs)
        options = "".join(f", {k}={self._parameter(p)}" for k, p in value.parameters.items())
        call = f"{batched}({primitive}, {flags}, {arrays}{options})"
        call += f"[{value.output}]" if value.output is not None else ""
        self.line(f"{name} = {call}" if out is None else f"{out}[...] = {call}", value)

    def _final(self, value: Value) -> str:
        """What goes round, after the last step."""
        before = next(c.before for c in self.part.carries if c.after is value)
        if before in self.rolling:
            return self.rolling[before]
        final = f"{self.steps}.final({self.states[before]})"
        return final if self._rows(before) else f"{final}[0]"

    # Sums over time.

    def _totals(self) -> str:
        found = []
        for index, each in enumerate(self.distribution.totals):
            found.append("None" if each is None else self._total(index, each))
        return ", ".join(found)

    def _total(self, index: int, each: list[Term]) -> str:
        total = ""
        for term in each:
            expression = self._sum(term)
            if not total:
                total = f"-{expression}" if term.negative else expression
            else:
                total = f"{total} {'-' if term.negative else '+'} {expression}"
        if not each:
            return "None"
        name = self.name("dw")
        self.line(f"{name} = {total}")
        return name

    def _sum(self, term: Term) -> str:
        value, kind = term.value, contraction(term.value)
        found = self.sums[value] if value in self.sums else self._contracted(value, kind)
        for movement in term.after:
            names = {movement.inputs[0]: found}
            others = [
                names.get(x) or (self.over_steps(x) if isinstance(x, Value) else repr(x))
                for x in movement.inputs
            ]
            if movement.name == "reshape":
                found = f"{found}.reshape({movement.shape})"
            else:
                found = self._applied(movement, others)
        return found

    def _contracted(self, value: Value, kind: str | None) -> str:
        read = read_by(Term(value, False, ()))
        if any(self.extents[x] is ROWS for x in read):
            arrays = [self._with_rows(value, x) for x in read]
        else:
            arrays = [self.over_steps(x) for x in read]
        if kind == "product":
            once = any(self.extents[x] is ONCE for x in read)  # times the sum of the other
            summed, stacked = "np.add.reduce({}, axis=0)", "{}.reshape(-1, {})"
            flat = [
                (summed if once else stacked).format(a, x.shape[-1])
                if self.extents[x] is EACH
                else a
                for a, x in zip(arrays, read, strict=True)
            ]
            name = self.name("product")
            self.line(f"{name} = pool.empty({value.shape}{dtype_text(value)})")
            self.line(f"{self.product(value)}{flat[0]}.T, {flat[1]}, out={name})", value)
            return name
        if kind == "sum":
            x = value.operands[0]
            if self.extents[x] is EACH:
                return f"np.add.reduce({arrays[0]}, axis={(0, *self._shifted(value, x))})" + (
                    "" if not value.parameters["keepdims"] else f".reshape({value.shape})"
                )
            axes = value.parameters["axis"]
            if axes == (-len(x.shape),) and len(x.shape) == 2:
                name = self.name("total")
                self.line(f"{name} = pool.empty((1, {x.shape[-1]}){dtype_text(value)})")
                ones = f"np.ones((1, steps.total){dtype_text(x)})"
                self.line(f"{self.product(value)}{ones}, {arrays[0]}, out={name})", value)
                return name if value.parameters["keepdims"] else f"{name}[0]"
            keep = value.parameters["keepdims"]
            return f"np.add.reduce({arrays[0]}, axis={axes}, keepdims={keep})"
        if kind == "places":
            zeros = f"np.zeros({value.shape}{dtype_text(value)})"
            values, places = arrays
            if self.extents[read[1]] is ONCE is not self.extents[read[0]]:
                values = f"np.add.reduce({values}, axis=0)"  # at the same places at each step
            entries = [places if e is ARRAY else repr(e) for e in value.parameters["key"]]
            backend = self.constant("xp", self.program.backend)
            return f"{backend}.index_add({zeros}, ({', '.join(entries)},), {values})"
        extent = self.extents[value]
        if extent is ROWS:
            return f"steps.added({arrays[0]})"
        if extent is EACH:
            return f"np.add.reduce({arrays[0]}, axis=0)"
        return f"({arrays[0]} * np.asarray(steps.steps{dtype_text(value)}))"

    def _shifted(self, value: Value, x: Value) -> tuple[int, ...]:
        return tuple(a + len(x.shape) + 1 for a in value.parameters["axis"])


def described(loop: Loop) -> str:
    """What a loop does at each step."""
    parts = []
    for statement in loop.statements:
        if isinstance(statement, Kernel):
            work = [i.name for i in statement.instructions if i.name not in _NO_WORK]
            parts.append(f"a kernel of {len(work)} operations")
        else:
            parts.append(f"a product with {statement.a.width} x {statement.out.width}")
    return ", ".join(parts)


_NO_WORK = ("load", "store", "constant")
