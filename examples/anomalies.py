"""Which days are not like others? Those on which a forecast fails.

Three LSTMs learn the traffic of a year (see ``roads.py``). Each midnight of the next one they
forecast the 24 hours to come, and how far they were off says how odd the day was. Of 364 days ten
are federal holidays of the United States, which a calendar knows and the networks do not: how well
does the error tell them from the others? To compare: how far a day is from the median of its hours
and weekdays, and, as holidays are quiet, by how many cars it is below. The figure is the area under
the ROC curve, the share of pairs of a holiday and another day that are in order.

    pip install --no-deps autots
    python examples/anomalies.py --seeds 3    a minute a seed on one core
    python examples/anomalies.py --quick      seconds: does it run?
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from datasets import traffic
from roads import AHEAD, WEEK, ensemble, prepare

FLOATING = {"01": (1, 3), "02": (1, 3), "05": (1, -1), "09": (1, 1), "10": (1, 2), "11": (4, 4)}
FIXED = ("01-01", "07-04", "11-11", "12-25")


def holidays(days: np.ndarray) -> np.ndarray:
    """Which are federal holidays, since 1971: on a Saturday it is the day before, Sunday after."""
    found = []
    for year in np.unique(days.astype("datetime64[Y]")):
        for day in FIXED:
            date = np.datetime64(f"{year}-{day}")
            weekday = (date.astype(int) + 3) % 7  # 0 for Monday; 1970-01-01 was a Thursday
            found.append(date + {5: -1, 6: 1}.get(int(weekday), 0))
        for month, (isoweekday, nth) in FLOATING.items():
            first = np.datetime64(f"{year}-{month}", "M").astype("datetime64[D]")
            of_month = np.arange(first, (first.astype("datetime64[M]") + 1).astype(days.dtype))
            such = of_month[(of_month.astype(int) + 3) % 7 == isoweekday - 1]
            found.append(such[nth - 1 if nth > 0 else nth])
    return np.isin(days, found)


def auc(scores: np.ndarray, odd: np.ndarray) -> float:
    """The share of pairs of an odd and another one of which the odd one has the larger score."""
    pairs = scores[odd, None] - scores[~odd]
    return float(np.mean(pairs > 0) + np.mean(pairs == 0) / 2)


def draw(days: np.ndarray, scores: np.ndarray, odd: np.ndarray, path: Path) -> None:
    """The score of each day, and which are holidays."""
    figure = support.Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(days[~odd], scores[~odd], width=1, color="0.6", label="other days")
    axes.bar(days[odd], scores[odd], width=2, color="tab:red", label="federal holidays")
    axes.set(ylabel="error of the forecast, cars an hour", xlim=(days[0], days[-1]))
    axes.legend()
    support.save_picture(figure, path)


def main() -> None:
    """Train, score, compare, draw."""
    parser = support.command_line(__doc__, epochs=150)
    args = support.arguments(parser, epochs=8)
    hours = prepare(support.read(traffic, 17_000), "2017-10-01")
    first = int(np.argmax(hours.days >= np.datetime64("2017-10-01")))
    last = (len(hours.volume) - AHEAD) // 24
    days, at = hours.days[first:last], np.arange(first, last)
    odd = holidays(days)
    volume, usual = (x.reshape(-1, 24)[at] for x in (hours.volume, hours.usual))
    print(f"{odd.sum()} holidays: {', '.join(map(str, days[odd]))}")
    scores = np.empty(0)

    def run(seed: int) -> dict[str, float]:
        nonlocal scores
        steps = args.epochs * 24 * first // (16 * 2 * WEEK)
        found = ensemble(hours, 24 * first, steps, args.quick, seed)
        found = found[24 * at - 1]  # made at the last hour of the day before
        scores = np.nanmean(np.abs(found[..., 1] - volume), axis=1)
        return {"LSTMs": auc(scores, odd)}

    measured = support.over_seeds(args, run)
    before = hours.volume.reshape(-1, 24)[at - 7]
    baselines = {
        "a week before": auc(np.nan_to_num(np.nanmean(np.abs(volume - before), axis=1)), odd),
        "as usual": auc(np.nanmean(np.abs(volume - usual), axis=1), odd),
        "fewer cars than usual": auc(np.nanmean(usual - volume, axis=1), odd),
    }
    support.compare(f"area under the ROC curve, {len(days)} days", baselines, measured, 3)
    draw(days, scores, odd, args.plot)


if __name__ == "__main__":
    main()
