"""A study of a graph as a reader sees it: things with names, and what each reads, in words.

The document counts operations; a reader wants ``h[t-1]``. Text, drawings and pages all show what is
found here, so they agree.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, Any]


@dataclass(eq=False)
class Thing:
    """An operation to be shown, or a loop of them."""

    name: str
    operation: str
    arguments: list[str] = field(default_factory=list)
    reads: list[tuple[Any, str]] = field(default_factory=list)  # things, and "" or what edge it is
    meta: str = ""
    keeps: str = ""
    line: str = ""
    stage: str = ""  # of a plan: where it is computed
    inside: list[Thing] = field(default_factory=list)
    title: str = ""  # of a loop
    notes: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)  # states that it is the next value of

    @property
    def is_loop(self) -> bool:
        """Whether things are inside of it."""
        return bool(self.title)


@dataclass(eq=False)
class _Loop:
    """A loop on the way to an operation."""

    item: Item
    thing: Thing
    letter: str  # what its step is called
    first: int  # the number of its first step

    @property
    def last(self) -> int:
        return self.first + int(self.item["count"]) - 1


def view_of(data: Item) -> tuple[list[Thing], list[Thing]]:
    """The leaves of a graph, and its operations and loops."""
    return _View(data).things()


def flat(things: Sequence[Thing]) -> list[Thing]:
    """Things and all that is inside of them."""
    return [each for thing in things for each in (thing, *flat(thing.inside))]


class Places:
    """What an operation of the unfolded graph is called in the folded one, and in which step."""

    def __init__(self, data: Item) -> None:
        self._view = _View(data)
        self._view.things()

    def at(self, position: int, output: int | None = None) -> tuple[str, tuple[int, ...]]:
        """The name of a value, or leaf, and the numbers of the steps of the loops around it."""
        view = self._view
        if position < 0:
            return view.leaves[~position].name, ()
        first = view.index.first(position)
        if first is None or first not in view.thing_of:
            return f"operation {position}", ()
        name = view.thing_of[first].name
        if output is not None:
            given = view.item_of[first].get("names", {}).get(str(output))
            name = given or f"{name}[{output}]"
        if first in view.of_kinds:
            return name, (view.index.step_of(position) + 1,)
        steps = []
        for loop in view.loops_of[first]:
            turn = (position - loop.item["at"]) // loop.item["period"]
            position -= turn * loop.item["period"]
            steps.append(loop.first + turn)
        return name, tuple(steps)


class _View:
    def __init__(self, data: Item) -> None:
        self.data = data
        self.taken: set[str] = set()
        self.names: dict[int, str] = {}  # by position in the first iteration
        self.thing_of: dict[int, Thing] = {}
        self.item_of: dict[int, Item] = {}
        self.steps_of: dict[int, Thing] = {}
        self.loops_of: dict[int, tuple[_Loop, ...]] = {}
        self.of_kinds: set[int] = set()
        self.carried: dict[
            int, dict[str, str]
        ] = {}  # by loop: what goes round, and where it starts
        self.leaves = [
            Thing(
                self._unique(leaf["name"]), "leaf", meta=f"{leaf['dtype']} {_shape(leaf['shape'])}"
            )
            for leaf in data["leaves"]
        ]
        self.count = 0
        self.apart = dict(_apart(data["items"]))
        self.lengths = {i["at"]: i["several"] for i in data["items"] if "several" in i}

    def things(self) -> tuple[list[Thing], list[Thing]]:
        items = self.data["items"]
        # Loops first: what is in them should have the plain names.
        self._call([i for i in items if "items" in i or "kinds" in i])
        self._call([i for i in items if "items" not in i and "kinds" not in i])
        self.index = _Index(items)
        made = [self._thing(item, ()) for item in items]
        for item in items:
            self._link(item, ())
        for item in items:
            self._describe(item, made, items)
        return self.leaves, made

    def _unique(self, name: str) -> str:
        found, n = name, 1
        while found in self.taken:
            n += 1
            found = f"{name}_{n}"
        self.taken.add(found)
        return found

    def _call(self, items: Sequence[Item]) -> None:
        for item in items:
            if "kinds" in item:
                for kind in item["kinds"]:
                    self._call(kind["items"])
            elif "items" in item:
                self._call(item["items"])
            elif item["at"] not in self.names:
                given = item.get("names", {}).get("")
                self.names[item["at"]] = self._unique(given) if given else ""

    def _name(self, at: int) -> str:
        if not self.names.get(at):
            self.count += 1
            name = f"v{len(self.leaves) + self.count}"
            self.names[at] = self._unique(name)
        return self.names[at]

    def _thing(self, item: Item, loops: tuple[_Loop, ...]) -> Thing:
        if "kinds" in item:
            thing = Thing(self._unique("steps"), "steps", title="steps")
            for n, kind in enumerate(item["kinds"]):
                inner = Thing(f"kind {n + 1}", "kind", title=f"kind {n + 1}: {kind['count']} steps")
                inner.inside = [self._thing(i, loops) for i in kind["items"]]
                self.of_kinds |= {i["at"] for i in kind["items"]}
                thing.inside.append(inner)
            self.steps_of[id(item)] = thing
            return thing
        if "items" in item:
            letter = item.get("symbol") or "tsrqpuvw"[min(len(loops), 7)]
            thing = Thing(self._unique("loop"), "loop", title="loop")
            loop = _Loop(item, thing, letter, self._first_step(item, len(loops)))
            thing.inside = [self._thing(i, (*loops, loop)) for i in item["items"]]
            self.loops_of[id(item)] = (*loops, loop)
            return thing
        at = item["at"]
        shapes, dtypes = item["shapes"], item["dtypes"]
        meta = f"{dtypes[0]} {_shape(shapes[0])}"
        if "several" in item:
            meta = (
                f"{item['several']} of {meta}" if len(shapes) == 1 else f"{item['several']} parts"
            )
        thing = Thing(
            self._name(at),
            item["operation"],
            meta=meta,
            keeps=", ".join(item["keeps"]),
            line=item.get("line", ""),
            stage=item.get("stage", ""),
        )
        self.thing_of[at], self.item_of[at], self.loops_of[at] = thing, item, loops
        return thing

    def _first_step(self, item: Item, depth: int) -> int:
        """The number of the first step: where a series that it reads stands, else 1 or 2."""
        if item["count"] is None:
            return 1
        for inner in item["items"]:
            for a in inner.get("arguments", []):
                by = a.get("by", [])
                if len(by) > depth and a.get("output") is not None and abs(by[depth][1]) == 1:
                    first: int = a["output"]
                    end = self.lengths.get(a["from"], first)
                    return first + 1 if by[depth][1] == 1 else end - first
        return 2 if id(item) in self.apart else 1

    def _link(self, item: Item, loops: tuple[_Loop, ...]) -> None:
        if "kinds" in item:
            for kind in item["kinds"]:
                for inner in kind["items"]:
                    self._link(inner, ())
            return
        if "items" in item:
            for inner in item["items"]:
                self._link(inner, self.loops_of[id(item)])
            return
        thing = self.thing_of[item["at"]]
        for a in item["arguments"]:
            if "number" in a:
                number = a["number"]
                given = isinstance(number, list)
                thing.arguments.append(f"{number[0]} ... {number[-1]}" if given else str(number))
                continue
            text, read, edge = self._argument(a, loops)
            thing.arguments.append(text)
            if read is not None:
                thing.reads.append((read, edge))
        if item["parameters"]:
            thing.arguments.append(self._parameters(item, loops))

    def _parameters(self, item: Item, loops: tuple[_Loop, ...]) -> str:
        given = iter(range(len(item.get("integers", []))))

        def number(_: Any) -> str:
            k = next(given)
            by = [b[k] for b in item.get("integers_by", [])]
            return _affine(item["integers"][k], by, loops)

        text: str = item["parameters"]
        return re.sub("#", number, text) if "integers" in item else text

    def _argument(self, a: Item, loops: tuple[_Loop, ...]) -> tuple[str, Thing | None, str]:
        """How an argument is written, the thing that it is, and what kind of edge leads there."""
        at, output = a["from"], a["output"]
        by = a.get("by") or [[0, 0]] * len(loops)
        if at < 0:
            return self.leaves[~at].name, self.leaves[~at], ""
        if "relative" in a:
            return self._relative(a)
        if a.get("count", 1) > 1:
            return self._many(a, len(loops))
        depth = 0  # of the loops around both
        for loop, (stride, _) in zip(loops, by, strict=True):
            start, period, count = (loop.item[key] for key in ("at", "period", "count"))
            inside = count is None or at + stride * (count - 1) >= start
            if stride != period or not inside:
                break
            lag = -((at - start) // period)
            if lag > 0:
                place = at + lag * period
                name = self._part(place, output, depth + 1)
                self._carry(loop, name, at, output, lag, depth)
                return f"{name}[{loop.letter}-{lag}]", self._thing_at(place), "carried"
            depth += 1
        moving = [
            (loop, stride)
            for loop, (stride, _) in zip(loops[depth:], by[depth:], strict=True)
            if stride
        ]
        if moving:
            return self._step_by_step(at, output, moving, depth)
        if output is not None and any(b[1] for b in by):
            thing = self._thing_at(at)
            number = _affine(output, [b[1] for b in by], loops)
            return f"{thing.name if thing else '?'}[{number}]", thing, "series"
        return self._part(at, output, depth), self._thing_at(at), ""

    def _step_by_step(
        self, at: int, output: int | None, moving: Sequence[tuple[_Loop, int]], depth: int
    ) -> tuple[str, Thing | None, str]:
        """A value of another loop, a step of it at each step of this one."""
        loops = [loop for loop, _ in moving]
        last = at + sum(stride * (loop.item["count"] - 1) for loop, stride in moving)
        place = self.index.first(last)
        thing = self._thing_at(last)
        if place is None or thing is None:
            return "?", None, "series"
        # Its steps where the last one is read, and from there back.
        numbers, rest = [], last
        for other in self.loops_of[place]:
            turn, rest = divmod(rest - other.item["at"], other.item["period"])
            rest += other.item["at"]
            numbers.append((turn, other))
        turn, other = numbers[depth] if depth < len(numbers) else (0, loops[0])
        by = [stride // other.item["period"] for _, stride in moving]
        base = (
            other.first
            + turn
            - sum(b * (loop.item["count"] - 1) for b, loop in zip(by, loops, strict=True))
        )
        name = self._part(place, output, len(numbers))
        return f"{name}[{_affine(base, by, loops)}]", thing, "series"

    def _relative(self, a: Item) -> tuple[str, Thing | None, str]:
        """What a step of several kinds reads."""
        how, place = a["relative"][0], a["from"]
        thing = self._thing_at(place)
        name = self._part(place, a["output"], 0)
        if how == "back":
            names = self._by_kind(a) or [name]
            shown = names[0] if len(names) == 1 else f"({' or '.join(names)})"
            lags = set(a["lags"]) if "lags" in a else {a["relative"][1]}
            lag = f"t-{lags.pop()}" if len(lags) == 1 else "some earlier step"
            return f"{shown}[{lag}]", thing, "carried"
        if how == "outside" and a["output"] is not None:
            return f"{thing.name if thing else '?'}[t]", thing, "series"
        return name, thing, ""

    def _by_kind(self, a: Item) -> list[str]:
        """What a value of an earlier step is called, for each kind that the step may be of."""
        steps = next(item for item in self.data["items"] if "kinds" in item)
        names = []
        for kind, distance in a["places"].items():
            items = steps["kinds"][int(kind)]["items"]
            names.append(self._part(items[len(items) - distance]["at"], a["output"], 0))
        return list(dict.fromkeys(names))

    def _many(self, a: Item, depth: int) -> tuple[str, Thing | None, str]:
        """Many arguments in equal steps: a value of every step of a loop."""
        last = a["from"] + a["stride"] * (a["count"] - 1)
        order = " backwards" if a["stride"] < 0 or a["output_stride"] < 0 else ""
        thing = self._thing_at(max(last, a["from"]))
        return f"{a['count']} of {thing.name if thing else '?'}{order}", thing, "all"

    def _thing_at(self, at: int) -> Thing | None:
        place = self.index.first(at)
        return None if place is None else self.thing_of.get(place)

    def _part(self, at: int, output: int | None, depth: int) -> str:
        """The name of an output, and in which step of loops that are not around the reader."""
        place = self.index.first(at)
        if place is None or place not in self.thing_of:
            return "?"
        name = self.thing_of[place].name
        if output is not None:
            given = self.item_of[place].get("names", {}).get(str(output))
            name = given if given else f"{name}[{output}]"
        steps = []
        for n, loop in enumerate(self.loops_of[place]):
            turn = (at - loop.item["at"]) // loop.item["period"]
            at -= turn * loop.item["period"]
            if n >= depth:
                last = turn + 1 == loop.item["count"]
                steps.append("last" if last else f"{loop.letter}={loop.first + turn}")
        return f"{name}[{', '.join(steps)}]" if steps else name

    def _carry(
        self, loop: _Loop, name: str, at: int, output: int | None, lag: int, depth: int
    ) -> None:
        start = self._part(at, output, depth) if loop.item["count"] is not None else "the start"
        words = f"{name} (from {start})" if lag == 1 else f"{name} (lag {lag}, from {start})"
        self.carried.setdefault(id(loop.item), {})[name] = words
        thing = self._thing_at(at)
        if thing is not None and thing not in flat(loop.thing.inside):
            loop.thing.reads.append((thing, "start"))

    def _describe(self, item: Item, made: list[Thing], siblings: Sequence[Item]) -> None:
        if "kinds" in item:
            thing = self.steps_of[id(item)]
            order = item["order"]
            shown = " ".join(str(k + 1) for k in order[:30]) + (" ..." if len(order) > 30 else "")
            kinds = len(item["kinds"])
            thing.title = f"{len(order)} steps of {kinds} kinds, in the order {shown}"
            return
        if "items" not in item:
            return
        loop = self.loops_of[id(item)][-1]
        count, inner = item["count"], _count_of(item["items"])
        end = "T" if count is None else str(loop.last)
        many = "T" if count is None else str(count)
        loop.thing.title = (
            f"{loop.letter} = {loop.first}, ..., {end}: {many} steps of {inner} operations"
        )
        carried = self.carried.get(id(item), {})
        if carried:
            loop.thing.notes.append("carried from step to step: " + ", ".join(carried.values()))
        for each in flat(loop.thing.inside):
            if each.name in carried:
                each.after.append(each.name)
        if id(item) in self.apart:
            loop.thing.notes.append(self.apart[id(item)])
        for each in item["items"]:
            self._describe(each, loop.thing.inside, item["items"])


class _Index:
    """Which item of a graph a position is of."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = sorted(items, key=lambda item: item["at"])
        self.starts = [item["at"] for item in self.items]
        self.inner: dict[int, _Index] = {}

    def first(self, at: int) -> int | None:
        """The same operation in the first iteration of all loops around it."""
        place = bisect_right(self.starts, at) - 1
        if place < 0:
            return None
        item = self.items[place]
        if "kinds" in item:
            return self._of_kind(item, at)
        if "items" not in item:
            return at if item["at"] == at else None
        own = self.inner.get(place)
        if own is None:
            own = self.inner[place] = _Index(item["items"])
        count = item["count"]
        turn = (at - item["at"]) // item["period"]
        if count is not None and turn >= count:
            return None
        return own.first(at - turn * item["period"])

    def step_of(self, at: int) -> int:
        """Which of the steps of several kinds a position is in."""
        item = self.items[bisect_right(self.starts, at) - 1]
        return bisect_right(starts_of(item), at) - 1

    @staticmethod
    def _of_kind(item: Item, at: int) -> int | None:
        starts = starts_of(item)
        step = bisect_right(starts, at) - 1
        if step < 0 or step >= len(item["order"]):
            return None
        kind = item["kinds"][item["order"][step]]
        found: int = kind["items"][at - starts[step]]["at"]
        return found


def starts_of(item: Item) -> list[int]:
    """Where each of several kinds of steps begins, and where the last one ends."""
    lengths = [len(kind["items"]) for kind in item["kinds"]]
    starts = [item["at"]]
    for kind in item["order"]:
        starts.append(starts[-1] + lengths[kind])
    return starts


def _affine(base: int, by: Sequence[int], loops: Sequence[_Loop]) -> str:
    """``base + by * iteration`` in the letters of loops, whose steps count from ``first``."""
    constant, terms = base, ""
    for b, loop in zip(by, loops, strict=False):
        if b:
            constant -= b * loop.first
            factor = "" if abs(b) == 1 else f"{abs(b)}*"
            terms += f"{'-' if b < 0 else '+' if terms else ''}{factor}{loop.letter}"
    if not terms:
        return str(base)
    if terms.startswith("-"):
        return f"{constant}{terms}"
    return f"{terms}{constant:+d}" if constant else terms


def _apart(items: Sequence[Item]) -> Iterator[tuple[int, str]]:
    """What to say of the step before each loop, by the loop's identity."""
    for item in items:
        if "period" in item:
            words = _stands_apart(item, items)
            if words:
                yield id(item), words
            yield from _apart(item["items"])


def _stands_apart(item: Item, siblings: Sequence[Item]) -> str:
    """What to say of a first step that lies before its loop."""
    before = [i for i in siblings if i["at"] < item["at"] and "operation" in i]
    body = [i["operation"] for i in item["items"] if "operation" in i]
    taken: list[str] = []
    want = len(body) - 1
    for i in reversed(before):
        k = want
        while k >= 0 and body[k] != i["operation"]:
            k -= 1
        if k < 0:
            break
        taken.append(i["operation"])
        want = k - 1
    if 2 * len(taken) < len(body):
        return ""
    return "the step before it is drawn apart, since what it starts from is no result of a step"


def _count_of(items: Sequence[Item]) -> int:
    total = 0
    for item in items:
        total += item["count"] * _count_of(item["items"]) if "count" in item else 1
    return total


def _shape(shape: Sequence[int]) -> str:
    return str(tuple(shape))
