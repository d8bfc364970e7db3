"""What units, gates and attention do over the text that they read.

``activity`` runs a recurrent cell over a text by its plan and keeps what every unit of its states
and gates was at each character, as bytes. Units are ranked by what they know: the mutual
information between a unit and a property of the text, such as being within quotes (after Karpathy,
Johnson & Li 2015, who found such cells by eye).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..nn.seq2seq import AttentionDecoder, DecoderState
from ..planner.lookup import PlanError
from ..planner.trace import Untraceable
from ..recurrence.unroll import unroll
from ..tensor import as_tensor, no_grad
from .document import Study
from .retelling import Retold
from .steps import Cell, Steps, Tapped
from .watching import host

_BINS = 8  # of a unit's values, for mutual information
_MOST = 2**21  # bytes of values that are kept

Predicate = Callable[[Sequence[str]], Sequence[Any]]


def activity(
    cell: Cell,
    xs: Any,
    text: str | Sequence[str],
    state: Any = None,
    *,
    row: int = 0,
    predicates: Mapping[str, Predicate] | None = None,
    attention: Any = None,
    memory: Any = None,
    sources: Sequence[str] | None = None,
) -> Study:
    """What each unit of a cell's states and gates does over a text.

    Args:
        cell: any callable ``cell(x, state) -> (output, state)``, as for ``unroll``; or an
            ``nn.AttentionDecoder``, given ``memory``, whose attention is shown, too.
        xs: a Tensor (T, B, ...) or a structure of them: what the cell reads for each part of the
            text, such as ``embedding(tokens)``; of a decoder, its tokens (T, B).
        text: T characters, or T words.
        state: the initial state, as for ``unroll``; of a decoder, as for its ``initial_state``.
        row: which row of the batch the text is of.
        predicates: further properties of a text by name: functions of the T parts that return T
            values, of which units are to know something. Those of ``PREDICATES`` are there.
        attention: weights (T, S) of what each step attends to, if there are some, and optionally
            ``(weights, sources)`` with the S texts that they are over.
        memory: of a decoder, what ``decoder.remember(values)`` gave.
        sources: the S texts that are in the memory, of this row.

    Returns:
        A ``Study``: ``data["units"]`` by rank, each with the property that it knows most about,
        the bits, and its values as bytes; ``values_of`` and ``unit_at`` read them,
        ``units_for`` and ``similar`` answer questions about a passage.

    Raises ValueError for a text that is not of T parts, or a row that there is not; TypeError for a
    decoder without a memory, or a memory without a decoder.
    """
    decoder = cell if isinstance(cell, AttentionDecoder) else None
    if (decoder is None) != (memory is None):
        raise TypeError(
            "activity: an nn.AttentionDecoder is given with memory=decoder.remember(values), and "
            "nothing else is"
        )
    if decoder is not None:
        if not isinstance(state, DecoderState):
            state = decoder.initial_state(memory, state)
        cell = partial(decoder._step, memory=memory)
    steps = Steps("activity", cell, xs, state, None, None, None, False)
    if steps.count == 0:
        raise ValueError("activity: there are no steps")
    parts = list(text)
    if len(parts) != steps.count:
        raise ValueError(f"activity: {len(parts)} parts of a text for {steps.count} steps of xs")
    if not 0 <= row < steps.rows:
        raise ValueError(f"activity: row {row} of a batch of {steps.rows}")
    named, gates, outputs = _values(cell, steps, row)
    if decoder is not None:
        attention = outputs[1][:, row], sources
    kinds = {name: _codes(f(parts)) for name, f in {**PREDICATES, **(predicates or {})}.items()}
    units = []
    for name, values in named.items():
        for unit in range(values.shape[1]):
            bins = _binned(values[:, unit])
            bits, best = max((_information(bins, codes), p) for p, codes in kinds.items())
            units.append((bits, f"{name}[{unit}]", best, values[:, unit]))
    units.sort(key=lambda u: (-u[0], u[1]))
    kept = units[: max(1, _MOST // max(1, 2 * len(parts)))]
    first = next(iter(named.values()))
    data = {
        "text": parts,
        "units": [
            {"name": name, "bits": round(bits, 4), "knows": best, **_bytes(values)}
            for bits, name, best, values in kept
        ],
        "left out": len(units) - len(kept),
        "gates": gates,
        "path": _path(first),
    }
    if attention is not None:
        weights, sources = attention if isinstance(attention, tuple) else (attention, None)
        data["attention"] = _attention(host(as_tensor(weights)), sources, len(parts))
    return Study("activity", data)


def _values(cell: Cell, steps: Steps, row: int) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The units of one row by name, (T, units) each, how saturated gates are, and the outputs."""
    with no_grad():
        try:
            retold = Retold(cell, steps.xs, steps.initial)
            (outputs, states, kept), _ = unroll(
                retold, (steps.xs, {}), steps.initial, mode="planned"
            )
            names, gate_list = retold.state_names, retold.gates
        except (PlanError, Untraceable):
            (outputs, states), _ = unroll(
                Tapped(cell, taps=False), steps.xs, steps.initial, mode="literal"
            )
            names, gate_list, kept = [f"state{n}" for n in range(len(states))], [], ()
    named = {name: _flat(host(h), row) for name, h in zip(names, states, strict=True) if h.ndim > 1}
    gates = {}
    for gate, a in zip(gate_list, kept, strict=True):
        values = named[gate.name] = _flat(host(a), row)
        low, high = (0.1, 0.9) if gate.function == "sigmoid" else (-0.9, 0.9)
        gates[gate.name] = {
            "function": gate.function,
            "low": float((values < low).mean()),
            "high": float((values > high).mean()),
        }
    return named, gates, outputs


def _flat(x: Any, row: int) -> Any:
    """The units of one row at each step."""
    return x[:, row].reshape(len(x), -1)


def _bytes(values: Any) -> dict[str, Any]:
    """Values as bytes between their least and their largest."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0) * 255
    codes = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return {"low": low, "high": high, "bytes": base64.b64encode(codes.tobytes()).decode()}


def values_of(unit: dict[str, Any]) -> Any:
    """The values of a unit of an activity, (T,), to 1/255 of its range."""
    codes = np.frombuffer(base64.b64decode(unit["bytes"]), dtype=np.uint8)
    return unit["low"] + codes / 255 * (unit["high"] - unit["low"])


def units_for(study: Study, begin: int, end: int, most: int = 10) -> list[tuple[str, float]]:
    """The units that tell a passage from the rest of its text: (name, difference of means).

    The difference is in standard deviations of the unit over the text. Raises ValueError for a
    study of another kind, or no passage of its text.
    """
    _check_passage("units_for", study, begin, end)
    found = []
    for unit in study.data["units"]:
        values = values_of(unit)
        inside = np.zeros(len(values), dtype=bool)
        inside[begin:end] = True
        if inside.any() and not inside.all() and values.std():
            apart = (values[inside].mean() - values[~inside].mean()) / values.std()
            found.append((unit["name"], float(apart)))
    return sorted(found, key=lambda pair: -abs(pair[1]))[:most]


def _check_passage(asked: str, study: Study, begin: int, end: int) -> None:
    if not isinstance(study, Study) or study.kind != "activity":
        raise ValueError(f"{asked}: a study of an activity, as activity gives one, not {study!r}")
    count = len(study.data["text"])
    if not 0 <= begin < end <= count:
        raise ValueError(f"{asked}: from {begin} to {end} is no passage of a text of {count} parts")


def similar(study: Study, begin: int, end: int, most: int = 5) -> list[tuple[int, int, float]]:
    """Passages of the same length at which the units do what they do here: (begin, end, cosine).

    Raises ValueError as ``units_for``.
    """
    _check_passage("similar", study, begin, end)
    values = np.array([values_of(unit) for unit in study.data["units"]])
    values = values - values.mean(1, keepdims=True)
    length, count = end - begin, values.shape[1]
    own = values[:, begin:end].ravel()
    found = []
    for at in range(0, count - length + 1):
        if abs(at - begin) < length:
            continue
        other = values[:, at : at + length].ravel()
        size = np.linalg.norm(own) * np.linalg.norm(other)
        found.append((at, at + length, float(own @ other / size) if size else 0.0))
    return sorted(found, key=lambda p: -p[2])[:most]


# What a unit may know.


def _in_quotes(parts: Sequence[str]) -> list[bool]:
    found, inside = [], False
    for part in parts:
        mark = part in ('"', "“", "”")
        found.append(inside or mark)
        inside = inside != mark
    return found


def _in_line(parts: Sequence[str]) -> list[int]:
    """The position in the line, in steps that grow: 0, 1, 2 to 3, 4 to 7 ..."""
    found, place = [], 0
    for part in parts:
        found.append(int(math.log2(place + 1)))
        place = 0 if part == "\n" else place + 1
    return found


PREDICATES: dict[str, Predicate] = {
    "in quotes": _in_quotes,
    "position in the line": _in_line,
    "a space": lambda parts: [part.isspace() for part in parts],
    "after a space": lambda parts: [i == 0 or parts[i - 1].isspace() for i in range(len(parts))],
    "upper case": lambda parts: [part[:1].isupper() for part in parts],
    "a digit": lambda parts: [part[:1].isdigit() for part in parts],
    "punctuation": lambda parts: [not part[:1].isalnum() and not part.isspace() for part in parts],
    "a vowel": lambda parts: [part[:1].lower() in "aeiou" for part in parts],
}
"""Properties of a text that units may know of: functions of its parts."""


def _codes(values: Sequence[Any]) -> Any:
    return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)


def _binned(values: Any) -> Any | None:
    """A unit's values in bins of about equal count; None for one that says nothing."""
    if len(values) < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    edges = np.quantile(values, np.arange(1, _BINS) / _BINS)
    return np.searchsorted(edges, values, side="right")


def _information(bins: Any | None, codes: Any) -> float:
    """The mutual information of a unit and a property, in bits, less its bias (Miller 1955)."""
    if bins is None:
        return 0.0
    kinds = int(codes.max()) + 1
    joint = np.bincount(bins * kinds + codes, minlength=_BINS * kinds).reshape(-1, kinds)
    rows, columns = joint.sum(1), joint.sum(0)
    count = len(codes)
    cells = np.count_nonzero(joint) - np.count_nonzero(rows) - np.count_nonzero(columns) + 1
    at = np.nonzero(joint)
    some = joint[at] / count
    expected = rows[at[0]] * columns[at[1]] / count**2
    bits = float((some * np.log2(some / expected)).sum())
    return max(0.0, bits - cells / (2 * count * math.log(2)))


def _path(values: Any) -> list[list[float]]:
    """The state's way in the plane of its two largest principal components."""
    centred = np.nan_to_num(values - values.mean(0))
    if centred.shape[1] < 2:
        return []
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    return [[round(float(v), 4) for v in point] for point in centred @ axes[:, :-3:-1]]


def _attention(weights: Any, sources: Any, count: int) -> dict[str, Any]:
    if weights.ndim != 2 or len(weights) != count:
        raise ValueError(f"activity: attention is (T, S) with T = {count}, not {weights.shape}")
    names = list(sources) if sources is not None else [str(s) for s in range(weights.shape[1])]
    if len(names) != weights.shape[1]:
        raise ValueError(f"activity: {len(names)} sources for {weights.shape[1]} weights a step")
    return {"sources": names, "weights": [[round(float(w), 4) for w in row] for row in weights]}


__all__ = ["PREDICATES", "activity", "similar", "units_for", "values_of"]
