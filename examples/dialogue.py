"""Questions and answers as numbers, and the answer to the nearest question that is known."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np

from tinygrad_rnn.data import BytePairs, Vocabulary

Pairs = list[tuple[str, str]]
SPECIALS = ["<pad>", "<start>", "<stop>", "<unknown>"]
PAD, START, STOP = range(3)


def words(text: str) -> list[str]:
    """Small letters; punctuation stands for itself."""
    return re.findall(r"[a-z0-9']+|[^\sa-z0-9']", text.lower().replace("\u2019", "'"))


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
