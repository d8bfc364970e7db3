"""``apply``, the one way into the graph.

Every operation on Tensors goes through ``apply(primitive, *inputs, **parameters)``: find the
backend from the arrays, compute, and if an input requires grad, leave a node behind.

The subtle point: the array in a Tensor need not be an array. Anything with a method ``interpret``
(``batching.py`` has one) is asked to carry out the primitive itself, and because it does so with
Tensors of its own, transforms nest in any order without knowing of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend

from . import anomaly
from .dtypes import canonical_dtype
from .graph import TABLE, Array, Node, Primitive, Rows, as_rows
from .tensor import MODE, Tensor, as_tensor, wrap

_backend_of_type = backends._of_type


def apply(primitive: Primitive, *inputs: Any, **parameters: Any) -> Tensor:
    """Carry out a primitive on Tensors, arrays and Python numbers; record it if need be.

    Returns a Tensor; a primitive with several outputs gives a tuple of them, as ``apply_several``
    says in its type.
    """
    mode = MODE.get()
    arrays = list(inputs)
    kind: type | None = None
    backend: Backend | None = None
    differentiable = primitive.differentiable
    numbers, parents = [], []
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor):
            array = arrays[i] = x._array
            node = x._node
            if node is not None and (differentiable is None or i in differentiable):
                numbers.append(i)
                parents.append(node)
        elif type(x) in _PYTHON_NUMBERS:
            continue
        else:
            array = arrays[i] = _entered(primitive, x)
        if type(array) is not kind:
            kind = type(array)
            found = _backend_of_type.get(kind)
            if found is None:
                return _interpreted(primitive, inputs, parameters)  # type: ignore[no-any-return]
            if backend is not None and found is not backend:
                return _mixed(primitive, inputs, arrays, parameters)  # type: ignore[no-any-return]
            backend = found
    if backend is None:
        return apply(primitive, as_tensor(inputs[0]), *inputs[1:], **parameters)
    if mode.recorder is not None:
        return _interpreted(primitive, inputs, parameters)  # type: ignore[no-any-return]
    try:
        # Python is quicker to call a function without the empty ** than with it.
        if parameters:
            out = primitive.forward(backend, *arrays, **parameters)
        else:
            out = primitive.forward(backend, *arrays)
    except Exception as error:
        raise _explained(primitive, arrays, parameters, error) from error
    if primitive.several:
        out = tuple([p if type(p) in _backend_of_type else backend.asarray(p) for p in out])
    elif type(out) is not kind:
        found = _backend_of_type.get(type(out))
        if found is None:
            out = backend.asarray(out)
        else:
            backend = found
    if mode.watch is not None:
        mode.watch.operation(primitive, inputs, arrays, parameters, out)
    line = anomaly.look_at(primitive, inputs, out) if mode.anomaly else None
    if not parents or not mode.recording:
        return _unrecorded(primitive, out)  # type: ignore[no-any-return]
    argnums = tuple(numbers)
    collect = primitive.collectors.get(argnums) or primitive.collector(argnums)
    saved, metas = collect(arrays, out)
    node = Node(primitive, backend, parameters, tuple(parents), argnums, saved, metas)
    if line is not None:
        node.witness = anomaly.Witness(line, anomaly.checksums_of(node))
    if primitive.several:
        return outputs_of(node, out)  # type: ignore[no-any-return]
    return wrap(out, node)


def apply_several(primitive: Primitive, *inputs: Any, **parameters: Any) -> tuple[Tensor, ...]:
    """``apply``, for a primitive with several outputs."""
    return apply(primitive, *inputs, **parameters)  # type: ignore[return-value]


def _entered(primitive: Primitive, x: Any) -> Array:
    try:
        return as_tensor(x, caller_named=True)._array
    except TypeError as error:
        raise TypeError(f"{primitive.name}: {error}") from None


_PYTHON_NUMBERS = frozenset([int, float, bool])


def _unrecorded(primitive: Primitive, out: Any) -> Any:
    return tuple([wrap(part, None) for part in out]) if primitive.several else wrap(out, None)


def outputs_of(node: Node, out: Any) -> Any:
    """The Tensors of what a recorded primitive returned."""
    if not node.primitive.several:
        return wrap(out, node)
    node.outputs = tuple([(part.shape, part.dtype) for part in out])
    owner = (node,)
    return tuple([wrap(p, Node(None, None, None, owner, (), (), (), i)) for i, p in enumerate(out)])


def _interpreted(primitive: Primitive, inputs: Sequence[Any], parameters: dict[str, Any]) -> Any:
    """Let the innermost array that interprets primitives carry this one out, then record it here.

    Recording here lets a ``grad`` inside the transform see the operation; the Tensors that the
    interpreter computes with see it for the transforms around it.
    """
    entered: list[Any] = []
    innermost: Any = MODE.get().recorder
    for x in inputs:
        if type(x) in _PYTHON_NUMBERS:
            entered.append(x)
            continue
        tensor = as_tensor(x)
        entered.append(tensor)
        array = tensor._array
        if type(array) in _backend_of_type:
            continue
        if type(array) is Rows:
            return _on_rows(primitive, inputs, parameters)
        if innermost is None or array.level > innermost.level:
            innermost = array
    inputs = entered
    if innermost.level < 0:  # a step that is planned as a whole
        inputs = MODE.get().recorder.with_numbers(primitive, inputs)
    out = innermost.interpret(primitive, inputs, parameters)
    if not innermost.recorded:
        return _unrecorded(primitive, out)
    argnums = tuple(
        i
        for i, x in enumerate(inputs)
        if isinstance(x, Tensor)
        and x._node is not None
        and (primitive.differentiable is None or i in primitive.differentiable)
    )
    if not argnums or not MODE.get().recording:
        return _unrecorded(primitive, out)
    arrays = [innermost.lifted(x) if isinstance(x, Tensor) else x for x in inputs]
    saved, metas = primitive.collector(argnums)(arrays, out)
    parents = tuple([inputs[i]._node for i in argnums])
    return outputs_of(Node(primitive, None, parameters, parents, argnums, saved, metas), out)


def _on_rows(primitive: Primitive, inputs: Sequence[Any], parameters: dict[str, Any]) -> Any:
    """Carry a primitive out on gradients that are rows: as rows, or else on dense arrays."""
    arrays = [x._array if isinstance(x, Tensor) else x for x in inputs]
    if not any(isinstance(x, Tensor) and x._node is not None for x in inputs):
        name = primitive.name if TABLE.get(primitive.name) is primitive else ""
        made = as_rows(name, *arrays)
        if made is not None:
            return wrap(made, None)
    dense = [
        wrap(array.dense(), x._node) if type(array) is Rows else x
        for x, array in zip(inputs, arrays, strict=True)
    ]
    return apply(primitive, *dense, **parameters)


# Errors: they name the operation, the shapes, dtypes or backends, and the cure.


def _mixed(
    primitive: Primitive, inputs: Sequence[Any], arrays: list[Any], parameters: dict[str, Any]
) -> Any:
    """Inputs of several backends: an error, but for NumPy scalars, which go beside the others."""
    if any(isinstance(x, Tensor) and hasattr(x._array, "interpret") for x in inputs):
        return _interpreted(primitive, inputs, parameters)
    owners = [backends.of(a) for x, a in zip(inputs, arrays, strict=True) if not _is_scalar(x)]
    names = list(dict.fromkeys(owner.name for owner in owners if owner is not None))
    if len(names) == 1:
        home = backends.get(names[0])
        moved = [wrap(home.from_host(np.asarray(x)), None) if _is_scalar(x) else x for x in inputs]
        return apply(primitive, *moved, **parameters)
    raise TypeError(
        f"{primitive.name}: inputs are on different backends ({', '.join(names)}); move one: "
        f"x.to({names[0]!r}) or x.to({names[1]!r}), of an array tensor(x, backend=...)"
    )


def _is_scalar(x: Any) -> bool:
    return isinstance(x, np.generic)


def show(array: Any) -> str:
    """An input as errors name it: dtype and shape, or the number."""
    if type(array) in _PYTHON_NUMBERS:
        return repr(array)
    return f"{canonical_dtype(array.dtype)} {tuple(array.shape)}"


def _explained(
    primitive: Primitive, arrays: list[Any], parameters: dict[str, Any], error: Exception
) -> Exception:
    """The backend's error again, with the operation, its inputs and a cure in it."""
    shown = ", ".join(show(a) for a in arrays[:6]) + (", ..." if len(arrays) > 6 else "")
    static = "".join(f", {key}={value!r}" for key, value in parameters.items())
    cure = f"{type(error).__name__}: {error}"
    if primitive.kind == "elementwise" and len(arrays) > 1:
        shapes = [tuple(a.shape) for a in arrays if type(a) not in _PYTHON_NUMBERS]
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            cure = (
                "the shapes do not broadcast: aligned from the right, each pair of axes must be "
                "equal or contain a 1; see reshape and expand_dims"
            )
    kept = (TypeError, IndexError, MemoryError, FloatingPointError)
    kind = next((k for k in kept if isinstance(error, k)), ValueError)
    return kind(f"{primitive.name}({shown}{static}): {cure}")
