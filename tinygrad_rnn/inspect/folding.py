"""The folded graph: a recurrent computation drawn with its loop, whoever wrote the loop.

``fold(y)`` looks for stretches of a graph that repeat: the same operations, of the same shapes,
that read each other in the same way, step after step. Nobody declares a loop, and none has to be
run by ``unroll``: what is found is what the graph is. Every argument of a repeated operation moves
by a constant number of operations from one iteration to the next, its *stride*, and the stride says
what it is:

* 0: the same value at each step, a shared weight;
* the length of the body: a value of the same iteration or, further back, a loop edge with its lag;
* an output of one operation, its index moving by 1 or -1: a series read forwards or backwards;
* another constant: a value of another loop, step by step.

So a folded graph is exact: ``unfold`` gives back each operation and each argument. Strides are
verified, not guessed: where one is not constant there is no loop. The search is near linear:
candidate periods are the commonest distances between equal operations, and each is tried on the
whole graph at once by comparing it with itself, shifted (after the tandem repeats of Main & Lorentz
1984).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np

from ..nn.module import Module
from ..planner.plan import Plan
from ..tensor import Tensor
from .capture import Captured, Operation, Use, abstracted, captured, restored
from .document import Study
from .plans import body_of
from .view import starts_of

_LONGEST = 500_000  # operations of a graph that is not folded
_COLUMNS = 8  # arguments of an operation that are compared; one with more is its own kind
_MANY = 100  # things to draw, above which kinds of steps are looked for instead of loops

Ints = np.ndarray[Any, np.dtype[np.int64]]


def fold(y: Tensor | Plan, names: Mapping[str, Any] | Module | None = None) -> Study:
    """The graph that leads to ``y``, with each loop drawn once.

    Args:
        y: a Tensor that requires grad, whose graph has not been released; or the plan of a loop,
            as ``tg.plan`` gives one: its step, of any number of steps.
        names: what to call tensors, ``{"w": w}``, or a module, whose parameters have names. What
            ``record`` noted is known without.

    Returns:
        A ``Study``: ``print`` it, look at it in a notebook, ``save("graph.svg")``, ``unfold`` it.

    Where a branch depends on data no stretch repeats; then the steps are cut where the most used
    leaf is used, and each *kind* of step is drawn with its count.

    Raises:
        TypeError: for what has no graph.
        ReleasedGraphError: for a graph that a backward pass has dropped.
        ValueError: for the plan of a loop that runs literally.
    """
    if isinstance(y, Plan):
        return Study("graph", body_of(y))
    with _uncollected():
        return Study("graph", document_of(captured("fold", y, names)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look at millions of new tuples again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def document_of(found: Captured) -> dict[str, Any]:
    """The folded graph of what was captured, as plain data."""
    return _Folding(found).document()


def graph(y: Tensor, names: Mapping[str, Any] | Module | None = None) -> Study:
    """The graph that leads to ``y`` as it is, every step by itself: what ``fold`` folds.

    Raises as ``fold``, and ValueError for a graph of more than 500,000 operations.
    """
    found = captured("graph", y, names, most=_LONGEST)
    return Study("graph", _Folding(found).document(folded=False))


def unfold(study: Study) -> Study:
    """A folded graph with every step drawn: the graph that it was made of.

    Raises ValueError for a study of another kind, or of a plan, which has any number of steps.
    """
    if not isinstance(study, Study) or study.kind != "graph":
        raise ValueError(f"unfold: a study of a graph, as fold gives one, not {study!r}")
    if "plan" in study.data:
        raise ValueError("unfold: a plan holds for any number of steps; fold a literal graph")
    items: list[dict[str, Any]] = []
    for item in study.data["items"]:
        _expand(item, (), items)
    items.sort(key=lambda item: item["at"])
    return Study("graph", {**study.data, "items": items})


# The search.


class _Folding:
    """The operations of a graph as arrays, and the search for stretches that repeat."""

    def __init__(self, found: Captured) -> None:
        self.found = found
        count = len(found.operations)
        self.segments: list[list[tuple[int, int, int, int, int]]] = []
        self.templates: list[str] = []
        self.integers: list[tuple[int, ...]] = []
        tokens: dict[Any, int] = {}
        self.token: Ints = np.zeros(count, dtype=np.int64)
        rows: list[list[int]] = []
        known: dict[str, tuple[str, tuple[int, ...]]] = {}
        for i, operation in enumerate(found.operations):
            segments, shape = _segments(operation.arguments)
            if operation.name in ("getitem", "index_add"):
                pair = known.get(operation.parameters)
                if pair is None:
                    pair = known[operation.parameters] = abstracted(operation.parameters)
            else:
                pair = operation.parameters, ()
            self.segments.append(segments)
            self.templates.append(pair[0])
            self.integers.append(pair[1])
            row = [x for segment in segments for x in (segment[0], segment[2])]
            row += pair[1]
            leaves = tuple([s[0] for s in segments if s[0] < 0])
            key: Any = (operation[0], operation[3:], pair[0], shape, leaves)
            if len(row) > 2 * _COLUMNS:
                key, row = (i,), []
            self.token[i] = tokens.setdefault(key, len(tokens))
            rows.append(row)
        width = max(map(len, rows), default=0)
        self.columns: Ints = np.zeros((count, width), dtype=np.int64)
        for i, row in enumerate(rows):
            self.columns[i, : len(row)] = row
        self.positions = np.zeros((count, width), dtype=bool)  # columns that are operations
        for i, segments in enumerate(self.segments):
            if rows[i]:
                self.positions[i, : 2 * len(segments) : 2] = True
        self.searches = 0

    def document(self, folded: bool = True) -> dict[str, Any]:
        """The graph as plain data."""
        found = self.found
        count = len(found.operations)
        items: list[Any] = list(range(count))
        if folded:
            items = self._folded(0, count, self.token)
            if _size(items) > _MANY:
                items = self._kinds(items)
        return {
            "leaves": [
                {"name": leaf.name, "shape": list(leaf.shape), "dtype": leaf.dtype}
                for leaf in found.leaves
            ],
            "items": [self._item(item, ()) for item in items],
            "result": {"from": found.result.at, "output": found.result.output},
            "operations": count,
        }

    def _folded(self, low: int, high: int, token: Ints, least: int = 3) -> list[Any]:
        """Items for the operations from ``low`` to ``high``: numbers, and loops."""
        runs = self._runs(low, high, token, least) if high - low > least else []
        if not runs:
            return list(range(low, high))
        items: list[Any] = []
        for first, period, count in runs:
            items += self._folded(low, first, token, least)
            loop = _Loop(first, period, count)
            self._body(loop, token)
            items.append(loop)
            low = first + period * count
        return items + self._folded(low, high, token, least)

    def _body(self, loop: _Loop, token: Ints) -> None:
        """Loops within the body: their strides over the outer iterations agree, too."""
        low, period = loop.start, loop.period
        loop.stride = (
            self.columns[low + period : low + 2 * period] - self.columns[low : low + period]
        )
        own = np.column_stack([token[low : low + period], loop.stride])
        _, inner = np.unique(own, axis=0, return_inverse=True)
        extended = token.copy()
        extended[low : low + period] = inner.reshape(-1)
        loop.items = self._folded(low, low + period, extended, least=8)

    def _runs(self, low: int, high: int, token: Ints, least: int) -> list[tuple[int, int, int]]:
        """The longest stretches that repeat with one period: (start, period, count) each."""
        self.searches += 1
        if self.searches > 300:
            return []
        best: list[tuple[int, int, int]] = []
        best_cover = 0
        for period in self._candidates(token[low:high]):
            runs = self._with_period(low, high, period, token, least)
            if not runs:
                continue
            cover = max(p * n for _, p, n in runs)
            # A multiple of a period covers as much, less what is too short for one more.
            slack = 0 if not best else max(period, best[0][1])
            if cover > best_cover + slack or (
                cover > best_cover - slack and period < (best[0][1] if best else 0)
            ):
                best = [run for run in runs if 2 * run[1] * run[2] >= cover]
                best_cover = cover
        return best

    @staticmethod
    def _candidates(token: Ints) -> list[int]:
        """The commonest distances between an operation and the next one like it."""
        order = np.argsort(token, kind="stable")
        same = token[order][1:] == token[order][:-1]
        distances = np.diff(order)[same]
        if not distances.size:
            return []
        values, counts = np.unique(distances, return_counts=True)
        by_count = values[np.argsort(-counts, kind="stable")][:8]
        by_cover = values[np.argsort(-counts * values, kind="stable")][:8]
        return sorted({int(v) for v in (*by_count, *by_cover)})

    def _with_period(
        self, low: int, high: int, period: int, token: Ints, least: int
    ) -> list[tuple[int, int, int]]:
        if high - low < 2 * period:
            return []
        own, columns = token[low:high], self.columns[low:high]
        like = own[period:] == own[:-period]  # the operation at period + i is like that at i
        if np.count_nonzero(like) < period:
            return []
        stride = columns[period:] - columns[:-period]
        steady = np.zeros(len(own), dtype=bool)
        steady[2 * period :] = (
            like[period:] & like[:-period] & (stride[period:] == stride[:-period]).all(1)
        )
        runs = [(b - 2 * period, e) for b, e in _stretches(steady) if e - b >= period]
        most = len(own)
        if not runs:
            most = 2
            # Two iterations have a stride whatever it is: what they read must be of one kind.
            alike = np.zeros(len(own), dtype=bool)
            alike[period:] = like & self._alike(low, columns, period, token)
            runs = [(b - period, e) for b, e in _stretches(alike) if e - b >= period]
        found: list[tuple[int, int, int]] = []
        end = 0
        for b, e in runs:
            start, count = self._phase(low + max(b, end), low + e, period)
            count = min(count, most)
            saved = (count - 1) * period
            if count < 2 or saved < least or (period < 3 and count < 6):
                continue
            found.append((start, period, count))
            end = start + period * count - low
        return found

    def _alike(self, low: int, columns: Ints, period: int, token: Ints) -> Any:
        """Whether what an operation reads is like what the one a period earlier reads."""
        place = self.positions[low : low + len(columns)][period:]
        after, before = columns[period:], columns[:-period]
        kinds = np.append(token, -1)
        same = kinds[np.clip(after, -1, None)] == kinds[np.clip(before, -1, None)]
        same |= (after - before == period) | (after == before)
        return (~place | same).all(1)

    def _phase(self, low: int, high: int, period: int) -> tuple[int, int]:
        """Where an iteration of a stretch begins: where the fewest values pass to the next one.

        Of several such places that of a jump back in the source, if lines are known; else one where
        nothing that passes is read, and at which the stretch ends.
        """
        count = (high - low) // period
        if count < 2:
            return low, count
        # The edges of an iteration in the middle, as they are in all of them.
        middle = low + period * (count // 2)
        crossing = np.zeros(2 * period + 1, dtype=np.int64)
        farthest: dict[tuple[int, int], int] = {}
        reads: dict[int, int] = {}  # by operation, the earliest that it reads
        for v in range(middle, min(middle + 2 * period, high)):
            for at, _, output, _, _ in self.segments[v]:
                if low <= at < v and v - at <= 2 * period:
                    farthest[at, output] = v
                    reads[v] = min(reads.get(v, v), at)
        for (at, _), v in farthest.items():
            if middle <= at < middle + period:
                length = min(v - at, period)
                begin = (at + 1 - middle) % period
                crossing[begin] += 1
                crossing[begin + length] -= 1
        passing = np.cumsum(crossing)[: 2 * period]
        each = passing[:period] + passing[period:]
        least = [int(r) for r in np.flatnonzero(each == each.min())]
        lines = self.found.lines

        def jump(r: int) -> int:
            first, last = lines.get(middle + r), lines.get(middle + r - 1)
            if first is None or last is None or first.partition(":")[0] != last.partition(":")[0]:
                return 0
            return -(_number(last) > _number(first))

        def rank(r: int) -> Any:
            begins_afresh = reads.get(middle + r, middle + r) >= middle + r
            return jump(r), not begins_afresh, (high - low - r) % period, r

        shift = min(least, key=rank)
        start = low + shift
        return start, (high - start) // period

    # Where nothing repeats.

    def _kinds(self, items: list[Any]) -> list[Any]:
        """Steps of several kinds, cut at the uses of the most used leaf, if much shorter."""
        uses: dict[int, list[int]] = {}
        for i, segments in enumerate(self.segments):
            for at in {segment[0] for segment in segments if segment[0] < 0}:
                uses.setdefault(at, []).append(i)
        best, least = items, _size(items) // 2
        most_used = [c for c in sorted(uses.values(), key=len, reverse=True)[:4] if len(c) > 3]
        # Several kinds of nodes, say leaves and others, may each begin with a leaf of its own.
        together = [
            sorted({i for c in most_used[:n] for i in c}) for n in range(2, 1 + len(most_used))
        ]
        tried = ((False, most_used), (True, most_used), (True, together))
        for anywhere, ways in tried:
            if ways is together and _size(best) <= _MANY:
                break
            for cuts in ways:
                found = self._cut(cuts, anywhere)
                if found is not None and _size(found) < (least // 2 if anywhere else least):
                    best, least = found, _size(found)
        return best

    def _cut(self, cuts: list[int], anywhere: bool) -> list[Any] | None:
        """Steps between these places, equal ones drawn once; None if hardly any are equal.

        Where a step finds a value of one before it depends on what kind that one was of. With
        ``anywhere`` steps are equal that read the same of earlier ones, whichever they are: as of
        the nodes of a tree that a recursion walks through.
        """
        count = len(self.found.operations)
        owner = np.searchsorted(np.asarray(cuts), np.arange(count), "right") - 1
        kinds: dict[Any, int] = {}
        steps = _Kinds(cuts[0])
        for s, (b, e) in enumerate(pairwise(cuts)):
            pairs = [self._alone(i, s, b, cuts, owner, anywhere) for i in range(b, e)]
            kind = kinds.setdefault(tuple([key for key, _ in pairs]), len(kinds))
            if kind == len(steps.bodies):
                steps.bodies.append((s, b, e))
                steps.reads.append([key[-1] for key, _ in pairs])
                steps.found.append({})
                steps.lags.append({})
            steps.order.append(kind)
            places = steps.found[kind]
            for offset, (_, back) in enumerate(pairs):
                for n, step, distance in back:
                    if anywhere:
                        steps.lags[kind].setdefault((offset, n), []).append(s - step)
                    where = offset, n, steps.order[step]
                    if places.setdefault(where, distance) != distance:
                        return None
            if len(kinds) > 40:
                return None
        return [*range(cuts[0]), steps, *range(cuts[-1], count)]

    def _alone(
        self, i: int, step: int, begin: int, cuts: Sequence[int], owner: Ints, anywhere: bool
    ) -> Any:
        """An operation as others of its kind have it, what it reads being relative to its step.

        And apart from it, how far from the end of an earlier step each value of one is.
        """
        operation = self.found.operations[i]
        reads: list[Any] = []
        back: list[tuple[int, int, int]] = []
        for at, stride, output, output_stride, count in self.segments[i]:
            number: Any = output
            if at < 0:
                place: Any = ("leaf", at)
            elif at >= begin:
                place = ("own", at - begin)
            elif at < cuts[0]:
                place = ("outside", at)
                number = output - step if output >= 0 else output
            else:
                place = ("back", None if anywhere else step - int(owner[at]))
                back.append((len(reads), int(owner[at]), cuts[int(owner[at]) + 1] - at))
            reads.append((place, stride, number, output_stride, count))
        given = tuple(["" if isinstance(a, Use) else a for a in operation.arguments])
        integers = tuple([n - step for n in self.integers[i]])
        key = operation[0], operation[3:], self.templates[i], integers, given, tuple(reads)
        return key, back

    # Plain data.

    def _item(self, item: Any, loops: tuple[_Loop, ...]) -> dict[str, Any]:
        if isinstance(item, _Loop):
            return {
                "at": item.start,
                "period": item.period,
                "count": item.count,
                "items": [self._item(inner, (*loops, item)) for inner in item.items],
            }
        if isinstance(item, _Kinds):
            return self._steps(item)
        return self._operation(item, loops)

    def _steps(self, steps: _Kinds) -> dict[str, Any]:
        """Steps of several kinds; where each stands follows from the lengths of those before."""
        counts = Counter(steps.order)
        kinds = []
        for kind, ((step, b, e), reads) in enumerate(zip(steps.bodies, steps.reads, strict=True)):
            items = [self._item(i, ()) for i in range(b, e)]
            for offset, (item, own) in enumerate(zip(items, reads, strict=True)):
                uses = (a for a in item["arguments"] if "from" in a)
                for n, (use, (place, *_)) in enumerate(zip(uses, own, strict=True)):
                    use["relative"] = list(place)
                    if (offset, n) in steps.lags[kind]:  # how many steps back, for each such step
                        use["lags"] = steps.lags[kind][offset, n]
                    if place[0] == "back":  # how far from the end, by the kind of that step
                        use["places"] = {
                            str(before): distance
                            for (o, m, before), distance in steps.found[kind].items()
                            if (o, m) == (offset, n)
                        }
            kinds.append({"count": counts[kind], "step": step, "items": items})
        return {"at": steps.start, "order": steps.order, "kinds": kinds}

    def _operation(self, i: int, loops: tuple[_Loop, ...]) -> dict[str, Any]:
        operation, found = self.found.operations[i], self.found
        strides = [loop.stride[i - loop.start] for loop in loops]
        numbers = self._numbers(i, loops)
        arguments: list[Any] = []
        for n, segment in enumerate(self.segments[i]):
            at, stride, output, output_stride, count = segment
            use: dict[str, Any] = {"from": at, "output": None if output < 0 else output}
            if count > 1:
                use |= {"count": count, "stride": stride, "output_stride": output_stride}
            if loops:
                use["by"] = [[int(s[2 * n]), int(s[2 * n + 1])] for s in strides]
            arguments.append(use)
        result: dict[str, Any] = {
            "at": i,
            "operation": operation.name,
            "arguments": _placed(operation.arguments, arguments, numbers),
            "parameters": self.templates[i],
            "shapes": [list(shape) for shape in _short(operation.shapes)],
            "dtypes": list(_short(operation.dtypes)),
            "keeps": list(operation.keeps),
        }
        if operation.several:
            result["several"] = len(operation.shapes)
        if self.integers[i]:
            first = 2 * len(self.segments[i])
            result["integers"] = list(self.integers[i])
            if loops:
                last = first + len(self.integers[i])
                result["integers_by"] = [[int(x) for x in s[first:last]] for s in strides]
        if i in found.lines:
            result["line"] = found.lines[i]
        names = self._names(i, loops)
        if names:
            result["names"] = names
        return result

    def _numbers(self, i: int, loops: tuple[_Loop, ...]) -> list[Any]:
        """The numbers among the arguments: one text each, or a list of those of all iterations."""
        given = [a for a in self.found.operations[i].arguments if not isinstance(a, Use)]
        if not given or not loops:
            return list(given)
        places = _places(i, loops)
        every = [
            [a for a in self.found.operations[p].arguments if not isinstance(a, Use)]
            for p in places
        ]
        if all(numbers == given for numbers in every):
            return list(given)
        return [list(each) for each in zip(*every, strict=True)]

    def _names(self, i: int, loops: tuple[_Loop, ...]) -> dict[str, str]:
        """What the outputs are called, in the first iterations or in the last."""
        count = len(self.found.operations[i].shapes)
        several = self.found.operations[i].several
        shift = sum(loop.period for loop in loops[-1:])
        last = sum(loop.period * (loop.count - 1) for loop in loops)
        found: dict[str, str] = {}
        for output in range(min(count, 16)) if several else [None]:
            for place in dict.fromkeys((i + last, i, i + shift)):
                name = self.found.names.get(Use(place, output))
                if name is not None:
                    found.setdefault("" if output is None else str(output), name)
        return found


class _Loop:
    """A stretch that repeats."""

    def __init__(self, start: int, period: int, count: int) -> None:
        self.start, self.period, self.count = start, period, count
        self.items: list[Any] = []
        self.stride: Ints = np.zeros((0, 0), dtype=np.int64)


class _Kinds:
    """Steps of several kinds, from ``start`` on, one after the other."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.bodies: list[tuple[int, int, int]] = []  # of each kind the first: step, begin, end
        self.reads: list[list[Any]] = []  # what its operations read, relative to the step
        self.order: list[int] = []
        self.found: list[dict[tuple[int, int, int], int]] = []  # where, by the kind before
        self.lags: list[dict[tuple[int, int], list[int]]] = []  # if they differ, of all of a kind


def _size(items: Sequence[Any]) -> int:
    """How many things there are to draw."""
    total = 0
    for item in items:
        if isinstance(item, _Loop):
            total += _size(item.items)
        elif isinstance(item, _Kinds):
            total += sum(e - b for _, b, e in item.bodies)
        else:
            total += 1
    return total


def _places(i: int, loops: Sequence[_Loop]) -> list[int]:
    places = [i]
    for loop in loops:
        places = [p + loop.period * n for p in places for n in range(loop.count)]
    return places


def _segments(arguments: Sequence[Any]) -> tuple[list[tuple[int, int, int, int, int]], Any]:
    """Values among arguments as (at, stride, output, stride of it, count), and what they are like.

    Few are listed one by one; of many, such as the parts of a ``stack``, those in equal steps are
    one segment.
    """
    uses = [a for a in arguments if isinstance(a, Use)]
    if len(uses) <= 4:
        shape: Any = tuple([type(a) is Use for a in arguments])
        return [(a.at, 0, -1 if a.output is None else a.output, 0, 1) for a in uses], shape
    pairs = [(a.at, -1 if a.output is None else a.output) for a in uses]
    found: list[tuple[int, int, int, int, int]] = []
    i = 0
    while i < len(pairs):
        j, step = i + 1, (0, 0)
        if j < len(pairs):
            step = (pairs[j][0] - pairs[i][0], pairs[j][1] - pairs[i][1])
            while (
                j < len(pairs)
                and (
                    pairs[j][0] - pairs[j - 1][0],
                    pairs[j][1] - pairs[j - 1][1],
                )
                == step
            ):
                j += 1
        if j - i < 3:
            j, step = i + 1, (0, 0)
        found.append((pairs[i][0], step[0], pairs[i][1], step[1], j - i))
        i = j
    kinds = "".join(["u" if isinstance(a, Use) else "n" for a in arguments])
    return found, (kinds, tuple([(s[1], s[3], s[4]) for s in found]))


def _placed(arguments: Sequence[Any], uses: list[Any], numbers: list[Any]) -> list[Any]:
    """Values and numbers in the order of the arguments."""
    left, rest = iter(uses), iter(numbers)
    placed: list[Any] = []
    covered = 0
    for a in arguments:
        if not isinstance(a, Use):
            placed.append({"number": next(rest)})
        elif covered:
            covered -= 1
        else:
            use = next(left)
            placed.append(use)
            covered = use.get("count", 1) - 1
    return placed


def _short(parts: Sequence[Any]) -> Sequence[Any]:
    """Parts that are all equal as one."""
    return parts[:1] if len(parts) > 1 and all(part == parts[0] for part in parts) else parts


def _number(line: str) -> int:
    digits = line.split(":")[1] if ":" in line else ""
    return int(digits) if digits.isdigit() else 0


def _stretches(flags: Any) -> list[tuple[int, int]]:
    """Where flags are set in a row: (begin, end) each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return [(int(b), int(e)) for b, e in zip(edges[::2], edges[1::2], strict=True)]


# Unfolding.


def _expand(
    item: dict[str, Any], turns: tuple[tuple[int, int, int], ...], found: list[dict[str, Any]]
) -> None:
    """The operations of an item in all iterations; ``turns`` are (iteration, period, count)."""
    if "kinds" in item:
        found += _expand_kinds(item)
        return
    if "items" in item:
        for n in range(item["count"]):
            for inner in item["items"]:
                _expand(inner, (*turns, (n, item["period"], item["count"])), found)
        return
    if not turns:
        found.append(item)
        return
    made = {k: v for k, v in item.items() if k not in ("integers_by", "names")}
    made["at"] = item["at"] + sum(n * period for n, period, _ in turns)
    flat = 0
    for n, _, count in turns:
        flat = flat * count + n
    made["arguments"] = [_argument(a, turns, flat) for a in item["arguments"]]
    if "integers" in item:
        made["integers"] = [
            x + sum(by[k] * n for by, (n, _, _) in zip(item["integers_by"], turns, strict=True))
            for k, x in enumerate(item["integers"])
        ]
    found.append(made)


def _expand_kinds(item: dict[str, Any]) -> list[dict[str, Any]]:
    kinds, order = item["kinds"], item["order"]
    starts = starts_of(item)
    found = []
    met = [0] * len(kinds)  # how many steps of each kind there were
    for step, kind in enumerate(order):
        moved = step - kinds[kind]["step"]
        for offset, inner in enumerate(kinds[kind]["items"]):
            made = {k: v for k, v in inner.items() if k != "names"}
            made["at"] = starts[step] + offset
            made["arguments"] = [
                _of_step(a, step, moved, starts, order, met[kind]) for a in inner["arguments"]
            ]
            if "integers" in inner:
                made["integers"] = [n + moved for n in inner["integers"]]
            found.append(made)
        met[kind] += 1
    return found


def _of_step(
    a: dict[str, Any], step: int, moved: int, starts: Sequence[int], order: Sequence[int], nth: int
) -> dict[str, Any]:
    """An argument of the nth step of a kind, given that of the first one."""
    if "number" in a:
        return a
    made = {k: v for k, v in a.items() if k not in ("relative", "places", "lags")}
    how, *rest = a["relative"]
    if how == "own":
        made["from"] = starts[step] + rest[0]
    elif how == "back":
        before = step - (a["lags"][nth] if "lags" in a else rest[0])
        made["from"] = starts[before + 1] - a["places"][str(order[before])]
    elif how == "outside" and a["output"] is not None:
        made["output"] = a["output"] + moved
    return made


def _argument(a: dict[str, Any], turns: Any, flat: int) -> dict[str, Any]:
    if "number" in a:
        return {"number": a["number"][flat]} if isinstance(a["number"], list) else a
    by = a["by"]
    made = {k: v for k, v in a.items() if k != "by"}
    made["from"] = a["from"] + sum(b[0] * n for b, (n, _, _) in zip(by, turns, strict=True))
    if a["output"] is not None:
        made["output"] = a["output"] + sum(b[1] * n for b, (n, _, _) in zip(by, turns, strict=True))
    return made


def operations_of(study: Study) -> list[Operation]:
    """The operations of an unfolded graph again, for comparison with what was captured."""
    found = []
    for item in study.data["items"]:
        arguments: list[Use | str] = []
        for a in item["arguments"]:
            if "number" in a:
                arguments.append(a["number"])
                continue
            for n in range(a.get("count", 1)):
                output = a["output"]
                output = None if output is None else output + n * a.get("output_stride", 0)
                arguments.append(Use(a["from"] + n * a.get("stride", 0), output))
        count = item.get("several", 1)
        shapes = [tuple(shape) for shape in item["shapes"]]
        dtypes = item["dtypes"]
        found.append(
            Operation(
                item["operation"],
                tuple(arguments),
                restored(item["parameters"], item.get("integers", [])),
                tuple(shapes * count if len(shapes) == 1 else shapes),
                tuple(dtypes * count if len(dtypes) == 1 else dtypes),
                "several" in item,
                tuple(item["keeps"]),
            )
        )
    return found
