"""Clips of moving digits: composed, continued by what needs no training, and drawn.

A digit of 14 by 14 moves straight on for 16 frames, at 1 to 3 pixels a frame, and bounces off the
edges of 32 by 32.
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from datasets import at_least, digits

from tinygrad_rnn import avg_pool2d

FRAMES, SEEN, SIDE, DIGIT = 16, 8, 32, 14
REACH = 3  # pixels that anything moves in a frame, at most


def halved_digits() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (N, 14, 14) and labels: 4,000 to learn from, and 1,000 for the test."""
    images, labels = at_least(50, digits())
    images = images.reshape(-1, DIGIT, 2, DIGIT, 2).mean(axis=(2, 4))
    order = np.random.default_rng(0).permutation(len(images))
    return [(images[part], labels[part]) for part in np.split(order, [len(order) * 4 // 5])]


def moving(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A clip (16, B, 32, 32) of each of the images (16, B, 14, 14), at 1 to 3 pixels a frame."""
    count, room = images.shape[1], SIDE - DIGIT
    angle, start = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 2 * room, (2, count))
    speed = rng.uniform(1, 3, count) * np.stack([np.sin(angle), np.cos(angle)])
    time, row, at = np.arange(FRAMES)[:, None], np.arange(count), np.arange(DIGIT)
    way = (start[:, None] + speed[:, None] * time) % (2 * room)
    y, x = np.rint(np.abs(way - room)).astype(int)[..., None, None]
    clips = np.zeros((FRAMES, count, SIDE, SIDE), np.float32)
    clips[time[..., None, None], row[:, None, None], y + at[:, None], x + at] = images
    return clips


def changing(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> tuple:
    """Clips of a digit that becomes another one, seen from not at all to well; labels (16, B)."""
    first, second = rng.integers(0, len(images), (2, count))
    which = np.where(np.arange(FRAMES)[:, None] < rng.integers(4, FRAMES, count), first, second)
    clips = moving(images[which], rng)
    kept = rng.random((FRAMES, count, 1, 1)) ** 2
    return clips * (rng.random(clips.shape) < kept), labels[which]


def crossing(images: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Clips of two digits."""
    which = rng.integers(0, len(images), (2, 1, count)).repeat(FRAMES, axis=1)
    return np.maximum(*(moving(images[one], rng) for one in which))


def motion(seen: np.ndarray) -> np.ndarray:
    """Frames to come if all around a pixel goes on as it moved between the last two frames."""
    before, now, drawn = seen[-2], seen[-1], []
    shifts = [(y, x) for y in range(-REACH, REACH + 1) for x in range(-REACH, REACH + 1)]
    errors = np.stack([(np.roll(before, shift, (1, 2)) - now) ** 2 for shift in shifts])
    for axis in (2, 3):
        errors = sum(np.roll(errors, k, axis) for k in range(-5, 6))
    best = np.argmin(errors, axis=0)[None]
    for _ in range(FRAMES - SEEN):
        moved = np.stack([np.roll(now, shift, (1, 2)) for shift in shifts])
        now = np.take_along_axis(moved, best, 0)[0]
        drawn.append(now)
    return np.stack(drawn)


def baselines(images: np.ndarray, seen: np.ndarray) -> dict[str, np.ndarray]:
    """Frames to come of clips of two digits, by what needs no training."""
    mean = crossing(images, 2000, np.random.default_rng(2)).mean(axis=(0, 1))
    blurred = avg_pool2d(seen[-1], 2 * REACH + 1, stride=1, padding=REACH).numpy()
    return {"last": seen[-1], "last, blurred": blurred, "mean": mean, "motion": motion(seen)}


def draw(rows: list[np.ndarray], said: np.ndarray, right: np.ndarray, path: Path) -> None:
    """A clip, what was said of it and, if wrong, what it is; another, and what was drawn of it."""
    figure = support.Figure(figsize=(12, 2.6), layout="constrained")
    for cells, frames in zip(figure.subplots(3, FRAMES), rows, strict=True):
        for cell, frame in zip(cells, [None] * (FRAMES - len(frames)) + [*frames], strict=True):
            cell.set_axis_off()
            if frame is not None:
                cell.imshow(frame, "gray", vmin=0, vmax=1)
    for cell, digit, label in zip(figure.axes, said, right, strict=False):
        cell.set_title(f"{digit}" if digit == label else f"{digit} ({label})", fontsize=10)
    support.save_picture(figure, path)
