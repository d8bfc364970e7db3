"""What we mean to reach on the grid, and whether a run did.

Everything is the time of one side over that of another within a round, as "a beside b": above 1
where b is the quicker. The subtle thing is a mean of ratios, which is geometric: it is the same
whichever of two sides is called the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Cell = tuple[str, ...]  # a kind and the name of a size; or the name of a model
Times = Mapping[Cell, Mapping[str, Any]]  # for each side the seconds of every round

KINDS = ("LSTM", "GRU", "RNN")
GATED = ("LSTM", "GRU")

# Megabytes by which PyTorch's nn.LSTM grows from before the first step to the largest later on.
MEMORY = {"charrnn": 20, "small": 34, "medium": 122, "long": 84, "ptb": 116, "wide": 278}

PREPARATION_MS = {"ours": 150.0, "ours-cell": 150.0, "ours-numpy": 15.0}
LOOK_UP_MS = 0.1


def by_size(charrnn: float, small: float, others: float) -> Callable[[Cell], float]:
    return lambda cell: {"charrnn": charrnn, "small": small}.get(cell[1], others)


def always(least: float) -> Callable[[Cell], float]:
    return lambda cell: least


class Target(NamedTuple):
    """The least that the time of ``slower`` over that of ``faster`` is to be: cell by cell."""

    slower: str
    faster: str
    least: Callable[[Cell], float]
    kinds: tuple[str, ...] = KINDS
    sizes: tuple[str, ...] = tuple(MEMORY)


class MeanTarget(NamedTuple):
    """The least that the geometric mean of those ratios is to be."""

    slower: str
    faster: str
    least: float
    kinds: tuple[str, ...] = KINDS
    sizes: tuple[str, ...] = tuple(MEMORY)


LARGE = ("medium", "ptb", "wide")  # H >= 256

TARGETS: tuple[Target | MeanTarget, ...] = (
    Target("torch", "ours", lambda cell: 0.9 if cell == ("LSTM", "wide") else 0.95),
    MeanTarget("torch", "ours", 1.9),
    MeanTarget("torch", "ours", 1.25, ("LSTM",)),
    MeanTarget("torch", "ours-numpy", 1.25),
    Target("ours", "ours-cell", always(1 / 1.1)),
    Target("torch-cell", "ours-cell", by_size(4, 2.8, 1.3), GATED),
    Target("jax", "ours", always(1)),
    Target("autograd", "ours", by_size(15, 7, 1.5), GATED),
    Target("mygrad", "ours", by_size(9, 9, 1.5), GATED),
    Target("floor", "ours", always(1 / 1.2), GATED, LARGE),
    Target("floor", "ours", always(1 / 1.4), ("RNN",), LARGE),
)


def ratio(times: Times, cell: Cell, slower: str, faster: str) -> float | None:
    """The median over rounds; None where one of the two was not measured."""
    sides = times[cell]
    if slower not in sides or faster not in sides:
        return None
    return float(np.median(sides[slower] / sides[faster]))


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def least(cell: Cell, slower: str, faster: str) -> float | None:
    """What one cell's ratio is to be, if there is a target for it."""
    for target in TARGETS:
        if isinstance(target, Target) and target[:2] == (slower, faster) and applies(target, cell):
            return target.least(cell)
    return None


def applies(target: Target | MeanTarget, cell: Cell) -> bool:
    return cell[0] in target.kinds and cell[1] in target.sizes


def verdicts(times: Times) -> list[list[str]]:
    """For each target that was measured: what it is about, found, wanted, in how many cells met."""
    rows = []
    for target in TARGETS:
        found = {
            cell: value
            for cell in times
            if applies(target, cell)
            if (value := ratio(times, cell, target.slower, target.faster)) is not None
        }
        if not found:
            continue
        about = f"{target.slower} beside {target.faster}"
        kinds = dict.fromkeys(kind for kind, _ in found)
        where = f"{len(found)} of {', '.join(kinds)}"
        if isinstance(target, MeanTarget):
            mean = geometric_mean(list(found.values()))
            met = "met" if mean >= target.least else "missed"
            rows.append([about, where, "mean", f"{mean:.2f}", f"{target.least:.2f}", met])
        else:
            margins = {cell: value / target.least(cell) for cell, value in found.items()}
            worst = min(margins, key=margins.__getitem__)
            reached = sum(margin >= 1 for margin in margins.values())
            rows.append(
                [
                    about,
                    where,
                    f"worst: {' '.join(worst)}",
                    f"{found[worst]:.2f}",
                    f"{target.least(worst):.2f}",
                    "met" if reached == len(found) else f"met in {reached}",
                ]
            )
    return rows
