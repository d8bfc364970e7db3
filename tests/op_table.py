"""The table that drives the tests of operations: what each one takes, and what NumPy makes of it.

A row names an operation, says how Hypothesis draws its inputs and keywords, and gives a reference
in NumPy. ``test_op_table.py`` does the rest: values, dtypes, derivatives, ``vmap``, on every
backend.

The subtle point is the *domain* of an input, which draws its elements: finite differences are wrong
across a kink, so where an operation has some, the domain keeps its distance from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, product
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

Array = np.ndarray[Any, Any]
Domain = Callable[[np.random.Generator, tuple[int, ...]], Array]
Samples = st.SearchStrategy["Sample"]


def examples(n: int) -> settings:
    """So many examples where 25 are usual: with TINYGRAD_RNN_EXAMPLES=100, four times as many."""
    return settings(max_examples=-(-n * settings.default.max_examples // 25))


@dataclass(frozen=True)
class Input:
    shape: tuple[int, ...]
    domain: Domain

    def draw(self, rng: np.random.Generator) -> Array:
        return np.asarray(self.domain(rng, self.shape))


@dataclass(frozen=True)
class Sample:
    """The inputs and keywords of one call; each seed gives other elements in the same shapes."""

    inputs: tuple[Input, ...]
    keywords: dict[str, Any] = field(default_factory=dict)

    def arrays(self, seed: int = 0) -> list[Array]:
        rng = np.random.default_rng(seed)
        return [x.draw(rng) for x in self.inputs]


@dataclass(frozen=True)
class Row:
    """One operation.

    Args:
        name: of the public function that the row stands for.
        samples: draws inputs and keywords.
        reference: what NumPy makes of the arrays and keywords; its function of the same name if not
            given.
        call: the operation, if it is not called as ``tg.name(*tensors, **keywords)``.
        argnums: the inputs that have a derivative, all of them floats; () if it has none.
        integers: whether integers are taken, too, and give what they give in NumPy.
        variant: tells rows of the same name apart.
    """

    name: str
    samples: Samples
    reference: Callable[..., Any] | None = None
    call: Callable[..., Any] | None = None
    argnums: tuple[int, ...] = (0,)
    integers: bool = False
    variant: str = ""

    def __call__(self, *tensors: Any, **keywords: Any) -> Any:
        return (self.call or getattr(tg, self.name))(*tensors, **keywords)

    def expected(self, *arrays: Any, **keywords: Any) -> Any:
        return (self.reference or getattr(np, self.name))(*arrays, **keywords)

    def __str__(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name


# Domains: how elements are drawn.


def real(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.4, 2.5, size=shape)


def nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.3, 2.0, size=shape) * rng.choice((-1, 1), size=shape)


def above_minus_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(-0.6, 2.0, size=shape)


def distinct(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """No two elements within 0.1 of each other."""
    size = math.prod(shape)
    return (rng.permutation(size) * 0.2 - 0.1 * size + rng.uniform(0, 0.1, size)).reshape(shape)


def far_apart(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Not nearly equal: what divides by their variance would not be smooth there."""
    return 5 * distinct(rng, shape)


def grid(offset: float) -> Domain:
    """Multiples of 0.5 plus an offset: inputs of different offsets are never equal."""
    return lambda rng, shape: rng.integers(-4, 5, size=shape) * 0.5 + offset


def between_integers(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(-4, 4, size=shape) + rng.uniform(0.3, 0.7, size=shape)


def divisor(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice((1.0, 2.0, -1.0, -2.0), size=shape)


def coarse(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Halves, many of which tie."""
    return rng.integers(-3, 4, size=shape) * 0.5


def special(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice((np.nan, np.inf, -np.inf, -1.0, 0.0, 2.0), size=shape)


def boolean(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(0, 2, size=shape) == 1


def logarithm(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Of something below 1."""
    return -positive(rng, shape)


def probability(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.1, 0.9, size=shape)


def inside_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(-0.8, 0.8, size=shape)


def above_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(1.2, 4.0, size=shape)


def with_zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.normal(size=shape) * (rng.uniform(size=shape) < 0.7)


def well_conditioned(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Matrices whose singular values are 1, 2, 3, ...: invertible, and all of them differ."""
    u, _, vh = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return (u * np.arange(1.0, u.shape[-1] + 1)) @ vh


def integer(low: int, high: int) -> Domain:
    return lambda rng, shape: rng.integers(low, high, size=shape)


# Shapes and axes. Most lengths are small and not 0, but 0 and 1 occur often enough.

lengths = st.sampled_from((2, 3, 1, 4, 2, 3, 1, 0))
lengths_above_0 = st.sampled_from((2, 3, 1, 4))


def shapes(low: int = 0, high: int = 3, each: Any = lengths) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(each, min_size=low, max_size=high).map(tuple)


@st.composite
def broadcasting(draw: Any, n: int, each: Any = lengths) -> tuple[tuple[int, ...], ...]:
    """Shapes that broadcast with each other, the first one often the widest."""
    shape = draw(shapes(each=each))
    result = []
    for _ in range(n):
        dropped = draw(st.integers(0, len(shape)))
        ones = draw(st.integers(0, 7))
        result.append(tuple(1 if ones >> i & 1 else m for i, m in enumerate(shape))[dropped:])
    return tuple(result)


@st.composite
def axis_of(draw: Any, ndim: int) -> int:
    return draw(st.integers(-ndim, ndim - 1))


@st.composite
def axes_of(draw: Any, ndim: int) -> Any:
    """None, an int or a tuple of ints, each counted from either end."""
    kind = draw(st.sampled_from(("none", "int", "tuple")))
    if kind == "none":
        return None
    if kind == "int" and ndim:
        return draw(axis_of(ndim))
    chosen = draw(st.lists(st.sampled_from(range(ndim)), unique=True)) if ndim else []
    return tuple(draw(st.sampled_from((a, a - ndim))) for a in chosen)


# Samples, for operations that are drawn alike.


def one(domain: Domain = real, each: Any = lengths, low: int = 0) -> Samples:
    return shapes(low, each=each).map(lambda shape: Sample((Input(shape, domain),)))


@st.composite
def several(draw: Any, *domains: Domain) -> Sample:
    wanted = draw(broadcasting(len(domains)))
    return Sample(tuple(Input(s, d) for s, d in zip(wanted, domains, strict=True)))


@st.composite
def reduced(draw: Any, domain: Domain = real, each: Any = lengths, **options: Any) -> Sample:
    """An input, axis and keepdims; options are strategies for further keywords."""
    shape = draw(shapes(each=each))
    keywords = {"axis": draw(axes_of(len(shape))), "keepdims": draw(st.booleans())}
    keywords |= {name: draw(strategy) for name, strategy in options.items()}
    return Sample((Input(shape, domain),), keywords)


@st.composite
def along(
    draw: Any, domain: Domain = real, each: Any = lengths, optional: bool = False, **options: Any
) -> Sample:
    """An input of at least one axis, and one of its axes."""
    shape = draw(shapes(1, each=each))
    axis = None if optional and draw(st.booleans()) else draw(axis_of(len(shape)))
    keywords = {name: draw(strategy) for name, strategy in options.items()}
    return Sample((Input(shape, domain),), {"axis": axis} | keywords)


@st.composite
def keyword(draw: Any, make: Callable[..., Any], low: int = 0, domain: Domain = real) -> Sample:
    """An input, and keywords that ``make(draw, shape)`` gives for its shape."""
    shape = draw(shapes(low))
    return Sample((Input(shape, domain),), make(draw, shape))


def options(*choices: dict[str, Any], domain: Domain = real, low: int = 0) -> Samples:
    return keyword(lambda draw, shape: draw(st.sampled_from(choices)), low, domain)


# What single operations are given.


def _reshaped(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    size = math.prod(shape)
    choices = [(size,), (-1,), (1, size), (size, 1, 1), shape[::-1]]
    choices += [(2, -1), (2, size // 2)] if size and size % 2 == 0 else []
    choices += [size] if size else []
    return {"shape": draw(st.sampled_from(choices))}


def _permuted(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    order = draw(st.permutations(range(len(shape))))
    return {"axes": tuple(draw(st.sampled_from((a, a - len(shape)))) for a in order)}


def _expanded(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = draw(axis_of(len(shape) + 1))
    pair = tuple(draw(st.lists(axis_of(len(shape) + 2), min_size=2, max_size=2)))
    apart = len({a % (len(shape) + 2) for a in pair}) == 2
    return {"axis": draw(st.sampled_from((axis, pair))) if apart else axis}


@st.composite
def squeezed(draw: Any) -> Sample:
    shape = draw(shapes(1, 4, st.sampled_from((1, 2, 1, 3, 0))))
    ones = [a for i, n in enumerate(shape) if n == 1 for a in (i, i - len(shape))]
    some = tuple(i for i, n in enumerate(shape) if n == 1)[: draw(st.integers(0, 4))]
    axis = draw(st.sampled_from([None, some, *ones]))
    return Sample((Input(shape, real),), {"axis": axis})


@st.composite
def broadcasted(draw: Any) -> Sample:
    narrow, wide = draw(broadcasting(2))
    return Sample((Input(narrow, real),), {"shape": np.broadcast_shapes(narrow, wide)})


@st.composite
def joined(draw: Any, new_axis: bool) -> Sample:
    """Arrays for concat, which differ in length along the axis, or for stack."""
    shape = draw(shapes(0 if new_axis else 1))
    axis = draw(axis_of(len(shape) + new_axis))
    n = draw(st.integers(1, 3))
    members = []
    for _ in range(n):
        own = list(shape)
        if not new_axis:
            own[axis] = draw(lengths)
        members.append(Input(tuple(own), real))
    return Sample(tuple(members), {"axis": axis})


@st.composite
def splitted(draw: Any) -> Sample:
    shape = draw(shapes(1))
    axis = draw(axis_of(len(shape)))
    n = shape[axis]
    even = draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0] or [1]))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    how = draw(st.sampled_from((even, cuts, tuple(cuts))))
    return Sample((Input(shape, real),), {"sections_or_indices": how, "axis": axis})


def _rolled(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    shift = draw(st.integers(-5, 5))
    if not shape or draw(st.booleans()):
        return {"shift": shift}
    axes = tuple(draw(st.lists(axis_of(len(shape)), min_size=1, max_size=2)))
    shifts = tuple(draw(st.integers(-5, 5)) for _ in axes)
    return draw(
        st.sampled_from(
            (
                {"shift": shift, "axis": axes[0]},
                {"shift": shifts, "axis": axes},
                {"shift": shift, "axis": axes},
            )
        )
    )


def _padded(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    few = st.integers(0, 2)
    pairs = [(draw(few), draw(few)) for _ in shape]
    width = draw(st.sampled_from((draw(few), (draw(few), draw(few)), pairs or 0, ((1, 2),))))
    return {"pad_width": width, "constant_values": draw(st.sampled_from((0, 1.5, -2)))}


@st.composite
def repeated(draw: Any) -> Sample:
    shape = draw(shapes(1))
    axis = draw(st.sampled_from([None, *range(-len(shape), len(shape))]))
    n = math.prod(shape) if axis is None else shape[axis]
    counts = [draw(st.integers(0, 2)) for _ in range(n)]
    repeats = draw(st.sampled_from((draw(st.integers(0, 3)), counts, [2])))
    return Sample((Input(shape, real),), {"repeats": repeats, "axis": axis})


def _tiled(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    counts = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=4)))
    return {"repetitions": draw(st.sampled_from((counts, counts[0])))}


def _moved(draw: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    pairs = [
        draw(st.lists(axis_of(len(shape)), unique_by=lambda a: a % len(shape), max_size=len(shape)))
        for _ in range(2)
    ]
    n = min(map(len, pairs))
    source, destination = (tuple(axes[:n]) for axes in pairs)
    if n == 1 and draw(st.booleans()):
        return {"source": source[0], "destination": destination[0]}
    return {"source": source, "destination": destination}


@st.composite
def multiplied(draw: Any) -> Sample:
    """Operands of matmul of every rank, vectors included."""
    n, k, m = (draw(lengths) for _ in range(3))
    left, right = draw(broadcasting(2))
    kind = draw(st.sampled_from(("matrices", "weights", "row", "column", "vectors")))
    if kind == "vectors":
        pair = ((k,), (k,))
    elif kind == "row":
        pair = ((k,), (*right, k, m))
    elif kind == "column":
        pair = ((*left, n, k), (k,))
    elif kind == "weights":
        pair = ((*left, n, k), (k, m))
    else:
        pair = ((*left, n, k), (*right, k, m))
    return Sample(tuple(Input(s, real) for s in pair))


@st.composite
def dotted(draw: Any) -> Sample:
    """Operands of vecdot: the same length along ``axis``, others broadcasting."""
    left, right = draw(broadcasting(2))
    n, axis = draw(lengths), -1
    if min(len(left), len(right)) >= 1 and draw(st.booleans()):
        axis = -2
        left, right = (*left[:-1], n, left[-1]), (*right[:-1], n, right[-1])
    else:
        left, right = (*left, n), (*right, n)
    return Sample((Input(left, real), Input(right, real)), {"axis": axis})


@st.composite
def tensordotted(draw: Any) -> Sample:
    shared = draw(shapes(0, 2))
    left, right = draw(shapes(0, 2)), draw(shapes(0, 2))
    n = len(shared)
    if draw(st.booleans()):
        return Sample((Input(left + shared, real), Input(shared + right, real)), {"axes": n})
    mine = draw(st.permutations(range(len(left) + n)))[:n]
    theirs = draw(st.permutations(range(len(right) + n)))[:n]
    first, second = [*left], [*right]
    for a, m in sorted(zip(mine, shared, strict=True)):
        first.insert(a, m)
    for a, m in sorted(zip(theirs, shared, strict=True)):
        second.insert(a, m)
    axes = (
        [draw(st.sampled_from((a, a - len(first)))) for a in mine],
        [draw(st.sampled_from((a, a - len(second)))) for a in theirs],
    )
    return Sample((Input(tuple(first), real), Input(tuple(second), real)), {"axes": axes})


EINSUMS = (
    "ij,jk->ik", "bij,bjk->bik", "ij,ij->", "ij->ji", "ii->i", "ii", "ij->", "i,j->ij", "i,i",
    "ij,j", "bij,kj->bik", "ab,bc,cd->ad", "a,ab,abc->bc", "...i,...i->...", "...ij,jk->...ik",
    "i...->...i", "bhid,bhjd->bhij", "ij,kl->", "i,i,i->i", "aij,bij->ab", "iij->j", "ba",
    "ab,cd->acbd", "i->", "->", "iij,jk", "B...,B->B...", "ij , jk -> ki",
)  # fmt: skip


@st.composite
def einsummed(draw: Any) -> Sample:
    subscripts = draw(st.sampled_from(EINSUMS))
    sizes: dict[str, int] = {}
    dots = draw(shapes(0, 2))
    inputs = []
    for term in subscripts.replace(" ", "").partition("->")[0].split(","):
        letters = [c for c in term if c.isalpha()]
        shape = [sizes.setdefault(c, draw(lengths)) for c in letters]
        if len(set(letters)) == len(letters):  # a length of 1 broadcasts, but not on a diagonal
            shape = [draw(st.sampled_from((n, n, n, 1))) for n in shape]
        if "..." in term:
            own = tuple(draw(st.sampled_from((1, n))) for n in dots)[
                draw(st.integers(0, len(dots))) :
            ]
            at = term.index("...")
            shape[at:at] = own
        inputs.append(Input(tuple(shape), real))
    return Sample(tuple(inputs), {"subscripts": subscripts})


KEYS: tuple[Any, ...] = (
    (0,), (-1, 0), (slice(None, None, -1),), (..., 0), (None, slice(1, None)), (Ellipsis, None),
    ([1, 0, 1],), (slice(None), [0, -1]), ([0, 1], [1, 1]), ([[0], [1]], slice(None), [0, 1]),
    (np.array([[True, False, True], [False, True, True]]),), (1, [0, 2, 2]),
    (slice(0, 0),), (np.zeros((0,), dtype=int),), (),
)  # fmt: skip
"""Keys for arrays of shape (2, 3, 2); ``test_indexing.py`` draws all sorts."""


def beside(x: tg.Tensor, key: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arrays of a key on the backend of x."""
    return tuple(
        tg.tensor(entry, backend=x.backend) if isinstance(entry, np.ndarray) else entry
        for entry in key
    )


@st.composite
def indexed(draw: Any, adds: bool = False) -> Sample:
    key = draw(st.sampled_from(KEYS))
    inputs = [Input((2, 3, 2), real)]
    if adds:
        shape = np.zeros((2, 3, 2))[key].shape
        inputs.append(Input(draw(st.sampled_from((shape, shape[1:], ()))), real))
    return Sample(tuple(inputs), {"key": key})


@st.composite
def taken(draw: Any) -> Sample:
    shape = draw(shapes(1, each=lengths_above_0))
    axis = draw(
        st.sampled_from([*range(-len(shape), len(shape)), *([None] if len(shape) == 1 else [])])
    )
    n = shape[axis or 0]
    places = Input(draw(shapes(0, 2)), integer(-n, n))
    return Sample((Input(shape, real), places), {"axis": axis})


@st.composite
def looked_up(draw: Any) -> Sample:
    shape = draw(shapes(1, each=lengths_above_0))
    return Sample((Input(draw(shapes(0, 2)), integer(0, shape[0])), Input(shape, real)), {})


@st.composite
def taken_along(draw: Any) -> Sample:
    shape = draw(shapes(1, each=lengths_above_0))
    axis = draw(axis_of(len(shape)))
    places = list(shape)
    places[axis] = draw(lengths)
    n = shape[axis]
    return Sample((Input(shape, real), Input(tuple(places), integer(-n, n))), {"axis": axis})


@st.composite
def added_along(draw: Any) -> Sample:
    sample = draw(taken_along())
    x, places = sample.inputs
    return Sample((x, places, Input(places.shape, real)), sample.keywords)


@st.composite
def matrices(
    draw: Any,
    *keywords: dict[str, Any],
    square: bool = False,
    domain: Domain = well_conditioned,
    high: int = 1,
) -> Sample:
    """Matrices, up to ``high`` axes in front of them."""
    n, m = draw(lengths_above_0), draw(lengths_above_0)
    shape = (*draw(shapes(high=high)), n, n if square else m)
    return Sample((Input(shape, domain),), draw(st.sampled_from(keywords or ({},))))


@st.composite
def solved(draw: Any) -> Sample:
    """Square matrices and what they are to give: a vector or matrices; leading axes broadcast."""
    n, k = draw(lengths_above_0), draw(lengths)
    left, right = draw(broadcasting(2))
    shape = draw(st.sampled_from(((n,), (*right[-1:], n, k))))
    return Sample((Input((*left[-1:], n, n), well_conditioned), Input(shape, real)))


@st.composite
def crossed(draw: Any) -> Sample:
    left, right = draw(broadcasting(2))
    return Sample((Input((*left, 3), real), Input((*right, 3), real)))


@st.composite
def searched(draw: Any) -> Sample:
    ascending = lambda rng, shape: np.sort(coarse(rng, shape))  # noqa: E731
    x = Input((draw(lengths_above_0),), ascending)
    side = draw(st.sampled_from(("left", "right")))
    return Sample((x, Input(draw(shapes(0, 2)), coarse)), {"side": side})


@st.composite
def normalised(draw: Any) -> Sample:
    shape = draw(shapes(1, each=st.sampled_from((3, 2, 4))))
    extra = draw(st.integers(0, 2))
    inputs = [Input(shape, far_apart), *(Input(shape[-1:], real) for _ in range(extra))]
    return Sample(tuple(inputs), {"eps": draw(st.sampled_from((1e-5, 0.1)))})


def labels(classes: int) -> Domain:
    """Class numbers, some to be ignored but not the first."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        found = rng.integers(0, classes, size=shape)
        ignored = np.asarray(rng.uniform(size=shape) < 0.3)
        if ignored.size:
            ignored.flat[0] = False
        return np.where(ignored, -100, found)

    return draw


def distribution(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    raw = rng.uniform(0.1, 1, size=shape)
    return raw / raw.sum(axis=1 if len(shape) > 1 else 0, keepdims=True)


REDUCTIONS_OF_LOSSES = st.sampled_from(("mean", "sum", "none"))


@st.composite
def classified(draw: Any, soft: bool = False, smoothed: bool = True) -> Sample:
    classes = draw(st.sampled_from((3, 2, 4)))
    rest = draw(shapes(0, 3, lengths_above_0))
    shape = (*rest[:1], classes, *rest[1:])
    target = Input(shape, distribution) if soft else Input(rest, labels(classes))
    inputs = [Input(shape, real), target]
    if draw(st.booleans()):
        inputs.append(Input((classes,), positive))
    keywords = {"reduction": draw(REDUCTIONS_OF_LOSSES)}
    if smoothed:
        keywords["label_smoothing"] = draw(st.sampled_from((0.0, 0.1, 1.0)))
    return Sample(tuple(inputs), keywords)


@st.composite
def compared(
    draw: Any, first: Domain = real, second: Domain = real, low: int = 0, **options: Any
) -> Sample:
    """An input and a target of the same shape."""
    shape = draw(shapes(low, each=lengths_above_0))
    keywords = {"reduction": draw(REDUCTIONS_OF_LOSSES)}
    keywords |= {name: draw(strategy) for name, strategy in options.items()}
    return Sample((Input(shape, first), Input(shape, second)), keywords)


@st.composite
def weighted(draw: Any, domain: Domain = real) -> Sample:
    """An input, a target and factors, which broadcast to their shape."""
    wide, narrow = draw(broadcasting(2, lengths_above_0))
    shape = np.broadcast_shapes(wide, narrow)
    inputs = (Input(shape, domain), Input(shape, positive), Input(narrow, positive))
    return Sample(inputs, {"reduction": draw(REDUCTIONS_OF_LOSSES)})


@st.composite
def spread(draw: Any) -> Sample:
    """Means, targets and variances, which the last axis may share."""
    shape = draw(shapes(1, each=lengths_above_0))
    shared = draw(st.sampled_from((shape, (*shape[:-1], 1), ())))
    inputs = (Input(shape, real), Input(shape, real), Input(shared, positive))
    return Sample(inputs, {"reduction": draw(REDUCTIONS_OF_LOSSES), "full": draw(st.booleans())})


@st.composite
def directed(draw: Any) -> Sample:
    """Vectors that broadcast, none of them short, and the axis they lie along."""
    pair = draw(broadcasting(2).filter(any))
    axis = draw(axis_of(max(map(len, pair))))
    return Sample(tuple(Input(shape, nonzero) for shape in pair), {"axis": axis})


@st.composite
def embedded(draw: Any) -> Sample:
    shape = draw(shapes(1, 2, lengths_above_0))
    target = Input(shape[:-1], lambda rng, shape: rng.choice((-1, 1, 0), size=shape))
    inputs = (Input(shape, nonzero), Input(shape, nonzero), target)
    return Sample(inputs, {"margin": -2.0, "reduction": draw(REDUCTIONS_OF_LOSSES)})


@st.composite
def aligned(draw: Any, **options: Any) -> Sample:
    """Frames, and labels for them, often too many or repeated, in rows or one after the other."""
    steps, rows, classes = (draw(st.integers(*ends)) for ends in ((1, 4), (1, 3), (2, 3)))
    blank = draw(st.integers(0, classes - 1))
    symbols = [c for c in range(classes) if c != blank]
    target = st.lists(st.sampled_from(symbols), max_size=3)
    targets = [draw(target) for _ in range(rows)]
    keywords = {
        "targets": [c for row in targets for c in row],
        "input_lengths": [max(0, steps - draw(st.sampled_from((0, 0, 1, 4)))) for _ in targets],
        "target_lengths": [len(row) for row in targets],
        "blank": blank,
        "reduction": draw(REDUCTIONS_OF_LOSSES),
    }
    if draw(st.booleans()):
        keywords["targets"] = np.array([row + [-7] * (4 - len(row)) for row in targets])
    keywords |= {name: draw(strategy) for name, strategy in options.items()}
    return Sample((Input((steps, rows, classes), logarithm),), keywords)


@st.composite
def attended(draw: Any, *mask: Domain) -> Sample:
    """Queries, keys and values, and perhaps a mask, which may be the same for all queries."""
    left, middle, right = draw(broadcasting(3))
    n, m, e, v = (draw(lengths) for _ in range(4))
    inputs = [Input((*left, n, e), real), Input((*middle, m, e), real), Input((*right, m, v), real)]
    leading = draw(st.sampled_from(((), np.broadcast_shapes(left, middle, right))))
    inputs += [Input((*leading, draw(st.sampled_from((1, n))), m), domain) for domain in mask]
    scale, is_causal = draw(st.sampled_from((None, 0.7))), draw(st.booleans())
    return Sample(tuple(inputs), {"scale": scale, "is_causal": is_causal})


# References that NumPy does not have under one name.


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _logsumexp(x: Array, axis: Any, keepdims: bool) -> Array:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def _softmax(x: Array, axis: int = -1) -> Array:
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _layer_norm(x: Array, weight: Any = 1, bias: Any = 0, *, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return (centred / np.sqrt(x.var(axis=-1, keepdims=True) + eps) * weight + bias).astype(x.dtype)


def _log_softmax(x: Array, axis: int = -1) -> Array:
    return np.log(_softmax(x, axis))


def _cross_entropy(
    x: Array,
    target: Array,
    weight: Any = None,
    *,
    reduction: str,
    label_smoothing: float = 0.0,
    log_probabilities: Callable[[Array], Array] = _log_softmax,
) -> Array:
    """One row at a time, as the definition reads."""
    classes = x.shape[1 if x.ndim > 1 else 0]
    weight = np.ones(classes, x.dtype) if weight is None else weight
    soft = target.dtype.kind == "f"
    rows = np.moveaxis(x, 1 if x.ndim > 1 else 0, -1).reshape(-1, classes)
    wanted = (
        np.moveaxis(target, 1 if x.ndim > 1 else 0, -1).reshape(-1, classes)
        if soft
        else target.ravel()
    )
    losses, divisor = [], 0.0
    for row, goal in zip(rows, wanted, strict=True):
        log_p = log_probabilities(row)
        if not soft and goal == -100:
            losses.append(0.0)
            continue
        hot = goal if soft else np.eye(classes)[goal]
        mixed = (1 - label_smoothing) * hot + label_smoothing / classes
        losses.append(-np.sum(mixed * weight * log_p))
        divisor += 1 if soft else weight[goal]
    total = np.array(losses, dtype=x.dtype)
    if reduction == "none":
        return total.reshape(
            target.shape if not soft else np.moveaxis(x, 1 if x.ndim > 1 else 0, -1).shape[:-1]
        )
    return (
        np.sum(total) if reduction == "sum" else np.asarray(np.sum(total) / divisor, dtype=x.dtype)
    )


def _reduced(losses: Callable[..., Array]) -> Callable[..., Any]:
    def reduced(*arrays: Array, reduction: str, **keywords: Any) -> Any:
        found = losses(*arrays, **keywords)
        if reduction == "batchmean":
            return np.sum(found) / len(found)
        return found if reduction == "none" else getattr(np, reduction)(found)

    return reduced


def _smooth_l1(x: Array, target: Array, beta: float) -> Array:
    d = np.abs(x - target)
    return np.where(d < beta, d**2 / (2 * beta), d - beta / 2).astype(d.dtype)


def _binary_cross_entropy(x: Array, target: Array, weight: Any = 1, pos_weight: Any = 1) -> Array:
    p = _sigmoid(x)
    return -weight * (pos_weight * target * np.log(p) + (1 - target) * np.log(1 - p))


def _gaussian_nll(mean: Array, y: Array, var: Array, full: bool) -> Array:
    exponent = (y - mean) ** 2 / (2 * var)
    density = np.exp(-exponent) / np.sqrt((2 * math.pi if full else 1.0) * var)
    return -np.log(density)


def _kl_div(log_q: Array, target: Array, log_target: bool = False) -> Array:
    p = np.exp(target) if log_target else target
    return p * (np.log(p) - log_q)


def _cosine(x: Array, y: Array, axis: int = -1) -> Array:
    x, y = np.broadcast_arrays(x, y)
    norms = [np.maximum(np.sqrt(np.sum(z * z, axis=axis)), 1e-8) for z in (x, y)]
    return np.sum(x * y, axis=axis) / (norms[0] * norms[1])


def _cosine_embedding(x: Array, y: Array, target: Array, margin: float) -> Array:
    cosine = _cosine(x, y)
    unlike = np.where(target == -1, np.maximum(cosine - margin, 0), 0)
    return np.where(target == 1, 1 - cosine, unlike).astype(cosine.dtype)


def _ctc(
    log_probs: Array,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int,
    reduction: str,
    zero_infinity: bool = False,
) -> Array:
    """Every alignment of every row, as the definition reads."""
    targets = np.asarray(targets)
    ends = np.cumsum(target_lengths)
    losses = []
    for row, (frames, size) in enumerate(zip(input_lengths, target_lengths, strict=True)):
        begin = ends[row] - size
        flat = targets[begin : begin + size] if targets.ndim == 1 else targets[row, :size]
        wanted = [int(c) for c in flat]
        total = 0.0
        for symbols in product(range(log_probs.shape[2]), repeat=frames):
            if [c for c, _ in groupby(symbols) if c != blank] == wanted:
                total += math.exp(sum(log_probs[t, row, c] for t, c in enumerate(symbols)))
        loss = -math.log(total) if total else math.inf
        losses.append(0.0 if zero_infinity and not total else loss)
    found = np.array(losses)
    if reduction == "mean":
        found = found / np.maximum(target_lengths, 1)
    out = found if reduction == "none" else getattr(np, reduction)(found)
    return np.asarray(out, dtype=log_probs.dtype)


def _attention(
    query: Array, key: Array, value: Array, mask: Any = None, *, scale: Any, is_causal: bool
) -> Array:
    scores = np.matmul(query, np.swapaxes(key, -1, -2))
    scores = scores * (1 / math.sqrt(query.shape[-1] or 1) if scale is None else scale)
    allowed = np.ones(scores.shape, bool)
    if is_causal:
        allowed &= np.tril(np.ones(scores.shape[-2:], bool))
    if mask is not None and mask.dtype.kind == "b":
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask
    powers = np.exp(scores) * allowed
    total = np.sum(powers, axis=-1, keepdims=True)
    return np.matmul(powers / np.where(total == 0, 1, total).astype(powers.dtype), value)


def _add_along(x: Array, places: Array, values: Array, axis: int) -> Array:
    grid = list(np.indices(places.shape))
    grid[axis] = places
    return _add_at(x, values, tuple(grid))


def _add_at(x: Array, values: Array, key: Any) -> Array:
    out = x.copy()
    np.add.at(out, key, values)
    return out


def _set_at(x: Array, values: Array, key: Any) -> Array:
    out = x.copy()
    out[key] = values
    return out


def _positional(f: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """``f`` with some of its keywords passed by position instead."""

    def call(*arrays: Any, **keywords: Any) -> Any:
        positional = [keywords.pop(name) for name in names]
        return f(*arrays, *positional, **keywords)

    return call


def _symmetric(f: Callable[..., Any], xp: Any, shift: float) -> Callable[..., Any]:
    """``f`` of the symmetric ``x @ x.mT + shift``, positive definite for a shift above 0."""
    return lambda x, **keywords: f(
        x @ xp.matrix_transpose(x) + shift * xp.eye(x.shape[-1], dtype=x.dtype, **_beside(x)),
        **keywords,
    )


def _beside(x: Any) -> dict[str, Any]:
    return {"backend": x.backend} if isinstance(x, tg.Tensor) else {}


def _unsigned(parts: Any) -> list[Any]:
    """Of what a factorization returns, squares of what has no sign, and products of what has."""
    return [part * part for part in parts]


def _descending(f: Any, x: Array, axis: int, descending: bool, stable: bool = True) -> Array:
    return f(-x, axis=axis, stable=True) if descending else f(x, axis=axis, stable=True)


def _sorted(x: Array, axis: int, descending: bool) -> Array:
    return np.flip(np.sort(x, axis=axis), axis=axis) if descending else np.sort(x, axis=axis)


def _cumulative(x: Array, axis: int, include_initial: bool) -> Array:
    return np.cumulative_prod(x, axis=axis, include_initial=include_initial)


def _vector_norm(x: Array, axis: Any, keepdims: bool, ord: Any) -> Array:
    return np.linalg.vector_norm(x, axis=axis, keepdims=keepdims, ord=ord)


def _sequence(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays, **keywords: f(arrays, **keywords)


# Windows, and what is made of them: place by place, as the definitions read.


@st.composite
def windowed(draw: Any, n: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Lengths of n axes, and what fits into them."""
    sizes = tuple(draw(st.sampled_from((2, 1, 3))) for _ in range(n))
    strides = tuple(draw(st.sampled_from((1, 2))) for _ in range(n))
    dilations = tuple(draw(st.sampled_from((1, 2))) for _ in range(n))
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, sizes, strict=True)]
    reach = tuple(span + draw(st.integers(0, 2)) for span in spans)
    return reach, {"sizes": sizes, "strides": strides, "dilations": dilations}


@st.composite
def seen_in_windows(draw: Any, back: bool = False) -> Sample:
    reach, options = draw(windowed(draw(st.sampled_from((1, 2)))))
    ahead, channels = draw(shapes(0, 1)), draw(lengths)
    shape = (*ahead, *reach, channels)
    if back:
        shape = _windows(np.zeros(shape), **options).shape
        options = {"lengths": reach, **options}
    return Sample((Input(shape, real),), options)


def _windows(x: Array, sizes: Any, strides: Any, dilations: Any) -> Array:
    n = len(sizes)
    axes = tuple(range(x.ndim - n - 1, x.ndim - 1))
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, sizes, strict=True)]
    found = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    steps = tuple(slice(None, None, stride) for stride in strides)
    within = tuple(slice(None, None, dilation) for dilation in dilations)
    return np.moveaxis(found[(..., *steps, slice(None), *within)], -n - 1, -1)


def _overlap_add(x: Array, lengths: Any, **options: Any) -> Array:
    """The numbers of elements, seen in windows, say where each one came from."""
    n = len(lengths)
    shape = (*x.shape[: -2 * n - 1], *lengths, x.shape[-1])
    out = np.zeros(math.prod(shape), dtype=x.dtype)
    numbers = np.arange(out.size).reshape(shape)
    np.add.at(out, _windows(numbers, **options), x)
    return out.reshape(shape)


@st.composite
def convolved(draw: Any, n: int) -> Sample:
    reach, options = draw(windowed(n))
    groups = draw(st.sampled_from((1, 1, 2)))
    inputs, outputs = draw(st.sampled_from((1, 2))), groups * draw(st.sampled_from((1, 2)))
    padding: Any = draw(st.sampled_from((0, 1, "valid", "same", (1,) * n)))
    stride = 1 if padding == "same" else options["strides"]
    ahead = draw(shapes(0, 1))
    keywords = {"stride": stride, "padding": padding, "dilation": options["dilations"]}
    return Sample(
        (
            Input((*ahead, groups * inputs, *reach), real),
            Input((outputs, inputs, *options["sizes"]), real),
            Input((outputs,), real),
        ),
        {**keywords, "groups": groups},
    )


def _convolution(n: int) -> Callable[..., Array]:
    def convolve(
        x: Array, w: Array, b: Array, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Array:
        sizes = w.shape[2:]
        strides = (stride,) * n if isinstance(stride, int) else stride
        widths = [(p, p) for p in (padding if isinstance(padding, tuple) else (padding,) * n)]
        if padding == "same":
            spans = [d * (k - 1) for d, k in zip(dilation, sizes, strict=True)]
            widths = [(span // 2, span - span // 2) for span in spans]
        elif padding == "valid":
            widths = [(0, 0)] * n
        x = np.pad(x, [(0, 0)] * (x.ndim - n) + widths)
        share, outputs = w.shape[1], w.shape[0]
        seen = _windows(np.moveaxis(x, -n - 1, -1), sizes, strides, dilation)
        parts = []
        for o in range(outputs):
            first = o // (outputs // groups) * share
            axes = tuple(range(-n - 1, 0))
            kernel = np.moveaxis(w[o], 0, -1)
            parts.append(np.sum(seen[..., first : first + share] * kernel, axis=axes) + b[o])
        return np.stack(parts, axis=-n - 1)

    return convolve


@st.composite
def pooled(draw: Any, n: int, domain: Domain = real, **others: Any) -> Sample:
    reach, options = draw(windowed(n))
    size = draw(st.sampled_from((options["sizes"], options["sizes"][0])))
    sizes = (size,) * n if isinstance(size, int) else size
    half = min(k // 2 for k in sizes)
    keywords = {
        "kernel_size": size,
        "stride": draw(st.sampled_from((None, options["strides"], 2))),
        "padding": draw(st.integers(0, half)),
        **{name: draw(strategy) for name, strategy in others.items()},
    }
    spans = [keywords.get("dilation", 1) * (k - 1) + 1 for k in sizes]
    shape = tuple(map(max, reach, spans))
    return Sample((Input((*draw(shapes(0, 2)), *shape), domain),), keywords)


def _pool(n: int, reduce: Any, fill: float) -> Callable[..., Array]:
    def pool(
        x: Array,
        kernel_size: Any,
        stride: Any,
        padding: int,
        dilation: int = 1,
        count_include_pad: bool = True,
    ) -> Array:
        sizes = (kernel_size,) * n if isinstance(kernel_size, int) else kernel_size
        strides = sizes if stride is None else (stride,) * n if isinstance(stride, int) else stride
        fill_with = fill if count_include_pad else np.nan
        widths = [(0, 0)] * (x.ndim - n) + [(padding, padding)] * n
        x = np.pad(x, widths, constant_values=fill_with)[..., None]
        seen = _windows(x, sizes, strides, (dilation,) * n)[..., 0]
        return (reduce if count_include_pad else np.nanmean)(seen, axis=tuple(range(-n, 0)))

    return pool


@st.composite
def some_of_the_largest(draw: Any) -> Sample:
    shape = draw(shapes(1))
    axis = draw(axis_of(len(shape)))
    k = draw(st.integers(0, shape[axis]))
    return Sample((Input(shape, distinct),), {"k": k, "axis": axis, "largest": draw(st.booleans())})


def _topk(x: Array, k: int, axis: int, largest: bool) -> Array:
    return np.take(_sorted(x, axis, largest), range(k), axis=axis)


def _first_kept(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.concat([np.ones((1, *shape[1:]), bool), rng.uniform(size=shape) < 0.5])[: shape[0]]


@st.composite
def masked(draw: Any) -> Sample:
    """A mask of the first axes, and axes of which the first is one, so that something is left."""
    shape = draw(shapes(1, 3, lengths_above_0))
    others = draw(st.lists(st.sampled_from(range(len(shape))), unique=True))
    axis = draw(st.sampled_from((None, 0, -len(shape), tuple({0, *others}))))
    keywords = {"axis": axis, "keepdims": draw(st.booleans())}
    given = shape[: draw(st.integers(1, len(shape)))]
    return Sample((Input(shape, real), Input(given, _first_kept)), keywords)


def _masked_mean(x: Array, mask: Array, axis: Any, keepdims: bool) -> Array:
    wide = np.broadcast_to(mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), x.shape)
    return np.mean(x, axis=axis, keepdims=keepdims, where=wide)


@st.composite
def mixed(draw: Any, parts: int, correlated: bool = False) -> Sample:
    ahead, k = draw(shapes(0, 1, lengths_above_0)), draw(lengths_above_0)
    d = 2 if correlated else draw(lengths_above_0)
    wide = [Input((*ahead, k, d), inside_one)] * parts
    last = [Input((*ahead, k), inside_one)] if correlated else []
    inputs = (Input((*ahead, k), real), *wide, Input((*ahead, d), probability), *last)
    return Sample(inputs, {"reduction": draw(st.sampled_from(("mean", "sum", "none")))})


def _gaussian_mixture(
    logits: Array, mean: Array, log_std: Array, target: Array, rho: Any = None
) -> Array:
    """The density of Graves 2013, section 4.1, as it stands."""
    std, target = np.exp(log_std), target[..., None, :]
    if rho is None:
        one = np.exp(-0.5 * ((target - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        density = np.prod(one, axis=-1)
    else:
        (z1, z2), (s1, s2) = (np.moveaxis(a, -1, 0) for a in ((target - mean) / std, std))
        z = z1**2 + z2**2 - 2 * rho * z1 * z2
        density = np.exp(-z / (2 * (1 - rho**2))) / (2 * math.pi * s1 * s2 * np.sqrt(1 - rho**2))
    return -np.log(np.sum(_softmax(logits, -1) * density, axis=-1))


def _bernoulli_mixture(logits: Array, bits: Array, target: Array) -> Array:
    p, target = _sigmoid(bits), target[..., None, :]
    each = np.prod(p**target * (1 - p) ** (1 - target), axis=-1)
    return -np.log(np.sum(_softmax(logits, -1) * each, axis=-1))


# The table. References are NumPy functions of the same name unless given.

BOTH = (0, 1)

BINARY = (
    Row("add", several(real, real), argnums=BOTH, integers=True),
    Row("subtract", several(real, real), argnums=BOTH, integers=True),
    Row("multiply", several(real, real), argnums=BOTH, integers=True),
    Row("divide", several(real, nonzero), argnums=BOTH),
    Row("pow", several(positive, real), argnums=BOTH),
    Row("floor_divide", several(real, nonzero), argnums=()),
    Row("remainder", several(between_integers, divisor), argnums=BOTH),
    Row("maximum", several(grid(0), grid(0.2)), argnums=BOTH, integers=True),
    Row("minimum", several(grid(0), grid(0.2)), argnums=BOTH, integers=True),
)

COMPARISONS = tuple(
    Row(name, several(coarse, coarse), argnums=(), integers=True)
    for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
)

UNARY = (
    Row("negative", one(), integers=True),
    Row("positive", one(), integers=True),
    Row("abs", one(nonzero), integers=True),
    Row("sign", one(nonzero), integers=True),
    Row("exp", one()),
    Row("expm1", one()),
    Row("log", one(positive)),
    Row("log1p", one(above_minus_one)),
    Row("sqrt", one(positive)),
    Row("square", one(), integers=True),
    Row("sin", one()),
    Row("cos", one()),
    Row("tanh", one()),
    Row("sigmoid", one(), _sigmoid),
    Row("softplus", one(), lambda x: np.log1p(np.exp(x))),
    Row("erf", one(), _erf),
    Row("relu", one(nonzero), lambda x: np.maximum(x, 0)),
    Row("isnan", one(special), argnums=()),
    Row("isinf", one(special), argnums=()),
    Row("isfinite", one(special), argnums=()),
    Row("floor", one(coarse), argnums=()),
    Row("ceil", one(coarse), argnums=()),
    Row("trunc", one(coarse), argnums=()),
    Row("round", one(coarse), argnums=()),
    Row("logical_not", one(boolean), argnums=()),
)

_cast = (_positional(np.astype, "dtype"), _positional(tg.astype, "dtype"))

CHOICES = (
    Row("where", several(boolean, real, real), argnums=(1, 2)),
    Row("clip", options({"min": -0.7}, {"max": 0.8}, {"min": -0.7, "max": 0.8}, domain=grid(0)),
        lambda x, min=None, max=None: np.clip(x, min, max)),
    Row("clip", several(grid(0), grid(0.1), grid(0.3)), argnums=(0, 1, 2), variant="tensors"),
    Row("logical_and", several(boolean, boolean), argnums=()),
    Row("logical_or", several(boolean, boolean), argnums=()),
    Row("logical_xor", several(boolean, boolean), argnums=()),
    Row("astype", options({"dtype": "float64"}), *_cast),
    Row("astype", options({"dtype": "int32"}, {"dtype": "bool"}, {"dtype": np.int8}, domain=coarse),
        *_cast, argnums=(), variant="away"),
)  # fmt: skip

SPREAD = st.sampled_from((2, 3, 4))  # lengths of axes along which there is a variance

REDUCTIONS = (
    Row("sum", reduced(), integers=True),
    Row("mean", reduced(each=lengths_above_0)),
    Row("max", reduced(distinct, lengths_above_0), integers=True),
    Row("min", reduced(distinct, lengths_above_0), integers=True),
    Row("prod", reduced(), integers=True),
    Row("var", reduced(each=SPREAD, correction=st.sampled_from((0.0, 0.5)))),
    Row("std", reduced(far_apart, SPREAD, correction=st.just(0.0)).filter(
        lambda s: s.inputs[0].shape and s.keywords["axis"] != ())),
    Row("logsumexp", reduced(each=lengths_above_0), _logsumexp),
    Row("cumulative_sum", along(include_initial=st.booleans()), integers=True),
    Row("any", reduced(boolean), argnums=()),
    Row("all", reduced(boolean), argnums=()),
    Row("argmax", along(coarse, lengths_above_0, True, keepdims=st.booleans()),
        argnums=(), integers=True),
    Row("argmin", along(coarse, lengths_above_0, True, keepdims=st.booleans()),
        argnums=(), integers=True),
)  # fmt: skip

MOVEMENT = (
    Row("reshape", keyword(_reshaped), integers=True),
    Row("broadcast_to", broadcasted(), integers=True),
    Row("broadcast_arrays", several(real, real), argnums=BOTH),
    Row("permute_dims", keyword(_permuted), integers=True),
    Row("moveaxis", keyword(_moved, 1), call=_positional(tg.moveaxis, "source", "destination")),
    Row("matrix_transpose", one(low=2), integers=True),
    Row("expand_dims", keyword(_expanded), integers=True),
    Row("squeeze", squeezed(), integers=True),
    Row("flip", keyword(lambda draw, shape: {"axis": draw(axes_of(len(shape)))}), integers=True),
    Row("concat", joined(False), _sequence(np.concat), _sequence(tg.concat),
        argnums=(0, 1, 2), integers=True),
    Row("concat", several(real, real), _sequence(partial(np.concat, axis=None)),
        _sequence(partial(tg.concat, axis=None)), argnums=BOTH, variant="flattened"),
    Row("stack", joined(True), _sequence(np.stack), _sequence(tg.stack),
        argnums=(0, 1, 2), integers=True),
    Row("unstack", along(), integers=True),
    Row("split", splitted(), _positional(np.split, "sections_or_indices"), integers=True),
    Row("roll", keyword(_rolled), integers=True),
    Row("pad", keyword(_padded)),
    Row("repeat", repeated(), integers=True),
    Row("tile", keyword(_tiled), _positional(np.tile, "repetitions"), integers=True),
)  # fmt: skip

CONTRACTIONS = (
    Row("matmul", multiplied(), argnums=BOTH, integers=True),
    Row("outer", several(real, real), argnums=BOTH, integers=True),
    Row("vecdot", dotted(), argnums=BOTH, integers=True),
    Row("tensordot", tensordotted(), argnums=BOTH, integers=True),
    Row("einsum", einsummed(), lambda *xs, subscripts: np.einsum(subscripts, *xs),
        lambda *xs, subscripts: tg.einsum(subscripts, *xs), argnums=(0, 1, 2), integers=True),
)  # fmt: skip

INDEXING = (
    Row("getitem", indexed(), lambda x, key: x[key], lambda x, key: x[beside(x, key)],
        integers=True),
    Row("index_add", indexed(True), _add_at, lambda x, v, key: x.at[beside(x, key)].add(v),
        argnums=BOTH),
    Row("getitem", indexed(True), _set_at, lambda x, v, key: x.at[beside(x, key)].set(v),
        argnums=BOTH, variant="set"),
    Row("take", taken()),
    Row("take_along_axis", taken_along()),
    Row("add_along_axis", added_along(), _add_along, argnums=(0, 2)),
)  # fmt: skip

COMPOSITIONS = (
    Row("softmax", along(), _softmax),
    Row("log_softmax", along(), _log_softmax),
    Row("gelu", options({}, {"approximate": "tanh"}, {"approximate": "none"}), _gelu),
    Row("silu", one(), lambda x: x * _sigmoid(x)),
    Row("leaky_relu", options({}, {"negative_slope": 0.3}, domain=nonzero),
        lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x)),
    Row("elu", options({}, {"alpha": 0.5}, domain=nonzero),
        lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x))),
    Row("hardsigmoid", one(between_integers), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    Row("logsigmoid", one(), lambda x: -np.log1p(np.exp(-x))),
    Row("embedding", looked_up(), lambda x, weight: weight[x], argnums=(1,)),
    Row("embedding", looked_up(), lambda x, weight: weight[x],
        lambda x, weight: tg.embedding(x, weight, sparse=True), argnums=(1,), variant="sparse"),
    Row("glu", along(each=st.sampled_from((2, 4, 0))),
        lambda x, axis: np.split(x, 2, axis)[0] * _sigmoid(np.split(x, 2, axis)[1])),
    Row("layer_norm", normalised(), _layer_norm, argnums=(0, 1, 2)),
    Row("cross_entropy", classified(), _cross_entropy, argnums=(0, 2)),
    Row("cross_entropy", classified(soft=True), _cross_entropy, argnums=(0, 1, 2), variant="soft"),
    Row("nll_loss", classified(smoothed=False),
        partial(_cross_entropy, log_probabilities=lambda row: row), argnums=(0, 2)),
    Row("mse_loss", compared(), _reduced(lambda x, y: (x - y) ** 2), argnums=BOTH),
    Row("l1_loss", compared(grid(0), grid(0.2)), _reduced(lambda x, y: np.abs(x - y)),
        argnums=BOTH),
    Row("smooth_l1_loss", compared(grid(0), grid(0.2), beta=st.sampled_from((1.0, 0.5))),
        _reduced(_smooth_l1), argnums=BOTH),
    Row("huber_loss", compared(grid(0), grid(0.2), delta=st.sampled_from((1.0, 0.5))),
        _reduced(lambda x, y, delta: delta * _smooth_l1(x, y, delta)), argnums=BOTH),
    Row("binary_cross_entropy_with_logits", weighted(), _reduced(_binary_cross_entropy),
        argnums=(0, 1, 2)),
    Row("binary_cross_entropy_with_logits", weighted(),
        _reduced(lambda x, y, w: _binary_cross_entropy(x, y, pos_weight=w)),
        lambda x, y, w, reduction: tg.binary_cross_entropy_with_logits(
            x, y, reduction=reduction, pos_weight=w),
        argnums=(0, 1, 2), variant="pos_weight"),
    Row("binary_cross_entropy", weighted(probability), _reduced(
        lambda x, y, w: -w * (y * np.log(x) + (1 - y) * np.log(1 - x))), argnums=(0, 1, 2)),
    Row("gaussian_nll_loss", spread(), _reduced(_gaussian_nll), argnums=(0, 1, 2)),
    Row("kl_div", compared(second=positive), _reduced(_kl_div), argnums=BOTH),
    Row("kl_div", compared(low=1, log_target=st.just(True), reduction=st.just("batchmean")),
        _reduced(_kl_div), argnums=BOTH, variant="log_target"),
    Row("cosine_similarity", directed(), _cosine, argnums=BOTH),
    Row("cosine_embedding_loss", embedded(), _reduced(_cosine_embedding), argnums=BOTH),
    Row("ctc_loss", aligned(zero_infinity=st.just(True)), _ctc),
    Row("scaled_dot_product_attention", attended(), _attention, argnums=(0, 1, 2)),
    Row("scaled_dot_product_attention", attended(boolean), _attention, argnums=(0, 1, 2),
        variant="masked"),
    Row("scaled_dot_product_attention", attended(real), _attention, argnums=(0, 1, 2, 3),
        variant="biased"),
)  # fmt: skip

CREATED = (
    Row("zeros_like", one(), argnums=()),
    Row("ones_like", one(), argnums=()),
    Row("full_like", options({"fill_value": 2.5}), argnums=()),
    Row("tril", options({}, {"k": 1}, {"k": -1}, low=2), integers=True),
    Row("triu", options({}, {"k": 1}, {"k": -1}, low=2), integers=True),
    Row("one_hot", options({"num_classes": 4}, domain=integer(0, 4)),
        lambda x, num_classes: np.eye(num_classes, dtype="float32")[x], argnums=()),
)  # fmt: skip

LA = np.linalg

BITS = tuple(
    Row(name, several(integer(-9, 9), integer(0, 5)), argnums=())
    for name in [
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "bitwise_left_shift",
        "bitwise_right_shift",
    ]
)

STANDARD = (
    Row("tan", one(inside_one)),
    Row("asin", one(inside_one)),
    Row("acos", one(inside_one)),
    Row("atan", one()),
    Row("atan2", several(real, nonzero), argnums=BOTH),
    Row("sinh", one()),
    Row("cosh", one()),
    Row("asinh", one()),
    Row("acosh", one(above_one)),
    Row("atanh", one(inside_one)),
    Row("log2", one(positive)),
    Row("log10", one(positive)),
    Row("logaddexp", several(real, real), argnums=BOTH),
    Row("hypot", several(real, nonzero), argnums=BOTH),
    Row("copysign", several(nonzero, nonzero)),
    Row("signbit", one(special), argnums=()),
    Row("nextafter", several(real, real), argnums=()),
    Row("reciprocal", one(nonzero)),
    Row("conj", one()),
    Row("real", one()),
    Row("imag", one(), np.zeros_like, argnums=()),
    *BITS,
    Row("bitwise_invert", one(integer(-9, 9)), argnums=()),
    Row("astype", options({"dtype": "float64"}), lambda x, dtype: x.astype(dtype),
        lambda x, dtype: tg.astype(x, dtype, copy=True), variant="copy"),
    Row("cumulative_prod", along(with_zeros, include_initial=st.booleans()), _cumulative,
        integers=True),
    Row("diff", along(n=st.sampled_from((1, 0, 2))), lambda x, axis, n: np.diff(x, n, axis)),
    Row("meshgrid", joined(True).filter(lambda s: len(s.inputs[0].shape) == 1).map(
        lambda s: Sample(s.inputs, {"indexing": "ij" if s.keywords["axis"] else "xy"})),
        argnums=(0, 1, 2)),
    Row("argsort", along(coarse, descending=st.booleans(), stable=st.just(True)),
        partial(_descending, np.argsort), argnums=()),
    Row("sort", along(distinct, descending=st.booleans()), _sorted, integers=True),
    Row("searchsorted", searched(), argnums=()),
    Row("count_nonzero", reduced(coarse), argnums=(), integers=True),
)  # fmt: skip

LINALG = (
    Row("inv", matrices(square=True), LA.inv, tg.linalg.inv),
    Row("solve", solved(), LA.solve, tg.linalg.solve, argnums=BOTH),
    Row("det", matrices(square=True), LA.det, tg.linalg.det),
    Row("slogdet", matrices(square=True), LA.slogdet, tg.linalg.slogdet),
    Row("pinv", matrices(), LA.pinv, tg.linalg.pinv),
    Row("cholesky", matrices({}, {"upper": True}, square=True),
        _symmetric(LA.cholesky, np, 1.0), _symmetric(tg.linalg.cholesky, tg, 1.0)),
    Row("qr", matrices(), LA.qr, tg.linalg.qr),
    Row("eigh", matrices(square=True), _symmetric(lambda x: _unsigned(LA.eigh(x)), np, 0.0),
        _symmetric(lambda x: _unsigned(tg.linalg.eigh(x)), tg, 0.0)),
    Row("eigvalsh", matrices(square=True), _symmetric(LA.eigvalsh, np, 0.0),
        _symmetric(tg.linalg.eigvalsh, tg, 0.0)),
    Row("svd", matrices(), lambda x: _unsigned(LA.svd(x, full_matrices=False)),
        lambda x: _unsigned(tg.linalg.svd(x, full_matrices=False))),
    Row("svdvals", matrices(), LA.svdvals, tg.linalg.svdvals),
    Row("vector_norm", reduced(nonzero, lengths_above_0,
        ord=st.sampled_from((2, 1, 3, 2.5, 0.5, -1, 0))).filter(
            lambda s: s.keywords["axis"] != () and s.inputs[0].shape), _vector_norm,
        tg.linalg.vector_norm),
    Row("vector_norm", reduced(distinct, lengths_above_0, ord=st.sampled_from((np.inf, -np.inf)))
        .filter(lambda s: s.keywords["axis"] != () and s.inputs[0].shape), _vector_norm,
        tg.linalg.vector_norm, variant="extreme"),
    Row("matrix_norm", matrices({}, *({"ord": o, "keepdims": k} for k in (False, True)
        for o in ("nuc", 2, -2, 1, -1, np.inf, -np.inf))), LA.matrix_norm, tg.linalg.matrix_norm),
    Row("matrix_rank", matrices(), LA.matrix_rank, tg.linalg.matrix_rank, argnums=()),
    Row("diagonal", matrices(*({"offset": k} for k in (0, 1, -1, 5)), domain=real), LA.diagonal,
        tg.linalg.diagonal, integers=True),
    Row("trace", matrices(*({"offset": k} for k in (0, 1, -1, 5)), domain=real), LA.trace,
        tg.linalg.trace, integers=True),
    Row("matrix_power", matrices(*({"n": n} for n in (0, 1, 2, 5, -1, -2)), square=True),
        _positional(LA.matrix_power, "n"), _positional(tg.linalg.matrix_power, "n")),
    Row("cross", crossed(), LA.cross, tg.linalg.cross, argnums=BOTH, integers=True),
)  # fmt: skip

WINDOWS = (
    Row("windows", seen_in_windows(), _windows, integers=True),
    Row("overlap_add", seen_in_windows(back=True), _overlap_add, integers=True),
    Row("conv1d", convolved(1), _convolution(1), argnums=(0, 1, 2)),
    Row("conv2d", convolved(2), _convolution(2), argnums=(0, 1, 2)),
    Row("max_pool1d", pooled(1, distinct, dilation=st.sampled_from((1, 2))),
        _pool(1, np.max, -math.inf)),
    Row("max_pool2d", pooled(2, distinct), _pool(2, np.max, -math.inf)),
    Row("avg_pool1d", pooled(1, count_include_pad=st.booleans()), _pool(1, np.mean, 0.0)),
    Row("avg_pool2d", pooled(2, count_include_pad=st.booleans()), _pool(2, np.mean, 0.0)),
    Row("topk", some_of_the_largest(), _topk, lambda x, **options: tg.topk(x, **options).values),
    Row("masked_mean", masked(), _masked_mean),
    Row("gaussian_mixture_nll_loss", mixed(2), _reduced(_gaussian_mixture), argnums=(0, 1, 2, 3)),
    Row("gaussian_mixture_nll_loss", mixed(2, correlated=True), _reduced(_gaussian_mixture),
        argnums=(0, 1, 2, 3, 4), variant="correlated"),
    Row("bernoulli_mixture_nll_loss", mixed(1), _reduced(_bernoulli_mixture), argnums=(0, 1, 2)),
)  # fmt: skip

ROWS = (
    *WINDOWS,
    *(*BINARY, *COMPARISONS, *UNARY, *CHOICES, *REDUCTIONS, *MOVEMENT),
    *(*CONTRACTIONS, *INDEXING, *COMPOSITIONS, *CREATED, *STANDARD, *LINALG),
)

DIFFERENTIABLE = tuple(row for row in ROWS if row.argnums)

CREATION = "arange asarray empty empty_like eye full linspace ones tensor zeros"
ELSEWHERE = dict.fromkeys(CREATION.split(), "test_creation") | {
    "dropout": "test_dropout: it draws random numbers",
    "gumbel_softmax": "tests/test_random.py: it draws random numbers",
    "rsample_normal": "tests/functional/test_sampling.py: it draws random numbers",
    "straight_through": "tests/functional/test_sampling.py: its gradient is another's",
    "sequence_mask": "tests/functional/test_masks.py: it takes lengths",
    "from_dlpack": "tests/test_interop.py: it takes what other libraries hold",
    "result_type": "test_result_type: it takes dtypes",
    **dict.fromkeys(
        ["nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"],
        "test_sorting.py: how much they return depends on values",
    ),
    "to": "test_to_moves_and_its_cotangent_comes_back: it takes a backend",
}
"""Public functions without a row, and the test of test_op_table.py that they have instead."""
