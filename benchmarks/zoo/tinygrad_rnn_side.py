"""Our side: modules, losses and optimisers of the library, as its README writes them.

The subtle thing is what is not here: no plan is asked for, no form chosen. The library finds the
loops, and what stands around them, by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from benchmarks.grid.problem import Training
from benchmarks.grid.tinygrad_rnn_side import VERSIONS
from benchmarks.zoo.problem import IGNORED, LEARNING_RATE, Array, Problem
from tinygrad_rnn import functional as F
from tinygrad_rnn import nn, optim
from tinygrad_rnn.interop import load_torch_state_dict, torch_state_dict

with suppress(ImportError):  # otherwise imported by the first step
    import llvmlite.binding  # noqa: F401

__all__ = ["FORMS", "VERSIONS"]


class LanguageModel(nn.Module):
    """Logits (T * B, V) of what follows each token."""

    def __init__(self, n: Any, dropout: float) -> None:
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H, num_layers=n.layers, dropout=dropout)
        self.readout = nn.Linear(n.H, n.V)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Any) -> Any:
        h, _ = self.lstm(self.dropout(self.embedding(tokens)))
        return self.readout(self.dropout(h)).reshape(-1, self.readout.out_features)


class Tagger(nn.Module):
    """Logits (T * B, C) of each word's tag."""

    def __init__(self, n: Any) -> None:
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H, bidirectional=True)
        self.readout = nn.Linear(2 * n.H, n.C)

    def forward(self, tokens: Any, lengths: Array) -> Any:
        h, _ = self.lstm(self.embedding(tokens), lengths=lengths)
        return self.readout(h).reshape(-1, self.readout.out_features)


class Recogniser(nn.Module):
    """Log-probabilities (T, B, C) of a symbol in each frame."""

    def __init__(self, n: Any) -> None:
        self.lstm = nn.LSTM(n.I, n.H, num_layers=n.layers, bidirectional=True)
        self.readout = nn.Linear(2 * n.H, n.C)

    def forward(self, frames: Any, lengths: Array) -> Any:
        h, _ = self.lstm(frames, lengths=lengths)
        return F.log_softmax(self.readout(h))


class Translator(nn.Module):
    """Logits (T * B, C) of what is to be said, given what was said before."""

    def __init__(self, n: Any) -> None:
        self.encoder = nn.Encoder(nn.Embedding(n.V, n.E), nn.GRU(n.E, n.H, bidirectional=True))
        cell = nn.GRUCell(n.E + n.H, n.H)
        attention = nn.MultiplicativeAttention(n.H, 2 * n.H)
        self.decoder = nn.AttentionDecoder(nn.Embedding(n.C, n.E), cell, attention)
        self.bridge = nn.Bridge(2 * n.H, cell)

    def forward(self, source: Any, given: Any) -> Any:
        values, final = self.encoder(source)
        logits = self.decoder(given, self.decoder.remember(values), self.bridge(final))
        return logits.reshape(-1, logits.shape[-1])


class Forecaster(nn.Module):
    """What comes next, (B, C * I)."""

    def __init__(self, n: Any) -> None:
        self.gru = nn.GRU(n.I, n.H)
        self.readout = nn.Linear(n.H, n.C * n.I)

    def forward(self, series: Any) -> Any:
        _, last = self.gru(series)
        return self.readout(last[-1])


class Sentiment(nn.Module):
    """One logit for each review, (B,)."""

    def __init__(self, n: Any) -> None:
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H)
        self.readout = nn.Linear(n.H, 1)

    def forward(self, tokens: Any, lengths: Array) -> Any:
        _, (last, _) = self.lstm(self.embedding(tokens), lengths=lengths)
        return self.readout(last[-1])[:, 0]


# Where our modules keep what a user of PyTorch would give a name of its own.
PLACES = {
    "source_embedding": "encoder.embedding",
    "encoder": "encoder.layers.0",
    "bridge": "bridge.linears.0",
    "target_embedding": "decoder.embedding",
    "cell": "decoder.cell",
    "key": "decoder.attention.key",
    "combine": "decoder.combine",
    "readout": "decoder.readout",
}


def named(model: Any, name: str) -> str:
    """What a weight is called in our model."""
    if not isinstance(model, Translator):
        return name
    part, _, rest = name.partition(".")
    return f"{PLACES[part]}.{rest}"


def training(problem: Problem, model: Any, loss_of: Callable[[], Any]) -> Training:
    theirs = {named(model, name): array for name, array in problem.weights.items()}
    load_torch_state_dict(model, theirs)
    parameters = list(model.parameters())
    optimiser = optim.Adam(parameters, lr=LEARNING_RATE)

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        optim.clip_grad_norm_(parameters, problem.max_norm)
        optimiser.step()
        return loss.item()

    def gradients() -> list[Array]:
        """As PyTorch has them: converted like the weights that they are the gradients of."""
        twin = deepcopy(model)
        twin.load_state_dict({name: p.grad for name, p in model.named_parameters()})
        found = torch_state_dict(twin)
        return [np.asarray(found[named(model, name)]) for name in problem.compared]

    return Training(step, gradients)


def language_model(problem: Problem) -> Training:
    tokens, targets = tg.tensor(problem.batch.tokens), tg.tensor(problem.batch.targets.reshape(-1))
    model = LanguageModel(problem.sizes, problem.dropout)
    return training(problem, model, lambda: F.cross_entropy(model(tokens), targets))


def tagger(problem: Problem) -> Training:
    tokens, targets = tg.tensor(problem.batch.tokens), tg.tensor(problem.batch.targets.reshape(-1))
    model, lengths = Tagger(problem.sizes), problem.batch.lengths

    def loss() -> Any:
        return F.cross_entropy(model(tokens, lengths), targets, ignore_index=IGNORED)

    return training(problem, model, loss)


def ctc(problem: Problem) -> Training:
    batch, model = problem.batch, Recogniser(problem.sizes)
    frames = tg.tensor(batch.frames)

    def loss() -> Any:
        log_probs = model(frames, batch.lengths)
        return F.ctc_loss(log_probs, batch.labels, batch.lengths, batch.label_lengths)

    return training(problem, model, loss)


def translation(problem: Problem) -> Training:
    source, given = tg.tensor(problem.batch.source), tg.tensor(problem.batch.given)
    targets = tg.tensor(problem.batch.targets.reshape(-1))
    model = Translator(problem.sizes)
    return training(problem, model, lambda: F.cross_entropy(model(source, given), targets))


def forecaster(problem: Problem) -> Training:
    series, targets = tg.tensor(problem.batch.series), tg.tensor(problem.batch.targets)
    model = Forecaster(problem.sizes)
    return training(problem, model, lambda: F.mse_loss(model(series), targets))


def sentiment(problem: Problem) -> Training:
    tokens, targets = tg.tensor(problem.batch.tokens), tg.tensor(problem.batch.targets)
    model, lengths = Sentiment(problem.sizes), problem.batch.lengths

    def loss() -> Any:
        return F.binary_cross_entropy_with_logits(model(tokens, lengths), targets)

    return training(problem, model, loss)


BUILDERS = {
    "char_lm": language_model,
    "word_lm": language_model,
    "tagger": tagger,
    "ctc": ctc,
    "translation": translation,
    "forecaster": forecaster,
    "sentiment": sentiment,
}


def build(problem: Problem) -> Training:
    return BUILDERS[problem.model](problem)


FORMS = {"step": ("nn, backward(), clip_grad_norm_, optim.Adam", build)}
