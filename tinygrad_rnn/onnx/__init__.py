"""ONNX: models written for other runtimes, and models of others read.

``export`` writes a module or a function, ``load`` reads a file as a module. Both need the extra
``onnx``. Reading order: symbols, record, writer, operations, recurrent, export; then load.
"""

from .export import export
from .library import ExportError

__all__ = ["ExportError", "export"]
