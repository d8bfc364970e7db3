"""The seven models: their sizes, a batch for each, and the weights that every side starts from.

============= =====================================================================================
char_lm       50 characters of 50 texts; embedding, 2 LSTMs, dropout before, between and after them
word_lm       the same, of 35 words of 20 texts, from a vocabulary in which few words are frequent
tagger        ragged sentences; embedding, bidirectional LSTM, a tag for each word
ctc           ragged recordings; 2 bidirectional LSTMs, labels whose places are not known
translation   a bidirectional GRU reads 12 tokens, a GRU that attends to them (Luong et al. 2015:
              "general", with input feeding) says 10, given those before it
forecaster    96 hours of 7 numbers; a GRU, and the next 24 hours of all from its last state
sentiment     ragged reviews; embedding, LSTM, yes or no from its last state
============= =====================================================================================

A step: forward pass, loss, backward pass, gradients clipped at a norm, Adam. The weights have
PyTorch's names and layout; they are drawn as PyTorch would, but for the second biases, which are
zero: other libraries have none.

The subtle thing is dropout. Sides draw other masks, so they are compared without it (and without
clipping, since PyTorch's second biases count in the norm), and timed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.problem import Array

LEARNING_RATE = 1e-3
IGNORED = -100  # the tag of padding

# S is the length of what is read, T of what is said; V words or characters, C classes, E the width
# of an embedding, I of an input. The second sizes are for a look whether everything runs.
SIZES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "char_lm": (
        {"T": 50, "B": 50, "V": 65, "E": 256, "H": 256, "layers": 2},
        {"T": 8, "B": 3, "V": 11, "E": 6, "H": 6, "layers": 2},
    ),
    "word_lm": (
        {"T": 35, "B": 20, "V": 10_000, "E": 650, "H": 650, "layers": 2},
        {"T": 8, "B": 3, "V": 40, "E": 6, "H": 6, "layers": 2},
    ),
    "tagger": (
        {"T": 50, "B": 32, "V": 10_000, "E": 100, "H": 128, "C": 17},
        {"T": 9, "B": 4, "V": 40, "E": 5, "H": 6, "C": 7},
    ),
    "ctc": (
        {"T": 200, "B": 16, "I": 40, "H": 128, "C": 29, "layers": 2},
        {"T": 16, "B": 3, "I": 5, "H": 6, "C": 7, "layers": 2},
    ),
    "translation": (
        {"S": 12, "T": 10, "B": 64, "V": 30, "C": 42, "E": 64, "H": 128},
        {"S": 6, "T": 5, "B": 3, "V": 11, "C": 13, "E": 5, "H": 6},
    ),
    "forecaster": (
        {"T": 96, "B": 64, "I": 7, "H": 64, "C": 24},
        {"T": 10, "B": 3, "I": 3, "H": 6, "C": 4},
    ),
    "sentiment": (
        {"T": 200, "B": 32, "V": 10_000, "E": 128, "H": 128},
        {"T": 12, "B": 4, "V": 40, "E": 5, "H": 6},
    ),
}
MODELS = tuple(SIZES)


class Problem(NamedTuple):
    """One batch for one model, and the weights that it starts from, float32."""

    model: str
    sizes: Any  # by their letters, as attributes
    batch: Any  # by their names, as attributes: arrays on the host, time first
    weights: dict[str, Array]  # by PyTorch's names, in its layout
    dropout: float
    max_norm: float

    @property
    def compared(self) -> list[str]:
        """The weights whose gradients every side has: all but the second biases."""
        return [name for name in self.weights if "bias_hh" not in name]

    @property
    def repeatable(self) -> Problem:
        """Without what differs from library to library."""
        return self._replace(dropout=0.0, max_norm=math.inf)


def problem(model: str, sizes: Mapping[str, int]) -> Problem:
    rng = np.random.default_rng(0)
    given = SimpleNamespace(**sizes)
    batch, shapes = BUILDERS[model](given, rng)
    weights = {name: drawn(rng, name, shape, bound) for name, shape, bound in shapes}
    dropout = 0.2 if model in ("char_lm", "word_lm") else 0.0
    return Problem(model, given, batch, weights, dropout, max_norm=1.0)


# Weights: their names, shapes, and how large they may be.

Shapes = Iterator[tuple[str, tuple[int, ...], float]]


def drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...], bound: float) -> Array:
    if "bias_hh" in name:
        return np.zeros(shape, np.float32)
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def embedding(name: str, count: int, width: int) -> Shapes:
    yield f"{name}.weight", (count, width), 0.1


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (outputs, inputs), inputs**-0.5
    if bias:
        yield f"{name}.bias", (outputs,), inputs**-0.5


def recurrent(name: str, gates: int, inputs: int, hidden: int, suffix: str = "_l0") -> Shapes:
    bound, width = hidden**-0.5, gates * hidden
    yield f"{name}.weight_ih{suffix}", (width, inputs), bound
    yield f"{name}.weight_hh{suffix}", (width, hidden), bound
    yield f"{name}.bias_ih{suffix}", (width,), bound
    yield f"{name}.bias_hh{suffix}", (width,), bound


def bidirectional(name: str, gates: int, inputs: int, hidden: int, layer: int = 0) -> Shapes:
    for direction in ("", "_reverse"):
        yield from recurrent(name, gates, inputs, hidden, f"_l{layer}{direction}")


# What each model is given, and what it is made of.

Built = tuple[Any, Shapes]


def language_model(n: Any, rng: np.random.Generator) -> Built:
    frequency = 1.0 / (2 + np.arange(n.V))  # Zipf's law
    text = rng.choice(n.V, size=(n.T + 1, n.B), p=frequency / frequency.sum())

    def shapes() -> Shapes:
        yield from embedding("embedding", n.V, n.E)
        for layer in range(n.layers):
            yield from recurrent("lstm", 4, n.H if layer else n.E, n.H, f"_l{layer}")
        yield from linear("readout", n.H, n.V)

    return SimpleNamespace(tokens=text[:-1], targets=text[1:]), shapes()


def tagger(n: Any, rng: np.random.Generator) -> Built:
    lengths = ragged(rng, n.T, n.B, shortest=n.T // 10)
    there = np.arange(n.T)[:, None] < lengths
    tokens = np.where(there, rng.integers(n.V, size=(n.T, n.B)), 0)
    targets = np.where(there, rng.integers(n.C, size=(n.T, n.B)), IGNORED)

    def shapes() -> Shapes:
        yield from embedding("embedding", n.V, n.E)
        yield from bidirectional("lstm", 4, n.E, n.H)
        yield from linear("readout", 2 * n.H, n.C)

    return SimpleNamespace(tokens=tokens, targets=targets, lengths=lengths), shapes()


def ctc(n: Any, rng: np.random.Generator) -> Built:
    """Symbol 0 is the blank; a tenth as many labels as there are frames."""
    lengths = ragged(rng, n.T, n.B, shortest=n.T // 2)
    label_lengths = lengths // 10 + 1
    there = np.arange(label_lengths.max()) < label_lengths[:, None]
    labels = np.where(there, rng.integers(1, n.C, size=there.shape), 0)
    frames = rng.standard_normal((n.T, n.B, n.I)).astype(np.float32)
    frames[np.arange(n.T)[:, None] >= lengths] = 0

    def shapes() -> Shapes:
        for layer in range(n.layers):
            yield from bidirectional("lstm", 4, 2 * n.H if layer else n.I, n.H, layer)
        yield from linear("readout", 2 * n.H, n.C)

    batch = SimpleNamespace(
        frames=frames, lengths=lengths, labels=labels, label_lengths=label_lengths
    )
    return batch, shapes()


def translation(n: Any, rng: np.random.Generator) -> Built:
    """Token 0 starts what is said: ``given`` is ``targets``, one step later."""
    source = rng.integers(n.V, size=(n.S, n.B))
    targets = rng.integers(1, n.C, size=(n.T, n.B))
    given = np.concatenate([np.zeros_like(targets[:1]), targets[:-1]])

    def shapes() -> Shapes:
        yield from embedding("source_embedding", n.V, n.E)
        yield from bidirectional("encoder", 3, n.E, n.H)
        yield from linear("bridge", 2 * n.H, n.H)
        yield from embedding("target_embedding", n.C, n.E)
        yield from recurrent("cell", 3, n.E + n.H, n.H, suffix="")
        yield from linear("key", 2 * n.H, n.H, bias=False)
        yield from linear("combine", 3 * n.H, n.H, bias=False)
        yield from linear("readout", n.H, n.C)

    return SimpleNamespace(source=source, given=given, targets=targets), shapes()


def forecaster(n: Any, rng: np.random.Generator) -> Built:
    """Noisy waves of random phase; what follows them is to be found."""
    hours = np.arange(n.T + n.C)[:, None, None]
    phases = rng.uniform(0, 2 * math.pi, (n.B, n.I))
    noise = 0.1 * rng.standard_normal((n.T + n.C, n.B, n.I))
    series = (np.sin(2 * math.pi * hours / 24 + phases) + noise).astype(np.float32)
    following = np.ascontiguousarray(np.moveaxis(series[n.T :], 0, 1)).reshape(n.B, -1)

    def shapes() -> Shapes:
        yield from recurrent("gru", 3, n.I, n.H)
        yield from linear("readout", n.H, n.C * n.I)

    return SimpleNamespace(series=series[: n.T], targets=following), shapes()


def sentiment(n: Any, rng: np.random.Generator) -> Built:
    lengths = ragged(rng, n.T, n.B, shortest=n.T // 10)
    there = np.arange(n.T)[:, None] < lengths
    tokens = np.where(there, rng.integers(1, n.V, size=(n.T, n.B)), 0)
    targets = rng.integers(2, size=n.B).astype(np.float32)

    def shapes() -> Shapes:
        yield from embedding("embedding", n.V, n.E)
        yield from recurrent("lstm", 4, n.E, n.H)
        yield from linear("readout", n.H, 1)

    return SimpleNamespace(tokens=tokens, targets=targets, lengths=lengths), shapes()


def ragged(rng: np.random.Generator, longest: int, rows: int, shortest: int) -> Array:
    """Lengths that are as likely as each other; one row is as long as any may be."""
    lengths = rng.integers(max(1, shortest), longest + 1, size=rows)
    lengths[0] = longest
    return lengths


BUILDERS: dict[str, Callable[[Any, np.random.Generator], Built]] = {
    "char_lm": language_model,
    "word_lm": language_model,
    "tagger": tagger,
    "ctc": ctc,
    "translation": translation,
    "forecaster": forecaster,
    "sentiment": sentiment,
}
