"""Learning-rate schedules. Names and defaults are PyTorch's.

A schedule sets ``group["lr"]`` of every group of an optimiser: when it is made, and then by each
``step()``, to be called after the optimiser's. All but ``ReduceLROnPlateau`` are a function of the
number of steps, ``rate(initial, step)``, which can be plotted without training anything.

If something else has changed the rate meanwhile, another schedule or a person, the change is kept
as a factor, until a rate of 0 leaves nothing to tell it from. So a warm-up and a
``ReduceLROnPlateau`` may be stepped side by side. A state holds the rates as well, so schedule and
optimiser may be loaded in any order.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, SupportsFloat

from ..atomic import Change, attributes, commit
from .optimizer import Optimizer
from .settings import choice, integer, not_negative, number

__all__ = [
    "StepLR",
    "ExponentialLR",
    "CosineAnnealingLR",
    "LinearLR",
    "SequentialLR",
    "ReduceLROnPlateau",
    "LRScheduler",
]


class _Schedule:
    """What all schedules have in common: an optimiser, and a state of plain numbers."""

    kept: tuple[str, ...] = ("last_epoch",)
    """The attributes that a state holds, beside the rates."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: the first argument is an optimiser, "
                f"not a {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        self.last_epoch = 0
        self._initial_lrs()

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _initial_lrs(self) -> list[float]:
        """The rate that each group had before any schedule; noted where it is not yet."""
        return [g.setdefault("initial_lr", g["lr"]) for g in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, and the rates: plain numbers, which JSON can hold.

        The arguments that it was made with are not in it.
        """
        return {
            **{name: getattr(self, name) for name in self.kept},
            "initial_lrs": [float(lr) for lr in self._initial_lrs()],
            "lrs": [float(lr) for lr in self.get_last_lr()],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was called, on a schedule made with the same arguments.

        Raises TypeError or ValueError for what is no state of this schedule and of an optimiser
        with as many groups, before anything is changed.
        """
        own = f"load_state_dict into {type(self).__name__}"
        expected = {*self.kept, "initial_lrs", "lrs"}
        if not isinstance(saved, Mapping) or set(saved) != expected:
            shown = [*saved] if isinstance(saved, Mapping) else f"a {type(saved).__name__}"
            raise ValueError(f"{own}: {sorted(expected)} are expected, not {shown}")
        groups = self.optimizer.param_groups
        initial, lrs = (_rates(f"{own}: {k}", saved[k], groups) for k in ("initial_lrs", "lrs"))
        kept = {name: self._loaded(own, name, saved[name]) for name in self.kept}
        changes = [
            (dict.update, group, {"initial_lr": first, "lr": lr})
            for group, first, lr in zip(groups, initial, lrs, strict=True)
        ]
        commit([*changes, attributes(self, **kept)])

    def _loaded(self, own: str, name: str, value: Any) -> Any:
        """One of the attributes that are kept, checked."""
        return integer(f"{own}: {name}", value, 0)


class LRScheduler(_Schedule):
    """A schedule that is a function of the number of steps; a subclass says which, by ``rate``."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        initial = self._initial_lrs()
        self._change(initial, [self.rate(lr, 0) for lr in initial], 0)

    def rate(self, initial: float, step: int) -> float:
        """The rate after ``step`` steps of a group whose rate was ``initial`` to begin with."""
        raise NotImplementedError

    def step(self) -> None:
        """Set the rates for the next step of the optimiser."""
        initial, following = self._initial_lrs(), self.last_epoch + 1
        before = [self.rate(lr, self.last_epoch) for lr in initial]
        self._change(before, [self.rate(lr, following) for lr in initial], following)

    def _change(self, before: list[float], after: list[float], step: int) -> None:
        """From the rates of one step to those of the next, keeping the factor of anybody else."""
        changes = [attributes(self, last_epoch=step)]
        for group, old, new in zip(self.optimizer.param_groups, before, after, strict=True):
            lr = new if group["lr"] == old or not old else group["lr"] * (new / old)
            changes.append((dict.update, group, {"lr": lr}))
        commit(changes)


class StepLR(LRScheduler):
    """The rate times ``gamma`` every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = integer("StepLR: step_size", step_size, 1)
        self.gamma = not_negative("StepLR: gamma", gamma)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        """``initial * gamma ** (step // step_size)``."""
        return initial * self.gamma ** (step // self.step_size)


class ExponentialLR(LRScheduler):
    """The rate times ``gamma`` in every step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = not_negative("ExponentialLR: gamma", gamma)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        """``initial * gamma ** step``."""
        return initial * self.gamma**step


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate down to ``eta_min`` in ``T_max`` steps.

    It is that of Loshchilov & Hutter 2017, without restarts; past ``T_max`` it goes up again.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = integer("CosineAnnealingLR: T_max", T_max, 1)
        self.eta_min = not_negative("CosineAnnealingLR: eta_min", eta_min)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        """``eta_min + (initial - eta_min) * (1 + cos(pi * step / T_max)) / 2``."""
        share = (1 + math.cos(math.pi * step / self.T_max)) / 2
        return self.eta_min + (initial - self.eta_min) * share


class LinearLR(LRScheduler):
    """A warm-up: from ``start_factor`` to ``end_factor`` of the initial rate in a line.

    It arrives after ``total_iters`` steps and stays there.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        self.start_factor = number("LinearLR: start_factor", start_factor, "(0, 1]")
        self.end_factor = number("LinearLR: end_factor", end_factor, "[0, 1]")
        self.total_iters = integer("LinearLR: total_iters", total_iters, 1)
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        """``initial`` times the point of the line that belongs to the step."""
        done = min(step, self.total_iters) / self.total_iters
        return initial * (self.start_factor + (self.end_factor - self.start_factor) * done)


class SequentialLR(LRScheduler):
    """One schedule after the other; the next one begins, at its step 0, at each milestone.

    ::

        warm_up = LinearLR(optimizer, start_factor=0.01, total_iters=100)
        decay = CosineAnnealingLR(optimizer, T_max=900)
        schedule = SequentialLR(optimizer, [warm_up, decay], milestones=[100])

    From then on only ``schedule`` is stepped, saved and loaded.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]
    ) -> None:
        self.schedulers = list(schedulers)
        self.milestones = [integer("SequentialLR: a milestone", m, 1) for m in milestones]
        for part in self.schedulers:
            if not isinstance(part, LRScheduler):
                raise TypeError(
                    f"SequentialLR: a {type(part).__name__} is no function of the step and cannot "
                    "be a part; step a ReduceLROnPlateau beside it"
                )
            if part.optimizer is not optimizer:
                raise ValueError("SequentialLR: all parts must be schedules of the same optimiser")
        if len(self.milestones) != len(self.schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(self.schedulers)} schedules need "
                f"{max(0, len(self.schedulers) - 1)} milestones, not {len(self.milestones)}"
            )
        if any(first >= second for first, second in pairwise(self.milestones)):
            raise ValueError(f"SequentialLR: milestones must increase, not {self.milestones}")
        for group in optimizer.param_groups:  # what making the parts has set
            group["lr"] = group["initial_lr"]
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        """The rate of the schedule whose turn it is."""
        part = bisect_right(self.milestones, step)
        begun = self.milestones[part - 1] if part else 0
        return self.schedulers[part].rate(initial, step - begun)


class ReduceLROnPlateau(_Schedule):
    """Multiply the rates by ``factor`` once a measurement has stopped improving.

    ::

        schedule = ReduceLROnPlateau(optimizer, patience=3)
        for epoch in range(epochs):
            train(model, optimizer)
            schedule.step(validation_loss(model))

    Args:
        optimizer: whose rates are set.
        mode: whether the measurement should get smaller, ``"min"``, or larger, ``"max"``.
        factor: in (0, 1).
        patience: how many steps without an improvement are let pass.
        threshold: what counts as an improvement: a change by more than this fraction of the best
            so far (``threshold_mode="rel"``), or by more than this (``"abs"``).
        threshold_mode: see ``threshold``.
        cooldown: how many steps after a reduction do not count as without an improvement.
        min_lr: no rate gets below; a number, or one for each group.
        eps: a reduction by less than this is not made.
    """

    kept = ("last_epoch", "best", "num_bad_epochs", "cooldown_counter")

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer)
        own = "ReduceLROnPlateau"
        self.mode = choice(f"{own}: mode", mode, ("min", "max"))
        self.factor = number(f"{own}: factor", factor, "(0, 1)")
        self.patience = integer(f"{own}: patience", patience, 0)
        self.threshold_mode = choice(f"{own}: threshold_mode", threshold_mode, ("rel", "abs"))
        largest = "[0, 1)" if threshold_mode == "rel" else "[0, inf)"
        self.threshold = number(f"{own}: threshold", threshold, largest)
        self.cooldown = integer(f"{own}: cooldown", cooldown, 0)
        self.min_lr = (
            _rates(f"{own}: min_lr", min_lr, optimizer.param_groups)
            if isinstance(min_lr, Sequence)
            else not_negative(f"{own}: min_lr", min_lr)
        )
        self.eps = not_negative(f"{own}: eps", eps)
        self.best: float | None = None
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def step(self, metrics: SupportsFloat) -> None:
        """Take note of a measurement, a number or a Tensor with one; NaN is no improvement."""
        try:
            measured = float(metrics)
        except (TypeError, ValueError) as error:
            raise TypeError(f"ReduceLROnPlateau: a measurement is one number: {error}") from error
        groups = self.optimizer.param_groups
        if isinstance(self.min_lr, list) and len(self.min_lr) != len(groups):
            raise ValueError(
                f"ReduceLROnPlateau: min_lr is for {len(self.min_lr)} groups, and there are "
                f"{len(groups)}; set it to one number, or to a list for all"
            )
        best, bad, cooling = self.best, self.num_bad_epochs + 1, self.cooldown_counter
        if self._improves(measured):
            best, bad = measured, 0
        if cooling:
            cooling, bad = cooling - 1, 0
        changes = []
        if bad > self.patience:
            changes, bad, cooling = self._reductions(), 0, self.cooldown
        following = {"best": best, "num_bad_epochs": bad, "cooldown_counter": cooling}
        commit([*changes, attributes(self, last_epoch=self.last_epoch + 1, **following)])

    def _improves(self, measured: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        best = sign * math.inf if self.best is None else self.best
        margin = sign * self.threshold
        bound = best * (1.0 - margin) if self.threshold_mode == "rel" else best - margin
        return sign * measured < sign * bound

    def _reductions(self) -> list[Change]:
        groups = self.optimizer.param_groups
        least = self.min_lr if isinstance(self.min_lr, list) else [self.min_lr] * len(groups)
        changes: list[Change] = []
        for group, floor in zip(groups, least, strict=True):
            reduced = max(group["lr"] * self.factor, floor)
            if group["lr"] - reduced > self.eps:
                changes.append((dict.update, group, {"lr": reduced}))
        return changes

    def _loaded(self, own: str, name: str, value: Any) -> Any:
        if name == "best":
            return None if value is None else number(f"{own}: best", value, "[-inf, inf]")
        return super()._loaded(own, name, value)


def _rates(name: str, values: Any, groups: Sequence[Any]) -> list[float]:
    """A rate for each group."""
    if not isinstance(values, (list, tuple)) or len(values) != len(groups):
        raise ValueError(f"{name} must be a list of one for each of {len(groups)} groups")
    return [not_negative(name, value) for value in values]
