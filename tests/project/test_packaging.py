"""What a user installs is what the tree holds: both source roots, typed, and nothing besides."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "tinygrad_rnn": ROOT / "tinygrad_rnn",
    "tinygrad_rnn_backends": ROOT / "backends" / "tinygrad_rnn_backends",
}
BUILT_FROM = ["pyproject.toml", "README.md", "LICENSE", "tinygrad_rnn", "backends"]
STRANGERS = ["autograd", "cupy", "jax", "tensorflow", "torch"]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made from a source distribution, as an index would serve it, without the network."""
    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    tree.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree)
    # From outside the tree, where nothing called `build` can stand in for the tool.
    run("-m", "build", "--no-isolation", "--outdir", work / "dist", tree, cwd=work)
    (built,) = (work / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, contents: set[str]) -> Message:
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


def test_wheel_holds_the_tree_and_nothing_else(contents: set[str]) -> None:
    tree = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".css", ".js") or path.name == "py.typed"
    }
    assert {name for name in contents if ".dist-info/" not in name} == tree


def test_every_folder_of_the_tree_is_a_package() -> None:
    for folder in PACKAGES.values():
        assert (folder / "py.typed").is_file()
        for path in folder.rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"no __init__.py beside {path}"


def test_top_level_names(contents: set[str]) -> None:
    names = {name.partition("/")[0] for name in contents}
    assert {name for name in names if not name.endswith(".dist-info")} == set(PACKAGES)


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "tinygrad_rnn"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    required = {
        re.split(r"[^\w-]", line)[0]
        for line in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in line
    }
    assert required == {"numpy", "safetensors"}


def test_other_frameworks_are_only_there_to_be_measured_against() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra in extras.keys() - {"bench"}:
        names = {re.split(r"[^\w-]", line)[0] for line in extras[extra]}
        assert not names & set(STRANGERS), extra


def test_installed_wheel_imports_anywhere_and_brings_no_framework(
    wheel: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    run(
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
        cwd=tmp_path,
    )
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import tinygrad_rnn, tinygrad_rnn_backends\n"
        "print(tinygrad_rnn.__file__, tinygrad_rnn_backends.__file__, sep='\\n')\n"
        f"print(sorted(set({STRANGERS!r}) & set(sys.modules)))\n"
    )
    core, backends, strangers = run("-I", "-W", "error", "-c", script, cwd=tmp_path).splitlines()
    assert Path(core) == site / "tinygrad_rnn" / "__init__.py"
    assert Path(backends) == site / "tinygrad_rnn_backends" / "__init__.py"
    assert strangers == "[]"
