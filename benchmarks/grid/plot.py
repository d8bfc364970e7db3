"""One picture of the grid, or of models: how many times as fast as PyTorch each side is.

The subtle thing is the scale. Ratios are drawn as logarithms, so that twice as fast and half as
fast stand equally far from the line of PyTorch.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.grid.targets import Times, ratio

REFERENCE = "torch"
DRAWN = {  # label, marker, colour
    "ours": ("ours, jit", "o", "#1b6ca8"),
    "ours-numpy": ("ours, NumPy only", "s", "#e08e0b"),
    "jax": ("JAX lax.scan", "^", "#8c8c8c"),
}
TICKS = (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24)


def draw(path: Path, times: Times, note: str, than: str = "PyTorch nn.*") -> None:
    """Write the picture; ImportError without matplotlib. ``note`` stands below it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    cells = [cell for cell in times if REFERENCE in times[cell]]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(1, color="black", linewidth=1)
    for side, (label, marker, colour) in DRAWN.items():
        ratios = [ratio(times, cell, REFERENCE, side) for cell in cells]
        drawn = [(place, value) for place, value in enumerate(ratios) if value is not None]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), marker, color=colour, label=label, markersize=6)
    for place in range(1, len(cells)):
        if len(cells[place]) > 1 and cells[place][0] != cells[place - 1][0]:
            axes.axvline(place - 0.5, color="#bbbbbb", linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xticks(range(len(cells)), [" ".join(cell) for cell in cells], rotation=45)
    for name in axes.get_xticklabels():
        name.set_horizontalalignment("right")
        name.set_rotation_mode("anchor")
    axes.grid(axis="y", color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.set_ylabel(f"times as fast as {than}")
    axes.set_title("One training step, float32: above 1 is faster than PyTorch")
    axes.legend(loc="best", frameon=True)
    figure.supxlabel(note, fontsize=8)
    figure.savefig(path, dpi=110)
