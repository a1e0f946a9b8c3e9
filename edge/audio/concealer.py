"""From the pieces of a jitter buffer to audio without holes.

What is lost comes from redundant copies (the jitter buffer has them), else from the in-band FEC of
the packet behind it, else the decoder makes it up. Made-up audio fades to silence over
``MADE_UP`` seconds: a model shall not hear a hum for speech. A pause that the client makes is
filled with the decoder's comfort noise, so that its refreshes do not stand out.
"""

from __future__ import annotations

from collections import Counter
from struct import unpack
from typing import Final

from edge.audio.blend import blend
from edge.audio.codec import Decoder
from edge.audio.pulled import Frame, Lost, Pulled, Silence
from edge.errors import Drop, RemoteProtocolError

MADE_UP: Final = 0.1  # seconds
QUIET_PEAK: Final = 330  # of 32768: -40 dB, where nobody speaks
_SAMPLE: Final = 2  # bytes


class Concealer:
    """Turns the pieces of one stream into pcm16 at ``rate``; all counters in clock units."""

    def __init__(
        self, decoder: Decoder, *, clock_rate: int, rate: int, comfort_noise: bool
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self.recovered = 0
        """Pieces that came out of in-band FEC."""
        self.concealed = self.silence = 0
        self._decoder = decoder
        self._clock_rate = clock_rate
        self._rate = rate
        self._comfort_noise = comfort_noise
        self._made_up = 0
        self._most_made_up = round(MADE_UP * clock_rate)
        self._last = b""

    def render(self, piece: Pulled) -> bytes:
        """The piece's audio; as long as the piece, but for a packet that lies about it."""
        match piece:
            case Frame(payload, _, samples):
                pcm = self._decode(payload, samples)
            case Lost(samples, following):
                pcm = self._recover(samples, following) or self._conceal(samples)
            case Silence(samples):
                pcm = self._rest(samples)
        self._last = pcm
        return pcm

    def is_quiet(self) -> bool:
        """Whether what was rendered last is no speech."""
        samples = unpack(f"<{len(self._last) // _SAMPLE}h", self._last)
        return not samples or max(max(samples), -min(samples)) < QUIET_PEAK

    def _decode(self, payload: bytes, samples: int) -> bytes:
        try:
            pcm = self._decoder.decode(payload)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return self._conceal(samples)
        return self._after_silence(pcm)

    def _recover(self, samples: int, following: bytes | None) -> bytes | None:
        if following is None:
            return None
        length = self._length(samples)
        pcm = self._decoder.recover(following, length)
        if pcm is None:
            return None
        self.recovered += 1
        return self._after_silence(_fit(pcm, length))

    def _conceal(self, samples: int) -> bytes:
        self.concealed += samples
        length = self._length(samples)
        if self._made_up >= self._most_made_up:
            return bytes(length * _SAMPLE)
        self._made_up += samples
        pcm = _fit(self._decoder.conceal(length), length)
        if self._made_up >= self._most_made_up:
            return blend(pcm, bytes(len(pcm)))
        return pcm

    def _rest(self, samples: int) -> bytes:
        self.silence += samples
        length = self._length(samples)
        if self._comfort_noise and self._made_up < self._most_made_up:
            return _fit(self._decoder.conceal(length), length)
        return bytes(length * _SAMPLE)

    def _after_silence(self, pcm: bytes) -> bytes:
        """Let audio after a long hole rise out of the silence: a step would click."""
        faded = self._made_up >= self._most_made_up
        self._made_up = 0
        return blend(bytes(len(pcm)), pcm) if faded else pcm

    def _length(self, samples: int) -> int:
        return samples * self._rate // self._clock_rate


def _fit(pcm: bytes, samples: int) -> bytes:
    return pcm[: samples * _SAMPLE].ljust(samples * _SAMPLE, b"\0")
