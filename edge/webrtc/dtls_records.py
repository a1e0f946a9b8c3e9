"""DTLS 1.2 records and handshake fragment headers; RFC 6347, sections 4.1 and 4.2.2.

A datagram is a chain of records, and a plaintext handshake record is a chain of message
fragments. Both are checked here before OpenSSL sees them. Only what our machine decides on is
decoded: the record header, and the ``message_seq`` that tells a new flight from a repeated one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Final

from edge.errors import RemoteProtocolError

RECORD_HEADER_BYTES: Final = 13
VERSION: Final = 0xFEFD
"""DTLS 1.2."""
NUMBERS: Final = 1 << 48
"""Record numbers of an epoch; RFC 6347, section 4.1."""
MAX_RECORDS: Final = 32
"""Most records we take from one datagram; a whole flight has about seven."""
MAX_MESSAGE_BYTES: Final = 16_384
"""Longest handshake message; one fragment that claims more would end OpenSSL's handshake."""

_VERSIONS: Final = frozenset({0xFEFF, VERSION})  # a ClientHello travels as DTLS 1.0
_RECORD: Final = Struct("!BHHHIH")
_FRAGMENT_HEADER_BYTES: Final = 12


class ContentType(IntEnum):
    """RFC 5246, section 6.2.1."""

    CHANGE_CIPHER_SPEC = 20
    ALERT = 21
    HANDSHAKE = 22
    APPLICATION_DATA = 23


_CONTENT_TYPES: Final = {int(content_type): content_type for content_type in ContentType}


@dataclass(frozen=True, slots=True)
class Record:
    """One DTLSPlaintext or DTLSCiphertext; from epoch 1 on ``fragment`` is encrypted."""

    content_type: ContentType
    version: int
    epoch: int
    sequence: int
    fragment: bytes = field(repr=False)

    def numbered(self, sequence: int) -> Record:
        """The same record under another number."""
        return Record(self.content_type, self.version, self.epoch, sequence, self.fragment)

    def encode(self) -> bytes:
        """The record as it stands in a datagram."""
        high, low = divmod(self.sequence, 1 << 32)
        header = _RECORD.pack(
            self.content_type, self.version, self.epoch, high, low, len(self.fragment)
        )
        return header + self.fragment


def decode_records(datagram: bytes) -> tuple[Record, ...]:
    """Cut a datagram into its records; RemoteProtocolError unless it is a chain of them."""
    records: list[Record] = []
    position = 0
    while position < len(datagram):
        if len(records) == MAX_RECORDS:
            raise RemoteProtocolError("too many DTLS records in a datagram")
        record, position = _decode_record(datagram, position)
        records.append(record)
    if not records:
        raise RemoteProtocolError("empty DTLS datagram")
    return tuple(records)


def _decode_record(datagram: bytes, position: int) -> tuple[Record, int]:
    start = position + RECORD_HEADER_BYTES
    if start > len(datagram):
        raise RemoteProtocolError("DTLS record header is cut short")
    kind, version, epoch, high, low, length = _RECORD.unpack_from(datagram, position)
    end = start + length
    if end > len(datagram) or length == 0:
        raise RemoteProtocolError("DTLS record length is wrong")
    if version not in _VERSIONS:
        raise RemoteProtocolError("DTLS record version is unknown")
    content_type = _CONTENT_TYPES.get(kind)
    if content_type is None:
        raise RemoteProtocolError("DTLS content type is unknown")
    sequence = (high << 32) | low
    return Record(content_type, version, epoch, sequence, datagram[start:end]), end


def decode_message_sequences(fragment: bytes) -> tuple[int, ...]:
    """The ``message_seq`` of each message fragment in a plaintext handshake record."""
    sequences: list[int] = []
    position = 0
    while position < len(fragment):
        header = fragment[position : position + _FRAGMENT_HEADER_BYTES]
        if len(header) < _FRAGMENT_HEADER_BYTES:
            raise RemoteProtocolError("handshake fragment header is cut short")
        message_bytes = int.from_bytes(header[1:4], "big")
        offset = int.from_bytes(header[6:9], "big")
        length = int.from_bytes(header[9:12], "big")
        position += _FRAGMENT_HEADER_BYTES + length
        if message_bytes > MAX_MESSAGE_BYTES or offset + length > message_bytes:
            raise RemoteProtocolError("handshake fragment lies outside its message")
        if position > len(fragment):
            raise RemoteProtocolError("handshake fragment is longer than its record")
        sequences.append(int.from_bytes(header[4:6], "big"))
    return tuple(sequences)


def pack(records: Iterable[Record], mtu: int) -> list[bytes]:
    """Lay records into datagrams, in order, several to one where they fit into ``mtu`` bytes."""
    datagrams: list[bytes] = []
    for record in records:
        encoded = record.encode()
        if datagrams and len(datagrams[-1]) + len(encoded) <= mtu:
            datagrams[-1] += encoded
        else:
            datagrams.append(encoded)
    return datagrams
