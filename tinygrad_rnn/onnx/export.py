"""``export``: a module or a function of Tensors as a model of ONNX."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from ..nn.module import Module
from ..planner.ir import Value, ordered
from ..structure import flatten, unflatten
from ..tensor import Tensor
from .library import ExportError, library
from .operations import ROWS
from .record import Meta, Recorded, record
from .recurrent import Step, pairs, write_native
from .symbols import Sizes
from .writer import Writer

OPSET = 18
_LARGEST = 2**31 - 2**20  # bytes of a protobuf, and room for what is not weights


def export(
    function: Callable[..., Any],
    /,
    *examples: Any,
    path: str | os.PathLike[str] | None = None,
    dynamic: bool | Sequence[Any] = True,
    **named: Any,
) -> Any:
    """A module, or a function of Tensors, as a model of ONNX; written to ``path``, if there is one.

    ::

        model = onnx.export(lstm, x, lengths=lengths, path="lstm.onnx")
        session = onnxruntime.InferenceSession("lstm.onnx")
        output, h, c = session.run(None, {"x": x, "lengths": lengths})

    It is run on no values, in ``eval()``, and what it does is written. ``unroll`` of an LSTM, GRU
    or RNN, and so each of the layers, becomes the node of this name, of any other cell a Scan.
    Weights that go in as they are keep their names; inputs are called as the arguments are, the
    parts of one ``state_0``, ``state_1``; outputs ``output``, or ``output_0`` and so on.

    For T = 0 and B = 0 there are no promises: onnxruntime ends the process for some nodes. Nor
    are lengths checked there.

    Args:
        function: a Module, or any callable on Tensors.
        examples: arguments like those that the model will get. Of arrays, Tensors and lists of
            numbers only shapes and dtypes matter; anything else, such as None or a number, is part
            of the model as it is.
        path: the file.
        dynamic: which sizes the model leaves open. True: T and B, which are axis 0 and 1 of an
            array with three or more axes, or of integers or booleans with two (with
            ``batch_first`` the other way round); axis 0 of any other is B, and of an argument
            called ``state`` the last but one. Sizes that are equal in
            the examples are taken to be equal always: give examples that differ where arrays may.
            False: none. Or a tuple of names, or None for a size that is fixed, for each array:
            ``[("T", "B", None), ("B",)]``.
        named: keyword arguments, likewise.

    Returns:
        the model, an ``onnx.ModelProto`` of opset 18.

    Raises:
        ImportError: without the extra ``onnx``.
        ExportError: for what cannot be written, each operation by its name and line.
        TypeError: for no module or function, and where no example is an array of numbers.
        ValueError: for names that do not fit, and for more than 2 GB of weights.
    """
    onnx = library("export")
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"export: a module or a function of Tensors, not {function!r}")
    given = (tuple(map(_as_array, examples)), {k: _as_array(x) for k, x in named.items()})
    leaves, structure = flatten(given)
    arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]
    if not arrays:
        raise TypeError("export: there is no array or Tensor among the examples")
    metas = [_meta(leaves[i]) for i in arrays]
    every = _input_names(function, given)
    names = [every[i] for i in arrays]

    def called(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for i, x in zip(arrays, tensors, strict=True):
            filled[i] = x
        arguments, by_name = unflatten(structure, filled)
        return function(*arguments, **by_name)

    xp = _backend(function)
    opened = _opened(function, metas, dynamic, names)
    sizes = Sizes(
        sorted({name for axes in opened for name in axes if name is not None}),
        {n for x in [*metas, *_metas(function)] for n in x.shape},
    )
    with _evaluating(function):
        first, second = (
            record(called, _sized(metas, opened, chosen), xp)
            for chosen in (sizes.first, sizes.second)
        )
    twins = _twins(first, second)
    _refuse_unknown(first, twins)
    owned = {id(p): name for name, p in _weights(function).items()}
    writer = Writer(onnx, sizes, twins, _captured(first, second), owned)
    model = _written(writer, first, names, opened)
    if sum(len(x.raw_data) for x in model.graph.initializer) > _LARGEST:
        raise ValueError("export: the weights take more than 2 GB, and a file of ONNX has no more")
    onnx.checker.check_model(model)
    if path is not None:
        onnx.save(model, os.fspath(path))
    return model


# What is given.


def _as_array(example: Any) -> Any:
    """A list of numbers, such as lengths, as the array that it stands for."""
    leaves = flatten(example)[0] if isinstance(example, list) else []
    plain = bool(leaves) and all(isinstance(x, (bool, int, float)) for x in leaves)
    return np.asarray(example) if plain else example


def _meta(leaf: Any) -> Meta:
    dtype = np.dtype(leaf.dtype)
    if dtype.kind not in "biuf":
        raise TypeError(f"export: examples are arrays or Tensors of numbers, not of {dtype}")
    return Meta(tuple(leaf.shape), dtype)


def _weights(function: Any) -> dict[str, Tensor]:
    if not isinstance(function, Module):
        return {}
    return {**dict(function.named_parameters()), **dict(function.named_buffers())}


def _metas(function: Any) -> list[Meta]:
    return [Meta(x.shape, x.dtype) for x in _weights(function).values()]


def _backend(function: Any) -> Any:
    weight = next(iter(_weights(function).values()), None)
    return backends.default() if weight is None else backends.get(weight.backend)


@contextmanager
def _evaluating(function: Any) -> Iterator[None]:
    """Modules are in ``eval()`` in this block, and afterwards as they were."""
    modules = [*function.modules()] if isinstance(function, Module) else []
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def _input_names(function: Any, given: tuple[Any, dict[str, Any]]) -> list[str]:
    """What inputs are called: as the arguments, and the parts of one by numbers."""
    called = function.forward if isinstance(function, Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        own = []
    positional, named = given
    own += [f"input_{i}" for i in range(len(own), len(positional))]
    found = []
    for name, argument in [*zip(own, positional, strict=False), *named.items()]:
        count = len(flatten(argument)[0])
        alone = flatten(argument)[1].container is None
        found += [name] if alone else [f"{name}_{i}" for i in range(count)]
    return found


def _opened(
    function: Any, metas: list[Meta], dynamic: Any, inputs: list[str]
) -> list[tuple[str | None, ...]]:
    """The name of each size of each array, None for one that is fixed."""
    if dynamic is False:
        return [(None,) * len(meta.shape) for meta in metas]
    if dynamic is not True:
        given = [tuple(names) for names in dynamic]
        fits = len(given) == len(metas) and all(
            len(names) <= len(meta.shape) for names, meta in zip(given, metas, strict=True)
        )
        if not fits or not all(n is None or isinstance(n, str) for each in given for n in each):
            raise ValueError(
                f"export: dynamic has a tuple of names for each of {inputs}, none longer than its "
                f"shape, {[meta.shape for meta in metas]}; not {dynamic!r}"
            )
        found = [
            (*names, *(None,) * (len(meta.shape) - len(names)))
            for names, meta in zip(given, metas, strict=True)
        ]
        _check_lengths(found, metas, inputs)
        return found
    swapped = getattr(function, "batch_first", False)
    known: dict[tuple[str, int], str] = {}

    def name(stem: str, length: int) -> str:
        others = [key for key in known if key[0] == stem]
        return known.setdefault((stem, length), f"{stem}{len(others) + 1}" if others else stem)

    opened: list[tuple[str | None, ...]] = []
    for (shape, dtype), called in zip(metas, inputs, strict=True):
        over_time = len(shape) > 2 or (len(shape) == 2 and dtype.kind != "f")
        stems: list[str | None] = ["B"]
        if over_time:
            stems = ["B", "T"] if swapped else ["T", "B"]
        if called.partition("_")[0] == "state":
            stems = [None] * (len(shape) - 2) + ["B"]
        named = [stem and name(stem, n) for stem, n in zip(stems, shape, strict=False)]
        opened.append((*named, *(None,) * (len(shape) - len(named))))
    return opened


def _check_lengths(
    opened: list[tuple[str | None, ...]], metas: list[Meta], inputs: list[str]
) -> None:
    lengths: dict[str, tuple[int, str]] = {}
    for names, meta, called in zip(opened, metas, inputs, strict=True):
        for name, length in zip(names, meta.shape, strict=True):
            if name is not None and lengths.setdefault(name, (length, called))[0] != length:
                other, where = lengths[name]
                raise ValueError(
                    f"export: {name} is {other} in {where} and {length} in {called}; sizes of one "
                    "name are equal"
                )


def _sized(
    metas: list[Meta], opened: list[tuple[str | None, ...]], chosen: Mapping[str, int]
) -> list[Meta]:
    """The arrays with sizes chosen for those that are left open."""
    return [
        Meta(
            tuple(
                n if name is None else chosen[name]
                for n, name in zip(meta.shape, names, strict=True)
            ),
            meta.dtype,
        )
        for meta, names in zip(metas, opened, strict=True)
    ]


# Two traces.


def _twins(first: Recorded, second: Recorded) -> dict[Value, Value]:
    """The value of the second trace for each of the first; ExportError where they differ."""
    if first.structure != second.structure:
        raise ExportError(
            f"export: the structure of the results depends on sizes that are left open: "
            f"{first.structure} and {second.structure}; give dynamic=False"
        )
    found: dict[Value, Value] = {}
    pending = [((*first.inputs, *first.outputs), (*second.inputs, *second.outputs))]
    while pending:
        ones, others = pending.pop()
        lists = ordered(ones), ordered(others)
        for one, other in zip(*lists, strict=False):
            if (one.name, len(one.inputs), one.dtype) != (
                other.name,
                len(other.inputs),
                other.dtype,
            ):
                raise ExportError(_differs(one, other))
            if one in found:
                continue
            found[one] = other
            if one.source is None and "step" in one.parameters:
                a, b = one.parameters["step"], other.parameters["step"]
                both = [(*x.sources, *x.outputs, *x.following) for x in (a, b)]
                pending.append((both[0], both[1]))
        if len(lists[0]) != len(lists[1]):
            longer = max(lists, key=len)
            one = longer[min(map(len, lists))]
            raise ExportError(_differs(one, one))
    return found


def _differs(one: Value, other: Value) -> str:
    return (
        f"export: how much is computed depends on sizes that are left open, from {one.name} at "
        f"{one.line or other.line} on; unroll loops over time. Or give dynamic=False"
    )


def _captured(first: Recorded, second: Recorded) -> dict[Value, tuple[Any, Any]]:
    """For values from outside, what they are in both traces."""
    found: dict[Value, tuple[Any, Any]] = {}
    for value in _sources(first):
        kind, index = value.source  # type: ignore[misc]
        if kind in ("captured", "scalar", "constant"):
            attribute = {"captured": "captured", "scalar": "scalars", "constant": "constants"}[kind]
            held = [getattr(recorded.trace, attribute) for recorded in (first, second)]
            if index < len(held[1]):
                found[value] = held[0][index], held[1][index]
    return found


def _sources(recorded: Recorded) -> list[Value]:
    return [value for value in _everything(recorded) if value.source is not None]


def _everything(recorded: Recorded) -> list[Value]:
    """All values, those within loops as well."""
    found: dict[Value, None] = {}
    pending: list[Sequence[Value]] = [recorded.outputs]
    while pending:
        for value in ordered(pending.pop()):
            if value in found:
                continue
            found[value] = None
            step = None if value.source is not None else value.parameters.get("step")
            if isinstance(step, Step) and step.native is None:
                pending.append([*step.outputs, *step.following])
    return [*found]


def _refuse_unknown(recorded: Recorded, twins: dict[Value, Value]) -> None:
    """Raise ExportError naming each operation that there is no row for, with its line."""
    unknown = [
        f"{value.name} at {value.line}"
        for value in _everything(recorded)
        if value.source is None and "step" not in value.parameters and value.name not in ROWS
    ]
    if unknown:
        raise ExportError(
            "export: there is nothing in ONNX for " + "; ".join(dict.fromkeys(unknown))
        )


# Writing.


def _written(
    writer: Writer, recorded: Recorded, names: list[str], opened: list[tuple[str | None, ...]]
) -> Any:
    helper = writer.onnx.helper
    inputs = []
    for value, name, axes in zip(recorded.inputs, names, opened, strict=True):
        writer.call(value, name)
        inputs.append(writer.info(value, name))
        for axis, size in enumerate(axes):
            if size is not None:
                writer.opened(size, name, axis)
    _write(writer, recorded.outputs)
    outputs = []
    for i, value in enumerate(recorded.outputs):
        name = "output" if len(recorded.outputs) == 1 else f"output_{i}"
        result = writer.name(value)
        writer.nodes.append(helper.make_node("Identity", [result], [name]))
        outputs.append(writer.info(value, name))
    graph = helper.make_graph(
        writer.prelude + writer.nodes,
        "tinygrad_rnn",
        inputs,
        outputs,
        initializer=[*writer.initializers.values()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
        producer_name="tinygrad_rnn",
    )


def _write(writer: Writer, results: Sequence[Value], inside: set[Value] | None = None) -> None:
    """The nodes of all that results need, of a loop's step only what is inside it."""
    values = [v for v in ordered(results) if inside is None or v in inside]
    partners = pairs(values)
    done: set[int] = set()
    for value in values:
        if value.source is not None:
            continue
        step = value.parameters.get("step")
        if isinstance(step, Step):
            if id(step) not in done:
                done |= _write_loop(writer, value, partners, values)
            continue
        if value.output is None:
            writer.call(value, ROWS[value.name](writer, value))
            continue
        key = id(value.inputs), value.primitive
        made = writer.several.get(key)
        if made is None:
            made = writer.several[key] = ROWS[value.name](writer, value)
        writer.call(value, made[value.output])


def _write_loop(
    writer: Writer, value: Value, partners: dict[Value, Value], values: list[Value]
) -> set[int]:
    """A loop, and the one in the other direction if they are one node; their steps."""
    step: Step = value.parameters["step"]
    steps = [step]
    if step.native is None:
        found = [_write_scan(writer, step)]
    else:
        first = next((v for v in partners if v.parameters["step"] is step), None)
        if first is not None:
            other: Step = partners[first].parameters["step"]
            _write(writer, [*other.states])
            steps.append(other)
        found = write_native(writer, steps)
    for one, names in zip(steps, found, strict=True):
        for other_value in values:
            if other_value.source is None and other_value.parameters.get("step") is one:
                assert other_value.output is not None
                writer.call(other_value, names[other_value.output])
    return {id(one) for one in steps}


def _write_scan(writer: Writer, step: Step) -> list[str]:
    """Any loop, as a Scan: its step is a graph of its own, which sees the names around it."""
    helper = writer.onnx.helper
    given = [writer.name(x) for x in [*step.states, *step.xs]]
    for value in step.free:
        writer.name(value)
    parts, states = step.sources[: len(step.xs)], step.sources[len(step.xs) :]
    with writer.body() as nodes:
        inputs = []
        for value in [*states, *parts]:
            name = writer.fresh("step")
            writer.call(value, name)
            inputs.append(writer.info(value, name))
        _write(writer, [*step.following, *step.outputs], step.inside)
        outputs = []
        for value in [*step.following, *step.outputs]:
            name = writer.fresh("result")
            nodes.append(helper.make_node("Identity", [writer.name(value)], [name]))
            outputs.append(writer.info(value, name))
        body = helper.make_graph(nodes, writer.fresh("body"), inputs, outputs)
    order = [int(step.loop.reverse)]
    found = writer.ops(
        "Scan",
        len(outputs),
        *given,
        body=body,
        num_scan_inputs=len(step.xs),
        scan_input_directions=order * len(step.xs),
        scan_output_directions=order * len(step.outputs),
    )
    states_after, over_time = found[: len(states)], found[len(states) :]
    return [*over_time, *states_after]
