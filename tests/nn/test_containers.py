"""Parameters are found wherever there is an order, and refused where there is none."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.nn.names import OF_MODULES, OF_NN


@dataclass
class Data:
    first: Any
    second: Any
    third: int = 3
    unset: Any = field(init=False)


@dataclass(frozen=True, slots=True)
class Frozen:
    first: Any
    second: Any


class Named(NamedTuple):
    first: Any
    second: Any


ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "named tuple": Named,
    "dict": lambda a, b: {"first": a, "second": b},
    "values": lambda a, b: {1: a, 2: b}.values(),
    "items": lambda a, b: {"first": a, "second": b}.items(),
    "keys": lambda a, b: {a: 1, b: 2}.keys(),
    "ordered dict": lambda a, b: OrderedDict(first=a, second=b),
    "defaultdict": lambda a, b: defaultdict(list, first=a, second=b),
    "proxy": lambda a, b: MappingProxyType({"first": a, "second": b}),
    "user's dict": lambda a, b: UserDict(first=a, second=b),
    "user's list": lambda a, b: UserList([a, b]),
    "deque": lambda a, b: deque([a, b], maxlen=5),
    "dataclass": Data,
    "frozen dataclass": Frozen,
    "namespace": lambda a, b: SimpleNamespace(first=a, second=b),
    "nested": lambda a, b: deque([{"x": Data(a, None)}, (Frozen(b, 1),)]),
}


class Holder(nn.Module):
    def __init__(self, make: Callable[[Any, Any], Any]) -> None:
        self.before = nn.Linear(1, 1)
        self.kept = make(nn.Linear(2, 3), nn.Parameter(np.ones(3, "float32")))
        self.after = nn.Parameter(np.zeros(1, "float32"))


@pytest.mark.parametrize("make", ORDERED.values(), ids=ORDERED)
def test_what_is_in_an_ordered_container_is_found(make: Callable[[Any, Any], Any]) -> None:
    holder = Holder(make)
    shapes = [p.shape for p in holder.parameters()]
    assert shapes == [(1, 1), (1,), (2, 3), (3,), (3,), (1,)]
    assert [type(m).__name__ for m in holder.modules()] == ["Holder", "Linear", "Linear"]
    assert not holder.eval().before.training
    other = Holder(make)
    other.load_state_dict(holder.state_dict())
    for p, q in zip(holder.parameters(), other.parameters(), strict=True):
        assert p is not q and np.array_equal(p.numpy(), q.numpy())
    for p in other.parameters():
        p.grad = tg.ones(p.shape)
    optim.SGD(other.named_parameters(), lr=1.0).step()
    assert all(
        (p.numpy() != q.numpy()).all()
        for p, q in zip(*map(nn.Module.parameters, (holder, other)), strict=True)
    )


@pytest.mark.parametrize("make", ORDERED.values(), ids=ORDERED)
def test_functional_call_replaces_them_and_leaves_the_module_alone(make: Any) -> None:
    class Summing(Holder):
        def forward(self) -> tg.Tensor:
            return sum((p.sum() for p in self.parameters_by_hand()), tg.zeros(()))

        def parameters_by_hand(self) -> list[tg.Tensor]:
            return [p for _, p in nn.Module.named_parameters(self)]

    holder = Summing(make)
    before = {name: p.numpy().copy() for name, p in holder.named_parameters()}
    given = {name: nn.Parameter(tg.ones(p.shape)) for name, p in holder.named_parameters()}
    assert nn.functional_call(holder, given).item() == sum(p.size for p in given.values())
    assert all(np.array_equal(before[k], p.numpy()) for k, p in holder.named_parameters())
    assert type(holder.kept) is type(make(0, 1)) if make is not ORDERED["nested"] else True


def test_copies_are_independent_where_their_containers_can_be_copied() -> None:
    for name in ("deque", "dataclass", "namespace", "user's list", "nested"):
        holder = Holder(ORDERED[name])
        for twin in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
            pairs = [*zip(holder.parameters(), twin.parameters(), strict=True)]
            assert len(pairs) == 6 and all(p is not q for p, q in pairs)


LAYERS = [nn.Linear(1, 1), nn.Linear(1, 1)]
UNORDERED: dict[str, Callable[[], Any]] = {
    "set": lambda: {*LAYERS},
    "frozenset": lambda: frozenset(LAYERS),
    "set of tuples": lambda: {("a", LAYERS[0])},
    "set of parameters": lambda: {*LAYERS[0].parameters()},
}
ITERATORS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (nn.Linear(n, n) for n in (1, 2)),
    "generator of parameters": LAYERS[0].parameters,
    "generator of pairs": lambda: (("a", layer) for layer in LAYERS),
    "map": lambda: map(nn.Linear, (1, 2), (1, 2)),
    "filter": lambda: filter(None, LAYERS),
    "zip": lambda: zip(LAYERS, LAYERS, strict=True),
    "enumerate": lambda: enumerate(LAYERS),
    "reversed": lambda: reversed(LAYERS),
    "iterator of a list": lambda: iter(LAYERS),
    "iterator of values": lambda: iter(dict(enumerate(LAYERS)).values()),
    "chain": lambda: itertools.chain(LAYERS),
}


@pytest.mark.parametrize("make", [*UNORDERED.values(), *ITERATORS.values()])
def test_what_has_no_order_or_is_read_once_is_refused_when_assigned(make: Any) -> None:
    module = nn.Module()
    module.kept = LAYERS[0]
    what = r"a \w+ of parameters or modules (has no order|can be read only once).*make it a list"
    with pytest.raises(TypeError, match=rf"Module\.layers: {what}"):
        module.layers = make()
    assert not hasattr(module, "layers") and module.kept is LAYERS[0]


@pytest.mark.parametrize("make", UNORDERED.values(), ids=UNORDERED)
def test_a_set_that_is_filled_later_or_nested_is_refused_when_it_is_walked(make: Any) -> None:
    late, nested = nn.Module(), nn.Module()
    late.layers = filled = set()
    filled.update(make())
    nested.layers = [{"inside": make()}]
    with pytest.raises(TypeError, match=r"Module: layers: a set .* has no order"):
        list(late.parameters())
    with pytest.raises(TypeError, match=r"Module: layers\.0\.inside: a \w+ .* has no order"):
        optim.SGD(nested.parameters())


def test_sets_and_iterators_of_other_things_stay_what_they_are() -> None:
    module = nn.Module()
    module.names, module.none = {"a", "b"}, set()
    running = (n for n in range(3))
    assert next(running) == 0
    for name, given, left in [
        ("numbers", iter([1, 2, 3]), [1, 2, 3]),
        ("squares", (n * n for n in range(3)), [0, 1, 4]),
        ("nothing", iter([]), []),
        ("running", running, [1, 2]),
        ("counter", itertools.count(), None),
    ]:
        setattr(module, name, given)
        if left is not None:
            assert list(getattr(module, name)) == left
    assert module.running is running
    assert list(module.parameters()) == [] and module.names == {"a", "b"}


# Names that are called otherwise in PyTorch.


def test_names_of_pytorchs_modules_name_ours() -> None:
    layer = nn.Linear(1, 1)
    for name, ours in OF_MODULES.items():
        assert not hasattr(layer, name)
        with pytest.raises(AttributeError, match=f"Linear has no '{name}', as PyTorch has") as info:
            getattr(layer, name)
        assert ours in str(info.value) and info.value.name == name and info.value.obj is layer
    with pytest.raises(AttributeError, match=r"module\.name = nn\.Buffer\(value\)"):
        layer.register_buffer("x", tg.zeros(1))


def test_names_of_pytorchs_nn_name_ours_and_ours_are_there() -> None:
    for name, ours in OF_NN.items():
        assert not hasattr(nn, name)
        with pytest.raises(AttributeError, match=f"nn has no '{name}', as PyTorch has; here it is"):
            getattr(nn, name)
        for word in ours.replace(",", " ").split():
            if word.startswith("tinygrad_rnn."):
                found: Any = tg
                for part in word.split(".")[1:]:
                    found = getattr(found, part)
    with pytest.raises(AttributeError, match=r"'relu'; it is a function, tinygrad_rnn\.relu$"):
        nn.relu  # noqa: B018
    with pytest.raises(AttributeError, match=r"'tinygrad_rnn\.nn' has no attribute 'Liner'"):
        nn.Liner  # noqa: B018


def test_other_missing_names_are_as_in_any_class() -> None:
    class Own(nn.Module):
        @property
        def width(self) -> int:
            return self.sizes[0]

    with pytest.raises(AttributeError, match="'Own' object has no attribute 'weigth'"):
        Own().weigth  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'sizes'"):  # and not 'width'
        Own().width  # noqa: B018
    assert getattr(Own(), "anything", 3) == 3
