"""Words and how they are said: a split of the dictionary, and how wrong a pronunciation is."""

from __future__ import annotations

from collections import Counter

from datasets import at_least, cmudict

from tinygrad_rnn.data import random_split

Pronunciations = dict[str, list[list[str]]]  # of each word, each a list of phones


def training_and_test(*, stress: bool) -> tuple[Pronunciations, Pronunciations]:
    """The dictionary in two; a tenth of the words, always the same ones, are to test with."""
    words = at_least(1000, cmudict())
    if not stress:
        words = {word: [without_stress(p) for p in spoken] for word, spoken in words.items()}
    training, test = random_split(list(words), [0.9, 0.1], seed=0)
    return {word: words[word] for word in training}, {word: words[word] for word in test}


def without_stress(phones: list[str]) -> list[str]:
    """Phones without the digit that vowels end in: 39 different ones are left."""
    return [phone.rstrip("012") for phone in phones]


def letter_by_letter(training: Pronunciations, test: Pronunciations) -> dict[str, list[str]]:
    """Each letter said as it is most often, judged by words of as many phones as letters."""
    seen: dict[str, Counter[str]] = {}
    for word, spoken in training.items():
        for phones in spoken:
            if len(phones) == len(word):
                for letter, phone in zip(word, phones, strict=True):
                    seen.setdefault(letter, Counter())[phone] += 1
    habit = {letter: phones.most_common(1)[0][0] for letter, phones in seen.items()}
    return {word: [habit[letter] for letter in word] for word in test}


def edit_distance(found: list[str], wanted: list[str]) -> int:
    """The least number of phones to replace, insert or delete (Levenshtein 1966)."""
    row = list(range(len(wanted) + 1))
    for i, phone in enumerate(found, 1):
        before, row = row, [i]
        for j, other in enumerate(wanted):
            row.append(min(before[j] + (phone != other), before[j + 1] + 1, row[j] + 1))
    return row[-1]


def error_rates(found: dict[str, list[str]], test: Pronunciations) -> tuple[float, float]:
    """Per cent, each against the nearest of a word's pronunciations.

    The phoneme error rate is the edit distance for each phone of that pronunciation, the word error
    rate the share of words in which it is not 0.
    """
    nearest = [
        min((edit_distance(found[word], phones), len(phones)) for phones in spoken)
        for word, spoken in test.items()
    ]
    wrong, total = map(sum, zip(*nearest, strict=True))
    return 100 * wrong / total, 100 * sum(n > 0 for n, _ in nearest) / len(nearest)
