"""tinygrad_rnn: autograd from scratch for recurrent networks, on NumPy or CuPy.

The package is an array namespace: functions are named as in the Array API, take Tensors, arrays or
numbers and return Tensors. The derivative rules of the library are written against these same
names, which is why derivatives of derivatives need no second set of rules. Reading order:
graph, tensor, primitives/, batching, transforms, functional, recurrence/, nn/, optim.
"""

from numpy import bool_ as bool
from numpy import (
    e,
    float16,
    float32,
    float64,
    inf,
    int8,
    int16,
    int32,
    int64,
    nan,
    newaxis,
    pi,
    uint8,
    uint16,
    uint32,
    uint64,
)

from tinygrad_rnn_backends import (
    Backend,
    BackendUnavailable,
    use_backend,
)
from tinygrad_rnn_backends import available as available_backends
from tinygrad_rnn_backends import get as get_backend
from tinygrad_rnn_backends import register as register_backend
from tinygrad_rnn_backends import set_default as set_default_backend

from .graph import Primitive, ReleasedGraphError
from .primitives.contraction import einsum, matmul, outer, tensordot, vecdot
from .primitives.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    one_hot,
    ones,
    ones_like,
    tensor,
    tril,
    triu,
    zeros,
    zeros_like,
)
from .primitives.elementwise import (
    abs,
    add,
    astype,
    ceil,
    clip,
    cos,
    divide,
    equal,
    erf,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    positive,
    pow,
    relu,
    remainder,
    result_type,
    round,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    tanh,
    trunc,
    where,
)
from .primitives.indexing import getitem, index_add, take, take_along_axis
from .primitives.movement import (
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    tile,
    to,
    unstack,
)
from .primitives.reduction import (
    all,
    any,
    argmax,
    argmin,
    cumulative_sum,
    logsumexp,
    max,
    mean,
    min,
    prod,
    std,
    sum,
    var,
)
from .tensor import (
    Tensor,
    apply,
    default_dtype,
    detect_anomaly,
    enable_grad,
    is_grad_enabled,
    no_grad,
    set_default_dtype,
)

from . import functional, nn, optim, random, serialization
from .batching import vmap
from .functional import (
    cross_entropy,
    dropout,
    elu,
    gelu,
    layer_norm,
    leaky_relu,
    log_softmax,
    mse_loss,
    silu,
    softmax,
)
from .inspect import to_dot, to_text
from .random import manual_seed
from .recurrence import unroll
from .transforms import checkpoint, grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

__version__ = "0.1.0"
