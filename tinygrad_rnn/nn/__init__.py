"""Modules with parameters: layers, recurrent cells, initial weights. Names follow PyTorch's."""

from . import init
from .layers import Embedding, Linear
from .module import Buffer, Module, Parameter
from .recurrent import GRUCell, LSTMCell, RNNCell

__all__ = [
    "Buffer",
    "Embedding",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "Module",
    "Parameter",
    "RNNCell",
    "init",
]
