"""Loops as CUDA kernels."""
