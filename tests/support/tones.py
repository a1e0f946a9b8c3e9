"""Tones, how they are written, and which one a sound is."""

from __future__ import annotations

import math

import numpy as np

from edge.audio.codec import make_encoder
from edge.backends.frames.wire import FORMATS


def tone(frequency: float, seconds: float, rate: int, *, peak: float = 0.4) -> bytes:
    """A sine as PCM16."""
    t = np.arange(round(seconds * rate)) / rate
    wave = np.sin(2.0 * math.pi * frequency * t) * peak * 32767.0
    return bytes(wave.astype("<i2").data)


def pitch(pcm: bytes, rate: int) -> float:
    """The frequency in Hz with the most energy, to some 2 Hz in half a second of sound."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return float(np.argmax(spectrum) * rate / samples.size)


def written(pcm: bytes, audio: str, rate: int) -> bytes:
    """PCM16 as a frames backend's audio: as it is, or G.711."""
    if audio.startswith("pcm16"):
        return pcm
    encode, size = make_encoder(FORMATS[audio], rate).encode, rate // 50 * 2
    return b"".join(encode(pcm[at : at + size]) for at in range(0, len(pcm), size))


def last_sound(pcm: bytes, *, least: int = 30) -> int:
    """How many samples there are to the last one that is no silence."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, "<i2").astype(np.int32)) > least)
    return int(loud[-1]) + 1 if loud.size else 0
