"""Backpropagation through time on paper: three steps of an Elman network, line by line.

The text below is the example. Its indented lines are formulas as one writes them on paper, and they
are run as they stand: FORWARD on Tensors, which record the graph, BACKWARD on plain NumPy arrays.
Beside each derivative from the paper stands that from the graph, and they agree to 1e-12.

    python examples/bptt_by_hand.py             read it from top to bottom
    python examples/bptt_by_hand.py --seed 1    with other numbers
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import support
import numpy as np

import tinygrad_rnn as tg

FORWARD = """
An Elman network reads x1, x2, x3, one number after the other. Its state h, a row, has two units;
after each step it says a number y, which should have been d. W, U, V and b are the same at every
step, but we write U1, U2, U3 for the three uses of U, to see later what each of them adds.

    a1 = x1 @ W + h0 @ U1 + b
    h1 = tanh(a1)
    y1 = h1 @ V

    a2 = x2 @ W + h1 @ U2 + b
    h2 = tanh(a2)
    y2 = h2 @ V

    a3 = x3 @ W + h2 @ U3 + b
    h3 = tanh(a3)
    y3 = h3 @ V

    L = ((y1 - d1)**2 + (y2 - d2)**2 + (y3 - d3)**2) / 2
"""

BACKWARD = """
Backwards, from the last step to the first: left what the paper gives, right what the graph gives.
We write dy3 for the derivative of L by y3, and so on; it has the shape of y3. The square gives

    dy3 = y3 - d3

and from y3 = h3 @ V, by the rule for products of matrices (multiply by the other one, transposed),

    dh3 = dy3 @ V.T

The slope of tanh at a3 is 1 - tanh(a3)**2, and tanh(a3) is h3, which we have:

    da3 = dh3 * (1 - h3**2)

Now one step back. What is new: h2 was used twice, upwards for y2 and onwards for a3. Both ways L
depends on it, and where a value is used twice, the derivatives of its uses are added.

    dy2 = y2 - d2
    dh2 = dy2 @ V.T + da3 @ U.T
    da2 = dh2 * (1 - h2**2)

And again. Step 1 differs in nothing from step 2; with a thousand steps it would go on like this.

    dy1 = y1 - d1
    dh1 = dy1 @ V.T + da2 @ U.T
    da1 = dh1 * (1 - h1**2)
    dh0 = da1 @ U.T

The weights. Each use of U has its part, what came in times what came back. Then, a weight that is
shared is a value that is used three times, so the parts are added.

    dU1 = h0.T @ da1
    dU2 = h1.T @ da2
    dU3 = h2.T @ da3
    dU = dU1 + dU2 + dU3
    dW = x1.T @ da1 + x2.T @ da2 + x3.T @ da3
    db = da1 + da2 + da3
    dV = h1.T @ dy1 + h2.T @ dy2 + h3.T @ dy3

That is all of backpropagation through time. The error of step 3 came to h0 through three factors,
each a slope of tanh and U.T; vanishing_gradient.py shows how such products vanish and explode.
"""


def numbers(seed: int) -> dict[str, tg.Tensor]:
    """All that is given, by name: inputs, aims, the first state and the weights, in float64."""
    generator = np.random.default_rng(seed)
    shapes = {"W": (1, 2), "U": (2, 2), "V": (2, 1), "b": (1, 2), "h0": (1, 2)}
    shapes |= {f"{name}{t}": (1, 1) for name in "xd" for t in (1, 2, 3)}
    return {
        k: tg.tensor(generator.uniform(-1, 1, s), requires_grad=True) for k, s in shapes.items()
    }


def run(text: str, values: dict, functions: dict) -> Iterator[tuple[str, str]]:
    """Each line of a text and the name that it defines, its value added; of prose, the name ""."""
    for line in text.splitlines():
        name, _, right = line.strip().partition(" = ") if line[:4] == "    " else ("", "", "")
        if name:
            values[name] = eval(right, functions, values)
        yield line, name


def beside(line: str, *values: np.ndarray) -> str:
    """A formula, and matrices beside it, or below if it is long; semicolons part their rows."""
    rows = [["".join(f"{number:7.3f}" for number in row) for row in x] for x in values]
    shown = "".join(f"[{';'.join(x)} ]".ljust(34) for x in rows).rstrip()
    return line.ljust(32) + shown if len(line) < 32 else f"{line}\n{'':32}{shown}"


def by_unroll(given: dict[str, tg.Tensor]) -> list[tg.Tensor]:
    """The derivatives by the weights, as the library has them: no step is written out."""
    W, U, V, b = weights = [given[name] for name in "WUVb"]
    xs, ds = (tg.stack([given[f"{name}{t}"] for t in (1, 2, 3)]) for name in "xd")

    def elman(x: tg.Tensor, h: tg.Tensor) -> tuple[tg.Tensor, tg.Tensor]:
        h = tg.tanh(x @ W + h @ U + b)
        return h, h

    hs, _ = tg.unroll(elman, xs, given["h0"])
    return tg.grad(tg.sum((hs @ V - ds) ** 2 / 2), weights)


def main() -> None:
    """Forwards, backwards, and once more by ``unroll``."""
    args = support.arguments(support.command_line(__doc__, plot=False, resume=False))
    given = numbers(args.seed)
    print("\n".join(beside(f"    {name}", x.numpy()) for name, x in given.items()))

    graph = given | {f"U{t}": 1 * given["U"] for t in (1, 2, 3)}
    for line, name in run(FORWARD, graph, {"tanh": tg.tanh}):
        print(beside(line, graph[name].numpy()) if name else line)

    apart, paper = 0.0, {name: x.numpy() for name, x in graph.items()}
    for line, name in run(BACKWARD, paper, {}):
        if name:
            found = tg.grad(graph["L"], graph[name[1:]], retain_graph=True).numpy()
            apart = max(apart, abs(paper[name] - found).max())
        print(beside(line, paper[name], found) if name else line)
    for name, found in zip("WUVb", by_unroll(given), strict=True):
        apart = max(apart, abs(paper[f"d{name}"] - found.numpy()).max())
    print(f"\nPaper, graph and tg.unroll differ by {apart:.0e} at most.")
    sys.exit("bptt_by_hand.py: that is more than 1e-12" if apart > 1e-12 else 0)


if __name__ == "__main__":
    main()
