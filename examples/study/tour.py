"""A guided tour in twelve steps: from the slope of tanh to backpropagation through time, planned.

    python examples/study/tour.py      read it from top to bottom; it writes runs/study/tour.html

For a reader with one term of calculus and an hour. Every number, drawing and claim is computed when
this runs; where a claim does not hold, the tour stops with an error. The page that it writes says
the same, with the studies to be clicked through.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import inspect, nn
from tinygrad_rnn.inspect.rules import rule_of

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[str, inspect.Study] = {}  # what the page shows, by heading
HERE = "[here it is]"  # where a study stands in the text


def step(
    title: str, text: str, study: inspect.Study | None = None, heading: str = "", lines: int = 40
) -> None:
    """A heading, what there is to say, and a study that it is about."""
    notes = [study for study in PAGES.values() if study.kind == "note"]
    head, text = f"{len(notes) + 1}. {title}", text.strip()
    print(f"\n{head}\n\n{text.replace(HERE, indented(study, lines)) if study else text}\n")
    PAGES[head] = inspect.Study("note", {"text": text.replace(HERE, "It is shown below.")})
    if study is not None:
        PAGES[heading] = study


def claim(holds: bool, what: str) -> None:
    """Say that something holds, having looked whether it does."""
    if not holds:
        sys.exit(f"tour.py: this should hold, and does not: {what}")
    print(f"   checked: {what}")
    said = next(study for study in reversed(PAGES.values()) if study.kind == "note")
    said.data["text"] += f"\n\nchecked: {what}"


def indented(text: object, lines: int = 40) -> str:
    """The first lines of a text, moved to the right."""
    return "\n".join(f"    {line}" for line in str(text).splitlines()[:lines])


def main() -> None:
    """Twelve steps, and a page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study" / "tour.html")
    args = parser.parse_args()
    tg.manual_seed(0)

    rule = rule_of(tg.graph.TABLE["tanh"].vjps[0]).text
    x = 0.5
    slope = (np.tanh(x + 1e-6) - np.tanh(x - 1e-6)) / 2e-6
    step(
        "A slope",
        f"""
The derivative of tanh at x is 1 - tanh(x)**2: at {x} that is {1 - np.tanh(x) ** 2:.6f}. Going a
millionth to either side of {x} and dividing by the way gives {slope:.6f}. The library has one line
for it, which is all that it knows of tanh's derivative:

    {rule}

out is tanh's result. g is the slope of whatever comes after, by that result: the chain rule
multiplies the two.""",
    )
    claim(abs(slope - (1 - np.tanh(x) ** 2)) < 1e-8, "the formula is the slope")
    claim(rule == "g * (1 - out * out)", "the library's rule is that formula, times g")

    a = tg.tensor(0.5, requires_grad=True)
    y = tg.tanh(a * 3.0) * a
    step(
        "A graph",
        f"""
What is computed leaves a graph behind: a line for each operation. Here is y = tanh(3 a) * a, where
a is 0.5; () says that each value is a single number.

{indented(tg.to_text(y, {"a": a}))}

Read down, it computes y. Read up, it computes the slope of y by a: that is reverse mode. What a
line 'keeps' is what its rule will read on the way up: tanh keeps out, and a product its two
factors, here called x and y.""",
    )

    walk = inspect.replay(y, {"a": a})
    text = "\n\n".join(indented(walk.text(n)) for n in range(len(walk)))
    step(
        "Backwards, one rule at a time",
        f"""
It begins with g = 1, the slope of y by itself. Each rule is given g and makes a part of what g is
for one of its inputs. A value that is used twice gets two parts, and they are added: if a moves a
little, y moves by way of both. Look for 'before' and 'total' in the last one.

{text}""",
    )
    h = 1e-4
    by_difference = (np.tanh(3 * (0.5 + h)) * (0.5 + h) - np.tanh(3 * (0.5 - h)) * (0.5 - h)) / (
        2 * h
    )
    claim(abs(float(walk.total("a")) - by_difference) < 1e-5, "the total is the slope of y by a")

    w = tg.tensor([[0.4, -0.3], [0.2, 0.5]], requires_grad=True)
    u = tg.tensor([[0.9, -0.2], [0.1, 0.8]], requires_grad=True)

    def elman(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh(x @ w + h @ u)
        return h, h

    T = 30
    xs = tg.tensor(np.random.default_rng(0).normal(size=(T, 1, 2)), "float32")
    h0 = tg.zeros((1, 2))
    with inspect.record(values=True):
        hs, _ = tg.unroll(elman, xs, h0, mode="literal")
        loss = tg.sum(hs[-1] ** 2)
    names = {"w": w, "u": u}
    lines = len(tg.to_text(loss, names).splitlines())
    folded = inspect.fold(loss, names)
    step(
        "A loop",
        f"""
A recurrent network reads a sequence x, one step after the other, and keeps a state h: at each step
h = tanh(x @ w + h @ u). Here x and h are two numbers each, and w and u are tables of two by two:
x @ w is two sums of products, (x1 w11 + x2 w21, x1 w12 + x2 w22). At the end there is one number to
be made small, the loss: the sum of the squares of the last h.

Of {T} steps the graph has {lines} lines, and nobody wrote a rule for the loop. It repeats, so it
can be folded:

{HERE}

h[t-1] is the h of the step before: the one thing that is carried from step to step. const is what
nobody asks a slope of: the numbers of the sequence.""",
        folded,
        "The graph of a loop, folded",
    )
    claim(
        len(inspect.unfold(folded).data["items"]) == folded.data["operations"], "it unfolds exactly"
    )

    walk = inspect.replay(loss, names)
    uses = list(walk.contributions_to("u"))
    shown = "\n".join(
        f"    from step {use.steps[0] if use.steps else 1:2}: size {np.abs(use.part).max():.2g}, "
        f"total {np.abs(use.total).max():.3g}"
        for use in uses[:4] + uses[-2:]
    )
    step(
        "Backpropagation through time",
        f"""
Read upwards, the graph of the loop goes from the last step to the first: backpropagation through
time is nothing else. u is used at every step, and what its uses add is added up: the slope of the
loss by each number in u. The first four parts and the last two, of {len(uses)}, each with its
largest number:

{shown}

Step 1 adds 0, since the h before it is 0. The page has the same walk, to be taken in single
steps.""",
    )
    PAGES["The backward pass, rule by rule"] = walk.study()
    by_backward = tg.grad(loss, u, retain_graph=True)
    claim(np.array_equal(walk.total("u"), by_backward.numpy()), "the sum is tg.grad, bit for bit")

    found = inspect.flow(elman, xs, lambda hs: tg.sum(hs[-1] ** 2), h0)
    norms = found.data["norms"]["h"]
    step(
        "Why gradients vanish",
        f"""
The parts shrink with every step back. Each step multiplies what comes from later by its own slopes,
and a product of {T} numbers below one is small. Below, |dL/d...| is the size of the slope of the
loss L by h, or by the input, at a step (the root of the sum of the squares). A Lyapunov exponent is
the logarithm of the factor a step.

{HERE}

What the first inputs were, the loss hardly shows: the network cannot learn to remember them.""",
        found,
        "How far gradients reach: a plain cell",
    )
    claim(
        norms[0] < 1e-2 * norms[-1], "the gradient at step 1 is less than a hundredth of the last"
    )

    strong = tg.tensor(3.0 * np.array([[0.9, -0.2], [0.1, 0.8]]), "float32", requires_grad=True)

    def linear(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = x @ w + h @ strong
        return h, h

    exploding = inspect.flow(linear, xs[:12], lambda hs: tg.sum(hs[-1]), h0)
    step(
        "And explode",
        f"""
With factors above one a product is large. Without tanh, and with u three times as large:

{exploding.data["diagnosis"]}""",
    )
    claim(exploding.data["factor"] > 2, "a gradient more than doubles each step back")

    lstm = nn.LSTMCell(2, 8, forget_bias=5.0)
    gated = inspect.flow(lstm, xs, lambda hs: tg.sum(hs[-1] ** 2))
    step(
        "Gates",
        f"""
An LSTM carries a second state, c = f * c + i * g, by gates: numbers between 0 and 1 that it
computes from x and h. Where f is near one, c passes a step unchanged, and so does its gradient. A
gate is a sigmoid; with 5 added before it (a forget bias of 5) f begins near one:

{gated.data["diagnosis"]}""",
    )
    PAGES["How far gradients reach: an LSTM"] = gated
    claim(0.9 < gated.data["factor"] < 1.1, "a step changes a gradient by less than a tenth")

    def risky(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        f = tg.exp(x @ w)
        h = tg.tanh(f / (1.0 + f) + h @ u)
        return h, h

    spoilt = xs.numpy().copy()
    spoilt[17, 0, 0] = 400.0
    fault = inspect.explain_nonfinite(risky, tg.tensor(spoilt), h0)
    step(
        "A fault",
        f"""
Computers give inf for what is too large to be written, and nan ('not a number') for inf / inf. One
nan spoils all that is computed from it. Here a single large number stands in the sequence at step
18, and all that follows is nan. Which operation made the first one?

{HERE}""",
        fault,
        "Where a nan came from",
    )
    claim(fault.data["step"] == 17 and fault.data["operation"] == "exp", "it is exp, at step 18")

    plan = tg.plan(elman, xs, h0)
    step(
        "A plan",
        f"""
Only h goes from step to step. x @ w of all steps needs no loop: it is one product. And the slope by
u, a sum over steps, is one product after the loop. The library finds this by itself, and says so.
There, T is the number of steps and B that of sequences at once (here 1); a @ b is a product as
above, and .T turns a table on its side.

{indented(plan.report(), 24)}""",
    )
    planned = tg.unroll(elman, xs, h0, mode="planned")[0].numpy()
    apart = float(abs(planned - hs.numpy()).max())
    claim(apart < 1e-5, f"the planned loop computes the same, to {apart:.0e}")

    compared = inspect.compare(elman, xs, h0)
    step(
        "Line by line",
        f"""
What became of each line of the cell, and the program that runs instead of the loop:

{HERE}""",
        compared,
        "Your lines and the program made of them",
        60,
    )
    line = next(x for x in compared.data["source"] if "tanh" in x["text"])
    classes = {b["class"] for b in line["became"]}
    claim({"before the loop", "in the loop"} <= classes, "its line is in part before the loop")

    target = tg.ones((1, 2)) * 0.5
    losses = []
    for _ in range(60):
        out, _ = tg.unroll(elman, xs, h0, mode="planned")
        error = tg.mse_loss(out[-1], target)
        gw, gu = tg.grad(error, [w, u])
        w.data, u.data = w.data - 0.5 * gw.data, u.data - 0.5 * gu.data
        losses.append(error.item())
    step(
        "And now it learns",
        f"""
The last h should be (0.5, 0.5); the error is the mean square of what is missing. Sixty times: run
the loop, go back through time, move each number of w and u a little against its slope. The error
goes from {losses[0]:.4f} to {losses[-1]:.2g}. That is all of it; the rest is size.""",
    )
    claim(losses[-1] < losses[0] / 10, "the error is less than a tenth of what it was")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    inspect.page(args.out, PAGES, "From a slope to a planned recurrence")
    print(f"\nThe same to be clicked through: {args.out}")


if __name__ == "__main__":
    main()
