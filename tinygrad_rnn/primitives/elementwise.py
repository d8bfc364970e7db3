"""Elementwise primitives: arithmetic, functions of one array, comparisons, casts.

Read a row as a line of a table of derivatives: tanh's gradient is ``g * (1 - out * out)``. Inputs
broadcast, and no rule mentions it: the walk sums each cotangent back to its input's shape.

Kinks, where a derivative is a choice: ``maximum`` and ``minimum`` give half to each at a tie, and
``abs``, ``relu`` and ``sign`` give 0 at 0. ``sqrt`` at 0 has the derivative it has, infinity.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from ..apply import apply
from ..dtypes import canonical_dtype, native_dtype
from ..entering import refuse_masked
from ..graph import Primitive
from ..tensor import Tensor, as_tensor

TensorLike: TypeAlias = "Tensor | np.ndarray[Any, Any] | float | Any"
"""What operations take: a Tensor, an array of its backend, or a Python number (weakly typed)."""


# Arithmetic.

_add = Primitive("add", "elementwise", lambda xp, x, y: x + y, lambda xp, g: g, lambda xp, g: g)
_subtract = Primitive(
    "subtract", "elementwise", lambda xp, x, y: x - y, lambda xp, g: g, lambda xp, g: -g
)
_multiply = Primitive(
    "multiply",
    "elementwise",
    lambda xp, x, y: x * y,
    lambda xp, g, y: g * y,
    lambda xp, g, x: g * x,
)
_divide = Primitive(
    "divide",
    "elementwise",
    lambda xp, x, y: x / y,
    lambda xp, g, y: g / y,
    lambda xp, g, y, out: -(g * out) / y,
)
_negative = Primitive("negative", "elementwise", lambda xp, x: -x, lambda xp, g: -g)


def _pow_base(xp: Any, g: Any, x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)):
        return g * (y * x ** (y - 1)) if y != 0 else xp.zeros_like(g)
    # At 0**0 the derivative is 0, but 0 * 0**-1 would be nan.
    return g * (y * x ** xp.where((x == 0) & (y == 0), 1, y - 1))


def _pow_exponent(xp: Any, g: Any, x: Any, y: Any, out: Any) -> Any:
    x = xp.zeros_like(y) + x  # an array, if it was a number
    # 0**y is flat in y >= 0, though log(0) is infinite.
    return g * out * xp.log(xp.where((x == 0) & (y >= 0), 1, x))


_pow = Primitive("pow", "elementwise", lambda xp, x, y: x**y, _pow_base, _pow_exponent)
_floor_divide = Primitive("floor_divide", "elementwise", lambda xp, x, y: x // y)
_remainder = Primitive(
    "remainder",
    "elementwise",
    lambda xp, x, y: x % y,
    lambda xp, g: g,
    lambda xp, g, x, y: -g * (x // y),
)


def add(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 + x2."""
    return apply(_add, x1, x2)


def subtract(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 - x2."""
    return apply(_subtract, x1, x2)


def multiply(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 * x2, elementwise."""
    return apply(_multiply, x1, x2)


def divide(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 / x2; of integers, a float64 as in NumPy."""
    return apply(_divide, x1, x2)


def pow(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 ** x2. The derivative by x1 is 0 where x2 is 0; the one by x2 is 0 where x1 is 0."""
    if type(x2) in (int, float) and x2 == 2:
        x1 = as_tensor(x1)
        if type(x2) is int or x1.dtype.kind == "f":
            return square(x1)
    return apply(_pow, x1, x2)


def negative(x: TensorLike, /) -> Tensor:
    """-x."""
    return apply(_negative, x)


def positive(x: TensorLike, /) -> Tensor:
    """x."""
    return as_tensor(x)


def floor_divide(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The largest integer not above x1 / x2. Not differentiable.

    Of infinities it is that quotient, as in the Array API, where Python would have nan or -1.
    """
    whole = apply(_floor_divide, x1, x2)
    if whole.dtype.kind != "f":
        return whole
    return where(isfinite(subtract(x1, x2)), whole, floor(divide(x1, x2)))


def remainder(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 - x2 * floor(x1 / x2), with the sign of x2 as in Python."""
    return apply(_remainder, x1, x2)


# Functions of one array.

_abs = Primitive("abs", "elementwise", lambda xp, x: xp.abs(x), lambda xp, g, x: g * xp.sign(x))
_sign = Primitive("sign", "elementwise", lambda xp, x: xp.sign(x), lambda xp, g: xp.zeros_like(g))
_exp = Primitive("exp", "elementwise", lambda xp, x: xp.exp(x), lambda xp, g, out: g * out)
_expm1 = Primitive(
    "expm1", "elementwise", lambda xp, x: xp.expm1(x), lambda xp, g, out: g * (out + 1)
)
_log = Primitive("log", "elementwise", lambda xp, x: xp.log(x), lambda xp, g, x: g / x)
_log1p = Primitive("log1p", "elementwise", lambda xp, x: xp.log1p(x), lambda xp, g, x: g / (x + 1))
_sqrt = Primitive("sqrt", "elementwise", lambda xp, x: xp.sqrt(x), lambda xp, g, out: g / (2 * out))
_square = Primitive("square", "elementwise", lambda xp, x: x * x, lambda xp, g, x: g * (2 * x))
_sin = Primitive("sin", "elementwise", lambda xp, x: xp.sin(x), lambda xp, g, x: g * xp.cos(x))
_cos = Primitive("cos", "elementwise", lambda xp, x: xp.cos(x), lambda xp, g, x: -g * xp.sin(x))
_tanh = Primitive(
    "tanh", "elementwise", lambda xp, x: xp.tanh(x), lambda xp, g, out: g * (1 - out * out)
)
_sigmoid = Primitive(
    "sigmoid", "elementwise", lambda xp, x: xp.sigmoid(x), lambda xp, g, out: g * (out - out * out)
)
_softplus = Primitive(
    "softplus",
    "elementwise",
    lambda xp, x: xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x))),
    lambda xp, g, x: g * xp.sigmoid(x),
)
_erf = Primitive(
    "erf",
    "elementwise",
    lambda xp, x: xp.erf(x),
    lambda xp, g, x: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x),
)
_relu = Primitive(
    "relu",
    "elementwise",
    lambda xp, x: xp.maximum(x, 0),
    lambda xp, g, out: xp.where(out <= 0, 0, g),
)


def abs(x: TensorLike, /) -> Tensor:
    """``|x|``; the derivative at 0 is 0."""
    return apply(_abs, x)


def sign(x: TensorLike, /) -> Tensor:
    """-1, 0 or 1; the derivative is 0 everywhere."""
    return apply(_sign, x)


def exp(x: TensorLike, /) -> Tensor:
    """e to the power x."""
    return apply(_exp, x)


def expm1(x: TensorLike, /) -> Tensor:
    """exp(x) - 1, accurate near 0."""
    return apply(_expm1, x)


def log(x: TensorLike, /) -> Tensor:
    """The natural logarithm."""
    return apply(_log, x)


def log1p(x: TensorLike, /) -> Tensor:
    """log(1 + x), accurate near 0."""
    return apply(_log1p, x)


def sqrt(x: TensorLike, /) -> Tensor:
    """The square root; the derivative at 0 is inf."""
    return apply(_sqrt, x)


def square(x: TensorLike, /) -> Tensor:
    """x * x."""
    return apply(_square, x)


def sin(x: TensorLike, /) -> Tensor:
    """The sine, of radians."""
    return apply(_sin, x)


def cos(x: TensorLike, /) -> Tensor:
    """The cosine, of radians."""
    return apply(_cos, x)


def tanh(x: TensorLike, /) -> Tensor:
    """The hyperbolic tangent."""
    return apply(_tanh, x)


def sigmoid(x: TensorLike, /) -> Tensor:
    """1 / (1 + exp(-x)), accurate for large ``|x|``."""
    return apply(_sigmoid, x)


def softplus(x: TensorLike, /) -> Tensor:
    """log(1 + exp(x)), which does not overflow."""
    return apply(_softplus, x)


def erf(x: TensorLike, /) -> Tensor:
    """The error function."""
    return apply(_erf, x)


def relu(x: TensorLike, /) -> Tensor:
    """max(x, 0); the derivative at 0 is 0."""
    return apply(_relu, x)


# Functions that choose.


def _larger_share(xp: Any, g: Any, x: Any, y: Any) -> Any:
    return xp.where(x == y, g / 2, xp.where(x > y, g, 0))


_maximum = Primitive(
    "maximum",
    "elementwise",
    lambda xp, x, y: xp.maximum(x, y),
    lambda xp, g, x, y: _larger_share(xp, g, x, y),
    lambda xp, g, x, y: _larger_share(xp, g, y, x),
)
_minimum = Primitive(
    "minimum",
    "elementwise",
    lambda xp, x, y: xp.minimum(x, y),
    lambda xp, g, x, y: _larger_share(xp, g, y, x),
    lambda xp, g, x, y: _larger_share(xp, g, x, y),
)
_where = Primitive(
    "where",
    "elementwise",
    lambda xp, condition, x, y: xp.where(condition, x, y),
    None,
    lambda xp, g, condition: xp.where(condition, g, 0),
    lambda xp, g, condition: xp.where(condition, 0, g),
)


def maximum(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The larger of each pair; at a tie each gets half of the cotangent."""
    return apply(_maximum, x1, x2)


def minimum(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The smaller of each pair; at a tie each gets half of the cotangent."""
    return apply(_minimum, x1, x2)


def where(condition: TensorLike, x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 where the boolean ``condition`` holds, x2 elsewhere. The other gets cotangent 0."""
    condition = as_tensor(condition)
    if condition.dtype.kind != "b":
        raise TypeError(
            f"where: the condition is {condition.dtype}, not bool; compare it, as in x != 0"
        )
    if type(x1) in (bool, int, float) and type(x2) in (bool, int, float):
        x1 = as_tensor(x1).to(condition.backend)
    return apply(_where, condition, x1, x2)


def clip(x: TensorLike, /, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
    """x limited to [min, max]; the cotangent passes inside and at the bounds.

    Outside, it goes to the bound, if that is a Tensor that requires grad.
    """
    x = as_tensor(x)
    if min is not None:
        x = where(x < min, min, x)
    if max is not None:
        x = where(x > max, max, x)
    return x


# Comparisons, tests and logic: booleans have no derivative.

_equal = Primitive("equal", "elementwise", lambda xp, x, y: x == y)
_not_equal = Primitive("not_equal", "elementwise", lambda xp, x, y: x != y)
_less = Primitive("less", "elementwise", lambda xp, x, y: x < y)
_less_equal = Primitive("less_equal", "elementwise", lambda xp, x, y: x <= y)
_greater = Primitive("greater", "elementwise", lambda xp, x, y: x > y)
_greater_equal = Primitive("greater_equal", "elementwise", lambda xp, x, y: x >= y)
_logical_and = Primitive("logical_and", "elementwise", lambda xp, x, y: xp.logical_and(x, y))
_logical_or = Primitive("logical_or", "elementwise", lambda xp, x, y: xp.logical_or(x, y))
_logical_xor = Primitive("logical_xor", "elementwise", lambda xp, x, y: xp.logical_xor(x, y))
_logical_not = Primitive("logical_not", "elementwise", lambda xp, x: xp.logical_not(x))
_isnan = Primitive("isnan", "elementwise", lambda xp, x: xp.isnan(x))
_isinf = Primitive("isinf", "elementwise", lambda xp, x: xp.isinf(x))
_isfinite = Primitive("isfinite", "elementwise", lambda xp, x: xp.isfinite(x))
_floor = Primitive("floor", "elementwise", lambda xp, x: xp.floor(x))
_ceil = Primitive("ceil", "elementwise", lambda xp, x: xp.ceil(x))
_trunc = Primitive("trunc", "elementwise", lambda xp, x: xp.trunc(x))
_round = Primitive("round", "elementwise", lambda xp, x: xp.round(x))


def equal(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 == x2, elementwise."""
    return apply(_equal, x1, x2)


def not_equal(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 != x2, elementwise."""
    return apply(_not_equal, x1, x2)


def less(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 < x2."""
    return apply(_less, x1, x2)


def less_equal(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 <= x2."""
    return apply(_less_equal, x1, x2)


def greater(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 > x2."""
    return apply(_greater, x1, x2)


def greater_equal(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """x1 >= x2."""
    return apply(_greater_equal, x1, x2)


def _logical(primitive: Primitive, *xs: TensorLike) -> Tensor:
    for x in xs:
        if (dtype := as_tensor(x).dtype).kind != "b":
            raise TypeError(
                f"{primitive.name}: an operand is {dtype}, not bool; compare it, as in x != 0"
            )
    return apply(primitive, *xs)


def logical_and(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """Both, of booleans."""
    return _logical(_logical_and, x1, x2)


def logical_or(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """Either or both, of booleans."""
    return _logical(_logical_or, x1, x2)


def logical_xor(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """Exactly one, of booleans."""
    return _logical(_logical_xor, x1, x2)


def logical_not(x: TensorLike, /) -> Tensor:
    """The opposite, of booleans."""
    return _logical(_logical_not, x)


def isnan(x: TensorLike, /) -> Tensor:
    """Whether each element is nan."""
    return apply(_isnan, x)


def isinf(x: TensorLike, /) -> Tensor:
    """Whether each element is inf or -inf."""
    return apply(_isinf, x)


def isfinite(x: TensorLike, /) -> Tensor:
    """Whether each element is neither nan nor infinite."""
    return apply(_isfinite, x)


def floor(x: TensorLike, /) -> Tensor:
    """Rounded down. Not differentiable, like the other roundings: the result needs no grad."""
    return apply(_floor, x)


def ceil(x: TensorLike, /) -> Tensor:
    """Rounded up."""
    return apply(_ceil, x)


def trunc(x: TensorLike, /) -> Tensor:
    """Rounded towards 0."""
    return apply(_trunc, x)


def round(x: TensorLike, /) -> Tensor:
    """Rounded to the nearest integer, halves to the even one."""
    return apply(_round, x)


# Casts and copies.

_astype = Primitive(
    "astype",
    "elementwise",
    lambda xp, x, *, dtype: xp.astype(x, native_dtype(xp, dtype)),
    lambda xp, g, *, dtype: g,
)
_alias = Primitive("alias", "elementwise", lambda xp, x: x, lambda xp, g: g)
_copy = Primitive("copy", "elementwise", lambda xp, x: xp.asarray(x, copy=True), lambda xp, g: g)


def copied(x: TensorLike, /) -> Tensor:
    """x in memory of its own."""
    return apply(_copy, x)


def astype(x: TensorLike, dtype: Any, /, *, copy: bool | None = None, device: Any = None) -> Tensor:
    """x in another dtype. The cotangent is cast back; through an integer dtype none flows.

    In its own dtype it is x itself, since nobody writes to a Tensor; ``copy=True`` makes it a copy.
    """
    x = as_tensor(x)
    if device is not None:
        x = x.to_device(device)
    dtype = canonical_dtype(np.dtype(dtype) if isinstance(dtype, (str, type)) else dtype)
    dtype = dtype.newbyteorder("=")
    if dtype.kind not in "biuf":
        raise TypeError(f"astype: {dtype} holds no real numbers")
    if dtype == x.dtype:
        return copied(x) if copy else x
    return apply(_astype, x if dtype.kind == "f" else x.detach(), dtype=dtype)


def alias(x: TensorLike, /) -> Tensor:
    """x as another node of the graph: a transform can ask for its cotangent without meeting x's."""
    return apply(_alias, x)


def result_type(*operands: Any) -> np.dtype[Any]:
    """The dtype that an operation on these Tensors, dtypes and (weak) Python numbers has."""
    given = [
        x.dtype
        if isinstance(x, Tensor)
        else x
        if type(x) in (bool, int, float)
        else canonical_dtype(x)
        for x in operands
    ]
    return np.result_type(*given)


# Operators. A comparison with something that is no number (``x == None``) falls back to Python's.


def _comparison(primitive: Primitive) -> Any:
    def compare(self: Tensor, other: Any) -> Any:
        try:
            known = type(other) in (bool, int, float) or isinstance(other, np.generic)
            other = other if known else as_tensor(other)
        except TypeError:
            refuse_masked(primitive.name, other)
            return NotImplemented
        return apply(primitive, self, other)

    return compare


def in_place(symbol: str, operation: Any) -> Any:
    """``x += y``: ``x = x + y``, except for a parameter, which it would leave as it was."""

    def rebind(self: Tensor, other: Any) -> Tensor:
        if self.is_leaf and self.requires_grad:
            raise TypeError(
                f"x {symbol} y would rebind the name and leave the parameter as it was, "
                "silently training nothing; assign its data: p.data = p.data - 0.1 * p.grad.data"
            )
        result: Tensor = operation(self, other)
        return result

    return rebind


def _reflected(operation: Any) -> Any:
    return lambda self, other: operation(other, self)


def attach(operators: dict[str, tuple[Any, str]]) -> None:
    """Make functions of two arguments operators of Tensors, in the three forms that Python has."""
    for name, (operation, symbol) in operators.items():
        setattr(Tensor, f"__{name}__", operation)
        setattr(Tensor, f"__r{name}__", _reflected(operation))
        setattr(Tensor, f"__i{name}__", in_place(symbol, operation))


_ARITHMETIC = {
    "add": (add, "+="),
    "sub": (subtract, "-="),
    "mul": (multiply, "*="),
    "truediv": (divide, "/="),
    "pow": (pow, "**="),
    "floordiv": (floor_divide, "//="),
    "mod": (remainder, "%="),
}
_COMPARISONS = {
    "__eq__": _equal,
    "__ne__": _not_equal,
    "__lt__": _less,
    "__le__": _less_equal,
    "__gt__": _greater,
    "__ge__": _greater_equal,
}
_UNARY: dict[str, Any] = {
    "__neg__": negative,
    "__pos__": positive,
    "__abs__": abs,
    "astype": astype,
}

attach(_ARITHMETIC)
for _name, _primitive in _COMPARISONS.items():
    setattr(Tensor, _name, _comparison(_primitive))
for _name, _operation in _UNARY.items():
    setattr(Tensor, _name, _operation)
