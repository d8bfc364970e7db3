"""Creation: Tensors from nothing, from Python data and from arrays.

``dtype`` defaults to float32 (``set_default_dtype``), the backend to the chosen one
(``use_backend``), whose device ``device`` may name, but not change. ``tensor`` copies, ``asarray``
shares the memory of an array that you might write to later, under the graph's feet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import tinygrad_rnn_backends as backends
from tinygrad_rnn_backends import Backend

from ..apply import show
from ..dtypes import canonical_dtype, default_dtype, native_dtype
from ..entering import native, real, refuse_masked, type_name
from ..tensor import MODE, Tensor, as_tensor, backend_of, unrecorded, wrap
from .elementwise import TensorLike, astype, copied, where
from .movement import expand_dims, reshape, to


def tensor(
    data: Any, dtype: Any = None, *, requires_grad: bool = False, backend: str | None = None
) -> Tensor:
    """A new leaf holding a copy of ``data``: a number, nested lists, an array or a Tensor.

    Arrays keep their dtype, Python floats get the default dtype, ints int64. What comes from the
    host, NumPy arrays as well as lists, goes to the chosen backend (``use_backend``); other arrays
    and Tensors stay where they are.
    """
    if MODE.get().recorder is not None:
        if isinstance(data, Tensor):
            made = copied(_placed(data.detach(), dtype, backend))
            made.requires_grad = requires_grad
            return made
        with unrecorded():
            return tensor(data, dtype, requires_grad=requires_grad, backend=backend)
    if backend is None and isinstance(data, (np.ndarray, np.generic)):
        backend = backends.default().name
    x = _from_data(data, dtype, backend)
    own = wrap(backend_of(x).asarray(x.detach()._array, copy=True), None)
    made = _placed(own, dtype, backend).detach()
    made.requires_grad = requires_grad
    return made


def asarray(
    data: Any,
    dtype: Any = None,
    *,
    copy: bool | None = None,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """``data`` as a Tensor, **sharing** the memory of an array where it can.

    Writing to such an array afterwards changes what the graph has saved; ``detect_anomaly``
    notices, nothing else does. ``tensor`` copies and is the safe choice, as is ``copy=True``;
    with ``copy=False`` what cannot be shared is a ValueError.
    """
    if MODE.get().recorder is not None and not isinstance(data, Tensor):
        with unrecorded():  # a copy, since it is read when the step is done
            return asarray(data, dtype, copy=True, backend=backend, device=device)
    x = _placed(_from_data(data, dtype, backend), dtype, backend)
    x = x if device is None else x.to_device(device)
    if copy is False and x is not data and x._array is not data:
        raise ValueError(
            f"asarray: {type_name(data)} as {show(x._array)} on {x.backend!r} takes a copy, which "
            "copy=False forbids; leave it out, or pass an array of that dtype and backend"
        )
    return copied(x) if copy else x


def place(given: Any, backend: str) -> Tensor:
    """A Tensor; what comes from the host, numbers, lists and NumPy arrays, copied to a backend."""
    on_the_host = isinstance(given, (np.ndarray, np.generic, list, tuple, int, float))
    return tensor(given, backend=backend) if on_the_host else as_tensor(given)


def from_dlpack(
    x: Any,
    /,
    *,
    copy: bool | None = None,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """What another library holds as a Tensor, through DLPack: ``from_dlpack(torch.ones(3))``.

    It goes to the chosen backend, which has to reach the memory where it is, and **shares** it
    where it can, with what ``asarray`` says about that; ``copy=True`` never does, ``copy=False``
    always. Tensors hand themselves out likewise: ``np.from_dlpack(x)``. PyTorch then writes to them
    unhindered, though a graph may have saved them; ``torch.from_dlpack(x, copy=True)`` does not.

    Raises TypeError for what knows nothing of DLPack or holds no real numbers, and BufferError for
    what the backend cannot take over, or cannot share with ``copy=False``.
    """
    refuse_masked("from_dlpack", x)
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"from_dlpack: a {type_name(x)} has no __dlpack__; use tensor(data)")
    chosen = _chosen("from_dlpack", backend, device)
    try:
        array = chosen.from_dlpack(x, **({} if copy is None else {"copy": copy}))
    except (BufferError, RuntimeError, ValueError) as error:
        raise BufferError(
            f"from_dlpack: {chosen.name!r} cannot take over a {type_name(x)}: {error}; for "
            "memory that it cannot reach, backend= names another"
        ) from error
    return _from_data(array, None, None, "from_dlpack")


def _placed(x: Tensor, dtype: Any, backend: str | None) -> Tensor:
    x = x if backend is None else to(x, backend)
    return x if dtype is None else astype(x, dtype)


def _from_data(data: Any, dtype: Any, backend: str | None, operation: str = "tensor") -> Tensor:
    if isinstance(data, Tensor):
        return data
    if isinstance(data, np.generic) or backends.of(data) is not None:
        try:
            return as_tensor(data, share=True, caller_named=True)
        except TypeError as error:
            raise TypeError(f"{operation}: {error}") from None
    arrays = [leaf for leaf in _leaves(data) if type(leaf) not in (float, int, bool)]
    for leaf in arrays:
        refuse_masked("tensor", leaf)
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            raise TypeError("tensor: a list of tensors would lose their graph; use stack or concat")
    try:
        host = np.asarray(_on_host(data) if any(isinstance(x, Tensor) for x in arrays) else data)
    except (ValueError, TypeError) as error:
        raise type(error)(
            f"tensor: {type_name(data)} is no rectangular nesting of numbers ({error}); of "
            "sequences of different lengths, data.pad_arrays makes a batch"
        ) from None
    try:
        host = native(real(host))
    except TypeError as error:
        raise TypeError(f"tensor: of {type_name(data)}, {error}") from None
    if dtype is not None and not arrays:
        _check_range(operation, host, canonical_dtype(dtype))
    own = dtype is not None or any(hasattr(leaf, "__array__") for leaf in arrays)
    if host.dtype == np.float64 and not own:
        host = host.astype(default_dtype())
    chosen = backends.default() if backend is None else backends.get(backend)
    return wrap(chosen.from_host(host), None)


def _check_range(operation: str, host: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
    """OverflowError for Python integers that an integer dtype has not, as in NumPy."""
    if host.dtype.kind in "iu" and dtype.kind in "iu" and host.size:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if host.min() < least or host.max() > most:
            raise OverflowError(
                f"{operation}: numbers from {host.min()} to {host.max()} in {dtype}, which has "
                f"those from {least} to {most}; use a wider dtype"
            )


def _on_host(data: Any) -> Any:
    """Nested lists with the values of the Tensors in them."""
    if isinstance(data, (list, tuple)):
        return [_on_host(part) for part in data]
    return data.numpy() if isinstance(data, Tensor) else data


def _leaves(data: Any) -> Iterator[Any]:
    if isinstance(data, (list, tuple)):
        for part in data:
            yield from _leaves(part)
    else:
        yield data


def _chosen(operation: str, backend: str | None, device: Any) -> Backend:
    """The backend to create on, whose device must be ``device`` unless that is None."""
    chosen = backends.default() if backend is None else backends.get(backend)
    if device is not None and device != (own := device_of(chosen)):
        raise ValueError(
            f"{operation}: device={device!r}, but backend {chosen.name!r} computes on {own!r}; "
            "backend= chooses another, as does use_backend(name)"
        )
    return chosen


def device_of(backend: Backend) -> Any:
    """The device that a backend creates on, as its library calls it."""
    return wrap(backend.zeros((0,)), None).device


def _create(
    name: str,
    backend: str | None,
    device: Any,
    dtype: Any,
    requires_grad: bool,
    *arguments: Any,
    **options: Any,
) -> Tensor:
    if isinstance(dtype, int):
        raise TypeError(f"{name}: dtype={dtype!r}; a shape is one argument: {name}((2, 3))")
    chosen = _chosen(name, backend, device)
    native = native_dtype(chosen, default_dtype() if dtype is None else dtype)
    made = wrap(getattr(chosen, name)(*arguments, dtype=native, **options), None)
    if requires_grad:
        made.requires_grad = True
    return made


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def zeros(
    shape: int | Sequence[int],
    dtype: Any = None,
    *,
    requires_grad: bool = False,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """Zeros."""
    return _create("zeros", backend, device, dtype, requires_grad, _shape(shape))


def ones(
    shape: int | Sequence[int],
    dtype: Any = None,
    *,
    requires_grad: bool = False,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """Ones."""
    return _create("ones", backend, device, dtype, requires_grad, _shape(shape))


def empty(
    shape: int | Sequence[int],
    dtype: Any = None,
    *,
    requires_grad: bool = False,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """Uninitialised memory."""
    return _create("empty", backend, device, dtype, requires_grad, _shape(shape))


def full(
    shape: int | Sequence[int],
    fill_value: float,
    dtype: Any = None,
    *,
    requires_grad: bool = False,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """``fill_value`` everywhere; the dtype follows it unless given."""
    refuse_masked("full", fill_value)
    dtype = _dtype_of(fill_value) if dtype is None else dtype
    return _create("full", backend, device, dtype, requires_grad, _shape(shape), fill_value)


def _dtype_of(*values: Any) -> Any:
    host = np.result_type(*(np.asarray(value) for value in values))
    return default_dtype() if host.kind == "f" else host


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """start, start + step, ... before ``stop``; ``arange(n)`` counts from 0. Integers stay so."""
    first, end = (0, start) if stop is None else (start, stop)
    dtype = _dtype_of(first, end, step) if dtype is None else dtype
    return _create("arange", backend, device, dtype, False, first, end, step)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    backend: str | None = None,
    device: Any = None,
    endpoint: bool = True,
) -> Tensor:
    """``num`` evenly spaced numbers from ``start`` to ``stop``, which ``endpoint`` includes."""
    return _create("linspace", backend, device, dtype, False, start, stop, num, endpoint=endpoint)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: Any = None,
    backend: str | None = None,
    device: Any = None,
) -> Tensor:
    """Ones on the ``k``-th diagonal, zeros elsewhere."""
    return _create("eye", backend, device, dtype, False, n_rows, n_cols, k=k)


def _like(x: TensorLike, fill_value: float, dtype: Any, device: Any) -> Tensor:
    x = as_tensor(x) if device is None else as_tensor(x).to_device(device)
    backend = backend_of(x)
    native = native_dtype(backend, x.dtype if dtype is None else canonical_dtype(dtype))
    return wrap(backend.full(x.shape, fill_value, dtype=native), None)


def zeros_like(x: TensorLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Zeros of x's shape, dtype and backend."""
    return _like(x, 0, dtype, device)


def ones_like(x: TensorLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones of x's shape, dtype and backend."""
    return _like(x, 1, dtype, device)


def full_like(
    x: TensorLike, /, fill_value: float, *, dtype: Any = None, device: Any = None
) -> Tensor:
    """``fill_value`` in x's shape, dtype and backend."""
    return _like(x, fill_value, dtype, device)


def empty_like(x: TensorLike, /, *, dtype: Any = None, device: Any = None) -> Tensor:
    """x's shape, dtype and backend; the values are arbitrary."""
    x = as_tensor(x)
    dtype = x.dtype if dtype is None else dtype
    return empty(x.shape, dtype, backend=backend_of(x).name, device=device)


def tril(x: TensorLike, /, *, k: int = 0) -> Tensor:
    """x with zeros above the ``k``-th diagonal of its last two axes."""
    return _triangle(x, k, lower=True)


def triu(x: TensorLike, /, *, k: int = 0) -> Tensor:
    """x with zeros below the ``k``-th diagonal of its last two axes."""
    return _triangle(x, k, lower=False)


def _triangle(x: TensorLike, k: int, *, lower: bool) -> Tensor:

    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"tril and triu: a tensor of shape {x.shape} is no matrix")
    backend = backend_of(x).name
    rows = reshape(arange(x.shape[-2], backend=backend), (-1, 1))
    columns = arange(x.shape[-1], backend=backend)
    return where(columns <= rows + k if lower else columns >= rows + k, x, 0)


def one_hot(x: TensorLike, /, num_classes: int, *, dtype: Any = None) -> Tensor:
    """Integers of any shape as rows of zeros with a 1 at their place: a last axis is added.

    A number below 0 or not below ``num_classes`` gives a row of zeros.
    """
    x = as_tensor(x)
    if x.dtype.kind not in "iu":
        raise TypeError(f"one_hot: classes are {x.dtype}, not integers")
    x = astype(x, "int64")  # in which any number of classes fits
    classes = arange(num_classes, dtype=x.dtype, backend=backend_of(x).name)
    return astype(expand_dims(x, axis=-1) == classes, default_dtype() if dtype is None else dtype)
