"""Recurrent cells: one step of a network with a state, as compositions of primitives.

A cell is called ``cell(x, state) -> (output, state)`` with x (B, I); ``unroll`` applies it over
time. Nothing here knows of a gradient. Biases are one vector, added to the input's product. The
gates stand in a matrix in PyTorch's order: LSTM ``i f g o``, GRU ``r z n``.

To write a cell of your own, define ``forward(x, state)`` and, so that ``unroll`` can start without
a state, ``initial_state(batch_shape, dtype, backend)``. Whatever a state is nested from, tuples,
dicts or named tuples of Tensors, its leaves keep shape and dtype from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ..primitives.creation import full, zeros
from ..primitives.elementwise import exp, maximum, relu, result_type, sigmoid, tanh
from ..primitives.movement import broadcast_to, split
from ..tensor import Tensor
from . import init
from .layers import LayerNorm, check_sizes, look_at_dtype
from .module import Module, Parameter

Activation = Callable[[Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


class _Cell(Module):
    """The weights that cells have in common, and a state h of zeros.

    ``weight_ih`` (I, G*H) and ``weight_hh`` (H, G*H) are drawn gate by gate, by default by Xavier's
    rule and orthogonal; ``bias`` (G*H,) is zero. ``input_init``, ``recurrent_init`` and
    ``bias_init``, functions as in ``nn.init``, replace them.
    """

    gates: int
    recurrent_gates: int | None = None  # of weight_hh and bias, if there are fewer
    state_names: tuple[str, ...] = ("h",)
    weight_names: tuple[str, ...] = ("weight_ih", "weight_hh", "bias")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        input_init: init.Initialiser = init.xavier_uniform,
        recurrent_init: init.Initialiser = init.orthogonal,
        bias_init: init.Initialiser = init.zeros,
    ) -> None:
        check_sizes(type(self).__name__, input_size=input_size)
        check_sizes(type(self).__name__, least=1, hidden_size=hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        from_input, from_h = (input_size, hidden_size), (self.output_size, hidden_size)
        gates = self.recurrent_gates or self.gates
        self.weight_ih = Parameter(init.side_by_side(input_init, from_input, self.gates))
        self.weight_hh = Parameter(init.side_by_side(recurrent_init, from_h, gates))
        self.bias = Parameter(self._initial_bias(bias_init, gates)) if bias else None

    @classmethod
    def on(cls, weights: Mapping[str, Parameter | None], settings: Mapping[str, Any]) -> Self:
        """A cell on weights that somebody else holds, who has its other attributes, too."""
        cell = cls.__new__(cls)
        vars(cell).update(settings, **weights, input_size=weights["weight_ih"].shape[0])  # type: ignore[union-attr]
        return cell

    @property
    def settings(self) -> dict[str, Any]:
        """What it holds beside its weights and the size of its input."""
        own = (*self.weight_names, "input_size")
        return {name: value for name, value in vars(self).items() if name not in own}

    @property
    def output_size(self) -> int:
        """The width of the output h."""
        return self.hidden_size

    def _initial_bias(self, bias_init: init.Initialiser, gates: int) -> init.HostArray:
        return init.side_by_side(bias_init, (self.hidden_size,), gates)

    def _project(self, x: Tensor) -> Tensor:
        """``x @ weight_ih + bias``, of all gates."""
        self._check_input(x)
        projected = x @ self.weight_ih
        return projected if self.bias is None else projected + self.bias

    def _check_input(self, x: Tensor) -> None:
        self._check_width("x", x, self.input_size)
        look_at_dtype(type(self).__name__, "x", x, self.weight_ih)

    def _check_state(self, x: Tensor, **parts: Tensor) -> None:
        """Whether it has the rows of x: it would broadcast, and so be of some of them only."""
        for name, part in parts.items():
            if part.shape[:-1] != x.shape[:-1]:
                raise ValueError(
                    f"{type(self).__name__}: the state has the rows of x, but x is {x.shape} and "
                    f"{name} is {part.shape}; a state that all rows share is given as "
                    f"broadcast_to({name}, {(*x.shape[:-1], *part.shape[-1:])})"
                )
            look_at_dtype(type(self).__name__, f"the state {name}", part, self.weight_hh)

    def _h(self, x: Tensor, state: Tensor) -> Tensor:
        """The state of a cell that has one part, for an x."""
        if not isinstance(state, Tensor):
            raise TypeError(
                f"{type(self).__name__}: the state is a Tensor h (B, {self.hidden_size}), as in "
                f"output, h = cell(x, h), not {_kind(state)}"
            )
        self._check_width("h", state, self.hidden_size)
        self._check_state(x, h=state)
        return state

    def _check_width(self, name: str, part: Tensor, size: int) -> None:
        if part.shape[-1:] != (size,):
            raise ValueError(
                f"{type(self).__name__}: expected {name} (..., {size}), not {part.shape}"
            )

    def _zeros(self, batch_shape: Sequence[int], size: int, dtype: Any, backend: str) -> Tensor:
        return zeros((*batch_shape, size), result_type(dtype, self.weight_hh), backend=backend)

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Any:
        """Zeros, as ``unroll`` asks for them; the dtype is that of x and the weights together."""
        return self._zeros(batch_shape, self.hidden_size, dtype, backend)

    def extra_repr(self) -> str:
        """Sizes, and what differs from the defaults."""
        bias = f"bias={self.bias is not None}"
        return ", ".join([str(self.input_size), str(self.hidden_size), bias, *self._options()])

    def _options(self) -> list[str]:
        """Further arguments that ``repr`` shows."""
        return []


def check_pair(operation: str, state: Pair) -> Pair:
    """The state of an LSTM, if it is one; else TypeError."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise TypeError(
            f"{operation}: the state is a tuple (h, c), as in output, (h, c) = cell(x, (h, c)), "
            f"not {_kind(state)}"
        )
    return state


def _kind(state: Any) -> str:
    if isinstance(state, Tensor):
        return f"a Tensor of shape {state.shape}"
    return f"a {type(state).__name__}" + (f" of {len(state)}" if hasattr(state, "__len__") else "")


def _name(activation: Activation) -> str:
    return getattr(activation, "__name__", repr(activation))


class RNNCell(_Cell):
    """h' = tanh(x @ weight_ih + bias + h @ weight_hh) (Elman 1990); the state is h (B, H).

    ``nonlinearity`` is "tanh", "relu", or any function of a Tensor. An IRNN (Le et al. 2015) is
    ``RNNCell(I, H, nonlinearity="relu", recurrent_init=init.identity)``.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: Literal["tanh", "relu"] | Activation = "tanh",
        **initialisers: Any,
    ) -> None:
        named: dict[Any, Activation] = {"tanh": tanh, "relu": relu}
        if not callable(nonlinearity) and str(nonlinearity) not in named:
            raise ValueError(
                f"RNNCell: nonlinearity is 'tanh', 'relu' or a function, not {nonlinearity!r}"
            )
        super().__init__(input_size, hidden_size, bias, **initialisers)
        self.activation = nonlinearity if callable(nonlinearity) else named[nonlinearity]

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: (B, I), (B, H) to (B, H), (B, H)."""
        h = self.activation(self._project(x) + self._h(x, state) @ self.weight_hh)
        return h, h

    def _options(self) -> list[str]:
        return [] if self.activation is tanh else [f"nonlinearity={_name(self.activation)!r}"]


class _CellOfPair(_Cell):
    """A cell whose state is (h, c): what LSTMs have in common.

    The bias of the forget gate, the second of ``i f g o``, starts ``forget_bias`` above the others
    (1: Jozefowicz et al. 2015); without biases there is none. ``activation`` (tanh) and
    ``gate_activation`` (sigmoid) may be any functions of a Tensor.
    """

    gates = 4
    state_names = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float = 1.0,
        activation: Activation = tanh,
        gate_activation: Activation = sigmoid,
        **initialisers: Any,
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(input_size, hidden_size, bias, **initialisers)
        self.activation, self.gate_activation = activation, gate_activation

    def _initial_bias(self, bias_init: init.Initialiser, gates: int) -> init.HostArray:
        drawn = super()._initial_bias(bias_init, gates)
        drawn[self.hidden_size : 2 * self.hidden_size] += self.forget_bias
        return drawn

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Pair:
        """Zeros (h, c)."""
        h = self._zeros(batch_shape, self.output_size, dtype, backend)
        return h, self._zeros(batch_shape, self.hidden_size, dtype, backend)

    def _pair(self, x: Tensor, state: Pair) -> Pair:
        check_pair(type(self).__name__, state)
        self._check_width("h", state[0], self.output_size)
        self._check_width("c", state[1], self.hidden_size)
        self._check_state(x, h=state[0], c=state[1])
        return state


class LSTMCell(_CellOfPair):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    The state is (h, c), each (B, H)::

        i, f, g, o = split(x @ weight_ih + bias + h @ weight_hh, 4)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    With ``proj_size`` P, h is (B, P): h' is multiplied by ``weight_hr`` (H, P) (Sak et al. 2014).
    """

    weight_names = (*_Cell.weight_names, "weight_hr")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        proj_size: int = 0,
        *,
        recurrent_init: init.Initialiser = init.orthogonal,
        **options: Any,
    ) -> None:
        check_sizes("LSTMCell", hidden_size=hidden_size, proj_size=proj_size)
        if proj_size >= max(hidden_size, 1):
            raise ValueError(
                f"LSTMCell: proj_size is smaller than hidden_size {hidden_size}, or 0 for none; "
                f"not {proj_size}"
            )
        self.proj_size = proj_size
        super().__init__(input_size, hidden_size, bias, recurrent_init=recurrent_init, **options)
        self.weight_hr = (
            Parameter(init.draw(recurrent_init, (hidden_size, proj_size))) if proj_size else None
        )

    @property
    def output_size(self) -> int:
        """The width of the output h: P with a projection, else H."""
        return self.proj_size or self.hidden_size

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        """One step: (B, I), ((B, H), (B, H)) to (B, H), ((B, H), (B, H))."""
        projected, (h, c) = self._project(x), self._pair(x, state)
        gate, activation = self.gate_activation, self.activation
        i, f, g, o = split(projected + h @ self.weight_hh, 4, axis=-1)
        c = gate(f) * c + gate(i) * activation(g)
        h = gate(o) * activation(c)
        if self.weight_hr is not None:
            h = h @ self.weight_hr
        return h, (h, c)

    def _options(self) -> list[str]:
        return [f"proj_size={self.proj_size}"] if self.proj_size else []


class PeepholeLSTMCell(_CellOfPair):
    """An LSTM whose gates see the cell's content c (Gers & Schmidhuber 2000).

    As ``LSTMCell``, with ``weight_ci, weight_cf, weight_co`` (H,), which start at zero::

        i, f = sigmoid(i + weight_ci * c), sigmoid(f + weight_cf * c)
        c' = f * c + i * tanh(g)
        h' = sigmoid(o + weight_co * c') * tanh(c')
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **options: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **options)
        self.weight_ci = Parameter(init.zeros((hidden_size,)))
        self.weight_cf = Parameter(init.zeros((hidden_size,)))
        self.weight_co = Parameter(init.zeros((hidden_size,)))

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        """One step: (B, I), ((B, H), (B, H)) to (B, H), ((B, H), (B, H))."""
        projected, (h, c) = self._project(x), self._pair(x, state)
        gate, activation = self.gate_activation, self.activation
        i, f, g, o = split(projected + h @ self.weight_hh, 4, axis=-1)
        i, f = gate(i + self.weight_ci * c), gate(f + self.weight_cf * c)
        c = f * c + i * activation(g)
        h = gate(o + self.weight_co * c) * activation(c)
        return h, (h, c)


class LayerNormLSTMCell(_CellOfPair):
    """An LSTM with normalised products and cell content (Ba et al. 2016, equations 20 to 22).

    As ``LSTMCell``, with LN for a ``LayerNorm``, each over all gates together::

        i, f, g, o = split(LN(x @ weight_ih) + LN(h @ weight_hh) + bias, 4)
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'))

    The paper's three biases of the gates are one, their sum: ``norm_ih`` and ``norm_hh`` have
    gains only.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **options: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **options)
        self.norm_ih = LayerNorm(4 * hidden_size, bias=False)
        self.norm_hh = LayerNorm(4 * hidden_size, bias=False)
        self.norm_c = LayerNorm(hidden_size)

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        """One step: (B, I), ((B, H), (B, H)) to (B, H), ((B, H), (B, H))."""
        self._check_input(x)
        h, c = self._pair(x, state)
        gate, activation = self.gate_activation, self.activation
        gates = self.norm_ih(x @ self.weight_ih) + self.norm_hh(h @ self.weight_hh)
        i, f, g, o = split(gates if self.bias is None else gates + self.bias, 4, axis=-1)
        c = gate(f) * c + gate(i) * activation(g)
        h = gate(o) * activation(self.norm_c(c))
        return h, (h, c)


class GRUCell(_Cell):
    """Gated recurrent unit (Cho et al. 2014); the state is h (B, H).

    ::

        r, z, n = split(x @ weight_ih + bias, 3);  hr, hz, hn = split(h @ weight_hh, 3)
        r, z = sigmoid(r + hr), sigmoid(z + hz)
        h' = (1 - z) * tanh(n + r * (hn + bias_hn)) + z * h

    That is ``reset_after=True``, PyTorch's and cuDNN's form. With False, as in the paper, the reset
    gate comes before the product: ``tanh(n + (r * h) @ weight_hn)``, and there is no ``bias_hn``.
    ``activation`` (tanh) and ``gate_activation`` (sigmoid) may be any functions of a Tensor.
    """

    gates = 3
    weight_names = (*_Cell.weight_names, "bias_hn")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        reset_after: bool = True,
        *,
        activation: Activation = tanh,
        gate_activation: Activation = sigmoid,
        bias_init: init.Initialiser = init.zeros,
        **initialisers: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, bias_init=bias_init, **initialisers)
        self.reset_after = reset_after
        self.bias_hn = (
            Parameter(init.draw(bias_init, (hidden_size,))) if bias and reset_after else None
        )
        self.activation, self.gate_activation = activation, gate_activation

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: (B, I), (B, H) to (B, H), (B, H)."""
        r, z, n = split(self._project(x), 3, axis=-1)
        h, gate, activation = self._h(x, state), self.gate_activation, self.activation
        if self.reset_after:
            from_r, from_z, from_n = split(h @ self.weight_hh, 3, axis=-1)
            r = gate(r + from_r)
            from_n = from_n if self.bias_hn is None else from_n + self.bias_hn
            n = activation(n + r * from_n)
        else:
            for_gates, for_n = split(self.weight_hh, [2 * self.hidden_size], axis=-1)
            from_r, from_z = split(h @ for_gates, 2, axis=-1)
            r = gate(r + from_r)
            n = activation(n + (r * h) @ for_n)
        z = gate(z + from_z)
        h = (1 - z) * n + z * h
        return h, h

    def _options(self) -> list[str]:
        return [] if self.reset_after else ["reset_after=False"]


class RWAState(NamedTuple):
    """What an RWA remembers, each (B, H): its output, both sums, and the exponent they are less."""

    h: Tensor
    numerator: Tensor
    denominator: Tensor
    largest: Tensor


class RWACell(_Cell):
    """Recurrent weighted average (Ostmeyer & Cowell 2017): attention over all steps so far.

    ::

        u = x @ weight_u + bias_u
        g = x @ weight_g + bias_g + h @ weight_hg;  a = x @ weight_a + h @ weight_ha
        h_t = tanh(sum_s u_s * tanh(g_s) * exp(a_s) / sum_s exp(a_s)),  s = 1 ... t

    Both sums are kept times exp(-largest), the largest a so far, so that none overflows; h depends
    on it only by rounding. The gates in ``weight_ih`` (I, 3*H) are ``u g a``, in ``weight_hh``
    (H, 2*H) ``g a``, in ``bias`` (2*H,) ``u g``: one of a would cancel. The first h is
    tanh(``initial``), which is learned.
    """

    gates = 3
    recurrent_gates = 2
    state_names = RWAState._fields

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **initialisers: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **initialisers)
        self.initial = Parameter(init.zeros((hidden_size,)))

    def forward(self, x: Tensor, state: RWAState) -> tuple[Tensor, RWAState]:
        """One step: (B, I), four times (B, H) to (B, H), four times (B, H)."""
        self._check_input(x)
        if not isinstance(state, RWAState):
            raise TypeError(f"RWACell: the state is an RWAState, not {_kind(state)}")
        self._check_state(x, **state._asdict())
        h, numerator, denominator, largest = state
        u, g, a = split(x @ self.weight_ih, 3, axis=-1)
        from_g, from_a = split(h @ self.weight_hh, 2, axis=-1)
        g, a = g + from_g, a + from_a
        if self.bias is not None:
            bias_u, bias_g = split(self.bias, 2)
            u, g = u + bias_u, g + bias_g
        shift = maximum(largest, a)
        before, now = exp(largest - shift), exp(a - shift)
        numerator = numerator * before + u * tanh(g) * now
        denominator = denominator * before + now
        h = tanh(numerator / denominator)
        return h, RWAState(h, numerator, denominator, shift)

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> RWAState:
        """tanh(initial), empty sums, and an exponent below any other."""
        nothing = self._zeros(batch_shape, self.hidden_size, dtype, backend)
        # Not -inf, which less itself is nan; halved, so that no difference overflows.
        lowest = float(np.finfo(nothing.dtype).min) / 2
        h = broadcast_to(tanh(self.initial).astype(nothing.dtype), nothing.shape)
        least = full(nothing.shape, lowest, nothing.dtype, backend=backend)
        return RWAState(h, nothing, nothing, least)
