from __future__ import annotations

import pytest
from aiortc.rtp import HeaderExtensionsMap
from aiortc.rtp import RtpPacket as AiortcPacket
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.rtp import (
    RtpPacket,
    build_header,
    decode_rtp,
    encode_extensions,
    encode_mid_extension,
    encode_rtp,
    header_length,
    parse_header,
)

WORD = st.integers(0, 2**32 - 1)
ONE_BYTE = st.tuples(st.integers(1, 14), st.binary(min_size=1, max_size=16))
TWO_BYTE = st.tuples(st.integers(1, 255), st.binary(max_size=255))
PACKETS = st.builds(
    RtpPacket,
    payload_type=st.integers(0, 127),
    marker=st.booleans(),
    sequence=st.integers(0, 0xFFFF),
    timestamp=WORD,
    ssrc=WORD,
    payload=st.binary(max_size=64),
    extensions=st.one_of(
        st.lists(ONE_BYTE, max_size=4).map(tuple), st.lists(TWO_BYTE, max_size=3).map(tuple)
    ),
    csrc=st.lists(WORD, max_size=15).map(tuple),
)
FIXED = bytes.fromhex("806f0001000003c012345678")


@given(PACKETS)
def test_round_trip(packet: RtpPacket) -> None:
    data = encode_rtp(packet)
    assert decode_rtp(data) == packet
    assert header_length(data) == len(data) - len(packet.payload)
    payload_type, marker, sequence, timestamp, ssrc, start, end = parse_header(data)
    assert (payload_type, marker, sequence, timestamp, ssrc) == (
        packet.payload_type,
        packet.marker,
        packet.sequence,
        packet.timestamp,
        packet.ssrc,
    )
    assert data[start:end] == packet.payload


@given(PACKETS)
def test_aiortc_reads_what_we_write(packet: RtpPacket) -> None:
    parsed = AiortcPacket.parse(encode_rtp(packet), HeaderExtensionsMap())
    assert parsed.payload == packet.payload
    assert parsed.sequence_number == packet.sequence
    assert tuple(parsed.csrc) == packet.csrc
    assert (parsed.marker, parsed.ssrc) == (int(packet.marker), packet.ssrc)


def test_build_header_is_the_header_of_encode_rtp() -> None:
    packet = RtpPacket(111, True, 7, 960, 0x01020304, b"payload", ((4, b"0"),))
    extension = encode_mid_extension(4, "0")
    assert extension == bytes.fromhex("bede0001 40300000")
    header = build_header(111, True, 7, 960, 0x01020304, extension)
    assert header + b"payload" == encode_rtp(packet)
    assert build_header(111, False, 1, 960, 0x12345678) == FIXED


def test_long_mid_takes_the_two_byte_form() -> None:
    mid = "m" * 17
    data = build_header(0, False, 0, 0, 1, encode_mid_extension(3, mid)) + b"x"
    assert data[12:14] == b"\x10\x00"
    assert decode_rtp(data).extensions == ((3, mid.encode()),)


@pytest.mark.parametrize(
    ("block", "extensions"),
    [
        ("bede0002 10aa0000 0021bbcc", ((1, b"\xaa"), (2, b"\xbb\xcc"))),  # padding between
        ("bede0001 10aaf0ff", ((1, b"\xaa"),)),  # identifier 15: stop
        ("10010001 0f00aa00", ((15, b""), (170, b""))),  # appbits, empty values
        ("cafe0001 01020304", ()),  # a foreign profile
        ("bede0000", ()),
    ],
)
def test_extension_forms(block: str, extensions: tuple[tuple[int, bytes], ...]) -> None:
    data = b"\x90" + FIXED[1:] + bytes.fromhex(block) + b"payload"
    assert decode_rtp(data).extensions == extensions
    assert decode_rtp(data).payload == b"payload"


def test_padding_is_dropped() -> None:
    data = b"\xa0" + FIXED[1:] + b"payload" + b"\0\0\3"
    assert decode_rtp(data).payload == b"payload"
    only_padding = b"\xa0" + FIXED[1:] + b"\0\2"
    assert decode_rtp(only_padding).payload == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        FIXED[:11],
        b"\x40" + FIXED[1:],  # version 1
        b"\x81" + FIXED[1:],  # a CSRC that is not there
        b"\x90" + FIXED[1:],  # an extension that is not there
        b"\x90" + FIXED[1:] + bytes.fromhex("bede0002 10aa0000"),  # shorter than it says
        b"\x90" + FIXED[1:] + bytes.fromhex("bede0001 13aa0000"),  # an item overruns the block
        b"\x90" + FIXED[1:] + bytes.fromhex("10000001 00000001"),  # no length
        b"\xa0" + FIXED[1:],  # padding bit, the count taken from the header
        b"\xa0" + FIXED[1:] + b"ab\0",  # no padding
        b"\xa0" + FIXED[1:] + b"ab\4",  # more padding than payload
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_rtp(data)


@given(PACKETS, st.data())
def test_a_value_or_remote_protocol_error(packet: RtpPacket, data: st.DataObject) -> None:
    mutated = bytearray(encode_rtp(packet))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    try:
        decoded = decode_rtp(cut)
    except RemoteProtocolError:
        return
    assert len(decoded.payload) <= len(cut) - 12


@pytest.mark.parametrize(
    "packet",
    [
        RtpPacket(128, False, 0, 0, 0, b""),
        RtpPacket(0, False, 65536, 0, 0, b""),
        RtpPacket(0, False, 0, 2**32, 0, b""),
        RtpPacket(0, False, 0, 0, -1, b""),
        RtpPacket(0, False, 0, 0, 0, b"", csrc=(1,) * 16),
        RtpPacket(0, False, 0, 0, 0, b"", csrc=(2**32,)),
        RtpPacket(0, False, 0, 0, 0, b"", extensions=((0, b"a"),)),
        RtpPacket(0, False, 0, 0, 0, b"", extensions=((1, bytes(256)),)),
    ],
)
def test_values_that_do_not_fit_are_the_callers_fault(packet: RtpPacket) -> None:
    with pytest.raises(LocalProtocolError):
        encode_rtp(packet)


def test_no_payload_in_repr() -> None:
    assert "secret" not in repr(RtpPacket(0, False, 0, 0, 0, b"secret", ((1, b"secret"),)))
    assert encode_extensions(()) == b""
