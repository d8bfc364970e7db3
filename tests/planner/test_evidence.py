"""The default mode against the literal loop, for cells that are not pure, in all ways of not being.

Each kind is a function that makes a new cell, with counters of its own at their start. Several
calls of the default mode on one such cell must give, bit for bit, what the same calls give
literally on another one; for a cell that is pure, to rounding.

The subtle point is what is compared: not only numbers, but how often the cell was called. A cell
that counts, and is called once more than the loop calls it, is out of phase for good.
"""

from __future__ import annotations

import collections
import contextvars
import datetime
import functools
import itertools
import os
import queue
import random as python_random
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.planner import evidence

STEPS, ROWS, WIDTH = 9, 2, 3
U = tg.tensor(np.random.default_rng(7).normal(size=(WIDTH, WIDTH)) * 0.4, requires_grad=True)
XS = tg.tensor(np.random.default_rng(8).normal(size=(STEPS, ROWS, WIDTH)))
H = tg.zeros((ROWS, WIDTH), dtype="float64")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """As if no cell had been met before, here and in the tests that follow."""
    evidence.forget()
    tg.plan_cache().clear()
    yield
    evidence.forget()


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
    import weakref

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
