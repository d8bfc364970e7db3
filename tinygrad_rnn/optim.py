"""Optimisers, in order of increasing complexity, and clipping. Names and defaults are PyTorch's.

A step computes all new values before it assigns any, and rebinds ``p.data``: nothing is written in
place, so a graph built before the step still gives the gradients of its time. The subtle point is
where the state lives: beside the parameter, following it to another backend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from .graph import Array
from .tensor import Tensor, backend_of, show, wrap

__all__ = ["SGD", "Adam", "Optimizer", "clip_grad_norm_"]


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most ``max_norm`` (Pascanu et al. 2013).

    One Tensor stands for a list of it, and a parameter without a gradient counts as zero. Returns
    the norm before. Raises FloatingPointError for one that is not finite, gradients untouched.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be positive, not {max_norm}")
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    clipped = [(p, p.grad) for p in given if p.grad is not None]
    norm = math.sqrt(sum(_squared_norm(grad) for _, grad in clipped))
    if not math.isfinite(norm):
        raise FloatingPointError(f"clip_grad_norm_: the norm of the gradients is {norm}")
    if norm > max_norm:
        for p, grad in clipped:
            p.grad = wrap(backend_of(grad).asarray(grad._array * (max_norm / norm)), None)
    return norm


def _squared_norm(grad: Tensor) -> float:
    xp = backend_of(grad)
    return float(xp.to_host(xp.asarray(xp.sum(xp.astype(grad._array, xp.float64) ** 2))))


class Optimizer:
    """What optimisers have in common: groups of parameters with settings, and a state for each.

    The state of a parameter is empty, or it has all the ``counts``, which are ints, and all the
    ``moments``, which are arrays of the parameter's shape, dtype and backend.
    """

    counts: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(f"{type(self).__name__}: give a list of parameters, not a Tensor")
        given = list(params)
        if not given:
            raise ValueError(f"{type(self).__name__}: there are no parameters to train")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        self.param_groups: list[dict[str, Any]] = []
        seen: set[int] = set()
        for group in groups:
            unknown = set(group) - {"params", *defaults}
            if unknown:
                raise ValueError(f"{type(self).__name__}: unknown settings {sorted(unknown)}")
            tensors = list(group["params"])
            for p in tensors:
                if not isinstance(p, Tensor) or not p.is_leaf:
                    raise TypeError(
                        f"{type(self).__name__}: parameters are leaf Tensors, not {p!r}"
                    )
                if id(p) in seen:
                    raise ValueError(
                        f"{type(self).__name__}: a parameter of {p.shape} is given twice"
                    )
                seen.add(id(p))
            self.param_groups.append({**defaults, **group, "params": tensors})
        self.state: dict[int, dict[str, Any]] = {}  # by the position of the parameter

    def zero_grad(self) -> None:
        """Set ``.grad`` of all parameters to None."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, or raise before any is updated."""
        updates = []
        position = 0
        for group in self.param_groups:
            # NumPy's scalars, of a schedule say, would decide the dtype; Python's do not
            settings = {k: v.item() if isinstance(v, np.generic) else v for k, v in group.items()}
            for p in group["params"]:
                if p.grad is not None:
                    updates.append(
                        (p, position, *self._checked_update(p, p.grad, position, settings))
                    )
                position += 1
        for p, position, array, state in updates:
            p._rebind(array, backend_of(p))
            self.state[position] = state

    def _checked_update(
        self, p: Tensor, grad: Tensor, position: int, settings: dict[str, Any]
    ) -> tuple[Array, dict[str, Any]]:
        """The new array and state of a parameter, which can be assigned without a further look."""
        xp = backend_of(p)
        if not _alike(grad._array, p):
            raise ValueError(
                f"{type(self).__name__}: parameter {position} is {show(p)} on {p.backend!r}, but "
                f"its gradient is {show(grad)} on {grad.backend!r}; compute it again"
            )
        state = self.state.get(position, {})
        state = {k: _like_parameter(v, p) if k in self.moments else v for k, v in state.items()}
        array, state = self._update(p, grad._array, state, settings)
        # asarray: what NumPy computes from 0-d arrays are scalars
        array = xp.asarray(array)
        if not _alike(array, p):
            raise ValueError(
                f"{type(self).__name__}: parameter {position} is {show(p)}, but with the settings "
                f"{ {k: v for k, v in settings.items() if k != 'params'} } becomes {show(array)}"
            )
        return array, {k: xp.asarray(v) if k in self.moments else v for k, v in state.items()}

    def _update(
        self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]
    ) -> tuple[Array, dict[str, Any]]:
        """The new array of a parameter and its new state; changes nothing.

        ``state`` is what the last call returned for it, or empty.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Settings of the groups, and the state by parameter position, arrays as Tensors."""
        return {
            "groups": [
                {k: v for k, v in group.items() if k != "params"} for group in self.param_groups
            ],
            "state": {
                i: {k: wrap(v, None) if k in self.moments else v for k, v in state.items()}
                for i, state in self.state.items()
            },
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was called; parameters must be in the same order.

        The state takes the dtype and the backend of the parameters. Raises ValueError for other
        groups, settings, names or shapes, before anything is changed.
        """
        name = f"load_state_dict into {type(self).__name__}"
        if set(saved) != {"groups", "state"}:
            raise ValueError(f"{name}: 'groups' and 'state' are expected, not {sorted(saved)}")
        own = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        if [set(settings) for settings in saved["groups"]] != [set(settings) for settings in own]:
            raise ValueError(f"{name}: groups with other settings; expected {own}")
        tensors = [p for group in self.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for key, values in saved["state"].items():
            position = int(key)
            if not 0 <= position < len(tensors):
                raise ValueError(f"{name}: state of parameter {key}, and there are {len(tensors)}")
            expected = {*self.counts, *self.moments}
            if values and set(values) != expected:
                raise ValueError(
                    f"{name}: parameter {key} has the state {sorted(values)}, expected "
                    f"{sorted(expected)}"
                )
            state[position] = {
                kind: _loaded(value, tensors[position], f"{name}: {kind} of parameter {key}")
                if kind in self.moments
                else _loaded_count(value, f"{name}: {kind} of parameter {key}")
                for kind, value in values.items()
            }
        for group, settings in zip(self.param_groups, saved["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
        self.state = state


def _alike(array: Array, p: Tensor) -> bool:
    """Whether an array has the shape, the dtype and the backend of a parameter."""
    own = p._array
    return (
        backends.of(array) is backends.of(own)
        and tuple(array.shape) == tuple(own.shape)
        and array.dtype == own.dtype
    )


def _like_parameter(array: Array, p: Tensor) -> Array:
    """A moment in the dtype and on the backend of its parameter, which may have moved."""
    if _alike(array, p):
        return array
    host = backends.of(array).to_host(array)  # type: ignore[union-attr]
    return backend_of(p).from_host(host.astype(p.dtype))


def _loaded(value: Any, p: Tensor, name: str) -> Array:
    """A moment from a Tensor or an array, as its parameter needs it."""
    host = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if host.shape != p.shape:
        raise ValueError(f"{name} has shape {host.shape}, expected {p.shape}")
    if host.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {host.dtype}, expected {p.dtype}")
    return backend_of(p).from_host(host.astype(p.dtype))


def _loaded_count(value: Any, name: str) -> int:
    """A count from an int, or from an array of one, as which files keep it."""
    host = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if host.shape != () or host.dtype.kind not in "iu" or host < 0:
        raise ValueError(f"{name} is {value!r}, expected an integer from 0")
    return int(host)


class SGD(Optimizer):
    """p - lr * (grad + weight_decay * p), with momentum (Sutskever et al. 2013) if asked for.

    The velocity is ``momentum * velocity + grad``, starting from the first gradient; with
    ``nesterov`` the step is ``grad + momentum * velocity``.
    """

    moments = ("velocity",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        _check_not_negative("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov needs momentum")
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov},
        )

    def _update(
        self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]
    ) -> tuple[Array, dict[str, Any]]:
        momentum = group["momentum"]
        if group["weight_decay"]:
            grad = grad + p._array * group["weight_decay"]
        if momentum:
            velocity = grad if not state else state["velocity"] * momentum + grad
            state = {"velocity": velocity}
            grad = grad + velocity * momentum if group["nesterov"] else velocity
        return p._array - grad * group["lr"], state


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015): a step of about ``lr`` along the gradient over its recent size.

    ``weight_decay`` is added to the gradient, as in PyTorch.
    """

    counts = ("step",)
    moments = ("mean", "square")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _check_not_negative("Adam", lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adam: betas between 0 and 1, not {betas}")
        super().__init__(
            params, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )

    def _update(
        self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]
    ) -> tuple[Array, dict[str, Any]]:
        xp = backend_of(p)
        first, second = group["betas"]
        if group["weight_decay"]:
            grad = grad + p._array * group["weight_decay"]
        step = state.get("step", 0) + 1
        mean = grad * (1 - first)
        square = grad * grad * (1 - second)
        if state:
            mean = state["mean"] * first + mean
            square = state["square"] * second + square
        size = xp.sqrt(square) / math.sqrt(1 - second**step) + group["eps"]
        array = p._array - mean * (group["lr"] / (1 - first**step)) / size
        return array, {"step": step, "mean": mean, "square": square}


def _check_not_negative(name: str, **settings: float) -> None:
    for key, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name}: {key} must not be negative, and is {value}")
