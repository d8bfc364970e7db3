"""Counting: a^n b^n and a^n b^n c^n, learned for n up to 10, asked for n far beyond."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome
from ..training import Each, train

LETTERS = {"a^n b^n": "ab", "a^n b^n c^n": "abc"}


def strings(letters: str, counts: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One-hot symbols (T, B, letters + 1), what may follow each, likewise, and lengths.

    A string is a start, n of each letter, and then comes the end, which is coded like the start.
    Among the a any may be the last one; from then on all is decided.
    """
    k = len(letters)
    lengths = np.array([1 + k * n for n in counts])
    xs, legal = np.zeros((2, int(lengths.max()), len(counts), k + 1), dtype=np.float32)
    for row, n in enumerate(counts):
        text = [k, *(letter for letter in range(k) for _ in range(n))]
        for t, (symbol, following) in enumerate(zip(text, [*text[1:], k], strict=True)):
            xs[t, row, symbol] = legal[t, row, following] = 1
            if symbol == 0:
                legal[t, row, :2] = 1
    return xs, legal, lengths


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train on n = 1 to 10; count how far every string is predicted without a mistake."""
    letters = LETTERS[case]
    model = Each(nn.PeepholeLSTMCell(len(letters) + 1, s.hidden), len(letters) + 1)
    xs, legal, lengths = strings(letters, range(1, 11))
    mask = (np.arange(len(xs))[:, None] < lengths)[..., None].astype(np.float32)

    def loss() -> tg.Tensor:
        wrong = tg.binary_cross_entropy_with_logits(model(xs, lengths), legal, reduction="none")
        return (wrong * mask).sum() / mask.sum()

    def largest() -> float:
        given, may, ends = strings(letters, range(1, s.furthest + 1))
        with tg.no_grad():
            said = model(given, ends).numpy() > 0
        taken = (np.arange(len(given))[:, None] < ends)[..., None]
        right = ((said == (may > 0)) | ~taken).all(axis=(0, 2))
        return float(s.furthest if right.all() else right.argmin())

    trained = train(
        model.parameters(), loss, largest, steps=s.steps, rate=s.rate, every=s.every, enough=-1
    )
    return Outcome({"largest n": trained.curve[-1][1]}, trained.curve)


def judge(found: Found, s: SimpleNamespace) -> bool:
    """The means of the paper."""
    return all(
        not found[case] or np.mean([run["largest n"] for run in found[case]]) >= s.aims[case]
        for case in LETTERS
    )


PAGE = Experiment(
    name="languages",
    title="Context-free and context-sensitive languages",
    paper="Gers & Schmidhuber 2001",
    setting="""Peephole LSTM, 6 units; all ten strings of n = 1 to 10 in every batch, targets are
        all symbols that may follow (sigmoid outputs), Adam 0.01, 10,000 batches, gradients
        clipped to norm 1. Counted is the largest n such that all strings from 1 to n, up to 400,
        are predicted without a mistake by the last weights; none are chosen. In the paper: 1 to 3
        cells, online, momentum.""",
    published="""from n = 1 to 10: a^n b^n right up to n = 118 in the mean, 1,000 at best; a^n b^n
        c^n up to 28, 52 at best†""",
    criterion="""The mean of the largest n is at least the paper's: 118 for a^n b^n, 28 for a^n
        b^n c^n.""",
    cases=tuple(LETTERS),
    shown={"largest n": ".0f"},
    run=run,
    full={
        "hidden": 6,
        "steps": 10000,
        "rate": 0.01,
        "every": 500,
        "furthest": 400,
        "aims": {"a^n b^n": 118, "a^n b^n c^n": 28},
    },
    quick={
        "cases": ("a^n b^n",),
        "steps": 2000,
        "furthest": 40,
        "aims": {"a^n b^n": 12, "a^n b^n c^n": 12},
    },
    judge=judge,
    seeds=10,
    axes=("steps", "largest n"),
    remark="""Far apart from seed to seed: the last weights of training at a constant rate are taken
        as they are.""",
)
