"""Connectionist temporal classification: the likelihood of labels whose places are unknown.

Every frame shows a label or a blank; merging repeats, then dropping blanks, gives the sequence. The
forward recursion of Graves et al. 2006 sums over all such alignments, here of logarithms.

Many states of the recursion are impossible by construction, and -inf there would make inf - inf,
which is nan, in a derivative. A number stands in for it that is finite, and so low that its
exponential is 0. No number of float16 is: there the recursion goes on in float32.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from ..primitives.creation import asarray
from ..primitives.elementwise import TensorLike, clip, exp, log, maximum, where
from ..primitives.movement import concat, expand_dims, squeeze
from ..primitives.reduction import cumulative_sum, in_float32, logsumexp, max
from ..recurrence.unroll import unroll
from ..tensor import Tensor, as_tensor, on_host, seen
from .reduction import Reduction, reduced

__all__ = ["ctc_loss"]

Host = np.ndarray[Any, Any]

LEAST = 2**14
"""Elements of all states at all frames below which the recursion runs literally."""

_ALIKE = 8  # so many labels more or less are no other plan
_ROUNDING = 1e-3  # how far above 0 the logarithm of a probability may come


@in_float32
def ctc_loss(
    log_probs: TensorLike,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability that the frames show the labels (Graves et al. 2006), in nats.

    Args:
        log_probs: log-probabilities of the C symbols in each frame (T, N, C), or of one row (T, C),
            as ``log_softmax`` gives them; -inf is allowed. What lies beyond a row's input length is
            not read. For (T, C) there is one row: targets (S,), each length one integer.
        targets: labels, integers on the host: (N, S), of which a row's first ones count, or all
            rows' one after the other, (sum of ``target_lengths``,).
        input_lengths: how many frames each row has, N integers on the host.
        target_lengths: how many labels each row has, likewise. A label that repeats the one before
            it needs a blank in between, hence one more frame.
        blank: the symbol for no label. It cannot be a target.
        reduction: "none" gives (N,), "sum" their sum; "mean" divides each row's loss by its number
            of labels (by 1 if it has none) and averages over the rows.
        zero_infinity: make it 0 where a row's labels cannot be shown, having too few frames, say.
            Otherwise the loss is inf there; its gradient is 0 in either case.

    Raises:
        ValueError: for shapes or lengths that do not fit, or a blank that is no symbol or a target;
            on NumPy also for log_probs above 0, as logits are.
        IndexError: for a target that is no symbol.
        TypeError: for targets, lengths or a blank that are not integers, or log_probs that are.
    """
    log_probs = as_tensor(log_probs)
    if log_probs.ndim == 2:
        loss = ctc_loss(
            expand_dims(log_probs, axis=1),
            _integers("targets", targets).ravel(),
            _integers("input_lengths", input_lengths).ravel(),
            _integers("target_lengths", target_lengths).ravel(),
            blank,
            reduction,
            zero_infinity,
        )
        return squeeze(loss, axis=0) if reduction == "none" else loss
    rows = _checked(log_probs, targets, input_lengths, target_lengths, blank)
    never = -math.sqrt(np.finfo(log_probs.dtype).max)  # for -inf; many of it can be added up
    likelihoods = _log_likelihoods(log_probs, rows, blank, never)
    losses = where(likelihoods < never / 2, 0.0 if zero_infinity else math.inf, -likelihoods)
    if reduction == "mean":
        divisors = np.maximum(rows.sizes, 1).astype(losses.dtype)
        losses = losses / asarray(divisors, backend=losses.backend)
    return reduced("ctc_loss", losses, reduction)


class _Rows(NamedTuple):
    """What the host knows of the rows: labels (N, S) that end in blanks, and numbers (N,)."""

    labels: Host
    frames: Host
    sizes: Host


def _log_likelihoods(log_probs: Tensor, rows: _Rows, blank: int, never: float) -> Tensor:
    """The logarithm of the probabilities of all alignments, summed, for each row.

    The states of a row with labels a, b show the symbols blank, a, blank, b, blank. From a frame to
    the next it stays in its state or goes one further, or two where that leaves out a blank between
    unlike labels. It starts in state 0, before the first frame, and ends in one of the last two.
    """
    steps, n, _ = log_probs.shape
    symbols = np.full((n, 2 * rows.labels.shape[1] + 1), blank)
    symbols[:, 1::2] = rows.labels
    skips = np.zeros(symbols.shape, dtype=bool)
    skips[:, 2:] = symbols[:, 2:] != symbols[:, :-2]
    start = np.full(symbols.shape, never, dtype=log_probs.dtype)
    start[:, 0] = 0.0
    ends = 2 * rows.sizes[:, None] - np.array([0, 1])

    def place(host: Host) -> Tensor:
        return asarray(host, backend=log_probs.backend)

    row, frames = place(np.arange(n)), place(rows.frames)
    # Beyond a row's last frame the recursion goes on, and nothing comes of it, unless from a nan.
    read = place(np.arange(steps)[:, None, None] < rows.frames[:, None])
    shown = where(read, log_probs[:, row[:, None], place(symbols)], 0.0)
    outside = np.full((n, 2), never, dtype=log_probs.dtype)
    alpha, none = place(start), place(np.zeros((1, n, 1), dtype=log_probs.dtype))
    frame = _Frame(place(skips), place(outside), never)
    mode: Literal["auto", "literal"] = "auto" if shown.size >= LEAST else "literal"
    (alphas, shifts), _ = unroll(frame, clip(shown, min=never), alpha, mode=mode)
    alphas = concat([expand_dims(alpha, axis=0), alphas], axis=0)
    last = alphas[frames[:, None], row[:, None], place(np.maximum(ends, 0))]
    shift = cumulative_sum(concat([none, shifts], axis=0), axis=0)[frames, row, 0]
    return logsumexp(where(place(ends >= 0), last, never), axis=1) + shift


class _Frame:
    """A step of the recursion: a cell, whose state are logarithms (N, S), one for each state.

    Its outputs are the same and what was taken from all of a row: logarithms grow with every frame,
    and with them what rounding loses, so they are kept near 0.
    """

    def __init__(self, may_skip: Tensor, outside: Tensor, never: float) -> None:
        self.may_skip, self.outside, self.never = may_skip, outside, never

    def __call__(self, shown: Tensor, alpha: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        behind = concat([self.outside, alpha], axis=1)
        ways = alpha, behind[:, 1:-1], where(self.may_skip, behind[:, :-2], self.never)
        largest = maximum(maximum(*ways[:2]), ways[2]).detach()
        first, second, third = (exp(way - largest) for way in ways)
        alpha = log(first + second + third) + largest + shown
        shift = max(alpha.detach(), axis=1, keepdims=True)
        alpha = alpha - shift
        return (alpha, shift), alpha


def _checked(
    log_probs: Tensor, targets: Any, input_lengths: Any, target_lengths: Any, blank: int
) -> _Rows:
    if log_probs.dtype.kind != "f":
        raise TypeError(f"ctc_loss: log_probs are {log_probs.dtype}, no logarithms; use astype")
    if log_probs.ndim != 3:
        raise ValueError(
            f"ctc_loss: log_probs (T, N, C) or (T, C) are needed, not {log_probs.shape}"
        )
    steps, n, classes = log_probs.shape
    if not isinstance(blank, (int, np.integer)) or isinstance(blank, bool):
        raise TypeError(f"ctc_loss: blank={blank!r} is no integer, so none of the symbols")
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank={blank} is none of the symbols 0 to {classes - 1}")
    given = _integers("targets", targets)
    if given.ndim not in (1, 2) or (given.ndim == 2 and given.shape[0] != n):
        raise ValueError(
            f"ctc_loss: targets of shape {given.shape} for log_probs {log_probs.shape}; "
            f"({n}, S) or (sum of target_lengths,) is needed"
        )
    frames = _lengths("input_lengths", input_lengths, n, steps, f"log_probs {log_probs.shape}")
    sizes = _lengths("target_lengths", target_lengths, n, given.shape[-1], f"targets {given.shape}")
    if given.ndim == 1 and given.size != sizes.sum():
        raise ValueError(
            f"ctc_loss: target_lengths {sizes.tolist()}, {sizes.sum()} in all, for targets of "
            f"shape {given.shape}, one after the other; the two have to agree"
        )
    longest = -(-sizes.max(initial=0) // _ALIKE) * _ALIKE
    known = np.arange(longest) < sizes[:, None]
    labels = np.full(known.shape, blank)
    used = given if given.ndim == 1 else given[:, :longest][known[:, : given.shape[1]]]
    labels[known] = used
    if ((used < 0) | (used >= classes)).any():
        raise IndexError(f"ctc_loss: a target is none of the symbols, 0 to {classes - 1}")
    if (used == blank).any():
        raise ValueError(f"ctc_loss: a target is the blank, {blank}; leave blanks out of targets")
    _check_logarithms(log_probs, frames)
    return _Rows(labels, frames, sizes)


def _check_logarithms(log_probs: Tensor, frames: Host) -> None:
    host = seen(log_probs)
    if host is None or host.max(initial=-math.inf) <= _ROUNDING:
        return
    read = np.arange(len(host))[:, None] < frames  # beyond, there may be anything
    largest = host[read].max(initial=-math.inf)
    if largest > _ROUNDING:
        raise ValueError(
            f"ctc_loss: log_probs reach {largest:.4g}, and no probability is above 1; of logits "
            "take log_softmax(logits, axis=-1) first"
        )


def _lengths(name: str, given: Any, n: int, most: int, whose: str) -> Host:
    lengths = _integers(name, given)
    if lengths.shape != (n,):
        raise ValueError(
            f"ctc_loss: {name} of shape {lengths.shape}; one for each row, ({n},), is needed"
        )
    if ((lengths < 0) | (lengths > most)).any():
        raise ValueError(f"ctc_loss: {name} {lengths.tolist()} for {whose}; 0 to {most} are left")
    return lengths


def _integers(name: str, given: Any) -> Host:
    try:
        host = on_host(f"ctc_loss: {name}", given)
    except ValueError as error:  # a list of lists that differ in length
        raise ValueError(
            f"ctc_loss: {name} are rows of different lengths; pad them to (N, S), or give them "
            "one after the other, (sum of target_lengths,)"
        ) from error
    if host.size and host.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: {name} are {host.dtype}, not integers on the host")
    return host.astype(np.int64)
