"""What environment variables ask for: one way to write each, or an error that says which.

A variable that is empty counts as not set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

ON = ("1", "true", "yes", "on")
OFF = ("0", "false", "no", "off")


class SettingError(ValueError):
    """An environment variable of ours has a value that means nothing."""


try:
    _variables: Any = os.environ._data  # type: ignore[attr-defined]
    _key: Callable[[str], Any] = cache(os.environ.encodekey)
except AttributeError:  # of another Python
    _variables, _key = os.environ, str


def is_set(name: str) -> bool:
    """Whether a variable is there now: ``in os.environ``, for what asks at every call.

    Of one that is not there that takes ten times as long, since it is found out by an exception.
    """
    return _key(name) in _variables


def switch(name: str) -> bool | None:
    """Whether a variable says on or off, in capitals or not; None if it is not set.

    Raises:
        SettingError: if it says anything else.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if value.lower() not in ON + OFF:
        raise SettingError(
            f"the environment variable {name}={value!r} is neither on ({', '.join(ON)}) "
            f"nor off ({', '.join(OFF)})"
        )
    return value.lower() in ON


def count(name: str) -> int | None:
    """The integer from 1 that a variable holds; None if it is not set.

    Raises:
        SettingError: if it holds anything else.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isdecimal() and int(value)):
        raise SettingError(f"the environment variable {name}={value!r} is not an integer from 1")
    return int(value)
