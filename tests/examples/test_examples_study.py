"""The tour's claims hold and the gallery is written, from what was really run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "study"


def run(script: str, *options: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    command = [sys.executable, "-W", "error", str(FOLDER / script), *options]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    return done.stdout


def test_the_tour_has_twelve_steps_and_each_claim_is_checked(tmp_path: Path) -> None:
    out = run("tour.py", "--out", str(tmp_path / "tour.html"))
    assert [int(n) for n in re.findall(r"^(\d+)\. \S", out, re.M)] == list(range(1, 13))
    assert out.count("checked: ") >= 12
    page = (tmp_path / "tour.html").read_text(encoding="utf-8")
    assert page.count('data-kind="note"') == 12 and page.count("<section") == 18
    assert page.count("<p>checked: ") == out.count("checked: ") and len(page) < 500_000


def test_the_gallery_is_written(tmp_path: Path) -> None:
    out = run("gallery.py", "--quick", "--out", str(tmp_path))
    pages = ["adding.html", "characters.html", "spelling.html"]
    drawings = ["gradients.svg", "loop.svg"]
    assert {path.name for path in tmp_path.iterdir()} == {*pages, *drawings}
    assert all(f"{name}: " in out for name in pages)
    assert "why there is a loop" in (tmp_path / "adding.html").read_text(encoding="utf-8")
    assert "attention: b" in (tmp_path / "spelling.html").read_text(encoding="utf-8")


def test_the_gallery_that_is_kept_is_small_and_whole() -> None:
    """What anybody can open without running anything; it says nothing of where it was made."""
    kept = {path.name: path for path in (FOLDER / "gallery").iterdir()}
    linked = re.findall(r"\(gallery/([\w.]+)\)", (FOLDER / "README.md").read_text())
    assert set(linked) == set(kept)
    for path in kept.values():
        text = path.read_text(encoding="utf-8")
        assert len(text) < 500_000 and str(ROOT) not in text
        assert not re.search(r"/(home|root|tmp|Users)/", text), path.name
        if path.suffix == ".html":
            assert text.rstrip().endswith("</html>") and "default-src 'none'" in text
