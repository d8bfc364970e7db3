"""The literal loop: the definition of what ``unroll`` computes.

There is no backpropagation through time in this file, which is the point of it. The loop runs,
every primitive of every step becomes a node of the graph, and ``backward`` walks through them as
through any others: BPTT is what reverse mode does on an unrolled graph. Whatever runs this loop
faster is measured against it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import random
from ..planner.loop import Loop
from ..primitives.creation import asarray
from ..primitives.movement import concat, stack, unstack
from ..structure import Structure, flatten, map_leaves, unflatten
from ..tensor import Tensor, as_tensor, no_grad

Rest = Callable[[Any], "tuple[Any, Any] | None"]


def run(loop: Loop, rest: Rest | None = None, soon: int = 0) -> tuple[Any, Any]:
    """The loop, step by step: the definition of what any other way has to compute.

    After ``soon`` steps, ``rest(state)`` may give what comes of the others, some other way.
    """
    if loop.steps == 0:
        return _nothing(loop)
    xs, spare = loop.without_padding()
    columns = [unstack(x) for x in xs]
    valid, reset = (
        [None] * loop.steps if given is None else unstack(given)
        for given in (loop.valid, loop.reset)
    )
    outputs: list[list[Tensor]] = []
    structure: Structure | None = None  # of the outputs
    state = loop.initial
    order = range(loop.steps)[::-1] if loop.reverse else range(loop.steps)
    first, call = loop.since
    with random.loop(call) as at_step:
        for t in order:
            at_step(first + t)
            x = unflatten(loop.x_structure, [column[t] for column in columns])
            taking = None if loop.all_rows_at(t) else valid[t]
            output, state = loop.step(x, state, taking, reset[t], spare)
            leaves, own = flatten(output, structure)
            structure = own if structure is None else structure
            if own != structure:
                raise TypeError(
                    f"unroll: the cell returned outputs structured {structure}, then {own}; "
                    "they must agree from step to step"
                )
            outputs.append(leaves)
            if rest is not None and len(outputs) == soon < loop.steps:
                found = rest(state)
                if found is not None:
                    others, state = found
                    break
    if loop.reverse:
        outputs.reverse()
    assert structure is not None
    joined = [stack(list(steps)) for steps in zip(*outputs, strict=True)]
    if len(outputs) < loop.steps:
        pairs = zip(joined, flatten(others, structure)[0], strict=True)
        joined = [concat([b, a] if loop.reverse else [a, b], axis=0) for a, b in pairs]
    return unflatten(structure, joined), state


def _nothing(loop: Loop) -> tuple[Any, Any]:
    """For T = 0: a step on zeros tells what the outputs would look like."""
    x = [_zeros(x, x.shape[1:]) for x in loop.xs]
    with no_grad():
        output, _ = loop.check_step(unflatten(loop.x_structure, x), loop.initial)
    return map_leaves(lambda y: _zeros(as_tensor(y), (0, *y.shape)), output), loop.initial


def _zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return asarray(np.zeros(shape, dtype=x.dtype), backend=x.backend)
