"""Imports go one way: reading order is import order, and the backends know nothing of the engine.

The imports are read from the source, so that one inside a function, under ``TYPE_CHECKING`` or
through ``import_module`` counts like any other: what a reader needs first has to stand below.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = "tinygrad_rnn"
BACKENDS = "tinygrad_rnn_backends"
FOLDERS = {CORE: ROOT / CORE, BACKENDS: ROOT / "backends" / BACKENDS}

# Lowest first. A module may import what stands before it; the modules of a package are one layer.
ORDER = (
    "kernels",
    "structure",
    "atomic",
    "graph",
    "anomaly",
    "dtypes",
    "entering",
    "names",
    "tensor",
    "apply",
    "primitives",
    "linalg",
    "standard",
    "batching",
    "random",
    "transforms",
    "planner",
    "recurrence",
    "functional",
    "nn",
    "optim",
    "data",
    "inspect",
    "serialization",
    "distributed",
    "interop",
    "onnx",
    "testing",
    "__init__",
    "demo",
    "__main__",
)

# The same within packages of several floors; a folder there is one layer, too.
WITHIN = {
    "kernels": ("settings", "ir", "cpu", "gpu", "machine", "products", "convolution"),
    "planner": (
        "runtime",
        "facts",
        "ir",
        "stages",
        "loop",
        "trace",
        "definitions",
        "trust",
        "bindings",
        "reach",
        "guard",
        "evidence",
        "passes",
        "storage",
        "emit",
        "compiled",
        "report",
        "plan",
        "compile",
        "planner",
        "standing",
        "call",
        "lookup",
        "function",
        "training",
        "planned",
    ),
    "recurrence": ("loop", "ragged", "unroll", "truncated", "online"),
}


COMPUTED = "a name known at run time only"


class Import(NamedTuple):
    """One import statement: the module it is in, what it names, and whether it runs on import."""

    module: str
    target: str
    line: int
    at_once: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}, imports {self.target}"


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its dotted name; a package goes by its ``__init__``."""
    folder = FOLDERS[package]
    return {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]): path
        for path in sorted(folder.rglob("*.py"))
    }


def known_as(dotted: str, known: dict[str, Path]) -> str | None:
    """The module of ours that a dotted name stands for, a package's being its ``__init__``."""
    return next((name for name in (dotted, f"{dotted}.__init__") if name in known), None)


def imports(module: str, tree: ast.Module, known: dict[str, Path]) -> Iterator[Import]:
    """All imports of a module, resolved: ours to the module meant, others to what was written."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for name in named_by(node):
            yield Import(module, name, node.lineno, at_once)
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, at_once and not lazy and not only_for_types(node))

    def named_by(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (known_as(alias.name, known) or alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                yield known_as(f"{base}.{alias.name}", known) or known_as(base, known) or base
        elif isinstance(node, ast.Call) and imports_by_name(node):
            name = node.args[0] if node.args else None
            literal = isinstance(name, ast.Constant) and isinstance(name.value, str)
            yield (known_as(name.value, known) or name.value) if literal else COMPUTED

    yield from walk(tree, True)


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_by_name(call: ast.Call) -> bool:
    return ast.unparse(call.func).rpartition(".")[2] in ("import_module", "__import__")


def layer(module: str, package: str = CORE) -> str:
    """The part of a package that a module is in."""
    return module.removeprefix(f"{package}.").partition(".")[0]


KNOWN = {package: modules(package) for package in FOLDERS}
EVERY = KNOWN[CORE] | KNOWN[BACKENDS]
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in EVERY.items()}
IMPORTS = [each for name, tree in TREES.items() for each in imports(name, tree, EVERY)]


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_every_module_has_its_place_in_the_order() -> None:
    assert {layer(module) for module in KNOWN[CORE]} <= set(ORDER)


def test_nothing_imports_upward() -> None:
    upward = [
        str(each)
        for each in IMPORTS
        if each.module in KNOWN[CORE] and inside(each.target, CORE)
        if ORDER.index(layer(each.module)) < ORDER.index(layer(each.target))
    ]
    assert not upward


@pytest.mark.parametrize("part", WITHIN)
def test_nothing_imports_upward_within(part: str) -> None:
    package, order = f"{CORE}.{part}", (*WITHIN[part], "__init__")
    assert {layer(name, package) for name in KNOWN[CORE] if inside(name, package)} <= {*order}
    own = [x for x in IMPORTS if inside(x.module, package) and inside(x.target, package)]
    places = [[order.index(layer(name, package)) for name in (x.module, x.target)] for x in own]
    assert own
    assert not [str(x) for x, (of, to) in zip(own, places, strict=True) if of < to]


def test_what_is_for_one_machine_imports_nothing_of_another() -> None:
    cpu, gpu = (f"{CORE}.kernels.{name}" for name in ("cpu", "gpu"))
    pairs = ((cpu, gpu), (gpu, cpu))
    assert not [
        str(x) for x in IMPORTS for a, b in pairs if inside(x.module, a) and inside(x.target, b)
    ]


def test_the_core_imports_nothing_that_its_source_does_not_name() -> None:
    relative_or_computed = [
        str(each)
        for each in IMPORTS
        if each.module in KNOWN[CORE] and (each.target == COMPUTED or each.target.startswith("."))
    ]
    assert not relative_or_computed


def test_modules_of_one_package_do_not_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {name: set() for name in EVERY}
    for each in IMPORTS:
        if each.target in EVERY:
            below[each.module].add(each.target)
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_backends_import_nothing_of_ours() -> None:
    assert not [
        str(each)
        for each in IMPORTS
        if each.module in KNOWN[BACKENDS] and inside(each.target, CORE)
    ]


def test_no_other_framework_is_imported() -> None:
    frameworks = {
        "autograd",
        "chainer",
        "jax",
        "keras",
        "mygrad",
        "tensorflow",
        "tinygrad",
        "torch",
    }
    examples = {path.stem: path for path in (ROOT / "examples").rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in examples.items()}
    found = IMPORTS + [each for name, tree in trees.items() for each in imports(name, tree, EVERY)]
    assert not [str(each) for each in found if each.target.partition(".")[0] in frameworks]


def test_the_core_leaves_cupy_to_the_backends() -> None:
    assert not [
        str(each) for each in IMPORTS if each.module in KNOWN[CORE] and inside(each.target, "cupy")
    ]


def test_importing_needs_only_what_is_required() -> None:
    """Optional libraries are imported where they are used, inside a function."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = {re.split(r"[^\w-]", line)[0] for line in declared} | {CORE, BACKENDS}
    allowed |= sys.stdlib_module_names
    assert not [
        str(each)
        for each in IMPORTS
        if each.at_once and each.target.partition(".")[0] not in allowed
    ]


@pytest.mark.parametrize("folder", ["tinygrad_rnn", "backends", "tests", "examples", "benchmarks"])
def test_every_module_says_what_it_is(folder: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("from . import tensor", "tinygrad_rnn.tensor"),
        ("from .tensor import Tensor", "tinygrad_rnn.tensor"),
        ("from . import Tensor", "tinygrad_rnn.__init__"),
        ("import tinygrad_rnn", "tinygrad_rnn.__init__"),
        ("import tinygrad_rnn.tensor as t", "tinygrad_rnn.tensor"),
        ("from tinygrad_rnn import tensor", "tinygrad_rnn.tensor"),
        ("def f():\n    from .tensor import Tensor", "tinygrad_rnn.tensor"),
        ("if TYPE_CHECKING:\n    from .tensor import Tensor", "tinygrad_rnn.tensor"),
        ("importlib.import_module('tinygrad_rnn.tensor')", "tinygrad_rnn.tensor"),
        ("__import__('tinygrad_rnn')", "tinygrad_rnn.__init__"),
        ("import_module(name)", COMPUTED),
        ("import torch.nn", "torch.nn"),
    ],
)
def test_the_reader_of_imports_sees_through(source: str, target: str) -> None:
    known = {"tinygrad_rnn.__init__": ROOT, "tinygrad_rnn.tensor": ROOT}
    (found,) = imports("tinygrad_rnn.graph", ast.parse(source), known)
    assert found.target == target
