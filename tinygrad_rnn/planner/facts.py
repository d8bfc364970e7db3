"""What passes and emitters ask about a primitive: one table, a row for each.

Beside it stand the four primitives that only plans have. A primitive of somebody else's, even one
named like ours, has the facts of nothing: it is run as it is, and its results are held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..graph import Primitive
from ..primitives import TABLE
from .runtime.functions import INTO

detached = Primitive("detach", "elementwise", lambda xp, x: x)
copied = Primitive("copied", "elementwise", lambda xp, x: x, lambda xp, g: g)
full = Primitive(
    "full", "movement", lambda xp, *, number, shape, dtype: np.full(shape, number, dtype=dtype)
)
called = Primitive(
    "called",
    "contraction",
    lambda xp, call, *arrays, method, metas: getattr(call, method)(arrays),
    outputs="several",
)
"""A method of an object that a plan is given, on arrays: results of shapes and dtypes ``metas``."""


class Facts(NamedTuple):
    """A row of the table."""

    linear: bool = False
    """f(a + b) = f(a) + f(b) in its first operand, if the others stay as they are."""
    moves: bool = False
    """Its elements are those of its only operand, perhaps fewer or repeated, in another order."""
    cheap: bool = False
    """It costs about as much to compute again as to store and read."""
    ufunc: str | None = None
    """The function of NumPy that does it, with an ``out`` that may be an operand."""
    into: Callable[..., None] | None = None
    """What does it instead, ``into(np, *operands, out)``; no operand may be ``out``."""
    of_floats: bool = False
    """``into`` is for floating numbers only."""


_COSTLY = {"divide", "pow", "floor_divide", "remainder", "sqrt", "exp", "expm1", "log", "log1p"}
_COSTLY |= {"sin", "cos", "tanh", "sigmoid", "softplus", "erf", "copied", "copy", "tan", "sinh"}
_COSTLY |= {"cosh", "asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh", "log2", "log10"}
_COSTLY |= {"logaddexp", "hypot"}
_MOVE = {"reshape", "permute_dims", "broadcast_to", "getitem"}
_LINEAR = {"negative", "multiply", "divide", "astype", "sum", "windows", "overlap_add"}
_LINEAR |= {"convolution", "transposed_convolution", "kernel_cotangent"}
_RENAMED = {"abs": "absolute", "pow": "power", "round": "rint", "bitwise_invert": "invert"}
_RENAMED |= {"bitwise_left_shift": "left_shift", "bitwise_right_shift": "right_shift"}
_RENAMED |= {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}
_RENAMED |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}


def _facts(name: str, primitive: Primitive) -> Facts:
    elementwise = primitive.kind == "elementwise"
    ufunc = _RENAMED.get(name, name)
    writes = elementwise and isinstance(getattr(np, ufunc, None), np.ufunc)
    return Facts(
        linear=name in _MOVE or name in _LINEAR,
        moves=name in _MOVE,
        cheap=name in _MOVE or name == "full" or (elementwise and name not in _COSTLY),
        ufunc=f"np.{ufunc}" if writes else None,
        into=INTO.get(name),
        of_floats=name in ("sigmoid", "relu", "softplus"),
    )


_FACTS = {name: _facts(name, primitive) for name, primitive in TABLE.items()}
_NOTHING = Facts()


def facts_of(name: str) -> Facts:
    """The facts of a primitive, by the ``name`` of a value that it makes."""
    return _FACTS.get(name, _NOTHING)
