"""Carry out experiments of papers, and say which of their claims hold here.

    python -m evidence                     all that have no results yet, five seeds each
    python -m evidence adding parity       these
    python -m evidence adding --seeds 5-9  from other seeds
    python -m evidence --quick             small forms of all, within three minutes; nothing is kept
    python -m evidence --table             README.md and its pictures again, from what there is
    python -m evidence chorales --data F   chorales of yours: JSON, or the pickle of JSB Chorales

Results are kept run by run in evidence/results/: Ctrl-C loses one run, and the command that it
prints goes on from there.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from . import invocation
from .experiment import Experiment, Results, carry_out, machine
from .pages import PAGES, chorales
from .report import described, write_readme

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results"


def seeds_of(text: str) -> range:
    """Seeds written as "3" or "0-4"; ValueError for what is not, and for none."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not (last.isdecimal() or not dash):
        raise ValueError(f"--seeds: written 3 or 0-4, not {text!r}")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise ValueError(f"--seeds: {text!r} is empty; the smaller one comes first")
    if found[-1] >= 2**32:
        raise ValueError(f"--seeds: a seed is below 2**32, unlike {found[-1]}")
    return found


def prepare_blas() -> None:
    """One thread for NumPy's BLAS, which would take the processors from the kernels' threads."""
    if find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"of {', '.join(PAGES)} (all)")
    add("--seeds", metavar="A-B", help="from which to run (as many as a page says; quick: 0)")
    add("--quick", action="store_true", help="small forms, of which nothing is kept")
    add("--table", action="store_true", help="run nothing; write README.md and its pictures")
    add("--data", type=Path, metavar="FILE", help="train, valid and test pieces for chorales")
    add("--results", type=Path, metavar="FOLDER", help="where to keep (evidence/results)")
    args = parser.parse_args(arguments)
    try:
        seeds = None if args.seeds is None else seeds_of(args.seeds)
        pages, kept = asked_for(args)
    except (OSError, ValueError) as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    if args.table:
        write_readme(HERE, kept)
        return 0
    prepare_blas()
    if args.quick:
        return quickly(pages, seeds or [0])
    more = [] if args.data is None else ["--data", str(args.data)]
    return fully(
        pages, seeds, kept, more + ([] if args.results is None else ["--results", str(kept)])
    )


def asked_for(args: argparse.Namespace) -> tuple[list[Experiment], Path]:
    """The pages that are named, and where their results are; ValueError for what there is not."""
    unknown = [name for name in args.names if name not in PAGES]
    if unknown:
        raise ValueError(f"no experiment {unknown[0]!r}; there are {', '.join(PAGES)}")
    pages, kept = [PAGES[name] for name in args.names or PAGES], args.results or KEPT
    if args.data is not None:
        if args.names != ["chorales"] or args.table:
            raise ValueError("--data is for chorales only: python -m evidence chorales --data FILE")
        pages = [chorales.on(args.data)]
        kept = args.results or KEPT / f"chorales-{pages[0].full['data']}"
        if kept.resolve() == KEPT:
            raise ValueError(f"--results: {kept} is for the data of the page; leave the option out")
    if kept.exists() and not kept.is_dir():
        raise ValueError(f"--results: {kept} is a file, not a folder")
    if args.table and not kept.exists():
        raise ValueError(f"--results: there is no folder {kept} to make a table of")
    return pages, kept


def quickly(pages: Sequence[Experiment], seeds: Sequence[int]) -> int:
    """Small forms: 1 if one of them does not meet its criterion."""
    print(machine(), flush=True)
    failed = []
    for page in pages:
        began, results = time.monotonic(), Results(page)
        try:
            results.runs = list(carry_out(page, seeds, quick=True))
        except ModuleNotFoundError as missing:
            print(f"{page.name}: not run: {missing}", flush=True)
            continue
        met = page.judge(results.found(), page.setting_of(quick=True))
        failed += [] if met else [page.name]
        verdict = "holds in small" if met else "FAILS in small"
        took = time.monotonic() - began
        print(f"{page.name}: {verdict}, {took:.0f} s: {described(results)}", flush=True)
    if failed:
        print(f"evidence: small forms that fail: {', '.join(failed)}")
    return bool(failed)


def fully(
    pages: Sequence[Experiment], seeds: Sequence[int] | None, kept: Path, options: Sequence[str]
) -> int:
    """The experiments themselves; 130 after Ctrl-C."""
    for number, page in enumerate(pages):
        results = Results(page)
        try:
            results = Results.read(page, kept)
            before = len(results.runs)
            for run in carry_out(page, seeds or range(page.seeds), done=results):
                results.runs.append(run)
                results.write(kept)
                values = ", ".join(f"{k} {v:.4g}" for k, v in run["measures"].items())
                print(f"{page.name}: {run['case']}, seed {run['seed']}: {values}", flush=True)
            if len(results.runs) == before:
                print(f"{page.name}: was run before; --results FOLDER begins anew", flush=True)
            print(f"{page.name}: {results.verdict()}: {described(results)}", flush=True)
        except ModuleNotFoundError as missing:
            print(f"{page.name}: not run: {missing}", flush=True)
        except KeyboardInterrupt:
            if results.runs:
                results.write(kept)  # it may have come before or while the last was written
            words = [*invocation(), *(p.name for p in pages[number:])]
            words += ["--seeds", f"{seeds[0]}-{seeds[-1]}"] if seeds else []
            print(f"\nWhat was done is kept in {kept}. To go on:\n{shlex.join([*words, *options])}")
            return 130
    return 0
