"""What the lines of a program are written with: names, memory, and one operation on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ...graph import TABLE
from ..facts import facts_of
from ..ir import Number, Value, base, elements, is_view, writes_into
from ..passes.sums import read_by
from ..stages import EACH, MERGED, ROWS, ROWS_ONCE, Pass
from .text import at, dtype_text, identifier, key_text


class Writer:
    """One function, being written."""

    def __init__(self, program: Any, part: Pass, backwards: bool) -> None:
        self.program = program
        self.distribution = program.distribution
        self.extents = self.distribution.extents
        self.part = part
        self.backwards = backwards
        self.ragged = program.ragged
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}  # arrays over all steps, or what there is once
        self.states: dict[Value, str] = {}  # by the state before: the array that has all of them
        self.rolling: dict[Value, str] = {}  # likewise: the array (rows, ...) of the latest
        self.counts: dict[str, int] = {}
        self.derived: dict[Any, str] = {}
        self.residuals: list[Value] = []
        self.sums: dict[Value, str] = {}
        self.steps = "back" if backwards else "steps"
        self.read_outside = self._read_outside()

    def _read_outside(self) -> dict[Value, set[int]]:
        """For what owns memory: the stages that read it, -1 for the end of the function."""
        found: dict[Value, set[int]] = {}
        for number, stage in enumerate(self.part.stages):
            for value in stage.values:
                for x in value.operands:
                    found.setdefault(base(x), set()).add(number)
        for value in self._results():
            found.setdefault(base(value), set()).add(-1)
        return found

    def _results(self) -> list[Value]:
        """What is read of all steps at the end; what goes round always leaves the last one."""
        d = self.distribution
        if not self.backwards:
            states = [] if d.backward is None else states_of(d.backward.needs)
            return [*d.graph.ys, *d.residuals, *states]
        added = {value for stage in self.part.stages for value in stage.sums}
        terms = [term for each in d.totals for term in each or () if term.value not in added]
        dxs = [value for value in d.graph.dxs if value is not None]
        return [*dxs, *(x for term in terms for x in read_by(term))]

    # Names and lines.

    def name(self, hint: str) -> str:
        """A name of a variable that is new."""
        hint = identifier(hint)
        number = self.counts.get(hint, 0)
        self.counts[hint] = number + 1
        return f"{hint}_{number}" if number or hint in ("x", "steps", "pool", "np") else hint

    def line(self, text: str, value: Value | None = None) -> None:
        """Write a line, with the line of the user's that a value comes from."""
        self.lines.append("    " + text + ("" if value is None else at(value)))

    def once(self, key: Any, hint: str, expression: str) -> str:
        """The name of something that is computed when it is first asked for."""
        found = self.derived.get(key)
        if found is None:
            found = self.derived[key] = self.name(hint)
            self.line(f"{found} = {expression}")
        return found

    def constant(self, hint: str, what: Any) -> str:
        """The name of something that the source takes from outside."""
        given: dict[str, Any] = self.program.given
        for name, known in given.items():
            if known is what:
                return name
        name = identifier(hint)
        while name in self.program.given:
            name += "_"
        self.program.given[name] = what
        return name

    # Values of all steps.

    def over_steps(self, value: Value) -> str:
        """The array of a value over all steps, or of what there is once."""
        found = self.names.get(value)
        if found is not None:
            return found
        if value in self.states:
            owner = "back" if value.source and value.source.kind == "dstate" else "steps"
            array = f"{owner}.all_before({self.states[value]})"
            self.names[value] = self.once(("before", value), "before", array)
            return self.names[value]
        if is_view(value):
            return self.once(("view", value), value.name, self._view(value, self.over_steps))
        raise KeyError(f"{value} is not there yet")

    def operand(self, x: Value | Number) -> str:
        """An operand in a line for all steps."""
        return repr(x) if not isinstance(x, Value) else self.over_steps(x)

    def _view(self, value: Value, operand: Any, step: bool = False) -> str:
        """The expression of a view of an operand over all steps, or at one step."""
        x = value.operands[0]
        inner, extent = operand(x), self.extents[value]
        # Arrays without rows have an axis of time in front, unless they are of one step.
        leading = extent is EACH and not step
        rows = extent is ROWS
        if value.name == "getitem":
            key = value.parameters["key"]
            front, rest = (slice(None),) * leading, (...,) * (not value.shape)
            return f"{inner}[{key_text((*front, *key, *rest))}]"  # never a number, always an array
        if value.name == "permute_dims":
            axes = value.parameters["axes"]
            if axes == (-1, -2) and len(axes) == 2 and not leading:
                return f"{inner}.T"
            axes = (-len(axes) - 1, *axes) if leading else axes
            return f"{inner}.transpose({', '.join(map(str, axes))})"
        shape = value.shape
        count = f"{inner}.shape[0]"
        text = ", ".join(map(str, shape[1:] if rows or extent is ROWS_ONCE else shape))
        if extent is MERGED:
            text = f"-1, {shape[1]}"
        elif rows or leading or (extent is ROWS_ONCE and self.ragged):
            text = f"{count}, {text}" if text else f"{count},"
        elif extent is ROWS_ONCE:
            text = f"{shape[0]}, {text}" if text else f"{shape[0]},"
        elif len(shape) == 1:
            text += ","
        if value.name == "reshape":
            return f"{inner}.reshape({text or '()'})"
        if leading:
            ones = len(shape) - len(x.shape)
            padded = ", ".join([count, *["1"] * ones, *map(str, x.shape)])
            inner = f"{inner}.reshape({padded})" if ones else inner
        return f"np.broadcast_to({inner}, ({text}))"

    def key_over_steps(self, value: Value, key: tuple[Any, ...]) -> str:
        """A key for one step of a value, for the array over all steps."""
        return key_text((slice(None), *key) if self.extents[value] is EACH else key)

    def _with_rows(self, value: Value, x: Value | Number) -> str:
        """An operand beside others that have rows, with rows."""
        if not isinstance(x, Value):
            return repr(x)
        extent = self.extents[x]
        if extent is EACH:
            name = self.once(("spread", x), "spread", f"steps.spread({self.over_steps(x)})")
            inner = x.shape[1:] if len(x.shape) == len(value.shape) else x.shape
            ones = len(value.shape) - 1 - len(inner)
            if not ones:
                shape = ", ".join(["-1", *map(str, inner)])
                return f"{name}.reshape({shape})" if inner != x.shape else name
            shape = ", ".join(["-1", *["1"] * ones, *map(str, inner)])
            return f"{name}.reshape({shape})"
        if extent is ROWS_ONCE:
            return self.once(("repeat", x), "repeated", f"steps.repeated({self.over_steps(x)})")
        return self.over_steps(x)

    def _parameter(self, parameter: Any) -> str:
        """A parameter as an expression; one that has none is named."""
        if parameter is ...:
            return "..."
        if parameter is None or type(parameter) in (bool, int, float, str, slice):
            return repr(parameter)
        if type(parameter) is tuple:
            return f"({''.join(f'{self._parameter(p)}, ' for p in parameter)})"
        return self.constant("parameter", parameter)

    def _allocate(self, name: str, value: Value) -> None:
        extent = self.extents[value]
        leading = {ROWS: "steps.total", EACH: "steps.steps"}.get(extent)
        shape = value.shape[1:] if extent is ROWS else value.shape
        lengths = [leading, *map(str, shape)] if leading else list(map(str, shape))
        text = ", ".join(map(str, lengths))
        self.line(f"{name} = pool.empty(({text},){dtype_text(value)})")

    def _compute(
        self,
        value: Value,
        name: str,
        operands: list[str],
        out: str | None,
        line: Any,
        *,
        allocate: bool = False,
    ) -> None:
        """One operation on arrays, into ``out`` if there is one."""
        into = out
        kind = value.name
        direct = writes_into(value)
        if direct and out is None and allocate:
            self._allocate(name, value)
            into = name
        given = ", ".join(operands)
        if into is None or not direct:
            expression = self._expression(value, operands)
            if into is None:
                line(f"{name} = {expression}", value)
            else:
                line(f"{into}[...] = {expression}", value)
        elif kind == "matmul":
            # Contiguous memory is seen as rows of one product; nothing else is written by np.dot.
            x, y = value.operands
            dot = len(y.shape) == 2 and elements(y.shape) > 0 and out is None
            function, result = self.product(value) if dot else "np.matmul(", into
            if dot and len(x.shape) > 2:
                given = f"{operands[0]}.reshape(-1, {y.shape[0]}), {operands[1]}"
                result = f"{into}.reshape(-1, {y.shape[1]})"
            line(f"{function}{given}, out={result})", value)
        elif facts_of(kind).ufunc:
            line(f"{facts_of(kind).ufunc}({given}, out={into})", value)
        else:
            function = self.constant(f"{kind}_into", facts_of(kind).into)
            if kind == "astype":
                given = operands[0]
            line(f"{function}(np, {given}, {into})", value)

    def product(self, value: Value) -> str:
        """How the call of a product of two matrices begins: one library's threads for all."""
        if self.program.compiler is not None and value.dtype == "float32":
            return "gemm(threads(), "
        return "np.dot("

    def _expression(self, value: Value, operands: list[str]) -> str:
        """An operation that makes an array of its own."""
        given = ", ".join(operands)
        if value.name == "matmul":
            return f"{operands[0]} @ {operands[1]}"
        if facts_of(value.name).ufunc:
            return f"{facts_of(value.name).ufunc}({given})"
        if value.name == "full":
            number, shape = value.parameters["number"], value.shape
            rows = self.extents[value] is ROWS_ONCE
            lengths = ["steps.rows", *map(str, shape[1:])] if rows else list(map(str, shape))
            return f"np.full(({''.join(f'{n}, ' for n in lengths)}), {number!r}{dtype_text(value)})"
        call = self._applied(value, operands)
        return f"np.array({call})" if returns_operand(value) else call

    def _applied(self, value: Value, operands: list[str]) -> str:
        """A primitive as it is, whose result may be a view."""
        given = ", ".join(operands)
        primitive = self.constant(f"{value.name}_primitive", value.primitive)
        options = "".join(f", {k}={self._parameter(p)}" for k, p in value.parameters.items())
        backend = self.constant("xp", self.program.backend)
        call = f"{primitive}.forward({backend}, {given}{options})"
        return call + (f"[{value.output}]" if value.output is not None else "")

    # States.

    def _states(self, before: Value) -> str:
        """The array of a state at the start and after each step."""
        found = self.states.get(before)
        if found is None:
            assert before.source is not None
            hint, given = ("dstate", "dstates") if self.backwards else ("state", "states")
            found = self.states[before] = self.name(hint)
            shape = ", ".join(map(str, before.shape[1:] if self._rows(before) else before.shape))
            rows = "steps.total + steps.rows" if self._rows(before) else "steps.steps + 1"
            self.line(f"{found} = pool.empty(({rows}, {shape}){dtype_text(before)})")
            self.line(f"{self.steps}.start({found})[...] = {given}[{before.source.index}]")
        return found

    def _rows(self, value: Value) -> bool:
        return self.extents[value] in (ROWS, ROWS_ONCE)


def returns_operand(value: Value) -> bool:
    """Whether a primitive may return memory of an operand: it is tried on zeros without memory."""
    kind, of_table = value.primitive.kind, TABLE.get(value.name) is value.primitive
    if of_table and kind not in ("elementwise", "movement"):
        return False
    shapes = [() if kind == "elementwise" else x.shape for x in value.operands]
    zeros = [
        np.broadcast_to(np.zeros((), dtype=x.dtype), shape)
        for x, shape in zip(value.operands, shapes, strict=True)
    ]
    remaining = iter(zeros)
    inputs = [next(remaining) if isinstance(x, Value) else x for x in value.inputs]
    with np.errstate(all="ignore"):
        out = value.primitive.forward(backends.get("numpy"), *inputs, **value.parameters)
    part = out if value.output is None else out[value.output]
    return any(np.may_share_memory(part, x) for x in zeros)


def states_of(values: list[Value]) -> list[Value]:
    """The states before a step that are among some values."""
    return [x for x in values if x.source is not None and x.source.kind == "state"]
