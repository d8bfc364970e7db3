"""Files of arrays: safetensors, written atomically, read without executing anything.

``save`` and ``load`` are for arrays by name, such as the weights of a module; ``save_checkpoint``
and ``load_checkpoint`` for all that a training run needs to go on as if it had never stopped.

A file is written beside its destination, flushed to the disk and renamed, so a process killed at
any moment leaves the old file or the new one. One killed while it writes also leaves a hidden
``.tinygrad_rnn-*``, which the next save into that folder removes: whoever writes holds a lock on
it, which ends with the process. Nothing is ever unpickled: a file holds arrays and text, and one
that is damaged, foreign or hostile is an error and nothing more.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from . import random
from .planner.planner import planner
from .tensor import Tensor, on_host

try:
    import fcntl
except ImportError:  # not POSIX: there, what a killed process left stays
    fcntl = None  # type: ignore[assignment]

__all__ = ["Checkpoint", "load", "load_checkpoint", "save", "save_checkpoint"]

Array = np.ndarray[Any, Any]

CHECKSUM = "tinygrad_rnn.crc32"
"""Where ``save`` notes it among the metadata: a file of someone else's has none."""


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write Tensors or arrays by name, and strings beside them, replacing ``path`` at once.

    Raises TypeError, before anything is written, for what such a file cannot hold.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(
            "save: arrays by name, as module.state_dict() gives them, "
            f"not a {type(arrays).__name__}"
        )
    host = {name: np.asarray(on_host(f"save: {name}", a), order="C") for name, a in arrays.items()}
    for name, array in host.items():
        if array.dtype.kind not in "biuf":
            raise TypeError(
                f"save: {name!r} holds {array.dtype}, and is no array of real numbers; "
                "save_checkpoint takes optimisers and plain data, too"
            )
    if "__metadata__" in host:
        raise TypeError("save: '__metadata__' is no name for an array; the format has another use")
    texts = {key: text for key, text in (metadata or {}).items() if key != CHECKSUM}
    if any(not isinstance(text, str) for text in texts.values()):
        raise TypeError("save: metadata are strings; use json.dumps for anything else")
    try:
        content = serialize(host, metadata=texts | {CHECKSUM: _checksum(host, texts)})
    except (SafetensorError, UnicodeEncodeError) as error:
        raise TypeError(f"save: this cannot be written: {error}") from error
    _replace(Path(path).resolve(), content)  # what a link points to is replaced, not the link


_TEMPORARY = ".tinygrad_rnn-"
"""How the name of a file begins that is being written; short, since names end at 255 bytes."""


def _replace(target: Path, content: bytes) -> None:
    """Write a file beside ``target`` and rename it, so that there is never less than a whole."""
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    with _temporary(target.parent, mode) as (temporary, file):
        try:
            with open(file, "wb", closefd=False) as stream:
                stream.write(content)
            os.fsync(file)
            if fcntl is None:  # where an open file cannot be renamed
                os.close(file)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if fcntl is not None:
        _remove_orphans(target.parent)
        _synchronize(target.parent)


@contextmanager
def _temporary(folder: Path, mode: int | None) -> Iterator[tuple[Path, int]]:
    """A new file, locked as long as it is open; what ``mode`` forbids is never allowed."""
    while True:
        path = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        file = os.open(path, flags, 0o666 if mode is None else 0o600)
        try:
            if fcntl is None:
                yield path, file
                return
            if mode is not None:
                os.fchmod(file, mode)  # what was for one user's eyes stays so
            with suppress(OSError):  # of a file system without locks, where nothing is removed
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(path, file):  # and was not taken for an orphan before it was locked
                yield path, file
                return
        finally:
            with suppress(OSError):  # closed already
                os.close(file)


def _is_still(path: Path, file: int) -> bool:
    """Whether a path leads to an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _remove_orphans(folder: Path) -> None:
    """Remove what processes that were killed left: files being written that nobody has locked."""
    with suppress(OSError), os.scandir(folder) as entries:  # a folder one may not look into
        orphans = [e.path for e in entries if e.name.startswith(_TEMPORARY) and e.is_file()]
        for path in orphans:
            with suppress(OSError):  # locked, of another user, or gone
                file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(file)


def _synchronize(folder: Path) -> None:
    """Bring a renaming to the disk, where the system can."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder one may write to and not look into
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not of a folder, not here
            raise
    finally:
        os.close(opened)


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, as NumPy arrays by name, and its metadata.

    Raises FileNotFoundError, IsADirectoryError, PermissionError; ValueError for a file that is no
    undamaged safetensors file or holds numbers that NumPy has no dtype for. No more memory is taken
    than the file is long.
    """
    _check_readable(path)
    try:
        with safe_open(path, framework="numpy") as file:
            _check_names(path)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
        for name, array in arrays.items():
            if array.dtype.kind not in "biuf":  # one that another package has taught NumPy
                raise TypeError(f"{name!r} is {array.dtype}")
        noted = metadata.pop(CHECKSUM, None)
        if noted is not None and noted != _checksum(arrays, metadata):
            raise ValueError("its content is not what was written")
        return arrays, metadata
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"load: {os.fspath(path)!r} is no intact safetensors file: {error}"
        ) from error
    except (TypeError, AttributeError) as error:  # safetensors knows the dtype, NumPy does not
        raise ValueError(
            f"load: {os.fspath(path)!r} holds numbers NumPy has no dtype for: {error}"
        ) from error


def _check_readable(path: str | os.PathLike[str]) -> None:
    name = os.fspath(path)
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            open(path, "rb").close()
    except PermissionError:
        raise PermissionError(
            f"load: {name!r} may not be read by this user; its mode, or that of a folder on the "
            "way, forbids it"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise FileNotFoundError(f"load: there is no file {name!r}") from None
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(f"load: {name!r} is a folder, not a file")
    if not stat.S_ISREG(kind):
        raise ValueError(f"load: {name!r} is a pipe or a device, not a file")


def _checksum(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Of names, dtypes, shapes, numbers and metadata, in an order that the file need not keep."""
    forms = [(name, arrays[name].dtype.name, arrays[name].shape) for name in sorted(arrays)]
    crc = zlib.crc32(json.dumps([forms, sorted(metadata.items())]).encode())
    for name in sorted(arrays):
        array = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _check_names(path: str | os.PathLike[str]) -> None:
    """Refuse a header that describes a name twice; safetensors, which accepted it, takes one."""
    with open(path, "rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    json.loads(header, object_pairs_hook=unique)


class Checkpoint(NamedTuple):
    """What a checkpoint file holds: the state of each part by its name, and what was added."""

    path: str
    parts: dict[str, Any]
    """As ``state_dict()`` gave them, with NumPy arrays for Tensors."""
    extra: Any
    """As it was given, with NumPy arrays for Tensors."""
    random_state: Any
    met: tuple[str, ...] = ()
    """What functions of the library had met, and so how they ran."""

    def restore(self, /, **parts: Any) -> None:
        """Put all parts, and the random numbers of ``tinygrad_rnn``, back to where they were.

        Give the same names as to ``save_checkpoint``. To take over just one part, use its
        ``load_state_dict(checkpoint.parts[name])``.

        Raises ValueError for other names and for a state that is not accepted; then everything is
        as it was before.
        """
        if parts.keys() != self.parts.keys():
            one = next((name for name in parts if name in self.parts), "model")
            raise ValueError(
                f"restore: {self.path!r} holds the parts {sorted(self.parts)}, and not "
                f"{sorted(parts)}. Give all of them; or take over one by "
                f"{one}.load_state_dict(checkpoint.parts[{one!r}])"
            )
        before = {name: part.state_dict() for name, part in _stateful("restore", parts).items()}
        random_before = random.get_state()
        restored: list[str] = []
        try:
            for name, part in parts.items():
                part.load_state_dict(self.parts[name])
                restored.append(name)
            random.set_state(self.random_state)
            planner.met.update(self.met)
        except BaseException as error:  # a part may raise anything, and Ctrl-C may come
            for name in [*parts][: len(restored) + 1]:
                parts[name].load_state_dict(before[name])
            random.set_state(random_before)
            if not isinstance(error, Exception):
                raise
            failed = [*parts, "random numbers"][len(restored)]
            raise ValueError(f"restore: {failed} of {self.path!r}: {error!r}") from error


def save_checkpoint(path: str | os.PathLike[str], *, extra: Any = None, **parts: Any) -> None:
    """Write all that training needs to go on, replacing ``path`` at once.

    ::

        save_checkpoint(path, model=model, optimizer=optimizer, batches=batches, extra={"best": 1})

        checkpoint = load_checkpoint(path)
        checkpoint.restore(model=model, optimizer=optimizer, batches=batches)
        best = checkpoint.extra["best"]

    A run that is continued goes on bit for bit as if it had never stopped, provided that its cells
    are trusted (the library's own, and those marked ``@tg.pure``) or that it is run with
    ``mode="literal"`` or "planned". Another cell runs literally again until it is known anew, so
    the first steps, and what comes of them, are equal to rounding.

    The state of the random numbers of ``tinygrad_rnn`` is written, too. Weights keep their names
    behind that of their part, ``model.cell.bias``, for any program that reads safetensors.

    Args:
        path: the file.
        extra: any nesting of dicts, lists, tuples, strings, numbers, None, arrays and Tensors, such
            as settings or a recurrent state. A named tuple comes back as a tuple.
        parts: whatever has ``state_dict`` and ``load_state_dict``: the model, its optimiser, a
            schedule, a ``data.Batches``.

    Raises:
        TypeError: for a part without these, or a state of anything else; nothing is written then.
    """
    arrays: dict[str, Any] = {}
    content = {
        "parts": {
            name: _packed(part.state_dict(), name, arrays)
            for name, part in _stateful("save_checkpoint", parts).items()
        },
        "extra": _packed(extra, "extra", arrays),
        "random": random.get_state(),
        "met": sorted(planner.met),
    }
    save(path, arrays, {"checkpoint": json.dumps(content)})


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what ``save_checkpoint`` wrote; ``restore`` of what it returns puts it back.

    Raises ValueError for a file that is damaged or something else, and what ``load`` does for one
    that is not there or may not be read.
    """
    name = os.fspath(path)
    arrays, metadata = load(path)
    if "checkpoint" not in metadata:
        raise ValueError(
            f"load_checkpoint: {name!r} holds arrays, but no run that could be resumed"
        )
    try:
        content = json.loads(metadata["checkpoint"])
        parts, extra, state = (content[key] for key in ("parts", "extra", "random"))
        random.check_state(state)
        unpacked = {part: _unpacked(packed, arrays) for part, packed in parts.items()}
        met = tuple([str(kind) for kind in content.get("met", ())])
        return Checkpoint(name, unpacked, _unpacked(extra, arrays), state, met)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"load_checkpoint: what {name!r} says of its run cannot be understood: {error!r}"
        ) from error


def _stateful(operation: str, parts: dict[str, Any]) -> dict[str, Any]:
    for name, part in parts.items():
        if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise TypeError(
                f"{operation}: {name} is a {type(part).__name__}, without state_dict and "
                "load_state_dict; plain data go into extra"
            )
    return parts


def _packed(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """``value`` as JSON has it; arrays are put into ``arrays``, under a name like ``name``.

    What JSON has not, arrays, tuples and keys that are integers, is said in an object of one key.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        while name in arrays:
            name += "_"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, (list, tuple)):
        items = [_packed(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
        return {"dict": [[k, _packed(item, f"{name}.{k}", arrays)] for k, item in value.items()]}
    raise TypeError(
        f"save_checkpoint: {name} is a {type(value).__name__}; a checkpoint holds dicts with keys "
        "of strings or integers, lists, tuples, strings, numbers, None, arrays and Tensors"
    )


def _unpacked(value: Any, arrays: Mapping[str, Array]) -> Any:
    """What ``_packed`` was given, or one of a few errors."""
    if isinstance(value, list):
        return [_unpacked(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, packed),) = value.items()
    if kind == "array":
        return arrays[packed]
    if kind == "tuple":
        return tuple(_unpacked(item, arrays) for item in packed)
    if kind == "dict":
        return {key: _unpacked(item, arrays) for key, item in packed}
    raise ValueError(f"there is no kind {kind!r}")
