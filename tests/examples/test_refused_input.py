"""What is missing, empty, damaged or in another encoding is told in a line, which says the cure."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import small_data

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

READERS = {
    "anomalies": "traffic",
    "binding_sites": "binding_sites",
    "caption": "digits",
    "chat": "conversations",
    "chorales": "chorales",
    "digits": "digits",
    "generate_names": "first_names",
    "gestures": "exercises",
    "keras_summary": "cmudict",
    "name_country": "first_names",
    "sentiment": "reviews",
    "seq2seq_g2p": "cmudict",
    "stress_tagging": "cmudict",
    "traffic_forecast": "traffic",
    "translate": "messages",
    "video_frames": "digits",
    "weather_forecast": "seattle_weather",
}
"""What an example reads by, of the functions of datasets.py."""
OTHER = {"speech_digits"}  # which reads a library
NONE = {"adding_problem", "bptt_by_hand", "char_lm", "swap_backend", "vanishing_gradient"}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``example(name)``: a module of examples/, with data packages and files in tmp_path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def one_line(example: Any, name: str, monkeypatch: Any, capsys: Any, *options: str) -> str:
    """What an example ends with: one line, to stderr, with a status that is not 0, no warning."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("error")
        example(name).main()
    captured = capsys.readouterr()
    said = ended.value.code if isinstance(ended.value.code, str) else captured.err
    assert ended.value.code != 0 and said.startswith(f"{name}.py: ")
    assert len(said.splitlines()) == 1 and "Verdict" not in captured.out
    return said


def test_every_example_that_reads_data_is_known_here() -> None:
    programs = {
        path.stem
        for path in EXAMPLES.glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }
    assert programs == READERS.keys() | OTHER | NONE


@pytest.mark.parametrize("name", [*READERS, *OTHER])
def test_what_is_not_installed_is_named_with_the_command_that_installs_it(
    name: str, example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(example("datasets"), "find_spec", lambda name: None)
    said = one_line(example, name, monkeypatch, capsys)
    assert re.search(r": pip install (--no-deps )?[\w-]+( [\w-]+)*$", said.rstrip())


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("count", [0, 2])
def test_a_data_set_of_no_rows_or_two_is_refused(
    name: str,
    count: int,
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    small_data.few(tmp_path, READERS[name], count)
    options = [] if name == "weather_forecast" else ["--quick"]
    said = one_line(example, name, monkeypatch, capsys, *options)
    assert f"too little data, {count} where at least" in said and "Install it again" in said


@pytest.mark.parametrize("reader", sorted(set(READERS.values())))
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_files_that_are_damaged_or_missing_are_refused(
    reader: str,
    how: str,
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    small_data.few(tmp_path, reader, 2)
    for file in small_data.data_files(tmp_path):
        if how == "damaged":
            file.write_bytes(b"\xff\0damaged\xfe" * 9)
        else:
            file.unlink()
    name = next(name for name in READERS if READERS[name] == reader)
    options = [] if name == "weather_forecast" else ["--quick"]
    said = one_line(example, name, monkeypatch, capsys, *options)
    assert "the data cannot be used" in said and "Install it again" in said


def test_speech_without_its_library_or_its_voices_is_refused(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small_data.package(tmp_path, "espeakng_loader", "readme.txt").write_text("")
    said = one_line(example, "speech_digits", monkeypatch, capsys, "--quick")
    assert "there is no library for this system in " in said


# Texts.

TEXT = "Ein Gedicht über “alles” und … 詩\r\n" * 200
LATIN = "Größe über alles\n" * 400
READ = {
    "UTF-8": (TEXT.encode(), None),
    "UTF-8 with a mark": (TEXT.encode("utf-8-sig"), None),
    "UTF-16, little endian": (b"\xff\xfe" + TEXT.encode("utf-16-le"), None),
    "UTF-16, big endian": (b"\xfe\xff" + TEXT.encode("utf-16-be"), None),
    "UTF-32": (b"\xff\xfe\0\0" + TEXT.encode("utf-32-le"), None),
    "UTF-16 without a mark, named": (TEXT.encode("utf-16-le"), "utf-16-le"),
    "a mark, and named": (TEXT.encode("utf-8-sig"), "utf-8"),
    "Latin-1, named": (LATIN.encode("latin-1"), "latin-1"),
}


@pytest.mark.parametrize("kind", READ)
def test_texts_are_read_as_their_marks_or_their_users_say(
    kind: str, example: Any, tmp_path: Path
) -> None:
    content, encoding = READ[kind]
    (tmp_path / "file.txt").write_bytes(content)
    wanted = LATIN if kind == "Latin-1, named" else TEXT.replace("\r\n", "\n")
    assert example("texts").read_text(tmp_path / "file.txt", encoding) == wanted


REFUSED = {
    "Latin-1": (LATIN.encode("latin-1"), [], "not utf-8 .* give its --encoding, such as latin-1"),
    "binary": (bytes(range(256)) * 50, [], "binary, or a text that is not utf-8"),
    "binary, named": (bytes(range(256)) * 50, ["--encoding", "latin-1"], "holds zeros"),
    "UTF-16 without a mark": (b"a\0" * 4000, [], "holds zeros: .* --encoding, .* utf-16-le"),
    "half a character": (b"\xff\xfea", [], "not utf-16 .* damaged"),
    "wrongly named": (LATIN.encode("latin-1"), ["--encoding", "utf-8"], "not utf-8 .* another"),
    "no such encoding": (b"text", ["--encoding", "klingon"], "no encoding 'klingon'"),
    "empty": (b"", [], "is empty"),
    "nothing but a mark": (b"\xef\xbb\xbf", [], "is empty"),
    "too short": (b"too short", [], "9 characters do not fill 32 windows of 64 .*longer text"),
    "missing": (None, [], "there is no file file.txt"),
    "a folder": (None, ["--text", "."], "is a folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_text_is_refused_with_the_cure(
    kind: str, example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    content, options, message = REFUSED[kind]
    if content is not None:
        (tmp_path / "file.txt").write_bytes(content)
    said = one_line(example, "char_lm", monkeypatch, capsys, "--text", "file.txt", *options)
    assert re.search(message, said), said
