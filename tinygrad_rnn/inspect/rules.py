"""The source of a derivative rule, and its parts evaluated: what the debugger shows.

A rule is a lambda in a table or a function. Several lambdas may stand on one line, so the one that
a code object belongs to is told by the columns of its instructions.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

_LONGEST = 200  # characters of a function's body that are shown


class Rule(NamedTuple):
    """A vjp as its author wrote it."""

    text: str  # the expression, or the body of a function
    parameters: tuple[str, ...]
    expression: ast.expr | None  # of a lambda
    place: str  # file and line


def rule_of(vjp: Callable[..., Any]) -> Rule:
    """The source of a vjp; where there is none, its name."""
    code = getattr(vjp, "__code__", None)
    if code is None:
        return Rule(repr(vjp), (), None, "")
    return _rule(code)


@lru_cache(maxsize=1000)
def _rule(code: Any) -> Rule:
    parameters = tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    place = f"{code.co_filename}:{code.co_firstlineno}"
    source = "".join(linecache.getlines(code.co_filename))
    try:
        tree = _parsed(source)
    except SyntaxError:
        tree = None
    for node in _functions(tree, code) if tree is not None and source else ():
        if isinstance(node, ast.Lambda):
            return Rule(ast.unparse(node.body), parameters, node.body, place)
        statements = [s for s in node.body if not _is_docstring(s)]
        text = "; ".join(ast.unparse(s).replace("\n", " ") for s in statements)
        shown = text if len(text) <= _LONGEST else text[: _LONGEST - 4] + " ..."
        returned = statements[0] if len(statements) == 1 else None
        value = returned.value if isinstance(returned, ast.Return) else None
        return Rule(shown.removeprefix("return "), parameters, value, place)
    return Rule(f"{code.co_name} (its source is not there)", parameters, None, place)


@lru_cache(maxsize=50)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _functions(tree: ast.Module, code: Any) -> Iterator[Any]:
    """The function or lambda of a tree that a code object was compiled from."""
    lines = [p for p in code.co_positions() if p[0] is not None and p[2] is not None]
    spans = {(p[0], p[2]) for p in lines if p[0] >= code.co_firstlineno and p[3] != 0}
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Lambda, ast.FunctionDef)):
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if first != code.co_firstlineno:
            continue
        if isinstance(node, ast.FunctionDef):
            if node.name == code.co_name:
                yield node
            continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        own = tuple(code.co_varnames[: len(names)])
        begin = (node.body.lineno, node.body.col_offset)
        end = (node.body.end_lineno or 0, node.body.end_col_offset or 0)
        if own == tuple(names) and spans and all(begin <= span <= end for span in spans):
            yield node


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class Part(NamedTuple):
    """A sub-expression of a rule and its value."""

    text: str
    value: Any


def parts_of(vjp: Callable[..., Any], arguments: dict[str, Any]) -> list[Part]:
    """The sub-expressions of a rule, evaluated, innermost first; of one expression only."""
    rule = rule_of(vjp)
    if rule.expression is None:
        return []
    scope = {**vjp.__globals__, **inspect.getclosurevars(vjp).nonlocals, **arguments}
    found: dict[str, Part] = {}
    for node in _inner(rule.expression):
        text = ast.unparse(node)
        if text in found:
            continue
        compiled = compile(ast.fix_missing_locations(ast.Expression(node)), "<rule>", "eval")
        try:
            with np.errstate(all="ignore"):
                found[text] = Part(text, eval(compiled, scope))
        except Exception as error:  # a part that makes no sense by itself
            found[text] = Part(text, f"{type(error).__name__}: {error}")
    return list(found.values())


def _inner(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions within one that have a value of their own, innermost first."""
    if isinstance(node, (ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)):
        return  # what is in it has names that only it knows
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Call) and child is node.func):
            yield from _inner(child)
    if isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Call, ast.Compare, ast.IfExp, ast.Subscript)):
        yield node


def arguments_of_rule(vjp: Callable[..., Any], given: tuple[Any, ...], named: Any) -> Any:
    """What a rule was called with, by the names of its parameters."""
    bound = inspect.signature(vjp).bind(*given, **named)
    bound.apply_defaults()
    return dict(bound.arguments) | dict(bound.arguments.get("parameters") or {})
