"""JAX: ``lax.scan`` under ``jit``, the whole training step one compiled function.

The subtle thing is where the input's product stands: before the scan, for all steps at once, or in
it. The quicker of the two depends on the size. XLA's CPU threads have no setting but the variable
NPROC, which has to be set before JAX is imported.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from benchmarks.grid.problem import LEARNING_RATE, Array, Problem, Training

VERSIONS = {"jax": jax.__version__, "jaxlib": version("jaxlib")}


def lstm(z: Any, state: Any, w_hh: Any) -> tuple[Any, Any]:
    h, c = state
    i, f, g, o = jnp.split(z + h @ w_hh, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(z: Any, h: Any, w_hh: Any, bias_hn: Any) -> tuple[Any, Any]:
    r, z, n = jnp.split(z, 3, axis=-1)
    from_r, from_z, from_n = jnp.split(h @ w_hh, 3, axis=-1)
    r, z = jax.nn.sigmoid(r + from_r), jax.nn.sigmoid(z + from_z)
    n = jnp.tanh(n + r * (from_n + bias_hn))
    h = (1 - z) * n + z * h
    return h, h


def rnn(z: Any, h: Any, w_hh: Any) -> tuple[Any, Any]:
    h = jnp.tanh(z + h @ w_hh)
    return h, h


CELLS = {"LSTM": lstm, "GRU": gru, "RNN": rnn}


def training(problem: Problem, hoisted: bool) -> Training:
    cell = CELLS[problem.kind]
    x, target, zeros = map(jnp.asarray, (problem.x, problem.target, problem.zeros))
    initial = (zeros, zeros) if problem.kind == "LSTM" else zeros

    def loss(parameters: Any, x: Any, target: Any) -> Any:
        w_ih, w_hh, bias, *bias_hn = parameters
        xs = x @ w_ih + bias if hoisted else x

        def body(state: Any, x_t: Any) -> tuple[Any, Any]:
            z = x_t if hoisted else x_t @ w_ih + bias
            return cell(z, state, w_hh, *bias_hn)

        _, outputs = jax.lax.scan(body, initial, xs)
        return jnp.mean((outputs - target) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def update(parameters: Any, x: Any, target: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, x, target)
        pairs = zip(parameters, gradients, strict=True)
        return value, [p - LEARNING_RATE * gradient for p, gradient in pairs]

    parameters = [jnp.array(array) for array in problem.parameters]

    def step() -> float:
        nonlocal parameters
        value, parameters = jax.block_until_ready(update(parameters, x, target))
        return float(value)

    def gradients() -> list[Array]:
        """Those at the first weights, by a program of their own: the step's own never leave it."""
        first = [jnp.asarray(array) for array in problem.parameters]
        return [np.asarray(gradient) for gradient in jax.jit(jax.grad(loss))(first, x, target)]

    return Training(step, gradients)


FORMS = {
    "hoisted": ("lax.scan, input product before it; one jit", partial(training, hoisted=True)),
    "plain": ("lax.scan, input product in it; one jit", partial(training, hoisted=False)),
}
