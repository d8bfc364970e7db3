"""Derivatives of planned loops beyond the first cost what those of the literal loop cost.

Times say little on a busy machine, so what is counted is work: how often the loop is replayed, of
which inputs cotangents are asked for, and how many operations the transforms run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn
from tinygrad_rnn.apply import apply
from tinygrad_rnn.graph import Primitive
from tinygrad_rnn.planner.call import Literal


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    tg.set_default_dtype("float64")
    yield
    tg.set_default_dtype("float32")


def inputs(steps: int = 5, width: int = 3) -> Tensor:
    rng = np.random.default_rng(0)
    return tg.tensor(rng.normal(size=(steps, 2, width)), dtype="float64")


def cell_of(frozen: bool) -> nn.Module:
    return nn.LSTMCell(3, 4).requires_grad_(not frozen)


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "jacobian": lambda f, x: tg.jacobian(f)(x),
    "hvp": lambda f, x: tg.hvp(lambda x: tg.square(f(x)).sum(), x, x),
    "hessian": lambda f, x: tg.hessian(lambda x: tg.square(f(x)).sum())(x),
    "jvp": lambda f, x: tg.jvp(f, x, x)[1],
}


def counted(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Counter[str]:
    """How often each primitive computes while ``work`` is done, forwards and in rules."""
    found: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        backend = type(tg.get_backend("numpy"))
        multiply = backend.matmul

        def matmul(self: Any, *arrays: Any, **options: Any) -> Any:
            found["matmul"] += 1
            return multiply(self, *arrays, **options)

        patch.setattr(backend, "matmul", matmul)
        work()
    return found


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_do_for_a_planned_loop_what_they_do_for_a_literal_one(
    monkeypatch: pytest.MonkeyPatch, name: str, frozen: bool
) -> None:
    cell, x, results = cell_of(frozen), inputs(), {}
    work = {}
    for mode in ("literal", "planned"):

        def derive(mode: Any = mode) -> None:
            results[mode] = TRANSFORMS[name](lambda x: tg.unroll(cell, x, mode=mode)[0], x)

        derive()  # so that nothing is prepared below
        work[mode] = counted(monkeypatch, derive)
    assert work["planned"] == work["literal"]
    assert_allclose(results["planned"].numpy(), results["literal"].numpy(), rtol=1e-11, atol=1e-12)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Of which inputs each replay can give cotangents."""
    found: list[list[int]] = []
    replay = Literal._replay

    def noted(self: Literal, given: Any, wanted: Sequence[int], linked: bool) -> Any:
        found.append(list(wanted))
        return replay(self, given, wanted, linked)

    monkeypatch.setattr(Literal, "_replay", noted)
    return found


def test_a_second_derivative_asks_for_what_is_wanted(replays: list[list[int]]) -> None:
    cell, x = cell_of(frozen=False), tg.tensor(inputs().numpy(), requires_grad=True)
    expected = []
    for mode in ("literal", "planned"):
        y, _ = tg.unroll(cell, x, mode=mode)  # type: ignore[arg-type]
        (g,) = tg.grad(tg.square(y).sum(), [x], create_graph=True)
        expected.append(tg.grad(tg.square(g).sum(), [x, *cell.parameters()]))
    assert replays == [[0]]
    for literal, planned in zip(*expected, strict=True):
        assert_allclose(planned.numpy(), literal.numpy(), rtol=1e-11, atol=1e-12)


def test_pulling_again_replays_no_more(replays: list[list[int]]) -> None:
    cell, x = cell_of(frozen=False), inputs()
    pulled = {}
    for mode in ("literal", "planned"):
        y, pull = tg.vjp(lambda x: tg.unroll(cell, x, mode=mode)[0], x)  # noqa: B023
        pulled[mode] = [pull(y * float(i))[0].numpy() for i in range(1, 4)]
    assert len(replays) == 1
    for literal, planned in zip(*pulled.values(), strict=True):
        assert_allclose(planned, literal, rtol=1e-11, atol=1e-12)


def test_what_is_asked_for_later_is_replayed_then(replays: list[list[int]]) -> None:
    cell, x = cell_of(frozen=False), tg.tensor(inputs().numpy(), requires_grad=True)
    y, _ = tg.unroll(cell, x, mode="planned")
    loss = tg.square(y).sum()
    first = tg.grad(loss, x, create_graph=True)
    both = tg.grad(loss, [cell.weight_hh, x], create_graph=True)
    again = tg.grad(loss, cell.weight_hh, create_graph=True)
    assert len(replays) == 2
    assert_allclose(first.numpy(), both[1].numpy(), rtol=1e-12)
    assert_allclose(again.numpy(), both[0].numpy(), rtol=1e-12)


def test_a_batch_of_cotangents_needs_no_graph(replays: list[list[int]]) -> None:
    cell, x = cell_of(frozen=True), inputs()
    y, pull = tg.vjp(lambda x: tg.unroll(cell, x, mode="planned")[0], x)
    cotangents = tg.stack([y, y * 2.0, y * y])
    (found,) = tg.vmap(pull)(cotangents)
    for g, one in zip(found.numpy(), cotangents.numpy(), strict=True):
        assert_allclose(g, pull(tg.tensor(one))[0].numpy(), rtol=1e-11, atol=1e-12)
    assert replays == [[0]]


def test_a_joint_rule_may_ask_what_is_wanted() -> None:
    asked = []

    def rule(xp: Any, g: Any, xs: Any, *, wanted: Sequence[int]) -> list[Any]:
        asked.append(list(wanted))
        return [g for _ in xs]

    total = Primitive("total of", "elementwise", lambda xp, *xs: sum(xs), rule, joint=True)
    a, b = tg.ones(2, requires_grad=True), tg.ones(2, requires_grad=True)
    y = apply(total, tg.ones(2), a, b).sum()
    tg.grad(y, b, retain_graph=True)
    tg.grad(y, [a, b])
    assert asked == [[2], [1, 2]]
