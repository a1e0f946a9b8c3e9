"""SCTP packets: the common header, its checksum, and the chunks behind it (RFC 9260, section 3).

A packet is a 12-byte header (ports, verification tag, CRC32c) and chunks, each padded to a word. A
chunk that lies about its length or holds nonsense makes the whole packet malformed: over DTLS every
packet is the peer's own, so there is nothing to rescue.

The CRC32c stands in the header with its least significant byte first (RFC 9260, appendix A). Where
both sides agreed on it a checksum of zero is right as well (RFC 9653): DTLS protects better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

import msgspec
from google_crc32c import value as crc32c

from edge.errors import Drop, RemoteProtocolError
from edge.wire.sctp_chunks import Chunk
from edge.wire.sctp_codec import decode_chunk

MAX_CHUNKS: Final = 512  # in one packet; more than fit in 2 KB

_HEADER: Final = Struct(">HHI")
_CHECKSUM: Final = Struct("<I")
_CHUNK: Final = Struct(">BBH")
_ZERO: Final = bytes(4)
HEADER_SIZE: Final = _HEADER.size + _CHECKSUM.size


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One SCTP packet."""

    source_port: int
    destination_port: int
    tag: int
    chunks: tuple[Chunk, ...]


def decode_packet(data: bytes, *, zero_checksum: bool = False) -> Packet:
    """Read one packet; RemoteProtocolError for anything malformed or with a wrong checksum.

    With ``zero_checksum`` a checksum of zero is accepted too (RFC 9653, section 5.3).
    """
    if len(data) < HEADER_SIZE + _CHUNK.size:
        raise RemoteProtocolError("SCTP packet is cut short")
    (checksum,) = _CHECKSUM.unpack_from(data, 8)
    if (checksum or not zero_checksum) and checksum != _checksum(data):
        raise RemoteProtocolError("SCTP checksum is wrong", Drop.BAD_INTEGRITY)
    source, destination, tag = _HEADER.unpack_from(data)
    return Packet(source, destination, tag, tuple(_decode_chunks(data)))


def encode_packet(
    source_port: int,
    destination_port: int,
    tag: int,
    chunks: Iterable[bytes],
    *,
    zero_checksum: bool = False,
) -> bytes:
    """Write one packet of encoded chunks, each padded to a word already."""
    header = _HEADER.pack(source_port, destination_port, tag)
    packet = b"".join((header, _ZERO, *chunks))
    if zero_checksum:
        return packet
    return b"".join((header, _CHECKSUM.pack(crc32c(packet)), packet[HEADER_SIZE:]))


def _checksum(data: bytes) -> int:
    checksum: int = crc32c(b"".join((data[:8], _ZERO, data[HEADER_SIZE:])))
    return checksum


def _decode_chunks(data: bytes) -> Iterator[Chunk]:
    at, size, count = HEADER_SIZE, len(data), 0
    while at < size:
        count += 1
        if at + _CHUNK.size > size or count > MAX_CHUNKS:
            raise RemoteProtocolError("SCTP chunk header is cut short, or too many chunks")
        kind, flags, length = _CHUNK.unpack_from(data, at)
        end = at + length
        if length < _CHUNK.size or end > size:
            raise RemoteProtocolError("SCTP chunk has a wrong length")
        yield decode_chunk(kind, flags, data, at + _CHUNK.size, end)
        at = end + 3 & ~3
