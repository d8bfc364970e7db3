"""Optimisers, learning-rate schedules and gradient clipping. Names and defaults are PyTorch's.

A step computes all new values before it assigns any, and rebinds ``p.data``: nothing is written in
place, so a graph built before the step still gives the gradients of its time. Reading order:
formulas (how an update becomes a kernel), rows, optimizer, algorithms, clipping, lr_scheduler;
settings is what they check their arguments with.
"""

from . import lr_scheduler
from .algorithms import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop, SparseAdam
from .clipping import clip_grad_norm_, clip_grad_value_
from .optimizer import Optimizer

__all__ = [
    "SGD",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "Adam",
    "AdamW",
    "SparseAdam",
    "Optimizer",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
