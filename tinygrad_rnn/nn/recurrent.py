"""Recurrent layers: cells run over whole sequences, by ``unroll`` and nothing else.

Every layer is called ``output, state = layer(x, state, lengths, mask, reset)``. ``RNN``, ``LSTM``
and ``GRU`` are PyTorch's; ``Recurrent`` runs a cell of anybody's, ``Bidirectional`` any two.

The subtle part is what "backwards" means for rows of different lengths: each row from its own last
step to its first. ``unroll(reverse=True)`` does that, since it skips the padding, which then comes
first. Where ``reset`` puts several sequences into one row, each is read from its own end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..functional import dropout as dropout_of
from ..primitives.creation import asarray
from ..primitives.elementwise import result_type, where
from ..primitives.movement import broadcast_to, concat, moveaxis, stack, unstack
from ..recurrence import initial_state, pad_sequences, unpad_sequences, unroll
from ..structure import flatten, map_leaves
from ..tensor import Tensor, as_tensor, default_dtype
from .cells import Activation, GRUCell, LSTMCell, RNNCell
from .module import Module, Parameter

Cell = Callable[[Any, Any], tuple[Any, Any]]


class _Steps(NamedTuple):
    """Which steps the rows take, and where they start anew, as ``unroll`` is told."""

    lengths: Any
    mask: Any
    reset: Any
    reset_state: Any


class _Layer(Module):
    """What all layers here have in common; ``_run`` is what each does, time first."""

    batch_first = False

    def forward(
        self,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        reset_state: Any = None,
        reverse: bool = False,
    ) -> tuple[Any, Any]:
        """The outputs (T, B, ...) of a sequence x (T, B, I), and the final state.

        Args:
            x: (T, B, I), with ``batch_first`` (B, T, I); one sequence (T, I), if the state has no
                rows either; or a list of sequences (T_i, I), for which the outputs are a list, too.
            state: the initial state; if None, the learned one or zeros.
            lengths: the steps that each row takes, (B,) integers on the host.
            mask: booleans (T, B), False where a row skips a step. With ``batch_first`` (B, T).
            reset: booleans (T, B), True where a new sequence starts within a row, from the initial
                state. With ``batch_first`` (B, T).
            reset_state: what ``reset`` starts from, if that is not the ``state`` given.
            reverse: the other way round: from each row's last step to its first.

        Outputs are zero where a row skips a step, and its final state is that at its own end.
        Raises ValueError for shapes that do not fit, and whatever ``unroll`` does.
        """
        if isinstance(x, list):
            if lengths is not None or mask is not None:
                raise ValueError(
                    f"{type(self).__name__}: a list of sequences has their lengths; give no others"
                )
            batch, lengths = pad_sequences(x)
            steps = _Steps(lengths, None, reset, reset_state)
            output, state = self._run(batch, state, steps, reverse)
            return unpad_sequences(output, lengths), state
        x = map_leaves(as_tensor, x)
        # One sequence has no batch to come first.
        swap = self.batch_first and all(leaf.ndim > 2 for leaf in flatten(x)[0])
        if swap:
            x = map_leaves(_swapped, x)
            mask, reset = self._time_first(mask, "mask"), self._time_first(reset, "reset")
        output, state = self._run(x, state, _Steps(lengths, mask, reset, reset_state), reverse)
        return map_leaves(_swapped, output) if swap else output, state

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def _time_first(self, flags: Any, name: str) -> Any:
        if flags is None:
            return None
        flags = flags if isinstance(flags, Tensor) else np.asarray(flags)
        if flags.ndim != 2:
            raise ValueError(
                f"{type(self).__name__}: {name} of shape {flags.shape}, expected (batch, time)"
            )
        return _swapped(flags) if isinstance(flags, Tensor) else flags.T


def _swapped(x: Tensor) -> Tensor:
    return moveaxis(x, 0, 1)


def _over_time(cell: Cell, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
    lengths, mask, reset, reset_state = steps
    if reverse and reset is not None:
        reset = _ends(reset, lengths, mask, flatten(x)[0][0])
    return unroll(
        cell,
        x,
        state,
        lengths=lengths,
        mask=mask,
        reset=reset,
        reset_state=reset_state,
        reverse=reverse,
    )


def _ends(reset: Any, lengths: Any, mask: Any, x: Tensor) -> Any:
    """Where the sequences within the rows end, given where they start: what ``reset`` is backwards.

    A row's step is the end of a sequence if the next one that the row takes is the start of one.
    """
    flags = as_tensor(reset) if isinstance(reset, Tensor) else asarray(reset, backend=x.backend)
    if flags.ndim != 2 or flags.dtype.kind != "b" or not len(flags):
        return reset  # which unroll refuses
    taken = mask
    if lengths is not None:
        taken = np.arange(len(flags))[:, None] < np.asarray(lengths)
    if taken is None:
        taken = np.ones(flags.shape, dtype=bool)
    taken = taken if isinstance(taken, Tensor) else asarray(taken, backend=x.backend)
    if taken.shape != flags.shape:
        return reset
    following = flags[0] & False
    ends = []
    for starts, takes in zip(unstack(flags)[::-1], unstack(taken)[::-1], strict=True):
        ends.append(following)
        following = where(takes, starts, following)
    return stack(ends[::-1])


class Recurrent(_Layer):
    """Any cell over time: ``output, state = Recurrent(cell)(x)``, with the state that the cell has.

    Args:
        cell: a callable ``cell(x, state) -> (output, state)``.
        batch_first: x and outputs are (B, T, ...).
        reverse: from each row's last step to its first; outputs stay at the steps of their inputs.
        learn_initial_state: the initial state, the same for every row, is a parameter; it starts as
            ``cell.initial_state`` has it.
    """

    def __init__(
        self,
        cell: Cell,
        batch_first: bool = False,
        reverse: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        if not callable(cell):
            raise TypeError(f"Recurrent: expected a cell(x, state), not {cell!r}")
        self.cell = cell
        self.batch_first, self.reverse = batch_first, reverse
        if learn_initial_state:
            start = initial_state(cell, (), default_dtype(), backends.default().name)
            self.initial = map_leaves(Parameter, start)

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        if state is None and hasattr(self, "initial"):
            first = flatten(x)[0][0]
            state = map_leaves(lambda p: _for_rows(p, first), self.initial)
        return _over_time(self.cell, x, state, steps, reverse != self.reverse)

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        cell = "" if isinstance(self.cell, Module) else getattr(self.cell, "__name__", "cell")
        return _listed(
            cell,
            batch_first=self.batch_first,
            reverse=self.reverse,
            learn_initial_state=hasattr(self, "initial"),
        )


class Bidirectional(_Layer):
    """Two layers over the same input, the second backwards, their outputs side by side.

    ``forward`` and ``backward`` are layers of this module or cells. The state is a pair of theirs.
    """

    def __init__(self, forward: Any, backward: Any, batch_first: bool = False) -> None:
        self.forward_layer = forward if isinstance(forward, _Layer) else Recurrent(forward)
        self.backward_layer = backward if isinstance(backward, _Layer) else Recurrent(backward)
        if self.forward_layer.batch_first or self.backward_layer.batch_first:
            raise ValueError("Bidirectional: batch_first is for it to have, not for its layers")
        self.batch_first = batch_first

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        states = self._both(state, "state")
        fresh = self._both(steps.reset_state, "reset_state")
        runs = []
        for place, layer in enumerate((self.forward_layer, self.backward_layer)):
            own = steps._replace(reset_state=fresh[place])
            runs.append(layer(x, states[place], *own, reverse=reverse != bool(place)))
        (output, final), (backward_output, backward_final) = runs
        return _side_by_side(output, backward_output), (final, backward_final)

    def _both(self, state: Any, name: str) -> tuple[Any, Any]:
        if state is None:
            return None, None
        if isinstance(state, (tuple, list)) and len(state) == 2:
            return state[0], state[1]
        raise TypeError(
            f"Bidirectional: {name} is a pair (forward, backward), not {flatten(state)[1]}"
        )

    def extra_repr(self) -> str:
        """What differs from the defaults."""
        return _listed(batch_first=self.batch_first)


class _Stacked(_Layer):
    """One kind of cell in several layers, in one or both directions, as in PyTorch.

    The layer holds the parameters, under PyTorch's names: ``weight_ih_l0`` to ``bias_l1_reverse``.
    """

    cell_class: type[RNNCell] | type[LSTMCell] | type[GRUCell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        learn_initial_state: bool,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        if not isinstance(num_layers, (int, np.integer)) or num_layers < 1:
            raise ValueError(f"{name}: num_layers is a positive integer, not {num_layers!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is a probability between 0 and 1, not {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.learn_initial_state = learn_initial_state
        self._held: dict[str, tuple[str, ...]] = {}  # names of a cell's parameters
        self._settings: dict[str, dict[str, Any]] = {}  # and everything else that is in it
        width = input_size
        for layer in range(num_layers):
            for reverse in self._directions():
                cell = self.cell_class(width, hidden_size, **options)
                self._take_over(cell, _suffix(layer, reverse))
            width = cell.output_size * len(self._directions())
        self.output_size = width

    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.bidirectional else (False,)

    def _take_over(self, cell: Module, suffix: str) -> None:
        """Hold what a cell holds, its parameters under names that end in a suffix."""
        parameters = {k: v for k, v in vars(cell).items() if isinstance(v, Parameter)}
        self._held[suffix] = tuple(parameters)
        self._settings[suffix] = {k: v for k, v in vars(cell).items() if k not in parameters}
        for name, parameter in parameters.items():
            setattr(self, name + suffix, parameter)
        if self.learn_initial_state:
            start = initial_state(cell, (), default_dtype(), backends.default().name)
            for name, leaf in zip(self.cell_class.state_names, flatten(start)[0], strict=True):
                setattr(self, f"initial_{name}{suffix}", Parameter(leaf))

    def cell(self, layer: int, reverse: bool = False) -> Any:
        """The cell of one layer and direction, on the parameters that the layer has now."""
        suffix = _suffix(layer, reverse)
        if suffix not in self._settings:
            raise ValueError(f"{type(self).__name__}: there is no cell {suffix[1:]} in {self}")
        cell = object.__new__(self.cell_class)
        vars(cell).update(self._settings[suffix])
        vars(cell).update({name: getattr(self, name + suffix) for name in self._held[suffix]})
        return cell

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        if not isinstance(x, Tensor) or x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected x (T, B, {self.input_size}) or "
                f"(T, {self.input_size}), with batch_first (B, T, {self.input_size}); not "
                f"{x.shape if isinstance(x, Tensor) else flatten(x)[1]}"
            )
        states = self._learned(x) if state is None else self._each(state, x, "state")
        fresh = [None] * len(states)
        if steps.reset_state is not None:
            fresh = self._each(steps.reset_state, x, "reset_state")
        finals: list[Any] = []
        for layer in range(self.num_layers):
            if layer:
                x = dropout_of(x, self.dropout, self.training)
            outputs = []
            for backwards in self._directions():
                place = len(finals)
                output, final = _over_time(
                    self.cell(layer, backwards),
                    x,
                    states[place],
                    steps._replace(reset_state=fresh[place]),
                    reverse != backwards,
                )
                outputs.append(output)
                finals.append(final)
            x = _side_by_side(*outputs)
        return x, map_leaves(lambda *parts: stack(parts), *finals)

    def _learned(self, x: Tensor) -> list[Any]:
        """The initial states where none is given: what the layer has learned, or None."""
        suffixes = list(self._settings)
        if not self.learn_initial_state:
            return [None] * len(suffixes)
        names = self.cell_class.state_names
        parts = [[getattr(self, f"initial_{n}{suffix}") for n in names] for suffix in suffixes]
        return [_state([_for_rows(p, x) for p in part]) for part in parts]

    def _each(self, state: Any, x: Tensor, name: str) -> list[Any]:
        """A state given for the whole layer, taken apart: one for each cell."""
        names, suffixes = self.cell_class.state_names, list(self._settings)
        parts = (state,) if len(names) == 1 else state
        if not isinstance(parts, (tuple, list)) or [flatten(p)[1].container for p in parts] != [
            None
        ] * len(names):
            expected = "a Tensor h" if len(names) == 1 else f"a tuple ({', '.join(names)})"
            raise TypeError(
                f"{type(self).__name__}: {name} is {expected}, not structured {flatten(state)[1]}"
            )
        first = self.cell(0)
        zero = flatten(initial_state(first, x.shape[1:-1], x.dtype, x.backend))[0]
        leaves = [as_tensor(leaf) for leaf in parts]
        for own, leaf, like in zip(names, leaves, zero, strict=True):
            if leaf.shape != (len(suffixes), *like.shape):
                raise ValueError(
                    f"{type(self).__name__}: the {own} of {name} has shape {leaf.shape}; for x of "
                    f"{x.shape} it is {(len(suffixes), *like.shape)}: layers times directions, "
                    "batch, size"
                )
        return [_state(list(part)) for part in zip(*map(unstack, leaves), strict=True)]

    def extra_repr(self) -> str:
        """Sizes, and what differs from the defaults."""
        return _listed(
            f"{self.input_size}, {self.hidden_size}",
            num_layers=self.num_layers if self.num_layers > 1 else None,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            learn_initial_state=self.learn_initial_state,
            proj_size=self._settings["_l0"].get("proj_size"),
        )


class RNN(_Stacked):
    """Elman's network (``RNNCell``) in layers: ``output, h_n = rnn(x, h_0)``, as ``torch.nn.RNN``.

    x is (T, B, input_size), output (T, B, hidden_size * directions), h_0 and h_n (num_layers *
    directions, B, hidden_size), ordered l0, l0 backwards, l1 and so on. ``dropout`` falls on the
    outputs of all layers but the last. ``learn_initial_state`` makes parameters of what h_0 is if
    not given, zeros otherwise. Further keywords are those of ``RNNCell``: initial weights.
    """

    cell_class = RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: Literal["tanh", "relu"] | Activation = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        learn_initial_state: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            batch_first,
            dropout,
            bidirectional,
            learn_initial_state,
            bias=bias,
            nonlinearity=nonlinearity,
            **options,
        )


class LSTM(_Stacked):
    """``LSTMCell`` in layers: ``output, (h_n, c_n) = lstm(x, (h_0, c_0))``, as ``torch.nn.LSTM``.

    x is (T, B, input_size), output (T, B, hidden_size * directions), h and c (num_layers *
    directions, B, hidden_size), ordered l0, l0 backwards, l1 and so on; with ``proj_size`` outputs
    and h have that width. ``dropout`` falls on the outputs of all layers but the last.
    ``learn_initial_state`` makes parameters of what h_0 and c_0 are if not given, zeros otherwise.
    Further keywords are those of ``LSTMCell``: ``forget_bias``, activations, initial weights.
    """

    cell_class = LSTMCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        learn_initial_state: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            batch_first,
            dropout,
            bidirectional,
            learn_initial_state,
            bias=bias,
            proj_size=proj_size,
            **options,
        )


class GRU(_Stacked):
    """``GRUCell`` in layers: ``output, h_n = gru(x, h_0)``, as ``torch.nn.GRU``.

    x is (T, B, input_size), output (T, B, hidden_size * directions), h_0 and h_n (num_layers *
    directions, B, hidden_size), ordered l0, l0 backwards, l1 and so on. ``dropout`` falls on the
    outputs of all layers but the last. ``reset_after=False`` is the paper's form. Further keywords
    are those of ``GRUCell``: activations, initial weights.
    """

    cell_class = GRUCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        learn_initial_state: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            batch_first,
            dropout,
            bidirectional,
            learn_initial_state,
            bias=bias,
            reset_after=reset_after,
            **options,
        )


def _suffix(layer: int, reverse: bool) -> str:
    return f"_l{layer}" + ("_reverse" if reverse else "")


def _state(leaves: list[Tensor]) -> Any:
    """As the cells have it: h alone, or a tuple."""
    return leaves[0] if len(leaves) == 1 else tuple(leaves)


def _for_rows(p: Tensor, x: Tensor) -> Tensor:
    """A learned initial state, the same for every row of x, (T, B, I) or integers (T, B)."""
    floating = x.dtype.kind == "f"
    rows = x.shape[1:-1] if floating else x.shape[1:]
    dtype = result_type(x, p) if floating and p.dtype.kind == "f" else p.dtype
    return broadcast_to(p.astype(dtype), (*rows, *p.shape))


def _side_by_side(*outputs: Any) -> Any:
    return map_leaves(lambda *ys: concat(ys, axis=-1), *outputs)


def _listed(first: str = "", **options: Any) -> str:
    """The arguments of a ``repr``, options only where they are not off."""
    given = [f"{name}={value}" for name, value in options.items() if value]
    return ", ".join([first] * bool(first) + given)
