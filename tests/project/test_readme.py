"""The README tells the truth: its code runs, its two commands exist, and CI calls the second."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest

from tinygrad_rnn_backends import Backend, use_backend

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(readme: str) -> list[str]:
    section = re.search(r"^## Two commands$(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section '## Two commands'"
    return [body.strip() for info, body in FENCE.findall(section[1]) if info == "bash"]


def test_python_blocks_run_one_after_the_other(
    readme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Blocks marked ```python exactly; one that cannot run everywhere says ```python no-run."""
    blocks = [match for match in FENCE.finditer(readme) if match[1] == "python"]
    assert blocks, "README.md shows no code"
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # so that what it defines can be looked up
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        lines_before = readme.count("\n", 0, block.start(2))
        source = "\n" * lines_before + block[2]  # so that an error shows the README's own line
        code = compile(source, str(ROOT / "README.md"), "exec", dont_inherit=True)
        exec(code, module.__dict__)


def test_the_backend_is_a_word(readme: str, backend: Backend) -> None:
    """The three ideas run on another backend when its name is the only thing that changes."""
    block = next(match[2] for match in FENCE.finditer(readme) if "use_backend" in match[2])
    changed = block.replace('use_backend("numpy")', f'use_backend("{backend.name}")')
    scope: dict[str, Any] = {}
    with use_backend("numpy"):
        exec(changed, scope)
    assert scope["loss"].backend == backend.name


def test_there_are_two_commands_and_each_installs_what_it_needs(commands: list[str]) -> None:
    train, test = commands
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command in commands:
        assert "python -m venv" in command
        asked = re.search(r"pip install [^&\n]*-e '?\.(?:\[([\w,]+)\])?", command)
        assert asked, command
        assert set(filter(None, (asked[1] or "").split(","))) <= set(extras)
    assert train.startswith("echo ") and " -q" not in train  # says at once what it will do
    assert "jit" in train.partition("-e")[2]
    assert "examples/char_lm.py" in train
    assert (ROOT / "examples" / "char_lm.py").is_file()
    assert "-m pytest" in test


def test_ci_runs_what_the_second_command_leaves_out() -> None:
    """Each marker that pytest deselects by default is asked for by CI."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    left_out = re.findall(r"not (\w+)", options["addopts"][options["addopts"].index("-m") + 1])
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert left_out and all(f"-m {marker}" in script for marker in left_out)


def test_ci_runs_the_second_command(commands: list[str]) -> None:
    shown = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == commands[1]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    homes = [ROOT, ROOT / "tinygrad_rnn", (ROOT / page).parent]
    named = set(re.findall(r"`(?:python )?([\w./-]+/[\w./-]*\.py)\b", text))
    named |= set(re.findall(r"\]\(((?!https?:|#)[^)#]+)\)", text))
    assert named
    assert not [name for name in named if not any((home / name).exists() for home in homes)]


def test_the_map_of_the_code_names_every_file_and_no_other() -> None:
    """A name without a folder is meant in the folder that its row named last, or in the row's."""
    section = (ROOT / "docs" / "explanation" / "code.md").read_text(encoding="utf-8")
    base = core = ROOT / "tinygrad_rnn"
    named: set[Path] = set()
    for row in re.findall(r"^\| .*", section, re.MULTILINE):
        first = row.split("|")[1]
        if home := re.search(r"`([\w./-]+/[\w./-]*)`", first):
            base = ROOT / home[1]
            base = base if base.is_dir() else base.parent
            base = base if base.exists() else core
        elif first.strip():
            base = core
        folder = base
        for name in re.findall(r"`([\w/]+(?:\.py|/))`", row):
            if name.endswith("/"):
                places = [base / name, core / name, ROOT / name]
            else:
                places = [place / name for place in (folder, base, core, ROOT)]
            path = next((x for x in places if x.exists()), places[0])
            assert path.exists(), f"{name} in {row.strip()}"
            folder = path if path.is_dir() else folder
            named.add(path)
    parts = ("kernels", "primitives", "planner", "recurrence", "nn")
    every = {*core.glob("*.py"), *(x for part in parts for x in (core / part).rglob("*.py"))}
    left_out = sorted(x for x in every - named if not x.name.startswith("__"))
    assert not left_out
