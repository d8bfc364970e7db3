"""Compositions: activations, normalisation, dropout and losses, written as the equations are.

None has a gradient of its own; all orders follow from the primitives. Names and keywords are those
of ``torch.nn.functional``, except that axes are called ``axis``.
"""

from .activations import (
    elu,
    gelu,
    glu,
    gumbel_softmax,
    hardsigmoid,
    leaky_relu,
    log_softmax,
    logsigmoid,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from .attention import scaled_dot_product_attention
from .convolution import (
    avg_pool1d,
    avg_pool2d,
    conv1d,
    conv2d,
    max_pool1d,
    max_pool2d,
)
from .ctc import ctc_loss
from .embedding import embedding
from .losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cosine_similarity,
    cross_entropy,
    gaussian_nll_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from .masks import masked_mean, sequence_mask
from .mixtures import bernoulli_mixture_nll_loss, gaussian_mixture_nll_loss
from .normalisation import layer_norm
from .regularisation import dropout
from .sampling import rsample_normal, straight_through

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "bernoulli_mixture_nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "elu",
    "embedding",
    "gaussian_mixture_nll_loss",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "gumbel_softmax",
    "hardsigmoid",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "masked_mean",
    "max_pool1d",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "rsample_normal",
    "scaled_dot_product_attention",
    "sequence_mask",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "straight_through",
    "tanh",
]
