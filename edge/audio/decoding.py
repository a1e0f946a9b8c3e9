"""From the pieces of a jitter buffer to frames of exactly 20 ms in the format a backend wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edge.audio.blend import blend
from edge.audio.codec import Decoder, make_encoder, pcm_rate
from edge.audio.concealer import Concealer
from edge.audio.jitter import FRAME, JitterBuffer
from edge.audio.pulled import Frame
from edge.backends.protocol import AudioFormat, AudioFrame
from edge.errors import Drop


class Decoding:
    """Decodes one stream; the frames' timestamps count from 0 and have no holes."""

    def __init__(
        self,
        codec: AudioFormat,
        wanted: AudioFormat,
        hear: Callable[[AudioFrame], None],
        decoder: Callable[[AudioFormat, int], Decoder],
    ) -> None:
        rate = pcm_rate(codec, wanted)
        self._hear = hear
        self._clock_rate = codec.clock_rate
        self._concealer = Concealer(
            decoder(codec, rate),
            clock_rate=codec.clock_rate,
            rate=rate,
            comfort_noise=codec.name == "opus",  # whose decoder makes it up of what it heard
        )
        self._encoder = None if wanted.name == "pcm16" else make_encoder(wanted, rate)
        self._frame_bytes = 2 * round(rate * FRAME)
        self._step = round(wanted.clock_rate * FRAME)
        self._timestamp = 0
        self._decoded = b""

    @property
    def drops(self) -> Counter[Drop]:
        """Packets that the decoder did not take."""
        return self._concealer.drops

    @property
    def recovered(self) -> int:
        """Packets whose audio came out of in-band FEC."""
        return self._concealer.recovered

    @property
    def concealed(self) -> float:
        """Seconds made up in the place of lost audio."""
        return self._concealer.concealed / self._clock_rate

    @property
    def given(self) -> int:
        """Samples that the backend was given."""
        return self._timestamp

    @property
    def silence(self) -> float:
        """Seconds of pauses that the client made."""
        return self._concealer.silence / self._clock_rate

    def give(self, buffer: JitterBuffer, *, now: float) -> float:
        """Give the next frame; returns how long it plays, in seconds."""
        while len(self._decoded) < self._frame_bytes:
            self._decoded += self._pull(buffer, now)
        pcm, self._decoded = (
            self._decoded[: self._frame_bytes],
            self._decoded[self._frame_bytes :],
        )
        payload = pcm if self._encoder is None else self._encoder.encode(pcm)
        self._hear(AudioFrame(payload, FRAME, self._timestamp))
        self._timestamp += self._step
        return FRAME

    def _pull(self, buffer: JitterBuffer, now: float) -> bytes:
        """The next audio; what was surplus before it turns into it."""
        left_out = b""
        while True:
            piece = buffer.pull(now=now, quiet=self._concealer.is_quiet)
            pcm = self._concealer.render(piece)
            if not isinstance(piece, Frame) or not piece.surplus:
                return blend(left_out, pcm) if left_out else pcm
            left_out = left_out or pcm
