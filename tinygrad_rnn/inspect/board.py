"""A live board for a plain training loop: what the loss, gradients and updates do.

::

    board = inspect.watch(model, optimizer, page="run.html")
    for step in board(range(10_000)):
        loss = ...
        optimizer.zero_grad()
        loss.backward()
        norm = optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        board(loss=loss, norm=norm, max_norm=1.0)

``flow`` adds the gradient's way through time, every so many steps: ``flow=lambda: inspect.flow(
cell, xs, loss)``. In a terminal it is a table that stays in its place, if ``rich`` is installed
(the extra ``study``), else a line now and then.

A board never grows: a series has a fixed number of buckets, each with the least, the largest and
the mean value of some steps, and when they are full two become one. And it is cheap: gradients are
looked at every so many steps only, fewer and fewer if looking takes more than a share of the time.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from tinygrad_rnn_backends import locks

from .. import random
from ..nn.module import Module
from ..tensor import Tensor
from . import terminal
from .document import Study
from .strips import grouped
from .watching import host

T = TypeVar("T")

SHARE = 0.01
"""The share of the time from which on a board looks less often, to stay under 2 % in the end."""

ASIDE = 0.003
"""The share of the time that flows may take, as well as drawing, as well as writing the page."""

_VALUES = 20_000  # buckets of all series together
_SECONDS = 10.0  # between two lines, and two writings of the page
_REDRAWN = 1.0  # seconds between two tables in a terminal
_STRIPS = 24  # flows of earlier steps that are kept
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class Series:
    """Values by step in a bounded number of buckets."""

    def __init__(self, capacity: int) -> None:
        self.capacity = max(8, capacity // 2 * 2)
        self.width = 1  # steps in a bucket
        self.buckets: list[list[float]] = []  # least, largest, sum, count, not finite
        self.first: int | None = None
        self.last = math.nan

    def add(self, step: int, value: float) -> None:
        """A value at a step; steps do not decrease."""
        self.first = step if self.first is None else self.first
        self.last = value
        place = (step - self.first) // self.width
        while place >= self.capacity:
            pairs = range(0, len(self.buckets), 2)
            self.buckets = [_merged(self.buckets[i : i + 2]) for i in pairs]
            self.width *= 2
            place = (step - self.first) // self.width
        while len(self.buckets) <= place:
            self.buckets.append([math.inf, -math.inf, 0.0, 0, 0])
        bucket = self.buckets[place]
        if math.isfinite(value):
            bucket[0], bucket[1] = min(bucket[0], value), max(bucket[1], value)
            bucket[2] += value
            bucket[3] += 1
        else:
            bucket[4] += 1

    def data(self) -> dict[str, Any]:
        """As plain data: of each bucket least, largest, mean and how many were not finite."""
        return {
            "first": self.first,
            "width": self.width,
            "last": _short(self.last),
            "buckets": [
                [_short(b[0]), _short(b[1]), _short(b[2] / b[3]), b[4]] if b[3] else [b[4]]
                for b in self.buckets
            ],
        }


def _merged(buckets: list[list[float]]) -> list[float]:
    least, largest, total, count, bad = zip(*buckets, strict=True)
    return [min(least), max(largest), sum(total), sum(count), sum(bad)]


def _short(value: float) -> Any:
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


class Board:
    """A board; made by ``watch``."""

    def __init__(
        self,
        model: Module,
        optimizer: Any,
        page: str | Path | None,
        serve: bool,
        write: Callable[[str], None] | None,
        seconds: float,
        flow: Callable[[], Study] | None,
        every: int,
    ) -> None:
        self.parameters = dict(model.named_parameters())
        self.optimizer = optimizer
        self.page = None if page is None else Path(page)
        self.write = write or _to_terminal
        self.seconds = seconds
        self.flow, self.flow_every = flow, every
        self.strips: list[dict[str, Any]] = []  # of the first state, of earlier flows
        self.apart = 1  # how many flows there are from one strip to the next
        self.flows = self.left_out = 0
        self.flowed = 0.0  # seconds that flows have taken
        self.live: terminal.Live | None = None
        self.redrawn = _REDRAWN
        self.telling = 0.0  # seconds that went into drawing and writing
        self.series: dict[str, Series] = {}
        self.every = 1
        self.step = -1
        self.clipped = [0, 0]  # steps that were clipped, and those that could have been
        self.attached: dict[str, Any] = {}
        self.spent = 0.0
        self.began = self.told = self.drawn = time.perf_counter()
        self._before: dict[str, Any] | None = None
        self._measured = -1
        self._lock = locks.lock()
        self.server = _serve(self) if serve else None
        if self.server is not None:
            self.write(f"the board is at {self.address}")

    @property
    def address(self) -> str | None:
        """Where the live page is, if it is served; its token lets in nobody else."""
        return None if self.server is None else self.server.address

    @overload
    def __call__(self, steps: Iterable[T], /) -> Iterator[T]: ...
    @overload
    def __call__(self, steps: None = None, /, **values: Any) -> None: ...
    def __call__(self, steps: Any = None, /, **values: Any) -> Any:
        """Either go through ``steps``, or note values of this step by name.

        Values are numbers or scalar Tensors; a ``Study`` is shown as it is, such as a ``flow`` of
        every hundredth step. ``norm`` beside ``max_norm`` counts how often a gradient is clipped.
        """
        if steps is not None:
            return self._go(steps)
        start = time.perf_counter()
        with self._lock:
            self._note(values)
        self._account(start)
        return None

    def _go(self, steps: Iterable[Any]) -> Iterator[Any]:
        if self.write is _to_terminal and terminal.is_there():
            self.live = terminal.Live()
        try:
            for step in steps:
                start = time.perf_counter()
                self.step += 1
                if self.step % self.every == 0:
                    self._before = {n: np.array(host(p)) for n, p in self.parameters.items()}
                self._account(start)
                yield step
                self._flow()
        finally:
            # Also when the loop is left by an error or Ctrl-C.
            self.close()

    def _flow(self) -> None:
        """Look at the flow of gradients, if it is time to and does not take too much of it."""
        if self.flow is None or (self.step + 1) % self.flow_every:
            return
        start = time.perf_counter()
        expected = self.flowed / max(self.flows, 1)
        if self.flowed + expected > ASIDE * (start - self.began) and self.flows:
            self.left_out += 1
            return
        state = random.get_state()  # the training's numbers are its own
        try:
            found = self.flow()
        finally:
            random.set_state(state)
        if not isinstance(found, Study) or found.kind != "flow":
            raise TypeError(f"watch: flow() returns what inspect.flow does, not {found!r}")
        name, values = next(iter(found.data["norms"].items()))
        shown = [value for _, _, value in grouped(values)]
        with self._lock:
            self.attached["flow"] = {"step": self.step, "kind": "flow", "data": found.data}
            if self.flows % self.apart == 0:
                self.strips.append({"step": self.step, "name": name, "values": shown})
            if len(self.strips) > _STRIPS:
                self.strips, self.apart = self.strips[::2], 2 * self.apart
        self.flows += 1
        self.flowed += time.perf_counter() - start

    def _note(self, values: dict[str, Any]) -> None:
        if self._before is None and self.step < 0:
            self.step = 0
        norm, bound = values.get("norm"), values.pop("max_norm", None)
        if norm is not None and bound is not None:
            self.clipped[0] += _number(norm) > _number(bound)
            self.clipped[1] += 1
        for name, value in values.items():
            if isinstance(value, Study):
                self.attached[name] = {"step": self.step, "kind": value.kind, "data": value.data}
            else:
                self._add(name, _number(value))
        if self._measured != self.step and self.step % self.every == 0:
            self._measured = self.step
            self._measure()

    def _measure(self) -> None:
        """Gradients, and how far each parameter went in this step."""
        for name, p in self.parameters.items():
            if p.grad is not None:
                g = host(p.grad)
                self._add(f"gradient of {name}", _norm(g))
                bad = int(g.size - np.isfinite(g).sum())
                if bad or f"not finite in {name}" in self.series:
                    self._add(f"not finite in {name}", bad)
            if self._before is not None:
                after, before = host(p), self._before[name]
                size = _norm(before)
                self._add(f"update of {name}", _norm(after - before) / size if size else 0.0)
        self._before = None

    def _add(self, name: str, value: float) -> None:
        if name not in self.series:
            expected = 3 * len(self.parameters) + 8
            self.series[name] = Series(min(512, max(16, _VALUES // expected)))
        self.series[name].add(self.step, value)

    def _account(self, start: float) -> None:
        """Look less often if looking takes too long, and tell what there is from time to time."""
        now = time.perf_counter()
        self.spent += now - start
        elapsed = now - self.began
        if self.spent > SHARE * elapsed and self.step >= 8 * self.every and self.every < 2**20:
            self.every *= 2
        if self.live is not None and now - self.drawn >= self.redrawn:
            self.live.show(self.study().data)
            self.drawn = time.perf_counter()
            self.redrawn = max(_REDRAWN, (self.drawn - now) / ASIDE)
            self.telling += self.drawn - now
        if now - self.told >= self.seconds:
            if self.live is None:
                self.write(self.line())
            if self.page is not None:
                self.save(self.page)
            self.told = time.perf_counter()
            self.seconds = max(self.seconds, (self.told - now) / ASIDE)
            self.telling += self.told - now

    def line(self) -> str:
        """Where the run is, in a line."""
        own = ("gradient of", "update of", "not finite in")
        shown = [name for name in self.series if not name.startswith(own)]
        parts = [f"{name} {self.series[name].last:.4g}" for name in shown]
        return f"step {self.step + 1}: " + ", ".join(parts)

    def study(self) -> Study:
        """What there is so far, as a document."""
        with self._lock:
            elapsed = time.perf_counter() - self.began
            spent = self.spent + self.flowed + self.telling
            return Study(
                "watch",
                {
                    "steps": self.step + 1,
                    "series": {name: series.data() for name, series in self.series.items()},
                    "every": self.every,
                    "clip rate": self.clipped[0] / self.clipped[1] if self.clipped[1] else None,
                    "share": round(spent / elapsed, 4) if elapsed else 0.0,
                    "attached": dict(self.attached),
                    "strips": list(self.strips),
                    "flows left out": self.left_out,
                },
            )

    def save(self, path: str | Path) -> Path:
        """Write the board to a file, as ``Study.save`` does, at once or not at all."""
        place = Path(path)
        draft = place.with_name(f".{place.stem}.{os.getpid()}{place.suffix}")
        self.study().save(draft)
        draft.replace(place)
        return place

    def close(self) -> None:
        """Write the page and stop serving; also when the loop is left by an error."""
        try:
            if self.live is not None:
                self.live.show(self.study().data)
            elif self.step >= 0 and self.series:
                self.write(self.line())
            if self.page is not None:
                self.save(self.page)
        finally:
            if self.live is not None:
                self.live.stop()
                self.live = None
            if self.server is not None:
                self.server.stop()
                self.server = None

    def _repr_html_(self) -> str:
        return self.study()._repr_html_()


def watch(
    model: Module,
    optimizer: Any = None,
    *,
    page: str | Path | None = None,
    serve: bool = False,
    write: Callable[[str], None] | None = None,
    seconds: float = _SECONDS,
    flow: Callable[[], Study] | None = None,
    every: int = 100,
) -> Board:
    """A board for a training loop: ``for step in board(range(N)): ...; board(loss=loss)``.

    Of every parameter it shows the gradient's norm, how far a step goes relative to the weight, and
    what is not finite.

    Args:
        model: the module whose parameters are looked at.
        optimizer: the optimiser that changes them; for the reader, it is not touched.
        page: a file that the board is written to at the end, and every ``seconds`` until then.
        serve: whether to show it live, on 127.0.0.1 only, at an address with a secret in it.
        write: told a line every ``seconds``. Without it lines go to standard error; a table does,
            if that is a terminal and there is ``rich``.
        seconds: from one line to the next, or more if that took too much of the time.
        flow: a function without arguments that returns ``inspect.flow(...)`` of the model as it is.
            It draws none of the training's random numbers.
        every: how many steps there are from one flow to the next; more, if flows take more than
            half a percent of the time.

    Raises TypeError for a model that is no module, or has no parameters.
    """
    if every < 1:
        raise ValueError(f"watch: every is a number of steps from 1 on, not {every}")
    if not isinstance(model, Module):
        raise TypeError(f"watch: a Module, not a {type(model).__name__}")
    if not any(True for _ in model.parameters()):
        raise TypeError(f"watch: {type(model).__name__} has no parameters to look at")
    return Board(model, optimizer, page, serve, write, seconds, flow, every)


def _number(value: Any) -> float:
    if isinstance(value, Tensor):
        if value.size != 1:
            raise ValueError(f"board: a number or a scalar Tensor, not one of shape {value.shape}")
        return float(value.item())
    return float(value)


def _norm(x: Any) -> float:
    flat = x.reshape(-1)
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.dot(flat, flat)))


def _to_terminal(line: str) -> None:
    """A line that replaces the last one on a terminal, and stands by itself elsewhere."""
    if sys.stderr is None:
        return
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{line}")
    else:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


# Live.


class _Server:
    """Serves a board on 127.0.0.1, at an address that nobody can guess."""

    def __init__(self, board: Board) -> None:
        self.token = secrets.token_urlsafe(24)
        self.over = False
        server, token = self, self.token

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host_name = (self.headers.get("Host") or "").rsplit(":", 1)[0]
                if host_name not in ("127.0.0.1", "localhost"):
                    self.send_error(403)
                elif self.path == f"/{token}/":
                    self._send("text/html; charset=utf-8", _PAGE.encode())
                elif self.path == f"/{token}/events":
                    self._events()
                else:
                    self.send_error(404)

            def _send(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Security-Policy", _POLICY)
                self.send_header("Referrer-Policy", "no-referrer")
                self.end_headers()
                self.wfile.write(body)

            def _events(self) -> None:
                self._send("text/event-stream", b"")
                try:
                    while True:
                        last = server.over
                        drawn = json.dumps(board.study()._repr_html_())
                        self.wfile.write(f"data: {drawn}\n\n".encode())
                        self.wfile.flush()
                        if last:
                            return
                        until = time.monotonic() + 1.0
                        while time.monotonic() < until and not server.over:
                            time.sleep(0.05)
                except OSError:
                    return  # whoever looked has gone

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing: a loop's output is its own."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/{self.token}/"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Send what there is to those who look, and stop."""
        self.over = True
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def _serve(board: Board) -> _Server:
    return _Server(board)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Training</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;overflow-wrap:anywhere}
:root{color-scheme:light dark}pre{overflow:auto}</style></head>
<body><main><h1>Training</h1><div id="board">waiting for the first step</div></main>
<script>const board = document.getElementById("board");
new EventSource("events").onmessage = e => {
  const open = board.querySelector("details")?.open;  // what is unfolded stays so
  board.innerHTML = JSON.parse(e.data);
  if (open) board.querySelector("details").open = true;
}</script></body></html>
"""
