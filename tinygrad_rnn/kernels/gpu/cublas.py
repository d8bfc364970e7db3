"""Products of matrices by cuBLAS, called by addresses in memory of our own."""

from __future__ import annotations

import ctypes
import os
from typing import Any, NamedTuple


class Matrices(NamedTuple):
    """out = a @ b, or out += a @ b, by addresses: all have their rows one below the other.

    From one row to the next it is so many elements: ``a_stride``, ``b_stride``, ``out_stride``; if
    ``transposed``, ``b_stride`` is that from one column of b to the next.
    """

    dtype: str
    columns: int
    inner: int
    a_stride: int
    b: int
    b_stride: int
    transposed: bool
    out_stride: int
    accumulate: bool
    owner: Any  # keeps b alive


class Cublas:
    """Products by a handle of our own, which works in ``workspace`` and nowhere else.

    Raises RuntimeError for whatever the library refuses.
    """

    def __init__(self, library: Any, workspace: tuple[int, int]) -> None:
        self._library = library
        self._workspace = workspace  # address and size
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._gemm: dict[str, tuple[Any, tuple[int, int]]] = {}
        self._numbers: list[Any] = []  # keeps alive what is known by its address
        for dtype, name, kind in (
            ("float32", "cublasSgemm_v2", ctypes.c_float),
            ("float64", "cublasDgemm_v2", ctypes.c_double),
        ):
            zero, one = kind(0), kind(1)
            self._numbers += [zero, one]
            addresses = ctypes.addressof(zero), ctypes.addressof(one)
            self._gemm[dtype] = getattr(library, name), addresses

    def use(self, stream: int) -> None:
        """Make the products that follow part of a stream."""
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream))
        # With the stream cuBLAS goes back to memory that it takes from the driver.
        address, size = self._workspace
        self._call(
            "cublasSetWorkspace_v2", self._handle, ctypes.c_void_p(address), ctypes.c_size_t(size)
        )

    def __call__(self, m: Matrices, rows: int, a: int, out: int) -> None:
        """The product with a of so many rows."""
        function, numbers = self._gemm[m.dtype]
        address, integer = ctypes.c_void_p, ctypes.c_int
        # cuBLAS goes by columns: to it these are transposed, and out.T = b.T @ a.T.
        status = function(
            *(self._handle, integer(m.transposed), integer(0)),
            *(integer(m.columns), integer(rows), integer(m.inner), address(numbers[1])),
            *(address(m.b), integer(m.b_stride), address(a), integer(m.a_stride)),
            *(address(numbers[m.accumulate]), address(out), integer(m.out_stride)),
        )
        if status:
            raise RuntimeError(f"cuBLAS: a product failed with status {status}")

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"cuBLAS: {name} failed with status {status}")


def library(version: int) -> Any:
    """The library, which CuPy has loaded: its backend tries a product first of all."""
    windows = os.name == "nt"
    return ctypes.CDLL(f"cublas64_{version}.dll" if windows else f"libcublas.so.{version}")
