"""Invent first names of a chosen country: one-to-many, a GRU that begins in the country's state.

The names are those of name_country.py. The network is a cell, from letter and state to the logits
of the next letter; all it is told of the country is the state it begins in, a learned vector each.
``unroll`` trains that cell, and ``nn.sample`` lets it write. Its bits per letter on a tenth of the
names, which it never saw, are compared with those of n-grams of each country.

    pip install gender-guesser
    python examples/generate_names.py                              a minute on one core
    python examples/generate_names.py --countries iceland japan    more names of these
    python examples/generate_names.py --temperature 1.2            more daring ones
    python examples/generate_names.py --quick                      seconds: does it run?

What to expect: 2.53 bits from each of three seeds; counts after four letters need 2.59. Nearly
nine names in ten are new. Countries with names alike begin in states alike, as the picture shows.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import support
import numpy as np
from support import positive, positive_float
from names import END, PAD, Names, naive_bayes, ngram_bits

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches


@tg.pure  # planned from its first call on, so that a run which is resumed rounds no differently
class NameWriter(nn.Module):
    """A cell: letters (B,) and the state (B, H) to the logits of the next letters (B, V)."""

    def __init__(self, letters: int, countries: int, hidden: int) -> None:
        self.country = nn.Embedding(countries, hidden, weight_init=nn.init.zeros)
        self.embedding = nn.Embedding(letters, 32)
        self.gru = nn.GRUCell(32, hidden)
        self.dropout = nn.Dropout(0.3)
        self.readout = nn.Linear(hidden, letters)

    def begin(self, countries: tg.Tensor) -> tg.Tensor:
        """The states (B, H) in which names of these countries (B,) begin."""
        return tg.tanh(self.country(countries))

    def forward(self, letters: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """One step."""
        output, h = self.gru(self.embedding(letters), h)
        return self.readout(self.dropout(output)), h

    def loss(self, names: tg.Tensor, countries: tg.Tensor) -> tg.Tensor:
        """The mean of -log p of each letter of names (T, B), their END among them."""
        logits, _ = tg.unroll(self, nn.shift_right(names, END), self.begin(countries))
        return tg.cross_entropy(tg.moveaxis(logits, -1, 1), names, ignore_index=PAD)


def train(model: NameWriter, names: Names, args: Namespace) -> None:
    """Cross-entropy and Adam, whose rate falls in a cosine."""
    batches = Batches(names.training, args.batch, seed=args.seed, length=lambda pair: len(pair[0]))
    steps = args.epochs * len(batches)
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches) as show:
        while batches.epoch < args.epochs:
            for batch in batches:
                letters, _, countries = names.encode(batch)
                loss = model.loss(letters, countries)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, bits_per_letter=loss.item() / math.log(2))


def draw(states: np.ndarray, countries: Sequence[str], path: Path) -> None:
    """The states (C, H) that names begin in, on the plane in which they differ most."""
    centred = states - states.mean(axis=0)
    _, _, directions = np.linalg.svd(centred)
    figure = support.Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    x, y = directions[:2] @ centred.T
    axes.plot(x, y, ".")
    for country, *place in zip(countries, x, y, strict=True):
        axes.annotate(f" {country}", place, fontsize=8)
    axes.set(title="The states that names begin in: two principal components")
    axes.margins(0.12)
    figure.savefig(path, dpi=72)
    print(f"Saved {path}")


def main() -> None:
    """Train, compare, invent."""
    parser = support.command_line(__doc__)
    add = parser.add_argument
    add("--hidden", type=positive, default=192, metavar="N", help="size of the state (192)")
    add("--batch", type=positive, default=64, metavar="N", help="names at once (64)")
    add("--epochs", type=positive, default=12, metavar="N", help="times to read all names (12)")
    add("--temperature", type=positive_float, default=0.8, metavar="X", help="of the names (0.8)")
    add("--countries", nargs="+", metavar="NAME", help="whose names are shown, more of them (all)")
    args = support.arguments(parser, hidden=48, batch=32, epochs=5)
    names = support.read(lambda: Names(share=1 / 16 if args.quick else 1))
    training, unseen, places = names.training, names.unseen, names.countries.symbols
    chosen = args.countries or places
    if not set(chosen) <= set(places):
        sys.exit(f"{parser.prog}: the countries are {', '.join(places)}")
    model = NameWriter(len(names.letters), len(places), args.hidden)
    train(model, names, args)

    letters, _, countries = names.encode(unseen)
    with tg.no_grad():
        bits = model.eval().loss(letters, countries).item() / math.log(2)
        states = model.begin(tg.arange(len(places)))
    print(f"bits per letter of {len(unseen):,} unseen names of {len(places)} countries:")
    for order in (0, 2, 4):
        print(f"  counts after {order} letters  {ngram_bits(training, unseen, order):.2f}")
    print(f"  GRU                    {bits:.2f}")

    writing = {"start": END, "stop": END, "max_length": 20, "temperature": args.temperature}
    drawn = [
        ("".join(names.letters.decode(name.tokens, specials=False)), country)
        for country, found in zip(places, nn.sample(model, states, n=100, **writing), strict=True)
        for name in found
        if name.tokens
    ]
    known, real = {name for name, _ in training}, {name for name, _ in unseen}
    new = [pair for pair in drawn if pair[0] not in known]
    for place in chosen:
        some = [name.capitalize() for name, country in new if country == place]
        some = some[:: 3 if args.countries else 12]  # the likeliest name comes first
        print(f"  {place:12}", ", ".join(some))
    print(f"{len(new) / len(drawn):.0%} of {len(drawn):,} names are not among those learned from,")
    print(f"{sum(name in real for name, _ in new)} of these are among the unseen ones")
    for what, pairs in ("new", new), ("unseen", unseen):
        written, countries = zip(*pairs, strict=True)
        share = np.mean(np.equal(naive_bayes(training, written), countries))
        print(f"naive Bayes sees the country in {share:.0%} of the {what} names")
    draw(states.numpy(), places, args.plot)


if __name__ == "__main__":
    main()
