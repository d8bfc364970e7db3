"""Which exercise does a wrist do? A smartwatch's sensors, five seconds at a time, other people.

Many-to-one: two convolutions over time make 250 readings of six sensors 62 steps of 32 channels; a
GRU reads these in both directions, and the mean of what it gives says which of seven exercises of
physiotherapy it was (Burns et al. 2018, arXiv:1802.01489). Three such networks vote. Five people
are learned from, each time as if they had another arm, pace and way to wear a watch (see
``wrists.py``); the other five, whom none of them ever saw, are the test. To compare: the nearest
window by means and deviations, and ridge regression on these and the spectrum.

    pip install --no-deps seglearn
    python examples/gestures.py --seeds 3    a minute a seed on one core
    python examples/gestures.py --quick      seconds: does it run?
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from datasets import exercises
from wrists import baselines, other_wrist, windows

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches


class Watching(nn.Module):
    """Windows (B, 6, L) to the logits (B, 7) of exercises."""

    def __init__(self, channels: int, hidden: int) -> None:
        self.first = nn.Conv1d(6, channels, 5, stride=2, padding=2)
        self.second = nn.Conv1d(channels, channels, 5, stride=2, padding=2)
        self.gru = nn.GRU(channels, hidden, bidirectional=True)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.Linear(2 * hidden, 7)

    def forward(self, windows: tg.Tensor) -> tg.Tensor:
        """Convolve, read, and take the mean over time."""
        x = tg.relu(self.second(tg.relu(self.first(windows))))
        outputs, _ = self.gru(tg.permute_dims(x, (2, 0, 1)))
        return self.readout(self.dropout(tg.mean(outputs, axis=0)))


def train(
    model: Watching, recordings: list[np.ndarray], done: np.ndarray, epochs: int, seed: int
) -> None:
    """Cross-entropy and AdamW with a cosine; each window is of another wrist each time."""
    rng = np.random.default_rng(seed)
    batches = Batches(list(zip(recordings, done, strict=True)), 32, seed=seed)
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for batch in batches:
                x = support.here(np.stack([other_wrist(found, rng) for found, _ in batch]))
                kinds = np.array([kind for _, kind in batch])
                loss = tg.cross_entropy(model(x), kinds, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def draw(right: np.ndarray, guesses: np.ndarray, kinds: list[str], path: Path) -> None:
    """The confusion matrix, as shares of its rows."""
    confusion = np.zeros((7, 7))
    np.add.at(confusion, (right, guesses), 1)
    figure = support.Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(confusion / confusion.sum(axis=1, keepdims=True), "Blues", vmin=0, vmax=1)
    axes.set_xticks(range(7), kinds)
    axes.set_yticks(range(7), kinds)
    axes.set(xlabel="guessed", ylabel="done")
    figure.colorbar(shown, label="share of the row")
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    parser = support.command_line(__doc__, epochs=30)
    args = support.arguments(parser, epochs=3)
    recordings = support.read(exercises, 70)
    x, y, person, recording = windows(recordings)
    known = person <= 5
    size = np.sqrt((x[known].reshape(-1, 2, 3, x.shape[-1]) ** 2).mean(axis=(0, 2, 3)))
    size = np.repeat(size, 3).astype("float32")  # one for each sensor, so that it can be turned
    learned = [recordings[i][2] / size for i in recording[known]]
    guesses = []

    def run(seed: int) -> dict[str, float]:
        shares = 0.0
        for member in range(1 if args.quick else 3):
            model = Watching(32, 8 if args.quick else 48)
            train(model, learned, y[known], args.epochs, 10 * seed + member)
            with tg.no_grad():
                shares = shares + tg.softmax(model(support.here(x[~known] / size[:, None])))
        guesses.append(tg.argmax(shares, axis=-1).numpy())
        return {"three GRUs": 100 * np.mean(guesses[-1] == y[~known])}

    measured = support.over_seeds(args, run)
    title = f"right of {sum(~known)} windows of five other people, in per cent"
    support.compare(title, baselines(x, y, known), measured)
    draw(y[~known], guesses[-1], sorted({kind for _, kind, _ in recordings}), args.plot)


if __name__ == "__main__":
    main()
