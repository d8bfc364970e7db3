"""Bach's chorales, four voices at a time: how surprising is the next eighth, and new ones to hear.

An LSTM reads what the four voices sing at each eighth and says what comes next: one voice after the
other from the soprano down, each given those above it, as a distribution over pitches. 60 of 364
chorales are the test; those that share a melody are on the same side. To compare, in nats an
eighth: how often each pitch is sung by a voice, and how often it moves by how much from where it
was. A new chorale is drawn and written as MIDI, which any player plays.

    pip install --no-deps music21
    python examples/chorales.py --seeds 3    three minutes a seed on one core
    python examples/chorales.py --quick      seconds: does it run?
"""

from __future__ import annotations

import support
import numpy as np
from datasets import chorales
from music import baselines, draw, split, write_midi

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.data import Batches, pad_arrays

PITCHES, VOICES = 128, 4  # of MIDI; 0 is a rest


class Choir(nn.Module):
    """Pitches (T, B, 4), and those that follow, to logits of the latter (T, B, 4, 128)."""

    def __init__(self, hidden: int) -> None:
        self.embeddings = [nn.Embedding(PITCHES, 32) for _ in range(VOICES)]
        self.above = [nn.Embedding(PITCHES, 64) for _ in range(VOICES - 1)]
        self.lstm = nn.LSTM(32 * VOICES, hidden)
        self.dropout = nn.Dropout(0.3)
        self.hidden = [nn.Linear(hidden + 64 * voice, 128) for voice in range(VOICES)]
        self.readouts = [nn.Linear(128, PITCHES) for _ in range(VOICES)]

    def read(self, now: tg.Tensor, state: tuple | None = None, **options: object) -> tuple:
        """What it remembers after each step (T, B, H), and the state."""
        sung = [embed(now[..., voice]) for voice, embed in enumerate(self.embeddings)]
        outputs, state = self.lstm(self.dropout(tg.concat(sung, axis=-1)), state, **options)
        return self.dropout(outputs), state

    def voice(self, voice: int, remembered: tg.Tensor, following: tg.Tensor) -> tg.Tensor:
        """The logits of a voice's next pitch, given those above it, ``following[..., :voice]``."""
        above = [self.above[v](following[..., v]) for v in range(voice)]
        x = tg.relu(self.hidden[voice](tg.concat([remembered, *above], axis=-1)))
        return self.readouts[voice](self.dropout(x))

    def forward(self, now: tg.Tensor, following: tg.Tensor, lengths: np.ndarray) -> tg.Tensor:
        """See the class."""
        remembered, _ = self.read(now, lengths=lengths)
        return tg.stack([self.voice(v, remembered, following) for v in range(VOICES)], axis=-2)


def nats(model: Choir, pieces: list[np.ndarray]) -> tg.Tensor:
    """The surprise of an eighth, all voices together, on average over all but the first."""
    batch, lengths = pad_arrays(pieces)
    now, following = batch[:-1], batch[1:]
    logits = model(now, following, lengths - 1)
    each = tg.cross_entropy(tg.moveaxis(logits, -1, 1), following, reduction="none")
    return VOICES * tg.masked_mean(each, tg.sequence_mask(lengths - 1))


def train(model: Choir, pieces: list[np.ndarray], epochs: int, seed: int) -> None:
    """AdamW and a cosine; each chorale is sung higher or lower by up to five semitones."""
    rng = np.random.default_rng(seed)
    batches = Batches(pieces, 16, seed=seed, length=len)
    steps = epochs * len(batches)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with support.training(steps, model, optimizer, schedule, batches, rng) as show:
        while batches.epoch < epochs:
            for batch in batches:
                shifts = rng.integers(-5, 6, len(batch))
                loss = nats(model, [moved(x, k) for x, k in zip(batch, shifts, strict=True)])
                optimizer.zero_grad()
                loss.backward()
                optim.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                show(schedule.last_epoch, nats=loss.item())
    model.eval()


def moved(piece: np.ndarray, semitones: int) -> np.ndarray:
    """Higher by so many semitones; a rest stays one."""
    return np.where(piece == 0, 0, np.clip(piece + semitones, 1, PITCHES - 1))


def sing(model: Choir, beginning: np.ndarray, length: int, temperature: float) -> np.ndarray:
    """A new piece (length, 4) that goes on from a beginning (T, 4)."""
    piece = beginning.tolist()
    with tg.no_grad():
        remembered, state = model.read(support.here(beginning[:, None]))
        while len(piece) < length:
            following = support.here(np.zeros((1, 1, VOICES), np.int64))
            for voice in range(VOICES):
                logits = model.voice(voice, remembered[-1:], following) / temperature
                following = following.at[0, 0, voice].set(tg.random.categorical(logits)[0, 0])
            piece.append(following[0, 0].numpy().tolist())
            remembered, state = model.read(following, state)
    return np.array(piece)


def main() -> None:
    """Train, compare, sing."""
    parser = support.command_line(__doc__, epochs=15)
    args = support.arguments(parser, epochs=6)
    found = support.read(chorales, 16)
    if args.quick:
        found = dict(list(found.items())[::8])
    training, test = split(found, max(len(found) // 6, 1))
    models = []

    def run(seed: int) -> dict[str, float]:
        models.append(Choir(32 if args.quick else 160))
        train(models[-1], training, args.epochs, seed)
        with tg.no_grad():
            return {"LSTM": nats(models[-1], test).item()}

    measured = support.over_seeds(args, run)
    title = f"nats an eighth, {len(test)} chorales that were not heard"
    support.compare(title, baselines(training, test), measured, 2, less_is_better=True)
    new = sing(models[-1], test[0][:8], 96, 0.8)
    write_midi(new, args.plot.with_suffix(".mid"))
    draw([test[0][:96], new], ["Bach", "the first bars by Bach, the rest drawn"], args.plot)
    print(f"A new chorale is in {args.plot.with_suffix('.mid')}.")


if __name__ == "__main__":
    main()
