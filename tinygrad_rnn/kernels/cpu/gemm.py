"""Matrix products for loops, where the right operand is the same at every step: packed only once.

A BLAS cannot know that, and rearranges the matrix in every call, which costs as much as a product
with few rows. Here ``pack`` does it before the loop. Then ``multiply`` keeps tiles of the result in
registers, some rows by some vectors, and reads what was packed from front to back. ``product``
packs a block at a time, or nothing where too few rows would come to use it. ``gather`` is told by
tables where the columns of a are, and groups of its rows: so a may be what windows of an image see,
which are never copied (Dukhan 2019, "The indirect convolution algorithm").

A matrix b (k, n) is cut into blocks that fit the second-level cache, and a block into panels as
wide as one vector, which hold their rows one after the other. A vector that reaches beyond the last
column holds anything there, and so does the result, before it is stored up to that column.

The subtle point is that each element of a result is the same sum in the same order, however many
rows there are. So the bits do not depend on how rows are shared out among threads. And no sum has
more than ``CHAIN`` terms in a row, if it has many: it is one of sums of so many, and of blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from . import desks
from .llvm import Code, Integer, Value, vector

BLOCK_ROWS = 256
CHAIN = 64
"""As many terms are added one after the other, before their sum is added to others; twice as many,
if there are no more, as in most products within loops: these take no second pass."""
BLOCK_VECTORS = 24  # a multiple of every width of tile; with 16 lanes, a block has 384 kB
LEFT_OVER = (2, 1)  # widths of the tiles beside whole ones, of which the last vector may be partial


class Processor(NamedTuple):
    """What the sizes of tiles depend on."""

    lanes: int  # floats in a vector
    registers: int  # that hold vectors

    @property
    def rows(self) -> int:
        """The most rows of a tile."""
        return 8 if self.registers == 32 else 4

    def vectors(self, rows: int) -> list[int]:
        """How many vectors wide tiles of so many rows are, the widest first.

        Three quarters of the registers hold sums. Few rows need a narrower width, too, as a few
        sums alone would wait for one another. What is left over is ``LEFT_OVER`` vectors wide.
        """
        widest = min(8, self.registers * 3 // 4 // rows)
        return [widest, 4] if rows <= 2 else [widest]

    def packed_size(self, k: int, n: int) -> int:
        """How many floats a packed matrix (k, n) takes."""
        blocks = -(-k // BLOCK_ROWS)
        return (k + blocks) * -(-n // self.lanes) * self.lanes


def library(processor: Processor) -> list[Code]:
    """The functions, of which @pack, @multiply and those of products are for others."""
    return [
        *(_rows(processor, rows) for rows in range(1, processor.rows + 1)),
        _multiply_block(processor),
        _pack_block(processor),
        _pack(processor),
        _multiply(processor),
        _product(processor),
        _part(),
        _product_in_parts(processor),
        *desks.library("@part"),
    ]


def gathering(processor: Processor) -> list[Code]:
    """The functions behind @gather, for a library of their own."""
    return [
        *(_rows(processor, rows, by_table=True) for rows in range(1, processor.rows + 1)),
        _multiply_block(processor, by_table=True),
        _gather(processor),
    ]


# Tiles.

_LEFT = "ptr %a, i64 %a_row, i64 %a_column"
_RESULT = "ptr %c, i64 %c_row, i1 %accumulate"
_REST = f"ptr %b, i64 %b_row, i64 %b_panel, {_RESULT}"
"""The rows of a panel of b are so far apart, and its panels so far: it is packed, or it is not."""
_TILE = f"{_LEFT}, {_REST}"
_TILE_BY_TABLE = f"ptr %a, i64 %a_row, ptr %a_column, {_REST}"
"""A table says how far each column of a is from the first."""


def _tile(
    code: Code,
    lanes: int,
    rows: int,
    panels: Sequence[str],
    c: str,
    ahead: str,
    mask: Value | None = None,
    by_table: bool = False,
) -> None:
    """c = or += a @ b for some rows, and the panels at these addresses, of which one may be masked.

    It is the last. Meanwhile, what is at ``ahead`` comes into the cache, as much as one panel.
    """
    tile = [(r, v) for r in range(rows) for v in range(len(panels))]
    masks = [None] * (len(panels) - 1) + [mask]
    c_rows = [code.address(c, code.integer("mul", "%c_row", r)) for r in range(rows)]
    places = {(r, v): code.address(c_rows[r], v * lanes) for r, v in tile}
    sums, totals = ({x: code.variable(vector("float", lanes)) for x in tile} for _ in range(2))
    for x in tile:
        code.store(code.constant(0, lanes), totals[x])
    few = code.emit(f"icmp sle i64 %k, {2 * CHAIN}")
    chain = code.emit(f"select i1 {few}, i64 {2 * CHAIN}, i64 {CHAIN}")
    with code.loop(0, "%k", chain) as start:
        for x in tile:
            code.store(code.constant(0, lanes), sums[x])
        end = code.smaller(code.integer("add", start, chain), "%k")
        with code.loop(start, end) as k:
            offset = code.integer("mul", k, "%b_row")
            right = [
                code.load(code.address(panel, offset), lanes, mask=m)
                for panel, m in zip(panels, masks, strict=True)
            ]
            code.prefetch(code.address(ahead, offset))
            column = code.entry("%a_column", k) if by_table else code.integer("mul", k, "%a_column")
            place = code.address("%a", column)
            for r in range(rows):
                # One after the other, or the compiler loads all of them before it multiplies any.
                place = code.address(place, "%a_row") if r else place
                left = code.load(place).spread(lanes)
                for v, factor in enumerate(right):
                    code.store(code.load(sums[r, v], lanes) + left * factor, sums[r, v])
        for x in tile:
            code.store(code.load(totals[x], lanes) + code.load(sums[x], lanes), totals[x])
    with code.when("%accumulate"):
        for x in tile:
            before = code.load(places[x], lanes, mask=masks[x[1]])
            code.store(before + code.load(totals[x], lanes), totals[x])
    for x in tile:
        code.store(code.load(totals[x], lanes), places[x], masks[x[1]])


def _rows(processor: Processor, rows: int, by_table: bool = False) -> Code:
    """A function for some rows, and all columns of a block."""
    lanes, tile = processor.lanes, _TILE_BY_TABLE if by_table else _TILE
    code = Code(f"define internal void @rows{rows}(i64 %n, i64 %k, {tile}, ptr %ahead)")
    integer = code.integer
    size = _panel_size(code, lanes)

    def write_tiles(first: Integer, end: Integer, vectors: int, masked: bool) -> None:
        with code.loop(first, end, vectors) as v:
            numbers = [integer("add", v, i) for i in range(vectors)]
            panels = [code.address("%b", integer("mul", i, "%b_panel")) for i in numbers]
            last = integer("sub", "%n", integer("mul", numbers[-1], lanes))
            mask = code.lanes_below(last, lanes) if masked else None
            ahead = code.address("%ahead", integer("mul", integer("sdiv", v, vectors), size))
            c = code.address("%c", integer("mul", v, lanes))
            _tile(code, lanes, rows, panels, c, ahead, mask, by_table)

    first: Integer = 0
    whole = integer("sdiv", "%n", lanes)
    all_vectors = integer("sdiv", integer("add", "%n", lanes - 1), lanes)
    widths = [(vectors, whole, False) for vectors in processor.vectors(rows)]
    for vectors, of, masked in [*widths, *((vectors, all_vectors, True) for vectors in LEFT_OVER)]:
        left = integer("sub", of, first)
        end = integer("add", first, integer("sub", left, integer("srem", left, vectors)))
        write_tiles(first, end, vectors, masked)
        first = end
    return code


def _panel_size(code: Code, lanes: int, k: Integer = "%k") -> Integer:
    # One row more than it has: were panels a power of two apart, they would share cache lines.
    return code.integer("mul", code.integer("add", k, 1), lanes)


def _multiply_block(processor: Processor, by_table: bool = False) -> Code:
    """A function for any number of rows, cut into tiles of nearly equal height."""
    tile, kind = (_TILE_BY_TABLE, "ptr") if by_table else (_TILE, "i64")
    code = Code(
        f"define internal void @multiply_block(i64 %rows, i64 %n, i64 %k, {tile}, ptr %ahead)"
    )
    integer = code.integer
    count = integer("sdiv", integer("add", "%rows", processor.rows - 1), processor.rows)
    # So many panels of what comes next are fetched on the way through this block. Left to the
    # processor, each page of a matrix that is too large for the cache would begin with a wait.
    part = integer("mul", _panel_size(code, processor.lanes), BLOCK_VECTORS // 3)
    with code.loop(0, count) as i:
        start = integer("sdiv", integer("mul", i, "%rows"), count)
        end = integer("sdiv", integer("mul", integer("add", i, 1), "%rows"), count)
        function = code.entry("@by_rows", integer("sub", integer("sub", end, start), 1), "ptr")
        a = code.address("%a", integer("mul", start, "%a_row"))
        c = code.address("%c", integer("mul", start, "%c_row"))
        ahead = code.address("%ahead", integer("mul", i, part))
        code.do(
            f"call void {function}(i64 %n, i64 %k, ptr {a}, i64 %a_row, {kind} %a_column, "
            f"ptr %b, i64 %b_row, i64 %b_panel, ptr {c}, i64 %c_row, i1 %accumulate, ptr {ahead})"
        )
    functions = ", ".join(f"ptr @rows{rows}" for rows in range(1, processor.rows + 1))
    code.globals.append(f"@by_rows = internal constant [{processor.rows} x ptr] [{functions}]")
    return code


# Blocks.


def _pack_block(processor: Processor) -> Code:
    """A function that copies a block (%k, %n), or that of a transposed matrix, into panels."""
    lanes = processor.lanes
    code = Code(
        "define internal void @pack_block(i64 %n, i64 %k, ptr %b, i64 %b_row, i64 %b_column, "
        "ptr %packed)"
    )
    integer = code.integer
    size = _panel_size(code, lanes)
    whole = integer("sdiv", "%n", lanes)
    end = integer("sdiv", integer("add", "%n", lanes - 1), lanes)

    def source(k: Integer, column: Integer) -> str:
        row = code.address("%b", integer("mul", k, "%b_row"))
        return code.address(row, integer("mul", column, "%b_column"))

    def target(k: Integer, v: Integer) -> str:
        panel = code.address("%packed", integer("mul", v, size))
        return code.address(panel, integer("mul", k, lanes))

    by_rows = code.emit("icmp eq i64 %b_column, 1")
    with code.when(by_rows), code.loop(0, "%k") as k:
        with code.loop(0, whole) as v:
            code.store(code.load(source(k, integer("mul", v, lanes)), lanes), target(k, v))
        with code.loop(whole, end) as v:
            column = integer("mul", v, lanes)
            mask = code.lanes_below(integer("sub", "%n", column), lanes)
            code.store(code.load(source(k, column), lanes, mask=mask), target(k, v))

    by_columns = code.emit("icmp eq i64 %b_row, 1")
    by_columns = code.emit(f"select i1 {by_rows}, i1 false, i1 {by_columns}")
    squares = code.emit(f"select i1 {by_columns}, i64 {whole}, i64 0")
    squares_end = integer("sub", "%k", integer("srem", "%k", lanes))
    with code.loop(0, squares) as v, code.loop(0, squares_end, lanes) as k:
        columns = [integer("add", integer("mul", v, lanes), i) for i in range(lanes)]
        square = _transpose([code.load(source(k, column), lanes) for column in columns])
        place = target(k, v)
        for i, row in enumerate(square):
            code.store(row, code.address(place, i * lanes))

    vectors = code.emit(f"select i1 {by_rows}, i64 0, i64 {end}")
    with code.loop(0, vectors) as v:
        done = code.emit(f"icmp slt i64 {v}, {squares}")
        start = code.emit(f"select i1 {done}, i64 {squares_end}, i64 0")
        column = integer("mul", v, lanes)
        valid = code.smaller(integer("sub", "%n", column), lanes)
        with code.loop(start, "%k") as k:
            place = target(k, v)
            with code.loop(0, valid) as lane:
                value = code.load(source(k, integer("add", column, lane)))
                code.store(value, code.address(place, lane))
    return code


def _transpose(rows: list[Value]) -> list[Value]:
    """The columns of a square: a perfect shuffle of its rows, as often as they can be halved."""
    count = len(rows)
    half = count // 2
    low = [i // 2 + i % 2 * count for i in range(count)]
    high = [i + half for i in low]
    for _ in range(count.bit_length() - 1):
        pairs = list(zip(rows[:half], rows[half:], strict=True))
        rows = [x.shuffle(y, lanes) for x, y in pairs for lanes in (low, high)]
    return rows


class _Block(NamedTuple):
    row: Integer  # of the matrix b: the block's first
    column: Integer
    k: Integer  # the block has so many rows
    n: Integer  # and columns
    accumulate: str  # whether it adds to what the blocks above have made
    offset: Integer  # where it is in the packed matrix
    following: Integer  # where the next one is; after the last the first, for the next step


@contextmanager
def _blocks(code: Code, processor: Processor) -> Iterator[_Block]:
    """What is written inside runs for each block of a matrix (%k, %n)."""
    integer, lanes = code.integer, processor.lanes
    width = integer("mul", integer("sdiv", integer("add", "%n", lanes - 1), lanes), lanes)
    blocks = integer("sdiv", integer("add", "%k", BLOCK_ROWS - 1), BLOCK_ROWS)
    size = integer("mul", integer("add", "%k", blocks), width)
    with code.loop(0, "%k", BLOCK_ROWS) as row:
        k = code.smaller(integer("sub", "%k", row), BLOCK_ROWS)
        above = integer("add", row, integer("sdiv", row, BLOCK_ROWS))
        accumulate = code.emit(f"icmp sgt i64 {row}, 0")
        with code.loop(0, "%n", BLOCK_VECTORS * lanes) as column:
            n = code.smaller(integer("sub", "%n", column), BLOCK_VECTORS * lanes)
            offset = integer("mul", column, integer("add", k, 1))
            offset = integer("add", integer("mul", above, width), offset)
            following = integer("add", offset, integer("mul", n, integer("add", k, 1)))
            last = code.emit(f"icmp sge i64 {following}, {size}")
            following = code.emit(f"select i1 {last}, i64 0, i64 {following}")
            yield _Block(row, column, k, n, accumulate, offset, following)


def _pack(processor: Processor) -> Code:
    """A function that packs a matrix (%k, %n)."""
    code = Code("define void @pack(i64 %n, i64 %k, ptr %b, i64 %b_row, i64 %b_column, ptr %packed)")
    with _blocks(code, processor) as block:
        _call_pack_block(code, block, code.address("%packed", block.offset))
    return code


def _place_in_b(code: Code, block: _Block) -> str:
    b = code.address("%b", code.integer("mul", block.row, "%b_row"))
    return code.address(b, code.integer("mul", block.column, "%b_column"))


def _call_pack_block(code: Code, block: _Block, packed: str) -> None:
    code.do(
        f"call void @pack_block(i64 {block.n}, i64 {block.k}, ptr {_place_in_b(code, block)}, "
        f"i64 %b_row, i64 %b_column, ptr {packed})"
    )


def _call_multiply_block(
    code: Code, block: _Block, b: str, row: Integer, panel: Integer, ahead: str
) -> None:
    a = code.address("%a", code.integer("mul", block.row, "%a_column"))
    c = code.address("%c", block.column)
    accumulate = code.emit(f"or i1 {block.accumulate}, %accumulate")
    code.do(
        f"call void @multiply_block(i64 %rows, i64 {block.n}, i64 {block.k}, ptr {a}, i64 %a_row, "
        f"i64 %a_column, ptr {b}, i64 {row}, i64 {panel}, ptr {c}, i64 %c_row, i1 {accumulate}, "
        f"ptr {ahead})"
    )


def _multiply(processor: Processor) -> Code:
    """A function for c = or += a @ b, where b is packed."""
    lanes = processor.lanes
    code = Code(f"define void @multiply(i64 %rows, i64 %n, i64 %k, {_LEFT}, ptr %b, {_RESULT})")
    with _blocks(code, processor) as block:
        packed, ahead = (code.address("%b", x) for x in (block.offset, block.following))
        _call_multiply_block(code, block, packed, lanes, _panel_size(code, lanes, block.k), ahead)
    return code


def _gather(processor: Processor) -> Code:
    """A function for c = a @ b of groups of rows, where b is packed.

    Tables say where a group begins, in a and in c, and how far each column of a is from the first.
    """
    lanes = processor.lanes
    code = Code(
        "define void @gather(i64 %groups, i64 %rows, i64 %n, i64 %k, ptr %a, ptr %a_group, "
        "i64 %a_row, ptr %a_column, ptr %b, ptr %c, ptr %c_group, i64 %c_row)"
    )
    with _blocks(code, processor) as block, code.loop(0, "%groups") as group:
        b, ahead = (code.address("%b", x) for x in (block.offset, block.following))
        a = code.address("%a", code.entry("%a_group", group))
        c = code.address(code.address("%c", code.entry("%c_group", group)), block.column)
        columns = code.address("%a_column", block.row, "i64")
        code.do(
            f"call void @multiply_block(i64 %rows, i64 {block.n}, i64 {block.k}, ptr {a}, "
            f"i64 %a_row, ptr {columns}, ptr {b}, i64 {lanes}, "
            f"i64 {_panel_size(code, lanes, block.k)}, ptr {c}, i64 %c_row, "
            f"i1 {block.accumulate}, ptr {ahead})"
        )
    return code


def _product(processor: Processor) -> Code:
    """A function for c = or += a @ b, which packs one block of b at a time.

    Without memory for one it multiplies by b as it is, whose rows must be contiguous.
    """
    lanes = processor.lanes
    code = Code(
        f"define void @product(i64 %rows, i64 %n, i64 %k, {_LEFT}, ptr %b, i64 %b_row, "
        f"i64 %b_column, {_RESULT}, ptr %packed)"
    )
    packs = code.emit("icmp ne ptr %packed, null")
    with _blocks(code, processor) as block:
        with code.when(packs):
            _call_pack_block(code, block, "%packed")
        place = _place_in_b(code, block)
        b = code.emit(f"select i1 {packs}, ptr %packed, ptr {place}")
        row = code.emit(f"select i1 {packs}, i64 {lanes}, i64 %b_row")
        size = _panel_size(code, lanes, block.k)
        panel = code.emit(f"select i1 {packs}, i64 {size}, i64 {lanes}")
        _call_multiply_block(code, block, b, row, panel, b)
    return code


# Parts of a product, for several threads.

_KINDS = ["i64"] * 3 + ["ptr"] + ["i64"] * 2 + ["ptr"] + ["i64"] * 2 + ["ptr", "i64", "i1", "ptr"]
"""The types of the arguments of @product; a part has each in a word of 64 bits."""


def _part() -> Code:
    """A function for a part, given where its words are."""
    code = Code("define internal void @part(ptr %words)")
    words = []
    for n, kind in enumerate(_KINDS):
        word = code.entry(code.address("%words", n, "i64"), 0, "i64" if kind == "i1" else kind)
        words.append(code.emit(f"icmp ne i64 {word}, 0") if kind == "i1" else word)
    told = ", ".join(f"{kind} {word}" for kind, word in zip(_KINDS, words, strict=True))
    code.do(f"call void @product({told})")
    return code


def _product_in_parts(processor: Processor) -> Code:
    """A function that cuts a result across its longer side, and hands the parts out.

    It takes memory for the words of as many parts, and for as many packed blocks one after another.
    """
    code = Code(
        f"define void @product_in_parts(ptr %desks, ptr %parts, i64 %count, i64 %rows, i64 %n, "
        f"i64 %k, {_LEFT}, ptr %b, i64 %b_row, i64 %b_column, {_RESULT}, ptr %packed)"
    )
    integer, lanes = code.integer, processor.lanes
    by_rows = code.emit("icmp sgt i64 %rows, %n")
    vectors = integer("sdiv", integer("add", "%n", lanes - 1), lanes)
    pieces = code.emit(f"select i1 {by_rows}, i64 %rows, i64 {vectors}")
    piece = code.emit(f"select i1 {by_rows}, i64 1, i64 {lanes}")
    whole = code.emit(f"select i1 {by_rows}, i64 %rows, i64 %n")
    a_step = code.emit(f"select i1 {by_rows}, i64 %a_row, i64 0")
    b_step = code.emit(f"select i1 {by_rows}, i64 0, i64 %b_column")
    c_step = code.emit(f"select i1 {by_rows}, i64 %c_row, i64 1")
    block = processor.packed_size(BLOCK_ROWS, BLOCK_VECTORS * lanes)
    packs = code.emit("icmp ne ptr %packed, null")
    block_step = code.emit(f"select i1 {packs}, i64 {block}, i64 0")
    accumulate = code.emit("zext i1 %accumulate to i64")

    def bound(number: Integer) -> str:
        cut = integer("sdiv", integer("mul", pieces, number), "%count")
        return code.smaller(integer("mul", cut, piece), whole)

    with code.loop(0, "%count") as i:
        start = bound(i)
        length = integer("sub", bound(integer("add", i, 1)), start)
        words = [
            code.emit(f"select i1 {by_rows}, i64 {length}, i64 %rows"),
            code.emit(f"select i1 {by_rows}, i64 %n, i64 {length}"),
            "%k",
            code.address("%a", integer("mul", start, a_step)),
            "%a_row",
            "%a_column",
            code.address("%b", integer("mul", start, b_step)),
            "%b_row",
            "%b_column",
            code.address("%c", integer("mul", start, c_step)),
            "%c_row",
            accumulate,
            code.address("%packed", integer("mul", i, block_step)),
        ]
        part = code.address("%parts", integer("mul", i, desks.WORDS), "i64")
        for n, (kind, word) in enumerate(zip(_KINDS, words, strict=True)):
            kind = "i64" if kind == "i1" else kind
            code.do(f"store {kind} {word}, ptr {code.address(part, n, 'i64')}, align 8")
    code.do("call void @hand_out(ptr %desks, ptr %parts, i64 %count)")
    return code
