from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RemoteProtocolError
from edge.wire.opus import CLOCK_RATE, MAX_SAMPLES, opus_samples


@pytest.mark.parametrize(
    ("payload", "seconds"),
    [
        (bytes([0 << 3]), 0.010),  # SILK NB 10 ms
        (bytes([3 << 3]), 0.060),
        (bytes([11 << 3 | 1]) + b"ab", 0.120),  # SILK WB 60 ms, two frames
        (bytes([12 << 3]), 0.010),  # hybrid
        (bytes([15 << 3 | 2]), 0.040),
        (bytes([16 << 3]), 0.0025),  # CELT
        (b"\xfc\xff\xfe", 0.020),  # Chromium's silence: CELT FB 20 ms, one frame
        (b"\x78\x01\x02", 0.020),  # hybrid FB 20 ms
        (bytes([31 << 3 | 3, 6]), 0.120),
        (bytes([31 << 3 | 3, 0x80 | 0x40 | 3]), 0.060),  # VBR and padding bits are no count
        (bytes([16 << 3 | 3, 48]), 0.120),
    ],
)
def test_duration(payload: bytes, seconds: float) -> None:
    assert opus_samples(payload) == round(seconds * CLOCK_RATE)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes([31 << 3 | 3]),  # no count
        bytes([31 << 3 | 3, 0]),  # no frame
        bytes([31 << 3 | 3, 7]),  # 140 ms
        bytes([16 << 3 | 3, 49]),  # 122.5 ms
        bytes([3 << 3 | 3, 3]),  # 180 ms
    ],
)
def test_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        opus_samples(payload)


@given(st.binary(max_size=4))
def test_a_duration_or_remote_protocol_error(payload: bytes) -> None:
    try:
        samples = opus_samples(payload)
    except RemoteProtocolError:
        return
    assert 120 <= samples <= MAX_SAMPLES
