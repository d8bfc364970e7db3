"""What an experiment is, how it is carried out, and where its results are kept.

A run is one case (a cell, a method, a setting) from one seed. Its results are written when it is
done, so that an interrupt loses one run and no more. They belong to the setting and the criterion
that they were had with: where the page says something else by now, they count no more.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import tinygrad_rnn as tg

Measures = dict[str, float]
Found = dict[str, list[Measures]]
"""For each case what was measured, seed by seed."""


class Outcome(NamedTuple):
    """Of one run: numbers by name, and points (x, y) of a curve."""

    measures: Measures
    curve: list[tuple[float, float]] = []  # noqa: RUF012 - nobody appends to it


@dataclass(frozen=True)
class Experiment:
    """A page.

    Args:
        name: what the command calls it.
        title: what it is about.
        paper: author, year, where in it.
        setting: what is done here, and how that differs from the paper.
        published: the figure, and whence it is known.
        criterion: what "reproduced" means.
        cases: what is compared.
        shown: measures to show, and how to format them.
        run: ``run(case, seed, s)``, with the seed set, and ``s`` one of the next two.
        full: numbers of the experiment, by name.
        quick: those of a small form, which shows the same in seconds; "cases" if not of all.
        judge: ``judge(found, s)``: whether the criterion is met.
        seeds: how many runs of each case.
        axes: of the curves; a word "log" in front makes one logarithmic.
        remark: what there is to say about the results, written after them.
    """

    name: str
    title: str
    paper: str
    setting: str
    published: str
    criterion: str
    cases: tuple[str, ...]
    shown: Mapping[str, str]
    run: Callable[[str, int, SimpleNamespace], Outcome]
    full: Mapping[str, Any]
    quick: Mapping[str, Any]
    judge: Callable[[Found, SimpleNamespace], bool]
    seeds: int = 5
    axes: tuple[str, str] = ("steps", "error")
    remark: str = ""

    def setting_of(self, quick: bool) -> SimpleNamespace:
        """Its numbers; in the quick form those of the full one that are not replaced, too."""
        return SimpleNamespace(**{**self.full, **(self.quick if quick else {})})


@dataclass
class Results:
    """The runs of one experiment."""

    experiment: Experiment
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def belonging(self) -> dict[str, Any]:
        """What they belong to, as JSON has it."""
        page = self.experiment
        said = {"criterion": page.criterion, "setting": page.setting, "numbers": dict(page.full)}
        return dict(json.loads(json.dumps(said)))

    def found(self) -> Found:
        """The measures by case, seeds in order."""
        runs = sorted(self.runs, key=lambda run: run["seed"])
        return {
            case: [run["measures"] for run in runs if run["case"] == case]
            for case in self.experiment.cases
        }

    def has(self, case: str, seed: int) -> bool:
        """Whether this run is done."""
        return any(run["case"] == case and run["seed"] == seed for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        """Those from which all cases were run."""
        every = {run["seed"] for run in self.runs}
        return sorted(n for n in every if all(self.has(c, n) for c in self.experiment.cases))

    @property
    def seconds(self) -> float:
        """Wall time of all runs."""
        return float(sum(run["seconds"] for run in self.runs))

    @property
    def machines(self) -> list[str]:
        """Where they were carried out."""
        return sorted({run["machine"] for run in self.runs})

    def verdict(self) -> str:
        """Whether the criterion is met by the seeds that are complete, and if they are few."""
        if not self.seeds:
            return "not run"
        complete = Results(self.experiment, runs=[r for r in self.runs if r["seed"] in self.seeds])
        met = self.experiment.judge(complete.found(), self.experiment.setting_of(quick=False))
        verdict = "reproduced" if met else "not reproduced"
        few = len(self.seeds) < self.experiment.seeds
        return f"{verdict} ({len(self.seeds)} of {self.experiment.seeds} seeds)" if few else verdict

    def write(self, folder: Path) -> None:
        """To a file that is complete at any time."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.experiment.name}.json"
        part = path.with_suffix(".part")
        content = {**self.belonging, "runs": self.runs}
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, experiment: Experiment, folder: Path) -> Results:
        """Those of the file, or none if there is none or it belongs to something else."""
        results = cls(experiment)
        path = folder / f"{experiment.name}.json"
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if {key: content.get(key) for key in results.belonging} == results.belonging:
                results.runs = content["runs"]
        return results


def carry_out(
    experiment: Experiment, seeds: Sequence[int], quick: bool = False, done: Results | None = None
) -> Iterator[dict[str, Any]]:
    """Run what is not done yet, and give each run when it is over."""
    s = experiment.setting_of(quick)
    for seed in seeds:
        for case in getattr(s, "cases", experiment.cases):
            if done is not None and done.has(case, seed):
                continue
            tg.manual_seed(seed)
            load, began = load_average(), time.monotonic()
            outcome = experiment.run(case, seed, s)
            yield {
                "case": case,
                "seed": seed,
                "measures": {k: float(v) for k, v in outcome.measures.items()},
                "curve": [[float(x), float(f"{y:.4g}")] for x, y in outcome.curve],
                "seconds": round(time.monotonic() - began, 1),
                "load": load,
                "machine": machine(),
            }


def load_average() -> float:
    """How many processes wanted to run over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else math.nan


@cache
def machine() -> str:
    """Processor, cores, Python, NumPy."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{processor}, {os.cpu_count()} cores, {versions}"


T_975 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179]
T_975 += [2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064]
"""The quantile 0.975 of Student's t, for 1, 2, ... degrees of freedom."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, and the 95 % interval around it by Student's t.

    Of one value it is unbounded, as of values whose mean is not finite.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, -math.inf, math.inf
    t = T_975[len(values) - 2] if len(values) - 2 < len(T_975) else 2.06
    half = t * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half
