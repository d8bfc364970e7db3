"""What every side computes: the sizes, the numbers it starts from, and how its answers compare.

The LSTM is written out in each side, in that library's own names and otherwise alike::

    i, f, g, o = split(x[t] @ w_ih + h @ w_hh + bias)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    loss = sum(stack(all h) * weights)

The subtle thing is the loss. A squared error would make a library hold the stacked outputs as well,
a plain sum would send the same one back to every output; fixed weights do neither: the graph
holds nothing beyond the recurrence, and the cotangent of each output is a number of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

CHAIN = 200
OPERATIONS = ("multiply", "add", "tanh", "matmul", "sum")
TOLERANCE = 1e-4


class Size(NamedTuple):
    """Steps, batch, input size and hidden size."""

    T: int
    B: int
    I: int  # noqa: E741 - the letters of the equations
    H: int

    def __str__(self) -> str:
        return f"T={self.T} B={self.B} I={self.I} H={self.H}"

    @property
    def flops(self) -> int:
        """Of the matrix products of one step of training: forward two, backward three."""
        return 2 * self.T * self.B * 4 * self.H * (2 * self.I + 3 * self.H)

    @property
    def saved_bytes(self) -> int:
        """What the derivative needs: i f g o, c, tanh(c) and h of every step, and the input."""
        return 4 * self.T * self.B * (7 * self.H + self.I)


SIZES = (Size(25, 1, 65, 100), Size(50, 32, 64, 128), Size(100, 64, 128, 256))


class Data(NamedTuple):
    """One sequence and one set of parameters, float32."""

    x: Array  # (T, B, I)
    w_ih: Array  # (I, 4H), gates in the order i f g o
    w_hh: Array  # (H, 4H)
    bias: Array  # (4H,)
    weights: Array  # (T, B, H), of the outputs in the loss
    zeros: Array  # (B, H), the first h and c

    @property
    def parameters(self) -> tuple[Array, Array, Array]:
        return self.w_ih, self.w_hh, self.bias


def lstm_data(size: Size) -> Data:
    rng = np.random.default_rng(0)
    steps, batch, inputs, hidden = size
    bound = hidden**-0.5

    def uniform(*shape: int) -> Array:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    return Data(
        x=normal(steps, batch, inputs),
        w_ih=uniform(inputs, 4 * hidden),
        w_hh=uniform(hidden, 4 * hidden),
        bias=uniform(4 * hidden),
        weights=normal(steps, batch, hidden),
        zeros=np.zeros((batch, hidden), np.float32),
    )


def chain_data(operation: str) -> list[Array]:
    """Four numbers for ``y = operation(y)`` or, with a second array, ``y = operation(y, w)``.

    The sum runs over an axis of length 1, so that its result feeds the next one.
    """
    x = np.array([0.5, -0.3, 0.8, 0.1], np.float32)
    if operation == "tanh":
        return [x]
    if operation == "sum":
        return [x.reshape(4, 1)]
    if operation == "matmul":  # a rotation, so that 200 of them neither grow nor shrink
        return [x.reshape(2, 2), np.array([[0.8, -0.6], [0.6, 0.8]], np.float32)]
    return [x, np.array([1.001, 0.999, 1.002, 0.998], np.float32)]


def checksum(loss: float, gradients: list[Array]) -> dict[str, Any]:
    """The loss, and for each gradient its norm and its product with one fixed random array."""
    rng = np.random.default_rng(1)
    exact = [np.asarray(gradient, np.float64) for gradient in gradients]
    return {
        "loss": loss,
        "norms": [float(np.sqrt(np.sum(g * g))) for g in exact],
        "products": [float(np.sum(g * rng.standard_normal(g.shape))) for g in exact],
    }


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two checksums are those of the same loss and the same gradients."""
    if len(one["norms"]) != len(other["norms"]):
        return False
    if not abs(one["loss"] - other["loss"]) <= TOLERANCE * abs(one["loss"]):
        return False
    numbers = zip(one["norms"], other["norms"], one["products"], other["products"], strict=True)
    return all(
        abs(norm - norm2) <= TOLERANCE * norm and abs(product - product2) <= TOLERANCE * norm
        for norm, norm2, product, product2 in numbers
    )
