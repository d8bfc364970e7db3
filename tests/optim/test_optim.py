"""Optimisers: the updates of PyTorch, nothing half done, and a state that can be saved."""

from __future__ import annotations

import inspect
import json
import math
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim, serialization
from tinygrad_rnn_backends import Backend

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "optim.json").read_text("utf-8"))
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
MAKERS = {
    "SGD": lambda params: optim.SGD(params, lr=0.1),
    "momentum": lambda params: optim.SGD(params, lr=0.1, momentum=0.9),
    "RMSprop": lambda params: optim.RMSprop(params, lr=0.1, momentum=0.5, centered=True, eps=1e-2),
    "Adagrad": lambda params: optim.Adagrad(params, lr=0.1, initial_accumulator_value=0.1),
    "Adadelta": lambda params: optim.Adadelta(params, lr=1.0),
    "Adam": lambda params: optim.Adam(params, lr=0.1),
    "AdamW": lambda params: optim.AdamW(params, lr=0.1, amsgrad=True),
}


def case_name(case: dict[str, Any]) -> str:
    settings = " | ".join(
        ", ".join(f"{k}={v}" for k, v in group.items()) for group in case["groups"]
    )
    falling = "" if case["decay"] == 1 else ", falling"
    return f"{case['optimizer']}({settings}{falling})"


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
    kind, groups = getattr(optim, case["optimizer"]), case["groups"]
    if len(groups) == 1:
        optimizer = kind(params, **groups[0])
    else:
        optimizer = kind([{"params": p, **group} for p, group in zip(params, groups, strict=True)])
    expected = dict(zip(FIXTURE["kept"], case[dtype], strict=True))
    for step in range(1, len(FIXTURE["gradients"]) + 1):
        give_gradients(params, step)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= case["decay"]
        if step in expected:
            assert_allclose(flat(params), expected[step], rtol=0, atol=TOLERANCE[dtype])
    assert {p.dtype.name for p in params} == {dtype}


@pytest.mark.parametrize("name", FIXTURE["defaults"])
def test_defaults_are_pytorchs(name: str) -> None:
    kind = getattr(optim, name)
    settings = kind(parameters()).param_groups[0]
    theirs = FIXTURE["defaults"][name]
    own = {k: list(v) if k == "betas" else v for k, v in settings.items() if k != "params"}
    assert own == {k: theirs[k] for k in own}
    order = [k for k in inspect.signature(kind).parameters if k in own]
    assert order == [k for k in theirs if k in own]


def test_the_mean_gradient_of_a_constant_one_leaves_no_negative_variance() -> None:
    p = tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    optimizer = optim.RMSprop([p], lr=1e-12, alpha=0.5, centered=True)
    for _ in range(100):
        p.grad = tg.tensor([0.1, 0.7, 1 / 3])
        optimizer.step()
    assert np.isfinite(p.numpy()).all()


def test_momentum_may_be_switched_on_and_off() -> None:
    for kind in (optim.SGD, optim.RMSprop):
        params = parameters()
        optimizer = kind(params, lr=0.1)
        for step, momentum in enumerate([0.0, 0.5, 0.5, 0.0, 0.5], start=1):
            optimizer.param_groups[0]["momentum"] = momentum
            give_gradients(params, step)
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
        assert np.isfinite(flat(params)).all()


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


def unfitting(saved: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    groups, state = saved["groups"], saved["state"]

    def with_state(values: Any) -> dict[str, Any]:
        return {"groups": groups, "state": {0: values}}

    yield None, "not a NoneType"
    yield {"state": state}, "'groups' and 'state'"
    for bad in (groups * 2, [{"lr": 1.0}], groups[0], [1.0], None, 3):
        yield {"groups": bad, "state": state}, "1 groups with the settings .* expected"
    yield {"groups": [groups[0] | {"lr": "fast"}], "state": state}, "lr must be a number"
    yield {"groups": [groups[0] | {"lr": math.nan}], "state": state}, "lr must be a number"
    yield {"groups": [groups[0] | {"betas": [0.9]}], "state": state}, "betas must be two numbers"
    yield {"groups": [groups[0] | {"amsgrad": 1}], "state": state}, "amsgrad must be True or False"
    for position in (2, -1, "x", "1.0", None):
        yield {"groups": groups, "state": {**state, position: state[0]}}, f"parameter {position},"
    yield {"groups": groups, "state": [state]}, "state by position, not a list"
    yield with_state([1]), r"parameter 0 \('weight'\) has a list as its state"
    yield with_state({"step": 1}), r"parameter 0 .*\['step'\], expected \['largest_square', 'mean'"
    yield with_state({k: v for k, v in state[0].items() if k != "largest_square"}), "expected"
    yield with_state({**state[0], "more": 1}), "more"
    yield with_state({**state[0], "mean": tg.zeros(3)}), r"\(3,\), expected \(2, 2\)"
    yield with_state({**state[0], "mean": np.full((2, 2), "a")}), "mean of parameter 0 .* holds"
    for count in (1.0, -1, tg.zeros(3, dtype="int64"), None, True):
        yield with_state({**state[0], "step": count}), "step of parameter 0"


def test_an_unfitting_state_changes_nothing() -> None:
    params = parameters()
    optimizer = optim.Adam([("weight", params[0]), ("bias", params[1])], lr=0.1, amsgrad=True)
    give_gradients(params, 1)
    optimizer.step()
    saved = optimizer.state_dict()
    before = {position: dict(state) for position, state in optimizer.state.items()}
    optimizer.param_groups[0]["lr"] = 0.2
    for bad, message in unfitting(saved):
        with pytest.raises((ValueError, TypeError), match=message):
            optimizer.load_state_dict(bad)
        assert optimizer.param_groups[0]["lr"] == 0.2
        assert optimizer.state == before


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


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_state_saved_on_another_backend_continues_bit_for_bit(make: Any) -> None:
    names = ("array_api_strict", "numpy")
    ends = []
    for first, second in [names, names[::-1], ("numpy", "numpy")]:
        params = parameters(backend=first)
        optimizer = make(params)
        for step in range(1, 6):
            give_gradients(params, step)
            optimizer.step()
        moved = [tg.tensor(p.numpy(), requires_grad=True, backend=second) for p in params]
        resumed = make(moved)
        resumed.load_state_dict(optimizer.state_dict())
        for step in range(6, 11):
            give_gradients(moved, step)
            resumed.step()
        assert {p.backend for p in moved} == {second}
        ends.append(flat(moved))
    assert_array_equal(ends[0], ends[2])
    assert_array_equal(ends[1], ends[2])


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
        def _update(self, xp: Any, p: Any, grad: Any, state: Any, group: Any) -> Any:
            array, state = super()._update(xp, p, grad, state, group)
            return (array if p is params[0]._array else array.astype("float32")), state

    params = parameters()
    optimizer = Careless(params, lr=0.1)
    give_gradients(params, 1)
    before = flat(params)
    with pytest.raises(ValueError, match=r"Careless: parameter 1 .*'lr': 0.1.* becomes float32"):
        optimizer.step()
    assert_array_equal(flat(params), before)
    assert not optimizer.state


@pytest.mark.parametrize(
    ("kind", "setting"), [(optim.Adam, {"amsgrad": True}), (optim.SGD, {"momentum": 0.9})]
)
def test_a_setting_switched_on_midway_is_saved_and_loaded(kind: Any, setting: Any) -> None:
    """The moment it needs begins with the next step, in the one that was saved and the other."""
    ends = []
    for load in (False, True):
        params = parameters()
        optimizer = kind(params, lr=0.1)
        for step in range(4):
            if step == 2:
                optimizer.param_groups[0].update(setting)
                if load:
                    saved = optimizer.state_dict()
                    optimizer = kind(params, lr=0.2)
                    optimizer.load_state_dict(saved)
            give_gradients(params, step)
            optimizer.step()
        ends.append(flat(params))
    assert_array_equal(*ends)


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


# Gradients that are not finite.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_that_is_not_finite_raises_or_is_skipped(
    make: Any, bad: float, backend: Backend
) -> None:
    params, twins = parameters(backend=backend.name), parameters(backend=backend.name)
    optimizer, twin = make(params), make(twins)
    for step in (1, 2, 3):
        give_gradients(params, step)
        give_gradients(twins, step)
        if step == 2:
            params[1].grad = tg.tensor([1.0, bad], dtype="float64")
            before, state = flat(params), {i: dict(s) for i, s in optimizer.state.items()}
            with pytest.raises(
                FloatingPointError,
                match=r"1 of 2 gradients .* first that of parameter 1, float64 \(2,\);",
            ):
                optimizer.step()
            optimizer.nonfinite = "skip"
            assert optimizer.step() is False
            assert_array_equal(flat(params), before)
            assert optimizer.state == state
        else:
            assert optimizer.step() is True
            twin.step()
    assert_array_equal(flat(params), flat(twins))  # as if the step had never been


def test_errors_name_parameters_that_have_a_name() -> None:
    layer = nn.Linear(2, 3)
    optimizer = optim.Adam(layer.named_parameters())
    layer.weight.grad, layer.bias.grad = tg.ones((2, 3)), tg.tensor([1.0, math.nan, 1.0])
    with pytest.raises(FloatingPointError, match=r"1 of 2 .* of parameter 1 \('bias'\), float32"):
        optimizer.step()
    layer.weight.grad = tg.full((2, 3), math.inf)
    with pytest.raises(FloatingPointError, match=r"2 of 2 .* of parameter 0 \('weight'\), fl"):
        optimizer.step()


def test_parameters_on_several_backends_are_looked_at_together() -> None:
    params = [tg.ones(2, requires_grad=True, backend=b) for b in ("numpy", "array_api_strict") * 2]
    optimizer = optim.SGD(params, nonfinite="skip")
    for bad in range(4):
        for i, p in enumerate(params):
            p.grad = tg.tensor([1.0, math.nan if i == bad else 1.0], backend=p.backend)
        optimizer.nonfinite = "raise"
        with pytest.raises(FloatingPointError, match=f"parameter {bad},"):
            optimizer.step()


def test_what_is_not_finite_may_be_allowed() -> None:
    p = tg.ones(2, requires_grad=True)
    optimizer = optim.SGD([p], lr=1.0, nonfinite="allow")
    p.grad = tg.tensor([math.nan, 1.0])
    assert optimizer.step() is True
    assert_array_equal(p.numpy(), [math.nan, 0.0])


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


@pytest.mark.parametrize("clip", [optim.clip_grad_norm_, optim.clip_grad_value_])
def test_clipping_without_parameters_names_the_exhausted_generator(clip: Any) -> None:
    layer = nn.Linear(2, 3)
    for read_before in (layer.parameters(), (p for p in layer.parameters())):
        optim.SGD(read_before, lr=0.1)
        with pytest.raises(ValueError, match=r"no parameters; a generator.* only once"):
            clip(read_before, 1.0)
    for empty in ([], (), {}, nn.Dropout().parameters()):
        with pytest.raises(ValueError, match="no parameters"):
            clip(empty, 1.0)
    with pytest.raises(TypeError, match=r"model.parameters\(\).* not a Linear"):
        clip(layer, 1.0)


def test_what_comes_twice_counts_once_when_clipped() -> None:
    p, q = (tg.zeros(2, requires_grad=True) for _ in range(2))
    p.grad, q.grad = tg.tensor([3.0, 0.0]), tg.tensor([0.0, 4.0])
    assert optim.clip_grad_norm_([p, q, p, q], 2.5) == 5
    assert p.grad.tolist() == [1.5, 0.0] and q.grad.tolist() == [0.0, 2.0]


# Numbers of few bits.


@pytest.mark.parametrize("gradient", [0.0, 1e-4, 6e4])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_float16_is_trained_as_float32_and_rounded(make: Any, gradient: float) -> None:
    half = tg.tensor(np.array([1.0, -2.0], "float16"), requires_grad=True)
    single = tg.tensor(np.array([1.0, -2.0], "float32"), requires_grad=True)
    own, twin = make([half]), make([single])
    for _ in range(3):
        for p in (half, single):
            p.grad = tg.tensor(np.array([gradient, -gradient], "float16").astype(p.dtype))
        own.step()
        twin.step()
        single.data = half.numpy().astype("float32")  # what is rounded between steps
        moments = [x for x in own.state[0].values() if isinstance(x, np.ndarray)]
        assert {x.dtype.name for x in moments} <= {"float32"}
        assert values(own.state) == values(twin.state)
        assert half.dtype == np.float16 and np.isfinite(half.numpy()).all()
    other = make([tg.zeros(2, dtype="float16", requires_grad=True)])
    other.load_state_dict(own.state_dict())
    assert values(other.state) == values(own.state)
    before = half.numpy()
    half.grad = tg.zeros(2, dtype="float16")
    make([half]).step()  # from no state, a gradient of 0
    kept = 1 - 0.1 * 1e-2 if make is MAKERS["AdamW"] else 1.0
    assert_array_equal(half.numpy(), (before.astype("float32") * np.float32(kept)).astype("f2"))


def values(state: Any) -> Any:
    return {i: {k: np.asarray(v).tolist() for k, v in s.items()} for i, s in state.items()}


def test_the_norm_of_float16_gradients_neither_overflows_nor_vanishes() -> None:
    p = tg.zeros(4, dtype="float16", requires_grad=True)
    for size, most in ((6e4, 1.0), (1e-7, 1e-7), (1.0, 1e-6)):
        given = np.full(4, size, "float16")
        p.grad = tg.tensor(given)
        norm = optim.clip_grad_norm_([p], most)
        assert norm == pytest.approx(2 * float(given[0]), rel=1e-12)
        expected = (given.astype("float64") * (most / norm)).astype("float16")
        assert_array_equal(p.grad.numpy(), expected)
    optim.clip_grad_value_([p], 1e6)  # which float16 does not reach
    assert_array_equal(p.grad.numpy(), expected)


def test_a_norm_beyond_float32_is_scaled_by_a_factor_below_its_smallest() -> None:
    w = tg.zeros(3, requires_grad=True)
    w.grad = tg.full(3, 2e38)
    optim.clip_grad_norm_(w, 1e-6)
    assert_allclose(w.grad.numpy(), np.full(3, 1e-6 / math.sqrt(3)), rtol=1e-6)


@pytest.mark.parametrize("make", [optim.Adam, optim.RMSprop, optim.Adagrad, optim.Adadelta])
def test_a_gradient_whose_square_overflows_is_none_to_step_by(make: Any) -> None:
    p, q = (tg.ones(2, requires_grad=True) for _ in range(2))
    optimizer = make([("first", p), ("large", q)])
    p.grad, q.grad = tg.ones(2), tg.tensor([1e20, 1.0])
    with pytest.raises(FloatingPointError, match=r"'large'.*overflows.*clip_grad_norm_"):
        optimizer.step()
    optimizer.nonfinite = "skip"
    assert optimizer.step() is False
    assert p.tolist() == q.tolist() == [1.0, 1.0] and not optimizer.state
    optimizer.nonfinite = "allow"
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert optimizer.step() is True


def test_a_step_out_of_float16_raises() -> None:
    p = tg.tensor(np.array([6e4], "float16"), requires_grad=True)
    p.grad = tg.tensor(np.array([-6e4], "float16"))
    with pytest.raises(FloatingPointError, match=r"float16 \(1,\), overflows"):
        optim.SGD([p], lr=1.0).step()
    assert p.item() == 6e4 // 32 * 32


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


def test_what_cannot_be_clipped_may_be_left_to_the_optimiser() -> None:
    p = tg.ones(2, requires_grad=True)
    p.grad = grad = tg.tensor([math.inf, 1.0])
    assert optim.clip_grad_norm_([p], 1.0, error_if_nonfinite=False) == math.inf
    assert p.grad is grad
    assert optim.Adam([p], nonfinite="skip").step() is False


def test_clipping_by_value_brings_each_element_in(backend: Backend) -> None:
    p, q, none = (tg.ones(s, requires_grad=True, dtype="float32") for s in [3, (), 1])
    p.grad, q.grad = tg.tensor([-3.0, 0.25, math.inf]), tg.tensor(0.75)
    before = p.grad
    optim.clip_grad_value_([p, q, none], 0.5)
    assert p.grad.tolist() == [-0.5, 0.25, 0.5] and q.grad.item() == 0.5 and none.grad is None
    assert p.grad.dtype == np.float32 and p.grad.backend == backend.name and q.grad.shape == ()
    assert before.tolist() == [-3.0, 0.25, math.inf]  # not written in place
    p.grad = tg.tensor([math.nan, 1.0, 0.0])
    optim.clip_grad_value_(p, 2)
    assert_array_equal(p.grad.numpy(), [math.nan, 1.0, 0.0])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_maximal_value_is_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"clip_value must be a number in \(0, inf\), not"):
        optim.clip_grad_value_(parameters(), bad)


def test_clipping_takes_tensors_and_numbers() -> None:
    for clip in (optim.clip_grad_norm_, optim.clip_grad_value_):
        with pytest.raises(TypeError, match=r"parameters are Tensors.*not ndarray"):
            clip([np.ones(2)], 1.0)
        with pytest.raises(TypeError, match=r"must be a number in .* not '1'"):
            clip(parameters(), "1")


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_maximal_norm_is_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm must be a number in \(0, inf\]"):
        optim.clip_grad_norm_(parameters(), bad)


# Names.


def two_layers(swapped: bool) -> nn.Module:
    model = nn.Module()
    for name in ("second", "first") if swapped else ("first", "second"):
        setattr(model, name, nn.Linear(2, 2))
    return model


def gradients_by_name(model: nn.Module, step: int) -> None:
    for name, p in model.named_parameters():
        p.grad = tg.full(p.shape, step * (1.0 + len(name)))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_state_finds_its_parameters_by_their_names(make: Any, grouped: bool) -> None:
    def optimizer_of(model: nn.Module, lr: dict[str, float]) -> optim.Optimizer:
        if not grouped:
            return make(model.named_parameters())
        return make(
            [
                {"params": part.named_parameters(name), "lr": lr[name]}
                for name, part in model.named_children()
            ]
        )

    straight, other = two_layers(False), two_layers(True)
    one = optimizer_of(straight, {"first": 0.1, "second": 0.2})
    for step in (1, 2):
        gradients_by_name(straight, step)
        one.step()
    two = optimizer_of(other, {"first": 0.3, "second": 0.4})
    two.load_state_dict(json.loads(json.dumps(one.state_dict(), default=Tensor.tolist)))
    other.load_state_dict(straight.state_dict())
    for model, optimizer in ((straight, one), (other, two)):
        gradients_by_name(model, 3)
        optimizer.step()
    for name, p in straight.named_parameters():
        assert_array_equal(p.numpy(), dict(other.named_parameters())[name].numpy())


def test_names_that_do_not_fit_change_nothing() -> None:
    saved = optim.Adam(two_layers(False).named_parameters()).state_dict()
    renamed = nn.Module()
    renamed.first, renamed.third = nn.Linear(2, 2), nn.Linear(2, 2)
    one_named = [("third.weight", tg.zeros((2, 2), requires_grad=True)), tg.zeros(2)]
    one_named[1].requires_grad = True
    other = optim.Adam(renamed.named_parameters(), lr=0.5)
    with pytest.raises(ValueError, match=r"missing are \['third.weight', 'third.bias'\].*'second"):
        other.load_state_dict(saved)
    split = optim.Adam([{"params": [pair]} for pair in two_layers(False).named_parameters()])
    with pytest.raises(ValueError, match="in other groups"):
        split.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"'first.weight' has become 'third.weight'"):
        optim.Adam(one_named).load_state_dict(saved)
    for bad in (["first.weight"], [[1]], 3, [["first.weight"] * 4]):
        with pytest.raises(ValueError, match="name"):
            split.load_state_dict({**saved, "names": bad})
    assert other.param_groups[0]["lr"] == 0.5
    optim.Adam(two_layers(True).parameters()).load_state_dict(saved)  # by position, as ever


# Bad input.


def doubled() -> list[Tensor]:
    p = parameters()[0]
    return [p, p]


def shared_within_a_group() -> optim.Optimizer:
    optimizer = optim.SGD(parameters())
    optimizer.add_param_group({"params": [optimizer.param_groups[0]["params"][0]]})
    return optimizer


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD([]), ValueError, "no parameters"),
        (lambda p: optim.SGD([{"params": iter([])}]), ValueError, "no parameters"),
        (lambda p: optim.SGD(doubled()), ValueError, "given twice"),
        (lambda p: shared_within_a_group(), ValueError, "given twice"),
        (lambda p: optim.SGD(p[0]), TypeError, "a list of parameters"),
        (lambda p: optim.SGD(nn.Linear(1, 1)), TypeError, r"model.parameters\(\).* not a Linear"),
        (lambda p: optim.SGD([{"params": nn.Linear(1, 1)}]), TypeError, "not a Linear"),
        (lambda p: optim.SGD(set(p)), TypeError, r"a set has no order.*named_parameters\(\)"),
        (lambda p: optim.SGD(frozenset(p)), TypeError, "a frozenset has no order"),
        (lambda p: optim.SGD([{"params": set(p)}]), TypeError, "a set has no order"),
        (lambda p: optim.SGD({"a": p[0]}), TypeError, r"not a dict: .items\(\) of it"),
        (
            lambda p: optim.SGD([{"params": p}, {"params": iter([])}]),
            ValueError,
            "a generator with nothing in it; .* only once",
        ),
        (
            lambda p: optim.SGD([("a", p[0]), ("a", p[1])]),
            ValueError,
            r"called 'a'.*named_parameters\('encoder'\)",
        ),
        (lambda p: optim.SGD([np.ones(2)]), TypeError, "leaf Tensors"),
        (lambda p: optim.SGD([p[0] * 2]), TypeError, "leaf Tensors"),
        (lambda p: optim.SGD([{"params": p, "rate": 1}]), ValueError, r"\['rate'\]; there are"),
        (lambda p: optim.SGD([{"params": p[:1]}, p[1]]), TypeError, "a group is a dict"),
        (lambda p: optim.SGD([{"lr": 0.1}]), TypeError, "a dict with 'params'"),
        (lambda p: optim.SGD([{"params": p, "lr": -1}]), ValueError, "SGD: lr must"),
        (lambda p: optim.SGD([{"params": p, "lr": 1.0}], lr=-1), ValueError, "SGD: lr must"),
        (lambda p: optim.SGD(p, lr=-1.0), ValueError, r"lr must be a number in \[0, inf\), not -1"),
        (lambda p: optim.SGD(p, lr=math.nan), ValueError, "lr must"),
        (lambda p: optim.SGD(p, lr=math.inf), ValueError, "lr must"),
        (lambda p: optim.SGD(p, lr="0.1"), TypeError, "lr must be a number .* not '0.1'"),
        (lambda p: optim.SGD(p, lr=True), TypeError, "lr must be a number .* not a bool"),
        (lambda p: optim.SGD(p, lr=tg.ones(())), TypeError, "lr must be a number .* not a Tensor"),
        (lambda p: optim.SGD(p, momentum=-0.1), ValueError, "momentum"),
        (lambda p: optim.SGD(p, dampening=-0.1), ValueError, "dampening"),
        (lambda p: optim.SGD(p, weight_decay=-0.1), ValueError, "weight_decay"),
        (lambda p: optim.SGD(p, nesterov=True), ValueError, "needs momentum"),
        (
            lambda p: optim.SGD(p, momentum=0.9, dampening=0.1, nesterov=True),
            ValueError,
            "dampening of 0",
        ),
        (lambda p: optim.SGD(p, momentum=0.9, nesterov=1), TypeError, "nesterov must be True or"),
        (
            lambda p: optim.SGD(p, nonfinite="ignore"),
            ValueError,
            "nonfinite must be one of 'raise'",
        ),
        (lambda p: optim.RMSprop(p, alpha=1.0), ValueError, r"RMSprop: alpha .*\[0, 1\)"),
        (lambda p: optim.RMSprop(p, centered="yes"), TypeError, "centered"),
        (lambda p: optim.Adagrad(p, lr_decay=-1.0), ValueError, "lr_decay"),
        (lambda p: optim.Adagrad(p, initial_accumulator_value=-1), ValueError, "initial_acc"),
        (lambda p: optim.Adadelta(p, rho=-0.1), ValueError, "rho"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda p: optim.Adam(p, betas=(0.9,)), TypeError, "betas must be two numbers"),
        (lambda p: optim.Adam(p, betas=0.9), TypeError, "betas must be two numbers"),
        (lambda p: optim.Adam(p, eps=-1e-8), ValueError, "eps"),
        (lambda p: optim.AdamW(p, weight_decay=-1.0), ValueError, "AdamW: weight_decay"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make(parameters())


def test_parameters_come_in_anything_that_has_an_order() -> None:
    named = dict(nn.Linear(2, 3).named_parameters())
    for given in (named.values(), named.items(), deque(named.values()), tuple(named.values())):
        assert optim.SGD(given).param_groups[0]["params"] == [*named.values()]
    keys = dict.fromkeys(named.values()).keys()
    assert optim.SGD([{"params": []}, {"params": keys}]).param_groups[1]["params"] == [*keys]


def test_a_refused_group_changes_nothing() -> None:
    first, second = parameters()
    optimizer = optim.SGD([first])
    for bad in ({"params": [second, first]}, {"params": [second], "lr": -1.0}):
        with pytest.raises(ValueError):
            optimizer.add_param_group(bad)
    assert [group["params"] for group in optimizer.param_groups] == [[first]]
    optimizer.add_param_group({"params": second, "lr": 0.5})
    second.grad = tg.ones(2, dtype="float64")
    before = second.numpy().copy()
    optimizer.step()
    assert_allclose(second.numpy(), before - 0.5, rtol=1e-15)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_setting_that_became_senseless_changes_nothing(make: Any) -> None:
    params = parameters()
    optimizer = make([{"params": p} for p in params])
    give_gradients(params, 1)
    before = flat(params)
    optimizer.param_groups[1]["lr"] = math.nan
    with pytest.raises(ValueError, match=r"lr must be a number in \[0, inf\), not nan"):
        optimizer.step()
    assert_array_equal(flat(params), before)
    assert not optimizer.state
