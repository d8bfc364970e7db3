"""Convolution and pooling: PyTorch's values and gradients, and what they say of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tinygrad_rnn as tg

FIXTURE = Path(__file__).parents[1] / "fixtures" / "convolution.json"
CASES = json.loads(FIXTURE.read_text("utf-8"))["cases"]
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", sorted({case["name"] for case in CASES}))
def test_values_and_gradients_are_pytorchs(name: str, dtype: str, backend: Any) -> None:
    for case in CASES:
        if case["name"] != name:
            continue
        given = [
            tg.tensor(np.asarray(a, dtype), requires_grad=True, backend=backend.name)
            if np.ndim(a) > 1 or np.asarray(a).dtype.kind == "f"
            else a
            for a in case["arguments"]
        ]
        value = getattr(tg, name)(*given, **case["keywords"])
        weights = np.cos(np.arange(value.size)).reshape(value.shape).astype(dtype)
        inputs = [x for x in given if isinstance(x, tg.Tensor)]
        gradients = tg.grad(value, inputs, tg.tensor(weights, backend=backend.name))
        tolerance = TOLERANCE[dtype]
        assert_allclose(value.numpy(), case["value"], rtol=tolerance, atol=tolerance)
        for found, expected in zip(gradients, case["gradients"], strict=True):
            assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)


def test_axes_in_front_may_be_any() -> None:
    """Frames (T, B, C, H, W), or none at all: each image is convolved for itself."""
    x, w = tg.random.normal((3, 2, 4, 6, 5)), tg.random.normal((2, 4, 3, 3))
    whole = tg.max_pool2d(tg.conv2d(x, w, padding=1), 2)
    for t, b in np.ndindex(3, 2):
        one = tg.max_pool2d(tg.conv2d(x[t, b], w, padding=1), 2)
        assert_allclose(whole[t, b].numpy(), one.numpy(), rtol=1e-5, atol=1e-6)


def test_elements_that_tie_share_the_cotangent() -> None:
    x = tg.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 2.0]], requires_grad=True)
    tg.max_pool1d(x, 3).sum().backward()
    assert_array_equal(x.grad.numpy(), [[0.5, 0.5, 0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool"])
@pytest.mark.parametrize("size", [2, 6])
def test_means_of_bytes_do_not_overflow(dtype: str, size: int) -> None:
    """Pictures are often bytes: four pixels of 200 are 200, and not 800 modulo 256."""
    x = np.random.default_rng(0).integers(-99, 256, (2, 12, 12)).astype(dtype)
    expected = x.astype(float).reshape(2, 12 // size, size, 12 // size, size).mean((2, 4))
    assert_allclose(tg.avg_pool2d(tg.tensor(x), size).numpy(), expected)
    assert tg.avg_pool2d(tg.tensor(x), size).dtype == "float64"
    full = np.full((1, 12), True if dtype == "bool" else 100, dtype)
    whole = tg.avg_pool1d(tg.tensor(full), size, padding=1, count_include_pad=False)
    assert_array_equal(whole.numpy(), np.full(whole.shape, full[0, 0], float))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: tg.conv2d(x, tg.ones((4, 3, 0, 3))), r"window of \(0, 3\) sees nothing"),
        (lambda x: tg.conv2d(x, tg.ones((4, 2, 3, 3))), r"\(2, 3, 8, 8\) has 3 channels"),
        (
            lambda x: tg.conv2d(x, tg.ones((4, 3, 9, 3))),
            r"conv2d: a window of \(9, 3\) does not fit into \(8, 8\), .*pad more",
        ),
        (
            lambda x: tg.conv2d(x, tg.ones((4, 3, 3, 3)), dilation=5, padding=1),
            r"window of \(3, 3\), dilation \(5, 5\), does not fit into \(10, 10\), padding",
        ),
        (
            lambda x: tg.max_pool1d(x, 9, 2),
            r"max_pool1d: a window of \(9,\) does not fit into \(8,",
        ),
        (
            lambda x: tg.conv2d(tg.moveaxis(x, 1, -1), tg.ones((4, 3, 3, 3))),
            r"has 8 channels along axis -3, .* is for 3; .*moveaxis\(x, -1, -3\)",
        ),
        (
            lambda x: tg.conv2d(x[:, 0], tg.ones((4, 1, 3, 3))),
            r"2 channels .* is for 1; expand_dims\(x, axis=-3\)",
        ),
        (
            lambda x: tg.conv1d(tg.ones((7, 2, 4)), tg.ones((6, 4, 3))),
            r"for 4; .*\(T, B, C\) is permute_dims\(x, \(1, 2, 0\)\), .*moveaxis\(x, -1, -2\)",
        ),
        (lambda x: tg.conv2d(x, tg.ones((4, 3, 3))), r"\(\.\.\., C, H, W\) and a weight"),
        (lambda x: tg.conv2d(x[0, 0], tg.ones((4, 3, 3, 3))), r"conv2d: an input"),
        (lambda x: tg.conv2d(x, tg.ones((4, 1, 3, 3)), groups=3), "groups=3 does not divide"),
        (lambda x: tg.conv2d(x, tg.ones((4, 3, 3, 3)), tg.ones((3,))), r"bias of shape \(3,\)"),
        (lambda x: tg.conv2d(x, tg.ones((4, 3, 3, 3)), stride=0), "stride is an integer or 2"),
        (lambda x: tg.conv2d(x, tg.ones((4, 3, 3, 3)), padding="full"), "'same' or 'valid'"),
        (
            lambda x: tg.conv2d(x, tg.ones((4, 3, 3, 5)), None, 2, "same"),
            r"stride of 1, not \(2, 2\); give numbers, such as \(1, 2\)",
        ),
        (
            lambda x: tg.conv1d(x[:, :, 0], tg.ones((4, 3, 3)), dilation=1.5),
            "dilation is an int",
        ),
        (lambda x: tg.max_pool2d(x, 2, padding=2), r"more than half of kernel_size \(2, 2\)"),
        (lambda x: tg.max_pool2d(x, 9), r"max_pool2d: a window of \(9, 9\) does not fit"),
        (lambda x: tg.avg_pool1d(tg.tensor(1.0), 2), "at least 1 axes"),
        (lambda x: tg.windows(x, (9, 9)), "windows: .*do not fit"),
        (lambda x: tg.windows(x, 2), r"windows: sizes are integers, one for each axis, .*not 2"),
        (lambda x: tg.overlap_add(x, 4, 2), "overlap_add: lengths are integers, one for each"),
        (lambda x: tg.overlap_add(x, (4,), (3,)), r"overlap_add: axes of \(4,\) have windows"),
    ],
)
def test_errors_name_shapes_and_the_cure(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(tg.ones((2, 3, 8, 8)))


def test_the_largest_of_booleans_is_refused() -> None:
    for pool, shape in ((tg.max_pool1d, (4,)), (tg.max_pool2d, (4, 4))):
        with pytest.raises(TypeError, match=rf"{pool.__name__}: an input of bool .*'uint8'"):
            pool(tg.ones(shape, dtype="bool"), 2)
        assert pool(tg.ones(shape, dtype="uint8"), 2, padding=1).numpy().all()
