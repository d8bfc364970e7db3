"""A board in a terminal: a table that stays in its place, if there is ``rich`` and a terminal.

Elsewhere a board writes plain lines. A notebook is no terminal: there ``rich`` would print each
table beneath the last one.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from .strips import colour, grouped, logs
from .words import sparkline

_ACROSS = 40  # characters of a curve or a strip


def is_there() -> bool:
    """Whether standard error is a terminal that ``rich`` can draw on."""
    return sys.stderr is not None and sys.stderr.isatty() and find_spec("rich") is not None


class Live:
    """A table of the series of a board that is drawn over itself."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as Drawn

        self._drawn = Drawn(console=Console(stderr=True), auto_refresh=False)
        self._drawn.start()

    def show(self, data: dict[str, Any]) -> None:
        """Draw what a board has found, given as the data of its study."""
        self._drawn.update(_table(data), refresh=True)

    def stop(self) -> None:
        """Leave the last table standing."""
        self._drawn.stop()


def _table(data: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("series", "last", "over time", "", title=f"step {data['steps']}", box=None)
    for name, series in data["series"].items():
        bad = sum(bucket[-1] for bucket in series["buckets"])
        lost = Text(f"{bad} not finite", style="red") if bad else Text("")
        last = Text(f"{series['last']}", justify="right")
        table.add_row(Text(name), last, Text(sparkline(series, _ACROSS)), lost)
    for attached in data["attached"].values():
        if attached["kind"] == "flow":
            for name, values in attached["data"]["norms"].items():
                strip = Text()
                for _, _, value in grouped(logs(values), _ACROSS):
                    strip.append("█", style=colour(value, -10.0, 2.0))
                table.add_row(Text(f"|dL/d{name}|"), "", strip, f"step {attached['step'] + 1}")
            table.add_row("", "", Text(attached["data"]["diagnosis"]), "")
    return table
