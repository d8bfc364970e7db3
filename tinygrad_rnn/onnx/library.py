"""The library ``onnx``, which is there only with the extra of this name, and what goes wrong."""

from __future__ import annotations

import importlib
from typing import Any


class ExportError(Exception):
    """What cannot be written as ONNX: each operation by its name, with the line it comes from."""


class ImportedModelError(ValueError):
    """An ONNX file that is damaged, too large, or asks for what there is not."""


def library(operation: str) -> Any:
    """The module ``onnx``; ImportError, naming the extra, where it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError(f"{operation}: pip install 'tinygrad_rnn[onnx]'; {error}") from error
