"""What each primitive of the table is in ONNX: one row each, as in the table itself.

A row is given the writer and the value, and returns the name of the result, or several. Operations
of ONNX take equal dtypes, so what NumPy promotes is cast here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..planner.ir import Value
from ..primitives.indexing import ARRAY
from .library import ExportError
from .symbols import Size
from .writer import LAST, Writer

Row = Callable[[Writer, Value], Any]


def _operands(w: Writer, v: Value, dtype: Any = None) -> list[str]:
    """The names of the operands in one dtype, that of the result unless another is given."""
    wanted = v.dtype if dtype is None else dtype
    return [
        w.cast(w.name(x), x.dtype, wanted) if isinstance(x, Value) else w.name(x, v)
        for x in v.inputs
    ]


def _plain(kind: str, **attributes: Any) -> Row:
    """An operation that ONNX has, too."""
    return lambda w, v: w.op(kind, *_operands(w, v), **attributes)


def _compared(kind: str) -> Row:
    """One whose operands have a dtype of their own, and whose result is boolean."""

    def row(w: Writer, v: Value) -> str:
        dtype = np.result_type(*[x.dtype for x in v.operands])
        if dtype.kind == "b" and kind != "Equal":
            dtype = np.dtype(np.int32)
        return w.op(kind, *_operands(w, v, dtype))

    return row


def _logical(kind: str) -> Row:
    return lambda w, v: w.op(kind, *_operands(w, v, np.dtype(bool)))


def _asked(kind: str) -> Row:
    """isnan and its like: of integers, no."""

    def row(w: Writer, v: Value) -> str:
        (x,) = v.operands
        return w.op(kind, w.cast(w.name(x), x.dtype, x.dtype if x.dtype.kind == "f" else "float32"))

    return row


def _scalar(w: Writer, v: Value, number: float) -> str:
    return w.constant(np.asarray(number, dtype=v.dtype))


def _square(w: Writer, v: Value) -> str:
    (x,) = _operands(w, v)
    return w.op("Mul", x, x)


def _expm1(w: Writer, v: Value) -> str:
    """tanh(x / 2) * (exp(x) + 1), which loses nothing near 0."""
    (x,) = _operands(w, v)
    half = w.op("Tanh", w.op("Mul", x, _scalar(w, v, 0.5)))
    return w.op("Mul", half, w.op("Add", w.op("Exp", x), _scalar(w, v, 1)))


def _log1p(w: Writer, v: Value) -> str:
    """log(y) * x / (y - 1) with y = 1 + x, which makes up for the rounding of y (Kahan)."""
    (x,) = _operands(w, v)
    y = w.op("Add", x, _scalar(w, v, 1))
    back = w.op("Sub", y, _scalar(w, v, 1))
    exact = w.op("Equal", back, x)  # also where x is infinite
    none = w.op("Equal", back, _scalar(w, v, 0))
    safe = w.op("Where", none, _scalar(w, v, 1), back)
    log = w.op("Log", y)
    scaled = w.op("Where", none, x, w.op("Div", w.op("Mul", log, x), safe))
    return w.op("Where", exact, log, scaled)


def _isfinite(w: Writer, v: Value) -> str:
    nan, inf = _asked("IsNaN")(w, v), _asked("IsInf")(w, v)
    return w.op("Not", w.op("Or", nan, inf))


def _trunc(w: Writer, v: Value) -> str:
    (x,) = _operands(w, v)
    return w.op("Mul", w.op("Sign", x), w.op("Floor", w.op("Abs", x)))


def _rounded(kind: str) -> Row:
    """Of integers, nothing is rounded."""
    return lambda w, v: w.op(kind if v.dtype.kind == "f" else "Identity", *_operands(w, v))


def _floor_divide(w: Writer, v: Value) -> str:
    wide = v.dtype if v.dtype.kind == "f" else np.dtype(np.float64)
    quotient = w.op("Floor", w.op("Div", *_operands(w, v, wide)))
    return w.cast(quotient, wide, v.dtype)


def _remainder(w: Writer, v: Value) -> str:
    x, y = _operands(w, v)
    if v.dtype.kind != "f":
        return w.op("Mod", x, y)
    return w.op("Sub", x, w.op("Mul", y, w.op("Floor", w.op("Div", x, y))))


def _not_equal(w: Writer, v: Value) -> str:
    return w.op("Not", _compared("Equal")(w, v))


def _where(w: Writer, v: Value) -> str:
    condition = v.inputs[0]
    assert isinstance(condition, Value)
    chosen = [
        w.cast(w.name(x), x.dtype, v.dtype) if isinstance(x, Value) else w.name(x, v)
        for x in v.inputs[1:]
    ]
    if chosen[0] == chosen[1] and v.inputs[1].shape == v.shape:  # type: ignore[union-attr]
        return chosen[0]
    return w.op("Where", w.cast(w.name(condition), condition.dtype, bool), *chosen)


def _relu(w: Writer, v: Value) -> str:
    return w.op("Relu", *_operands(w, v))


def _log_base(base: float) -> Row:
    return lambda w, v: w.op("Mul", w.op("Log", *_operands(w, v)), _scalar(w, v, 1 / np.log(base)))


# Movement.


def _axes(v: Value, given: Any, like: Value | None = None) -> list[int]:
    """Axes counted from the front."""
    ndim = len((like or v.operands[0]).shape)
    return [a % ndim for a in (given if isinstance(given, tuple) else (given,))]


def _reshape(w: Writer, v: Value) -> str:
    return w.op("Reshape", *_operands(w, v), w.numbers(w.parameter(v, "shape")), allowzero=1)


def _broadcast_to(w: Writer, v: Value) -> str:
    return w.op("Expand", *_operands(w, v), w.numbers(w.parameter(v, "shape")))


def _full(w: Writer, v: Value) -> str:
    return w.op("Expand", _scalar(w, v, v.parameters["number"]), w.numbers(w.shape(v)))


def _permute_dims(w: Writer, v: Value) -> str:
    return w.op("Transpose", *_operands(w, v), perm=_axes(v, v.parameters["axes"]))


def _flip(w: Writer, v: Value) -> str:
    axes = _axes(v, v.parameters["axis"])
    ends = (w.ints(*[n] * len(axes)) for n in (-1, -LAST))
    return w.op("Slice", *_operands(w, v), *ends, w.ints(*axes), w.ints(*[-1] * len(axes)))


def _concat(w: Writer, v: Value) -> str:
    return w.op("Concat", *_operands(w, v), axis=_axes(v, v.parameters["axis"])[0])


def _split(w: Writer, v: Value) -> list[str]:
    sizes = w.parameter(v, "sizes")
    axis = _axes(v, v.parameters["axis"])[0]
    return w.ops("Split", len(sizes), *_operands(w, v), w.numbers(sizes), axis=axis)


def _stack(w: Writer, v: Value) -> str:
    axis = _axes(v, v.parameters["axis"], v)[0]
    parts = [w.op("Unsqueeze", x, w.ints(axis)) for x in _operands(w, v)]
    return w.op("Concat", *parts, axis=axis)


def _windows(w: Writer, v: Value) -> str:
    """Axis by axis, the last one first: a slice for each place in a window."""
    (x,) = v.operands
    sizes, steps = v.parameters["sizes"], v.parameters["strides"]
    n, name = len(sizes), w.name(x)
    if x.shape[-n - 1 : -1] != w.twins[x].shape[-n - 1 : -1]:
        raise ExportError(
            f"export: {w.about(v)} takes windows of axes whose sizes are left open; give them in "
            "the example"
        )
    for i in range(n)[::-1]:
        axis, size, dilation = len(x.shape) - n - 1 + i, sizes[i], v.parameters["dilations"][i]
        span = steps[i] * (v.shape[axis] - 1) + 1
        parts = []
        for k in range(0, size * dilation, dilation):
            ends = w.ints(k), w.ints(k + span)
            part = w.op("Slice", name, *ends, w.ints(axis), w.ints(steps[i]))
            parts.append(w.op("Unsqueeze", part, w.ints(len(x.shape) - 1)))
        name = w.op("Concat", *parts, axis=len(x.shape) - 1)
    return name


def _convolution(w: Writer, v: Value) -> str:
    """Channels are the last axis here and the second there, and axes in front are one."""
    n, options = len(v.parameters["strides"]), v.parameters
    dtype = v.dtype if v.dtype.kind == "f" else np.dtype(np.float64)
    x, kernel = _operands(w, v, dtype)
    if len(v.shape) != n + 2:
        lengths = w.shape(v.operands[0])[-n - 1 :]
        x = w.op("Reshape", x, w.numbers([-1, *lengths]), allowzero=0)
    x = w.op("Transpose", x, perm=[0, n + 1, *range(1, n + 1)])
    kernel = w.op("Transpose", kernel, perm=[n + 1, n, *range(n)])
    pads = [before for before, _ in options["padding"]] + [end for _, end in options["padding"]]
    y = w.op(
        *("Conv", x, kernel),
        strides=options["strides"],
        dilations=options["dilations"],
        pads=pads,
    )
    y = w.op("Transpose", y, perm=[0, *range(2, n + 2), 1])
    if len(v.shape) != n + 2:
        y = w.op("Reshape", y, w.numbers(w.shape(v)), allowzero=1)
    return w.cast(y, dtype, v.dtype)


def _max_in_windows(w: Writer, v: Value) -> str:
    """Of images with one channel: all axes in front are that of the batch."""
    n, dtype = len(v.parameters["sizes"]), v.dtype
    dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    x, lengths = _operands(w, v, dtype)[0], w.shape(v.operands[0])[len(v.shape) - n :]
    y = w.op(
        *("MaxPool", w.op("Reshape", x, w.numbers([-1, 1, *lengths]), allowzero=0)),
        kernel_shape=v.parameters["sizes"],
        strides=v.parameters["strides"],
        dilations=v.parameters["dilations"],
    )
    return w.cast(w.op("Reshape", y, w.numbers(w.shape(v)), allowzero=1), dtype, v.dtype)


def _unstack(w: Writer, v: Value) -> list[str]:
    x = v.operands[0]
    axis = _axes(v, v.parameters["axis"])[0]
    count = x.shape[axis]
    if count != w.twins[x].shape[axis]:
        raise ExportError(
            f"export: {w.about(v)} takes an axis apart whose size is left open; unroll loops over "
            "time, slices and reductions work on it"
        )
    pieces = w.ops("Split", count, w.name(x), w.ints(*[1] * count), axis=axis)
    return [w.op("Squeeze", piece, w.ints(axis)) for piece in pieces]


# Reductions.


def _reduced(kind: str) -> Row:
    def row(w: Writer, v: Value) -> str:
        (x,) = _operands(w, v)
        axes = w.ints(*_axes(v, v.parameters["axis"]))
        return w.op(kind, x, axes, keepdims=int(v.parameters["keepdims"]))

    return row


def _of_flags(kind: str) -> Row:
    """any and all, as the largest and the smallest number."""

    def row(w: Writer, v: Value) -> str:
        (x,) = v.operands
        flags = w.cast(w.name(x), x.dtype, bool)
        axes = w.ints(*_axes(v, v.parameters["axis"]))
        number = w.op("Cast", flags, to=w.type(np.int32))
        found = w.op(kind, number, axes, keepdims=int(v.parameters["keepdims"]))
        return w.op("Cast", found, to=w.type(bool))

    return row


def _place(kind: str) -> Row:
    def row(w: Writer, v: Value) -> str:
        (x,) = v.operands
        axis = _axes(v, v.parameters["axis"])[0]
        number = w.cast(w.name(x), x.dtype, np.int32) if x.dtype.kind == "b" else w.name(x)
        found = w.op(kind, number, axis=axis, keepdims=int(v.parameters["keepdims"]))
        return w.cast(found, np.dtype(np.int64), v.dtype)

    return row


def _cumulative_sum(w: Writer, v: Value) -> str:
    axis = _axes(v, v.parameters["axis"])[0]
    return w.op("CumSum", *_operands(w, v), w.constant(np.array(axis, dtype=np.int64)))


# Indexing.


def _getitem(w: Writer, v: Value) -> str:
    source, *arrays = v.operands
    key = w.parameter(v, "key")
    name = w.name(source)
    if arrays:
        return _gathered(w, v, name, source, arrays, key)
    axis, starts, stops, axes, steps = 0, [], [], [], []
    squeezed, added, place = [], [], 0
    for entry in key:
        if entry is None:
            added.append(place)
            place += 1
            continue
        if isinstance(entry, slice):
            if entry != slice(None):
                step = 1 if entry.step is None else entry.step
                first, last = (0, LAST) if step > 0 else (LAST, -LAST)
                starts.append(first if entry.start is None else entry.start)
                stops.append(last if entry.stop is None else entry.stop)
                axes.append(axis)
                steps.append(step)
            place += 1
        else:
            starts.append(entry)
            stops.append(_next(entry))
            axes.append(axis)
            steps.append(1)
            squeezed.append(axis)
        axis += 1
    if axes:
        ends = w.numbers(starts), w.numbers(stops)
        name = w.op("Slice", name, *ends, w.ints(*axes), w.ints(*steps))
    if squeezed:
        name = w.op("Squeeze", name, w.ints(*squeezed))
    return w.op("Unsqueeze", name, w.ints(*added)) if added else name


def _next(index: int | Size) -> int | Size:
    """Where the slice of one element ends."""
    if isinstance(index, Size):
        return index._replace(offset=index.offset + 1)
    return LAST if index == -1 else index + 1


def _gathered(w: Writer, v: Value, name: str, source: Value, arrays: list[Value], key: Any) -> str:
    first = next(i for i, entry in enumerate(key) if entry is ARRAY)
    places = [w.cast(w.name(i), i.dtype, np.dtype(np.int64)) for i in arrays]
    if len(arrays) == 1:
        return w.op("Gather", name, places[0], axis=first)
    name = _turned(w, name, len(source.shape), first, len(arrays))
    found = w.op("GatherND", name, _places_together(w, v, arrays, places))
    if not first:
        return found
    together = max(len(i.shape) for i in arrays)
    order = [*range(together, together + first), *range(together)]
    return w.op("Transpose", found, perm=[*order, *range(len(order), len(v.shape))])


def _turned(w: Writer, name: str, ndim: int, first: int, count: int) -> str:
    """The axes that arrays index in front of those before them."""
    if not first:
        return name
    order = [*range(first, first + count), *range(first), *range(first + count, ndim)]
    return w.op("Transpose", name, perm=order)


def _places_together(w: Writer, v: Value, arrays: list[Value], places: list[str]) -> str:
    """Index arrays that broadcast as one, which has a last axis of as many numbers."""
    shape = np.broadcast_shapes(*[i.shape for i in arrays])
    other = np.broadcast_shapes(*[w.twins[i].shape for i in arrays])
    wide = w.numbers(w.formulas(v, shape, other))
    last = w.ints(len(shape))
    parts = [w.op("Unsqueeze", w.op("Expand", place, wide), last) for place in places]
    return w.op("Concat", *parts, axis=len(shape))


def _index_add(w: Writer, v: Value) -> str:
    source, values, *arrays = v.operands
    key = v.parameters["key"]
    if arrays and key[0] is ARRAY:
        places = [w.cast(w.name(i), i.dtype, np.dtype(np.int64)) for i in arrays]
        together = _places_together(w, v, arrays, places)
        return w.op("ScatterND", w.name(source), together, w.name(values), reduction="add")
    if arrays or source.shape != w.twins[source].shape or values.shape != w.twins[values].shape:
        raise ExportError(
            f"export: {w.about(v)} adds at slices of an array whose size is left open, or at "
            "arrays behind slices; at arrays of integers along the first axes it can be written"
        )
    numbers = np.arange(int(np.prod(source.shape))).reshape(source.shape)[key].reshape(-1, 1)
    flat, added = (w.op("Reshape", w.name(x), w.ints(-1)) for x in (source, values))
    found = w.op("ScatterND", flat, w.constant(numbers), added, reduction="add")
    return w.op("Reshape", found, w.ints(*source.shape), allowzero=1)


def _take_along_axis(w: Writer, v: Value) -> str:
    return w.op("GatherElements", *_along(w, v, *v.operands), axis=v.parameters["axis"])


def _add_along_axis(w: Writer, v: Value) -> str:
    x, places, values = v.operands
    axis = v.parameters["axis"]
    name, wide = _along(w, v, x, places)
    added = w.op("Expand", w.name(values), w.op("Shape", wide))
    return w.op("ScatterElements", name, wide, added, axis=axis, reduction="add")


def _along(w: Writer, v: Value, x: Value, places: Value) -> tuple[str, str]:
    """An array and indices along an axis of it, equally long along all the others."""
    axis = v.parameters["axis"]

    def wide(own: Value) -> str:
        shapes = []
        for a, b in ((x, places), (w.twins[x], w.twins[places])):
            lengths = list(np.broadcast_shapes(*[_without(y.shape, axis) for y in (a, b)]))
            own_length = (a if own is x else b).shape[axis]
            lengths.insert(len(a.shape) + axis, own_length)
            shapes.append(lengths)
        name = w.name(own)
        if own is places:
            name = w.cast(name, own.dtype, np.dtype(np.int64))
        if shapes[0] == list(own.shape):
            return name
        return w.op("Expand", name, w.numbers(w.formulas(v, *shapes)))

    return wide(x), wide(places)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    axis += len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _cast(w: Writer, v: Value) -> str:
    return _operands(w, v)[0]


ROWS: dict[str, Row] = {
    "add": _plain("Add"),
    "subtract": _plain("Sub"),
    "multiply": _plain("Mul"),
    "divide": _plain("Div"),
    "negative": _plain("Neg"),
    "pow": _plain("Pow"),
    "floor_divide": _floor_divide,
    "remainder": _remainder,
    "abs": _plain("Abs"),
    "sign": _plain("Sign"),
    "exp": _plain("Exp"),
    "expm1": _expm1,
    "log": _plain("Log"),
    "log1p": _log1p,
    "log2": _log_base(2),
    "log10": _log_base(10),
    "sqrt": _plain("Sqrt"),
    "square": _square,
    "reciprocal": _plain("Reciprocal"),
    "sin": _plain("Sin"),
    "cos": _plain("Cos"),
    "tan": _plain("Tan"),
    "asin": _plain("Asin"),
    "acos": _plain("Acos"),
    "atan": _plain("Atan"),
    "sinh": _plain("Sinh"),
    "cosh": _plain("Cosh"),
    "asinh": _plain("Asinh"),
    "acosh": _plain("Acosh"),
    "atanh": _plain("Atanh"),
    "tanh": _plain("Tanh"),
    "sigmoid": _plain("Sigmoid"),
    "softplus": _plain("Softplus"),
    "erf": _plain("Erf"),
    "relu": _relu,
    "maximum": _plain("Max"),
    "minimum": _plain("Min"),
    "where": _where,
    "equal": _compared("Equal"),
    "not_equal": _not_equal,
    "less": _compared("Less"),
    "less_equal": _compared("LessOrEqual"),
    "greater": _compared("Greater"),
    "greater_equal": _compared("GreaterOrEqual"),
    "logical_and": _logical("And"),
    "logical_or": _logical("Or"),
    "logical_xor": _logical("Xor"),
    "logical_not": _logical("Not"),
    "isnan": _asked("IsNaN"),
    "isinf": _asked("IsInf"),
    "isfinite": _isfinite,
    "floor": _rounded("Floor"),
    "ceil": _rounded("Ceil"),
    "round": _rounded("Round"),
    "trunc": _trunc,
    "astype": _cast,
    "alias": _cast,
    "detach": _cast,
    "copied": _cast,
    "to": _cast,
    "full": _full,
    "reshape": _reshape,
    "broadcast_to": _broadcast_to,
    "permute_dims": _permute_dims,
    "flip": _flip,
    "concat": _concat,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "windows": _windows,
    "convolution": _convolution,
    "max_in_windows": _max_in_windows,
    "sum": _reduced("ReduceSum"),
    "max": _reduced("ReduceMax"),
    "min": _reduced("ReduceMin"),
    "any": _of_flags("ReduceMax"),
    "all": _of_flags("ReduceMin"),
    "argmax": _place("ArgMax"),
    "argmin": _place("ArgMin"),
    "cumulative_sum": _cumulative_sum,
    "getitem": _getitem,
    "index_add": _index_add,
    "take_along_axis": _take_along_axis,
    "add_along_axis": _add_along_axis,
    "matmul": _plain("MatMul"),
}
