"""Which backends there are, which is asked for, and which an array belongs to.

An operation finds its backend from its arrays, so only *creation* needs a default: process-wide
(``set_default``), or for the code inside ``with use_backend(name)``, which is a context variable
and therefore private to a thread or an asyncio task. Nothing is imported until a name is asked for,
and whatever fails then leaves nothing behind, so that asking again tries again.

This package is a leaf: it imports NumPy, CuPy on request, and nothing of ``tinygrad_rnn``, through
which users should go (``tinygrad_rnn.get_backend("numpy")``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import entry_points

from . import locks
from .array_api_backend import ArrayAPIBackend
from .cupy_backend import CupyBackend
from .numpy_backend import NumpyBackend
from .protocol import Array, ArrayNamespace, Backend, BackendUnavailable, Key, Status
from .scope import Scope

__all__ = [
    "ENTRY_POINTS",
    "Array",
    "ArrayAPIBackend",
    "ArrayNamespace",
    "Backend",
    "BackendUnavailable",
    "CupyBackend",
    "Key",
    "NumpyBackend",
    "Scope",
    "Status",
    "available",
    "default",
    "get",
    "of",
    "register",
    "set_default",
    "status",
    "use_backend",
]

ENTRY_POINTS = "tinygrad_rnn.backends"

_factories: dict[str, Callable[[], Backend]] = {"numpy": NumpyBackend, "cupy": CupyBackend}
_loaded: dict[str, Backend] = {}
_of_type: dict[type, Backend] = {}
_lock = locks.lock()
_default_name = "numpy"
_chosen: ContextVar[Backend | None] = ContextVar("tinygrad_rnn_backend", default=None)


def register(name: str, factory: Callable[[], Backend]) -> None:
    """Make ``factory()`` the backend called ``name``; it runs when the name is first asked for.

    A library that speaks the Array API needs no class of its own:
    ``register("strict", lambda: ArrayAPIBackend(array_api_strict, "strict"))``.

    Raises ValueError if the name is taken: a backend is never replaced under running code.
    """
    with _lock:
        if name in _factories:
            raise ValueError(f"backend {name!r} is registered already; choose another name")
        _factories[name] = factory


def get(name: str) -> Backend:
    """The backend called ``name``, loaded on first use.

    Raises ValueError for a name nobody registered, BackendUnavailable if it cannot be used here.
    """
    backend = _loaded.get(name)
    return backend if backend is not None else _load(name)


def _load(name: str) -> Backend:
    with _lock:
        if name not in _loaded:
            backend = _factory(name)()
            _check(name, backend)
            _of_type.update(dict.fromkeys(backend.array_types, backend))
            _loaded[name] = backend  # last, because get looks here without the lock
        return _loaded[name]


def _factory(name: str) -> Callable[[], Backend]:
    if name in _factories:
        return _factories[name]
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        try:
            factory: Callable[[], Backend] = entry.load()
        except (ImportError, AttributeError) as error:
            reason = f"{entry.value} cannot be loaded: {type(error).__name__}: {error}"
            raise BackendUnavailable(f"backend {name!r} is declared, but {reason}") from error
        return factory
    known = ", ".join(_names())
    raise ValueError(f"there is no backend {name!r}, only {known}; add one by register_backend")


def _check(name: str, backend: Backend) -> None:
    """Refuse what would make the backend of an array, or of an error message, ambiguous."""
    if backend.name != name:
        raise ValueError(
            f"backend {name!r} calls itself {backend.name!r}; give both the same name, "
            f"as in ArrayAPIBackend(namespace, {name!r})"
        )
    for array_type in backend.array_types:
        other = _of_type.get(array_type)
        if other is not None:
            raise ValueError(
                f"backend {name!r} claims arrays of type {array_type.__module__}."
                f"{array_type.__qualname__}, which belong to backend {other.name!r}"
            )


def _names() -> list[str]:
    plugins = sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))
    return [*_factories, *(name for name in plugins if name not in _factories)]


def status(name: str) -> Status:
    """Whether ``name`` is usable, and the version found or the reason why not."""
    try:
        backend = get(name)
        # Looked up on the type, where the names of the array namespace are not.
        has_probe = hasattr(type(backend), "probe")
        found: Status = backend.probe() if has_probe else Status(True, type(backend).__name__)
        return found
    except BackendUnavailable as error:
        return Status(False, str(error))
    except Exception as error:  # a plugin that fails to load must not take the doctor down with it
        return Status(False, f"failed to load: {type(error).__name__}: {error}")


def available() -> dict[str, Status]:
    """Every known backend with its status, built-in ones first."""
    return {name: status(name) for name in _names()}


def of(array: Array) -> Backend | None:
    """The backend of an array, by its exact type; None if it belongs to none that is known."""
    backend = _of_type.get(type(array))
    if backend is None and type(array).__module__.partition(".")[0] == "cupy":
        get("cupy")  # somebody made the array, so CuPy works
        return _of_type.get(type(array))
    return backend


def default() -> Backend:
    """The backend that creation functions use here: ``use_backend``'s, or the process's."""
    return _chosen.get() or get(_default_name)


def set_default(name: str) -> None:
    """Set the backend of creation functions for the whole process; raises as ``get`` does."""
    global _default_name
    get(name)
    _default_name = name


def use_backend(name: str) -> Scope[Backend]:
    """Creation functions in this block make arrays of backend ``name``. Also a decorator.

    Only in this thread and asyncio task, and in tasks started from it. Raises as ``get`` does, when
    the block is entered.
    """
    return Scope(_chosen, lambda _: get(name))


get("numpy")
