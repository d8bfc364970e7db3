"""README.md: a table of all experiments, a page of each, and the pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .experiment import Experiment, Results, interval
from .pages import PAGES

HEAD = """# The literature as a test suite

Experiments of papers, carried out again with this library by one command, `python -m evidence`.
Each states the paper's figure, what is done here, and a criterion, which was committed before what
is shown was run. Criteria were not all made blind: the small forms had been looked at; the claim
of min-char-rnn was put anew after a trial that ran free, the step of the spectra moved after their
small form had failed, and the setting of clipping was chosen after trials. A claim that does not
hold here is reported as that. Numbers are means over seeds with the 95 % interval by Student's t;
in parentheses how many seeds. Figures marked † are quoted from memory of the paper. A verdict from
fewer seeds than an experiment asks for says so.

`python -m evidence --quick` runs small forms of all of them within three minutes, as CI does.
`python -m evidence NAME --seeds 5-9` runs one from other seeds, and adds to `results/`; what is
there is not run again, unless `--results FOLDER` begins anew. `python -m evidence --table` writes
this page again. Times are of a machine that other programs kept busy at the same time: see
the load. Chorales and digits are data of packages, which their experiments name where they are not
installed. A new experiment is a module of `pages/`, committed before it is run.

`python -m evidence chorales --data FILE` runs that experiment on chorales of yours, such as those
of the paper: a JSON file, `{"train": [...], "valid": [...], "test": [...]}`, lists of pieces, a
piece a list of steps, a step the list of MIDI pitches (21 to 108) that sound; or a pickle of the
same, such as `JSB Chorales.pickle`. Of a pickle nothing is read but containers and integers,
NumPy's included. The results are kept apart, in a folder of `results/` that is named by what is in
the file, and are no part of this page.
"""


def described(results: Results) -> str:
    """What was measured, case by case."""
    page, found = results.experiment, results.found()
    parts = []
    for case in page.cases:
        if found[case]:
            values = ", ".join(measured(found[case], key, f) for key, f in page.shown.items())
            parts.append(f"{case}: {values}")
    seeds = len({run["seed"] for run in results.runs})
    return "; ".join(parts) + f" ({seeds} seed{'s' * (seeds != 1)})"


def measured(runs: list[dict[str, float]], key: str, form: str) -> str:
    """One measure of a case, with its interval."""
    values = [run[key] for run in runs]
    mean, low, high = interval(values)
    if not math.isfinite(mean):
        return f"{key} diverged in {sum(not math.isfinite(x) for x in values)} of {len(values)}"
    if len(runs) < 2 or low == high:
        return f"{key} {mean:{form}}"
    return f"{key} {mean:{form}} [{low:{form}}, {high:{form}}]"


def write_readme(folder: Path, kept: Path) -> None:
    """README.md and plots/ in ``folder``, from the results in ``kept``."""
    every = [Results.read(page, kept) for page in PAGES.values()]
    part = folder / "README.part"
    part.write_text(readme(every), encoding="utf-8")
    part.replace(folder / "README.md")
    for results in filter(has_curves, every):
        draw(results, folder / "plots" / f"{results.experiment.name}.png")


def readme(every: list[Results]) -> str:
    """The text of README.md."""
    lines = ["| experiment | paper | published | ours | verdict | minutes | command |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for results in every:
        page = results.experiment
        ours = described(results) if results.runs else ""
        minutes = f"{results.seconds / 60:.1f}" if results.runs else ""
        command = f"`python -m evidence {page.name}`"
        title = f"[{page.title}](#{page.name.replace('_', '-')})"
        cells = [title, page.paper, page.published, ours, bold(results.verdict()), minutes, command]
        lines.append("| " + " | ".join(" ".join(cell.split()) for cell in cells) + " |")
    total = sum(results.seconds for results in every) / 60
    machines = sorted({name for results in every for name in results.machines})
    lines.append(f"\nAll runs together: {total:.0f} minutes, on {'; '.join(machines)}.")
    return "\n".join([HEAD, *lines, "", *map(section, every)])


def bold(verdict: str) -> str:
    """A verdict for the eye."""
    first, space, rest = verdict.partition(" (")
    return (f"**{first}**" if first == "reproduced" else first.upper()) + space + rest


def section(results: Results) -> str:
    """The page of one experiment."""
    page = results.experiment
    parts = [
        f"## {page.name.replace('_', ' ')}",
        f"{page.title}. *{page.paper}.* [`{page.name}.py`](pages/{page.name}.py)",
        f"**Published.** {page.published}",
        f"**Here.** {page.setting}",
        f"**Criterion.** {page.criterion}",
        f"**Verdict: {results.verdict()}**, {'; '.join(results.machines) or 'so far'}.",
    ]
    if results.runs:
        rows = [f"| case | seeds | {' | '.join(page.shown)} | seconds a run | load |"]
        rows.append("| --- " * (len(page.shown) + 4) + "|")
        for case in page.cases:
            runs = [run for run in results.runs if run["case"] == case]
            if runs:
                rows.append(row(page, case, runs))
        parts.append("\n".join(rows))
        parts += [page.remark] if page.remark else []
        if has_curves(results):
            parts.append(f"![{page.title}](plots/{page.name}.png)")
    return "\n\n".join(" ".join(p.split()) if "|" not in p else p for p in parts) + "\n"


def row(page: Experiment, case: str, runs: list[dict[str, Any]]) -> str:
    """A case in the table of its page."""
    measures = [run["measures"] for run in runs]
    cells = [case, str(len(runs))]
    for key, form in page.shown.items():
        cells.append(measured(measures, key, form).removeprefix(f"{key} "))
    cells.append(f"{sum(run['seconds'] for run in runs) / len(runs):.1f}")
    loads = [run["load"] for run in runs]
    cells.append(f"{min(loads):.1f} to {max(loads):.1f}")
    return f"| {' | '.join(cells)} |"


def has_curves(results: Results) -> bool:
    """Whether there is something to draw."""
    return any(len(run["curve"]) > 1 for run in results.runs)


def draw(results: Results, path: Path) -> None:
    """The curves: a colour for each case, a line for each seed."""
    from matplotlib.figure import Figure
    from PIL import Image

    page = results.experiment
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for number, case in enumerate(page.cases):
        label: str | None = case
        for run in results.runs:
            if run["case"] == case and run["curve"]:
                xs, ys = zip(*run["curve"], strict=True)
                axis.plot(xs, ys, f"C{number % 10}", linewidth=1, label=label)
                label = None
    for name, label in zip("xy", page.axes, strict=True):
        getattr(axis, f"set_{name}label")(label.removeprefix("log "))
        if label.startswith("log "):
            getattr(axis, f"set_{name}scale")("log")
    axis.set_title(page.title)
    axis.legend(fontsize="small", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    Image.open(path).convert("RGB").quantize(64).save(path)
