"""Modules: objects that hold parameters, found by walking their attributes in order of definition.

There is no registration and no ``__setattr__``: an attribute that is a Parameter, a Buffer or a
Module counts, and so does one inside a list, tuple or dict. The subtle point is sharing: a
parameter reached by two names is listed, counted and saved once, under the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

import tinygrad_rnn_backends as backends

from ..primitives.creation import tensor
from ..tensor import Tensor, backend_of

T = TypeVar("T")


class Parameter(Tensor):
    """A leaf that an optimiser trains. ``requires_grad=False`` freezes it; it is still saved.

    ``data`` is copied: writing to it later changes no parameter. A NumPy array goes to the default
    backend; anything else stays where it is.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(tensor(data), requires_grad)


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
    """The base of everything with parameters: define ``__init__`` and ``forward``."""

    training: bool = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module does."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``."""
        return self.forward(*args, **kwargs)

    # What it holds.

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Itself and the modules in it, each once, as ``("encoder.cell", module)``."""
        seen: set[int] = set()
        pending = [(prefix, self)]
        while pending:
            name, module = pending.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module
                pending += list(_attributes(module, name, Module))[::-1]

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """The parameters in order of definition, shared ones once, as ``("cell.bias", p)``."""
        return self._named(prefix, Parameter)

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Buffer]]:
        """The buffers, likewise."""
        return self._named(prefix, Buffer)

    def _named(self, prefix: str, kind: type[T]) -> Iterator[tuple[str, T]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, value in _attributes(module, path, kind):
                if id(value) not in seen:
                    seen.add(id(value))
                    yield name, value

    def parameters(self) -> Iterator[Parameter]:
        """The parameters in order of definition, shared ones once."""
        return (p for _, p in self.named_parameters())

    # Changing all of it.

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` on every module: dropout is active only then."""
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
        held = [x for _, x in (*self.named_parameters(), *self.named_buffers())]
        moved = [target.from_host(backend_of(x).to_host(x._array)) for x in held]
        grads = [None if x.grad is None else x.grad.detach().to(backend) for x in held]
        for x, array, grad in zip(held, moved, grads, strict=True):
            x._array = array
            x.grad = grad
        return self

    # Saving and loading.

    def state_dict(self) -> dict[str, Tensor]:
        """All parameters and buffers by name, detached; shared ones once."""
        named = (*self.named_parameters(), *self.named_buffers())
        return {name: x.detach() for name, x in named}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Keys:
        """Take over values from Tensors or arrays; dtype and backend of the module stay.

        Raises ValueError listing every missing, unexpected and unfitting key, before anything is
        changed. With ``strict=False`` what is given must fit, and the other keys are returned.
        """
        own: dict[str, Tensor] = dict((*self.named_parameters(), *self.named_buffers()))
        keys = Keys([k for k in own if k not in state], [k for k in state if k not in own])
        given = {k: _host(state[k]) for k in own if k in state}
        problems = []
        if strict and keys.missing:
            problems.append(f"missing: {', '.join(keys.missing)}")
        if strict and keys.unexpected:
            problems.append(f"unexpected: {', '.join(keys.unexpected)}")
        for k, array in given.items():
            if tuple(array.shape) != own[k].shape:
                problems.append(f"{k} has shape {tuple(array.shape)}, expected {own[k].shape}")
            elif array.dtype.kind not in "biuf":
                problems.append(f"{k} holds {array.dtype}, expected {own[k].dtype}")
        if problems:
            raise ValueError(f"load_state_dict into {type(self).__name__}: {'; '.join(problems)}")
        fresh = {k: backend_of(own[k]).from_host(a.astype(own[k].dtype)) for k, a in given.items()}
        for k, array in fresh.items():
            own[k]._rebind(array, backend_of(own[k]))
        return keys

    def __repr__(self) -> str:
        parts = []
        for name, child in _attributes(self, "", Module):
            parts.append(f"  ({name}): " + repr(child).replace("\n", "\n  "))
        own = f"{type(self).__name__}({self.extra_repr()}"
        return own + ("\n" + "\n".join(parts) + "\n)" if parts else ")")

    def extra_repr(self) -> str:
        """What ``repr`` shows in the parentheses."""
        return ""


def _attributes(module: Module, prefix: str, kind: type[T]) -> Iterator[tuple[str, T]]:
    """The attributes of one module that are of a kind, inside lists, tuples and dicts, too."""
    for name, value in vars(module).items():
        yield from _inside(f"{prefix}.{name}" if prefix else name, value, kind)


def _inside(name: str, value: Any, kind: type[T]) -> Iterator[tuple[str, T]]:
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _inside(f"{name}.{i}", part, kind)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _inside(f"{name}.{key}", part, kind)


def _host(value: Any) -> np.ndarray[Any, Any]:
    return value.numpy() if isinstance(value, Tensor) else np.asarray(value)
