"""Graphs one can read: a small one as text or as a drawing, to follow with a pencil.

Both list what ``backward`` will walk through, inputs first; of many steps, ``fold`` shows the loop.
A graph holds no more than its vjps read: a constant appears as ``const`` and values only where a
rule keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..graph import Node, topological_order
from ..tensor import Tensor
from .capture import arguments_of, graph_of, kept, name_of, names_of
from .document import Study

_MOST = 500_000  # lines


class _Line:
    """One node of the graph, spelled out."""

    def __init__(self, name: str, operation: str, meta: str) -> None:
        self.name = name
        self.operation = operation
        self.arguments: list[str] = []
        self.inputs: list[str] = []  # those of the arguments that are nodes
        self.meta = meta
        self.keeps = ""


def to_text(y: Tensor | Study, names: Mapping[str, Tensor] | None = None) -> str:
    """See ``inspect.to_text``."""
    if isinstance(y, Study):
        return y.to_text()
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
    hint = [f"({_HINT})"] if any(_is_planned(line) for line in lines) else []
    return "\n".join([*(row.rstrip() for row in rows), *hint])


def to_dot(y: Tensor, names: Mapping[str, Tensor] | None = None) -> str:
    """See ``inspect.to_dot``."""
    rows = ["digraph {", "  rankdir=LR;", "  node [fontname=monospace];"]
    lines = _spell_out(y, names)
    if any(map(_is_planned, lines)):
        rows.append(f"  label={json.dumps(_HINT)};")
    for line in lines:
        label = json.dumps(f"{line.name}\n{line.operation}\n{line.meta}", ensure_ascii=False)
        shape = "box" if line.operation == "leaf" else "ellipse"
        name = json.dumps(line.name, ensure_ascii=False)
        rows.append(f"  {name} [label={label}, shape={shape}];")
        rows += [f"  {json.dumps(x, ensure_ascii=False)} -> {name};" for x in line.inputs]
    return "\n".join([*rows, "}"])


_HINT = 'unroll is one node for all steps, planned; mode="literal" shows the operations of each'


def _is_planned(line: _Line) -> bool:
    return line.operation.partition("[")[0] == "unroll"


def _spell_out(y: Tensor, names: Mapping[str, Tensor] | None) -> list[_Line]:
    root = graph_of("to_text and to_dot", y)
    order = topological_order([root])[::-1]
    if len(order) > _MOST:
        raise ValueError(
            f"to_text and to_dot: a graph of {len(order):,} nodes is too long to read; "
            "to_text(inspect.fold(y)) shows its loops once"
        )
    metas: dict[Node, Any] = {root: (y.shape, y.dtype)}
    for node in order:
        metas.update(zip(node.parents, node.metas, strict=False))
    given = names_of(names)
    called: dict[Node, str] = {}
    lines: list[_Line] = []
    for node in order:
        if node.primitive is not None and node.primitive.several:
            continue  # its outputs have lines of their own
        called[node] = given.get(node, f"v{len(lines) + 1}")
        shape, dtype = metas[node]
        meta = f"{name_of(dtype)} {tuple(shape)}"
        maker = node.parents[0] if node.index is not None and node.parents else node
        line = _Line(called[node], _operation(node, maker), meta)
        if maker.primitive is not None and maker.saved is not None:
            line.inputs = [called[parent] for parent in maker.parents]
            line.arguments = arguments_of(maker, dict(zip(maker.argnums, line.inputs, strict=True)))
            line.arguments += [f"{key}={value}" for key, value in (maker.parameters or {}).items()]
            line.keeps = f"keeps {', '.join(kept(maker))}" if kept(maker) else ""
        lines.append(line)
    return lines


def _operation(node: Node, maker: Node) -> str:
    if node.is_leaf:
        return "leaf"
    if maker.primitive is None or maker.saved is None:
        return "released"  # by backward, which dropped the way to the inputs, too
    output = "" if node.index is None else f"[{node.index}]"
    return f"{maker.primitive.name}{output}"
