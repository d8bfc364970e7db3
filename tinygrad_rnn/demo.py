"""``python -m tinygrad_rnn demo``: a network learns to write, and you watch it.

An LSTM reads the prose of Python's own manual, which comes with Python, a character at a time, and
guesses what comes next. While it learns it writes a line now and then: noise, then words, then
something like sentences. The learning rate falls by the clock, so it is done when it said it would
be, whatever else the machine does.
"""

from __future__ import annotations

import math
import re
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import functional, optim
from .kernels.cpu import run as kernels
from .nn import Embedding, Linear, LSTMCell, Module, sample
from .primitives.movement import moveaxis
from .random import manual_seed
from .recurrence import unroll
from .structure import map_leaves
from .tensor import Tensor, no_grad

BATCH, WINDOW, HIDDEN, RATE = 32, 64, 192, 1e-2
SHOWN = (0, 3, 8, 20, 40, 70, 110)  # after so many seconds it writes a line


def prose() -> str:
    """The paragraphs of Python's manual that are sentences: no code, no grammar, no markup."""
    from pydoc_data.topics import topics

    kept = []
    for paragraph in dict.fromkeys("\n\n".join(topics.values()).split("\n\n")):
        text = re.sub(r"\s+", " ", re.sub(r"[*\"“”|_`]", "", paragraph)).strip()
        letters = sum(character.isalpha() or character == " " for character in text)
        if len(text) > 80 and letters > 0.93 * len(text) and text[0].isupper() and text[-1] == ".":
            kept.append(text)
    return "\n".join(kept)


class Writer(Module):
    """Characters to the logits of what follows each."""

    def __init__(self, characters: int) -> None:
        self.embedding = Embedding(characters, 48)
        self.cell = LSTMCell(48, HIDDEN)
        self.readout = Linear(HIDDEN, characters)

    def forward(self, characters: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Characters (T, B), and the state after them."""
        outputs, state = unroll(self.cell, self.embedding(characters), state)
        return self.readout(outputs), state

    def step(self, character: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One character each (B,): what ``sample`` runs."""
        output, state = self.cell(self.embedding(character), state)
        return self.readout(output), state


def write(model: Writer, vocabulary: str, characters: int, temperature: float = 0.5) -> str:
    """What the model writes after a full stop."""
    state = model.cell.initial_state((1,), model.readout.weight.dtype, "numpy")
    with no_grad():
        found = sample(
            model.step,
            state,
            start=vocabulary.index("\n"),
            stop=None,
            max_length=characters,
            temperature=temperature,
        )
    return "".join(vocabulary[i] for i in found[0][0].tokens)


def train(
    model: Writer, columns: np.ndarray[Any, Any], seconds: float
) -> Iterator[tuple[float, float]]:
    """Step by step the seconds that have passed, and the loss in bits; truncated BPTT."""
    optimizer = optim.Adam(model.parameters(), lr=RATE)
    began, passed, first, state = time.monotonic(), 0.0, 0, None
    while passed < seconds:
        window = columns[first : first + WINDOW + 1]
        logits, state = model(window[:-1], state)
        state = map_leaves(lambda x: x.detach(), state)
        loss = functional.cross_entropy(moveaxis(logits, -1, 1), window[1:])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(0.02, math.cos(math.pi / 2 * min(1.0, passed / seconds)))
        yield passed, loss.item() / math.log(2)
        optimizer.step()
        passed = time.monotonic() - began
        first += WINDOW
        if first + WINDOW >= len(columns):
            first, state = 0, None


def demo(seconds: float = 75.0, seed: int = 0) -> int:
    """Train for so many seconds, show what the network writes meanwhile, and what to try next.

    Ctrl-C ends the training early. Returns the exit status: 0, or 130 if nothing was learned.
    """
    manual_seed(seed)
    text = prose()
    vocabulary = "".join(sorted(set(text)))
    place = {character: i for i, character in enumerate(vocabulary)}
    ids = np.array([place[character] for character in text])
    end = len(ids) * 9 // 10
    training, unseen = ids[:end], ids[end:]
    columns = training[: len(training) // BATCH * BATCH].reshape(BATCH, -1).T  # (T, B)
    model = Writer(len(vocabulary))
    size = sum(parameter.size for parameter in model.parameters())
    how = "machine code" if kernels.available() is None else "NumPy (pip install llvmlite: faster)"
    print(
        f"An LSTM of {size:,} weights reads {len(training):,} characters of Python's manual, "
        f"for {seconds:.0f} seconds.\nLoops run as {how}. It knows {len(vocabulary)} characters "
        f"and nothing else.\n\nseconds  bits a character  what it writes",
        flush=True,
    )
    times = [s for s in SHOWN if s < 0.95 * seconds]
    losses: list[float] = []
    passed = 0.0
    try:
        for passed, loss in train(model, columns, seconds):
            losses.append(loss)
            if times and passed >= times[0]:
                times = [s for s in times if s > passed]
                line = write(model, vocabulary, 64).replace("\n", " / ")
                print(f"{passed:7.0f}  {_recent(losses):16.2f}  {line}", flush=True)
    except KeyboardInterrupt:
        print("\nStopped: this is as far as it came.")
        if not losses:
            return 130
    held_out = _bits(model, unseen)
    print(
        f"{passed:7.0f}  {_recent(losses):16.2f}  done, {len(losses)} steps\n\n"
        f"On the tenth of the text that it never saw: {held_out:.2f} bits a character, where "
        f"guessing takes {math.log2(len(vocabulary)):.2f}\nand counting pairs "
        f"{_pairs(ids, end):.2f}. This is what it writes now:\n\n"
        f"{_wrap(write(model, vocabulary, 600))}\n\n"
        "What to try next:\n"
        "  python -m tinygrad_rnn demo --seconds 600   it learns for longer\n"
        "  python -m tinygrad_rnn doctor               what would make this machine faster\n"
        "  help(tinygrad_rnn.unroll)                   any cell of yours, trained like this one",
        flush=True,
    )
    return 0


def _recent(losses: list[float]) -> float:
    return float(np.mean(losses[-20:]))


def _bits(model: Writer, ids: np.ndarray[Any, Any]) -> float:
    columns = ids[: len(ids) // 16 * 16].reshape(16, -1).T
    with no_grad():
        logits, _ = model(columns[:-1], None)
        error = functional.cross_entropy(moveaxis(logits, -1, 1), columns[1:])
    return float(error.item()) / math.log(2)


def _pairs(ids: np.ndarray[Any, Any], end: int) -> float:
    """Bits a character where the counts of pairs in the first part, plus 0.1, are the guess."""
    n = int(ids.max()) + 1
    counts = np.full((n, n), 0.1)
    np.add.at(counts, (ids[: end - 1], ids[1:end]), 1)
    guess = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(guess[ids[end:-1], ids[end + 1 :]]).mean())


def _wrap(text: str, width: int = 90) -> str:
    return "\n".join(
        textwrap.fill(line, width, initial_indent="  ", subsequent_indent="  ")
        for line in text.strip().splitlines()
    )
