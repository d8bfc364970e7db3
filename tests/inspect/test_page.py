"""Pages: one file that asks for nothing, and that can be clicked through in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import inspect, nn

T = 12
TEXT = 'a "quote" ab'
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = {"a desk": (1280, 900), "a tablet": (768, 1024), "a phone": (390, 844)}


@cache
def loss_of_steps() -> tuple[tg.Tensor, nn.LSTMCell]:
    tg.manual_seed(0)
    xs = np.random.default_rng(0).normal(size=(T, 2, 3)).astype("float32")
    cell = nn.LSTMCell(3, 4)
    with inspect.record(values=True):
        hs, _ = tg.unroll(cell, tg.tensor(xs, requires_grad=True), mode="literal")
        loss = tg.sum(hs[-1] ** 2)
    return loss, cell


@cache
def studies() -> dict[str, inspect.Study]:
    loss, cell = loss_of_steps()
    xs = np.random.default_rng(0).normal(size=(T, 2, 3)).astype("float32")
    bad = xs.copy()
    bad[5, 1, 2] = np.nan
    return {
        "folded": inspect.fold(loss),
        "gradients": inspect.flow(cell, tg.tensor(xs), lambda h: tg.sum(h[-1] ** 2)),
        "backwards": inspect.replay(loss).study(),
        "nan": inspect.explain_nonfinite(cell, tg.tensor(bad)),
        "planned": inspect.compare(cell, tg.tensor(xs)),
        "units": inspect.activity(cell, tg.tensor(xs), TEXT),
    }


def written(folder: Path) -> Path:
    return inspect.page(folder / "all.html", studies(), "All of it")


def test_a_page_stands_by_itself_and_is_small(tmp_path: Path) -> None:
    html = written(tmp_path).read_text()
    assert len(html) < 2_000_000
    outside = re.findall(r"(?:https?:)?//[\w.]+", html.replace("http://www.w3.org/2000/svg", ""))
    assert not [address for address in outside if "." in address]
    assert "default-src 'none'" in html and " src=" not in html and "@import" not in html
    for study in studies().values():
        assert str(study).splitlines()[0][:40] in html.replace("&#x27;", "'").replace("&quot;", '"')
    script = Path(inspect.__file__).with_name("page.js").read_text()
    assert len(script) < 30_000 and "fetch(" not in script and "eval(" not in script


def test_what_is_stored_cannot_end_the_script(tmp_path: Path) -> None:
    x = tg.ones(3, requires_grad=True)
    study = inspect.fold(tg.sum(x * 2.0), {"</script><b>": x})
    html = inspect.page(tmp_path / "a.html", [study]).read_text()
    assert "</script><b>" not in html
    replayed = inspect.replay(tg.sum(x * 2.0), {"</script><b>": x}).study()
    html = inspect.page(tmp_path / "b.html", [replayed]).read_text()
    assert "</script><b>" not in html
    commented = inspect.replay(tg.sum(x * 2.0), {"<!--<script>": x}).study()
    assert "<!--" not in inspect.page(tmp_path / "c.html", [commented]).read_text()
    stored = re.search(r'id="data">(.*?)</script>', html, re.S)
    assert stored is not None
    assert json.loads(stored.group(1))[0]["stops"][-1]["target"] == "</script><b>"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.html"):
        inspect.page(tmp_path / "a.txt", studies())
    with pytest.raises(ValueError, match="no study"):
        inspect.page(tmp_path / "a.html", [])
    with pytest.raises(TypeError, match="studies, not a int"):
        inspect.page(tmp_path / "a.html", [3])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("there is no chromium on the path")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page in a window of some size; it asked for nothing and complained of nothing."""
    width, height = WIDTHS[request.param]
    scheme = "dark" if request.param == "a phone" else "light"
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = written(tmp_path).as_uri()
    page.goto(address)
    yield page
    assert not complaints and asked == [address]
    page.close()


@pytest.mark.browser
def test_everything_can_be_clicked_and_read(opened: Any) -> None:
    for read in (
        a_loop_by_steps,
        a_node,
        a_gate_at_a_step,
        rules_there_and_back,
        the_keys_of_the_terminal,
        who_adds_to,
        what_became_of_a_line,
        a_character,
        a_passage,
    ):
        read(opened)
    assert "step 6 of 12 (index 5), row 1" in opened.inner_text("#study3 pre")
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def a_loop_by_steps(page: Any) -> None:
    page.click("#study0 button[data-loop]")
    seen = []
    for _ in range(T + 1):
        text = page.inner_text("#study0 .steps pre")
        seen.append(int(re.search(r"matmul\(h\[(\d+)\]", text).group(1)))  # type: ignore[union-attr]
        page.click("#study0 .steps button:has-text('next')")
    assert seen == [*range(1, T), T - 1, T - 1]  # h of the step before: 2, ..., T, and no further


def a_node(page: Any) -> None:
    page.hover("#study0 g[data-about^='h: '] text >> nth=0")
    told = page.inner_text("#study0 .info")
    for expected in ("float32 (2, 4)", "cells.py:", "keeps"):
        assert expected in told


def a_gate_at_a_step(page: Any) -> None:
    data = studies()["gradients"].data
    names = list(data["norms"])
    page.click(f"#study1 rect[data-step='7'] >> nth={names.index('f')}")
    row = page.inner_text("#study1 .values tr:has(th:text-is('f')) td")
    assert float(row) == pytest.approx(data["norms"]["f"][6], rel=1e-4)
    assert page.inner_text("#study1 .verdict") == data["diagnosis"]


def rules_there_and_back(page: Any) -> None:
    stops = studies()["backwards"].data["stops"]
    first = page.inner_text("#study2 .stop")
    page.focus("#study2 .bar")
    for _ in range(3):
        page.keyboard.press("n")
    shown = page.inner_text("#study2 .stop")
    assert stops[3]["rule"] in shown and stops[3]["total"] in shown
    for _ in range(3):
        page.keyboard.press("p")
    assert page.inner_text("#study2 .stop") == first
    page.fill("#study2 .until", "gate=f")
    page.click("#study2 button[data-key='c']")
    assert "gate f" in page.inner_text("#study2 .stop")
    page.fill("#study2 .until", "")


def the_keys_of_the_terminal(page: Any) -> None:
    """They go where those of ``interact`` go."""
    walk = inspect.replay(*loss_of_steps())
    page.fill("#study2 .goto", "7")
    page.press("#study2 .goto", "Tab")
    page.focus("#study2 .bar")
    walk.go(7)
    for key in "NNionPcxoc":
        if key == "c":
            page.fill("#study2 .limit", "0.02")
            page.set_checked("#study2 .large", True)
            page.focus("#study2 .bar")
            walk.add_breakpoint("|g|>0.02")
        page.keyboard.press(key)
        told = walk.carry_out(key)
        assert f"{walk.number} of {len(walk)}: " in page.inner_text("#study2 .stop"), key
        if key == "x":
            assert page.inner_text("#study2 .said") == told and "by difference" in told
    page.fill("#study2 .until", "gate~f")
    page.press("#study2 .until", "Enter")
    assert "not a condition: gate~f" in page.inner_text("#study2 .said")
    page.set_checked("#study2 .large", False)
    page.fill("#study2 .until", "op=none")
    page.click("#study2 button[data-key='c']")
    assert "nowhere further on" in page.inner_text("#study2 .said")
    page.focus("#study2 .bar")
    for key, field in {"g": "goto", "b": "until", "w": "target"}.items():
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.className") == field
        page.focus("#study2 .bar")
    page.fill("#study2 .until", "")


def who_adds_to(page: Any) -> None:
    page.select_option("#study2 .target", "weight_hh")
    uses = [s for s in studies()["backwards"].data["stops"] if s["target"] == "weight_hh"]
    assert page.locator("#study2 .uses li").count() == len(uses) == T
    page.click("#study2 .uses li button >> nth=2")
    assert f"contribution {uses[2]['use']}" in page.inner_text("#study2 .stop")


def what_became_of_a_line(page: Any) -> None:
    line = next(x for x in studies()["planned"].data["source"] if "split(" in x["text"])
    button = f"#study4 button[data-place='{line['place']}']"
    assert "in the loop: matmul" in page.inner_text(button)
    page.click(button)
    lit = page.locator("#study4 .program .lit")
    linked = [x for x in studies()["planned"].data["program"] if line["place"] in x["places"]]
    assert lit.count() == len(linked) > 0
    assert page.locator("#study4 .nodes .lit").count() > 0


def a_character(page: Any) -> None:
    data = studies()["units"].data
    page.hover("#study5 .passage span >> nth=7")
    told = page.inner_text("#study5 .character")
    value = float(told.rpartition("= ")[2])
    unit = data["units"][0]
    own = inspect.values_of(unit)[7]
    assert (
        told.startswith(f"7: {json.dumps(TEXT[7])}")
        and abs(value - own) <= (unit["high"] - unit["low"]) / 255
    )


def a_passage(page: Any) -> None:
    study = studies()["units"]
    page.focus("#study5 .passage")
    page.keyboard.press("Home")
    for key in ["ArrowRight"] * 3 + ["Shift+ArrowRight"] * 2:
        page.keyboard.press(key)
    standing = page.locator("#study5 .chosen .bar >> nth=0").locator("button").all_inner_texts()
    assert standing == [f"{name} {apart:.2f}" for name, apart in inspect.units_for(study, 3, 6)]
    like = page.locator("#study5 .chosen .bar >> nth=1").locator("button").all_inner_texts()
    expected = inspect.similar(study, 3, 6)
    assert [(int(x.split(":")[0]), x.split()[-1]) for x in like] == [
        (begin, f"{cosine:.2f}") for begin, _, cosine in expected
    ]
    page.click("#study5 .chosen .bar >> nth=0 >> button >> nth=1")
    assert page.inner_text("#study5 .character").startswith(
        f'5: "{TEXT[5]}" {standing[1].split()[0]}'
    )
    page.evaluate("""() => {
      const spans = document.querySelectorAll("#study5 .passage span");
      getSelection().setBaseAndExtent(spans[2].firstChild, 0, spans[6].firstChild, 1);
    }""")
    page.locator("#study5 .chosen p", has_text="2 to 6: ").wait_for()
    assert page.locator("#study5 .passage .in").count() == 5


WIDER = {
    "as it is": "main {opacity: 1}",
    "a wide font": "* {font-family: 'DejaVu Sans Mono', monospace !important}",
    "letters apart": "* {letter-spacing: .3em !important}",
    "twice as large": "html, body, button, input, select {font-size: 32px !important}",
}
TOO_WIDE = """() => {
  document.querySelectorAll("details").forEach(each => { each.open = true; });
  const rolls = each => /auto|scroll/.test(getComputedStyle(each).overflowX);
  const out = each => {
    if (each.getBoundingClientRect().right <= innerWidth + 1) return false;
    for (let up = each.parentElement; up; up = up.parentElement) if (rolls(up)) return false;
    return true;
  };
  const found = [...document.querySelectorAll("main *")].filter(out).map(each => each.outerHTML);
  const root = document.documentElement;
  return root.scrollWidth > innerWidth ? ["the page", ...found] : found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("wider", WIDER)
def test_no_font_makes_the_page_wider_than_the_window(
    wider: str, browser: Any, tmp_path: Path
) -> None:
    name = "a_name_that_nobody_can_break_" * 4
    x = tg.ones((2, 3), requires_grad=True)
    product = tg.sum(tg.tanh(x @ tg.ones((3, 3))))
    board = inspect.watch(nn.Linear(2, 2), write=lambda line: None)
    board(**{name: 1.0})
    shown = studies() | {
        name: inspect.fold(product, {name: x}),
        "long names": inspect.replay(product, {name: x}).study(),
        "a board": board.study(),
    }
    path = inspect.page(tmp_path / "wide.html", shown, name)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(path.as_uri())
    page.add_style_tag(content=WIDER[wider])
    page.click("#study0 button[data-loop]")
    page.hover("#study0 g[data-about^='h: '] text >> nth=0")
    for study, target in ((2, "weight_hh"), (7, name)):
        page.select_option(f"#study{study} .target", target)
    page.hover("#study5 .passage span >> nth=7")
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert not page.evaluate(TOO_WIDE)
    page.close()


CONTRASTS = r"""() => {
  const canvas = document.body.appendChild(document.createElement("div"));
  const read = colour => colour.match(/[\d.]+/g).map(Number);
  canvas.style.background = "Canvas";
  const paper = read(getComputedStyle(canvas).backgroundColor).slice(0, 3);
  canvas.remove();
  const over = (top, below) => {
    const a = top.length > 3 ? top[3] : 1;
    return below.map((c, n) => top[n] * a + c * (1 - a));
  };
  const light = c => {
    const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = c.map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  };
  const behind = each => {
    const chain = [];
    for (let up = each; up; up = up.parentElement) chain.unshift(up);
    return chain.reduce((c, up) => over(read(getComputedStyle(up).backgroundColor), c), paper);
  };
  const found = [];
  document.querySelectorAll("details").forEach(each => { each.open = true; });
  for (const each of document.querySelectorAll("body *:not(script)")) {
    const style = getComputedStyle(each), back = behind(each);
    const own = [...each.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (own && each.getClientRects().length && each.tagName !== "title") {
      const drawn = each.ownerSVGElement ? style.fill : style.color;
      let fade = 1;
      for (let up = each; up; up = up.parentElement) fade *= getComputedStyle(up).opacity;
      const ink = over(read(drawn), back);
      found.push([ratio(over([...ink, fade], back), back), 4.5, each.outerHTML.slice(0, 90)]);
    }
    const line = each.tagName === "polyline" || each.tagName === "path";
    if (line && style.stroke !== "none" && style.strokeOpacity === "1")
      found.push([ratio(over(read(style.stroke), back), back), 3, each.outerHTML.slice(0, 90)]);
    if (style.borderLeftWidth === "4px" && read(style.borderLeftColor)[3] !== 0)
      found.push([ratio(over(read(style.borderLeftColor), back), back), 3, each.className]);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_that_is_written_and_drawn_can_be_told_from_what_is_behind_it(
    scheme: Any, browser: Any, tmp_path: Path
) -> None:
    board = inspect.watch(nn.Linear(2, 2), write=lambda line: None)
    board(loss=1.0)
    shown = studies() | {"note": inspect.Study("note", {"text": "words\n\n    more"})}
    path = inspect.page(tmp_path / "all.html", {**shown, "board": board.study()}, "Contrast")
    page = browser.new_page(color_scheme=scheme)
    page.goto(path.as_uri())
    page.click("#study0 button[data-loop]")
    page.select_option("#study2 .target", "weight_hh")
    for all_are in ("remove", "add"):
        page.evaluate(
            f"document.querySelectorAll('#study4 li').forEach(x => x.classList.{all_are}('lit'))"
        )
        found = page.evaluate(CONTRASTS)
        assert len(found) > 300
        assert not [each for each in found if each[0] < each[1]]
    page.close()


@pytest.mark.browser
def test_a_screen_reader_is_told_names_and_headings(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(written(tmp_path).as_uri())
    tree = page.locator("body").aria_snapshot()
    levels = [int(level) for level in re.findall(r"heading .*\[level=(\d)\]", tree)]
    assert levels.count(1) == 1 and levels[0] == 1 and levels.count(2) == len(studies())
    assert all(b <= a + 1 for a, b in pairwise(levels))
    for role in ("button", "textbox", "spinbutton", "checkbox", "combobox", "slider", "img"):
        own = re.findall(rf"^\s*- '?{role}\b(.*)$", tree, re.M)
        assert own and not [rest for rest in own if not re.match(r" [\"]", rest)], role
    for expected in (
        'navigation "studies"',
        'toolbar "contributions to the gradient"',
        'table "gradient norms at this step"',
        "h = multiply(v",
        "keeps y, x; cells.py:",
    ):
        assert expected in tree
    page.close()


@pytest.mark.browser
def test_keys_alone_are_enough(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(written(tmp_path).as_uri())
    active = "document.activeElement"

    def tab_to(selector: str) -> None:
        for _ in range(200):
            page.keyboard.press("Tab")
            if page.evaluate(f"{active}.matches({json.dumps(selector)})"):
                visible = page.evaluate(f"getComputedStyle({active}).outlineStyle")
                assert visible != "none"
                return
        raise AssertionError(f"no key leads to {selector}")

    tab_to("nav a")
    tab_to("#study0 button[data-loop]")
    page.keyboard.press("Enter")
    tab_to("#study0 .steps button")
    tab_to("#study0 .steps button:nth-of-type(2)")
    page.keyboard.press("Enter")
    assert "step t" in page.inner_text("#study0 .steps label")
    assert page.input_value("#study0 .steps input") == "3"
    tab_to("#study0 g[data-about^='h: ']")
    assert "keeps" in page.inner_text("#study0 .info")
    tab_to("#study1 .step")
    page.keyboard.press("ArrowLeft")
    data = studies()["gradients"].data["norms"]
    told = float(page.inner_text("#study1 .values tr:has(th:text-is('f')) td"))
    assert told == pytest.approx(data["f"][T - 2], rel=1e-4)
    tab_to("#study2 [data-key='n']")
    page.keyboard.press("Enter")
    page.keyboard.press("n")
    assert page.inner_text("#study2 .stop").startswith("2 of ")
    tab_to("#study2 .target")
    page.keyboard.type("weight_hh")
    tab_to("#study2 .uses button")
    page.keyboard.press("Enter")
    assert "adds to weight_hh" in page.inner_text("#study2 .stop")
    line = next(x for x in studies()["planned"].data["source"] if "split(" in x["text"])
    tab_to(f"#study4 button[data-place='{line['place']}']")
    page.keyboard.press("Enter")
    assert page.locator("#study4 .program .lit").count() > 0
    tab_to("#study5 .passage")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#study5 .character").startswith(f"1: {json.dumps(TEXT[1])}")
    page.close()


@pytest.mark.browser
def test_what_is_not_finite_is_shown_as_such(browser: Any, tmp_path: Path) -> None:
    w = tg.ones(3, requires_grad=True)

    def cell(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh(h + tg.sqrt(tg.abs(x * w)))
        return h, h

    xs = np.ones((T, 2, 3), dtype="float32")
    xs[4] = 0.0
    h0 = tg.zeros((2, 3))
    found = inspect.flow(cell, tg.tensor(xs), lambda hs: tg.sum(hs[-1]), h0)
    assert "not finite" in found.data["diagnosis"]
    h = tg.tensor(h0, requires_grad=True)
    for x in tg.unstack(tg.tensor(xs)):
        h, _ = cell(x, h)
    walk = inspect.replay(tg.sum(h), {"w": w})
    assert np.isnan(list(walk.contributions_to("w"))[-1].total).any()
    for study in (found, walk.study()):
        again = inspect.Study.from_json(study.to_json())
        assert str(again) == str(study) and "NaN" not in study.to_json()
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(inspect.page(tmp_path / "nan.html", [found, walk.study()]).as_uri())
    page.focus("#study0 .step")
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert "nan" in page.inner_text("#study0 .values")
    page.set_checked("#study1 .large", True)
    page.click("#study1 button[data-key='c']")
    told = page.inner_text("#study1 .stop")
    assert "abs(" in told and "inf" in told and "nan" in told
    assert not complaints
    page.close()


@pytest.mark.browser
def test_a_page_in_a_notebook_has_a_frame_that_reaches_nothing(
    browser: Any, tmp_path: Path
) -> None:
    frame = studies()["backwards"].page(height=500)._repr_html_()
    assert 'sandbox="allow-scripts"' in frame and 'height="500"' in frame
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><p id='out'></p>{frame}")
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "notebook.html").as_uri())
    inside = page.frame_locator("iframe")
    inside.locator("[data-key='n']").click()
    assert inside.locator(".stop").inner_text().startswith("1 of ")
    own = page.frames[1]
    assert (
        own.evaluate("(() => { try { return parent.document.title } catch { return 'no' } })()")
        == "no"
    )
    assert not complaints
    page.close()


@pytest.mark.browser
def test_the_live_board_is_drawn_again_and_leaves_open_what_is(browser: Any) -> None:
    board = inspect.watch(nn.Linear(2, 2), serve=True, write=lambda line: None)
    page = browser.new_page(viewport={"width": 390, "height": 844})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for step in board(range(3)):
        board(loss=0.25 + step)
        if step == 0:
            page.goto(board.address)
            page.locator("summary").click()
        page.locator("pre", has_text=f"{step + 1} steps; ").wait_for()
        assert f"loss: {0.25 + step}" in page.locator("svg").inner_html()
        assert page.evaluate("document.querySelector('details').open")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not [c for c in complaints if "favicon" not in c and "404" not in c]
    page.close()


def question(page: Any, heading: str) -> Any:
    """The section of a page with a heading."""
    return page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))


@pytest.mark.browser
def test_four_questions_are_answered_by_a_page_alone(browser: Any) -> None:
    """Of the page that is kept in the gallery: its training, and nothing that this test knows."""
    gallery = Path(__file__).parents[2] / "examples" / "study" / "gallery"
    page = browser.new_page()
    page.goto((gallery / "adding.html").as_uri())
    why = question(page, "RNN: how far its gradients reach").locator(".verdict").inner_text()
    assert "vanishing: x0." in why and "half-life" in why and "a gated cell" in why
    fault = question(page, "LSTM: one input of step 51 is inf").locator("pre").inner_text()
    for expected in ("step 51 of 100", "row 3", "matmul", "cells.py:", "the input x of this step"):
        assert expected in fault
    walk = question(page, "LSTM: its backward pass, of 12 steps")
    walk.locator(".target").select_option("weight_hh")
    uses = walk.locator(".uses li").all_inner_texts()
    assert len(uses) == 12 and all("matmul" in use and "total" in use for use in uses)
    assert [int(n) for use in uses for n in re.findall(r"at step (\d+)", use)] == [
        *range(12, 1, -1)
    ]
    line = question(page, "LSTM: what the planner did").locator("button[data-place]")
    told = line.filter(has_text="self.weight_hh").inner_text()
    assert "forward, in the loop: matmul" in told and "backward, sum over time: product" in told
    page.close()


@pytest.mark.browser
def test_two_thousand_characters_of_256_units_are_opened(browser: Any, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(2000, 1, 4)).astype("float32")
    study = inspect.activity(nn.GRUCell(4, 256), tg.tensor(codes), "x" * 2000)
    path = inspect.page(tmp_path / "large.html", [study])
    assert path.stat().st_size < 2_000_000
    page = browser.new_page()
    page.goto(path.as_uri())
    entry = "performance.getEntriesByType('navigation')[0]"
    assert page.evaluate(f"{entry}.loadEventEnd") > 0
    assert page.locator(".passage span").count() == 2000
    print(f"opened in {page.evaluate(f'{entry}.loadEventEnd'):.0f} ms")
    page.close()
