"""What users set, checked: a setting that makes no sense is refused with what would make some.

Every function takes the name that an error shows, ``"SGD: momentum"`` say, and the value, which it
returns as a plain number. A scalar of NumPy's would decide the dtype of a product; Python's do not.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np


def number(name: str, value: Any, interval: str) -> float:
    """A number in an interval written as in mathematics, ``"[0, inf)"``.

    Raises TypeError for what is no number, ValueError for one that lies outside, as NaN does.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool) or not isinstance(plain, (int, float)):
        kind = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be a number in {interval}, not {kind}")
    low, high = _ends(interval)
    if not low <= plain <= high:
        raise ValueError(f"{name} must be a number in {interval}, not {plain}")
    return plain


@cache
def _ends(interval: str) -> tuple[float, float]:
    """The least and the greatest number in an interval."""
    low, high = map(float, interval[1:-1].split(","))
    return (
        low if interval[0] == "[" else math.nextafter(low, math.inf),
        high if interval[-1] == "]" else math.nextafter(high, -math.inf),
    )


def not_negative(name: str, value: Any) -> float:
    """A finite number from 0."""
    return number(name, value, "[0, inf)")


def fraction(name: str, value: Any) -> float:
    """How much a running mean keeps: a number from 0, below 1."""
    return number(name, value, "[0, 1)")


def two_fractions(name: str, value: Any) -> tuple[float, float]:
    """A pair of them; a list, which is what JSON makes of a tuple, will do."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be two numbers in [0, 1), not {value!r}")
    first, second = (fraction(name, one) for one in value)
    return first, second


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "lr": not_negative,
    "momentum": not_negative,
    "dampening": not_negative,
    "weight_decay": not_negative,
    "nesterov": flag,
    "alpha": fraction,
    "eps": not_negative,
    "centered": flag,
    "lr_decay": not_negative,
    "initial_accumulator_value": not_negative,
    "rho": fraction,
    "betas": two_fractions,
    "amsgrad": flag,
}
"""What a setting of an optimiser may be, whichever has it."""


def integer(name: str, value: Any, least: int) -> int:
    """An integer from ``least``."""
    try:
        plain = operator.index(value)
    except TypeError:
        plain = None
    if plain is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer from {least}, not {value!r}")
    if plain < least:
        raise ValueError(f"{name} must be an integer from {least}, not {plain}")
    return plain


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)
