"""JAX: ``lax.scan``, and the whole training step, optax and all, one compiled function.

What is ragged is masked: a layer runs over the padding too, and where it runs backwards each row
is turned round within its length, as Flax does it. The subtle thing is where an input's product
stands: before the scan, for all steps at once, or in it; the quicker depends on the size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import optax
from jax import numpy as jnp

from benchmarks.grid.jax_side import VERSIONS as OF_JAX
from benchmarks.grid.jax_side import gru, lstm
from benchmarks.grid.problem import Training
from benchmarks.zoo.problem import IGNORED, LEARNING_RATE, Array, Problem

__all__ = ["FORMS", "VERSIONS"]

VERSIONS = {**OF_JAX, "optax": version("optax")}

Weights = dict[str, Any]


# Weights as the products read them, x @ w, and one bias; a GRU keeps the part that it needs.


def ours(weights: dict[str, Array]) -> Weights:
    kept = {name: a.T if a.ndim == 2 else a for name, a in weights.items()}
    for name in weights:
        if "bias_hh" in name:
            second = kept.pop(name)
            if second.size == 3 * weights[name.replace("bias", "weight")].shape[1]:
                kept[name.replace("bias_hh", "bias_hn")] = second[-second.size // 3 :]
    for name in weights:
        if name.endswith("embedding.weight"):
            kept[name] = weights[name]
    return {name: jnp.array(a) for name, a in kept.items()}


def theirs(problem: Problem, gradients: Weights) -> list[Array]:
    def restored(name: str) -> Array:
        a = np.asarray(gradients[name])
        return a.T if a.ndim == 2 and not name.endswith("embedding.weight") else a

    return [restored(name) for name in problem.compared]


# Layers.


def linear(w: Weights, name: str, x: Any) -> Any:
    y = x @ w[f"{name}.weight"]
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer(w: Weights, name: str, xs: Any, hoisted: bool, suffix: str = "_l0") -> tuple[Any, Any]:
    """The outputs (T, B, H) of an LSTM or GRU, and its final state."""
    w_ih, w_hh = w[f"{name}.weight_ih{suffix}"], w[f"{name}.weight_hh{suffix}"]
    bias, bias_hn = w[f"{name}.bias_ih{suffix}"], w.get(f"{name}.bias_hn{suffix}")
    zeros = jnp.zeros((xs.shape[1], w_hh.shape[0]), xs.dtype)

    def body(state: Any, x: Any) -> tuple[Any, Any]:
        z = x if hoisted else x @ w_ih + bias
        return lstm(z, state, w_hh) if bias_hn is None else gru(z, state, w_hh, bias_hn)

    initial = (zeros, zeros) if bias_hn is None else zeros
    state, outputs = jax.lax.scan(body, initial, xs @ w_ih + bias if hoisted else xs)
    return outputs, state


def turned(xs: Any, lengths: Any) -> Any:
    """Each row the other way round within its length; its own inverse."""
    t = jnp.arange(xs.shape[0])[:, None]
    return jnp.take_along_axis(xs, jnp.where(t < lengths, lengths - 1 - t, t)[..., None], axis=0)


def both_ways(
    w: Weights, name: str, xs: Any, hoisted: bool, lengths: Any, number: int = 0
) -> tuple[Any, Any]:
    """The outputs (T, B, 2 H) of a bidirectional layer, and the final states of both directions."""
    forwards, last = layer(w, name, xs, hoisted, f"_l{number}")
    backwards, first = layer(w, name, turned(xs, lengths), hoisted, f"_l{number}_reverse")
    return jnp.concatenate([forwards, turned(backwards, lengths)], axis=-1), (last, first)


def dropped(x: Any, rate: float, key: Any) -> Any:
    if not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def cross_entropy(logits: Any, targets: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


# Losses, of the weights, the batch and a key for dropout.


def language_model(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    rate, layers = problem.dropout, problem.sizes.layers

    def loss(w: Weights, batch: Any, key: Any) -> Any:
        keys = jax.random.split(key, layers + 1)
        x = w["embedding.weight"][batch["tokens"]]
        for number in range(layers):
            x = dropped(x, rate, keys[number])
            x, _ = layer(w, "lstm", x, hoisted, f"_l{number}")
        logits = linear(w, "readout", dropped(x, rate, keys[-1]))
        return cross_entropy(logits, batch["targets"]).mean()

    return loss


def tagger(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    def loss(w: Weights, batch: Any, key: Any) -> Any:
        x = w["embedding.weight"][batch["tokens"]]
        h, _ = both_ways(w, "lstm", x, hoisted, batch["lengths"])
        there = batch["targets"] != IGNORED
        losses = cross_entropy(linear(w, "readout", h), jnp.where(there, batch["targets"], 0))
        return jnp.where(there, losses, 0).sum() / there.sum()

    return loss


def ctc(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    def loss(w: Weights, batch: Any, key: Any) -> Any:
        x = batch["frames"]
        for number in range(problem.sizes.layers):
            x, _ = both_ways(w, "lstm", x, hoisted, batch["lengths"], number)
        logits = jnp.moveaxis(linear(w, "readout", x), 0, 1)
        padding = jnp.arange(logits.shape[1]) >= batch["lengths"][:, None]
        beyond = jnp.arange(batch["labels"].shape[1]) >= batch["label_lengths"][:, None]
        losses = optax.ctc_loss(
            logits, padding.astype(x.dtype), batch["labels"], beyond.astype(x.dtype)
        )
        return (losses / batch["label_lengths"]).mean()

    return loss


def translation(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    def loss(w: Weights, batch: Any, key: Any) -> Any:
        x = w["source_embedding.weight"][batch["source"]]
        length = jnp.full(x.shape[1], x.shape[0])
        values, final = both_ways(w, "encoder", x, hoisted, length)
        keys = linear(w, "key", values)

        def body(state: Any, embedded: Any) -> tuple[Any, Any]:
            h, attentional = state
            x = jnp.concatenate([embedded, attentional], axis=-1)
            z = x @ w["cell.weight_ih"] + w["cell.bias_ih"]
            h, _ = gru(z, h, w["cell.weight_hh"], w["cell.bias_hn"])
            weights = jax.nn.softmax(jnp.einsum("sbh,bh->sb", keys, h), axis=0)
            context = jnp.einsum("sb,sbe->be", weights, values)
            attentional = jnp.tanh(linear(w, "combine", jnp.concatenate([context, h], axis=-1)))
            return (h, attentional), attentional

        h = jnp.tanh(linear(w, "bridge", jnp.concatenate(final, axis=-1)))
        embedded = w["target_embedding.weight"][batch["given"]]
        _, attentionals = jax.lax.scan(body, (h, jnp.zeros_like(h)), embedded)
        return cross_entropy(linear(w, "readout", attentionals), batch["targets"]).mean()

    return loss


def forecaster(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    def loss(w: Weights, batch: Any, key: Any) -> Any:
        _, last = layer(w, "gru", batch["series"], hoisted)
        return jnp.mean((linear(w, "readout", last) - batch["targets"]) ** 2)

    return loss


def sentiment(problem: Problem, hoisted: bool) -> Callable[..., Any]:
    def loss(w: Weights, batch: Any, key: Any) -> Any:
        h, _ = layer(w, "lstm", w["embedding.weight"][batch["tokens"]], hoisted)
        last = h[batch["lengths"] - 1, jnp.arange(h.shape[1])]
        logits = linear(w, "readout", last)[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, batch["targets"]).mean()

    return loss


BUILDERS = {
    "char_lm": language_model,
    "word_lm": language_model,
    "tagger": tagger,
    "ctc": ctc,
    "translation": translation,
    "forecaster": forecaster,
    "sentiment": sentiment,
}


def training(problem: Problem, hoisted: bool) -> Training:
    loss = BUILDERS[problem.model](problem, hoisted)
    optimiser = optax.chain(optax.clip_by_global_norm(problem.max_norm), optax.adam(LEARNING_RATE))
    batch = {name: jnp.asarray(array) for name, array in vars(problem.batch).items()}

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(weights: Weights, state: Any, batch: Any, key: Any) -> Any:
        key, now = jax.random.split(key)
        value, gradients = jax.value_and_grad(loss)(weights, batch, now)
        changes, state = optimiser.update(gradients, state)
        return value, optax.apply_updates(weights, changes), state, key

    weights, key = ours(problem.weights), jax.random.key(0)
    state = optimiser.init(weights)

    def step() -> float:
        nonlocal weights, state, key
        value, weights, state, key = jax.block_until_ready(update(weights, state, batch, key))
        return float(value)

    def gradients() -> list[Array]:
        """Those at the first weights, by a program of their own: the step's own never leave it."""
        return theirs(problem, jax.jit(jax.grad(loss))(ours(problem.weights), batch, key))

    return Training(step, gradients)


FORMS = {
    "hoisted": (
        "lax.scan, input products before it; the step with optax one jit",
        partial(training, hoisted=True),
    ),
    "plain": (
        "lax.scan, input products in it; the step with optax one jit",
        partial(training, hoisted=False),
    ),
}
