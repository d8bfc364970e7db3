"""Tables that read alike on a terminal and in Markdown, and the files they are kept in.

The subtle thing: a figure without the machine, the versions and the spread beside it cannot be
compared with anything, so every report opens with the first two and every table holds the third.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Section:
    """One table (or, for a profile, one block of text) with its title and a line of explanation."""

    title: str
    explanation: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    block: str = ""

    def __str__(self) -> str:
        parts = [f"## {self.title}", self.explanation]
        parts.append(table(self.header, self.rows) if self.header else "")
        parts.append(f"```text\n{self.block}\n```" if self.block else "")
        return "\n\n".join(part for part in parts if part)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table: the first column to the left, the rest to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]

    def join(line: list[str]) -> str:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([join(lines[0]), "| " + " | ".join(rule) + " |", *map(join, lines[1:])])


def spread(values: Any, digits: int = 2) -> str:
    """The 10th and 90th percentile."""
    low, high = np.percentile(values, [10, 90])
    return f"{low:.{digits}f} - {high:.{digits}f}"


def machine() -> str:
    """Processor, cores, system, Python, and how busy the machine was before we started."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    load = f", load {os.getloadavg()[0]:.2f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}{load}"
    )


def write(
    path: Path, title: str, heading: str, sections: list[Section], raw: dict[str, Any]
) -> None:
    """The report as Markdown at ``path``, and every round's figures as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([f"# {title}, {date.today()}", heading, *map(str, sections)])
    path.write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
