"""What operations of ONNX are here: functions of a call and its inputs, one each.

Inputs that a node leaves out are None. What an opset changed is asked of ``call.opset``. Whatever
may give more elements than it was given asks ``call.room`` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import functional as f
from ..primitives import contraction, elementwise, indexing, movement, reduction
from ..primitives.creation import arange, full, tensor
from ..primitives.creation import tril as lower_triangle
from ..primitives.creation import triu as upper_triangle
from ..primitives.elementwise import astype, where
from ..primitives.movement import broadcast_to, concat, permute_dims, reshape
from ..tensor import Tensor
from .library import ImportedModelError

Function = Callable[..., Any]


def numbers(x: Any) -> list[int]:
    """Integers that a shape, or a choice of axes, is made of."""
    host = np.asarray(x.numpy() if isinstance(x, Tensor) else x)
    return [int(n) for n in host.reshape(-1)]


def dtype_of(call: Any, number: Any) -> np.dtype[Any]:
    """The dtype that ONNX has this number for."""
    kinds = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
    kinds |= {9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64"}
    if number not in kinds:
        raise ImportedModelError(f"{call.node}: the type {number} is not known here")
    return np.dtype(kinds[number])


def _wide(call: Any, *xs: Tensor) -> tuple[int, ...]:
    """The shape that operands broadcast to, if there is room for it."""
    return call.room(*np.broadcast_shapes(*[x.shape for x in xs]))  # type: ignore[no-any-return]


def _of_one(function: Any, **options: Any) -> Function:
    return lambda call, x: function(x, **options)


def _of_two(function: Any) -> Function:
    def apply(call: Any, x: Tensor, y: Tensor) -> Tensor:
        _wide(call, x, y)
        found: Tensor = function(x, y)
        return found

    return apply


def _of_all(function: Any) -> Function:
    def apply(call: Any, *xs: Tensor) -> Tensor:
        _wide(call, *xs)
        found = xs[0]
        for x in xs[1:]:
            found = function(found, x)
        return found

    return apply


def _mean(call: Any, *xs: Tensor) -> Tensor:
    return _of_all(elementwise.add)(call, *xs) / len(xs)  # type: ignore[no-any-return]


def _div(call: Any, x: Tensor, y: Tensor) -> Tensor:
    """Of integers, rounded towards zero."""
    _wide(call, x, y)
    if x.dtype.kind == "f":
        return x / y
    return elementwise.sign(x) * elementwise.sign(y) * (abs(x) // abs(y))


def _mod(call: Any, x: Tensor, y: Tensor) -> Tensor:
    _wide(call, x, y)
    if call.attribute("fmod", 0):  # with the sign of x, as in C
        return elementwise.sign(x) * (abs(x) % abs(y))
    return x % y


def _pow(call: Any, x: Tensor, y: Tensor) -> Tensor:
    _wide(call, x, y)
    return astype(elementwise.pow(x, y), x.dtype)


def _clip(call: Any, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    _wide(call, *[v for v in (x, low, high) if v is not None])
    low = call.attribute("min") if low is None else low
    high = call.attribute("max") if high is None else high
    x = x if low is None else elementwise.maximum(x, low)
    return x if high is None else elementwise.minimum(x, high)


def _prelu(call: Any, x: Tensor, slope: Tensor) -> Tensor:
    _wide(call, x, slope)
    return where(x < 0, slope * x, x)


def _where(call: Any, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    _wide(call, condition, x, y)
    return where(condition, x, y)


def _isinf(call: Any, x: Tensor) -> Tensor:
    found = elementwise.isinf(x)
    found = found if call.attribute("detect_positive", 1) else found & (x < 0)
    return found if call.attribute("detect_negative", 1) else found & (x > 0)


def _gelu(call: Any, x: Tensor) -> Tensor:
    return f.gelu(x, approximate=call.attribute("approximate", "none"))


def _selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * f.elu(x, alpha)


def hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha * x + beta, between 0 and 1."""
    return elementwise.minimum(elementwise.maximum(alpha * x + beta, 0.0), 1.0)


def _hard_swish(x: Tensor) -> Tensor:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def _mish(x: Tensor) -> Tensor:
    return x * elementwise.tanh(elementwise.softplus(x))


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return x / (1 + abs(x))


def _with(function: Any, **defaults: float) -> Function:
    """A function of an array and of attributes."""
    return lambda call, x: function(
        x, **{name: call.attribute(name, value) for name, value in defaults.items()}
    )


def thresholded_relu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above alpha, else 0."""
    return where(x > alpha, x, 0.0)


def leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    """x above 0, alpha * x below."""
    return f.leaky_relu(x, alpha)


def _celu(x: Tensor, alpha: float) -> Tensor:
    return alpha * f.elu(x / alpha)


# Types and shapes.


def _cast(call: Any, x: Tensor) -> Tensor:
    return astype(x, dtype_of(call, call.attribute("to")))


def _constant(call: Any) -> np.ndarray[Any, Any]:
    attributes = call.node.attributes
    if "value" in attributes:
        return np.asarray(attributes["value"])
    for name, dtype in (("int", np.int64), ("float", np.float32)):
        for each in (f"value_{name}", f"value_{name}s"):
            if each in attributes:
                return np.asarray(attributes[each], dtype=dtype)
    raise ImportedModelError(f"{call.node}: a constant of {', '.join(attributes)} is not known")


def _constant_of_shape(call: Any, shape: Any) -> Tensor:
    value = np.asarray(call.attribute("value", np.zeros(1, dtype=np.float32))).reshape(-1)[0]
    return full(call.room(*numbers(shape)), value.item(), value.dtype, backend=shape.backend)


def _shape(call: Any, x: Tensor) -> np.ndarray[Any, Any]:
    start, end = call.attribute("start", 0), call.attribute("end", len(x.shape))
    return np.array(x.shape[slice(start, end)], dtype=np.int64)


def _size(call: Any, x: Tensor) -> np.ndarray[Any, Any]:
    return np.array(x.size, dtype=np.int64)


def _reshape(call: Any, x: Tensor, shape: Any = None) -> Tensor:
    wanted = call.attribute("shape") if shape is None else numbers(shape)
    if not call.attribute("allowzero", 0):
        wanted = [x.shape[i] if n == 0 and i < x.ndim else n for i, n in enumerate(wanted)]
    return reshape(x, tuple(wanted))


def _flatten(call: Any, x: Tensor) -> Tensor:
    axis = call.attribute("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _axes(call: Any, given: Any) -> list[int] | None:
    """Axes as an input, as in newer opsets, or as an attribute."""
    return call.attribute("axes") if given is None else numbers(given)


def _squeeze(call: Any, x: Tensor, axes: Any = None) -> Tensor:
    found = _axes(call, axes)
    return movement.squeeze(x, None if found is None else tuple(found))


def _unsqueeze(call: Any, x: Tensor, axes: Any = None) -> Tensor:
    return movement.expand_dims(x, tuple(_axes(call, axes) or ()))


def _transpose(call: Any, x: Tensor) -> Tensor:
    return permute_dims(x, call.attribute("perm", list(range(x.ndim))[::-1]))


def _expand(call: Any, x: Tensor, shape: Any) -> Tensor:
    wanted = np.broadcast_shapes(x.shape, call.room(*numbers(shape)))
    return broadcast_to(x, call.room(*wanted))


def _tile(call: Any, x: Tensor, repeats: Any) -> Tensor:
    times = numbers(repeats)
    call.room(*[n * t for n, t in zip(x.shape, times, strict=True)])
    return movement.tile(x, times)


def _concat(call: Any, *xs: Tensor) -> Tensor:
    call.room(sum(x.size for x in xs))
    return concat(xs, axis=call.attribute("axis"))


def _split(call: Any, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = call.attribute("axis", 0)
    lengths = call.attribute("split") if sizes is None else numbers(sizes)
    if lengths is None:
        count = len(call.node.outputs)
        most = -(-x.shape[axis] // count)
        lengths = [max(0, min(most, x.shape[axis] - most * i)) for i in range(count)]
    if sum(lengths) != x.shape[axis]:
        raise ValueError(f"Split: {lengths} of an axis of {x.shape[axis]}")
    ends = np.cumsum(lengths)[:-1].tolist()
    return tuple(movement.split(x, ends, axis=axis))


def _slice(call: Any, x: Tensor, *given: Any) -> Tensor:
    if not given:
        given = (call.attribute("starts"), call.attribute("ends"), call.attribute("axes"))
    starts, ends, axes, steps = (*given, None, None)[:4]
    firsts, lasts = numbers(starts), numbers(ends)
    along = range(len(firsts)) if axes is None else numbers(axes)
    strides = [1] * len(firsts) if steps is None else numbers(steps)
    key = [slice(None)] * x.ndim
    for axis, first, last, step in zip(along, firsts, lasts, strides, strict=True):
        n = x.shape[axis]
        # A last one before the first element, as ONNX writes what Python calls None.
        end = None if step < 0 and last < -n else last
        key[axis] = slice(first, end, step)
    return x[tuple(key)]


def _gather(call: Any, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attribute("axis", 0)
    call.room(x.size // max(x.shape[axis], 1), indices.size)
    return indexing.take(x, indices, axis=axis)


def _gather_elements(call: Any, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attribute("axis", 0) % x.ndim
    return x[_beside(indices, axis)]


def _beside(indices: Tensor, axis: int) -> tuple[Any, ...]:
    """A key that takes indices along one axis, and its own place along each other."""
    places = []
    for i, n in enumerate(indices.shape):
        shape = [-1 if i == j else 1 for j in range(indices.ndim)]
        own = reshape(arange(n, backend=indices.backend), shape)
        places.append(indices if i == axis else own)
    return tuple(places)


def _scatter_elements(call: Any, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    key = _beside(indices, call.attribute("axis", 0) % x.ndim)
    return _scattered(call, x, key, updates)


def _scattered(call: Any, x: Tensor, key: Any, updates: Tensor) -> Tensor:
    reduction = call.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise ImportedModelError(f"{call.node}: the reduction {reduction!r} is not known here")
    at: Any = x.at[key]
    found: Tensor = at.add(updates) if reduction == "add" else at.set(updates)
    return found


def _places(call: Any, indices: Tensor) -> tuple[Tensor, ...]:
    if call.attribute("batch_dims", 0):
        raise ImportedModelError(f"{call.node}: batch_dims are not known here")
    return movement.unstack(indices, axis=-1)


def _gather_nd(call: Any, x: Tensor, indices: Tensor) -> Tensor:
    depth = indices.shape[-1]
    call.room(indices.size // max(depth, 1), math.prod(x.shape[depth:]))
    return x[_places(call, indices)]


def _scatter_nd(call: Any, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    return _scattered(call, x, _places(call, indices), updates)


def _pad(call: Any, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    if call.attribute("mode", "constant") != "constant":
        raise ImportedModelError(f"{call.node}: only constants are padded with here")
    widths = call.attribute("pads") if pads is None else numbers(pads)
    along = list(range(x.ndim)) if axes is None else [a % x.ndim for a in numbers(axes)]
    pairs = [(0, 0)] * x.ndim
    for place, axis in enumerate(along):
        pairs[axis] = widths[place], widths[place + len(along)]
    call.room(*[max(n + a + b, 0) for n, (a, b) in zip(x.shape, pairs, strict=True)])
    key = tuple(slice(-min(a, 0), n + min(b, 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))
    number = call.attribute("value", 0.0) if value is None else value.item()
    wide = [(max(a, 0), max(b, 0)) for a, b in pairs]
    return movement.pad(x[key], wide, constant_values=number)


def _range(call: Any, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((last - first) / step))
    call.room(count)
    places = arange(count, backend=start.backend)
    return astype(places * step + first, start.dtype)


def _one_hot(call: Any, indices: Tensor, depth: Any, values: Tensor) -> Tensor:
    axis, n = call.attribute("axis", -1), numbers(depth)[0]
    call.room(indices.size, n)
    places = astype(indices, "int64")
    places = movement.expand_dims(where(places < 0, places + n, places), axis)
    shape = [1] * places.ndim
    shape[axis] = n
    chosen = places == reshape(arange(n, backend=indices.backend), shape)
    return where(chosen, values[1], values[0])


def _trilu(call: Any, x: Tensor, k: Any = None) -> Tensor:
    diagonal = 0 if k is None else numbers(k)[0]
    return (upper_triangle if call.attribute("upper", 1) else lower_triangle)(x, k=diagonal)


# Reductions and products.


def _reduced(function: Any) -> Function:
    def apply(call: Any, x: Tensor, axes: Any = None) -> Tensor:
        given = _axes(call, axes)
        if not given and call.attribute("noop_with_empty_axes", 0):
            return x
        chosen = tuple(given) if given else None
        found: Tensor = function(x, axis=chosen, keepdims=bool(call.attribute("keepdims", 1)))
        return found if x.dtype.kind == "b" else astype(found, x.dtype)

    return apply


def _extremum(function: Any, lowest: bool) -> Any:
    """The largest or smallest; of nothing, what is below or above all."""

    def of(x: Tensor, axis: Any, keepdims: bool) -> Tensor:
        if x.size:
            found: Tensor = function(x, axis=axis, keepdims=keepdims)
            return found
        empty = x.numpy()
        worst: Any = {"b": not lowest, "f": -np.inf if lowest else np.inf}.get(x.dtype.kind)
        if worst is None:
            worst = getattr(np.iinfo(x.dtype), "min" if lowest else "max")
        of_nothing = np.max if lowest else np.min
        return tensor(of_nothing(empty, axis=axis, keepdims=keepdims, initial=worst))

    return of


def _norm(x: Tensor, **options: Any) -> Tensor:
    return elementwise.sqrt(reduction.sum(x * x, **options))


def _place(function: Any) -> Function:
    def apply(call: Any, x: Tensor) -> Tensor:
        axis, keepdims = call.attribute("axis", 0), bool(call.attribute("keepdims", 1))
        if call.attribute("select_last_index", 0):
            turned = function(movement.flip(x, axis), axis=axis, keepdims=keepdims)
            found = x.shape[axis] - 1 - turned
        else:
            found = function(x, axis=axis, keepdims=keepdims)
        return astype(found, "int64")

    return apply


def _cumsum(call: Any, x: Tensor, axis: Any) -> Tensor:
    along = numbers(axis)[0]
    x = movement.flip(x, along) if call.attribute("reverse", 0) else x
    found = astype(reduction.cumulative_sum(x, axis=along), x.dtype)
    found = found - x if call.attribute("exclusive", 0) else found
    return movement.flip(found, along) if call.attribute("reverse", 0) else found


def _matmul(call: Any, x: Tensor, y: Tensor) -> Tensor:
    ends = (*x.shape[-2:-1], *(y.shape[-1:] if y.ndim > 1 else ()))
    call.room(*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), *ends)
    return contraction.matmul(x, y)


def _gemm(call: Any, x: Tensor, y: Tensor, c: Any = None) -> Tensor:
    x = movement.matrix_transpose(x) if call.attribute("transA", 0) else x
    y = movement.matrix_transpose(y) if call.attribute("transB", 0) else y
    shape = call.room(x.shape[0], y.shape[1])
    if c is not None:
        call.room(*np.broadcast_shapes(shape, c.shape))
    found: Tensor = call.attribute("alpha", 1.0) * contraction.matmul(x, y)
    return found if c is None else found + call.attribute("beta", 1.0) * c


def _einsum(call: Any, *xs: Tensor) -> Tensor:
    inputs = call.attribute("equation").replace(" ", "").partition("->")
    lengths = {
        letter: n
        for term, x in zip(inputs[0].split(","), xs, strict=True)
        for letter, n in zip(term, x.shape, strict=False)
    }
    call.room(*[lengths.get(letter, 1) for letter in inputs[2]])
    return contraction.einsum(call.attribute("equation"), *xs)


def _softmax(function: Any) -> Function:
    def apply(call: Any, x: Tensor) -> Tensor:
        axis = call.attribute("axis", 1 if call.opset < 13 else -1)
        if call.opset >= 13:
            found: Tensor = function(x, axis=axis)
            return found
        axis = axis % x.ndim  # of older opsets: over this axis and all behind it
        flat = reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return reshape(function(flat, axis=-1), x.shape)

    return apply


def _layer_norm(call: Any, x: Tensor, scale: Tensor, bias: Any = None) -> tuple[Tensor, ...]:
    axis = call.attribute("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    _wide(call, *[v for v in (x, scale, bias) if v is not None])
    mean = reduction.mean(x, axis=axes, keepdims=True)
    variance = reduction.mean((x - mean) ** 2, axis=axes, keepdims=True)
    root = elementwise.sqrt(variance + call.attribute("epsilon", 1e-5))
    found = (x - mean) / root * scale
    return found if bias is None else found + bias, mean, 1 / root


def _batch_norm(
    call: Any, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if call.attribute("training_mode", 0):
        raise ImportedModelError(f"{call.node}: only inference is known here")
    wide = (1, -1, *(1,) * (x.ndim - 2))
    scale, bias, mean, variance = (reshape(v, wide) for v in (scale, bias, mean, variance))
    _wide(call, x, scale, bias, mean, variance)
    root = elementwise.sqrt(variance + call.attribute("epsilon", 1e-5))
    return (x - mean) / root * scale + bias


def _dropout(call: Any, x: Tensor, ratio: Any = None, training: Any = None) -> tuple[Any, ...]:
    if training is not None and bool(training):
        raise ImportedModelError(f"{call.node}: only inference is known here")
    return x, elementwise.equal(x, x)


def _eye_like(call: Any, x: Tensor) -> Tensor:
    rows, columns = x.shape
    dtype = x.dtype if call.attribute("dtype") is None else dtype_of(call, call.attribute("dtype"))
    return tensor(np.eye(rows, columns, call.attribute("k", 0), dtype=dtype), backend=x.backend)


def _sum_of_squares(x: Tensor, **options: Any) -> Tensor:
    return reduction.sum(x * x, **options)


def _sum_of_sizes(x: Tensor, **options: Any) -> Tensor:
    return reduction.sum(abs(x), **options)


def _log_of_sum(x: Tensor, **options: Any) -> Tensor:
    return elementwise.log(reduction.sum(x, **options))


def _chosen(names: Sequence[str], module: Any) -> dict[str, Function]:
    """Operations called as functions here, but for the capitals."""
    return {name: _of_one(getattr(module, name.lower())) for name in names}


FUNCTIONS: dict[str, Function] = {
    **_chosen(
        ["Abs", "Exp", "Log", "Sqrt", "Sin", "Cos", "Tanh", "Sigmoid", "Relu", "Softplus", "Erf"],
        elementwise,
    ),
    **_chosen(["Sign", "Floor", "Ceil", "Round", "IsNaN"], elementwise),
    "Neg": _of_one(elementwise.negative),
    "Reciprocal": _of_one(lambda x: 1 / x),
    "Tan": _of_one(lambda x: elementwise.sin(x) / elementwise.cos(x)),
    "Not": _of_one(elementwise.logical_not),
    "IsInf": _isinf,
    "Identity": lambda call, x: x,
    "Softsign": _of_one(softsign),
    "Elu": _with(f.elu, alpha=1.0),
    "LeakyRelu": _with(leaky_relu, alpha=0.01),
    "Selu": _with(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Celu": _with(_celu, alpha=1.0),
    "ThresholdedRelu": _with(thresholded_relu, alpha=1.0),
    "HardSigmoid": _with(hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": _of_one(_hard_swish),
    "Mish": _of_one(_mish),
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Add": _of_two(elementwise.add),
    "Sub": _of_two(elementwise.subtract),
    "Mul": _of_two(elementwise.multiply),
    "Div": _div,
    "Mod": _mod,
    "Pow": _pow,
    "Equal": _of_two(elementwise.equal),
    "Less": _of_two(elementwise.less),
    "LessOrEqual": _of_two(elementwise.less_equal),
    "Greater": _of_two(elementwise.greater),
    "GreaterOrEqual": _of_two(elementwise.greater_equal),
    "And": _of_two(elementwise.logical_and),
    "Or": _of_two(elementwise.logical_or),
    "Xor": _of_two(elementwise.logical_xor),
    "Max": _of_all(elementwise.maximum),
    "Min": _of_all(elementwise.minimum),
    "Sum": _of_all(elementwise.add),
    "Mean": _mean,
    "Clip": _clip,
    "Where": _where,
    "Cast": _cast,
    "CastLike": lambda call, x, like: astype(x, like.dtype),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Pad": _pad,
    "Range": _range,
    "OneHot": _one_hot,
    "Trilu": _trilu,
    "EyeLike": _eye_like,
    "ReduceSum": _reduced(reduction.sum),
    "ReduceMean": _reduced(reduction.mean),
    "ReduceMax": _reduced(_extremum(reduction.max, True)),
    "ReduceMin": _reduced(_extremum(reduction.min, False)),
    "ReduceProd": _reduced(reduction.prod),
    "ReduceL1": _reduced(_sum_of_sizes),
    "ReduceL2": _reduced(_norm),
    "ReduceSumSquare": _reduced(_sum_of_squares),
    "ReduceLogSum": _reduced(_log_of_sum),
    "ReduceLogSumExp": _reduced(reduction.logsumexp),
    "ArgMax": _place(reduction.argmax),
    "ArgMin": _place(reduction.argmin),
    "CumSum": _cumsum,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Softmax": _softmax(f.softmax),
    "LogSoftmax": _softmax(f.log_softmax),
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Dropout": _dropout,
}
