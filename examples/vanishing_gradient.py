"""Why gradients vanish, why they explode, and what clipping does: one figure of four panels.

A loss at step T reaches step t through T - t Jacobians, one after the other. Their product shrinks
or grows exponentially, unless a cell is made so that it does neither. The norm of the gradient by
each state says which: ``tg.grad(loss, states)`` asks for all of them in one walk backwards.

    python examples/vanishing_gradient.py             seconds; the figure in examples/plots/
    python examples/vanishing_gradient.py --T 300     longer sequences: the same slopes
    python examples/vanishing_gradient.py --quick     does it run?

Panel 1: cells before any training. Panel 2: a tanh RNN whose orthogonal recurrent weights are
multiplied by a gain. Panel 3: the error of a unit after 50 steps, which has a wall (Pascanu,
Mikolov & Bengio 2013, figure 6), and descents on it: not clipped, clipped by norm (the gradient is
shortened) or by value (it is turned as well). Panel 4: their losses.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import support
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

INPUTS, HIDDEN, BATCH, GAINS = 16, 64, 16, (0.7, 0.9, 1.0, 1.5, 3.0)
START, RATE, STEPS = (4.5, -2.2), 0.2, 60  # of the descents: w and b, learning rate, how many
CLIPS: dict[str, Callable[[list[tg.Tensor]], object]] = {
    "not clipped": lambda parameters: None,
    "by norm, 1": lambda parameters: optim.clip_grad_norm_(parameters, 1.0),
    "by value, 0.5": lambda parameters: optim.clip_grad_value_(parameters, 0.5),
}


def cells(T: int) -> dict[str, nn.Module]:
    """Panel 1. The RNN's weights are drawn as PyTorch draws them; ours start orthogonal."""
    irnn = {"nonlinearity": "relu", "recurrent_init": nn.init.identity}
    small = partial(nn.init.torch_uniform, size=HIDDEN)
    return {
        "RNN": nn.RNNCell(INPUTS, HIDDEN, recurrent_init=small),
        "RNN, orthogonal": nn.RNNCell(INPUTS, HIDDEN),
        "IRNN": nn.RNNCell(INPUTS, HIDDEN, **irnn),
        "GRU": nn.GRUCell(INPUTS, HIDDEN),
        "LSTM, forget bias 1": nn.LSTMCell(INPUTS, HIDDEN),
        "LSTM, forget bias log T": nn.LSTMCell(INPUTS, HIDDEN, forget_bias=float(np.log(T))),
    }


def scaled(gain: float) -> nn.RNNCell:
    """A line of panel 2."""
    return nn.RNNCell(INPUTS, HIDDEN, recurrent_init=partial(nn.init.orthogonal, gain=gain))


def gradient_norms(cell: nn.Module, xs: tg.Tensor, target: tg.Tensor) -> np.ndarray:
    """|d loss / d state_t| for t = 1 ... T, the loss being at step T alone; the mean over rows."""
    states = []

    # The cell as it is, but we keep what passes from step to step. So each step has to be run: a
    # planned loop calls its cell once, to see what a step does.
    def noting(x, state):
        output, state = cell(x, state)
        states.append(state)
        return output, state

    start = cell.initial_state((BATCH,), xs.dtype, xs.backend)
    outputs, _ = tg.unroll(noting, xs, start, mode="literal")
    loss = tg.sum((outputs[-1] - target) ** 2) / 2
    found = [g if isinstance(g, tuple) else (g,) for g in tg.grad(loss, states)]
    squares = [sum(tg.sum(part**2, axis=-1) for part in parts) for parts in found]
    return np.array([tg.mean(tg.sqrt(square)).item() for square in squares])


def wall(w: tg.Tensor, b: tg.Tensor) -> tg.Tensor:
    """Panel 3: how wrong a unit, h = w * sigmoid(h) + b, is after 50 steps.

    Of one w and b, or of arrays of them: then it is a map.
    """
    h = 0.5 + 0 * w
    for _ in range(50):
        h = w * tg.sigmoid(h) + b
    return (tg.sigmoid(h) - 0.7) ** 2


def descend(clip: Callable[[list[tg.Tensor]], object]) -> tuple[np.ndarray, np.ndarray, float]:
    """Where SGD went, the losses there, and the largest norm of a gradient on its way."""
    place = tg.tensor(START, dtype="float64", requires_grad=True)
    optimizer = optim.SGD([place], lr=RATE)
    path, losses, norms = [], [], []
    for _ in range(STEPS):
        loss = wall(place[0], place[1])
        optimizer.zero_grad()
        loss.backward()
        path.append(place.numpy())
        losses.append(loss.item())
        norms.append(tg.sqrt(tg.sum(place.grad**2)).item())
        clip([place])
        optimizer.step()
    return np.array(path), np.array(losses), max(norms)


def plot(by_cell: dict, by_gain: dict, descents: dict, path: Path) -> None:
    """The four panels."""
    figure = support.Figure(figsize=(9, 6.6), layout="constrained")
    (left, right), (below_left, below_right) = figure.subplots(2, 2)
    for axis, curves in ((left, by_cell), (right, by_gain)):
        for name, norms in curves.items():
            axis.semilogy(np.arange(1, len(norms) + 1), norms, label=name)
        axis.set(xlabel="step t", ylabel="|d loss / d state|", ylim=(1e-16, None))
        axis.legend(fontsize="x-small")
    left.set_title("the loss at the last step reaches back: by cell")
    right.set_title("by gain of an RNN's recurrent weights")
    window = {"xlim": (4.2, 5.0), "ylim": (-2.7, -1.9), "xlabel": "w", "ylabel": "b"}
    ws, bs = np.linspace(*window["xlim"], 160), np.linspace(*window["ylim"], 160)[:, None]
    height = wall(*(tg.tensor(x) for x in np.broadcast_arrays(ws, bs))).numpy()
    below_left.contourf(ws, bs[:, 0], height, 24, cmap="Greys")
    for name, (places, losses, _) in descents.items():
        below_left.plot(*places.T, ".-", markersize=4, linewidth=0.8, label=name)
        below_right.plot(losses, label=name)
    below_left.legend(fontsize="x-small")
    below_left.set(title="a wall, and what clipping does at it", **window)
    below_right.set(title="the loss on the way", xlabel="step of SGD", ylabel="loss")
    support.save_picture(figure, path)


def main() -> None:
    """Measure, print, plot."""
    parser = support.command_line(__doc__, resume=False)
    parser.add_argument("--T", type=support.positive, default=100, help="steps of a sequence (100)")
    args = support.arguments(parser, T=20)
    drawn = np.random.default_rng(args.seed)
    xs = tg.tensor(drawn.normal(size=(args.T, BATCH, INPUTS)))
    target = tg.tensor(drawn.uniform(-1, 1, (BATCH, HIDDEN)))
    by_cell = {name: gradient_norms(cell, xs, target) for name, cell in cells(args.T).items()}
    by_gain = {f"gain {gain}": gradient_norms(scaled(gain), xs, target) for gain in GAINS}
    steps = sorted({max(1, args.T * quarter // 4) for quarter in range(5)})
    print(f"{'|d loss / d state|':24}" + "".join(f"{f't = {t}':>11}" for t in steps))
    for name, norms in (by_cell | by_gain).items():
        print(f"{name:24}" + "".join(f"{norms[t - 1]:11.2g}" for t in steps))
    descents = {name: descend(clip) for name, clip in CLIPS.items()}
    print(f"\n{STEPS} steps of SGD from w, b = {START}, rate {RATE}, along a wall")
    for name, (places, losses, largest) in descents.items():
        end = "({:.2f}, {:.2f})".format(*places[-1])
        print(f"{name:14}largest gradient {largest:6.1f}; ends at {end}, loss {losses[-1]:.4f}")
    plot(by_cell, by_gain, descents, args.plot)


if __name__ == "__main__":
    tg.set_default_dtype("float64")  # gradients of 1e-60 are numbers, too
    main()
