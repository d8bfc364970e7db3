"""Time is a loop: ``unroll`` applies a cell over it."""

from .ragged import pad_sequences, unpad_sequences
from .truncated import Window, detach, truncated_bptt
from .unroll import Cell, initial_state, unroll

__all__ = [
    "Cell",
    "Window",
    "detach",
    "initial_state",
    "pad_sequences",
    "truncated_bptt",
    "unpad_sequences",
    "unroll",
]
