"""What the forward pass holds for the backward one: what is neither cheap nor at hand there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..facts import facts_of
from ..ir import Value, base, ordered, users
from ..stages import Pass


def is_cheap(value: Value) -> bool:
    """Whether NumPy computes a value again as quickly as it stores and reads it."""
    return facts_of(value.name).cheap


def residuals(
    results: Sequence[Value], forward: Pass, cheap: Callable[[Value], bool] = is_cheap
) -> list[Value]:
    """The values of the forward pass that the backward one is given, for what it computes.

    One that is cheap is computed again, if all that it is made of is there anyway, or much smaller
    and held instead; of a view, what it looks at is held.
    """
    order = ordered(results)
    used = users(order)
    backward = {v for v in order if v not in forward.values}
    asked = set(results)
    read = [
        v
        for v in order
        if v in forward.values and (v in asked or any(u in backward for u in used[v]))
    ]
    kept: set[Value] = {v for v in read if not cheap(v)}
    for value in read:  # in order: what it is made of was decided before
        if value in kept:
            continue
        costly = _first_costly(value, kept, cheap)
        small = all(_MUCH * v.bytes <= value.bytes for v in costly)
        kept.update(costly if small else [base(value)])
    return [v for v in order if v in kept]


_MUCH = 8


def _first_costly(value: Value, kept: set[Value], cheap: Callable[[Value], bool]) -> list[Value]:
    """What is not cheap of all that a value is made of, and not looked into."""
    found: dict[Value, None] = {}
    pending, seen = [value], {value}
    while pending:
        x = pending.pop()
        if x in kept or x.source is not None:
            continue
        if not cheap(x):
            found[x] = None
            continue
        new = [y for y in x.operands if y not in seen]
        seen.update(new)
        pending += new
    return [*found]
