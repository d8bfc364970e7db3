"""What all optimisers have in common; what differs is one equation each, in ``algorithms.py``.

State lives beside the parameter, and follows it to another backend. It is computed in the
parameter's dtype, but float32 for a float16 parameter: the square of a gradient of 1e-4, and Adam's
eps, are 0 in float16.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend

from ..apply import show
from ..atomic import Change, attributes, commit
from ..dtypes import native_dtype
from ..graph import Array, Rows
from ..tensor import MODE, Tensor, backend_of, rebinding, wrap
from . import formulas
from .rows import owns_array, owns_rows, rows_of, with_rows, writing
from .settings import CHECKS, choice

Settings = Mapping[str, Any]
State = dict[str, Any]


class Member(NamedTuple):
    """A parameter, its position among all, the settings of its group, and what its state has."""

    position: int
    p: Tensor
    settings: Settings
    needed: set[str]


LITTLE = 2**13
"""So many elements together are worth a kernel, and eight times as many if there are no moments."""


class Trained(NamedTuple):
    """What is to be updated: a parameter and its gradient, or some rows of both."""

    member: Member
    array: Array
    gradient: Array
    places: Array | None  # of the rows, each once

    def rows_of(self, x: Array) -> Array:
        """Those of an array like the parameter."""
        return backend_of(self.member.p).take(x, self.places, axis=0)


Update: TypeAlias = "tuple[Trained, Array, State]"
"""What it becomes, and its state."""


class Optimizer:
    """What optimisers have in common: groups of parameters with settings, and a state for each.

    ::

        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        optimizer = optim.SGD([{"params": encoder.parameters(), "lr": 0.01},
                               {"params": decoder.named_parameters()}], lr=0.1)

    Args:
        params: leaf Tensors, or ``(name, Tensor)`` as ``named_parameters()`` gives them, so that
            errors can say the name and a saved state finds its parameter by it, whatever the order;
            or a list of groups, dicts with ``"params"`` and settings that differ from the others.
            In an order that is the same every time, so not a set.
        defaults: the settings, for groups that do not say otherwise. They stand in
            ``param_groups`` and may be changed there between steps.
        nonfinite: what ``step`` does if a gradient holds NaN or infinity: ``"raise"`` an error,
            ``"skip"`` the step, both of which change nothing; or ``"allow"`` it, unseen. To look
            costs one pass over the gradients and, on a GPU, waiting for them once.

    Raises TypeError or ValueError for what cannot be trained, and for a setting out of range.

    ``weight_decay`` adds ``weight_decay * p`` to the gradient, except in ``AdamW``.

    A subclass says what its state consists of and, in ``_update``, what a step is. ``counts`` are
    ints; ``moments`` are arrays with the parameter's shape and backend, and its dtype, but float32
    for float16, each with the setting that it is kept for, or None if it always is.
    """

    lazy: ClassVar[bool] = False  # whether rows without a gradient stay, although others would not
    counts: ClassVar[tuple[str, ...]] = ()
    moments: ClassVar[Mapping[str, str | None]] = {}

    def __init__(self, params: Iterable[Any], defaults: Settings, nonfinite: str = "raise") -> None:
        own = type(self).__name__
        self.nonfinite = choice(f"{own}: nonfinite", nonfinite, ("raise", "skip", "allow"))
        self.defaults = dict(defaults)
        self.defaults = self._checked(defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[int, State] = {}  # by the position of the parameter
        self._names: list[str | None] = []
        if isinstance(params, Tensor):
            raise TypeError(f"{own}: give a list of parameters, not a Tensor")
        given = list(_iterable(own, params))
        for group in given if given and isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)
        if not self._names:
            raise ValueError(
                f"{own}: there are no parameters to train; a generator can be read only once"
            )

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Train ``group["params"]`` as well, with its other entries for the defaults."""
        own = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"{own}: a group is a dict with 'params', not {group!r}")
        known = ("params", *self.defaults, "initial_lr")  # the last is what a schedule notes
        unknown = [name for name in group if name not in known]
        if unknown:
            raise ValueError(f"{own}: unknown settings {unknown}; there are {[*self.defaults]}")
        settings = self._checked({**self.defaults, **group})
        params = _iterable(own, group["params"])
        named: list[tuple[str | None, Any]] = [x if _is_named(x) else (None, x) for x in params]
        if not named and isinstance(group["params"], Iterator) and self.param_groups:
            raise ValueError(
                f"{own}: a group's parameters are a generator with nothing in it; it can be read "
                "only once, so call model.parameters() again or keep a list of it"
            )
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        for _, p in named:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise TypeError(f"{own}: parameters are leaf Tensors, not {p!r}")
            if id(p) in seen:
                raise ValueError(f"{own}: a parameter of {p.shape} is given twice")
            seen.add(id(p))
        names = [name for name, _ in named]
        twice = [n for n, count in Counter([*self._names, *names]).items() if n and count > 1]
        if twice:
            raise ValueError(
                f"{own}: two parameters are called {twice[0]!r}, and a saved state could not tell "
                "them apart; named_parameters('encoder') puts a name in front"
            )
        added = {**settings, "params": [p for _, p in named]}
        commit(
            [
                (list.extend, self._names, names),
                (list.append, self.param_groups, added),
            ]
        )

    def _checked(self, given: Settings) -> dict[str, Any]:
        """The settings as plain numbers; TypeError or ValueError for one that makes no sense."""
        own = type(self).__name__
        return {
            name: CHECKS[name](f"{own}: {name}", given[name]) if name in CHECKS else given[name]
            for name in self.defaults
        }

    def _members(self) -> Iterator[Member]:
        position = 0
        for group in self.param_groups:
            settings = self._checked(group)
            needed = self._needed(settings)
            for p in group["params"]:
                yield Member(position, p, settings, needed)
                position += 1

    def _called(self, position: int) -> str:
        """A parameter as errors name it."""
        name = self._names[position]
        return f"parameter {position}" + (f" ({name!r})" if name is not None else "")

    def zero_grad(self) -> None:
        """Set ``.grad`` of all parameters to None."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self) -> bool:
        """Update every parameter that has a gradient, or none; returns whether it did.

        Nor does Ctrl-C leave some of them updated: it comes before all of that, or after it. False
        means that a gradient was not finite, or so large that the step overflows, and ``nonfinite``
        is ``"skip"``. Before anything is changed, raises FloatingPointError for such a gradient if
        it is ``"raise"``, ValueError for one that does not fit its parameter, and TypeError or
        ValueError for a setting. (Overflow is noticed on NumPy.)
        """
        trained = [(m, m.p.grad) for m in self._members() if m.p.grad is not None]
        recorder = MODE.get().recorder
        if recorder is not None:
            done = recorder.update(self, *zip(*trained, strict=True)) if trained else True
            return done if self.nonfinite == "skip" else True
        changes = self.changes(trained, at_once=True)
        commit(changes or ())
        return changes is not None

    def current(self, members: Sequence[Member]) -> list[Member]:
        """The same parameters with the settings that they have now."""
        every = {member.position: member for member in self._members()}
        return [every[member.position] for member in members]

    def changes(
        self, given: list[tuple[Member, Tensor]], at_once: bool = False
    ) -> list[Change] | None:
        """What a step with these gradients changes, or None for one that is passed over.

        If they are made at once, rows may be written into arrays that nobody else knows of now.
        """
        trained = [self._trained(member, grad) for member, grad in given]
        updates, left = self._updated_by_kernels(trained)
        bad = [] if self.nonfinite == "allow" else _not_finite(left)
        if bad and self.nonfinite == "skip":
            return None
        if bad:
            first, p, *_ = left[bad[0]].member
            raise FloatingPointError(
                f"{type(self).__name__}: {len(bad)} of {len(trained)} gradients are not finite, "
                f"the first that of {self._called(first)}, {show(p)}; nothing was changed. "
                "Find the operation by tinygrad_rnn.detect_anomaly(), or pass over such steps by "
                "nonfinite='skip'"
            )
        if left:
            try:
                with np.errstate(over="warn" if self.nonfinite == "allow" else "raise"):
                    updates += [(each, *self._updated(each)) for each in left]
            except FloatingPointError:
                if self.nonfinite == "skip":
                    return None
                raise
        changes: list[Change] = []
        states: dict[int, State] = {}
        for each, array, state in updates:
            position, p, *_ = each.member
            if each.places is None:
                changes += rebinding(p, array)
                states[position] = state
            else:
                changes += self._changes_of_rows(each, array, state, at_once)
        return [*changes, (dict.update, self.state, states)]

    def _trained(self, member: Member, grad: Tensor) -> Trained:
        """A parameter and its gradient; rows of them, if that is what the gradient has."""
        p, gradient = member.p, grad._array
        own = p._array
        # In the order that takes the least time.
        same = type(gradient) is type(own) and gradient.shape == own.shape
        if same and gradient.dtype == own.dtype and not self.lazy:
            return Trained(member, own, gradient, None)
        if not _alike(gradient, p, own.dtype):
            raise ValueError(
                f"{type(self).__name__}: {self._called(member.position)} is {show(p)} on "
                f"{p.backend!r}, but its gradient is {show(grad)} on {grad.backend!r}; compute it "
                "again"
            )
        if type(gradient) is Rows and not self._takes_rows(member.settings):
            gradient = gradient.dense()
        if self.lazy and type(gradient) is not Rows:
            gradient = rows_of(backend_of(p), gradient)
        if type(gradient) is not Rows:
            return Trained(member, own, gradient, None)
        places, values = gradient.summed()
        return Trained(member, backend_of(p).take(own, places, axis=0), values, places)

    def _takes_rows(self, settings: Settings) -> bool:
        """Whether rows without a gradient stay as they are: then only the others are updated."""
        return False

    def _changes_of_rows(
        self, trained: Trained, array: Array, state: State, at_once: bool
    ) -> list[Change]:
        """What makes rows of a parameter and its state what they become."""
        (position, p, settings, needed), places = trained.member, trained.places
        xp, before = backend_of(p), self.state.get(position, {})
        wide = native_dtype(xp, _wide(p.dtype))
        initial = {}
        if not needed <= before.keys():
            initial = self._initial(xp, xp.astype(p._array, wide, copy=False), settings)
        changes: list[Change] = []
        after = dict(state)
        for name in state.keys() & self.moments.keys():
            own = at_once and name in before and owns_rows(before, name)
            if own and _alike(before[name], p, wide):  # which may have moved
                after[name] = before[name]
                changes.append(writing(before[name], places, state[name]))
            else:
                whole = before[name] if name in before else initial[name]
                after[name] = with_rows(xp, _as_moment(whole, p, wide), places, state[name])
        if at_once and owns_array(p):
            changes.append(writing(p._array, places, array))
            changes += rebinding(p, p._array)
        else:
            changes += rebinding(p, with_rows(xp, p._array, places, array))
        return [*changes, (dict.update, self.state, {position: after})]

    def _updated(self, trained: Trained) -> tuple[Array, State]:
        """The new array and state of a parameter, which can be assigned without a further look."""
        (position, p, settings, _), array, gradient, _ = trained
        xp, own, shape = backend_of(p), array.dtype, array.shape
        wide = native_dtype(xp, _wide(p.dtype))
        if wide != own:
            array, gradient = xp.astype(array, wide), xp.astype(gradient, wide)
        state = self._state_before(trained, xp, array, wide)
        try:
            if settings.get("weight_decay"):
                array, gradient = self._decay(array, gradient, settings)
            array, state = self._update(xp, array, gradient, state, settings)
            array = xp.asarray(array)  # what NumPy computes from 0-d arrays are scalars
            if array.dtype == wide != own:
                array = xp.astype(array, own)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{type(self).__name__}: the step of {self._called(position)}, {show(p)}, "
                f"overflows ({error}); nothing was changed. Clip the gradients by "
                "clip_grad_norm_, or pass over such steps by nonfinite='skip'"
            ) from error
        if not _alike(array, p, own, shape):
            raise ValueError(
                f"{type(self).__name__}: {self._called(position)} is {show(p)}, but with the "
                f"settings {settings} becomes {show(array)}"
            )
        return array, {k: xp.asarray(v) if k in self.moments else v for k, v in state.items()}

    def _state_before(self, trained: Trained, xp: Backend, array: Array, wide: Any) -> State:
        """The state of what is updated, as ``_update`` needs it."""
        position, p, settings, needed = trained.member
        state = dict(self.state.get(position, {}))
        if state:
            for name in self.moments:
                if name in state:
                    moment = _as_moment(state[name], p, wide)
                    state[name] = moment if trained.places is None else trained.rows_of(moment)
        if needed <= state.keys():
            return state
        return {**self._initial(xp, array, settings), **state}

    def _updated_by_kernels(self, trained: list[Trained]) -> tuple[list[Update], list[Trained]]:
        """The updates that kernels compute, and what is left for the library of the arrays.

        All is left if a value is not finite on the way: where that comes from, and whether it is an
        error, is found by going the way in which every operation can be looked at.
        """
        elements = sum([each.array.size for each in trained])
        if elements < LITTLE or not formulas.are_there():
            return [], trained
        if elements < 8 * LITTLE and not any(each.member.needed for each in trained):
            return [], trained
        alike: dict[Any, list[tuple[Trained, State]]] = {}  # what differs in arrays only
        left: list[Trained] = []
        for each in trained:
            (_, p, settings, _), own, _, _ = each
            if not formulas.suits(own):
                left.append(each)
                continue
            state = self._state_before(each, backend_of(p), own, own.dtype)
            counts = [value for name, value in state.items() if name not in self.moments]
            alike.setdefault((id(settings), *state, *counts), []).append((each, state))
        updates: list[Update] = []
        for those in alike.values():
            made = self._updated_alike(those)
            if made is None:
                left += [each for each, _ in those]
            elif not made[0]:
                return [], trained
            else:
                updates += made[1]
        return updates, sorted(left, key=lambda each: each.member.position)

    def _updated_alike(
        self, those: list[tuple[Trained, State]]
    ) -> tuple[bool, list[Update]] | None:
        """Whether all is finite, and the updates; None if there is no kernel for them."""
        first, state = those[0]
        settings = first.member.settings
        moments = [name for name in state if name in self.moments]
        after: State = {}

        def update(xp: Any, p: Any, grad: Any, *values: Any) -> list[Any]:
            given = state | dict(zip(moments, values, strict=True))
            if settings.get("weight_decay"):
                p, grad = self._decay(p, grad, settings)
            p, made = self._update(xp, p, grad, given, settings)
            after.update(made)
            return [p, *(value for name, value in made.items() if name in self.moments)]

        found = formulas.kernel_of(update, 2 + len(moments))
        if found is None:
            return None
        kept = [name for name in after if name in self.moments]
        finite, results = found.run(
            [(each.array, each.gradient, *(x[name] for name in moments)) for each, x in those]
        )
        return finite, [
            (each, array, after | dict(zip(kept, values, strict=True)))
            for (each, _), (array, *values) in zip(those, results, strict=True)
        ]

    def _needed(self, settings: Settings) -> set[str]:
        """What a state has with these settings, unless it has not begun."""
        kept = {name for name, setting in self.moments.items() if not setting or settings[setting]}
        return {*self.counts, *kept}

    def _initial(self, xp: Backend, p: Array, settings: Settings) -> State:
        """The state before the first step: zeros."""
        moments = self._needed(settings) & self.moments.keys()
        return dict.fromkeys(self.counts, 0) | {name: xp.zeros_like(p) for name in moments}

    def _decay(self, p: Array, grad: Array, settings: Settings) -> tuple[Array, Array]:
        """The parameter and its gradient with weight decay: here the gradient of a penalty."""
        return p, grad + settings["weight_decay"] * p

    def _update(
        self, xp: Backend, p: Array, grad: Array, state: State, settings: Settings
    ) -> tuple[Array, State]:
        """The new array of a parameter and its new state; changes nothing.

        ``state`` is what the last call returned for it, or ``_initial``.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Settings of the groups, the state by parameter position, arrays as Tensors, and names.

        All else are plain numbers, so the Tensors may go to a safetensors file and the rest to
        JSON. What comes back from there, positions as strings, can be loaded.
        """
        members = {member.position: member for member in self._members()}
        states = {i: self._whole(members[i], state) for i, state in self.state.items()}
        saved = {
            "groups": [self._checked(group) for group in self.param_groups],
            "state": {
                position: {k: wrap(v, None) if k in self.moments else v for k, v in state.items()}
                for position, state in states.items()
            },
        }
        return saved | ({"names": self._names_by_group()} if any(self._names) else {})

    def _whole(self, member: Member, state: State) -> State:
        """A state with the moments of settings that were switched on since the last step."""
        if not state or member.needed <= state.keys():
            return state
        xp, wide = backend_of(member.p), _wide(member.p.dtype)
        array = xp.astype(member.p._array, native_dtype(xp, wide), copy=False)
        return {**self._initial(xp, array, member.settings), **state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was called, all of it or nothing, if Ctrl-C comes.

        If all parameters have names, there and here, each takes over the state of its name and each
        group the settings of that with the same parameters, whatever the order. Otherwise
        parameters must be in the same order. The state takes the backend of the parameters and
        their dtype, but float32 for float16.

        Raises ValueError for other groups, settings, names or shapes, and TypeError for other kinds
        of things, before anything is changed.
        """
        own = f"load_state_dict into {type(self).__name__}"
        keys = {"groups", "state"}
        if not isinstance(saved, Mapping) or not keys <= set(saved) <= {*keys, "names"}:
            shown = [*saved] if isinstance(saved, Mapping) else f"a {type(saved).__name__}"
            raise ValueError(f"{own}: 'groups' and 'state' are expected, not {shown}")
        groups, state = self._in_own_order(own, saved)
        groups = self._loaded_groups(own, groups)
        state = self._loaded_state(own, state, groups)
        settings = zip(self.param_groups, groups, strict=True)
        changes = [(dict.update, group, values) for group, values in settings]
        commit([*changes, attributes(self, state=state)])

    def _names_by_group(self) -> list[list[str | None]]:
        names = iter(self._names)
        return [[next(names) for _ in group["params"]] for group in self.param_groups]

    def _in_own_order(self, own: str, saved: Mapping[str, Any]) -> tuple[Any, Any]:
        """The groups and the state of ``saved``, in the order that the names here are in."""
        groups, state = saved["groups"], saved["state"]
        if "names" not in saved:
            return groups, state
        here, there = self._names_by_group(), saved["names"]
        if not _names_in_groups(there) or not isinstance(groups, (list, tuple)):
            raise ValueError(f"{own}: names are lists of names, one for each group, not {there!r}")
        mine, theirs = self._names, [name for group in there for name in group]
        if None in mine or None in theirs:
            apart = [pair for pair in zip(theirs, mine, strict=False) if None not in pair]
            for before, now in apart:
                if before != now:
                    raise ValueError(
                        f"{own}: {before!r} has become {now!r}; if all parameters have a name, as "
                        "by named_parameters(), their order does not matter"
                    )
            return groups, state
        places = {frozenset(group): i for i, group in enumerate(there)}
        if [*places] != [*map(frozenset, there)] or len(theirs) != len(set(theirs)):
            raise ValueError(f"{own}: a name comes twice in {there}")
        if {*map(frozenset, here)} != set(places) or len(groups) != len(here):
            raise ValueError(
                f"{own}: other parameters were saved, or in other groups: {there}, and here are "
                f"{here}; missing are {[n for n in mine if n not in theirs]}, and unknown "
                f"{[n for n in theirs if n not in mine]}"
            )
        if isinstance(state, Mapping):
            position = {str(theirs.index(name)): i for i, name in enumerate(mine)}
            state = {position.get(str(key), key): values for key, values in state.items()}
        return [groups[places[frozenset(group)]] for group in here], state

    def _loaded_groups(self, own: str, saved: Any) -> list[dict[str, Any]]:
        expected = [set(self.defaults)] * len(self.param_groups)
        fits = isinstance(saved, (list, tuple)) and all(isinstance(g, Mapping) for g in saved)
        if not fits or [set(group) for group in saved] != expected:
            raise ValueError(
                f"{own}: {len(expected)} groups with the settings {[*self.defaults]} are "
                f"expected, not {saved!r}"
            )
        return [self._checked(group) for group in saved]

    def _loaded_state(self, own: str, saved: Any, groups: list[dict[str, Any]]) -> dict[int, State]:
        members = [
            (p, settings)
            for group, settings in zip(self.param_groups, groups, strict=True)
            for p in group["params"]
        ]
        if not isinstance(saved, Mapping):
            raise TypeError(f"{own}: state by position, not a {type(saved).__name__}")
        state: dict[int, State] = {}
        for key, values in saved.items():
            if not str(key).isdecimal() or int(key) >= len(members):
                raise ValueError(f"{own}: state of parameter {key}, and there are {len(members)}")
            position = int(key)
            p, settings = members[position]
            called = self._called(position)
            if not isinstance(values, Mapping):
                raise TypeError(f"{own}: {called} has a {type(values).__name__} as its state")
            needed, known = self._needed(settings), {*self.counts, *self.moments}
            if values and not needed <= set(values) <= known:
                raise ValueError(
                    f"{own}: {called} has the state {[*values]}, expected {sorted(needed)}"
                )
            state[position] = {
                kind: _loaded(value, p, f"{own}: {kind} of {called}")
                if kind in self.moments
                else _loaded_count(value, f"{own}: {kind} of {called}")
                for kind, value in values.items()
            }
        return state


def _iterable(own: str, params: Any) -> Iterable[Any]:
    """Parameters to go through, in an order; one Tensor of a group stands for a list of it."""
    if isinstance(params, AbstractSet) and not isinstance(params, (KeysView, ItemsView)):
        raise TypeError(
            f"{own}: a {type(params).__name__} has no order, by which a saved state finds its "
            "parameters; give a list, or model.named_parameters()"
        )
    if isinstance(params, Mapping) or not isinstance(params, Iterable):
        raise TypeError(
            f"{own}: give a list of parameters, as model.parameters() does, "
            f"not a {type(params).__name__}" + (": .items() of it" * isinstance(params, Mapping))
        )
    return [params] if isinstance(params, Tensor) else params


def _names_in_groups(names: Any) -> bool:
    return isinstance(names, (list, tuple)) and all(
        isinstance(group, (list, tuple)) and all(n is None or isinstance(n, str) for n in group)
        for group in names
    )


def _is_named(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str)


def _not_finite(trained: Sequence[Trained]) -> list[int]:
    """Which gradients hold a NaN or an infinity; every backend is waited for once if none does.

    A sum with either in it is neither finite, so where that of all is, one pass without memory of
    its own was enough. A sum may also overflow, and then the elements are looked at.
    """
    suspects = [(backend_of(each.member.p), each.gradient) for each in trained]
    sums: dict[Backend, Array] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for xp, own in suspects:
            sums[xp] = sums[xp] + xp.sum(own) if xp in sums else xp.sum(own)
    if all(math.isfinite(xp.to_host(xp.asarray(total))) for xp, total in sums.items()):
        return []
    return [i for i, (xp, own) in enumerate(suspects) if not bool(xp.all(xp.isfinite(own)))]


def _alike(array: Array, p: Tensor, dtype: Any, shape: Any = None) -> bool:
    """Whether an array has the shape and the backend of a parameter, and a dtype of that."""
    own, kind = p._array, type(array)
    if kind is not type(own):
        found = array.backend if kind is Rows else backends.of(array)
        if found is not backends.of(own):
            return False
    shape = tuple(own.shape) if shape is None else shape
    return tuple(array.shape) == shape and array.dtype == dtype  # type: ignore[no-any-return]


@cache
def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which the step of a parameter is computed, which is that of its moments."""
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _as_moment(array: Array, p: Tensor, dtype: Any) -> Array:
    """A moment in its dtype and on the backend of its parameter, which may have moved."""
    if _alike(array, p, dtype):
        return array
    host = backends.of(array).to_host(array)  # type: ignore[union-attr]
    return backend_of(p).from_host(host.astype(_wide(p.dtype)))


def _loaded(value: Any, p: Tensor, name: str) -> Array:
    """A moment from a Tensor or an array, as its parameter needs it."""
    host = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if host.shape != p.shape:
        raise ValueError(f"{name} has shape {host.shape}, expected {p.shape}")
    if host.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {host.dtype}, expected {_wide(p.dtype)}")
    return backend_of(p).from_host(host.astype(_wide(p.dtype)))


def _loaded_count(value: Any, name: str) -> int:
    """A count from an int, or from an array of one, as which files keep it."""
    host = value.numpy() if isinstance(value, Tensor) else np.asarray(value)
    if host.shape != () or host.dtype.kind not in "iu" or host < 0:
        raise ValueError(f"{name} is {value!r}, expected an integer from 0")
    return int(host)
