"""Checkpoints: training goes on bit for bit, and a file that is not one harms nothing."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import killed_training
import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches
from tinygrad_rnn.serialization import load, load_checkpoint, save, save_checkpoint
from tinygrad_rnn.structure import flatten


class Run(NamedTuple):
    """All that a checkpoint is about."""

    model: nn.Module
    optimizer: optim.Adam
    schedule: optim.lr_scheduler.StepLR
    batches: Batches

    def train(self, steps: int = 1) -> float:
        batches = iter(self.batches)
        for _ in range(steps):
            x = tg.tensor(next(batches), dtype="float32")
            loss = (self.model(tg.dropout(x, 0.5)) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        return loss.item()

    def observed(self) -> Any:
        """Everything that a failed ``restore`` must leave alone."""
        states = [part.state_dict() for part in self]
        leaves = flatten([*states, tg.random.get_state()])[0]
        return [(str(x.dtype), x.tolist()) if isinstance(x, tg.Tensor) else x for x in leaves]


def new_run(seed: int, hidden: int = 3) -> Run:
    tg.manual_seed(seed)
    model = nn.Linear(2, hidden)
    items = [[float(i), 1.0] for i in range(10)]
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=3)
    return Run(model, optimizer, schedule, Batches(items, 3, seed=seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


def saved(path: Path) -> Run:
    run = new_run(1)
    run.train(2)
    save_checkpoint(path, **run._asdict(), extra={"step": 2})
    return run


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A whole file, checksum and all, that says something else of its run."""
    arrays, metadata = load(path)
    content = json.loads(metadata["checkpoint"])
    content = change(content) or content
    save(path, arrays, {"checkpoint": json.dumps(content)})


# What is written comes back.


def test_training_goes_on_with_the_same_numbers(backend: Any, path: Path) -> None:
    one = saved(path)
    losses = [one.train() for _ in range(2)]
    other = new_run(7)
    checkpoint = load_checkpoint(path)
    checkpoint.restore(**other._asdict())
    assert checkpoint.extra == {"step": 2}
    assert other.model.weight.backend == backend.name
    assert [other.train() for _ in range(2)] == losses
    assert other.observed() == one.observed()


def test_one_part_can_be_taken_out_and_random_numbers_left_alone(path: Path) -> None:
    run = saved(path)
    other = new_run(7)
    before = tg.random.get_state()
    other.model.load_state_dict(load_checkpoint(path).parts["model"])
    assert_array_equal(other.model.weight.numpy(), run.model.weight.numpy())
    assert tg.random.get_state() == before


def test_other_programs_find_the_weights_by_name(path: Path) -> None:
    run = saved(path)
    arrays = load(path)[0]
    assert {name for name in arrays if name.startswith("model.")} == {"model.weight", "model.bias"}
    assert_array_equal(arrays["model.weight"], run.model.weight.numpy())


KEYS = st.text(max_size=3) | st.integers(-3, 3)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
ARRAYS = st.sampled_from([np.float32(1.5) * np.ones((2, 0)), np.array(3), np.array([True, False])])
EXTRA = st.recursive(
    PLAIN | ARRAYS,
    lambda part: (
        st.lists(part, max_size=3)
        | st.lists(part, max_size=3).map(tuple)
        | st.dictionaries(KEYS, part, max_size=3)
    ),
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and (one == other).all()
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return all(type(a) is type(b) and a == b and same(x, y) for (a, x), (b, y) in pairs)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and all(map(same, one, other)) and len(one) == len(other)
    return type(one) is type(other) and (one == other or (one != one and other != other))


@given(extra=EXTRA)
def test_anything_plain_comes_back_as_it_was(extra: Any, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "extra"
    save_checkpoint(path, extra=extra)
    assert same(load_checkpoint(path).extra, extra)


def test_a_recurrent_state_comes_back_as_arrays(path: Path) -> None:
    class State(NamedTuple):
        h: tg.Tensor
        c: tg.Tensor

    save_checkpoint(path, extra=State(tg.ones(2), tg.zeros(3, backend="array_api_strict")))
    h, c = load_checkpoint(path).extra
    assert_array_equal(h, np.ones(2, np.float32))
    assert_array_equal(c, np.zeros(3, np.float32))


def test_scalars_of_numpy_come_back_as_numbers(path: Path) -> None:
    given = {"lr": np.float32(0.1), "n": np.int64(3), "best": np.float64(0.1), "on": np.bool_(True)}
    save_checkpoint(path, extra=given)
    found = load_checkpoint(path).extra
    assert found == given
    assert [type(x) for x in found.values()] == [float, int, float, bool]


def test_two_arrays_of_one_name_are_two(path: Path) -> None:
    save_checkpoint(path, extra={"a.b": np.zeros(1), "a": {"b": np.ones(1), "b_": np.ones(2)}})
    assert same(
        load_checkpoint(path).extra,
        {"a.b": np.zeros(1), "a": {"b": np.ones(1), "b_": np.ones(2)}},
    )


# Bad input.


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({1, 2}, "extra.bad is a set"),
        (object(), "extra.bad is a object"),
        ({(1, 2): 3}, "extra.bad is a dict"),
        ({True: 3}, "extra.bad is a dict"),
        (1j, "extra.bad is a complex"),
        (np.array(["text"]), "'extra.bad' holds <U4"),
        (np.ones(2, complex), "'extra.bad' holds complex128"),
        (b"bytes", "extra.bad is a bytes"),
    ],
)
def test_what_a_checkpoint_cannot_hold_leaves_the_old_file(
    bad: Any, message: str, path: Path
) -> None:
    saved(path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=message):
        save_checkpoint(path, extra={"bad": bad})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_part_has_a_state(path: Path) -> None:
    with pytest.raises(TypeError, match="save_checkpoint: step is a int, without state_dict"):
        save_checkpoint(path, step=3)
    run = saved(path)
    with pytest.raises(TypeError, match="restore: batches is a list, without state_dict"):
        load_checkpoint(path).restore(**run._replace(batches=[])._asdict())


def test_all_parts_are_restored_or_none(path: Path) -> None:
    run = saved(path)
    before = run.observed()
    with pytest.raises(ValueError, match=r"the parts \['batches', .*\], and not \['model'\]"):
        load_checkpoint(path).restore(model=run.model)
    assert run.observed() == before


@pytest.mark.parametrize("fails", ["model", "optimizer", "schedule", "batches", "random numbers"])
def test_a_part_that_does_not_fit_leaves_the_others_as_they_were(fails: str, path: Path) -> None:
    saved(path)
    other = new_run(7, hidden=4 if fails == "model" else 3)
    if fails == "optimizer":
        other = other._replace(optimizer=optim.SGD(other.model.parameters(), momentum=0.9))
    if fails == "schedule":
        schedule = optim.lr_scheduler.ReduceLROnPlateau(other.optimizer)
        other = other._replace(schedule=schedule)
    if fails == "batches":
        other = other._replace(batches=Batches([[0.0, 1.0]] * 9, 3, seed=0))
    if fails == "random numbers":  # that only NumPy knows to be too large
        rewritten(path, lambda content: content["random"]["host"].update(uinteger=2**70))
    before = other.observed()
    checkpoint = load_checkpoint(path)
    with pytest.raises(ValueError, match=f"restore: {fails} of '.*run.safetensors'"):
        checkpoint.restore(**other._asdict())
    assert other.observed() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda random: random["host"].update(buffer_pos=-(2**31)),
        lambda random: random["host"].update(buffer=[0]),
        lambda random: random["host"].update(bit_generator="PCG64"),
        lambda random: random["host"]["state"].update(key=[0, 1.5]),
        lambda random: random["host"]["state"].pop("counter"),
        lambda random: random.update(seed="0"),
        lambda random: random.update(calls=True),
        lambda random: random.update(calls=None),
    ],
)
def test_random_numbers_in_no_possible_state_are_refused(change: Any, path: Path) -> None:
    saved(path)
    rewritten(path, lambda content: change(content["random"]) and None)
    before = tg.random.get_state()
    with pytest.raises(ValueError, match=r"run.safetensors.*cannot be understood.*no possible"):
        load_checkpoint(path)
    assert tg.random.get_state() == before


# Foreign, damaged and hostile files.


def test_weights_are_no_checkpoint(path: Path) -> None:
    save(path, {"x": np.ones(3)})
    with pytest.raises(ValueError, match=r"run.safetensors' holds arrays, but no run"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '"text"',
        "{'parts': {}}",
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 5000,
        '{"parts": [], "extra": null, "random": null}',
        '{"parts": {"model": {"array": "nothing"}}, "extra": null, "random": null}',
        '{"parts": {}, "extra": null, "random": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_what_says_nothing_of_a_run_is_refused(text: str, path: Path) -> None:
    save(path, {}, {"checkpoint": text})
    with pytest.raises(ValueError, match=r"run.safetensors' says of its run cannot be understood"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "bad",
    [
        {"array": "nothing"},
        {"array": 3},
        {"array": ["model.weight"]},
        {"array": "model.weight", "tuple": []},
        {"pickle": "gASV"},
        {"tuple": 3},
        {"dict": 3},
        {"dict": [["a"]]},
        {"dict": [[["a"], 1]]},
        {"dict": ["ab", "c"]},
        {},
    ],
)
def test_what_was_never_packed_is_refused(bad: Any, path: Path) -> None:
    saved(path)
    rewritten(path, lambda content: content | {"extra": bad})
    with pytest.raises(ValueError, match="cannot be understood"):
        load_checkpoint(path)


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every container and key in a nesting of JSON."""
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], (dict, list)):
            places(value[key], found)
    return found


JUNK: list[Any] = [None, True, -1, 2**80, 1.5, math.nan, "", "text", [], [[]], {}, {"array": "x"}]
JUNK += [{"array": "model.bias"}, {"tuple": [1]}, {"dict": []}, {"dict": [["a", 1]]}]


def test_three_hundred_whole_files_that_lie_change_nothing_when_refused(path: Path) -> None:
    saved(path)
    arrays, metadata = load(path)
    rng = np.random.default_rng(0)
    other = new_run(7)
    refused = 0
    for _ in range(300):
        content = json.loads(metadata["checkpoint"])
        for _ in range(rng.integers(1, 3)):
            found = places(content, [])
            container, key = found[rng.integers(len(found))]
            container[key] = copy.deepcopy(JUNK[rng.integers(len(JUNK))])
        save(path, arrays, {"checkpoint": json.dumps(content)})
        before = other.observed()
        try:
            load_checkpoint(path).restore(**other._asdict())
        except ValueError as error:
            refused += 1
            assert "run.safetensors" in str(error)
            assert repr(other.observed()) == repr(before)
        else:
            other = new_run(7)
    assert refused > 200


def test_a_damaged_checkpoint_is_always_refused(path: Path) -> None:
    saved(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(whole))[:300]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except ValueError:
            continue
        path.write_bytes(whole)  # the name of the checksum was hit, and nothing else
        assert repr(found) == repr(load_checkpoint(path))


# Killed.


def state_of(path: Path) -> tuple[dict[str, Any], Any]:
    arrays, metadata = load(path)
    return {name: (str(x.dtype), x.tobytes()) for name, x in arrays.items()}, metadata


class Trainings:
    """Processes that train, one after the other."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self.server = server

    def start(self, *arguments: Any) -> int:
        """Begin one; returns its number."""
        assert self.server.stdin is not None
        print(json.dumps(arguments), file=self.server.stdin, flush=True)
        return self.read()

    def read(self) -> int:
        """How it ended, when it has."""
        assert self.server.stdout is not None
        return int(self.server.stdout.readline())


@pytest.fixture
def trainings() -> Iterator[Trainings]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OPENBLAS_NUM_THREADS": "1",  # small matrices, and other tests beside this one
    }
    with subprocess.Popen(
        [sys.executable, killed_training.__file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        yield Trainings(server)


def inode(path: Path) -> int:
    """Another one after each save."""
    return path.stat().st_ino if path.exists() else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_run_killed_twenty_times_ends_as_one_that_was_not(
    tmp_path: Path, trainings: Trainings
) -> None:
    """Bit for bit; some kills hit the reading of the checkpoint, most training and saving."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    rng = np.random.default_rng(4)
    reached = [0]
    for kill in range(20):
        before, deadline = inode(killed), time.monotonic() + 60
        process = trainings.start(str(killed), 10**9, 3)
        while kill % 5 and inode(killed) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(process, signal.SIGKILL)
        assert trainings.read() == -signal.SIGKILL
        reached.append(load_checkpoint(killed).extra["step"] if killed.exists() else 0)
    assert reached == sorted(reached) and len(set(reached)) > 15
    end = reached[-1] + 5
    for path, save_every in ((killed, 3), (whole, end)):
        trainings.start(str(path), end, save_every)
        assert trainings.read() == 0
    assert load_checkpoint(whole).extra["step"] == end
    assert state_of(killed) == state_of(whole)
    assert {*os.listdir(tmp_path)} == {"killed", "whole"}  # and nothing of those that were killed


class Halfway:
    """A part that changes itself before it refuses a state."""

    def __init__(self) -> None:
        self.x = 1

    def state_dict(self) -> dict[str, int]:
        return {"x": self.x}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.x = state["x"]
        if self.x == 2:
            raise KeyboardInterrupt if self.interrupted else RuntimeError("two")

    interrupted = False


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_part_that_fails_halfway_is_put_back_too(tmp_path: Path, interrupted: bool) -> None:
    part, path = Halfway(), tmp_path / "file"
    part.x = 2
    tg.serialization.save_checkpoint(path, part=part)
    part.x, part.interrupted = 1, interrupted
    with pytest.raises(KeyboardInterrupt if interrupted else ValueError):
        tg.serialization.load_checkpoint(path).restore(part=part)
    assert part.x == 1


_TRAINING = """
import sys, zlib
import numpy as np
import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

resumed, path = sys.argv[1] == "resumed", sys.argv[2]
tg.manual_seed(0)
model = nn.Sequential(nn.Embedding(50, 32), nn.Dropout(0.2), nn.LSTM(32, 64), nn.Linear(64, 50))
optimizer = optim.Adam(model.parameters())
begin = 0
if resumed:
    tg.serialization.load_checkpoint(path).restore(model=model, optimizer=optimizer)
    begin = 3
for step in range(begin, 5):
    if step == 3 and not resumed:
        tg.serialization.save_checkpoint(path, model=model, optimizer=optimizer)
    ids = np.random.default_rng(step).integers(0, 50, (33, 16))
    loss = tg.cross_entropy(tg.moveaxis(model(ids[:-1]), -1, 1), ids[1:])
    optimizer.zero_grad()
    loss.backward()
    optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
print(zlib.crc32(b"".join(p.numpy().tobytes() for p in model.parameters())))
"""


def test_another_process_goes_on_bit_for_bit_where_kernels_do_the_losses(tmp_path: Path) -> None:
    """What is large enough runs literally when a process meets it for the first time."""
    found = [
        subprocess.run(
            [sys.executable, "-c", _TRAINING, how, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for how in ("whole", "resumed")
    ]
    assert found[0] == found[1]
