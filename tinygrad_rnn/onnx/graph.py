"""A file of ONNX as plain objects: everything in it is checked, and bounded, before it is used.

Nothing in it is executed but operations known here, and it names no other file. An array is made
only where its numbers are in the file, so that no more memory is taken than the file is long; what
nodes make when they run is bounded there, by ``Limits``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .library import ImportedModelError, library

OLDEST, NEWEST = 7, 28
_LARGEST_FILE = 2**31
_DEEPEST = 16  # graphs within graphs

Array = np.ndarray[Any, Any]


class Node(NamedTuple):
    """An operation: which, on what, and its attributes as numbers, texts, arrays and graphs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


class Graph(NamedTuple):
    """Nodes in an order in which they can run, and what is known before."""

    nodes: list[Node]
    inputs: list[str]  # without those that have an initial value
    outputs: list[str]
    initial: dict[str, Array]


def read(path: str | os.PathLike[str], known: Collection[str]) -> tuple[Graph, int]:
    """The graph of a file, and its opset.

    Raises FileNotFoundError; and ImportedModelError for what is no intact model, of a newer opset,
    or has operations that are not ``known``, which are named one by one.
    """
    onnx = library("load")
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"load: there is no file {os.fspath(path)!r}")
    if file.stat().st_size > _LARGEST_FILE:
        raise ImportedModelError(f"load: {os.fspath(path)!r} is longer than a file of ONNX can be")
    called = os.fspath(path)
    try:
        model = onnx.ModelProto.FromString(file.read_bytes())
    except Exception as error:  # protobuf has an error of its own for each implementation
        raise ImportedModelError(
            f"load: {called!r} is no intact file of ONNX, or was cut off: {error}"
        ) from error
    if not model.ir_version or not model.HasField("graph"):
        raise ImportedModelError(f"load: {called!r} holds no model of ONNX")
    opset = _opset(called, model)
    _check_texts(called, model.graph)
    unknown = sorted({kind for kind in _kinds(model.graph) if kind not in known})
    if unknown:
        raise ImportedModelError(
            f"load: {called!r} has operations that are not known here: {', '.join(unknown)}"
        )
    if model.functions:
        names = ", ".join(f.name for f in model.functions)
        raise ImportedModelError(f"load: {called!r} defines functions ({names}); inline them")
    return _graph(onnx, called, model.graph, set(), 0), opset


def _check_texts(called: str, graph: Any, depth: int = 0) -> None:
    """Names are texts; where a file holds other bytes for one, protobuf hands those on."""
    names = [x.name for x in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        names += [node.op_type, node.domain, node.name, *node.input, *node.output]
        for attribute in node.attribute:
            names.append(attribute.name)
            if attribute.HasField("g") and depth < _DEEPEST:
                _check_texts(called, attribute.g, depth + 1)
    if not all(isinstance(name, str) for name in names):
        raise ImportedModelError(f"load: {called!r} is damaged: a name in it is no text")


def _opset(called: str, model: Any) -> int:
    versions = {x.domain or "ai.onnx": x.version for x in model.opset_import}
    version = int(versions.get("ai.onnx", 0))
    if not OLDEST <= version <= NEWEST:
        raise ImportedModelError(
            f"load: {called!r} is of opset {version or 'none'}, and {OLDEST} to {NEWEST} are read "
            "here; export it again as one of these (18 will do)"
        )
    return version


def _kinds(graph: Any, depth: int = 0) -> Iterator[str]:
    """The operations of a graph and of those within it, by name, with a domain of another's."""
    if depth > _DEEPEST:
        raise ImportedModelError(f"load: graphs within graphs, more than {_DEEPEST} deep")
    for node in graph.node:
        own = node.domain in ("", "ai.onnx")
        yield node.op_type if own else f"{node.domain}.{node.op_type}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _kinds(attribute.g, depth + 1)


def _graph(onnx: Any, called: str, graph: Any, around: set[str], depth: int) -> Graph:
    initial = {}
    for tensor in graph.initializer:
        initial[tensor.name] = _array(onnx, called, tensor)
    if graph.sparse_initializer:
        raise ImportedModelError(f"load: {called!r} has sparse arrays, which are not read")
    inputs = [x.name for x in graph.input if x.name not in initial]
    defined = around | initial.keys() | set(inputs) | {""}
    nodes = []
    for node in graph.node:
        missing = [name for name in node.input if name not in defined]
        if missing:
            raise ImportedModelError(
                f"load: {called!r}: {node.op_type} {node.name!r} reads {missing[0]!r}, which "
                "nothing before it makes"
            )
        attributes = {x.name: _attribute(onnx, called, x, defined, depth) for x in node.attribute}
        made = Node(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)
        nodes.append(made)
        defined |= set(node.output)
    outputs = [x.name for x in graph.output]
    missing = [name for name in outputs if name not in defined or not name]
    if missing:
        raise ImportedModelError(f"load: {called!r}: nothing makes the output {missing[0]!r}")
    return Graph(nodes, inputs, outputs, initial)


def _attribute(onnx: Any, called: str, given: Any, defined: set[str], depth: int) -> Any:
    kinds = onnx.AttributeProto
    if given.type == kinds.TENSOR:
        return _array(onnx, called, given.t)
    if given.type == kinds.GRAPH:
        return _graph(onnx, called, given.g, defined, depth + 1)
    if given.type == kinds.STRING:
        return given.s.decode("utf-8", "replace")
    if given.type == kinds.STRINGS:
        return [text.decode("utf-8", "replace") for text in given.strings]
    fields = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}
    if given.type in fields:
        value = getattr(given, fields[given.type])
        return value if isinstance(value, (int, float)) else list(value)
    if given.type == kinds.TYPE_PROTO:
        return None  # what an Optional would hold
    raise ImportedModelError(
        f"load: {called!r}: the attribute {given.name!r} is of kind {given.type}, which is not read"
    )


def _array(onnx: Any, called: str, tensor: Any) -> Array:
    """An array, if all its numbers are in the file."""
    name = tensor.name or "a constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ImportedModelError(
            f"load: {called!r}: the numbers of {name!r} are in another file, which is not opened; "
            "save the model as one file"
        )
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except KeyError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise ImportedModelError(
            f"load: {called!r}: {name!r} is of type {tensor.data_type}, which is not read"
        )
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    held = len(tensor.raw_data) // dtype.itemsize
    if not tensor.HasField("raw_data"):
        held = max(
            len(getattr(tensor, field))
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
        )
    if any(n < 0 for n in shape) or held != count or len(tensor.raw_data) % dtype.itemsize:
        raise ImportedModelError(
            f"load: {called!r}: {name!r} should hold {shape} numbers, and {held} are there"
        )
    try:
        array: Array = onnx.numpy_helper.to_array(tensor)
    except ValueError as error:
        raise ImportedModelError(f"load: {called!r}: {name!r}: {error}") from error
    return array.reshape(shape)
