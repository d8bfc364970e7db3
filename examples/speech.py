"""Spoken digits: a formant synthesiser that says them, their features, other voices, and warping.

The synthesiser is eSpeak NG, the library that the package espeakng-loader brings; nothing is heard,
it speaks into memory. Its voices are settings of one synthesiser, not people.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from datasets import packaged
from interruption import interruptions

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = """Alex Andrea Andy Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Nguyen
Reed adam antonio belinda benjamin boris caleb ed edward edward2 f1 f2 f4 f5 grandma grandpa ian
iven iven2 iven3 iven4 john kaukovalta klatt klatt3 klatt4 klatt5 m1 m3 m4 m5 m7 m8 marcelo max
miguel mike2 norbert pedro quincy rob robert sandro shelby travis zac"""
OTHERS = """Alicia Annie Denis anika david f3 klatt2 linda m2 m6 michel pablo paul steph steph2
steph3 victor"""
HEARD, UNHEARD = VOICES.split(), OTHERS.split()  # in training, and in the test
ACCENTS, UNHEARD_ACCENT = ["en", "en-us", "en-gb-x-rp"], "en-gb-scotland"


class Espeak:
    """``say`` gives samples, 16-bit integers at ``rate`` a second."""

    def __init__(self) -> None:
        data = packaged("espeakng_loader", install="pip install --no-deps espeakng-loader")
        names = ("*.so", "*.dylib", "*.dll")
        found = [path for name in names for path in data.glob(name)]
        if not found:
            raise FileNotFoundError(f"there is no library for this system in {data}")
        self.library = ctypes.CDLL(str(found[0]))
        self.rate = self.library.espeak_Initialize(2, 0, str(data).encode(), 0)  # 2: into memory
        if self.rate < 0:
            raise OSError(f"eSpeak finds no voices in {data}")
        self.heard: list[bytes] = []
        types = (ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = ctypes.CFUNCTYPE(ctypes.c_int, *types)(self._hear)
        self.library.espeak_SetSynthCallback(self.callback)
        self.library.espeak_ng_SetRandSeed(1)

    def _hear(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self.heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """Words a minute, and a pitch from 0 to 99."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"eSpeak has no voice {voice}")
        self.library.espeak_SetParameter(1, speed, 0)
        self.library.espeak_SetParameter(3, pitch, 0)
        line = text.encode() + b"\0"
        self.heard.clear()
        with interruptions() as pressed:  # an exception in the callback would be lost
            self.library.espeak_Synth(line, len(line), 0, 1, 0, 1, None, None)
            self.library.espeak_Synchronize()
        if pressed:
            raise KeyboardInterrupt
        return np.frombuffer(b"".join(self.heard), np.int16).astype(np.float32) / 32768


def utterances(
    synthesiser: Any, count: int, voices: list[str], accents: list[str], longest: int, seed: int
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Features (T, 32) of strings of up to ``longest`` digits in noise, and the digits."""
    rng = np.random.default_rng(seed)
    heard, said = [], []
    for _ in range(count):
        numbers = rng.integers(0, 10, rng.integers(min(2, longest), longest + 1)).tolist()
        voice = f"{rng.choice(accents)}+{rng.choice(voices)}"
        speed, pitch = int(rng.integers(130, 221)), int(rng.integers(30, 71))
        sound = synthesiser.say(" ".join(WORDS[n] for n in numbers), voice, speed, pitch)
        loudness = np.sqrt(np.mean(sound**2)) * 10 ** (-rng.uniform(5, 25) / 20)
        noisy = sound + loudness * rng.standard_normal(len(sound)).astype("float32")
        heard.append(log_mel(noisy, synthesiser.rate))
        said.append(numbers)
    return heard, said


def log_mel(sound: np.ndarray, rate: int, bands: int = 32, step: float = 0.02) -> np.ndarray:
    """Logarithms of the energy in bands of the mel scale (T, bands), one row each ``step`` s."""
    hop, size = int(rate * step), int(rate * step * 1.6)
    sound = np.pad(sound, (0, max(size - len(sound), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, 1024)) ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequency = np.fft.rfftfreq(1024, 1 / rate)
    up = (frequency - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - frequency) / (edges[2:] - edges[1:-1])[:, None]
    found = np.log(power @ np.clip(np.minimum(up, down), 0, None).T + 1e-6)
    return ((found - found.mean(axis=0)) / (found.std() + 1e-6)).astype("float32")


def other_voice(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Frames (T, bands), as someone else might say them: faster or slower, deeper or higher.

    A vocal tract of another length moves the formants (Jaitly & Hinton 2013), which here is done to
    the mel axis; another microphone has louder and softer bands; and a few bands and moments are
    not to be heard at all (SpecAugment, Park et al. 2019).
    """
    length, bands = frames.shape
    moments = np.arange(0, length - 1, np.exp(rng.normal(0, 0.15)))
    moved = np.arange(bands) * np.exp(rng.normal(0, 0.08)) + rng.normal(0, 0.5)
    found = between(between(frames, moments).T, np.clip(moved, 0, bands - 1)).T
    found = found + rng.normal(0, 0.3, bands)
    for _ in range(2):
        for axis in (found, found.T):  # of which the first is hidden moment by moment
            hidden = rng.integers(0, 6)
            start = rng.integers(0, max(len(axis) - hidden, 1))
            axis[start : start + hidden] = 0
    return found.astype("float32")


def between(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows at places that need not be whole numbers, by linear interpolation."""
    before = np.minimum(at.astype(int), len(rows) - 2)
    share = (at - before)[:, None]
    return rows[before] * (1 - share) + rows[before + 1] * share


def warped(template: np.ndarray, heard: np.ndarray) -> float:
    """The distance along the best path on which neither goes back (Sakoe & Chiba 1978)."""
    costs = np.sqrt(((template[:, None] - heard[None]) ** 2).sum(axis=-1))
    best = np.full((len(template) + 1, len(heard) + 1), np.inf)
    best[0, 0] = 0
    for total in range(2, len(template) + len(heard) + 1):  # a diagonal at a time
        i = np.arange(max(1, total - len(heard)), min(len(template), total - 1) + 1)
        j = total - i
        before = np.minimum(np.minimum(best[i - 1, j], best[i, j - 1]), best[i - 1, j - 1])
        best[i, j] = costs[i - 1, j - 1] + before
    return float(best[-1, -1] / (len(template) + len(heard)))
