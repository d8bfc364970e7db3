"""What a graph is made of, as plain data; and what can be noted while it is made.

``captured`` lists the operations that lead to a Tensor, in the order of computation. A primitive
with several outputs is one operation; a constant, which is not differentiated, has only a place.

A node knows neither the line of yours that made it nor what you called its value. ``record`` notes
both: within it, Python tells of each function that returns (a profile hook), so that nothing at all
is paid outside of it. Names are those of the local variables of your functions, and of the cells of
``nn``, when they return.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

import tinygrad_rnn_backends as backends

from ..anomaly import is_library
from ..apply import apply
from ..dtypes import canonical_dtype
from ..graph import Node, Primitive, ReleasedGraphError, topological_order
from ..nn.module import Module
from ..tensor import Tensor


class Use(NamedTuple):
    """An argument that is a value: the operation that made it, and which of its outputs.

    A negative ``at`` is a leaf: -1 the first, -2 the second.
    """

    at: int
    output: int | None


class Operation(NamedTuple):
    """One operation, as the graph knows it."""

    name: str
    arguments: tuple[Use | str, ...]  # a string is a number, or "const"
    parameters: str  # "axis=-1, keepdims=False"
    shapes: tuple[tuple[int, ...], ...]  # of each output
    dtypes: tuple[str, ...]
    several: bool
    keeps: tuple[str, ...]  # what it holds for its vjps: names of its inputs, or "out"


class Leaf(NamedTuple):
    """A Tensor that no operation made, of which a gradient is wanted."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Captured(NamedTuple):
    """The operations that lead to a Tensor, and the leaves that they start from."""

    leaves: list[Leaf]
    operations: list[Operation]
    lines: dict[int, str]  # of operations, where they are known
    names: dict[Use, str]
    result: Use
    nodes: list[Node]  # those of the operations
    leaf_nodes: list[Node]


def graph_of(asked: str, y: Any) -> Node:
    """The node of a Tensor that has a graph; else an error says what there is instead."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{asked}: a Tensor that requires grad, not a {type(y).__name__}")
    if y._node is None:
        why = f": {why_no_value(y)}" if not has_values(y) else ", else there is no graph"
        raise TypeError(f"{asked}: a Tensor that requires grad{why}")
    return y._node


def has_values(x: Tensor) -> bool:
    """Whether there are numbers behind a Tensor: not inside a cell that is traced, nor in vmap."""
    return backends.of(x._array) is not None


def why_no_value(x: Tensor) -> str:
    """What to say about a Tensor without values."""
    reason: str = x._array.why_no_value
    return reason


def captured(
    asked: str, y: Any, names: Mapping[str, Any] | Module | None = None, most: int | None = None
) -> Captured:
    """The operations that lead to ``y``.

    Args:
        asked: the function that wants to know, for errors.
        y: a Tensor that requires grad.
        names: what to call tensors, ``{"w": w}``, or a module, whose parameters have names.
        most: how many nodes a graph may have.

    Raises:
        TypeError: for what has no graph.
        ReleasedGraphError: for a graph that a backward pass has dropped.
        ValueError: for a graph of more nodes.
    """
    root = graph_of(asked, y)
    order = topological_order([root])[::-1]
    if most is not None and len(order) > most:
        raise ValueError(
            f"{asked}: a graph of {len(order):,} nodes is too long to read; inspect.fold(y) shows "
            "its loops once"
        )
    given = names_of(names)
    place: dict[Node, Use] = {}
    metas: dict[Node, Any] = {root: (y.shape, y.dtype)}
    for node in order:
        if node.metas:
            metas.update(zip(node.parents, node.metas, strict=False))
    found = Captured([], [], {}, {}, Use(0, None), [], [])
    notes = _notes
    for node in order:
        if node.primitive is None:
            if node.index is None:
                place[node] = Use(~len(found.leaves), None)
                found.leaves.append(_leaf(node, len(found.leaves), given, *metas[node]))
                found.leaf_nodes.append(node)
                continue
            if node.parents:
                place[node] = Use(place[node.parents[0]].at, node.index)
                _call(found, node, place[node], given)
                continue
        if node.saved is None or (node.index is not None and not node.parents):
            raise ReleasedGraphError(
                f"{asked}: the graph was released by backward() or grad(); look at it before, or "
                "give that pass retain_graph=True"
            )
        at = len(found.operations)
        place[node] = Use(at, None)
        found.operations.append(_operation(node, place, metas))
        found.nodes.append(node)
        _call(found, node, place[node], given)
        note = notes.get(node)
        line = node.witness.line if node.witness is not None else note.line if note else None
        if line:
            found.lines[at] = line
    return found._replace(result=place[root])


def _call(found: Captured, node: Node, place: Use, given: dict[Node, str]) -> None:
    note = _notes.get(node)
    name = given.get(node) or (note.name if note else None)
    if name:
        found.names[place] = name


def names_of(names: Mapping[str, Any] | Module | None) -> dict[Node, str]:
    """Names by node, given by tensor or by module."""
    if names is not None and not isinstance(names, (Module, Mapping)):
        raise TypeError(f"names: a module, or {{'w': w}}, not a {type(names).__name__}")
    pairs = names.named_parameters() if isinstance(names, Module) else (names or {}).items()
    return {x._node: name for name, x in pairs if isinstance(x, Tensor) and x._node is not None}


def _leaf(node: Node, number: int, given: dict[Node, str], shape: Any, dtype: Any) -> Leaf:
    name = given.get(node) or (_notes[node].name if node in _notes else None)
    return Leaf(name or f"leaf{number + 1}", tuple(shape), name_of(dtype))


def name_of(dtype: Any) -> str:
    """A dtype of any backend by its name in NumPy."""
    key = type(dtype), dtype  # dtypes of two libraries are not to be compared
    known = _dtypes.get(key)
    if known is None:
        known = _dtypes[key] = str(canonical_dtype(dtype))
    return known


_dtypes: dict[Any, str] = {}


def _operation(node: Node, place: dict[Node, Use], metas: dict[Node, Any]) -> Operation:
    primitive: Primitive = node.primitive
    several = bool(primitive.several)
    outputs = node.outputs if several else (metas[node],)
    known = dict(zip(node.argnums, [place[parent] for parent in node.parents], strict=True))
    parameters = node.parameters
    return Operation(
        primitive.name,
        tuple(arguments_of(node, known)),
        ", ".join([f"{key}={value}" for key, value in parameters.items()]) if parameters else "",
        tuple([tuple(shape) for shape, _ in outputs]),
        tuple([name_of(dtype) for _, dtype in outputs]),
        several,
        kept(node),
    )


def arguments_of(node: Node, known: dict[int, Any]) -> list[Any]:
    """All arguments of an operation in order: those ``known``, numbers as text, others "const"."""
    primitive: Primitive = node.primitive
    count = max(len(primitive.inputs), max(known, default=-1) + 1)
    if len(known) == count:
        return [known[i] for i in range(count)]
    read = {
        index: value
        for argnum, reads in zip(node.argnums, node.saved, strict=False)
        for (index, rest, shape_only), value in zip(
            primitive.reads[0 if primitive.joint else argnum], reads, strict=False
        )
        if not rest and not shape_only
    }
    return [known[i] if i in known else _constant(read.get(i)) for i in range(count)]


def _constant(value: Any) -> str:
    return str(value) if isinstance(value, (bool, int, float)) else "const"


def kept(node: Node) -> tuple[str, ...]:
    """What a node keeps for its vjps, by name."""
    primitive: Primitive = node.primitive
    key = (primitive, node.argnums)
    known = _kept.get(key)
    if known is None:
        found: dict[str, None] = {}
        for argnum in node.argnums[:1] if primitive.joint else node.argnums:
            for index, rest, shape_only in primitive.reads[0 if primitive.joint else argnum]:
                name = "out" if index < 0 else primitive.rest if rest else primitive.inputs[index]
                if not shape_only:
                    found[str(name)] = None
        if len(_kept) > 10_000:
            _kept.clear()
        known = _kept[key] = tuple(found)
    return known


_kept: dict[Any, tuple[str, ...]] = {}


# What is noted while a graph is made.


class Note(NamedTuple):
    """The line that made a node, and what a function of the user's called it."""

    line: str | None
    name: str | None


_notes: WeakKeyDictionary[Node, Note] = WeakKeyDictionary()

_inputs: WeakKeyDictionary[Node, tuple[Any, ...]] = WeakKeyDictionary()

_APPLY = apply.__code__
_CELLS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "nn") + os.sep
_PYTHON = os.path.dirname(traceback.__file__) + os.sep
_NUMPY = os.path.dirname(np.__file__) + os.sep


class record:
    """Note which line of yours makes each node, and by what name you call it.

    Everything that shows a graph then says ``f`` and ``cell.py:8`` instead of a number. Names are
    those of local variables when a function of yours, a cell of ``nn`` or this block ends. It costs
    nothing where it is not used, and within it about the time of the operations themselves.

    ::

        with inspect.record():
            hs, _ = tg.unroll(cell, xs, mode="literal")
        print(tg.to_text(inspect.fold(hs.sum())))

    Args:
        values: keep what every operation reads as long as the graph lives, constants included,
            which a graph does not hold: finite differences in ``replay`` need it.
    """

    def __init__(self, values: bool = False) -> None:
        self._values = values
        self._names: dict[Any, bool] = {}  # by code, whether its variables name values
        self._modules: set[int] = set()
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._note)

    def __exit__(self, *error: object) -> None:
        put_back(self._before)
        self._name(sys._getframe(1).f_locals)

    def _note(self, frame: FrameType, event: str, result: Any) -> None:
        """What Python calls when a function is entered and when it returns (the profile hook)."""
        if event != "return":
            return
        code = frame.f_code
        if code is _APPLY:
            node = maker_of(result)
            if node is not None and node not in _notes:
                _notes[node] = Note(line_of(frame), None)
                if self._values:
                    _inputs[node] = tuple(frame.f_locals["arrays"])
            return
        wanted = self._names.get(code)
        if wanted is None:
            file = code.co_filename
            of_cell = file.startswith(_CELLS) and code.co_name == "forward"
            wanted = self._names[code] = of_cell or (is_of_user(file) and not in_nn(file))
        if wanted and result is not None:
            self._name(frame.f_locals)

    def _name(self, variables: Mapping[str, Any]) -> None:
        """Names for the nodes of variables, and for the parameters of ``self``."""
        for name, value in variables.items():
            if isinstance(value, Tensor):
                self._call(value._node, name)
            elif isinstance(value, Module) and id(value) not in self._modules:
                self._modules.add(id(value))
                for path, parameter in value.named_parameters():
                    self._call(parameter._node, path)

    def _call(self, node: Node | None, name: str) -> None:
        """The first name that a node was given, from the innermost function, is its name."""
        if node is not None and not name.startswith("_"):
            known = _notes.get(node)
            if known is None or known.name is None:
                _notes[node] = Note(known.line if known else None, name)


def put_back(hook: Any) -> None:
    """Set the profile hook that there was; that of ``cProfile`` is its object, which is no hook."""
    if hook is None or callable(hook):
        sys.setprofile(hook)
    else:
        sys.setprofile(None)
        hook.enable()


def maker_of(result: Any) -> Node | None:
    """The node of the operation that made a Tensor, or a tuple of them."""
    if isinstance(result, tuple):
        output = maker_of(result[0]) if result else None
        return output.parents[0] if output is not None and output.parents else None
    return result._node if isinstance(result, Tensor) else None


def inputs_of(node: Node) -> tuple[Any, ...] | None:
    """All arrays that the operation of a node read, if ``record(values=True)`` kept them."""
    return _inputs.get(node)


def is_of_user(filename: str) -> bool:
    """Whether a file is a user's, or one of ``nn``, where cells are."""
    return in_nn(filename) or not (
        is_library(filename) or filename.startswith((_PYTHON, _NUMPY, "<frozen"))
    )


def in_nn(filename: str) -> bool:
    """Whether a file is one of ``nn``."""
    return filename.startswith(_CELLS)


def line_of(frame: FrameType | None) -> str | None:
    """The innermost line on the stack of a user's or a cell's: file and number."""
    while frame is not None:
        if is_of_user(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return None


_INTEGERS = re.compile(r"(?<![\w.])-?\d+(?![\w.])")


def abstracted(parameters: str) -> tuple[str, tuple[int, ...]]:
    """A key with its integers taken out: ``key=(3, None)`` as ``key=(#, None)`` and 3."""
    return _INTEGERS.sub("#", parameters), tuple(map(int, _INTEGERS.findall(parameters)))


def restored(template: str, integers: Sequence[int]) -> str:
    """The opposite."""
    given = iter(integers)
    return re.sub("#", lambda _: str(next(given)), template)
