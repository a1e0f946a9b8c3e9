"""What a backend says, as pieces fit for one packet each; and how a piece falls silent.

Audio that passes through is a piece as it comes. pcm16 is cut into frames of 20 ms, encoded only
when they are sent; what is left over waits for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from edge.audio.codec import FRAME_SECONDS, fade_out, make_decoder, make_encoder, pcm_rate
from edge.backends.protocol import AudioFormat
from edge.errors import RemoteProtocolError
from edge.ready import StartupError

WARM_UP: Final = 3
"""Packets that a fresh decoder and encoder go through before they sound like those in use."""

Piece: TypeAlias = tuple[bytes, int, int]
"""Bytes, how long they play in RTP clock units, how many samples of the backend's they are."""


class Cutter:
    """Cuts what a backend says, if it is not the client's codec, into frames for the encoder."""

    def __init__(self, codec: AudioFormat, wanted: AudioFormat) -> None:
        """Raises StartupError when a codec is missing."""
        self.rate: Final = pcm_rate(codec, wanted)
        self._encoder = make_encoder(codec, self.rate)
        self.encode: Final = self._encoder.encode
        self.note_loss: Final = self._encoder.note_loss
        self._decoder = None if wanted.name == "pcm16" else make_decoder(wanted, self.rate)
        self._ticks = round(codec.clock_rate * FRAME_SECONDS)
        self._rest = b""

    @property
    def rest(self) -> int:
        """Samples that are left over, less than a frame."""
        return len(self._rest) // 2

    def cut(self, payload: bytes) -> list[Piece]:
        """Whole frames, with what was left before; RemoteProtocolError: not in the format."""
        pcm = payload if self._decoder is None else self._decoder.decode(payload)
        if len(pcm) % 2:
            raise RemoteProtocolError("pcm16 has two bytes a sample")
        pcm = self._rest + pcm
        size = 2 * self._encoder.frame_samples
        whole = len(pcm) - len(pcm) % size
        self._rest = pcm[whole:]
        return [
            (pcm[start : start + size], self._ticks, size // 2) for start in range(0, whole, size)
        ]

    def pad(self) -> Piece:
        """What is left over, with silence behind it."""
        samples = self.rest
        frame = self._rest.ljust(2 * self._encoder.frame_samples, b"\0")
        self._rest = b""
        return frame, self._ticks, samples

    def clear(self) -> None:
        """Forget what is left over."""
        self._rest = b""

    def fade(self, ahead: Iterable[Piece], samples: int) -> list[Piece]:
        """The next ``samples`` of the pieces ahead, falling silent."""
        pcm = b""
        for payload, _, _ in (*ahead, (self._rest, 0, 0)):
            pcm += payload
            if len(pcm) >= 2 * samples:
                break
        frame, behind = self._encoder.frame_samples, self._encoder.delay_samples
        return _fall_silent(pcm, samples, frame, self._ticks, behind=behind)


def fade_encoded(
    codec: AudioFormat, sent: Iterable[bytes], ahead: Iterable[Piece], samples: int
) -> list[Piece]:
    """The next ``samples`` (at the RTP clock's rate) of encoded pieces, falling silent.

    Decoded and encoded anew, after what was ``sent`` last has brought the codecs into the state of
    the listener's. Empty where that can not be: then the sound breaks off.
    """
    try:
        decoder = make_decoder(codec, codec.clock_rate)
        encoder = make_encoder(codec, codec.clock_rate)
        heard = b"".join(map(decoder.decode, sent))
        pcm = b""
        for payload, _, _ in ahead:
            pcm += decoder.decode(payload)
            if len(pcm) >= 2 * samples:
                break
    except (RemoteProtocolError, StartupError):  # the backend's packets are what it likes
        return []
    frame = encoder.frame_samples
    pieces = _fall_silent(pcm, samples, frame, frame)
    # The encoder gets all of it as much earlier as its packets are behind.
    stream = heard + b"".join(piece[0] for piece in pieces) + bytes(2 * encoder.delay_samples)
    first = len(stream) % (2 * frame)
    packets = [
        encoder.encode(stream[start : start + 2 * frame])
        for start in range(first, len(stream), 2 * frame)
    ]
    last = packets[len(packets) - len(pieces) :]
    return [
        (packet, ticks, counted) for packet, (_, ticks, counted) in zip(last, pieces, strict=True)
    ]


def _fall_silent(
    pcm: bytes, samples: int, frame: int, ticks: int, *, behind: int = 0
) -> list[Piece]:
    """Frames of the fade, and of the silence that brings out what an encoder is ``behind``."""
    heard = min(samples, len(pcm) // 2)
    faded = fade_out(pcm[: 2 * heard], heard)
    return [
        (
            faded[2 * start : 2 * (start + frame)].ljust(2 * frame, b"\0"),
            ticks,
            max(min(frame, heard - start), 0),
        )
        for start in range(0, heard + behind, frame)
    ]
