"""Files of arrays: safetensors, written atomically, read without executing anything.

A file is written beside its destination, flushed to the disk and renamed, so a process killed at
any moment leaves the old file or the new one. The subtle point is that nothing is ever unpickled: a
file holds arrays and strings, and one that is damaged or foreign is an error and nothing more.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from .tensor import Tensor


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write Tensors or arrays by name, and strings beside them, replacing ``path`` at once."""
    host = {
        name: np.asarray(a.numpy() if isinstance(a, Tensor) else a, order="C")
        for name, a in arrays.items()
    }
    if any(not isinstance(text, str) for text in (metadata or {}).values()):
        raise TypeError("save: metadata are strings; use json.dumps for anything else")
    try:
        content = serialize(host, metadata=dict(metadata or {}))
    except SafetensorError as error:
        raise TypeError(f"save: an array cannot be written: {error}") from error
    target = Path(path).resolve()  # what a link points to is replaced, not the link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """The arrays of a file, as NumPy arrays by name, and its metadata.

    Raises FileNotFoundError, or ValueError for a file that is no undamaged safetensors file or
    holds numbers that NumPy has no dtype for.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load: there is no file {os.fspath(path)!r}")
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"load: {os.fspath(path)!r} is no intact safetensors file: {error}"
        ) from error
    except (TypeError, AttributeError) as error:  # safetensors knows the dtype, NumPy does not
        raise ValueError(
            f"load: {os.fspath(path)!r} holds numbers NumPy has no dtype for: {error}"
        ) from error
