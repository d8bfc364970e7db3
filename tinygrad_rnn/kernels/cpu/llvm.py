"""LLVM's intermediate representation as text, written by formulas.

``x * x + 1`` on a ``Value`` appends two instructions to the ``Code`` of a function. A value is one
number or a whole vector of them, and formulas are the same for both: nothing is left to the
judgement of a vectoriser.

The compiler may make a product and a sum one instruction (``contract``), where ``Code.fused`` says
so, and assume nothing else. nan, infinities and the sign of zero behave as in NumPy, because a mask
that replaces values by nan or -inf has to work. So do numbers smaller than any normal one, but for
what is written within ``Code.flushing``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Integer = str | int
"""A 64-bit integer: the name of an instruction's result, or a number known now."""

FLOATING = ("float", "double")


def vector(kind: str, lanes: int) -> str:
    """The type of ``lanes`` numbers of a kind such as "float"; of one, that of the number."""
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def _literal(kind: str, lanes: int, number: float) -> str:
    if kind in FLOATING:
        rounded = float(number)
        if kind == "float":
            try:
                (rounded,) = struct.unpack("f", struct.pack("f", number))
            except OverflowError:
                rounded = math.copysign(math.inf, number)
        text = f"0x{struct.pack('>d', rounded).hex().upper()}"
    else:
        text = str(int(number))
    return text if lanes == 1 else "<" + ", ".join([f"{kind} {text}"] * lanes) + ">"


class Code:
    """The text of one function while it is written, instruction by instruction."""

    def __init__(self, declaration: str):
        self.declaration = declaration
        self.globals: list[str] = []
        self.externals: set[str] = set()
        self._variables: list[str] = []
        self._lines: list[str] = []
        self._names = 0
        self.fused = True  # whether a product and a sum may be one instruction

    def __str__(self) -> str:
        body = "\n  ".join(["", *self._variables, *self._lines, "ret void"])
        return "\n".join([*self.globals, f"{self.declaration} {{{body}\n}}\n"])

    def _name(self) -> str:
        self._names += 1
        return f"%v{self._names}"

    def do(self, text: str) -> None:
        """Append an instruction without a result, or a label."""
        self._lines.append(text)

    def emit(self, text: str) -> str:
        """Append an instruction and return the name of its result."""
        name = self._name()
        self._lines.append(f"{name} = {text}")
        return name

    def variable(self, type: str, count: int = 1) -> str:
        """The address of memory on the stack; what is only loaded and stored gets a register."""
        name = self._name()
        self._variables.append(f"{name} = alloca {type}, i64 {count}, align 64")
        return name

    # Integers.

    def integer(self, operation: str, x: Integer, y: Integer) -> Integer:
        """An operation on integers by its name in LLVM, such as "add", "mul" or "sdiv"."""
        if (operation, y) in (("add", 0), ("sub", 0), ("mul", 1), ("sdiv", 1)):
            return x
        if operation == "mul" and y == 0:
            return 0
        return self.emit(f"{operation} i64 {x}, {y}")

    def smaller(self, x: Integer, y: Integer) -> str:
        """The smaller of two integers."""
        return self.emit(f"select i1 {self.emit(f'icmp slt i64 {x}, {y}')}, i64 {x}, i64 {y}")

    def larger(self, x: Integer, y: Integer) -> str:
        """The larger of two integers."""
        return self.emit(f"select i1 {self.emit(f'icmp sgt i64 {x}, {y}')}, i64 {x}, i64 {y}")

    def whole(self, x: Integer) -> Value:
        """An integer of 64 bits as a value."""
        return Value(self, str(x), "i64", 1)

    # Memory.

    def address(self, base: str, offset: Integer, kind: str = "float") -> str:
        """The address ``offset`` numbers from ``base``."""
        return self.emit(f"getelementptr {kind}, ptr {base}, i64 {offset}") if offset else base

    def entry(self, table: str, index: Integer, type: str = "i64") -> str:
        """An element of a table of integers or addresses."""
        return self.emit(f"load {type}, ptr {self.address(table, index, type)}, align 8")

    def load(
        self, address: str, lanes: int = 1, kind: str = "float", mask: Value | None = None
    ) -> Value:
        """What is at an address; booleans ("i1") are bytes there. Of floats, masked ones are 0."""
        if kind == "i1":
            return self.load(address, lanes, "i8")._binary("icmp ne", 0, "i1")
        type = vector(kind, lanes)
        align = 1 if kind == "i8" else 4
        if mask is None:
            text = f"load {type}, ptr {address}, align {align}"
        else:
            function = f"{type} @llvm.masked.load.v{lanes}f32.p0"
            self.externals.add(f"declare {function}(ptr, i32, {mask.type}, {type})")
            arguments = f"ptr {address}, i32 {align}, {mask.type} {mask.text}"
            text = f"call {function}({arguments}, {type} zeroinitializer)"
        return Value(self, self.emit(text), kind, lanes)

    def store(self, value: Value, address: str, mask: Value | None = None) -> None:
        """Put a value at an address; booleans become bytes. Floats may be masked."""
        if value.kind == "i1":
            value = value._convert("zext", "i8")
        align = 1 if value.kind == "i8" else 4
        if mask is None:
            self.do(f"store {value.type} {value.text}, ptr {address}, align {align}")
        else:
            function = f"void @llvm.masked.store.v{value.lanes}f32.p0"
            self.externals.add(f"declare {function}({value.type}, ptr, i32, {mask.type})")
            arguments = f"{value.type} {value.text}, ptr {address}, i32 {align}"
            self.do(f"call {function}({arguments}, {mask.type} {mask.text})")

    def prefetch(self, address: str) -> None:
        """Fetch what is at an address into the second-level cache; the address may be invalid."""
        self.externals.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 2, i32 1)")

    # The processor's modes.

    @contextmanager
    def flushing(self) -> Iterator[None]:
        """Results that are smaller than any normal number are 0 inside, on an x86 processor."""
        store, load = (f"void @llvm.x86.sse.{name}mxcsr(ptr)" for name in ("st", "ld"))
        self.externals |= {f"declare {store}", f"declare {load}"}
        before, inside = self.variable("i32"), self.variable("i32")
        self.do(f"call {store.replace('ptr', f'ptr {before}')}")
        mode = self.emit(f"load i32, ptr {before}")
        self.do(f"store i32 {self.emit(f'or i32 {mode}, {1 << 15}')}, ptr {inside}")
        self.do(f"call {load.replace('ptr', f'ptr {inside}')}")
        yield
        self.do(f"call {load.replace('ptr', f'ptr {before}')}")

    # Values.

    def constant(self, number: float, lanes: int = 1, kind: str = "float") -> Value:
        """The same number in all lanes."""
        return Value(self, _literal(kind, lanes, number), kind, lanes)

    def join(self, numbers: Sequence[Value]) -> Value:
        """Numbers as the lanes of a vector; one is what it is."""
        if len(numbers) == 1:
            return numbers[0]
        kind, lanes = numbers[0].kind, len(numbers)
        text = "poison"
        for lane, number in enumerate(numbers):
            one = f"{number.type} {number.text}, i64 {lane}"
            text = self.emit(f"insertelement {vector(kind, lanes)} {text}, {one}")
        return Value(self, text, kind, lanes)

    def lanes_below(self, count: Integer, lanes: int) -> Value:
        """A mask that holds in the first ``count`` lanes."""
        numbers = ", ".join(f"i64 {i}" for i in range(lanes))
        counts = Value(self, str(count), "i64", 1).spread(lanes)
        text = self.emit(f"icmp slt {counts.type} <{numbers}>, {counts.text}")
        return Value(self, text, "i1", lanes)

    # Control.

    @contextmanager
    def loop(self, first: Integer, last: Integer, step: Integer = 1) -> Iterator[str]:
        """What is written inside runs for i in range(first, last, step); the value is i."""
        counter = self.variable("i64")
        test, body, end = (self._name()[1:] for _ in range(3))
        self.do(f"store i64 {first}, ptr {counter}")
        self.do(f"br label %{test}")
        self.do(f"{test}:")
        i = self.emit(f"load i64, ptr {counter}")
        more = self.emit(f"icmp {'sgt' if step == -1 else 'slt'} i64 {i}, {last}")
        self.do(f"br i1 {more}, label %{body}, label %{end}")
        self.do(f"{body}:")
        yield i
        self.do(f"store i64 {self.integer('add', i, step)}, ptr {counter}")
        self.do(f"br label %{test}")
        self.do(f"{end}:")

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is written inside runs if the condition, an i1, holds."""
        body, end = self._name()[1:], self._name()[1:]
        self.do(f"br i1 {condition}, label %{body}, label %{end}")
        self.do(f"{body}:")
        yield
        self.do(f"br label %{end}")
        self.do(f"{end}:")

    @contextmanager
    def repeat(self) -> Iterator[Callable[[str], None]]:
        """What is written inside runs again and again; ``leave(condition)`` goes on behind it."""
        start, end = self._name()[1:], self._name()[1:]

        def leave(condition: str) -> None:
            following = self._name()[1:]
            self.do(f"br i1 {condition}, label %{end}, label %{following}")
            self.do(f"{following}:")

        self.do(f"br label %{start}")
        self.do(f"{start}:")
        yield leave
        self.do(f"br label %{start}")
        self.do(f"{end}:")


class Value:
    """The result of an instruction: ``lanes`` numbers of a kind, such as "float" or "i1" (boolean).

    Operators append instructions. A Python number stands for itself in all lanes, and one number
    beside a vector is spread over its lanes.
    """

    __slots__ = ("code", "text", "kind", "lanes")

    def __init__(self, code: Code, text: str, kind: str, lanes: int):
        self.code, self.text, self.kind, self.lanes = code, text, kind, lanes

    @property
    def type(self) -> str:
        """The type as LLVM writes it."""
        return vector(self.kind, self.lanes)

    def like(self, number: float) -> Value:
        """A number, as this value is: kind and lanes."""
        return self.code.constant(number, self.lanes, self.kind)

    def spread(self, lanes: int) -> Value:
        """One number in all lanes; a vector as it is."""
        if self.lanes == lanes:
            return self
        wide = vector(self.kind, lanes)
        first = self.code.emit(f"insertelement {wide} poison, {self.type} {self.text}, i64 0")
        one = Value(self.code, first, self.kind, lanes)
        return one.shuffle(one, [0] * lanes)

    def shuffle(self, other: Value, lanes: list[int]) -> Value:
        """These lanes, those of ``other`` being numbered after the own ones."""
        mask = ", ".join(f"i32 {i}" for i in lanes)
        text = self.code.emit(
            f"shufflevector {self.type} {self.text}, {other.type} {other.text}, "
            f"<{len(lanes)} x i32> <{mask}>"
        )
        return Value(self.code, text, self.kind, len(lanes))

    def part(self, first: int, count: int) -> Value:
        """Some neighbouring lanes."""
        if count > 1:
            return self.shuffle(self, list(range(first, first + count)))
        text = self.code.emit(f"extractelement {self.type} {self.text}, i64 {first}")
        return Value(self.code, text, self.kind, 1)

    # Operations.

    def _binary(self, operation: str, other: Value | float, kind: str | None = None) -> Value:
        if not isinstance(other, Value):
            other = self.like(other)
        lanes = max(self.lanes, other.lanes)
        x, y = self.spread(lanes), other.spread(lanes)
        text = self.code.emit(f"{operation} {x.type} {x.text}, {y.text}")
        return Value(self.code, text, kind or x.kind, lanes)

    def _arithmetic(self, operation: str, other: Value | float) -> Value:
        if self.kind not in FLOATING:
            return self._binary(operation, other)
        return self._binary(f"f{operation} contract" if self.code.fused else f"f{operation}", other)

    def __add__(self, other: Value | float) -> Value:
        return self._arithmetic("add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._arithmetic("sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._arithmetic("mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._arithmetic("div", other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Value:
        return self.like(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return self.like(other) / self

    def __neg__(self) -> Value:
        text = self.code.emit(f"fneg {self.type} {self.text}")
        return Value(self.code, text, self.kind, self.lanes)

    def __and__(self, other: Value | int) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Value | int) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._binary("xor", other)

    def __lshift__(self, bits: int) -> Value:
        return self._binary("shl", bits)

    def __rshift__(self, bits: int) -> Value:
        return self._binary("ashr", bits)

    def compare(self, relation: str, other: Value | float) -> Value:
        """A boolean; of the names in LLVM, "olt" is false and "ult" true if one side is nan."""
        return self._binary(f"fcmp {relation}", other, "i1")

    def choose(self, x: Value | float, y: Value | float) -> Value:
        """What ``x`` is where this boolean holds, and ``y`` elsewhere; one of them is a value."""
        if not isinstance(x, Value):
            assert isinstance(y, Value)
            x = y.like(x)
        elif not isinstance(y, Value):
            y = x.like(y)
        lanes = max(self.lanes, x.lanes, y.lanes)
        c, x, y = (value.spread(lanes) for value in (self, x, y))
        text = self.code.emit(f"select {c.type} {c.text}, {x.type} {x.text}, {y.type} {y.text}")
        return Value(self.code, text, x.kind, lanes)

    def call(self, name: str, *others: Value) -> Value:
        """A function of floats that LLVM knows, such as "sqrt"."""
        function = f"{self.type} @llvm.{name}." + (f"v{self.lanes}f32" if self.lanes > 1 else "f32")
        arguments = (self, *others)
        self.code.externals.add(f"declare {function}({', '.join(x.type for x in arguments)})")
        listed = ", ".join(f"{x.type} {x.text}" for x in arguments)
        return Value(self.code, self.code.emit(f"call {function}({listed})"), "float", self.lanes)

    # Integers.

    def unsigned_shift(self, bits: int) -> Value:
        """To the right, zeros coming in."""
        return self._binary("lshr", bits)

    def count_up(self, lanes: int) -> Value:
        """This integer, the next one, and so on."""
        wide = vector(self.kind, lanes)
        numbers = ", ".join(f"{self.kind} {i}" for i in range(lanes))
        text = self.code.emit(f"add {wide} {self.spread(lanes).text}, <{numbers}>")
        return Value(self.code, text, self.kind, lanes)

    def is_lane(self, lanes: int) -> Value:
        """For each lane, whether this integer is its number."""
        if lanes == 1:
            return self._binary("icmp eq", 0, "i1")
        zero = self.lower_half().like(0)
        numbers = zero.count_up(lanes)
        return self.lower_half().spread(lanes)._binary("icmp eq", numbers, "i1")

    def lower_half(self) -> Value:
        """The lower 32 bits."""
        return self._convert("trunc", "i32")

    # Conversions.

    def _convert(self, operation: str, kind: str) -> Value:
        text = self.code.emit(f"{operation} {self.type} {self.text} to {vector(kind, self.lanes)}")
        return Value(self.code, text, kind, self.lanes)

    def floating(self) -> Value:
        """An integer as a float; a boolean as 0 or 1."""
        if self.kind == "float":
            return self
        return self._convert("uitofp" if self.kind == "i1" else "sitofp", "float")

    def double(self) -> Value:
        """A float in float64."""
        return self._convert("fpext", "double")

    def boolean(self) -> Value:
        """Whether a float is not 0."""
        return self if self.kind == "i1" else self.compare("une", 0)

    def bits(self) -> Value:
        """The bits of each float as an integer."""
        return self._convert("bitcast", "i32")

    def from_bits(self) -> Value:
        """The float that has these bits."""
        return self._convert("bitcast", "float")
