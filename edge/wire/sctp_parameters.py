"""Parameters inside INIT, INIT ACK and RE-CONFIG (RFC 9260, 3.2.1 and 3.3.2; RFC 6525, section 4).

Of INIT's parameters those that WebRTC uses become fields: the cookie, FORWARD TSN, the list of
supported extensions, and zero checksums (RFC 9653, section 4). Addresses, authentication and the
like are known to be of no use over DTLS and skipped. The rest is unknown: its two top bits say
whether to go on and whether to report it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, assert_never

import msgspec

from edge.errors import RemoteProtocolError

MAX_PARAMETERS: Final = 128  # in one chunk
MAX_REPORTED: Final = 256  # bytes of unknown parameters that are echoed

_COOKIE: Final = 7
_UNRECOGNIZED: Final = 8
_ZERO_CHECKSUM: Final = 0x8001
_EXTENSIONS: Final = 0x8008
_FORWARD_TSN: Final = 0xC000
_USELESS: Final = frozenset(
    (
        *(1, 5, 6, _UNRECOGNIZED, 9, 12, 0x8000, *range(0x8002, 0x8006)),
        *range(0xC001, 0xC007),
    )
)
"""Addresses, cookie life, ECN, authentication, padding, address changes, adaptation layer."""

_OUTGOING, _INCOMING, _BOTH, _RESPONSE = range(13, 17)
_OTHER_REQUESTS: Final = (_BOTH, 17, 18)  # SSN/TSN reset, add streams; RFC 6525, 4.3, 4.5, 4.6

ZERO_CHECKSUM_DTLS: Final = 1  # error detection method; RFC 9653, 4

_TLV: Final = Struct(">HH")
_WORD: Final = Struct(">I")
_HALF: Final = Struct(">H")
_OUTGOING_BODY: Final = Struct(">III")
_RESPONSE_BODY: Final = Struct(">II")


class InitParameters(msgspec.Struct, frozen=True):
    """What a peer can do; ``extensions`` are chunk types (RFC 5061, 4.2.7)."""

    cookie: bytes | None = None
    forward_tsn: bool = False
    zero_checksum: int = 0
    """The error detection method under which a checksum of zero is fine; 0: never."""
    extensions: bytes = b""
    reported: bytes = b""
    """Unknown parameters to be told of: in an INIT as they came, in an INIT ACK what we echo."""

    def __repr__(self) -> str:
        return f"InitParameters(forward_tsn={self.forward_tsn})"


class OutgoingReset(msgspec.Struct, frozen=True):
    """The sender resets these of its outgoing streams (none: all) once ``tsn`` is received."""

    sequence: int
    response_to: int
    tsn: int
    streams: tuple[int, ...] = ()


class IncomingReset(msgspec.Struct, frozen=True):
    """The sender asks for a reset of these of its incoming streams (none: all)."""

    sequence: int
    streams: tuple[int, ...] = ()


class ResetResponse(msgspec.Struct, frozen=True):
    """The answer to the request of that number; RFC 6525, 4.4."""

    sequence: int
    result: int


class OtherRequest(msgspec.Struct, frozen=True):
    """A request that we deny: SSN/TSN reset, adding streams."""

    kind: int
    sequence: int


ReconfigParameter = OutgoingReset | IncomingReset | ResetResponse | OtherRequest


def split_tlvs(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each parameter or cause; RemoteProtocolError for a wrong length."""
    at = count = 0
    while at < len(body):
        count += 1
        if at + _TLV.size > len(body) or count > MAX_PARAMETERS:
            raise RemoteProtocolError("SCTP parameter is cut short, or too many of them")
        kind, length = _TLV.unpack_from(body, at)
        if length < _TLV.size or at + length > len(body):
            raise RemoteProtocolError("SCTP parameter has a wrong length")
        yield kind, body[at + _TLV.size : at + length]
        at = at + length + 3 & ~3


def join_tlvs(items: Iterable[tuple[int, bytes]]) -> bytes:
    """Write parameters or causes; the last one's padding is the chunk's (RFC 9260, 3.2)."""
    body = b""
    for kind, value in items:
        body += bytes(-len(body) & 3) + _TLV.pack(kind, _TLV.size + len(value)) + value
    return body


def decode_init_parameters(body: bytes) -> InitParameters:
    """Read the optional part of an INIT or INIT ACK."""
    cookie: bytes | None = None
    forward_tsn, zero_checksum, extensions = False, 0, b""
    reported: list[tuple[int, bytes]] = []
    for kind, value in split_tlvs(body):
        if kind == _COOKIE:
            cookie = value
        elif kind == _FORWARD_TSN:
            forward_tsn = True
        elif kind == _EXTENSIONS:
            extensions = value
        elif kind == _ZERO_CHECKSUM and len(value) == _WORD.size:
            (zero_checksum,) = _WORD.unpack(value)
        elif kind not in _USELESS:
            if kind & 0x4000:
                reported.append((kind, value))
            if not kind & 0x8000:
                break  # RFC 9260, 3.2.1: nothing behind it may be processed
    return InitParameters(cookie, forward_tsn, zero_checksum, extensions, _limit(reported))


def _limit(items: list[tuple[int, bytes]]) -> bytes:
    body = join_tlvs(items)
    return body if len(body) <= MAX_REPORTED else b""


def encode_init_parameters(parameters: InitParameters) -> bytes:
    """Write the optional part of an INIT or INIT ACK; ``reported`` as Unrecognized Parameter."""
    items = []
    if parameters.cookie is not None:
        items.append((_COOKIE, parameters.cookie))
    if parameters.forward_tsn:
        items.append((_FORWARD_TSN, b""))
    if parameters.zero_checksum:
        items.append((_ZERO_CHECKSUM, _WORD.pack(parameters.zero_checksum)))
    if parameters.extensions:
        items.append((_EXTENSIONS, parameters.extensions))
    if parameters.reported:
        items.append((_UNRECOGNIZED, parameters.reported))
    return join_tlvs(items)


def decode_reconfig(body: bytes) -> tuple[ReconfigParameter, ...]:
    """Read the parameters of a RE-CONFIG chunk: one or two."""
    try:
        parameters = tuple(_decode_reconfig(kind, value) for kind, value in split_tlvs(body))
    except StructError:
        raise RemoteProtocolError("RE-CONFIG parameter is cut short") from None
    if not 1 <= len(parameters) <= 2:
        raise RemoteProtocolError("RE-CONFIG has one or two parameters")
    return parameters


def _decode_reconfig(kind: int, value: bytes) -> ReconfigParameter:
    if kind == _OUTGOING:
        sequence, response_to, tsn = _OUTGOING_BODY.unpack_from(value)
        return OutgoingReset(sequence, response_to, tsn, _streams(value, _OUTGOING_BODY.size))
    if kind == _INCOMING:
        return IncomingReset(_WORD.unpack_from(value)[0], _streams(value, _WORD.size))
    if kind == _RESPONSE:
        return ResetResponse(*_RESPONSE_BODY.unpack_from(value))
    if kind in _OTHER_REQUESTS:
        return OtherRequest(kind, *_WORD.unpack_from(value))
    raise RemoteProtocolError("RE-CONFIG with an unknown parameter")


def _streams(value: bytes, start: int) -> tuple[int, ...]:
    return tuple(stream for (stream,) in _HALF.iter_unpack(value[start:]))


def encode_reconfig(parameters: tuple[ReconfigParameter, ...]) -> bytes:
    """Write the parameters of a RE-CONFIG chunk."""
    return join_tlvs(map(_encode_reconfig, parameters))


def _encode_reconfig(parameter: ReconfigParameter) -> tuple[int, bytes]:
    match parameter:
        case OutgoingReset(sequence, response_to, tsn, streams):
            body = _OUTGOING_BODY.pack(sequence, response_to, tsn)
            return _OUTGOING, body + b"".join(map(_HALF.pack, streams))
        case IncomingReset(sequence, streams):
            body = _WORD.pack(sequence) + b"".join(map(_HALF.pack, streams))
            return _INCOMING, body
        case ResetResponse(sequence, result):
            return _RESPONSE, _RESPONSE_BODY.pack(sequence, result)
        case OtherRequest(kind, sequence):
            return kind, _WORD.pack(sequence) + bytes(4)
        case _ as unreachable:
            assert_never(unreachable)
