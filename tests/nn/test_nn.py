"""Modules and cells: what a module holds, loading all or nothing, and the cells' equations."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn, optim
from tinygrad_rnn_backends import Backend

Array = np.ndarray[Any, Any]


class Tagger(nn.Module):
    """A bit of everything: lists, dicts, a parameter with two names, a buffer, a constant."""

    def __init__(self) -> None:
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.embedding = nn.Embedding(5, 3)
        self.cells = [nn.LSTMCell(3, 4), nn.GRUCell(4, 3)]
        self.heads = {"a": nn.Linear(3, 2), "b": nn.Linear(3, 2, bias=False)}
        self.heads["b"].weight = self.heads["a"].weight
        self.mean = nn.Buffer(np.zeros(3, np.float32))
        self.constant = tg.ones(3)
        self.size = 3

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) - self.mean
        for cell in self.cells:
            x, _ = tg.unroll(cell, x)
        return (self.heads["a"](x) + self.heads["b"](x)) * self.scale


NAMES = [
    "scale",
    "embedding.weight",
    "cells.0.weight_ih",
    "cells.0.weight_hh",
    "cells.0.bias",
    "cells.1.weight_ih",
    "cells.1.weight_hh",
    "cells.1.bias",
    "cells.1.bias_hn",
    "heads.a.weight",
    "heads.a.bias",
]
TOKENS = np.array([[0, 4], [1, 1], [3, 2]])


@pytest.fixture
def model() -> Tagger:
    tg.manual_seed(0)
    return Tagger()


def values(module: nn.Module) -> dict[str, Array]:
    return {name: x.numpy().copy() for name, x in module.state_dict().items()}


def assert_same(one: dict[str, Array], other: dict[str, Array]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert_array_equal(one[name], other[name], err_msg=name)


# What a module holds.


def test_parameters_come_in_order_of_definition_and_shared_ones_once(model: Tagger) -> None:
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert len(list(model.parameters())) == len(NAMES)
    assert [name for name, _ in model.named_parameters("net")] == [f"net.{n}" for n in NAMES]


def holding(**attributes: Any) -> nn.Module:
    """A module with these attributes."""
    module = nn.Module()
    vars(module).update(attributes)
    return module


def scalar(value: float = 0.0) -> nn.Parameter:
    return nn.Parameter(np.float32(value))


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters()]


def test_what_is_nested_is_walked_where_it_is_defined() -> None:
    module = holding(
        a=holding(x=scalar()), b=scalar(), c=[scalar(), (holding(y=scalar()), scalar())]
    )
    assert names(module) == ["a.x", "b", "c.0", "c.1.0.y", "c.1.1"]
    module.b = scalar()  # rebinding keeps the place, as in any dict
    assert names(module) == ["a.x", "b", "c.0", "c.1.0.y", "c.1.1"]


def test_keys_of_dicts_are_named_as_they_print() -> None:
    module = holding(by={0: scalar(), "x.y": scalar(), ("s", 1): nn.Linear(1, 1, bias=False)})
    assert names(module) == ["by.0", "by.x.y", "by.('s', 1).weight"]
    state = {name: x.numpy() + 1 for name, x in module.state_dict().items()}
    module.load_state_dict(state)
    assert module.by[0].item() == module.by["x.y"].item() == 1


@pytest.mark.parametrize(
    "module",
    [
        holding(by={"a.b": scalar(), "a": {"b": scalar()}}),
        holding(by={1: scalar(), "1": nn.Buffer(1.0)}),
        holding(by=[holding(x=scalar())], **{"by.0.x": scalar()}),
    ],
)
def test_two_things_of_one_name_are_an_error(module: nn.Module) -> None:
    for call in (module.state_dict, module.named_parameters, module.named_modules):
        with pytest.raises(ValueError, match=r"Module: two different things are called 'by\."):
            call()


def test_one_thing_may_have_two_names_and_even_the_same_twice() -> None:
    p = scalar()
    assert names(holding(by={1: p, "1": p}, q=p)) == ["by.1"]


def test_a_link_back_to_the_parent_ends_the_walk() -> None:
    parent, child = holding(), holding(weight=scalar())
    parent.child, child.parent = child, parent
    ring: list[Any] = [child]
    ring.append(ring)
    parent.ring = ring
    assert names(parent) == ["child.weight"]
    assert names(child) == ["weight"]
    assert [name for name, _ in parent.named_modules()] == ["", "child"]
    assert repr(parent.eval()).count("(parent): ...") == 2  # below `child` and below `ring.0`
    twin = copy.deepcopy(parent)
    assert twin.child.parent is twin is not parent and not twin.child.training


def test_a_deep_chain_is_walked() -> None:
    last = chain = holding()
    for _ in range(2000):
        last.next = holding()
        last = last.next
    last.weight = scalar()
    assert names(chain) == ["next." * 2000 + "weight"]


def test_a_walk_is_over_before_it_is_looked_at(model: Tagger) -> None:
    for name, module in model.named_modules():
        module.extra = nn.Linear(1, 1)
        assert "extra" not in name


def test_children_are_what_a_module_holds_itself(model: Tagger) -> None:
    children = ["embedding", "cells.0", "cells.1", "heads.a", "heads.b"]
    assert [name for name, _ in model.named_children()] == children
    assert [name for name, _ in holding(m=model).named_children()] == ["m"]


def test_modules_come_with_their_paths(model: Tagger) -> None:
    paths = ["", "embedding", "cells.0", "cells.1", "heads.a", "heads.b"]
    assert list(model.modules()) == [module for _, module in model.named_modules()]
    assert list(model.buffers()) == [model.mean]
    assert [path for path, _ in model.named_modules()] == paths


def test_buffers_are_saved_and_not_trained(model: Tagger) -> None:
    assert [name for name, _ in model.named_buffers()] == ["mean"]
    assert list(model.state_dict()) == [*NAMES, "mean"]
    assert not model.mean.requires_grad


def test_a_module_in_two_places_counts_once() -> None:
    cell = nn.RNNCell(2, 2)
    stack = type("Stack", (nn.Module,), {})()
    stack.cells = (cell, cell)
    assert [name for name, _ in stack.named_parameters()] == [
        "cells.0.weight_ih",
        "cells.0.weight_hh",
        "cells.0.bias",
    ]


def test_a_new_attribute_counts_and_a_deleted_one_does_not(model: Tagger) -> None:
    model.extra = nn.Linear(2, 2, bias=False)
    del model.embedding
    assert "extra.weight" in names(model) and "embedding.weight" not in names(model)


def test_train_and_eval_reach_every_module(model: Tagger) -> None:
    assert model.training
    assert model.eval() is model
    assert not any(module.training for _, module in model.named_modules())
    assert model.train().cells[1].training


def test_a_mode_is_true_or_false(model: Tagger) -> None:
    with pytest.raises(TypeError, match="train: mode is True or False, not a list"):
        model.train([model])
    assert model.training


def test_freezing_stops_gradients_and_nothing_else(model: Tagger) -> None:
    model.cells[0].requires_grad_(False)
    model(tg.tensor(TOKENS)).sum().backward()
    frozen = [name for name, p in model.named_parameters() if p.grad is None]
    assert frozen == ["cells.0.weight_ih", "cells.0.weight_hh", "cells.0.bias"]
    assert list(model.state_dict()) == [*NAMES, "mean"]
    model.requires_grad_()
    model.zero_grad()
    model(tg.tensor(TOKENS)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_shared_parameter_gets_both_gradients(model: Tagger) -> None:
    x = tg.ones((1, 3))
    shared = model.heads["a"].weight
    once = tg.grad(model.heads["a"](x).sum(), shared)
    both = tg.grad((model.heads["a"](x) + model.heads["b"](x)).sum(), shared)
    assert_allclose(both.numpy(), 2 * once.numpy())


def test_repr_shows_the_tree(model: Tagger) -> None:
    assert repr(model) == (
        "Tagger(\n"
        "  (embedding): Embedding(5, 3)\n"
        "  (cells.0): LSTMCell(3, 4, bias=True)\n"
        "  (cells.1): GRUCell(4, 3, bias=True)\n"
        "  (heads.a): Linear(3, 2, bias=True)\n"
        "  (heads.b): Linear(3, 2, bias=False)\n"
        ")"
    )


def test_repr_keeps_settings_apart_from_children() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Linear(1, 1)

        def extra_repr(self) -> str:
            return "p=0.1"

    assert repr(Wrapper()) == "Wrapper(\n  p=0.1\n  (inner): Linear(1, 1, bias=True)\n)"


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Empty defines no forward"):
        type("Empty", (nn.Module,), {})()(1)


def test_one_seed_one_model_on_every_backend(model: Tagger, backend: Backend) -> None:
    tg.manual_seed(0)
    same = Tagger()
    assert {p.backend for p in same.parameters()} == {backend.name}
    assert_same(values(same), values(model))
    tg.manual_seed(1)
    assert not np.array_equal(Tagger().embedding.weight.numpy(), model.embedding.weight.numpy())


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
def test_a_parameter_copies_its_data(kind: Any, backend: Backend) -> None:
    host = np.ones(2, np.float32)
    native = backend.from_host(np.ones(2, np.float32))
    made = [kind(host), kind(native), kind(tg.asarray(host))]
    host[0] = native[0] = 7
    for x in made:
        assert type(x) is kind and x.is_leaf
        assert x.requires_grad == (kind is nn.Parameter)
        assert_array_equal(x.numpy(), [1, 1])
    assert [x.backend for x in made] == [backend.name, backend.name, "numpy"]


@pytest.mark.parametrize("data", [[1, 2], True, np.zeros(2, np.uint8)])
def test_what_has_no_derivative_is_no_parameter(data: Any) -> None:
    for requires_grad in (True, False):
        with pytest.raises(TypeError, match="has no derivative"):
            nn.Parameter(data, requires_grad)
    assert nn.Buffer(data).tolist() == np.asarray(data).tolist()


# Loading, copying, moving.


def test_state_goes_from_module_to_module(model: Tagger, backend: Backend) -> None:
    tg.manual_seed(1)
    other = Tagger()
    parameters = list(other.parameters())
    assert other.load_state_dict(model.state_dict()) == ([], [])
    assert_same(values(other), values(model))
    assert list(map(id, other.parameters())) == list(
        map(id, parameters)
    )  # an optimiser stays valid
    assert {p.backend for p in other.parameters()} == {backend.name}
    assert other.heads["b"].weight is other.heads["a"].weight


def test_what_is_loaded_takes_the_modules_dtype(model: Tagger) -> None:
    doubled = {name: x.astype("float64") * 2 for name, x in values(model).items()}
    model.load_state_dict(doubled)
    assert {x.dtype.name for x in model.state_dict().values()} == {"float32"}
    assert_array_equal(model.scale.numpy(), [2, 2])


def test_what_is_loaded_is_a_copy(model: Tagger) -> None:
    state = values(model)
    model.load_state_dict(state)
    state["scale"][:] = 7
    assert_array_equal(model.scale.numpy(), [1, 1])


def test_loading_is_all_or_nothing_and_the_error_lists_every_key(model: Tagger) -> None:
    before = values(model)
    state: dict[str, Any] = {name: x + 1 for name, x in before.items()}
    del state["scale"], state["cells.1.bias"]
    state |= {"heads.a.bias": np.zeros(3), "mean": np.array(["a", "b", "c"])}
    state |= {"extra": np.zeros(1), "more.weight": np.zeros(1)}
    with pytest.raises(ValueError) as caught:
        model.load_state_dict(state)
    for part in (
        "Tagger",
        "missing: scale, cells.1.bias",
        "unexpected: extra, more.weight",
        "heads.a.bias has shape (3,), expected (2,)",
        "mean holds <U1, expected float32",
    ):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"heads\.a\.bias"):
        model.load_state_dict(state, strict=False)
    assert_same(values(model), before)


def test_a_value_that_would_lose_its_fraction_is_not_loaded() -> None:
    counter = holding(steps=nn.Buffer([1, 2]), weight=scalar())
    with pytest.raises(ValueError, match="steps holds float64, expected int64"):
        counter.load_state_dict({"steps": np.array([1.5, 2.0]), "weight": np.ones(())})
    counter.load_state_dict({"steps": np.array([3, 4], np.int32), "weight": 7})
    assert counter.steps.tolist() == [3, 4] and counter.weight.item() == 7


def test_arrays_of_any_backend_are_loaded(model: Tagger, backend: Backend) -> None:
    state = {name: backend.from_host(x + 1) for name, x in values(model).items()}
    model.load_state_dict(state)
    assert {p.backend for p in model.parameters()} == {"numpy"}
    assert_array_equal(model.scale.numpy(), [2, 2])


def test_what_is_no_state_is_named(model: Tagger) -> None:
    for given in (model, (model.state_dict(), {})):
        with pytest.raises(TypeError, match=r"serialization\.load\(path\)\[0\]; not a [Tt]"):
            model.load_state_dict(given)


def test_without_strict_the_other_keys_are_returned(model: Tagger) -> None:
    keys = model.load_state_dict({"scale": [3, 4], "extra": np.zeros(1)}, strict=False)
    assert keys.missing == [*NAMES[1:], "mean"]
    assert keys.unexpected == ["extra"]
    assert_array_equal(model.scale.numpy(), [3, 4])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_equal_and_independent(way: Any, model: Tagger) -> None:
    model.cells[0].requires_grad_(False)
    twin = way(model.eval())
    assert_same(values(twin), values(model))
    assert twin.heads["b"].weight is twin.heads["a"].weight is not model.heads["a"].weight
    assert [p.requires_grad for p in twin.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert all(isinstance(p, nn.Parameter) for p in twin.parameters())
    assert not twin.training
    twin.scale.data = twin.scale.data * 2
    assert_array_equal(model.scale.numpy(), [1, 1])


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_leaves_graph_gradients_and_hooks_behind(way: Any, model: Tagger) -> None:
    called = []
    model.scale.register_hook(lambda g: called.append(g))
    loss = model(tg.tensor(TOKENS)).sum()
    loss.backward(retain_graph=True)
    twin = way(model)
    assert called and all(p.grad is None and p.is_leaf for p in twin.parameters())
    called.clear()
    twin(tg.tensor(TOKENS)).sum().backward()
    assert not called
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert_array_equal(p.grad.numpy(), q.grad.numpy())
    loss.backward()  # the graph is still the original's
    assert called
    assert_allclose(model.scale.grad.numpy(), 2 * twin.scale.grad.numpy())


def test_moving_rebinds_in_place_and_an_optimiser_stays_valid(model: Tagger) -> None:
    tg.manual_seed(0)
    stayed = Tagger()
    ends = []
    for module, second in ((stayed, "numpy"), (model, "array_api_strict")):
        optimizer = optim.Adam(module.parameters(), lr=0.01)
        held = list(module.parameters())
        for backend in ("numpy", second, "numpy"):
            assert module.to(backend) is module
            assert {x.backend for x in module.state_dict().values()} == {backend}
            optimizer.zero_grad()
            (module(tg.tensor(TOKENS, backend=backend)) ** 2).mean().backward()
            optimizer.step()
        assert list(map(id, module.parameters())) == list(map(id, held))
        ends.append(values(module))
    for name in ends[0]:
        assert_allclose(ends[0][name], ends[1][name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_moving_takes_gradients_along(model: Tagger) -> None:
    model(tg.tensor(TOKENS)).sum().backward()
    before = model.scale.grad.numpy().copy()
    model.to("array_api_strict")
    assert model.scale.grad.backend == "array_api_strict"
    assert_array_equal(model.scale.grad.numpy(), before)


def test_an_unknown_backend_moves_nothing(model: Tagger) -> None:
    with pytest.raises(ValueError, match="no backend 'nowhere'"):
        model.to("nowhere")
    assert {p.backend for p in model.parameters()} == {"numpy"}


# A module as a function of its weights.


def test_other_weights_stand_in_and_the_module_keeps_its_own(model: Tagger) -> None:
    before = values(model)
    doubled = {name: 2.0 * x for name, x in model.state_dict().items()}
    found = nn.functional_call(model, doubled, tg.tensor(TOKENS)).numpy()
    assert_same(values(model), before)
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    model.load_state_dict(doubled)
    assert_array_equal(found, model(tg.tensor(TOKENS)).numpy())


def test_weights_that_do_not_fit_a_module_are_named(model: Tagger) -> None:
    with pytest.raises(ValueError, match=r"functional_call: Tagger has no heads\.c"):
        nn.functional_call(model, {"heads.c": tg.ones(1)}, TOKENS)
    with pytest.raises(ValueError, match=r"functional_call: scale has shape \(2,\), not \(1,\)"):
        nn.functional_call(model, {"scale": tg.ones(1)}, TOKENS)
