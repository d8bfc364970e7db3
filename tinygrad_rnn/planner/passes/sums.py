"""Sums over time: what the cotangent of a captured array is, which no recurrence needs.

A sum is pushed through whatever is linear, down to terms. Most of them are then one operation over
all steps: a product of (T * B) rows, a sum, or values added at their places.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...primitives.indexing import ARRAY
from ..facts import facts_of
from ..ir import Value, elements
from ..stages import ONCE, ROWS, SUMMED, Extent, Stage, Term


def terms(
    value: Value,
    extents: dict[Value, Extent],
    negative: bool = False,
    after: tuple[Value, ...] = (),
) -> list[Term]:
    """A sum over time pushed through what is linear: of a sum, the sums of its parts."""
    operands = [x for x in value.operands if extents[x] is not ONCE]
    alike = all(x.shape == value.shape and x.dtype == value.dtype for x in operands)
    if value.name in ("add", "subtract") and len(operands) == 2 and alike:
        flipped = negative != (value.name == "subtract")
        first, second = (
            terms(x, extents, sign, after)
            for x, sign in zip(operands, (negative, flipped), strict=True)
        )
        return first + second
    if value.name == "negative":
        return terms(operands[0], extents, not negative, after)
    moved = value.name in ("reshape", "permute_dims") and extents[value] is not ROWS
    scaled = facts_of(value.name).linear and len(operands) == 1 and value.inputs[0] is operands[0]
    if contraction(value) is None and (moved or (scaled and extents[value] is SUMMED)):
        return terms(operands[0], extents, negative, (value, *after))
    return [Term(value, negative, after)]


def read_by(term: Term) -> list[Value]:
    """The values that a sum over time is computed from, all steps of them."""
    kind = contraction(term.value)
    if kind == "product":
        return [term.value.operands[0].operands[0], term.value.operands[1]]
    if kind == "places":
        return [*term.value.operands[1:]]
    return [term.value.operands[0]] if kind == "sum" else [term.value]


def add_in_loops(stages: list[Stage], sums: Sequence[Value]) -> None:
    """Let large sums over time grow in a loop: their terms of all steps would fill memory."""
    for value in dict.fromkeys(sums):
        stage = next((s for s in stages if value in s.values), None)
        largest = max([elements(x.shape) for x in value.operands], default=None)
        if stage is None or largest is None:  # a constant
            continue
        if elements(value.shape) > 2 * largest:
            stage.sums.append(value)


def contraction(value: Value) -> str | None:
    """How a sum over time is one with a sum over rows: a product, a sum, or added to places."""
    if value.name == "matmul" and len(value.shape) == 2:
        x = value.operands[0]
        if x.name == "permute_dims" and x.parameters["axes"] == (-1, -2):
            return "product"
    if value.name == "sum" and -len(value.operands[0].shape) in value.parameters["axis"]:
        return "sum"
    if value.name == "index_add" and len(value.operands) == 3:
        first = value.parameters["key"][0] is ARRAY
        return "places" if first and value.operands[0].name == "full" else None
    return None
