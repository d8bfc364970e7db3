"""Recurrent cells: one step of a network with a state, as compositions of primitives.

A cell is called ``cell(x, state) -> (output, state)`` with x (B, I); ``unroll`` applies it over
time. Nothing here knows of a gradient. Biases are one vector, added to the input's product. The
subtle thing is the order of the gates within a matrix, PyTorch's: LSTM ``i f g o``, GRU ``r z n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..primitives.creation import zeros
from ..primitives.elementwise import relu, result_type, sigmoid, tanh
from ..primitives.movement import split
from ..tensor import Tensor
from . import init
from .module import Module, Parameter


class _Cell(Module):
    """The weights that cells have in common.

    ``weight_ih`` (I, G*H) by Xavier's rule and ``weight_hh`` (H, G*H) orthogonal, gate by gate;
    ``bias`` (G*H,) zero.
    """

    gates: int

    def __init__(self, input_size: int, hidden_size: int, bias: bool) -> None:
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = Parameter(
            init.side_by_side(init.xavier_uniform, input_size, hidden_size, self.gates)
        )
        self.weight_hh = Parameter(
            init.side_by_side(init.orthogonal, hidden_size, hidden_size, self.gates)
        )
        self.bias = Parameter(init.zeros((self.gates * hidden_size,))) if bias else None

    def _project(self, x: Tensor) -> Tensor:
        """``x @ weight_ih + bias``, of all gates."""
        if x.shape[-1:] != (self.input_size,):
            raise ValueError(
                f"{type(self).__name__}: expected x (..., {self.input_size}), not {x.shape}"
            )
        projected = x @ self.weight_ih
        return projected if self.bias is None else projected + self.bias

    def _zeros(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Tensor:
        dtype = result_type(dtype, self.weight_hh)
        return zeros((*batch_shape, self.hidden_size), dtype, backend=backend)

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Any:
        """Zeros, as ``unroll`` asks for them; the dtype is that of x and the weights together."""
        return self._zeros(batch_shape, dtype, backend)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias is not None}"


def _kind(state: Any) -> str:
    if isinstance(state, Tensor):
        return f"a Tensor of shape {state.shape}"
    return f"a {type(state).__name__}" + (f" of {len(state)}" if hasattr(state, "__len__") else "")


class RNNCell(_Cell):
    """h' = tanh(x @ weight_ih + bias + h @ weight_hh) (Elman 1990); the state is h (B, H).

    ``nonlinearity`` is "tanh" or "relu".
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNNCell: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: (B, I), (B, H) to (B, H), (B, H)."""
        activation = tanh if self.nonlinearity == "tanh" else relu
        h = activation(self._project(x) + state @ self.weight_hh)
        return h, h


class LSTMCell(_Cell):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    The state is (h, c), each (B, H)::

        i, f, g, o = split(x @ weight_ih + bias + h @ weight_hh, 4)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    The forget gate's bias starts at ``forget_bias`` (1: Jozefowicz et al. 2015), the others at 0.
    """

    gates = 4

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, forget_bias: float = 1.0
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        if bias:
            initial = init.zeros((4 * hidden_size,))
            initial[hidden_size : 2 * hidden_size] = forget_bias
            self.bias = Parameter(initial)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step: (B, I), ((B, H), (B, H)) to (B, H), ((B, H), (B, H))."""
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(
                "LSTMCell: the state is a pair (h, c), as in output, (h, c) = cell(x, (h, c)), "
                f"not {_kind(state)}"
            )
        h, c = state
        i, f, g, o = split(self._project(x) + h @ self.weight_hh, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        return h, (h, c)

    def initial_state(
        self, batch_shape: Sequence[int], dtype: Any, backend: str
    ) -> tuple[Tensor, Tensor]:
        """Zeros (h, c)."""
        return self._zeros(batch_shape, dtype, backend), self._zeros(batch_shape, dtype, backend)


class GRUCell(_Cell):
    """Gated recurrent unit (Cho et al. 2014); the state is h (B, H).

    ::

        r, z, n = split(x @ weight_ih + bias, 3);  hr, hz, hn = split(h @ weight_hh, 3)
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        h' = (1 - z) * tanh(n + r * (hn + bias_hn)) + z * h

    That is ``reset_after=True``, PyTorch's and cuDNN's form. With False, as in the paper, the reset
    gate comes before the product: ``tanh(n + (r * h) @ weight_hn)``, and there is no ``bias_hn``.
    """

    gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, reset_after: bool = True
    ) -> None:
        super().__init__(input_size, hidden_size, bias)
        self.reset_after = reset_after
        self.bias_hn = Parameter(init.zeros((hidden_size,))) if bias and reset_after else None

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: (B, I), (B, H) to (B, H), (B, H)."""
        h, size = state, self.hidden_size
        r, z, n = split(self._project(x), 3, axis=-1)
        if self.reset_after:
            from_r, from_z, from_n = split(h @ self.weight_hh, 3, axis=-1)
            r = sigmoid(r + from_r)
            from_n = from_n if self.bias_hn is None else from_n + self.bias_hn
            n = tanh(n + r * from_n)
        else:
            for_gates, for_n = split(self.weight_hh, [2 * size], axis=-1)
            from_r, from_z = split(h @ for_gates, 2, axis=-1)
            r = sigmoid(r + from_r)
            n = tanh(n + (r * h) @ for_n)
        z = sigmoid(z + from_z)
        h = (1 - z) * n + z * h
        return h, h
