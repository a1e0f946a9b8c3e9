"""A caller that says real Opus, redundantly (RFC 2198) where wanted, and keeps what it hears."""

from __future__ import annotations

from functools import cache
from typing import Final

from edge.audio.codec import make_encoder
from edge.backends.protocol import AudioFormat
from edge.client.caller import _MID_BLOCK, Caller
from edge.client.journal import Journal
from edge.client.offer import OPUS, Offer
from edge.webrtc.certificate import DtlsCertificate
from edge.wire.rtp import build_header
from tests.support.sounds import RATE, syllables

RED: Final = 63
"""The payload type that Chromium gives it."""
FRAME_SAMPLES: Final = 960
SPOKEN_SECONDS: Final = 2.0

_FORMATS: Final = b"UDP/TLS/RTP/SAVPF 111 0 8\r\n"


@cache
def spoken(seconds: float = SPOKEN_SECONDS) -> tuple[bytes, ...]:
    """Speech without a pause as Opus packets of 20 ms: what is the hardest to shorten."""
    encoder = make_encoder(AudioFormat("opus", 48_000), RATE)
    pcm, size = syllables(seconds), 2 * encoder.frame_samples
    return tuple(encoder.encode(pcm[at : at + size]) for at in range(0, len(pcm), size))


class RedOffer(Offer):
    """Offers redundant audio before plain Opus, as Chromium does."""

    def encode(self) -> bytes:
        """Write the SDP."""
        plain = super().encode()
        formats = _FORMATS.replace(b"111", b"%d 111" % RED)
        lines = b"a=rtpmap:%d red/48000/2\r\na=fmtp:%d 111/111\r\n" % (RED, RED)
        return plain.replace(_FORMATS, formats) + lines


class Speech(Journal):
    """What is said, over and over; and when which packet came back."""

    def __init__(self, packets: tuple[bytes, ...]) -> None:
        super().__init__()
        self.heard: list[tuple[float, bytes]] = []
        self._packets = packets

    def payload(self, number: int) -> bytes:
        """The next packet."""
        return self._packets[number % len(self._packets)]

    def check_off(self, payload: bytes, now: float) -> None:
        """Keep it."""
        self.heard.append((now, payload))


class Talker(Caller):
    """A caller that says something; with ``red`` each packet repeats the one before."""

    def __init__(
        self,
        certificate: DtlsCertificate,
        *,
        now: float,
        red: bool = False,
        packets: tuple[bytes, ...] | None = None,
    ) -> None:
        super().__init__(certificate, now=now)
        self.speech = Speech(packets or spoken())
        self.journal = self.speech
        self._red = red
        if red:
            self.offer = RedOffer.make(certificate.fingerprint)

    def _protect(self, number: int) -> bytes:
        assert self._sender is not None
        index = self._first_index + number
        timestamp = self._first_timestamp + number * FRAME_SAMPLES & 0xFFFFFFFF
        kind = RED if self._red else OPUS
        header = build_header(
            kind, number == 0, index & 0xFFFF, timestamp, self.offer.ssrc, _MID_BLOCK
        )
        return self._sender.protect_rtp(header, self._payload(number), index=index)

    def _payload(self, number: int) -> bytes:
        payload = self.speech.payload(number)
        if not self._red:
            return payload
        before = self.speech.payload(number - 1) if number else b""
        return encode_red(before, payload)


def encode_red(before: bytes, payload: bytes) -> bytes:
    """A packet with one redundant block, if there is any; RFC 2198, section 3."""
    if not before:
        return bytes([OPUS]) + payload
    word = (0x80 | OPUS) << 24 | FRAME_SAMPLES << 10 | len(before)
    return word.to_bytes(4, "big") + bytes([OPUS]) + before + payload
