"""Data channel establishment: OPEN and ACK, and what a message's PPID says (RFC 8831, 8832)."""

from __future__ import annotations

from struct import Struct
from typing import Final

import msgspec

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError

PPID_DCEP, PPID_STRING, PPID_BINARY, PPID_STRING_EMPTY, PPID_BINARY_EMPTY = 50, 51, 53, 56, 57
"""Payload protocol identifiers; RFC 8831, section 8."""

MAX_TEXT: Final = 1024  # bytes of a label or protocol; the field could tell 65,535

_OPEN: Final = 3
_ACK: Final = 2
_UNORDERED: Final = 0x80
_RELIABLE, _RETRANSMITS, _LIFETIME = range(3)
_HEADER: Final = Struct(">BBHIHH")


class ChannelOpen(msgspec.Struct, frozen=True):
    """DATA_CHANNEL_OPEN; ``lifetime`` in ms; at most one of the two limits (RFC 8832, 5.1)."""

    label: str = ""
    protocol: str = ""
    ordered: bool = True
    max_retransmits: int | None = None
    lifetime: int | None = None
    priority: int = 256

    def __repr__(self) -> str:
        return f"ChannelOpen(ordered={self.ordered})"


class ChannelAck(msgspec.Struct, frozen=True):
    """DATA_CHANNEL_ACK."""


def decode_dcep(data: bytes) -> ChannelOpen | ChannelAck:
    """Read a message; RemoteProtocolError if it is malformed or a text too long."""
    if data[:1] == bytes((_ACK,)):
        return ChannelAck()
    if len(data) < _HEADER.size or data[0] != _OPEN:
        raise RemoteProtocolError("DCEP message of an unknown kind, or cut short")
    _, kind, priority, limit, label, protocol = _HEADER.unpack_from(data)
    middle = _HEADER.size + label
    if len(data) != middle + protocol or kind & 0x7F > _LIFETIME:
        raise RemoteProtocolError("DCEP message of a wrong length or channel type")
    if max(label, protocol) > MAX_TEXT:
        raise RemoteProtocolError("label or protocol is too long", Drop.TOO_LONG)
    return ChannelOpen(
        data[_HEADER.size : middle].decode(errors="replace"),
        data[middle:].decode(errors="replace"),
        not kind & _UNORDERED,
        limit if kind & 0x7F == _RETRANSMITS else None,
        limit if kind & 0x7F == _LIFETIME else None,
        priority,
    )


def encode_dcep(message: ChannelOpen | ChannelAck) -> bytes:
    """Write a message; LocalProtocolError for values that do not fit."""
    if isinstance(message, ChannelAck):
        return bytes((_ACK,))
    kind, limit = _RELIABLE, 0
    if message.max_retransmits is not None:
        kind, limit = _RETRANSMITS, message.max_retransmits
    if message.lifetime is not None:
        if kind:
            raise LocalProtocolError("a channel has one limit: retransmissions or lifetime")
        kind, limit = _LIFETIME, message.lifetime
    label, protocol = message.label.encode(), message.protocol.encode()
    if max(len(label), len(protocol)) > MAX_TEXT or not 0 <= limit < 2**32:
        raise LocalProtocolError("a label, protocol or limit of a channel does not fit")
    kind |= 0 if message.ordered else _UNORDERED
    header = _HEADER.pack(_OPEN, kind, message.priority & 0xFFFF, limit, len(label), len(protocol))
    return header + label + protocol


def encode_user_data(data: str | bytes) -> tuple[int, bytes]:
    """The PPID and bytes of a message; an empty one is a zero byte (RFC 8831, 6.6)."""
    if isinstance(data, str):
        return (PPID_STRING, data.encode()) if data else (PPID_STRING_EMPTY, b"\0")
    return (PPID_BINARY, data) if data else (PPID_BINARY_EMPTY, b"\0")


def decode_user_data(ppid: int, data: bytes) -> str | bytes:
    """The message; RemoteProtocolError for text that is no UTF-8 or an unknown PPID."""
    if ppid == PPID_STRING:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("text message is not UTF-8") from None
    if ppid == PPID_BINARY:
        return data
    if ppid == PPID_STRING_EMPTY:
        return ""
    if ppid == PPID_BINARY_EMPTY:
        return b""
    raise RemoteProtocolError("PPID of no data channel message", Drop.UNEXPECTED_PAYLOAD)
