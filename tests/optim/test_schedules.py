"""Schedules: the learning rates of PyTorch, and a place that can be saved and found again."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import optim
from tinygrad_rnn.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "optim.json").read_text("utf-8"))
MEASUREMENTS = FIXTURE["measurements"]
CASES = FIXTURE["schedules"]


def case_name(case: dict[str, Any]) -> str:
    return " and ".join(
        f"{name}({', '.join(f'{k}={v}' for k, v in settings.items())})"
        for name, settings in case["schedules"]
    )


def an_optimizer() -> optim.SGD:
    return optim.SGD(
        [{"params": [tg.zeros(1, requires_grad=True)], "lr": lr} for lr in FIXTURE["rates"]]
    )


def make(optimizer: optim.Optimizer, name: str, settings: dict[str, Any]) -> Any:
    if name == "SequentialLR":
        parts = [make(optimizer, *part) for part in settings["schedulers"]]
        settings = {**settings, "schedulers": parts}
    return getattr(optim.lr_scheduler, name)(optimizer, **settings)


def advance(schedules: list[Any], measured: float) -> list[float]:
    for schedule in schedules:
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(measured)
        else:
            schedule.step()
    return schedules[0].get_last_lr()


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_rates_are_pytorchs(case: dict[str, Any]) -> None:
    optimizer = an_optimizer()
    schedules = [make(optimizer, *schedule) for schedule in case["schedules"]]
    found = [schedules[0].get_last_lr(), *(advance(schedules, m) for m in MEASUREMENTS)]
    assert_allclose(found, case["rates"], rtol=1e-12, atol=1e-17)
    assert all(type(lr) is float for lr in found[-1])


@pytest.mark.parametrize("name", FIXTURE["schedule_defaults"])
def test_defaults_are_pytorchs(name: str) -> None:
    given = inspect.signature(getattr(optim.lr_scheduler, name)).parameters.values()
    own = {x.name: x.default for x in given if x.default is not inspect.Parameter.empty}
    theirs = FIXTURE["schedule_defaults"][name]
    assert own == {k: v for k, v in theirs.items() if k != "last_epoch"}
    assert [*own] == [k for k in theirs if k in own]


FUNCTIONS_OF_THE_STEP = [
    case for case in CASES if len(case["schedules"]) == 1 and "Plateau" not in case_name(case)
]


@pytest.mark.parametrize("case", FUNCTIONS_OF_THE_STEP, ids=case_name)
def test_a_rate_is_a_function_of_the_step(case: dict[str, Any]) -> None:
    ((name, settings),) = case["schedules"]
    schedule: LRScheduler = make(an_optimizer(), name, settings)
    for step, (expected, _) in enumerate(case["rates"]):
        assert schedule.rate(FIXTURE["rates"][0], step) == schedule.get_last_lr()[0]
        assert schedule.get_last_lr()[0] == pytest.approx(expected, rel=1e-12, abs=1e-17)
        schedule.step()


# Saved and loaded.


@pytest.mark.parametrize("first", ["the optimiser", "the schedules"])
@pytest.mark.parametrize("case", CASES, ids=case_name)
@pytest.mark.parametrize("at", [0, 3, 7, 20])
def test_a_schedule_continued_from_its_state_is_the_same(
    case: dict[str, Any], at: int, first: str
) -> None:
    """Bit for bit, through JSON, whichever is loaded first."""
    optimizer = an_optimizer()
    schedules = [make(optimizer, *schedule) for schedule in case["schedules"]]
    for measured in MEASUREMENTS[:at]:
        advance(schedules, measured)
    saved = json.loads(
        json.dumps([optimizer.state_dict(), *(schedule.state_dict() for schedule in schedules)])
    )
    expected = [advance(schedules, measured) for measured in MEASUREMENTS[at:]]

    other = an_optimizer()
    if first == "the optimiser":
        other.load_state_dict(saved[0])
    resumed = [make(other, *schedule) for schedule in case["schedules"]]
    for schedule, state in zip(resumed, saved[1:], strict=True):
        schedule.load_state_dict(state)
    if first == "the schedules":
        other.load_state_dict(saved[0])
    assert [advance(resumed, measured) for measured in MEASUREMENTS[at:]] == expected


def test_training_with_a_schedule_resumes_bit_for_bit() -> None:
    def train(p: tg.Tensor, optimizer: optim.Optimizer, schedule: Any, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            ((p - 1.0) ** 2).sum().backward()
            optimizer.step()
            schedule.step()

    def start(values: Any) -> tuple[tg.Tensor, optim.Optimizer, Any]:
        p = tg.tensor(values, requires_grad=True)
        optimizer = optim.AdamW([p], lr=0.3)
        warm_up, decay = LinearLR(optimizer, total_iters=4), CosineAnnealingLR(optimizer, T_max=10)
        return p, optimizer, SequentialLR(optimizer, [warm_up, decay], [4])

    straight = start([3.0, -2.0])
    train(*straight, 6)
    at_six, saved = straight[0].numpy().copy(), [x.state_dict() for x in straight[1:]]
    train(*straight, 6)
    resumed = start(at_six)
    for x, state in zip(resumed[1:], saved, strict=True):
        x.load_state_dict(state)
    train(*resumed, 6)
    assert_array_equal(resumed[0].numpy(), straight[0].numpy())


def unfitting(saved: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    yield None, "not a NoneType"
    yield {k: v for k, v in saved.items() if k != "best"}, "'best', .* are expected, not"
    yield saved | {"more": 1}, "are expected, not .*'more'"
    for count in (-1, 1.5, "1", None, True):
        yield saved | {"last_epoch": count}, "last_epoch must be an integer from 0"
    for best in ("low", math.nan):
        yield saved | {"best": best}, "best must be a number"
    for rates in ([0.1], [0.1] * 3, 0.1, None, {}, "ab"):
        yield saved | {"lrs": rates}, "lrs must be a list of one for each of 2 groups"
        yield saved | {"initial_lrs": rates}, "initial_lrs must be a list of one for each"
    for rate in (-1.0, math.nan, math.inf, "fast", None):
        yield saved | {"lrs": [0.1, rate]}, "lrs must be a number"


def test_an_unfitting_state_changes_nothing() -> None:
    optimizer = an_optimizer()
    schedule = ReduceLROnPlateau(optimizer, patience=0)
    for measured in (1.0, 2.0):
        schedule.step(measured)
    saved = schedule.state_dict()
    assert saved["best"] == 1 and saved["lrs"][0] == pytest.approx(0.01)
    for bad, message in unfitting(saved):
        bad = bad and {k: 7 if k == "num_bad_epochs" else v for k, v in bad.items()}
        with pytest.raises((ValueError, TypeError), match=message):
            schedule.load_state_dict(bad)
        assert schedule.state_dict() == saved


# What else may change a rate.


def test_a_rate_that_was_set_by_hand_is_kept_as_a_factor() -> None:
    optimizer = an_optimizer()
    schedule = StepLR(optimizer, step_size=2, gamma=0.5)
    optimizer.param_groups[0]["lr"] *= 3
    found = []
    for _ in range(4):
        schedule.step()
        found.append(schedule.get_last_lr())
    assert_allclose([lr for lr, _ in found], [0.3, 0.15, 0.15, 0.075], rtol=1e-12)
    assert [lr for _, lr in found] == [0.03, 0.015, 0.015, 0.0075]


def test_a_rate_of_zero_keeps_no_factor() -> None:
    optimizer = an_optimizer()
    schedule = CosineAnnealingLR(optimizer, T_max=2)
    for step in range(5):
        assert schedule.get_last_lr() == [schedule.rate(lr, step) for lr in FIXTURE["rates"]]
        if step == 2:
            optimizer.param_groups[0]["lr"] = 0.0
        schedule.step()


def test_a_group_that_comes_later_joins_in() -> None:
    optimizer = an_optimizer()
    schedule = ExponentialLR(optimizer, gamma=0.5)
    schedule.step()
    optimizer.add_param_group({"params": tg.zeros(1, requires_grad=True), "lr": 1.0})
    schedule.step()
    assert schedule.get_last_lr() == [0.025, 0.0075, 0.5]
    assert schedule.state_dict()["initial_lrs"] == [0.1, 0.03, 1.0]


def test_what_a_schedule_keeps_in_a_group_is_no_setting_of_the_optimiser() -> None:
    optimizer = an_optimizer()
    LinearLR(optimizer)
    saved = optimizer.state_dict()
    assert "initial_lr" not in saved["groups"][0]
    an_optimizer().load_state_dict(saved)
    optimizer.load_state_dict(an_optimizer().state_dict())


def test_a_step_that_fails_changes_nothing() -> None:
    class Careless(LRScheduler):
        def rate(self, initial: float, step: int) -> float:
            return initial / (2 - step if initial < 0.05 else 1 + step)

    optimizer = an_optimizer()
    schedule = Careless(optimizer)
    schedule.step()
    before = schedule.state_dict()
    with pytest.raises(ZeroDivisionError):
        schedule.step()
    assert schedule.state_dict() == before


# Plateaus.


def test_a_measurement_may_be_a_tensor_or_a_scalar() -> None:
    for one in (tg.tensor(1.0), np.float32(1.0), 1):
        schedule = ReduceLROnPlateau(an_optimizer())
        schedule.step(one)
        assert schedule.best == 1 and type(schedule.best) is float


def test_nan_is_no_improvement_and_nothing_is_kept_of_it() -> None:
    for mode in ("min", "max"):
        schedule = ReduceLROnPlateau(an_optimizer(), mode=mode, patience=1)
        for measured in (math.nan, math.nan, 5.0):
            schedule.step(measured)
        assert schedule.best == 5
        assert_allclose(schedule.get_last_lr(), [0.01, 0.003], rtol=1e-12)


@pytest.mark.parametrize("bad", [None, "low", [1.0], tg.ones(2)])
def test_what_is_no_measurement_changes_nothing(bad: Any) -> None:
    schedule = ReduceLROnPlateau(an_optimizer())
    schedule.step(1.0)
    before = schedule.state_dict()
    with pytest.raises(TypeError, match="a measurement is one number"):
        schedule.step(bad)
    assert schedule.state_dict() == before


def test_least_rates_for_other_groups_are_refused_before_anything_changes() -> None:
    optimizer = an_optimizer()
    schedule = ReduceLROnPlateau(optimizer, min_lr=[0.1, 0.1])
    optimizer.add_param_group({"params": tg.zeros(1, requires_grad=True)})
    with pytest.raises(ValueError, match="min_lr is for 2 groups, and there are 3"):
        schedule.step(1.0)
    assert schedule.best is None


# Bad input.


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda o: StepLR(None, 1), TypeError, "StepLR: the first argument is an optimiser"),
        (lambda o: StepLR(o, 0), ValueError, "StepLR: step_size must be an integer from 1, not 0"),
        (lambda o: StepLR(o, 1.5), TypeError, "step_size must be an integer"),
        (lambda o: StepLR(o, 1, gamma=-0.1), ValueError, "gamma"),
        (lambda o: ExponentialLR(o, math.nan), ValueError, "ExponentialLR: gamma"),
        (lambda o: CosineAnnealingLR(o, 0), ValueError, "T_max"),
        (lambda o: CosineAnnealingLR(o, 5, eta_min=-1), ValueError, "eta_min"),
        (lambda o: LinearLR(o, start_factor=0), ValueError, r"start_factor .* \(0, 1\], not 0"),
        (lambda o: LinearLR(o, start_factor=1.1), ValueError, "start_factor"),
        (lambda o: LinearLR(o, end_factor=1.1), ValueError, r"end_factor .* \[0, 1\]"),
        (lambda o: LinearLR(o, total_iters=0), ValueError, "total_iters"),
        (lambda o: SequentialLR(o, [], []), ValueError, "0 schedules need"),
        (lambda o: SequentialLR(o, [LinearLR(o)], [5]), ValueError, "1 schedules need 0 mile"),
        (lambda o: SequentialLR(o, [LinearLR(o)] * 2, [0]), ValueError, "a milestone must be"),
        (lambda o: SequentialLR(o, [LinearLR(o)] * 3, [5, 5]), ValueError, "must increase"),
        (
            lambda o: SequentialLR(o, [LinearLR(o), ReduceLROnPlateau(o)], [5]),
            TypeError,
            "step a ReduceLROnPlateau beside it",
        ),
        (
            lambda o: SequentialLR(o, [LinearLR(an_optimizer())], []),
            ValueError,
            "of the same optimiser",
        ),
        (lambda o: ReduceLROnPlateau(o, "lowest"), ValueError, "mode must be one of 'min', 'max'"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), ValueError, r"factor .* \(0, 1\), not 1.0"),
        (lambda o: ReduceLROnPlateau(o, patience=-1), ValueError, "patience"),
        (lambda o: ReduceLROnPlateau(o, threshold=1.0), ValueError, r"threshold .* \[0, 1\)"),
        (lambda o: ReduceLROnPlateau(o, threshold_mode="x"), ValueError, "one of 'rel', 'abs'"),
        (lambda o: ReduceLROnPlateau(o, cooldown=0.5), TypeError, "cooldown"),
        (lambda o: ReduceLROnPlateau(o, min_lr=-1.0), ValueError, "min_lr"),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.0]), ValueError, "min_lr .* of 2 groups"),
        (lambda o: ReduceLROnPlateau(o, eps=-1.0), ValueError, "eps"),
    ],
)
def test_a_senseless_schedule_is_refused(
    wrong: Callable[[optim.Optimizer], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrong(an_optimizer())
