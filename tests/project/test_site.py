"""The site tells of every public name, its examples run, and no link inside of it is broken."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn import data, distributed, inspect, interop, linalg, nn, onnx, optim, testing
from tinygrad_rnn.nn import layers

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "api").glob("*.rst"))
PARTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (data, distributed, inspect, interop, linalg, nn, onnx, optim, testing)
}
NUMBER = re.compile(r"-?\b\d+\.\d*(?:e[+-]?\d+)?")


def entries(page: Path) -> list[tuple[str, str, int]]:
    """The names that a page tells of, each with its text and the line where that begins."""
    text = page.read_text(encoding="utf-8")
    starts = [*re.finditer(r"^\.\. public:: (\S+)$", text, re.MULTILINE)]
    ends = [found.start() for found in starts[1:]] + [len(text)]
    return [
        (found[1], text[found.end() : end], text.count("\n", 0, found.end()))
        for found, end in zip(starts, ends, strict=True)
    ]


class Close(doctest.OutputChecker):
    """Numbers with a point need only agree to 1e-5: machines round differently."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if NUMBER.sub("#", want) != NUMBER.sub("#", got):
            return False
        numbers = [[float(n) for n in NUMBER.findall(text)] for text in (want, got)]
        return np.allclose(*numbers, rtol=1e-5, atol=1e-6)


def example(kind: Any, **settings: Any) -> float:
    """What the page on training defines; see there."""
    weight = nn.Parameter(tg.ones(()))
    optimizer = kind([weight], **settings)
    tg.sum(weight).backward()
    optimizer.step()
    return round(float(weight), 4)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_current", None)  # as they were, whoever changes them
    monkeypatch.setattr(backends, "_factories", dict(backends._factories))
    monkeypatch.setattr(layers, "_promoted", set())
    runner = doctest.DocTestRunner(Close(), verbose=False)
    for name, text, line in entries(page):
        tg.manual_seed(0)
        scope = {"np": np, "tg": tg, "example": example, **PARTS}
        examples = doctest.DocTestParser().get_doctest(text, scope, name, str(page), line)
        assert examples.examples, f"{page.name}: {name} has no example"
        told: list[str] = []
        runner.run(examples, out=told.append)
        assert not told, "".join(told)


def test_checked_examples_can_fail() -> None:
    checker = Close()
    assert checker.check_output("Tensor([0.7615942])\n", "Tensor([0.76159424])\n", 0)
    assert not checker.check_output("Tensor([0.7616])\n", "Tensor([0.7626])\n", 0)
    assert not checker.check_output("(2, 3)\n", "(2, 4)\n", 0)


def test_every_public_name_has_an_entry() -> None:
    told = [name for page in PAGES for name, _, _ in entries(page)]
    assert len(told) == len(set(told)), sorted({name for name in told if told.count(name) > 1})
    public = {
        f"{'tg' if module is tg else module.__name__.removeprefix('tinygrad_rnn.')}.{name}"
        for module in (tg, tg.optim.lr_scheduler, *PARTS.values())
        for name in getattr(module, "__all__", ())
        if callable(getattr(module, name))
        and not isinstance(getattr(module, name), types.ModuleType)
        and not _is_dtype(getattr(module, name))
    }
    missing = sorted(public - set(told))
    assert not missing
    for name in told:
        first, *rest = name.split(".")
        found: Any = tg if first == "tg" else importlib.import_module(f"tinygrad_rnn.{first}")
        for part in rest:
            found = getattr(found, part)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, np.dtype) or (
        isinstance(value, type) and issubclass(value, np.generic)
    )


@pytest.mark.parametrize(
    "page",
    [p for p in sorted(DOCS.rglob("*.md")) if "tutorials" not in p.parts],
    ids=lambda page: page.stem,
)
def test_code_on_pages_runs(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks marked ```python exactly, one after the other; tutorials run in a build."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        source = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        exec(compile(source, str(page), "exec", dont_inherit=True), module.__dict__)


class Links(HTMLParser):
    """What a page refers to, and the places in it that others may refer to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.targets.append(given["href"])
        elif tag in ("script", "img", "link", "iframe"):
            self.loaded += [given[name] for name in ("src", "href") if name in given]


@pytest.mark.site
def test_the_site_is_built_and_no_link_is_broken(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the site is built with the extra `docs`")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(site)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-5000:]
    pages = {page.resolve(): Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 30
    broken = []
    for page, links in pages.items():
        for target in (*links.targets, *links.loaded):
            address = urlsplit(target)
            if address.scheme or address.netloc:
                assert target not in links.loaded, f"{page.name} loads {target} from elsewhere"
                continue
            there = (page.parent / unquote(address.path)).resolve() if address.path else page
            known = pages.get(there)
            if not there.is_file() or (
                known and address.fragment and unquote(address.fragment) not in known.anchors
            ):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert not broken
