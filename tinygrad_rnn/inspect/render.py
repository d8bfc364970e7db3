"""Renderings of a study by its kind: text, drawings, and HTML without scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from . import drawing, listing, strips, words
from .markup import page


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
    "replay": Rendering("A backward pass", words.text_of_replay, lambda data: ""),
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
    found = rendering(kind)
    return page(found.title, found.svg(data), found.text(data), whole=False)


def page_of(kind: str, data: Any) -> str:
    """The same as a page of its own."""
    found = rendering(kind)
    return page(found.title, found.svg(data), found.text(data), whole=True)
