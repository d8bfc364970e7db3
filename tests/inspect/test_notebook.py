"""What notebooks show: small, valid, escaped, and without scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import inspect, nn


class Odd(nn.Module):
    """A module whose parameter is called like markup."""

    def __init__(self) -> None:
        self.parts = {"<b>&": nn.Parameter(tg.ones(3))}

    def forward(self, x: Any) -> Any:
        return x


def unrolled(T: int = 40) -> tg.Tensor:
    return tg.sum(tg.unroll(nn.LSTMCell(3, 4), tg.ones((T, 2, 3)), mode="literal")[0])


def subjects() -> dict[str, Any]:
    many = nn.Sequential(*[nn.Linear(2, 2) for _ in range(200)])
    return {
        "a tensor": tg.ones((3, 4)),
        "a number": tg.tensor(2.0),
        "an empty one": tg.zeros((0, 3)),
        "booleans": tg.ones((3, 4)) > 0,
        "a large tensor": tg.ones((1200, 1000)),
        "a module": Odd(),
        "a large module": many,
        "a plan": tg.plan(nn.LSTMCell(3, 4), tg.ones((9, 2, 3))),
        "a literal plan": tg.plan(lambda x, h: (h, h), tg.ones((0, 2, 3)), tg.ones((2, 3))),
        "a study": inspect.fold(unrolled()),
    }


@pytest.mark.parametrize("name", subjects())
def test_it_is_small_valid_and_has_no_script(name: str) -> None:
    html = subjects()[name]._repr_html_()
    ElementTree.fromstring(html)
    assert len(html.encode()) <= (200_000 if name == "a study" else 20_000)
    assert "<script" not in html and "javascript:" not in html


def test_a_tensor_tells_its_shape_its_range_and_what_is_not_finite() -> None:
    x = tg.tensor([[1.0, np.nan], [np.inf, -3.0]], requires_grad=True)
    html = x._repr_html_()  # type: ignore[attr-defined]
    for expected in ("Tensor float32 (2, 2)", "requires grad", "1 nan", "1 inf", "from -3 to 1"):
        assert expected in html
    large = tg.ones((1001, 1000))._repr_html_()  # type: ignore[attr-defined]
    assert "of a sample of" in large and "1,001,000 elements" in large
    assert "sample" not in tg.ones((1000, 1000))._repr_html_()  # type: ignore[attr-defined]


def test_on_other_backends_too(backend: Any) -> None:
    html = tg.ones((3, 4))._repr_html_()  # type: ignore[attr-defined]
    assert ("on " + backend.name in html) == (backend.name != "numpy")


def test_names_with_markup_are_escaped_everywhere(tmp_path: Path) -> None:
    module = Odd()
    assert "<b>" not in module._repr_html_()  # type: ignore[attr-defined]
    study = inspect.fold(tg.sum(module.parts["<b>&"] * 2.0), {"<i>&": module.parts["<b>&"]})
    for html in (study._repr_html_(), study.to_svg()):
        assert "<i>" not in html and "&lt;i&gt;&amp;" in html
    page = study.save(tmp_path / "page.html").read_text()
    assert (
        "<i>" not in page
        and "default-src 'none'" in page
        and "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    )


def test_a_study_is_written_by_the_ending_of_its_file(tmp_path: Path) -> None:
    study = inspect.fold(unrolled(5))
    read = {end: study.save(tmp_path / f"a.{end}").read_text() for end in ("json", "txt", "svg")}
    assert inspect.Study.from_json(read["json"]) == study
    assert read["txt"] == str(study) and read["svg"].startswith("<svg")


def test_a_drawing_shows_what_the_text_shows() -> None:
    study = inspect.fold(unrolled(30))
    svg = study.to_svg()
    texts = [element.text or "" for element in ElementTree.fromstring(svg).iter()]
    for line in str(study).splitlines():
        name = line.split(" = ")[0].strip()
        if " = " in line and not line.startswith("loop") and "leaf" not in line:
            assert any(text.startswith(f"{name} = ") for text in texts), line


def test_what_is_too_much_to_draw_says_so_instead() -> None:
    x = tg.ones(3, requires_grad=True)
    for _ in range(600):
        x = tg.sin(x)
    html = inspect.graph(tg.sum(x))._repr_html_()
    assert "inspect.fold(y) draws a loop once" in html and "<svg" not in html
    walk = inspect.replay(tg.sum(x))._repr_html_()
    ElementTree.fromstring(walk)
    assert len(walk) < 200_000 and "and 201 more" in walk
