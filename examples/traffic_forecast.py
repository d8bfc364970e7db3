"""How many cars come in each of the next 24 hours: forecasts with intervals, made every hour.

Three LSTMs read hour by hour how far the traffic on a road in Minnesota is from what is usual at
that hour of that weekday, and the weather (see ``roads.py``). At each hour they give three
quantiles of that distance for each of the next 24: one hour in ten is to be below the lowest, one
above the highest; the pinball loss teaches them that (Koenker & Bassett 1978). They learn from
October 2016 to March 2018, and their mean is tested on the six months after that, beside what is
usual plus a share of the last error. No holiday was told to them: these are the days on which they
fail.

    pip install --no-deps autots
    python examples/traffic_forecast.py --seeds 3    two minutes a seed on one core
    python examples/traffic_forecast.py --quick      seconds: does it run?
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from datasets import traffic
from roads import AHEAD, WEEK, Hours, ensemble, prepare


def draw(hours: Hours, first: int, found: np.ndarray, error: np.ndarray, path: Path) -> None:
    """The two weeks around the worst day, each day as it was forecast the midnight before."""
    worst = first // 24 + int(np.argmax(error))
    start = max(worst - 7, first // 24 + 1) * 24
    at = np.arange(start, min(start + 14 * 24, len(found)))
    low, median, high = np.concatenate([found[d - 1] for d in at[::24]]).T
    figure = support.Figure(figsize=(9, 3), layout="constrained")
    axes, day = figure.subplots(), np.arange(len(low)) / 24
    axes.fill_between(day, low, high, alpha=0.3, label="80 % interval")
    axes.plot(day, median, linewidth=1, label="forecast of the midnight before")
    axes.plot(day, hours.volume[start : start + len(low)], "k", linewidth=0.6, label="counted")
    axes.set(xlabel=f"days from {hours.days[start // 24]}", ylabel="cars an hour")
    axes.legend(fontsize=7, ncols=3)
    support.save_picture(figure, path)


def main() -> None:
    """Train, compare, draw."""
    parser = support.command_line(__doc__, epochs=150)
    args = support.arguments(parser, epochs=8)
    hours = prepare(support.read(traffic, 17_000), "2018-04-01")
    first = 24 * int(np.argmax(hours.days >= np.datetime64("2018-04-01")))
    at = np.arange(first - 1, len(hours.volume) - AHEAD)  # when a forecast is made
    found = np.empty(0)

    def mae(guess: np.ndarray, ahead: int) -> float:
        return float(np.nanmean(np.abs(guess - hours.volume[at + ahead])))

    def run(seed: int) -> dict[str, float]:
        nonlocal found
        steps = args.epochs * first // (16 * 2 * WEEK)
        found = ensemble(hours, first, steps, args.quick, seed)
        return {f"LSTMs, {n} h ahead": mae(found[at, n - 1, 1], n) for n in (1, AHEAD)}

    measured = support.over_seeds(args, run)
    last = np.nan_to_num(hours.volume - hours.usual)
    for n in (1, AHEAD):
        share = np.sum(last[: first - n] * last[n:first]) / np.sum(last[: first - n] ** 2)
        guesses = {
            "as now": hours.volume[at],
            "as a week before": hours.volume[at + n - WEEK],
            "as usual": hours.usual[at + n],
            f"and {share:.2f} of the error": hours.usual[at + n] + share * last[at],
        }
        rows = {name: mae(guess, n) for name, guess in guesses.items()}
        name = f"LSTMs, {n} h ahead"
        title = f"mean absolute error {n} hours ahead, April to September 2018, in cars"
        support.compare(title, rows, {name: measured[name]}, 0, less_is_better=True)
    right = hours.volume[at[:, None] + np.arange(1, AHEAD + 1)]
    inside = (found[at, :, 0] <= right) & (right <= found[at, :, 2])
    print(
        f"80 % interval, {np.mean(found[at, :, 2] - found[at, :, 0]):.0f} cars wide: it held "
        f"{100 * inside[~np.isnan(right)].mean():.0f} % of the time"
    )
    midnights = np.arange(first - 1, len(found), 24)
    error = [np.nanmean(np.abs(found[m, :, 1] - hours.volume[m + 1 : m + 25])) for m in midnights]
    worst = [f"{hours.days[first // 24 + i]} ({error[i]:.0f})" for i in np.argsort(error)[:-6:-1]]
    print(f"They fail on {', '.join(worst)}; the day in the middle has {np.median(error):.0f}")
    draw(hours, first, found, np.array(error), args.plot)


if __name__ == "__main__":
    main()
