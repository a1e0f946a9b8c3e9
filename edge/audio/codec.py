"""The codecs between a client and a model that hears pcm16: the one door to all of them.

Everything here is mono. A decoder or encoder belongs to one stream and one thread at a time.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from math import cos, pi
from operator import mul
from typing import Final, Protocol

from edge.audio import g711
from edge.audio.g711 import G711Decoder, G711Encoder
from edge.audio.opus import OpusDecoder, OpusEncoder
from edge.audio.resample import DELAY, Resampler
from edge.backends.protocol import PCM_RATES, AudioFormat
from edge.errors import LocalProtocolError

FRAME_SECONDS: Final = 0.02


class Decoder(Protocol):
    """What a client sends, as pcm16 at one rate."""

    def decode(self, payload: bytes) -> bytes:
        """The packet's audio, as long as the packet; RemoteProtocolError when it is no such."""

    def conceal(self, samples: int) -> bytes:
        """``samples`` (at the output rate) made up in the place of lost audio."""

    def recover(self, following: bytes, samples: int) -> bytes | None:
        """The lost ``samples`` out of the in-band FEC of the packet after them; None: no FEC.

        Comes before ``following`` is decoded, in the place of ``conceal``.
        """


class Encoder(Protocol):
    """pcm16 at one rate, as what a client takes."""

    @property
    def frame_samples(self) -> int:
        """Samples, at the input rate, of one frame of 20 ms."""

    @property
    def delay_samples(self) -> int:
        """Samples, at the input rate, that are held back: they come with the next packet."""

    def encode(self, pcm: bytes) -> bytes:
        """One packet of exactly one frame; LocalProtocolError when it is not exactly one."""

    def note_loss(self, share: float) -> None:
        """Take what the listener reports as lost, 0 to 1: some codecs can be made to bear it."""


def make_decoder(codec: AudioFormat, rate: int) -> Decoder:
    """Decode ``opus``, ``PCMU`` or ``PCMA`` at a rate of PCM_RATES.

    Raises StartupError where a library is missing, LocalProtocolError for another codec or rate.
    """
    _check_rate(rate)
    if codec.name == "opus":
        return OpusDecoder(rate)
    decoder = G711Decoder(_law(codec))
    return decoder if rate == g711.RATE else _ResampledDecoder(decoder, rate)


def make_encoder(codec: AudioFormat, rate: int) -> Encoder:
    """Encode ``opus``, ``PCMU`` or ``PCMA`` from a rate of PCM_RATES; raises as make_decoder."""
    _check_rate(rate)
    if codec.name == "opus":
        return OpusEncoder(rate)
    encoder = G711Encoder(_law(codec))
    return encoder if rate == g711.RATE else _ResampledEncoder(encoder, rate)


def prepare(codec: AudioFormat, wanted: AudioFormat) -> None:
    """Load what passes between the two; raises StartupError when a library is missing."""
    if codec != wanted:
        rate = pcm_rate(codec, wanted)
        for name in (codec, wanted):
            if name.name != "pcm16":
                make_decoder(name, rate)
                make_encoder(name, rate)


def pcm_rate(codec: AudioFormat, wanted: AudioFormat) -> int:
    """The rate at which audio passes between two formats that are not the same, in Hz.

    Between two codecs it is 8 kHz: one of them is G.711.
    """
    return wanted.clock_rate if wanted.name == "pcm16" else g711.RATE


def fade_out(pcm: bytes, samples: int) -> bytes:
    """Let pcm16 fall from full level to nothing within its first ``samples``; then silence."""
    heard = memoryview(pcm).cast("h")[:samples]
    faded = array("h", map(int, map(mul, heard, _falling(samples)))).tobytes()
    return faded + bytes(len(pcm) - len(faded))


@lru_cache(maxsize=16)
def _falling(samples: int) -> tuple[float, ...]:
    """Half a cosine: no corner at either end, which would click."""
    return tuple(0.5 + 0.5 * cos(pi * (place + 1) / samples) for place in range(samples))


class _ResampledDecoder:
    """G.711 for a model of another rate."""

    def __init__(self, decoder: G711Decoder, rate: int) -> None:
        self._decoder = decoder
        self._rate = rate
        self._resampler = Resampler(g711.RATE, rate)

    def decode(self, payload: bytes) -> bytes:
        return self._resampler.convert(self._decoder.decode(payload))

    def conceal(self, samples: int) -> bytes:
        made = self._decoder.conceal(-(-samples * g711.RATE // self._rate))
        return self._resampler.convert(made)[: 2 * samples]

    def recover(self, following: bytes, samples: int) -> bytes | None:
        return None


class _ResampledEncoder:
    """A model of another rate for G.711."""

    def __init__(self, encoder: G711Encoder, rate: int) -> None:
        self.frame_samples = rate // 50
        self.delay_samples = round(rate * DELAY)
        self._encoder = encoder
        self._resampler = Resampler(rate, g711.RATE)

    def encode(self, pcm: bytes) -> bytes:
        if len(pcm) != 2 * self.frame_samples:
            raise LocalProtocolError("the G.711 encoder takes frames of exactly 20 ms")
        return self._encoder.encode(self._resampler.convert(pcm))

    def note_loss(self, share: float) -> None:
        self._encoder.note_loss(share)


def _law(codec: AudioFormat) -> g711.Law:
    try:
        return g711.LAWS[codec.name]
    except KeyError:
        raise LocalProtocolError(f"no such codec: {codec.name}") from None


def _check_rate(rate: int) -> None:
    if rate not in PCM_RATES:
        raise LocalProtocolError(f"{rate} Hz is none of {PCM_RATES}")
