"""Which values have the rows of the batch along axis 0, each row by itself.

The batch axis is followed from x and the state through every primitive. Where it arrives everywhere
untouched, rows are proved independent: then all rows of all steps may stand one below the other, so
that vectorising over time is no more than a larger batch, rows may end early, and threads may share
them out. Where an operation mixes rows, the proof names it.

Whether a captured array has the rows along its axis 0, too, as an attention memory (B, S, E) has,
is decided by what it meets: (B, H) beside (B, H) has, the weight of a product has not. One that is
asked to be both proves nothing. What was made of an array before it was found to have rows was
judged too early, so then the proof starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...primitives.indexing import ARRAY
from ..facts import copied, facts_of, full
from ..ir import WHOLE, Graph, Value, is_view
from ..stages import EACH, MERGED, ONCE, ROWS, ROWS_ONCE, SUMMED, Extent


class Mixed(Exception):
    """An operation that mixes rows, and why."""

    def __init__(self, value: Value, why: str) -> None:
        place = f" at {value.line}" if value.line else ""
        super().__init__(f"{value.name}{place} {why}")


class Proof(NamedTuple):
    """The extent of each value, and which operation mixes rows, if one does."""

    extents: dict[Value, Extent]
    mixed: Mixed | None


def prove(graph: Graph, batch: int | None, ragged: bool = False) -> Proof:
    """The extents in a graph: with rows, if these are proved independent.

    Where rows end at steps of their own (``ragged``), each output has to have them, too.
    """
    having_rows: frozenset[Value] = frozenset()
    while True:
        walk = _Walk(batch, having_rows)
        try:
            walk.run(graph, ragged)
        except Mixed as error:
            return Proof(_without_rows(graph), error)
        if walk.having_rows == having_rows:
            return Proof(walk.extents, None)
        having_rows = frozenset(walk.having_rows)


def _without_rows(graph: Graph) -> dict[Value, Extent]:
    """The extents in a graph of which nothing is known: once, or for each step."""
    extents: dict[Value, Extent] = {}
    for value in graph.values():
        if value.source is not None:
            outside = value.source.kind in ("captured", "scalar", "constant")
            same = value.source.kind == "draw" and value.parameters["draw"].same
            extents[value] = ONCE if outside or same else EACH
        else:
            varies = any(extents[x] is EACH for x in value.operands)
            extents[value] = EACH if varies else ONCE
    return extents


class _Walk:
    """One walk over a graph, given the captured values that are known to have rows."""

    def __init__(self, batch: int | None, having_rows: frozenset[Value]) -> None:
        self.batch = batch
        self.extents: dict[Value, Extent] = {}
        self.having_rows = set(having_rows)
        self.shared: set[Value] = set()  # by all rows

    def run(self, graph: Graph, ragged: bool) -> None:
        for value in graph.values():
            self.extents[value] = self.of(value)
        states = [v for v in (*graph.states, *graph.dstates) if v is not None]
        for result in [*graph.ys, *states, *(v for v in graph.dxs if v is not None)]:
            if self.extents[result] in (MERGED, SUMMED):
                raise Mixed(result, "is a result without rows")
            if self._is_turned(result):
                raise Mixed(result, "moves rows to another axis")
        for state in states:
            if self.extents[state] is not ROWS:
                raise Mixed(state, "is a state without rows")
        for output in graph.ys if ragged else ():
            if not self.follows(output):
                raise Mixed(output, "is an output without rows")
        for index, g in enumerate(graph.dcaptured):
            if g is not None and self.batch != 1 and self.extents[g] in (ROWS, ROWS_ONCE):
                source = graph.table.source("captured", index, g.shape, g.dtype)
                self.extents.setdefault(source, self._source(source))
                if not self.follows(source):
                    raise Mixed(g, "has rows, and what it is the cotangent of has not")

    def of(self, value: Value) -> Extent:
        """The extent of a value whose inputs are done."""
        if value.source is not None:
            return self._source(value)
        if not value.operands:
            return self._outside(value)
        if value.primitive is copied:
            if not self.follows(value.operands[0]):
                raise Mixed(value, "is a state without rows")
            return ROWS
        given = [self.extents[x] for x in value.operands]
        if SUMMED in given:
            return self._of_summed(value)
        if MERGED in given:
            return self._of_merged(value)
        if ROWS not in given and ROWS_ONCE not in given:
            return EACH if EACH in given else ONCE
        kind: str = value.primitive.kind
        if value.name != "matmul" and any(self._is_turned(x) for x in value.operands):
            raise Mixed(value, "takes the rows of a matrix for its columns")
        if kind != "elementwise" and EACH in given:
            raise Mixed(value, "takes what each step has one of beside rows")
        extent = (_BY_NAME.get(value.name) or _BY_KIND[kind])(self, value)
        if extent is ROWS and not self._is_turned(value) and value.shape[:1] != (self.batch,):
            raise Mixed(value, f"makes {value.shape} of rows")
        if extent is ROWS and ROWS not in given and EACH not in given:
            return ROWS_ONCE
        return extent

    def follows(self, x: Value) -> bool:
        """Whether a captured value can be taken as one for each row; then it is from now on."""
        extent = self.extents[x]
        if extent in (ROWS, ROWS_ONCE):
            return not self._is_turned(x)
        taken = x in self.shared and self.batch != 1
        if extent is not ONCE or x.shape[:1] != (self.batch,) or taken:
            return False
        if x.source is None and x.primitive is not full:
            if x.primitive.kind == "elementwise":
                wide = [y for y in x.operands if y.shape[:1] == x.shape[:1]]
                wide = [y for y in wide if len(y.shape) == len(x.shape)]
                if not wide or not all([self.follows(y) for y in wide]):
                    return False
                self.extents[x] = ROWS_ONCE
                return True
            kept = is_view(x) and x.name != "broadcast_to"
            turned = x.name == "permute_dims" and x.parameters["axes"][0] != -len(x.shape)
            cut = x.name == "getitem" and x.parameters["key"][:1] != (WHOLE,)
            if not kept or turned or cut or not self.follows(x.operands[0]):
                return False
        self.extents[x] = ROWS_ONCE
        if x.source is not None or x.primitive is full:
            self.having_rows.add(x)
        return True

    def _is_turned(self, x: Value) -> bool:
        """Whether rows are along axis 1 of a matrix: on the way to a product that sums over it."""
        if len(x.shape) != 2 or x.name != "permute_dims" or x.parameters["axes"] != (-1, -2):
            return False
        return self.extents[x.operands[0]] in (ROWS, ROWS_ONCE)

    def _outside(self, x: Value) -> Extent:
        return ROWS_ONCE if x in self.having_rows else ONCE

    def _source(self, value: Value) -> Extent:
        assert value.source is not None
        kind = value.source.kind
        if kind in ("captured", "scalar", "constant"):
            return self._outside(value)
        if kind == "draw" and value.parameters["draw"].same:
            return self._outside(value)
        if value.shape[:1] == (self.batch,):
            return ROWS
        if kind == "draw" or (kind in ("x", "dy") and not value.shape):
            return EACH
        raise Mixed(value, f"has shape {value.shape}, without {self.batch} rows along axis 0")

    def _share(self, value: Value, x: Value) -> None:
        """Raise unless an operand is the same for all rows."""
        if self.extents[x] in (ROWS, ROWS_ONCE):
            raise Mixed(value, "takes the rows of one operand for something else")
        self.shared.add(x)

    def _elementwise(self, value: Value) -> Extent:
        ndim = len(value.shape)
        for x in value.operands:
            wide = len(x.shape) == ndim
            if self.extents[x] in (ROWS, ROWS_ONCE):
                if not wide:
                    raise Mixed(value, f"lines up rows of {x.shape} with another axis")
            elif wide and x.shape[0] == self.batch != 1:
                if not self.follows(x):
                    raise Mixed(value, f"lines up rows with {x.shape}")
            else:
                self.shared.add(x)
        return ROWS

    def _reduction(self, value: Value) -> Extent:
        axis = value.parameters.get("axis", -len(value.operands[0].shape))
        axes = axis if isinstance(axis, tuple) else (axis,)
        if -len(value.operands[0].shape) not in axes:
            return ROWS
        if value.name == "sum":
            return SUMMED
        raise Mixed(value, "reduces over rows")

    def _movement(self, value: Value) -> Extent:
        raise Mixed(value, "moves rows")

    def _reshape(self, value: Value) -> Extent:
        if value.shape[:1] == (self.batch,):
            return ROWS
        whole = self.batch is not None and value.shape[:1] and value.shape[0] % self.batch == 0
        if whole and len(value.shape) == 2 and self.extents[value.operands[0]] is ROWS:
            return MERGED
        raise Mixed(value, f"makes {value.shape} of rows")

    def _of_merged(self, value: Value) -> Extent:
        """Of several places for each row: the product that sums over all of them."""
        if value.name == "permute_dims":
            return MERGED
        if value.name == "matmul" and all(self.extents[x] is MERGED for x in value.operands):
            x, y = value.operands
            if x.name == "permute_dims" and y.name != "permute_dims":
                return SUMMED
        raise Mixed(value, "takes several places of each row for rows")

    def _broadcast_to(self, value: Value) -> Extent:
        if len(value.shape) != len(value.operands[0].shape):
            raise Mixed(value, f"makes {value.shape} of rows")
        return ROWS

    def _permute_dims(self, value: Value) -> Extent:
        axes = value.parameters["axes"]
        if axes[0] != -len(axes) and axes != (-1, -2):
            raise Mixed(value, "moves rows to another axis")
        return ROWS

    def _windows(self, value: Value) -> Extent:
        if len(value.operands[0].shape) <= len(value.parameters["sizes"]) + 1:
            raise Mixed(value, "takes windows of rows")
        return ROWS

    def _max_in_windows(self, value: Value) -> Extent:
        if len(value.shape) <= len(value.parameters["sizes"]):
            raise Mixed(value, "takes windows of rows")
        return ROWS

    def _overlap_add(self, value: Value) -> Extent:
        if len(value.shape) <= len(value.parameters["sizes"]) + 1:
            raise Mixed(value, "adds up windows of rows")
        return ROWS

    def _convolution(self, value: Value) -> Extent:
        x, kernel = value.operands
        if len(x.shape) < len(kernel.shape) or not self.follows(x):
            raise Mixed(value, "sums over rows")
        self._share(value, kernel)
        return ROWS

    def _kernel_cotangent(self, value: Value) -> Extent:
        given = [self.extents[x] for x in value.operands]
        wide = all(len(x.shape) >= len(value.shape) for x in value.operands)
        if ROWS in given and wide and all(self.follows(x) for x in value.operands):
            return SUMMED
        raise Mixed(value, "sums over rows")

    def _concat(self, value: Value) -> Extent:
        if value.parameters["axis"] == -len(value.shape):
            raise Mixed(value, "puts rows one below the other")
        for x in value.operands:
            if not self.follows(x):
                raise Mixed(value, f"joins rows with {x.shape}")
        return ROWS

    def _getitem(self, value: Value) -> Extent:
        x, *indices = value.operands
        key = value.parameters["key"]
        if self.extents[x] in (ROWS, ROWS_ONCE):
            for index in indices:
                self._share(value, index)
            if key[:1] == (WHOLE,):
                return ROWS
        elif key[0] is ARRAY and len(indices) == 1:
            self._share(value, x)
            return ROWS
        raise Mixed(value, "picks among rows")

    def _index_add(self, value: Value) -> Extent:
        x, values, *indices = value.operands
        key = value.parameters["key"]
        by_rows = self.extents[x] in (ROWS, ROWS_ONCE) or self.extents[values] in (ROWS, ROWS_ONCE)
        if by_rows and key[:1] == (WHOLE,) and self.follows(x) and self.follows(values):
            for index in indices:
                self._share(value, index)
            return ROWS
        placed = key[0] is ARRAY and len(indices) == 1 and self.extents[indices[0]] is ROWS
        if placed and x.primitive is full and self.extents[values] is ROWS:
            return SUMMED
        raise Mixed(value, "adds to rows")

    def _along_axis(self, value: Value) -> Extent:
        """An element of each row, taken or added to."""
        if value.parameters["axis"] == -len(value.operands[0].shape):
            raise Mixed(value, "picks among rows")
        for x in value.operands:
            if x.shape[:1] != (self.batch,) or not self.follows(x):
                raise Mixed(value, f"lines up rows with {x.shape}")
        return ROWS

    def _matmul(self, value: Value) -> Extent:
        x, y = value.operands
        if len(x.shape) == 2 == len(y.shape):
            transposed = x.name == "permute_dims" and ROWS in (self.extents[x], self.extents[y])
            if transposed and self.follows(x.operands[0]) and self.follows(y):
                return SUMMED
            if self.follows(x):
                self._share(value, y)
                return ROWS
            raise Mixed(value, "sums over rows")
        for operand in (x, y):
            rows = self.extents[operand] in (ROWS, ROWS_ONCE)
            wide = len(operand.shape) == len(value.shape)
            if rows and not wide:
                raise Mixed(value, "takes rows for an axis of a matrix")
            if not rows and wide and operand.shape[0] == self.batch != 1:
                if not self.follows(operand):
                    raise Mixed(value, f"lines up rows with {operand.shape}")
            elif not rows:
                self.shared.add(operand)
        return ROWS

    def _of_summed(self, value: Value) -> Extent:
        """Of sums over rows: what the sum of their sums over time is the same operation of."""
        first, *others = value.inputs
        if value.name in ("add", "subtract"):
            linear = all(isinstance(x, Value) and self.extents[x] is SUMMED for x in value.inputs)
        else:
            once = all(not isinstance(x, Value) or self.extents[x] is ONCE for x in others)
            summed = isinstance(first, Value) and self.extents[first] is SUMMED
            linear = facts_of(value.name).linear and summed and once and value.dtype.kind == "f"
        if linear:
            return SUMMED
        raise Mixed(value, "uses a sum over rows")

    def _indexing(self, value: Value) -> Extent:
        raise Mixed(value, "picks among rows")

    def _matrix(self, value: Value) -> Extent:
        for x in value.operands:
            if len(x.shape) < 3 or not self.follows(x):
                raise Mixed(value, f"takes rows of {x.shape} for those of a matrix")
        return ROWS

    def _contraction(self, value: Value) -> Extent:
        raise Mixed(value, "sums over rows")


_BY_NAME: dict[str, Callable[[_Walk, Value], Extent]] = {
    "reshape": _Walk._reshape,
    "broadcast_to": _Walk._broadcast_to,
    "permute_dims": _Walk._permute_dims,
    "windows": _Walk._windows,
    "overlap_add": _Walk._overlap_add,
    "max_in_windows": _Walk._max_in_windows,
    "convolution": _Walk._convolution,
    "transposed_convolution": _Walk._convolution,
    "kernel_cotangent": _Walk._kernel_cotangent,
    "concat": _Walk._concat,
    "stack": _Walk._concat,
    "getitem": _Walk._getitem,
    "index_add": _Walk._index_add,
    "take_along_axis": _Walk._along_axis,
    "add_along_axis": _Walk._along_axis,
    "matmul": _Walk._matmul,
}
_BY_KIND: dict[str, Callable[[_Walk, Value], Extent]] = {
    "elementwise": _Walk._elementwise,
    "reduction": _Walk._reduction,
    "movement": _Walk._movement,
    "indexing": _Walk._indexing,
    "contraction": _Walk._contraction,
    "matrix": _Walk._matrix,
}
"""How the rows go through a primitive: by a rule of its own, or by that of its kind."""
