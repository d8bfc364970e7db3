"""Time is a loop: ``unroll`` applies a cell over it."""

from .unroll import unroll

__all__ = ["unroll"]
