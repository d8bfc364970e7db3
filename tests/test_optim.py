"""Optimisers: the updates of PyTorch, nothing half done, and a state that can be saved."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim, serialization
from tinygrad_rnn_backends import Backend

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "optim.json").read_text("utf-8"))
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
MAKERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "Adam": lambda params: optim.Adam(params, lr=0.1),
}


def case_name(case: dict[str, Any]) -> str:
    settings = " | ".join(
        ", ".join(f"{k}={v}" for k, v in group.items()) for group in case["groups"]
    )
    return f"{case['optimizer']}({settings})"


def parameters(dtype: str = "float64", backend: str | None = None) -> list[Tensor]:
    return [
        tg.tensor(np.array(x, dtype), requires_grad=True, backend=backend)
        for x in FIXTURE["initial"]
    ]


def give_gradients(params: list[Tensor], step: int) -> None:
    """The gradients of a step of the fixture; the second parameter has none in every seventh."""
    for i, p in enumerate(params):
        gradient = np.array(FIXTURE["gradients"][step - 1][i], p.dtype)
        p.grad = None if i and step % 7 == 0 else tg.tensor(gradient, backend=p.backend)


def flat(params: list[Tensor]) -> np.ndarray[Any, Any]:
    return np.concatenate([p.numpy().reshape(-1) for p in params])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", FIXTURE["cases"], ids=case_name)
def test_fifty_steps_are_pytorchs(case: dict[str, Any], dtype: str, backend: Backend) -> None:
    params = parameters(dtype, backend.name)
    groups = case["groups"]
    given = [params] if len(groups) == 1 else [[p] for p in params]
    optimizer = getattr(optim, case["optimizer"])(
        [{"params": ps, **group} for ps, group in zip(given, groups, strict=True)]
    )
    expected = dict(zip(FIXTURE["kept"], case[dtype], strict=True))
    for step in range(1, len(FIXTURE["gradients"]) + 1):
        give_gradients(params, step)
        optimizer.step()
        if step in expected:
            assert_allclose(flat(params), expected[step], rtol=0, atol=TOLERANCE[dtype])
    assert {p.dtype.name for p in params} == {dtype}


def test_defaults_are_pytorchs() -> None:
    (sgd,) = optim.SGD(parameters()).param_groups
    (adam,) = optim.Adam(parameters()).param_groups
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (1e-3, 0, 0, False)
    assert (adam["lr"], adam["betas"], adam["eps"]) == (1e-3, (0.9, 0.999), 1e-8)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_parameters_without_a_gradient_stay(make: Any) -> None:
    params = parameters()
    optimizer = make(params)
    before = flat(params)
    optimizer.step()
    assert_array_equal(flat(params), before)
    assert not optimizer.state


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_changes_no_gradient_of_a_graph_built_before(make: Any) -> None:
    w = tg.tensor([3.0], requires_grad=True)
    loss = (w * w).sum()
    optimizer = make([w])
    w.grad = tg.tensor([1.0])
    optimizer.step()
    assert tg.grad(loss, w).item() == 6


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_zero_grad_forgets(make: Any) -> None:
    params = parameters()
    give_gradients(params, 1)
    make(params).zero_grad()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_scalar_parameter_is_trained_like_any_other(make: Any) -> None:
    scalar, vector = (tg.tensor(np.full(s, 2.0), requires_grad=True) for s in [(), (1,)])
    optimizer = make([scalar, vector])
    for _ in range(3):
        optimizer.zero_grad()
        (scalar**2 + (vector**2).sum()).backward()
        optim.clip_grad_norm_([scalar, vector], 1.0)
        optimizer.step()
    assert scalar.shape == () and scalar.item() == vector.item() < 2
    states = optimizer.state_dict()["state"]
    assert all(x.shape == () for x in states.get(0, {}).values() if isinstance(x, Tensor))


# State.


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_run_continued_from_its_state_is_the_same_run(make: Any, tmp_path: Path) -> None:
    straight = parameters()
    optimizer = make(straight)
    for step in range(1, 21):
        if step == 11:
            saved = optimizer.state_dict()
            at_ten = [p.numpy().copy() for p in straight]
        give_gradients(straight, step)
        optimizer.step()

    # Through a file, as a checkpoint would: arrays as arrays, the rest as JSON.
    arrays = {f"{i}.{name}": x for i, state in saved["state"].items() for name, x in state.items()}
    serialization.save(tmp_path / "file", arrays, {"groups": json.dumps(saved["groups"])})
    arrays, metadata = serialization.load(tmp_path / "file")
    state: dict[str, dict[str, Any]] = {}
    for key, array in arrays.items():
        i, name = key.split(".")
        state.setdefault(i, {})[name] = array if array.ndim else int(array)

    resumed = [tg.tensor(array, requires_grad=True) for array in at_ten]
    optimizer = make(resumed)
    optimizer.load_state_dict({"groups": json.loads(metadata["groups"]), "state": state})
    for step in range(11, 21):
        give_gradients(resumed, step)
        optimizer.step()
    assert_array_equal(flat(resumed), flat(straight))


def test_a_state_carries_its_settings() -> None:
    params = parameters()
    optimizer = optim.Adam(params, lr=0.3, betas=(0.5, 0.6))
    other = optim.Adam(parameters())
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.3
    assert other.param_groups[0]["betas"] == (0.5, 0.6)


def unfitting(saved: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    groups, state = saved["groups"], saved["state"]
    shape = {**state[0], "mean": tg.zeros(3)}
    yield {"state": state}, "'groups' and 'state'"
    yield {"groups": groups * 2, "state": state}, "groups"
    yield {"groups": [{"lr": 1.0}], "state": state}, "settings"
    yield {"groups": groups, "state": {**state, 2: state[0]}}, "parameter 2"
    yield {"groups": groups, "state": {**state, 1: shape}}, r"\(3,\), expected \(2,\)"
    yield (
        {"groups": groups, "state": {0: {"step": 1}}},
        r"parameter 0 .*\['mean', 'square', 'step'\]",
    )
    yield {"groups": groups, "state": {0: {**state[0], "more": 1}}}, "more"
    for count in (1.0, -1, tg.zeros(3, dtype="int64"), None):
        yield {"groups": groups, "state": {0: {**state[0], "step": count}}}, "step of parameter 0"
    words = np.full(state[0]["mean"].shape, "a")
    yield {"groups": groups, "state": {0: {**state[0], "mean": words}}}, "mean of parameter 0 holds"


@pytest.mark.parametrize("which", range(12))
def test_an_unfitting_state_changes_nothing(which: int) -> None:
    params = parameters()
    optimizer = optim.Adam(params, lr=0.1)
    give_gradients(params, 1)
    optimizer.step()
    bad, message = list(unfitting(optimizer.state_dict()))[which]
    bad = (
        {**bad, "groups": [{**group, "lr": 9.0} for group in bad.get("groups", [])]}
        if which
        else bad
    )
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(bad)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.state[0]["step"] == 1


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_state_follows_its_parameters_to_another_backend(make: Any) -> None:
    def train(model: nn.Module, steps: int, backend: str) -> None:
        x = tg.tensor(np.linspace(-1, 1, 6).reshape(2, 3), backend=backend)
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.step()

    ends = []
    for second in ("numpy", "array_api_strict"):
        tg.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make(model.parameters())
        train(model, 3, "numpy")
        model.to(second)
        train(model, 3, second)
        ends.append(np.concatenate([p.numpy().reshape(-1) for p in model.parameters()]))
    assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_loaded_state_takes_the_dtype_of_the_parameters(make: Any, backend: Backend) -> None:
    double, single = parameters("float64"), parameters("float32", backend.name)
    saved = make(double)
    give_gradients(double, 1)
    saved.step()
    optimizer = make(single)
    optimizer.load_state_dict(saved.state_dict())
    give_gradients(single, 2)
    optimizer.step()
    states = optimizer.state_dict()["state"]
    moments = [x for state in states.values() for x in state.values() if isinstance(x, Tensor)]
    assert {x.dtype.name for x in moments} <= {"float32"}
    assert {x.backend for x in moments} <= {backend.name}
    before = [x.numpy().copy() for x in moments]
    for state in saved.state.values():  # the two share no memory
        for value in state.values():
            if isinstance(value, np.ndarray):
                value[...] = 7
    for x, old in zip(moments, before, strict=True):
        assert_array_equal(x.numpy(), old)


def test_a_count_may_come_as_an_array() -> None:
    params = parameters()
    optimizer = optim.Adam(params)
    give_gradients(params, 1)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = np.array(5)
    optimizer.load_state_dict(saved)
    assert type(optimizer.state[0]["step"]) is int and optimizer.state[0]["step"] == 5


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("of", ["dtype", "backend", "shape"])
def test_a_step_with_an_unfitting_gradient_changes_nothing(make: Any, of: str) -> None:
    params = parameters()
    optimizer = make(params)
    give_gradients(params, 1)
    optimizer.step()
    give_gradients(params, 2)
    params[1]._node.grad = {  # .grad itself refuses it
        "dtype": lambda g: g.astype("float32"),
        "backend": lambda g: g.to("array_api_strict"),
        "shape": lambda g: g[None],
    }[of](params[1].grad)
    before, state = flat(params), {i: dict(s) for i, s in optimizer.state.items()}
    with pytest.raises(ValueError, match=r"parameter 1 is float64 \(2,\) on 'numpy', but its grad"):
        optimizer.step()
    assert_array_equal(flat(params), before)
    assert optimizer.state == state


def test_a_step_that_fails_in_an_update_changes_nothing() -> None:
    class Careless(optim.SGD):
        def _update(self, p: Any, grad: Any, state: Any, group: Any) -> Any:
            array, state = super()._update(p, grad, state, group)
            return (array if p is params[0] else array.astype("float32")), state

    params = parameters()
    optimizer = Careless(params, lr=0.1)
    give_gradients(params, 1)
    before = flat(params)
    with pytest.raises(ValueError, match=r"Careless: parameter 1 .*'lr': 0.1.* becomes float32"):
        optimizer.step()
    assert_array_equal(flat(params), before)
    assert not optimizer.state


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_rate_may_be_a_numpy_scalar(make: Any) -> None:
    ends = []
    for rate in (0.25, np.float64(0.25)):
        params = parameters("float32")
        optimizer = make(params)
        optimizer.param_groups[0]["lr"] = rate
        for step in (1, 2):
            give_gradients(params, step)
            optimizer.step()
        ends.append(flat(params))
    assert ends[1].dtype == np.float32
    assert_array_equal(*ends)


# Clipping.


def test_clipping_takes_one_tensor_as_well() -> None:
    w = tg.zeros((2, 1), requires_grad=True)
    w.grad = tg.tensor([[3.0], [4.0]])
    assert optim.clip_grad_norm_(w, 1.0) == 5
    assert_allclose(w.grad.numpy(), [[0.6], [0.8]], rtol=1e-6)


def test_clipping_scales_all_gradients_alike(backend: Backend) -> None:
    params = parameters(backend=backend.name)
    give_gradients(params, 1)
    before = np.concatenate([p.grad.numpy().reshape(-1) for p in params])
    norm = np.linalg.norm(before)
    assert optim.clip_grad_norm_(params, 1.0) == pytest.approx(norm)
    after = np.concatenate([p.grad.numpy().reshape(-1) for p in params])
    assert_allclose(after, before / norm, rtol=1e-12)


def test_clipping_leaves_small_gradients_alone() -> None:
    params = parameters()
    give_gradients(params, 7)  # the second has none
    before = params[0].grad
    assert optim.clip_grad_norm_(params, 1e9) == pytest.approx(np.linalg.norm(before.numpy()))
    assert params[0].grad is before
    assert params[1].grad is None


def test_clipping_nothing_is_a_norm_of_zero() -> None:
    assert optim.clip_grad_norm_(iter(parameters()), 1.0) == 0


def test_float32_gradients_do_not_overflow_when_squared() -> None:
    w = tg.zeros(2, requires_grad=True)
    w.grad = tg.tensor([3e30, 4e30])
    assert optim.clip_grad_norm_([w], 1.0) == pytest.approx(5e30)
    assert_allclose(w.grad.numpy(), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_raises_and_nothing_is_touched(bad: float) -> None:
    params = parameters()
    optimizer = optim.Adam(params)
    give_gradients(params, 1)
    params[1].grad = tg.tensor([bad, 1.0], dtype="float64")
    before = flat(params)
    gradients = [p.grad for p in params]
    with pytest.raises(FloatingPointError, match=r"the norm of the gradients is (nan|inf)"):
        optim.clip_grad_norm_(params, 1.0)
        optimizer.step()
    assert_array_equal(flat(params), before)
    assert [p.grad for p in params] == gradients
    assert not optimizer.state


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_maximal_norm_is_positive(bad: float) -> None:
    with pytest.raises(ValueError, match="max_norm must be positive"):
        optim.clip_grad_norm_(parameters(), bad)


# Bad input.


def doubled() -> list[Tensor]:
    p = parameters()[0]
    return [p, p]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: optim.SGD([]), ValueError, "no parameters"),
        (lambda: optim.SGD(doubled()), ValueError, "given twice"),
        (lambda: optim.SGD(parameters()[0]), TypeError, "a list of parameters"),
        (lambda: optim.SGD([np.ones(2)]), TypeError, "leaf Tensors"),
        (lambda: optim.SGD([parameters()[0] * 2]), TypeError, "leaf Tensors"),
        (lambda: optim.SGD([{"params": parameters(), "rate": 1}]), ValueError, "'rate'"),
        (lambda: optim.SGD(parameters(), lr=-1.0), ValueError, "lr must not be negative"),
        (lambda: optim.SGD(parameters(), lr=math.nan), ValueError, "lr"),
        (lambda: optim.SGD(parameters(), nesterov=True), ValueError, "needs momentum"),
        (lambda: optim.Adam(parameters(), betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda: optim.Adam(parameters(), eps=-1e-8), ValueError, "eps"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()
