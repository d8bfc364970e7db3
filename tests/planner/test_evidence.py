"""The default mode against the literal loop, for cells that are not pure, in all ways of not being.

Each kind is a function that makes a new cell, with counters of its own at their start. Several
calls of the default mode on one such cell must give, bit for bit, what the same calls give
literally on another one; for a cell that is pure, to rounding.

The subtle point is what is compared: not only numbers, but how often the cell was called. A cell
that counts, and is called once more than the loop calls it, is out of phase for good.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import contextvars
import copy
import ctypes
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import hashlib
import importlib
import itertools
import operator
import os
import pathlib
import queue
import random as python_random
import re
import sys
import tempfile
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from op_table import ROWS as OPERATIONS
from op_table import examples
from tinygrad_rnn import nn
from tinygrad_rnn.planner import evidence, trust
from tinygrad_rnn.planner.planner import planner
from tinygrad_rnn.planner.standing import Standing
from tinygrad_rnn.structure import flatten

STEPS, ROWS, WIDTH = 9, 2, 3
U = tg.tensor(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)) * 0.4, requires_grad=True)
XS = tg.tensor(np.random.default_rng(8).normal(size=(STEPS, ROWS, WIDTH)))
H = tg.zeros((ROWS, WIDTH), dtype="float64")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As if no cell had been met before, here and in the tests that follow."""
    planner.cells.clear()
    tg.plan_cache().clear()
    yield
    planner.cells.clear()


def step(x: Any, h: Any) -> Any:
    return tg.tanh(x + h @ U)


# Cells that are not pure. Each looks at something that changes, every third or fourth time.

COUNT = 0
BOX = types.SimpleNamespace(count=0)
ARRAY = np.zeros(1, dtype=int)
NAMES = {"count": 0}
TABLE = tg.zeros((ROWS, WIDTH), dtype="float64")
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("count", default=0)
LOCAL = threading.local()


def tick() -> int:
    global COUNT
    COUNT += 1
    return COUNT


def halved(h: Any, now: bool) -> Any:
    return h * 0.5 if now else h


def global_through_a_helper() -> Any:
    global COUNT
    COUNT = 0

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, tick() % 4 == 0), h

    return cell


class Ticking:
    def __init__(self) -> None:
        self.count = 0

    def tick(self) -> int:
        self.count += 1
        return self.count


def method_of_an_object() -> Any:
    clock = Ticking()

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, clock.tick() % 4 == 0), h

    return cell


def attribute_of_itself() -> Any:
    class Cell(nn.Module):
        def __init__(self) -> None:
            self.t = 0

        def forward(self, x: Any, h: Any) -> Any:
            self.t += 1
            h = step(x, h)
            return halved(h, self.t % 4 == 0), h

    return Cell()


def bound_method() -> Any:
    class Model(nn.Module):
        t = 0

        def step(self, x: Any, h: Any) -> Any:
            self.t += 1
            h = step(x, h)
            return halved(h, self.t % 4 == 0), h

    return Model().step


def class_attribute() -> Any:
    class Cell:
        t = 0

        def __call__(self, x: Any, h: Any) -> Any:
            type(self).t += 1
            h = step(x, h)
            return halved(h, Cell.t % 4 == 0), h

    return Cell()


def slots() -> Any:
    class Cell:
        __slots__ = ("__weakref__", "t")

        def __init__(self) -> None:
            self.t = 0

        def __call__(self, x: Any, h: Any) -> Any:
            self.t += 1
            h = step(x, h)
            return halved(h, self.t % 4 == 0), h

    return Cell()


def property_that_counts() -> Any:
    class Cell:
        def __init__(self) -> None:
            self._t = 0

        @property
        def t(self) -> int:
            self._t += 1
            return self._t

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return halved(h, self.t % 4 == 0), h

    return Cell()


def iterator() -> Any:
    flags = iter([False, False, True] * 100)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, next(flags)), h

    return cell


def counted_by_itertools() -> Any:
    count = itertools.count(1)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, next(count) % 40 == 0), h

    return cell


def cycle_in_an_attribute() -> Any:
    class Cell:
        def __init__(self) -> None:
            self.flags = itertools.cycle([False] * 11 + [True])

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return halved(h, next(self.flags)), h

    return Cell()


def generator() -> Any:
    def numbers() -> Iterator[int]:
        n = 0
        while True:
            n += 1
            yield n

    source = numbers()

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, next(source) % 30 == 0), h

    return cell


def default_argument() -> Any:
    def cell(x: Any, h: Any, count: list[int] = [0]) -> Any:  # noqa: B006
        count[0] += 1
        h = step(x, h)
        return halved(h, count[0] % 4 == 0), h

    return cell


def array_written_in_place() -> Any:
    ARRAY[:] = 0

    def cell(x: Any, h: Any) -> Any:
        ARRAY[0] += 1
        h = step(x, h)
        return halved(h, ARRAY[0] % 10 == 0), h

    return cell


def shared_memory() -> Any:
    memory = np.ones(WIDTH)
    scale = tg.asarray(memory)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h) * scale
        memory[0] *= 0.9
        return h, h

    return cell


def numpy_array_used_as_it_is() -> Any:
    scale = np.ones(WIDTH)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h) * scale
        scale[0] *= 0.9
        return h, h

    return cell


def popped_list() -> Any:
    flags = [False, False, True] * 100

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, flags.pop()), h

    return cell


def deque_of_states() -> Any:
    mail = collections.deque([tg.zeros((ROWS, WIDTH), dtype="float64")] * 2, maxlen=2)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h) + mail[0]
        mail.append(h.detach())
        return h, h

    return cell


def set_that_grows() -> Any:
    seen: set[int] = set()

    def cell(x: Any, h: Any) -> Any:
        seen.add(len(seen))
        h = step(x, h)
        return halved(h, len(seen) % 4 == 0), h

    return cell


def dict_of_counts() -> Any:
    NAMES["count"] = 0

    def cell(x: Any, h: Any) -> Any:
        NAMES["count"] += 1
        h = step(x, h)
        return halved(h, NAMES["count"] % 20 == 0), h

    return cell


def queue_of_flags() -> Any:
    flags: Any = queue.Queue()
    for n in range(100):
        flags.put(n % 20 == 19)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, flags.get_nowait()), h

    return cell


def simple_queue() -> Any:
    flags: Any = queue.SimpleQueue()
    for n in range(100):
        flags.put(n % 20 == 19)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, flags.get()), h

    return cell


def opened_file(folder: str = "") -> Any:
    file = open(__file__)  # noqa: SIM115

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, "import" in file.readline()), h

    cell.close = file.close  # type: ignore[attr-defined]
    return cell


def pythons_random() -> Any:
    python_random.seed(1)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, python_random.random() < 0.05), h

    return cell


def pythons_choice() -> Any:
    python_random.seed(2)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, python_random.choice([True] + [False] * 15)), h

    return cell


def numpys_random() -> Any:
    np.random.seed(1)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, float(np.random.rand()) < 0.05), h

    return cell


def generator_in_a_closure() -> Any:
    rng = np.random.default_rng(3)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, bool(rng.random() < 0.05)), h

    return cell


def generator_from_elsewhere() -> Any:
    rng = np.random.default_rng(3)
    holder = {"rng": rng}

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return h * float(holder["rng"].uniform(0.9, 1.1)), h

    return cell


def random_in_an_attribute() -> Any:
    class Cell:
        def __init__(self) -> None:
            self.rng = python_random.Random(5)

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return halved(h, self.rng.random() < 0.05), h

    return Cell()


def scheduled_sampling() -> Any:
    rng = np.random.RandomState(4)

    def cell(x: Any, state: Any) -> Any:
        y = step(state if rng.uniform() < 0.1 else x, state)
        return y, y

    return cell


def draws_and_does_nothing() -> Any:
    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, np.random.rand() < 0), h

    return cell


def swapped_names() -> Any:
    a, b = 1.0, 2.0

    def cell(x: Any, h: Any) -> Any:
        nonlocal a, b
        a, b = b, a
        h = step(x * a, h)
        return h, h

    return cell


def swapped_tensors() -> Any:
    pair = [tg.ones((WIDTH,), dtype="float64"), tg.full((WIDTH,), 2.0, dtype="float64")]

    def cell(x: Any, h: Any) -> Any:
        pair.reverse()
        h = step(x * pair[0], h)
        return h, h

    return cell


def rebound_global_tensor() -> Any:
    global TABLE
    TABLE = tg.zeros((ROWS, WIDTH), dtype="float64")

    def cell(x: Any, h: Any) -> Any:
        global TABLE
        h = step(x, h) + TABLE
        TABLE = h.detach() * 0.1
        return h, h

    return cell


def rebound_data() -> Any:
    count = tg.tensor(0.0, dtype="float64")

    def cell(x: Any, h: Any) -> Any:
        count.data = count.data + 1
        h = step(x, h) * (1.0 / (1.0 + count))
        return h, h

    return cell


def keeps_the_state_before() -> Any:
    class Cell:
        before: Any = None

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h) if self.before is None else step(x, h) + self.before
            self.before = h.detach()
            return h, h

    return Cell()


def environment() -> Any:
    os.environ["TINYGRAD_RNN_TEST_COUNT"] = "0"

    def cell(x: Any, h: Any) -> Any:
        n = int(os.environ["TINYGRAD_RNN_TEST_COUNT"]) + 1
        os.environ["TINYGRAD_RNN_TEST_COUNT"] = str(n)
        h = step(x, h)
        return halved(h, n % 20 == 0), h

    return cell


def context_variable() -> Any:
    VARIABLE.set(0)

    def cell(x: Any, h: Any) -> Any:
        VARIABLE.set(VARIABLE.get() + 1)
        h = step(x, h)
        return halved(h, VARIABLE.get() % 20 == 0), h

    return cell


def thread_local() -> Any:
    LOCAL.count = 0

    def cell(x: Any, h: Any) -> Any:
        LOCAL.count += 1
        h = step(x, h)
        return halved(h, LOCAL.count % 20 == 0), h

    return cell


def attribute_of_the_function() -> Any:
    def cell(x: Any, h: Any) -> Any:
        cell.count += 1  # type: ignore[attr-defined]
        h = step(x, h)
        return halved(h, cell.count % 20 == 0), h  # type: ignore[attr-defined]

    cell.count = 0  # type: ignore[attr-defined]
    return cell


def namespace_by_getattr() -> Any:
    BOX.count = 0

    def cell(x: Any, h: Any) -> Any:
        setattr(BOX, "count", getattr(BOX, "count") + 1)  # noqa: B009, B010
        h = step(x, h)
        return halved(h, BOX.count % 20 == 0), h

    return cell


def globals_by_name() -> Any:
    global COUNT
    COUNT = 0

    def cell(x: Any, h: Any) -> Any:
        globals()["COUNT"] += 1
        h = step(x, h)
        return halved(h, globals()["COUNT"] % 20 == 0), h

    return cell


def another_module() -> Any:
    import both_ways

    both_ways.test_count = 0  # type: ignore[attr-defined]

    def cell(x: Any, h: Any) -> Any:
        import both_ways as other

        other.test_count += 1  # type: ignore[attr-defined]
        h = step(x, h)
        return halved(h, other.test_count % 20 == 0), h  # type: ignore[attr-defined]

    return cell


def bytes_in_place() -> Any:
    buffer = bytearray(1)

    def cell(x: Any, h: Any) -> Any:
        buffer[0] += 1
        h = step(x, h)
        return halved(h, buffer[0] % 20 == 0), h

    return cell


def partial_with_a_counter() -> Any:
    def count_and_step(counter: list[int], x: Any, h: Any) -> Any:
        counter[0] += 1
        h = step(x, h)
        return halved(h, counter[0] % 20 == 0), h

    return functools.partial(count_and_step, [0])


def branch_on_a_value() -> Any:
    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, h.sum().item() > 0.5), h

    return cell


def branch_by_numpy() -> Any:
    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, bool(np.asarray(h).max() > 0.9)), h

    return cell


def a_wrapper_of_the_librarys() -> Any:
    return nn.Zoneout(Counting(), 0.0)


class Counting(nn.Module):
    def __init__(self) -> None:
        self.t = 0

    def initial_state(self, shape: Any, dtype: Any, backend: Any) -> Any:
        return tg.zeros((*shape, WIDTH), dtype=dtype, backend=backend)

    def forward(self, x: Any, h: Any) -> Any:
        self.t += 1
        h = step(x, h)
        return halved(h, self.t % 20 == 0), h


def activation_of_the_users() -> Any:
    clock = Ticking()
    tg.manual_seed(0)

    def activation(x: Any) -> Any:
        return halved(tg.tanh(x), clock.tick() % 20 == 0)

    tg.set_default_dtype("float64")
    cell = nn.RNNCell(WIDTH, WIDTH, nonlinearity=activation)
    tg.set_default_dtype("float32")
    return cell


def period_that_closes() -> Any:
    """What it counts by is, after the last step of a call, what it was after the first."""
    phase = [0]

    def cell(x: Any, h: Any) -> Any:
        phase[0] = (phase[0] + 1) % 8
        h = step(x, h)
        return halved(h, phase[0] == 5 and NAMES["count"] > 20), h

    return cell


def list_of_results() -> Any:
    log: list[Any] = []

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        log.append(h)
        return halved(h, len(log) % 20 == 0), h

    return cell


def captured_index() -> Any:
    order = tg.tensor([0, 1, 2])

    def cell(x: Any, h: Any) -> Any:
        order.data = np.roll(order.numpy(), 1)
        h = tg.take(step(x, h), order, axis=1)
        return h, h

    return cell


def clock() -> Any:
    start = time.perf_counter()

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, time.perf_counter() < start), h

    return cell


def date() -> Any:
    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, datetime.datetime.now().year < 2000), h

    return cell


def made_by_a_metaclass() -> Any:
    class Meta(type):
        count = 0

    class Cell(metaclass=Meta):
        def __call__(self, x: Any, h: Any) -> Any:
            Meta.count += 1
            h = step(x, h)
            return halved(h, Meta.count % 20 == 0), h

    return Cell()


def instance_of_its_own_dict() -> Any:
    class Cell(dict):  # type: ignore[type-arg]
        def __call__(self, x: Any, h: Any) -> Any:
            self["t"] = self.get("t", 0) + 1
            h = step(x, h)
            return halved(h, self["t"] % 20 == 0), h

    return Cell()


def decorated() -> Any:
    calls = [0]

    def counted(f: Any) -> Any:
        @functools.wraps(f)
        def inner(*args: Any) -> Any:
            calls[0] += 1
            y, h = f(*args)
            return halved(y, calls[0] % 20 == 0), h

        return inner

    @counted
    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return h, h

    return cell


def weak_reference() -> Any:
    clock = Ticking()
    ref = weakref.ref(clock)

    def cell(x: Any, h: Any, kept: Any = clock) -> Any:
        found = ref()
        assert found is not None
        h = step(x, h)
        return halved(h, found.tick() % 20 == 0), h

    return cell


def static_method() -> Any:
    class Cell:
        calls = [0]  # noqa: RUF012

        @staticmethod
        def count() -> int:
            Cell.calls[0] += 1
            return Cell.calls[0]

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return halved(h, self.count() % 20 == 0), h

    return Cell()


def draws_at_every_third_step() -> Any:
    count = [0]

    def cell(x: Any, h: Any) -> Any:
        count[0] += 1
        h = step(x, h)
        return h if count[0] % 3 else tg.dropout(h, 0.5), h

    return cell


def grad_mode() -> Any:
    count = [0]

    def cell(x: Any, h: Any) -> Any:
        count[0] += 1
        if count[0] % 3:
            h = step(x, h)
        else:
            with tg.no_grad():
                h = step(x, h)
        return h, h

    return cell


# The same for what counts in less usual places: each gives a function that is True now and then.


def by_context_manager() -> Any:
    n = [0]

    @contextlib.contextmanager
    def counted() -> Iterator[int]:
        n[0] += 1
        yield n[0]

    def now() -> bool:
        with counted() as count:
            return count % 17 == 0

    return now


def by_ctypes() -> Any:
    number = ctypes.c_int(0)

    def now() -> bool:
        number.value += 1
        return number.value % 17 == 0

    return now


def by_a_digest() -> Any:
    digest = hashlib.sha256()

    def now() -> bool:
        digest.update(b"x")
        return digest.digest()[0] % 7 == 0

    return now


def by_spawning() -> Any:
    seeds = np.random.SeedSequence(1)
    return lambda: bool(seeds.spawn(1)) and seeds.n_children_spawned % 17 == 0


def by_eval() -> Any:
    n = [0]
    return lambda: eval("n.append(1)", {"n": n}) is None and len(n) % 17 == 0


def by_a_builtin_of_ones_own() -> Any:
    builtins.counted_by_a_test = [0]  # type: ignore[attr-defined]

    def now() -> bool:
        counted_by_a_test[0] += 1  # type: ignore[name-defined] # noqa: F821
        return counted_by_a_test[0] % 17 == 0  # type: ignore[name-defined,no-any-return] # noqa: F821

    return now


def by_another_thread() -> Any:
    box = [0]

    def now() -> bool:
        thread = threading.Thread(target=lambda: box.__setitem__(0, box[0] + 1))
        thread.start()
        thread.join()
        return box[0] % 17 == 0

    return now


def by_a_file() -> Any:
    path = pathlib.Path(tempfile.mkdtemp()) / "count"
    path.write_text("0")

    def now() -> bool:
        count = int(path.read_text()) + 1
        path.write_text(str(count))
        return count % 17 == 0

    return now


def by_the_generator_of_weights() -> Any:
    return lambda: tg.random.host_generator().random() < 0.05


def by_rotating() -> Any:
    turns = collections.deque(range(17))
    return lambda: turns.rotate(1) is None and turns[0] == 0


def by_a_descriptor() -> Any:
    class Counts:
        n = 0

        def __get__(self, owner: Any, kind: Any) -> int:
            Counts.n += 1
            return Counts.n

    class Holder:
        n = Counts()

    holder = Holder()
    return lambda: holder.n % 17 == 0


def by_a_property_of_a_class() -> Any:
    class Meta(type):
        count = 0

        @property
        def n(cls) -> int:
            Meta.count += 1
            return Meta.count

    class Holder(metaclass=Meta):
        pass

    return lambda: Holder.n % 17 == 0


def by_a_method_of_a_list() -> Any:
    pop = [n % 17 == 0 for n in range(100)].pop
    return lambda: pop()


def by_a_structured_array() -> Any:
    array = np.zeros(1, dtype=[("n", "i4")])

    def now() -> bool:
        array["n"] += 1
        return int(array["n"][0]) % 17 == 0

    return now


def by_an_attribute_of_a_tensor() -> Any:
    class Counted(nn.Parameter):
        count = 0

    parameter = Counted(tg.ones(3))

    def now() -> bool:
        parameter.count += 1
        return parameter.count % 17 == 0

    return now


def by_a_weak_dict() -> Any:
    counts: Any = weakref.WeakKeyDictionary()
    key = Ticking()
    counts[key] = 0

    def now() -> bool:
        counts[key] += 1
        return bool(counts[key] % 17 == 0)

    return now


def by_an_enum() -> Any:
    class Phase(enum.Enum):
        A = [0]  # noqa: RUF012

    def now() -> bool:
        Phase.A.value[0] += 1
        return Phase.A.value[0] % 17 == 0

    return now


def by_an_attribute_of_a_member() -> Any:
    class Phase(enum.Enum):
        A = 1

    member: Any = Phase.A
    member.count = 0

    def now() -> bool:
        member.count += 1
        return bool(member.count % 17 == 0)

    return now


def by_a_method_of_a_metaclass() -> Any:
    class Meta(type):
        count = 0

        def tick(cls) -> int:
            Meta.count += 1
            return Meta.count

    class Holder(metaclass=Meta):
        pass

    holder = Holder()
    return lambda: type(holder).tick() % 17 == 0  # type: ignore[attr-defined]


def by_a_name_that_is_made(space: Any) -> Any:
    space.count_1 = 0

    def now() -> bool:
        name = f"count_{len('1')}"
        setattr(space, name, getattr(space, name) + 1)
        return bool(getattr(space, name) % 17 == 0)

    return now


def by_a_name_that_is_made_of_a_class() -> Any:
    return by_a_name_that_is_made(type("Holder", (), {}))


def by_a_name_that_is_made_of_a_module() -> Any:
    return by_a_name_that_is_made(types.ModuleType("counted_by_name"))


def by_what_an_attrgetter_finds() -> Any:
    module: Any = types.ModuleType("found_by_a_test")
    exec("n = 0\ndef count():\n    global n\n    n += 1\n    return n", module.__dict__)
    found = operator.attrgetter("".join(("co", "unt")))
    return lambda: found(module)() % 17 == 0


def by_hits_of_a_cache() -> Any:
    once = functools.lru_cache(lambda: None)

    def now() -> bool:
        once()
        return once.cache_info().hits % 17 == 0

    return now


def by_a_module_that_is_looked_up() -> Any:
    module: Any = types.ModuleType("looked_up_by_a_test")
    module.count = 0
    sys.modules["looked_up_by_a_test"] = module

    def now() -> bool:
        found = importlib.import_module("looked_up_by_a_test")
        found.count += 1
        return bool(found.count % 17 == 0)

    return now


def by_a_setting_of_c() -> Any:
    digits = decimal.Context(prec=10)

    def now() -> bool:
        decimal.setcontext(digits)
        digits.prec += 1
        return decimal.getcontext().prec % 17 == 0

    return now


def by_catching() -> Any:
    n = [0]

    def tick() -> None:
        n[0] += 1
        if n[0] % 17 == 0:
            raise ValueError

    def now() -> bool:
        try:
            tick()
        except ValueError:
            return True
        return False

    return now


def by_sys_modules() -> Any:
    module = types.ModuleType("counted_by_a_test")
    module.count = 0  # type: ignore[attr-defined]
    sys.modules["counted_by_a_test"] = module

    def now() -> bool:
        sys.modules["counted_by_a_test"].count += 1  # type: ignore[attr-defined]
        return bool(sys.modules["counted_by_a_test"].count % 17 == 0)  # type: ignore[attr-defined]

    return now


def a_method_that_only_the_library_calls() -> Any:
    class Cell(nn.GRUCell):
        def _project(self, x: Any) -> Any:
            return super()._project(x) * (2.0 if tick() % 17 == 0 else 1.0)

    global COUNT
    COUNT = 0
    tg.manual_seed(0)
    tg.set_default_dtype("float64")
    cell = Cell(WIDTH, WIDTH)
    tg.set_default_dtype("float32")
    return cell


PLACES = [
    *(by_context_manager, by_ctypes, by_a_digest, by_spawning, by_eval, by_a_builtin_of_ones_own),
    *(by_another_thread, by_a_file, by_the_generator_of_weights, by_rotating, by_a_descriptor),
    *(by_a_property_of_a_class, by_a_method_of_a_list, by_a_structured_array, by_a_weak_dict),
    *(by_an_attribute_of_a_tensor, by_an_enum, by_catching, by_sys_modules),
    *(by_an_attribute_of_a_member, by_a_method_of_a_metaclass, by_a_name_that_is_made_of_a_class),
    *(by_a_name_that_is_made_of_a_module, by_hits_of_a_cache, by_a_module_that_is_looked_up),
    *(by_a_setting_of_c, by_what_an_attrgetter_finds),
]


def halved_by(place: Callable[[], Callable[[], bool]]) -> Any:
    now = place()

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return halved(h, now()), h

    return cell


IMPURE = [
    *(global_through_a_helper, method_of_an_object, attribute_of_itself, bound_method),
    *(class_attribute, slots, property_that_counts, iterator, counted_by_itertools),
    *(cycle_in_an_attribute, generator, default_argument, array_written_in_place, shared_memory),
    *(numpy_array_used_as_it_is, popped_list, deque_of_states, set_that_grows, dict_of_counts),
    *(queue_of_flags, simple_queue, opened_file, pythons_random, pythons_choice, numpys_random),
    *(generator_in_a_closure, generator_from_elsewhere, random_in_an_attribute),
    *(scheduled_sampling, swapped_names, swapped_tensors, rebound_global_tensor, rebound_data),
    *(keeps_the_state_before, environment, context_variable, thread_local),
    *(attribute_of_the_function, namespace_by_getattr, globals_by_name, another_module),
    *(bytes_in_place, partial_with_a_counter, branch_on_a_value, branch_by_numpy),
    *(a_wrapper_of_the_librarys, activation_of_the_users, period_that_closes, list_of_results),
    *(captured_index, clock, date, made_by_a_metaclass, instance_of_its_own_dict, decorated),
    *(weak_reference, static_method, draws_at_every_third_step, grad_mode),
    a_method_that_only_the_library_calls,
    *(pytest.param(functools.partial(halved_by, place), id=place.__name__) for place in PLACES),
]


def calls_of(make: Callable[[], Any], mode: Any, times: int, **options: Any) -> list[Any]:
    """Outputs, final states and gradients of several calls on one new cell."""
    tg.manual_seed(3)
    cell = make()
    found = []
    for n in range(times):
        xs = tg.tensor(XS.numpy() * (1 + 0.1 * n), requires_grad=True)
        y, h = tg.unroll(cell, xs, H, mode=mode, **options)
        g = tg.grad(tg.sum(y * y) + tg.sum(h), [xs, U], allow_unused=True)
        found.append([y.numpy(), h.numpy(), *(np.zeros(1) if x is None else x.numpy() for x in g)])
    getattr(cell, "close", int)()
    return found


def assert_alike(
    make: Callable[[], Any], times: int = 6, exact: bool = True, **options: Any
) -> None:
    found = calls_of(make, "auto", times, **options)
    for n, (auto, literal) in enumerate(
        zip(found, calls_of(make, "literal", times, **options), strict=True)
    ):
        for a, b in zip(auto, literal, strict=True):
            np.testing.assert_allclose(a, b, rtol=0 if exact else 1e-9, atol=0, err_msg=f"call {n}")


@pytest.mark.parametrize("make", IMPURE)
def test_an_impure_cell(make: Any) -> None:
    assert_alike(make)


@pytest.mark.parametrize(
    "make", [global_through_a_helper, iterator, generator_in_a_closure, deque_of_states]
)
@pytest.mark.parametrize(
    "options",
    [
        {"lengths": [9, 4]},
        {"mask": np.arange(18).reshape(9, 2) % 3 > 0},
        {"reset": np.arange(18).reshape(9, 2) % 5 == 0},
        {"reverse": True},
        {"checkpoint": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_impure_cell_with_options(make: Any, options: Any) -> None:
    found = [
        calls_of(
            make,
            mode,
            4,
            **{k: v for k, v in options.items() if mode == "auto" or k != "checkpoint"},
        )
        for mode in ("auto", "literal")
    ]
    for auto, literal in zip(*found, strict=True):
        for a, b in zip(auto, literal, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", [method_of_an_object, popped_list, numpys_random])
def test_an_impure_cell_of_many_steps(make: Any) -> None:
    xs = tg.tensor(np.random.default_rng(0).normal(size=(280, 2, 3)))
    found = []
    for mode in ("auto", "literal"):
        cell = make()
        found.append([tg.unroll(cell, xs, H, mode=mode)[0].numpy()])  # type: ignore[arg-type]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("make", [attribute_of_itself, generator, class_attribute])
def test_an_impure_cell_in_truncated_steps(make: Any) -> None:
    xs = tg.tensor(np.random.default_rng(0).normal(size=(30, 2, 3)))
    found = []
    for mode in ("auto", "literal"):
        cell, h, ys = make(), H, []
        for n in range(0, 30, 5):
            y, h = tg.unroll(cell, xs[n : n + 5], h, mode=mode)  # type: ignore[arg-type]
            h = h.detach()
            ys.append(y.numpy())
        found.append(ys)
    np.testing.assert_array_equal(*found)


def test_impure_cells_of_one_class_in_threads() -> None:
    class Cell:
        def __init__(self, every: int) -> None:
            self.every, self.t = every, 0

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            self.t += bool(self.every)
            return halved(h, bool(self.every) and self.t % self.every == 0), h

    def outputs(every: int, mode: Any) -> list[Any]:
        cell = Cell(every)
        return [tg.unroll(cell, XS, H, mode=mode)[0].numpy() for _ in range(5)]

    settings = [0, 4, 0, 7, 0, 11, 4, 0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda every: outputs(every, "auto"), settings))
    for every, own in zip(settings, found, strict=True):
        np.testing.assert_allclose(own, outputs(every, "literal"), rtol=1e-11 if not every else 0)


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_two_settings_of_one_class(order: tuple[bool, bool]) -> None:
    class Halving:
        def __init__(self, every: bool) -> None:
            self.every, self.t = every, 0

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            self.t += self.every
            return (h * 0.5 if self.every and self.t % 4 == 0 else h), h

    for every in order:
        for _ in range(4):
            auto, literal = (
                tg.unroll(Halving(every), XS, H, mode=mode)[0].numpy()  # type: ignore[arg-type]
                for mode in ("auto", "literal")
            )
            np.testing.assert_allclose(auto, literal, rtol=1e-11)
        assert is_planned(Halving(every)) is not every


def is_planned(cell: Any, xs: Any = XS, state: Any = H, **options: Any) -> bool:
    """Whether a call in the default mode runs by a plan: it calls the cell on traced values."""
    seen = []

    def primitive(y: Any) -> Any:
        node = y._node
        return None if node is None else (node.primitive or node.parents[0].primitive)

    y, _ = tg.unroll(cell, xs, state, **options)
    seen.append(primitive(y))
    return seen[0] is not None and seen[0].name == "unroll"


# Pure cells, and when they are known.


def plain() -> Any:
    return lambda x, h: (step(x, h),) * 2


def test_a_cell_of_ones_own_is_planned_at_its_second_call() -> None:
    cell = plain()
    assert [is_planned(cell) for _ in range(3)] == [False, True, True]
    assert is_planned(plain())  # the same, made anew
    assert "Default: planned" in tg.plan(plain(), XS, H).report()


def test_settings_in_a_frozen_dataclass() -> None:
    @dataclasses.dataclass(frozen=True)
    class Settings:
        scale: float = 0.5
        name: str = "tanh"

    settings = Settings()

    def cell(x: Any, h: Any) -> Any:
        h = getattr(tg, settings.name)(x + h @ U) * settings.scale
        return h, h

    assert [is_planned(cell) for _ in range(3)] == [False, True, True]


def test_it_takes_eight_steps_in_calls_of_more_than_one() -> None:
    cell = plain()
    assert not any(is_planned(cell, XS[:1]) for _ in range(10))
    assert "0 so far" in tg.plan(cell, XS, H).report()
    planner.cells.clear()
    assert [is_planned(cell, XS[:3]) for _ in range(4)] == [False, False, False, True]


def test_other_lengths_and_batches_of_a_known_cell_are_planned() -> None:
    cell = plain()
    is_planned(cell)
    for steps, rows in ((3, 2), (9, 5), (1, 1), (20, 7)):
        assert is_planned(
            cell, tg.ones((steps, rows, 3), "float64"), tg.zeros((rows, 3), "float64")
        )


def test_training_and_evaluating_each_take_evidence_of_their_own() -> None:
    class Cell(nn.Module):
        def forward(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return tg.dropout(h, 0.5, training=self.training), h

    cell = Cell()
    ways = [is_planned(cell.train(training)) for training in (True, True, False, False, True)]
    assert ways == [False, True, False, True, True]


def test_operations_that_differ_from_call_to_call() -> None:
    """Whatever the reason is that another branch is taken, it is watched before it is planned."""
    where = tg.tensor([0.0])

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return (h if float(where.numpy()[0]) < 1 else tg.sigmoid(h)), h

    ways = []
    for value in (0.0, 0.5, 0.6, 2.0, 2.5, 0.5):
        where.data = np.full(1, value, dtype="float32")
        ways.append(is_planned(cell))
    # 0.0 is told from other numbers, 0.5 from 0.6 is not; 2.0 is by what it makes the cell do.
    assert ways == [False, False, True, False, True, True]


def test_a_branch_that_is_impure_and_was_not_seen_is_run_as_often_as_literally() -> None:
    """The trace that finds out about it leaves the cell as it was."""

    class Cell:
        def __init__(self) -> None:
            self.late, self.t, self.log = 0.5, 0, []  # type: ignore[var-annotated]

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            if self.late > 0.7:
                self.t += 1
                self.log.append(self.t)
                h = h * float(self.t)
            return h, h

    found = []
    for mode in ("auto", "literal"):
        cell, ys = Cell(), []
        for late in (0.5, 0.6, 0.8, 0.9, 0.8):
            cell.late = late
            ys.append(tg.unroll(cell, XS * 0.1, H, mode=mode)[0].numpy())  # type: ignore[arg-type]
        found.append((ys, cell.t, cell.log))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-11)
    assert found[0][1:] == found[1][1:]


def test_no_grad_then_grad() -> None:
    cell = plain()
    with tg.no_grad():
        tg.unroll(cell, XS, H)
    assert is_planned(cell)


@pytest.mark.parametrize("length", [0.25, 3])
def test_numbers_that_change_between_calls(length: float) -> None:
    """Of floats it matters whether they are 0, since an annealed rate is no new cell; ints are."""
    ways = [is_planned(lambda x, h, n=n: (step(x * n, h),) * 2) for n in (length, length * 2, 0)]
    assert ways == ([False, True, False] if isinstance(length, float) else [False] * 3)


def test_what_a_first_step_sets_up_may_stay() -> None:
    class Lazy:
        scale: Any = None

        def __call__(self, x: Any, h: Any) -> Any:
            if self.scale is None:
                self.scale = tg.ones_like(x) * 2.0
            h = step(x * self.scale, h)
            return h, h

    cell = Lazy()
    assert [is_planned(cell) for _ in range(4)] == [False, False, True, True]
    assert_alike(Lazy, exact=False)


def test_constants_made_anew_at_each_step() -> None:
    def cell(x: Any, h: Any) -> Any:
        h = step(x * tg.tensor([1.0, 2.0, 3.0], dtype="float64") + np.arange(3.0), h)
        return h * np.float64(0.5), h

    assert [is_planned(cell) for _ in range(2)] == [False, True]
    assert_alike(lambda: cell, exact=False)


def test_constants_made_anew_that_are_too_large_to_be_held(monkeypatch: Any) -> None:
    monkeypatch.setattr(evidence, "HELD", 100)

    def cell(x: Any, h: Any) -> Any:
        h = step(x * tg.ones((ROWS, WIDTH), "float64"), h)
        return h, h

    assert not any(is_planned(cell) for _ in range(4))
    assert is_planned(lambda x, h: (step(x, h),) * 2) is is_planned(plain()) is False


def test_state_that_is_captured_returned_twice_or_handed_on() -> None:
    """What a value is called by may differ from step to step; what it is does not."""

    def cell(x: Any, state: Any) -> Any:
        h, same, fixed = state
        h = step(x, h + same + fixed + H)
        return (h, x), (h, h, fixed)

    given = (H, tg.zeros_like(H), H)
    assert not is_twice_planned(cell, given)[0]
    assert is_twice_planned(cell, given)[1]


def is_twice_planned(cell: Any, state: Any) -> list[bool]:
    found = []
    for _ in range(2):
        (y, _), _ = tg.unroll(cell, XS, state)
        found.append(
            y._node.parents[:1] != ()
            and (y._node.parents[0].primitive or y._node.primitive).name == "unroll"
        )
    return found


def test_rows_of_two_states_that_are_swapped() -> None:
    def make() -> Any:
        turn = [0]

        def cell(x: Any, state: Any) -> Any:
            a, b = state
            turn[0] += 1
            first, second = (a, b) if turn[0] % 3 else (b, a)
            return first, (step(x, first), second)

        return cell

    found = []
    for mode in ("auto", "literal"):
        cell = make()
        found.append([tg.unroll(cell, XS, (H, H + 1.0), mode=mode)[0].numpy() for _ in range(5)])  # type: ignore[arg-type]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("row", OPERATIONS, ids=str)
@examples(1)
@given(st.data())
def test_every_operation_does_the_same_traced_as_literally(row: Any, data: Any) -> None:
    """By which a known cell is recognised: else it would be watched for ever."""
    planner.cells.clear()
    sample = data.draw(row.samples)
    arrays = [a.astype("float64") if a.dtype.kind == "f" else a for a in sample.arrays()]
    captured = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    operation, keywords = row.call or getattr(tg, row.name), sample.keywords

    def cell(x: Any, h: Any) -> Any:
        out = operation(*([x, *captured[1:]] if arrays else []), **keywords)
        parts = [y for y in flatten(out)[0] if isinstance(y, tg.Tensor) and y.dtype == h.dtype]
        return out, tg.tanh(h * 0.5 + sum(tg.sum(tg.tanh(y)) for y in parts) * 0.1)

    xs = np.stack([arrays[0]] * 4) if arrays else np.zeros(4)
    for _ in range(2):
        tg.unroll(cell, xs, np.zeros(()))
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules["tinygrad_rnn.recurrence.unroll"]
        real = module.run_planned
        patch.setattr(module, "run_planned", lambda *a: ran.append(real(*a)) or ran[0])
        tg.unroll(cell, xs, np.zeros(()))
    assert ran, Standing(cell).describe()


# What changes between calls: a setting, a function, a class. Each gives a cell and what to do.


def a_float_beyond_a_threshold() -> Any:
    class Cell:
        p, t = 0.9, 0

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            self.t += self.p < 0.5
            return h * (0.5 if self.t % 3 == 1 else 1.0), h

    cell = Cell()
    return cell, lambda n: setattr(cell, "p", [0.9, 0.8, 0.7, 0.4, 0.3, 0.8, 0.2, 0.1][n])


def an_array_beside_a_float() -> Any:
    class Cell:
        p = 0.9

        def __init__(self) -> None:
            self.t = np.zeros(1, int)

        def __call__(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            if self.p < 0.5:
                self.t += 1
            return h * (0.5 if self.t[0] % 17 == 1 else 1.0), h

    cell = Cell()
    return cell, lambda n: setattr(cell, "p", [0.9, 0.8, 0.7, 0.4, 0.3, 0.8, 0.2, 0.1][n])


def an_integer_in_a_tensor() -> Any:
    flag, count = tg.tensor(0), [0]

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        count[0] += int(flag.item())
        return h * (2.0 if count[0] % 5 == 1 else 1.0), h

    def change(n: int) -> None:
        flag.data = np.asarray([0, 0, 0, 1, 1, 0, 1, 1][n])

    return cell, change


def a_function_of_a_module() -> Any:
    count = [0]

    def other(x: Any, h: Any) -> Any:
        count[0] += 1
        return tg.tanh(x + h @ U) * (2.0 if count[0] % 17 == 0 else 1.0)

    def cell(x: Any, h: Any) -> Any:
        h = step(x, h)
        return h, h

    real = step

    def change(n: int) -> None:
        global step
        step = other if 2 < n < 6 else real

    return cell, change


def a_method_of_a_base() -> Any:
    count = [0]

    class Base(nn.Module):
        def out(self, h: Any) -> Any:
            return h

    class Cell(Base):
        def forward(self, x: Any, h: Any) -> Any:
            h = step(x, h)
            return self.out(h), h

    def other(self: Any, h: Any) -> Any:
        count[0] += 1
        return h * 2.0 if count[0] % 17 == 0 else h

    real = Base.out
    return Cell(), lambda n: setattr(Base, "out", other if n in (3, 4, 6, 7) else real)


@pytest.mark.parametrize(
    "make",
    [
        *(a_float_beyond_a_threshold, an_array_beside_a_float, an_integer_in_a_tensor),
        *(a_function_of_a_module, a_method_of_a_base),
    ],
)
def test_what_changes_between_calls(make: Any) -> None:
    """Planned by what is known of it, a cell that has turned is put back and watched again."""
    found = []
    for mode in ("auto", "literal"):
        (cell, change), ys = make(), []
        for n in range(8):
            change(n)
            ys.append(tg.unroll(cell, XS * (1 + 0.1 * n), H, mode=mode)[0].numpy())  # type: ignore[arg-type]
        found.append(ys)
    np.testing.assert_allclose(*found, rtol=1e-10)


# Long calls.


def dropping(x: Any, h: Any) -> Any:
    h = step(x, h)
    return tg.dropout(h, 0.5), h


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reverse": True},
        {"lengths": [300, 150]},
        {"lengths": [300, 20], "reverse": True},
        {"lengths": [60, 20]},
        {"mask": np.arange(600).reshape(300, 2) % 7 > 0},
        {"reset": np.arange(600).reshape(300, 2) % 50 == 0},
        {"checkpoint": 10},
    ],
    ids=str,
)
def test_a_long_call_is_planned_before_it_ends(options: Any) -> None:
    """In the same random call, t going on; results and gradients of both orders are the loop's."""
    rng = np.random.default_rng(0)
    steps = 100 if "checkpoint" in options else 300
    data = rng.normal(size=(steps, 2, 3)) * 0.5
    calls = 0

    def counted(x: Any, h: Any) -> Any:
        nonlocal calls
        calls += 1
        return dropping(x, h)

    found = []
    for mode in ("auto", "literal"):
        kept = {k: v for k, v in options.items() if mode == "auto" or k != "checkpoint"}
        tg.manual_seed(5)
        xs = tg.tensor(data, requires_grad=True)
        h0 = tg.tensor(rng.normal(size=(2, 3)) * 0 + 0.1, requires_grad=True)
        y, h = tg.unroll(dropping, xs, h0, mode=mode, **kept)  # type: ignore[arg-type]
        g = tg.grad(tg.sum(y * y) + tg.sum(h), [xs, h0, U], create_graph=True)
        gg = tg.grad(sum(tg.sum(x * x) for x in g), xs)
        found.append([x.numpy() for x in (y, h, *g, gg, tg.random.uniform((3,)))])
        planner.cells.clear()
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    tg.unroll(tg.pure(counted), tg.tensor(data), h0, **options)
    assert calls <= 4


def test_a_long_call_calls_a_cell_sixty_four_times_and_once_or_twice_more(monkeypatch: Any) -> None:
    calls = []
    real = evidence.Operations.call
    watched = evidence.Evidence.call

    def traced(self: Any, cell: Any, x: Any, state: Any) -> Any:
        calls.append("traced")
        return real(self, cell, x, state)

    def literal(self: Any, cell: Any, x: Any, state: Any) -> Any:
        calls.append("literal")
        return watched(self, cell, x, state)

    monkeypatch.setattr(evidence.Operations, "call", traced)
    monkeypatch.setattr(evidence.Evidence, "call", literal)
    tg.unroll(plain(), tg.zeros((257, 2, 3), "float64"), H)
    assert collections.Counter(calls)["literal"] == 64 and 1 <= calls.count("traced") <= 2
    calls.clear()
    tg.unroll(lambda x, h: (step(x, h) + 1.0,) * 2, tg.zeros((256, 2, 3), "float64"), H)
    assert calls == ["literal"] * 256


# Giving up.


def test_after_three_calls_a_cell_is_not_watched_any_more() -> None:
    cell = attribute_of_itself()
    for _ in range(3):
        tg.unroll(cell, XS, H)
    plan = tg.plan(cell, XS, H)
    assert not plan.planned and "the cell Cell" in plan.report() and cell.t == 27
    standing = Standing(cell)
    assert standing.record is not None and standing.record.hopeless
    tg.unroll(cell, XS, H)
    assert Standing(cell).reason is not None and cell.t == 36


def test_one_warning_for_a_long_call_that_stays_literal() -> None:
    xs = tg.zeros((301, 2, 3), "float64")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cell = attribute_of_itself()
        for _ in range(7):
            tg.unroll(cell, xs, H)
        for _ in range(5):
            tg.unroll(iterator(), xs[:290], H)
    messages = [str(w.message) for w in caught]
    assert len(messages) == 1, messages
    assert "the cell Cell" in messages[0] and "tinygrad_rnn.pure" in messages[0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (draws_at_every_third_step, "changes count"),
        (branch_on_a_value, r"read on the host.*test_evidence\.py:\d+: .*item\(\)"),
        (swapped_tensors, r"multiply at .*test_evidence\.py:\d+: .*pair\[0\].*, at step 1"),
        (draws_and_does_nothing, "draws random numbers"),
        (iterator, "reaches flags, a list_iterator"),
        (attribute_of_itself, "Cell changes t"),
        (shared_memory, "written to|changes memory"),
        (clock, r"time\.perf_counter\(\)"),
    ],
)
def test_the_reason_names_what_and_where(make: Any, reason: str) -> None:
    cell = make()
    tg.unroll(cell, XS, H)
    plan = tg.plan(cell, XS, H)
    assert not plan.planned and plan.reason is not None
    assert re.search(reason, plan.report()), plan.report()


# Trust.


def test_what_is_marked_is_planned_at_once() -> None:
    class Cell:
        def __init__(self) -> None:
            self.t = 0

        def __call__(self, x: Any, h: Any) -> Any:
            return self.step(x, h)

        def step(self, x: Any, h: Any) -> Any:
            self.t += 1
            h = step(x, h)
            return h, h

    class Marked(Cell):
        pass

    class Below(Marked):
        pass

    assert tg.pure(Marked) is Marked
    marked = tg.pure(Cell())
    by_method = Cell()
    method = by_method.step
    assert tg.pure(method) is method
    for cell in (
        tg.pure(plain()),
        Marked(),
        marked,
        by_method.step,
        Marked().step,
        tg.pure(functools.partial(plain())),
    ):
        assert is_planned(cell)
    for cell in (Cell(), Below(), by_method, copy.deepcopy(marked), plain()):
        assert not is_planned(cell)
    assert is_planned(nn.Zoneout(tg.pure(OfWidth()), 0.1), state=None)
    assert not is_planned(nn.Zoneout(OfWidth(), 0.1), state=None)


class OfWidth(Counting):
    def forward(self, x: Any, h: Any) -> Any:
        h = step(x, h)
        return h, h


@pytest.mark.parametrize("x", [3, object(), "cell", None])
def test_what_cannot_be_marked(x: Any) -> None:
    with pytest.raises(TypeError, match="pure: a cell is a callable"):
        tg.pure(x)


def test_an_object_without_weak_references_cannot_be_marked() -> None:
    class Cell:
        __slots__ = ()

        def __call__(self, x: Any, h: Any) -> Any:
            return h, h

    with pytest.raises(TypeError, match=r'add "__weakref__" to its __slots__, or mark its class'):
        tg.pure(Cell())
    assert tg.pure(Cell) is Cell


def test_a_mark_is_no_mark_of_what_comes_after_it() -> None:
    """A mark ends with what was marked: its address may be that of another one later."""
    for _ in range(50):
        tg.pure(lambda x, h: (step(x, h),) * 2)
        assert not trust.is_marked(lambda x, h: (h, h))
    assert len(trust._marked) < 50


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNNCell(3, 3),
        lambda: nn.RNNCell(3, 3, nonlinearity=tg.sigmoid),
        lambda: nn.GRUCell(3, 3),
        lambda: nn.LSTMCell(3, 3, activation=functools.partial(tg.leaky_relu, negative_slope=0.1)),
        lambda: nn.Zoneout(nn.GRUCell(3, 3), 0.2),
        lambda: nn.VariationalDropout(nn.LayerNormLSTMCell(3, 3), 0.2),
        lambda: nn.StackedCell(nn.RWACell(3, 3), nn.PeepholeLSTMCell(3, 3)),
    ],
)
def test_cells_of_the_library_are_trusted(make: Any) -> None:
    assert Standing(make()).trusted


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.RNNCell(3, 3, nonlinearity=lambda x: tg.tanh(x)),
        lambda: nn.Zoneout(Counting(), 0.2),
        lambda: type("Own", (nn.GRUCell,), {})(3, 3),
        lambda: patched(nn.GRUCell(3, 3)),
        lambda: nn.GRUCell(3, 3).forward if False else functools.partial(plain()),
    ],
)
def test_what_holds_anything_of_the_users_is_not(make: Any) -> None:
    assert not Standing(make()).trusted


def patched(cell: Any) -> Any:
    cell.forward = lambda x, h: (h, h)
    return cell


def test_a_method_of_a_class_of_the_library_that_was_replaced(monkeypatch: Any) -> None:
    cell = nn.GRUCell(3, 3)
    assert Standing(cell).trusted
    monkeypatch.setattr(nn.GRUCell, "forward", lambda self, x, h: (h, h))
    assert not Standing(cell).trusted


# Everything else that a call may meet.


def test_an_error_in_the_middle_is_no_evidence() -> None:
    broken = True
    calls = 0

    def cell(x: Any, h: Any) -> Any:
        nonlocal calls
        if broken and float(np.asarray(x)[0, 0]) == XS.numpy()[5, 0, 0]:
            raise KeyError("mine")
        h = step(x, h)
        return h, h

    for _ in range(5):
        with pytest.raises(KeyError, match="mine"):
            tg.unroll(cell, XS, H)
    assert Standing(cell).record is None
    assert not evidence.is_watched()


def test_nothing_is_learned_inside_vmap_or_anomaly_detection() -> None:
    cell = plain()
    for _ in range(3):
        with tg.detect_anomaly():
            tg.unroll(cell, XS, H)
        tg.vmap(lambda x: tg.unroll(cell, x, tg.zeros(3, dtype="float64"))[0], in_axes=1)(XS)
    assert Standing(cell).record is None
    assert not is_planned(cell) and is_planned(cell)


def test_loops_within_a_cell() -> None:
    m = tg.tensor(np.random.default_rng(1).normal(size=(5, 2, 3)))

    def inner(x: Any, h: Any) -> Any:
        h = step(x, h)
        return h, h

    def cell(x: Any, h: Any) -> Any:
        _, s = tg.unroll(inner, m, H)
        _, r = tg.unroll(inner, m * 0.5, h)
        h = step(x, h + s + r)
        return h, h

    assert [is_planned(cell) for _ in range(3)] == [False, True, True]
    assert_alike(lambda: cell, exact=False)


def test_plans_that_are_evicted_take_no_evidence_with_them() -> None:
    cell = plain()
    is_planned(cell)
    tg.plan_cache().clear()
    assert is_planned(cell)


def test_what_is_known_keeps_nothing_alive() -> None:

    class Cell(nn.Module):
        def __init__(self) -> None:
            self.u = nn.Parameter(tg.ones((3, 3), "float64"))

        def forward(self, x: Any, h: Any) -> Any:
            h = tg.tanh(x + h @ self.u)
            return h, h

    cell = Cell()
    for _ in range(3):
        tg.unroll(cell, XS, H)
    dead = [weakref.ref(x) for x in (cell, cell.u, cell.u._array, Cell)]
    del cell, Cell
    gc.collect()
    assert [ref() for ref in dead] == [None] * 4


def test_threads_gather_evidence_apart_and_put_it_together() -> None:
    cell = plain()
    barrier = threading.Barrier(4)

    def work(_: int) -> Any:
        barrier.wait()
        return tg.unroll(cell, XS[:2], H)[0].numpy()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    assert all(np.array_equal(y, found[0]) for y in found)
    assert is_planned(cell)


def test_the_check_by_the_environment(monkeypatch: Any) -> None:
    def wrong() -> Any:
        count = [0]

        def cell(x: Any, h: Any) -> Any:
            count[0] += 1
            h = step(x, h)
            return halved(tg.dropout(h, 0.5), count[0] % 5 == 0), h

        return tg.pure(cell)

    tg.unroll(wrong(), XS, H)
    monkeypatch.setenv("TINYGRAD_RNN_CHECK", "1")
    with pytest.raises(tg.PlanError, match=r"TINYGRAD_RNN_CHECK.*wrong.*cell"):
        tg.unroll(wrong(), XS, H)
    found = []
    for check in ("1", "0"):
        monkeypatch.setenv("TINYGRAD_RNN_CHECK", check)
        tg.manual_seed(1)
        found.append([tg.unroll(tg.pure(dropping), XS, H)[0].numpy() for _ in range(3)])
    np.testing.assert_array_equal(*found)


def test_tracing_on_request_leaves_a_cell_as_it_was() -> None:
    cell = attribute_of_itself()
    plan = tg.plan(cell, XS, H)
    assert cell.t == 0 and not plan.planned and "changes t" in plan.report()
    lazy = collections.defaultdict(list)  # type: ignore[var-annotated]

    def keeping(x: Any, h: Any) -> Any:
        lazy["h"].append(h)
        return step(x, h), h

    assert not tg.plan(keeping, XS, H).planned and not lazy


@given(st.data())
def test_random_cells_of_random_periods(data: Any) -> None:
    """Whatever changes, and however rarely: the default mode is the literal loop."""
    period = data.draw(st.integers(1, 24))
    phase = data.draw(st.integers(0, 23))
    where = data.draw(st.sampled_from(["list", "attribute", "array", "dict", "closure", "tensor"]))
    what = data.draw(st.sampled_from(["scale", "operation", "input", "captured", "draw", "output"]))
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=3, max_size=6))
    twos = tg.full((WIDTH,), 2.0, dtype="float64")

    def make() -> Any:
        box, held = [phase], types.SimpleNamespace(n=phase)
        array, table, n = np.array([phase]), {"n": phase}, phase
        tensor = tg.tensor([phase])

        def count() -> int:
            nonlocal n
            if where == "list":
                box.append(box.pop() + 1)
                return box[0]
            if where == "attribute":
                held.n += 1
                return held.n
            if where == "array":
                array[0] += 1
                return int(array[0])
            if where == "dict":
                table["n"] += 1
                return table["n"]
            if where == "tensor":
                tensor.data = tensor.data + 1
                return int(tensor.item())
            n += 1
            return n

        def cell(x: Any, h: Any) -> Any:
            now = count() % period == 0
            if what == "input":
                x, h = (h, x) if now else (x, h)
            y = h = step(x, h)
            if what == "scale":
                y = h * (2.0 if now else 1.0)
            elif what == "operation" and now:
                y = tg.sin(h)
            elif what == "captured":
                y = h * (twos if now else U[0])
            elif what == "draw" and now:
                y = h * tg.random.uniform((WIDTH,), dtype="float64")
            elif what == "output":
                y = x if now else h
            return y, h

        return cell

    found = []
    for mode in ("auto", "literal"):
        tg.manual_seed(0)
        cell = make()
        found.append(
            [
                tg.unroll(cell, XS[:n] if n < 10 else tg.concat([XS, XS])[:n], H, mode=mode)[
                    0
                ].numpy()
                for n in lengths
            ]
        )  # type: ignore[arg-type]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
