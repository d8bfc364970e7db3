"""What examples share: progress that one can watch, runs that one can stop, kinds of options.

Ctrl-C ends a run after the step that it is in. What the run has done is then in ``runs/``, and the
same command with ``--resume`` goes on from there, bit for bit as if it had never stopped:
``training`` and ``over_seeds`` see to that.

A subtle point is NumPy's BLAS. Planned loops share the processors among threads of their own,
which sleep while they wait. Those of a BLAS wait awake, and take from them what is free: with two
of each on two processors a step of ``char_lm.py`` took 54 ms where one thread of the BLAS left
33 ms, and 180 beside two busy programs where that left 123. So ``prepare_blas`` gives it one.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import interruption
import numpy as np
from datasets import at_least
from interruption import interruptions

import tinygrad_rnn as tg
from tinygrad_rnn import distributed
from tinygrad_rnn.serialization import Checkpoint

T = TypeVar("T")
Measured: TypeAlias = dict[str, list[float]]
"""What was measured of each model, seed by seed."""


class Show(Protocol):
    """``show(step, text, loss=1.2)``: what ``progress`` gives to be called at every step."""

    def __call__(self, step: int, text: str = "", **values: float) -> None:
        """Show a step; of values their running means are shown, over some 50 steps."""


PICTURES = (".png", ".pdf", ".svg", ".jpg")


@contextmanager
def progress(begun: int, steps: int | None, minutes: float = math.inf) -> Iterator[Show]:
    """Show what goes on, and for how long: a bar if there are rich and a terminal, else lines.

    How long it will take is told by the steps so far; it is ``minutes`` at most. With None for
    ``steps`` nothing is shown.
    """
    if steps is None:
        yield lambda step, text="", **values: None
        return
    started = time.monotonic()
    means: dict[str, float] = {}

    def duration(step: int) -> str:
        spent = (time.monotonic() - started) / 60
        left = min(spent * (steps - step) / max(step - begun, 1), max(minutes - spent, 0))
        return f"{spent:.1f} of {spent + left:.1f} minutes"

    def described(step: int, text: str, values: dict[str, float]) -> str:
        for name, value in values.items():
            before = means.get(name, value)
            means[name] = before + (value - before) / min(step - begun + 1, 50)
        parts = [f"{name} {means[name]:.3f}" for name in values] + [text] * bool(text)
        return ", ".join([*parts, duration(step)])

    if sys.stdout.isatty() and find_spec("rich"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        column = TextColumn("{task.description}")
        with (
            Progress(MofNCompleteColumn(), BarColumn(20), column) as bar,
            warnings.catch_warnings(),
        ):

            def above(message: Warning | str, category: type[Warning], *where: Any) -> None:
                bar.console.print(f"{category.__name__}: {message}", markup=False, highlight=False)

            warnings.showwarning = above  # not in the middle of the bar
            task = bar.add_task("", completed=begun, total=steps)

            def show(step: int, text: str = "", **values: float) -> None:
                bar.update(task, completed=step, description=described(step, text, values))

            yield show
        return

    def line(step: int, text: str = "", **values: float) -> None:
        shown = described(step, text, values)
        if step % 50 == 0 or step == steps:
            print(f"step {step} of {steps}: {shown}", flush=True)

    yield line


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed, and the step that it came in is done."""


class Run:
    """What a run has done so far, which a checkpoint holds: what it measured, what it trained.

    A run has turns: before the first seed, and one for each. On resuming the program runs again
    from its beginning; in place of a seed that was measured stands what it gave, and in place of a
    training that was finished stands what came of it. The last seed's trainings are kept, since
    that model is drawn or sampled from in the end.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.turns: list[dict[str, Any]] = [{"measured": None, "trainings": []}]
        self.turn = self.trained = 0  # where the program is
        self.checkpoint: Checkpoint | None = None
        self.written = False  # whether the file, if there is one, is this run's

    def resume(self) -> None:
        """Begin with what the file holds; ValueError if that is another run's."""
        try:
            self.checkpoint = distributed.load_checkpoint(self.path)
        except FileNotFoundError as error:
            raise ValueError(f"{error}; leave out --resume to begin") from None
        extra = self.checkpoint.extra
        if not isinstance(extra, dict) or set(extra) != {"settings", "turns"}:
            raise ValueError(f"{self.path} is no run of an example that could be resumed")
        for name, value in self.settings.items():
            if extra["settings"].get(name) != value:
                begun = extra["settings"].get(name)
                raise ValueError(
                    f"{self.path} was begun with {name} {begun}, and not {value}: give the options "
                    "that it was begun with, or no --resume to begin anew"
                )
        self.turns, self.written = extra["turns"], True
        self.checkpoint.restore()

    def next_turn(self) -> dict[str, Any]:
        """What is known of the seed that comes."""
        self.turn, self.trained = self.turn + 1, 0
        if self.turn == len(self.turns):
            self.turns.append({"measured": None, "trainings": []})
        return self.turns[self.turn]

    def begin(self, parts: tuple[Any, ...]) -> tuple[int, float]:
        """Put a training to where it was, if it was; returns its steps and minutes."""
        trainings = self.turns[self.turn]["trainings"]
        self.trained += 1
        if self.trained > len(trainings):
            return 0, 0.0
        saved = trainings[self.trained - 1]
        for part, state in zip(parts, saved["parts"], strict=True):
            if isinstance(part, np.random.Generator):
                part.bit_generator.state = state
            elif isinstance(part, list):
                part[:] = state
            else:
                part.load_state_dict(state)
        if distributed.size() > 1 and self.checkpoint is not None:
            self.checkpoint.restore()  # random numbers of each process's own
        else:
            tg.random.set_state(saved["random"])
        return saved["step"], saved["minutes"]

    def note(self, parts: tuple[Any, ...], step: int, minutes: float) -> None:
        """How far a training is."""
        states: list[Any] = []
        for part in parts:
            if isinstance(part, np.random.Generator):
                states.append(part.bit_generator.state)
            else:
                states.append(deepcopy(part if isinstance(part, list) else part.state_dict()))
        noted = {"parts": states, "step": step, "minutes": minutes}
        noted["random"] = tg.random.get_state()
        self.turns[self.turn]["trainings"][self.trained - 1 : self.trained] = [noted]

    def save(self) -> str:
        """Write the checkpoint; returns how to go on, or why that is not possible."""
        try:
            if not self.written and distributed.is_main() and (kept := kept_as(self.path)):
                self.path.rename(kept)
            self.written = True  # or a second Ctrl-C, while it is saved, would keep it as another's
            self.path.parent.mkdir(parents=True, exist_ok=True)
            extra = {"settings": self.settings, "turns": self.turns}
            distributed.save_checkpoint(self.path, extra=extra)
        except (OSError, RuntimeError) as error:  # which other processes get
            return f"It could not be saved: {error}"
        given = sys.argv[1:]
        return f"To go on: {command(*given, *(() if self.checkpoint else ('--resume',)))}"

    def last_words(self) -> str:
        """What Ctrl-C leaves outside of a training."""
        done = any(turn["trainings"] or turn["measured"] for turn in self.turns)
        if not done:
            return "Stopped; nothing was trained yet."
        if distributed.size() > 1:  # each has been stopped somewhere else
            return "Stopped; nothing more was saved."
        return f"Stopped. {self.save()}"


_run: Run | None = None  # that of this program, from ``arguments`` on
_quick = False


class Training:
    """``show(step, text, loss=1.2)``: as ``Show``, and ends the program if Ctrl-C was pressed."""

    def __init__(self, show: Show, pressed: list[int], step: int, minutes: float) -> None:
        self._show, self._pressed = show, pressed
        self.step = step
        """The last step that was shown; 0 at first."""
        self._begun = time.monotonic() - 60 * minutes

    @property
    def minutes(self) -> float:
        """How long it has taken, with the time before it was resumed; that of process 0."""
        return distributed.from_main((time.monotonic() - self._begun) / 60)

    def __call__(self, step: int, text: str = "", **values: float) -> None:
        """Show a step that is done."""
        self._show(step, text, **values)
        self.step = step
        if distributed.agree(self._pressed):
            raise Stopped


@contextmanager
def training(steps: int | None, *parts: Any, minutes: float = math.inf) -> Iterator[Training]:
    """Show a training's steps; Ctrl-C saves it between two, and ``--resume`` puts it back.

    ::

        with support.training(steps, model, optimizer, schedule, batches, rng) as show:
            while batches.epoch < epochs:
                for rows in batches:
                    ...
                    schedule.step()
                    show(schedule.last_epoch, loss=loss.item())

    ``parts`` are all that a step changes: what has ``state_dict`` and ``load_state_dict``, NumPy's
    generators, and lists of plain data. A training that was finished is put to its end, so its loop
    has to ask the parts, or ``show.step``, whether there is anything left to do. With None for
    ``steps`` nothing is shown.
    """
    run = _run or Run(Path("runs", f"{Path(sys.argv[0]).stem}.safetensors"), {})
    try:
        step, spent = run.begin(parts)
    except ValueError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    try:
        with progress(step, steps, minutes) as line, interruptions() as pressed:
            show = Training(line, pressed, step, spent)
            yield show
        run.note(parts, show.step, show.minutes)
    except Stopped:
        run.note(parts, show.step, show.minutes)
        if _run is None:
            raise
        of = f" of {steps}" if steps else ""
        print(f"\nStopped at step {show.step}{of}. {run.save()}", flush=True)
        sys.exit(130)


def kept_as(path: Path) -> Path | None:
    """Where a file that is there already will be kept when this run writes its own, if there is."""
    if not path.is_file():
        return None
    n = 1
    while (free := path.with_stem(f"{path.stem}-{n}")).exists():
        n += 1
    print(f"{path} is there already: it will be kept as {free}.")
    return free


def one_process_speaks() -> None:
    """Where mpiexec started several processes of an example, only the first one prints."""
    if not distributed.is_main():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def command(*options: str | Path) -> str:
    """How to run this example, with this Python and these options, as a shell understands it."""
    words = [_within_reach(sys.executable), _within_reach(sys.argv[0]), *map(str, options)]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _within_reach(path: str) -> str:
    """A path from the current folder if it is in there, else as it is."""
    folder, path = Path.cwd(), Path(os.path.abspath(path))  # links stay: a venv's Python is one
    if not path.is_relative_to(folder):
        return str(path)
    near = path.relative_to(folder)
    return str(near) if len(near.parts) > 1 else os.path.join(os.curdir, near)


def prepare_blas() -> None:
    """Give NumPy's BLAS one thread, unless the environment says how many it is to have."""
    asked = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
    if find_spec("threadpoolctl") and not any(os.environ.get(name) for name in asked):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")


def positive_float(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a positive number, not {text!r}")
    return value


def positive(text: str) -> int:
    """The type of an option that is an integer above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a positive integer, not {text!r}")
    return int(text)


def command_line(
    description: str, plot: bool = True, epochs: int = 0, resume: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options that examples have in common, to be read by ``arguments``.

    With ``epochs``, their number unless another is given, also those of ``over_seeds``;
    ``resume=False`` is for what takes no ``training``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    picture = Path(Path(sys.argv[0]).stem + ".png")
    add = parser.add_argument_group("as in every example").add_argument
    add("--backend", default="numpy", metavar="NAME", help="numpy, cupy or another (numpy)")
    add("--seed", type=int, default=0, metavar="N", help="of whatever is left to chance (0)")
    if epochs:
        add("--seeds", type=positive, default=1, metavar="N", help="train with so many seeds (1)")
        told = f"how often to go through the data ({epochs})"
        add("--epochs", type=positive, default=epochs, metavar="N", help=told)
    if plot:
        add("--plot", type=Path, metavar="FILE", default=picture, help=f"the picture ({picture})")
    add("--quick", action="store_true", help="little data, little model: does everything run?")
    if resume:
        told = f"go on from what Ctrl-C left in {_checkpoint(False)} or FILE, with the same options"
        add("--resume", type=Path, nargs="?", const=Path(), metavar="FILE", help=told)
    return parser


def _checkpoint(quick: bool) -> Path:
    return Path("runs", f"{Path(sys.argv[0]).stem}{'_quick' * quick}.safetensors")


def model_file(quick: bool) -> Path:
    """Where an example keeps a model that is asked for later; its folder is there."""
    path = _checkpoint(quick)
    path.parent.mkdir(exist_ok=True)
    return path.with_stem(f"{path.stem}_model")


def arguments(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The command line read; with --quick, ``quick`` are the defaults. Sets backend and seed."""
    global _run, _quick
    args = parser.parse_args()
    one_process_speaks()
    _quick = args.quick
    if args.quick:
        if "plot" in args:
            quick["plot"] = Path("runs", f"quick_{args.plot.name}")
        parser.set_defaults(**quick)
        args = parser.parse_args()
    if "plot" in args and not find_spec("matplotlib"):
        parser.error("the picture needs matplotlib: pip install -e '.[examples]'")
    if "plot" in args and args.plot.suffix not in ("", *PICTURES):
        parser.error(f"--plot: a file that ends in one of {', '.join(PICTURES)}, not {args.plot}")
    try:
        tg.set_default_backend(args.backend)
        tg.manual_seed(args.seed)
        if "resume" in args:
            begun = {k: v for k, v in vars(args).items() if k not in ("resume", "plot")}
            named = args.resume is not None and args.resume != Path()
            _run = Run(args.resume if named else _checkpoint(args.quick), begun)
            interruption.end_in_one_line(_run.last_words)
            if args.resume is not None:
                _run.resume()
    except (OSError, ValueError, tg.BackendUnavailable) as error:
        sys.exit(f"{parser.prog}: {error}")
    prepare_blas()
    if "plot" in args:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
    return args


def read(reader: Callable[[], T], least: int = 0) -> T:
    """What ``reader`` reads, ``least`` of it; if that fails, one line says why, and what to do."""
    try:
        return at_least(least, reader()) if least else reader()
    except ImportError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except Exception as error:  # what a file that is damaged raises may be anything
        reason = str(error) if isinstance(error, (OSError, ValueError)) else repr(error)
        again = "is its package whole? Install it again, as examples/README.md says"
        sys.exit(f"{Path(sys.argv[0]).name}: the data cannot be used: {reason}; {again}")


def here(x: np.ndarray) -> tg.Tensor:
    """An array on the backend that ``--backend`` names."""
    return tg.tensor(x, backend=tg.zeros(()).backend)


def over_seeds(args: argparse.Namespace, train: Callable[[int], dict[str, float]]) -> Measured:
    """What ``train(seed)`` measures by the name of a model, for each seed.

    What was measured before Ctrl-C stands when the run is resumed.
    """
    measured: Measured = {}
    run, last = _run or Run(Path(), {}), args.seed + args.seeds - 1
    for seed in range(args.seed, last + 1):
        known, started = run.next_turn(), time.monotonic()
        if known["measured"] is None or seed == last:  # of which the model is still wanted
            tg.manual_seed(seed)
            known["measured"] = dict(train(seed))
            took = f"{(time.monotonic() - started) / 60:.1f} minutes"
        else:
            took = f"from {run.path}"
        if seed < last:
            known["trainings"] = []
        found = known["measured"]
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"seed {seed}: {told}; {took}", flush=True)
        for name, value in found.items():
            measured.setdefault(name, []).append(value)
    return measured


def compare(
    title: str,
    baselines: dict[str, float],
    measured: Measured,
    digits: int = 1,
    less_is_better: bool = False,
) -> None:
    """Print a table, and for each model a verdict: is it beyond all baselines by two deviations?

    The deviation is that of the seeds; of one seed there is none, and beyond is beyond.
    """
    print(f"{title}:")
    width = max(map(len, [*baselines, *measured]))
    for name, value in baselines.items():
        print(f"  {name:{width}}  {value:.{digits}f}")
    best = (min if less_is_better else max)(baselines, key=baselines.__getitem__)
    verdicts = []
    for name, values in measured.items():
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        shown = f" ± {spread:.{digits}f} of {len(values)} seeds" if len(values) > 1 else ""
        print(f"  {name:{width}}  {np.mean(values):.{digits}f}{shown}")
        gain = (np.mean(values) - baselines[best]) * (-1 if less_is_better else 1)
        said = f"{name} {abs(gain):.{digits}f} {'beyond' if gain > 0 else 'behind'} {best}"
        verdicts.append(said if gain > 2 * spread else f"FAILED, {said}")
    print("\n".join(f"Verdict: {verdict}" for verdict in verdicts))
    if _quick:
        print("It was a quick run, whose figures only show that everything runs.")


def Figure(*args: Any, **options: Any) -> Any:
    """A figure of matplotlib, which is imported when a picture is drawn."""
    from matplotlib.figure import Figure

    return Figure(*args, **options)


def attention_matrix(
    axes: Any, weights: np.ndarray, read: Sequence[str], said: Sequence[str]
) -> None:
    """What was looked at for each thing that was said: a row each, black for a weight of 1."""
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(read)), read, rotation=60 if max(map(len, read)) > 1 else 0)
    axes.set_yticks(range(len(said)), said)


def save_picture(figure: Any, path: Path) -> None:
    """A figure of matplotlib to a file; a PNG keeps 128 colours, a third of the bytes."""
    from PIL import Image

    figure.savefig(path, dpi=80)
    if path.suffix == ".png":
        Image.open(path).convert("RGB").quantize(128).save(path)
    print(f"The picture is in {path}.")
