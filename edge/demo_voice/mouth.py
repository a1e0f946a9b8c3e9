"""Speech synthesis: a sentence in, PCM16 at 16 kHz out. The one module for Hibari and numpy.

A sentence takes 10 to 30 ms, so the first sound of an answer leaves as soon as its first sentence
is done, and the later ones are made while it is heard. Often used sentences are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

import numpy as np
import trio
from hibari import Hibari  # type: ignore[import-untyped]
from numpy.typing import NDArray

MAX_KEPT: Final = 64
"""Sentences in the cache: about 100 KiB each."""
MAX_SENTENCE_CHARS: Final = 300
PEAK: Final = 0.7
"""Of full scale: the voice speaks at a third of it by itself."""
LEAD_SAMPLES: Final = 800
"""Silence before the first sound of a sentence: 50 ms. The voice leaves 250 by itself."""
SILENCE: Final = 0.01
"""Of full scale: less is taken for silence before a sentence."""
SEED: Final = 1
"""Of the breath in the voice: the same sentence always sounds the same."""


class _Voice(Protocol):
    def __call__(self, text: str, *, seed: int) -> NDArray[np.float32]:
        """24 kHz, from -1 to 1."""


class Mouth:
    """A voice for all sessions of the process; one sentence at a time."""

    def __init__(self) -> None:
        self._voice: _Voice = Hibari(threads=1)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._threads = trio.CapacityLimiter(1)
        self.synthesise("Hello.")  # loads the rest: half a second that nobody shall wait for

    async def speak(self, sentence: str) -> bytes:
        """Synthesise in a worker thread, or at once what was said before."""
        known = self._kept.get(sentence)
        if known is not None:
            self._kept.move_to_end(sentence)
            return known
        pcm = await trio.to_thread.run_sync(
            self.synthesise, sentence, abandon_on_cancel=True, limiter=self._threads
        )
        self._kept[sentence] = pcm
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return pcm

    def synthesise(self, sentence: str) -> bytes:
        """PCM16, 16 kHz, one channel. Blocks."""
        audio = _to_16_khz(self._voice(sentence[:MAX_SENTENCE_CHARS], seed=SEED))
        if not audio.size:
            return b""
        audio *= PEAK / max(float(np.abs(audio).max()), 0.1)
        begin = max(0, int((np.abs(audio) > SILENCE).argmax()) - LEAD_SAMPLES)
        return (audio[begin:] * 32767.0).astype("<i2").tobytes()


def _low_pass() -> NDArray[np.float32]:
    """48 kHz, 8 kHz pass band: what remains between 24 and 16 kHz."""
    n = np.arange(-36, 37)
    return (np.sinc(n / 3.0) * np.kaiser(73, 6.0) * (2.0 / 3.0)).astype(np.float32)


_LOW_PASS: Final = _low_pass()


def _to_16_khz(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 24 kHz: every third of twice as many samples."""
    doubled = np.zeros(len(audio) * 2 + len(_LOW_PASS), np.float32)
    doubled[: len(audio) * 2 : 2] = audio
    resampled: NDArray[np.float32] = np.convolve(doubled, _LOW_PASS, "same")[: len(audio) * 2 : 3]
    return resampled.copy()
