"""Cells from papers, written down from their equations as a user would write them.

None of them is in the library, and no plan was made with them in mind. ``CELLS`` has a function for
each, which makes one for a number of rows; ``inputs_for(cell, rng, steps, rows)`` makes its inputs.
Weights are drawn at random, biases and gains too, so that none of them hides something by being 0
or 1. Vectors are rows here, so what a paper writes W x is ``x @ self.w``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import Tensor, nn

Pair = tuple[Tensor, Tensor]

INPUT, HIDDEN = 3, 4


class PaperCell(nn.Module):
    """Parameters of given shapes, and a state of zeros (B, width) for each of ``state_widths``."""

    state_widths: tuple[int, ...] = (HIDDEN,)
    input_size = INPUT

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        for name, shape in shapes.items():
            bound = shape[0] ** -0.5 if len(shape) == 2 else 0.5
            setattr(self, name, nn.Parameter(tg.random.uniform(shape, -bound, bound)))

    def initial_state(self, batch_shape: Sequence[int], dtype: Any, backend: str) -> Any:
        """Zeros: a Tensor, or a tuple of several."""
        parts = [tg.zeros((*batch_shape, n), dtype, backend=backend) for n in self.state_widths]
        return parts[0] if len(parts) == 1 else tuple(parts)


class SRUCell(PaperCell):
    """Simple recurrent unit (Lei et al. 2018, equations 1 to 4): no product meets the state.

    ::

        f = sigmoid(W_f x + v_f * c + b_f);  r = sigmoid(W_r x + v_r * c + b_r)
        c' = f * c + (1 - f) * W x
        h = r * c' + (1 - r) * x
    """

    input_size = HIDDEN

    def __init__(self) -> None:
        super().__init__(w=(HIDDEN, 3 * HIDDEN), v=(2 * HIDDEN,), b=(2 * HIDDEN,))

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        content, for_f, for_r = tg.split(x @ self.w, 3, axis=-1)
        (v_f, v_r), (b_f, b_r) = tg.split(self.v, 2), tg.split(self.b, 2)
        f = tg.sigmoid(for_f + v_f * c + b_f)
        r = tg.sigmoid(for_r + v_r * c + b_r)
        c = f * c + (1 - f) * content
        return r * c + (1 - r) * x, c


class QRNNCell(PaperCell):
    """Quasi-recurrent network, fo-pooling over a convolution of two steps (Bradbury et al. 2017).

    ::

        z, f, o = tanh, sigmoid, sigmoid of W_1 x_{t-1} + W_2 x_t
        c' = f * c + (1 - f) * z;  h = o * c'

    The input before is a part of the state: a delay line.
    """

    state_widths = (HIDDEN, INPUT)

    def __init__(self) -> None:
        super().__init__(w=(2 * INPUT, 3 * HIDDEN))

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        c, before = state
        z, f, o = tg.split(tg.concat([before, x], axis=-1) @ self.w, 3, axis=-1)
        f = tg.sigmoid(f)
        c = f * c + (1 - f) * tg.tanh(z)
        return tg.sigmoid(o) * c, (c, x)


class MGUCell(PaperCell):
    """Minimal gated unit (Zhou et al. 2016).

    ::

        f = sigmoid(W_f [h, x] + b_f)
        h' = (1 - f) * h + f * tanh(W_h [f * h, x] + b_h)
    """

    def __init__(self) -> None:
        both = (HIDDEN + INPUT, HIDDEN)
        super().__init__(w_f=both, w_h=both, b_f=(HIDDEN,), b_h=(HIDDEN,))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        f = tg.sigmoid(tg.concat([h, x], axis=-1) @ self.w_f + self.b_f)
        new = tg.tanh(tg.concat([f * h, x], axis=-1) @ self.w_h + self.b_h)
        h = (1 - f) * h + f * new
        return h, h


class IndRNNCell(PaperCell):
    """Independently recurrent network (Li et al. 2018): h' = relu(W x + u * h + b)."""

    def __init__(self) -> None:
        super().__init__(w=(INPUT, HIDDEN), u=(HIDDEN,), b=(HIDDEN,))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = tg.relu(x @ self.w + self.u * h + self.b)
        return h, h


class ClockworkCell(PaperCell):
    """Clockwork RNN (Koutník et al. 2014): a module of period p moves where t mod p = 0.

    ``x`` is a pair of an input and the number of the step. Connections go from slower modules to
    faster ones only: the recurrent matrix is masked.
    """

    def __init__(self) -> None:
        super().__init__(w=(INPUT, HIDDEN), u=(HIDDEN, HIDDEN), b=(HIDDEN,))
        periods = np.repeat([1, 2], HIDDEN // 2)
        self.periods = nn.Buffer(tg.tensor(periods))
        self.connections = nn.Buffer(tg.tensor(periods[:, None] >= periods))

    def forward(self, x: tuple[Tensor, Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
        x, step = x
        moved = tg.tanh(x @ self.w + h @ tg.where(self.connections, self.u, 0.0) + self.b)
        h = tg.where(step % self.periods == 0, moved, h)
        return h, h


class MUT1Cell(PaperCell):
    """The first of three cells that an evolution found (Jozefowicz et al. 2015).

    ::

        z = sigmoid(W_xz x + b_z);  r = sigmoid(W_xr x + W_hr h + b_r)
        h' = tanh(W_hh (r * h) + tanh(x) + b_h) * z + h * (1 - z)
    """

    input_size = HIDDEN

    def __init__(self) -> None:
        square = (HIDDEN, HIDDEN)
        biases = {name: (HIDDEN,) for name in ("b_z", "b_r", "b_h")}
        super().__init__(w_xz=square, w_xr=square, w_hr=square, w_hh=square, **biases)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z = tg.sigmoid(x @ self.w_xz + self.b_z)
        r = tg.sigmoid(x @ self.w_xr + h @ self.w_hr + self.b_r)
        h = tg.tanh((r * h) @ self.w_hh + tg.tanh(x) + self.b_h) * z + h * (1 - z)
        return h, h


class LEMCell(PaperCell):
    """Long expressive memory (Rusch et al. 2022, equation 4): two time scales, both learned.

    ::

        a = dt sigmoid(W_1 y + V_1 u + b_1);  c = dt sigmoid(W_2 y + V_2 u + b_2)
        z' = (1 - a) * z + a * tanh(W_z y + V_z u + b_z)
        y' = (1 - c) * y + c * tanh(W_y z' + V_y u + b_y)
    """

    state_widths = (HIDDEN, HIDDEN)
    dt = 0.7

    def __init__(self) -> None:
        super().__init__(
            w=(HIDDEN, 3 * HIDDEN), w_y=(HIDDEN, HIDDEN), v=(INPUT, 4 * HIDDEN), b=(4 * HIDDEN,)
        )

    def forward(self, u: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        y, z = state
        v_1, v_2, v_z, v_y = tg.split(u @ self.v + self.b, 4, axis=-1)
        w_1, w_2, w_z = tg.split(y @ self.w, 3, axis=-1)
        a, c = self.dt * tg.sigmoid(w_1 + v_1), self.dt * tg.sigmoid(w_2 + v_2)
        z = (1 - a) * z + a * tg.tanh(w_z + v_z)
        y = (1 - c) * y + c * tg.tanh(z @ self.w_y + v_y)
        return y, (y, z)


class CoRNNCell(PaperCell):
    """Coupled oscillators (Rusch & Mishra 2021, equation 3).

    ::

        z' = z + dt (tanh(W y + U z + V u + b) - gamma y - epsilon z);  y' = y + dt z'
    """

    state_widths = (HIDDEN, HIDDEN)
    dt, gamma, epsilon = 0.3, 1.5, 0.8

    def __init__(self) -> None:
        square = (HIDDEN, HIDDEN)
        super().__init__(w=square, u=square, v=(INPUT, HIDDEN), b=(HIDDEN,))

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        y, z = state
        drive = tg.tanh(y @ self.w + z @ self.u + x @ self.v + self.b)
        z = z + self.dt * (drive - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, (y, z)


class MogrifierLSTMCell(PaperCell):
    """An LSTM before which input and state gate each other, four rounds (Melis et al. 2020).

    ::

        x_i = 2 sigmoid(Q_i h_{i-1}) * x_{i-2}  for odd i
        h_i = 2 sigmoid(R_i x_{i-1}) * h_{i-2}  for even i
    """

    state_widths = (HIDDEN, HIDDEN)

    def __init__(self) -> None:
        gates = 4 * HIDDEN
        super().__init__(
            q_1=(HIDDEN, INPUT),
            r_2=(INPUT, HIDDEN),
            q_3=(HIDDEN, INPUT),
            r_4=(INPUT, HIDDEN),
            w=(INPUT, gates),
            u=(HIDDEN, gates),
            b=(gates,),
        )

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        h, c = state
        for q, r in ((self.q_1, self.r_2), (self.q_3, self.r_4)):
            x = 2 * tg.sigmoid(h @ q) * x
            h = 2 * tg.sigmoid(x @ r) * h
        return lstm(x @ self.w + h @ self.u + self.b, c)


class FastGRNNCell(PaperCell):
    """FastGRNN (Kusupati et al. 2018): one pair of matrices for gate and content.

    ::

        z = sigmoid(W x + U h + b_z)
        h' = (zeta (1 - z) + nu) * tanh(W x + U h + b_h) + z * h

    zeta and nu, two numbers between 0 and 1, are learned.
    """

    def __init__(self) -> None:
        biases = {"b_z": (HIDDEN,), "b_h": (HIDDEN,), "zeta": (), "nu": ()}
        super().__init__(w=(INPUT, HIDDEN), u=(HIDDEN, HIDDEN), **biases)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        both = x @ self.w + h @ self.u
        z = tg.sigmoid(both + self.b_z)
        new = tg.tanh(both + self.b_h)
        h = (tg.sigmoid(self.zeta) * (1 - z) + tg.sigmoid(self.nu)) * new + z * h
        return h, h


class RealLRUCell(PaperCell):
    """A linear recurrent unit (Orvieto et al. 2023) with real eigenvalues: nothing in it is bent.

    ::

        lambda = exp(-exp(nu));  h' = lambda * h + sqrt(1 - lambda^2) * B x;  y = C h' + D x
    """

    def __init__(self) -> None:
        super().__init__(nu=(HIDDEN,), b=(INPUT, HIDDEN), c=(HIDDEN, INPUT), d=(INPUT,))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        decay = tg.exp(-tg.exp(self.nu))
        h = decay * h + tg.sqrt(1 - tg.square(decay)) * (x @ self.b)
        return h @ self.c + self.d * x, h


class AttentiveLSTMCell(PaperCell):
    """An LSTM that looks into a memory (B, S, E) with its h before, as Bahdanau et al. 2015 do.

    ::

        context = softmax(v . tanh(W h + U m_s)) . m;  LSTM of [x, context]
    """

    state_widths = (HIDDEN, HIDDEN)

    def __init__(self, rows: int) -> None:
        gates = 4 * HIDDEN
        super().__init__(
            query=(HIDDEN, 2),
            key=(5, 2),
            score=(2, 1),
            w=(INPUT + 5, gates),
            u=(HIDDEN, gates),
            b=(gates,),
        )
        self.memory = nn.Parameter(tg.random.uniform((rows, 6, 5), -1.0, 1.0))

    def forward(self, x: Tensor, state: Pair) -> tuple[tuple[Tensor, Tensor], Pair]:
        h, c = state
        hidden = tg.tanh((h @ self.query)[:, None, :] + self.memory @ self.key)
        weights = tg.softmax(tg.squeeze(hidden @ self.score, axis=-1), axis=-1)
        context = tg.squeeze(weights[:, None, :] @ self.memory, axis=1)
        gates = tg.concat([x, context], axis=-1) @ self.w + h @ self.u + self.b
        h, state = lstm(gates, c)
        return (h, weights), state


class DeltaRNNCell(PaperCell):
    """Differential state framework (Ororbia et al. 2017): products of input and state.

    ::

        d_1 = V h;  d_2 = W x;  r = sigmoid(d_2 + b_r)
        z = tanh(alpha * d_1 * d_2 + beta_1 * d_1 + beta_2 * d_2 + b)
        h' = tanh((1 - r) * z + r * h)
    """

    def __init__(self) -> None:
        vectors = {name: (HIDDEN,) for name in ("alpha", "beta_1", "beta_2", "b", "b_r")}
        super().__init__(v=(HIDDEN, HIDDEN), w=(INPUT, HIDDEN), **vectors)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        d_1, d_2 = h @ self.v, x @ self.w
        z = tg.tanh(self.alpha * d_1 * d_2 + self.beta_1 * d_1 + self.beta_2 * d_2 + self.b)
        r = tg.sigmoid(d_2 + self.b_r)
        h = tg.tanh((1 - r) * z + r * h)
        return h, h


class RecurrentHighwayCell(PaperCell):
    """Recurrent highway network with three layers a step (Zilly et al. 2017).

    ::

        s_0 = h;  s_l = tanh(W_H x + R_Hl s) * t + s * (1 - t),  t = sigmoid(W_T x + R_Tl s)

    The input takes part in the first layer only.
    """

    def __init__(self) -> None:
        layers = {f"r_{place}": (HIDDEN, 2 * HIDDEN) for place in range(3)}
        super().__init__(w=(INPUT, 2 * HIDDEN), b=(3, 2 * HIDDEN), **layers)

    def forward(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        for place, r in enumerate((self.r_0, self.r_1, self.r_2)):
            both = s @ r + self.b[place]
            both = both if place else both + x @ self.w
            new, t = tg.split(both, 2, axis=-1)
            t = tg.sigmoid(t)
            s = tg.tanh(new) * t + s * (1 - t)
        return s, s


class MultiplicativeLSTMCell(PaperCell):
    """Multiplicative LSTM (Krause et al. 2016): m = (W_mx x) * (W_mh h) takes the place of h."""

    state_widths = (HIDDEN, HIDDEN)

    def __init__(self) -> None:
        gates = 4 * HIDDEN
        super().__init__(
            w_mx=(INPUT, HIDDEN), w_mh=(HIDDEN, HIDDEN), w=(INPUT, gates), u=(HIDDEN, gates)
        )

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        h, c = state
        m = (x @ self.w_mx) * (h @ self.w_mh)
        return lstm(x @ self.w + m @ self.u, c)


class JordanCell(PaperCell):
    """Jordan's network (1986): what is fed back is the output, in a trace that decays.

    ::

        context' = mu context + y;  h = sigmoid(W x + U context' + b);  y' = sigmoid(V h + c)
    """

    state_widths = (2, 2)
    mu = 0.5

    def __init__(self) -> None:
        super().__init__(w=(INPUT, HIDDEN), u=(2, HIDDEN), b=(HIDDEN,), v=(HIDDEN, 2), c=(2,))

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        y, context = state
        context = self.mu * context + y
        h = tg.sigmoid(x @ self.w + context @ self.u + self.b)
        y = tg.sigmoid(h @ self.v + self.c)
        return y, (y, context)


class GatedFeedbackCell(PaperCell):
    """Two layers of which the lower one also sees the upper one's past (Chung et al. 2015).

    ::

        g_ij = sigmoid(w_ij . x_j + u_ij . [h_1, h_2])          a number for each row
        h_j' = tanh(W_j x_j + sum_i g_ij * U_ij h_i),           x_1 = x, x_2 = h_1'

    So neither layer can be run ahead of the other.
    """

    state_widths = (HIDDEN, HIDDEN)

    def __init__(self) -> None:
        one, both = (HIDDEN, HIDDEN), (2 * HIDDEN, 2)
        super().__init__(
            w_1=(INPUT, HIDDEN),
            w_2=one,
            u_11=one,
            u_21=one,
            u_12=one,
            u_22=one,
            from_x=(INPUT, 2),
            from_below=(HIDDEN, 2),
            from_1=both,
            from_2=both,
        )

    def forward(self, x: Tensor, state: Pair) -> tuple[Tensor, Pair]:
        h_1, h_2 = state
        before = tg.concat([h_1, h_2], axis=-1)
        g_11, g_21 = tg.split(tg.sigmoid(x @ self.from_x + before @ self.from_1), 2, axis=-1)
        below = tg.tanh(x @ self.w_1 + g_11 * (h_1 @ self.u_11) + g_21 * (h_2 @ self.u_21))
        gates = tg.sigmoid(below @ self.from_below + before @ self.from_2)
        g_12, g_22 = gates[:, :1], gates[:, 1:]
        above = tg.tanh(below @ self.w_2 + g_12 * (h_1 @ self.u_12) + g_22 * (h_2 @ self.u_22))
        return above, (below, above)


def lstm(gates: Tensor, c: Tensor) -> tuple[Tensor, Pair]:
    """What an LSTM makes of its gates ``i f g o``."""
    i, f, g, o = tg.split(gates, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    h = tg.sigmoid(o) * tg.tanh(c)
    return h, (h, c)


CELLS: dict[str, Callable[[int], Any]] = {
    "SRU": lambda rows: SRUCell(),
    "QRNN": lambda rows: QRNNCell(),
    "MGU": lambda rows: MGUCell(),
    "IndRNN": lambda rows: IndRNNCell(),
    "Clockwork": lambda rows: ClockworkCell(),
    "MUT1": lambda rows: MUT1Cell(),
    "LEM": lambda rows: LEMCell(),
    "coRNN": lambda rows: CoRNNCell(),
    "Mogrifier": lambda rows: MogrifierLSTMCell(),
    "FastGRNN": lambda rows: FastGRNNCell(),
    "LRU": lambda rows: RealLRUCell(),
    "attentive LSTM": AttentiveLSTMCell,
    "delta-RNN": lambda rows: DeltaRNNCell(),
    "highway": lambda rows: RecurrentHighwayCell(),
    "mLSTM": lambda rows: MultiplicativeLSTMCell(),
    "Jordan": lambda rows: JordanCell(),
    "gated feedback": lambda rows: GatedFeedbackCell(),
}


def inputs_for(cell: Any, rng: np.random.Generator, steps: int, rows: int, dtype: Any) -> Any:
    """What the cell takes over time, the parts of floating dtype requiring grad."""
    x = tg.tensor(rng.normal(size=(steps, rows, cell.input_size)), dtype=dtype, requires_grad=True)
    return (x, tg.arange(steps)) if isinstance(cell, ClockworkCell) else x
