"""Sums over time, after the loops: one operation over all steps for each term."""

from __future__ import annotations

from collections.abc import Iterable

from ...primitives.indexing import ARRAY
from ..ir import Value
from ..passes.sums import contraction, factors, read_by
from ..runtime.functions import dot_of_many, row_products
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
    if grown is None:
        total = _contract(writer, term.value)
    else:
        total = f"{writer.array(grown)}.astype(np.{term.value.dtype.name}, copy=False)"
    for movement in term.after:
        if movement.name == "reshape":
            total = f"{total}.reshape({movement.shape})"
        else:
            others = [writer.operand(x) for x in movement.inputs[1:]]
            total = writer.apply(movement, [total, *others])
    return total


def _contract(writer: Writer, value: Value) -> str:
    """The sum over time of a value, as an expression."""
    extents, read = writer.extents, read_by(Term(value, False, ()), writer.extents)
    if any(extents[x] is ROWS for x in read):
        arrays = [writer.with_rows(value, x) for x in read]
    else:
        arrays = [writer.over_steps(x) for x in read]
    kind = contraction(value, extents)
    if kind == "product":
        return _product(writer, value, read, arrays)
    if kind == "row products":
        multiply = writer.constant("row_products", row_products)
        each = [f"steps.by_step({array})" if extents[value] is ROWS else array for array in arrays]
        if value.name == "matmul":
            return f"{multiply}(np, {', '.join(each)})"
        found = factors(value)
        assert found is not None
        shapes = [f"(steps.steps, {', '.join(map(str, shape))})" for shape in found[2:]]
        each = [f"{array}.reshape{shape}" for array, shape in zip(each, shapes, strict=True)]
        return f"{multiply}(np, {', '.join(each)}).reshape({value.shape})"
    if kind == "kernel":  # which sums over all axes ahead
        return writer.apply(value, arrays)
    if kind == "sum":
        return _sum(writer, value, arrays[0])
    if kind == "places":
        values, places = arrays
        if extents[read[1]] is ONCE is not extents[read[0]]:
            values = _add_up(writer, values, 0)  # at the same places at each step
        entries = [places if e is ARRAY else repr(e) for e in value.parameters["key"]]
        backend = writer.constant("xp", writer.context.backend)
        zeros = f"np.zeros({value.shape}{dtype_text(value)})"
        return f"{backend}.index_add({zeros}, ({', '.join(entries)},), {values})"
    if extents[value] is ROWS:
        return f"steps.added({writer.constant('xp', writer.context.backend)}, {arrays[0]})"
    if extents[value] is EACH:
        return _add_up(writer, arrays[0], 0)
    return f"({arrays[0]} * np.asarray(steps.steps{dtype_text(value)}))"


def _product(writer: Writer, value: Value, read: list[Value], arrays: list[str]) -> str:
    once = any(writer.extents[x] is ONCE for x in read)  # times the sum of the other
    x, y = [
        array
        if writer.extents[part] is not EACH
        else _add_up(writer, array, 0)
        if once
        else f"{array}.reshape(-1, {part.shape[-1]})"
        for array, part in zip(arrays, read, strict=True)
    ]
    name, multiply = writer.name("product"), writer.product(value)
    if multiply == "np.dot(" and value.dtype == "float32":  # whose sums have many terms in a row
        multiply = f"{writer.constant('dot_of_many', dot_of_many)}(np, "
    writer.line(f"{name} = pool.empty({value.shape}{dtype_text(value)})")
    writer.line(f"{multiply}{x}.T, {y}, out={name})", value)
    return name


def _sum(writer: Writer, value: Value, array: str) -> str:
    x, axes, keep = value.operands[0], value.parameters["axis"], value.parameters["keepdims"]
    if writer.extents[x] is EACH:
        shifted = tuple(a + len(x.shape) + 1 for a in axes)
        total = _add_up(writer, array, (0, *shifted))
        return f"{total}.reshape({value.shape})" if keep else total
    multiply = writer.product(value)
    if axes == (-len(x.shape),) and len(x.shape) == 2 and multiply != "np.dot(":
        name = writer.name("total")
        writer.line(f"{name} = pool.empty((1, {x.shape[-1]}){dtype_text(value)})")
        ones = f"np.ones((1, steps.total){dtype_text(x)})"
        writer.line(f"{multiply}{ones}, {array}, out={name})", value)
        return name if keep else f"{name}[0]"
    return _add_up(writer, array, axes, keep)


def _add_up(writer: Writer, array: str, axis: int | tuple[int, ...], keep: bool = False) -> str:
    """A sum over axes, as exact as the backend's."""
    backend = writer.constant("xp", writer.context.backend)
    return f"{backend}.sum({array}, axis={axis}{', keepdims=True' * keep})"
