"""Names that hands know from PyTorch, NumPy and JAX, and what is written here in their place.

An AttributeError answers with them, so a name that is right costs nothing.
"""

from __future__ import annotations

from typing import Any

_FUNCTIONS = {
    "absolute": "abs(x)",
    "arccos": "acos(x)",
    "arcsin": "asin(x)",
    "arctan": "atan(x)",
    "arctan2": "atan2(y, x)",
    "amax": "max(x, axis)",
    "amin": "min(x, axis)",
    "bmm": "matmul(x, y)",
    "cat": "concat([x, y], axis=0)",
    "chunk": "split(x, n, axis=0)",
    "cholesky": "linalg.cholesky(x @ x.mT)",
    "clamp": "clip(x, min, max)",
    "concatenate": "concat([x, y], axis=0)",
    "cumprod": "cumulative_prod(x, axis=0)",
    "cumsum": "cumulative_sum(x, axis=0)",
    "diag": "linalg.diagonal(x); the matrix of a vector is eye(n) * x",
    "diagonal": "linalg.diagonal(x)",
    "det": "linalg.det(x)",
    "div": "divide(x, y)",
    "dot": "matmul(x, y)",
    "eq": "equal(x, y)",
    "expand": "broadcast_to(x, shape)",
    "flatten": "reshape(x, (-1,))",
    "from_numpy": "asarray(array); it shares, tensor(array) copies",
    "gather": "take_along_axis(x, indices, axis=0)",
    "ge": "greater_equal(x, y)",
    "gt": "greater(x, y)",
    "hstack": "concat([x, y], axis=-1)",
    "index_select": "take(x, indices, axis=0)",
    "inverse": "linalg.inv(x)",
    "interpolate": "repeat(x, n, axis=-1); likewise along others, it takes the nearest",
    "is_tensor": "isinstance(x, Tensor)",
    "le": "less_equal(x, y)",
    "lerp": "x + weight * (y - x)",
    "lt": "less(x, y)",
    "masked_fill": "where(mask, value, x)",
    "median": "numpy.median(x.numpy()); it has no derivative",
    "mm": "matmul(x, y)",
    "movedim": "moveaxis(x, source, destination)",
    "mul": "multiply(x, y)",
    "nan_to_num": "where(isnan(x), 0.0, x)",
    "narrow": "x[start : start + length]",
    "ne": "not_equal(x, y)",
    "neg": "negative(x)",
    "norm": "linalg.vector_norm(x, axis=axis); of matrices linalg.matrix_norm(x)",
    "permute": "permute_dims(x, axes)",
    "power": "pow(x, y)",
    "rand": "random.uniform(shape)",
    "randint": "astype(floor(random.uniform(shape, 0, n)), 'int64')",
    "randn": "random.normal(shape)",
    "ravel": "reshape(x, (-1,))",
    "rsqrt": "1 / sqrt(x)",
    "scatter": "x.at[key].set(values)",
    "scatter_add": "x.at[key].add(values); or index_add(x, key, values)",
    "select": "x[i]",
    "sub": "subtract(x, y)",
    "swapaxes": "moveaxis(x, (i, j), (j, i))",
    "swapdims": "moveaxis(x, (i, j), (j, i))",
    "trace": "linalg.trace(x)",
    "transpose": "permute_dims(x, axes); of all axes x.T",
    "unbind": "unstack(x, axis=0)",
    "unfold": "windows(expand_dims(x, -1), (n,))",
    "unique": "unique_values(x)",
    "unsqueeze": "expand_dims(x, axis=0)",
    "view": "reshape(x, shape)",
    "vstack": "concat([x, y], axis=0)",
}
"""Functions of others, many of them methods of their tensors, as ours are called."""

_OF_THE_PACKAGE = {
    "FloatTensor": "tensor(data, dtype='float32')",
    "LongTensor": "tensor(data, dtype='int64')",
    "array": "tensor(data)",
    "autograd": "grad(output, inputs) and value_and_grad(f)",
    "cuda": "use_backend('cupy') and set_default_backend('cupy')",
    "device": "x.device, and backend= of creation functions",
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "inference_mode": "no_grad()",
    "jit": "unroll(cell, xs, state), which plans by itself",
    "load": "serialization.load(path) and serialization.load_checkpoint(path)",
    "long": "int64",
    "ndarray": "Tensor",
    "optimizers": "optim",
    "save": "serialization.save(path, arrays) and serialization.save_checkpoint(path, ...)",
    "scan": "unroll(cell, xs, state)",
    "seed": "manual_seed(n)",
    "set_grad_enabled": "no_grad() and enable_grad()",
    "testing": "import tinygrad_rnn.testing, which is not imported by itself",
    "utils": "data, and clip_grad_norm_ in optim",
    "vectorize": "vmap(f)",
}

_OF_TENSORS = {
    "bool": "x.astype('bool')",
    "clone": "x * 1, which has a gradient, or tinygrad_rnn.tensor(x), which has none",
    "contiguous": "x: memory is none of your concern",
    "copy": "tinygrad_rnn.tensor(x)",
    "cpu": "x.to('numpy')",
    "cuda": "x.to('cupy')",
    "dim": "x.ndim",
    "double": "x.astype('float64')",
    "element_size": "x.dtype.itemsize",
    "float": "x.astype('float32')",
    "get": "x.numpy()",
    "grad_fn": "tinygrad_rnn.to_text(x), which shows the graph",
    "half": "x.astype('float16')",
    "int": "x.astype('int32')",
    "long": "x.astype('int64')",
    "mH": "x.mT",
    "nbytes": "x.size * x.dtype.itemsize",
    "numel": "x.size",
    "requires_grad_": "x.requires_grad = True",
    "retain_grad": "tinygrad_rnn.grad(output, x), which takes computed tensors, too",
    "t": "x.T",
    "type": "x.astype(dtype)",
    "zero_grad": "x.grad = None",
}


_OF_RANDOM = {
    "beta": "a function of uniform(shape) and its like",
    "choice": "categorical(logits)",
    "dropout": "tinygrad_rnn.dropout(x, p)",
    "multinomial": "categorical(log(p))",
    "rand": "uniform(shape)",
    "randint": "astype(floor(uniform(shape, 0, n)), 'int64')",
    "randn": "normal(shape)",
    "random": "uniform(shape)",
    "seed": "manual_seed(n)",
}


_OF_LINALG = {
    "cond": "svdvals(x), the largest over the smallest",
    "eig": "eigh(x), of symmetric matrices",
    "eigvals": "eigvalsh(x), of symmetric matrices",
    "inverse": "inv(x)",
    "lstsq": "pinv(x) @ y",
    "multi_dot": "x @ y @ z",
    "norm": "vector_norm(x, axis=axis), or matrix_norm(x)",
    "solve_triangular": "solve(x1, x2)",
}


def of_package(name: str) -> str:
    """What is wrong with a name that the package does not have, and the cure where it is known."""
    cure = _OF_THE_PACKAGE.get(name) or _FUNCTIONS.get(name)
    return _error(f"module 'tinygrad_rnn' has no attribute {name!r}", cure)


def of_random(name: str) -> str:
    """Likewise of its module ``random``."""
    return _error(f"module 'tinygrad_rnn.random' has no attribute {name!r}", _OF_RANDOM.get(name))


def of_linalg(name: str) -> str:
    """Likewise of its module ``linalg``."""
    return _error(f"module 'tinygrad_rnn.linalg' has no attribute {name!r}", _OF_LINALG.get(name))


def of_tensor(name: str, functions: dict[str, Any]) -> str:
    """Likewise of a Tensor: most methods of others' tensors are functions here, ``functions``."""
    cure = _OF_TENSORS.get(name) or _FUNCTIONS.get(name)
    if callable(functions.get(name)):
        cure = f"tinygrad_rnn.{name}(x)"
    elif cure is None and name.endswith("_"):
        cure = "x = ... of a new tensor, since nothing is written in place"
    elif cure is not None and cure.partition("(")[0].partition(".")[0] in functions:
        cure = f"tinygrad_rnn.{cure}"
    return _error(f"a Tensor has no attribute {name!r}", cure)


def _error(problem: str, cure: str | None) -> str:
    return problem if cure is None else f"{problem}; here it is {cure}"
