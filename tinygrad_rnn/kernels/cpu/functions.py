"""The elementwise functions and reductions of kernels, as formulas on values of ``llvm.py``.

In float32, with errors of a few units in the last place: measured against float64, 6.4 for erf,
4.2 for tanh, 2.6 for softplus, 2.3 for sigmoid and log1p, 1.5 or less for the others.

A comparison with nan is false, so each is turned so that nan takes the way that leads it to the
result: ``x > limit ? limit : x``, not ``x < limit ? x : limit``.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from typing import NamedTuple

from .llvm import Value

Function = Callable[..., Value]


def _polynomial(x: Value, *coefficients: float) -> Value:
    """By Horner's scheme, the highest power first."""
    result = x.like(coefficients[0])
    for c in coefficients[1:]:
        result = result * x + c
    return result


def _clamp(x: Value, low: float, high: float) -> Value:
    x = x.compare("ogt", high).choose(high, x)
    return x.compare("olt", low).choose(low, x)


def _maximum(x: Value, y: Value) -> Value:
    return (x.compare("ogt", y) | x.compare("uno", x)).choose(x, y)


def _minimum(x: Value, y: Value) -> Value:
    return (x.compare("olt", y) | x.compare("uno", x)).choose(x, y)


def _relu(x: Value) -> Value:
    return x.compare("ugt", 0).choose(x, 0)


def _sign(x: Value) -> Value:
    return x.compare("ogt", 0).choose(1, x.compare("olt", 0).choose(-1, x))


def _tanh(x: Value) -> Value:
    size = x.call("fabs")
    y = size.compare("ogt", 10).choose(10, size)
    s = y * y
    # Coefficients from Eigen: a rational approximation, of degree 13 over 6.
    above = _polynomial(
        s,
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
    below = _polynomial(
        s, 1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03
    )
    ratio = y * (above / below)
    # Exactly 1 where tanh rounds to it, and never more: a derivative 1 - ratio**2 must vanish.
    saturated = size.compare("ogt", 9.01) | ratio.compare("ogt", 1)
    return saturated.choose(1, ratio).call("copysign", x)


def _erf(x: Value) -> Value:
    size = x.call("fabs")
    y = size.compare("ogt", 4).choose(4, size)
    s = y * y
    # Coefficients from Eigen: a rational approximation, of degree 13 over 8.
    above = _polynomial(
        s,
        -2.72614225801306e-10,
        2.77068142495902e-08,
        -2.10102402082508e-06,
        -5.69250639462346e-05,
        -7.34990630326855e-04,
        -2.95459980854025e-03,
        -1.60960333262415e-02,
    )
    below = _polynomial(
        s,
        -1.45660718464996e-05,
        -2.13374055278905e-04,
        -1.68282697438203e-03,
        -7.37332916720468e-03,
        -1.42647390514189e-02,
    )
    ratio = y * (above / below)
    saturated = size.compare("oge", 4) | ratio.compare("ogt", 1)
    return saturated.choose(1, ratio).call("copysign", x)


# exp and its relatives: exp(x) = 2**n * (1 + r + r * r * p), where x = n log(2) + r.

_LOG2_HIGH, _LOG2_LOW = 0.693359375, -2.12194440e-4  # their sum; n * _LOG2_HIGH is exact
_ROUNDING = 1.5 * 2.0**23  # in a sum with it, the lowest bits are those of the nearest integer
_ROUNDING_BITS = struct.unpack("i", struct.pack("f", _ROUNDING))[0]


class _Exponential(NamedTuple):
    n: Value
    r: Value
    p: Value


def _exponential(x: Value) -> _Exponential:
    rounded = x * (1 / math.log(2)) + _ROUNDING
    n = rounded - _ROUNDING
    r = x - n * _LOG2_HIGH - n * _LOG2_LOW
    # Coefficients of this and the logarithm from Cephes.
    p = _polynomial(
        r,
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
    return _Exponential(rounded.bits() - _ROUNDING_BITS, r, p)


def _power_of_two(n: Value) -> Value:
    return ((n + 127) << 23).from_bits()


def _exp(x: Value) -> Value:
    n, r, p = _exponential(_clamp(x, -104, 89))
    half = n >> 1  # in two steps, for 2**n may be out of range where the result is not
    return (r * r * p + r + 1) * _power_of_two(half) * _power_of_two(n - half)


def _expm1(x: Value) -> Value:
    n, r, p = _exponential(_clamp(x, -30, 89))
    half = _power_of_two(n - 1)  # of 2**n, which may overflow where the result does not
    return x.compare("oeq", 0).choose(x, 2 * ((r * r * p + r) * half + (half - 0.5)))


def _sigmoid(x: Value) -> Value:
    # Beyond these limits the result is 1, or smaller than any normal number.
    n, r, p = _exponential(_clamp(-x, -87, 89))
    return 1 / (1 + (r * r * p + r + 1) * _power_of_two(n))


def _log(x: Value) -> Value:
    tiny = x.compare("olt", 2.0**-126)
    root = 0x3F3504F3  # the bits of sqrt(1/2)
    bits = tiny.choose(x * 2.0**24, x).bits() - root
    n = (bits >> 23).floating() - tiny.choose(x.like(24), 0)
    m = ((bits & 0x7FFFFF) + root).from_bits() - 1  # x = 2**n * (1 + m)
    p = _polynomial(
        m,
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
    s = m * m
    regular = (m + (s * m * p + n * _LOG2_LOW - s * 0.5)) + n * _LOG2_HIGH
    irregular = x.compare("oeq", 0).choose(-math.inf, x.compare("olt", 0).choose(math.nan, x))
    return (x.compare("ogt", 0) & x.compare("olt", math.inf)).choose(regular, irregular)


def _log1p(x: Value) -> Value:
    u = x + 1
    # What rounding has added to 1 + x, the quotient takes away again: a device of Kahan's.
    regular = _log(u) * (x / (u - 1))
    return (u.compare("oeq", 1) | x.compare("oeq", math.inf)).choose(x, regular)


def _softplus(x: Value) -> Value:
    return _relu(x) + _log1p(_exp(-x.call("fabs")))


def _where(condition: Value, x: Value, y: Value) -> Value:
    if not x.kind == y.kind == "i1":
        x, y = x.floating(), y.floating()
    return condition.boolean().choose(x, y)


# Random numbers: Philox-4x32-10, as in ``random.py``. Words of 32 bits are the lower ones of 64.

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85

Keys = list[tuple[Value, Value]]


def key_schedule(seed: Value, call: Value) -> Keys:
    """The keys of the ten rounds."""
    steps = [[(i * step) & _WORD for step in _KEY_STEPS] for i in range(10)]
    return [((seed + i) & _WORD, (call + j) & _WORD) for i, j in steps]


def uniform(keys: Keys, counter: tuple[Value, Value, Value, Value], lanes: int) -> Value:
    """Numbers in [0, 1) of 24 bits: the four words of one block of a counter after the other."""
    a, b, c, block = counter
    blocks = max(2, -(-lanes // 4))
    d = block.count_up(blocks)
    for first, second in keys:
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = q.unsigned_shift(32) ^ b ^ first, q & _WORD
        c, d = p.unsigned_shift(32) ^ d ^ second, p & _WORD
    words = [x.spread(blocks).unsigned_shift(8).lower_half() for x in (a, b, c, d)]
    pairs = [x.shuffle(y, list(range(2 * blocks))) for x, y in (words[:2], words[2:])]
    mixed = pairs[0].shuffle(pairs[1], [i % 4 * blocks + i // 4 for i in range(max(2, lanes))])
    return (mixed if lanes > 1 else mixed.part(0, 1)).floating() * 2.0**-24


# The tables.


def _relation(name: str) -> Function:
    return lambda x, y: x.compare(name, y)


def _known(name: str) -> Function:
    return lambda x: x.call(name)


_OF_FLOATS: dict[str, Function] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "negative": operator.neg,
    "abs": _known("fabs"),
    "sign": _sign,
    "exp": _exp,
    "expm1": _expm1,
    "log": _log,
    "log1p": _log1p,
    "sqrt": _known("sqrt"),
    "square": lambda x: x * x,
    "tanh": _tanh,
    "erf": _erf,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu": _relu,
    "maximum": _maximum,
    "minimum": _minimum,
    "equal": _relation("oeq"),
    "not_equal": _relation("une"),
    "less": _relation("olt"),
    "less_equal": _relation("ole"),
    "greater": _relation("ogt"),
    "greater_equal": _relation("oge"),
    "isnan": lambda x: x.compare("uno", x),
    "isinf": lambda x: x.call("fabs").compare("oeq", math.inf),
    "isfinite": lambda x: x.call("fabs").compare("olt", math.inf),
    "floor": _known("floor"),
    "ceil": _known("ceil"),
    "trunc": _known("trunc"),
    "round": _known("roundeven"),
}
_OF_BOOLEANS: dict[str, Function] = {
    "logical_and": operator.and_,
    "logical_or": operator.or_,
    "logical_xor": operator.xor,
    "logical_not": lambda x: x ^ 1,
}


def _on_floats(function: Function) -> Function:
    return lambda *operands: function(*(x.floating() for x in operands))


def _on_booleans(function: Function) -> Function:
    return lambda *operands: function(*(x.boolean() for x in operands))


ELEMENTWISE: dict[str, Function] = {
    **{name: _on_floats(function) for name, function in _OF_FLOATS.items()},
    **{name: _on_booleans(function) for name, function in _OF_BOOLEANS.items()},
    "where": _where,
}
"""Every function that kernels can hold, by the name of its primitive."""


class Reduction(NamedTuple):
    """A reduction over columns: what it starts from, and how it takes in one more value."""

    start: float
    combine: Function

    def lanes(self, x: Value) -> Value:
        """All lanes of a vector as one number."""
        if x.lanes == 1:
            return x
        half = x.lanes // 2
        total = self.lanes(self.combine(x.part(0, half), x.part(half, half)))
        return self.combine(total, x.part(x.lanes - 1, 1)) if x.lanes % 2 else total


APPROXIMATED = frozenset(["exp", "expm1", "log", "log1p", "tanh", "erf", "sigmoid", "softplus"])
"""Functions that are polynomials here; all others are as exact as in NumPy."""

SLOW = APPROXIMATED | {"divide", "sqrt", "draw"}
"""Functions that take several times as long as a sum."""

REDUCTIONS = {"sum": Reduction(0.0, operator.add), "max": Reduction(-math.inf, _maximum)}
"""The reductions that kernels can hold."""
