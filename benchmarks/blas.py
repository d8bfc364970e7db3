"""Which kernels multiply matrices on each side, and what keeps a library from its best ones.

The subtle thing is a variable in the environment. ``OPENBLAS_CORETYPE=Haswell``, set for another
program long ago, halves what NumPy's BLAS does on a newer processor, and nothing says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

# Each names a processor or an instruction set, and some library then uses no newer one.
PINS = {
    "OPENBLAS_CORETYPE": "OpenBLAS (NumPy and what builds on it)",
    "BLIS_ARCH_TYPE": "BLIS",
    "MKL_ENABLE_INSTRUCTIONS": "MKL (PyTorch)",
    "MKL_DEBUG_CPU_TYPE": "MKL (PyTorch)",
    "MKL_CBWR": "MKL (PyTorch)",
    "ONEDNN_MAX_CPU_ISA": "oneDNN (PyTorch)",
    "DNNL_MAX_CPU_ISA": "oneDNN (PyTorch)",
    "ATEN_CPU_CAPABILITY": "PyTorch's own kernels",
    "NPY_DISABLE_CPU_FEATURES": "NumPy's own loops",
}
XLA_PIN = "xla_cpu_max_isa"


def pins(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A warning for every variable that keeps a library to a certain processor's kernels."""
    found = {name: environment[name] for name in PINS if environment.get(name)}
    warnings = [
        f"Warning: {name}={value} tells {PINS[name]} which kernels to use, whatever the processor: "
        "its side may look slower than it is. Unset it."
        for name, value in found.items()
    ]
    if XLA_PIN in environment.get("XLA_FLAGS", ""):
        warnings.append(
            f"Warning: XLA_FLAGS sets {XLA_PIN}: JAX's side may look slower than it is. Unset it."
        )
    return warnings


def products(library: str) -> str:
    """What multiplies matrices in this process, where the side of a library has run."""
    return {"torch": of_torch, "jax": of_jax, "tinygrad_rnn": of_ours}.get(library, of_numpy)()


def of_numpy() -> str:
    """NumPy's BLAS: name and version, the processor that its kernels are for, threads."""
    ((name, release),) = numpy_blas().items()
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return f"{name} {release}; with which kernels: pip install threadpoolctl"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    pools = [pool for pool in pools if "numpy" in pool["filepath"]] or pools
    found = [
        f"{pool.get('architecture', 'unknown')} kernels, {pool['num_threads']} threads"
        for pool in pools
    ]
    return f"{name} {release}, {'; '.join(found) or 'of unknown kernels'}"


def of_ours() -> str:
    """Our own kernels, where there are such, and NumPy's BLAS beside them."""
    from tinygrad_rnn.__main__ import kernels

    return f"own kernels {kernels()}; NumPy's {of_numpy()}"


def of_torch() -> str:
    """PyTorch's libraries are built in, where threadpoolctl sees none; it tells of them itself.

    MKL chooses its kernels by the processor, and does not say which.
    """
    import torch

    libraries = {
        "MKL": torch.backends.mkl.is_available(),
        "oneDNN": torch.backends.mkldnn.is_available(),
    }
    names = " and ".join(name for name, there in libraries.items() if there)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names or 'its own'}, {capability}, {torch.get_num_threads()} threads"


def of_jax() -> str:
    """XLA compiles calls of the library Eigen into its programs; NPROC says on how many threads."""
    return f"XLA's Eigen, compiled for the processor, {os.environ.get('NPROC', 'all')} threads"


def numpy_blas() -> dict[str, str]:
    """The name of the library that NumPy was built with, and its version."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return {blas["name"]: blas["version"]}
