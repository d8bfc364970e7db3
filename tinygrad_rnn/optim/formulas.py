"""Arithmetic on whole arrays as one kernel: its function is run on what notes what is done.

``record`` runs a function of arrays, such as an optimiser's ``_update``, on an ``Element`` for each
of them. An element has operators and is taken by the functions of a namespace, and nothing else: no
shape, no dtype, no truth. So what a function makes of elements is the same for each one of arrays
of any shape, and a function that wants to know more is none of one element, which ``NotRecorded``
says.

Numbers are arguments of the formula, and not part of it: another rate makes no other kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..graph import Array
from ..kernels import settings
from ..kernels.cpu import run as cpu
from ..kernels.cpu.elements import Elements, compile
from ..kernels.ir import REDUCTIONS, Formula, Instruction
from ..kernels.machine import threads, warn_once
from ..planner.planner import planner
from ..tensor import MODE

_RELATIONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
_BOOLEAN = _RELATIONS | {"isnan", "isinf", "isfinite"}
_SHOWN_BY: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(["add", "subtract", "multiply"], (0, 1)),
    **dict.fromkeys(["negative", "abs", "square", "sqrt", "divide"], (0,)),
}
"""By function, the operands of which one that is not finite gives a result that is not, either."""
_LARGEST = float(np.finfo(np.float32).max)


class NotRecorded(Exception):
    """Why a function is no formula of one element."""


Line: TypeAlias = "tuple[Any, ...]"
"""A function and its operands: the line that made one or, below 0, the number that is one."""


def _operator(name: str) -> Any:
    def operate(self: Element, other: Any) -> Element:
        recording = self.recording
        recording.lines.append((name, self._floating(name), recording.operand(other, name)))
        return Element(recording, len(recording.lines) - 1, name in _BOOLEAN)

    return operate


def _reflected(name: str) -> Any:
    def operate(self: Element, other: Any) -> Element:
        recording = self.recording
        recording.lines.append((name, recording.operand(other, name), self._floating(name)))
        return Element(recording, len(recording.lines) - 1)

    return operate


class Element:
    """One element of an array, or what was computed from some: what a line made."""

    __slots__ = ("boolean", "line", "recording")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, recording: _Recording, line: int, boolean: bool = False) -> None:
        self.recording = recording
        self.line = line
        self.boolean = boolean

    __add__, __radd__ = _operator("add"), _reflected("add")
    __sub__, __rsub__ = _operator("subtract"), _reflected("subtract")
    __mul__, __rmul__ = _operator("multiply"), _reflected("multiply")
    __truediv__, __rtruediv__ = _operator("divide"), _reflected("divide")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")

    def __neg__(self) -> Element:
        return self.recording.apply("negative", self)

    def __abs__(self) -> Element:
        return self.recording.apply("abs", self)

    def __pow__(self, exponent: Any) -> Element:
        if type(exponent) not in (int, float) or exponent != 2:
            raise NotRecorded(f"a power of {exponent!r}")
        return self.recording.apply("square", self)

    def __eq__(self, other: object) -> Any:
        raise NotRecorded("a comparison by ==")

    def __bool__(self) -> bool:
        raise NotRecorded("a decision by a value")

    def _floating(self, name: str) -> int:
        if self.boolean:
            raise NotRecorded(f"{name} of a condition")
        return self.line


class _Recording:
    """The lines so far, and the numbers that they are given."""

    def __init__(self, inputs: int) -> None:
        self.lines: list[Line] = [("load", i) for i in range(inputs)]
        self.numbers: list[float] = []

    def apply(self, name: str, *operands: Any) -> Element:
        """Note that a function was applied."""
        condition = name == "where"
        places = [self.operand(x, name, condition and not i) for i, x in enumerate(operands)]
        self.lines.append((name, *places))
        return Element(self, len(self.lines) - 1, name in _BOOLEAN)

    def operand(self, x: Any, name: str, condition: bool = False) -> int:
        """What a line calls an operand."""
        kind = type(x)
        if kind is Element and x.recording is self and (condition or not x.boolean):
            return x.line  # type: ignore[no-any-return]
        if (kind is float or kind is int) and -_LARGEST <= x <= _LARGEST:
            self.numbers.append(x)
            return -len(self.numbers)
        raise NotRecorded(f"{name} of {x!r}")


class _Functions:
    """The namespace that the function is given: those of one element."""

    def __init__(self, recording: _Recording) -> None:
        self._recording = recording

    def __getattr__(self, name: str) -> Callable[..., Element]:
        if name not in cpu.SUPPORTED or name in REDUCTIONS:
            raise NotRecorded(f"{name} is no function of one element")
        return functools.partial(self._recording.apply, name)


class Kernel(NamedTuple):
    """A formula as machine code, with the numbers of one call.

    Its arrays are those that go in, then those that it writes.
    """

    code: Elements
    numbers: list[float]
    fresh: int  # how many it writes
    results: list[int]  # which of the arrays each is

    def run(self, given: Iterable[Sequence[Array]]) -> tuple[bool, list[list[Array]]]:
        """Run it on sets of arrays that suit: whether all is finite, and the results of each."""
        planner.pool.begin_call()
        arrays: list[Array] = []
        results: list[list[Array]] = []
        empty, contiguous = planner.pool.empty, np.ascontiguousarray
        for own in given:
            shape = own[0].shape
            written = [empty(shape) for _ in range(self.fresh)]
            arrays += [contiguous(x) for x in own]
            arrays += written
            every = [*own, *written]
            results.append([every[i] for i in self.results])
        return self.code(arrays, self.numbers, threads()).finite, results


def squared_norm(arrays: Sequence[Array]) -> float | None:
    """The sum of the squares of all elements of arrays that suit, in float64; None if no kernel."""
    squares = _squares() if are_there() else None
    if squares is None:
        return None
    return squares([np.ascontiguousarray(x) for x in arrays], [], threads()).squares


@functools.cache
def _squares() -> Elements | None:
    instructions = Instruction("load", (), 1, 0), Instruction("squares", (0,), 1)
    return _machine_code(Formula(instructions, arrays=1))


def are_there() -> bool:
    """Whether there are kernels, and nobody asks for what is written."""
    if MODE.get().literal:
        return False
    jit = "TINYGRAD_RNN_JIT"
    asked = not settings.is_set(jit) or settings.switch(jit) is not False
    return asked and cpu.available() is None


def _machine_code(formula: Formula) -> Elements | None:
    """None if it fails, which a warning says."""
    try:
        return compile(formula)
    except Exception as error:  # of many kinds: the compiler's own
        warn_once(f"{type(error).__name__}: {error}")
        return None


def suits(array: Array) -> bool:
    """Whether kernels take an array, if there are kernels: float32 of NumPy."""
    return type(array) is np.ndarray and array.dtype == np.float32


def kernel_of(function: Callable[..., Sequence[Any]], inputs: int) -> Kernel | None:
    """``function(xp, *arrays)``, which returns some results, as a kernel; None if it is none.

    A result that is an input as it was is not copied. All that is loaded or computed should be
    finite.
    """
    if not are_there():
        return None
    try:
        lines, numbers, made = record(function, inputs)
    except NotRecorded:
        return None
    found = _known.get((lines, made), _known)
    if found is _known:
        if len(_known) > _ENOUGH:
            _known.clear()
        found = _known[lines, made] = _compiled(lines, made, inputs)
    return None if found is None else found._replace(numbers=numbers)


Lines: TypeAlias = "tuple[Line, ...]"
_known: dict[tuple[Lines, tuple[int, ...]], Any] = {}
_ENOUGH = 100


def record(
    function: Callable[..., Sequence[Any]], inputs: int
) -> tuple[Lines, list[float], tuple[int, ...]]:
    """What a function does with elements, its numbers, and the lines that made its results.

    Raises:
        NotRecorded: for whatever does not work with elements; the function itself may say why.
    """
    recording = _Recording(inputs)
    elements = [Element(recording, i) for i in range(inputs)]
    try:
        results = function(_Functions(recording), *elements)
    except Exception as error:  # of many kinds: it is for the function itself, run on arrays
        raise NotRecorded(f"{type(error).__name__}: {error}") from error
    for x in results:
        if type(x) is not Element or x.recording is not recording or x.boolean:
            raise NotRecorded(f"a result is {x!r}")
    return tuple(recording.lines), recording.numbers, tuple([x.line for x in results])


def _compiled(lines: Lines, made: tuple[int, ...], inputs: int) -> Kernel | None:
    """Lines as machine code, without numbers; None if that failed, which a warning says."""
    instructions: list[Instruction] = []

    def emit(name: str, *operands: int, argument: int | None = None) -> int:
        instructions.append(Instruction(name, operands, 1, argument))
        return len(instructions) - 1

    places: list[int] = []  # of each line
    for name, *operands in lines:
        if name == "load":
            places.append(emit("load", argument=operands[0]))
        else:
            given = [places[x] if x >= 0 else emit("number", argument=-1 - x) for x in operands]
            places.append(emit(name, *given))
    for line in _unseen(lines):
        emit("check", places[line])
    arrays = {line: line for line in range(inputs)}
    for line in made:
        if line not in arrays:
            arrays[line] = len(arrays)
            emit("store", places[line], argument=arrays[line])
    code = _machine_code(Formula(tuple(instructions), len(arrays)))
    if code is None:
        return None
    return Kernel(code, [], len(arrays) - inputs, [arrays[line] for line in made])


def _unseen(lines: Lines) -> list[int]:
    """The lines to check for the whole to be: a value that no other shows not to be finite."""
    shown = {operands[i] for name, *operands in lines for i in _SHOWN_BY.get(name, ())}
    return [n for n, line in enumerate(lines) if n not in shown and line[0] not in _BOOLEAN]
