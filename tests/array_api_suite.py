"""Runs the Array API standard's own tests, which are no package, against this one.

    git clone --recurse-submodules https://github.com/data-apis/array-api-tests FOLDER
    pip install ndindex
    python tests/array_api_suite.py FOLDER

What follows FOLDER goes to pytest: ``--max-examples 1000``, ``-k linalg``. Tests that
``array_api_exceptions.txt`` names have to fail, for the reason that stands above them; all others
have to pass.

The subtle point: the suite takes it for granted that there are complex dtypes. Where it asks for
the widest of them, while it is imported, it is given the widest real one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
EXCEPTIONS = HERE / "array_api_exceptions.txt"


def exceptions() -> Iterator[tuple[str, str]]:
    """Parts of the names of tests, and why those have to fail."""
    reason = ""
    for line in EXCEPTIONS.read_text().splitlines():
        if line.startswith("#"):
            reason = line.removeprefix("#").strip()
        elif line:
            yield line, reason


class KnownExceptions:
    """A plugin of pytest that expects the exceptions to fail."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for part, reason in exceptions():
                if part in item.nodeid:
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
                    break


def without_complex() -> None:
    """Import what the suite knows of dtypes, in a world without complex ones."""
    name = "array_api_tests.dtype_helpers"
    spec: Any = importlib.util.find_spec(name)
    helpers: Any = importlib.util.module_from_spec(spec)
    helpers.max = lambda found, key: max(found or [(None, 0)], key=key)
    sys.modules[name] = helpers
    spec.loader.exec_module(helpers)
    del helpers.max
    helpers.widest_complex_dtype = helpers.widest_real_dtype


def main(folder: str, *arguments: str) -> int:
    suite = Path(folder).resolve()
    if not (suite / "array-api" / "spec").is_dir():
        raise SystemExit(f"{suite} is no clone of array-api-tests with its submodules; see {HERE}")
    root = HERE.parent
    sys.path[:0] = [str(suite), str(root), str(root / "backends")]
    os.environ["ARRAY_API_TESTS_MODULE"] = "tinygrad_rnn"
    os.environ["ARRAY_API_TESTS_SKIP_DTYPES"] = "complex64,complex128"
    os.chdir(suite)
    without_complex()
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--disable-deadline"]
    return pytest.main([*options, "array_api_tests", *arguments], plugins=[KnownExceptions()])


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
