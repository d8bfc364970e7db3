"""A library of arrays that stands in for CuPy: NumPy's, as strict as CuPy's about whose they are.

``DeviceArray`` meets no array of NumPy, neither as an operand nor as an index, and indexing it by
numbers gives an array without axes. The subtle point is that NumPy's own functions are refused,
too: what plans compute has to go through ``LIBRARY``, as through ``cupy``.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from cuda_stand_in import Device
from tinygrad_rnn.kernels import machine as machines
from tinygrad_rnn.kernels.gpu import run as cuda

NAME = "stand_in"


class DeviceArray(np.ndarray):
    """An array "on the device"."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        options = {name: _lowered(x) for name, x in options.items()}
        return _lifted(getattr(ufunc, method)(*map(_lowered, inputs), **options))

    def __array_function__(self, function: Any, types: Any, arguments: Any, options: Any) -> Any:
        if function in (np.shape, np.ndim):  # which look at no values
            return function(*map(_lowered, arguments))
        raise TypeError(f"numpy.{function.__name__} of an array on the device")

    def __getitem__(self, key: Any) -> Any:
        return _lifted(_plain(self)[_lowered(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        _plain(self)[_lowered(key)] = _lowered(value)

    def dot(self, other: Any, out: Any = None) -> Any:
        return _lifted(_plain(self).dot(_lowered(other), _lowered(out)))


def _plain(array: DeviceArray) -> Any:
    return np.ndarray.view(array, np.ndarray)


def _lowered(x: Any) -> Any:
    """What NumPy may have: no array of its own."""
    if isinstance(x, DeviceArray):
        return _plain(x)
    if isinstance(x, (tuple, list)):
        return type(x)(map(_lowered, x))
    if isinstance(x, np.ndarray):
        raise TypeError(f"an array of NumPy, {x.dtype} {x.shape}, beside one on the device")
    return x


def _lifted(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x).view(DeviceArray)
    return type(x)(map(_lifted, x)) if isinstance(x, (tuple, list)) else x


class _Library(types.ModuleType):
    """NumPy's functions on such arrays."""

    ndarray = DeviceArray

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, (np.ufunc, type)) or not callable(found):
            return found
        moves = name in ("array", "asarray")

        def function(*arguments: Any, **options: Any) -> Any:
            lowered = [x if moves and type(x) is np.ndarray else _lowered(x) for x in arguments]
            return _lifted(found(*lowered, **{n: _lowered(x) for n, x in options.items()}))

        setattr(self, name, function)
        return function


LIBRARY = _Library("stand_in_for_cupy")


class Backend(backends.CupyBackend):
    """CuPy's backend over the library above."""

    name = NAME

    def __init__(self) -> None:
        super().__init__(xp=LIBRARY)

    def to_host(self, array: Any) -> Any:
        return _plain(array)


def machine(device: Device) -> machines.Machine:
    """What plans are made for: loops that run on the device given."""
    loops = types.SimpleNamespace(
        SUPPORTED=cuda.SUPPORTED,
        DTYPES=cuda.DTYPES,
        available=functools.cache(lambda: cuda.wrong(device)),
        compile=lambda loops: cuda.compile(loops, device),
    )
    return machines.Machine(LIBRARY, loops, cuda.gemm)
