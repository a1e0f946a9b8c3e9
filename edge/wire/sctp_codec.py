"""SCTP chunks as bytes: see ``sctp_chunks`` for the values.

What stands in a chunk and is not used here (addresses, authentication, adaptation layers) is
skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, assert_never

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.sctp_chunks import (
    DATA_OVERHEAD,
    FORWARD_TSN,
    RECONFIG,
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    ForwardTsn,
    Heartbeat,
    Init,
    Reconfig,
    Sack,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    UnknownChunk,
)
from edge.wire.sctp_parameters import (
    decode_init_parameters,
    decode_reconfig,
    encode_init_parameters,
    encode_reconfig,
    join_tlvs,
    split_tlvs,
)

(
    _DATA, _INIT, _INIT_ACK, _SACK, _HEARTBEAT, _HEARTBEAT_ACK, _ABORT, _SHUTDOWN, _SHUTDOWN_ACK,
    _ERROR, _COOKIE_ECHO, _COOKIE_ACK,
) = range(12)  # fmt: skip
_SHUTDOWN_COMPLETE: Final = 14
MAX_INIT: Final = 2048  # bytes of one that comes in SDP
_REFLECTED: Final = 1  # the T bit: the tag is the receiver's peer's; RFC 9260, 8.5.1

_HEADER: Final = Struct(">BBH")
_DATA_HEADER: Final = Struct(">BBHIHHI")
_DATA_BODY: Final = Struct(">IHHI")
_INIT_BODY: Final = Struct(">IIHHI")
_SACK_BODY: Final = Struct(">IIHH")
_PAIR: Final = Struct(">HH")
_WORD: Final = Struct(">I")


def decode_chunk(kind: int, flags: int, data: bytes, start: int, end: int) -> Chunk:
    """Read the chunk whose body is ``data[start:end]``; RemoteProtocolError if it is malformed."""
    if kind == _DATA:
        if end - start <= _DATA_BODY.size:
            raise RemoteProtocolError("DATA without user data")
        tsn, stream, ssn, ppid = _DATA_BODY.unpack_from(data, start)
        return Data(tsn, stream, ssn, ppid, flags & 15, data[start + _DATA_BODY.size : end])
    try:
        return _decode(kind, flags, data[start:end])
    except StructError:
        raise RemoteProtocolError("SCTP chunk is cut short") from None


def decode_init(data: bytes) -> Init:
    """Read an INIT chunk that came outside of a packet (draft-hancke-tsvwg-snap)."""
    if not _HEADER.size <= len(data) <= MAX_INIT:
        raise RemoteProtocolError("INIT chunk is too short or too long")
    kind, flags, length = _HEADER.unpack_from(data)
    if kind != _INIT or not length <= len(data) <= length + 3:
        raise RemoteProtocolError("not an INIT chunk, or of a wrong length")
    chunk = decode_chunk(kind, flags, data, _HEADER.size, max(length, _HEADER.size))
    assert isinstance(chunk, Init)
    return chunk


def _decode(kind: int, flags: int, body: bytes) -> Chunk:
    match kind:
        case 1 | 2:
            return _decode_init(body, acknowledges=kind == _INIT_ACK)
        case 3:
            return _decode_sack(body)
        case 4 | 5:
            return Heartbeat(body, acknowledges=kind == _HEARTBEAT_ACK)
        case 6 | 9:
            causes = tuple(split_tlvs(body))
            return Abort(causes, fatal=kind == _ABORT, reflected=bool(flags & _REFLECTED))
        case 7:
            return Shutdown(*_WORD.unpack_from(body))
        case 8:
            return ShutdownAck()
        case 10:
            return CookieEcho(body)
        case 11:
            return CookieAck()
        case 14:
            return ShutdownComplete(reflected=bool(flags & _REFLECTED))
        case 130:
            return Reconfig(decode_reconfig(body))
        case 192:
            return ForwardTsn(_WORD.unpack_from(body)[0], tuple(_pairs(body, _WORD.size)))
        case _:
            return UnknownChunk(kind, flags, body)


def _decode_init(body: bytes, *, acknowledges: bool) -> Init:
    tag, window, outbound, inbound, tsn = _INIT_BODY.unpack_from(body)
    if not (tag and outbound and inbound):
        raise RemoteProtocolError("INIT without a tag or streams")
    parameters = decode_init_parameters(body[_INIT_BODY.size :])
    if acknowledges is not (parameters.cookie is not None):
        raise RemoteProtocolError("INIT with a cookie, or INIT ACK without")
    return Init(tag, window, outbound, inbound, tsn, parameters)


def _decode_sack(body: bytes) -> Sack:
    tsn, window, gaps, duplicates = _SACK_BODY.unpack_from(body)
    at = _SACK_BODY.size + 4 * gaps
    if len(body) != at + 4 * duplicates:
        raise RemoteProtocolError("SACK has a wrong length")
    if not gaps and not duplicates:
        return Sack(tsn, window)
    blocks = tuple(_ascending(_pairs(body[:at], _SACK_BODY.size)))
    return Sack(tsn, window, blocks, tuple(word for (word,) in _WORD.iter_unpack(body[at:])))


def _ascending(blocks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The gap blocks as far as they are in order, so that one pass over them is enough."""
    last = 1  # none can begin right behind the cumulative TSN
    for first, end in blocks:
        if not last < first <= end:
            return
        yield first, end
        last = end


def _pairs(body: bytes, start: int) -> Iterator[tuple[int, int]]:
    if (len(body) - start) % _PAIR.size:
        raise RemoteProtocolError("SCTP chunk ends within a pair")
    yield from _PAIR.iter_unpack(body[start:])


def encode_data(tsn: int, stream: int, ssn: int, ppid: int, flags: int, payload: bytes) -> bytes:
    """Write a DATA chunk, for the sender that has no ``Data`` at hand."""
    size = len(payload)
    header = _DATA_HEADER.pack(_DATA, flags, DATA_OVERHEAD + size, tsn, stream, ssn, ppid)
    return header + payload + bytes(-size & 3) if size & 3 else header + payload


def encode_chunk(chunk: Chunk) -> bytes:
    """Write a chunk with its padding; LocalProtocolError for values that do not fit."""
    try:
        return _encode(chunk)
    except StructError as error:
        raise LocalProtocolError(f"SCTP field out of range: {error}") from None


def _encode(chunk: Chunk) -> bytes:
    match chunk:
        case Data(tsn, stream, ssn, ppid, flags, payload):
            return encode_data(tsn, stream, ssn, ppid, flags, payload)
        case Init(tag, window, outbound, inbound, tsn, parameters):
            kind = _INIT if parameters.cookie is None else _INIT_ACK
            body = _INIT_BODY.pack(tag, window, outbound, inbound, tsn)
            return _chunk(kind, 0, body + encode_init_parameters(parameters))
        case Sack(tsn, window, gaps, duplicates):
            body = _SACK_BODY.pack(tsn, window, len(gaps), len(duplicates))
            return _chunk(_SACK, 0, body + _encode_pairs(gaps) + _encode_words(duplicates))
        case Heartbeat(information, acknowledges):
            return _chunk(_HEARTBEAT_ACK if acknowledges else _HEARTBEAT, 0, information)
        case Abort(causes, fatal, reflected):
            return _chunk(_ABORT if fatal else _ERROR, reflected, join_tlvs(causes))
        case Shutdown(tsn):
            return _chunk(_SHUTDOWN, 0, _WORD.pack(tsn))
        case ShutdownAck():
            return _chunk(_SHUTDOWN_ACK, 0, b"")
        case ShutdownComplete(reflected):
            return _chunk(_SHUTDOWN_COMPLETE, reflected, b"")
        case CookieEcho(cookie):
            return _chunk(_COOKIE_ECHO, 0, cookie)
        case CookieAck():
            return _chunk(_COOKIE_ACK, 0, b"")
        case Reconfig(items):
            return _chunk(RECONFIG, 0, encode_reconfig(items))
        case ForwardTsn(tsn, skipped):
            return _chunk(FORWARD_TSN, 0, _WORD.pack(tsn) + _encode_pairs(skipped))
        case UnknownChunk(kind, flags, body):
            return _chunk(kind, flags, body)
        case _ as unreachable:
            assert_never(unreachable)


def _chunk(kind: int, flags: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    return _HEADER.pack(kind, flags, size) + body + bytes(-size & 3)


def _encode_pairs(pairs: tuple[tuple[int, int], ...]) -> bytes:
    return b"".join(_PAIR.pack(first, second) for first, second in pairs)


def _encode_words(words: tuple[int, ...]) -> bytes:
    return b"".join(map(_WORD.pack, words))
