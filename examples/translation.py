"""Messages to translate, their pieces, what is held out, the baselines, and how it is all scored.

Messages of programs repeat each other, so none whose letters alone are the same is on both sides of
a split. Everything is written small, with one apostrophe and a space between any two tokens, in
training, in what is asked and in what is compared: scores are those of such text.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import zip_longest
from typing import Any

import numpy as np
from datasets import at_least, messages

from tinygrad_rnn.data import BytePairs, Vocabulary

Messages = dict[str, list[str]]
"""How each English message is put in French, in one way or several."""

Pairs = list[tuple[str, str]]
"""English and French."""

PAD, START, STOP, UNKNOWN = range(4)  # their numbers among the pieces
SPECIALS = ["<pad>", "<start>", "<stop>", "<unknown>"]
DRAWN = (
    "save the file before closing it",
    "you cannot delete this page",
    "the new password is too short",
    "open the selected document",
)
"""Sentences of nobody's catalogue, for the picture."""

CODE = re.compile(r"%(?!\d)|[{}<>\[\]|=\\_/@#*`~^$\n\t]|\.\.\w|\w\.\w|[a-z][A-Z]")


def tokens(text: str) -> list[str]:
    """Small letters; words end at an apostrophe, l'hôte is two; punctuation stands for itself."""
    text = re.sub(r"&(?=\w)", "", text.lower())  # which marks a letter to be typed
    text = text.replace("\u2019", "'").replace("...", "…")
    return re.findall(r"%\d+|\w+(?:-\w+)*'?|[^\w\s]", text)


def read(longest: int = 12) -> Messages:
    """Messages of two to ``longest`` tokens without placeholders, markup or code."""
    found: dict[str, set[str]] = {}
    for english, french in messages():
        asked, said = tokens(english), tokens(french)
        plain = not CODE.search(english) and not CODE.search(french) and english != french
        if plain and 2 <= len(asked) <= longest and 1 <= len(said) <= 1.5 * longest:
            found.setdefault(" ".join(asked), set()).add(" ".join(said))
    return {english: sorted(found[english]) for english in sorted(found)}


def letters(message: str) -> str:
    """All that tells messages apart when they are split."""
    return re.sub(r"[^a-z]", "", message)


def split(share: float = 1.0, validate: bool = False) -> tuple[Pairs, Messages]:
    """Pairs to learn from, and the test, a twelfth, of this share of all messages.

    Or the twelfth that settings were chosen by instead; it is learned from otherwise.
    """
    found = dict([*at_least(30, read()).items()][:: round(1 / share)])
    if not find_spec("sacrebleu"):  # better said before the training than after it
        raise ModuleNotFoundError("scores need a package: pip install sacrebleu")
    part = {english: zlib.crc32(letters(english).encode()) % 12 for english in found}
    test = {english: found[english] for english in found if part[english] == int(validate)}
    learned = (english for english in found if part[english] > int(validate))
    return [(english, french) for english in learned for french in found[english]], test


class Pieces:
    """Messages of both languages as numbers of the same byte pairs, and back."""

    def __init__(self, merges: Iterable[Any], symbols: Iterable[str]) -> None:
        self.split_words = BytePairs([(first, second) for first, second in merges])
        self.known = Vocabulary(symbols, specials=SPECIALS, unknown="<unknown>")

    @classmethod
    def learn(cls, pairs: Pairs, merges: int) -> Pieces:
        """Those that are commonest in both languages together, and every character."""
        words = [word for pair in pairs for text in pair for word in text.split()]
        found, characters = BytePairs.learn(words, merges), set("".join(words))
        joined = {first + second for first, second in found.merges}
        beginnings = {BytePairs.MARK + character for character in characters}
        return cls(found.merges, [*SPECIALS, *sorted(characters | beginnings | joined)])

    def __len__(self) -> int:
        return len(self.known)

    def encode(self, message: str) -> np.ndarray:
        """The numbers of its pieces and of the stop."""
        return self.known.encode([*self.split_words.split(message.split()), "<stop>"])

    def spell(self, numbers: Any) -> list[str]:
        """The pieces that numbers stand for."""
        return [str(piece) for piece in self.known.decode(numbers)]

    def decode(self, numbers: Any) -> str:
        """The message."""
        pieces = map(str, self.known.decode(numbers, specials=False))
        return " ".join(self.split_words.join(pieces))

    def to_dict(self) -> dict[str, Any]:
        """Itself as plain data; ``Pieces(**data)`` makes it again."""
        return {"merges": list(self.split_words.merges), "symbols": list(self.known.symbols)}


class TranslationMemory:
    """The known message that is nearest: the cosine of tf-idf, of words or of characters.

    ``found`` are the pairs that it knows, ``grams(message)`` what is counted.
    """

    def __init__(self, found: Pairs, characters: bool = False) -> None:
        self.found, self.characters = found, characters
        counted = [self._grams(english) for english, _ in found]
        seen = Counter(gram for counts in counted for gram in counts)
        self.numbers = {gram: i for i, gram in enumerate(seen)}
        self.rarity = 1 + np.log((1 + len(found)) / (1 + np.array([*seen.values()])))
        self.known = self._vectors(counted)

    def nearest(self, asked: Iterable[str]) -> Pairs:
        """The pair of each message."""
        vectors = self._vectors([self._grams(message) for message in asked])
        return [self.found[i] for i in np.argmax(vectors @ self.known.T, axis=1)]

    def _grams(self, message: str) -> Counter[str]:
        if not self.characters:
            return Counter(message.split())
        return Counter(message[i : i + n] for n in (3, 4) for i in range(len(message) + 1 - n))

    def _vectors(self, counted: list[Counter[str]]) -> np.ndarray:
        vectors = np.zeros((len(counted), len(self.numbers)), np.float32)
        for vector, counts in zip(vectors, counted, strict=True):
            for gram in counts.keys() & self.numbers.keys():
                vector[self.numbers[gram]] = counts[gram] * self.rarity[self.numbers[gram]]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def word_by_word(found: Pairs, rounds: int = 5) -> dict[str, str]:
    """The likeliest French for each English word: IBM model 1, five rounds of EM.

    Brown et al. 1993. French may come of no English word, too.
    """
    pairs = [([*english.split(), ""], french.split()) for english, french in found]
    probable: dict[tuple[str, str], float] = defaultdict(lambda: 1.0)
    for _ in range(rounds):
        counts: dict[tuple[str, str], float] = defaultdict(float)
        totals: dict[str, float] = defaultdict(float)
        for english, french in pairs:
            for said in french:
                share = sum(probable[word, said] for word in english)
                for word in english:
                    count = probable[word, said] / share
                    counts[word, said] += count
                    totals[word] += count
        probable = {pair: count / totals[pair[0]] for pair, count in counts.items()}
    best: dict[str, tuple[float, str]] = {}
    for (word, said), p in sorted(probable.items()):
        best[word] = max(best.get(word, (0.0, "")), (p, said))
    return {word: said for word, (_, said) in best.items()}


def scores(said: list[str], test: Messages) -> dict[str, float]:
    """BLEU of up to four words (Papineni et al. 2002) and chrF2 (Popović 2015), by sacrebleu."""
    from sacrebleu.metrics import BLEU, CHRF

    columns = [*zip_longest(*test.values())]
    # Tokens are apart already, full stops as well, which is what ``force`` says.
    metrics = {"BLEU": BLEU(tokenize="none", force=True), "chrF": CHRF()}
    return {name: metric.corpus_score(said, columns).score for name, metric in metrics.items()}


def rivals(pairs: Pairs, test: Messages) -> dict[str, dict[str, float]]:
    """The scores, each of all baselines."""
    words = word_by_word(pairs)
    said = {"English as it is": [*test]}
    for name, characters in (("words", False), ("characters", True)):
        nearest = TranslationMemory(pairs, characters).nearest(test)
        said[f"translation memory, {name}"] = [french for _, french in nearest]
    said["word by word"] = [
        " ".join(words.get(word, word) for word in english.split()) for english in test
    ]
    rows = {name: scores(translations, test) for name, translations in said.items()}
    return {score: {name: row[score] for name, row in rows.items()} for score in ("BLEU", "chrF")}
