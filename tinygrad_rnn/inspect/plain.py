"""Plain data as JSON that any language reads, which has neither nan nor inf."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

_NUMBER = "not finite"


def written(data: Any, told: Callable[[float], Any] | None = None) -> str:
    """Data as JSON; what is not finite is ``told``, or so that ``read`` makes it a number again."""
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError:
        told = told or (lambda number: {_NUMBER: str(number)})
        return json.dumps(_told(data, told), ensure_ascii=False, allow_nan=False)


def read(text: str) -> Any:
    """The data again; ``json.JSONDecodeError`` for what is no JSON."""
    return json.loads(text, object_hook=_number_or_dict)


def _told(data: Any, told: Callable[[float], Any]) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else told(data)
    if isinstance(data, dict):
        return {name: _told(value, told) for name, value in data.items()}
    return [_told(value, told) for value in data] if isinstance(data, (list, tuple)) else data


def _number_or_dict(found: dict[str, Any]) -> Any:
    return float(found[_NUMBER]) if found.keys() == {_NUMBER} else found
