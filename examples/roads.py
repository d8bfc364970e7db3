"""A road in Minnesota, hour by hour: what is usual there, and a network that forecasts the rest.

``traffic_forecast.py`` asks how good its forecasts are, ``anomalies.py`` what the days are on which
they are not. A network reads how far the traffic is from the median of that hour of the week, and
the weather; of holidays it is told nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import support
import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

AHEAD, WEEK, QUANTILES = 24, 168, [0.1, 0.5, 0.9]


class Hours(NamedTuple):
    """A road, hour by hour, beginning at a midnight."""

    volume: np.ndarray  # cars; nan where nobody counted
    usual: np.ndarray  # the median of that hour of the week, in training
    features: np.ndarray  # (N, F) of what is known at that hour
    scale: np.ndarray  # how far from it that hour of the week was on average, in training
    days: np.ndarray  # the date of each 24 hours


def prepare(rows: list[dict[str, str]], train_until: str) -> Hours:
    """What is usual and how it scales is learned from before a date."""
    days = np.array([row["datetime"][:10] for row in rows[::24]], "datetime64[D]")
    known = np.repeat(days < np.datetime64(train_until), 24)

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name] or "nan") for row in rows])

    volume = column("traffic_volume")
    hour = np.arange(len(volume)) % WEEK
    usual = np.array([np.nanmedian(volume[known & (hour == h)]) for h in range(WEEK)])[hour]
    far = np.where(known, np.abs(volume - usual), np.nan)
    scale = np.array([np.nanmean(far[hour == h]) for h in range(WEEK)])[hour] + np.nanmean(far) / 4
    other = np.nan_to_num((volume - usual) / scale / 2)  # what was not counted was as usual
    weather = [column("temp"), column("clouds_all"), np.log1p(column("rain_1h"))]
    weather = [np.nan_to_num((x - np.nanmean(x)) / (np.nanstd(x) or 1.0)) for x in weather]
    day = [f(2 * np.pi * k * hour / WEEK) for f in (np.sin, np.cos) for k in (1, 7, 14)]
    features = np.stack([other, np.isnan(volume), *weather, usual / usual.mean(), *day], axis=1)
    return Hours(volume, usual, features.astype("float32"), scale, days)


class Forecaster(nn.Module):
    """Hours (T, B, F) to the quantiles of the next 24 at each of them (T, B, 24, 3)."""

    def __init__(self, features: int, hidden: int) -> None:
        self.lstm = nn.LSTM(features, hidden)
        self.dropout = nn.Dropout(0.4)
        self.readout = nn.Linear(hidden + features, AHEAD * 3)

    def forward(self, hours: tg.Tensor) -> tg.Tensor:
        """The median, and two distances from it, which are positive."""
        outputs, _ = self.lstm(hours)
        found = self.readout(tg.concat([self.dropout(outputs), hours], axis=-1))
        median, below, above = tg.split(tg.reshape(found, (*found.shape[:2], AHEAD, 3)), 3, axis=-1)
        return tg.concat([median - tg.softplus(below), median, median + tg.softplus(above)], -1)


def train(hours: Hours, end: int, steps: int, hidden: int, seed: int) -> Forecaster:
    """Two weeks at a time from before hour ``end``; the first day of each is only read."""
    model = Forecaster(hours.features.shape[1], hidden)
    optimizer = optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rng, length = np.random.default_rng(seed), 2 * WEEK
    q, future = support.here(np.array(QUANTILES, "float32")), np.arange(1, AHEAD + 1)
    with support.training(steps, model, optimizer, schedule, rng) as show:
        for step in range(show.step + 1, steps + 1):
            start = rng.integers(0, end - length - AHEAD, 16)
            at = np.arange(length)[:, None] + start
            right = target(hours, at[24:, :, None] + future)
            counted = support.here(~np.isnan(right))
            forecast = model(support.here(hours.features[at]))[24:]
            error = support.here(np.nan_to_num(right)) - forecast
            weight = hours.scale[at[24:, :, None] + future][..., None] / hours.scale.mean()
            weight = support.here(weight.astype("float32"))
            loss = tg.mean(tg.where(counted, weight * tg.maximum(q * error, (q - 1) * error), 0.0))
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            show(step, loss=loss.item())
    return model.eval()


def target(hours: Hours, at: np.ndarray) -> np.ndarray:
    """How far from usual it was at these hours (..., 1), scaled; nan where nobody counted."""
    far = (hours.volume[at] - hours.usual[at]) / hours.scale[at]
    return far[..., None].astype("float32")


def forecasts(model: Forecaster, hours: Hours) -> np.ndarray:
    """In cars, of the 24 hours after each hour but the last ones, (N - 24, 24, 3)."""
    with tg.no_grad():
        found = model(support.here(hours.features[:-AHEAD, None]))[:, 0].numpy()
    at = np.arange(len(found))[:, None] + np.arange(1, AHEAD + 1)
    return hours.usual[at][..., None] + hours.scale[at][..., None] * found


def ensemble(hours: Hours, end: int, steps: int, quick: bool, seed: int) -> np.ndarray:
    """The mean forecast of three networks, of one if it has to be quick."""
    parts = []
    for member in range(1 if quick else 3):
        tg.manual_seed(10 * seed + member)
        model = train(hours, end, steps, 16 if quick else 64, 10 * seed + member)
        parts.append(forecasts(model, hours))
    return np.mean(parts, axis=0)
