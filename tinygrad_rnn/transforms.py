"""Transforms: derivatives as functions of functions, all made of one walk back through the graph.

``grad`` asks for the cotangents of given tensors. ``value_and_grad`` and ``vjp`` run a function on
fresh leaves first; ``jvp`` is the vjp of the vjp: ``pull`` is linear in its cotangent ``u``, so
pulling back through it gives the transpose of the transpose. They nest in any order, with ``vmap``,
too.

Whether a derivative is itself differentiable, ``grad`` is told by ``create_graph``; the others
look: if the function's result depends on anything outside that requires grad, the derivative does
so, too, and is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import tinygrad_rnn_backends as backends

from . import random
from .apply import outputs_of
from .batching import vmap
from .entering import type_name
from .graph import Node, Primitive, topological_order
from .primitives.creation import eye, zeros_like
from .primitives.elementwise import alias
from .primitives.movement import reshape
from .structure import Structure, flatten, unflatten
from .tensor import (
    MODE,
    Tensor,
    as_tensor,
    backend_of,
    enable_grad,
    is_grad_enabled,
    namespace,
    no_grad,
    pull_back,
    wrap,
)

Arguments = ParamSpec("Arguments")
T = TypeVar("T")

__all__ = [
    "checkpoint",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "value_and_grad",
    "vjp",
    "vmap",
]


def _of_results(derivative: Callable[Arguments, T]) -> Callable[Arguments, T]:
    """A derivative of what a function returned; one of a function is told apart by its error."""

    @wraps(derivative)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> T:
        if args and callable(args[0]):
            raise TypeError(
                "grad: takes what a function returned, grad(f(x), x); the derivative as a function "
                "of x is lambda x: value_and_grad(f)(x)[1]"
            )
        return derivative(*args, **kwargs)

    return checked


@_of_results
def grad(
    output: Any,
    inputs: Any,
    cotangent: Any = None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    allow_unused: bool = False,
) -> Any:
    """The gradient of ``output`` with respect to ``inputs``, in the structure of ``inputs``.

    Args:
        output: a Tensor, or a structure of them whose contributions are summed.
        inputs: a Tensor that requires grad, computed or not, or a structure of them.
        cotangent: what is pulled back, shaped like ``output``; may be left out for scalars.
        create_graph: make the result differentiable.
        retain_graph: keep the graph for another pass; as ``create_graph`` if left out.
        allow_unused: give None for an input that ``output`` does not depend on.

    Raises:
        RuntimeError: for an unused input without ``allow_unused``, or a released graph.
        ValueError: for a non-scalar without a cotangent, or one of the wrong shape.
    """
    outputs, output_structure = flatten(output)
    cotangents = _matching(cotangent, output_structure, "grad")
    wanted, structure = flatten(inputs)
    for i, x in enumerate(wanted):
        if not isinstance(x, Tensor):
            raise TypeError(f"grad: input {i} is no Tensor but {type_name(x)}")
        if not x.requires_grad and not allow_unused:
            raise RuntimeError(f"grad: input {i}, of shape {x.shape}, does not require grad")
    targets = [x._node for x in wanted if x._node is not None]
    if allow_unused and all(isinstance(y, Tensor) and not y.requires_grad for y in outputs):
        return unflatten(structure, [None] * len(wanted))
    with nullcontext() if create_graph else no_grad():  # inside vmap: at the levels around, too
        found = pull_back(
            outputs, cotangents, targets, create_graph=create_graph, retain_graph=retain_graph
        )
    results = [None if x._node is None else found[x._node] for x in wanted]
    for i, (x, g) in enumerate(zip(wanted, results, strict=True)):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: the output does not depend on input {i}, of shape {x.shape}; "
                "allow_unused=True gives None for it"
            )
    return unflatten(structure, results)


def _matching(given: Any, structure: Structure, operation: str) -> list[Any]:
    """The leaves of cotangents that must be structured like an output."""
    if given is None:
        return [None] * len(flatten(unflatten(structure, [0] * _count(structure)))[0])
    leaves, own = flatten(given, structure)
    if own != structure:
        raise ValueError(f"{operation}: cotangents structured {own} for outputs {structure}")
    return leaves


def _count(structure: Structure) -> int:
    if structure.container is None:
        return 1
    return sum(_count(child) for child in structure.children)


def _fresh(x: Any) -> Tensor:
    """x as a leaf of a transform's own; still linked to x if x requires grad."""
    x = as_tensor(x)
    if x.dtype.kind != "f":
        raise TypeError(
            f"a derivative by an argument of {x.dtype} {x.shape}: only floating dtypes have one; "
            "use astype('float32'), or leave it out of argnums"
        )
    return alias(x) if x.requires_grad and is_grad_enabled() else wrap(x._array, Node())


_needs_graph: ContextVar[bool] = ContextVar("tinygrad_rnn_needs_graph", default=False)


def needs_graph() -> bool:
    """Whether derivatives of a derivative are to come, or those of many outputs at once.

    They go through the operations of each step, so that a loop is best run literally at once.
    """
    return _needs_graph.get()


@contextmanager
def with_graph(needed: bool = True) -> Iterator[None]:
    """In this block the graph is recorded, and, if ``needed``, that of every operation."""
    token = _needs_graph.set(_needs_graph.get() or needed)
    try:
        with enable_grad():
            yield
    finally:
        _needs_graph.reset(token)


class _Run:
    """A function run on fresh leaves in place of some arguments; its graph can be pulled on."""

    def __init__(
        self,
        f: Callable[..., Any],
        arguments: Sequence[Any],
        argnums: Sequence[int],
        *,
        on_graph: bool = False,
    ) -> None:
        """``on_graph``: what follows needs the graph of every operation; see ``needs_graph``."""
        outer = is_grad_enabled()
        arguments = list(arguments)
        self.inputs: list[Tensor] = []
        self.structures = []
        for i in argnums:
            if not -len(arguments) <= i < len(arguments):
                raise ValueError(f"argnums {i} for a function of {len(arguments)} arguments")
            leaves, structure = flatten(arguments[i])
            fresh = [_fresh(leaf) for leaf in leaves]
            self.inputs += fresh
            self.structures.append(structure)
            arguments[i] = unflatten(structure, fresh)
        with with_graph(on_graph):
            result = f(*arguments)
        leaves, self.structure = flatten(result)
        self.outputs = [as_tensor(y) for y in leaves]
        self.targets: list[Node] = [x._node for x in self.inputs]  # type: ignore[misc]
        self.open = outer and self._depends_on_outside()

    def _depends_on_outside(self) -> bool:
        roots = [y._node for y in self.outputs if y._node is not None]
        own = set(self.targets)
        reached = topological_order(roots, own)
        return any(node.parents for node in own) or any(
            node.is_leaf and node not in own for node in reached
        )

    def value(self) -> Any:
        """What the function returned, recorded only if it depends on something outside."""
        return unflatten(
            self.structure, [y if self.open else wrap(y._array, None) for y in self.outputs]
        )

    def pull(
        self,
        cotangents: Sequence[Any],
        *,
        create_graph: bool | None = None,
        retain_graph: bool = True,
    ) -> list[Tensor]:
        """The cotangent of each fresh leaf; zeros where the outputs do not depend on it."""
        record = self.open if create_graph is None else create_graph
        pairs = [
            (y, g) for y, g in zip(self.outputs, cotangents, strict=True) if y._node is not None
        ]
        found: dict[Node, Any] = {}
        if pairs:
            found = pull_back(
                [y for y, _ in pairs],
                [g for _, g in pairs],
                self.targets,
                create_graph=record,
                retain_graph=retain_graph or record,
            )
        results = [found.get(node) for node in self.targets]
        return [
            zeros_like(x) if g is None else g for x, g in zip(self.inputs, results, strict=True)
        ]

    def arranged(self, leaves: Sequence[Any]) -> list[Any]:
        """Values for the fresh leaves, put together as the arguments were."""
        remaining = list(leaves)
        parts = []
        for structure in self.structures:
            n = _count(structure)
            parts.append(unflatten(structure, remaining[:n]))
            remaining = remaining[n:]
        return parts


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns ``(f(*args), gradient)`` for a scalar ``f``.

    The gradient is structured like argument ``argnums``, or is a tuple of such for several.
    """

    def evaluate(*arguments: Any, **options: Any) -> tuple[Any, Any]:
        run = _Run(lambda *xs: f(*xs, **options), arguments, _as_tuple(argnums))
        if len(run.outputs) != 1 or run.outputs[0].size != 1:
            shapes = ", ".join(str(y.shape) for y in run.outputs)
            raise ValueError(
                f"value_and_grad: the function returns {shapes}, not a scalar; use vjp"
            )
        gradients = run.arranged(run.pull([None], retain_graph=False))
        return run.value(), gradients[0] if isinstance(argnums, int) else tuple(gradients)

    return evaluate


def _as_tuple(argnums: int | Sequence[int]) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def vjp(f: Callable[..., Any], *xs: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """``(y, pull)`` with ``y = f(*xs)``; ``pull(cotangent of y)`` gives a cotangent for each of xs.

    ``pull`` may be called repeatedly.
    """
    run = _Run(f, xs, range(len(xs)))

    def pull(cotangent: Any) -> tuple[Any, ...]:
        given = _matching(cotangent, run.structure, "vjp")
        linked = any(isinstance(g, Tensor) and g.requires_grad for g in given)
        return tuple(run.arranged(run.pull(given, create_graph=run.open or linked)))

    return run.value(), pull


def jvp(f: Callable[..., Any], xs: Any, vs: Any) -> tuple[Any, Any]:
    """``(y, dy)``: ``y = f(*xs)`` and its derivative in the direction ``vs``.

    ``xs`` and ``vs`` are tuples with an entry for each argument, or single Tensors for one
    argument.
    """
    arguments, directions = _arguments(xs, vs, "jvp")
    run = _Run(f, arguments, range(len(arguments)), on_graph=True)
    probes = [wrap(zeros_like(y)._array, Node()) for y in run.outputs if y._node is not None]
    remaining = iter(probes)
    seeds = [next(remaining) if y._node is not None else None for y in run.outputs]
    pulled = run.pull(seeds, create_graph=True)
    linear = [(p, v) for p, v in zip(pulled, directions, strict=True) if p._node is not None]
    record = run.open or (is_grad_enabled() and any(v.requires_grad for v in directions))
    found: dict[Node, Any] = {}
    if linear and probes:
        found = pull_back(
            [p for p, _ in linear],
            [v for _, v in linear],
            [u._node for u in probes],  # type: ignore[misc]
            create_graph=record,
            retain_graph=record,
        )
    tangents = [
        None if u is None else found.get(u._node)  # type: ignore[arg-type]
        for u in seeds
    ]
    filled = [zeros_like(y) if t is None else t for y, t in zip(run.outputs, tangents, strict=True)]
    return run.value(), unflatten(run.structure, filled)


def _arguments(xs: Any, vs: Any, operation: str) -> tuple[tuple[Any, ...], list[Tensor]]:
    arguments = xs if _are_several(xs) else (xs,)
    directions = vs if _are_several(vs) else (vs,)
    points, structure = flatten(tuple(arguments))
    leaves, own = flatten(tuple(directions), structure)
    if own != structure:
        raise ValueError(f"{operation}: directions structured {own} for arguments {structure}")
    tensors = [as_tensor(leaf) for leaf in leaves]
    for i, (x, v) in enumerate(zip(map(as_tensor, points), tensors, strict=True)):
        if x.shape != v.shape:
            raise ValueError(
                f"{operation}: direction {i} of shape {v.shape} for a point of {x.shape}"
            )
    return tuple(arguments), tensors


def _are_several(xs: Any) -> bool:
    """Whether xs holds an entry for each argument; a named tuple is one structured argument."""
    return isinstance(xs, (tuple, list)) and not hasattr(xs, "_fields")


def hvp(f: Callable[..., Any], xs: Any, vs: Any) -> Any:
    """The Hessian of a scalar ``f`` at ``xs`` times ``vs``, structured like ``xs``.

    A tuple or a list of ``xs`` are the arguments of ``f``, ``f(*xs)``, as for ``jvp``.
    """
    arguments, directions = _arguments(xs, vs, "hvp")

    def gradient(*points: Any) -> Any:
        return value_and_grad(f, argnums=range(len(arguments)))(*points)[1]

    run = _Run(gradient, arguments, range(len(arguments)), on_graph=True)
    products = run.arranged(run.pull(directions, retain_graph=False))
    return type(xs)(products) if _are_several(xs) else products[0]


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that gives the derivative of each element of ``f(*args)`` by each of an argument.

    Its shape is that of the output followed by that of the argument. For outputs or arguments that
    are structures, the result is the outputs' structure of the arguments' structure. One pull back
    is done for all elements at once, by ``vmap``.
    """

    def evaluate(*arguments: Any) -> Any:
        run = _Run(f, arguments, _as_tuple(argnums), on_graph=True)
        rows = []
        for i, y in enumerate(run.outputs):
            basis = reshape(
                eye(y.size, dtype=y.dtype, backend=backend_of(y).name), (y.size, *y.shape)
            )

            def pull(direction: Any, i: int = i) -> list[Tensor]:
                seeds = [direction if i == j else zeros_like(z) for j, z in enumerate(run.outputs)]
                return run.pull(seeds)

            pulled = vmap(pull)(basis)
            shaped = [
                reshape(g, y.shape + x.shape) for g, x in zip(pulled, run.inputs, strict=True)
            ]
            parts = run.arranged(shaped)
            rows.append(parts[0] if isinstance(argnums, int) else tuple(parts))
        return unflatten(run.structure, rows)

    return evaluate


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that gives all second derivatives of a scalar ``f``: the gradient's jacobian."""

    def gradient(*arguments: Any) -> Any:
        return value_and_grad(f, argnums)(*arguments)[1]

    return jacobian(gradient, argnums)


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` with a graph of a single node: what happens inside is computed again when needed.

    Memory for time: only the arguments are kept, and the backward pass runs ``f`` once more, with
    the same random draws. Tensors that ``f`` captures (the parameters of a module) get their
    gradients, too; rebinding such a parameter in between is an error.
    """

    def run(*arguments: Any) -> Any:
        if not is_grad_enabled() or MODE.get().recorder is not None:  # a plan holds what it likes
            return f(*arguments)
        leaves, structure = flatten(arguments)
        places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
        tensors = [leaves[i] for i in places]
        static = [None if isinstance(x, Tensor) else x for x in leaves]

        def call(inputs: Sequence[Tensor]) -> tuple[list[Any], Structure]:
            filled = list(static)
            for i, x in zip(places, inputs, strict=True):
                filled[i] = x
            return flatten(f(*unflatten(structure, filled)))

        start = Node().serial
        fresh = [wrap(x._array, Node()) if x.requires_grad else x for x in tensors]
        with random.recorded() as at:
            results, out_structure = call(fresh)
        recorded = [isinstance(y, Tensor) and y.requires_grad for y in results]
        if any(recorded):
            outputs = [y for y, r in zip(results, recorded, strict=True) if r]
            node = _checkpoint_node(call, at, tensors, _captured(outputs, start), outputs)
            single = iter(outputs_of(node, tuple([y._array for y in outputs])))
            results = [next(single) if r else y for y, r in zip(results, recorded, strict=True)]
        return unflatten(out_structure, results)

    if hasattr(f, "initial_state"):  # of a cell: ``unroll`` asks for it
        run.initial_state = f.initial_state  # type: ignore[attr-defined]
    return run


def _captured(outputs: list[Tensor], start: int) -> dict[Node, Any]:
    """The older nodes that a function reads or returns, with what their cotangents look like."""
    captured: dict[Node, Any] = {}
    for y in outputs:
        if y._node is not None and y._node.serial < start:
            captured[y._node] = (y._array.shape, y._array.dtype)
    for node in _newer([y._node for y in outputs if y._node is not None], start):
        for parent, meta in zip(node.parents, node.metas, strict=False):
            if parent.serial < start:
                captured[parent] = meta
    return captured


def _newer(roots: list[Node], start: int) -> list[Node]:
    """The nodes created since ``start`` that the roots depend on."""
    found = {node for node in roots if node.serial > start}
    pending = list(found)
    while pending:
        for parent in pending.pop().parents:
            if parent.serial > start and parent not in found:
                found.add(parent)
                pending.append(parent)
    return list(found)


def _checkpoint_node(
    call: Callable[..., Any],
    at: random.Position,
    tensors: list[Tensor],
    captured: dict[Node, Any],
    outputs: list[Tensor],
) -> Node:
    """A node whose vjp runs the function again and pulls back through that."""
    versions = [node.version for node in captured]
    needed = [x.requires_grad for x in tensors]

    def replay(xp: Any, g: Sequence[Any], inputs: tuple[Any, ...]) -> list[Any]:
        if [node.version for node in captured] != versions:
            raise RuntimeError(
                "checkpoint: a parameter was rebound between the forward and the backward pass; "
                "take the optimiser's step after backward()"
            )
        on_tensors, recording = xp is namespace, is_grad_enabled()
        with enable_grad(), random.replay(at):
            xs = [
                (_fresh(x) if on_tensors else wrap(x, Node())) if n else as_tensor(x, share=True)
                for x, n in zip(inputs, needed, strict=True)
            ]
            results, _ = call(xs)
        own = [x._node if n else None for x, n in zip(xs, needed, strict=True)]
        targets = [*own, *captured]
        found = pull_back(
            [y for y in results if isinstance(y, Tensor) and y.requires_grad],
            g,
            [node for node in targets if node is not None],
            create_graph=on_tensors and recording,
            boundary={node for node in targets if node is not None},
        )
        parts = [found.get(node) for node in targets]  # type: ignore[arg-type]
        return parts if on_tensors else [None if p is None else p._array for p in parts]

    primitive = Primitive(
        "checkpoint",
        "movement",
        lambda xp, *inputs: None,
        replay,
        joint=True,
        outputs="several",
    )
    argnums = [i for i, n in enumerate(needed) if n]
    argnums += range(len(tensors), len(tensors) + len(captured))
    own = [tensors[i] for i in argnums if i < len(tensors)]
    return Node(
        primitive,
        backends.of(outputs[0]._array),
        {},
        tuple([*(x._node for x in own), *captured]),  # type: ignore[list-item]
        tuple(argnums),
        ((tuple([x._array for x in tensors]),),),
        tuple([*((x._array.shape, x._array.dtype) for x in own), *captured.values()]),
    )
