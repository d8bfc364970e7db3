"""The optimisers, in order of increasing complexity: one equation each, as in its paper.

Defaults are PyTorch's, and so is what a paper leaves open. Products with ``lr`` and the like keep
the dtype of the parameter, because a Python number does not decide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

from tinygrad_rnn_backends import Backend

from ..graph import Array
from .optimizer import Optimizer, Settings, State


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964; Sutskever et al. 2013) if asked for.

    ::

        velocity = momentum * velocity + (1 - dampening) * grad
        p = p - lr * velocity

    The velocity begins as the first gradient, not dampened. With ``nesterov`` the step is
    ``lr * (grad + momentum * velocity)``. Of a sparse gradient (see ``functional.embedding``) it
    takes the rows, without momentum and weight decay; otherwise it makes that dense.
    """

    moments: ClassVar = {"velocity": "momentum"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening}
        defaults |= {"weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults, nonfinite)

    def _checked(self, given: Settings) -> dict[str, Any]:
        settings = super()._checked(given)
        if settings["nesterov"] and (not settings["momentum"] or settings["dampening"]):
            raise ValueError("SGD: nesterov needs momentum above 0, and dampening of 0")
        return settings

    def _takes_rows(self, settings: Settings) -> bool:
        return not settings["momentum"] and not settings["weight_decay"]

    def _initial(self, xp: Backend, p: Array, settings: Settings) -> State:
        return {}

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        lr, momentum = settings["lr"], settings["momentum"]
        if not momentum:
            return p - lr * grad, state
        velocity = grad
        if state:
            velocity = momentum * state["velocity"] + (1 - settings["dampening"]) * grad
        ahead = grad + momentum * velocity if settings["nesterov"] else velocity
        return p - lr * ahead, {"velocity": velocity}


class RMSprop(Optimizer):
    """The gradient over its recent size (Tieleman & Hinton 2012, lecture 6.5).

    ::

        square = alpha * square + (1 - alpha) * grad**2
        p = p - lr * grad / (sqrt(square) + eps)

    ``centered`` subtracts the square of the mean, so that the size is that of the deviation (Graves
    2013). With ``momentum``, what is multiplied by ``lr`` is a velocity, ``momentum`` times the
    last one plus that quotient.
    """

    moments: ClassVar = {"square": None, "mean": "centered", "velocity": "momentum"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"momentum": momentum, "centered": centered}
        super().__init__(params, defaults, nonfinite)

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        alpha, momentum = settings["alpha"], settings["momentum"]
        square = alpha * state["square"] + (1 - alpha) * grad**2
        new = {"square": square}
        if settings["centered"]:
            new["mean"] = alpha * state["mean"] + (1 - alpha) * grad
            # A variance; rounding alone can make it negative, where gradients hardly change.
            square = xp.maximum(square - new["mean"] ** 2, 0.0)
        step = grad / (xp.sqrt(square) + settings["eps"])
        if momentum:
            step = new["velocity"] = momentum * state["velocity"] + step
        return p - settings["lr"] * step, new


class Adagrad(Optimizer):
    """The gradient over its size so far, so steps get shorter (Duchi, Hazan & Singer 2011).

    ::

        total = total + grad**2
        p = p - lr / (1 + (step - 1) * lr_decay) * grad / (sqrt(total) + eps)

    The total begins at ``initial_accumulator_value``. Of a sparse gradient (see
    ``functional.embedding``) it takes the rows, without weight decay; else it makes that dense.
    """

    counts = ("step",)
    moments: ClassVar = {"total": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay}
        defaults |= {"initial_accumulator_value": initial_accumulator_value, "eps": eps}
        super().__init__(params, defaults, nonfinite)

    def _takes_rows(self, settings: Settings) -> bool:
        return not settings["weight_decay"]

    def _initial(self, xp: Backend, p: Array, settings: Settings) -> State:
        return {"step": 0, "total": xp.full_like(p, settings["initial_accumulator_value"])}

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        step = state["step"] + 1
        total = state["total"] + grad**2
        lr = settings["lr"] / (1 + (step - 1) * settings["lr_decay"])
        return p - lr * grad / (xp.sqrt(total) + settings["eps"]), {"step": step, "total": total}


class Adadelta(Optimizer):
    """The gradient over its recent size times that of the steps, without a rate (Zeiler 2012).

    ::

        square = rho * square + (1 - rho) * grad**2
        delta = sqrt(square_delta + eps) / sqrt(square + eps) * grad
        square_delta = rho * square_delta + (1 - rho) * delta**2
        p = p - lr * delta

    The ``lr`` that is there all the same is 1 in the paper.
    """

    moments: ClassVar = {"square": None, "square_delta": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, nonfinite)

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        rho, eps = settings["rho"], settings["eps"]
        square = rho * state["square"] + (1 - rho) * grad**2
        delta = xp.sqrt(state["square_delta"] + eps) / xp.sqrt(square + eps) * grad
        square_delta = rho * state["square_delta"] + (1 - rho) * delta**2
        return p - settings["lr"] * delta, {"square": square, "square_delta": square_delta}


class Adam(Optimizer):
    """A step of about ``lr`` along the mean gradient over its recent size (Kingma & Ba 2015).

    ::

        mean = beta_1 * mean + (1 - beta_1) * grad
        square = beta_2 * square + (1 - beta_2) * grad**2
        p = p - lr * mean / (1 - beta_1**step) / (sqrt(square / (1 - beta_2**step)) + eps)

    With ``amsgrad`` the square there is the largest so far (Reddi, Kale & Kumar 2018). A sparse
    gradient is made dense, since moments of rows without one change all the same; ``SparseAdam``
    passes over them.
    """

    counts = ("step",)
    moments: ClassVar = {"mean": None, "square": None, "largest_square": "amsgrad"}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps}
        defaults |= {"weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, defaults, nonfinite)

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        beta_1, beta_2 = settings["betas"]
        step = state["step"] + 1
        mean = beta_1 * state["mean"] + (1 - beta_1) * grad
        square = beta_2 * state["square"] + (1 - beta_2) * grad**2
        new = {"step": step, "mean": mean, "square": square}
        if settings.get("amsgrad"):
            square = new["largest_square"] = xp.maximum(state["largest_square"], square)
        # The corrections of the bias towards zero, where they cost one pass less.
        size = xp.sqrt(square) / math.sqrt(1 - beta_2**step) + settings["eps"]
        return p - settings["lr"] / (1 - beta_1**step) * mean / size, new


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019).

    ``p - lr * weight_decay * p`` takes the place of p, and the gradient stays as it is, so that the
    decay is not divided by the size of the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        nonfinite: str = "raise",
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, nonfinite=nonfinite)

    def _decay(self, p: Array, grad: Array, settings: Settings) -> tuple[Array, Array]:
        return p * (1 - settings["lr"] * settings["weight_decay"]), grad


class SparseAdam(Adam):
    """Adam, lazy: a row whose gradient is zero throughout stays as it is, and so do its moments.

    So it is no Adam for an embedding: a row that has not occurred for a while neither moves on by
    its momentum nor forgets, while ``step`` counts the steps of the whole. It works on the rows of
    a sparse gradient (see ``functional.embedding``), and gives the same for a dense one; rows are
    along the first axis. Where all rows have a gradient it is ``Adam``, so one optimiser does for a
    whole model, while PyTorch's ``SparseAdam`` takes sparse gradients only. Its defaults are the
    same. There is neither weight decay nor ``amsgrad``.
    """

    lazy = True
    moments: ClassVar = {"mean": None, "square": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        nonfinite: str = "raise",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps}
        Optimizer.__init__(self, params, defaults, nonfinite)

    def _takes_rows(self, settings: Settings) -> bool:
        return True
