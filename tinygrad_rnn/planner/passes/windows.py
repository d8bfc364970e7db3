"""Where a kernel finds the elements of a value: strides, looked at through views.

A kernel goes over axes, and on the innermost over columns. An ``Iteration`` says which axes these
are for a value: its own, or of a sum and a product also those that are summed over. A ``Read`` says
how many elements of an operand's memory it is from one index to the next of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..ir import Shape, Value, elements, is_view
from ..stages import EACH, ONCE, Extent

Strides = tuple[int, ...]


class Window(NamedTuple):
    """Elements of a value: what a view of it looks at, of one row if it has rows."""

    owner: Value
    first: int
    shape: Shape
    strides: Strides  # 0 for an axis of length 1

    @property
    def whole(self) -> bool:
        """Whether it is all elements of the owner, in their order."""
        same = elements(self.shape) == width_of(self.owner)
        return same and self.first == 0 and self.strides == contiguous(self.shape)


def width_of(value: Value) -> int:
    """How many elements a row of a value has."""
    return elements(value.shape[1:])


def contiguous(shape: Shape) -> Strides:
    """The strides of neighbouring elements; 0 for an axis of length 1."""
    strides, size = [], 1
    for n in shape[::-1]:
        strides.append(size if n > 1 else 0)
        size *= n
    return tuple(strides[::-1])


def window_of(x: Value, extents: dict[Value, Extent]) -> Window:
    """The elements that a value has, through views as far as these leave regular strides."""
    if extents[x] in (ONCE, EACH):  # a copy is made of what has no rows
        return Window(x, 0, x.shape, contiguous(x.shape))
    if is_view(x):
        found = _through(x, window_of(x.operands[0], extents))
        if found is not None:
            return found
    return Window(x, 0, x.shape[1:], contiguous(x.shape[1:]))


def _through(x: Value, inner: Window) -> Window | None:
    """What a view shows of a window, if that has regular strides."""
    owner, first, shape, strides = inner
    rows = x.shape[:1] == x.operands[0].shape[:1]
    if x.name == "permute_dims":
        axes = x.parameters["axes"]
        if axes[0] != -len(axes):
            return None
        kept = [axis + len(axes) - 1 for axis in axes[1:]]
        return Window(owner, first, x.shape[1:], tuple([strides[axis] for axis in kept]))
    if x.name == "broadcast_to":
        if not rows or len(x.shape) != len(shape) + 1:
            return None
        return Window(owner, first, x.shape[1:], strides)
    if x.name == "reshape":
        found = _reshaped(shape, strides, x.shape[1:]) if rows else None
        return None if found is None else Window(owner, first, x.shape[1:], found)
    key = x.parameters["key"]
    if not rows or key[:1] != (slice(None),):
        return None
    lengths, steps = iter(shape), iter(strides)
    kept = []
    for entry in key[1:]:
        if entry is None:
            kept.append(0)
        elif isinstance(entry, slice):
            n, step = next(lengths), next(steps)
            start, stop, by = entry.indices(n)
            kept.append(by * step if len(range(start, stop, by)) > 1 else 0)
            first += start * step
        elif isinstance(entry, int):
            n, step = next(lengths), next(steps)
            first += entry % max(n, 1) * step
        else:
            return None
    kept += steps
    return Window(owner, first, x.shape[1:], tuple(kept))


def is_irregular(x: Value) -> bool:
    """Whether a view of rows has no regular strides, only because it is another shape."""
    if x.name != "reshape" or x.shape[:1] != x.operands[0].shape[:1]:
        return False
    inner = _regular(x.operands[0])
    return inner is not None and _through(x, inner) is None


def _regular(x: Value) -> Window | None:
    """The elements of a value that has rows, through views; None if it has no regular strides."""
    if not is_view(x) or not x.shape:
        return Window(x, 0, x.shape[1:], contiguous(x.shape[1:])) if x.shape else None
    inner = _regular(x.operands[0])
    return None if inner is None else _through(x, inner)


def _reshaped(shape: Shape, strides: Strides, wanted: Shape) -> Strides | None:
    """The strides of the same elements in another shape, if there are such."""
    runs: list[tuple[int, int]] = []  # of elements at one distance
    for n, stride in zip(shape, strides, strict=True):
        if n != 1:
            if runs and runs[-1][1] == n * stride:
                runs[-1] = (runs[-1][0] * n, stride)
            else:
                runs.append((n, stride))
    found: list[int] = []
    for n in wanted:
        if n == 1 or not runs:
            found.append(0)
            continue
        left, stride = runs[0]
        if left % n:
            return None
        found.append(left // n * stride)
        runs[0] = (left // n, stride)
        if left == n:
            runs.pop(0)
    return tuple(found)


class Read(NamedTuple):
    """How an operand is read: from which element of a value on, and the strides."""

    x: Value
    owner: Value
    first: int
    strides: Strides  # along each axis of the iteration


class Iteration(NamedTuple):
    """How a kernel goes over a value."""

    shape: Shape  # of all axes that there are
    own: tuple[int | None, ...]  # which axis of the value's rows each is; None if summed over
    axes: tuple[int, ...]  # those of more than one index, but for the columns
    columns: int | None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the axes of the kernel."""
        return tuple([self.shape[axis] for axis in self.axes])

    @property
    def width(self) -> int:
        """How many columns."""
        return 1 if self.columns is None else self.shape[self.columns]

    @property
    def wide(self) -> bool:
        """Whether the value has columns, which are not summed over."""
        return self.columns is not None and self.own[self.columns] is not None

    @property
    def reduces(self) -> bool:
        """Whether columns are summed over."""
        return self.columns is not None and self.own[self.columns] is None

    @property
    def reduces_axes(self) -> bool:
        """Whether other axes are: then the value is there when the kernel is done."""
        return any(self.own[axis] is None for axis in self.axes)

    def along(self, strides: Sequence[int]) -> tuple[Strides, int]:
        """Of strides along all axes those along the kernel's, and that from column to column."""
        axes = tuple([strides[axis] for axis in self.axes])
        return axes, 0 if self.columns is None else strides[self.columns]

    def strides(self, of_value: Strides) -> Strides:
        """Strides along the axes of the value's rows as those along all axes."""
        return tuple([0 if axis is None else of_value[axis] for axis in self.own])

    def by_number(self) -> Iteration:
        """The same, a number at each index of all axes."""
        axes = [axis for axis, n in enumerate(self.shape) if n > 1]
        return self._replace(axes=tuple(axes), columns=None)


def iteration(
    shape: Shape, own: tuple[int | None, ...] | None = None, columns: int | None = None
) -> Iteration:
    """Over all axes, of which the last one of more than one index has the columns, unless given."""
    long = [axis for axis, n in enumerate(shape) if n != 1]
    if columns is None and long:
        columns = long[-1]
    own = tuple(range(len(shape))) if own is None else own
    return Iteration(shape, own, tuple([axis for axis in long if axis != columns]), columns)


def iteration_of(value: Value, extents: dict[Value, Extent]) -> Iteration:
    """How a kernel goes over what it makes."""
    shape = value.shape[1:]
    if value.name == "matmul":
        return _of_product(value, extents)
    if value.name not in ("sum", "max"):
        return iteration(shape)
    over = value.operands[0].shape[1:]
    summed = {axis + len(over) for axis in value.parameters["axis"]}
    kept = [axis for axis in range(len(over)) if axis not in summed]
    places = {axis: axis if value.parameters["keepdims"] else kept.index(axis) for axis in kept}
    return iteration(over, tuple([places.get(axis) for axis in range(len(over))]))


def _of_product(value: Value, extents: dict[Value, Extent]) -> Iteration:
    """Over the axes of the batch, the rows and the columns of the result, and those summed over."""
    *batch, m, n = value.shape[1:]
    k = value.operands[0].shape[-1]
    rank = len(batch)
    shape, own = (*batch, m, n, k), (*range(rank + 2), None)
    left, right = (read.strides for read in reads_of(value, extents))
    row, column, inner = rank, rank + 1, rank + 2
    wanted = [column, inner] if n > 1 else [inner, row]  # what is stored has neighbouring columns
    possible = [axis for axis in wanted if shape[axis] > 1]
    close = [axis for axis in possible if {left[axis], right[axis]} <= {0, 1}]
    return iteration(shape, own, next(iter([*close, *possible]), None))


def reads_of(value: Value, extents: dict[Value, Extent]) -> list[Read]:
    """How a kernel reads the operands of what it makes, in their order."""
    if value.name in ("sum", "max"):
        rank = len(value.operands[0].shape) - 1
    else:
        rank = len(value.shape) - 1
    found = []
    for place, x in enumerate(value.operands):
        window = window_of(x, extents)
        if value.name == "matmul" and rank > 1:
            strides = _fitted(window, rank)
            *batch, first, second = strides
            summed = (first, 0, second) if place == 0 else (0, second, first)
            found.append(Read(x, window.owner, window.first, (*batch, *summed)))
        else:
            found.append(Read(x, window.owner, window.first, _fitted(window, rank)))
    return found


def _fitted(window: Window, rank: int) -> Strides:
    """The strides along so many axes, the last ones: it is the same along others."""
    kept = window.strides[len(window.strides) - min(rank, len(window.strides)) :]
    return (0,) * (rank - len(kept)) + kept
