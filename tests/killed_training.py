"""A small training run that resumes from its checkpoint: what test_checkpoints.py kills.

As a script it forks a process for each line of JSON, ``[path, steps, save_every]``, and writes its
number and how it ended: starting Python takes longer than what is looked at.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays
from tinygrad_rnn.serialization import load_checkpoint, save_checkpoint


class Model(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(7, 4)
        self.cell = nn.GRUCell(4, 5)
        self.readout = nn.Linear(5, 7)

    def forward(self, tokens: tg.Tensor, lengths: Any, state: tg.Tensor) -> Any:
        x = tg.dropout(self.embedding(tokens), 0.2)
        outputs, state = tg.unroll(self.cell, x, state, lengths=lengths)
        return self.readout(outputs), state


def train(path: Path, steps: int, save_every: int) -> None:
    tg.manual_seed(3)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 7, size=n) for n in rng.integers(2, 6, size=48)]
    batches = Batches(sequences, batch_size=4, seed=1, length=len)
    model = Model()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.999)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "batches": batches}
    step, state = 0, tg.zeros((4, 5))
    if path.exists():
        checkpoint = load_checkpoint(path)
        checkpoint.restore(**parts)
        step, state = checkpoint.extra["step"], tg.tensor(checkpoint.extra["state"])
    while step < steps:
        for batch in batches:
            tokens, lengths = pad_arrays(batch)
            logits, state = model(tokens, lengths, state)
            loss = tg.cross_entropy(logits.reshape(-1, 7), tokens.reshape(-1), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            state = state.detach()
            step += 1
            if step % save_every == 0 or step == steps:
                save_checkpoint(path, **parts, extra={"step": step, "state": state})
            if step == steps:
                break


if __name__ == "__main__":
    for line in sys.stdin:
        path, *numbers = json.loads(line)
        child = os.fork()
        if not child:
            train(Path(path), *numbers)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
