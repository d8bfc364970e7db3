"""Sizes that a model leaves open, such as T and B: integers of a trace as formulas of them.

A trace holds numbers. So a model is traced twice, with other sizes, and a number that differs
between the traces is a formula: ``T``, ``B * T``, ``2 * T - 1``. Sizes are primes, far apart and
found nowhere else in the model: then only one formula fits both.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


class Size(NamedTuple):
    """``factor`` times the product of sizes that have names, plus ``offset``."""

    factor: int
    names: tuple[str, ...]
    offset: int = 0

    def __str__(self) -> str:
        product = " * ".join([*([str(self.factor)] if self.factor != 1 else []), *self.names])
        return f"{product} {self.offset:+}" if self.offset else product


class Unresolved(Exception):
    """A number that differs between two traces, and is no formula of the sizes."""


class Sizes:
    """The two sizes of each name, and which formula a pair of numbers is."""

    def __init__(self, names: list[str], taken: set[int]) -> None:
        free = [p for p in _PRIMES if p not in taken]
        if len(free) < 2 * len(names):
            raise ValueError(f"export: {len(names)} sizes are left open; name fewer of them")
        # The second sizes are not in the order of the first: no two grow by as much.
        self.first = dict(zip(names, free, strict=False))
        self.second = dict(zip(names, free[: len(names) - 1 : -1], strict=False))

    def formula(self, one: Any, other: Any) -> int | Size:
        """The formula of a number that is ``one`` in the first trace and ``other`` in the second.

        Raises Unresolved if there is none.
        """
        if one == other:
            return int(one)
        for count in (1, 2, 3):
            for names in itertools.combinations_with_replacement(self.first, count):
                first = second = 1
                for name in names:
                    first *= self.first[name]
                    second *= self.second[name]
                factor, offset = self._line(one, other, first, second)
                if factor is not None and (offset == 0 or count == 1):
                    return Size(factor, names, offset)
        raise Unresolved(f"{one} with the sizes {self.first}, {other} with {self.second}")

    @staticmethod
    def _line(one: int, other: int, first: int, second: int) -> tuple[int | None, int]:
        """Factor and offset through two points, if they are small."""
        if (other - one) % (second - first):
            return None, 0
        factor = (other - one) // (second - first)
        offset = one - factor * first
        return (factor, offset) if abs(offset) <= 8 else (None, 0)
