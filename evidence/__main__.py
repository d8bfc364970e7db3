"""Carry out experiments of papers, and say which of their claims hold here.

    python -m evidence                     all that have no results yet, five seeds each
    python -m evidence adding parity       these
    python -m evidence adding --seeds 5-9  from other seeds
    python -m evidence --quick             small forms of all, within three minutes; nothing is kept
    python -m evidence --table             README.md and its pictures again, from what there is

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

from .experiment import Experiment, Results, carry_out, machine
from .pages import PAGES
from .report import described, write_readme

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results"


def seeds_of(text: str) -> list[int]:
    """Seeds written as "3" or "0-4"; ValueError for what is not, and for none."""
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not (last.isdecimal() or not dash):
        raise ValueError(f"--seeds: written 3 or 0-4, not {text!r}")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise ValueError(f"--seeds: {text!r} is empty; the smaller one comes first")
    if found[-1] >= 2**32:
        raise ValueError(f"--seeds: a seed is below 2**32, unlike {found[-1]}")
    return list(found)


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
    add("--results", type=Path, default=KEPT, metavar="FOLDER", help="where to keep")
    args = parser.parse_args(arguments)
    try:
        seeds = None if args.seeds is None else seeds_of(args.seeds)
        unknown = [name for name in args.names if name not in PAGES]
        if unknown:
            raise ValueError(f"no experiment {unknown[0]!r}; there are {', '.join(PAGES)}")
    except ValueError as error:
        print(f"evidence: {error}", file=sys.stderr)
        return 2
    if args.table:
        write_readme(HERE, args.results)
        return 0
    prepare_blas()
    pages = [PAGES[name] for name in args.names or PAGES]
    if args.quick:
        return quickly(pages, seeds or [0])
    return fully(pages, seeds, args.results)


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


def fully(pages: Sequence[Experiment], seeds: Sequence[int] | None, kept: Path) -> int:
    """The experiments themselves; 130 after Ctrl-C."""
    for number, page in enumerate(pages):
        results = Results.read(page, kept)
        try:
            for run in carry_out(page, seeds or range(page.seeds), done=results):
                results.runs.append(run)
                results.write(kept)
                values = ", ".join(f"{k} {v:.4g}" for k, v in run["measures"].items())
                print(f"{page.name}: {run['case']}, seed {run['seed']}: {values}", flush=True)
        except ModuleNotFoundError as missing:
            print(f"{page.name}: not run: {missing}", flush=True)
            continue
        except KeyboardInterrupt:
            words = ["python", "-m", "evidence", *(p.name for p in pages[number:])]
            words += ["--seeds", f"{seeds[0]}-{seeds[-1]}"] if seeds else []
            words += ["--results", str(kept)] if kept != KEPT else []
            print(f"\nWhat was done is kept in {kept}. To go on:\n{shlex.join(words)}")
            return 130
        print(f"{page.name}: {results.verdict()}: {described(results)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
