"""A ``Study``: what was found out about a graph, a plan or a run, as one document of plain data.

A study holds numbers, texts, lists and dicts and nothing else, so it can be saved, sent and opened
elsewhere, without the model and without this library. Text, drawings and pages are renderings of
it: what one of them says, the others say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from . import plain

_PAPER = "background:#fff;color:#000"  # a file does not know what it is shown on

FORMAT = "tinygrad_rnn study"
VERSION = 1


class Study:
    """One document: ``kind`` says what of, ``data`` is plain (what JSON can hold).

    ``print(study)`` is text; a notebook shows a drawing; ``save`` writes either, or the data.
    Words of your own between others are ``Study("note", {"text": ...})``: paragraphs, and what is
    moved to the right by four spaces as it stands.
    """

    def __init__(self, kind: str, data: dict[str, Any]) -> None:
        self.kind = kind
        self.data = data

    def to_json(self) -> str:
        """The document as JSON: what ``from_json`` reads."""
        head = {"format": FORMAT, "version": VERSION, "kind": self.kind}
        return plain.written({**head, "data": self.data})

    @classmethod
    def from_json(cls, text: str) -> Study:
        """The document that ``to_json`` wrote. ValueError for anything else."""
        try:
            found = plain.read(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Study.from_json: no JSON: {error}") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("Study.from_json: JSON, but no study: Study.to_json writes one")
        if found.get("version") != VERSION:
            raise ValueError(
                f"Study.from_json: version {found.get('version')!r} of the format, and this "
                f"reads {VERSION}; write it again"
            )
        return cls(found["kind"], found["data"])

    def to_text(self) -> str:
        """For a terminal."""
        from .render import text_of

        return text_of(self.kind, self.data)

    def to_svg(self) -> str:
        """A drawing without scripts, for a browser or a document."""
        from .render import svg_of

        return svg_of(self.kind, self.data)

    def to_html(self) -> str:
        """A page to click through, in one file that needs no network; see ``inspect.page``."""
        from .render import page_of

        return page_of(f"A study of a {self.kind}", [("", self.kind, self.data)])

    def page(self, height: int = 640) -> Frame:
        """The page for a notebook: to be clicked through in a frame that can reach nothing else."""
        return Frame(self.to_html(), height)

    def save(self, path: str | Path) -> Path:
        """Write it to a file, by its ending: .json, .txt, .svg or .html. Returns the path."""
        writers = {
            ".json": self.to_json,
            ".txt": self.to_text,
            ".svg": lambda: self.to_svg().replace("<svg ", f'<svg style="{_PAPER}" ', 1),
            ".html": self.to_html,
        }
        place = Path(path)
        write = writers.get(place.suffix)
        if write is None:
            raise ValueError(
                f"Study.save: {place.name!r} should end in one of {', '.join(writers)}"
            )
        place.write_text(write(), encoding="utf-8")
        return place

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<study of a {self.kind}; print it, save it, or look at it in a notebook>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and (self.kind, self.data) == (other.kind, other.data)

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        from .render import html_of

        return html_of(self.kind, self.data)


class Frame:
    """A page within a notebook, in a frame of its own that may run its scripts and nothing more."""

    def __init__(self, html: str, height: int) -> None:
        self.html, self.height = html, height

    def _repr_html_(self) -> str:
        return (
            f'<iframe sandbox="allow-scripts" width="100%" height="{self.height}" '
            f'title="a study" style="border:0" srcdoc="{escape(self.html)}"></iframe>'
        )


def page(path: str | Path, studies: Mapping[str, Study] | Sequence[Study], title: str = "") -> Path:
    """Write several studies to one page: a file that opens offline in any browser.

    ::

        inspect.page("why.html", {"How far gradients reach": flow, "The plan": compared})

    Args:
        path: a file that ends in .html.
        studies: by heading, or a list of them.
        title: of the page.

    Raises ValueError for another ending, or no study at all; TypeError for what is no study.
    """
    from .render import page_of

    place = Path(path)
    if place.suffix != ".html":
        raise ValueError(f"page: {place.name!r} should end in .html")
    pairs = list(studies.items()) if isinstance(studies, Mapping) else [("", s) for s in studies]
    if not pairs:
        raise ValueError("page: there is no study to show")
    for _, study in pairs:
        if not isinstance(study, Study):
            raise TypeError(f"page: studies, not a {type(study).__name__}")
    sections = [(heading, study.kind, study.data) for heading, study in pairs]
    place.write_text(page_of(title or "A study", sections), encoding="utf-8")
    return place
