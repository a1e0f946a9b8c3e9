"""Sounds for listeners, PCM16 at 16 kHz: something like a vowel, a click, silence; and measures."""

from __future__ import annotations

import math
import wave
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE: Final = 16_000
PITCH: Final = 130.0  # Hz
FORMANTS: Final = ((700.0, 130.0), (1220.0, 170.0), (2600.0, 250.0))
"""Of an open vowel: centre and width in Hz."""


@cache
def vowel(seconds: float, *, peak: float = 0.4) -> bytes:
    """Harmonics of a voice's pitch under the formants of an "a": voiced for any detector."""
    t = np.arange(int(seconds * RATE)) / RATE
    sound = np.zeros_like(t)
    for n in range(1, 28):
        frequency = PITCH * n
        gain = sum(1.0 / (1.0 + ((frequency - f) / width) ** 2) for f, width in FORMANTS)
        sound += gain * np.sin(2.0 * math.pi * frequency * t + n * n)
    return to_pcm(sound * peak / np.abs(sound).max())


@cache
def syllables(seconds: float, *, rate: float = 4.0) -> bytes:
    """The vowel, louder and softer so many times a second but never silent: speech to a codec."""
    t = np.arange(int(seconds * RATE)) / RATE
    swell = 0.1 + 0.9 * np.sin(math.pi * rate * t) ** 2
    return to_pcm(np.frombuffer(vowel(seconds), "<i2") / 32768.0 * swell)


def silence(seconds: float) -> bytes:
    """Digital silence."""
    return bytes(int(seconds * RATE) * 2)


def noise(seconds: float, *, peak: float = 0.02, seed: int = 1) -> bytes:
    """White noise, as of a room."""
    return to_pcm(np.random.default_rng(seed).uniform(-peak, peak, int(seconds * RATE)))


def write_wav(path: Path, pcm: bytes) -> None:
    """For a browser's microphone."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm)


def to_pcm(samples: NDArray[np.floating]) -> bytes:
    """From -1 to 1 to PCM16."""
    return bytes((np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").data)


def loudness(pcm: bytes) -> float:
    """Root mean square, 1 is full scale."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64) / 32768.0
    return float(np.sqrt(np.mean(samples**2))) if samples.size else 0.0
