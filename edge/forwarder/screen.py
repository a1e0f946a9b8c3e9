"""What a forwarder reads of STUN: the header, and whether a request has a USERNAME (RFC 8489)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from edge.wire.stun_peek import MAX_ATTRIBUTES, MAX_USERNAME_BYTES

_HEADER: Final = Struct("!HHI")
_HEADER_BYTES: Final = 20
_ATTRIBUTE: Final = Struct("!HH")
_COOKIE: Final = 0x2112A442
_BINDING_REQUEST: Final = b"\x00\x01"
_USERNAME: Final = 0x0006
_MESSAGE_INTEGRITY: Final = 0x0008


def is_sound(message: bytes) -> bool:
    """Whether cookie and length are right; False for nothing at all."""
    if len(message) < _HEADER_BYTES:
        return False
    _, length, cookie = _HEADER.unpack_from(message)
    return cookie == _COOKIE and length == len(message) - _HEADER_BYTES and not length & 3


def is_request(message: bytes) -> bool:
    """Whether a sound message is a request of any method."""
    return not message[0] & 0x01 and not message[1] & 0x10


def is_response(message: bytes) -> bool:
    """Whether a sound message is a success or error response of any method."""
    return bool(message[0] & 0x01)


def asks_by_name(message: bytes) -> bool:
    """Whether a sound message is a Binding request that ``stun_peek.peek_username`` may take."""
    if not message.startswith(_BINDING_REQUEST):
        return False
    named = False
    offset = _HEADER_BYTES
    for _ in range(MAX_ATTRIBUTES):
        if offset >= len(message):
            break
        kind, length = _ATTRIBUTE.unpack_from(message, offset)
        offset += 4 + (length + 3 & ~3)
        if offset > len(message):
            return False
        if kind == _MESSAGE_INTEGRITY:
            return named
        if kind == _USERNAME:
            if named or length > MAX_USERNAME_BYTES:
                return False
            named = True
    return named and offset == len(message)
