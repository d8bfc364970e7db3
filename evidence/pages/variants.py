"""Eight variants of the LSTM, each of which leaves out or changes one thing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from ..experiment import Experiment, Found, Outcome, interval
from .chorales import fit

VARIANTS = {
    "V": "vanilla, with peepholes",
    "NIG": "no input gate",
    "NFG": "no forget gate",
    "NOG": "no output gate",
    "NIAF": "no input activation function",
    "NOAF": "no output activation function",
    "NP": "no peepholes",
    "CIFG": "coupled input and forget gate",
    "FGR": "full gate recurrence",
}


class VariantCell(nn.Module):
    """The vanilla LSTM of Greff et al., section 2, and its variants; the state is a tuple.

    ::

        g = tanh(x W_g + h U_g + b_g);            i = sigmoid(x W_i + h U_i + p_i * c + b_i)
        f = sigmoid(x W_f + h U_f + p_f * c + b_f)
        c' = f * c + i * g
        o = sigmoid(x W_o + h U_o + p_o * c' + b_o);   h' = o * tanh(c')

    FGR adds the gates of the step before, times a matrix, to all three gates.
    """

    def __init__(self, variant: str, input_size: int, hidden_size: int) -> None:
        self.variant, self.hidden_size = variant, hidden_size
        like = nn.LSTMCell(input_size, hidden_size)
        self.w, self.u, self.b = like.weight_ih, like.weight_hh, like.bias
        self.p = nn.Parameter(np.zeros((3, hidden_size), dtype="float32"))
        if variant == "FGR":
            both = (3 * hidden_size, 3 * hidden_size)
            self.r = nn.Parameter(nn.init.xavier_uniform(both))

    def initial_state(self, batch_shape: Any, dtype: Any, backend: str) -> Any:
        """Zeros: h, c, and for FGR the gates."""
        h = tg.zeros((*batch_shape, self.hidden_size), dtype, backend=backend)
        return (h, h, h, h, h) if self.variant == "FGR" else (h, h)

    def forward(self, x: tg.Tensor, state: Any) -> Any:
        """One step: (B, I) and the state to (B, H) and the state."""
        (h, c, *gates), variant = state, self.variant
        i, f, g, o = tg.split(x @ self.w + h @ self.u + self.b, 4, axis=-1)
        if variant == "FGR":
            more = tg.split(tg.concat(gates, axis=-1) @ self.r, 3, axis=-1)
            i, f, o = i + more[0], f + more[1], o + more[2]
        if variant != "NP":
            i, f = i + self.p[0] * c, f + self.p[1] * c
        i = 1.0 if variant == "NIG" else tg.sigmoid(i)
        f = 1.0 if variant == "NFG" else 1 - i if variant == "CIFG" else tg.sigmoid(f)
        c = f * c + i * (g if variant == "NIAF" else tg.tanh(g))
        if variant != "NP":
            o = o + self.p[2] * c
        o = 1.0 if variant == "NOG" else tg.sigmoid(o)
        h = o * (c if variant == "NOAF" else tg.tanh(c))
        return h, ((h, c, i, f, o) if variant == "FGR" else (h, c))


def run(case: str, seed: int, s: SimpleNamespace) -> Outcome:
    """Train on chorales, as that page does."""
    best = fit(VariantCell(case, 88, s.hidden), 0.003, seed, s)
    return Outcome({"test": best["test"], "valid": best["valid"]}, best["curve"])


def judge(found: Found, s: SimpleNamespace) -> bool:
    """Which differences to vanilla have an interval above 0; of the small form as for chorales."""
    if s.bound is not None:
        return all(run["test"] < s.bound for runs in found.values() for run in runs)
    vanilla = [run["test"] for run in found["V"]]

    def is_worse(case: str) -> bool:
        pairs = zip(found[case], vanilla, strict=True)
        return interval([run["test"] - of_vanilla for run, of_vanilla in pairs])[1] > 0

    return all(map(is_worse, s.worse)) and not any(map(is_worse, s.no_worse))


PAGE = Experiment(
    name="variants",
    title="Eight variants of the LSTM",
    paper="Greff, Srivastava, Koutnik, Steunebrink & Schmidhuber 2017, section 5.2",
    setting="""The chorales, split and training of the page "chorales" (one of the paper's three
        tasks, with other data), 36 units, Adam 0.003 for all: the paper searches 200
        configurations for each. """
    + "; ".join(f"{name}: {what}" for name, what in VARIANTS.items())
    + ".",
    published="""NFG and NOAF are significantly worse than vanilla on all three tasks; CIFG and NP
        are not†""",
    criterion="""The 95 % interval, over seeds, of the difference in test negative log-likelihood
        to vanilla is above 0 for NFG and NOAF, and is not for CIFG and NP. (The others are shown,
        and decide nothing.)""",
    cases=tuple(VARIANTS),
    shown={"test": ".3f", "valid": ".3f"},
    run=run,
    full={
        "hidden": 36,
        "epochs": 300,
        "patience": 20,
        "most": 1000,
        "worse": ("NFG", "NOAF"),
        "no_worse": ("CIFG", "NP"),
        "bound": None,
    },
    quick={"cases": ("V", "NOAF", "FGR"), "epochs": 15, "most": 60, "bound": 20.0},
    judge=judge,
    axes=("epochs", "validation, nats a step"),
    remark=""""Training" is that of the page "chorales" without what it has had since: Adam, and
        no weight noise; one rate; 20 epochs without improvement end it. NFG is behind vanilla from
        every seed, NOAF is not; NP and CIFG are ahead, as fewer weights overfit less.""",
)
