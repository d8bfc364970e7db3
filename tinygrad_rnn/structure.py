"""Structures: nested tuples, named tuples, lists and dicts, taken apart into leaves and rebuilt.

States, inputs and the arguments of transforms may be any such nesting. A structure is described by
a value that compares equal for equal nestings and prints as the nesting itself, so that an error
about it can simply show both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LEAF = "*"


class Structure(NamedTuple):
    """How a nesting is put together: the container's type, its keys, and its children."""

    container: type | None
    keys: tuple[Any, ...]
    children: tuple[Structure, ...]

    def __str__(self) -> str:
        if self.container is None:
            return LEAF
        parts = [str(child) for child in self.children]
        if issubclass(self.container, dict):
            pairs = zip(self.keys, parts, strict=True)
            return "{" + ", ".join(f"{key!r}: {part}" for key, part in pairs) + "}"
        if self.keys:
            pairs = zip(self.keys, parts, strict=True)
            name = self.container.__name__
            return f"{name}({', '.join(f'{key}={part}' for key, part in pairs)})"
        if issubclass(self.container, list):
            return f"[{', '.join(parts)}]"
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


_LEAF_STRUCTURE = Structure(None, (), ())


def flatten(tree: Any, like: Structure | None = None) -> tuple[list[Any], Structure]:
    """The leaves of a nesting and its structure.

    Dicts are taken in the order in which their keys were inserted; if ``like`` is given, in that of
    the dicts there, so that two with the same keys have the same structure. A defaultdict counts as
    a dict, and is rebuilt as one.
    """
    if not isinstance(tree, (dict, tuple, list)):
        return [tree], _LEAF_STRUCTURE
    leaves: list[Any] = []
    return leaves, _take_apart(tree, leaves, like)


def _take_apart(tree: Any, leaves: list[Any], like: Structure | None) -> Structure:
    if not isinstance(tree, (dict, tuple, list)):
        leaves.append(tree)
        return _LEAF_STRUCTURE
    keys = tuple(tree) if isinstance(tree, dict) else getattr(tree, "_fields", ())
    parts: Sequence[Any] = tree  # type: ignore[assignment]
    if isinstance(tree, dict):
        if like is not None and len(like.keys) == len(keys) and set(like.keys) == set(keys):
            keys = like.keys
        parts = [tree[key] for key in keys]
    models: Sequence[Structure | None] = [None] * len(parts)
    if like is not None and len(like.children) == len(parts):
        models = like.children
    pairs = zip(parts, models, strict=True)
    # These two are not made from pairs of a key and a value.
    container = dict if isinstance(tree, (defaultdict, Counter)) else type(tree)
    return Structure(container, keys, tuple(_take_apart(p, leaves, m) for p, m in pairs))


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The nesting that ``flatten`` took apart, with other leaves."""
    if structure.container is None:
        return leaves[0]
    return _put_together(structure, iter(leaves))


def _put_together(structure: Structure, leaves: Any) -> Any:
    container: Any = structure.container
    if container is None:
        return next(leaves)
    children = [_put_together(child, leaves) for child in structure.children]
    if issubclass(container, dict):
        return container(zip(structure.keys, children, strict=True))
    if structure.keys:
        return container(*children)
    return container(children)


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``function`` applied to the leaves of equally structured nestings, rebuilt as the first."""
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in others:
        other_leaves, other_structure = flatten(other, structure)
        if other_structure != structure:
            raise ValueError(f"structures differ: {structure} and {other_structure}")
        columns.append(other_leaves)
    return unflatten(structure, [function(*row) for row in zip(*columns, strict=True)])
