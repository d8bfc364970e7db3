"""Sums over time: what the cotangent of a captured array is, which no recurrence needs.

A sum is pushed through whatever is linear, down to terms. Most of them are then one operation over
all steps: a product of (T * B) rows, a sum, or values added at their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...primitives.indexing import ARRAY
from ..facts import facts_of
from ..ir import Shape, Value, elements
from ..stages import EACH, ONCE, ROWS, ROWS_ONCE, SUMMED, Extent, Stage, Term


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
    if contraction(value, extents) is None and (moved or (scaled and extents[value] is SUMMED)):
        return terms(operands[0], extents, negative, (value, *after))
    return [Term(value, negative, after)]


def read_by(term: Term, extents: dict[Value, Extent]) -> list[Value]:
    """The values that a sum over time is computed from, all steps of them."""
    kind = contraction(term.value, extents)
    if kind == "product":
        return [term.value.operands[0].operands[0], term.value.operands[1]]
    if kind == "row products":
        found = factors(term.value)
        assert found is not None
        return [found.x, found.y]
    if kind == "places":
        return [*term.value.operands[1:]]
    if kind == "kernel":
        return term.value.operands
    return [term.value.operands[0]] if kind == "sum" else [term.value]


def add_in_loops(stages: list[Stage], sums: Sequence[Value], matrices: bool) -> None:
    """Let large sums over time grow in a loop: their terms of all steps would fill memory.

    With ``matrices`` all do of which each row has more than a vector.
    """
    for value in dict.fromkeys(sums):
        stage = next((s for s in stages if value in s.values), None)
        largest = max([elements(x.shape) for x in value.operands], default=None)
        if stage is None or largest is None:  # a constant
            continue
        if elements(value.shape) > 2 * largest or (matrices and len(value.shape) > 2):
            stage.sums.append(value)


class Factors(NamedTuple):
    """What a product of matrices is made of, and the shapes in which it is one."""

    x: Value
    y: Value
    x_shape: Shape
    y_shape: Shape


def factors(value: Value) -> Factors | None:
    """The matrices that a value is the product of: one of them, or of a column and a row."""
    if len(value.operands) != 2:
        return None
    if value.name == "matmul":
        x, y = value.operands
        return Factors(x, y, x.shape, y.shape) if x.shape[:-2] == y.shape[:-2] else None
    x, y = (x.operands[0] if x.name == "broadcast_to" else x for x in value.operands)
    if not len(x.shape) == len(y.shape) == len(value.shape) or x.shape[0] != y.shape[0]:
        return None
    for first, second in ((x, y), (y, x)):
        pairs = zip(first.shape[1:], second.shape[1:], strict=True)
        axes = [(0 if m == n else 1 if n == 1 else 2, m) for m, n in pairs if max(m, n) > 1]
        kinds, shared = [kind for kind, _ in axes], [m for kind, m in axes if not kind]
        # Axes that both have come first, then those of the first alone, then the second's.
        if {1, 2} <= {*kinds} and kinds == sorted(kinds):
            front = (value.shape[0], *shared)
            rows, columns = (elements(v.shape) // elements(front) for v in (first, second))
            return Factors(first, second, (*front, rows, 1), (*front, 1, columns))
    return None


def contraction(value: Value, extents: dict[Value, Extent]) -> str | None:
    """How a sum over time is one operation: a product, a kernel's, a sum, or added to places.

    These are sums over rows as well, but for "row products": each row then has one of its own, of
    all that its factors were at all steps side by side, as in sum_t a_t b_t^T.
    """
    if value.name == "matmul" and len(value.shape) == 2:
        x = value.operands[0]
        if x.name == "permute_dims" and x.parameters["axes"] == (-1, -2):
            return "product"
    if value.name in ("matmul", "multiply") and len(value.shape) > 2 and value.dtype.kind == "f":
        found = factors(value)
        if found is not None and {extents[v] for v in (value, *found[:2])} in ({ROWS}, {EACH}):
            return "row products"
    if value.name == "kernel_cotangent":
        found_extents = {extents[v] for v in value.operands}
        alike = found_extents == {EACH} or ROWS in found_extents <= {ROWS, ROWS_ONCE}
        return "kernel" if alike else None
    if value.name == "sum" and -len(value.operands[0].shape) in value.parameters["axis"]:
        return "sum"
    if value.name == "index_add" and len(value.operands) == 3:
        first = value.parameters["key"][0] is ARRAY
        return "places" if first and value.operands[0].name == "full" else None
    return None
