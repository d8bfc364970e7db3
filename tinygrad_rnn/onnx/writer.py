"""A recorded graph as nodes of ONNX: scopes, names, constants, and sizes that are left open.

``Writer`` holds what is written so far; which nodes an operation becomes is said in ``operations``,
and in ``recurrent`` for loops. A trace holds as an array what is made of nothing but the size of
the model's inputs: zeros (B, H), ``arange(T)``, a causal mask. Two traces of different sizes show
which array it is for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..planner.ir import Value
from ..tensor import Tensor
from .library import ExportError
from .symbols import Size, Sizes, Unresolved

LAST = np.iinfo(np.int64).max


class Writer:
    """What is written so far.

    Args:
        onnx: the library.
        sizes: those left open.
        twins: the value of the second trace for each of the first.
        captured: for captured arrays and numbers, what they are in the first and second trace.
        names: of captured arrays, by id.
    """

    def __init__(
        self,
        onnx: Any,
        sizes: Sizes,
        twins: dict[Value, Value],
        captured: dict[Value, tuple[Any, Any]],
        names: dict[int, str],
    ) -> None:
        self.onnx, self.sizes, self.twins = onnx, sizes, twins
        self.prelude: list[Any] = []  # what depends on sizes alone
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._captured, self._own_names = captured, names
        self._named: dict[Value, str] = {}
        self._constants: dict[Any, str] = {}
        self._lengths: dict[str, str] = {}
        self._formulas: dict[Any, str] = {}
        self._count = 0
        self.several: dict[Any, list[str]] = {}  # outputs of an operation that has several

    # Names.

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        self._count += 1
        return f"{stem}_{self._count}"

    def name(self, value: Any, value_of: Value | None = None) -> str:
        """The name of a value, which is written if it is captured; or of a number."""
        if not isinstance(value, Value):
            assert value_of is not None
            return self.constant(np.asarray(value, dtype=value_of.dtype))
        if value not in self._named:
            if value not in self._captured:
                raise ExportError(f"export: {self.about(value)} is not known here")
            self._named[value] = self._outside(value)
        return self._named[value]

    def call(self, value: Value, name: str) -> None:
        """Say which name a value has."""
        self._named[value] = name

    def about(self, value: Value) -> str:
        """An operation as errors name it, with its line."""
        return f"{value.name} at {value.line}" if value.line else value.name

    # Nodes.

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; the name of that."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        outputs = [self.fresh(kind.lower()) for _ in range(count)]
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    @contextmanager
    def body(self) -> Iterator[list[Any]]:
        """Nodes written in this block are those of a subgraph."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Nodes written in this block come before all others: they depend on sizes alone."""
        outer, self.nodes = self.nodes, self.prelude
        try:
            yield
        finally:
            self.nodes = outer

    def constant(self, array: Any, name: str | None = None) -> str:
        """An array that is part of the file; equal small ones are one."""
        host = np.asarray(array)
        key = (host.dtype, host.shape, host.tobytes()) if name is None and host.size < 64 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        if name is None or name in self.initializers:
            name = self.fresh("constant" if name is None else name)
        if host.dtype.kind not in "biuf":
            raise ExportError(f"export: a constant of {host.dtype} has no type in ONNX")
        self.initializers[name] = self.onnx.numpy_helper.from_array(
            np.ascontiguousarray(host).reshape(host.shape), name
        )
        if key is not None:
            self._constants[key] = name
        return name

    def ints(self, *numbers: int) -> str:
        """A constant of int64, (n,)."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def cast(self, name: str, given: Any, wanted: Any) -> str:
        """In another dtype, if it is another."""
        return name if given == wanted else self.op("Cast", name, to=self.type(wanted))

    def type(self, dtype: Any) -> int:
        """The number that ONNX has for a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def info(self, value: Value, name: str) -> Any:
        """Name, dtype and shape, as inputs and outputs of a graph have them."""
        pairs = zip(value.shape, self.twins[value].shape, strict=True)
        shape = [self._label(*pair) for pair in pairs]
        return self.onnx.helper.make_tensor_value_info(name, self.type(value.dtype), shape)

    def _label(self, one: int, other: int) -> int | str | None:
        """A size as a file says it: a number, the name of one that is left open, or nothing."""
        try:
            size = self.sizes.formula(one, other)
        except Unresolved:
            return None
        if isinstance(size, int):
            return size
        return size.names[0] if size == Size(1, size.names[:1]) else None

    # Sizes.

    def shape(self, value: Value) -> list[int | Size]:
        """The shape of a value, its sizes as formulas."""
        return self.formulas(value, value.shape, self.twins[value].shape)

    def formulas(self, value: Value, first: Any, second: Any) -> list[int | Size]:
        """Numbers of two traces as formulas; ExportError names the value if there is none."""
        try:
            return [self.sizes.formula(*pair) for pair in zip(first, second, strict=True)]
        except (Unresolved, ValueError) as error:
            raise ExportError(
                f"export: {self.about(value)} depends on sizes in no simple way ({error}); give "
                "dynamic=False, or name fewer sizes"
            ) from error

    def parameter(self, value: Value, name: str) -> Any:
        """A parameter of a value, integers that depend on sizes as formulas."""
        return self._resolved(value, value.parameters[name], self.twins[value].parameters[name])

    def _resolved(self, value: Value, one: Any, other: Any) -> Any:
        if isinstance(one, tuple):
            return tuple(self._resolved(value, *pair) for pair in zip(one, other, strict=True))
        if isinstance(one, slice):
            ends = [getattr(x, end) for x in (one, other) for end in ("start", "stop", "step")]
            pairs = zip(ends[:3], ends[3:], strict=True)
            return slice(*(self._resolved(value, *pair) for pair in pairs))
        if type(one) is int and one != other:
            return self.formulas(value, [one], [other])[0]
        return one

    def opened(self, name: str, source: str, axis: int) -> None:
        """Say that a size is the length of an axis of an input."""
        if name not in self._lengths:
            with self.ahead():
                shape = self.op("Shape", source)
                self._lengths[name] = self.op("Slice", shape, self.ints(axis), self.ints(axis + 1))

    def size(self, size: int | Size) -> str:
        """A size as int64, (1,)."""
        if isinstance(size, int):
            return self.ints(size)
        if size not in self._formulas:
            with self.ahead():
                found = self.ints(size.factor) if size.factor != 1 else None
                for name in size.names:
                    length = self._lengths[name]
                    found = length if found is None else self.op("Mul", found, length)
                assert found is not None
                if size.offset:
                    found = self.op("Add", found, self.ints(size.offset))
                self._formulas[size] = found
        return self._formulas[size]

    def numbers(self, sizes: Sequence[int | Size]) -> str:
        """Sizes as int64, (n,)."""
        known = [n for n in sizes if isinstance(n, int)]
        if len(known) == len(sizes):
            return self.ints(*known)
        key = ("numbers", *sizes)
        if key not in self._formulas:
            parts = [self.size(n) for n in sizes]
            with self.ahead():
                self._formulas[key] = self.op("Concat", *parts, axis=0)
        return self._formulas[key]

    # What is captured.

    def _outside(self, value: Value) -> str:
        """An array or number from outside of the model's inputs."""
        one, other = self._captured[value]
        first, second = (
            np.asarray(x.numpy() if isinstance(x, Tensor) else x) for x in (one, other)
        )
        if first.shape == second.shape:
            if first.tobytes() != second.tobytes():
                return self._number(value, first, second)
            return self.constant(first, self._own_names.get(id(one)))
        with self.ahead():
            return self._sized(value, first, second)

    def _number(self, value: Value, first: Any, second: Any) -> str:
        """A number that is a size, or one divided by it."""
        pair = [float(x.reshape(-1)[0]) if x.size == 1 else 0.5 for x in (first, second)]
        for inverted in (False, True):
            tried = [1 / x if inverted and x else x for x in pair]
            whole = [round(x) for x in tried]
            if np.allclose(tried, whole, rtol=1e-6, atol=0) and all(whole):
                found = self.size(self.formulas(value, whole[:1], whole[1:])[0])
                with self.ahead():
                    wide = self.cast(found, np.int64, value.dtype)
                    if inverted:
                        wide = self.op("Reciprocal", wide)
                    return self.op("Reshape", wide, self.ints(*value.shape))
        raise ExportError(
            f"export: a constant {value.dtype} {value.shape} depends on sizes that are left open, "
            "and is neither one nor its inverse; compute it from the inputs, or give dynamic=False"
        )

    def _sized(self, value: Value, first: Any, second: Any) -> str:
        """An array whose shape depends on sizes."""
        shape = self.formulas(value, first.shape, second.shape)
        open_axes = [axis for axis, n in enumerate(shape) if not isinstance(n, int)]
        thin = first
        for axis in open_axes:
            kept = thin[(slice(None),) * axis + (slice(1),)]
            thin = kept if (thin == kept).all() or (np.isnan(thin) & np.isnan(kept)).all() else thin
        varying = [axis for axis in open_axes if thin.shape[axis] > 1]
        if not varying and self._is(thin, second):
            return self.op("Expand", self.constant(thin), self.numbers(shape))
        if len(varying) == 1:
            found = self._counted(value, first, second, shape, varying[0])
            if found is not None:
                return found
        if len(varying) == 2 and first.dtype.kind == "b":
            found = self._triangle(first, second, shape, varying)
            if found is not None:
                return found
        raise ExportError(
            f"export: a constant {value.dtype} {value.shape} depends on sizes that are left open, "
            "and is neither the same along them, nor counts, nor a triangle; compute it from the "
            "inputs, or give dynamic=False"
        )

    @staticmethod
    def _is(thin: Any, second: Any) -> bool:
        return bool((np.broadcast_to(thin, second.shape) == second).all())

    def _along(self, count: int | Size, axis: int, ndim: int) -> str:
        """0, 1, 2 ... along an axis, int64."""
        scalar = self.op("Squeeze", self.size(count), self.ints(0))
        zero, one = (self.constant(np.array(n, dtype=np.int64)) for n in (0, 1))
        found = self.op("Range", zero, scalar, one)
        others = [i for i in range(ndim) if i != axis]
        return self.op("Unsqueeze", found, self.ints(*others)) if others else found

    def _counted(
        self, value: Value, first: Any, second: Any, shape: list[int | Size], axis: int
    ) -> str | None:
        """start + step * i along an axis, the same along the others."""
        line = np.moveaxis(first, axis, -1)[(0,) * (first.ndim - 1)]
        start, step = line[0], line[1] - line[0] if line.dtype.kind != "b" else 0
        for array in (first, second):
            places = np.arange(array.shape[axis]).reshape(
                [-1 if i == axis else 1 for i in range(array.ndim)]
            )
            if not (array == start + step * places).all():
                return None
        found = self.cast(self._along(shape[axis], axis, len(shape)), np.int64, value.dtype)
        if step != 1:
            found = self.op("Mul", found, self.constant(np.asarray(step, dtype=value.dtype)))
        if start != 0:
            found = self.op("Add", found, self.constant(np.asarray(start, dtype=value.dtype)))
        return self.op("Expand", found, self.numbers(shape))

    def _triangle(
        self, first: Any, second: Any, shape: list[int | Size], axes: list[int]
    ) -> str | None:
        """Where one index, plus an offset, is not below the other: a causal mask."""
        rows, columns = axes
        for lower in (True, False):
            flat = first.transpose([*[i for i in range(first.ndim) if i not in axes], *axes])
            flat = flat.reshape(-1, *flat.shape[-2:])[0]
            offset = int(np.argmin(flat[0])) - 1 if lower else -int(np.argmax(flat[0]))
            for array in (first, second):
                i, j = (
                    np.arange(array.shape[a]).reshape(
                        [-1 if k == a else 1 for k in range(first.ndim)]
                    )
                    for a in axes
                )
                if not (array == (i + offset >= j if lower else i + offset < j + 1)).all():
                    break
            else:
                i_name, j_name = (self._along(shape[a], a, len(shape)) for a in (rows, columns))
                moved = self.op("Add", i_name, self.constant(np.array(offset, dtype=np.int64)))
                compared = "GreaterOrEqual" if lower else "LessOrEqual"
                return self.op("Expand", self.op(compared, moved, j_name), self.numbers(shape))
        return None
