"""Forecast tomorrow's highest temperature in Seattle, with an interval that says how sure it is.

An LSTM reads the weather of two weeks and gives three quantiles of tomorrow's: one day in ten is to
be colder than the lowest, one in ten warmer than the highest. The pinball loss teaches it that
(Koenker & Bassett 1978). Of three networks each is trained without one of the years 2012 to 2014,
and that year says by how much its interval is too narrow (conformal quantile regression, Romano et
al. 2019). Their mean is the forecast for 2015, which none of them has seen.

    pip install --no-deps vega-datasets
    python examples/weather_forecast.py            ten seconds
    python examples/weather_forecast.py --quick    does it run? On a made-up climate
"""

from __future__ import annotations

from pathlib import Path

import support
import numpy as np
from support import positive
from datasets import at_least, seattle_weather

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, SlidingWindows

QUANTILES, YEARS = [0.1, 0.5, 0.9], [2012, 2013, 2014]
DAYS = 14  # that are read


class Forecaster(nn.Module):
    """Days (T, B, F), the temperature first among F features, to quantiles for the next (B, 3)."""

    def __init__(self, features: int, hidden: int) -> None:
        self.lstm = nn.LSTM(features, hidden)
        self.dropout = nn.Dropout(0.4)
        self.readout = nn.Linear(hidden, 3, weight_init=nn.init.zeros)

    def forward(self, days: tg.Tensor) -> tg.Tensor:
        """As it is today, a change, and two distances from there, which are positive."""
        outputs, _ = self.lstm(days)
        change, below, above = tg.split(self.readout(self.dropout(outputs[-1])), 3, axis=-1)
        median = days[-1, :, :1] + change
        return tg.concat([median - tg.softplus(below), median, median + tg.softplus(above)], -1)


def pinball_loss(forecast: tg.Tensor, target: tg.Tensor) -> tg.Tensor:
    """Least where a share of QUANTILES of the targets (B, 1) is below the forecast (B, 3)."""
    q, error = tg.asarray(QUANTILES), target - forecast
    return tg.mean(tg.maximum(q * error, (q - 1) * error))


def train(model: Forecaster, windows: SlidingWindows, batches: Batches, epochs: int) -> None:
    """Learn from batches of numbers of windows."""
    optimizer = optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(batches))
    with support.training(None, model, optimizer, schedule, batches) as show:
        while batches.epoch < epochs:
            for batch in batches:
                days, following = windows[batch]
                loss = pinball_loss(model(days), following[0, :, :1])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch)
    model.eval()


def weather(made_up: bool) -> tuple[np.ndarray, np.ndarray]:
    """The year of each day, and features (N, 6): its highest temperature, and five others."""
    wave = 2 * np.pi * np.arange(1461) / 365.25
    season = [np.sin(wave), np.cos(wave)]
    if made_up:  # a wave a year, and noise that lasts for days: the climate of nowhere
        drawn = np.random.default_rng(0).normal(size=1470)
        noise = np.convolve(drawn, 0.7 ** np.arange(10), "valid")
        highest = 15 - 10 * np.cos(wave) + 2.5 * noise
        return 2012 + np.arange(1461) * 4 // 1461, np.stack([highest, *season], axis=-1)
    days = at_least(1461, seattle_weather())
    columns = ["temp_max", "temp_min", "wind", "precipitation"]
    *others, rain = np.array([[float(day[name]) for day in days] for name in columns])
    year = np.array([int(day["date"][:4]) for day in days])
    return year, np.stack([*others, np.log1p(rain), *season], axis=-1)


def draw(right: np.ndarray, forecasts: np.ndarray, path: Path) -> None:
    """The year, day by day, over its forecasts (3, N)."""
    figure = support.Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(range(len(right)), *forecasts[::2], alpha=0.3, label="80 % interval")
    axes.plot(forecasts[1], linewidth=1, label="forecast of the day before")
    axes.plot(right, "k.", markersize=3, label="measured")
    axes.set(xlabel="day of 2015", ylabel="highest temperature, °C", xlim=(0, len(right)))
    axes.legend()
    support.save_picture(figure, path)


def main() -> None:
    """Train, calibrate, compare, draw."""
    parser = support.command_line(__doc__)
    add = parser.add_argument
    add("--epochs", type=positive, default=15, metavar="N", help="times to read the years (15)")
    args = support.arguments(parser, epochs=8)
    year, features = support.read(lambda: weather(made_up=args.quick))
    known = features[year < 2015]
    mean, std = known.mean(axis=0), known.std(axis=0)
    windows = SlidingWindows(((features - mean) / std).astype("float32"), DAYS)
    rows = {y: np.flatnonzero(year[DAYS:] == y) for y in [*YEARS, 2015]}
    right = {y: features[DAYS:, 0][rows[y]] for y in rows}

    forecasts = []
    for left_out in YEARS:
        model = Forecaster(features.shape[-1], hidden=32)
        others = np.concatenate([rows[y] for y in YEARS if y != left_out])
        train(model, windows, Batches(others, 32, seed=args.seed), args.epochs)
        with tg.no_grad():
            found = {y: model(windows[rows[y]][0]).numpy().T for y in (left_out, 2015)}
        low, median, high = found[left_out] * std[0] + mean[0]
        missed = np.maximum(low - right[left_out], right[left_out] - high)
        low, median, high = found[2015] * std[0] + mean[0]
        margin = np.quantile(missed, 0.8)  # which makes the interval hold 80 % of that year
        forecasts.append([low - margin, median, high + margin])
    low, median, high = forecasts = np.mean(forecasts, axis=0)

    today = features[DAYS - 1 : -1][rows[2015]]
    line = np.linalg.lstsq(np.c_[known[:-1], known[1:, 0] ** 0], known[1:, 0])[0]
    where = "a made-up climate" if args.quick else "Seattle"
    print(f"highest temperature on {len(median)} days of 2015, {where}, degrees: MAE and RMSE")
    for name, guess in (
        ("as today (persistence)", today[:, 0]),
        ("linear regression on today", np.c_[today, today[:, 0] ** 0] @ line),
        ("LSTM, median", median),
    ):
        error = guess - right[2015]
        print(f"  {name:26} {np.abs(error).mean():.2f}  {np.sqrt((error**2).mean()):.2f}")
    changes = np.quantile(np.diff(known[:, 0]), [[0.1], [0.9]])
    for name, lower, upper in ("as today", *(today[:, 0] + changes)), ("LSTM", low, high):
        outside = np.maximum(lower - right[2015], right[2015] - upper).clip(min=0)
        score = np.mean(upper - lower + 2 / 0.2 * outside)  # Gneiting & Raftery 2007
        held, width = 100 * np.mean(outside == 0), np.mean(upper - lower)
        print(f"  80 % interval, {name:8} {width:.1f} wide, held {held:.0f} %, score {score:.1f}")
    draw(right[2015], forecasts, args.plot)


if __name__ == "__main__":
    main()
