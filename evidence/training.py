"""What experiments share: models of a cell and a readout, and a loop that trains them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim


class Last(nn.Module):
    """A cell, and what its last output says: (T, B, I) to (B, O)."""

    def __init__(self, cell: Any, outputs: int) -> None:
        self.cell, self.readout = cell, nn.Linear(cell.hidden_size, outputs)

    def forward(self, xs: tg.Tensor, lengths: Any = None) -> tg.Tensor:
        """The output at each row's end, read."""
        outputs, state = tg.unroll(self.cell, xs, lengths=lengths)
        h = state if isinstance(state, tg.Tensor) else state[0]
        return self.readout(outputs[-1] if lengths is None else h)


class Each(nn.Module):
    """A cell, and what each of its outputs says: (T, B, I) to (T, B, O)."""

    def __init__(self, cell: Any, outputs: int) -> None:
        self.cell, self.readout = cell, nn.Linear(cell.hidden_size, outputs)

    def forward(self, xs: tg.Tensor, lengths: Any = None) -> tg.Tensor:
        """All outputs, read."""
        return self.readout(tg.unroll(self.cell, xs, lengths=lengths)[0])


class Trained(NamedTuple):
    """How a training went: points (step, measured), and the step at which it was enough."""

    curve: list[tuple[float, float]]
    steps: int
    enough: bool


def train(
    parameters: Iterable[Any],
    loss: Callable[[], tg.Tensor],
    measure: Callable[[], float],
    *,
    steps: int,
    rate: float,
    enough: float = 0.0,
    every: int = 50,
    clip: float | None = 1.0,
    optimizer: Callable[..., Any] = optim.Adam,
) -> Trained:
    """Minimise ``loss()``, a new batch each time, until ``measure()`` is at most ``enough``."""
    parameters = list(parameters)
    stepper = optimizer(parameters, lr=rate)
    curve = []
    for step in range(1, steps + 1):
        value = loss()
        stepper.zero_grad()
        value.backward()
        try:
            if clip is not None:
                optim.clip_grad_norm_(parameters, clip)
            stepper.step()
        except FloatingPointError:  # gradients that are no numbers: it has diverged
            curve.append((float(step), float("inf")))
            return Trained(curve, steps, False)
        if step % every == 0 or step == steps:
            with tg.no_grad():
                curve.append((float(step), measure()))
            if curve[-1][1] <= enough:
                return Trained(curve, step, True)
            if not curve[-1][1] < float("inf"):  # it has diverged, and would not come back
                return Trained(curve, steps, False)
    return Trained(curve, steps, False)
