"""PyTorch eager on the CPU, as its users write it: packed sequences, its own losses and Adam.

The subtle thing is its second biases, which start at zero here and learn like the first ones: work
that its layers always have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.grid.problem import Training
from benchmarks.grid.torch_side import VERSIONS
from benchmarks.zoo.problem import IGNORED, LEARNING_RATE, Array, Problem

__all__ = ["FORMS", "VERSIONS"]

# The first optimiser imports 800 modules, torch.compile among them: here, with the others.
torch.optim.Adam([torch.zeros(1)])


class LanguageModel(nn.Module):
    """Logits (T * B, V) of what follows each token."""

    def __init__(self, n: Any, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H, num_layers=n.layers, dropout=dropout)
        self.readout = nn.Linear(n.H, n.V)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Any) -> Any:
        h, _ = self.lstm(self.dropout(self.embedding(tokens)))
        return self.readout(self.dropout(h)).flatten(0, 1)


class Tagger(nn.Module):
    """Logits (T * B, C) of each word's tag."""

    def __init__(self, n: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H, bidirectional=True)
        self.readout = nn.Linear(2 * n.H, n.C)

    def forward(self, tokens: Any, lengths: Any) -> Any:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.lstm(packed)[0])
        return self.readout(h).flatten(0, 1)


class Recogniser(nn.Module):
    """Log-probabilities (T, B, C) of a symbol in each frame."""

    def __init__(self, n: Any) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n.I, n.H, num_layers=n.layers, bidirectional=True)
        self.readout = nn.Linear(2 * n.H, n.C)

    def forward(self, frames: Any, lengths: Any) -> Any:
        packed = pack_padded_sequence(frames, lengths, enforce_sorted=False)
        h, _ = pad_packed_sequence(self.lstm(packed)[0])
        return F.log_softmax(self.readout(h), dim=-1)


class Translator(nn.Module):
    """Logits (T * B, C) of what is to be said, given what was said before."""

    def __init__(self, n: Any) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(n.V, n.E)
        self.encoder = nn.GRU(n.E, n.H, bidirectional=True)
        self.bridge = nn.Linear(2 * n.H, n.H)
        self.target_embedding = nn.Embedding(n.C, n.E)
        self.cell = nn.GRUCell(n.E + n.H, n.H)
        self.key = nn.Linear(2 * n.H, n.H, bias=False)
        self.combine = nn.Linear(3 * n.H, n.H, bias=False)
        self.readout = nn.Linear(n.H, n.C)

    def forward(self, source: Any, given: Any) -> Any:
        values, final = self.encoder(self.source_embedding(source))
        h = torch.tanh(self.bridge(torch.cat([final[0], final[1]], dim=-1)))
        values = values.transpose(0, 1)
        keys = self.key(values)
        attentional = torch.zeros_like(h)
        attentionals = []
        for embedded in self.target_embedding(given).unbind(0):
            h = self.cell(torch.cat([embedded, attentional], dim=-1), h)
            weights = torch.softmax(torch.bmm(keys, h.unsqueeze(-1)).squeeze(-1), dim=-1)
            context = torch.bmm(weights.unsqueeze(1), values).squeeze(1)
            attentional = torch.tanh(self.combine(torch.cat([context, h], dim=-1)))
            attentionals.append(attentional)
        return self.readout(torch.stack(attentionals)).flatten(0, 1)


class Forecaster(nn.Module):
    """What comes next, (B, C * I)."""

    def __init__(self, n: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(n.I, n.H)
        self.readout = nn.Linear(n.H, n.C * n.I)

    def forward(self, series: Any) -> Any:
        _, last = self.gru(series)
        return self.readout(last[-1])


class Sentiment(nn.Module):
    """One logit for each review, (B,)."""

    def __init__(self, n: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n.V, n.E)
        self.lstm = nn.LSTM(n.E, n.H)
        self.readout = nn.Linear(n.H, 1)

    def forward(self, tokens: Any, lengths: Any) -> Any:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.readout(last[-1]).squeeze(-1)


def training(problem: Problem, model: nn.Module, loss_of: Callable[[], Any]) -> Training:
    weights = {name: torch.from_numpy(array) for name, array in problem.weights.items()}
    model.load_state_dict(weights)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), problem.max_norm)
        optimiser.step()
        return loss.item()

    def gradients() -> list[Array]:
        parameters = dict(model.named_parameters())
        return [parameters[name].grad.numpy().copy() for name in problem.compared]

    return Training(step, gradients)


def language_model(problem: Problem) -> Training:
    tokens, targets = map(torch.from_numpy, (problem.batch.tokens, problem.batch.targets))
    model, loss = LanguageModel(problem.sizes, problem.dropout), nn.CrossEntropyLoss()
    return training(problem, model, lambda: loss(model(tokens), targets.flatten()))


def tagger(problem: Problem) -> Training:
    tokens, targets = map(torch.from_numpy, (problem.batch.tokens, problem.batch.targets))
    lengths = torch.from_numpy(problem.batch.lengths)
    model, loss = Tagger(problem.sizes), nn.CrossEntropyLoss(ignore_index=IGNORED)
    return training(problem, model, lambda: loss(model(tokens, lengths), targets.flatten()))


def ctc(problem: Problem) -> Training:
    batch = problem.batch
    frames, labels = torch.from_numpy(batch.frames), torch.from_numpy(batch.labels)
    lengths, label_lengths = map(torch.from_numpy, (batch.lengths, batch.label_lengths))
    model, loss = Recogniser(problem.sizes), nn.CTCLoss()
    return training(
        problem, model, lambda: loss(model(frames, lengths), labels, lengths, label_lengths)
    )


def translation(problem: Problem) -> Training:
    batch = problem.batch
    source, given, targets = map(torch.from_numpy, (batch.source, batch.given, batch.targets))
    model, loss = Translator(problem.sizes), nn.CrossEntropyLoss()
    return training(problem, model, lambda: loss(model(source, given), targets.flatten()))


def forecaster(problem: Problem) -> Training:
    series, targets = map(torch.from_numpy, (problem.batch.series, problem.batch.targets))
    model, loss = Forecaster(problem.sizes), nn.MSELoss()
    return training(problem, model, lambda: loss(model(series), targets))


def sentiment(problem: Problem) -> Training:
    tokens, targets = map(torch.from_numpy, (problem.batch.tokens, problem.batch.targets))
    lengths = torch.from_numpy(problem.batch.lengths)
    model, loss = Sentiment(problem.sizes), nn.BCEWithLogitsLoss()
    return training(problem, model, lambda: loss(model(tokens, lengths), targets))


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


FORMS = {"step": ("nn, packed sequences, backward(), clip_grad_norm_, optim.Adam", build)}
