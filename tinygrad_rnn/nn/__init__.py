"""Modules with parameters: layers, recurrent cells, initial weights. Names follow PyTorch's."""

from . import init
from .cells import (
    GRUCell,
    LayerNormLSTMCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    RWACell,
)
from .layers import Dropout, Embedding, LayerNorm, Linear, Sequential
from .module import Buffer, Module, Parameter, functional_call
from .recurrent import GRU, LSTM, RNN, Bidirectional, Recurrent
from .summary import summary
from .wrappers import StackedCell, VariationalDropout, Zoneout

__all__ = [
    "Bidirectional",
    "Buffer",
    "Dropout",
    "Embedding",
    "GRU",
    "GRUCell",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "Linear",
    "Module",
    "Parameter",
    "PeepholeLSTMCell",
    "RNN",
    "RNNCell",
    "RWACell",
    "Recurrent",
    "Sequential",
    "StackedCell",
    "VariationalDropout",
    "Zoneout",
    "functional_call",
    "init",
    "summary",
]
