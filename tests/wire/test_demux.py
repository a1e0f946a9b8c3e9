from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.demux import Kind, classify

# RFC 7983, section 7; what we do not serve (ZRTP, TURN channels, the rest) is UNKNOWN.
RANGES = [
    (range(4), Kind.STUN),
    (range(4, 20), Kind.UNKNOWN),
    (range(20, 64), Kind.DTLS),
    (range(64, 128), Kind.UNKNOWN),
    (range(128, 192), Kind.RTP),
    (range(192, 256), Kind.UNKNOWN),
]


def test_the_first_byte_decides() -> None:
    seen = {first: kind for firsts, kind in RANGES for first in firsts}
    assert len(seen) == 256
    for first, kind in seen.items():
        assert classify(bytes([first])) is kind
        assert classify(bytes([first, 111]) + bytes(20)) is kind


def test_rtcp_is_told_by_its_packet_type() -> None:
    for second in range(256):
        expected = Kind.RTCP if 192 <= second <= 223 else Kind.RTP
        assert classify(bytes([0x80, second]) + bytes(10)) is expected


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        ("80 6f 0001 00000000 00000001", Kind.RTP),  # Opus 111
        ("80 ef 0001 00000000 00000001", Kind.RTP),  # Opus 111 with marker
        ("90 80 0001 00000000 00000001 bede0000", Kind.RTP),  # PCMU 0 with marker
        ("81 c8 0006 00000001", Kind.RTCP),  # SR
        ("81 cd 0003 00000001", Kind.RTCP),  # transport feedback
        ("00 01 0000 2112a442 000000000000000000000000", Kind.STUN),
        ("16 fefd 0000000000000000 0000", Kind.DTLS),
    ],
)
def test_known_packets(packet: str, kind: Kind) -> None:
    assert classify(bytes.fromhex(packet)) is kind


def test_an_empty_datagram_is_unknown() -> None:
    assert classify(b"") is Kind.UNKNOWN


@given(st.binary(max_size=64))
def test_any_bytes_have_one_kind(data: bytes) -> None:
    assert classify(data) in Kind
    assert classify(data + b"\0") is classify(data) or len(data) < 2
