"""More functions of numbers: angles, hyperbolas, logarithms, lengths.

Rows like those of ``elementwise.py``, for what recurrent networks seldom ask for. A derivative is
written so that it is as accurate as the function: ``(1 - x) * (1 + x)`` where ``1 - x * x`` would
cancel, ``hypot`` where a square would overflow.

Kinks: ``hypot`` and ``atan2`` have the derivative 0 at the origin, ``copysign`` in x1 at 0.
"""

from __future__ import annotations

import math
from typing import Any

from ..apply import apply
from ..graph import Primitive
from ..tensor import Tensor, as_tensor
from .creation import zeros_like
from .elementwise import TensorLike, divide

# Angles, in radians.


def _of_unit(xp: Any, g: Any, x: Any) -> Any:
    return g / xp.sqrt((1 - x) * (1 + x))


_tan = Primitive(
    "tan", "elementwise", lambda xp, x: xp.tan(x), lambda xp, g, out: g * (1 + out * out)
)
_asin = Primitive(
    "asin", "elementwise", lambda xp, x: xp.asin(x), lambda xp, g, x: _of_unit(xp, g, x)
)
_acos = Primitive(
    "acos", "elementwise", lambda xp, x: xp.acos(x), lambda xp, g, x: -_of_unit(xp, g, x)
)
_atan = Primitive("atan", "elementwise", lambda xp, x: xp.atan(x), lambda xp, g, x: g / (1 + x * x))


def _over_radius(xp: Any, g: Any, part: Any, x: Any, y: Any) -> Any:
    """g * part / (x**2 + y**2), and 0 at the origin, in two steps that do not overflow."""
    radius = xp.hypot(x, y)
    return _direction(xp, g, part, radius) / xp.where(radius == 0, 1, radius)


_atan2 = Primitive(
    "atan2",
    "elementwise",
    lambda xp, y, x: xp.atan2(y, x),
    lambda xp, g, y, x: _over_radius(xp, g, x, x, y),
    lambda xp, g, y, x: _over_radius(xp, g, -y, x, y),
)


def tan(x: TensorLike, /) -> Tensor:
    """The tangent, of radians."""
    return apply(_tan, x)


def asin(x: TensorLike, /) -> Tensor:
    """The angle in [-pi/2, pi/2] whose sine is x; the derivative at -1 and 1 is inf."""
    return apply(_asin, x)


def acos(x: TensorLike, /) -> Tensor:
    """The angle in [0, pi] whose cosine is x; the derivative at -1 and 1 is -inf."""
    return apply(_acos, x)


def atan(x: TensorLike, /) -> Tensor:
    """The angle in [-pi/2, pi/2] whose tangent is x."""
    return apply(_atan, x)


def atan2(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The angle in [-pi, pi] of the point (x2, x1): x1 is its height.

    The derivatives at the origin, where there is no angle, are 0.
    """
    return apply(_atan2, x1, x2)


# Hyperbolas.

_sinh = Primitive("sinh", "elementwise", lambda xp, x: xp.sinh(x), lambda xp, g, x: g * xp.cosh(x))
_cosh = Primitive("cosh", "elementwise", lambda xp, x: xp.cosh(x), lambda xp, g, x: g * xp.sinh(x))
_asinh = Primitive(
    "asinh", "elementwise", lambda xp, x: xp.asinh(x), lambda xp, g, x: g / xp.hypot(x, 1)
)
_acosh = Primitive(
    "acosh",
    "elementwise",
    lambda xp, x: xp.acosh(x),
    lambda xp, g, x: g / xp.sqrt(x - 1) / xp.sqrt(x + 1),
)
_atanh = Primitive(
    "atanh",
    "elementwise",
    lambda xp, x: xp.atanh(x),
    lambda xp, g, x: g / ((1 - x) * (1 + x)),
)


def sinh(x: TensorLike, /) -> Tensor:
    """The hyperbolic sine."""
    return apply(_sinh, x)


def cosh(x: TensorLike, /) -> Tensor:
    """The hyperbolic cosine."""
    return apply(_cosh, x)


def asinh(x: TensorLike, /) -> Tensor:
    """The inverse hyperbolic sine."""
    return apply(_asinh, x)


def acosh(x: TensorLike, /) -> Tensor:
    """The inverse hyperbolic cosine, of at least 1, where the derivative is inf."""
    return apply(_acosh, x)


def atanh(x: TensorLike, /) -> Tensor:
    """The inverse hyperbolic tangent, of [-1, 1]."""
    return apply(_atanh, x)


# Logarithms.

_log2 = Primitive(
    "log2", "elementwise", lambda xp, x: xp.log2(x), lambda xp, g, x: g / (x * math.log(2))
)
_log10 = Primitive(
    "log10", "elementwise", lambda xp, x: xp.log10(x), lambda xp, g, x: g / (x * math.log(10))
)


def _share_of_sum(xp: Any, g: Any, x: Any, y: Any, out: Any) -> Any:
    nothing = out == -math.inf  # a sum of nothing, as in logsumexp; x - y would be nan
    return xp.where(nothing, 0, g * xp.sigmoid(xp.where(nothing, 0, x - y)))


_logaddexp = Primitive(
    "logaddexp",
    "elementwise",
    lambda xp, x, y: xp.logaddexp(x, y),
    lambda xp, g, x, y, out: _share_of_sum(xp, g, x, y, out),
    lambda xp, g, x, y, out: _share_of_sum(xp, g, y, x, out),
)


def log2(x: TensorLike, /) -> Tensor:
    """The logarithm to the base 2."""
    return apply(_log2, x)


def log10(x: TensorLike, /) -> Tensor:
    """The logarithm to the base 10."""
    return apply(_log10, x)


def logaddexp(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """log(exp(x1) + exp(x2)), which does not overflow.

    The derivatives are the shares of the sum, and 0 where both are -inf, as in ``logsumexp``.
    """
    return apply(_logaddexp, x1, x2)


# Lengths and signs.


def _direction(xp: Any, g: Any, part: Any, out: Any) -> Any:
    return g * xp.where(out == 0, 0, part / xp.where(out == 0, 1, out))


_hypot = Primitive(
    "hypot",
    "elementwise",
    lambda xp, x, y: xp.hypot(x, y),
    lambda xp, g, x, out: _direction(xp, g, x, out),
    lambda xp, g, y, out: _direction(xp, g, y, out),
)
_copysign = Primitive(
    "copysign",
    "elementwise",
    lambda xp, x, y: xp.copysign(x, y),
    lambda xp, g, x, out: g * (xp.sign(x) * xp.sign(out)),
)
_signbit = Primitive("signbit", "elementwise", lambda xp, x: xp.signbit(x))
_nextafter = Primitive("nextafter", "elementwise", lambda xp, x, y: xp.nextafter(x, y))


def hypot(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """sqrt(x1**2 + x2**2), which does not overflow; the derivatives at the origin are 0."""
    return apply(_hypot, x1, x2)


def copysign(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 with the sign of x2, which counts for -0, too, and through which no cotangent flows.

    The derivative by x1 is 0 at 0, as that of ``abs``.
    """
    return apply(_copysign, x1, x2)


def signbit(x: TensorLike, /) -> Tensor:
    """Whether the sign is negative, which that of -0.0 is."""
    return apply(_signbit, x)


def nextafter(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The next number after x1 that there is in its dtype, towards x2. Not differentiable."""
    return apply(_nextafter, x1, x2)


def reciprocal(x: TensorLike, /) -> Tensor:
    """1 / x; of integers, a float64."""
    return divide(1, x)


# All numbers are real.


def conj(x: TensorLike, /) -> Tensor:
    """x, since it is real."""
    return as_tensor(x)


def real(x: TensorLike, /) -> Tensor:
    """x, since it is real."""
    return as_tensor(x)


def imag(x: TensorLike, /) -> Tensor:
    """Zeros, since x is real."""
    return zeros_like(x)
