"""Pages to look around in, made of real runs: the adding problem, the character model, the speller.

    python examples/study/gallery.py             a minute or two; pages in runs/study/
    python examples/study/gallery.py --quick     seconds: does it run?

Open the pages in any browser; they ask for nothing. Each shows what has just been trained a little,
with the tools of ``tinygrad_rnn.inspect``: why an RNN does not learn to add, what the units of a
character model know, and where a speller looks. Those in ``examples/study/gallery/`` were made by
``--out examples/study/gallery``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import inspect, nn, optim
from tinygrad_rnn.data import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples"))


def adding(args: argparse.Namespace) -> dict[str, inspect.Study]:
    """The adding problem: gradients of an RNN and of an LSTM, and what became of a loop."""
    import adding_problem

    T, found = 20 if args.quick else 100, {}
    drawn = np.random.default_rng(0)
    for name in ("RNN", "LSTM"):
        make, rate = adding_problem.CELLS[name]
        cell, readout = make(2, 32), nn.Linear(32, 1)
        model = nn.Sequential(cell, readout)
        optimizer = optim.Adam(model.parameters(), lr=rate)
        board = inspect.watch(model, optimizer, write=lambda line: None)
        for _ in board(range(5 if args.quick else 300)):
            xs, sums = adding_problem.sequences(drawn, T, 32)
            loss = tg.mse_loss(readout(tg.unroll(cell, xs)[0][-1]), sums)
            optimizer.zero_grad()
            loss.backward()
            norm = optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            board(loss=loss, norm=norm, max_norm=1.0)
        xs, sums = adding_problem.sequences(drawn, T, 32)

        def missed(outputs, readout=readout, sums=sums):
            return tg.mse_loss(readout(outputs[-1]), sums)

        found[f"{name}: training"] = board.study()
        found[f"{name}: how far its gradients reach"] = inspect.flow(cell, xs, missed)
    few = xs[:12]
    with inspect.record(values=True):
        outputs, _ = tg.unroll(cell, few, mode="literal")
        loss = missed(outputs)
    spoilt = xs.numpy().copy()
    spoilt[T // 2, 3, 0] = np.inf
    found["LSTM: its graph, folded"] = inspect.fold(loss, cell)
    found["LSTM: its backward pass, of 12 steps"] = inspect.replay(loss, cell).study()
    found["LSTM: what the planner did"] = inspect.compare(cell, xs)
    found[f"LSTM: one input of step {T // 2 + 1} is inf"] = inspect.explain_nonfinite(
        cell, tg.tensor(spoilt), loss=missed
    )
    vanishing, carried = (
        found[f"{name}: how far its gradients reach"].data["diagnosis"] for name in ("RNN", "LSTM")
    )
    text = f"""
Of {T} numbers two are marked, and their sum is wanted at the end: what came early has to be
remembered, so the loss has to reach it. After the same number of steps the error is
{found["RNN: training"].data["series"]["loss"]["last"]} for the RNN and
{found["LSTM: training"].data["series"]["loss"]["last"]} for the LSTM.

RNN: {vanishing}

LSTM: {carried}"""
    return {"What this page shows": note(text), **found}


def note(text: str) -> inspect.Study:
    """Words between studies."""
    return inspect.Study("note", {"text": text.strip()})


def characters(args: argparse.Namespace) -> dict[str, inspect.Study]:
    """A character model on Python's manual: what its units know of the text."""
    import texts

    corpus = texts.Corpus(texts.python_manual()[: 20_000 if args.quick else None])
    inputs, targets = map(tg.tensor, texts.streams(corpus.training, 32))
    size, hidden, window = len(corpus.vocabulary), 32 if args.quick else 64, 50
    embedding, cell, readout = (
        nn.Embedding(size, 32),
        nn.LSTMCell(32, hidden),
        nn.Linear(hidden, size),
    )
    model = nn.Sequential(embedding, cell, readout)
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    state = None
    for step in range(5 if args.quick else 400):
        now = slice(step * window % (len(inputs) - window), None)
        x, y = inputs[now][:window], targets[now][:window]
        outputs, state = tg.unroll(cell, embedding(x), state)
        state = tg.detach(state)
        loss = tg.cross_entropy(readout(outputs).reshape(-1, size), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    numbers = corpus.held_out[:400]
    passage = "".join(corpus.vocabulary[i] for i in numbers)
    xs = embedding(tg.tensor(numbers)[:, None])
    found = inspect.activity(cell, xs, passage)
    text = f"""
A character model reads text that it was not trained on; it has learnt for a minute only, its loss
is {loss.item():.2f} nats a character. Each unit is ranked by what it knows of the text: the mutual
information between its value and a property, in bits. {found.data["units"][0]["name"]} knows most,
about {found.data["units"][0]["knows"]}."""
    return {"What this page shows": note(text), "What its units know": found}


def spelling(args: argparse.Namespace) -> dict[str, inspect.Study]:
    """The encoder and decoder with attention, on made-up spellings: where it looks."""
    from seq2seq_g2p import LETTERS, SPECIALS, START, Pronouncer, learn

    drawn = np.random.default_rng(0)
    letters = "abcdefgh"
    sounds = {letter: letter.upper() for letter in letters} | {"a": "AY", "e": "EE"}
    phones = Vocabulary([*SPECIALS, *sorted(set(sounds.values()))])
    model = Pronouncer(phones, 16 if args.quick else 48, 16)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(5 if args.quick else 250):
        words = ["".join(drawn.choice(list(letters), drawn.integers(3, 8))) for _ in range(32)]
        batch = [(w, phones.encode([*(sounds[c] for c in w), "<stop>"])) for w in words]
        optimizer.zero_grad()
        loss, count = learn(model, batch)
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad / count
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    word = "badcafe"
    said = [*(sounds[c] for c in word), "<stop>"]
    memory, state = model.read([word])
    start = model.decoder.initial_state(memory, state)
    given = tg.tensor([[START, *phones.encode(said[:-1])]]).mT  # what each phone is said after
    decoding = inspect.activity(
        model.decoder, given, said, start, memory=memory, sources=[*word][: memory.mask.shape[1]]
    )
    cell = model.encoder.layers[0].cell(0)
    xs = model.encoder.embedding(tg.tensor(LETTERS.encode(word))[:, None])
    looked = np.asarray(decoding.data["attention"]["weights"]).argmax(1)
    at = ", ".join(f"{p} looks at {word[n]}" for p, n in zip(said, looked, strict=True))
    text = f"""
An encoder reads the letters of made-up words, and a decoder says them, looking back at the letters
at every step. Its loss is {loss / count:.2f} nats a sound. Saying '{word}', {at}."""
    return {
        "What this page shows": note(text),
        "Saying a word, and where it looks": decoding,
        "Reading the word": inspect.activity(cell, xs, word),
    }


PICTURES = {
    "LSTM: how far its gradients reach": "gradients.svg",
    "LSTM: its graph, folded": "loop.svg",
}
"""Studies that are written as a drawing, too."""

PAGES = {"adding": adding, "characters": characters, "spelling": spelling}


def main() -> None:
    """Train, look, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little of everything: does it run?")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="where to write")
    parser.add_argument("--pages", nargs="+", choices=PAGES, default=[*PAGES], help="which (all)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.pages:
        tg.manual_seed(0)
        studies = PAGES[name](args)
        path = inspect.page(args.out / f"{name}.html", studies, name.capitalize())
        for heading in PICTURES.keys() & studies.keys():
            studies[heading].save(args.out / PICTURES[heading])
        print(f"{path}: {path.stat().st_size / 1000:,.0f} kB", flush=True)


if __name__ == "__main__":
    main()
