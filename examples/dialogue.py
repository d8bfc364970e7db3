"""Questions and answers: parted, as numbers, and what ``chat.py`` compares its answers with."""

from __future__ import annotations

import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
from texts import ngram_bits

from tinygrad_rnn.data import BytePairs, Vocabulary, random_split

Pairs = list[tuple[str, str]]
SPECIALS = ["<pad>", "<start>", "<stop>", "<unknown>"]
PAD, START, STOP = range(3)


def words(text: str) -> list[str]:
    """Small letters; punctuation stands for itself."""
    return re.findall(r"[a-z0-9']+|[^\sa-z0-9']", text.lower().replace("\u2019", "'"))


def split(pairs: Pairs, part: int = 2) -> tuple[Pairs, Pairs]:
    """Pairs to learn from, and the tenth of the questions to test on (1: to choose settings by)."""
    asked = [" ".join(words(question)) for question, _ in pairs]
    parts = random_split(sorted(set(asked)), [0.8, 0.1, 0.1], seed=0)
    known, unseen = set(parts[0]), set(parts[part])
    return (
        [pair for pair, question in zip(pairs, asked, strict=True) if question in known],
        [pair for pair, question in zip(pairs, asked, strict=True) if question in unseen],
    )


class Pieces:
    """Texts as the numbers of pieces of words, and back."""

    def __init__(self, pairs: Pairs, merges: int) -> None:
        spelled = [words(text) for pair in pairs for text in pair]
        self.split = BytePairs.learn([word for text in spelled for word in text], merges)
        pieces = (self.split.split(text) for text in spelled)
        self.symbols = Vocabulary.from_sequences(pieces, specials=SPECIALS, unknown="<unknown>")

    def encode(self, text: str) -> np.ndarray:
        """Numbers of its pieces, and a stop."""
        return np.append(self.symbols.encode(self.split.split(words(text))), STOP)

    def decode(self, numbers: list[int]) -> str:
        """Words with a space between them, but before a mark."""
        found = " ".join(self.split.join(self.symbols.decode(numbers, specials=False)))
        return re.sub(r" (?=[.,;:!?)])", "", found)


def nearest(known: Pairs, questions: list[str]) -> list[str]:
    """The answers to the known questions that share most, rare words counting more (tf-idf)."""
    often = Counter(word for question, _ in known for word in {*words(question)})

    def weighed(question: str) -> dict[str, float]:
        weights = {word: math.log(len(known) / often.get(word, 1)) for word in words(question)}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        return {word: weight / norm for word, weight in weights.items()}

    table = [weighed(question) for question, _ in known]
    asked = [weighed(question) for question in questions]
    likeness = [
        [sum(w * row.get(k, 0.0) for k, w in one.items()) for row in table] for one in asked
    ]
    return [known[int(np.argmax(row))][1] for row in likeness]


def length(pairs: Pairs) -> int:
    """The words of all answers; the end of each is one, too."""
    return sum(len(words(answer)) + 1 for _, answer in pairs)


def ngrams(pieces: Pieces, known: Pairs, unseen: Pairs) -> dict[str, float]:
    """The perplexity of a word of the answers by models that read no question (Kneser-Ney)."""
    streams = [np.concatenate([pieces.encode(answer) for _, answer in x]) for x in (known, unseen)]
    corpus = SimpleNamespace(vocabulary=pieces.symbols, training=streams[0], held_out=streams[1])
    scale = len(streams[1]) / length(unseen)  # pieces a word
    names = ("unigrams", "bigrams", "trigrams")
    return {name: 2 ** (ngram_bits(corpus, n) * scale) for n, name in enumerate(names)}


def exact(answers: list[str], right: dict[str, set[str]]) -> float:
    """The share of questions with an answer that is right word for word, in per cent."""
    found = zip(answers, right.values(), strict=True)
    return 100 * float(np.mean([" ".join(words(answer)) in good for answer, good in found]))
