"""Resampling, needed only where G.711's 8 kHz meet a model of another rate; Opus needs none.

libsamplerate (wheels: ``samplerate``) answers every packet with as many samples as time has
passed and holds back 2.5 ms. soxr is faster, and hands its samples out in bursts after 15 to
137 ms: no good for a conversation. docs/audio.md has the figures.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Final

from edge.ready import StartupError

MISSING: Final = "no resampler, which G.711 needs at this rate: `pip install 'edge[audio]'`"
DELAY: Final = 0.0065  # seconds that an answer is behind, of which the filter's are 2.5

_AHEAD: Final = 0.004  # seconds of silence at first, so that an answer is never short of samples

_CONVERTER: Final = "sinc_fastest"  # 97 dB signal to noise, passes 80 % of the bandwidth


@cache
def libsamplerate() -> ModuleType:
    """Import it once a process, and NumPy with it; raises StartupError when it is missing."""
    try:
        return import_module("samplerate")
    except ImportError:
        raise StartupError(MISSING) from None


class Resampler:
    """One direction of one stream of mono pcm16."""

    def __init__(self, source: int, target: int) -> None:
        """From ``source`` to ``target``, both in Hz; raises StartupError without its library."""
        self._converter = libsamplerate().Resampler(_CONVERTER, 1)
        self._source, self._target = source, target
        self._ready = bytes(2 * round(_AHEAD * target))
        self._owed = 0  # samples at the target's rate, times the source's rate

    def convert(self, pcm: bytes) -> bytes:
        """As much audio as ``pcm``, to the sample, over all calls."""
        self._ready += self._convert(pcm)
        samples, self._owed = divmod(self._owed + len(pcm) // 2 * self._target, self._source)
        converted, self._ready = self._ready[: 2 * samples], self._ready[2 * samples :]
        return converted

    def _convert(self, pcm: bytes) -> bytes:
        import numpy

        floats = numpy.frombuffer(pcm, "<i2").astype(numpy.float32)
        made = self._converter.process(floats, self._target / self._source)
        whole: bytes = numpy.clip(numpy.rint(made), -32_768, 32_767).astype("<i2").tobytes()
        return whole
