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
    """What one vjp of one node adds to the cotangent of one input."""

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
    """The contributions of a backward pass, given cotangents of some outputs, of a whole graph."""
    nodes = topological_order([n for n, _ in seeds]) if order is None else order
    return advanced(seeded(seeds), nodes)


def seeded(seeds: Sequence[tuple[Node, Any]]) -> dict[Node, Any]:
    """The cotangents that wait for their nodes when a walk begins."""
    pending: dict[Node, Any] = {}
    for node, g in seeds:
        pending[node] = pending[node] + g if node in pending else g
    return pending


def advanced(pending: dict[Node, Any], nodes: Sequence[Node]) -> Iterator[Contribution]:
    """Walk on through some nodes, in topological order; ``pending`` is kept up to date.

    No array in it is ever written to, so a shallow copy of it is a place to come back to.
    """
    for node in nodes:
        g = pending.get(node) if not node.parents else pending.pop(node, None)
        if g is None or not node.parents:
            continue
        with np.errstate(all="ignore"):
            if node.hooks is not None:
                g = run_hooks(node, g)
            if node.index is None:
                yield from _pulled_back(node, g, pending)
                continue
            several = node.parents[0]
            parts = list(pending.get(several) or [None] * len(several.outputs))
            parts[node.index] = g
            pending[several] = parts


def parameters_of(node: Node) -> dict[str, Any]:
    """What the rules of a node are given by name: of all inputs a cotangent is wanted."""
    wanted = {"wanted": list(node.argnums)} if node.primitive.selective else {}
    return {**(node.parameters or {}), **wanted}


def _pulled_back(node: Node, g: Any, pending: dict[Node, Any]) -> Iterator[Contribution]:
    primitive, xp, parameters = node.primitive, node.backend, parameters_of(node)
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
