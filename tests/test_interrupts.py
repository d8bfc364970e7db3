"""An interrupt finds everything as it was, or everything as it should be, wherever it comes.

CPython looks for signals, and for exceptions sent to a thread, where a function begins, where a
loop jumps back and after each call. These places get an interrupt, by ``sys.settrace``; and real
signals come in a training loop.
"""

from __future__ import annotations

import dis
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
import tinygrad_rnn_backends
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches
from tinygrad_rnn.serialization import load_checkpoint, save_checkpoint

# Not what lies in an environment within a folder of that name, as Hypothesis's callbacks of gc do.
LIBRARY = tuple(str(Path(module.__file__).parent) for module in (tg, tinygrad_rnn_backends))

OPTIMISERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": lambda params: optim.SGD(params, momentum=0.9),
    "RMSprop": lambda params: optim.RMSprop(params, momentum=0.5, centered=True),
    "Adagrad": optim.Adagrad,
    "Adadelta": optim.Adadelta,
    "Adam": lambda params: optim.Adam(params, amsgrad=True),
    "AdamW": optim.AdamW,
    "SparseAdam": optim.SparseAdam,
}


@cache
def instructions(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


@contextmanager
def interrupted(after: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt once, at the so many-th place where the library can be interrupted.

    Gives a list of how many there were; what was raised is let pass.
    """
    count, last = [0], dict[FrameType, str]()

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(LIBRARY):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            this = instructions(frame.f_code).get(frame.f_lasti, "")
            called, last[frame] = last.get(frame, ""), this
            if called.startswith("CALL") or this in ("RESUME", "JUMP_BACKWARD"):
                count[0] += 1
                if count[0] == after:
                    sys.settrace(None)
                    raise KeyboardInterrupt
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield count
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)


def all_or_none(
    make: Callable[[], Any], act: Callable[[Any], Any], look: Callable[[Any], Any]
) -> None:
    """Interrupt ``act(make())`` all over it, and at each of the last places."""
    untouched, done = look(make()), make()
    with interrupted(0) as count:
        act(done)
    after = look(done)
    assert after != untouched
    changing = [False, False]
    # What comes last is what changes something; of what only computes, some places will do.
    places = {*range(1, count[0], 37), *range(max(1, count[0] - 60), count[0] + 1)}
    for place in sorted(places):
        subject = make()
        with interrupted(place):
            act(subject)
        found = look(subject)
        assert found in (untouched, after), f"half done by an interrupt at place {place}"
        changing[found == after] = True
    assert all(changing), "the interrupts came before it or after it only"


def values(x: Any) -> Any:
    """Arrays and Tensors as what can be compared, bit by bit."""
    if isinstance(x, dict):
        return {key: values(part) for key, part in x.items()}
    if isinstance(x, (list, tuple)):
        return [values(part) for part in x]
    array = x.numpy() if isinstance(x, tg.Tensor) else x
    return (array.dtype.str, array.shape, array.tobytes()) if isinstance(array, np.ndarray) else x


def model() -> nn.Module:
    tg.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def give_gradients(module: nn.Module, scale: float = 1.0) -> None:
    for i, p in enumerate(module.parameters()):
        p.grad = tg.full(p.shape, scale * (i + 1))


def training(kind: str) -> tuple[nn.Module, optim.Optimizer]:
    """After one step, about to take the next."""
    module = model()
    optimizer = OPTIMISERS[kind](module.parameters())
    give_gradients(module)
    optimizer.step()
    give_gradients(module, 0.5)
    return module, optimizer


def all_of(run: tuple[Any, ...]) -> Any:
    versions = [p._node.version for p in run[0].parameters()]
    return values([[part.state_dict() for part in run], versions])


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_a_step_is_taken_by_all_parameters_or_by_none(kind: str) -> None:
    all_or_none(lambda: training(kind), lambda run: run[1].step(), all_of)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad, optim.SparseAdam])
def test_rows_are_written_in_all_parameters_or_in_none(kind: Any) -> None:
    def about_to_step() -> tuple[nn.Module, optim.Optimizer]:
        tg.manual_seed(0)
        module = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2))
        optimizer = kind(module.parameters(), lr=0.1)
        for step in range(2):
            optimizer.zero_grad()
            module(tg.tensor([step, 3, 3])).sum().backward()
            if not step:
                optimizer.step()
        return module, optimizer

    all_or_none(about_to_step, lambda run: run[1].step(), all_of)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_an_optimiser_takes_over_a_state_or_not(kind: str) -> None:
    def fresh() -> tuple[nn.Module, optim.Optimizer]:
        module = model()
        return module, OPTIMISERS[kind](module.parameters())

    saved = training(kind)[1].state_dict()
    all_or_none(fresh, lambda run: run[1].load_state_dict(saved), all_of)


def test_a_module_takes_over_weights_or_not() -> None:
    saved = training("SGD")[0].state_dict()
    all_or_none(lambda: (model(),), lambda run: run[0].load_state_dict(saved), all_of)


def test_a_module_moves_or_stays() -> None:
    def backends(module: nn.Module) -> list[str]:
        return [x.backend for p in module.parameters() for x in (p, p.grad)]

    def with_gradients() -> nn.Module:
        module = model()
        give_gradients(module)
        return module

    all_or_none(with_gradients, lambda module: module.to("array_api_strict"), backends)


@pytest.mark.parametrize("clip", [optim.clip_grad_norm_, optim.clip_grad_value_])
def test_all_gradients_are_clipped_or_none(clip: Any) -> None:
    def with_gradients() -> nn.Module:
        module = model()
        give_gradients(module)
        return module

    def gradients(module: nn.Module) -> Any:
        return values([p.grad for p in module.parameters()])

    all_or_none(with_gradients, lambda module: clip(module.parameters(), 0.5), gradients)


def scheduled(plateau: bool) -> tuple[nn.Module, optim.Optimizer, Any]:
    module = model()
    first, second = module.parameters(), iter([tg.ones(1, requires_grad=True)])
    optimizer = optim.SGD([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.2}])
    if plateau:
        return module, optimizer, optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return module, optimizer, optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


@pytest.mark.parametrize("plateau", [False, True])
def test_a_schedule_steps_or_not(plateau: bool) -> None:
    measured = (np.nan,) if plateau else ()
    all_or_none(lambda: scheduled(plateau), lambda run: run[2].step(*measured), all_of)


@pytest.mark.parametrize("plateau", [False, True])
def test_a_schedule_takes_over_a_state_or_not(plateau: bool) -> None:
    run = scheduled(plateau)
    run[2].step(*((np.nan,) if plateau else ()))
    saved = run[2].state_dict()
    all_or_none(lambda: scheduled(plateau), lambda run: run[2].load_state_dict(saved), all_of)


def test_a_group_is_added_or_not() -> None:
    more = [("x", tg.ones(2, requires_grad=True)), ("y", tg.ones(1, requires_grad=True))]

    def kept(optimizer: optim.Optimizer) -> Any:
        return [len(group["params"]) for group in optimizer.param_groups], list(optimizer._names)

    def add(optimizer: optim.Optimizer) -> None:
        optimizer.add_param_group({"params": more})

    all_or_none(lambda: optim.SGD(model().parameters()), add, kept)


def test_the_last_batch_of_an_epoch_skips_no_epoch() -> None:
    for place in range(1, 400):
        batches = Batches(range(4), 2, seed=0)
        with interrupted(place):
            list(batches)
        assert (batches.epoch, batches.position) in [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_a_checkpoint_is_restored_or_not(tmp_path: Path) -> None:
    def run(steps: int) -> dict[str, Any]:
        module = model()
        optimizer = optim.Adam(module.parameters())
        batches = Batches(range(9), 2, seed=0)
        for _ in range(steps):
            give_gradients(module)
            optimizer.step()
            next(iter(batches))
            tg.random.uniform(1)
        return {"model": module, "optimizer": optimizer, "batches": batches}

    def look(parts: dict[str, Any]) -> Any:
        return values([part.state_dict() for part in parts.values()]), tg.random.get_state()

    save_checkpoint(tmp_path / "file", **run(3))
    checkpoint = load_checkpoint(tmp_path / "file")
    before = look(run(1))
    with interrupted(0) as count:
        checkpoint.restore(**(parts := run(1)))
    after, found = look(parts), []
    for place in range(1, count[0] + 1, 11):
        parts = run(1)
        with interrupted(place):
            checkpoint.restore(**parts)
        found.append(look(parts))
    assert before != after
    assert all(each in (before, after) for each in found)


@pytest.mark.skipif(
    not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread(),
    reason="no timers that send signals",
)
@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_real_interrupts_in_a_training_loop_leave_no_step_half_done(kind: str) -> None:
    """The step counts, known from what each parameter has become, are the same for all."""
    params = [tg.zeros(1, requires_grad=True) for _ in range(20)]
    optimizer = OPTIMISERS[kind](params)

    def interrupt(number: int, frame: Any) -> None:
        # Where others call back, as the garbage collector does, it would be lost: a little later.
        if not frame.f_code.co_filename.startswith(LIBRARY):
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
            return
        raise KeyboardInterrupt

    before, hits = signal.signal(signal.SIGALRM, interrupt), 0
    try:
        for delay in np.linspace(2e-5, 2e-3, 100).tolist():
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                for _ in range(1000):
                    for p in params:
                        p.grad = tg.ones(1)
                    optimizer.step()
            except KeyboardInterrupt:
                hits += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert len({p.numpy().tobytes() for p in params}) == 1
            assert len({str(values(state)) for state in optimizer.state.values()}) <= 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert hits > 50
