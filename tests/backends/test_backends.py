"""Backends: the registry, the three built in, those of third parties, and the kit that checks them.

The subtle point is CuPy, of which a machine without a GPU can test two things: which of its three
states is found, with modules made up to look like each; and its logic, over NumPy. Neither is a
test on a GPU. That is the one marked ``gpu``, and it is skipped where there is none.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
import tinygrad_rnn_backends as backends
from tinygrad_rnn.__main__ import main
from tinygrad_rnn.kernels.cpu import run as native
from tinygrad_rnn.testing import check_backend
from tinygrad_rnn_backends import ArrayAPIBackend, BackendUnavailable, CupyBackend, NumpyBackend

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "backends")}
CUPY_LOGIC = CupyBackend(xp=np)
EVERY = {
    "numpy": backends.get("numpy"),
    "array_api_strict": backends.get("array_api_strict"),
    "CuPy's logic over NumPy": CUPY_LOGIC,
}
every_backend = pytest.mark.parametrize("backend", EVERY.values(), ids=EVERY)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is forgotten after it."""
    for name in ("_factories", "_loaded", "_of_type"):
        monkeypatch.setattr(backends, name, dict(getattr(backends, name)))
    monkeypatch.setattr(backends, "_default_name", "numpy")


class Counting(np.ndarray):
    """An array type of its own, for backends made up here."""


def made_up(name: str = "made_up", **attributes: Any) -> NumpyBackend:
    kind = type(name, (NumpyBackend,), {"name": name, "array_types": (Counting,), **attributes})
    return kind()


# The registry.


def test_an_unknown_name_says_which_are_known_and_how_to_add_one() -> None:
    with pytest.raises(ValueError, match=r"no backend 'nunpy', only numpy, cupy.*register_backend"):
        backends.get("nunpy")
    with pytest.raises(ValueError, match="no backend 'nunpy'"):
        tg.zeros(2, backend="nunpy")


def test_a_name_is_registered_once() -> None:
    backends.register("made_up", made_up)
    for name in ("made_up", "numpy"):
        with pytest.raises(ValueError, match=f"{name!r} is registered already"):
            backends.register(name, made_up)


def test_a_backend_is_made_when_first_asked_for_and_once_for_all_threads() -> None:
    made: list[NumpyBackend] = []
    gate = threading.Barrier(8)

    def factory() -> NumpyBackend:
        made.append(made_up())
        return made[-1]

    def ask() -> None:
        gate.wait()
        got.append(backends.get("made_up"))

    backends.register("made_up", factory)
    assert not made
    got: list[Any] = []
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert got == made * 8


def test_a_factory_that_fails_leaves_nothing_behind() -> None:
    attempts: list[int] = []

    def factory() -> NumpyBackend:
        attempts.append(1)
        if len(attempts) == 1:
            raise BackendUnavailable("the device is busy; try again")
        return made_up()

    backends.register("made_up", factory)
    with pytest.raises(BackendUnavailable, match="busy"):
        backends.get("made_up")
    assert backends.of(np.zeros(2).view(Counting)) is None
    assert backends.get("made_up").name == "made_up"


def test_a_backend_goes_by_the_name_it_is_registered_under() -> None:
    backends.register("mine", lambda: ArrayAPIBackend(array_api_strict))
    with pytest.raises(ValueError, match=r"'mine' calls itself 'array_api_strict'.*'mine'\)"):
        backends.get("mine")


def test_an_array_type_belongs_to_one_backend() -> None:
    backends.register("mine", lambda: ArrayAPIBackend(np, "mine"))
    with pytest.raises(ValueError, match=r"numpy\.ndarray, which belong to backend 'numpy'"):
        backends.get("mine")
    assert backends.of(np.zeros(2)) is backends.get("numpy")


def test_an_array_knows_its_backend_by_its_exact_type() -> None:
    backends.register("made_up", made_up)
    array = np.zeros(2).view(Counting)
    assert backends.of(array) is None
    made = backends.get("made_up")
    assert backends.of(array) is made
    assert backends.of(np.ma.zeros(2)) is None  # a mask would be lost without a word
    assert backends.of([1.0]) is None


def test_names_of_the_namespace_are_names_of_the_backend() -> None:
    backend = backends.get("numpy")
    assert backend.logaddexp is np.logaddexp
    assert repr(backend) == "<backend numpy>"
    with pytest.raises(AttributeError, match="backend 'numpy' has no function 'expp'"):
        _ = backend.expp


# The default.


def test_set_default_is_for_the_process_and_checks_first() -> None:
    with pytest.raises(ValueError, match="no backend 'nunpy'"):
        backends.set_default("nunpy")
    assert backends.default().name == "numpy"
    backends.set_default("array_api_strict")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(backends.default().name))
    thread.start()
    thread.join()
    assert seen == ["array_api_strict"]
    assert tg.zeros(2).backend == "array_api_strict"


def test_use_backend_nests_and_ends_with_its_block() -> None:
    with backends.use_backend("array_api_strict") as outer:
        assert tg.ones(2).backend == outer.name == "array_api_strict"
        with pytest.raises(KeyError), backends.use_backend("numpy"):
            assert backends.default().name == "numpy"
            raise KeyError
        assert backends.default() is outer
        with pytest.raises(ValueError, match="no backend"), backends.use_backend("nunpy"):
            pass
        assert backends.default() is outer
    assert backends.default().name == "numpy"


def test_use_backend_is_private_to_a_thread() -> None:
    both_inside = threading.Barrier(2)
    seen: dict[str, str] = {}

    def work(name: str) -> None:
        with backends.use_backend(name):
            both_inside.wait()
            seen[name] = tg.zeros(1).backend
            both_inside.wait()

    threads = [threading.Thread(target=work, args=[name]) for name in ("numpy", "array_api_strict")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"numpy": "numpy", "array_api_strict": "array_api_strict"}
    assert backends.default().name == "numpy"


def test_use_backend_is_private_to_a_task_and_passed_on_to_its_own() -> None:
    async def work(name: str) -> list[str]:
        with backends.use_backend(name):
            await asyncio.sleep(0)  # the other task enters its block
            child = asyncio.create_task(current())
            await asyncio.sleep(0)
            return [backends.default().name, await child]

    async def current() -> str:
        return backends.default().name

    async def both() -> list[list[str]]:
        return await asyncio.gather(work("numpy"), work("array_api_strict"))

    assert asyncio.run(both()) == [["numpy"] * 2, ["array_api_strict"] * 2]
    assert backends.default().name == "numpy"


# Backends of third parties.


def install(folder: Path, name: str, reference: str, source: str = "") -> None:
    """A distribution that declares a backend, as pip would leave it."""
    module = reference.partition(":")[0]
    if source:
        (folder / f"{module}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tinygrad_rnn.backends]\n{name} = {reference}\n")


PLUGIN = """
import numpy as np
from tinygrad_rnn_backends import NumpyBackend

class PluginArray(np.ndarray):
    pass

class PluginBackend(NumpyBackend):
    name = "plugged"
    array_types = (PluginArray,)
"""


def test_an_entry_point_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "plugged", "plugged_module:PluginBackend", PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugged_module", raising=False)
    assert list(backends.available())[-1] == "plugged"
    backend = backends.get("plugged")
    assert backend.name == "plugged"
    assert backend is backends.get("plugged")


def test_a_broken_plugin_harms_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "absent", "module_that_is_not_there:Backend")
    install(
        tmp_path, "broken", "broken_module:make", "def make():\n    raise OSError('no licence')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailable, match="'absent' is declared, but module_that_is_not_th"):
        backends.get("absent")
    with pytest.raises(OSError, match="no licence"):
        backends.get("broken")
    found = backends.available()
    assert found["numpy"].usable
    assert not found["absent"].usable
    assert found["broken"] == (False, "failed to load: OSError: no licence")


def test_a_plugin_does_not_take_the_name_of_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "numpy", "plugged_module:PluginBackend", PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    backends._loaded.clear()
    backends._of_type.clear()
    assert type(backends.get("numpy")) is NumpyBackend
    assert list(backends.available()).count("numpy") == 1


# CuPy: its three states, and its logic.


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DeviceArray(np.ndarray):
    """Stands for ``cupy.ndarray``: an array that leaves the device by ``get`` only."""

    copies = 0

    def get(self) -> np.ndarray[Any, Any]:
        DeviceArray.copies += 1
        return np.array(self)


def pretend_cupy(monkeypatch: pytest.MonkeyPatch, *, devices: Any = 1, driver: int = 13000) -> Any:
    """A module that looks like CuPy; ``devices`` is a count, or the error that counting raises."""

    def count() -> int:
        if isinstance(devices, Exception):
            raise devices
        return int(devices)

    cupy: Any = ModuleType("cupy")
    cupy.__version__ = "14.2.0"
    cupy.ndarray, cupy.float32 = DeviceArray, np.float32
    cupy.array = lambda x: np.array(x).view(DeviceArray)
    cupy.ones = lambda shape, dtype: np.ones(shape, dtype).view(DeviceArray)
    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=count,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: 13020,
            getDevice=lambda: 0,
            getDeviceProperties=lambda device: {"name": b"Imagined GPU"},
        )
    )
    compat: Any = ModuleType("array_api_compat.cupy")
    compat.ndarray = DeviceArray
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "array_api_compat", ModuleType("array_api_compat"))
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", compat)
    backends._loaded.pop("cupy", None)
    return cupy


def unavailable() -> str:
    """The message of ``get("cupy")``, which is what the doctor prints."""
    with pytest.raises(BackendUnavailable) as caught:
        backends.get("cupy")
    assert backends.status("cupy") == (False, str(caught.value))
    return str(caught.value)


def test_cupy_is_not_imported_before_it_is_asked_for() -> None:
    script = (
        "import sys, tinygrad_rnn_backends as b; b.get('numpy'); assert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=ENVIRONMENT)


def test_cupy_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    backends._loaded.pop("cupy", None)
    assert unavailable().startswith("CuPy is not installed: pip install 'tinygrad_rnn[cuda13]'")
    with pytest.raises(BackendUnavailable, match="not installed"):
        tg.zeros(2, backend="cupy")
    with pytest.raises(BackendUnavailable, match="not installed"):
        tg.zeros(2).to("cupy")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise ImportError('libcudart is missing')", "cannot be imported: ImportError: libcudart"),
        ("import fastrlock_that_is_missing", "lacks fastrlock_that_is_missing"),
    ],
)
def test_cupy_that_does_not_import(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cupy.py").write_text(source)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    backends._loaded.pop("cupy", None)
    assert f"CuPy is installed but {message}" in unavailable()


NO_DRIVER = CUDARuntimeError(35, "cudaErrorInsufficientDriver: too old\nmore")


@pytest.mark.parametrize(
    ("devices", "driver", "expected"),
    [
        (NO_DRIVER, 0, ["cudaErrorInsufficientDriver: too old", "status 35", "driver none"]),
        (NO_DRIVER, 0, ["install the NVIDIA driver"]),
        (NO_DRIVER, 12040, ["CUDA driver 12.4", "built for CUDA 13.2", "update the driver"]),
        (CUDARuntimeError(100, "cudaErrorNoDevice"), 13020, ["status 100", "nvidia-smi"]),
        (0, 13020, ["no CUDA device is visible", "CUDA_VISIBLE_DEVICES"]),
    ],
)
def test_cupy_installed_without_a_usable_device(
    devices: Any, driver: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_cupy(monkeypatch, devices=devices, driver=driver)
    message = unavailable()
    assert message.startswith("CuPy 14.2.0 is installed, but no CUDA device is")
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_cupy_with_a_device_that_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(shape: Any, dtype: Any) -> None:
        raise RuntimeError("cannot find libnvrtc")

    pretend_cupy(monkeypatch).ones = ones
    message = unavailable()
    assert "cannot compute on it: RuntimeError: cannot find libnvrtc" in message
    assert "cupy-cuda13x[ctk]" in message


def test_cupy_without_array_api_compat(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cupy(monkeypatch)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", None)
    assert unavailable().endswith("pip install array-api-compat")


def test_cupy_usable_is_found_from_its_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pretend_cupy(monkeypatch)
    assert backends.status("cupy") == (True, "CuPy 14.2.0 on Imagined GPU, CUDA driver 13.0")
    backend = backends.get("cupy")
    array = backend.from_host(np.arange(3.0))
    assert type(array) is DeviceArray
    assert backends.of(array) is backend
    before = DeviceArray.copies
    host = backend.to_host(array)
    assert type(host) is np.ndarray
    assert DeviceArray.copies == before + 1
    backends._loaded.pop("cupy")
    backends._of_type.pop(DeviceArray)
    monkeypatch.setattr(DeviceArray, "__module__", "cupy")
    assert backends.of(cupy.array([1.0])) is backends.get("cupy")  # somebody else made an array


@pytest.mark.gpu
def test_cupy_conforms_on_a_gpu() -> None:
    check_backend("cupy")
    assert "CuPy" in backends.status("cupy").detail


# The conformance kit, and what it must not let pass.


@every_backend
def test_conformance(backend: backends.Backend) -> None:
    check_backend(backend)


def test_conformance_by_name() -> None:
    check_backend("numpy")
    with pytest.raises(ValueError, match="no backend 'nunpy'"):
        check_backend("nunpy")


def add_once(self: Any, x: Any, key: Any, values: Any) -> Any:
    x[tuple(key)] += values
    return x


def add_with_masks(self: Any, x: Any, key: Any, values: Any) -> Any:
    positions = np.arange(x.size).reshape(x.shape)[tuple(key)].ravel()
    chosen = (positions[:, None] == np.arange(x.size)).astype(x.dtype)
    values = np.broadcast_to(values, np.shape(x[tuple(key)])).ravel()
    return x + (values @ chosen).reshape(x.shape)


def add_half(self: Any, x: Any, key: Any, values: Any) -> Any:
    for entry in key:
        if isinstance(entry, int) and not -4 <= entry < 4:
            x += 1
    return NumpyBackend.index_add(self, x, key, values)


def first_writer(self: Any, shape: Any, key: Any) -> Any:
    positions = np.arange(math.prod(shape)).reshape(shape)[tuple(key)].ravel()
    writer = np.full(math.prod(shape), -1)
    writer[positions[::-1]] = np.arange(positions.size)[::-1]
    return writer.reshape(shape)


def separated_in_place(self: Any, x: Any, key: Any) -> Any:
    return x[tuple(entry for entry in key if entry is not Ellipsis)]


BROKEN: dict[str, tuple[str, Any, str]] = {
    "counts a duplicate once": (
        "index_add",
        add_once,
        "index_add(float32 (4, 3, 5), key (int8 (5,)",
    ),
    "spreads nan": ("index_add", add_with_masks, "values with nan and inf"),
    "writes before it raises": ("index_add", add_half, "which raised: element (0, 0): expected 0"),
    "keeps the first writer": (
        "last_writer",
        first_writer,
        "last_writer((4, 3, 5), key (int8 (5,)",
    ),
    "ignores ellipsis": ("getitem", separated_in_place, "getitem(int64 (4, 3, 5), key (slice(None"),
    "loses small sigmoids": (
        "sigmoid",
        lambda self, x: np.tanh(x / 2) / 2 + np.asarray(0.5, x.dtype),
        "sigmoid(float64 (",
    ),
    "lets sigmoid overflow": (
        "sigmoid",
        lambda self, x: np.exp(x) / (np.exp(x) + 1),
        "got nan",
    ),
    "rounds erf": ("erf", lambda self, x: np.tanh(1.2 * x), "erf(float32 ("),
    "writes to its argument": (
        "exp",
        lambda self, x: np.exp(x, out=x),
        "exp(float32 (3, 4)): the argument float32 (3, 4) was written to",
    ),
    "widens": (
        "sum",
        lambda self, x, **options: np.sum(x, dtype=np.float64, **options),
        "sum(float32 (3, 4, 2), axis=0, keepdims=False): expected float32 (4, 2), got float64 (4",
    ),
    "shares memory": ("from_host", lambda self, x: x, "from_host(array): expected a copy"),
    "leaves the backend": ("tanh", lambda self, x: np.tanh(x).tolist(), "expected an array of the"),
    "lacks a function": ("unstack", lambda self, *x, **options: self.no_such, "function 'no_such'"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_kit_catches_a_backend_that(fault: str) -> None:
    name, wrong, message = BROKEN[fault]
    with pytest.raises(AssertionError) as caught:
        check_backend(made_up("broken", array_types=(np.ndarray,), **{name: wrong}))
    title, *failures = str(caught.value).splitlines()
    assert title.startswith(f"check_backend('broken'): {len(failures)} of ")
    assert message in str(caught.value)
    # Only what uses the wrong function fails: the rest of the report stays readable.
    assert all(name in line or name == "from_host" for line in failures), str(caught.value)


# Indexing against NumPy, in any mixture.

INDEX_SHAPES = [(), (1,), (2,), (3, 1), (3, 2), (1, 2)]  # any two of them broadcast


@st.composite
def shapes_and_keys(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    front = draw(st.integers(0, len(shape)))
    back = draw(st.integers(0, len(shape) - front)) if draw(st.booleans()) else None
    key: list[Any] = [draw(entries(n)) for n in shape[:front]]
    if back is not None:
        key += [..., *(draw(entries(n)) for n in shape[len(shape) - back :])]
    for _ in range(draw(st.integers(0, 2))):
        key.insert(draw(st.integers(0, len(key))), None)
    return shape, tuple(key)


def entries(n: int) -> st.SearchStrategy[Any]:
    """What may stand in a key for an axis of size n."""
    kinds = [st.integers(-n, n - 1), index_arrays(n)] if n else []
    return st.one_of(st.slices(n), *kinds)


@st.composite
def index_arrays(draw: st.DrawFn, n: int) -> np.ndarray[Any, Any]:
    shape = draw(st.sampled_from(INDEX_SHAPES))
    dtype = draw(st.sampled_from(["int8", "uint8", "int32", "int64"]))
    low = 0 if dtype.startswith("u") else -n
    size = math.prod(shape)
    values = draw(st.lists(st.integers(low, n - 1), min_size=size, max_size=size))
    return np.array(values, dtype=dtype).reshape(shape)


def on(backend: Any, key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(backend.from_host(e) if isinstance(e, np.ndarray) else e for e in key)


def same(backend: Any, array: Any, expected: Any) -> None:
    host = np.asarray(backend.to_host(backend.asarray(array)))
    np.testing.assert_array_equal(host, expected, strict=True)


@every_backend
@settings(max_examples=4 * settings.default.max_examples)
@given(shapes_and_keys(), st.sampled_from(["float32", "float64", "int64"]))
def test_indexing_is_numpys(backend: Any, case: Any, dtype: str) -> None:
    shape, key = case
    x = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    expected = np.asarray(x[key])
    same(backend, backend.getitem(backend.from_host(x), on(backend, key)), expected)

    values = np.arange(expected.size, dtype=dtype).reshape(expected.shape)
    total = x.copy()
    np.add.at(total, key, values)  # small integers: exact in any order
    added = backend.index_add(backend.from_host(x), on(backend, key), backend.from_host(values))
    same(backend, added, total)

    writer = np.full(math.prod(shape), -1)
    for i, element in enumerate(np.arange(x.size).reshape(shape)[key].flat if x.size else ()):
        writer[element] = i
    same(backend, backend.last_writer(shape, on(backend, key)), writer.reshape(shape))


@every_backend
@pytest.mark.parametrize(
    "key", [(np.array([0, 1]), np.array([0, 1, 2])), (0, 0, 0), (..., 0, ...), (4,), (-5, 0)]
)
def test_a_key_that_cannot_be(backend: Any, key: tuple[Any, ...]) -> None:
    x = backend.from_host(np.zeros((4, 3)))
    one = backend.from_host(np.ones(()))
    with pytest.raises(IndexError):
        backend.getitem(x, on(backend, key))
    with pytest.raises(IndexError):
        backend.index_add(x, on(backend, key), one)
    with pytest.raises(IndexError):
        backend.last_writer((4, 3), on(backend, key))
    same(backend, x, np.zeros((4, 3)))


@every_backend
def test_nothing_fits_in_an_empty_axis(backend: Any) -> None:
    x = backend.from_host(np.zeros((0, 3)))
    key = on(backend, (np.array([0]),))
    with pytest.raises(IndexError):
        backend.index_add(x, key, backend.from_host(np.ones((1, 3))))


@every_backend
@pytest.mark.parametrize("width", [1, 3, 50_000])  # the last is wider than a block of NumPy's
def test_many_rows_are_added_in_place(backend: Any, width: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(-5, 5, 20)
    x, values = rng.standard_normal((5, width)), rng.standard_normal((20, width))
    expected = x.copy()
    np.add.at(expected, rows, values)
    for order in "CF":
        array = backend.asarray(np.array(x, order=order) if backend.namespace is np else x.copy())
        key = on(backend, (rows,))
        added = backend.index_add(array, key, backend.from_host(values))
        np.testing.assert_allclose(backend.to_host(added), expected, atol=1e-12)
        if backend.namespace is np:
            assert added is array


def test_array_api_backend_stays_on_the_device_of_its_arguments() -> None:
    backend = backends.get("array_api_strict")
    device = array_api_strict.Device("device1")

    def there(array: Any) -> Any:
        return array_api_strict.asarray(array, device=device)

    x, rows = there(np.ones((4, 3))), there(np.array([0, 0]))
    for key in ((rows,), (slice(None), rows), (0, ...), (None, 1)):
        assert backend.getitem(x, key).device == device
        assert backend.index_add(there(np.ones((4, 3))), key, there(np.ones(()))).device == device
    assert backend.last_writer((4, 3), (rows,)).device == device
    assert backend.erf(x).device == backend.sigmoid(x).device == device


def test_array_api_backend_does_without_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, key: Any, value: Any) -> None:
        raise TypeError("arrays are immutable")

    backend = backends.get("array_api_strict")
    monkeypatch.setattr(backend.array_types[0], "__setitem__", refuse)
    check_backend(backend)


# The functions that the standard lacks.


@every_backend
def test_erf_to_four_units_in_the_last_place(backend: Any) -> None:
    small = 10.0 ** np.random.default_rng(0).uniform(-300, 0, 2000)
    x = np.concatenate([np.linspace(-7, 7, 14001), small, -small])
    expected = np.array([math.erf(v) for v in x])
    found = backend.to_host(backend.erf(backend.from_host(x)))
    assert np.max(np.abs(found - expected) / np.spacing(np.abs(expected))) <= 4
    assert np.all(np.diff(found[:14001]) >= 0)
    single = backend.to_host(backend.erf(backend.from_host(x[:14001].astype("float32"))))
    expected = np.array([math.erf(v) for v in x[:14001].astype("float32")])
    np.testing.assert_allclose(single, expected, rtol=1e-6)


@every_backend
@pytest.mark.parametrize(
    ("dtype", "low", "rtol"), [("float32", -87, 1e-6), ("float64", -708, 2e-15)]
)
def test_sigmoid_relative_to_its_size(backend: Any, dtype: str, low: int, rtol: float) -> None:
    x = np.linspace(low, 40, 5001).astype(dtype)
    exact = [math.exp(v) / (1 + math.exp(v)) for v in x.astype("float64")]
    found = backend.to_host(backend.sigmoid(backend.from_host(x)))
    np.testing.assert_allclose(found, exact, rtol=rtol)


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 5000])  # NumPy takes another way for many
def test_extremes_pass_without_a_warning(backend: Any, dtype: str, size: int) -> None:
    x = np.array([-np.inf, -1e30, 0, 1e30, np.inf, np.nan] * size, dtype)
    for function, values in (
        (backend.sigmoid, [0, 0, 0.5, 1, 1, np.nan]),
        (backend.erf, [-1, -1, 0, 1, 1, np.nan]),
    ):
        same(backend, function(backend.from_host(x)), np.array(values * size, dtype))


@every_backend
def test_functions_of_integers_name_the_cure(backend: Any) -> None:
    for function in (backend.sigmoid, backend.erf):
        with pytest.raises(TypeError, match=r"of .*int64: give it a floating dtype by astype"):
            function(backend.from_host(np.array([1, 2])))


def test_numpy_hands_out_views_that_refuse_writes() -> None:
    x = np.zeros(3)
    view = backends.get("numpy").readonly(x)
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    x[0] = 2
    assert view[0] == 2


# The doctor.


def test_doctor_from_the_shell() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tinygrad_rnn", "doctor"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    assert run.returncode == 0, run.stderr
    assert f"NumPy {np.__version__}" in run.stdout
    lines = {line.split()[0]: line.split() for line in run.stdout.splitlines() if line}
    assert lines["numpy"][1] == "yes"
    assert lines["cupy"][1] in ("yes", "no")
    assert "The default backend is numpy." in run.stdout


@pytest.mark.parametrize(("numpy_usable", "code"), [(True, 0), (False, 1)])
def test_doctor_gives_the_reason_and_fails_if_nothing_works(
    numpy_usable: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = {
        "numpy": backends.Status(numpy_usable, "NumPy"),
        "cupy": backends.Status(False, "broken; mend it"),
    }
    monkeypatch.setattr(backends, "available", lambda: found)
    assert main(["doctor"]) == code
    assert "cupy     no      broken; mend it\n" in capsys.readouterr().out


def diagnosis(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["doctor"]) == 0
    words = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    return {name: text for name, text in words}


def test_doctor_says_what_makes_loops_fast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llvmlite")
    for name in ("JIT", "NUM_THREADS"):
        monkeypatch.delenv(f"TINYGRAD_RNN_{name}", raising=False)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    found = diagnosis(capsys)
    assert re.match(r"on: \d+ float32 at once \(.+\), for .+, by llvmlite \d", found["kernels"])
    assert found["threads"].startswith("1 for kernels, of ")
    assert "OPENBLAS_NUM_THREADS=1" in found["threads"]
    assert np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"] in found["BLAS"]
    monkeypatch.setenv("TINYGRAD_RNN_NUM_THREADS", "2")
    assert diagnosis(capsys)["threads"].endswith("TINYGRAD_RNN_NUM_THREADS=2")


def test_doctor_says_why_loops_are_slow_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TINYGRAD_RNN_JIT", raising=False)
    for module in ("llvmlite", "llvmlite.binding", "threadpoolctl"):
        monkeypatch.setitem(sys.modules, module, None)
    native._machine.cache_clear()
    found = diagnosis(capsys)
    assert found["kernels"].startswith("off, planned loops run on NumPy, slower: ")
    assert found["kernels"].endswith(": pip install 'tinygrad_rnn[jit]'")
    assert found["BLAS"].endswith("pip install threadpoolctl")
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "Off")
    assert "TINYGRAD_RNN_JIT" in diagnosis(capsys)["kernels"]


def test_doctor_examines_settings_that_mean_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TINYGRAD_RNN_JIT", "maybe")
    monkeypatch.setenv("TINYGRAD_RNN_NUM_THREADS", "²")
    found = diagnosis(capsys)
    assert "TINYGRAD_RNN_JIT='maybe'" in found["kernels"]
    assert "TINYGRAD_RNN_NUM_THREADS='²'" in found["threads"]


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["--help"], "doctor"), (["doctor", "--help"], "Exits with 0")]
)
def test_doctor_help(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert expected in capsys.readouterr().out


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_where_with_a_zero_is_numpys_to_the_bit(dtype: str, zero: float) -> None:
    """Large enough for bits to be masked; nan, infinities and -0 among them, and other layouts."""
    rng = np.random.default_rng(0)
    x = rng.choice((np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5), (60, 40)).astype(dtype)
    where = backends.get("numpy").where
    for condition, values in (
        (rng.random((60, 40)) < 0.5, x),
        (rng.random((40, 60)).T < 0.5, x),
        (rng.random((60, 40)) < 0.5, np.asfortranarray(x)),
        (rng.random((60, 40)) < 0.5, x[:1]),
        (rng.random((60, 1)) < 0.5, x),
        (rng.random((3, 60, 40)) < 0.5, np.broadcast_to(x[:, :1], (60, 40))),
    ):
        for pair in ((values, zero), (zero, values)):
            found, expected = where(condition, *pair), np.where(condition, *pair)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
    with pytest.raises(ValueError, match="broadcast"):
        where(rng.random((60, 40)) < 0.5, x.T.copy(), 0)
