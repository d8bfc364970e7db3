"""Modules: objects that hold parameters, found by walking their attributes in order of definition.

There is no registration: an attribute that is a Parameter, a Buffer or a Module counts, and so does
one inside a list, tuple, dict, deque or dataclass. In a set, which has no order, or an iterator,
which can be read only once, it is refused. Any other Tensor is a constant, neither saved nor moved.
What is reached by two names, be it a parameter or a link from a child back to its parent, is
listed, counted and saved once, under the first.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping
from contextlib import suppress
from reprlib import recursive_repr
from textwrap import indent
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

import tinygrad_rnn_backends as backends

from .. import anomaly
from ..atomic import commit
from ..primitives.creation import tensor
from ..tensor import Tensor, as_tensor, backend_of, on_host, rebinding, regrading
from .containers import READ_ONCE, UNORDERED, parts_of, refused, way_into, with_parts
from .names import OF_MODULES

T = TypeVar("T")


class Parameter(Tensor):
    """A leaf that an optimiser trains. ``requires_grad=False`` freezes it; it is still saved.

    ``data`` is copied: writing to it later changes no parameter. A NumPy array goes to the default
    backend; anything else stays where it is. Raises TypeError unless its dtype is floating.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(tensor(data), requires_grad=True)  # so that it can be released later
        self.requires_grad = requires_grad


class Buffer(Tensor):
    """A value that is saved with a module but not trained; a copy of ``data``, like a Parameter."""

    __slots__ = ()

    def __init__(self, data: Any) -> None:
        super().__init__(tensor(data))


class Keys(NamedTuple):
    """What ``load_state_dict(strict=False)`` found no place or no value for."""

    missing: list[str]
    unexpected: list[str]


class Module:
    """The base of everything with parameters: define ``__init__`` and ``forward``.

    ``copy.deepcopy`` and ``pickle`` give an independent module with equal values, frozen and shared
    alike; gradients, hooks and graphs stay behind.
    """

    training: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (*UNORDERED, *READ_ONCE)):
            value = refused(f"{type(self).__name__}.{name}", value, COUNTS)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in OF_MODULES:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}, as PyTorch has: {OF_MODULES[name]}",
                name=name,
                obj=self,
            )
        return object.__getattribute__(self, name)  # which raises once more, or what it raised

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module does."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``."""
        return self.forward(*args, **kwargs)

    # What it holds.

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Itself and the modules in it, each once, as ``("encoder.cell", module)``."""
        return self._named(prefix, Module)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in it or in its containers, as ``("cells.0", module)``.

        One that has two names comes twice.
        """
        return ((name, x) for name, x in held(self, "") if isinstance(x, Module))

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """The parameters in order of definition, shared ones once, as ``("cell.bias", p)``."""
        return self._named(prefix, Parameter)

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Buffer]]:
        """The buffers, likewise."""
        return self._named(prefix, Buffer)

    def _named(self, prefix: str, kind: type[T]) -> Iterator[tuple[str, T]]:
        """What is of a kind; ValueError if two things have one name, as by ``{1: p, "1": q}``."""
        found: dict[str, Any] = {}
        seen: set[int] = set()
        pending: list[tuple[str, Any]] = [(prefix, self)]
        while pending:
            name, value = pending.pop()
            if id(value) in seen:
                continue
            if name in found:
                raise ValueError(
                    f"{type(self).__name__}: two different things are called {name!r}; "
                    "rename an attribute or a key of a dict"
                )
            seen.add(id(value))
            found[name] = value
            if isinstance(value, Module):
                pending += [*held(value, name)][::-1]
        return ((name, value) for name, value in found.items() if isinstance(value, kind))

    def modules(self) -> Iterator[Module]:
        """Itself and the modules in it, each once."""
        return (module for _, module in self.named_modules())

    def parameters(self) -> Iterator[Parameter]:
        """The parameters in order of definition, shared ones once."""
        return (p for _, p in self.named_parameters())

    def buffers(self) -> Iterator[Buffer]:
        """The buffers, likewise."""
        return (b for _, b in self.named_buffers())

    # Changing all of it.

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` on every module: dropout is active only then."""
        if not isinstance(mode, bool):
            raise TypeError(f"train: mode is True or False, not a {type(mode).__name__}")
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or release all parameters."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self) -> None:
        """Set ``.grad`` of all parameters to None."""
        for p in self.parameters():
            p.grad = None

    def to(self, backend: str) -> Self:
        """Move parameters, their gradients and buffers to a backend, in place.

        The Tensors stay the same objects, so an optimiser made before stays valid.
        """
        target = backends.get(backend)
        tensors = [x for _, x in self._named("", Tensor)]
        moved = [target.from_host(backend_of(x).to_host(x._array)) for x in tensors]
        grads = [None if x.grad is None else x.grad.detach().to(backend) for x in tensors]
        pairs = [*zip(tensors, moved, strict=True)]
        changes = [change for x, array in pairs for change in rebinding(x, array)]
        with_grad = [*zip(tensors, grads, strict=True)]
        commit(changes + [regrading(x, g) for x, g in with_grad if x.requires_grad])
        return self

    # Saving and loading.

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, detached; shared ones once, frozen ones, too."""
        return {name: x.detach() for name, x in self._named("", Tensor)}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Keys:
        """Take over values from Tensors or arrays, all of them or, if Ctrl-C comes, none.

        Dtype and backend of the module stay. Raises ValueError listing every missing, unexpected
        and unfitting key, before anything is changed. With ``strict=False`` what is given must fit,
        and the other keys are returned.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                "load_state_dict: arrays by name, as state_dict() gives them, or "
                f"serialization.load(path)[0]; not a {type(state).__name__}"
            )
        own = dict(self._named("", Tensor))
        keys = Keys([k for k in own if k not in state], [k for k in state if k not in own])
        given = {k: host_array(state[k]) for k in own if k in state}
        problems = []
        if strict and keys.missing:
            problems.append(f"missing: {', '.join(keys.missing)}")
        if strict and keys.unexpected:
            problems.append(f"unexpected: {', '.join(map(str, keys.unexpected))}")
        for k, array in given.items():
            if array.shape != own[k].shape:
                problems.append(f"{k} has shape {array.shape}, expected {own[k].shape}")
            elif not np.can_cast(array.dtype, own[k].dtype, "same_kind"):
                problems.append(f"{k} holds {array.dtype}, expected {own[k].dtype}")
        if problems:
            raise ValueError(f"load_state_dict into {type(self).__name__}: {'; '.join(problems)}")
        fresh = {k: backend_of(own[k]).from_host(a.astype(own[k].dtype)) for k, a in given.items()}
        commit(change for k, array in fresh.items() for change in rebinding(own[k], array))
        return keys

    @recursive_repr()
    def __repr__(self) -> str:
        inside = self.extra_repr()
        children = [f"({name}): {child!r}" for name, child in self.named_children()]
        if children:
            lines = [inside, *children] if inside else children
            inside = "\n" + indent("\n".join(lines), "  ") + "\n"
        return f"{type(self).__name__}({inside})"

    def extra_repr(self) -> str:
        """What ``repr`` shows in the parentheses."""
        return ""


COUNTS = (Module, Parameter, Buffer)
"""What is saved, moved and trained."""


def held(module: Module, prefix: str) -> Iterator[tuple[str, Module | Parameter | Buffer]]:
    """What counts among the attributes of one module, inside ordered containers, too."""
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [(prefix, vars(module))]
    while pending:
        name, value = pending.pop()
        if isinstance(value, COUNTS):
            yield name, value
        elif isinstance(value, UNORDERED):
            refused(f"{type(module).__name__}: {name}", value, COUNTS)
        elif id(value) not in seen:
            seen.add(id(value))
            pending += [
                (f"{name}.{key}" if name else str(key), part)
                for key, part in parts_of(value)
                if isinstance(part, (*COUNTS, *UNORDERED)) or way_into(type(part)) is not None
            ][::-1]


def _name_of(x: Any) -> str | None:
    """What a parameter or buffer is called in the outermost of the modules that hold it."""
    if not isinstance(x, (Parameter, Buffer)):
        return None
    called = "parameter" if isinstance(x, Parameter) else "buffer"
    names = []
    for module in gc.get_objects():
        if issubclass(type(module), Module):
            with suppress(ValueError):  # of one that calls two things alike, and is not to blame
                named = module._named("", Tensor)
                names += [f"{name!r} of {type(module).__name__}" for name, y in named if y is x]
    longest = max(names, key=lambda name: name.count("."), default=None)
    return f"a {called}" if longest is None else f"{called} {longest}"


anomaly.NAMERS.append(_name_of)


def host_array(value: Any) -> np.ndarray[Any, Any]:
    """A Tensor, or an array of any library, as a NumPy array."""
    return on_host("load_state_dict", value)


def functional_call(
    module: Module, parameters: Mapping[str, Tensor], *args: Any, **kwargs: Any
) -> Any:
    """``module(*args, **kwargs)`` with Tensors in place of the parameters and buffers named.

    The module becomes a function of its weights, for ``jvp``, ``hvp`` or ``vmap``; it is not
    changed, for what is called is a copy that shares everything else. Raises ValueError for a name
    that the module does not have, and for a Tensor of another shape.
    """
    own = dict(module._named("", Tensor))
    unknown = [name for name in parameters if name not in own]
    if unknown:
        raise ValueError(f"functional_call: {type(module).__name__} has no {', '.join(unknown)}")
    given = {name: as_tensor(x) for name, x in parameters.items()}
    for name, x in given.items():
        if x.shape != own[name].shape:
            raise ValueError(f"functional_call: {name} has shape {own[name].shape}, not {x.shape}")
    memo: dict[int, Any] = {id(own[name]): x for name, x in given.items()}
    return _substituted(module, memo)(*args, **kwargs)


def _substituted(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of what holds parameters, those in ``memo`` replaced."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Module):
        twin = memo[id(value)] = copy.copy(value)
        vars(twin).update({k: _substituted(v, memo) for k, v in vars(value).items()})
        return twin
    parts = [part for _, part in parts_of(value)]
    return with_parts(value, [_substituted(part, memo) for part in parts]) if parts else value
