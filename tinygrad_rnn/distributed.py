"""Training by several processes: each takes its share of every batch, and gradients are averaged.

::

    mpiexec -n 4 python -m mpi4py train.py

    distributed.broadcast(model, optimizer)  # all start as process 0 does
    for batch in distributed.shard(batches):  # the rows of each batch that are this process's
        loss = cross_entropy(model(batch), ..., reduction="sum")  # of nothing, where there are none
        optimizer.zero_grad()
        loss.backward()
        distributed.average_gradients(model.parameters(), count=tokens)
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

A loss is a *sum* over tokens, and gradients are divided by the tokens of all processes: so shares
of different sizes, and empty ones, give the gradient of the whole batch. Clipping comes after that.
Every process then has the same bits, takes the same step, and skips or raises alike where one had
a gradient that is not finite. One process alone needs no MPI, and runs the same script.

What all processes have to do together, all have to do. A branch that only some of them take must
hold none of these functions, ``rank``, ``size`` and ``is_main`` apart; what depends on a clock or a
key pressed is asked of ``agree`` or ``from_main``. An exception in one process leaves the others
waiting, unless they were started as above: ``-m mpi4py`` ends them all.

Gradients go as one flat message, the counts beside it, through MPI (the extra ``mpi``) or, between
GPUs, NCCL (``use_nccl``). Those of an embedding are dense, as everywhere here. There is no recovery
from a process that is lost: all end, and are started again from the last checkpoint.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from itertools import accumulate, pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

import tinygrad_rnn_backends as backends

from . import random, serialization
from .apply import show
from .dtypes import native_dtype
from .serialization import Checkpoint
from .structure import map_leaves
from .tensor import Tensor, backend_of, raw, wrap

__all__ = [
    "agree",
    "all_rows",
    "average_gradients",
    "broadcast",
    "from_main",
    "gather",
    "is_main",
    "load_checkpoint",
    "own_rows",
    "rank",
    "save_checkpoint",
    "set_communicator",
    "shard",
    "size",
    "total",
    "use_nccl",
]

T = TypeVar("T")

# Where a launcher says how many processes it started: MPICH and Intel MPI, then Open MPI.
_LAUNCHERS = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"


class _Processes:
    """Those that work together, and which of them this is. One alone has no communicator."""

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank = 0 if communicator is None else int(communicator.Get_rank())
        self.size = 1 if communicator is None else int(communicator.Get_size())
        self.nccl: Any = None
        self.averaged: Counter[str] = Counter()  # how often, of which parameters

    def gather(self, value: T) -> list[T]:
        """The values of all, by rank."""
        return [value] if self.communicator is None else self.communicator.allgather(value)

    def from_main(self, value: T) -> T:
        """The value of process 0."""
        return value if self.communicator is None else self.communicator.bcast(value, root=0)

    def gather_numbers(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Those of all, (processes, numbers)."""
        found = np.empty((self.size, *numbers.shape), dtype=numbers.dtype)
        if self.communicator is None:
            found[0] = numbers
        else:
            self.communicator.Allgather(numbers, found)
        return found

    def reduce(self, message: np.ndarray[Any, Any]) -> None:
        """Put the sum of all processes' arrays into each of them."""
        if self.communicator is not None:
            self.communicator.Allreduce(_mpi().IN_PLACE, message)


_current: _Processes | None = None


def _mpi() -> Any:
    try:
        return importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # the latter where there is no MPI to load
        raise ImportError(
            "distributed: several processes were started, and mpi4py is what they speak through: "
            f"pip install 'tinygrad_rnn[mpi]', beside an MPI (pip install mpich); {error}"
        ) from error


def _processes() -> _Processes:
    """The processes that were set, those that a launcher started, or this one alone."""
    global _current
    if _current is None:
        started = [os.environ[name] for name in _LAUNCHERS if name in os.environ]
        several = "mpi4py" in sys.modules or any(count != "1" for count in started)
        _current = _Processes(_mpi().COMM_WORLD if several else None)
        if _current.size == 1:
            _current.communicator = None
    return _current


def set_communicator(communicator: Any) -> None:
    """Work together with those of another communicator of mpi4py than all; None is this one alone.

    Raises TypeError for what is no communicator.
    """
    global _current
    if communicator is not None and not hasattr(communicator, "Allreduce"):
        raise TypeError(
            "set_communicator: a communicator of mpi4py, as MPI.COMM_WORLD.Split() gives one, "
            f"not a {type(communicator).__name__}"
        )
    _current = _Processes(communicator)


def use_nccl(host: str | None = None, port: int | None = None) -> None:
    """Average gradients that are on GPUs without taking them to the host: by NCCL, one GPU each.

    Call it in all processes, before anything is put on a GPU: it chooses the one that this process
    uses, by counting those of its machine. ``host`` and ``port`` are as in ``cupyx.distributed``.

    Raises BackendUnavailable where CuPy cannot be used.
    """
    processes = _processes()
    hosts = processes.gather(platform.node())
    backend: Any = backends.get("cupy")
    neighbours = hosts[: processes.rank].count(hosts[processes.rank])
    processes.nccl = backend.process_group(
        processes.size, processes.rank, neighbours, host=host, port=port
    )


def rank() -> int:
    """Which of the processes this is, from 0 on."""
    return _processes().rank


def size() -> int:
    """How many processes work together."""
    return _processes().size


def is_main() -> bool:
    """Whether this is process 0: the one that prints and draws."""
    return rank() == 0


# Values.


def gather(value: T) -> list[T]:
    """The values of all processes, by rank: anything that can be pickled, metrics above all."""
    return _processes().gather(value)


def total(value: float) -> float:
    """The sum of a number over all processes: a count of tokens, a sum of losses."""
    return sum(gather(value))


def from_main(value: T) -> T:
    """The value of process 0, for what must be the same in all: a time, a random choice."""
    return _processes().from_main(value)


def agree(flag: Any) -> bool:
    """Whether it is true in any process: a key was pressed, a limit reached. All get one answer."""
    return any(gather(bool(flag)))


# Rows.


def own_rows(batch: Any, axis: int = 0) -> Any:
    """The rows that are this process's, every ``size()``-th of them from ``rank()`` on.

    Args:
        batch: a list of items, an array or a Tensor; or a tuple or dict of such, which share their
            rows.
        axis: that of the rows, of arrays; 1 if time comes first.

    There may be none, and their shape says so: (T, 0).
    """
    if isinstance(batch, (tuple, Mapping)):
        return _each_part(batch, lambda part: own_rows(part, axis))
    key = slice(rank(), None, size())
    if isinstance(batch, Sequence):
        if axis != 0:
            raise ValueError(f"own_rows: a {type(batch).__name__} has no axis {axis}, only arrays")
        return batch[key]
    if not hasattr(batch, "shape") or not -len(batch.shape) <= axis < len(batch.shape):
        raise TypeError(
            f"own_rows: a list, array or Tensor with rows along axis {axis}, not "
            f"{show(batch) if isinstance(batch, Tensor) else repr(batch)[:80]}"
        )
    return batch[(*(slice(None),) * (axis % len(batch.shape)), key)]


def _each_part(batch: Any, function: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: function(part) for key, part in batch.items()}
    parts = [function(part) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def all_rows(batch: Any, axis: int = 0) -> Any:
    """What ``own_rows`` took apart, put together: an array or Tensor, the same in all processes.

    It is copied through the host, without a gradient: for a state that goes into a checkpoint.
    Raises ValueError where processes hold what no ``own_rows`` gave them.
    """
    if isinstance(batch, (tuple, Mapping)):
        return _each_part(batch, lambda part: all_rows(part, axis))
    host = batch.numpy() if isinstance(batch, Tensor) else np.asarray(batch)
    parts = gather(host)
    counts = [part.shape[axis] for part in parts]
    rows = sum(counts)
    forms = {(part.dtype, *np.delete(part.shape, axis)) for part in parts}
    if len(forms) > 1 or counts != [len(range(r, rows, size())) for r in range(size())]:
        raise ValueError(
            "all_rows: the processes hold "
            f"{', '.join(f'{part.dtype} {part.shape}' for part in parts)}; along axis {axis} they "
            "should share the rows of one array"
        )
    whole = np.empty((*host.shape[:axis], rows, *host.shape[axis:][1:]), dtype=host.dtype)
    for place, part in enumerate(parts):
        np.moveaxis(whole, axis, 0)[place :: size()] = np.moveaxis(part, axis, 0)
    return wrap(backend_of(batch).from_host(whole), None) if isinstance(batch, Tensor) else whole


def shard(batches: Iterable[Any], axis: int = 0) -> Iterator[Any]:
    """The ``own_rows`` of each batch: all processes take as many steps, some perhaps without rows.

    So the batch is divided, not multiplied: the step is that of one process, and so is its learning
    rate. Batches must come in the same order everywhere, so give them one seed.
    """
    return (own_rows(batch, axis) for batch in batches)


# Weights and gradients.


class _Parameter(NamedTuple):
    name: str
    p: Tensor


def broadcast(module: Any, optimizer: Any = None) -> None:
    """Give every process the weights, the optimiser's state and the random numbers of process 0.

    Of random numbers, those that initial weights are drawn from are the same from here on; masks
    of dropout differ from process to process, as the rows do that they fall on.

    Raises ValueError, everywhere and before anything is changed, where models differ in the names,
    shapes or dtypes of their weights, and where processes run different versions.
    """
    processes = _processes()
    state = module.state_dict()
    _check_alike("broadcast", [_Parameter(*item) for item in state.items()])
    if processes.size > 1:
        weights = {name: x.numpy() for name, x in state.items()} if is_main() else None
        module.load_state_dict(processes.from_main(weights))
        if optimizer is not None:
            own = map_leaves(_on_host, optimizer.state_dict()) if is_main() else None
            optimizer.load_state_dict(processes.from_main(own))
    _seed_by_rank()


def _on_host(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else x


def average_gradients(parameters: Iterable[Any], count: int) -> int:
    """Replace each gradient by the sum over all processes, divided by the sum of their counts.

    Args:
        parameters: those of the model, as ``parameters()`` or ``named_parameters()`` gives them.
            One without a gradient here counts as zero, and has none only if no process has one.
        count: the tokens (or rows) that this process's loss is a sum over, 0 if it had none.

    Returns:
        the sum of the counts. If it is 0, gradients are divided by 1. Sparse ones become dense.

    Raises:
        ValueError: for a count below 0 and no parameters. And in all processes, before anything
            is averaged, where their parameters differ in number, names, shapes or dtypes, or where
            they run different versions, saying which does. At the first call, and every 1000th,
            also where weights differ in their values: without ``broadcast``, or by other steps.
        TypeError: for what are no parameters, and for a count that is no integer.
    """
    named = _named(parameters)
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
        raise TypeError(f"average_gradients: count is an integer, not {count!r}")
    if not 0 <= count < 2**48:
        raise ValueError(f"average_gradients: count is {count}; it is from 0 to 2**48 - 1")
    tokens = sum(_check_alike("average_gradients", named, int(count), _due(named)))
    here = np.array([p.grad is not None for _, p in named])
    present = np.atleast_1d(_processes().gather_numbers(here).any(axis=0))
    groups: dict[Any, list[Tensor]] = {}
    for (_, p), had in zip(named, present, strict=True):
        if had:
            groups.setdefault((backend_of(p), p.dtype), []).append(p)
    averaged: list[tuple[Tensor, Any]] = []
    for (xp, dtype), members in groups.items():
        # Half the precision does not do for the gradients of many processes.
        wide = xp.float32 if dtype.itemsize < 4 else native_dtype(xp, dtype)
        message = xp.empty((sum([p.size for p in members]),), dtype=wide)
        ends = [*accumulate([p.size for p in members], initial=0)]
        parts = [message[start:stop] for start, stop in pairwise(ends)]
        for p, part in zip(members, parts, strict=True):
            _put(xp, p, part, 1 / max(tokens, 1))
        message = _summed(xp, message)
        for p, (start, stop) in zip(members, pairwise(ends), strict=True):
            grad = xp.reshape(message[start:stop], p.shape)
            averaged.append((p, xp.astype(grad, native_dtype(xp, dtype), copy=False)))
    for p, grad in averaged:
        p.grad = wrap(grad, None)
    return tokens


def _named(parameters: Iterable[Any]) -> list[_Parameter]:
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            "average_gradients: parameters are several, as model.parameters() gives them, not a "
            f"{type(parameters).__name__}"
        )
    found = []
    for place, given in enumerate(parameters):
        name, p = given if isinstance(given, tuple) and len(given) == 2 else (str(place), given)
        if not isinstance(p, Tensor) or p.dtype.kind != "f":
            raise TypeError(f"average_gradients: parameter {name} is no Tensor of floats: {p!r}")
        found.append(_Parameter(name, p))
    if not found:
        raise ValueError(
            "average_gradients: there are no parameters; a generator can be read only once"
        )
    return found


def _put(xp: Any, p: Tensor, part: Any, scale: float) -> None:
    """Into a part of a message: a gradient times ``scale``, in one pass where there is ``out``."""
    if p.grad is None:
        part[...] = 0
        return
    flat = xp.reshape(raw(p.grad, "average_gradients"), (-1,))
    if xp.name in ("numpy", "cupy"):
        xp.multiply(flat, scale, out=part, dtype=part.dtype)
    else:
        part[...] = xp.astype(flat, part.dtype) * scale


def _summed(xp: Any, message: Any) -> Any:
    """The sum over all processes, in every one of them the same bits."""
    processes = _processes()
    if processes.size == 1:
        return message
    if processes.nccl is not None and xp.name == "cupy":
        processes.nccl.all_reduce(message, message)
        return message
    host = xp.to_host(message)
    processes.reduce(host)
    return host if xp.name == "numpy" else xp.from_host(host)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


_VERSIONS = {name: _version(name) for name in ("tinygrad_rnn", "numpy")}


def _due(named: list[_Parameter]) -> bool:
    """Whether it is time to compare values, which takes as long as to read them."""
    averaged = _processes().averaged
    key = ", ".join(f"{name} {p.shape}" for name, p in named)
    averaged[key] += 1
    return averaged[key] % 1000 == 1


def _check_alike(
    operation: str, named: list[_Parameter], count: int = 0, values: bool = False
) -> list[int]:
    """Raise ValueError in all processes if one has other parameters, or runs another version.

    The sums that follow must not be of different things. If one asks for it, ``values`` are
    compared, too. Returns the counts of all processes, which travel beside: among those sums they
    would not be exact.
    """
    processes = _processes()
    if processes.size == 1:
        return [count]
    own = [f"{name}: {p.dtype} {p.shape}" for name, p in named]
    digest = hashlib.blake2b(repr((own, _VERSIONS)).encode(), digest_size=7).digest()
    message = np.array([int.from_bytes(digest, "little"), count, values], dtype=np.int64)
    digests, counts, asked = processes.gather_numbers(message).T.tolist()
    if len(set(digests)) > 1:
        _explain(operation, processes.gather((own, _VERSIONS)))
    if any(asked):
        sums = processes.gather_numbers(np.array([_checksum(p) for _, p in named]))
        for place, i in np.argwhere(sums != sums[0])[:1].tolist():
            raise ValueError(
                f"{operation}: the models differ: {named[i].name} has other values in process "
                f"{place} than in process 0; distributed.broadcast(model, optimizer) before the "
                "first step gives all the same"
            )
    return list(counts)


def _explain(operation: str, described: list[tuple[list[str], dict[str, str]]]) -> None:
    """Raise ValueError for the first difference between process 0 and another."""
    (first, versions), *others = described
    for place, (own, running) in enumerate(others, 1):
        if running != versions:
            raise ValueError(
                f"{operation}: process 0 runs {versions}, process {place} {running}; install the "
                "same everywhere"
            )
        for i, (here, there) in enumerate(zip_longest(first, own, fillvalue="nothing")):
            if here != there:
                raise ValueError(
                    f"{operation}: the models differ: parameter {i} is {here!r} in process 0 and "
                    f"{there!r} in process {place}"
                )


def _checksum(p: Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(p.numpy()).tobytes())


# Random numbers and checkpoints.


def _seed_by_rank() -> None:
    """Go on with the random numbers of process 0, where masks are of a seed of their own."""
    random.set_state(_state_by_rank(from_main(random.get_state())))


def _state_by_rank(state: dict[str, Any]) -> dict[str, Any]:
    if is_main():
        return state
    seed = np.random.SeedSequence((state["seed"], rank())).generate_state(1)[0]
    return {**state, "seed": int(seed)}


def save_checkpoint(path: str | os.PathLike[str], *, extra: Any = None, **parts: Any) -> None:
    """``serialization.save_checkpoint`` by process 0, for which all wait.

    What differs from process to process, such as the states of its own rows, goes into ``extra``
    by ``all_rows`` or ``gather``. Random numbers go on as in a run that is resumed from here.
    Raises in all processes what the writing raises in process 0.
    """
    failure: BaseException | None = None
    if is_main():
        try:
            serialization.save_checkpoint(path, extra=extra, **parts)
        except Exception as error:
            failure = error
    reason = from_main(None if failure is None else repr(failure))
    if failure is not None:
        raise failure
    if reason is not None:
        raise RuntimeError(f"save_checkpoint: process 0 could not: {reason}")
    _seed_by_rank()


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """``serialization.load_checkpoint`` in every process, of as many as there are now.

    What it returns restores the weights everywhere, and random numbers to those that process 0 had,
    masks by a seed of each process's own. Raises in all processes what one of them cannot read, and
    ValueError if they do not read the same file.
    """
    found, reason, content = None, None, b""
    try:
        found = serialization.load_checkpoint(path)
        content = hashlib.blake2b(Path(path).read_bytes()).digest()
    except (OSError, ValueError) as error:
        reason = error
    for place, failure in enumerate(gather(None if reason is None else repr(reason))):
        if failure is not None:
            raise reason or ValueError(f"load_checkpoint: in process {place}: {failure}")
    others = [place for place, each in enumerate(gather(content)) if each != from_main(content)]
    if others:
        raise ValueError(
            f"load_checkpoint: what processes {others} read from {os.fspath(path)!r} is not what "
            "process 0 did; put it where all see it"
        )
    assert found is not None
    return found._replace(random_state=_state_by_rank(found.random_state))
