"""STUN Binding messages as ICE uses them (RFC 8489, RFC 8445); the only importer of aioice.

Two readers with one view of a message. The relay reads the header and USERNAME only
(``stun_peek``); the agent reads everything and checks MESSAGE-INTEGRITY with a short-term
credential. aioice's own message parser takes a wrong magic cookie, over-long attributes and the
last of two USERNAMEs, so only its codecs serve here, behind our own walk over the attributes:

- the header's length and every attribute's length must fit exactly, and attributes are few;
- of several attributes of one type the first counts, a second USERNAME or MESSAGE-INTEGRITY is
  refused, since two readers might disagree on it;
- what follows MESSAGE-INTEGRITY is not covered by it and is ignored, but for FINGERPRINT, which
  must be last (RFC 8489, 14.5 and 14.7).

Two attributes are those of SPED (draft-hancke-webrtc-sped): a DTLS datagram, and the CRC-32s of
those that have come. Their numbers are the ones that libwebrtc uses.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from aioice import stun as codec

from edge.address import Address
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.wire.stun_peek import (
    ATTRIBUTE,
    HEADER,
    HEADER_BYTES,
    MAX_ATTRIBUTES,
    MESSAGE_INTEGRITY,
    TRANSACTION_ID_BYTES,
    USERNAME,
    MessageClass,
    decode_username,
    peek,
)

MAX_ACKNOWLEDGED: Final = 4
"""CRC-32s in an acknowledgement, draft-hancke-webrtc-sped, section 3.3.2.2."""


_MAPPED_ADDRESS: Final = 0x0001
_ERROR_CODE: Final = 0x0009
_UNKNOWN_ATTRIBUTES: Final = 0x000A
_REALM: Final = 0x0014
_NONCE: Final = 0x0015
_XOR_MAPPED_ADDRESS: Final = 0x0020
_PRIORITY: Final = 0x0024
_USE_CANDIDATE: Final = 0x0025
_FINGERPRINT: Final = 0x8028
_ICE_CONTROLLED: Final = 0x8029
_ICE_CONTROLLING: Final = 0x802A
_DTLS_DATA: Final = 0xC070
_DTLS_ACK: Final = 0xC071

_COMPREHENDED: Final = frozenset(
    {
        _MAPPED_ADDRESS,
        USERNAME,
        _ERROR_CODE,
        _UNKNOWN_ATTRIBUTES,
        _REALM,
        _NONCE,
        _XOR_MAPPED_ADDRESS,
        _PRIORITY,
        _USE_CANDIDATE,
    }
)
_FIRST_OPTIONAL: Final = 0x8000
"""Types from here on may be ignored when unknown (RFC 8489, 14)."""


@dataclass(frozen=True, slots=True)
class CarriedDtls:
    """What a check or its answer has of SPED.

    ``data`` is one DTLS datagram, empty where there is none to carry, None without the attribute;
    ``acknowledged`` are CRC-32s of datagrams that have come, at most ``MAX_ACKNOWLEDGED``.
    """

    data: bytes | None = field(default=None, repr=False)
    acknowledged: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BindingRequest:
    """A connectivity check. ``priority`` is 0 when absent, as in some consent checks.

    ``carried`` is None where it has neither attribute of SPED.
    """

    transaction_id: bytes
    username: str = field(repr=False)
    priority: int
    use_candidate: bool
    controlling: int | None
    controlled: int | None
    unknown_required: tuple[int, ...]
    carried: CarriedDtls | None = None


@dataclass(frozen=True, slots=True)
class BindingSuccess:
    """The answer to a check, with the source address the answerer saw."""

    transaction_id: bytes
    mapped: Address = field(repr=False)
    carried: CarriedDtls | None = None


@dataclass(frozen=True, slots=True)
class BindingError:
    """An error answer; ``code`` is 300 to 699."""

    transaction_id: bytes
    code: int


# Reading everything, as the agent does.


def decode_request(datagram: bytes, *, password: str) -> BindingRequest:
    """Read a check whose MESSAGE-INTEGRITY was made with ``password``.

    Raises RemoteProtocolError: BAD_INTEGRITY when MESSAGE-INTEGRITY is absent or wrong or
    FINGERPRINT is present and wrong, else MALFORMED.
    """
    message = _parse(datagram, MessageClass.REQUEST)
    username = decode_username(message.attributes.get(USERNAME))
    message.authenticate(password)
    return BindingRequest(
        transaction_id=message.transaction_id,
        username=username,
        priority=message.unsigned(_PRIORITY, 4) or 0,
        use_candidate=message.unsigned(_USE_CANDIDATE, 0) is not None,
        controlling=message.unsigned(_ICE_CONTROLLING, 8),
        controlled=message.unsigned(_ICE_CONTROLLED, 8),
        unknown_required=tuple(
            kind
            for kind in message.attributes
            if kind < _FIRST_OPTIONAL and kind not in _COMPREHENDED
        ),
        carried=message.carried(),
    )


def decode_response(datagram: bytes, *, password: str) -> BindingSuccess | BindingError:
    """Read the answer to a check of ours that was made with ``password``.

    An error may come without MESSAGE-INTEGRITY, since its sender may not know the password.
    Raises RemoteProtocolError as ``decode_request`` does.
    """
    message_class, transaction_id = peek(datagram)
    if message_class is MessageClass.ERROR:
        message = _parse(datagram, MessageClass.ERROR)
        if message.integrity is not None:
            message.authenticate(password)
        return BindingError(transaction_id, message.error_code())
    message = _parse(datagram, MessageClass.SUCCESS)
    message.authenticate(password)
    return BindingSuccess(transaction_id, message.xor_mapped_address(), message.carried())


@dataclass(frozen=True, slots=True)
class _Message:
    """A well-formed message: the first attribute of each type before MESSAGE-INTEGRITY."""

    datagram: bytes = field(repr=False)
    transaction_id: bytes
    attributes: dict[int, bytes] = field(repr=False)
    integrity: tuple[int, bytes] | None = field(repr=False)
    """Offset and value of MESSAGE-INTEGRITY."""

    def authenticate(self, password: str) -> None:
        if self.integrity is None:
            raise RemoteProtocolError("MESSAGE-INTEGRITY is absent", Drop.BAD_INTEGRITY)
        offset, value = self.integrity
        expected = codec.message_integrity(self.datagram[:offset], password.encode())
        if not hmac.compare_digest(value, expected):
            raise RemoteProtocolError("MESSAGE-INTEGRITY is wrong", Drop.BAD_INTEGRITY)

    def unsigned(self, kind: int, length: int) -> int | None:
        value = self.attributes.get(kind)
        if value is None:
            return None
        if len(value) != length:
            raise RemoteProtocolError("STUN attribute of a wrong length")
        return int.from_bytes(value)

    def carried(self) -> CarriedDtls | None:
        data, listed = self.attributes.get(_DTLS_DATA), self.attributes.get(_DTLS_ACK)
        if data is None and listed is None:
            return None
        if listed is None or len(listed) % 4 or len(listed) > 4 * MAX_ACKNOWLEDGED:
            return CarriedDtls(data)  # such a list shall be passed over in silence
        return CarriedDtls(data, struct.unpack(f"!{len(listed) // 4}I", listed))

    def error_code(self) -> int:
        value = self.attributes.get(_ERROR_CODE, b"")
        if len(value) < 4 or not 3 <= value[2] & 7 <= 6 or value[3] > 99:
            raise RemoteProtocolError("ERROR-CODE is absent or malformed")
        return (value[2] & 7) * 100 + value[3]

    def xor_mapped_address(self) -> Address:
        value = self.attributes.get(_XOR_MAPPED_ADDRESS, b"")
        try:
            host, port = codec.unpack_xor_address(value, self.transaction_id)
        except (ValueError, struct.error, IndexError):
            raise RemoteProtocolError("XOR-MAPPED-ADDRESS is absent or malformed") from None
        ip = ip_address(host)
        return str((ip.version == 6 and ip.ipv4_mapped) or ip), port


def _attributes(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (type, offset, value); the header must have been checked."""
    offset, end = HEADER_BYTES, len(datagram)
    for _ in range(MAX_ATTRIBUTES):
        if offset == end:
            return
        kind, length = ATTRIBUTE.unpack_from(datagram, offset)
        start = offset + 4
        # The end is a multiple of 4, so a value that fits has its padding there as well.
        if start + length > end:
            raise RemoteProtocolError("STUN attribute is longer than its message")
        yield kind, offset, datagram[start : start + length]
        offset = start + (length + 3 & ~3)
    if offset != end:
        raise RemoteProtocolError("too many STUN attributes")


def _parse(datagram: bytes, expected: MessageClass) -> _Message:
    message_class, transaction_id = peek(datagram)
    if message_class is not expected:
        raise RemoteProtocolError("STUN message of another class")
    attributes: dict[int, bytes] = {}
    integrity: tuple[int, bytes] | None = None
    fingerprint_seen = False
    for kind, offset, value in _attributes(datagram):
        if fingerprint_seen:
            raise RemoteProtocolError("FINGERPRINT is not the last attribute")
        if kind == _FINGERPRINT:
            _check_fingerprint(datagram[:offset], value)
            fingerprint_seen = True
        elif kind == MESSAGE_INTEGRITY:
            if integrity is not None or len(value) != 20:
                raise RemoteProtocolError("MESSAGE-INTEGRITY is doubled or malformed")
            integrity = offset, value
        elif integrity is None:
            if kind == USERNAME and kind in attributes:
                raise RemoteProtocolError("USERNAME is doubled")
            attributes.setdefault(kind, value)
    return _Message(datagram, transaction_id, attributes, integrity)


def _check_fingerprint(covered: bytes, value: bytes) -> None:
    if value != codec.message_fingerprint(covered).to_bytes(4):
        raise RemoteProtocolError("FINGERPRINT is wrong", Drop.BAD_INTEGRITY)


# Writing.


def encode_request(
    transaction_id: bytes,
    *,
    username: str,
    password: str,
    priority: int,
    use_candidate: bool = False,
    controlling: int | None = None,
    controlled: int | None = None,
    carried: CarriedDtls | None = None,
) -> bytes:
    """Write a check with MESSAGE-INTEGRITY and FINGERPRINT."""
    attributes = [(USERNAME, username.encode()), (_PRIORITY, priority.to_bytes(4))]
    if use_candidate:
        attributes.append((_USE_CANDIDATE, b""))
    if controlling is not None:
        attributes.append((_ICE_CONTROLLING, controlling.to_bytes(8)))
    if controlled is not None:
        attributes.append((_ICE_CONTROLLED, controlled.to_bytes(8)))
    attributes += _carried_attributes(carried)
    return _encode(MessageClass.REQUEST, transaction_id, attributes, password)


def encode_success(
    transaction_id: bytes, mapped: Address, *, password: str, carried: CarriedDtls | None = None
) -> bytes:
    """Write the answer to a check that came from ``mapped``."""
    value = codec.pack_xor_address(mapped, transaction_id)
    attributes = [(_XOR_MAPPED_ADDRESS, value), *_carried_attributes(carried)]
    return _encode(MessageClass.SUCCESS, transaction_id, attributes, password)


def encode_error(
    transaction_id: bytes,
    code: int,
    reason: str,
    *,
    password: str | None,
    unknown: Iterable[int] = (),
) -> bytes:
    """Write an error answer; ``unknown`` lists attribute types for code 420."""
    attributes = [(_ERROR_CODE, codec.pack_error_code((code, reason)))]
    if listed := b"".join(kind.to_bytes(2) for kind in unknown):
        attributes.append((_UNKNOWN_ATTRIBUTES, listed))
    return _encode(MessageClass.ERROR, transaction_id, attributes, password)


def _carried_attributes(carried: CarriedDtls | None) -> list[tuple[int, bytes]]:
    if carried is None:
        return []
    listed = carried.acknowledged
    attributes = [(_DTLS_ACK, struct.pack(f"!{len(listed)}I", *listed))]
    if carried.data is not None:
        attributes.append((_DTLS_DATA, carried.data))
    return attributes


def _encode(
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Iterable[tuple[int, bytes]],
    password: str | None,
) -> bytes:
    if len(transaction_id) != TRANSACTION_ID_BYTES:
        raise LocalProtocolError("a STUN transaction id has 12 bytes")
    body = b"".join(_encode_attribute(kind, value) for kind, value in attributes)
    message = HEADER.pack(message_class.value, len(body), codec.COOKIE, transaction_id) + body
    if password is not None:
        integrity = codec.message_integrity(message, password.encode())
        message += _encode_attribute(MESSAGE_INTEGRITY, integrity)
    fingerprint = codec.message_fingerprint(message).to_bytes(4)
    message += _encode_attribute(_FINGERPRINT, fingerprint)
    return codec.set_body_length(message, len(message) - HEADER_BYTES)


def _encode_attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) & 3)
