"""The Tensor: a handle on an array and on its place in the graph.

Its operators are attached by the modules of ``primitives/``, each beside its rule; ``apply.py`` is
how they get into the graph, ``backward`` and ``pull_back`` here are how a gradient gets out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend, Scope, locks

from . import anomaly, graph, names
from .atomic import Change, Journal, note_slot
from .dtypes import canonical_dtype, default_dtype, native_dtype
from .entering import native, operation_called, real, refuse_masked, type_name
from .graph import Array, Node, Rows

namespace = sys.modules[__package__]
"""The package itself: the array namespace in which rules compute on Tensors."""

_backend_of_type = backends._of_type
_grad_lock = locks.lock()


class Mode:
    """What ``apply`` does beside computing; a context variable, so private to a thread or task.

    It is never changed, but ``but`` makes another of it.
    """

    __slots__ = ("anomaly", "literal", "recorder", "recording", "watch")

    def __init__(
        self,
        recording: bool = True,
        anomaly: bool = False,
        watch: Any = None,
        literal: bool = False,
        recorder: Any = None,
    ) -> None:
        self.recording = recording
        self.anomaly = anomaly
        self.watch = watch  # told of operations, draws, and values that are read on the host
        self.literal = literal  # nothing is planned
        self.recorder = recorder  # of a whole step, which carries every operation out

    def but(self, **changes: Any) -> Mode:
        """The same, but for what is given."""
        return Mode(**{name: getattr(self, name) for name in self.__slots__} | changes)


MODE: ContextVar[Mode] = ContextVar("tinygrad_rnn_mode", default=Mode())


def no_grad() -> Scope[Mode]:
    """Operations in this block leave no graph behind. Also a decorator: ``@no_grad()``.

    Of a generator function, what it does itself; of an ``async`` one likewise.
    """
    return Scope(MODE, lambda mode: mode.but(recording=False))


def enable_grad() -> Scope[Mode]:
    """Record again, inside ``no_grad``. Also a decorator."""
    return Scope(MODE, lambda mode: mode.but(recording=True))


def is_grad_enabled() -> bool:
    """Whether operations are recorded here."""
    return MODE.get().recording


def is_anomaly_detected() -> bool:
    """Whether ``detect_anomaly`` looks at what happens here."""
    return MODE.get().anomaly


def literal() -> Scope[Mode]:
    """Operations in this block run as they are written. Also a decorator: ``@literal()``.

    Nothing is planned: no loop of ``unroll``, no function of ``planned``, no loss and no layer of
    the library. Results are equal to rounding: it is what plans are compared with.
    """
    return Scope(MODE, lambda mode: mode.but(literal=True))


def unrecorded() -> Scope[Mode]:
    """Operations in this block are carried out now, also where a step is planned as a whole."""
    return Scope(MODE, lambda mode: mode.but(recorder=None))


def detect_anomaly() -> Scope[Mode]:
    """Name the first operation that makes a NaN or an inf: line, time step, index and rows.

    Where one came in with the data or a parameter, that is named instead.

    Wrap the forward and the backward pass; either raises ``FloatingPointError``. A saved array that
    was written to in between raises ``RuntimeError``: on NumPy that is hard to do (``.data`` is
    read-only), but arrays given to ``asarray`` are shared, and CuPy arrays have no read-only flag.
    An infinity that is meant, as in ``where(mask, x, -inf)``, is reported like any other. Slow:
    every value is copied to the host and looked at.
    """
    return Scope(MODE, lambda mode: mode.but(anomaly=True))


class Tensor:
    """An array that can be differentiated.

    Made by ``tensor(data)`` (which copies), ``asarray(array)`` (which shares) and the creation
    functions; the constructor shares ``data``, which must be an array of a backend.

    ``shape``, ``dtype`` (a NumPy dtype on every backend), ``ndim``, ``size``, ``backend``,
    ``device`` describe it; ``grad`` is a Tensor or None, filled by ``backward`` for leaves that
    require grad.
    """

    __slots__ = ("__weakref__", "_array", "_node")

    __array_ufunc__ = None  # ndarray * tensor asks us; np.exp(tensor) raises
    _array: Any
    _node: Node | None

    if TYPE_CHECKING:  # attached by the modules of primitives/, each beside its rule
        at: Any
        T: Tensor
        mT: Tensor

        def __add__(self, other: Any, /) -> Tensor: ...
        def __radd__(self, other: Any, /) -> Tensor: ...
        def __sub__(self, other: Any, /) -> Tensor: ...
        def __rsub__(self, other: Any, /) -> Tensor: ...
        def __mul__(self, other: Any, /) -> Tensor: ...
        def __rmul__(self, other: Any, /) -> Tensor: ...
        def __truediv__(self, other: Any, /) -> Tensor: ...
        def __rtruediv__(self, other: Any, /) -> Tensor: ...
        def __pow__(self, other: Any, /) -> Tensor: ...
        def __rpow__(self, other: Any, /) -> Tensor: ...
        def __floordiv__(self, other: Any, /) -> Tensor: ...
        def __rfloordiv__(self, other: Any, /) -> Tensor: ...
        def __mod__(self, other: Any, /) -> Tensor: ...
        def __rmod__(self, other: Any, /) -> Tensor: ...
        def __matmul__(self, other: Any, /) -> Tensor: ...
        def __rmatmul__(self, other: Any, /) -> Tensor: ...
        def __and__(self, other: Any, /) -> Tensor: ...
        def __rand__(self, other: Any, /) -> Tensor: ...
        def __or__(self, other: Any, /) -> Tensor: ...
        def __ror__(self, other: Any, /) -> Tensor: ...
        def __xor__(self, other: Any, /) -> Tensor: ...
        def __rxor__(self, other: Any, /) -> Tensor: ...
        def __lshift__(self, other: Any, /) -> Tensor: ...
        def __rlshift__(self, other: Any, /) -> Tensor: ...
        def __rshift__(self, other: Any, /) -> Tensor: ...
        def __rrshift__(self, other: Any, /) -> Tensor: ...
        def __lt__(self, other: Any, /) -> Tensor: ...
        def __le__(self, other: Any, /) -> Tensor: ...
        def __gt__(self, other: Any, /) -> Tensor: ...
        def __ge__(self, other: Any, /) -> Tensor: ...
        def __eq__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: Any, /) -> Tensor: ...  # type: ignore[override]
        def __neg__(self) -> Tensor: ...
        def __pos__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __invert__(self) -> Tensor: ...
        def __getitem__(self, key: Any, /) -> Tensor: ...
        def astype(
            self, dtype: Any, /, *, copy: bool | None = None, device: Any = None
        ) -> Tensor: ...
        def to(self, backend: str, /) -> Tensor: ...
        def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def squeeze(self, /, axis: Any = None) -> Tensor: ...
        def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def any(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def all(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def argmax(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def argmin(self, axis: Any = None, keepdims: bool = False) -> Tensor: ...
        def var(
            self, axis: Any = None, keepdims: bool = False, *, correction: float = 0.0
        ) -> Tensor: ...
        def std(
            self, axis: Any = None, keepdims: bool = False, *, correction: float = 0.0
        ) -> Tensor: ...

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        array = data._array if isinstance(data, Tensor) else data
        if backends.of(array) is None:
            refuse_masked("Tensor", data)
            raise TypeError(
                f"Tensor: {type_name(data)} is not an array of a known backend; "
                "tinygrad_rnn.tensor(data) takes numbers, lists and arrays"
            )
        self._array = native(array)
        self._node = None
        if requires_grad:
            self.requires_grad = True

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            # Reached only where there is no such attribute; many ask for those with underscores.
            if name.startswith("_"):
                raise AttributeError(f"a Tensor has no attribute {name!r}")
            raise AttributeError(names.of_tensor(name, vars(namespace)))

    # What it is.

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self._array.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return canonical_dtype(self._array.dtype)

    @property
    def ndim(self) -> int:
        return len(self._array.shape)

    @property
    def size(self) -> int:
        size = 1
        for n in self._array.shape:
            size *= n
        return size

    @property
    def backend(self) -> str:
        """The name of the backend that the array belongs to."""
        return backend_of(self).name

    @property
    def device(self) -> Any:
        """The device of the array, as its library calls it."""
        return getattr(raw(self, "device"), "device", "cpu")

    # Its values.

    @property
    def data(self) -> Array:
        """The array of the backend. On NumPy it is read-only, because nodes share it.

        Assigning rebinds a leaf to another array of the same shape, dtype and backend, and changes
        no gradient of what was computed before: ``p.data = p.data - 0.1 * p.grad.data``.
        """
        array = raw(self, "data")
        return _backend_of_type[type(array)].readonly(array)

    @data.setter
    def data(self, value: Any) -> None:
        if not self.is_leaf:
            raise RuntimeError("data: only a leaf can be rebound; this one was computed")
        array = value._array if isinstance(value, Tensor) else value
        found = backends.of(array)
        if found is None and isinstance(value, (float, int, np.generic)) and self.shape == ():
            found = backend_of(self)
            array = found.from_host(np.asarray(value, dtype=self.dtype))
        if found is None or found is not backend_of(self):
            refuse_masked("data", value)
            kind = type_name(value) if found is None else f"an array of {found.name!r}"
            raise TypeError(
                f"data: a leaf of backend {self.backend!r} cannot be rebound to {kind}; "
                f"make one with tinygrad_rnn.asarray(value) or .to({self.backend!r}) first"
            )
        self._rebind(native(array), found)

    def _rebind(self, array: Array, found: Backend) -> None:
        if tuple(array.shape) != self.shape or array.dtype != self._array.dtype:
            raise ValueError(
                f"data: {self.dtype} {self.shape} cannot be rebound to "
                f"{canonical_dtype(array.dtype)} {tuple(array.shape)}; reshape or astype it first"
            )
        note_slot(_ARRAY, self)
        self._array = array
        if self._node is not None:
            self._node.version += 1

    def numpy(self) -> np.ndarray[Any, Any]:
        """The values as a NumPy array, copied from the device if need be; read-only if shared."""
        array = raw(self, "numpy()")
        host = _backend_of_type[type(array)].to_host(array).view()
        host.flags.writeable = False
        return host

    def item(self) -> Any:
        """The one value of a Tensor with a single element, as a Python number."""
        if self.size != 1:
            raise ValueError(
                f"item: a tensor of shape {self.shape} has {self.size} values, not one"
            )
        return self.numpy().item()

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers."""
        return self.numpy().tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise TypeError(f"a {self.dtype} tensor of shape {self.shape} cannot be an index")
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"bool: a tensor of shape {self.shape} has no one truth; use all() or any()"
            )
        return bool(self.item())

    def __format__(self, specification: str) -> str:
        return format(self.item() if specification else str(self), specification)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if self.backend != "numpy":
            raise TypeError(
                f"np.asarray: this tensor is on {self.backend!r}; copy it to the host by .numpy()"
            )
        return np.asarray(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """What ``from_dlpack`` of another library asks for: the memory itself, to be read only.

        A library that cannot be told so gets a copy, and so does any of memory that runs backwards,
        as that of ``flip``, at which PyTorch crashes; with ``copy=False`` it is a BufferError.
        PyTorch can be told, but does not keep to it: what is written to its tensor is written to
        this one, even if a graph has saved it. ``copy=True`` is safe.
        """
        if self.requires_grad:
            raise BufferError("__dlpack__: a tensor that requires grad; hand out x.detach()")
        array = raw(self, "from_dlpack")
        backend = _backend_of_type[type(array)]
        shared = backend.readonly(array)
        backwards = min(getattr(array, "strides", ()), default=0) < 0
        if backwards and copy is False:
            raise BufferError("__dlpack__: memory that runs backwards is shared by a copy only")
        # Before its version 1.0, DLPack knew nothing of read-only memory.
        unmarked = shared is not array and (max_version or (0, 0)) < (1, 0)
        if (backwards or unmarked) and copy is None:
            shared = backend.asarray(array, copy=True)
        asked = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        return shared.__dlpack__(**{name: x for name, x in asked.items() if x is not None})

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the memory is, as DLPack numbers devices."""
        place: tuple[int, int] = raw(self, "from_dlpack").__dlpack_device__()
        return place

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return namespace

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            raise TypeError("a 0-d tensor cannot be iterated over")
        return iter(namespace.unstack(self))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        if backends.of(self._array) is None:
            return f"tensor({self._array!r})"
        body = np.array2string(self.numpy(), separator=", ", prefix="tensor(", threshold=200)
        notes = ""
        if self.dtype not in (np.float32, np.int64, np.bool_):
            notes += f", dtype={self.dtype}"
        if self.backend != "numpy":
            notes += f", backend={self.backend!r}"
        if self._node is not None:
            notes += ", requires_grad=True" if self.is_leaf else f", from={origin(self._node)}"
        return f"tensor({body}{notes})"

    # Its place in the graph.

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation computed it."""
        return self._node is None or self._node.is_leaf

    @property
    def requires_grad(self) -> bool:
        """Whether operations on it are recorded. Can be set on a leaf of floating dtype."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value == self.requires_grad:
            return
        if not self.is_leaf:
            raise RuntimeError("requires_grad: this tensor was computed; use detach()")
        if value and self.dtype.kind != "f":
            raise TypeError(
                f"requires_grad: a {self.dtype} tensor has no derivative; "
                "make it with dtype='float32' or use astype('float32')"
            )
        self._node = Node() if value else None

    @property
    def grad(self) -> Tensor | None:
        """What ``backward`` has accumulated here, or None."""
        node = self._node
        if node is None:
            return None
        if (recorder := MODE.get().recorder) is not None:
            recorder.read_grad(node)
        found: Tensor | None = node.grad
        return found

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"grad: a Tensor or None, not {type_name(value)}")
        if value is not None:
            _check_like("grad", value, self)
        if self._node is None and value is not None:
            raise RuntimeError("grad: this tensor does not require grad")
        if self._node is not None:
            note_slot(_GRAD, self._node)
            self._node.grad = value

    def detach(self) -> Tensor:
        """The same array without a graph: no gradient flows through it."""
        mode = MODE.get()
        if mode.watch is not None:
            mode.watch.detach(self)
        array = self._array
        if type(array) not in _backend_of_type:
            return wrap(array.detach(), None)
        if mode.recorder is not None:
            array = mode.recorder.lifted(self).detach()
        return wrap(array, None)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook(cotangent)`` when a backward pass reaches this tensor.

        A Tensor that it returns, of the same shape, takes the cotangent's place. Returns a function
        that removes the hook.
        """
        node = self._node
        if node is None:
            raise RuntimeError("register_hook: this tensor does not require grad")
        if not callable(hook):
            raise TypeError(f"register_hook: a function, not {type(hook).__name__}")
        if (recorder := MODE.get().recorder) is not None:
            recorder.refuse("a hook is registered inside")

        def run(g: Any) -> Any:
            given = g if isinstance(g, Tensor) else _TensorMode.wrap(g, None)
            changed = hook(given)
            if changed is None:
                return g
            if not isinstance(changed, Tensor):
                raise TypeError(f"hook: return None or a Tensor, not {type_name(changed)}")
            _check_like("hook", changed, given)
            return changed if isinstance(g, Tensor) else changed._array

        node.hooks = [*(node.hooks or ()), run]

        def remove() -> None:
            if run in (node.hooks or ()):
                node.hooks = [other for other in node.hooks or () if other is not run] or None

        return remove

    def backward(
        self,
        cotangent: Any = None,
        *,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ) -> None:
        """Add the gradient of this tensor to ``.grad`` of every leaf that it was computed from.

        Args:
            cotangent: of this tensor's shape; may be left out for a scalar, where it is one.
            create_graph: make the gradients differentiable. The graph then holds its own leaves
                through ``.grad``, a cycle; ``grad`` returns gradients and makes none.
            retain_graph: keep the graph for another pass; as ``create_graph`` if left out.

        Raises:
            RuntimeError: if nothing that requires grad led here, or the graph was released.
            ValueError: for a cotangent of another shape, or none for a non-scalar.
        """
        if backends.of(self._array) is None and MODE.get().recorder is None:
            raise TypeError(
                "backward: inside vmap the gradient of one example has no place in .grad; "
                "use tinygrad_rnn.grad(output, inputs), which returns it"
            )
        found = pull_back(
            [self], [cotangent], None, create_graph=create_graph, retain_graph=retain_graph
        )
        with _grad_lock:
            for node, g in found.items():
                if (recorder := MODE.get().recorder) is not None:
                    recorder.read_grad(node)
                note_slot(_GRAD, node)
                while True:
                    before = node.grad
                    total = g if before is None else before + g
                    if node.grad is before:  # no signal handler has added to it meanwhile
                        node.grad = total
                        break

    # What it refuses.

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise TypeError(
            "tensors are not written in place, since the graph shares their arrays: "
            "x = x.at[i].set(v), or x.at[i].add(v)"
        )

    def __reduce__(self) -> Any:
        # Only the value, and of a leaf whether it requires grad: never the graph.
        requires_grad = self.requires_grad and self.is_leaf
        return _rebuild, (type(self), np.array(self.numpy()), self.backend, requires_grad)

    def __copy__(self) -> Tensor:
        copied = type(self).__new__(type(self))
        copied._array, copied._node = self._array, self._node
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        function, arguments = self.__reduce__()
        copied: Tensor = function(*arguments)
        memo[id(self)] = copied
        return copied


_ARRAY, _GRAD = vars(Tensor)["_array"], vars(Node)["grad"]
_set_array, _set_grad = _ARRAY.__set__, _GRAD.__set__
_set_version = vars(Node)["version"].__set__


def rebinding(x: Tensor, array: Array) -> list[Change]:
    """What rebinds a leaf to an array of its shape, dtype and backend, which is not checked."""
    node = x._node
    if node is None:
        return [(_set_array, x, array)]
    return [(_set_array, x, array), (_set_version, node, node.version + 1)]


def regrading(x: Tensor, grad: Tensor | None) -> Change:
    """What gives a leaf that requires grad another gradient, which is not checked."""
    return _set_grad, x._node, grad


def regrade(leaf: Node, grad: Tensor | None) -> Change:
    """The same of its node."""
    return _set_grad, leaf, grad


def is_regraded(journal: Journal, leaf: Node) -> bool:
    """Whether the gradient of a leaf was set while a journal was kept."""
    return (_GRAD, id(leaf)) in journal.slots


def regraded(journal: Journal) -> list[Node] | None:
    """The leaves whose gradients were set while a journal was kept; None if more was."""
    found = [node for (slot, _), (node, _) in journal.slots.items() if slot is _GRAD]
    return found if len(found) == len(journal.slots) else None


def _rebuild(kind: type[Tensor], host: Array, backend: str, requires_grad: bool) -> Tensor:
    new = kind.__new__(kind)
    new._array = backends.get(backend).from_host(host)
    new._node = Node() if requires_grad else None
    return new


def _check_like(operation: str, given: Tensor, expected: Tensor) -> None:
    """Refuse a Tensor that cannot stand for a gradient of ``expected``."""
    if given.shape != expected.shape:
        raise ValueError(f"{operation}: a Tensor of shape {expected.shape}, not {given.shape}")
    if given.dtype != expected.dtype:
        raise TypeError(
            f"{operation}: a Tensor of {expected.dtype}, not {given.dtype}; "
            f"use astype('{expected.dtype}')"
        )
    if backend_of(given) is not backend_of(expected):
        raise TypeError(
            f"{operation}: a Tensor on {expected.backend!r}, not {given.backend!r}; "
            f"use to({expected.backend!r})"
        )


_new = Tensor.__new__


def wrap(array: Any, node: Node | None) -> Tensor:
    """A Tensor on an array of a backend, without any check."""
    tensor = _new(Tensor)
    tensor._array = array
    tensor._node = node
    return tensor


def as_tensor(x: Any, *, share: bool = False, caller_named: bool = False) -> Tensor:
    """``x`` as a Tensor: arrays keep their dtype, Python floats get the default.

    An array is copied unless it is to be shared: a node may save it, and you may write to it.
    ``caller_named`` is for a caller that puts the name of an operation before the error itself.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.generic):  # first, because a np.float64 is a float, too
        return wrap(backends.default().from_host(real(np.asarray(x))), None)
    if isinstance(x, (bool, int, float)):
        return wrap(backends.default().from_host(_host_scalar(x)), None)
    if isinstance(x, np.memmap):
        x = np.asarray(x)
    found = backends.of(x)
    if found is not None:
        entered = native(real(x))
        return wrap(x if entered is x and share else found.asarray(entered, copy=True), None)
    refuse_masked("expected a Tensor", x)
    cure = "tinygrad_rnn.tensor(data) makes a Tensor from lists"
    if hasattr(x, "__dlpack__"):
        cure = "tinygrad_rnn.from_dlpack(x) makes a Tensor of what another library holds"
    name = "" if caller_named else operation_called()
    raise TypeError(f"{name}expected a Tensor, an array or a number, not {type_name(x)}; {cure}")


def on_host(operation: str, data: Any) -> np.ndarray[Any, Any]:
    """A Tensor, an array of any library or a list as a NumPy array in native byte order."""
    if isinstance(data, Tensor):
        return data.numpy()
    refuse_masked(operation, data)
    found = backends.of(data)
    host: np.ndarray[Any, Any] = np.asarray(data) if found is None else found.to_host(data)
    return host if host.dtype.isnative else native(host)


def seen(x: Tensor) -> np.ndarray[Any, Any] | None:
    """The values of x for a check, where to look at them costs no wait for a device; else None.

    Traced and batched Tensors have none, so a check of values is a help, and nothing to build on.
    """
    return x._array if type(x._array) is np.ndarray else None


def _host_scalar(x: bool | int | float) -> np.ndarray[Any, Any]:
    return np.asarray(x, dtype=default_dtype() if isinstance(x, float) else None)


def backend_of(x: Tensor) -> Backend:
    """The backend of a Tensor's array; inside ``vmap``, of the array that stands behind it."""
    array = x._array
    found = _backend_of_type.get(type(array)) or backends.of(array)
    return found if found is not None else array.backend


def raw(x: Tensor, asked: str) -> Array:
    """The array of a Tensor that must have one; rows are made dense."""
    array = x._array
    mode = MODE.get()
    if type(array) is Rows:
        array = array.dense()
    elif backends.of(array) is None:
        if mode.recorder is not None:
            mode.recorder.ask(asked)
        raise TypeError(f"{asked}: {array.why_no_value}")
    if mode.watch is not None and asked != "device":
        mode.watch.read(x, asked)
    if mode.recorder is not None:
        mode.recorder.read(x)
    return array


class _TensorMode:
    """Rules computing with Tensors; see ``graph.TensorMode``."""

    namespace = namespace
    dtype = staticmethod(canonical_dtype)

    @staticmethod
    def raw(tensor: Tensor) -> Array | None:
        return tensor._array if type(tensor._array) in _backend_of_type else None

    @staticmethod
    def wrap(array: Any, node: Node | None) -> Tensor:
        return wrap(array, node) if type(array) in _backend_of_type else _wrap_other(array, node)

    @staticmethod
    def zeros(like: Any, shape: tuple[int, ...], dtype: Any) -> Tensor:
        if isinstance(like, list):
            like = next(part for part in like if part is not None)
        backend = backend_of(like)
        return wrap(backend.zeros(shape, dtype=native_dtype(backend, dtype)), None)


def _wrap_other(array: Any, node: Node | None) -> Tensor:
    """A Tensor on something that interprets primitives, or on a NumPy scalar of a reduction."""
    return wrap(np.asarray(array) if isinstance(array, np.generic) else array, node)


def pull_back(
    outputs: Sequence[Any],
    given: Sequence[Any],
    targets: Sequence[Node] | None,
    *,
    create_graph: bool = False,
    retain_graph: bool | None = None,
    boundary: Collection[Node] = (),
) -> dict[Node, Any]:
    """``graph.cotangents`` of Tensors, with everything checked that a user can get wrong."""
    seeds: list[tuple[Node, Tensor]] = []
    for output, cotangent in zip(outputs, given, strict=True):
        if not isinstance(output, Tensor):
            raise TypeError(f"backward: expected a Tensor, not {type_name(output)}")
        seed = _seed(output, cotangent)
        if output._node is not None:
            seeds.append((output._node, seed if create_graph else wrap(seed._array, None)))
    if not seeds:
        raise RuntimeError(
            "backward: no input that requires grad led to this tensor. Create parameters with "
            "requires_grad=True, and look for detach(), no_grad() or an integer dtype on the way"
        )
    mode = MODE.get()
    watch = anomaly.AnomalyWatch() if mode.anomaly else None
    walk = _as_is if mode.recorder is None else mode.recorder.walk(create_graph or retain_graph)
    with enable_grad() if create_graph else _as_is, watch or _as_is, walk:
        return graph.cotangents(
            seeds,
            targets,
            tensors=_TensorMode,
            create_graph=create_graph,
            retain_graph=create_graph if retain_graph is None else retain_graph,
            boundary=boundary,
            watch=watch,
        )


_as_is = nullcontext()


def _seed(output: Tensor, cotangent: Any) -> Tensor:
    """The cotangent of an output, checked; one for a scalar."""
    if cotangent is None:
        if output.size != 1:
            raise ValueError(
                f"backward: a tensor of shape {output.shape} needs a cotangent of that shape; "
                "or reduce it to a scalar, for example by .sum()"
            )
        backend = backend_of(output)
        return wrap(backend.ones(output.shape, dtype=native_dtype(backend, output.dtype)), None)
    seed = as_tensor(cotangent)
    if seed.shape != output.shape:
        raise ValueError(
            f"backward: a cotangent of shape {seed.shape} for a tensor of shape {output.shape}"
        )
    if backend_of(seed) is not backend_of(output):
        raise TypeError(
            f"backward: a cotangent on {seed.backend!r} for a tensor on {output.backend!r}; "
            f"use .to({output.backend!r})"
        )
    return seed if seed.dtype == output.dtype else namespace.astype(seed, output.dtype)


def origin(node: Node) -> str:
    """The name of the operation that a node stands for."""
    if node.index is not None:
        node = node.parents[0] if node.parents else node
    return node.primitive.name if node.primitive is not None else "released graph"
