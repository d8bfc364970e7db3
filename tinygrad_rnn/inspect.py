"""Graphs one can read: a small one as text or as a drawing, to follow with a pencil.

Both list what ``backward`` will walk through, inputs first. The subtle point is that a graph holds
no more than its vjps read: a constant appears as ``const`` and values only where a rule keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .dtypes import canonical_dtype
from .graph import Node, Primitive, topological_order
from .tensor import Tensor


class _Line:
    """One node of the graph, spelled out."""

    def __init__(self, name: str, operation: str, meta: str, keeps: str) -> None:
        self.name = name
        self.operation = operation
        self.arguments: list[str] = []
        self.inputs: list[str] = []  # those of the arguments that are nodes
        self.meta = meta
        self.keeps = keeps


def to_text(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The graph that leads to ``y``, a line for each operation, in the order of computation.

    Args:
        y: a Tensor that requires grad.
        names: what to call certain tensors, ``{"w": w}``; others are called v1, v2, ...
    """
    lines = _spell_out(y, names)
    left = [
        f"{line.name} = {line.operation}({', '.join(line.arguments)})"
        if line.arguments
        else f"{line.name} = {line.operation}"
        for line in lines
    ]
    width = max(map(len, left), default=0)
    rows = (
        f"{text:<{width}}  {line.meta:<20}{line.keeps}"
        for text, line in zip(left, lines, strict=True)
    )
    return "\n".join(row.rstrip() for row in rows)


def to_dot(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """The same graph in the language of Graphviz, leaves as boxes."""
    rows = ["digraph {", "  rankdir=LR;", "  node [fontname=monospace];"]
    for line in _spell_out(y, names):
        label = json.dumps(f"{line.name}\n{line.operation}\n{line.meta}", ensure_ascii=False)
        shape = "box" if line.operation == "leaf" else "ellipse"
        name = json.dumps(line.name, ensure_ascii=False)
        rows.append(f"  {name} [label={label}, shape={shape}];")
        rows += [f"  {json.dumps(x, ensure_ascii=False)} -> {name};" for x in line.inputs]
    return "\n".join([*rows, "}"])


def _spell_out(y: Tensor, names: Mapping[str, Tensor] | None) -> list[_Line]:
    if not isinstance(y, Tensor) or y._node is None:
        raise TypeError("to_text and to_dot: a Tensor that requires grad, else there is no graph")
    order = topological_order([y._node])[::-1]
    metas: dict[Node, Any] = {y._node: (y.shape, y.dtype)}
    for node in order:
        metas.update(zip(node.parents, node.metas, strict=False))
    given = {x._node: name for name, x in (names or {}).items() if x._node is not None}
    called: dict[Node, str] = {}
    lines: list[_Line] = []
    for node in order:
        if node.primitive is not None and node.primitive.several:
            continue  # its outputs have lines of their own
        called[node] = given.get(node, f"v{len(lines) + 1}")
        shape, dtype = metas[node]
        meta = f"{canonical_dtype(dtype)} {tuple(shape)}"
        maker = node.parents[0] if node.index is not None and node.parents else node
        line = _Line(called[node], _operation(node, maker), meta, _kept(maker))
        if maker.primitive is not None and maker.saved is not None:
            line.inputs = [called[parent] for parent in maker.parents]
            line.arguments = _arguments(maker, maker.primitive, line.inputs)
        lines.append(line)
    return lines


def _operation(node: Node, maker: Node) -> str:
    if node.is_leaf:
        return "leaf"
    if maker.primitive is None or maker.saved is None:
        return "released"  # by backward, which dropped the way to the inputs, too
    output = "" if node.index is None else f"[{node.index}]"
    return f"{maker.primitive.name}{output}"


def _arguments(maker: Node, primitive: Primitive, inputs: list[str]) -> list[str]:
    read = {
        index: value
        for argnum, reads in zip(maker.argnums, maker.saved, strict=False)
        for (index, rest, shape_only), value in zip(
            primitive.reads[0 if primitive.joint else argnum], reads, strict=False
        )
        if not rest and not shape_only
    }
    known = dict(zip(maker.argnums, inputs, strict=True))
    count = max(len(primitive.inputs), max(known, default=-1) + 1)
    arguments = [known[i] if i in known else _constant(read.get(i)) for i in range(count)]
    return arguments + [f"{key}={value}" for key, value in (maker.parameters or {}).items()]


def _constant(value: Any) -> str:
    return str(value) if isinstance(value, (bool, int, float)) else "const"


def _kept(node: Node) -> str:
    """What a node keeps for its vjps, by name."""
    primitive = node.primitive
    if primitive is None or node.saved is None:
        return ""
    kept = []
    for argnum in node.argnums[:1] if primitive.joint else node.argnums:
        for index, rest, shape_only in primitive.reads[0 if primitive.joint else argnum]:
            name = "out" if index < 0 else primitive.rest if rest else primitive.inputs[index]
            if not shape_only and name not in kept:
                kept.append(str(name))
    return f"keeps {', '.join(kept)}" if kept else ""
