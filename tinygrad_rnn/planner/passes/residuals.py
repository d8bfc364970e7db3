"""What the forward pass holds for the backward one: what is neither cheap nor at hand there."""

from __future__ import annotations

from collections.abc import Sequence

from ..facts import facts_of
from ..ir import Value, base, ordered, users
from ..stages import Pass


def residuals(results: Sequence[Value], forward: Pass) -> list[Value]:
    """The values of the forward pass that the backward one is given, for what it computes.

    One that is cheap is computed again, if all that it is made of is there anyway; of a view, what
    it looks at is held.
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
    kept: set[Value] = {v for v in read if not facts_of(v.name).cheap}
    for value in read:  # in order: what it is made of was decided before
        if value in kept:
            continue
        again = ordered([value], kept)
        if any(not facts_of(v.name).cheap for v in again if v.source is None):
            kept.add(base(value))
    return [v for v in order if v in kept]
