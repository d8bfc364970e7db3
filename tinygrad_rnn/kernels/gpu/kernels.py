"""The text of kernels for a GPU: each ``Kernel`` a function in CUDA C++.

Without reductions, each element of the widest row has a thread. With them, each row has a block,
whose threads take the columns by turns, and a level of the kernel says how many reductions lie
before a value: each level has loops of its own, and what crosses from one to the next waits in
registers.

A number, of width 1, may be read by all threads of its row and overwritten by one. All have to have
read it before, so such a kernel has a block for each row as well.

Where a row has more axes, each of their indices has threads or a block as a row has; but along an
axis at which a store makes a sum, the same threads go from one index to the next.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

from ..ir import STORES, Instruction, Kernel, Slot

OF_FLOATS = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "negative": "-{}",
    "abs": "fabs({})",
    "sign": "sign({})",
    "exp": "exp({})",
    "expm1": "expm1({})",
    "log": "log({})",
    "log1p": "log1p({})",
    "sqrt": "sqrt({})",
    "square": "{0} * {0}",
    "pow": "pow({}, {})",
    "sin": "sin({})",
    "cos": "cos({})",
    "tanh": "tanh({})",
    "erf": "erf({})",
    "sigmoid": "sigmoid({})",
    "softplus": "softplus({})",
    "relu": "relu({})",
    "maximum": "maximum({}, {})",
    "minimum": "minimum({}, {})",
    "floor": "floor({})",
    "ceil": "ceil({})",
    "trunc": "trunc({})",
    "round": "rint({})",
}
"""Functions of floating numbers, as CUDA's own, which are accurate in float64 as well."""

RELATIONS = {
    "equal": "{} == {}",
    "not_equal": "{} != {}",
    "less": "{} < {}",
    "less_equal": "{} <= {}",
    "greater": "{} > {}",
    "greater_equal": "{} >= {}",
    "isnan": "{0} != {0}",
    "isinf": "isinf({})",
    "isfinite": "isfinite({})",
}
"""Functions of floating numbers that are true or false."""

OF_BOOLEANS = {
    "logical_and": "{} && {}",
    "logical_or": "{} || {}",
    "logical_xor": "{} != {}",
    "logical_not": "!{}",
}

ELEMENTWISE = frozenset({*OF_FLOATS, *RELATIONS, *OF_BOOLEANS, "where"})
REDUCTIONS = {"sum": ("Sum", 0.0), "max": ("Maximum", float("-inf"))}
"""How each takes in one more value, and what it starts from."""

PREAMBLE = """\
// Comparisons are turned so that nan takes the way that leads it to the result.
template <class T> __device__ T sign(T x) { return x > 0 ? T(1) : x < 0 ? T(-1) : x; }
template <class T> __device__ T relu(T x) { return x <= 0 ? T(0) : x; }
template <class T> __device__ T maximum(T x, T y) { return x > y || x != x ? x : y; }
template <class T> __device__ T minimum(T x, T y) { return x < y || x != x ? x : y; }
template <class T> __device__ T sigmoid(T x) { return 1 / (1 + exp(-x)); }
template <class T> __device__ T softplus(T x) { return relu(x) + log1p(exp(-fabs(x))); }

// Word column % 4 of Philox-4x32-10 for a key and a counter, as in random.py: 24 bits of it.
__device__ float draw(unsigned k0, unsigned k1, unsigned a, unsigned b, unsigned c,
                      unsigned block, int column) {
    unsigned d = block + column / 4;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
        a = unsigned(q >> 32) ^ b ^ k0, b = unsigned(q);
        c = unsigned(p >> 32) ^ d ^ k1, d = unsigned(p);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    const int word = column % 4;
    return ((word == 0 ? a : word == 1 ? b : word == 2 ? c : d) >> 8) * (1.0f / 16777216);
}

struct Sum {
    template <class T> __device__ static T of(T x, T y) { return x + y; }
};
struct Maximum {
    template <class T> __device__ static T of(T x, T y) { return maximum(x, y); }
};

// A reduction of one value of each thread, of which there are whole warps; all threads get it.
template <class Reduction, int threads, class T> __device__ T over_block(T value) {
    __shared__ T of_warp[threads / 32];
    for (int lane = 16; lane > 0; lane /= 2)
        value = Reduction::of(value, __shfl_xor_sync(0xffffffffu, value, lane));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp[0];
    for (int warp = 1; warp < threads / 32; ++warp)
        value = Reduction::of(value, of_warp[warp]);
    __syncthreads();  // or another reduction would write over what somebody has not read
    return value;
}
"""

_WARP, _MOST_THREADS = 32, 256
_UNROLLED = 16  # turns of a thread; more of them would not wait in registers, either

C_TYPES = {"float32": "float", "float64": "double", "bool": "bool", "int64": "long long"}


class Source(NamedTuple):
    """A kernel as text, and how it is launched.

    Its arguments are the number of rows, which it does not need, and the address of each slot at
    the first of them. ``(rows * times, blocks)`` of ``threads`` run it.
    """

    name: str
    kernel: Kernel
    text: str
    slots: tuple[Slot, ...]
    blocks: int  # for the columns of a row
    threads: int
    times: int  # the indices of axes that a row has


def write_kernel(name: str, kernel: Kernel) -> Source:
    """A kernel as a function of that name."""
    return _KernelWriter(name, kernel).write()


class _KernelWriter:
    def __init__(self, name: str, kernel: Kernel) -> None:
        self.name = name
        self.kernel = kernel
        self.instructions = kernel.instructions
        self.slots = kernel.slots
        doubles = any(slot.dtype == "float64" for slot in self.slots)
        self.type = "double" if doubles else "float"
        self.kinds = self._kinds()
        self.loops = kernel.levels()
        self.width = max((width for _, width in self.loops), default=1)
        stored = {i.argument for i in self.instructions if i.name in STORES}
        self.summed = sorted({x for i in self.instructions for x in kernel.reduced_axes(i)})
        self.apart = [x for x in range(len(kernel.lengths)) if x not in self.summed]
        self.times = math.prod(kernel.lengths[x] for x in self.apart)
        self.overwritten = any(
            i.name == "load" and i.width == 1 and i.argument in stored for i in self.instructions
        )
        reduced = any(level for level, _ in self.loops) or any(
            map(self.kernel.reduces, self.instructions)
        )
        self.by_rows = self.width > 1 and (reduced or self.overwritten)
        self.threads = min(-(-self.width // _WARP) * _WARP, _MOST_THREADS)
        self.kept = {  # what is read at a later level than its own
            x
            for n, i in enumerate(self.instructions)
            for x in i.operands
            if self.instructions[x].width > 1 and self.loops[n][0] > self.loops[x][0]
        }
        self.lines: list[str] = []

    def _kinds(self) -> list[str]:
        """The type of each value."""
        kinds: list[str] = []
        for name, operands, _, argument in self.instructions:
            if name == "load":
                kinds.append(C_TYPES[argument.dtype])
                continue
            if name == "pick":
                boolean = argument.dtype == "bool"
            elif name == "where":
                boolean = all(kinds[x] == "bool" for x in operands[1:])
            else:
                boolean = name in RELATIONS or name in OF_BOOLEANS
            kinds.append("bool" if boolean else self.type)
        return kinds

    def write(self) -> Source:
        pointers = [f"{C_TYPES[s.dtype]}* __restrict__ slot{n}" for n, s in enumerate(self.slots)]
        parameters = ", ".join(["long long rows", *pointers])
        self.lines = [f'extern "C" __global__ void {self.name}({parameters}) {{']
        self._find_places()
        if not self.by_rows:
            self._line("const int column = blockIdx.y * blockDim.x + threadIdx.x;")
        for i in self.instructions:
            if self.kernel.reduced_axes(i):
                self._start(i)
        for x in self.summed:
            self._line(
                f"for (int index{x} = 0; index{x} < {self.kernel.lengths[x]}; ++index{x}) {{"
            )
        self._load_numbers()
        for level in sorted({level for level, _ in self.loops}):
            self._numbers(level)
            widths = {width for at, width in self.loops if at == level and width > 1}
            for width in sorted(widths):
                self._columns(level, width)
        self.lines += ["}"] * len(self.summed)
        self.lines.append("}\n")
        blocks = 1 if self.by_rows else -(-self.width // self.threads)
        text = "\n".join(self.lines)
        return Source(self.name, self.kernel, text, self.slots, blocks, self.threads, self.times)

    def _find_places(self) -> None:
        """Where each slot is at the row of this block, and at its indices of axes."""
        row = "blockIdx.x" if self.times == 1 else f"(blockIdx.x / {self.times})"
        inner = self.times
        for x in self.apart:
            inner //= self.kernel.lengths[x]
            index = f"blockIdx.x / {inner} % {self.kernel.lengths[x]}"
            self._line(f"const int index{x} = {index};")
        for n, slot in enumerate(self.slots):
            terms = [] if slot.place in ("each", "all") else [f"{row} * {slot.stride}LL"]
            terms += [f"index{x} * {slot.along[x]}LL" for x in self.apart if slot.along[x]]
            if terms:
                self._line(f"slot{n} += {' + '.join(terms)};")

    def _start(self, store: Instruction) -> None:
        """Put what a reduction along axes starts from where its result will be."""
        start = literal(REDUCTIONS[STORES[store.name] or ""][1])
        slot, along = self._slot(store), store.argument.along
        depth = 1
        beside = [x for x in self.summed if along[x]]
        for x in beside:
            length = self.kernel.lengths[x]
            self._line(f"for (int index{x} = 0; index{x} < {length}; ++index{x})", depth)
            depth += 1
        place = " + ".join(["column", *(f"index{x} * {along[x]}LL" for x in beside)])
        width = store.argument.width
        if self.by_rows:
            first = f"int column = threadIdx.x; column < {width}; column += {self.threads}"
            self._line(f"for ({first}) {slot}[{place}] = {start};", depth)
        else:
            self._line(f"if (column < {width}) {slot}[{place}] = {start};", depth)

    def _place(self, instruction: Instruction, column: str) -> str:
        """The element of a slot that an instruction is about."""
        slot = instruction.argument
        terms = [f"index{x} * {slot.along[x]}LL" for x in self.summed if slot.along[x]]
        if column != "0" or not terms:
            terms.append(column if slot.step == 1 else f"{column} * {slot.step}LL")
        return f"{self._slot(instruction)}[{' + '.join(terms)}]"

    def _stored(self, instruction: Instruction, column: str) -> str:
        """The text of a store."""
        place = self._place(instruction, column)
        value = self._as(instruction.operands[0], instruction.argument)
        if self.kernel.reduced_axes(instruction):
            name, _ = REDUCTIONS[STORES[instruction.name] or ""]
            value = f"{name}::of({place}, {value})"
        return f"{place} = {value};"

    def _slot(self, instruction: Instruction) -> str:
        return f"slot{self.slots.index(instruction.argument)}"

    def _line(self, text: str, depth: int = 1) -> None:
        self.lines.append("    " * depth + text)

    def _load_numbers(self) -> None:
        for n, i in enumerate(self.instructions):
            if i.name == "load" and i.width == 1:
                self._line(f"const {self.kinds[n]} v{n} = {self._place(i, '0')};")
        if self.by_rows and self.overwritten:
            self._line("__syncthreads();")

    def _numbers(self, level: int) -> None:
        """The instructions of a level on values of width 1, which every thread carries out."""
        first = "threadIdx.x" if self.by_rows else "column"
        for n, i in enumerate(self.instructions):
            if self.loops[n] != (level, 1) or i.name == "load":
                continue
            if i.name in STORES:
                self._line(f"if ({first} == 0) {self._stored(i, '0')}")
            else:
                self._line(f"const {self.kinds[n]} v{n} = {self._expression(n, '0')};")

    def _columns(self, level: int, width: int) -> None:
        """The instructions of a level on rows of one width, and the reductions of such."""
        numbers = [n for n, loop in enumerate(self.loops) if loop == (level, width)]
        reductions = [n for n in numbers if self.kernel.reduces(self.instructions[n])]
        times = -(-width // self.threads)
        for n in numbers:
            if n in self.kept:
                self._line(f"{self.kinds[n]} kept{n}[{times}];")
            elif n in reductions:
                start = literal(REDUCTIONS[self.instructions[n].name][1])
                self._line(f"{self.type} part{n} = {start};")
        if not self.by_rows:
            self._line(f"if (column < {width}) {{")
            depth = 2
        else:
            self._line(f"#pragma unroll {'' if times <= _UNROLLED else 1}".rstrip(), 0)
            self._line(f"for (int i = 0; i < {times}; ++i) {{")
            self._line(f"const int column = i * {self.threads} + threadIdx.x;", 2)
            self._line(f"if (column < {width}) {{", 2)
            depth = 3
        self._body(numbers, level, depth)
        for brace in range(depth - 1, 0, -1):
            self._line("}", brace)
        for n in reductions:
            name, _ = REDUCTIONS[self.instructions[n].name]
            call = f"over_block<{name}, {self.threads}>(part{n})"
            self._line(f"const {self.type} v{n} = {call};")

    def _body(self, numbers: Sequence[int], level: int, depth: int) -> None:
        read = (x for n in numbers for x in self.instructions[n].operands)
        for x in dict.fromkeys(read):
            if x in self.kept and self.loops[x][0] < level:
                self._line(f"const {self.kinds[x]} v{x} = kept{x}[i];", depth)
        for n in numbers:
            i = self.instructions[n]
            if i.name in STORES:
                self._line(self._stored(i, "column"), depth)
                continue
            if self.kernel.reduces(i):
                name, _ = REDUCTIONS[i.name]
                value = f"{name}::of(part{n}, {self._floating(i.operands[0])})"
                self._line(f"part{n} = {value};", depth)
                continue
            loaded = i.name == "load"
            value = self._place(i, "column") if loaded else self._expression(n)
            self._line(f"const {self.kinds[n]} v{n} = {value};", depth)
            if n in self.kept:
                self._line(f"kept{n}[i] = v{n};", depth)

    # Expressions.

    def _expression(self, n: int, column: str = "column") -> str:
        name, operands, _, argument = self.instructions[n]
        if name == "pick":
            return f"{self._slot(self.instructions[n])}[v{operands[0]}]"
        if name == "place":
            place, value = operands
            return f"v{place} == {column} ? {self._floating(value)} : {self.type}(0)"
        if name == "draw":
            return f"draw({', '.join(f'v{x}' for x in operands)}, {column})"
        if name == "constant":
            return f"{self.type}({literal(float(argument))})"
        if name == "where":
            condition, *chosen = operands
            both = self._boolean if self.kinds[n] == "bool" else self._floating
            return f"{self._boolean(condition)} ? {both(chosen[0])} : {both(chosen[1])}"
        if name in OF_BOOLEANS:
            return OF_BOOLEANS[name].format(*map(self._boolean, operands))
        if name in REDUCTIONS:  # of one column
            return self._floating(operands[0])
        return (OF_FLOATS | RELATIONS)[name].format(*map(self._floating, operands))

    def _floating(self, x: int) -> str:
        return f"v{x}" if self.kinds[x] == self.type else f"{self.type}(v{x})"

    def _boolean(self, x: int) -> str:
        return f"v{x}" if self.kinds[x] == "bool" else f"(v{x} != 0)"

    def _as(self, x: int, slot: Slot) -> str:
        return self._boolean(x) if slot.dtype == "bool" else self._floating(x)


def literal(number: float) -> str:
    """A number in C++; the headers that name infinity are not there."""
    if number - number == 0:
        return repr(number)
    bits = struct.unpack("<Q", struct.pack("<d", number))[0]
    return f"__longlong_as_double({bits:#x}LL)"
