"""Bits of integers, and the operators ``& | ^ ~ << >>``, which are logic on booleans.

Nothing here has a derivative.
"""

from __future__ import annotations

from typing import Any

from ..apply import apply
from ..graph import Primitive
from ..tensor import Tensor, as_tensor
from .elementwise import TensorLike, attach, logical_and, logical_not, logical_or, logical_xor

_and = Primitive("bitwise_and", "elementwise", lambda xp, x, y: xp.bitwise_and(x, y))
_or = Primitive("bitwise_or", "elementwise", lambda xp, x, y: xp.bitwise_or(x, y))
_xor = Primitive("bitwise_xor", "elementwise", lambda xp, x, y: xp.bitwise_xor(x, y))
_invert = Primitive("bitwise_invert", "elementwise", lambda xp, x: xp.bitwise_invert(x))
_left = Primitive("bitwise_left_shift", "elementwise", lambda xp, x, y: xp.bitwise_left_shift(x, y))
_right = Primitive(
    "bitwise_right_shift", "elementwise", lambda xp, x, y: xp.bitwise_right_shift(x, y)
)


def _bits(primitive: Primitive, logic: Any, *xs: TensorLike) -> Tensor:
    """The primitive of integers, or the ``logic`` of booleans if there is one."""
    xs = tuple([x if type(x) in (bool, int, float) else as_tensor(x) for x in xs])
    dtypes = [as_tensor(x).dtype for x in xs]
    kinds = {dtype.kind for dtype in dtypes}
    if logic is not None and kinds == {"b"}:
        return logic(*xs)  # type: ignore[no-any-return]
    if not kinds <= {"i", "u"}:
        wanted = "integers" if logic is None else "integers or of booleans, and not mixed"
        raise TypeError(
            f"{primitive.name}({', '.join(map(str, dtypes))}): bits are those of {wanted}; "
            "compare for a bool, as in x != 0, or use astype('int64')"
        )
    return apply(primitive, *xs)


def bitwise_and(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The bits that both integers have; of booleans ``logical_and``. Also ``x1 & x2``."""
    return _bits(_and, logical_and, x1, x2)


def bitwise_or(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The bits that either integer has; of booleans ``logical_or``. Also ``x1 | x2``."""
    return _bits(_or, logical_or, x1, x2)


def bitwise_xor(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The bits that one integer has; of booleans ``logical_xor``. Also ``x1 ^ x2``."""
    return _bits(_xor, logical_xor, x1, x2)


def bitwise_invert(x: TensorLike, /) -> Tensor:
    """The bits that the integer does not have; of booleans ``logical_not``. Also ``~x``."""
    return _bits(_invert, logical_not, x)


def bitwise_left_shift(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The bits of x1 moved x2 places up, zeros coming in. Also ``x1 << x2``."""
    return _bits(_left, None, x1, x2)


def bitwise_right_shift(x1: TensorLike, x2: TensorLike, /) -> Tensor:
    """The bits of x1 moved x2 places down, the sign staying. Also ``x1 >> x2``."""
    return _bits(_right, None, x1, x2)


attach(
    {
        "and": (bitwise_and, "&="),
        "or": (bitwise_or, "|="),
        "xor": (bitwise_xor, "^="),
        "lshift": (bitwise_left_shift, "<<="),
        "rshift": (bitwise_right_shift, ">>="),
    }
)
setattr(Tensor, "__invert__", bitwise_invert)  # noqa: B010
