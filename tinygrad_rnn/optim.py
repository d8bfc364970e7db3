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
from .tensor import Tensor, backend_of, wrap

__all__ = ["SGD", "Adam", "Optimizer", "clip_grad_norm_"]


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients so that their joint norm is at most ``max_norm`` (Pascanu et al. 2013).

    Returns the norm before. Raises FloatingPointError for a norm that is not finite, gradients
    untouched. Parameters without a gradient count as zero.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm_: max_norm must be positive, not {max_norm}")
    clipped = [(p, p.grad) for p in parameters if p.grad is not None]
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
    """What optimisers have in common: groups of parameters with settings, and a state for each."""

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
        """Update every parameter that has a gradient."""
        updates = []
        position = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = _beside(p, self.state.get(position, {}))
                    updates.append((p, position, *self._update(p, p.grad._array, state, group)))
                position += 1
        for p, position, array, state in updates:
            xp = backend_of(p)
            p._rebind(array, xp)
            # asarray: what NumPy computes from 0-d arrays are scalars
            self.state[position] = {
                k: v if isinstance(v, int) else xp.asarray(v) for k, v in state.items()
            }

    def _update(
        self, p: Tensor, grad: Array, state: dict[str, Any], group: dict[str, Any]
    ) -> tuple[Array, dict[str, Any]]:
        """The new array of a parameter and its new state; changes nothing."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Settings of the groups, and the state by parameter position, arrays as Tensors."""
        return {
            "groups": [
                {k: v for k, v in group.items() if k != "params"} for group in self.param_groups
            ],
            "state": {
                i: {k: v if isinstance(v, int) else wrap(v, None) for k, v in state.items()}
                for i, state in self.state.items()
            },
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was called; parameters must be in the same order.

        Raises ValueError for other groups, settings or shapes, before anything is changed.
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
            p = tensors[position]
            for kind, value in values.items():
                if not isinstance(value, int) and tuple(value.shape) != p.shape:
                    raise ValueError(
                        f"{name}: {kind} of parameter {key} has shape {tuple(value.shape)}, "
                        f"expected {p.shape}"
                    )
            arrays = {
                k: v if isinstance(v, int) else v._array if isinstance(v, Tensor) else np.asarray(v)
                for k, v in values.items()
            }
            state[position] = _beside(p, arrays)
        for group, settings in zip(self.param_groups, saved["groups"], strict=True):
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
        self.state = state


def _beside(p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """State arrays on the backend of their parameter."""
    target = backend_of(p)
    moved = {}
    for name, value in state.items():
        source = backends.of(value)
        moved[name] = (
            value if source is None or source is target else target.from_host(source.to_host(value))
        )
    return moved


class SGD(Optimizer):
    """p - lr * (grad + weight_decay * p), with momentum (Sutskever et al. 2013) if asked for.

    The velocity is ``momentum * velocity + grad``, starting from the first gradient; with
    ``nesterov`` the step is ``grad + momentum * velocity``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        _positive("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
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

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        _positive("Adam", lr=lr, eps=eps, weight_decay=weight_decay)
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


def _positive(name: str, **settings: float) -> None:
    for key, value in settings.items():
        if not value >= 0:
            raise ValueError(f"{name}: {key} must not be negative, and is {value}")
