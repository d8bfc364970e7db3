"""Add a primitive of your own from outside the package: softsign, x / (1 + |x|).

A row says how to compute it and, for each input, what its vector-Jacobian product is. Both are
written in operators and the names of ``xp``, an array namespace, and nothing else: then every
backend can run them, and derivatives of derivatives, vmap and jvp follow without another line.

    python examples/internals/add_a_primitive.py
"""

import tinygrad_rnn as tg
from tinygrad_rnn.testing import check_grads

# The ten lines. `g` is the cotangent of the output. A rule names what else it reads: an input
# (`x`), its shape only (`x_shape`) or the output (`out`); a node keeps that and nothing more.
_softsign = tg.Primitive(
    "softsign",
    "elementwise",
    lambda xp, x: x / (1 + xp.abs(x)),
    lambda xp, g, x: g / (1 + xp.abs(x)) ** 2,
)


def softsign(x):
    """x / (1 + |x|), between -1 and 1 like tanh, but with heavier tails."""
    return tg.apply(_softsign, x)


def main() -> None:
    """Check it, then use it as the nonlinearity of a recurrent network."""
    x = tg.tensor([-2.0, 0.5, 3.0], requires_grad=True)
    check_grads(softsign, [x.detach()], order=2)  # against finite differences; raises if wrong

    y = softsign(x).sum()
    print(tg.to_text(y, {"x": x}))
    print("first derivative: ", tg.grad(y, x, retain_graph=True))
    print("second derivative:", tg.hessian(lambda x: softsign(x).sum())(x)[[0, 1, 2], [0, 1, 2]])
    print("each example:     ", tg.vmap(tg.value_and_grad(softsign))(x.detach())[1])

    w = tg.tensor([[0.5, -0.3], [0.2, 0.4]], requires_grad=True)

    def cell(x, h):
        h = softsign(x + h @ w)
        return h, h

    _, h = tg.unroll(cell, tg.ones((20, 1, 2)), tg.zeros((1, 2)))
    print("through 20 steps: ", tg.grad(h.sum(), w).tolist())


if __name__ == "__main__":
    main()
