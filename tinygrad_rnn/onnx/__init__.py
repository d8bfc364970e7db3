"""ONNX: models written for other runtimes, and models of others read.

``export`` writes a module or a function, ``load`` reads a file as a module. Both need the extra
``onnx``. Reading order: symbols, writer, operations, recurrent, record, export; and graph,
functions, loops, nodes, load.
"""

from .export import export
from .library import ExportError, ImportedModelError
from .load import OnnxModule, load

__all__ = ["ExportError", "ImportedModelError", "OnnxModule", "export", "load"]
