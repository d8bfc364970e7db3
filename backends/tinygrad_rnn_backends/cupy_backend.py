"""CuPy: NVIDIA GPUs, imported only when the backend is asked for.

Three states are told apart: CuPy is not installed; it is installed but there is no device that it
can use; it is usable. Indices and duplicates are dealt with on the device by atomic operations:
nothing waits for the GPU, so an index out of range in an array wraps around instead of raising (it
never leaves the array), and ``index_add`` may differ in the last bits from one run to the next.
Values come to the host in ``to_host`` only.

The logic is written over a module, so that tests without a GPU can run it over NumPy.
"""

from __future__ import annotations

import importlib
import math
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from . import special, summation
from .protocol import Array, ArrayNamespace, BackendUnavailable, Key, Status

_TERMS_OF_A_BLOCK = 1024
_INSTALL = "pip install 'tinygrad_rnn[cuda13]' (or [cuda12], to match the driver)"


class CupyBackend(ArrayNamespace):
    """Implements ``protocol.Backend`` on ``cupy.ndarray``.

    Args:
        xp: the module to compute with, for tests; None is CuPy on a device, checked to work.

    Raises:
        BackendUnavailable: with the reason and a cure.
    """

    name = "cupy"

    def __init__(self, xp: ModuleType | None = None) -> None:
        self._on_device = xp is None
        if xp is None:
            state = self.probe()
            if not state.usable:
                raise BackendUnavailable(state.detail)
            # CuPy's own namespace is not quite the standard's: it lacks unstack and vecdot.
            self.namespace = importlib.import_module("array_api_compat.cupy")
            xp = importlib.import_module("cupy")
        else:
            self.namespace = xp
        self._xp: Any = xp
        self.array_types: tuple[type, ...] = (xp.ndarray,)

    @staticmethod
    def probe() -> Status:
        """Which of the three states this machine is in; runs a small kernel to be sure."""
        try:
            cupy: Any = importlib.import_module("cupy")
        except ModuleNotFoundError as error:
            if error.name != "cupy":
                return Status(False, f"CuPy is installed but lacks {error.name}: {_INSTALL}")
            return Status(False, f"CuPy is not installed: {_INSTALL}")
        except Exception as error:
            return Status(False, f"CuPy is installed but cannot be imported: {_line(error)}")
        installed = f"CuPy {cupy.__version__}"
        runtime = cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            return Status(False, f"{installed} is installed, but {_no_device(runtime, error)}")
        if count == 0:
            return Status(
                False,
                f"{installed} is installed, but no CUDA device is visible (CUDA driver "
                f"{_version(runtime.driverGetVersion())}); look at CUDA_VISIBLE_DEVICES",
            )
        try:
            importlib.import_module("array_api_compat.cupy")
        except ImportError:
            return Status(False, f"{installed} needs pip install array-api-compat")
        try:
            properties = runtime.getDeviceProperties(runtime.getDevice())
            found = f"{installed} on {properties['name'].decode()}"
            ones = cupy.ones((2, 2), dtype=cupy.float32)
            (ones @ ones + ones).get()
        except Exception as error:  # of many kinds: the compiler, cuBLAS or the device itself
            return Status(
                False,
                f"{installed} has a device but cannot compute on it: {_line(error)}; CUDA's "
                "libraries come with pip install 'cupy-cuda13x[ctk]' (or 12x)",
            )
        return Status(True, f"{found}, CUDA driver {_version(runtime.driverGetVersion())}")

    def from_host(self, array: np.ndarray[Any, Any]) -> Array:
        return self._xp.array(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        host: np.ndarray[Any, Any] = array.get() if self._on_device else array
        return host

    def synchronize(self) -> None:
        if self._on_device:
            self._xp.cuda.Device().synchronize()

    def process_group(
        self, size: int, rank: int, neighbours: int, host: str | None, port: int | None
    ) -> Any:
        """NCCL among ``size`` processes that MPI started; its ``all_reduce`` adds up arrays.

        This one, the ``rank``-th, has ``neighbours`` before it on its machine, which use a GPU
        each, and computes on the next from here on.
        """
        count = self._xp.cuda.runtime.getDeviceCount()
        if neighbours >= count:
            raise BackendUnavailable(
                f"NCCL takes a GPU for each process, and process {rank} is the {neighbours + 1}th "
                f"of a machine with {count}; start fewer there"
            )
        self._xp.cuda.Device(neighbours).use()
        distributed: Any = importlib.import_module("cupyx.distributed")
        try:
            return distributed.init_process_group(size, rank, host=host, port=port, use_mpi=True)
        except RuntimeError as error:  # CuPy was built without NCCL, or cannot load it
            raise BackendUnavailable(
                f"NCCL cannot be used: {_line(error)}; pip install nvidia-nccl-cu13 (or -cu12)"
            ) from error

    @cached_property
    def _functions(self) -> Any:
        return importlib.import_module("cupyx.scipy.special")  # each is one kernel

    def sum(self, x: Array, **options: Any) -> Array:
        # A block of threads shares a sum, so that each of them adds up a part of its terms only.
        return summation.floating(self.namespace, x, block=_TERMS_OF_A_BLOCK, **options)

    def cumulative_sum(self, x: Array, /, **options: Any) -> Array:
        return summation.cumulative(self.namespace, x, **options)

    def sigmoid(self, x: Array) -> Array:
        special.require_floating(self.namespace, x, "sigmoid")
        return self._functions.expit(x) if self._on_device else special.sigmoid(self.namespace, x)

    def erf(self, x: Array) -> Array:
        special.require_floating(self.namespace, x, "erf")
        return self._functions.erf(x) if self._on_device else special.erf(self.namespace, x)

    def index_add(self, x: Array, key: Key, values: Array) -> Array:
        xp, key = self._xp, _widened(key)
        if not x.size:
            x[key]  # raises if the key addresses anything; the kernel would write there
        elif x.dtype.char in "ef" and _are_crowded(x.shape, key):
            total = xp.zeros(x.shape, dtype=xp.float64)
            xp.add.at(total, key, values.astype(xp.float64))
            x += total.astype(x.dtype)
        elif x.dtype.kind == "f":
            xp.add.at(x, key, values)
        else:  # atomics know few integer types; uint64 stands for all, as sums wrap around alike
            total = xp.zeros(x.shape, dtype=xp.uint64)
            xp.add.at(total, key, values.astype(xp.uint64))
            x += total.astype(x.dtype)
        return x

    def last_writer(self, shape: tuple[int, ...], key: Key) -> Array:
        xp, key = self._xp, _widened(key)
        writer = xp.zeros(shape, dtype=xp.uint64)  # 0 is none; there is no atomic int64 maximum
        addressed = writer[key]
        if addressed.size:
            order = xp.arange(1, addressed.size + 1, dtype=xp.uint64).reshape(addressed.shape)
            xp.maximum.at(writer, key, order)
        return writer.astype(xp.int64) - 1


def _are_crowded(shape: tuple[int, ...], key: Key) -> bool:
    """Whether many indices are the same because there are so many; known without a look at them."""
    found = summation.indexed(shape, key)
    given = math.prod(np.broadcast_shapes(*(index.shape for _, index in found)))
    return bool(found) and given > summation.FEW * math.prod(n for n, _ in found)


def _widened(key: Key) -> tuple[Any, ...]:
    """A key whose arrays hold at least 32 bits: CuPy wraps an index around in its own type.

    In int8, -1 of an axis of 200 would become -57, which is outside the array.
    """
    entries: list[Any] = list(key)
    return tuple(
        entry.astype("int32") if hasattr(entry, "dtype") and entry.dtype.itemsize < 4 else entry
        for entry in entries
    )


def _no_device(runtime: Any, error: Exception) -> str:
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        cure = "install the NVIDIA driver"
    elif driver < built:
        cure = f"update the driver, or install a CuPy for its CUDA: {_INSTALL}"
    else:
        cure = "look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    return (
        f"no CUDA device is usable: {_line(error)} (status {getattr(error, 'status', 'unknown')}, "
        f"CUDA driver {_version(driver)}, CuPy built for CUDA {_version(built)}); {cure}"
    )


def _version(number: int) -> str:
    """CUDA's 12040 as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else "none"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
