"""sigmoid and the error function from elementary operations, for namespaces that lack them.

No table of magic numbers. Up to 1, ``erf`` is its Taylor series. From there on it is 1 minus
``erfc``, and ``erfc(x) exp(x^2)`` is so smooth in ``1 / (x + 2)`` that a short polynomial through
values of ``math.erfc`` will do. Both are as long as the dtype asks: a term that cannot change the
last bit is left out. In-place operators write into arrays made here, never into an argument, and
only rebind the name where a library's arrays are immutable.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

_FAR = 6.0  # erf rounds to 1 in float64 from here on
_START, _END = 1 / (_FAR + 2), 1 / (1 + 2)  # what 1 / (x + 2) runs through from there down to 1


def sigmoid(xp: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)) of a floating-point array, as exp(x) / (exp(x) + 1).

    In this form a very negative x keeps its relative accuracy. A large one must not overflow, but
    the quotient rounds to 1 long before that.
    """
    require_floating(xp, x, "sigmoid")
    grown = xp.exp(xp.minimum(x, 0.9 * math.log(xp.finfo(x.dtype).max)))
    return grown / (grown + 1.0)


def erf(xp: Any, x: Any) -> Any:
    """erf of a floating-point array of any shape, to two units in the last place."""
    require_floating(xp, x, "erf")
    near_terms, tail_terms = _terms(float(xp.finfo(x.dtype).eps))
    magnitude = xp.abs(x)
    square = xp.minimum(magnitude, 1.0)
    square *= square
    near = _polynomial(near_terms, square)
    near *= x
    beyond = xp.clip(magnitude, 1.0, _FAR)
    place = (2 / (_END - _START)) / (beyond + 2.0)  # from -1 to 1, up to a shift
    place -= (_END + _START) / (_END - _START)
    tail = _polynomial(tail_terms, place)
    tail *= xp.exp(-beyond * beyond)
    return xp.where(magnitude < 1.0, near, xp.sign(x) * (1.0 - tail))


def require_floating(xp: Any, x: Any, operation: str) -> None:
    """Raise a TypeError that names the cure, if x holds no real floating-point numbers."""
    if not xp.isdtype(x.dtype, "real floating"):
        raise TypeError(f"{operation} of {x.dtype}: give it a floating dtype by astype")


def _polynomial(terms: list[float], x: Any) -> Any:
    total = x * terms[-1]
    for term in terms[-2:0:-1]:
        total += term
        total *= x
    total += terms[0]
    return total


@cache
def _terms(eps: float) -> tuple[list[float], list[float]]:
    """Coefficients for both ranges, the constant first, down to an eighth of ``eps``."""
    near = [2 / math.sqrt(math.pi)]
    while abs(near[-1]) > eps / 8:
        n = len(near)
        near.append(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)))

    def scaled_erfc(u: float) -> float:
        x = 2 / (_END + _START + (_END - _START) * u) - 2
        return math.erfc(x) * math.exp(x * x)

    # Chebyshev interpolation, summed exactly: NumPy's loses a digit.
    angles = [math.pi * (k + 0.5) / 16 for k in range(16)]
    points = [(angle, scaled_erfc(math.cos(angle)) / 8) for angle in angles]
    tail = [math.fsum(y * math.cos(n * angle) for angle, y in points) for n in range(16)]
    tail[0] /= 2
    trimmed = np.polynomial.chebyshev.chebtrim(tail, eps / 8)
    return near, np.polynomial.chebyshev.cheb2poly(trimmed).tolist()
