"""Sums over time, after the loops: one operation over all steps for each term."""

from __future__ import annotations

from collections.abc import Iterable

from ...primitives.indexing import ARRAY
from ..ir import Value
from ..passes.sums import contraction, read_by
from ..stages import EACH, ONCE, ROWS, Term
from .text import dtype_text
from .writer import Writer


def write_total(writer: Writer, terms: Iterable[Term] | None) -> str:
    """Write what the cotangent of a captured array is the sum of; its name."""
    total = ""
    for term in terms or ():
        expression = _term(writer, term)
        if not total:
            total = f"-{expression}" if term.negative else expression
        else:
            total = f"{total} {'-' if term.negative else '+'} {expression}"
    if not total:
        return "None"
    name = writer.name("dw")
    writer.line(f"{name} = {total}")
    return name


def _term(writer: Writer, term: Term) -> str:
    grown = writer.storage.totals.get(term.value)
    total = _contracted(writer, term.value) if grown is None else writer.array(grown)
    for movement in term.after:
        if movement.name == "reshape":
            total = f"{total}.reshape({movement.shape})"
        else:
            others = [writer.operand(x) for x in movement.inputs[1:]]
            total = writer.applied(movement, [total, *others])
    return total


def _contracted(writer: Writer, value: Value) -> str:
    """The sum over time of a value, as an expression."""
    extents, read = writer.extents, read_by(Term(value, False, ()))
    if any(extents[x] is ROWS for x in read):
        arrays = [writer.with_rows(value, x) for x in read]
    else:
        arrays = [writer.over_steps(x) for x in read]
    kind = contraction(value)
    if kind == "product":
        return _product(writer, value, read, arrays)
    if kind == "sum":
        return _sum(writer, value, arrays[0])
    if kind == "places":
        values, places = arrays
        if extents[read[1]] is ONCE is not extents[read[0]]:
            values = f"np.add.reduce({values}, axis=0)"  # at the same places at each step
        entries = [places if e is ARRAY else repr(e) for e in value.parameters["key"]]
        backend = writer.constant("xp", writer.context.backend)
        zeros = f"np.zeros({value.shape}{dtype_text(value)})"
        return f"{backend}.index_add({zeros}, ({', '.join(entries)},), {values})"
    if extents[value] is ROWS:
        return f"steps.added({arrays[0]})"
    if extents[value] is EACH:
        return f"np.add.reduce({arrays[0]}, axis=0)"
    return f"({arrays[0]} * np.asarray(steps.steps{dtype_text(value)}))"


def _product(writer: Writer, value: Value, read: list[Value], arrays: list[str]) -> str:
    once = any(writer.extents[x] is ONCE for x in read)  # times the sum of the other
    each = "np.add.reduce({}, axis=0)" if once else "{}.reshape(-1, {})"
    x, y = [
        each.format(array, part.shape[-1]) if writer.extents[part] is EACH else array
        for array, part in zip(arrays, read, strict=True)
    ]
    name = writer.name("product")
    writer.line(f"{name} = pool.empty({value.shape}{dtype_text(value)})")
    writer.line(f"{writer.product(value)}{x}.T, {y}, out={name})", value)
    return name


def _sum(writer: Writer, value: Value, array: str) -> str:
    x, axes, keep = value.operands[0], value.parameters["axis"], value.parameters["keepdims"]
    if writer.extents[x] is EACH:
        shifted = tuple(a + len(x.shape) + 1 for a in axes)
        total = f"np.add.reduce({array}, axis={(0, *shifted)})"
        return f"{total}.reshape({value.shape})" if keep else total
    if axes == (-len(x.shape),) and len(x.shape) == 2:
        name = writer.name("total")
        writer.line(f"{name} = pool.empty((1, {x.shape[-1]}){dtype_text(value)})")
        ones = f"np.ones((1, steps.total){dtype_text(x)})"
        writer.line(f"{writer.product(value)}{ones}, {array}, out={name})", value)
        return name if keep else f"{name}[0]"
    return f"np.add.reduce({array}, axis={axes}, keepdims={keep})"
