"""The backward walk, one contribution at a time: what a debugger stops at.

The same rules in the same order as ``graph.cotangents`` on raw arrays, so totals are equal bit for
bit, which a test holds it to; but it yields each product of a rule with what it was added to. The
graph is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..graph import IndexedCotangent, Node, run_hooks, topological_order, unbroadcast


class Contribution(NamedTuple):
    """What one vjp of one node adds to the cotangent of one input.

    ``total`` may be written to once the walk goes on: copy what is kept.
    """

    node: Node
    slot: int  # which of the node's parents
    g: Any  # the cotangent of the node's output, a list for several outputs
    made: Any  # what the rule returned
    part: Any  # that, summed to the shape of the input; of an index, what was added there
    before: Any  # the cotangent of the input before, None for the first contribution
    total: Any  # and after it

    @property
    def parent(self) -> Node:
        """The input that it is added to."""
        return self.node.parents[self.slot]


def walked(
    seeds: Sequence[tuple[Node, Any]], order: Sequence[Node] | None = None
) -> Iterator[Contribution]:
    """The contributions of a backward pass, given cotangents of some outputs.

    Raises ReleasedGraphError's cause as AttributeError: look whether the graph is there before.
    """
    pending: dict[Node, Any] = {}
    for node, g in seeds:
        pending[node] = pending[node] + g if node in pending else g
    with np.errstate(all="ignore"):
        for node in topological_order([n for n, _ in seeds]) if order is None else order:
            g = pending.pop(node, None)
            if g is None:
                continue
            if node.hooks is not None:
                g = run_hooks(node, g)
            if not node.parents:
                continue
            if node.index is not None:
                several = node.parents[0]
                parts = pending.setdefault(several, [None] * len(several.outputs))
                parts[node.index] = g
                continue
            yield from _pulled_back(node, g, pending)


def _pulled_back(node: Node, g: Any, pending: dict[Node, Any]) -> Iterator[Contribution]:
    primitive, xp, parameters = node.primitive, node.backend, node.parameters or {}
    if primitive.several:
        g = [
            xp.zeros(shape, dtype=dtype) if part is None else part
            for part, (shape, dtype) in zip(g, node.outputs, strict=True)
        ]
    joint = primitive.vjps[0](xp, g, *node.saved[0], **parameters) if primitive.joint else None
    for slot, (parent, argnum) in enumerate(zip(node.parents, node.argnums, strict=True)):
        if joint is not None:
            made = joint[argnum]
        else:
            made = primitive.vjps[argnum](xp, g, *node.saved[slot], **parameters)
        if made is None:
            continue
        before = pending.get(parent)
        shape, dtype = node.metas[slot]
        if type(made) is IndexedCotangent:
            own = xp.zeros(shape, dtype=dtype) if before is None else xp.asarray(before, copy=True)
            part, total = made.value, made.add_to(xp, own)
        else:
            part = unbroadcast(xp, made, shape) if made.shape != shape else made
            part = part if part.dtype == dtype else xp.astype(part, dtype)
            total = part if before is None else before + part
        pending[parent] = total
        yield Contribution(node, slot, g, made, part, before, total)
