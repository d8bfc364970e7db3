"""A guided tour in twelve steps: from the slope of tanh to backpropagation through time, planned.

    python examples/study/tour.py      read it from top to bottom; it writes runs/study/tour.html

For a reader with one term of calculus and an hour. Every number, drawing and claim is computed when
this runs; where a claim does not hold, the tour stops with an error. The page that it writes shows
the same studies to be clicked through.
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
STEPS = 0


def step(title: str, text: str) -> None:
    """A heading and what there is to say."""
    global STEPS
    STEPS += 1
    print(f"\n{STEPS}. {title}\n\n{text.strip()}\n")


def claim(holds: bool, what: str) -> None:
    """Say that something holds, having looked whether it does."""
    if not holds:
        sys.exit(f"tour.py: this should hold, and does not: {what}")
    print(f"   checked: {what}")


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
    pages: dict[str, inspect.Study] = {}

    rule = rule_of(tg.graph.TABLE["tanh"].vjps[0]).text
    x = 0.5
    slope = (np.tanh(x + 1e-6) - np.tanh(x - 1e-6)) / 2e-6
    step(
        "A slope",
        f"""
The derivative of tanh at x is 1 - tanh(x)**2. At {x} a step of a millionth to either side gives
{slope:.6f}. The library has one line for it, which is all that it knows of tanh's derivative:

    {rule}

g is the slope of whatever comes after, with respect to tanh's result; out is that result.""",
    )
    claim(abs(slope - (1 - np.tanh(x) ** 2)) < 1e-8, "the formula is the slope")
    claim(rule == "g * (1 - out * out)", "the library's rule is that formula, times g")

    a = tg.tensor(0.5, requires_grad=True)
    y = tg.tanh(a * 3.0) * a
    step(
        "A graph",
        f"""
What is computed leaves a graph behind: a line for each operation, with what its rule will read.
Here is y = tanh(3 a) * a.

{indented(tg.to_text(y, {"a": a}))}

Read down, it computes y. Read up, it computes the slope: that is reverse mode.""",
    )

    walk = inspect.replay(y, {"a": a})
    text = "\n\n".join(indented(walk.text(n)) for n in range(len(walk)))
    step(
        "Backwards, one rule at a time",
        f"""
Each rule is given g and makes a part of what g is for its input. a is used twice, so two parts are
added: look for 'before' and 'total' in the last one.

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
    with inspect.record():
        hs, _ = tg.unroll(elman, xs, h0, mode="literal")
        loss = tg.sum(hs[-1] ** 2)
    names = {"w": w, "u": u}
    lines = len(tg.to_text(loss, names).splitlines())
    folded = inspect.fold(loss, names)
    pages["The graph of a loop, folded"] = folded
    step(
        "A loop",
        f"""
A recurrent network does the same at each step of a sequence: h = tanh(x @ w + h @ u). Of {T} steps
the graph has {lines} lines, and nobody wrote a rule for the loop. It repeats, so it can be folded:

{indented(folded)}

h[t-1] is the h of the step before: the one thing that is carried from step to step.""",
    )
    claim(
        len(inspect.unfold(folded).data["items"]) == folded.data["operations"], "it unfolds exactly"
    )

    walk = inspect.replay(loss, names)
    uses = list(walk.contributions_to("u"))
    pages["The backward pass, rule by rule"] = walk.study()
    shown = "\n".join(
        f"    from step {use.steps[0] if use.steps else 1:2}: size {np.abs(use.part).max():.2g}, "
        f"total {np.abs(use.total).max():.3g}"
        for use in uses[:4] + uses[-2:]
    )
    step(
        "Backpropagation through time",
        f"""
Read upwards, the graph of the loop goes from the last step to the first: backpropagation through
time is nothing else. u is used at every step, and what its uses add is added up. The first four
parts and the last two, of {len(uses)}:

{shown}""",
    )
    by_backward = tg.grad(loss, u, retain_graph=True)
    claim(np.array_equal(walk.total("u"), by_backward.numpy()), "the sum is tg.grad, bit for bit")

    found = inspect.flow(elman, xs, lambda hs: tg.sum(hs[-1] ** 2), h0)
    pages["How far gradients reach: a plain cell"] = found
    norms = found.data["norms"]["h"]
    step(
        "Why gradients vanish",
        f"""
The parts shrink with every step back. Each step multiplies what comes from above by the step's own
slopes, and a product of {T} numbers below one is small. In words and numbers:

{indented(found)}""",
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
    pages["How far gradients reach: an LSTM"] = gated
    step(
        "Gates",
        f"""
An LSTM carries c' = f * c + i * g. If its gate f is near one, c passes unchanged and so does its
gradient. With a forget bias of 5:

    {gated.data["diagnosis"]}""",
    )
    claim(gated.data["factor"] > found.data["factor"], "its gradients shrink more slowly")

    def risky(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        f = tg.exp(x @ w)
        h = tg.tanh(f / (1.0 + f) + h @ u)
        return h, h

    spoilt = xs.numpy().copy()
    spoilt[17, 0, 0] = 400.0
    fault = inspect.explain_nonfinite(risky, tg.tensor(spoilt), h0)
    pages["Where a nan came from"] = fault
    step(
        "A fault",
        f"""
A single large number at step 18, and all that follows is nan. Which operation made the first one?

{indented(fault)}""",
    )
    claim(fault.data["step"] == 17 and fault.data["operation"] == "exp", "it is exp, at step 18")

    plan = tg.plan(elman, xs, h0)
    step(
        "A plan",
        f"""
Only h goes from step to step. x @ w of all steps needs no loop: it is one product. And the gradient
of u, a sum over steps, is one product after the loop. The library finds this by itself:

{indented(plan.report(), 24)}""",
    )
    planned = tg.unroll(elman, xs, h0, mode="planned")[0].numpy()
    apart = float(abs(planned - hs.numpy()).max())
    claim(apart < 1e-5, f"the planned loop computes the same, to {apart:.0e}")

    compared = inspect.compare(elman, xs, h0)
    pages["Your lines and the program made of them"] = compared
    step(
        "Line by line",
        f"""
What became of each line of the cell, and the program that runs instead of the loop:

{indented(compared, 60)}""",
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
Sixty times: run the loop, go back through time, move w and u a little against their gradients. The
error goes from {losses[0]:.4f} to {losses[-1]:.2g}. That is all of it; the rest is size.""",
    )
    claim(losses[-1] < losses[0] / 10, "the error is less than a tenth of what it was")

    args.out.parent.mkdir(parents=True, exist_ok=True)
    inspect.page(args.out, pages, "From a slope to a planned recurrence")
    print(f"\nThe same to be clicked through: {args.out}")


if __name__ == "__main__":
    main()
