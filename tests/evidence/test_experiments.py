"""The literature as a test suite: the frame, the data of its experiments, their small forms."""

from __future__ import annotations

import json
import math
import os
import pickle
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from evidence import command, data, invocation
from evidence.command import KEPT, main
from evidence.experiment import Experiment, Outcome, Results, interval
from evidence.pages import (
    PAGES,
    chorales,
    copy_memory,
    languages,
    min_char_rnn,
    parity,
    reber,
    variants,
)
from evidence.pages import temporal_order as order
from evidence.report import readme
from evidence.training import Each, train
from tinygrad_rnn import nn, optim


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment of two cases, whose results are the seed; ``interrupted`` says where."""

    def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
        if (case, seed) in interrupted:
            raise KeyboardInterrupt
        done.append((case, seed))
        return Outcome({"error": seed + (case == "b")}, [(0, 1.0), (1, 0.5)])

    interrupted: list[Any] = []
    done: list[Any] = []
    words = {name: name for name in ("title", "paper", "setting", "published", "criterion")}
    made = Experiment(
        name="made_up",
        **words,
        cases=("a", "b"),
        shown={"error": ".1f"},
        run=run,
        full={"steps": 3},
        quick={},
        judge=lambda found, s: max(run["error"] for run in found["b"]) <= 3,
        seeds=2,
    )
    monkeypatch.setattr(run, "interrupted", interrupted, raising=False)
    monkeypatch.setattr(run, "done", done, raising=False)
    monkeypatch.setitem(PAGES, "made_up", made)
    return made


def test_runs_are_kept_and_not_repeated(page: Any, tmp_path: Path, capsys: Any) -> None:
    command = ["made_up", "--results", str(tmp_path)]
    assert main(command) == 0
    assert page.run.done == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert main(command) == 0 and len(page.run.done) == 4
    said = capsys.readouterr().out
    assert "made_up: reproduced: a: error 0.5 [-5.9, 6.9]; b: error 1.5" in said
    assert said.count("made_up: was run before; --results FOLDER begins anew") == 1
    assert main([*command, "--seeds", "1-3"]) == 0
    assert page.run.done[4:] == [("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert "made_up: not reproduced" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    page: Any, tmp_path: Path, capsys: Any
) -> None:
    command = ["made_up", "--seeds", "0-1", "--results", str(tmp_path)]
    page.run.interrupted.append(("a", 1))
    assert main(command) == 130
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.split() == [*invocation(), *command] and Path(said.split()[0]).exists()
    kept = json.loads((tmp_path / "made_up.json").read_text())
    assert [(run["case"], run["seed"]) for run in kept["runs"]] == [("a", 0), ("b", 0)]
    page.run.interrupted.clear()
    assert main(command) == 0
    assert page.run.done == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


@pytest.mark.parametrize("changed", [{"criterion": "less"}, {"full": {"steps": 4}}], ids=str)
def test_results_belong_to_a_criterion_and_a_setting(
    page: Any, tmp_path: Path, changed: Any
) -> None:
    main(["made_up", "--results", str(tmp_path)])
    assert len(Results.read(page, tmp_path).runs) == 4
    other = Results.read(replace(page, **changed), tmp_path)
    assert other.runs == [] and other.verdict() == "not run"


def test_a_seed_that_is_not_complete_decides_nothing(page: Any, tmp_path: Path) -> None:
    page.run.interrupted.append(("b", 0))
    main(["made_up", "--results", str(tmp_path)])
    assert Results.read(page, tmp_path).verdict() == "not run"
    page.run.interrupted[:] = [("b", 1)]
    main(["made_up", "--results", str(tmp_path)])
    assert Results.read(page, tmp_path).verdict() == "reproduced (1 of 2 seeds)"
    page.run.interrupted[:] = [("b", 7)]
    main(["made_up", "--seeds", "2-7", "--results", str(tmp_path)])
    results = Results.read(page, tmp_path)
    assert results.seeds == [0, 2, 3, 4, 5, 6]
    assert len(results.runs) == 14


def test_what_cannot_be_asked_for(capsys: Any) -> None:
    for arguments, said in (
        (["addding"], "evidence: no experiment 'addding'; there are min_char_rnn,"),
        (["--seeds", "4-2"], "evidence: --seeds: '4-2' is empty"),
        (["--seeds", "x"], "evidence: --seeds: written 3 or 0-4, not 'x'"),
        (["--seeds", f"{2**32}"], "evidence: --seeds: a seed is below 2**32"),
        (["--seeds", f"0-{2**32}"], "evidence: --seeds: a seed is below 2**32"),
        (["--results", __file__], f"evidence: --results: {__file__} is a file"),
        (["--table", "--results", "/none"], "evidence: --results: there is no folder /none"),
        (["adding", "--data", __file__], "evidence: --data is for chorales only"),
        (["--data", __file__], "evidence: --data is for chorales only"),
        (["chorales", "--data", "/none"], "evidence: [Errno 2] No such file or directory: '/none'"),
        (["chorales", "--data", __file__], f"evidence: {__file__} is neither JSON nor a pickle"),
    ):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(said) and err.count("\n") == 1


def test_the_quick_form_says_what_fails(page: Any, capsys: Any) -> None:
    assert main(["made_up", "--quick"]) == 0
    assert main(["made_up", "--quick", "--seeds", "9"]) == 1
    assert capsys.readouterr().out.endswith("small forms that fail: made_up\n")


def test_interval_is_students() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0])  # 2.0 +- 4.303 * 1 / sqrt(3)
    assert mean == 2.0 and math.isclose(high - mean, 4.303 / 3**0.5)
    assert math.isclose(mean - low, high - mean)
    assert interval([1.0])[1:] == interval([1.0, math.inf])[1:] == (-math.inf, math.inf)
    rng, hit = np.random.default_rng(0), 0
    for _ in range(2000):
        _, low, high = interval(rng.normal(size=5))
        hit += low <= 0 <= high
    assert 0.935 < hit / 2000 < 0.965


def test_readme_tells_the_results_that_are_kept() -> None:
    every = [Results.read(page, KEPT) for page in PAGES.values()]
    assert KEPT.parent.joinpath("README.md").read_text(encoding="utf-8") == readme(every)
    for path in KEPT.glob("*.json"):  # none that its page disowns
        assert Results.read(PAGES[path.stem], KEPT).runs, path.name


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_training_that_diverges_ends(clip: float | None) -> None:
    w = nn.Parameter(np.ones(1, dtype="float32"))
    found = train(
        [w],
        lambda: (w * math.nan).sum(),
        lambda: 1.0,
        steps=9,
        rate=0.1,
        clip=clip,
        every=1,
    )
    assert found == ([(1.0, math.inf)], 9, False)


# The data of the experiments, each against a definition of its own.


def test_min_char_rnn_by_hand_against_differences() -> None:
    rng = np.random.default_rng(0)
    shapes = (5, 4), (4, 4), (4,), (4, 5), (5,)
    weights = [rng.normal(size=shape) for shape in shapes]
    xs, targets, h = [0, 3, 1], [3, 1, 4], rng.normal(size=4)
    _, gradients, _ = min_char_rnn.by_hand(weights, xs, targets, h)
    for p, g in zip(weights, gradients, strict=True):
        place = tuple(rng.integers(0, n) for n in p.shape)
        losses = []
        for step in (1e-6, -1e-6):
            p[place] += step
            losses.append(min_char_rnn.by_hand(weights, xs, targets, h)[0])
            p[place] -= step
        assert math.isclose((losses[0] - losses[1]) / 2e-6, g[place], rel_tol=1e-6)


def test_strings_of_the_embedded_reber_grammar() -> None:
    generator = np.random.default_rng(0)
    strings = [reber.string(generator) for _ in range(300)]
    for text, following in strings:
        assert text[0] == "B" and text[-1] == "E" and text[1] == text[-2] and text[1] in "TP"
        assert text[2] == "B" and text[-3] == "E"
        assert all(a in may for a, may in zip(text[1:], following, strict=True))
    assert {len(may) for _, following in strings for may in following} == {1, 2}
    xs, legal, lengths = reber.batch(strings[:3])
    assert xs.shape == (max(lengths), 3, 7) and lengths[0] == len(strings[0][0]) - 1
    assert legal[lengths[0] - 1, 0].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_classes_of_temporal_order_are_the_order() -> None:
    xs, lengths, classes = order.sequences(np.random.default_rng(0), 3, 50, 1.0)
    codes = xs.numpy().argmax(axis=-1)
    for row, (length, kind) in enumerate(zip(lengths, classes, strict=True)):
        said = [order.SYMBOLS[code] for code in codes[:length, row]]
        bits = [symbol == "Y" for symbol in said if symbol in "XY"]
        assert kind == 4 * bits[0] + 2 * bits[1] + bits[2]
        assert said[0] == "E" and said[-1] == "B" and said.count("E") == said.count("B") == 1
        assert 100 <= length <= 110


def test_strings_of_the_languages() -> None:
    xs, legal, lengths = languages.strings("abc", range(1, 4))
    text = "".join("abc$"[i] for i in xs[: lengths[1], 1].argmax(axis=-1))
    assert text == "$aabbcc"
    may = ["".join("abc$"[i] for i in np.flatnonzero(row)) for row in legal[: lengths[1], 1]]
    assert may == ["a", "ab", "ab", "b", "c", "c", "$"]


def test_sequences_to_copy_and_bits_to_count() -> None:
    xs, targets = copy_memory.sequences(np.random.default_rng(0), 30, 4)
    codes = xs.numpy().argmax(axis=-1)
    assert xs.shape == (50, 4, 10) and (codes[:10] == targets[-10:]).all()
    assert (codes[39] == 9).all() and not codes[40:].any() and not targets[:-10].any()
    bits, lengths, odd = parity.sequences(np.random.default_rng(0), 20, 5, 9)
    for row in range(20):
        assert odd[row] == ((bits[: lengths[row], row] > 0).sum() % 2 == 1)


@pytest.mark.parametrize(("variant", "like"), [("V", nn.PeepholeLSTMCell), ("NP", nn.LSTMCell)])
def test_the_vanilla_of_the_variants_is_the_librarys(variant: str, like: Any) -> None:
    rng = np.random.default_rng(0)
    cell, known = variants.VariantCell(variant, 3, 4), like(3, 4)
    cell.p.data = rng.normal(size=(3, 4)).astype("float32")
    own = {"weight_ih": cell.w, "weight_hh": cell.u, "bias": cell.b}
    peepholes = {f"weight_c{gate}": cell.p[k] for k, gate in enumerate("ifo")}
    known.load_state_dict({**own, **(peepholes if variant == "V" else {})})
    xs = tg.tensor(rng.normal(size=(6, 2, 3)), "float32")
    found, expected = (tg.unroll(c, xs)[0].numpy() for c in (cell, known))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_each_variant_differs_from_the_others() -> None:
    xs = tg.tensor(np.random.default_rng(0).normal(size=(6, 2, 3)), "float32")
    outputs = []
    for variant in variants.VARIANTS:
        tg.manual_seed(0)
        cell = variants.VariantCell(variant, 3, 4)
        cell.p.data = np.full((3, 4), 0.5, dtype="float32")
        outputs.append(tg.unroll(cell, xs)[0].numpy())
    for k, one in enumerate(outputs):
        assert all(abs(one - other).max() > 1e-3 for other in outputs[:k])


def test_losses_of_chorales_count_no_padding() -> None:
    rng = np.random.default_rng(0)
    rolls = [(rng.random((n, 88)) < 0.1).astype("float32") for n in (5, 9, 2)]
    model = Each(nn.GRUCell(88, 4), 88)
    alone = [chorales.total(model, chorales.padded([roll])).item() for roll in rolls]
    together = chorales.total(model, chorales.padded(rolls)).item()
    assert math.isclose(sum(alone), together, rel_tol=1e-5)


SOME: dict[str, Any] = {
    "train": [[[60, 64, 67], [], [21, 108]], [[62]]],
    "valid": [[[60], [60, 60]]],
    "test": [[[61], [59]]],
}


def numbered(x: Any, integer: Any, several: type) -> Any:
    """``x`` with other integers and sequences."""
    if isinstance(x, list):
        return several(numbered(y, integer, several) for y in x)
    return integer(x)


def test_chorales_of_a_file(tmp_path: Path) -> None:
    def again(integer: Any, several: type) -> Any:
        return {part: numbered(pieces, integer, several) for part, pieces in SOME.items()}

    contents = {"json": b"\n" + json.dumps(SOME).encode()}
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        contents[f"plain{protocol}"] = pickle.dumps(again(int, tuple), protocol)
        contents[f"numpy{protocol}"] = pickle.dumps(again(np.int64, list), protocol)
    for kind in ("<u1", ">i2", ">i8"):
        contents[kind] = pickle.dumps(again(lambda x, k=kind: np.array(x, k)[()], list))
    # As Python 2 wrote it: texts are bytes, and so is what an integer consists of.
    old = b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNN"
    old += b"I-1\nI-1\nI0\ntbS'<" + rb"\x00" * 7 + b"'\ntR."
    sixty = b"(l(l" + old[:-1] + b"aa"  # a piece of one step, of the pitch 60
    contents["python 2"] = b"(dS'train'\n(l%sasS'valid'\n(l%sasS'test'\n(l%sas." % ((sixty,) * 3)
    for name, content in contents.items():
        path = tmp_path / name.strip("<>")
        path.write_bytes(content)
        found = data.chorales_in(path)
        if name == "python 2":
            assert [[r.nonzero()[1].tolist() for r in found[part]] for part in found] == [
                [[39]]
            ] * 3
            continue
        for part, pieces in SOME.items():
            assert len(found[part]) == len(pieces)
            for roll, piece in zip(found[part], pieces, strict=True):
                assert roll.shape == (len(piece), 88)
                said = [sorted(np.flatnonzero(row) + 21) for row in roll]
                assert said == [sorted(set(step)) for step in piece], name


class Evil:
    """Unpickling it would run a function."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/unpickled"),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither JSON nor a pickle of plain lists: "),
        (b"{", "neither JSON nor a pickle"),
        (b'{"a":' * 10**5, "neither JSON nor a pickle"),
        (pickle.dumps(SOME)[:-9], "neither JSON nor a pickle"),
        (pickle.dumps({**SOME, "test": Evil()}), r"it names (pathlib|builtins)\S*, which is not"),
        (pickle.dumps({**SOME, "test": np.ones(3)}), "it names numpy"),
        (pickle.dumps({**SOME, "test": np.float64(1)}), "numbers of dtype 'f8', not integers"),
        (pickle.dumps(np.zeros(3).dtype), "numbers of dtype 'f8', not integers"),
        (pickle.dumps([1, 2]), "is a dict of train, valid, test to lists of pieces, not: list"),
        (b'{"train": [], "test": []}', "lists of pieces, not: train, test"),
        (json.dumps({**SOME, "more": []}).encode(), "not: train, valid, test, more"),
        (json.dumps({**SOME, "test": []}).encode(), "test is empty"),
        (json.dumps({**SOME, "test": 3}).encode(), "test is 3, not a list"),
        (json.dumps({**SOME, "test": [[[60]], []]}).encode(), "test, piece 1 is empty"),
        (json.dumps({**SOME, "test": [[60]]}).encode(), "test, piece 0, step 0 is 60, not a list"),
        (json.dumps({**SOME, "test": ["ab"]}).encode(), "test, piece 0 is 'ab', not a list"),
        *(
            (json.dumps({**SOME, "train": [[[], [60, x]]]}).encode(), f"step 1: {x!r} is no MIDI")
            for x in (20, 109, -1, 60.0, math.nan, True, None, "60")
        ),
    ],
    ids=str,
)
def test_files_that_are_no_chorales(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        data.chorales_in(path)
    assert not Path("/tmp/unpickled").exists()


def test_results_from_other_chorales_are_kept_elsewhere(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    some = {
        part: [[[int(p) for p in rng.integers(50, 70, 3)] for _ in range(5)] for _ in range(3)]
        for part in data.PARTS
    }
    files = tmp_path / "file.json", tmp_path / "file.pickle"
    files[0].write_text(json.dumps(some))
    files[1].write_bytes(pickle.dumps(some))
    small = {"epochs": 2, "rates": 1}
    monkeypatch.setattr(
        chorales, "PAGE", replace(chorales.PAGE, full={**chorales.PAGE.full, **small})
    )
    kept = tmp_path / "results"
    monkeypatch.setattr(command, "KEPT", kept)
    asked = ["chorales", "--seeds", "0", "--data"]
    assert main([*asked, str(files[0])]) == 0
    (folder,) = kept.iterdir()
    content = json.loads((folder / "chorales.json").read_text())
    assert folder.name == f"chorales-{content['numbers']['data']}"
    assert content["setting"].startswith("3 / 3 / 3 pieces of a file")
    capsys.readouterr()
    assert main([*asked, str(files[1])]) == 0  # the same pieces: nothing is run again
    assert capsys.readouterr().out.startswith("chorales: was run before")
    some["test"][0][0] = []
    files[0].write_text(json.dumps(some))
    assert main([*asked, str(files[0])]) == 0
    assert len(list(kept.iterdir())) == 2
    assert main([*asked, str(files[0]), "--results", str(kept)]) == 2
    assert "is for the data of the page" in capsys.readouterr().err


def test_ctrl_c_with_data_says_the_file(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a b.json"
    path.write_text(json.dumps(SOME))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chorales, "fit", interrupting)
        assert main(["chorales", "--data", str(path), "--results", str(tmp_path / "r")]) == 130
    last = capsys.readouterr().out.splitlines()[-1]
    options = f"chorales --data '{path}' --results {tmp_path / 'r'}"
    assert last == f"{shlex.join(invocation())} {options}"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("module", ["numpy", "evidence.pages.variants", "threadpoolctl"])
def test_ctrl_c_while_something_is_imported(tmp_path: Path, module: str) -> None:
    hook = f"""
import sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
"""
    (tmp_path / "sitecustomize.py").write_text(hook)
    asked = [sys.executable, "-m", "evidence", "parity", "--quick", "--seeds", "3"]
    root = Path(command.__file__).parents[1]
    paths = os.pathsep.join([str(tmp_path), str(root), str(root / "backends")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(asked, cwd=root, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
    words = done.stdout.removeprefix("\nInterrupted. To go on:\n").split()
    assert words[1:] == asked[1:] and os.path.samefile(root / words[0], sys.executable)


def test_ctrl_c_while_results_are_written(
    page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Results.write, []

    def interrupted(results: Results, folder: Path) -> None:
        calls.append(len(results.runs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(results, folder)

    monkeypatch.setattr(Results, "write", interrupted)
    assert main(["made_up", "--results", str(tmp_path)]) == 130
    assert calls == [1, 2, 2]
    assert len(Results.read(page, tmp_path).runs) == 2


def interrupting(*_: Any, **__: Any) -> Any:
    """Ctrl-C."""
    raise KeyboardInterrupt


def test_noise_is_drawn_for_every_update_and_taken_away_again() -> None:
    gradients: list[np.ndarray] = []

    class Watched(optim.SGD):
        def step(self) -> None:
            gradients.append(cell.weight_hh.grad.numpy())
            for p, weight in zip(cell.parameters(), weights, strict=True):
                np.testing.assert_array_equal(p.data, weight)
            super().step()

    cell = nn.RNNCell(88, 3)
    weights = [p.data.copy() for p in cell.parameters()]
    rolls = [np.eye(88, dtype="float32")[:4]] * 3
    s = SimpleNamespace(epochs=2, patience=9, most=9)
    for noise in (0.0, 0.1):
        chorales.fit(cell, 0.0, 0, s, (rolls, rolls, rolls), Watched, noise)
    same, differs = (abs(gradients[k] - gradients[k + 1]).max() for k in (0, 2))
    assert same == 0 and differs > 1e-3


@pytest.mark.evidence
def test_small_forms_of_all_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    """Three minutes on two processors; those whose data is not installed say so."""
    status = main(["--quick"])
    said = capsys.readouterr().out
    print(said)
    assert status == 0, said
