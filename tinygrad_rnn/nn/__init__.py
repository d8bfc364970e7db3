"""Modules with parameters: layers, recurrent cells, initial weights. Names follow PyTorch's."""

from typing import Any

from .. import functional as _functional
from . import init
from .attention import AdditiveAttention, Memory, MultiheadAttention, MultiplicativeAttention
from .cells import (
    GRUCell,
    LayerNormLSTMCell,
    LSTMCell,
    PeepholeLSTMCell,
    RNNCell,
    RWACell,
)
from .convolution import (
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    ConvLSTMCell,
    MaxPool1d,
    MaxPool2d,
)
from .layers import (
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    PromotionWarning,
    Sequential,
    TimeDistributed,
)
from .module import Buffer, Module, Parameter, functional_call
from .names import OF_NN
from .recurrent import GRU, LSTM, RNN, Bidirectional, Recurrent
from .search import Hypothesis, beam_search, greedy_search, sample
from .seq2seq import AttentionDecoder, Bridge, DecoderState, Encoder, shift_right
from .summary import summary
from .wrappers import StackedCell, VariationalDropout, Zoneout

__all__ = [
    "AdditiveAttention",
    "AttentionDecoder",
    "AvgPool1d",
    "AvgPool2d",
    "Bidirectional",
    "Bridge",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "ConvLSTMCell",
    "DecoderState",
    "Dropout",
    "Embedding",
    "Encoder",
    "GRU",
    "GRUCell",
    "Hypothesis",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "Memory",
    "Module",
    "MultiheadAttention",
    "MultiplicativeAttention",
    "Parameter",
    "PromotionWarning",
    "PeepholeLSTMCell",
    "RNN",
    "RNNCell",
    "RWACell",
    "Recurrent",
    "Sequential",
    "StackedCell",
    "TimeDistributed",
    "VariationalDropout",
    "Zoneout",
    "beam_search",
    "functional_call",
    "greedy_search",
    "init",
    "sample",
    "shift_right",
    "summary",
]


def __getattr__(name: str) -> Any:
    if name in OF_NN:
        raise AttributeError(f"nn has no {name!r}, as PyTorch has; here it is {OF_NN[name]}")
    if name in _functional.__all__:
        raise AttributeError(f"nn has no {name!r}; it is a function, tinygrad_rnn.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
