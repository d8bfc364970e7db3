"""The walk back through a graph: in which order, whose memory it adds into, what it lets go of."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor
from tinygrad_rnn.graph import (
    IndexedCotangent,
    Node,
    Primitive,
    ReleasedGraphError,
    topological_order,
    unbroadcast,
)


def leaf(*values: float) -> Tensor:
    return tg.tensor(np.array(values, dtype=np.float64), requires_grad=True)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What goes, goes by reference counts."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# Order.


def test_order_every_node_comes_before_those_that_it_was_computed_from() -> None:
    x = leaf(1.0)
    a = tg.exp(x)
    b, c = a * a, tg.sin(a)
    loss = (b + c).sum()
    order = topological_order([loss._node])
    place = {node: i for i, node in enumerate(order)}
    assert order[0] is loss._node and order[-1] is x._node and len(order) == 6
    for node in order:
        assert all(place[node] < place[parent] for parent in node.parents)


def test_order_a_root_that_another_depends_on_waits_for_it() -> None:
    x = leaf(2.0)
    a = x * x
    b = a * x
    gradient = tg.grad([a, b], x, cotangent=[tg.tensor([1.0], "float64")] * 2)
    assert gradient.tolist() == [2 * 2 + 3 * 4]


def test_order_nothing_beyond_a_boundary_is_looked_at() -> None:
    x = leaf(1.0)
    a = tg.exp(x)
    loss = tg.sin(a).sum()
    order = topological_order([loss._node], {a._node})
    assert order[-1] is a._node and x._node not in order


def test_order_a_vjp_runs_once_for_all_that_used_its_output() -> None:
    runs: list[Any] = []

    def rule(xp: Any, g: Any) -> Any:
        runs.append(g)
        return g

    counted = Primitive("counted", "elementwise", lambda xp, x: x + 0, rule)
    x = leaf(1.0)
    y = tg.apply(counted, x)
    (y * 2 + y * 3 + y).sum().backward()
    assert len(runs) == 1 and runs[0].tolist() == [6.0] and x.grad.tolist() == [6.0]


def test_order_of_branches_that_lead_to_no_target_no_vjp_runs() -> None:
    def rule(xp: Any, g: Any) -> Any:
        raise AssertionError("nobody asked for this")

    dead = Primitive("dead", "elementwise", lambda xp, x: x + 0, rule)
    x, y = leaf(1.0), leaf(2.0)
    assert tg.grad((x * y + tg.apply(dead, y)).sum(), x).tolist() == [2.0]


def test_order_of_two_inputs_only_the_vjp_of_what_leads_to_a_target_runs() -> None:
    runs: list[str] = []

    def of_x(xp: Any, g: Any) -> Any:
        runs.append("x")
        return g

    def of_y(xp: Any, g: Any) -> Any:
        runs.append("y")
        return g

    both = Primitive("both", "elementwise", lambda xp, x, y: x + y, of_x, of_y)
    x, y = leaf(1.0), leaf(2.0)
    tg.grad(tg.apply(both, x * 2, y * 3).sum(), y)
    assert runs == ["y"]
    tg.apply(both, x * 2, y * 3).sum().backward()
    assert runs == ["y", "x", "y"]


# Ownership: a cotangent may be anybody's array, so the walk adds only into those that it made.


def passing_on(seen: list[Any]) -> Primitive:
    """A primitive whose vjp hands its cotangent on as it is, and remembers it."""

    def rule(xp: Any, g: Any) -> Any:
        seen.append(g)
        return g

    return Primitive("passing_on", "elementwise", lambda xp, x: x + 0, rule)


def test_ownership_a_cotangent_that_arrived_first_is_not_written_to() -> None:
    seen: list[Any] = []
    x = leaf(1.0, 2.0)
    y = tg.apply(passing_on(seen), x)
    (x * 3 + x * 5 + y).sum().backward()
    assert x.grad.tolist() == [9.0, 9.0]
    assert seen[0].tolist() == [1.0, 1.0]


def test_ownership_the_seed_is_not_written_to() -> None:
    x = leaf(1.0, 2.0)
    seed = tg.tensor([1.0, 10.0], "float64")
    tg.grad(x + x + x, x, cotangent=seed)
    assert seed.tolist() == [1.0, 10.0]
    gradient = tg.grad(x * 1, x, cotangent=seed)
    assert not np.shares_memory(gradient.numpy(), x.numpy())


def test_ownership_an_indexed_cotangent_is_not_added_into_somebody_elses_array() -> None:
    seen: list[Any] = []
    x = leaf(1.0, 2.0)
    first = tg.apply(passing_on(seen), x)
    (x[0] * 7 + first.sum() + x[1] * 11 + x[0]).backward()
    assert x.grad.tolist() == [9.0, 12.0]
    assert seen[0].tolist() == [1.0, 1.0]


def test_ownership_gradients_of_two_leaves_do_not_share_what_accumulates() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    loss = (x + y).sum()
    loss.backward(retain_graph=True)
    before = y.grad.tolist()
    (x * 5).sum().backward()
    assert y.grad.tolist() == before and x.grad.tolist() == [6.0, 6.0]


# Release.


def test_release_backward_lets_go_of_inner_nodes_while_the_loss_is_held(no_collector: None) -> None:
    x = leaf(1.0)
    inner = tg.exp(x)
    node = weakref.ref(inner._node)
    loss = tg.sin(inner).sum()
    del inner
    loss.backward()
    assert node() is None
    assert loss.item() == np.sin(np.exp(1.0))


def test_release_saved_values_go_while_the_loss_is_held(no_collector: None) -> None:
    x = leaf(*range(8))
    inner = tg.exp(x)
    loss = (inner * inner).sum()
    kept = inner._node
    del inner
    assert kept.saved is not None
    loss.backward()
    assert kept.saved is None and kept.parents == () and kept.parameters is None


def test_release_not_of_what_is_retained_nor_of_another_branch() -> None:
    x, y = leaf(1.0), leaf(2.0)
    a = tg.exp(x)
    other = tg.exp(y)
    loss = (a * other).sum()
    tg.grad(loss, x, retain_graph=True)
    assert a._node.saved is not None
    tg.grad(loss, x)
    assert a._node.saved is None
    assert other._node.saved is not None, "no cotangent was asked of it"
    with pytest.raises(ReleasedGraphError, match="sum"):
        loss.backward()
    assert x.grad is None, "nothing is changed before the error"


def test_release_of_a_dropped_graph_frees_every_node(no_collector: None) -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100):
        y = tg.sin(y)
    nodes = [weakref.ref(node) for node in topological_order([y._node])]
    del y
    assert sum(node() is not None for node in nodes) == 1, "the leaf"


# Parts.


def test_unbroadcast_sums_over_leading_and_repeated_axes_only() -> None:
    xp = tg.get_backend("numpy")
    g = np.arange(24.0).reshape(2, 3, 4)
    for shape in ((2, 3, 4), (3, 4), (4,), (1, 4), (3, 1), (2, 1, 4), (1, 1, 1), ()):
        found = unbroadcast(xp, g, shape)
        spread = np.broadcast_to(np.ones(shape), g.shape)
        assert found.shape == shape
        # The transpose: <g, spread(v)> = <unbroadcast(g), v> for v = 1.
        assert np.isclose(found.sum(), (g * spread).sum())
    assert unbroadcast(xp, g, (2, 1, 4)).tolist() == g.sum(1, keepdims=True).tolist()
    assert unbroadcast(xp, g, g.shape) is g


def test_an_indexed_cotangent_adds_duplicates() -> None:
    xp = tg.get_backend("numpy")
    part = IndexedCotangent((np.array([0, 2, 0]),), np.array([1.0, 2.0, 4.0]))
    assert part.add_to(xp, np.ones(3)).tolist() == [6.0, 1.0, 3.0]


def test_a_node_keeps_what_its_vjps_read_and_no_more() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    product = (x * y)._node
    assert [s[0].tolist() for s in product.saved] == [[3.0, 4.0], [1.0, 2.0]]
    one_sided = (x * tg.tensor([3.0, 4.0], "float64"))._node
    assert len(one_sided.saved) == 1 and one_sided.argnums == (0,)
    (total,) = (x.sum()._node).saved
    assert all(not isinstance(part, np.ndarray) for part in total), "a sum reads a shape"
    ((indices,),) = x[np.array([1, 0, 1])]._node.saved  # of the rest of its operands, all
    assert [part.tolist() for part in indices] == [[1, 0, 1]]
    assert tg.concat((x, y))._node.saved[0] == (((2,), (2,)),)  # or their shapes
    assert isinstance(product, Node) and not (x + y)._node.saved[0]
