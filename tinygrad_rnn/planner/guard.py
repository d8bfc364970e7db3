"""Whether a function is still the one that was traced: looked at before its plan runs unasked.

What it reaches is compared by identity, quickly: what names are bound to, what objects and
containers hold, and the shapes, dtypes and graphs of the Tensors that it captures. The settings and
the state of an optimiser are none of it, since its update reads them when it runs.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Iterable, Sequence
from typing import Any

from ..graph import Node
from ..tensor import Tensor
from .bindings import Binding
from .reach import Reach


class Guard:
    """What a function reached when it had been traced.

    Args:
        subject: the function.
        captured: the Tensors that its trace captured.
        grads: the gradients that it found, of leaves.
        passed: containers whose parts may change.
    """

    def __init__(
        self,
        subject: Any,
        captured: Iterable[Tensor],
        grads: Iterable[tuple[Node, Any]],
        passed: Sequence[Any],
    ) -> None:
        self._captured = [
            (x, x._node, type(x._array), x._array.shape, x._array.dtype) for x in captured
        ]
        self._grads = [(node, grad is None) for node, grad in grads]
        self._bound: list[tuple[dict[Any, Any], Any, Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._held: list[tuple[dict[Any, Any], list[Any], list[Any]]] = []
        self._others: list[Binding] = []
        skipped = {id(container) for container in passed}
        reach = Reach(subject, through=True)
        self.partial = reach.partial
        for binding in reach.bindings:
            if id(binding.holder) not in skipped:
                self._add(binding)

    def _add(self, binding: Binding) -> None:
        _, holder, key, before = binding
        if isinstance(holder, types.CellType):
            self._cells.append((holder, before))
        elif type(holder) is dict and key is not None:
            self._bound.append((holder, key, before))
        elif type(holder) is dict and before is not None:
            self._held.append((holder, [*before], [*before.values()]))
        else:
            self._others.append(binding)

    def holds(self) -> bool:
        """Whether all is as it was."""
        for holder, key, before in self._bound:
            if holder.get(key) is not before:
                return False
        for cell, before in self._cells:
            if _content(cell) is not before:
                return False
        for held, names, values in self._held:
            if len(held) != len(values) or not all(map(operator.is_, held.values(), values)):
                return False
            if [*held] != names:
                return False
        for x, node, kind, shape, dtype in self._captured:
            array = x._array
            if x._node is not node or (node is not None and node.hooks):
                return False
            if type(array) is not kind or array.shape != shape or array.dtype != dtype:
                return False
        for leaf, was_none in self._grads:
            if (leaf.grad is None) is not was_none:
                return False
        return not any([binding.has_moved() for binding in self._others])


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # deleted; the cell itself is none of its contents
        return cell
