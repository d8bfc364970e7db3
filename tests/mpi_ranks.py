"""What the processes of test_distributed.py do: each function is one run, called by its name.

Every process writes what it found to ``FOLDER/rank``, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import distributed, nn, optim
from tinygrad_rnn.data import Batches, pad_arrays


class Model(nn.Module):
    """A language model small enough to be trained in a moment."""

    def __init__(self, hidden: int = 6, dropout: float = 0.0) -> None:
        self.embedding = nn.Embedding(9, 4)
        self.lstm = nn.LSTM(4, hidden, num_layers=2, dropout=dropout)
        self.readout = nn.Linear(hidden, 9)

    def forward(self, tokens: np.ndarray, lengths: np.ndarray) -> tg.Tensor:
        return self.readout(self.lstm(self.embedding(tokens), lengths=lengths)[0])


def sequences(rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 9, size=n) for n in rng.integers(2, 9, size=rows)]


def backward(model: Model, rows: list[np.ndarray]) -> int:
    """The gradients of a sum over tokens, and their number; of no rows none."""
    model.zero_grad()
    if not rows:
        return 0
    tokens, lengths = pad_arrays(rows)
    targets, _ = pad_arrays([row[1:] for row in rows], -1)
    logits = tg.moveaxis(model(tokens[:-1], lengths - 1), -1, 1)
    tg.cross_entropy(logits, targets, reduction="sum", ignore_index=-1).backward()
    return int((lengths - 1).sum())


def step(model: Model, optimizer: Any, rows: list[np.ndarray]) -> int:
    tokens = distributed.average_gradients(model.named_parameters(), backward(model, rows))
    optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return tokens


def digest(tensors: Any) -> str:
    return hashlib.sha256(b"".join(x.numpy().tobytes() for x in tensors)).hexdigest()


def new_model(seed: int = 0, **options: Any) -> tuple[Model, optim.Adam]:
    tg.manual_seed(seed)
    model = Model(**options)
    return model, optim.Adam(model.parameters(), lr=0.02)


def gradients(folder: Path) -> Any:
    """Of 13 ragged rows, then of one; the last after weights that differed were broadcast."""
    tg.set_default_dtype("float64")
    model, optimizer = new_model(seed=distributed.rank())
    distributed.broadcast(model, optimizer)
    found = {}
    for rows in (13, 1):
        own = distributed.own_rows(sequences(rows))
        count = distributed.average_gradients(model.named_parameters(), backward(model, own))
        grads = [p.grad for p in model.parameters()]
        found[rows] = {"count": count, "digest": digest(grads), "rows": len(own)}
        if distributed.is_main():
            tg.serialization.save(
                folder / f"grads_{rows}", {str(i): g for i, g in enumerate(grads)}
            )
    return found


def values(folder: Path) -> Any:
    """What is asked of all: numbers, flags and rows."""
    me, n = distributed.rank(), distributed.size()
    x = np.arange(14.0).reshape(2, 7)
    back = distributed.all_rows(distributed.own_rows(x, axis=1), axis=1)
    part = distributed.own_rows({"x": tg.tensor(x), "y": (list(range(3)),)}, axis=0)
    try:
        distributed.all_rows(np.zeros(1 if me else 5))
        refused = ""
    except ValueError as error:
        refused = str(error)
    absent = nn.Parameter(np.zeros(2))
    only_here = nn.Parameter(np.zeros((), dtype="float32"))
    only_here.grad = tg.tensor(3.0) if me == n - 1 else None
    half = nn.Parameter(np.zeros(3, dtype="float16"))
    half.grad = tg.tensor(np.full(3, 2.0**15, dtype="float16"))
    count = distributed.average_gradients([half, absent, only_here], 2**30 + me)
    distributed.average_gradients([half], 0)  # of no tokens: divided by 1
    return {
        "gathered": distributed.gather(me),
        "total": distributed.total(2.5),
        "main": distributed.from_main(me),
        "agree": [distributed.agree(me == n - 1), distributed.agree(False)],
        "back": bool((back == x).all()),
        "part": part["x"].shape,
        "shards": [len(rows) for rows in distributed.shard([[1] * 5, [1]])],
        "refused": refused,
        "count": count,
        "grads": [absent.grad is None, only_here.grad.item(), half.grad.dtype.name],
        "half": half.grad.numpy().astype(float).tolist(),
    }


def nonfinite(folder: Path) -> Any:
    """One process has a nan: what does each do?"""
    model, _ = new_model()
    found = []
    for policy in ("skip", "raise"):
        optimizer = optim.SGD(model.parameters(), lr=0.1, nonfinite=policy)
        count = backward(model, distributed.own_rows(sequences(5)))
        if distributed.rank() == distributed.size() - 1:
            model.readout.bias.grad = tg.full((9,), float("nan"))
        before = digest(model.parameters())
        distributed.average_gradients(model.parameters(), count)
        try:
            took = optimizer.step()
        except FloatingPointError:
            took = "raised"
        found.append([took, digest(model.parameters()) == before])
    return found


def different(folder: Path) -> Any:
    """One process has a model of another size, or more of it."""
    last = distributed.rank() == distributed.size() - 1
    found = []
    for options in ({"hidden": 7 if last else 6}, {}):
        model, _ = new_model(**options)
        extra = nn.Parameter(np.zeros(2))
        named = [*model.named_parameters()] + [("extra", extra)] * (last and not options)
        for p in model.parameters():
            p.grad = tg.ones(p.shape)
        for check in (
            lambda: distributed.average_gradients(named, 1),  # noqa: B023
            lambda: distributed.broadcast(model) if options else None,  # noqa: B023
        ):
            try:
                check()
                found.append("")
            except ValueError as error:
                found.append(str(error))
        assert all((p.grad.numpy() == 1).all() for p in model.parameters())
    model, optimizer = new_model(seed=int(last))
    try:
        distributed.average_gradients(model.named_parameters(), 1)
    except ValueError as error:
        found.append(str(error))
    distributed.broadcast(model, optimizer)
    distributed.set_communicator(distributed._processes().communicator)
    distributed.average_gradients(model.named_parameters(), 1)
    distributed._VERSIONS["numpy"] = f"1.{distributed.rank()}"
    try:
        distributed.average_gradients([extra], 1)
    except ValueError as error:
        found.append(str(error))
    return found


def train(folder: Path) -> Any:
    """Some steps with dropout, saved halfway; if that is there already, only the second half."""
    path = folder / "run.safetensors"
    model, optimizer = new_model(dropout=0.3)
    batches = Batches(sequences(17), batch_size=5, seed=3)  # the last of an epoch holds two rows
    if path.exists():
        run = distributed.load_checkpoint(path)
        run.restore(model=model, optimizer=optimizer, batches=batches)
    else:
        distributed.broadcast(model, optimizer)
    step_number = 0 if not path.exists() else 6
    while step_number < 12:
        for rows in distributed.shard(batches):
            step(model, optimizer, rows)
            step_number += 1
            if step_number == 6 and not path.exists():
                distributed.save_checkpoint(path, model=model, optimizer=optimizer, batches=batches)
            distributed.from_main(None)  # nobody looks for the file before all are here
            if step_number == 12:
                break
    return digest([*model.parameters(), tg.tensor(tg.random.uniform(3).numpy())])[:20] + digest(
        model.parameters()
    )


def unwritable(folder: Path) -> Any:
    """What process 0 cannot write or one cannot read is an error for all."""
    model, _ = new_model()
    found = []
    for action in (
        lambda: distributed.save_checkpoint(folder / "no" / "x", model=model),
        lambda: distributed.load_checkpoint(folder / f"only_for_{distributed.rank()}"),
        lambda: distributed.load_checkpoint(folder / f"own_{distributed.rank()}"),
    ):
        if distributed.is_main():
            tg.serialization.save_checkpoint(folder / "only_for_0", model=model)
        tg.serialization.save_checkpoint(
            folder / f"own_{distributed.rank()}", model=model, extra=distributed.rank()
        )
        try:
            action()
            found.append("")
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def raising(folder: Path) -> Any:
    """One process raises while the others wait for it."""
    (folder / f"pid_{distributed.rank()}").write_text(str(os.getpid()))
    distributed.gather(None)
    if distributed.rank() == distributed.size() - 1:
        raise LookupError("a mistake of the last process alone")
    distributed.gather(None)


def killed(folder: Path) -> Any:
    """One process is killed while the others train."""
    model, optimizer = new_model()
    path = folder / f"pid_{distributed.rank()}"
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)
    for number in range(10**9):
        step(model, optimizer, distributed.own_rows(sequences(8)))
        if number == 3 and distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    name, place = sys.argv[1], Path(sys.argv[2])
    result = {f.__name__: f for f in (gradients, values, nonfinite, different, train)} | {
        f.__name__: f for f in (unwritable, raising, killed)
    }
    found = result[name](place)
    (place / str(distributed.rank())).write_text(json.dumps(found))
