"""vmap: a function of one example applied to a whole batch, without a loop.

Inside ``vmap(f)`` a Tensor holds a ``BatchedArray``: a Tensor with the examples along axis 0, which
pretends to have the shape of one. Asked to interpret a primitive, it carries it out once for all
examples, by a rule that follows from the primitive's kind:

* elementwise: operands are given equally many axes behind the batch axis, then broadcast;
* reduction and movement: axes count from the end, so the parameters stay as they are;
* otherwise the row says how.

The Tensor inside is an ordinary one of the level around. A ``grad`` inside the ``vmap`` therefore
sees nodes with BatchedArrays, and a ``grad`` around it sees nodes with arrays; transforms nest in
any order because no level knows of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from .apply import apply
from .graph import Primitive
from .primitives.axes import negative_axis
from .primitives.movement import broadcast_to, moveaxis, reshape
from .structure import flatten, unflatten
from .tensor import Tensor, as_tensor, backend_of, wrap

_running: ContextVar[tuple[Batch, ...]] = ContextVar("tinygrad_rnn_vmap", default=())


def running_batches() -> tuple[Batch, ...]:
    """The batches of the vmaps that run here, the outermost first."""
    return _running.get()


class Batch:
    """One run of a vmap: how many examples, how deep it is nested, and whether it still runs."""

    def __init__(self, size: int, level: int) -> None:
        self.size = size
        self.level = level
        self.running = True


class BatchedArray:
    """A value for each example of a batch, or one for all if not ``batched``; looks like one."""

    recorded = True  # operations on it leave nodes behind
    why_no_value = (
        "inside vmap a tensor stands for a whole batch and has no value of its own; use functions "
        "of tinygrad_rnn (where instead of if), or compute this outside"
    )

    def __init__(self, batch: Batch, value: Tensor, batched: bool) -> None:
        self.batch = batch
        self.value = value
        self.batched = batched

    @property
    def level(self) -> int:
        return self.batch.level

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape[1:] if self.batched else self.value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def backend(self) -> Any:
        return backend_of(self.value)

    def detach(self) -> BatchedArray:
        return BatchedArray(self.batch, self.value.detach(), self.batched)

    def __repr__(self) -> str:
        return f"{self.dtype} {self.shape} for each of {self.batch.size} examples"

    def lifted(self, x: Tensor) -> BatchedArray:
        """A Tensor of this level as it is, or one from outside as the same for all examples."""
        array = x._array
        if isinstance(array, BatchedArray) and array.batch is self.batch:
            return array
        return BatchedArray(self.batch, x, False)

    def interpret(
        self, primitive: Primitive, inputs: Sequence[Any], parameters: dict[str, Any]
    ) -> Any:
        if not self.batch.running:
            raise RuntimeError(
                f"{primitive.name}: a tensor was kept from inside a vmap that has returned; "
                "return it from the mapped function instead"
            )
        arrays = [self.lifted(x) if isinstance(x, Tensor) else x for x in inputs]
        batched = [isinstance(a, BatchedArray) and a.batched for a in arrays]
        values = [a.value if isinstance(a, BatchedArray) else a for a in arrays]
        if any(batched):
            out = in_one_go(primitive, self.batch.size, batched, values, parameters)
        else:
            out = apply(primitive, *values, **parameters)
        parts = out if primitive.several else (out,)
        results = tuple([BatchedArray(self.batch, part, any(batched)) for part in parts])
        return results if primitive.several else results[0]


def in_one_go(
    primitive: Primitive,
    size: int,
    batched: list[bool],
    values: list[Any],
    parameters: dict[str, Any],
) -> Any:
    """A primitive for all examples: the operands that are ``batched`` have them along axis 0."""
    if primitive.batch is not None:
        return primitive.batch(size, batched, *values, **parameters)
    if primitive.kind == "elementwise":
        ndim = max(
            v.ndim - b for v, b in zip(values, batched, strict=True) if isinstance(v, Tensor)
        )
        values = [
            reshape(v, (size, *(1,) * (ndim + 1 - v.ndim), *v.shape[1:])) if b else v
            for v, b in zip(values, batched, strict=True)
        ]
    else:
        values = [
            v if b or not isinstance(v, Tensor) else broadcast_to(v, (size, *v.shape))
            for v, b in zip(values, batched, strict=True)
        ]
    return apply(primitive, *values, **parameters)


def vmap(f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """``f``, written for one example, as a function of a batch.

    Args:
        f: takes and returns Tensors or structures of them.
        in_axes: which axis of each argument counts the examples; None for an argument that is the
            same for all. One value for all arguments, or a tuple with an entry for each, which may
            again be a structure like the argument's.
        out_axes: where that axis goes in each output, likewise.

    Raises:
        ValueError: if the arguments have different numbers of examples, or none has any. TypeError:
        inside, for what needs the value of one example: ``bool``, ``.item()``, ``.numpy()``.
    """

    def mapped(*arguments: Any) -> Any:
        per_argument = (
            in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(arguments)
        )
        if len(per_argument) != len(arguments):
            raise ValueError(f"vmap: in_axes={in_axes!r} for {len(arguments)} arguments")
        leaves, structure = flatten(tuple(arguments))
        tensors = [as_tensor(leaf) for leaf in leaves]
        axes = [
            a for entry, x in zip(per_argument, arguments, strict=True) for a in _spread(entry, x)
        ]
        sizes = {
            x.shape[negative_axis(axis, x.ndim, "vmap")]
            for x, axis in zip(tensors, axes, strict=True)
            if axis is not None
        }
        if len(sizes) != 1:
            raise ValueError(
                f"vmap: the arguments have {sorted(sizes) or 'no'} examples along "
                f"in_axes={in_axes!r}; shapes {', '.join(str(x.shape) for x in tensors)}"
            )
        around = _running.get()
        batch = Batch(sizes.pop(), len(around) + 1)
        inside = [
            wrap(BatchedArray(batch, x if a is None else moveaxis(x, a, 0), a is not None), None)
            for x, a in zip(tensors, axes, strict=True)
        ]
        token = _running.set((*around, batch))
        try:
            result = f(*unflatten(structure, inside))
        finally:
            _running.reset(token)
            batch.running = False
        out, out_structure = flatten(result)
        out_places = _spread(out_axes, result)
        return unflatten(
            out_structure,
            [_outside(batch, x, a) for x, a in zip(out, out_places, strict=True)],
        )

    return mapped


def _spread(axes: Any, tree: Any) -> list[int | None]:
    """An axis for each leaf of ``tree``: one given for all of them, or a structure of axes."""
    if axes is None or isinstance(axes, int):
        return [axes] * len(flatten(tree)[0])
    if isinstance(axes, dict) and isinstance(tree, dict) and axes.keys() == tree.keys():
        return [a for key in tree for a in _spread(axes[key], tree[key])]
    if (
        isinstance(axes, (tuple, list))
        and isinstance(tree, (tuple, list))
        and len(axes) == len(tree)
    ):
        return [a for axis, branch in zip(axes, tree, strict=True) for a in _spread(axis, branch)]
    raise ValueError(f"vmap: the axes {axes!r} do not fit the structure {flatten(tree)[1]}")


def _outside(batch: Batch, x: Any, axis: int | None) -> Tensor:
    """An output of the mapped function as a Tensor of the level around."""
    x = as_tensor(x)
    array = x._array
    own = isinstance(array, BatchedArray) and array.batch is batch
    value: Tensor = array.value if own else x
    if own and array.batched:
        if axis is None:
            raise ValueError("vmap: out_axes is None for an output that differs between examples")
        return moveaxis(value, 0, axis)
    if axis is None:
        return value
    repeated = broadcast_to(value, (batch.size, *value.shape))
    return moveaxis(repeated, 0, axis)
