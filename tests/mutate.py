"""Change single places of a module, one at a time, and see which test notices.

    python tests/mutate.py tinygrad_rnn/planner/passes/sums.py tests/planner/passes/test_sums.py
    python tests/mutate.py tinygrad_rnn/graph.py tests/test_graph.py --then tests/test_semantics.py

A test suite is as good as the faults it finds. Each mutation is one that a tired author could make:
a comparison or a sign the other way round, a number off by one, a condition turned over, a line
left out. It is made in a copy of the tree, never in yours; the tests given run in order until one
fails, so give those first that should point at the place, and the wider ones behind ``--then``.
What survives is either a fault that no test would find or a change of no consequence: look at each.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np  # noqa: F401  # here, so that each run of tests finds it imported
import pytest
from hypothesis import HealthCheck, Phase, settings

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
    skipped = {id(inner) for outer in _idle(tree) for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if id(node) not in skipped and getattr(node, "lineno", 0) == getattr(
            node, "end_lineno", -1
        ):
            yield from _of(node, lines)


def _idle(tree: ast.AST) -> Iterator[ast.AST]:
    """What computes nothing: annotations, the words of errors, what a type checker is told."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.Assert):
            yield node
        for name in ("annotation", "returns"):
            if isinstance(inner := getattr(node, name, None), ast.AST):
                yield inner


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


def copy_of_the_tree(folder: Path) -> Path:
    """What tests need, in a folder."""
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    return folder


def first_failure(tree: Path, module: Path, tests: Sequence[str], limit: float) -> str | None:
    """The first test that fails in a tree, or None if all pass."""
    output = tree / "output.txt"
    run = multiprocessing.get_context("fork").Process(target=_test, args=(tree, module, tests))
    run.start()
    run.join(limit)
    ended = not run.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(str(run.pid)), signal.SIGKILL)
    run.join()
    if not ended:
        return "no test: it does not end"
    if run.exitcode == 0:
        return None
    text = output.read_text(encoding="utf-8", errors="replace")
    named = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", text, re.MULTILINE)
    return named[0] if named else f"no test: status {run.exitcode}, {text.splitlines()[-1:]}"


def _test(tree: Path, module: Path, tests: Sequence[str]) -> None:
    """Import a module of a tree and run tests there, in a process of its own."""
    os.setpgid(0, 0)
    os.chdir(tree)
    with open("output.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.path[:1] = [str(tree), str(tree / "backends"), str(tree / "tests")]
    parts = module.with_suffix("").parts
    importlib.import_module(".".join(parts[1:] if parts[0] == "backends" else parts))
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=no"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported above
    settings.register_profile(
        "mutation",
        derandomize=True,
        deadline=None,
        max_examples=25,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # which example fails is all the same here
    )
    options += ["--hypothesis-profile=mutation"]
    status = pytest.main([*options, *tests])
    sys.stdout.flush()
    os._exit(int(status))


def main() -> int:
    """Mutate a file as the command line says; the status is 1 if anything survived."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module", type=Path, help="the file to change")
    parser.add_argument(
        "tests", nargs="*", default=["tests"], help="what should point at the place"
    )
    parser.add_argument("--then", nargs="*", default=[], help="what may notice otherwise")
    parser.add_argument("-n", type=int, default=20, help="how many mutations are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one run of tests")
    parser.add_argument("--list", action="store_true", help="show what is drawn, and run nothing")
    given = parser.parse_args()
    module = given.module.resolve().relative_to(ROOT)
    source = (ROOT / module).read_text(encoding="utf-8")
    every = sorted(set(mutations(source)))
    drawn = sorted(random.Random(given.seed).sample(every, min(given.n, len(every))))
    groups = [tests for tests in (given.tests, given.then) if tests]
    caught = [0 for _ in groups]
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_of_the_tree(Path(folder))
        for tests in [] if given.list else groups:
            failure = first_failure(tree, module, tests, given.limit)
            if failure is not None:
                print(f"the tests fail before anything is changed: {failure}")
                return 2
        for number, mutation in enumerate(drawn):
            lines = mutation.apply(source.splitlines())
            print(f"{module}:{mutation.line}: {lines[mutation.line - 1].strip()}", flush=True)
            if given.list:
                continue
            (tree / module).write_text("\n".join(lines) + "\n", encoding="utf-8")
            os.utime(tree / module, (number, number))  # bytecode goes by whole seconds
            for i, tests in enumerate(groups):
                failure = first_failure(tree, module, tests, given.limit)
                if failure is not None:
                    caught[i] += 1
                    print(f"    {failure}", flush=True)
                    break
            else:
                print("    SURVIVED", flush=True)
    if not given.list:
        print(f"{sum(caught)} of {len(drawn)} caught, {caught[0]} of them by the first tests given")
    return int(not given.list and sum(caught) < len(drawn))


if __name__ == "__main__":
    sys.exit(main())
