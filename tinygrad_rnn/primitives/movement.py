"""Movement: primitives that put elements elsewhere and compute nothing.

Time is split once, by ``unstack``, and joined once, by ``stack``: each has the other for its vjp,
and so has ``concat`` the pieces of ``split``. What else moves (``roll``, ``tile``, ``pad``, ...) is
composed of these.

A shape is an absolute thing, so ``reshape``, ``broadcast_to`` and ``permute_dims`` say what becomes
of their parameters when an axis is added in front.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np

import tinygrad_rnn_backends as backends

from ..apply import apply, apply_several, show
from ..entering import refuse_masked
from ..graph import Primitive, unbroadcast
from ..tensor import Tensor, as_tensor, backend_of, wrap
from .axes import Axis, negative_axes, negative_axis
from .elementwise import TensorLike, copied


def _taken(x: Any, places: Iterable[int | slice], axis: int) -> tuple[Any, ...]:
    """``x`` at places along a negative ``axis``, by basic keys: right for arrays and Tensors.

    With the ellipsis NumPy gives no scalars.
    """
    after = (slice(None),) * (-axis - 1)
    return tuple([x[(..., place, *after)] for place in places])


@lru_cache(maxsize=256)
def _pieces(sizes: tuple[int, ...]) -> tuple[slice, ...]:
    """The slices of an axis that is cut into pieces of ``sizes``."""
    return tuple(slice(*bounds) for bounds in pairwise(accumulate(sizes, initial=0)))


_reshape: Primitive = Primitive(
    "reshape",
    "movement",
    lambda xp, x, *, shape: xp.reshape(x, shape),
    lambda xp, g, x_shape, *, shape: xp.reshape(g, x_shape),
    batch=lambda size, batched, x, *, shape: apply(_reshape, x, shape=(size, *shape)),
)
_broadcast_to: Primitive = Primitive(
    "broadcast_to",
    "movement",
    lambda xp, x, *, shape: xp.broadcast_to(x, shape),
    lambda xp, g, x_shape, *, shape: unbroadcast(xp, g, x_shape),
    batch=lambda size, batched, x, *, shape: apply(
        _broadcast_to,
        reshape(x, (size, *(1,) * (len(shape) - x.ndim + 1), *x.shape[1:])),
        shape=(size, *shape),
    ),
)
_permute_dims: Primitive = Primitive(
    "permute_dims",
    "movement",
    lambda xp, x, *, axes: xp.permute_dims(x, axes),
    lambda xp, g, *, axes: xp.permute_dims(g, _inverse(axes)),
    batch=lambda size, batched, x, *, axes: apply(_permute_dims, x, axes=(-x.ndim, *axes)),
)
_flip = Primitive(
    "flip",
    "movement",
    lambda xp, x, *, axis: xp.flip(x, axis=axis),
    lambda xp, g, *, axis: xp.flip(g, axis=axis),
)
_concat = Primitive(
    "concat",
    "movement",
    lambda xp, *arrays, axis: xp.concat(arrays, axis=axis),
    lambda xp, g, arrays_shapes, *, axis: _taken(
        g, _pieces(tuple([shape[axis] for shape in arrays_shapes])), axis
    ),
    joint=True,
)
_split = Primitive(
    "split",
    "movement",
    lambda xp, x, *, sizes, axis: _taken(x, _pieces(sizes), axis),
    lambda xp, g, *, sizes, axis: xp.concat(g, axis=axis),
    outputs="several",
)
_stack = Primitive(
    "stack",
    "movement",
    lambda xp, *arrays, axis: xp.stack(arrays, axis=axis),
    lambda xp, g, *, axis: xp.unstack(g, axis=axis),
    joint=True,
)
_unstack = Primitive(
    "unstack",
    "movement",
    lambda xp, x, *, axis: _taken(x, range(x.shape[axis]), axis),
    lambda xp, g, *, axis: xp.stack(g, axis=axis),
    outputs="several",
)
_to = Primitive(
    "to",
    "movement",
    lambda xp, x, *, target, source: backends.get(target).from_host(xp.to_host(x)),
    lambda xp, g, *, target, source: _transfer(xp, g, source),
)


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    inverse = [0] * len(axes)
    for position, axis in enumerate(axes):
        inverse[axis] = position - len(axes)
    return tuple(inverse)


def _transfer(xp: Any, g: Any, target: str) -> Any:
    if isinstance(g, Tensor):
        return to(g, target)
    return backends.get(target).from_host(xp.to_host(xp.asarray(g)))


def _integers(given: Any, operation: str, name: str) -> tuple[int, ...]:
    """One integer or several, as a tuple."""
    refuse_masked(operation, given)
    try:
        if isinstance(given, (int, np.integer)):
            return (int(given),)
        return tuple([operator.index(n) for n in given])
    except TypeError as error:
        raise TypeError(f"{operation}: {name} takes integers, not {given!r}") from error


def reshape(x: TensorLike, /, shape: int | Sequence[int], *, copy: bool | None = None) -> Tensor:
    """The same elements in row-major order in another shape; one length may be -1: what is left.

    Memory is shared where the backend can; ``copy=True`` never does, ``copy=False`` always or
    raises ValueError.
    """
    x = as_tensor(x)
    lengths = _integers(shape, "reshape", "shape")
    known = math.prod(n for n in lengths if n != -1)
    if lengths.count(-1) == 1 and known and x.size % known == 0:
        lengths = tuple(x.size // known if n == -1 else n for n in lengths)
    if math.prod(lengths) != x.size or any(n < 0 for n in lengths):
        raise ValueError(
            f"reshape: {x.size} elements of shape {x.shape} do not fill the shape {lengths}"
        )
    if copy is False and (found := backends.of(x._array)) is not None:
        try:
            found.reshape(x._array, lengths, copy=False)
        except ValueError as error:
            raise ValueError(
                f"reshape: {show(x._array)} cannot be {lengths} in the same memory; leave out "
                "copy=False for a copy"
            ) from error
    y: Tensor = x if lengths == x.shape else apply(_reshape, x, shape=lengths)
    return copied(y) if copy else y


def broadcast_to(x: TensorLike, /, shape: int | Sequence[int]) -> Tensor:
    """x repeated along new leading axes and along axes of length 1; no memory is used."""
    x = as_tensor(x)
    lengths = _integers(shape, "broadcast_to", "shape")
    try:
        return x if lengths == x.shape else apply(_broadcast_to, x, shape=lengths)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"broadcast_to: {show(x)} does not broadcast to {lengths}; aligned from the right, its "
        "axes must be as long as asked for, or 1"
    )


def broadcast_arrays(*xs: TensorLike) -> list[Tensor]:
    """All of the shape that they broadcast to."""
    tensors = [as_tensor(x) for x in xs]
    shape = broadcast_shape("broadcast_arrays", *(x.shape for x in tensors))
    return [broadcast_to(x, shape) for x in tensors]


def meshgrid(*xs: TensorLike, indexing: Literal["xy", "ij"] = "xy") -> list[Tensor]:
    """The coordinates of all points of a grid, given those along each of its axes, 1-D or 0-D.

    Of (n,) and (m,), "ij" gives two matrices (n, m), and "xy" two of (m, n).
    """
    tensors = [reshape(as_tensor(x), (-1,)) if as_tensor(x).ndim == 0 else as_tensor(x) for x in xs]
    if any(x.ndim != 1 for x in tensors):
        raise ValueError(f"meshgrid: {_shapes(tensors)}; coordinates have one axis each")
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing={indexing!r}; 'xy' or 'ij'")
    axes = list(range(len(tensors)))
    if indexing == "xy" and len(tensors) > 1:
        axes[:2] = [1, 0]
    shape = [0] * len(tensors)
    for axis, x in zip(axes, tensors, strict=True):
        shape[axis] = x.shape[0]
    return [
        broadcast_to(reshape(x, [-1 if i == axis else 1 for i in range(len(shape))]), shape)
        for axis, x in zip(axes, tensors, strict=True)
    ]


def broadcast_shape(operation: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that shapes broadcast to, or an error in the name of ``operation``."""
    ndim = max(map(len, shapes), default=0)
    result = []
    for lengths in zip(*((1,) * (ndim - len(s)) + tuple(s) for s in shapes), strict=True):
        different = {n for n in lengths if n != 1}
        if len(different) > 1:
            raise ValueError(
                f"{operation}: the shapes {', '.join(map(str, shapes))} do not broadcast; aligned "
                "from the right, each pair of axes must be equal or contain a 1"
            )
        result.append(different.pop() if different else 1)
    return tuple(result)


def permute_dims(x: TensorLike, /, axes: Sequence[int]) -> Tensor:
    """Axis ``i`` of the result is axis ``axes[i]`` of x."""
    x = as_tensor(x)
    order = negative_axes(tuple(axes), x.ndim, "permute_dims")
    if len(order) != x.ndim:
        raise ValueError(f"permute_dims: {len(order)} axes given for a tensor of shape {x.shape}")
    return x if order == tuple(range(-x.ndim, 0)) else apply(_permute_dims, x, axes=order)


def moveaxis(
    x: TensorLike, source: int | Sequence[int], destination: int | Sequence[int], /
) -> Tensor:
    """Axis ``source`` put at ``destination``, or several; the others stay in their order."""
    x = as_tensor(x)
    origins = negative_axes(source, x.ndim, "moveaxis")
    places = negative_axes(destination, x.ndim, "moveaxis")
    if source is None or destination is None or len(origins) != len(places):
        raise ValueError(f"moveaxis: source={source!r} and destination={destination!r} must pair")
    order = [a for a in range(-x.ndim, 0) if a not in origins]
    for place, origin in sorted(zip(places, origins, strict=True)):
        order.insert(place + x.ndim, origin)
    return permute_dims(x, order)


def matrix_transpose(x: TensorLike, /) -> Tensor:
    """The last two axes exchanged."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"matrix_transpose: a tensor of shape {x.shape} has no last two axes")
    return permute_dims(x, (*range(x.ndim - 2), -1, -2))


def expand_dims(x: TensorLike, /, axis: int | Sequence[int] = 0) -> Tensor:
    """New axes of length 1 at the positions ``axis`` of the result."""
    x = as_tensor(x)
    added = len(axis) if isinstance(axis, (tuple, list)) else 1
    axes = negative_axes(axis, x.ndim + added, "expand_dims")
    lengths = iter(x.shape)
    ndim = x.ndim + added
    return reshape(x, tuple(1 if i - ndim in axes else next(lengths) for i in range(ndim)))


def squeeze(x: TensorLike, /, axis: Axis = None) -> Tensor:
    """Without the axes ``axis``, which must have length 1; None takes all such axes."""
    x = as_tensor(x)
    if axis is None:
        return reshape(x, tuple(n for n in x.shape if n != 1))
    axes = negative_axes(axis, x.ndim, "squeeze")
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError(f"squeeze: axis {axis} of shape {x.shape} does not have length 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i - x.ndim not in axes))


def flip(x: TensorLike, /, axis: Axis = None) -> Tensor:
    """In reverse order along ``axis``."""
    x = as_tensor(x)
    return apply(_flip, x, axis=negative_axes(axis, x.ndim, "flip"))


def concat(xs: Sequence[TensorLike], /, axis: int | None = 0) -> Tensor:
    """Joined along an axis that they have; None joins them flattened."""
    tensors = _several(xs, "concat")
    if axis is None:
        tensors, axis = [reshape(x, (-1,)) for x in tensors], 0
    along = negative_axis(axis, tensors[0].ndim, "concat")
    try:
        return apply(_concat, *tensors, axis=along)
    except (TypeError, ValueError, IndexError):
        rests = {x.shape[:along] + x.shape[along:][1:] for x in tensors}
        if len(rests) == 1 == len({x.ndim for x in tensors}):
            raise
    raise ValueError(
        f"concat: {_shapes(tensors)} cannot be joined along axis={axis}; they must agree in the "
        "number of axes and in the lengths of all others"
    )


def stack(xs: Sequence[TensorLike], /, axis: int = 0) -> Tensor:
    """Joined along a new axis. The vjp is ``unstack``: time is joined once."""
    tensors = _several(xs, "stack")
    along = negative_axis(axis, tensors[0].ndim + 1, "stack")
    try:
        return apply(_stack, *tensors, axis=along)
    except (TypeError, ValueError, IndexError):
        if len({x.shape for x in tensors}) == 1:
            raise
    raise ValueError(
        f"stack: {_shapes(tensors)} cannot be joined along a new axis; they must be equal, and "
        "concat joins what differs along one axis"
    )


def _shapes(tensors: Sequence[Tensor]) -> str:
    return f"the shapes {', '.join([str(x.shape) for x in tensors])}"


def _several(xs: Sequence[TensorLike], operation: str) -> list[Tensor]:
    if isinstance(xs, Tensor):
        raise TypeError(f"{operation}: a sequence of tensors, not one tensor")
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise ValueError(f"{operation}: there is nothing to join")
    return tensors


def unstack(x: TensorLike, /, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along ``axis``, which disappears. The vjp is ``stack``: time is split once."""
    x = as_tensor(x)
    along = negative_axis(axis, x.ndim, "unstack")
    return apply_several(_unstack, x, axis=along) if x.shape[along] else ()


def split(
    x: TensorLike, /, sections_or_indices: int | Sequence[int], axis: int = 0
) -> list[Tensor]:
    """Cut along ``axis``: into so many equal sections, or before each of the given indices."""
    x = as_tensor(x)
    along = negative_axis(axis, x.ndim, "split")
    n = x.shape[along]
    if isinstance(sections_or_indices, (int, np.integer)):
        sections = int(sections_or_indices)
        if sections < 1 or n % sections:
            raise ValueError(
                f"split: axis {axis} of shape {x.shape} has no {sections} equal sections"
            )
        sizes = (n // sections,) * sections
    else:
        places = [operator.index(i) for i in sections_or_indices]
        bounds = [0, *(max(0, min(i if i >= 0 else n + i, n)) for i in places), n]
        if bounds != sorted(bounds):
            raise ValueError(f"split: the indices {places} are not in order along axis {axis}")
        sizes = tuple(stop - start for start, stop in pairwise(bounds))
    return list(apply_several(_split, x, sizes=sizes, axis=along))


def roll(x: TensorLike, /, shift: int | Sequence[int], axis: Axis = None) -> Tensor:
    """Moved by ``shift`` along ``axis``, what falls off the end coming in at the front."""
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), x.shape)
    axes: tuple[Any, ...] = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    several = isinstance(shift, (tuple, list))
    shifts: tuple[Any, ...] = tuple(shift) if several else (shift,) * len(axes)  # type: ignore[arg-type]
    axes = axes * len(shifts) if len(axes) == 1 else axes
    if len(axes) != len(shifts):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for places, a in zip(shifts, axes, strict=True):
        along = negative_axis(a, x.ndim, "roll")
        n = x.shape[along]
        if n and places % n:
            head, tail = split(x, [n - places % n], axis=along)
            x = concat([tail, head], axis=along)
    return x


def pad(x: TensorLike, /, pad_width: int | Sequence[Any], *, constant_values: float = 0) -> Tensor:
    """``constant_values`` put before and after each axis.

    ``pad_width`` is as in NumPy: ``((before, after), ...)`` for each axis, one ``(before, after)``
    or one number for all.
    """
    x = as_tensor(x)
    refuse_masked("pad", constant_values)
    fill = wrap(backend_of(x).asarray(constant_values), None).astype(x.dtype)
    for i, (before, after) in enumerate(_pad_widths(pad_width, x.ndim)):
        sides = [broadcast_to(fill, (*x.shape[:i], n, *x.shape[i + 1 :])) for n in (before, after)]
        x = concat([sides[0], x, sides[1]], axis=i) if before or after else x
    return x


def _pad_widths(pad_width: Any, ndim: int) -> list[tuple[int, int]]:
    """A pair for each axis: broadcast, as NumPy does, to shape (ndim, 2)."""
    try:
        pairs = np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
    except ValueError:
        pairs = None
    if pairs is None or not all(isinstance(n, int) and n >= 0 for pair in pairs for n in pair):
        raise ValueError(f"pad: pad_width={pad_width!r} does not fit a tensor of {ndim} axes")
    return [(before, after) for before, after in pairs]


def repeat(x: TensorLike, /, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element along ``axis`` (of the flattened tensor for None) so many times in a row."""
    x = as_tensor(x)
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    along = negative_axis(axis, x.ndim, "repeat")
    counts = _integers(repeats, "repeat", "repeats")
    if any(times < 0 for times in counts):
        raise ValueError(f"repeat: repeats={repeats!r} is not possible")
    if isinstance(repeats, (int, np.integer)):
        ahead = x.shape[: x.ndim + along + 1]
        behind = x.shape[x.ndim + along + 1 :]
        wide = broadcast_to(reshape(x, (*ahead, 1, *behind)), (*ahead, repeats, *behind))
        return reshape(wide, (*ahead[:-1], ahead[-1] * repeats, *behind))
    n = x.shape[along]
    counts = counts * n if len(counts) == 1 else counts
    if len(counts) != n:
        raise ValueError(f"repeat: {len(counts)} numbers of repeats for an axis of length {n}")
    places = [i for i, times in enumerate(counts) for _ in range(times)]
    return x[(..., places, *(slice(None),) * (-along - 1))]


def tile(x: TensorLike, /, repetitions: int | Sequence[int]) -> Tensor:
    """The whole of x so many times along each axis; missing numbers are 1, as are missing axes."""
    x = as_tensor(x)
    times = _integers(repetitions, "tile", "repetitions")
    if any(n < 0 for n in times):
        raise ValueError(f"tile: repetitions={repetitions!r} are not possible")
    ndim = max(x.ndim, len(times))
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - x.ndim) + x.shape
    apart = reshape(x, tuple(n for length in shape for n in (1, length)))
    wide = broadcast_to(apart, tuple(n for pair in zip(times, shape, strict=True) for n in pair))
    return reshape(wide, tuple(t * n for t, n in zip(times, shape, strict=True)))


def to(x: TensorLike, backend: str, /) -> Tensor:
    """x on another backend, copied through the host. The cotangent comes back the same way."""
    x = as_tensor(x)
    source = backend_of(x).name
    target = backends.get(backend).name
    return x if target == source else apply(_to, x, target=target, source=source)


def _to_device(self: Tensor, device: Any, /, *, stream: Any = None) -> Tensor:
    """This tensor, if it is on ``device``; to another one ``.to(backend)`` goes.

    A backend computes on one device of its library's, which ``x.device`` names.
    """
    if device != self.device:
        raise ValueError(
            f"to_device: a tensor on {self.device!r} cannot be put on {device!r}; a backend has "
            "one device, and x.to(backend) goes to that of another"
        )
    return self


def _reshape_method(self: Tensor, *shape: Any) -> Tensor:
    """``reshape(2, -1)`` or ``reshape((2, -1))``."""
    return reshape(self, shape[0] if len(shape) == 1 else shape)


for _name, _value in (
    ("to", to),
    ("to_device", _to_device),
    ("reshape", _reshape_method),
    ("squeeze", squeeze),
    ("T", property(lambda self: permute_dims(self, range(self.ndim)[::-1]))),
    ("mT", property(matrix_transpose)),
):
    setattr(Tensor, _name, _value)
