"""Values and graphs: what is interned, shapes and dtypes, the order of values, views and keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from small_graphs import FLOAT, Lines
from tinygrad_rnn.graph import TABLE, Primitive
from tinygrad_rnn.planner.ir import (
    WHOLE,
    Graph,
    Table,
    Value,
    along,
    base,
    check,
    elements,
    hashable,
    is_view,
    keeps_all,
    metas_of,
    ordered,
    reshape,
    sources,
    users,
    writes_into,
)
from tinygrad_rnn.primitives.indexing import ARRAY


def meta(*shape: int, dtype: str = "float32") -> Any:
    return shape, np.dtype(dtype)


# Interning.


def test_the_same_operation_on_the_same_values_is_the_same_value() -> None:
    g = Lines()
    x, y = g.x(2, 3), g.x(2, 3, index=1)
    assert g.x(2, 3) is x is not y
    assert g.add(x, y) is g.add(x, y) is not g.add(y, x)
    assert g.sum(x, axis=(-1,), keepdims=True) is not g.sum(x, axis=(-1,), keepdims=False)
    assert g.table.source("draw", 0, (2,), FLOAT, draw=1) is not g.table.source(
        "draw", 0, (2,), FLOAT, draw=2
    )


def test_numbers_that_are_equal_but_of_other_types_are_other_operands() -> None:
    g = Lines()
    x = g.x(2, dtype="int64")
    made = [g.multiply(x, number) for number in (1, 1.0, True)]
    assert len(set(made)) == 3 and made[1].dtype == FLOAT
    assert hashable({"a": (1, slice(0, 2))}) != hashable({"a": (1.0, slice(0, 2))})
    assert hashable({"a": (slice(0, 2),)}) != hashable({"a": (slice(0, 3),)}) and not hashable({})


def test_an_operation_again_has_its_parameters_its_output_and_its_line() -> None:
    table = Table()
    table.line = lambda: "cell.py:1"
    x, y = (table.source("x", i, (2, 4), FLOAT) for i in range(2))
    parts = table.apply(TABLE["split"], (x,), {"axis": -1, "sizes": (1, 3)})
    assert [p.line for p in parts] == ["cell.py:1"] * 2 and x.line is None
    table.line = None
    again = table.again(parts[1], (y,))
    assert (again.shape, again.output, again.line) == ((2, 3), 1, "cell.py:1")
    assert table.again(parts[1], (x,)) is parts[1] and table.again(x, ()) is x


# Shapes and dtypes.


@pytest.mark.parametrize(
    ("name", "metas", "parameters", "made"),
    [
        ("add", [meta(2, 1), meta(3, dtype="float64")], {}, [meta(2, 3, dtype="float64")]),
        ("add", [meta(2), 1.5], {}, [meta(2)]),
        ("less", [meta(2), meta(2)], {}, [meta(2, dtype="bool")]),
        ("matmul", [meta(5, 2, 3), meta(3, 4)], {}, [meta(5, 2, 4)]),
        (
            "matmul",
            [meta(2, 3), meta(5, 3, 4, dtype="float64")],
            {},
            [meta(5, 2, 4, dtype="float64")],
        ),
        ("sum", [meta(2, 3)], {"axis": (-1,), "keepdims": True}, [meta(2, 1)]),
        ("unstack", [meta(2, 3)], {"axis": -1}, [meta(2)] * 3),
        (
            "divide",
            [meta(2, dtype="int64"), meta(2, dtype="int64")],
            {},
            [meta(2, dtype="float64")],
        ),
    ],
)
def test_shapes_and_dtypes(name: str, metas: Any, parameters: Any, made: Any) -> None:
    assert list(metas_of(TABLE[name], tuple(metas), parameters)) == made


def test_matrices_that_are_asked_for_their_shape_can_be_inverted() -> None:
    for name in ("inv", "cholesky"):
        assert metas_of(TABLE[name], (meta(5, 3, 3),), {}) == (meta(5, 3, 3),)
    assert metas_of(TABLE["solve"], (meta(3, 3), meta(3, 2)), {}) == (meta(3, 2),)


def test_a_product_that_does_not_exist_names_its_shapes() -> None:
    with pytest.raises(ValueError, match=r"matmul: shapes \(2, 3\) and \(4, 5\)"):
        metas_of(TABLE["matmul"], (meta(2, 3), meta(4, 5)), {})


def test_sizes_at_one_step() -> None:
    g = Lines()
    assert g.x(2, 3).bytes == 48 and g.x(4, index=1, dtype="bool").bytes == 4
    assert (elements((2, 3)), elements(()), elements((0, 3))) == (6, 1, 0)


def test_a_primitive_of_somebody_elses_has_another_name() -> None:
    other = Primitive("tanh", "elementwise", lambda xp, x: xp.tanh(x))
    g = Lines()
    value = g.table.value(other, g.x(2))
    assert (value.name, g.tanh(g.x(2)).name, g.x(2).name) == ("another tanh", "tanh", "x")


# Graphs.


def test_values_come_after_their_inputs_first_operands_first() -> None:
    g = Lines()
    x, y = g.x(2), g.x(2, index=1)
    left, right = g.tanh(x), g.sin(y)
    total = g.add(left, right)
    assert ordered([total, left]) == [x, left, y, right, total]
    assert ordered([total], known=[left, y]) == [right, total]
    deep = x
    for _ in range(5000):
        deep = g.tanh(deep)
    assert len(ordered([deep])) == 5001


def test_a_graph_has_all_its_results_and_each_kind_of_source_by_number() -> None:
    g = Lines()
    x, second, w, h = g.x(2), g.x(2, index=1), g.w(2), g.state(2)
    dx = g.sin(x)
    made = g.add(g.multiply(second, w), x)
    graph = Graph(g.table, (made,), (h,), (None, dx), (None,), (w,))
    assert graph.results == [made, h, dx, w]
    assert sources(graph, "x") == [x, second] and sources(graph, "dy") == []
    counts = {value: len(readers) for value, readers in users(graph.values()).items()}
    assert (counts[x], counts[w], counts[made], counts[h]) == (2, 1, 0, 0)
    assert len(users([g.multiply(x, x)])[x]) == 2


def test_rebuilding_goes_up_from_what_a_rule_replaces_and_keeps_the_rest() -> None:
    g = Lines()
    x, h = g.x(2), g.state(2)
    kept, changed = g.sin(h), g.tanh(g.negative(x))
    graph = Graph(g.table, (changed, kept), (h,), (None,), (g.negative(x),), (), (True,))

    def rule(table: Table, value: Value, inputs: Any) -> Value | None:
        return inputs[0] if value.name == "negative" else None  # type: ignore[no-any-return]

    after = graph.rebuild(rule)
    assert after.ys == (g.tanh(x), kept) and after.states == (h,)
    assert (after.dxs, after.dstates, after.asked) == ((None,), (x,), (True,))


def test_a_graph_is_checked_for_states_that_change_and_results_unlike_others() -> None:
    g = Lines()
    x, h = g.x(2, 3), g.state(2, 3)
    good = g.graph(g.tanh(x), states=(g.add(h, x),))
    check(good, like=good)
    with pytest.raises(AssertionError, match="became"):
        check(g.graph(g.tanh(h), states=(g.sum(x, axis=(-1,), keepdims=True),)))
    with pytest.raises(AssertionError, match="became"):
        check(good, like=g.graph(g.astype(x, dtype=np.dtype("float32")), states=good.states))
    broken = g.tanh(x)
    broken.shape = (2, 4)
    with pytest.raises(AssertionError, match="should be"):
        check(g.graph(broken))


# Views and keys.


def test_views_look_at_what_owns_memory() -> None:
    g = Lines()
    x = g.tanh(g.x(2, 3))
    view = g.reshape(g.permute_dims(x, axes=(-1, -2)), shape=(6,))
    picked = g.getitem(x, g.x(2, index=1, dtype="int64"), key=(ARRAY, WHOLE))
    assert is_view(view) and base(view) is x is base(x)
    assert not is_view(x) and not is_view(picked) and not is_view(g.x(2, 3))


def test_what_can_write_into_memory_that_is_there() -> None:
    g = Lines()
    x, whole = g.x(2, 2), g.x(2, 2, index=1, dtype="int64")
    for value in (g.tanh(x), g.matmul(x, x), g.sigmoid(x), g.where(g.less(x, x), x, x)):
        assert writes_into(value)
    assert not writes_into(g.erf(x)) and not writes_into(g.relu(whole))
    assert not writes_into(g.sum(x, axis=(-1,), keepdims=True))


def test_keys_that_keep_all_elements_in_order() -> None:
    for key in (
        (WHOLE, WHOLE),
        (slice(0, 3), 0),
        (None, WHOLE, slice(0, 1)),
        (WHOLE, slice(None, None, -1)),
    ):
        assert keeps_all(key, (3, 1))
    for key in ((slice(1, 3), WHOLE), (0, WHOLE), (slice(None, None, -1), WHOLE), (WHOLE, ARRAY)):
        assert not keeps_all(key, (3, 1))
    assert keeps_all((slice(None, None, 2),), (1,)) and not keeps_all((ARRAY,), (1,))
    assert along(-1, 3, 7) == (WHOLE, WHOLE, 7) and along(-3, 3, 7) == (7, WHOLE, WHOLE)


def test_a_reshape_of_a_reshape_is_one_or_none() -> None:
    g = Lines()
    x = g.x(2, 3)
    inner = g.reshape(x, shape=(6,))
    assert reshape(g.table, inner, (2, 3)) is x
    assert reshape(g.table, inner, (3, 2)).operands == [x]
    assert reshape(g.table, x, (2, 3)) is x
