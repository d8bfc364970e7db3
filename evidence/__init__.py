"""The literature as a test suite: experiments of papers, carried out again and judged.

Nothing here is part of the package. Each module of ``pages`` is an experiment: what a paper says,
how it is tried here, and the criterion, which was committed before the results were. See README.md.
"""

import os
import sys


def invocation() -> list[str]:
    """How this Python is told to run ``evidence``, from where its user stands."""
    near = os.path.relpath(sys.executable)
    return [sys.executable if near.startswith(os.pardir) else near, "-m", "evidence"]
