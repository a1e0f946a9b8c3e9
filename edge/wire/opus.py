"""How long an Opus packet plays, read from its first bytes (RFC 6716, sections 3.1 and 3.2).

The TOC byte names the configuration (and so the duration of one frame) and how many frames the
packet holds; with code 3 the count is in the second byte. Nothing is decoded.
"""

from __future__ import annotations

from typing import Final

from edge.errors import RemoteProtocolError

CLOCK_RATE: Final = 48_000  # Hz of RTP timestamps, whatever the audio bandwidth; RFC 7587, 4.1
MAX_SAMPLES: Final = 5_760  # 120 ms; RFC 6716, 3.2.5 [R5]

_FRAME_SAMPLES: Final = (
    (480, 960, 1920, 2880) * 3  # SILK: 10, 20, 40, 60 ms
    + (480, 960) * 2  # hybrid: 10, 20 ms
    + (120, 240, 480, 960) * 4  # CELT: 2.5, 5, 10, 20 ms
)


def opus_samples(payload: bytes) -> int:
    """Duration in units of the 48 kHz RTP clock; RemoteProtocolError when empty or over 120 ms."""
    if not payload:
        raise RemoteProtocolError("empty Opus packet")
    toc = payload[0]
    samples = _FRAME_SAMPLES[toc >> 3] * _frame_count(toc & 3, payload)
    if not 0 < samples <= MAX_SAMPLES:
        raise RemoteProtocolError("Opus packet of no or more than 120 ms")
    return samples


def _frame_count(code: int, payload: bytes) -> int:
    if code == 0:
        return 1
    if code < 3:
        return 2
    if len(payload) < 2:
        raise RemoteProtocolError("Opus packet without its frame count")
    return payload[1] & 0x3F
