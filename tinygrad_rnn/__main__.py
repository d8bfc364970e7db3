"""``python -m tinygrad_rnn doctor``: which backends can be used on this machine, and why not.

The one subtle thing: asking is what loads a backend, so this may import CuPy and start the GPU.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence

import numpy as np

import tinygrad_rnn_backends as backends

from . import __version__


def doctor() -> int:
    """Print one line for each backend; 0 if at least one can be used, else 1."""
    print(f"tinygrad_rnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"on {platform.platform()}")
    print()
    found = backends.available()
    width = max(len("backend"), *map(len, found))
    print(f"{'backend':{width}}  usable  details")
    for name, status in found.items():
        print(f"{name:{width}}  {'yes' if status.usable else 'no':6}  {status.detail}")
    print()
    print(f"The default backend is {backends.default().name}.")
    return 0 if any(status.usable for status in found.values()) else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_rnn",
        description="Tools for an installation of tinygrad_rnn.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor",
        help="print which backends can be used here, and what is missing for the others",
        description=(
            "Print the versions in use and every known backend, built in or installed as a plugin: "
            "whether it can be used on this machine, on which device, and if not, why and what "
            "would help. Looking at a backend loads it. Exits with 0 if at least one is usable."
        ),
    )
    parser.parse_args(arguments)
    return doctor()


if __name__ == "__main__":
    sys.exit(main())
