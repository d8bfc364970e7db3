"""What examples share: progress that one can watch, Ctrl-C between two steps, kinds of options.

The subtle point is NumPy's BLAS. Planned loops share the processors among threads of their own,
which sleep while they wait. Those of a BLAS wait awake, and take from them what is free: with two
of each on two processors a step of ``char_lm.py`` took 54 ms where one thread of the BLAS left
33 ms, and 180 beside two busy programs where that left 123. So ``prepare_blas`` gives it one.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import distributed

T = TypeVar("T")
Measured: TypeAlias = dict[str, list[float]]
"""What was measured of each model, seed by seed."""


class Show(Protocol):
    """``show(step, text, loss=1.2)``: what ``progress`` gives to be called at every step."""

    def __call__(self, step: int, text: str = "", **values: float) -> None:
        """Show a step; of values their running means are shown, over some 50 steps."""


PICTURES = (".png", ".pdf", ".svg", ".jpg")


@contextmanager
def progress(begun: int, steps: int, minutes: float = math.inf) -> Iterator[Show]:
    """Show what goes on, and for how long: a bar if there are rich and a terminal, else lines.

    How long it will take is told by the steps so far; it is ``minutes`` at most.
    """
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


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """A list that Ctrl-C adds to, so that it cuts no step and no file in half."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


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


def command_line(description: str, plot: bool = True, epochs: int = 0) -> argparse.ArgumentParser:
    """A parser with the options that examples have in common, to be read by ``arguments``.

    With ``epochs``, their number unless another is given, also those of ``over_seeds``.
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
    return parser


def arguments(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The command line read; with --quick, ``quick`` are the defaults. Sets backend and seed."""
    args = parser.parse_args()
    one_process_speaks()
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
    except (ValueError, tg.BackendUnavailable) as error:
        sys.exit(f"{parser.prog}: {error}")
    prepare_blas()
    if "plot" in args:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
    return args


def read(reader: Callable[[], T]) -> T:
    """What ``reader`` reads; where it is not installed, one line says how to come by it."""
    try:
        return reader()
    except ModuleNotFoundError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def here(x: np.ndarray) -> tg.Tensor:
    """An array on the backend that ``--backend`` names."""
    return tg.tensor(x, backend=tg.zeros(()).backend)


def over_seeds(args: argparse.Namespace, train: Callable[[int], dict[str, float]]) -> Measured:
    """What ``train(seed)`` measures by the name of a model, for each seed; Ctrl-C ends it.

    Then what the seeds before have given stands, and the command for the others is printed.
    """
    measured: Measured = {}
    for seed in range(args.seed, args.seed + args.seeds):
        tg.manual_seed(seed)
        started = time.monotonic()
        try:
            found = train(seed)
        except KeyboardInterrupt:
            left = args.seed + args.seeds - seed
            print(f"\nTo go on: {command('--seed', str(seed), '--seeds', str(left))}")
            sys.exit(130)
        told = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        print(f"seed {seed}: {told}; {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
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


def Figure(*args: Any, **options: Any) -> Any:
    """A figure of matplotlib, which is imported when a picture is drawn."""
    from matplotlib.figure import Figure

    return Figure(*args, **options)


def save_picture(figure: Any, path: Path) -> None:
    """A figure of matplotlib to a file; a PNG keeps 128 colours, a third of the bytes."""
    from PIL import Image

    figure.savefig(path, dpi=80)
    if path.suffix == ".png":
        Image.open(path).convert("RGB").quantize(128).save(path)
    print(f"The picture is in {path}.")
