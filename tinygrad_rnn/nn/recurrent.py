"""Recurrent layers: cells run over whole sequences, by ``unroll`` and nothing else.

Every layer is called ``output, state = layer(x, state, lengths, mask, reset)``. ``RNN``, ``LSTM``
and ``GRU`` are PyTorch's; ``Recurrent`` runs a cell of anybody's, ``Bidirectional`` any two.

Backwards, each row is read from its own last step to its first. ``unroll(reverse=True)`` does that,
since it skips the padding, which then comes first. Where ``reset`` puts several sequences into one
row, each is read from its own end.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np

import tinygrad_rnn_backends as backends

from ..dtypes import default_dtype
from ..functional import dropout as dropout_of
from ..primitives.creation import place, zeros
from ..primitives.elementwise import result_type, where
from ..primitives.movement import broadcast_to, concat, moveaxis, reshape, stack, unstack
from ..recurrence import Cell, initial_state, pad_sequences, unpad_sequences, unroll
from ..recurrence.ragged import batch_of, flags, from_lists, steps_within
from ..recurrence.unroll import initial_state_beside
from ..structure import flatten, map_leaves
from ..tensor import Tensor, as_tensor, on_host
from .cells import Activation, GRUCell, LSTMCell, RNNCell
from .layers import check_sizes, look_at_dtype
from .module import Buffer, Module, Parameter


class _Steps(NamedTuple):
    """Which steps the rows take, where they start anew, and how, as ``unroll`` is told."""

    lengths: Any = None
    mask: Any = None
    reset: Any = None
    reset_state: Any = None
    mode: Any = None

    def said(self) -> dict[str, Any]:
        """What is not as usual, by its name."""
        pairs = zip(self._fields, self, strict=True)
        return {name: option for name, option in pairs if option is not None}


class _Layer(Module):
    """What all layers here have in common; ``_run`` is what each does, time first."""

    batch_first = False
    reads_sequences = True  # by which ``unroll`` knows that this is no cell
    takes = ("lengths", "mask", "reset", "mode")  # of what ``Sequential`` is given
    takes_lists = True

    def forward(
        self,
        x: Any,
        state: Any = None,
        lengths: Any = None,
        mask: Any = None,
        reset: Any = None,
        reset_state: Any = None,
        reverse: bool = False,
        mode: Literal["auto", "literal", "planned"] = "auto",
    ) -> tuple[Any, Any]:
        """The outputs (T, B, ...) of a sequence x (T, B, I), and the final state.

        Args:
            x: (T, B, I), with ``batch_first`` (B, T, I); one sequence (T, I), if the state has no
                rows either; or a list of sequences (T_i, I), for which the outputs are a list, too.
            state: the initial state; if None, the learned one or zeros.
            lengths: the steps that each row takes, (B,) integers on the host.
            mask: booleans (T, B), False where a row skips a step. With ``batch_first`` (B, T).
            reset: booleans (T, B), True where a new sequence starts within a row, from the initial
                state. With ``batch_first`` (B, T); beside a list of sequences, a list of (T_i,).
            reset_state: what ``reset`` starts from, if that is not ``state`` as it was given. With
                a state carried over from another call, give ``initial_state_for(x)``.
            reverse: the other way round: from each row's last step to its first.
            mode: as for ``unroll``. "literal" makes every operation of every step a node of the
                graph, which ``to_text`` and ``to_dot`` then show.

        Outputs are zero where a row skips a step, and its final state is that at its own end.
        Raises ValueError for shapes that do not fit, and whatever ``unroll`` does.
        """
        if isinstance(x, list):
            x = [map_leaves(self._placed, from_lists(sequence)) for sequence in x]
            batch, lengths, reset = batch_of(type(self).__name__, x, lengths, mask, reset)
            steps = _Steps(lengths, None, reset, reset_state, None if mode == "auto" else mode)
            output, state = self._run(batch, state, steps, reverse)
            return unpad_sequences(output, lengths), state
        x, swapped = self._time_first(x)
        if swapped:
            mask = self._flags_time_first("mask", mask)
            reset = self._flags_time_first("reset", reset)
        steps = _Steps(lengths, mask, reset, reset_state, None if mode == "auto" else mode)
        output, state = self._run(x, state, steps, reverse)
        return map_leaves(_swapped, output) if swapped else output, state

    def initial_state_for(self, x: Any) -> Any:
        """The state that a call with x starts from if none is given: learned, or zeros."""
        if isinstance(x, list):
            x = [map_leaves(self._placed, from_lists(sequence)) for sequence in x]
            x, _ = pad_sequences(x)
            return self._initial(x)
        return self._initial(self._time_first(x)[0])

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def _initial(self, x: Any) -> Any:
        """``initial_state_for``, time first."""
        raise NotImplementedError

    def _time_first(self, x: Any) -> tuple[Any, bool]:
        """x as Tensors (T, B, ...), and whether it was not."""
        if isinstance(x, Tensor) and not self.batch_first:
            return x, False
        x = map_leaves(self._placed, x)
        # One sequence (T, I), or (T,) of integers, has no batch to come first.
        batched = [leaf.ndim > (2 if leaf.dtype.kind == "f" else 1) for leaf in flatten(x)[0]]
        if not self.batch_first or not any(batched):
            return x, False
        return map_leaves(_swapped, x), True

    def _placed(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            return x
        weight = next(self.parameters(), None)
        return as_tensor(x) if weight is None else place(x, weight.backend)

    def _flags_time_first(self, name: str, given: Any) -> Any:
        if given is None:
            return None
        flags = given if isinstance(given, Tensor) else on_host(name, given)
        if flags.ndim != 2:
            raise ValueError(
                f"{type(self).__name__}: {name} of shape {flags.shape}, expected (batch, time)"
            )
        return _swapped(flags) if isinstance(flags, Tensor) else flags.T


def _swapped(x: Tensor) -> Tensor:
    return moveaxis(x, 0, 1)


def _over_time(cell: Cell, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
    if reverse and steps.reset is not None:
        steps = steps._replace(reset=_ends(steps, flatten(x)[0][0]))
    return unroll(cell, x, state, **steps.said(), reverse=reverse)


def _ends(steps: _Steps, x: Tensor) -> Tensor:
    """Where the sequences within the rows end, given where they start: what ``reset`` is backwards.

    A row's step is the end of a sequence if the next one that the row takes is the start of one.
    """
    shape = x.shape[0], x.shape[1]
    starts = flags("unroll", "reset", steps.reset, shape, x.backend)
    mask = np.ones(shape, dtype=bool) if steps.mask is None else steps.mask
    if steps.lengths is not None:
        mask = steps_within("unroll", steps.lengths, *shape)
    taken = flags("unroll", "mask", mask, shape, x.backend)
    following = zeros(shape[1], "bool", backend=x.backend)
    ends = []
    for start, takes in zip(unstack(starts)[::-1], unstack(taken)[::-1], strict=True):
        ends.append(following)
        following = where(takes, start, following)
    return stack(ends[::-1]) if ends else starts


def check_cell(operation: str, cell: Any) -> None:
    """Raise TypeError for what is no ``cell(x, state)``: a layer, or a class of cells, perhaps."""
    if isinstance(cell, _Layer):
        raise TypeError(
            f"{operation}: expected a cell, which takes a step, not the layer {type(cell).__name__}"
        )
    if isinstance(cell, type) or not callable(cell):
        raise TypeError(f"{operation}: expected a cell(x, state), not {cell!r}")


class Recurrent(_Layer):
    """Any cell over time: ``output, state = Recurrent(cell)(x)``, with the state that the cell has.

    Args:
        cell: a callable ``cell(x, state) -> (output, state)``; a Module, if it has weights.
        batch_first: x and outputs are (B, T, ...).
        reverse: from each row's last step to its first; outputs stay at the steps of their inputs.
        learn_initial_state: the initial state, the same for every row, is a parameter; it starts as
            ``cell.initial_state`` has it. Parts that are integers stay as they are there.
    """

    def __init__(
        self,
        cell: Cell,
        batch_first: bool = False,
        reverse: bool = False,
        learn_initial_state: bool = False,
    ) -> None:
        check_cell("Recurrent", cell)
        self.cell = cell
        self.batch_first, self.reverse = batch_first, reverse
        if learn_initial_state:
            start = initial_state(cell, (), default_dtype(), backends.default().name)
            if any(h.requires_grad for h in flatten(start)[0]):
                raise ValueError(
                    f"Recurrent: {type(cell).__name__} learns its initial state by itself"
                )
            self.initial = map_leaves(
                lambda h: Parameter(h) if h.dtype.kind == "f" else Buffer(h), start
            )

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        if state is None:
            state = self._initial(x)
        return _over_time(self.cell, x, state, steps, reverse != self.reverse)

    def _initial(self, x: Any) -> Any:
        leaves = flatten(x)[0]
        if not hasattr(self, "initial"):
            return initial_state_beside(self.cell, leaves)
        return map_leaves(lambda p: _for_rows(p, leaves[0]), self.initial)

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
        for number, layer in enumerate((self.forward_layer, self.backward_layer)):
            own = steps._replace(reset_state=fresh[number])
            runs.append(layer(x, states[number], **own.said(), reverse=reverse != bool(number)))
        (output, final), (backward_output, backward_final) = runs
        axis = _feature_axis(self.forward_layer)
        return _side_by_side(output, backward_output, axis=axis), (final, backward_final)

    def _initial(self, x: Any) -> Any:
        return self.forward_layer._initial(x), self.backward_layer._initial(x)

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
    weight_ih_l0: Parameter

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
        check_sizes(name, input_size=input_size)
        check_sizes(name, least=1, hidden_size=hidden_size, num_layers=num_layers)
        if not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is a probability between 0 and 1, not {dropout!r}")
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} falls between layers, and there is one; add an "
                "nn.Dropout behind it, or VariationalDropout around its cell",
                stacklevel=3,
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.learn_initial_state = learn_initial_state
        width = input_size
        for layer in range(num_layers):
            for reverse in self._directions():
                cell = self.cell_class(width, hidden_size, **options)
                self._take_over(cell, _suffix(layer, reverse))
            width = cell.output_size * len(self._directions())
        self.output_size = width

    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.bidirectional else (False,)

    def _take_over(self, cell: RNNCell | LSTMCell | GRUCell, suffix: str) -> None:
        """Hold what a cell holds, weights under names that end in a suffix, the rest once."""
        for name in cell.weight_names:
            setattr(self, name + suffix, getattr(cell, name))
        self._settings = tuple(cell.settings)
        vars(self).update(cell.settings)
        if self.learn_initial_state:
            start = initial_state(cell, (), default_dtype(), backends.default().name)
            for name, leaf in zip(self.cell_class.state_names, flatten(start)[0], strict=True):
                setattr(self, f"initial_{name}{suffix}", Parameter(leaf))

    def cell(self, layer: int, reverse: bool = False) -> Any:
        """The cell of one layer and direction, on the parameters that the layer has now."""
        suffix = _suffix(layer, reverse)
        if layer not in range(self.num_layers) or reverse not in self._directions():
            raise ValueError(f"{type(self).__name__}: there is no cell {suffix[1:]} in {self}")
        held = vars(self)
        weights = {name: held[name + suffix] for name in self.cell_class.weight_names}
        return self.cell_class.on(weights, {name: held[name] for name in self._settings})

    def _run(self, x: Any, state: Any, steps: _Steps, reverse: bool) -> tuple[Any, Any]:
        self._check_input(x, steps)
        cells = self._cells()
        if state is None:
            states = self._initial_states(x, cells)
        else:
            states = self._of_cells("state", state, x)
        fresh = [None] * len(states)
        if steps.reset_state is not None:
            fresh = self._of_cells("reset_state", steps.reset_state, x)
        finals: list[Any] = []
        for layer in range(self.num_layers):
            if layer:
                x = dropout_of(x, self.dropout, self.training)
            outputs = []
            for backwards in self._directions():
                number = len(finals)
                own = steps if fresh[number] is None else steps._replace(reset_state=fresh[number])
                cell, start = cells[number], states[number]
                output, final = _over_time(cell, x, start, own, reverse != backwards)
                outputs.append(output)
                finals.append(final)
            x = _side_by_side(*outputs) if len(outputs) > 1 else outputs[0]
        return x, map_leaves(_together, *finals)

    def _check_input(self, x: Any, steps: _Steps) -> None:
        name, size = type(self).__name__, self.input_size
        if not isinstance(x, Tensor) or x.ndim not in (2, 3) or x.shape[-1] != size:
            raise ValueError(
                f"{name}: expected x (T, B, {size}) or (T, {size}), with batch_first "
                f"(B, T, {size}); not {x.shape if isinstance(x, Tensor) else flatten(x)[1]}"
            )
        if x.dtype.kind != "f":
            raise TypeError(
                f"{name}: x is {x.dtype}; numbers of symbols go through an Embedding first, "
                "anything else through astype('float32')"
            )
        look_at_dtype(name, "x", x, self.weight_ih_l0, self.cell_class.__name__)
        of_rows = [option for option in steps.said() if option != "mode"] if x.ndim == 2 else []
        if of_rows:
            raise ValueError(
                f"{name}: {of_rows[0]} speaks of rows, and one sequence (T, {size}) has none; "
                "a batch of one is x[:, None]"
            )

    def _initial(self, x: Any) -> Any:
        self._check_input(x, _Steps())
        return map_leaves(_together, *self._initial_states(x, self._cells()))

    def _cells(self) -> list[Any]:
        """The cells of all layers and directions."""
        layers = range(self.num_layers)
        return [self.cell(layer, back) for layer in layers for back in self._directions()]

    def _initial_states(self, x: Tensor, cells: list[Any]) -> list[Any]:
        """The initial states of the cells where none is given: learned, or zeros."""
        if not self.learn_initial_state:
            return [initial_state_beside(cell, [x]) for cell in cells]
        states = []
        for layer in range(self.num_layers):
            for reverse in self._directions():
                names = [
                    f"initial_{n}{_suffix(layer, reverse)}" for n in self.cell_class.state_names
                ]
                states.append(_state([_for_rows(getattr(self, n), x) for n in names]))
        return states

    def _of_cells(self, name: str, state: Any, x: Tensor) -> list[Any]:
        """A state given for the whole layer, taken apart: one for each cell."""
        names, cells = self.cell_class.state_names, self.num_layers * len(self._directions())
        parts = (state,) if len(names) == 1 else state
        one_each = isinstance(parts, (tuple, list)) and len(parts) == len(names)
        if not one_each or any(flatten(part)[1].container for part in parts):
            expected = "a Tensor h" if len(names) == 1 else f"a tuple ({', '.join(names)})"
            raise TypeError(
                f"{type(self).__name__}: {name} is {expected}, not structured {flatten(state)[1]}"
            )
        like = flatten(initial_state_beside(self.cell(0), [x]))[0]
        leaves = [self._placed(part) for part in parts]
        for part, leaf, one in zip(names, leaves, like, strict=True):
            if (leaf.shape, leaf.dtype) != ((cells, *one.shape), one.dtype):
                raise ValueError(
                    f"{type(self).__name__}: the {part} of {name} is {leaf.dtype} {leaf.shape}; "
                    f"for x {x.shape} it is {one.dtype} {(cells, *one.shape)}: layers times "
                    "directions, batch, size"
                )
        return [_state(list(each)) for each in zip(*map(unstack, leaves), strict=True)]

    def extra_repr(self) -> str:
        """Sizes, and what differs from the defaults."""
        return _listed(
            f"{self.input_size}, {self.hidden_size}",
            num_layers=self.num_layers if self.num_layers > 1 else None,
            batch_first=self.batch_first,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            learn_initial_state=self.learn_initial_state,
            **self._options(),
        )

    def _options(self) -> dict[str, Any]:
        """Further arguments that ``repr`` shows, if they are not off."""
        return {}


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

    def _options(self) -> dict[str, Any]:
        return {"proj_size": self.proj_size}


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

    def _options(self) -> dict[str, Any]:
        return {} if self.reset_after else {"reset_after": "False"}


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


def _together(*parts: Tensor) -> Tensor:
    """Parts of states (B, ...) as one (layers * directions, B, ...)."""
    return stack(parts) if len(parts) > 1 else reshape(parts[0], (1, *parts[0].shape))


def _side_by_side(*outputs: Any, axis: int = -1) -> Any:
    return map_leaves(lambda *ys: concat(ys, axis=axis), *outputs)


def _feature_axis(layer: Any) -> int:
    """The axis of an output along which its features are: the last, if its cell says nothing."""
    while not hasattr(layer, "feature_axis"):
        cells = getattr(layer, "cells", None)
        layer = cells[-1] if cells else getattr(layer, "cell", None)
        if layer is None:
            return -1
    return int(layer.feature_axis)


def _listed(first: str = "", **options: Any) -> str:
    """The arguments of a ``repr``, options only where they are not off."""
    given = [f"{name}={value}" for name, value in options.items() if value]
    return ", ".join([first] * bool(first) + given)
