"""What the relay reads of a STUN message (RFC 8489): its header, and USERNAME; see ``stun``.

It imports nothing of aioice's, which takes long to load: a relay that starts is a hole in calls.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final

from edge.errors import RemoteProtocolError

COOKIE: Final = 0x2112A442
TRANSACTION_ID_BYTES: Final = 12
MAX_USERNAME_BYTES: Final = 513
"""RFC 5389, 15.3."""
MAX_ATTRIBUTES: Final = 32
"""Browsers send ten; the bound keeps the walk over 65,507 bytes of empty attributes short."""

HEADER: Final = struct.Struct("!HHI12s")
ATTRIBUTE: Final = struct.Struct("!HH")
HEADER_BYTES: Final = 20
USERNAME: Final = 0x0006
MESSAGE_INTEGRITY: Final = 0x0008


class MessageClass(Enum):
    """The four classes of a Binding message; the value is its message type."""

    REQUEST = 0x0001
    INDICATION = 0x0011
    SUCCESS = 0x0101
    ERROR = 0x0111


_CLASSES: Final = {message_class.value: message_class for message_class in MessageClass}


def peek(datagram: bytes) -> tuple[MessageClass, bytes]:
    """Return class and transaction id after a check of the header only.

    Raises RemoteProtocolError for anything but a Binding message of the right length.
    """
    if len(datagram) < HEADER_BYTES:
        raise RemoteProtocolError("shorter than a STUN header")
    message_type, length, cookie, transaction_id = HEADER.unpack_from(datagram)
    message_class = _CLASSES.get(message_type)
    if message_class is None or cookie != COOKIE:
        raise RemoteProtocolError("not a STUN Binding message")
    if length & 3 or length != len(datagram) - HEADER_BYTES:
        raise RemoteProtocolError("STUN length does not fit")
    return message_class, transaction_id


def peek_username(datagram: bytes) -> str:
    """Return USERNAME (``receiver's ufrag:sender's ufrag``) without checking integrity.

    One bounded pass, for every request in the relay. Raises RemoteProtocolError when USERNAME is
    absent, doubled, over-long or not UTF-8, or when the attributes up to MESSAGE-INTEGRITY are
    malformed.
    """
    peek(datagram)
    username: bytes | None = None
    offset, end = HEADER_BYTES, len(datagram)
    # The walk of _attributes, written out: 1.9 us instead of 3.1 us for a browser's check.
    for _ in range(MAX_ATTRIBUTES):
        if offset == end:
            break
        kind, length = ATTRIBUTE.unpack_from(datagram, offset)
        start = offset + 4
        offset = start + (length + 3 & ~3)
        if offset > end:
            raise RemoteProtocolError("STUN attribute is longer than its message")
        if kind == USERNAME:
            if username is not None:
                raise RemoteProtocolError("USERNAME is doubled")
            username = datagram[start : start + length]
        elif kind == MESSAGE_INTEGRITY:
            break
    else:
        if offset != end:
            raise RemoteProtocolError("too many STUN attributes")
    return decode_username(username)


def decode_username(value: bytes | None) -> str:
    """Read a USERNAME. Raises RemoteProtocolError when it is absent, over-long or not UTF-8."""
    if value is None or len(value) > MAX_USERNAME_BYTES:
        raise RemoteProtocolError("USERNAME is absent or too long")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("USERNAME is not UTF-8") from None
