"""Renderings of a study by its kind: text, drawings, and HTML without scripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import drawing, listing, strips, words
from .markup import page
from .pages import Section, page_of_sections


class Rendering(NamedTuple):
    """How the studies of one kind are shown."""

    title: str
    text: Callable[[Any], str]
    svg: Callable[[Any], str]


RENDERINGS = {
    "graph": Rendering("Graph", listing.text_of_graph, drawing.svg_of_graph),
    "activity": Rendering("Over the text", words.text_of_activity, strips.svg_of_activity),
    "compare": Rendering("Planned against literal", words.text_of_compare, strips.svg_of_compare),
    "flow": Rendering("Gradients through time", words.text_of_flow, strips.svg_of_flow),
    "watch": Rendering("Training", words.text_of_watch, strips.svg_of_watch),
    "replay": Rendering("A backward pass", words.text_of_replay, strips.svg_of_replay),
    "note": Rendering("Note", lambda data: str(data["text"]), lambda data: ""),
    "nonfinite": Rendering("Not finite", words.text_of_nonfinite, strips.svg_of_nonfinite),
}


def rendering(kind: str) -> Rendering:
    """How a kind is shown; ValueError for one that nobody knows."""
    if kind not in RENDERINGS:
        raise ValueError(f"Study: kind {kind!r} is none of {', '.join(RENDERINGS)}")
    return RENDERINGS[kind]


def text_of(kind: str, data: Any) -> str:
    """For a terminal."""
    return rendering(kind).text(data)


def svg_of(kind: str, data: Any) -> str:
    """A drawing."""
    return rendering(kind).svg(data)


def html_of(kind: str, data: Any) -> str:
    """A fragment for a notebook: the drawing, and the text to unfold."""
    drawing, words = _shown(kind, data)
    return page(drawing, words)


def page_of(title: str, studies: Sequence[tuple[str, str, Any]]) -> str:
    """A page of studies, each given by title, kind and data, that opens offline in any browser."""
    return page_of_sections(title, [_section(*study) for study in studies])


def _section(title: str, kind: str, data: Any) -> Section:
    return kind, title or rendering(kind).title, data, *_shown(kind, data)


def _shown(kind: str, data: Any) -> tuple[str, str]:
    """The drawing and the text of a study; what is too much for either says so."""
    found = rendering(kind)
    try:
        words = found.text(data)
        drawing = found.svg(data)
    except ValueError as error:
        if kind != "graph":
            raise
        return "", str(error)
    if len(words) > _LONGEST:
        words = words[:_LONGEST].rpartition("\n")[0] + "\n... print(study) shows all of it"
    return drawing, words


_LONGEST = 60_000
