"""Learn to write English one character at a time: an LSTM, trained by truncated BPTT.

The text is Python's own manual, which comes with Python. The LSTM reads many places of it at once,
a window of characters at a time, and guesses each next one. From window to window its state goes
on, but gradients do not. At the end come a sample of its writing, and its bits per character on the
last tenth of the text, which it never saw, beside those of two n-gram models.

    python examples/char_lm.py                               1 to 3 minutes on 2 cores
    python examples/char_lm.py --text FILE --steps 10000     another text, for longer
    python examples/char_lm.py --resume                      go on where it stopped (Ctrl-C)
    python examples/char_lm.py --sample-only --prime "The "  only write
    python examples/char_lm.py --quick                       seconds: does it run?
    mpiexec -n 4 python -m mpi4py examples/char_lm.py        four processes share the batch

The learning rate falls in --steps, or in --minutes if the steps would take longer: so every run
ends with a low one. Runs with the same steps, stopped and resumed or not, repeat to the digit on
one machine; one that the clock ended does not, and says so. A file that is there already is kept.

What to expect: with Python 3.11, whose manual has 336,079 characters to learn from and 92 different
ones, 1.77 bits per character, against 2.57 of the order-2 and 1.90 of the order-4 n-gram; on 2 idle
cores (AMD EPYC, Zen 4) about 60,000 characters a second. Beside so many programs that time was up
after 1,046 of the steps it was 1.82.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from support import (
    command,
    kept_as,
    one_process_speaks,
    positive,
    positive_float,
    prepare_blas,
    progress,
)
from interruption import end_in_one_line, interruptions
from texts import Corpus, encode, ngram_bits, python_manual, read_text, shakespeare, streams

import tinygrad_rnn as tg
from tinygrad_rnn import distributed, nn, optim
from tinygrad_rnn.distributed import load_checkpoint, save_checkpoint
from tinygrad_rnn.serialization import Checkpoint

QUICK = {"limit": 60_000, "hidden": 96, "batch": 8, "window": 32, "lr": 0.015, "steps": 400}
QUICK["out"] = "runs/char_lm_quick.safetensors"
SAVED = ["corpus", "text", "encoding", "limit", "embedding", "hidden", "layers", "dropout"]
SAVED += ["batch", "window", "lr", "steps", "minutes"]  # what a run that is resumed keeps


class CharLSTM(nn.Module):
    """Characters (T, B) to the logits of what follows each, (T, B, characters)."""

    def __init__(self, characters: int, args: argparse.Namespace) -> None:
        sizes = [args.embedding] + [args.hidden] * args.layers
        self.embedding = nn.Embedding(characters, args.embedding)
        self.cells = [nn.LSTMCell(*pair) for pair in pairwise(sizes)]
        self.readout = nn.Linear(args.hidden, characters)
        self.dropout = args.dropout

    def forward(self, characters: tg.Tensor, states: Any = None) -> tuple[tg.Tensor, Any]:
        """``states`` holds (h, c) of each layer; None is zeros."""
        x = self.embedding(characters)
        following = []
        for cell, state in zip(self.cells, states or [None] * len(self.cells), strict=True):
            x = tg.dropout(x, self.dropout, self.training)
            x, state = tg.unroll(cell, x, state)
            following.append(state)
        return self.readout(x), following


def train(
    corpus: Corpus, args: argparse.Namespace, run: Checkpoint | None
) -> tuple[CharLSTM, float]:
    """Train from the beginning or on from a saved run; also returns the held-out bits."""
    backend = args.backend
    places = distributed.own_rows(streams(corpus.training, args.batch), axis=1)
    inputs, targets = (tg.tensor(x, backend=backend) for x in places)
    places = distributed.own_rows(streams(corpus.held_out, 32), axis=1)
    unseen = [tg.tensor(x, backend=backend) for x in places]
    windows = len(inputs) // args.window
    model = CharLSTM(len(corpus.vocabulary), args)
    optimizer = optim.Adam(model.parameters())
    step, states, clocked = 0, None, False
    if run is not None:
        run.restore(model=model, optimizer=optimizer)
        step, states = run.extra["step"], run.extra["states"]
        clocked = run.extra.get("clocked", False)
        states = [
            tuple(tg.tensor(x, backend=backend) for x in distributed.own_rows(state))
            for state in states
        ]
    else:
        distributed.broadcast(model, optimizer)

    begun, done, started, bpc = step, step / args.steps, time.monotonic(), math.nan
    kept = None if run else kept_as(Path(args.out))
    limit = args.minutes or math.inf
    with progress(step, args.steps, limit) as show, interruptions() as pressed:
        stopped = done >= 1
        while not stopped:
            first = step % windows * args.window
            if first == 0:
                states = None  # the text begins anew
            now = slice(first, first + args.window)
            logits, states = model(inputs[now], states)
            states = [(h.detach(), c.detach()) for h, c in states]  # here BPTT is truncated
            loss = bits(logits, targets[now])  # a sum, so that processes may share the batch
            optimizer.zero_grad()
            loss.backward()
            count = distributed.average_gradients(model.parameters(), targets[now].size)
            optim.clip_grad_norm_(model.parameters(), 1.0)
            step += 1
            seconds = distributed.from_main(time.monotonic() - started)
            by_steps, by_clock = step / args.steps, clock(seconds / 60 / limit, begun / args.steps)
            done, clocked = max(by_steps, by_clock), clocked or by_clock > by_steps
            optimizer.param_groups[0]["lr"] = args.lr * annealed(done)
            optimizer.step()

            stopped = done >= 1 or distributed.agree(pressed)
            if stopped or step % args.save_every == 0:
                if kept and distributed.is_main():
                    Path(args.out).rename(kept)
                kept = None
                bpc = evaluate(model, *unseen)
                whole = [distributed.all_rows(state) for state in states]
                about = {"step": step, "states": whole, "checksum": corpus.checksum}
                about |= {"vocabulary": corpus.vocabulary, "clocked": clocked}
                about["settings"] = {name: getattr(args, name) for name in SAVED}
                save_checkpoint(args.out, model=model, optimizer=optimizer, extra=about)
            speed = (step - begun) * args.batch * args.window / max(seconds, 1e-3)
            held_out = "" if math.isnan(bpc) else f"{bpc:.3f} held out, "
            mean = distributed.total(loss.item()) / count
            show(step, f"{mean:.2f} bits, {held_out}{speed:,.0f} chars/s")
    elsewhere = () if args.backend == "numpy" else ("--backend", args.backend)
    more = command("--resume", "--out", args.out, *elsewhere)
    end_in_one_line(lambda: f"Stopped. To go on: {more}")
    if done < 1:
        print(f"Stopped at step {step} of {args.steps}. To go on: {more}")
        sys.exit(130)
    if clocked:
        print("The learning rate followed the clock, so that it was low in time: such a run does")
        print("not repeat to the digit.")
    if step < args.steps:
        print(f"Time was up at step {step} of {args.steps}. For the others: {more}")
    return model, evaluate(model, *unseen)


def annealed(done: float) -> float:
    """The share of the highest learning rate when so much of a run is done.

    It goes up in a line in the first twentieth, then down to a fiftieth in a cosine.
    """
    return min(1.0, 20 * done) * (0.51 + 0.49 * math.cos(math.pi * min(done, 1.0)))


def clock(spent: float, begun: float) -> float:
    """How much of a run is done by its share of time, which began when ``begun`` was done.

    The first tenth of the time does not count: it holds what is compiled once, and should not
    lead where the steps will be done in time.
    """
    return begun + (1 - begun) * max(0.0, (spent - 0.1) / 0.9)


def bits(logits: tg.Tensor, targets: tg.Tensor) -> tg.Tensor:
    """The sum of -log2(probability) over the characters that did follow."""
    logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    return tg.cross_entropy(logits, targets, reduction="sum") / math.log(2)


@tg.no_grad()
def evaluate(model: CharLSTM, inputs: tg.Tensor, targets: tg.Tensor) -> float:
    """Bits per character on whole streams of text."""
    model.eval()
    total, states = 0.0, None
    for t in range(0, len(inputs), 100):
        logits, states = model(inputs[t : t + 100], states)
        total += bits(logits, targets[t : t + 100]).item()
    model.train()
    return distributed.total(total) / distributed.total(inputs.size)


@tg.no_grad()
def write(model: CharLSTM, vocabulary: str, args: argparse.Namespace) -> str:
    """``--prime``, and what the model adds to it."""
    model.eval()
    text, states = args.prime, None
    read = encode(text or "\n", vocabulary)
    for _ in range(args.length):
        logits, states = model(tg.tensor(read[:, None], backend=args.backend), states)
        sharpened = logits[-1, 0].astype("float64") / max(args.temperature, 1e-3)
        p = tg.softmax(sharpened).numpy()
        read = tg.random.host_generator().choice(len(p), size=1, p=p)
        text += vocabulary[read[0]]
    return text


def main() -> None:
    """Train, write, compare; or only write."""
    args = arguments()
    one_process_speaks()
    try:
        run, corpus = prepare(args)
    except (OSError, ValueError, ImportError, tg.BackendUnavailable) as error:
        sys.exit(f"char_lm.py: {error}")
    if corpus is None:
        model = CharLSTM(len(run.extra["vocabulary"]), args)
        model.load_state_dict(run.parts["model"])
        print(write(model, run.extra["vocabulary"], args))
        return
    different = len(corpus.vocabulary)
    print(f"{len(corpus.training):,} characters to learn from, {different} different ones")
    longest = f" in {args.minutes:g} minutes at most" if args.minutes else ""
    print(f"{args.steps:,} steps{longest}; Ctrl-C stops, and saves", flush=True)
    order_2, order_4 = ngram_bits(corpus, 2), ngram_bits(corpus, 4)
    print(f"bits per character held out: order-2 n-gram {order_2:.3f}, order-4 {order_4:.3f}")
    model, found = train(corpus, args, run)
    print(f"\n{write(model, corpus.vocabulary, args)}\n\nbits per character held out:")
    for name, value in ("order-2 n-gram", order_2), ("order-4 n-gram", order_4), ("LSTM", found):
        print(f"  {name:14} {value:.3f}")
    if found < order_2:
        also = f"and order-4 by {order_4 - found:.2f}" if found < order_4 else "but not order-4"
        print(f"Verdict: the LSTM beats order-2 by {order_2 - found:.2f} bits, {also}.")
    else:
        print(
            "Verdict: FAILED, the LSTM does not beat the order-2 n-gram: more text, or more steps?"
        )
    print(f"Saved in {args.out}. To have more written:")
    print(f"  {command('--sample-only', '--out', args.out, '--prime', 'The ')}")


def prepare(args: argparse.Namespace) -> tuple[Checkpoint | None, Corpus | None]:
    """The saved run, if one is asked for, whose settings then hold; the text, if one is needed."""
    prepare_blas()
    tg.set_default_backend(args.backend)
    tg.manual_seed(args.seed)
    run = None
    if args.resume or args.sample_only:
        run = load_checkpoint(args.out)
        if args.resume:
            print(f"{args.out}: step {run.extra['step']}, with the settings that it began with")
        given = {name: vars(args)[name] for name in ("steps", "minutes") if vars(args)[name]}
        vars(args).update(run.extra["settings"] | given)
    if args.sample_only:
        return run, None
    if not args.steps:
        args.steps, args.minutes = 1800, args.minutes or 3.0
    texts = {"python": python_manual, "shakespeare": shakespeare}
    text = read_text(Path(args.text), args.encoding) if args.text else texts[args.corpus]()
    corpus = Corpus(text[: args.limit])
    if len(corpus.training) <= args.batch * args.window or len(corpus.held_out) <= 32:
        raise ValueError(
            f"{len(text)} characters do not fill {args.batch} windows of {args.window} and a test: "
            "give a longer text, or a smaller --batch and --window"
        )
    if run is not None and run.extra["checksum"] != corpus.checksum:
        raise ValueError("the text is not the one that the run to be resumed was trained on")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    return run, corpus


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument_group("text").add_argument
    add("--corpus", choices=["python", "shakespeare"], default="python", help="the built-in texts")
    add("--text", metavar="FILE", help="a file instead, in UTF-8 unless its first bytes say other")
    add("--encoding", metavar="NAME", help="what FILE is in, such as latin-1 or cp1252")
    add("--limit", type=positive, metavar="N", help="no more than the first N characters")
    add = parser.add_argument_group("model (defaults in brackets)").add_argument
    add("--embedding", type=positive, default=64, metavar="N", help="size of a character (64)")
    add("--hidden", type=positive, default=256, metavar="N", help="size of the state (256)")
    add("--layers", type=positive, default=1, metavar="N", help="LSTMs on top of each other (1)")
    add("--dropout", type=float, default=0.15, metavar="P", help="on each layer's input (0.15)")
    add = parser.add_argument_group("training").add_argument
    add("--batch", type=positive, default=32, metavar="N", help="places read at once (32)")
    add("--window", type=positive, default=64, metavar="N", help="steps of truncated BPTT (64)")
    add(
        "--lr",
        type=positive_float,
        default=8e-3,
        metavar="X",
        help="highest learning rate of Adam (0.008)",
    )
    add("--steps", type=positive, metavar="N", help="windows to train on (1800)")
    add(
        "--minutes",
        type=positive_float,
        metavar="X",
        help="the longest time to train (3, or any with --steps)",
    )
    add("--seed", type=int, default=0, metavar="N", help="of weights, dropout and sample (0)")
    add("--backend", default="numpy", metavar="NAME", help="numpy, cupy or another (numpy)")
    add("--quick", action="store_true", help="little text, little model: does everything run?")
    add = parser.add_argument_group("checkpoint").add_argument
    add("--out", metavar="FILE", default="runs/char_lm.safetensors", help="its place (%(default)s)")
    add("--save-every", type=positive, default=200, metavar="N", help="steps between saves (200)")
    add("--resume", action="store_true", help="go on from FILE as set then; --steps may change")
    add = parser.add_argument_group("sample").add_argument
    add("--sample-only", action="store_true", help="only write, with the model in FILE")
    add("--prime", default="", metavar="TEXT", help="how it begins")
    add(
        "--temperature",
        type=positive_float,
        default=0.7,
        metavar="X",
        help="0 safe, 1 and more wild (0.7)",
    )
    add("--length", type=positive, default=500, metavar="N", help="characters to write (500)")
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**QUICK)
        args = parser.parse_args()
    return args


if __name__ == "__main__":
    main()
