"""Matrix products of one library in a process of its own: ``benchmarks/products.py`` starts it.

Reads the number of a case and how often to multiply, a line each, and answers with the seconds of
each product and with a checksum. All write into memory that is there already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from benchmarks.problem import Array, checksum
from benchmarks.sides.numpy_memory import numpy_versions
from benchmarks.worker import main


class Case(NamedTuple):
    """A product (M, K) @ (K, N), or many; and where it comes from in a step of training."""

    form: str  # "forward", "weights" or "inputs"
    m: int
    k: int
    n: int
    count: int = 1

    def __str__(self) -> str:
        many = f"{self.count} of " if self.count > 1 else ""
        return f"{many}{self.m}x{self.k}x{self.n}"

    @property
    def flops(self) -> int:
        return 2 * self.count * self.m * self.k * self.n

    def operands(self) -> tuple[Array, Array]:
        """x @ w of x (M, K) and w (K, N); x^T @ g, a sum over M; or g @ w^T, one over N."""
        rng = np.random.default_rng(0)
        batch = (self.count,) if self.count > 1 else ()

        def random(*shape: int) -> Array:
            return rng.standard_normal((*batch, *shape), dtype=np.float32)

        if self.form == "weights":
            return random(self.m, self.k).mT, random(self.m, self.n)
        if self.form == "inputs":
            return random(self.m, self.n), random(self.k, self.n).mT
        return random(self.m, self.k), random(self.k, self.n)


Multiply = Callable[[Array, Array, Array, int], Callable[[], Any]]


def of_numpy(a: Array, b: Array, out: Array, threads: int) -> Callable[[], Any]:
    if out.ndim == 2:
        return lambda: np.dot(a, b, out=out)
    return lambda: np.matmul(a, b, out=out)


def of_ours(a: Array, b: Array, out: Array, threads: int) -> Callable[[], Any]:
    from tinygrad_rnn.kernels.cpu.run import product

    return lambda: product(a, b, out, threads=threads)


def of_torch(a: Array, b: Array, out: Array, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    x, y, result = map(torch.from_numpy, (a, b, out))
    return lambda: torch.matmul(x, y, out=result)


SIDES: dict[str, Multiply] = {"tinygrad_rnn": of_ours, "numpy": of_numpy, "torch": of_torch}


def versions(side: str) -> dict[str, str]:
    if side == "torch":
        import torch

        return {"torch": torch.__version__}
    if side == "numpy":
        return numpy_versions()
    import tinygrad_rnn as tg

    return {"tinygrad_rnn": tg.__version__}


def serve(task: dict[str, Any], answer: Callable[..., None]) -> None:
    cases = [Case(*case) for case in task["cases"]]
    multiply, threads = SIDES[task["side"]], task["threads"]
    answer(versions=versions(task["side"]), form="into memory that is there")
    chosen, once, out = -1, None, np.empty(0, np.float32)
    for line in sys.stdin:
        number, count = map(int, line.split())
        if number != chosen:
            chosen = number
            a, b = cases[number].operands()
            out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
            once = multiply(a, b, out, threads)
            once()
        assert once is not None
        once()  # wakes the caches and the threads; not counted
        times = []
        for _ in range(count):
            start = perf_counter()
            once()
            times.append(perf_counter() - start)
        answer(times=times, checksum=checksum(1.0, [out]))


if __name__ == "__main__":
    main(serve)
