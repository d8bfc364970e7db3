"""What every test shares: a deterministic Hypothesis, the backends to run on, GPU tests skipped.

The subtle point: ``array_api_strict`` is registered here as a third party would register a backend.
It implements the standard and refuses everything else, which keeps NumPy-only habits out of rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import array_api_strict
import pytest
from hypothesis import HealthCheck, settings

import tinygrad_rnn_backends as backends

# The same examples on every run; TINYGRAD_RNN_EXAMPLES=1000 looks further, and
# --hypothesis-profile=random looks elsewhere each time.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("TINYGRAD_RNN_EXAMPLES", "25")),
    # `backend`, below, holds no state that one example could leave to the next, and slow drawing of
    # examples says more about a busy machine than about a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("random", settings.get_profile("ci"), derandomize=False)
settings.load_profile("ci")

array_api_strict.set_array_api_strict_flags(api_version="2024.12")
backends.register("array_api_strict", lambda: backends.ArrayAPIBackend(array_api_strict))

CUPY = backends.status("cupy")
GPU = [pytest.param("cupy", marks=pytest.mark.gpu)] if CUPY.usable else []


@pytest.fixture(params=["numpy", "array_api_strict", *GPU])
def backend(request: pytest.FixtureRequest) -> Iterator[backends.Backend]:
    """A backend, and the default one for the test: what the test creates lands on it."""
    with backends.use_backend(request.param) as chosen:
        yield chosen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where CuPy cannot be used, and say why not.

    Names with an address in them are refused: two processes could not share such tests out.
    """
    unstable = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if unstable:
        raise pytest.UsageError(f"give these ids: {unstable[:3]}")
    if CUPY.usable:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=CUPY.detail))
