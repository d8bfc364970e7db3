"""Environment variables mean what they say, or an error names them."""

from __future__ import annotations

import os
import re
import unittest.mock
import warnings

import pytest

import tinygrad_rnn as tg
from both_ways import forget_plans
from tinygrad_rnn import nn
from tinygrad_rnn.kernels import settings
from tinygrad_rnn.kernels.machine import chosen_threads, threads
from tinygrad_rnn.kernels.settings import SettingError, is_set

JIT, THREADS = "TINYGRAD_RNN_JIT", "TINYGRAD_RNN_NUM_THREADS"


@pytest.mark.parametrize("text", ["0", "false", "False", "no", "OFF", " off "])
def test_kernels_are_off_in_each_way_to_say_so(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JIT, text)
    forget_plans()
    report = tg.plan(nn.GRUCell(3, 4), tg.ones((5, 2, 3))).report()
    assert f"{JIT}={text} asks for the NumPy program" in report


@pytest.mark.parametrize(
    ("text", "meant"), [("1", True), ("Yes", True), ("on", True), ("no", False), ("", None)]
)
def test_a_switch(text: str, meant: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JIT, text)
    assert settings.switch(JIT) is meant


@pytest.mark.parametrize("text", ["maybe", "2", "²", "-1", "falsch"])
def test_a_switch_that_means_nothing_stops_the_first_plan(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no failure of the planner's, which would run the loop literally, with a warning."""
    monkeypatch.setenv(JIT, text)
    forget_plans()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SettingError, match=f"{JIT}={text!r} is neither on .*0, false, no, off"):
            tg.unroll(nn.GRUCell(3, 4), tg.ones((5, 2, 3)))


@pytest.mark.parametrize("text", ["²", "0", "-2", "two", "1.5", "٣", "2,1"])
def test_a_number_of_threads_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, text)
    with pytest.raises(SettingError, match=re.escape(f"{THREADS}={text!r} is not an integer")):
        chosen_threads()


def test_a_loop_on_no_number_of_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    monkeypatch.delenv(JIT, raising=False)
    monkeypatch.setenv(THREADS, "²")
    threads.cache_clear()
    with pytest.raises(SettingError, match=THREADS):
        tg.unroll(nn.GRUCell(3, 4), tg.ones((5, 2, 3)))
    monkeypatch.setenv(THREADS, "1")
    assert tg.unroll(nn.GRUCell(3, 4), tg.ones((5, 2, 3)))[0].shape == (5, 2, 4)
    threads.cache_clear()


def test_ours_comes_before_those_of_a_blas_whose_nonsense_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    found = []
    for ours, openblas, openmp in [
        ("", "", ""),
        ("", "²", "zero"),
        ("", "0", "4,2"),
        ("", "3", "4"),
        ("5", "3", "4"),
        ("99", "", ""),
    ]:
        for name, text in {THREADS: ours, "OPENBLAS_NUM_THREADS": openblas}.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("OMP_NUM_THREADS", openmp)
        found.append(chosen_threads()[0])
    assert found == [8, 8, 4, 3, 5, 8]


def test_a_variable_that_comes_and_goes_is_seen_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "TINYGRAD_RNN_CHECK"
    monkeypatch.delenv(name, raising=False)
    assert not is_set(name)
    monkeypatch.setenv(name, "1")
    assert is_set(name)
    monkeypatch.delenv(name)
    assert not is_set(name)
    with unittest.mock.patch.dict(os.environ, {name: "0"}, clear=True):
        assert is_set(name)
    assert not is_set(name)
