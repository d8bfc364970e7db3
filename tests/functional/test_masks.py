"""Masks of lengths, and means of what they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tinygrad_rnn as tg


def test_a_mask_of_lengths_is_time_first(backend: Any) -> None:
    mask = tg.sequence_mask([2, 0, 3])
    assert mask.backend == backend.name and mask.dtype == bool
    assert_array_equal(mask.numpy().T, [[1, 1, 0], [0, 0, 0], [1, 1, 1]])
    assert tg.sequence_mask(np.array([1], dtype="uint8"), maxlen=3).shape == (3, 1)
    assert tg.sequence_mask(np.array([], dtype=int)).shape == (0, 0)
    assert tg.sequence_mask([], maxlen=2).shape == (2, 0)


@pytest.mark.parametrize("lengths", [[1, 4], [-1, 2]])
def test_lengths_out_of_range(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="between 0 and 3 steps"):
        tg.sequence_mask(lengths, maxlen=3)


def test_lengths_below_0_have_no_upper_end() -> None:
    with pytest.raises(ValueError, match="lengths from -1 to 2; 0 or more steps are possible"):
        tg.sequence_mask([-1, 2])


def test_lengths_are_integers_of_rows() -> None:
    for wrong in ([1.0, 2.0], 3, [[1, 2]]):
        with pytest.raises(ValueError, match=r"lengths are integers \(B,\)"):
            tg.sequence_mask(wrong)


def test_what_is_masked_does_not_matter_and_nothing_has_no_mean() -> None:
    x = tg.tensor([[1.0, np.nan], [3.0, np.inf], [np.nan, 5.0]], requires_grad=True)
    mask = np.array([[1, 0], [1, 0], [0, 0]]) == 1
    found = tg.masked_mean(x, mask, axis=0)
    assert_array_equal(found.numpy(), [2, np.nan])
    (g,) = tg.grad(found[0], [x])
    assert_array_equal(g.numpy(), [[0.5, 0], [0.5, 0], [0, 0]])


def test_masks_are_of_the_first_axes_and_bool() -> None:
    x = tg.ones((3, 2, 4))
    assert tg.masked_mean(x, tg.sequence_mask([3, 1]), axis=0).shape == (2, 4)
    with pytest.raises(ValueError, match=r"mask of shape \(2, 3\) for x of shape \(3, 2, 4\)"):
        tg.masked_mean(x, np.ones((2, 3), bool))
    with pytest.raises(IndexError, match="masked_mean: axis 3 is out of range for 3 axes"):
        tg.masked_mean(x, tg.sequence_mask([3, 1]), axis=3)
    with pytest.raises(TypeError, match="not bool; compare it"):
        tg.masked_mean(x, np.ones((3, 2)))
