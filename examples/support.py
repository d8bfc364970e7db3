"""What examples share: progress that one can watch, Ctrl-C between two steps, kinds of options."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import tinygrad_rnn as tg
from tinygrad_rnn import distributed


class Show(Protocol):
    """``show(step, text, loss=1.2)``: what ``progress`` gives to be called at every step."""

    def __call__(self, step: int, text: str = "", **values: float) -> None:
        """Show a step; of values their running means are shown, over some 50 steps."""


PICTURES = (".png", ".pdf", ".svg", ".jpg")


@contextmanager
def progress(begun: int, steps: int) -> Iterator[Show]:
    """Show what goes on, and for how long: a bar if there are rich and a terminal, else lines."""
    started = time.monotonic()
    means: dict[str, float] = {}

    def described(step: int, text: str, values: dict[str, float]) -> str:
        for name, value in values.items():
            before = means.get(name, value)
            means[name] = before + (value - before) / min(step - begun + 1, 50)
        parts = [f"{name} {means[name]:.3f}" for name in values] + [text] * bool(text)
        return ", ".join([*parts, f"{(time.monotonic() - started) / 60:.1f} minutes"])

    if sys.stdout.isatty() and find_spec("rich"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        column = TextColumn("{task.description}")
        with Progress(MofNCompleteColumn(), BarColumn(), Remaining(), column) as bar:
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
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"a positive integer, not {text!r}")
    return int(text)


def command_line(description: str, plot: bool = True) -> argparse.ArgumentParser:
    """A parser with the options that examples have in common, to be read by ``arguments``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    picture = Path(sys.argv[0]).with_suffix(".png")
    add = parser.add_argument_group("as in every example").add_argument
    add("--backend", default="numpy", metavar="NAME", help="numpy, cupy or another (numpy)")
    add("--seed", type=int, default=0, metavar="N", help="of whatever is left to chance (0)")
    if plot:
        default = picture.parent / "plots" / picture.name
        add("--plot", type=Path, metavar="FILE", default=default, help="the picture's place")
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
    if "plot" in args:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
    return args


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
