"""What a watch on a wrist measures, in windows; other wrists, made up; and what is simple to guess.

Five people are few to learn from. Of what they did is made what others might have: another arm, a
watch that is worn otherwise, another pace (data augmentation as in Um et al. 2017).
"""

from __future__ import annotations

import numpy as np

LENGTH, STRIDE = 250, 125  # of windows, at 50 readings a second
MIRROR = np.array([-1, 1, 1, 1, -1, -1], np.float32)[:, None]
"""Of acceleration and rotation, where left becomes right: what turns, turns the other way."""

Recordings = list[tuple[int, str, np.ndarray]]  # the person, the exercise, and (T, 6)


def windows(recordings: Recordings) -> tuple[np.ndarray, ...]:
    """Windows (N, 6, L), their exercises (N,) as numbers, people (N,) and recordings (N,)."""
    kinds = sorted({kind for _, kind, _ in recordings})
    found = [
        (x[start : start + LENGTH].T, kinds.index(kind), person, i)
        for i, (person, kind, x) in enumerate(recordings)
        for start in range(0, len(x) - LENGTH + 1, STRIDE)
    ]
    x, y, person, i = zip(*found, strict=True)
    return np.stack(x), np.array(y), np.array(person), np.array(i)


def other_wrist(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Five seconds from anywhere in a recording (T, 6), as someone else might do them (6, L)."""
    pace = min(np.exp(rng.normal(0, 0.2)), (len(x) - 2) / LENGTH)
    at = rng.uniform(0, len(x) - 1 - pace * (LENGTH - 1)) + pace * np.arange(LENGTH)
    window = np.stack([np.interp(at, np.arange(len(x)), channel) for channel in x.T])
    window[3:] *= pace
    if rng.random() < 0.5:
        window *= MIRROR
    turned = turn(rng) @ window.reshape(2, 3, LENGTH)
    return (turned.reshape(6, LENGTH) * rng.normal(1, 0.1, (6, 1))).astype("float32")


def turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation in space (3, 3), by some 20 degrees about any axis: Rodrigues' formula."""
    x, y, z = rng.normal(0, 0.2, 3)
    angle = np.sqrt(x**2 + y**2 + z**2)
    across = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) / angle
    return np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * across @ across


def baselines(x: np.ndarray, y: np.ndarray, known: np.ndarray) -> dict[str, float]:
    """What the commonest exercise, the nearest window and ridge regression get right."""
    mean, scale = (f(x[known], axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
    mirrored = (np.concatenate([x[known], x[known] * MIRROR]) - mean) / scale
    x = (x - mean) / scale
    plain = np.concatenate([x.mean(axis=2), x.std(axis=2)], axis=1)
    distance = ((plain[~known, None] - plain[known]) ** 2).sum(axis=-1)
    guesses = {
        "commonest": np.bincount(y[known]).argmax(),
        "nearest window": y[known][distance.argmin(axis=1)],
        "ridge regression": ridge(x[known], y[known], x[~known]),
        "ridge, mirrored too": ridge(mirrored, np.tile(y[known], 2), x[~known]),
    }
    return {name: 100 * float(np.mean(guess == y[~known])) for name, guess in guesses.items()}


def ridge(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Exercises by ridge regression on means, deviations and the spectrum."""

    def table(x: np.ndarray) -> np.ndarray:
        tones = np.log1p(np.abs(np.fft.rfft(x, axis=2))[..., 1:26]).reshape(len(x), -1)
        return np.concatenate([x.mean(axis=2), x.std(axis=2), tones], axis=1)

    a, b = table(x), table(asked)
    mean, scale = a.mean(axis=0), a.std(axis=0) + 1e-9
    a, b = (np.insert((rows - mean) / scale, 0, 1.0, axis=1) for rows in (a, b))
    weights = np.linalg.solve(a.T @ a + 100 * np.eye(a.shape[1]), a.T @ np.eye(7)[y])
    return (b @ weights).argmax(axis=1)
