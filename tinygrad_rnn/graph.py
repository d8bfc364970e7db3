"""The graph: what a primitive is, what an operation leaves behind, and the walk back through it.

A ``Primitive`` is one row of the table: a forward and one vector-Jacobian product (vjp) per input.
A vjp is written as a formula in the names of the things it reads::

    tanh = Primitive(
        "tanh", "elementwise", lambda xp, x: xp.tanh(x), lambda xp, g, out: g * (1 - out * out)
    )

``g`` is the cotangent of the output. An input's name asks for its value, ``out`` for the output and
``x_shape`` for no more than a shape, and a node of the graph keeps exactly what was asked for.

A rule may use operators and the names of ``xp``, nothing else, so the values decide what it
computes: on raw arrays a gradient; on Tensors a gradient that can be differentiated again. There is
no second copy of any derivative. And no recursion: a sequence of 100,000 steps is a path of 100,000
nodes.
"""

from __future__ import annotations

import inspect
import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
Rule: TypeAlias = Callable[..., Any]
Collector: TypeAlias = Callable[[list[Any], Any], tuple[tuple[Any, ...], tuple[Any, ...]]]
Kind: TypeAlias = Literal[
    "elementwise", "reduction", "movement", "contraction", "indexing", "matrix"
]

_OUT = -1

TABLE: dict[str, Primitive] = {}
"""The first primitive of each name: those of the library, which came before any user's."""


class Primitive:
    """One row of the table.

    Args:
        name: what errors and drawings call it.
        kind: ``elementwise`` inputs broadcast, and cotangents are summed back to their shapes;
            ``reduction`` and ``movement`` carry axes as negative integers, so that a new leading
            axis changes none of them; ``contraction`` and ``indexing`` state their batching rule;
            ``matrix`` means the last two axes, whatever is in front.
        forward: ``forward(xp, *arrays, **parameters)``; arrays are positional, the rest is static.
        vjps: one rule ``(xp, g, *reads, **parameters)`` per leading input that has a derivative, in
            order; a single rule named ``joint`` returns the cotangents of all inputs at once.
        joint: whether the only rule is such a joint one (for any number of inputs). If it names a
            keyword ``wanted``, it is given the positions of the inputs that a cotangent is asked
            for.
        outputs: "one", or "several" if ``forward`` returns a tuple and ``g`` is one, too.
        batch: the batching rule ``(size, batched, *tensors, **parameters)``, where it does not
            follow from the kind; see ``batching.py``.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        forward: Callable[..., Any],
        *vjps: Rule | None,
        joint: bool = False,
        outputs: Literal["one", "several"] = "one",
        batch: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.forward = forward
        self.vjps: tuple[Any, ...] = vjps
        self.joint = joint
        self.selective = joint and "wanted" in inspect.signature(vjps[0]).parameters  # type: ignore[arg-type]
        self.several = outputs == "several"
        self.batch = batch
        inputs = [p for p in inspect.signature(forward).parameters.values()][1:]
        self.inputs = [p.name for p in inputs if p.kind is p.POSITIONAL_OR_KEYWORD]
        rest = [p.name for p in inputs if p.kind is p.VAR_POSITIONAL]
        self.rest = rest[0] if rest else None
        self.parameters = [p.name for p in inputs if p.kind is p.KEYWORD_ONLY]
        self.differentiable = (
            None if joint else frozenset(i for i, rule in enumerate(vjps) if rule is not None)
        )
        self.reads = [[] if rule is None else self._reads(rule) for rule in vjps]
        self.collectors: dict[tuple[int, ...], Collector] = {}
        TABLE.setdefault(name, self)

    def _reads(self, rule: Rule) -> list[_Read]:
        names = [
            p.name
            for p in inspect.signature(rule).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        if names[:2] != ["xp", "g"]:
            raise TypeError(f"{self.name}: a vjp starts (xp, g, ...), not ({', '.join(names)})")
        return [self._read(name) for name in names[2:]]

    def _read(self, name: str) -> _Read:
        if name == "out":
            return _Read(_OUT, False, False)
        if name in self.inputs:
            return _Read(self.inputs.index(name), False, False)
        if name == self.rest:
            return _Read(len(self.inputs), True, False)
        if name.removesuffix("_shape") in self.inputs:
            return _Read(self.inputs.index(name.removesuffix("_shape")), False, True)
        if self.rest is not None and name == f"{self.rest}_shapes":
            return _Read(len(self.inputs), True, True)
        known = ", ".join([*self.inputs, *([self.rest] if self.rest else []), "out"])
        raise TypeError(f"{self.name}: a vjp reads {name!r}, but there is only {known}")

    def collector(self, argnums: tuple[int, ...]) -> Collector:
        """A function ``(arrays, out)`` of what a node keeps if inputs ``argnums`` require grad.

        It returns what each of their vjps reads, and the (shape, dtype) of each of those inputs. It
        is compiled, since it runs at every operation: ``((arrays[1],), (arrays[0],)), ...``.
        """
        key = () if self.joint else argnums
        found = self.collectors.get(key)
        if found is None:
            saved = [_tuple(read.expression() for read in self.reads[i]) for i in key or (0,)]
            metas = [f"(arrays[{i}].shape, arrays[{i}].dtype)" for i in key]
            source = f"lambda arrays, out: ({_tuple(saved)}, {_tuple(metas)})"
            found = self.collectors[key] = eval(source, {"shape": np.shape})
        if self.joint:  # of any number of inputs, which cannot be part of a source
            return lambda arrays, out: (
                found(arrays, out)[0],
                tuple([(arrays[i].shape, arrays[i].dtype) for i in argnums]),
            )
        return found

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


def _tuple(parts: Iterable[str]) -> str:
    return "(" + "".join(f"{part}, " for part in parts) + ")"


class _Read(NamedTuple):
    """One thing that a vjp reads: an input or the output, all from there on, or just its shape."""

    position: int
    rest: bool
    shape_only: bool

    def expression(self) -> str:
        """What it is, in Python, given the ``arrays`` that went in and what came ``out``."""
        if self.position == _OUT:
            return "out"
        if self.rest:
            arrays = f"arrays[{self.position}:]"
            return f"tuple([shape(a) for a in {arrays}])" if self.shape_only else f"tuple({arrays})"
        return f"arrays[{self.position}].shape" if self.shape_only else f"arrays[{self.position}]"


class IndexedCotangent(NamedTuple):
    """The cotangent of ``x`` from ``x[key]``: zero but for ``value`` at ``key``.

    Only accumulation understands it. It is added into one dense array, so a loop over ``x[t]``
    costs O(T) in all; a dense array of zeros for each step would cost O(T^2). With an ``axis`` the
    key is the one array of indices of ``take_along_axis``; ``as_rows`` says that it is one of rows,
    which a leaf may keep as ``Rows``.
    """

    key: tuple[Any, ...]
    value: Any
    axis: int | None = None
    as_rows: bool = False

    def add_to(self, xp: Any, total: Array) -> Array:
        """``total`` with it added: in place on an array, which is the caller's."""
        if self.axis is not None:
            return xp.add_along_axis(total, *self.key, self.value, axis=self.axis)
        return xp.index_add(total, self.key, self.value)


class Rows:
    """An array (V, ...) that is zero but in some rows: their places (N,), and values (N, ...).

    So a leaf keeps the gradient of ``embedding(sparse=True)``. Values at the same place are added
    up. It stands in a Tensor in an array's place; operations get the dense array, but for sums of
    two and products with a number, which are rows again.
    """

    __slots__ = ("_sum", "backend", "count", "dtype", "parts", "shape")
    __array_ufunc__ = None  # array + rows asks us

    def __init__(
        self, backend: Any, shape: tuple[int, ...], dtype: Any, parts: list[tuple[Array, Array]]
    ) -> None:
        self.backend = backend
        self.shape = shape
        self.dtype = dtype
        self.parts = parts
        self.count: int = sum([places.shape[0] for places, _ in parts])
        self._sum: tuple[Array, Array] | None = None

    def append(self, places: Array, values: Array) -> None:
        """Add values at places, each 0 or more: for the owner."""
        xp = self.backend
        places = xp.reshape(places, (-1,))
        self.parts.append((places, xp.reshape(values, (*places.shape, *self.shape[1:]))))
        self.count += places.shape[0]
        self._sum = None
        self._shrink()

    def _shrink(self) -> None:
        """Add up, if that takes less memory in any case: in all it is done for each row once."""
        if self.count > 2 * self.shape[0]:
            self.summed()

    def summed(self) -> tuple[Array, Array]:
        """The places in order, each once, and their values: none that is zero throughout."""
        if self._sum is None:
            xp, row = self.backend, self.shape[1:]
            places = xp.concat([xp.astype(p, xp.int64) for p, _ in self.parts])
            values = xp.concat([v for _, v in self.parts])
            each = xp.unique_inverse(places)
            zeros = xp.zeros((*each.values.shape, *row), dtype=self.dtype)
            with np.errstate(all="ignore"):  # as in the walk
                total = xp.index_add(zeros, (each.inverse_indices,), values)
            flat = xp.reshape(total, (total.shape[0], math.prod(row)))
            (some,) = xp.nonzero(xp.any(flat != 0, axis=1))
            found = each.values
            if some.shape != found.shape:
                found, total = xp.take(found, some, axis=0), xp.take(total, some, axis=0)
            self._sum = found, total
            self.parts, self.count = [self._sum], found.shape[0]
        return self._sum

    def with_values(self, values: Array) -> Rows:
        """Other values at the places of ``summed()``."""
        places, _ = self.summed()
        return Rows(self.backend, self.shape, self.dtype, [(places, values)])

    def dense(self) -> Array:
        """All of it: an array."""
        total = self.backend.zeros(self.shape, dtype=self.dtype)
        with np.errstate(all="ignore"):
            for places, values in self.parts:
                total = self.backend.index_add(total, (places,), values)
        return total

    def detach(self) -> Rows:
        """Itself: it comes from no operation."""
        return self

    def __add__(self, other: Any) -> Any:
        if type(other) is Rows:
            both = Rows(self.backend, self.shape, self.dtype, [*self.parts, *other.parts])
            both._shrink()
            return both
        return self.dense() + other

    def __radd__(self, other: Any) -> Any:
        return other + self.dense()

    def __repr__(self) -> str:
        return f"{self.dtype} {self.shape}, zero but in {self.count} rows"


def as_rows(name: str, *operands: Any) -> Rows | None:
    """What a primitive makes of rows, if that is rows again: a sum of two, a multiple."""
    if name == "add":
        x, y = operands
        if type(x) is type(y) and (x.shape, x.dtype, x.backend) == (y.shape, y.dtype, y.backend):
            return x + y  # type: ignore[no-any-return]
        return None
    if name not in ("multiply", "divide"):
        return None
    x, y = operands if type(operands[0]) is Rows or name == "divide" else operands[::-1]
    if type(x) is not Rows or not (type(y) in (int, float) or getattr(y, "shape", None) == ()):
        return None
    _, values = x.summed()
    values = values / y if name == "divide" else values * y
    return x.with_values(values) if values.dtype == x.dtype else None


_serials = itertools.count()
_creation = operator.attrgetter("serial")


class Node:
    """What one operation leaves behind: enough to apply its vjps, and nothing else.

    A Tensor points at its node; a node points at the nodes of its inputs, never at a Tensor. So
    there are no reference cycles, and rebinding a parameter changes no node. A leaf has no
    primitive; it holds the gradient that ``backward`` accumulates. A primitive with several outputs
    has one node for itself and one for each output, which names its position by ``index``.
    """

    __slots__ = (
        "__weakref__",
        "argnums",
        "backend",
        "grad",
        "hooks",
        "index",
        "metas",
        "outputs",
        "parameters",
        "parents",
        "primitive",
        "saved",
        "serial",
        "version",
        "witness",
    )

    def __init__(
        self,
        primitive: Primitive | None = None,
        backend: Any = None,
        parameters: dict[str, Any] | None = None,
        parents: tuple[Node, ...] = (),
        argnums: tuple[int, ...] = (),
        saved: Any = (),
        metas: tuple[Any, ...] = (),
        index: int | None = None,
        outputs: tuple[Any, ...] = (),
    ) -> None:
        self.primitive: Any = primitive  # None for a leaf, and for one of several outputs
        self.backend = backend  # of the output; None where the output is not a raw array
        self.parameters: Any = parameters
        self.parents = parents  # the nodes of the inputs that require grad
        self.argnums = argnums  # the positions of those inputs
        self.saved = saved  # for each parent, what its vjp reads; None once released
        self.metas = metas  # for each parent, the (shape, dtype) that its cotangent must have
        self.index = index
        self.outputs = outputs  # the (shape, dtype) of each output, if there are several
        self.hooks: list[Callable[[Any], Any]] | None = None
        self.grad: Any = None
        self.serial = next(_serials)  # the order of creation
        self.version = 0  # of a leaf: how often its Tensor was rebound
        self.witness: Any = None  # what detect_anomaly remembers of the forward pass

    @property
    def is_leaf(self) -> bool:
        """Whether no operation computed it."""
        return self.primitive is None and self.index is None

    def __reduce__(self) -> Any:
        raise TypeError("graph nodes are not pickled; pickle Tensors, which keep only their values")


class ReleasedGraphError(RuntimeError):
    """A second pass through a graph whose saved values are gone."""


def topological_order(roots: Iterable[Node], boundary: Collection[Node] = ()) -> list[Node]:
    """All nodes that the roots depend on, each one before those that it was computed from.

    A node is created after those that it is computed from, so that is the order of creation,
    backwards. Nodes in ``boundary`` are listed, but what they were computed from is not looked at.
    """
    found = set(roots)
    pending = list(found)
    while pending:
        node = pending.pop()
        if boundary and node in boundary:
            continue
        for parent in node.parents:
            if parent not in found:
                found.add(parent)
                pending.append(parent)
    return sorted(found, key=_creation, reverse=True)


def _towards(targets: Collection[Node], order: list[Node]) -> set[Node]:
    """The nodes of ``order`` that are targets or were computed from one."""
    towards: set[Node] = set(targets)
    for node in reversed(order):
        if not towards.isdisjoint(node.parents):
            towards.add(node)
    return towards


class TensorMode(Protocol):
    """How the walk computes with Tensors instead of raw arrays; ``tensor.py`` provides it."""

    namespace: Any

    def raw(self, tensor: Any) -> Array | None:
        """The array of a backend in a Tensor, or None if it holds something else."""

    def wrap(self, array: Any, node: Node | None) -> Any:
        """A Tensor on an array, computed by ``node``."""

    def zeros(self, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        """A Tensor of zeros on the backend of ``like``, a Tensor or a list of some and None."""

    def dtype(self, native: Any) -> Any:
        """The dtype of a Tensor on an array of dtype ``native``."""


class Watch(Protocol):
    """What ``detect_anomaly`` does at each node of the walk."""

    def before(self, node: Node) -> None:
        """Look at what the vjps of ``node`` are about to read."""

    def after(self, node: Node, cotangent: Any) -> None:
        """Look at what a vjp of ``node`` returned."""


def cotangents(
    seeds: Sequence[tuple[Node, Any]],
    targets: Sequence[Node] | None,
    *,
    tensors: TensorMode,
    create_graph: bool = False,
    retain_graph: bool = False,
    boundary: Collection[Node] = (),
    watch: Watch | None = None,
) -> dict[Node, Any]:
    """Reverse mode: the cotangents of ``targets``, given those of some outputs.

    Args:
        seeds: pairs of a node and the cotangent of its output, a Tensor.
        targets: the nodes asked for; None means every leaf. One that is not reached maps to None.
        tensors: how to compute with Tensors, where raw arrays will not do.
        create_graph: compute with Tensors, and link what the rules read to the graph, so that the
            result can be differentiated again.
        retain_graph: keep what the vjps saved, so that another pass is possible.
        boundary: nodes that the walk reaches but does not go beyond.
        watch: looks at what the vjps read and return, under ``detect_anomaly``.

    Raises:
        ReleasedGraphError: before anything is changed, if a node was released by an earlier pass.
    """
    order = topological_order((node for node, _ in seeds), boundary)
    for node in order:
        if node.saved is None:
            raise ReleasedGraphError(_RELEASED.format(operation=describe(node)))
    raw_seeds = [tensors.raw(seed) for _, seed in seeds]
    raw = not (
        create_graph
        or any(seed is None for seed in raw_seeds)
        or any(node.backend is None and node.primitive is not None for node in order)
    )
    results: dict[Node, Any] = {} if targets is None else dict.fromkeys(targets)
    wanted = _towards(results, order) if targets is not None else None
    walk = _Walk(None if raw else tensors, create_graph, wanted, watch)
    pending = walk.pending
    for (node, tensor), array in zip(seeds, raw_seeds, strict=True):
        seed = array if raw else tensor
        pending[node] = pending[node] + seed if node in pending else seed
    # An infinite derivative (of sqrt at 0) is a value, not an event: NumPy need not warn of it.
    with np.errstate(all="ignore"):
        for node in order:
            g = pending.pop(node, None)
            if g is None:
                continue
            # The walk that goes on beyond a boundary runs the hooks of its nodes.
            if node.hooks is not None and node not in boundary:
                g = run_hooks(node, g)
            parents = node.parents
            if (wanted is not None and node in results) or not parents:
                results[node] = g
            if not parents or (boundary and node in boundary):
                continue
            if wanted is not None and wanted.isdisjoint(parents):
                continue
            if type(g) is Rows:
                g = g.dense()
            if node.index is None:
                walk.pull_back(node, g)
            else:
                several = parents[0]
                parts = pending.get(several)
                if parts is None:
                    parts = pending[several] = [None] * len(several.outputs)
                parts[node.index] = g
            if not retain_graph:
                node.saved, node.parents, node.parameters = None, (), None
    if raw:
        return {n: None if g is None else tensors.wrap(g, None) for n, g in results.items()}
    return results


class _Walk:
    """One backward pass: how it computes, and the cotangents that wait for their nodes."""

    __slots__ = ("create_graph", "owned", "pending", "tensors", "wanted", "watch")

    def __init__(
        self,
        tensors: TensorMode | None,
        create_graph: bool,
        wanted: set[Node] | None,
        watch: Watch | None,
    ) -> None:
        self.tensors = tensors  # None: on raw arrays
        self.create_graph = create_graph
        self.wanted = wanted
        self.watch = watch
        self.pending: dict[Node, Any] = {}
        self.owned: set[Node] = set()  # nodes whose pending cotangent is a buffer of this walk

    def pull_back(self, node: Node, g: Any) -> None:
        """Apply the vjps of one node and add the results to the cotangents of its parents."""
        if self.watch is not None:
            self.watch.before(node)
        primitive, parameters = node.primitive, node.parameters
        argnums, saved, metas = node.argnums, node.saved, node.metas
        tensors, wanted, pending, vjps = self.tensors, self.wanted, self.pending, primitive.vjps
        xp = node.backend
        if tensors is not None:
            xp = tensors.namespace
            saved = [self._wrapped(node, *pair) for pair in zip(argnums, saved, strict=False)]
        if primitive.several:
            g = self._filled(node, xp, g)
        if primitive.selective:
            pairs = zip(argnums, node.parents, strict=True)
            asked = [i for i, parent in pairs if wanted is None or parent in wanted]
            parameters = {**parameters, "wanted": asked}
        parts = vjps[0](xp, g, *saved[0], **parameters) if primitive.joint else None
        for i, parent in enumerate(node.parents):
            if wanted is not None and parent not in wanted:
                continue
            argnum = argnums[i]
            if parts is not None:
                part = parts[argnum]
            elif not parameters:
                part = vjps[argnum](xp, g, *saved[i])
            else:
                part = vjps[argnum](xp, g, *saved[i], **parameters)
            if part is None:
                continue
            total = pending.get(parent)
            shape, dtype = metas[i]
            if type(part) is IndexedCotangent:
                pending[parent] = self._scattered(node, xp, part, parent, total, shape, dtype)
                continue
            if part.shape != shape:
                part = unbroadcast(xp, part, shape)
            if part.dtype is not dtype:
                part = self._cast(xp, part, dtype)
            if self.watch is not None:
                self.watch.after(node, part)
            if total is None:
                pending[parent] = part
            elif type(part) is Rows:
                pending[parent] = part + total
                self.owned.add(parent)
            elif parent in self.owned and tensors is None:
                total += part
                pending[parent] = total
            else:
                pending[parent] = total + part
                self.owned.add(parent)

    def _zeros(self, xp: Any, like: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        if self.tensors is None:
            return xp.zeros(shape, dtype=dtype)
        return self.tensors.zeros(like, shape, dtype)

    def _cast(self, xp: Any, part: Any, dtype: Any) -> Any:
        wanted = dtype if self.tensors is None else self.tensors.dtype(dtype)
        return part if part.dtype == wanted else xp.astype(part, wanted)

    def _filled(self, node: Node, xp: Any, g: list[Any]) -> list[Any]:
        """The cotangents of several outputs, zeros for those that nothing used."""
        return [
            self._zeros(xp, g, *meta) if part is None else part
            for part, meta in zip(g, node.outputs, strict=True)
        ]

    def _scattered(
        self,
        node: Node,
        xp: Any,
        part: IndexedCotangent,
        parent: Node,
        total: Any,
        shape: tuple[int, ...],
        dtype: Any,
    ) -> Any:
        """The cotangent of a parent with an indexed one added."""
        if self.watch is not None:
            self.watch.after(node, part.value)
        if part.as_rows and self.tensors is None and parent.is_leaf:
            if total is None or (type(total) is Rows and parent not in self.owned):
                total = Rows(xp, shape, dtype, [] if total is None else [*total.parts])
                self.owned.add(parent)
            if type(total) is Rows:
                total.append(part.key[0], self._cast(xp, part.value, dtype))
                return total
        if type(total) is Rows:
            total = total.dense()
            self.owned.add(parent)
        if total is None:
            total = self._zeros(xp, part.value, shape, dtype)
        elif self.tensors is None and parent not in self.owned:
            total = xp.asarray(total, copy=True)
        self.owned.add(parent)
        return part.add_to(xp, total)

    def _wrapped(self, node: Node, argnum: int, reads: tuple[Any, ...]) -> list[Any]:
        """What a rule reads, as Tensors, each linked to where it came from if ``create_graph``."""
        wrap = self.tensors.wrap  # type: ignore[union-attr]
        origin: dict[int, Node] = {}
        if self.create_graph:
            origin = {_OUT: node, **dict(zip(node.argnums, node.parents, strict=True))}
        wrapped: list[Any] = []
        rule = 0 if node.primitive.joint else argnum
        for read, value in zip(node.primitive.reads[rule], reads, strict=True):
            if read.shape_only or isinstance(value, (bool, int, float)):
                wrapped.append(value)
            elif read.rest:
                rest = enumerate(value, read.position)
                wrapped.append(tuple(wrap(array, origin.get(i)) for i, array in rest))
            else:
                wrapped.append(wrap(value, origin.get(read.position)))
        return wrapped


def unbroadcast(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """The transpose of broadcasting: sum a cotangent over the axes along which it was repeated."""
    extra = len(g.shape) - len(shape)
    if extra:
        g = xp.sum(g, axis=tuple(range(extra)))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return xp.sum(g, axis=repeated, keepdims=True) if repeated else g


def run_hooks(node: Node, g: Any) -> Any:
    """The cotangent that the hooks of a node make of ``g``."""
    for hook in node.hooks or ():
        g = hook(g)
    return g


def describe(node: Node) -> str:
    """How errors call a node: its operation, and the user's line where that is known."""
    if node.index is not None and node.parents:
        node = node.parents[0]
    name = node.primitive.name if node.primitive is not None else "leaf"
    return name if node.witness is None else f"{name} (made at {node.witness.line})"


_RELEASED = (
    "backward: the graph was released by an earlier backward() or grad(), perhaps one that failed, "
    "which dropped what {operation} had saved. The usual cause is a state carried over from the "
    "previous call: pass state.detach() to the next one. To go through the same graph twice on "
    "purpose, give the first pass retain_graph=True."
)
