"""What loops need of a GPU, by CuPy: memory, kernels, streams and the products on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygrad_rnn_backends import locks

from . import cublas
from .kernels import PREAMBLE, Source

Array = Any
"""An array of CuPy."""


def library_of(backend: Any) -> Any:
    """The library that the arrays of a backend are from."""
    return sys.modules[backend.array_types[0].__module__]


_recording = locks.lock()


class Stream(NamedTuple):
    """A stream of CuPy's, and the products on it; to record it there is another one."""

    cuda: Any  # the module
    products: cublas.Cublas
    recorder: Any
    recorded_products: cublas.Cublas

    def record(self, issue: Callable[[cublas.Cublas], None]) -> Any:
        """What ``issue(products)`` launches, as a graph; nothing is run."""
        with _recording, self.recorder:
            self.recorded_products.use(self.recorder.ptr)
            self.recorder.begin_capture()
            try:
                issue(self.recorded_products)
            finally:
                graph = self.recorder.end_capture()
        return graph


class Device:
    """What loops need of CuPy."""

    _WORKSPACE = 32 * 2**20  # bytes, as NVIDIA recommends for its newer processors

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.cuda = cupy.cuda
        self._library = cublas.library(cupy.cuda.runtime.runtimeGetVersion() // 1000)
        self._streams: dict[tuple[int, int], tuple[Any, Stream]] = {}
        self._lock = locks.lock()
        self.records = False  # until it was seen to work

    def functions(self, sources: Sequence[Source]) -> list[Any]:
        """Kernels as functions of (grid, block, arguments), compiled when first called."""
        module = self._cupy.RawModule(code=PREAMBLE + "".join(source.text for source in sources))
        return [module.get_function(source.name) for source in sources]

    def address(self, array: Array) -> int:
        """Where an array begins."""
        address: int = array.data.ptr
        return address

    def array(self, array: np.ndarray[Any, Any]) -> Array:
        """A copy of an array on the device."""
        return self._cupy.array(array)

    def host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy of an array on the host, once all is done."""
        host: np.ndarray[Any, Any] = array.get()
        return host

    def contiguous(self, array: Array) -> Array:
        """An array with its rows one below the other."""
        return self._cupy.ascontiguousarray(array)

    def stream(self) -> Stream:
        """The current stream."""
        pointer = self.cuda.get_current_stream().ptr
        key = (self.cuda.runtime.getDevice(), pointer)
        with self._lock:
            if key not in self._streams:
                # One workspace serves both, for what is recorded runs on the stream as well.
                memory = self.cuda.alloc(self._WORKSPACE)
                workspace = (memory.ptr, self._WORKSPACE)
                made = [cublas.Cublas(self._library, workspace) for _ in range(2)]
                recorder = self.cuda.Stream(non_blocking=True)
                self._streams[key] = memory, Stream(self.cuda, made[0], recorder, made[1])
            stream = self._streams[key][1]
        stream.products.use(pointer)
        return stream
