"""Sentences of film reviews, what counting knows of their words, and what it makes of them.

11,000 sentences are few to learn words from. How much oftener pleased critics use a word than the
others is counted (``CountRatios``), and ``sentiment.py`` begins where that ends.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from names import naive_bayes

from tinygrad_rnn.data import Vocabulary

Read = list[tuple[list[str], int]]  # sentences in words, and their labels


class Row(NamedTuple):
    """A sentence of T words."""

    words: list[str]
    numbers: np.ndarray  # (T,)
    ratios: np.ndarray  # (T, 3)
    label: int


def words(text: str) -> list[str]:
    """Small letters; punctuation stands for itself; where there is nothing, an unknown word."""
    return re.findall(r"[a-z']+|[0-9]+|[^\sa-z0-9']", text.lower()) or ["<unknown>"]


def said_by(words: list[str]) -> Iterator[list[list[str]]]:
    """For each word: itself; it and the one before; its groups of five letters, ends marked."""
    for before, word in zip(["", *words], words, strict=False):
        marked = f"<{word}>"
        letters = [f"~{marked[i : i + 5]}" for i in range(max(len(marked) - 4, 1))]
        yield [[word], [f"{before} {word}"], letters]


class CountRatios:
    """What words say by themselves: log-count ratios of two labels (Wang & Manning 2012).

    They are three for each word: its own, that of it and the word before, and a third of the sum of
    those of its groups of five letters, which a rare word shares with others. A sentence that was
    counted would find its own label in them, so it is read as if it had not been: see ``label``.
    """

    def __init__(self, known: Read) -> None:
        """Counts the sentences of each label that hold a word, a pair, or a group of letters."""
        sentences = Counter(label for _, label in known)
        self.prior = math.log((sentences[1] + 1) / (sentences[0] + 1))
        self.holding: tuple[Counter[str], Counter[str]] = Counter(), Counter()
        for words, label in known:
            kinds = (kind for word in said_by(words) for kind in word)
            self.holding[label].update({part for kind in kinds for part in kind})

    def __call__(self, words: list[str], label: int | None = None) -> np.ndarray:
        """(T, 3); with its ``label``, of a sentence that was counted."""

        def ratio(part: str) -> float:
            rotten, fresh = (self.holding[i][part] - (label == i) for i in (0, 1))
            return math.log((fresh + 1) / (rotten + 1)) - self.prior if fresh + rotten else 0.0

        found = [[sum(map(ratio, kind)) for kind in word] for word in said_by(words)]
        return np.array(found, np.float32) / np.array([1, 1, 3], np.float32)


def prepare(known: Read, asked: Read) -> tuple[list[Row], list[Row], Vocabulary]:
    """Rows to learn from, others, and the words that at least two of the first hold."""
    read, special = (words for words, _ in known), ["<pad>", "<unknown>"]
    vocabulary = Vocabulary.from_sequences(read, specials=special, unknown="<unknown>", min_count=2)
    ratios = CountRatios(known)
    learned = [Row(words, vocabulary.encode(words), ratios(words, y), y) for words, y in known]
    others = [Row(words, vocabulary.encode(words), ratios(words), y) for words, y in asked]
    return learned, others, vocabulary


def logistic_regression(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Log-odds of the rows of ``asked``, by those of ``x`` and their labels: ten Newton steps."""
    x, asked = (np.insert(rows.astype(np.float64), 0, 1.0, axis=1) for rows in (x, asked))
    weights = np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ weights))
        curvature = x.T @ (x * (p * (1 - p))[:, None]) + np.eye(len(weights))
        weights += np.linalg.solve(curvature, x.T @ (y - p) - weights)
    return asked @ weights


def baselines(learned: list[Row], asked: list[Row]) -> dict[str, float]:
    """What is right in per cent without any order of words but that of pairs."""
    labels, right = (np.array([row.label for row in rows]) for rows in (learned, asked))
    known = [(row.words, row.label) for row in learned]
    sums = [np.array([row.ratios.sum(axis=0) for row in rows]) for rows in (learned, asked)]
    guesses = {
        "always fresh": np.ones(len(asked)),
        "naive Bayes": naive_bayes(known, [row.words for row in asked], 1.0, list),
        "regression on ratios": logistic_regression(sums[0], labels, sums[1]) > 0,
    }
    return {name: 100 * float(np.mean(right == guess)) for name, guess in guesses.items()}
