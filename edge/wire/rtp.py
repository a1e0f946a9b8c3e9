"""RTP packets (RFC 3550, section 5.1) and their header extensions (RFC 8285).

Two ways to the same bytes. ``RtpPacket`` with ``decode_rtp`` and ``encode_rtp`` is the readable
one. The hot path takes ``header_length``, ``parse_header`` and ``build_header``: plain tuples and
one ``struct`` call, because a frozen dataclass costs more than the rest of a packet's handling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct, error
from typing import Final

from edge.errors import LocalProtocolError, RemoteProtocolError

HEADER_BYTES: Final = 12  # without CSRCs and extension
MAX_CSRCS: Final = 15

_ONE_BYTE_PROFILE: Final = 0xBEDE  # RFC 8285, 4.2
_TWO_BYTE_PROFILE: Final = 0x1000  # RFC 8285, 4.3; the low four bits are "appbits"

_HEADER: Final = Struct(">BBHII")
_EXTENSION: Final = Struct(">HH")

Extension = tuple[int, bytes]
"""Local identifier (1 to 14 in the one-byte form, to 255 in the two-byte form) and value."""


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """One RTP packet; padding is checked and dropped, foreign extension profiles are ignored."""

    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = field(repr=False)
    extensions: tuple[Extension, ...] = field(default=(), repr=False)
    csrc: tuple[int, ...] = ()


def header_length(packet: bytes) -> int:
    """Bytes before the payload: fixed header, CSRCs and extension block.

    Raises RemoteProtocolError for another version or a header that overruns the packet.
    """
    size = len(packet)
    if size < HEADER_BYTES:
        raise RemoteProtocolError("RTP packet shorter than its header")
    first = packet[0]
    if first == 0x80:
        return HEADER_BYTES
    if first >> 6 != 2:
        raise RemoteProtocolError("not RTP version 2")
    length = HEADER_BYTES + 4 * (first & 0x0F)
    if first & 0x10:
        if size < length + 4:
            raise RemoteProtocolError("RTP header overruns the packet")
        length += 4 + 4 * (packet[length + 2] << 8 | packet[length + 3])
    if size < length:
        raise RemoteProtocolError("RTP header overruns the packet")
    return length


def parse_header(packet: bytes) -> tuple[int, bool, int, int, int, int, int]:
    """Payload type, marker, sequence, timestamp, SSRC, and where the payload begins and ends.

    Raises RemoteProtocolError for a malformed header or impossible padding.
    """
    start = header_length(packet)
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(packet)
    end = len(packet)
    if first & 0x20:
        end = start + len(strip_padding(packet[start:]))
    return second & 0x7F, second > 0x7F, sequence, timestamp, ssrc, start, end


def strip_padding(payload: bytes) -> bytes:
    """Cut off what the last byte counts; RemoteProtocolError when that is impossible."""
    padding = payload[-1] if payload else 0
    if not 0 < padding <= len(payload):
        raise RemoteProtocolError("RTP padding overruns the payload")
    return payload[:-padding]


def build_header(
    payload_type: int,
    marker: bool,
    sequence: int,
    timestamp: int,
    ssrc: int,
    extension: bytes = b"",
) -> bytes:
    """A header without CSRCs; ``extension`` is a whole block as ``encode_extensions`` gives it."""
    second = payload_type | 0x80 if marker else payload_type
    if extension:
        return _HEADER.pack(0x90, second, sequence, timestamp, ssrc) + extension
    return _HEADER.pack(0x80, second, sequence, timestamp, ssrc)


def decode_rtp(packet: bytes) -> RtpPacket:
    """Read one packet; RemoteProtocolError for anything malformed."""
    payload_type, marker, sequence, timestamp, ssrc, start, end = parse_header(packet)
    csrcs_end = HEADER_BYTES + 4 * (packet[0] & 0x0F)
    return RtpPacket(
        payload_type=payload_type,
        marker=marker,
        sequence=sequence,
        timestamp=timestamp,
        ssrc=ssrc,
        payload=packet[start:end],
        extensions=tuple(_decode_extensions(packet[csrcs_end:start])),
        csrc=tuple(
            int.from_bytes(packet[at : at + 4], "big") for at in range(HEADER_BYTES, csrcs_end, 4)
        ),
    )


def encode_rtp(packet: RtpPacket) -> bytes:
    """Write one packet without padding; LocalProtocolError for values that do not fit."""
    if len(packet.csrc) > MAX_CSRCS or not 0 <= packet.payload_type <= 0x7F:
        raise LocalProtocolError("an RTP header has at most 15 CSRCs and a 7-bit payload type")
    extension = encode_extensions(packet.extensions)
    try:
        header = _HEADER.pack(
            0x80 | (0x10 if extension else 0) | len(packet.csrc),
            packet.payload_type | (0x80 if packet.marker else 0),
            packet.sequence,
            packet.timestamp,
            packet.ssrc,
        )
        csrcs = Struct(f">{len(packet.csrc)}I").pack(*packet.csrc)
    except error as exc:
        raise LocalProtocolError(f"RTP header field out of range: {exc}") from None
    return b"".join((header, csrcs, extension, packet.payload))


def encode_extensions(extensions: Sequence[Extension]) -> bytes:
    """An extension block, in the one-byte form where every item fits it; empty for no items."""
    if not extensions:
        return b""
    if all(1 <= number <= 14 and 1 <= len(value) <= 16 for number, value in extensions):
        profile = _ONE_BYTE_PROFILE
        items = b"".join(
            bytes((number << 4 | len(value) - 1,)) + value for number, value in extensions
        )
    elif all(1 <= number <= 255 and len(value) <= 255 for number, value in extensions):
        profile = _TWO_BYTE_PROFILE
        items = b"".join(bytes((number, len(value))) + value for number, value in extensions)
    else:
        raise LocalProtocolError("header extension with a bad identifier or over 255 bytes")
    words = (len(items) + 3) // 4
    if words > 0xFFFF:
        raise LocalProtocolError("header extensions are too long")
    return _EXTENSION.pack(profile, words) + items.ljust(4 * words, b"\0")


def encode_mid_extension(number: int, mid: str) -> bytes:
    """The block that names an m-line in every packet (RFC 8843, section 15)."""
    return encode_extensions(((number, mid.encode()),))


def _decode_extensions(block: bytes) -> Iterator[Extension]:
    if not block:
        return
    profile, _words = _EXTENSION.unpack_from(block)
    if profile == _ONE_BYTE_PROFILE:
        yield from _decode_items(block, two_byte=False)
    elif profile & 0xFFF0 == _TWO_BYTE_PROFILE:
        yield from _decode_items(block, two_byte=True)


def _decode_items(block: bytes, *, two_byte: bool) -> Iterator[Extension]:
    at = _EXTENSION.size
    while at < len(block):
        first = block[at]
        at += 1
        if first == 0:
            continue  # a padding byte
        if two_byte:
            if at == len(block):
                raise RemoteProtocolError("header extension without its length")
            number, size = first, block[at]
            at += 1
        else:
            number, size = first >> 4, (first & 0x0F) + 1
            if number == 15:
                return  # "stop here"; RFC 8285, 4.2
        if at + size > len(block):
            raise RemoteProtocolError("header extension overruns its block")
        yield number, block[at : at + size]
        at += size
