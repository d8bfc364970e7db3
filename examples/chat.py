"""Answer a question, word by word: a small demonstration of a chat bot, and no more than that.

An encoder reads a question in pieces of words, a decoder with attention says an answer (Vinyals &
Le 2015). It learns from a thousand pairs that the package of ChatterBot brings, nearly all of whose
answers occur once: what can be learned is how answers sound, not what is right. Two tests say so,
on questions that were not learned from: the perplexity of a word of the right answers, beside
n-grams that read no question; and how often the right answer is given word for word, beside that of
the nearest question that is known.

    pip install --no-deps chatterbot-corpus
    python examples/chat.py --talk     a minute, then it answers what you type; Ctrl-D ends it
    python examples/chat.py --quick    seconds: does it run?
"""

from __future__ import annotations

import math
import sys
from collections import Counter

import support
import numpy as np
from datasets import conversations
from dialogue import PAD, START, STOP, Pairs, Pieces, exact, length, nearest, ngrams, split, words

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays


class Bot(nn.Module):
    """Questions (T, B) to answers: a bidirectional GRU, and a GRU that attends to it."""

    def __init__(self, pieces: int, hidden: int) -> None:
        embedding = nn.Embedding(pieces, 64)
        self.encoder = nn.Encoder(embedding, nn.GRU(64, hidden, bidirectional=True))
        cell = nn.GRUCell(64 + hidden, hidden)
        attention = nn.AdditiveAttention(hidden, 2 * hidden, hidden)
        self.decoder = nn.AttentionDecoder(embedding, cell, attention)
        self.bridge = nn.Bridge(2 * hidden, cell)
        self.dropout = nn.Dropout(0.3)

    def read(self, questions: tg.Tensor, lengths: np.ndarray) -> tuple[nn.Memory, tg.Tensor]:
        """What the decoder looks at, and the state that it begins in."""
        values, final = self.encoder(questions, lengths=lengths)
        return self.decoder.remember(self.dropout(values), lengths=lengths), self.bridge(final)

    def nats(self, pieces: Pieces, pairs: Pairs) -> tg.Tensor:
        """The sum of -log p over the pieces of the answers, their stops among them."""
        questions, lengths = pad_arrays(pieces.encode(question) for question, _ in pairs)
        answers, _ = pad_arrays(pieces.encode(answer) for _, answer in pairs)
        logits = self.decoder(nn.shift_right(answers, START), *self.read(questions, lengths))
        logits = tg.moveaxis(logits, -1, 1)
        return tg.cross_entropy(logits, answers, ignore_index=PAD, reduction="sum")

    @tg.no_grad()
    def answer(self, pieces: Pieces, questions: list[str]) -> list[str]:
        """The likeliest answers that a beam of four finds."""
        memory, state = self.read(*pad_arrays(map(pieces.encode, questions)))
        state = self.decoder.initial_state(memory, state)
        ends = {"start": START, "stop": STOP, "max_length": 40, "beam_size": 4}
        found = nn.beam_search(self.decoder.step, state, memory=memory, length_penalty=1.0, **ends)
        return [pieces.decode(best.tokens) for (best,) in found]


def train(model: Bot, pieces: Pieces, pairs: Pairs, epochs: int, seed: int) -> None:
    """Teacher forcing, and AdamW whose rate falls in a cosine."""
    batches = Batches(pairs, 16, seed=seed, length=lambda pair: len(pair[1]))
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches) as show:
        while batches.epoch < epochs:
            for batch in batches:
                loss = model.nats(pieces, batch) / len(batch)
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, nats_an_answer=loss.item())
    model.eval()


def talk(model: Bot, pieces: Pieces) -> None:
    """Answer line after line, until there is no more or Ctrl-C is pressed."""
    sys.stdin.reconfigure(errors="replace")
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        while line := (print(prompt, end="", flush=True), sys.stdin.readline())[1]:
            if words(line):
                print(*model.answer(pieces, [line]), flush=True)
    except KeyboardInterrupt:
        pass
    print()


def main() -> None:
    """Train, compare, talk."""
    parser = support.command_line(__doc__, plot=False, epochs=8)
    parser.add_argument("--talk", action="store_true", help="then answer lines of standard input")
    args = support.arguments(parser, epochs=2)
    known, unseen = split(support.read(conversations, 200)[:: 4 if args.quick else 1])
    pieces = Pieces(known, 200 if args.quick else 600)
    print(f"{len(known):,} pairs to learn from, {len(unseen)} with other questions to test on")
    right: dict[str, set[str]] = {}
    for question, answer in unseen:
        right.setdefault(question, set()).add(" ".join(words(answer)))
    models = []

    def run(seed: int) -> dict[str, float]:
        models.append(Bot(len(pieces.symbols), 16 if args.quick else 128))
        train(models[-1], pieces, known, args.epochs, seed)
        with tg.no_grad():
            nats = models[-1].nats(pieces, unseen).item() / length(unseen)
        said = models[-1].answer(pieces, [*right])
        return {"perplexity": math.exp(nats), "exact": exact(said, right)}

    measured = support.over_seeds(args, run)
    title = f"perplexity of a word of {len(unseen)} right answers"
    found = {"GRUs": measured["perplexity"]}
    support.compare(title, ngrams(pieces, known, unseen), found, 0, less_is_better=True)
    commonest = Counter(answer for _, answer in known).most_common(1)[0][0]
    others = {"commonest answer": [commonest] * len(right)}
    others["nearest question"] = nearest(known, [*right])
    shares = {name: exact(answers, right) for name, answers in others.items()}
    title = f"of {len(right)} questions answered word for word, in per cent"
    support.compare(title, shares, {"GRUs": measured["exact"]})
    some = [*right][:: max(len(right) // 5, 1)]
    for question, answer in zip(some, models[-1].answer(pieces, some), strict=True):
        print(f"  {question}  ->  {answer}")
    if args.talk:
        talk(models[-1], pieces)


if __name__ == "__main__":
    main()
