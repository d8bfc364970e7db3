"""``python -m tinygrad_rnn doctor``: what can be used on this machine, and why not the rest.

``python -m tinygrad_rnn demo`` is in ``demo.py``.

Asking is what loads a backend, so this may import CuPy and start the GPU.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends

from . import __version__
from .kernels import settings
from .kernels.cpu import run as cpu
from .kernels.machine import chosen_threads


def doctor() -> int:
    """Print a line for each backend and each thing that makes loops fast.

    Returns 0 if at least one backend can be used, else 1.
    """
    print(f"tinygrad_rnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"on {platform.platform()}")
    print()
    found = backends.available()
    width = max(len("backend"), *map(len, found))
    print(f"{'backend':{width}}  usable  details")
    for name, status in found.items():
        print(f"{name:{width}}  {'yes' if status.usable else 'no':6}  {status.detail}")
    print()
    for name, text in {
        "kernels": kernels(),
        "threads": threads(),
        "BLAS": blas(),
        "MPI": mpi(),
        "ONNX": onnx(),
    }.items():
        print(f"{name:{width}}  {text}")
    print()
    print(f"The default backend is {backends.default().name}.")
    return 0 if any(status.usable for status in found.values()) else 1


def kernels() -> str:
    """Whether planned loops run as machine code on this processor, and what is missing if not."""
    try:
        if settings.switch("TINYGRAD_RNN_JIT") is False:
            return "off: an environment variable asks for it, TINYGRAD_RNN_JIT"
    except settings.SettingError as error:
        return f"unknown: {error}"
    if (reason := cpu.available()) is None:
        return f"on: {cpu.instruction_set()}, by llvmlite {version('llvmlite')}"
    cure = "" if find_spec("llvmlite") else ": pip install 'tinygrad_rnn[jit]'"
    return f"off, planned loops run on NumPy, slower: {reason}{cure}"


def threads() -> str:
    """How many threads kernels run on, and why so many."""
    try:
        number, reason = chosen_threads()
    except settings.SettingError as error:
        return f"unknown: {error}"
    return f"{number} for kernels, {reason}"


def blas() -> str:
    """The library that NumPy multiplies matrices with where there is no kernel."""
    built: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    about = built.get("Build Dependencies", {}).get("blas", {})
    name = f"{about.get('name', 'unknown')} {about.get('version', '')}".strip()
    if not find_spec("threadpoolctl"):
        return f"{name}; on how many threads: pip install threadpoolctl"
    from threadpoolctl import threadpool_info

    loaded = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    on = ", ".join(f"{pool['num_threads']} of {pool['internal_api']}" for pool in loaded)
    return f"{name}; threads: {on or 'not known to threadpoolctl'}"


def mpi() -> str:
    """Whether several processes can train together, and what is missing if not."""
    if not find_spec("mpi4py"):
        return "not usable: pip install 'tinygrad_rnn[mpi]', and an MPI: pip install mpich"
    beside = os.pathsep.join([os.environ.get("PATH", ""), os.path.dirname(sys.executable)])
    if (launcher := shutil.which("mpiexec", path=beside)) is None:
        return f"mpi4py {version('mpi4py')}, but no mpiexec: pip install mpich"
    return f"mpi4py {version('mpi4py')}, {launcher}"


def onnx() -> str:
    """Whether models can be written to ONNX and read, and what is missing if not."""
    if find_spec("onnx"):
        return f"onnx {version('onnx')}"
    return "not usable: pip install 'tinygrad_rnn[onnx]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_rnn",
        description="Tools for an installation of tinygrad_rnn.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor",
        help="print which backends can be used here, whether kernels can, and what is missing",
        description=(
            "Print the versions in use and every known backend, built in or installed as a plugin: "
            "whether it can be used on this machine, on which device, and if not, why and what "
            "would help. Then whether planned loops run as machine code, for which instructions, "
            "on how many threads, and which BLAS NumPy has. Looking at a backend loads it. Exits "
            "with 0 if at least one is usable."
        ),
    )
    show = commands.add_parser(
        "demo",
        help="train a small language model on Python's own manual, and watch it learn to write",
        description=(
            "Train an LSTM on the prose of Python's own manual, a character at a time, and print "
            "what it writes while it learns. Nothing is downloaded and nothing is saved. Ctrl-C "
            "ends the training early."
        ),
    )
    show.add_argument("--seconds", type=_seconds, default=75.0, help="of training (default: 75)")
    show.add_argument("--seed", type=int, default=0, help="of weights and samples (default: 0)")
    given = parser.parse_args(arguments)
    if given.command == "doctor":
        return doctor()
    from .demo import demo  # not before: doctor also answers where models cannot be built

    return demo(given.seconds, given.seed)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"a number of seconds above 0, not {text}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
