"""Write down spoken strings of digits: two bidirectional GRUs and connectionist classification.

2 to 5 digits are said by a synthesiser in 60 voices and three accents, at other speeds, pitches and
in noise. Nobody says where a digit begins: the network gives the probabilities of ten digits and a
blank in each frame of 20 ms, and CTC (Graves et al. 2006) sums over all places. What it learns from
is made to sound otherwise each time (``speech.other_voice``). The test has 17 other voices; and
these with an accent that was never heard, Scottish. Beside it stands warping (Sakoe & Chiba 1978),
which is told more: it is given single digits, of the same voices and noise, and compares each with
200 known ones.

    pip install --no-deps espeakng-loader
    python examples/speech_digits.py --seeds 3    a minute a seed on one core
    python examples/speech_digits.py --quick      seconds: does it run?
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import support
import numpy as np
from pronunciation import edit_distance
from speech import ACCENTS, HEARD, UNHEARD, UNHEARD_ACCENT, Espeak, other_voice, utterances, warped

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays

BLANK = 10


class Listener(nn.Module):
    """Frames (T, B, 32) of ``lengths`` (B,) to log-probabilities (T, B, 11)."""

    def __init__(self, hidden: int) -> None:
        self.gru = nn.GRU(32, hidden, num_layers=2, dropout=0.2, bidirectional=True)
        self.readout = nn.Linear(2 * hidden, BLANK + 1)

    def forward(self, frames: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """Of a digit or a blank in each frame."""
        outputs, _ = self.gru(frames, lengths=lengths)
        return tg.log_softmax(self.readout(outputs))


def train(
    model: Listener, heard: list[np.ndarray], said: list[list[int]], epochs: int, seed: int
) -> None:
    """CTC and Adam, whose rate falls in a cosine; each time it is said by another voice."""
    rng = np.random.default_rng(seed)
    pairs = list(zip(heard, said, strict=True))
    batches = Batches(pairs, 32, seed=seed, length=lambda pair: len(pair[0]))
    steps = epochs * len(batches)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for batch in batches:
                frames, lengths = pad_arrays(other_voice(x, rng) for x, _ in batch)
                digits = [numbers for _, numbers in batch]
                flat, counts = np.concatenate(digits), [len(numbers) for numbers in digits]
                log_p = model(frames, lengths)
                loss = tg.ctc_loss(log_p, flat, lengths, counts, blank=BLANK)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def understood(model: Listener, heard: list[np.ndarray]) -> list[list[int]]:
    """The likeliest symbol of each frame, repetitions merged and blanks left out."""
    frames, lengths = pad_arrays(heard)
    with tg.no_grad():
        best = tg.argmax(model(frames, lengths), axis=-1).numpy()
    rows = [best[:length, row].tolist() for row, length in enumerate(lengths)]
    return [[symbol for symbol, _ in groupby(row) if symbol != BLANK] for row in rows]


def word_error(found: list[list[int]], said: list[list[int]]) -> float:
    """Digits that are wrong, missing or too many, in per cent of those said."""
    wrong = sum(edit_distance(f, s) for f, s in zip(found, said, strict=True))
    return 100 * wrong / sum(map(len, said))


def by_warping(known: tuple, asked: tuple) -> float:
    """The word error of the nearest of known single digits."""
    nearest = [int(np.argmin([warped(x, heard) for x in known[0]])) for heard in asked[0]]
    return word_error([known[1][i] for i in nearest], asked[1])


def draw(model: Listener, heard: np.ndarray, said: list[int], path: Path) -> None:
    """An utterance, and the probability of each digit in each frame."""
    frames, lengths = pad_arrays([heard])
    with tg.no_grad():
        p = np.exp(model(frames, lengths).numpy()[:, 0])
    figure = support.Figure(figsize=(8, 4), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.imshow(heard.T, "magma", origin="lower", aspect="auto")
    above.set(ylabel="mel band", title=f"said: {' '.join(map(str, said))}")
    for symbol in range(BLANK):
        below.plot(p[:, symbol], color=f"C{symbol}", label=str(symbol))
    below.plot(p[:, BLANK], color="0.8")
    below.set(xlabel="frames of 20 ms", ylabel="probability")
    below.legend(ncols=10, fontsize=6)
    support.save_picture(figure, path)


def main() -> None:
    """Speak, train, listen, compare, draw."""
    parser = support.command_line(__doc__, epochs=8)
    args = support.arguments(parser, epochs=2)
    synthesiser = support.read(Espeak)
    few = 10 if args.quick else 1
    training = utterances(synthesiser, 3000 // few, HEARD, ACCENTS, 5, 1)
    unseen = utterances(synthesiser, 500 // few, UNHEARD, ACCENTS, 5, 2)
    accent = utterances(synthesiser, 300 // few, UNHEARD, [UNHEARD_ACCENT], 5, 3)
    models = []

    def run(seed: int) -> dict[str, float]:
        models.append(Listener(8 if args.quick else 64))
        train(models[-1], *training, args.epochs, seed)
        return {
            name: word_error(understood(models[-1], heard), said)
            for name, (heard, said) in (("CTC", unseen), ("CTC, new accent", accent))
        }

    measured = support.over_seeds(args, run)
    known = utterances(synthesiser, 200 // few, HEARD, ACCENTS, 1, 4)
    for name, accents in (("CTC", ACCENTS), ("CTC, new accent", [UNHEARD_ACCENT])):
        single = utterances(synthesiser, 200 // few, UNHEARD, accents, 1, 5)
        title = f"word error in voices that were not heard, {', '.join(accents)}, in per cent"
        baseline = {"warping, single digits": by_warping(known, single)}
        support.compare(title, baseline, {name: measured[name]}, 1, less_is_better=True)
    draw(models[-1], unseen[0][0], unseen[1][0], args.plot)


if __name__ == "__main__":
    main()
