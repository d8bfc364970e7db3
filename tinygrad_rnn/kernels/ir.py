"""A loop as machines run it: statements over slots. What ``cpu`` and ``gpu`` translate.

Everything that varies with time is stored with its rows one below the other, (number of rows,
columns), whatever the batch: step by step, and in each step the rows that are still active. So one
``Timetable`` says where a step's rows are, for sequences of equal lengths or not, forwards or
backwards in time, and a statement need not know.

A state is stored for all steps and the one at the start, one more than there are steps. What a step
reads at ``before`` is what the step preceding it wrote at ``after``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

Place = Literal["step", "before", "after", "rows", "each", "all"]


class Timetable(NamedTuple):
    """Where the rows of each step are, in the order in which the steps are processed forwards.

    Four arrays of int64 with an entry for each step: the first row in an array over steps, the
    first rows of the states before and after it, and the number of active rows. Rows that end, end
    last: those active at a step are the first ones of those active before.
    """

    step: np.ndarray[Any, Any]
    before: np.ndarray[Any, Any]
    after: np.ndarray[Any, Any]
    count: np.ndarray[Any, Any]  # type: ignore[assignment]  # tuples have methods of
    index: np.ndarray[Any, Any]  # type: ignore[assignment]  # these names, nobody's here
    """The step's place in arrays (T, ...) that have no rows."""


class Slot(NamedTuple):
    """Where a statement finds or puts a value: columns of an array that the loop is called with.

    ``place`` says which rows: those of the "step", or of the state "before" or "after" it; "rows":
    an array (B, columns) that has each row once, such as a temporary; "each": one row for each
    step, the same for all rows of the batch; "all": a vector or a number, or the matrix of a
    product, the same for all rows and steps.

    Where a row has more axes than that of its columns, they are the kernel's, and ``along`` says
    how many elements it is from one index to the next of each.
    """

    buffer: int
    place: Place
    column: int  # the first column
    width: int  # how many; 1 broadcasts to the width of what it is used in
    stride: int  # elements from one row to the next
    dtype: str = "float32"  # or "float64" on a GPU, "bool", or "int64" for a number that says where
    along: tuple[int, ...] = ()  # 0 is the same at each index
    step: int = 1  # elements from one column to the next


class Instruction(NamedTuple):
    """One line of a kernel, on rows: values are numbered by their place in the kernel.

    ``name`` is "load" (``argument`` a Slot), "constant" (a number), "store" (a Slot; one operand),
    "store sum" or "store max" (a Slot as well: along the axes at which it stays where it is, it
    gets the sum or the largest of all), "sum" or "max" (over the columns of the operand: the result
    has width 1), or that of an elementwise primitive. Operands of width 1 broadcast. Three know
    columns by their numbers, in kernels without other axes:

    * "pick" is the element of a Slot in the column that its operand, an integer, says;
    * "place" is its second operand in the column that the first one says, and 0 elsewhere;
    * "draw" is a uniform number for each column, in [0, 1), by ``random.py``'s rule: of (seed,
      call, draw site, time step, row, block of four columns), its operands.
    """

    name: str
    operands: tuple[int, ...]
    width: int
    argument: Any = None


REDUCTIONS = frozenset({"sum", "max"})
BY_COLUMN = frozenset({"pick", "place", "draw"})
STORES: dict[str, str | None] = {"store": None, "store sum": "sum", "store max": "max"}
"""What is made along axes at which the slot stays where it is."""


class Kernel(NamedTuple):
    """Elementwise work on the rows of one step, each row by itself.

    A row may have axes before that of its columns, of these ``lengths``: then the instructions are
    carried out at each index, in order. So a row multiplies a matrix of its own, (S, H) by (H,): at
    each of S indices it loads H columns, multiplies them and adds them up.

    A store may go where a load came from only if both are the same slot: then what was loaded is
    overwritten, column by column. No other stores and loads overlap; nor do stores and picks.
    """

    instructions: tuple[Instruction, ...]
    lengths: tuple[int, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All that it loads or stores."""
        moves = ("load", "pick", *STORES)
        named = (i.argument for i in self.instructions if i.name in moves)
        return tuple(dict.fromkeys(named))

    def reduced_axes(self, instruction: Instruction) -> list[int]:
        """The axes along which a store makes a sum or the largest of all."""
        if STORES.get(instruction.name) is None:
            return []
        return [n for n, stride in enumerate(instruction.argument.along) if not stride]

    def reduces(self, instruction: Instruction) -> bool:
        """Whether an instruction makes one number of many columns."""
        operands = [self.instructions[x] for x in instruction.operands]
        return instruction.name in REDUCTIONS and operands[0].width > 1

    def levels(self) -> list[tuple[int, int]]:
        """The level, and the width of the loop over columns, that each instruction is in.

        What needs the sum of a row cannot be in the same loop over its columns as the sum. So a
        level says how many reductions lie before a value, and each has loops of its own.
        """
        levels: list[tuple[int, int]] = []
        ready: list[int] = []  # at what level a value can be used
        for i in self.instructions:
            level, width = max((ready[x] for x in i.operands), default=0), i.width
            if self.reduces(i):
                width = self.instructions[i.operands[0]].width
            elif i.name in STORES:
                width = i.argument.width
            levels.append((level, width))
            ready.append(level + self.reduces(i))
        return levels


class Product(NamedTuple):
    """out = a @ b, or out += a @ b: a has rows, b is a matrix (a.width, out.width), at "all".

    Each row of the batch may have several, one below the other: ``times`` of them.
    """

    a: Slot
    b: Slot
    out: Slot
    accumulate: bool
    times: int = 1


class Loop(NamedTuple):
    """The statements of one step, in order, and the direction in which steps are processed."""

    statements: tuple[Kernel | Product, ...]
    backwards: bool  # from the last step of the timetable to the first


class Formula(NamedTuple):
    """The same arithmetic on each element of arrays of one size, whatever that is.

    Its instructions are a kernel's, without widths, but know arrays and numbers by their places
    among those that come with a call: "load" and "store" an array, "number" one of the numbers.
    "check" says that a value should be finite, and "squares" adds the square of it, in float64, to
    a sum over all elements.
    """

    instructions: tuple[Instruction, ...]
    arrays: int  # how many it loads or stores

    @property
    def sums(self) -> bool:
        """Whether there is a sum of squares."""
        return any(i.name == "squares" for i in self.instructions)
