"""``summary``: a table of what a module is made of, as plain text.

While the example runs, every module carries a ``forward`` of its own, which notes what the class's
returns. Calls of modules that nobody looks at cost nothing for it, and afterwards all attributes
are put back as they were.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from .. import random
from ..structure import map_leaves
from ..tensor import no_grad
from .module import Module, Parameter

_WIDEST_SHAPE = 60


def summary(module: Module, *example: Any) -> None:
    """Print each module in ``module``, the shape of its output, and how many numbers it trains.

    ``module(*example)`` runs once for the shapes, in evaluation mode and without a graph; no
    attribute, flag or random number is different afterwards, even if it raises. Without an example
    there are no shapes.

    A row counts the parameters that its module holds itself, shared ones where they come first. A
    module that is called several times shows its last output; "-" if it never is. An output made of
    several Tensors shows the shape of each in its place.
    """
    if not isinstance(module, Module):
        raise TypeError(f"summary: a Module, not a {type(module).__name__}")
    for given in example:
        if isinstance(given, tuple) and given and all(type(n) is int for n in given):
            raise TypeError(
                f"summary: an example is what the module is called with, not its shape: "
                f"tinygrad_rnn.zeros({given})"
            )
    modules = dict(module.named_modules())
    shapes = _output_shapes(module, example) if example else {}
    unknown = "-" if example else ""
    counts = dict.fromkeys(modules, 0)
    for name, p in module.named_parameters():
        counts[_owner(name, modules)] += p.size
    rows = [("layer", "output shape", "parameters")]
    depths = {"": 0}
    for path, each in modules.items():
        label = type(each).__name__
        if path:
            parent = _owner(path, modules)
            depths[path] = depths[parent] + 1
            label = f"{path[len(parent) :].lstrip('.')}: {label}"
        indented = "  " * depths[path] + label
        rows.append((indented, shapes.get(id(each), unknown), str(counts[path])))
    print(_table(rows))
    print(_totals([*module.parameters()]))


def _owner(name: str, modules: dict[str, Module]) -> str:
    """The path of the module that something called ``name`` is in."""
    path = name.rpartition(".")[0]
    while path not in modules:
        path = path.rpartition(".")[0]
    return path


def _output_shapes(module: Module, example: tuple[Any, ...]) -> dict[int, str]:
    """What the last call of each module in ``module`` returned, by the module's id."""
    shapes: dict[int, str] = {}

    def noting(each: Module) -> Callable[..., Any]:
        forward = each.forward

        def noted(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            shapes[id(each)] = _shape(output)
            return output

        return noted

    before = [(each, dict(vars(each))) for _, each in module.named_modules()]
    state = random.get_state()
    try:
        module.eval()
        for each, _ in before:
            vars(each)["forward"] = noting(each)
        with no_grad():
            module(*example)
    finally:
        random.set_state(state)
        for each, attributes in before:
            vars(each).clear()
            vars(each).update(attributes)
    return shapes


def _shape(output: Any) -> str:
    """The output with a shape in place of each Tensor, on one line."""
    shown = repr(map_leaves(lambda leaf: getattr(leaf, "shape", leaf), output))
    return textwrap.shorten(shown, _WIDEST_SHAPE, placeholder=" ...")


def _table(rows: list[tuple[str, str, str]]) -> str:
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{a:{first}}  {b:{second}}  {c:>{third}}" for a, b, c in rows)


def _totals(parameters: list[Parameter]) -> str:
    total = sum(p.size for p in parameters)
    frozen = sum(p.size for p in parameters if not p.requires_grad)
    parts = f": {total - frozen:,} trainable, {frozen:,} frozen" if frozen else ""
    return f"{total:,} parameters{parts}"
