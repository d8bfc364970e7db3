"""Change single places of a module, one at a time, and see which test notices.

    python tests/mutate.py tinygrad_rnn/planner/passes/simplify.py tests/planner -n 20

A test suite is as good as the faults it finds. Each mutation is one that a tired author could make:
a comparison or a sign the other way round, a number off by one, a condition turned over, a line
left out. It is made in a copy of the tree, never in yours; the tests given run in order until one
fails, so give those first that should point at the place. What survives is either a fault that no
test would find or a change of no consequence: look at each.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("tinygrad_rnn", "backends", "tests", "examples", "benchmarks", "pyproject.toml")

OPERATORS = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "+",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.And: "or",
    ast.Or: "and",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}


class Mutation(NamedTuple):
    """A place in a file, and what stands there instead."""

    line: int
    start: int
    end: int
    text: str

    def apply(self, lines: list[str]) -> list[str]:
        """The lines of the file with the mutation in them."""
        changed = list(lines)
        line = changed[self.line - 1].encode()
        changed[self.line - 1] = (
            line[: self.start] + self.text.encode() + line[self.end :]
        ).decode()
        return changed


def mutations(source: str) -> Iterator[Mutation]:
    """Every mutation of a module, in the order of its text."""
    lines = source.splitlines()
    tree = ast.parse(source)
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for name in ("annotation", "returns")
        if isinstance(outer := getattr(node, name, None), ast.AST)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if id(node) not in annotations and getattr(node, "lineno", 0) == getattr(
            node, "end_lineno", -1
        ):
            yield from _of(node, lines)


def _of(node: ast.AST, lines: list[str]) -> Iterator[Mutation]:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            yield from _between(left, right, OPERATORS[type(op)], lines)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            yield from _between(left, right, OPERATORS[type(op)], lines)
        case ast.BoolOp(op=op, values=[left, right, *_]):
            yield from _between(left, right, OPERATORS[type(op)], lines)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield Mutation(node.lineno, node.col_offset, operand.col_offset, "")
        case ast.Constant(value=bool() as value):
            yield _instead(node, str(not value))
        case ast.Constant(value=int() as value):
            yield _instead(node, str(value + 1))
        case ast.If(test=test) | ast.IfExp(test=test) if test.lineno == test.end_lineno:
            text = lines[test.lineno - 1].encode()[test.col_offset : test.end_col_offset].decode()
            yield _instead(test, f"not ({text})")
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue() | ast.Break():
            yield _instead(node, "pass")


def _between(left: ast.expr, right: ast.expr, text: str, lines: list[str]) -> Iterator[Mutation]:
    """The operator between two operands replaced; brackets around them stay where they are."""
    if left.end_lineno != right.lineno or left.end_col_offset is None:
        return
    start, end = left.end_col_offset, right.col_offset
    old = lines[right.lineno - 1].encode()[start:end].decode()
    new = re.sub(r"[^\s()]+(\s+(not|in)\b)?", lambda _: text, old, count=1)
    yield Mutation(right.lineno, start, end, new)


def _instead(node: ast.expr | ast.stmt, text: str) -> Mutation:
    assert node.end_col_offset is not None
    return Mutation(node.lineno, node.col_offset, node.end_col_offset, text)


def first_failure(tree: Path, tests: list[str], limit: float) -> str | None:
    """The first test that fails in a tree, or None if all pass."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no"]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        run = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "no test: it does not end"
    if run.returncode == 0:
        return None
    named = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", run.stdout, re.MULTILINE)
    return named[0] if named else f"no test: pytest ended with status {run.returncode}"


def main() -> int:
    """Mutate a file as the command line says; the status is 1 if anything survived."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module", type=Path, help="the file to change")
    parser.add_argument(
        "tests", nargs="*", default=["tests"], help="what pytest is given, in order"
    )
    parser.add_argument("-n", type=int, default=20, help="how many mutations are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one run of tests")
    given = parser.parse_args()
    module = given.module.resolve().relative_to(ROOT)
    source = (ROOT / module).read_text(encoding="utf-8")
    every = sorted(set(mutations(source)))
    drawn = sorted(random.Random(given.seed).sample(every, min(given.n, len(every))))
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        failure = first_failure(tree, given.tests, given.limit)
        if failure is not None:
            print(f"the tests fail before anything is changed: {failure}")
            return 2
        for mutation in drawn:
            lines = mutation.apply(source.splitlines())
            (tree / module).write_text("\n".join(lines) + "\n", encoding="utf-8")
            caught = first_failure(tree, given.tests, given.limit)
            survived += caught is None
            print(f"{module}:{mutation.line}: {lines[mutation.line - 1].strip()}")
            print(f"    {'SURVIVED' if caught is None else caught}", flush=True)
    print(f"{len(drawn) - survived} of {len(drawn)} caught, of {len(every)} that can be drawn")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
