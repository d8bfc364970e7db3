"""Pieces of four voices, (T, 4) pitches of MIDI: parted, counted, drawn, and written as files."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import support
import numpy as np


def split(found: dict[str, np.ndarray], unseen: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Training and test; chorales whose sopranos begin alike in any key stay together."""
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for piece in found.values():
        soprano = piece[piece[:, 0] > 0, 0]
        groups.setdefault(tuple(np.diff(soprano)[:16].tolist()), []).append(piece)
    keys = list(groups)
    order = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))]
    test: list[np.ndarray] = []
    training: list[np.ndarray] = []
    for key in order:
        (test if len(test) < unseen else training).extend(groups[key])
    return training, test


def baselines(training: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """Nats a step of counted pitches, and of counted movements from where a voice was."""

    def counted(change: bool) -> float:
        total = 0.0
        for voice in range(4):
            sung = [
                [x[1:, voice] - change * x[:-1, voice] for x in part] for part in (training, test)
            ]
            known, asked = (np.concatenate(parts) for parts in sung)
            counts = Counter(known.tolist())
            share = [(counts[k] + 0.1) / (len(known) + 0.1 * 2 * 128) for k in asked.tolist()]
            total -= float(np.mean(np.log(share)))
        return total

    return {"pitches": counted(False), "movements": counted(True)}


def write_midi(piece: np.ndarray, path: Path, steps: int = 2, tempo: int = 80) -> None:
    """A MIDI file of a piece: ``steps`` a quarter note, ``tempo`` quarter notes a minute."""
    events: list[tuple[int, int, bytes]] = []
    for voice, sung in enumerate(piece.T.tolist()):
        begun = 0
        for t in range(1, len(sung) + 1):
            if t == len(sung) or sung[t] != sung[begun]:
                if sung[begun]:
                    events.append((begun, 1, bytes([0x90 + voice, sung[begun], 80])))
                    events.append((t, 0, bytes([0x80 + voice, sung[begun], 0])))
                begun = t
    track = b"\x00\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big")
    last = 0
    for time, _, event in sorted(events):
        track += _length(240 // steps * (time - last)) + event
        last = time
    track += b"\x00\xff\x2f\x00"
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 240)
    path.write_bytes(head + b"MTrk" + struct.pack(">I", len(track)) + track)


def _length(ticks: int) -> bytes:
    """A number as MIDI writes it: seven bits a byte, of which all but the last have the eighth."""
    digits = [ticks & 0x7F]
    while ticks := ticks >> 7:
        digits.append(0x80 | ticks & 0x7F)
    return bytes(reversed(digits))


def draw(pieces: list[np.ndarray], titles: list[str], path: Path) -> None:
    """Pieces as piano rolls, one below the other, each voice in its colour."""
    figure = support.Figure(figsize=(9, 2.2 * len(pieces)), layout="constrained")
    for axes, piece, title in zip(
        figure.subplots(len(pieces), squeeze=False).flat, pieces, titles, strict=True
    ):
        for sung, name in zip(piece.T, ("soprano", "alto", "tenor", "bass"), strict=True):
            axes.step(range(len(sung)), np.where(sung > 0, sung, np.nan), where="post", label=name)
        axes.set(title=title, ylabel="pitch", xlim=(0, len(piece)))
        axes.title.set_fontsize(8)
    figure.axes[0].legend(fontsize=7, ncols=4)
    figure.axes[-1].set_xlabel("eighths")
    support.save_picture(figure, path)
