"""Weights to and from PyTorch and Keras, as NumPy arrays: neither library is needed.

PyTorch's come by name, as ``state_dict()`` has them, Keras's in a list, as ``get_weights()`` has
them. A module of ours stands for a model of theirs whose parts have the same names (PyTorch) or
come in the same order (Keras). Weights are moved and nothing else: activations, ``batch_first`` and
the ``eps`` of a LayerNorm (1e-5 as in PyTorch, 1e-3 in Keras) are for you to choose alike.

A cell of PyTorch's has two, and so has Keras's GRU with ``reset_after``, which only ever appear as
their sum; we have that sum. On writing, the second is zero, so functions, not arrays, make the
round trip. Only where a GRU multiplies the second by the reset gate does it count on its own; there
it is ``bias_hn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .nn import (
    GRU,
    LSTM,
    RNN,
    Embedding,
    GRUCell,
    LayerNorm,
    LayerNormLSTMCell,
    Linear,
    LSTMCell,
    Module,
    MultiheadAttention,
    PeepholeLSTMCell,
    Recurrent,
    RNNCell,
    RWACell,
)
from .nn.module import held, host_array
from .tensor import Tensor

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

_CELLS = (RNNCell, LSTMCell, GRUCell)
_NOWHERE_ELSE = (PeepholeLSTMCell, LayerNormLSTMCell, RWACell)
_MATRICES = ("weight", "weight_ih", "weight_hh", "weight_hr")  # ours (in, out), PyTorch's (out, in)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")  # of a MultiheadAttention
_GATED = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # gate beside gate along the last axis
_KERAS_GATES: dict[type, list[int]] = {  # which gate of ours is each of Keras's, and vice versa
    RNNCell: [0],
    LSTMCell: [0, 1, 2, 3],  # i f c o there, i f g o here
    GRUCell: [1, 0, 2],  # z r h there, r z n here
}
_OF_CELLS = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel"}
_KERAS_NAMES: dict[type, dict[str, str]] = {
    **dict.fromkeys(_CELLS, _OF_CELLS),
    Linear: {"weight": "kernel"},
    Embedding: {"weight": "embeddings"},
    LayerNorm: {"weight": "gamma", "bias": "beta"},
}


def load_torch_state_dict(module: Module, arrays: Mapping[str, Any]) -> None:
    """Take over what PyTorch has: ``load_torch_state_dict(ours, model.state_dict())``.

    Args:
        module: an RNN, LSTM, GRU, Linear, Embedding, LayerNorm, MultiheadAttention, a cell that
            PyTorch has, too, or anything built from these. Parameters and buffers of other modules
            must have the same names and shapes in PyTorch. Dtype and backend stay as they are.
        arrays: by PyTorch's names; NumPy arrays or what ``np.asarray`` takes, such as PyTorch's
            tensors on the CPU.

    Raises ValueError listing every missing, unexpected and unfitting key, and for a module that
    PyTorch has no counterpart of: a GRU with ``reset_after=False``, a peephole LSTM, a learned
    initial state. Nothing is changed before. TypeError for a module that is none of ours.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(
            "load_torch_state_dict: arrays by name, as PyTorch's state_dict() gives them, not a "
            f"{type(arrays).__name__}"
        )
    operation = "load_torch_state_dict"
    _load(operation, _TORCH, module, _known(operation, _TORCH, module), arrays)


def torch_state_dict(module: Module) -> Arrays:
    """The weights of a module for PyTorch, by its names, as new NumPy arrays.

    ::

        model.load_state_dict({k: torch.from_numpy(a) for k, a in torch_state_dict(ours).items()})

    Raises ValueError for a module that PyTorch has no counterpart of, and TypeError for one that is
    none of ours, as ``load_torch_state_dict``.
    """
    return _written(_TORCH, _known("torch_state_dict", _TORCH, module))


def load_keras_weights(module: Module, arrays: Sequence[Any]) -> None:
    """Take over what Keras has: ``load_keras_weights(ours, model.get_weights())``.

    Args:
        module: as for ``load_torch_state_dict``. A layer with ``num_layers`` or ``bidirectional``
            takes the weights of several of Keras's: layer by layer, forwards before backwards.
            Other modules take their own parameters and buffers in order of definition, then those
            of the modules in them. A MultiheadAttention is not converted.
        arrays: in the order of ``get_weights()``.

    Raises ValueError listing every missing, unexpected and unfitting array, and for a module that
    Keras has no counterpart of: a projection, a peephole LSTM, a learned initial state. Nothing is
    changed before. TypeError for a module that is none of ours.
    """
    if not isinstance(arrays, Sequence):
        raise TypeError(
            "load_keras_weights: a list of arrays, as Keras's get_weights() gives it, not a "
            f"{type(arrays).__name__}"
        )
    operation = "load_keras_weights"
    units = _known(operation, _KERAS, module)
    names = list(_written(_KERAS, units))
    names += [f"array {i}" for i in range(len(names), len(arrays))]
    # Names without an array are missing, arrays beyond them unexpected.
    _load(operation, _KERAS, module, units, dict(zip(names, arrays, strict=False)))


def keras_weights(module: Module) -> list[Array]:
    """The weights of a module for Keras, ``model.set_weights(keras_weights(ours))``: new arrays.

    Raises ValueError for a module that Keras has no counterpart of, and TypeError for one that is
    none of ours, as ``load_keras_weights``.
    """
    return list(_written(_KERAS, _known("keras_weights", _KERAS, module)).values())


# What the libraries differ in.


class _Library(NamedTuple):
    """How the weights of one module or cell are written for another library, and read from it."""

    write: Callable[[Module, Arrays], Arrays]
    read: Callable[[Module, Arrays], Arrays]
    lacks: Callable[[Module], str | None]
    """Why a module has no counterpart there."""
    by_name: bool
    """Whether arrays have names there, all that they have; or come in a list, each once."""


def _to_torch(module: Module, own: Arrays) -> Arrays:
    if isinstance(module, MultiheadAttention):
        return _projections_together(own)
    if isinstance(module, (*_CELLS, Linear)):
        own = {name: a.T if name in _MATRICES else a for name, a in own.items()}
    return _two_biases(own) if isinstance(module, _CELLS) else own


def _from_torch(module: Module, theirs: Arrays) -> Arrays:
    if isinstance(module, MultiheadAttention):
        return _projections_apart(theirs)
    if isinstance(module, (*_CELLS, Linear)):
        theirs = {name: a.T if name in _MATRICES else a for name, a in theirs.items()}
    return _one_bias(module, theirs) if isinstance(module, _CELLS) else theirs


def _lacking_in_torch(module: Module) -> str | None:
    if isinstance(module, GRUCell) and not module.reset_after:
        return (
            "PyTorch's GRU has the reset gate after the product with weight_hh, this one before: "
            "no weights make them the same function; train one with reset_after=True"
        )
    return None


def _to_keras(module: Module, own: Arrays) -> Arrays:
    if isinstance(module, _CELLS):
        own = _regrouped(module, _two_biases(own))
        biases = [own.pop(name) for name in ("bias_ih", "bias_hh") if name in own]
        if biases:
            own["bias"] = np.stack(biases) if _is_reset_after(module) else biases[0]
    return _renamed(own, _keras_names(module))


def _from_keras(module: Module, theirs: Arrays) -> Arrays:
    names = _keras_names(module)
    own = _renamed(theirs, {there: here for here, there in names.items()})
    if not isinstance(module, _CELLS):
        return own
    if "bias" in own:
        bias = own.pop("bias")
        biases = bias if _is_reset_after(module) else (bias, np.zeros_like(bias))
        own["bias_ih"], own["bias_hh"] = biases
    return _one_bias(module, _regrouped(module, own))


def _lacking_in_keras(module: Module) -> str | None:
    if isinstance(module, LSTMCell) and module.proj_size:
        return f"Keras's LSTM has no projection, this one proj_size={module.proj_size}"
    if isinstance(module, MultiheadAttention):
        return "Keras's MultiHeadAttention has an axis of heads in its weights; these have none"
    return None


_TORCH = _Library(_to_torch, _from_torch, _lacking_in_torch, by_name=True)
_KERAS = _Library(_to_keras, _from_keras, _lacking_in_keras, by_name=False)


def _projections_together(own: Arrays) -> Arrays:
    """Those of a MultiheadAttention in one, as PyTorch has them if they are of one shape."""
    theirs = {name: a for name, a in own.items() if not name.startswith(_PROJECTIONS)}
    weights = [own[f"{part}.weight"].T for part in _PROJECTIONS]
    if len({a.shape for a in weights}) == 1:
        theirs["in_proj_weight"] = np.concatenate(weights)
    else:
        theirs |= {f"{part}_weight": a for part, a in zip(_PROJECTIONS, weights, strict=True)}
    if "q_proj.bias" in own:
        theirs["in_proj_bias"] = np.concatenate([own[f"{part}.bias"] for part in _PROJECTIONS])
    return theirs


def _projections_apart(theirs: Arrays) -> Arrays:
    own = dict(theirs)
    for kind in ("weight", "bias"):
        together = own.pop(f"in_proj_{kind}", None)
        parts = [] if together is None else np.split(together, 3)
        own |= {f"{name}.{kind}": a.T for name, a in zip(_PROJECTIONS, parts, strict=False)}
    for part in _PROJECTIONS:
        if f"{part}_weight" in own:
            own[f"{part}.weight"] = own.pop(f"{part}_weight").T
    return own


def _two_biases(own: Arrays) -> Arrays:
    """The bias of a cell as that of the input and that of h, the second of zeros but for hn."""
    theirs = dict(own)
    if "bias" in theirs:
        bias = theirs.pop("bias")
        of_n = theirs.pop("bias_hn", bias[:0])
        theirs["bias_ih"] = bias
        theirs["bias_hh"] = np.concatenate([np.zeros_like(bias[len(of_n) :]), of_n])
    return theirs


def _one_bias(module: Module, theirs: Arrays) -> Arrays:
    own = dict(theirs)
    if "bias_ih" in own:
        bias, second = own.pop("bias_ih"), own.pop("bias_hh")
        if _is_reset_after(module):
            r, z, own["bias_hn"] = np.split(second, 3)
            second = np.concatenate([r, z, np.zeros_like(z)])
        own["bias"] = bias + second
    return own


def _is_reset_after(module: Module) -> bool:
    return isinstance(module, GRUCell) and module.reset_after


def _regrouped(module: Module, arrays: Arrays) -> Arrays:
    """With the gates in Keras's order instead of ours, or in ours instead of Keras's."""
    order = next(order for kind, order in _KERAS_GATES.items() if isinstance(module, kind))

    def regroup(array: Array) -> Array:
        gates = np.split(array, len(order), axis=-1)
        return np.concatenate([gates[k] for k in order], axis=-1)

    return {name: regroup(a) if name in _GATED else a for name, a in arrays.items()}


def _keras_names(module: Module) -> dict[str, str]:
    return next((names for kind, names in _KERAS_NAMES.items() if isinstance(module, kind)), {})


def _renamed(arrays: Arrays, names: dict[str, str]) -> Arrays:
    return {names.get(name, name): array for name, array in arrays.items()}


# Whole models.


class _Unit(NamedTuple):
    """A module with what it holds itself; of a layer, each cell."""

    module: Module
    own: dict[str, Tensor]
    prefix: str
    suffix: str = ""

    def named(self, name: str) -> str:
        """In full, what is called ``name`` within the unit."""
        return self.prefix + name + self.suffix

    def written(self, library: _Library) -> Arrays:
        """As the other library has it, by names within the unit."""
        return library.write(self.module, {name: x.numpy() for name, x in self.own.items()})


def _units(module: Module, path: str = "", above: tuple[Module, ...] = ()) -> Iterator[_Unit]:
    """A module and all in it; what has two names comes twice, a link back to a parent never."""
    prefix, above = path and f"{path}.", (*above, module)
    parts = dict(held(module, path))
    own: dict[str, Tensor] = {
        name.removeprefix(prefix): x for name, x in parts.items() if isinstance(x, Tensor)
    }
    if isinstance(module, (RNN, LSTM, GRU)):
        for layer in range(module.num_layers):
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 1 + module.bidirectional]:
                cell = module.cell(layer, suffix.endswith("_reverse"))
                names = [name for name, _ in cell.named_parameters()]
                yield _Unit(cell, {n: own.pop(n + suffix) for n in names}, prefix, suffix)
    if isinstance(module, MultiheadAttention):
        for part in _PROJECTIONS:
            del parts[prefix + part]
            own |= getattr(module, part).named_parameters(part)
    yield _Unit(module, own, prefix)
    for name, child in parts.items():
        if isinstance(child, Module) and not any(child is parent for parent in above):
            yield from _units(child, name, above)


def _known(operation: str, library: _Library, module: Module) -> list[_Unit]:
    """The units of a module, if the library has a counterpart of each."""
    if not isinstance(module, Module):
        raise TypeError(
            f"{operation}: the module is one of tinygrad_rnn.nn, not a "
            f"{type(module).__module__}.{type(module).__name__}; what is another library's are the "
            "arrays"
        )
    units, seen, lacking = [], set[int](), []
    for unit in _units(module):
        held = {id(x) for x in unit.own.values()}
        if library.by_name or not held <= seen:
            units.append(unit)
        seen |= held
        if (reason := _lacks(library, unit.module)) is not None:
            lacking.append(f"{unit.prefix and unit.prefix[:-1] + ': '}{reason}")
    if lacking:
        raise ValueError(f"{operation}: {'; '.join(dict.fromkeys(lacking))}")
    return units


def _lacks(library: _Library, module: Module) -> str | None:
    learned = isinstance(module, Recurrent) and hasattr(module, "initial")
    if learned or (isinstance(module, (RNN, LSTM, GRU)) and module.learn_initial_state):
        return "a learned initial state has no place in a layer there; give the state on each call"
    if isinstance(module, _NOWHERE_ELSE):
        return f"a {type(module).__name__} has no counterpart there"
    return library.lacks(module)


def _written(library: _Library, units: list[_Unit]) -> Arrays:
    """All that the units hold as the other library has it, in new arrays."""
    return {
        unit.named(name): np.array(array, order="C")
        for unit in units
        for name, array in unit.written(library).items()
    }


def _load(
    operation: str,
    library: _Library,
    module: Module,
    units: list[_Unit],
    arrays: Mapping[str, Any],
) -> None:
    """Take over arrays that are there for exactly what ``_written`` gives, and fit; or raise."""
    expected = _written(library, units)
    labels = {
        name: name if library.by_name else f"array {i} ({name})" for i, name in enumerate(expected)
    }
    missing = [labels[name] for name in expected if name not in arrays]
    unexpected = [str(name) for name in arrays if name not in expected]
    problems = []
    if not library.by_name and len(arrays) != len(expected):
        problems.append(f"{len(arrays)} arrays, {len(expected)} expected")
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected:
        problems.append(f"unexpected: {', '.join(unexpected)}")
    given: Arrays = {}
    for name, like in expected.items():
        if name not in arrays:
            continue
        try:
            array = given[name] = host_array(arrays[name])
        except (TypeError, ValueError, RuntimeError) as error:
            problems.append(f"{labels[name]} cannot be made a NumPy array ({error})")
            continue
        if array.shape != like.shape:
            problems.append(f"{labels[name]} has shape {array.shape}, expected {like.shape}")
        elif not np.can_cast(array.dtype, like.dtype, "same_kind"):
            problems.append(f"{labels[name]} holds {array.dtype}, expected {like.dtype}")
    values: dict[int, Array] = {}  # by what holds them, which may have several names
    for unit in [] if problems else units:
        theirs = {name: given[unit.named(name)] for name in unit.written(library)}
        for name, array in library.read(unit.module, theirs).items():
            first = values.setdefault(id(unit.own[name]), array)
            if not np.array_equal(first, array, equal_nan=True):
                problems.append(f"{unit.named(name)} is shared here, but other values are given")
    if problems:
        raise ValueError(f"{operation} into {type(module).__name__}: {'; '.join(problems)}")
    tensors = (*module.named_parameters(), *module.named_buffers())
    module.load_state_dict({name: values[id(x)] for name, x in tensors})
