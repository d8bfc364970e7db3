"""A conformance kit for backends: ``tinygrad_rnn.testing.check_backend(name)``.

What the author of a plugin runs as a test. The reference is NumPy itself, not its backend, which is
tested like any other. A check also compares the arguments before and after: arrays are shared with
the graph, and a function that writes to one corrupts gradients that have nothing to do with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from . import get
from .protocol import Backend


def check_backend(backend: str | Backend) -> None:
    """Compare a backend with NumPy, case by case: what the author of one runs as a test.

    Looked at are the functions of the Array API that the library uses, what
    ``tinygrad_rnn_backends.protocol`` adds to them, dtypes, 0-d and empty arrays, NaN and inf, and
    that no argument is written to.

    Args:
        backend: a name, or the backend itself, which need not be registered.

    Raises:
        AssertionError: with one line for each failure: the call, what was expected and what came.
    """
    tested = get(backend) if isinstance(backend, str) else backend
    kit = _Conformance(tested)
    with np.errstate(all="ignore"):
        _check_crossing(kit)
        for call in [
            *_elementwise(),
            *_reductions(),
            *_movements(),
            *_products(),
            *_factorizations(),
            *_others(),
        ]:
            kit.check_call(call)
        _check_special(kit)
        _check_indexing(kit)
        _check_windows(kit)
    if kit.failures:
        title = f"check_backend({tested.name!r}): {len(kit.failures)} of {kit.count} checks failed"
        raise AssertionError("\n  ".join([title, *kit.failures]))


class _Call(NamedTuple):
    """``function(xp, *inputs)``, where ``xp`` is NumPy or the backend that is tested."""

    text: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]


def _call(name: str, *inputs: Any, **options: Any) -> _Call:
    """A function of the namespace. An option ``dtype`` is a name, looked up in the namespace."""
    inputs = tuple(np.asarray(x) if isinstance(x, np.generic) else x for x in inputs)  # 0-d

    def function(xp: Any, *arrays: Any) -> Any:
        given = {k: getattr(xp, v) if k == "dtype" else v for k, v in options.items()}
        return getattr(xp, name)(*arrays, **given)

    shown = [_show(x) for x in inputs] + [f"{k}={v!r}" for k, v in options.items()]
    return _Call(f"{name}({', '.join(shown)})", function, inputs)


def _operation(symbol: str, function: Callable[..., Any], *inputs: Any) -> _Call:
    text = f" {symbol} ".join(_show(x) for x in inputs)
    return _Call(text, lambda xp, *arrays: function(*arrays), inputs)


def _show(value: Any) -> str:
    """An input as a failure shows it: arrays by dtype and shape, with values if they are few."""
    if isinstance(value, np.ndarray):
        values = f" {value.tolist()}" if 0 < value.size <= 6 else ""
        return f"{value.dtype} {value.shape}{values}"
    if isinstance(value, (list, tuple)) and any(isinstance(x, np.ndarray) for x in value):
        return f"[{'; '.join(map(_show, value))}]"
    return repr(value)


class _Conformance:
    """Counts checks and collects failures."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.failures: list[str] = []
        self.count = 0

    def method(self, name: str) -> Callable[..., Any]:
        """A method of the backend, looked up when called, so that a missing one is a failure."""
        return lambda *arguments: getattr(self.backend, name)(*arguments)

    def check_call(self, call: _Call) -> None:
        """The same call on NumPy says what to expect."""
        expected = call.function(np, *_mapped(np.copy, call.inputs))
        self.check(call.text, lambda *xs: call.function(self.backend, *xs), call.inputs, expected)

    def check(
        self,
        text: str,
        function: Callable[..., Any],
        inputs: tuple[Any, ...],
        expected: Any,
        *,
        units: float | None = None,
        owned: int = 0,
    ) -> None:
        """Compare ``function(*inputs)`` with what is expected.

        Args:
            text: what a failure calls it.
            function: takes the arrays of ``inputs``, and of lists in it, as arrays of the backend.
            inputs: NumPy arrays and other arguments.
            expected: a NumPy array, or a tuple of them.
            units: the tolerance in units of the last place; None for that of a long sum.
            owned: how many leading inputs the function may write to.
        """
        with self.attempt(text):
            arrays = _mapped(self.backend.from_host, inputs)
            found = function(*arrays)
            several = isinstance(expected, (tuple, list))
            pairs = zip(found, expected, strict=True) if several else [(found, expected)]
            for part, reference in pairs:
                self.compare(part, np.asarray(reference), units)
            for given, array in list(zip(inputs, arrays, strict=True))[owned:]:
                for before, after in zip(_arrays_in(given), _arrays_in(array), strict=True):
                    if not np.array_equal(before, self.backend.to_host(after), equal_nan=True):
                        raise AssertionError(f"the argument {_show(before)} was written to")

    def compare(self, found: Any, expected: np.ndarray[Any, Any], units: float | None) -> None:
        if not isinstance(found, (*self.backend.array_types, np.generic)):  # NumPy's 0-d results
            raise AssertionError(f"expected an array of the backend, got {type(found).__name__}")
        host = np.asarray(self.backend.to_host(self.backend.asarray(found)))
        if (host.dtype, host.shape) != (expected.dtype, expected.shape):
            raise AssertionError(
                f"expected {expected.dtype} {expected.shape}, got {host.dtype} {host.shape}"
            )
        if expected.dtype.kind != "f":
            wrong = host != expected
        else:
            eps = float(np.finfo(expected.dtype).eps)
            finite = np.abs(expected[np.isfinite(expected)])
            scale = float(finite.max()) if units is None and finite.size else 0.0
            rtol = 64 * eps if units is None else units * eps
            wrong = ~np.isclose(host, expected, rtol=rtol, atol=rtol * scale, equal_nan=True)
        if wrong.any():
            at = tuple(map(int, np.argwhere(wrong)[0]))
            where = f"element {at}: " if at else ""
            raise AssertionError(f"{where}expected {expected[at]!s}, got {host[at]!s}")

    @contextmanager
    def attempt(self, text: str) -> Iterator[None]:
        """Count one check; what it raises is a failure."""
        self.count += 1
        try:
            yield
        except AssertionError as failure:
            self.failures.append(f"{text}: {failure}")
        except Exception as error:
            self.failures.append(f"{text}: raised {type(error).__name__}: {error}")


def _mapped(function: Callable[[Any], Any], inputs: Any) -> tuple[Any, ...]:
    """Inputs with ``function`` applied to the arrays, also to those in a list or a key."""

    def one(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return function(x)
        if isinstance(x, (list, tuple)):
            return type(x)(map(one, x))
        return x

    return tuple(map(one, inputs))


def _arrays_in(x: Any) -> list[Any]:
    if isinstance(x, (list, tuple)):
        return [array for entry in x for array in _arrays_in(entry)]
    return [x] if hasattr(x, "shape") and not isinstance(x, np.generic) else []


def _normal(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    """Normally distributed numbers, always the same."""
    values = np.random.default_rng(len(shape)).standard_normal(shape)
    return np.asarray(values, dtype=dtype)


def _special_values(dtype: str) -> np.ndarray[Any, Any]:
    return np.array([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0], dtype=dtype)


_UNARY = (
    *("abs", "ceil", "cos", "exp", "expm1", "floor", "isfinite", "isinf", "isnan", "negative"),
    *("round", "sign", "sin", "square", "tanh", "trunc"),
    *("tan", "atan", "sinh", "cosh", "asinh", "signbit"),
)
_UNARY_POSITIVE = ("log", "log1p", "sqrt", "log2", "log10")
_UNARY_SPECIAL = (
    "abs",
    "exp",
    "expm1",
    "isfinite",
    "isinf",
    "isnan",
    "sign",
    "tanh",
    *_UNARY_POSITIVE,
)
_BINARY = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "logaddexp"),
    *("atan2", "hypot", "copysign", "nextafter"),
    *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
)
_LOGICAL = ("logical_and", "logical_or", "logical_xor")
_BITS = ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift")


def _elementwise() -> Iterator[_Call]:
    for dtype in ("float32", "float64"):
        inputs = [_normal(3, 4, dtype=dtype), _normal(dtype=dtype), _normal(0, 3, dtype=dtype)]
        for x in inputs:
            yield from (_call(name, x) for name in _UNARY)
            yield from (_call(name, np.abs(x)) for name in _UNARY_POSITIVE)
        yield from (_call(name, _special_values(dtype)) for name in _UNARY_SPECIAL)
    yield _call("logical_not", np.array([True, False]))
    yield _call("abs", np.array([-2, 3]))

    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    shapes = [((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((0, 3), (3,)), ((), ())]
    for first, second in shapes:
        for dtype in ("float32", "float64"):
            x, y = _normal(*first, dtype=dtype), _normal(*second, dtype=dtype) + 1
            yield from (_call(name, x, y) for name in _BINARY)
            yield _call("pow", np.abs(x), y)
            yield _call("where", x > y, x, y)
        yield from (_call(name, x > 0, y > 0) for name in _LOGICAL)
    extremes = _special_values("float32")
    for name in ("maximum", "minimum", "logaddexp"):
        yield _call(name, extremes, extremes[::-1].copy())
    yield _call("where", extremes > 0, extremes, 0.0)
    yield _call("clip", _normal(3, 4), -0.5, 0.5)
    yield _call("clip", extremes, 0.0, 0.5)
    yield _call("remainder", _normal(3, 4), np.full(4, 0.5, dtype="float32"))

    yield from (_call(name, np.array([5, -7, 0]), np.array([1, 2, 3])) for name in _BITS)
    yield _call("bitwise_invert", np.array([5, -7, 0]))
    yield from (_call(name, _normal(3, 4) / 8) for name in ("asin", "acos", "atanh"))
    yield _call("acosh", np.abs(_normal(3, 4)) + 1)

    x, y, n = _normal(3, 4), _normal(4) + 3, np.array([5, 7])
    for symbol, function in (
        ("+", operator.add),
        ("-", operator.sub),
        ("*", operator.mul),
        ("/", operator.truediv),
        ("//", operator.floordiv),
        ("<", operator.lt),
        ("==", operator.eq),
    ):
        yield _operation(symbol, function, x, y)
        yield _operation(symbol, function, x, 2.0)  # a Python number changes no dtype
        yield _operation(symbol, function, 2.0, y)
    yield _operation("**", operator.pow, np.abs(x), y)
    yield _operation("**", operator.pow, x, 2)
    yield _operation("+", operator.add, x, 1)
    yield _operation("*", operator.mul, n, 2)
    yield _operation("@", operator.matmul, x, _normal(4, 2))
    yield _operation("&", operator.and_, x > 0, x < 1)
    yield _Call(f"-{_show(x)}", lambda xp, x: -x, (x,))
    yield _Call(f"~{_show(x > 0)}", lambda xp, x: ~x, (x > 0,))


def _reductions() -> Iterator[_Call]:
    axes: list[int | tuple[int, ...] | None] = [None, 0, -1, (0, 2)]
    for dtype in ("float32", "float64"):
        x = _normal(3, 4, 2, dtype=dtype)
        for axis in axes:
            for keepdims in (False, True):
                for name in ("sum", "mean", "max", "min", "prod"):
                    yield _call(name, x, axis=axis, keepdims=keepdims)
                for name in ("std", "var"):
                    yield _call(name, x, axis=axis, correction=1, keepdims=keepdims)
                for name in ("any", "all"):
                    yield _call(name, x > 1, axis=axis, keepdims=keepdims)
        for axis in (None, 0, -1):
            yield _call("argmax", x, axis=axis)
            yield _call("argmin", x, axis=axis, keepdims=True)
        yield _call("cumulative_sum", x, axis=1)
        yield _call("cumulative_prod", x, axis=1)
        yield _call("cumulative_sum", x, axis=-1, include_initial=True)
        yield _call("sum", _normal(0, 3, dtype=dtype), axis=0)
        yield _call("sum", _normal(dtype=dtype))
        yield _call("prod", _normal(0, 3, dtype=dtype), axis=0)
        yield _call("max", _normal(0, 3, dtype=dtype), axis=1)
    yield _call("max", _special_values("float32")[1:])
    yield _call("max", _special_values("float32"))
    yield _call("sum", np.arange(6).reshape(2, 3), axis=0)


def _movements() -> Iterator[_Call]:
    for x in (_normal(3, 4, 2), np.arange(24).reshape(3, 4, 2), _normal(3, 4, 2) > 0):
        yield _call("reshape", x, (4, 6))
        yield _call("reshape", x, (-1,))
        yield _call("permute_dims", x, (2, 0, 1))
        yield _call("matrix_transpose", x)
        yield _call("moveaxis", x, 0, -1)
        yield from (_call("expand_dims", x, axis=axis) for axis in (0, 2, -1))
        yield _call("broadcast_to", x[:, :1], (5, 3, 6, 2))
        yield from (_call("flip", x, axis=axis) for axis in (None, 0, (0, -1)))
        yield _call("roll", x, 5)
        yield _call("roll", x, (1, -2), axis=(0, 2))
        yield _call("concat", [x, x[:1]], axis=0)
        yield _call("concat", [x, x], axis=-1)
        yield from (_call("stack", [x, x], axis=axis) for axis in (0, -1))
        yield from (_call("unstack", x, axis=axis) for axis in (0, -1))
        yield _call("tile", x, (2, 1, 1, 3))
        yield _call("repeat", x, 2, axis=1)
    yield _call("squeeze", _normal(1, 3, 1), axis=(0, 2))
    yield _call("squeeze", _normal(1, 3, 1), axis=-1)
    yield _call("broadcast_arrays", _normal(3, 1), _normal(4))
    yield _call("reshape", _normal(), (1, 1))
    yield _call("reshape", _normal(0, 3), (3, 0, 2))
    yield _call("concat", [_normal(0, 3), _normal(2, 3)], axis=0)


def _products() -> Iterator[_Call]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((4,), (4,)),
        ((3, 4), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4, 5)),
        ((3, 1), (1, 5)),
        ((3, 0), (0, 5)),
        ((0, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
    ]
    for dtype in ("float32", "float64"):
        for first, second in shapes:
            yield _call("matmul", _normal(*first, dtype=dtype), _normal(*second, dtype=dtype))
        x, y = _normal(2, 3, 4, dtype=dtype), _normal(4, 3, 5, dtype=dtype)
        yield _call("tensordot", x, y, axes=1)
        yield _call("tensordot", x, y, axes=((2, 1), (0, 1)))
        yield _call("tensordot", x, y, axes=0)
        yield _call("vecdot", x, _normal(3, 4, dtype=dtype))


def _factorizations() -> Iterator[_Call]:
    """Of positive definite matrices, and what has no sign of those that are determined up to it."""
    for dtype in ("float32", "float64"):
        x = _normal(2, 3, 3, dtype=dtype)
        x = x @ np.matrix_transpose(x) + np.eye(3, dtype=dtype)
        for name in ("inv", "det", "slogdet", "cholesky", "pinv"):
            yield _linalg(name, lambda found: found, x)
        yield _linalg("solve", lambda found: found, x, _normal(2, 3, 1, dtype=dtype))
        for name in ("eigh", "svd", "qr"):
            yield _linalg(name, lambda found: tuple([abs(part) for part in found]), x)


def _linalg(name: str, seen: Callable[[Any], Any], *inputs: Any) -> _Call:
    text = f"linalg.{name}({', '.join(map(_show, inputs))})"
    return _Call(text, lambda xp, *arrays: seen(getattr(xp.linalg, name)(*arrays)), inputs)


def _others() -> Iterator[_Call]:
    """Creation, dtypes, sorting and looking up."""
    x = _normal(3, 4)
    for dtype in ("float32", "float64", "int64", "bool"):
        yield _call("zeros", (2, 3), dtype=dtype)
        yield _call("ones", (), dtype=dtype)
        yield _call("full", (2,), 1, dtype=dtype)
        yield _call("zeros_like", x, dtype=dtype)
    for dtype in ("int32", "int64", "float32", "float64"):
        yield _call("arange", 5, dtype=dtype)
        yield _call("arange", 1, 8, 3, dtype=dtype)
    for dtype in ("float32", "float64"):
        yield _call("eye", 3, dtype=dtype)
        yield _call("eye", 2, 4, k=1, dtype=dtype)
        yield _call("linspace", 0.0, 1.0, 5, dtype=dtype)
    yield _call("zeros_like", x)
    yield _call("ones_like", x)
    yield _call("full_like", x, 2.5)
    yield _call("tril", x)
    yield _call("triu", x, k=1)
    yield _call("asarray", x, copy=True)
    for source in (x, x > 0, np.arange(3), np.arange(3, dtype="int32")):
        for dtype in ("float32", "float64", "int64", "bool"):
            yield _Call(
                f"astype({_show(source)}, {dtype})",
                lambda xp, a, dtype=dtype: xp.astype(a, getattr(xp, dtype)),
                (source,),
            )
    for dtype in ("int32", "int64"):
        yield _call("take", x, np.array([2, 0, 2, 1], dtype=dtype), axis=0)
        yield _call("take", x, np.array([], dtype=dtype), axis=-1)
        yield _call("take_along_axis", x, np.array([[3, 0], [1, 1], [2, 0]], dtype=dtype), axis=1)
    yield _call("argsort", np.array([2.0, 1.0, 2.0, 1.0]), stable=True)
    yield _call("sort", x, axis=0)
    yield _call("searchsorted", np.array([1, 1, 3]), np.array([0, 1, 2, 5]), side="right")
    yield _call("nonzero", x > 0)
    yield _call("unique_all", np.array([[2, 1], [2, 3]]))


def _check_crossing(kit: _Conformance) -> None:
    backend = kit.backend
    for dtype in ("bool", "int8", "uint8", "int16", "int32", "int64", "float32", "float64"):
        grid = np.arange(6).reshape(2, 3).astype(dtype)
        locked = grid.copy()
        locked.flags.writeable = False
        for x in (grid, grid[:, ::-2], grid.T, np.array(grid[0, 1]), grid[:0], locked):
            kit.check(f"to_host(from_host({_show(x)}))", lambda array: array, (x,), x)
            kit.check(f"readonly({_show(x)})", kit.method("readonly"), (x,), x)

    with kit.attempt("from_host(array)"):
        source = np.zeros(3)
        array = backend.from_host(source)
        source += 1
        if np.array_equal(backend.to_host(array), source):
            raise AssertionError("expected a copy, but it shares the memory of its argument")
    with kit.attempt("synchronize()"):
        backend.synchronize()


def _check_special(kit: _Conformance) -> None:
    def sigmoid(x: float) -> float:
        if x > 0:
            return 1 / (1 + math.exp(-x))
        return math.exp(x) / (1 + math.exp(x))

    for dtype, far, tiny in (("float32", 87.0, 1e-30), ("float64", 700.0, 1e-300)):
        points = [0.0, -0.0, tiny, -tiny, 0.3, 0.99, 1.0, 1.01, 2.5, 5.9, 6.1, 20.0, far, 1e4]
        points += [-p for p in points if p <= far] + [math.nan, math.inf, -math.inf]
        x = np.array([*points, *np.linspace(-7, 7, 101)], dtype=dtype)
        for name, function in (("sigmoid", sigmoid), ("erf", math.erf)):
            method = kit.method(name)
            expected = np.array([function(float(v)) for v in x], dtype=dtype)
            kit.check(f"{name}({_show(x)})", method, (x,), expected, units=16)
            kit.check(f"{name}({dtype} ())", method, (np.array(x[6]),), expected[6], units=16)
            empty = np.zeros((0, 3), dtype=dtype)
            kit.check(f"{name}({_show(empty)})", method, (empty,), empty)


def _keys() -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """Shapes with keys for them: every mixture that the protocol allows, duplicates included."""

    def index(*values: Any, dtype: str = "int64") -> np.ndarray[Any, Any]:
        return np.array(values, dtype=dtype)

    cube = (4, 3, 5)
    every = slice(None)
    yield from [((), ()), ((), (...,)), ((), (None,)), ((3,), (-1,)), ((3,), (...,))]
    for dtype in ("int8", "uint8", "int32", "int64"):
        yield cube, (index(0, 1, 1, 3, 0, dtype=dtype),)
    keys: list[tuple[Any, ...]] = [
        (),
        (1,),
        (-1, every, 2),
        (slice(1, 100), ..., slice(None, None, -2)),
        (slice(3, 1),),
        (None, 0, ..., None, slice(-2, None)),
        (index(-1, 3, 3, -4),),
        (index(),),
        (index([0, 1], [1, 0]),),
        (index([], []),),
        (np.array(2),),
        (every, index(0, 0, -1)),
        (..., index(1, 1)),
        (slice(1, 3), index(0, 0), slice(None, None, 2)),
        (index(0, 0, 1), index(1, 1, 2)),
        (index([0], [1]), index(1, 1, 2)),
        (index(0, 0), index(1, 1), index(2, 2)),
        (index(0, 0), every, index(1, 1)),  # separated: their axes come first
        (0, every, index(1, 1)),
        (every, 0, index(1, 1)),  # adjacent: they stay in place
        (every, index(1, 1), 0),
        (index(1, 1), ..., 0),
        (every, index(1, 1), ..., index(0, 0)),
        (None, index(0, 0), None, index(1, 1)),
        (index(2, 2), None, 1),
        (every, index(1, 1, dtype="int32"), index(0, 0, dtype="uint8")),
        (np.array(1), every, np.array(-1)),
    ]
    yield from ((cube, key) for key in keys)
    yield (7, 2), (np.arange(1000) * 3 % 7,)
    yield (5,), (np.arange(300) % 4,)
    yield (200, 2), (index(-1, -56, -1, dtype="int8"),)
    yield (0, 3), (index(),)
    yield (3, 0), (index(1, 1),)


def _check_indexing(kit: _Conformance) -> None:
    getitem, index_add = kit.method("getitem"), kit.method("index_add")
    for shape, key in _keys():
        shown = f"key ({', '.join(map(_show, key))})"
        elements = np.arange(math.prod(shape)).reshape(shape)
        addressed = np.asarray(elements[key])
        for x in (elements, elements.astype("float32"), np.asarray(elements > 2)):
            kit.check(f"getitem({_show(x)}, {shown})", getitem, (x, key), x[key])
        for dtype in ("float32", "float64", "int64"):
            x = np.asarray(_normal(*shape) * 8).astype(dtype)
            whole = np.asarray(_normal(*addressed.shape) * 8).astype(dtype)
            for values in (whole, whole[:1]) if addressed.ndim else (whole,):
                expected = x.copy()
                np.add.at(expected, key, values)
                text = f"index_add({_show(x)}, {shown}, {_show(values)})"
                kit.check(text, index_add, (x, key, values), expected, owned=1)
        writer = np.full(shape, -1, dtype="int64")
        for i, element in enumerate(addressed.ravel()):
            writer.reshape(-1)[element] = i
        text = f"last_writer({shape}, {shown})"
        kit.check(text, kit.method("last_writer"), (shape, key), writer)

    x, rows = _normal(4, 3), np.array([0, 2, 0])
    values = np.ones((3, 3), dtype="float32")
    values[1] = math.nan, math.inf, -math.inf
    expected = x.copy()
    np.add.at(expected, rows, values)
    text = "index_add(x, rows, values with nan and inf)"
    kit.check(text, index_add, (x, (rows,), values), expected, owned=1)
    kit.check(
        "index_add(matrix_transpose(x), rows, values)",  # not contiguous, for those who care
        lambda x, key, values: index_add(kit.backend.matrix_transpose(x), key, values),
        (x.T.copy(), (rows,), values),
        expected,
        owned=1,
    )
    for outside in ((4,), (0, -4), (0, 0, 0), (np.array([0, 4]),), (np.array([0, -5]),)):
        _check_out_of_range(kit, outside)


def _check_out_of_range(kit: _Conformance, key: tuple[Any, ...]) -> None:
    backend, x = kit.backend, _normal(4, 3)
    text = f"(float32 (4, 3), key ({', '.join(map(_show, key))}))"
    array, one = backend.from_host(x), backend.from_host(np.array(1, dtype="float32"))
    (place,) = _mapped(backend.from_host, (key,))
    for name, arguments in (("getitem", (array, place)), ("index_add", (array, place, one))):
        with kit.attempt(name + text):
            try:
                getattr(backend, name)(*arguments)
            except IndexError:
                kit.check(f"{name}{text}, which raised", lambda: array, (), x)
            else:
                if not _arrays_in(key):  # those may wrap around
                    raise AssertionError("expected IndexError, got a result")


def _check_windows(kit: _Conformance) -> None:
    """Element by element: where each stands is counted out."""
    for lengths, *along in (
        ((7, 5), (3, 2), (1, 1), (1, 1)),
        ((7, 5), (2, 1), (3, 2), (2, 1)),
        ((6,), (3,), (2,), (2,)),
        ((3,), (3,), (1,), (1,)),
    ):
        sizes, strides, dilations = along
        count = [
            (length - dilation * (size - 1) - 1) // stride + 1
            for length, size, stride, dilation in zip(lengths, *along, strict=True)
        ]
        n = len(lengths)
        numbers = np.arange(2 * math.prod(lengths) * 3).reshape(2, *lengths, 3)
        places = np.empty((2, *count, *sizes, 3), dtype="int64")
        for at in np.ndindex(*count, *sizes):
            each = zip(at[:n], strides, at[n:], dilations, strict=True)
            origin = tuple(o * stride + k * dilation for o, stride, k, dilation in each)
            places[:, *at] = numbers[:, *origin]
        for dtype in ("float32", "float64", "int64"):
            x = np.asarray(_normal(*numbers.shape) * 8).astype(dtype)
            seen = x.reshape(-1)[places]
            text = f"windows({_show(x)}, {', '.join(map(repr, along))})"
            kit.check(text, kit.method("windows"), (x, *along), seen)
            added = np.zeros_like(x)
            np.add.at(added.reshape(-1), places, seen)
            text = f"overlap_add({_show(seen)}, {lengths}, {', '.join(map(repr, along))})"
            kit.check(text, kit.method("overlap_add"), (seen, lengths, *along), added)
