"""The embedded Reber grammar: the second symbol tells the last but one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import Each, train

SYMBOLS = "BTPSXVE"
ARCS = (  # of the grammar of Reber (1967): from each node, by which symbol, to which
    {"B": 1},
    {"T": 2, "P": 3},
    {"S": 2, "X": 4},
    {"T": 3, "V": 5},
    {"X": 3, "S": 6},
    {"P": 4, "V": 6},
    {"E": 7},
)


def string(generator: np.random.Generator) -> tuple[str, list[str]]:
    """A string of the embedded grammar, and what may follow each of its symbols but the last."""
    outer = "TP"[generator.integers(2)]
    text, following, node = "B" + outer, ["TP", "B"], 0
    while node != 7:
        symbol = sorted(ARCS[node])[generator.integers(len(ARCS[node]))]
        node = ARCS[node][symbol]
        text += symbol
        following.append("".join(sorted(ARCS[node])) if node != 7 else outer)
    return text + outer + "E", [*following, "E"]


def batch(strings: list[tuple[str, list[str]]]) -> tuple[tg.Tensor, np.ndarray, np.ndarray]:
    """One-hot symbols (T, B, 7), what may follow (T, B, 7), and lengths."""
    lengths = np.array([len(following) for _, following in strings])
    xs, legal = np.zeros((2, lengths.max(), len(strings), 7), dtype=np.float32)
    for row, (text, following) in enumerate(strings):
        for t, may in enumerate(following):
            xs[t, row, SYMBOLS.index(text[t])] = 1
            legal[t, row, [SYMBOLS.index(symbol) for symbol in may]] = 1
    return tg.tensor(xs), legal, lengths


def targets(strings: list[tuple[str, list[str]]], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What does follow, and where there is something to follow (T, B)."""
    codes, mask = np.zeros((steps, len(strings)), dtype=np.int64), np.zeros((steps, len(strings)))
    for row, (text, _) in enumerate(strings):
        codes[: len(text) - 1, row] = [SYMBOLS.index(symbol) for symbol in text[1:]]
        mask[: len(text) - 1, row] = 1
    return codes, mask.astype(np.float32)


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train until every symbol that may follow is above every one that may not, in 256 strings."""
    make, rate = {"LSTM": (nn.LSTMCell, 0.02), "RNN": (nn.RNNCell, 0.005)}[case]
    model, generator = Each(make(7, s.hidden), 7), np.random.default_rng(seed)
    other = np.random.default_rng(2**32 + seed)
    xs_of_all, legal, lengths_of_all = batch([string(other) for _ in range(256)])
    taken = np.arange(len(legal))[:, None] < lengths_of_all

    def loss() -> tg.Tensor:
        strings = [string(generator) for _ in range(s.rows)]
        xs, _, lengths = batch(strings)
        codes, mask = targets(strings, len(xs))
        logits = tg.moveaxis(model(xs, lengths), -1, 1)
        return (tg.cross_entropy(logits, codes, reduction="none") * mask).sum() / mask.sum()

    def wrong() -> float:
        with tg.no_grad():
            logits = model(xs_of_all, lengths_of_all).numpy()
        least = np.where(legal > 0, logits, np.inf).min(axis=-1)
        most = np.where(legal > 0, -np.inf, logits).max(axis=-1)
        return float(((least <= most) & taken).any(axis=0).mean())

    trained = train(model.parameters(), loss, wrong, steps=s.steps, rate=rate, every=20)
    curve = [(step * s.rows, value) for step, value in trained.curve]
    return Outcome({"wrong": trained.curve[-1][1], "sequences": trained.steps * s.rows}, curve)


def judge(found: Found, s: SimpleNamespace) -> bool:
    """LSTM: always, and as fast as in the paper."""
    runs = found["LSTM"]
    fast = float(np.mean([run["sequences"] for run in runs])) <= 8440
    return fast and all(run["wrong"] == 0 for run in runs)


PAGE = Experiment(
    name="reber",
    title="The embedded Reber grammar",
    paper="Hochreiter & Schmidhuber 1997, experiment 1",
    setting="""12 units, fresh strings in batches of 4, Adam (0.02; RNN 0.005), cross entropy of
        the next symbol; until, in 256 strings of other random numbers, every symbol that may
        follow has a higher output than every one that may not, looked at every 80 strings, or for
        20,000 strings. In the paper: 256 strings again and again, online, 3 or 4 blocks.""",
    published="LSTM: all of the runs, after 8,440 sequences; Elman networks none within 200,000",
    criterion="""LSTM gets all 256 strings right from every seed, after 8,440 sequences or fewer
        in the mean. (The RNN is shown, and decides nothing.)""",
    cases=("LSTM", "RNN"),
    shown={"wrong": ".1%", "sequences": ",.0f"},
    run=run,
    full={"hidden": 12, "steps": 5000, "rows": 4},
    quick={"cases": ("LSTM",), "steps": 4000},
    judge=judge,
    seeds=10,
    axes=("sequences", "strings wrong"),
)
