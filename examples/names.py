"""First names and their countries, as numbers, and the counting models that a network has to beat.

Capital letters say nothing that being the first does not: all names are read and written small. A
tenth of them, drawn by chance and always the same, is not learned from but kept for the end, and
another tenth is kept for choosing settings, so that the first one stays unseen.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from datasets import at_least, first_names

import tinygrad_rnn as tg
from tinygrad_rnn.data import Vocabulary, pad_arrays, random_split

Pairs = list[tuple[str, str]]  # names and their countries

PAD, END = 0, 1  # letters beside those of the names


class Batch(NamedTuple):
    """Names as letters (T, B), an END behind each and then PAD; lengths with END, and countries."""

    letters: tg.Tensor
    lengths: np.ndarray
    countries: tg.Tensor


class Names:
    """The names in parts, and the numbers of letters and countries; ``share`` of all names."""

    def __init__(self, share: float = 1.0) -> None:
        some = at_least(1000, first_names())[:: round(1 / share)]
        pairs = [(name.lower(), country) for name, country in some]
        self.training, self.validation, self.unseen = random_split(pairs, [0.8, 0.1, 0.1], seed=0)
        names, countries = zip(*self.training, strict=True)
        special = ["<pad>", "<end>", "<other>"]
        self.letters = Vocabulary.from_sequences(names, specials=special, unknown="<other>")
        self.countries = Vocabulary(sorted(set(countries)))

    def encode(self, pairs: Pairs) -> Batch:
        """Names and countries as numbers."""
        letters, lengths = pad_arrays([*self.letters.encode(name), END] for name, _ in pairs)
        countries = tg.tensor(self.countries.encode(country for _, country in pairs))
        return Batch(letters, lengths, countries)


def threes(name: str) -> list[str]:
    """Every three neighbours in a name; its beginning and its end are letters, too."""
    padded = f"^^{name}$"
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def naive_bayes(
    training: Pairs,
    names: list[str],
    smoothing: float = 0.1,
    features: Callable[[str], list[str]] = threes,
) -> list[str]:
    """The countries of the largest p(country) * product of p(three letters | country).

    Or any texts and their classes, of which ``features`` are counted.
    """
    common = Counter(country for _, country in training)
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for name, country in training:
        seen[country].update(features(name))
    kinds = len(set().union(*seen.values()))
    total = {country: counts.total() + smoothing * kinds for country, counts in seen.items()}

    def score(name: str, country: str) -> float:
        p = [(seen[country][three] + smoothing) / total[country] for three in features(name)]
        return math.log(common[country]) + sum(map(math.log, p))

    return [max(common, key=lambda country: score(name, country)) for name in names]


def ngram_bits(training: Pairs, unseen: Pairs, order: int, smoothing: float = 16.0) -> float:
    """Bits per letter of counts of what followed the last ``order`` letters in each country.

    To them ``smoothing`` imagined letters are added, distributed as one letter fewer would have it,
    and so on down to equal shares (MacKay & Peto 1995).
    """
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    different = len({letter for name, _ in training for letter in name}) + 1

    def steps(pairs: Pairs) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        for name, country in pairs:
            padded = "^" * order + name + "$"
            for i in range(order, len(padded)):
                yield padded[i], [(country, padded[i - n : i]) for n in range(order + 1)]

    for letter, contexts in steps(training):
        for context in contexts:
            seen[context][letter] += 1
    bits = []
    for letter, contexts in steps(unseen):
        p = 1 / different
        for counts in (seen[context] for context in contexts):
            p = (counts[letter] + smoothing * p) / (counts.total() + smoothing)
        bits.append(-math.log2(p))
    return sum(bits) / len(bits)
