"""Interrupts, signal handlers, forks and the end of the process, while machine code runs.

What goes wrong here ends the process, or hangs it, so each case has a process of its own. Memory of
100 kB is taken from the system there and given back to it at once: whoever uses it later dies.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.kernels.cpu import threads

ROOT = Path(__file__).resolve().parents[2]

LOOP = """
import ctypes, faulthandler, os, random, signal, sys, threading, time
import numpy as np
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.kernels.ir import Loop, Product, Slot, Timetable

faulthandler.enable()
native.SHARE = 1e-6  # each row is worth a thread
count, width = 8, 256

def slot(buffer, place):
    return Slot(buffer, place, 0, width, width)

product = Product(slot(0, "before"), slot(1, "all"), slot(0, "after"), False)
(compiled,) = native.compile([Loop((product,), False)])
starts = np.arange(40) * count
table = Timetable(starts, starts, starts + count, np.full(40, count), np.arange(40))

def run():
    states = np.ones((41 * count, width), np.float32)
    compiled([states, np.eye(width, dtype=np.float32)], table, None, 3)
    return states
"""

LITERAL = """
import ctypes, faulthandler, os, random, signal, sys, threading, time
import numpy as np
import tinygrad_rnn as tg
from tinygrad_rnn.kernels import products
from tinygrad_rnn.kernels.cpu import run as native

faulthandler.enable()
native.SHARE = 1e-6  # each row is worth a thread
products.threads = lambda: 3
assert products.ours()

def run():
    x = tg.ones((8, 300, 200)) @ tg.eye(200)
    return (x @ tg.tensor(np.broadcast_to(np.eye(200, dtype=np.float32), (8, 200, 200)))).numpy()
"""

TRAIN = """
import faulthandler, os, signal, sys, threading, time
import numpy as np
import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn_backends import locks

faulthandler.enable()
faulthandler.dump_traceback_later(60, exit=True)
x = tg.tensor(np.ones((12, 4, 8), np.float32))

def model(hidden=24):
    return nn.VariationalDropout(nn.LSTMCell(8, hidden), 0.5)

def step(cell):
    y, _ = tg.unroll(cell, x, mode="planned")
    tg.square(y).sum().backward()
"""


def output(*source: str, arguments: tuple[str, ...] = ()) -> str:
    """What a program prints, which has to end well."""
    paths = [str(ROOT), str(ROOT / "backends"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "MALLOC_MMAP_THRESHOLD_": "100000",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join(source), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


INTERRUPTS = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
ident = threading.get_ident()
send = {
    "exception": lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
    ),
    "signal": lambda: os.kill(os.getpid(), signal.SIGINT),
}[sys.argv[1]]
caught, ready = 0, threading.Semaphore(0)

def interrupt():
    for _ in range(300):
        ready.acquire()
        time.sleep(random.uniform(0, 0.004))
        send()

expected = run()
assert (expected == 1).all()
threading.Thread(target=interrupt, daemon=True).start()
while caught < 300:
    try:
        ready.release()  # from here on: an interrupt anywhere else would be caught by nobody
        while True:
            run()
    except KeyboardInterrupt:
        caught += 1
assert (run() == expected).all()
print(caught)
"""


@pytest.mark.skipif(native.available() is not None, reason="no kernels without llvmlite")
@pytest.mark.parametrize("source", [LOOP, LITERAL], ids=["a loop", "products"])
@pytest.mark.parametrize("kind", ["exception", "signal"])
def test_interrupts_while_several_threads_work_are_just_interrupts(source: str, kind: str) -> None:
    if kind == "signal" and not hasattr(os, "register_at_fork"):
        pytest.skip("signals of this kind are of POSIX")
    assert output(source, INTERRUPTS, arguments=(kind,)) == "300\n"


HELD = """
cell = model()
step(cell)
for held in list(locks._known):
    with held:
        signal.signal(signal.SIGUSR1, lambda *_: step(nn.LSTMCell(8, 25)))
        os.kill(os.getpid(), signal.SIGUSR1)
        step(cell)
print("done")
"""

OFTEN = """
cell, other, times = model(), nn.LSTMCell(8, 25), [0]
step(cell), step(other)

def handler(*_):
    step(other)
    times[0] += 1
    signal.setitimer(signal.ITIMER_REAL, 0.003 * times[0] % 0.0071)

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003)
while times[0] < 150:
    step(cell)
    if times[0] % 50 == 49:
        tg.plan_cache().clear()
        times[0] += 1
signal.signal(signal.SIGALRM, signal.SIG_IGN)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
@pytest.mark.parametrize("source", [HELD, OFTEN], ids=["at each lock", "at any time"])
def test_a_signal_handler_may_train(source: str) -> None:
    assert output(TRAIN, source) == "done\n"


FORKS = """
def wait_for(child):
    for _ in range(2000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, status
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGABRT)  # with a traceback
    sys.exit("a child hangs")

def child(own):
    tg.manual_seed(1)
    step(own)
    os._exit(0)

cell = model()
step(cell)

# Every lock is held by another thread.
taken, go_on = threading.Event(), threading.Event()

def hold():
    held = [lock for lock in list(locks._known) if lock is not compiling]
    for lock in held:
        lock.acquire()
    taken.set()
    go_on.wait()
    for lock in held:
        lock.release()

from tinygrad_rnn.kernels.cpu.run import _compiling as compiling
holder = threading.Thread(target=hold)
holder.start()
taken.wait()
pid = os.fork() or child(model(25))
go_on.set()
holder.join()
wait_for(pid)

# Other threads train.
ends = []

def train(hidden):
    own = model(hidden)
    while not ends:
        step(own)

trainers = [threading.Thread(target=train, args=(hidden,)) for hidden in (24, 26)]
for trainer in trainers:
    trainer.start()
for _ in range(30):
    wait_for(os.fork() or child(cell))
ends.append(True)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_threads_train_can_train() -> None:
    assert output(TRAIN, FORKS) == "done\n"


PRODUCTS = """
import threading
import numpy as np
from tinygrad_rnn.kernels.cpu import run as native

a, b = np.ones((64, 600), np.float32), np.ones((600, 600), np.float32)
native.SHARE = 1e-6
ready = threading.Semaphore(0)

def work(threads):
    out = np.empty((64, 600), np.float32)
    for number in range(10**9):
        native.product(a, b, out, threads=threads)
        if number == 2:
            ready.release()

for threads in (1, 1, 2):
    threading.Thread(target=work, args=(threads,), daemon=True).start()
for _ in range(3):
    ready.acquire()
"""

AT_EXIT = """
import atexit
from tinygrad_rnn.kernels.cpu.threads import end

def last():
    out = np.empty((64, 600), np.float32)
    native.product(a, b, out, threads=2)
    print(out.min())

atexit._clear()
atexit.register(last)  # runs after the end of the threads
atexit.register(end)
"""


@pytest.mark.skipif(native.available() is not None, reason="no kernels without llvmlite")
@pytest.mark.parametrize("run", range(3))
def test_the_process_ends_well_while_daemon_threads_multiply(run: int) -> None:
    assert output(PRODUCTS) == ""


@pytest.mark.skipif(native.available() is not None, reason="no kernels without llvmlite")
def test_what_runs_at_exit_may_still_multiply() -> None:
    assert output(PRODUCTS, AT_EXIT) == "600.0\n"


# Threads that cannot be had.


def test_without_threads_all_calls_are_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    made: list[int] = []
    workers = threads._Workers()
    workers.run([lambda i=i: made.append(i) for i in range(3)])  # type: ignore[misc]
    assert made == [0, 1, 2]
    workers.close()


def test_an_error_in_a_call_waits_for_the_others() -> None:
    workers, begun, made = threads._Workers(), threading.Event(), []

    def slow() -> None:
        begun.set()
        made.append(threading.Event().wait(0.05))

    def fail() -> None:
        begun.wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        workers.run([fail, slow])
    assert made == [False]
    workers.close()


def test_every_lock_is_one_that_survives_forks_and_signals() -> None:
    """But for those that only this module's threads wait for, and that a child throws away."""
    made = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("tinygrad_rnn", "backends")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in ("locks.py", "threads.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"threading\.(R?Lock|Condition|Semaphore|Event)\(", line)
    ]
    assert not made
