"""Add a backend: any library that speaks the Python Array API takes one line.

The same model then runs there, on unchanged code: the backend follows the data. Here the library is
``array_api_strict`` (``pip install array-api-strict``), which implements the standard and nothing
else. A library with functions of its own to offer subclasses ``ArrayAPIBackend``; what a backend is
asked for is one page, ``backends/tinygrad_rnn_backends/protocol.py``.

    python examples/internals/add_a_backend.py
"""

import sys

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn_backends import ArrayAPIBackend

try:
    import array_api_strict
except ModuleNotFoundError:
    sys.exit("add_a_backend.py needs the library that it adds: pip install array-api-strict")

tg.register_backend("strict", lambda: ArrayAPIBackend(array_api_strict, "strict"))


def main() -> None:
    """The gradients of one LSTM on two backends."""
    norms = {}
    for name in ("numpy", "strict"):
        tg.manual_seed(0)  # initial weights are drawn on the host: the same model everywhere
        with tg.use_backend(name):
            cell = nn.LSTMCell(3, 4)
            x = tg.random.uniform((10, 2, 3))
        y, _ = tg.unroll(cell, x, lengths=[10, 6])
        tg.square(y).sum().backward()
        grad = cell.weight_hh.grad
        norms[name] = float(tg.sqrt(tg.square(grad).sum()))
        print(f"{name:7} {type(grad.data).__module__:32} |dL/dW_hh| = {norms[name]:.6f}")
    assert abs(norms["numpy"] - norms["strict"]) < 1e-5 * norms["numpy"]


if __name__ == "__main__":
    main()
