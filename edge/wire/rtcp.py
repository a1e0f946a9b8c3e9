"""RTCP packets: reports, SDES, BYE (RFC 3550, section 6), NACK and PLI (RFC 4585, section 6).

A datagram is a compound of packets, checked as RFC 3550, appendix A.2 says, except that it may
begin with any packet (reduced size, RFC 5506). A packet type we do not serve becomes an
``UnknownRtcp``; a type we serve but cannot read makes the whole datagram malformed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct, error
from typing import Final, assert_never

from edge.errors import LocalProtocolError, RemoteProtocolError

MAX_PACKETS: Final = 32  # in one compound; browsers send fewer than ten
MAX_NACKS: Final = 253  # PID + BLP pairs in one NACK, as libwebrtc bounds them
MAX_ITEMS: Final = 31  # a five-bit count: report blocks, SDES chunks, BYE sources

_SR, _RR, _SDES, _BYE, _APP, _RTPFB, _PSFB = range(200, 207)
_GENERIC_NACK: Final = 1  # RTPFB; RFC 4585, 6.2.1
_PLI: Final = 1  # PSFB; RFC 4585, 6.3.1
_CNAME: Final = 1  # SDES item; RFC 3550, 6.5.1

_COMMON: Final = Struct(">BBH")
_SENDER_INFO: Final = Struct(">IQIII")
_REPORT_BLOCK: Final = Struct(">IIIIII")
_FEEDBACK: Final = Struct(">II")
_WORD: Final = Struct(">I")
_NACK: Final = Struct(">HH")


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What a receiver heard of one source; RFC 3550, section 6.4.1.

    ``fraction_lost`` is in 1/256, ``jitter`` in units of the stream's clock, the last two fields
    in 1/65536 s (zero when no SR was heard).
    """

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay_since_last_sr: int


@dataclass(frozen=True, slots=True)
class SenderReport:
    """SR; ``ntp`` is the 64-bit NTP time that corresponds to the RTP ``timestamp``."""

    ssrc: int
    ntp: int
    timestamp: int
    packet_count: int
    octet_count: int
    reports: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """RR."""

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """SDES as (SSRC, CNAME) pairs; other items are dropped, a missing CNAME is empty."""

    cnames: tuple[tuple[int, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bye:
    """BYE for these sources."""

    ssrcs: tuple[int, ...]
    reason: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class GenericNack:
    """Sequence numbers that the receiver of ``media_ssrc`` misses."""

    sender_ssrc: int
    media_ssrc: int
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PictureLossIndication:
    """PLI."""

    sender_ssrc: int
    media_ssrc: int


@dataclass(frozen=True, slots=True)
class UnknownRtcp:
    """A packet of another type or format; ``body`` follows the common header."""

    packet_type: int
    count: int
    body: bytes = field(repr=False)


RtcpPacket = (
    SenderReport
    | ReceiverReport
    | SourceDescription
    | Bye
    | GenericNack
    | PictureLossIndication
    | UnknownRtcp
)


def decode_rtcp(compound: bytes) -> tuple[RtcpPacket, ...]:
    """Read a compound or reduced-size datagram; RemoteProtocolError for anything malformed."""
    return tuple(_decode(kind, count, body) for kind, count, body in _split(compound))


def encode_rtcp(packets: Iterable[RtcpPacket]) -> bytes:
    """Write packets one after the other; LocalProtocolError for values that do not fit."""
    try:
        return b"".join(map(_encode, packets))
    except error as exc:
        raise LocalProtocolError(f"RTCP field out of range: {exc}") from None


def _split(compound: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield packet type, count and body without padding; RFC 3550, A.2."""
    at = packets = 0
    while at < len(compound) or packets == 0:
        if len(compound) - at < _COMMON.size:
            raise RemoteProtocolError("RTCP header is cut short")
        first, kind, words = _COMMON.unpack_from(compound, at)
        end = at + 4 + 4 * words
        packets += 1
        if first >> 6 != 2 or end > len(compound) or packets > MAX_PACKETS:
            raise RemoteProtocolError("RTCP version, length or number of packets is wrong")
        body = compound[at + 4 : end]
        if first & 0x20:
            body = _without_padding(body, last=end == len(compound))
        yield kind, first & 0x1F, body
        at = end


def _without_padding(body: bytes, *, last: bool) -> bytes:
    padding = body[-1] if body else 0
    if not last or padding == 0 or padding % 4 or padding > len(body):
        raise RemoteProtocolError("RTCP padding is wrong or not on the last packet")
    return body[:-padding]


def _decode(kind: int, count: int, body: bytes) -> RtcpPacket:
    if kind == _SR:
        _require(body, _SENDER_INFO.size + count * _REPORT_BLOCK.size)
        ssrc, ntp, timestamp, packets, octets = _SENDER_INFO.unpack_from(body)
        reports = _decode_reports(body, _SENDER_INFO.size, count)
        return SenderReport(ssrc, ntp, timestamp, packets, octets, reports)
    if kind == _RR:
        _require(body, _WORD.size + count * _REPORT_BLOCK.size)
        (ssrc,) = _WORD.unpack_from(body)
        return ReceiverReport(ssrc, _decode_reports(body, _WORD.size, count))
    if kind == _SDES:
        return SourceDescription(tuple(_decode_chunks(count, body)))
    if kind == _BYE:
        return _decode_bye(count, body)
    if kind == _RTPFB and count == _GENERIC_NACK:
        return _decode_nack(body)
    if kind == _PSFB and count == _PLI:
        if len(body) != _FEEDBACK.size:
            raise RemoteProtocolError("PLI has a wrong length")
        return PictureLossIndication(*_FEEDBACK.unpack(body))
    return UnknownRtcp(kind, count, body)


def _require(body: bytes, size: int) -> None:
    if len(body) < size:
        raise RemoteProtocolError("RTCP packet is shorter than its count says")


def _decode_reports(body: bytes, start: int, count: int) -> tuple[ReportBlock, ...]:
    return tuple(
        _decode_report(*_REPORT_BLOCK.unpack_from(body, start + index * _REPORT_BLOCK.size))
        for index in range(count)
    )


def _decode_report(
    ssrc: int, loss: int, highest: int, jitter: int, last_sr: int, delay: int
) -> ReportBlock:
    lost = loss & 0xFFFFFF
    signed = lost - 0x1000000 if lost & 0x800000 else lost
    return ReportBlock(ssrc, loss >> 24, signed, highest, jitter, last_sr, delay)


def _decode_chunks(count: int, body: bytes) -> Iterator[tuple[int, str]]:
    at = 0
    for _ in range(count):
        _require(body, at + 5)
        (ssrc,) = _WORD.unpack_from(body, at)
        at += 4
        cname = ""
        while body[at]:
            _require(body, at + 2)
            end = at + 2 + body[at + 1]
            _require(body, end + 1)  # the item and the type of the next one
            if body[at] == _CNAME:
                cname = body[at + 2 : end].decode(errors="replace")
            at = end
        at = (at + 4) & ~3  # at least one null, then up to the next word
        yield ssrc, cname


def _decode_bye(count: int, body: bytes) -> Bye:
    end = count * _WORD.size
    _require(body, end)
    ssrcs = tuple(ssrc for (ssrc,) in _WORD.iter_unpack(body[:end]))
    if len(body) == end:
        return Bye(ssrcs)
    _require(body, end + 1 + body[end])
    return Bye(ssrcs, body[end + 1 : end + 1 + body[end]].decode(errors="replace"))


def _decode_nack(body: bytes) -> GenericNack:
    items = len(body) - _FEEDBACK.size
    if items < _NACK.size or items % _NACK.size or items > MAX_NACKS * _NACK.size:
        raise RemoteProtocolError("NACK has a wrong length")
    lost: list[int] = []
    for first, following in _NACK.iter_unpack(body[_FEEDBACK.size :]):
        lost.append(first)
        lost += [(first + 1 + bit) & 0xFFFF for bit in range(16) if following >> bit & 1]
    sender_ssrc, media_ssrc = _FEEDBACK.unpack_from(body)
    return GenericNack(sender_ssrc, media_ssrc, tuple(lost))


def _encode(packet: RtcpPacket) -> bytes:
    match packet:
        case SenderReport(ssrc, ntp, timestamp, packet_count, octet_count, reports):
            info = _SENDER_INFO.pack(ssrc, ntp, timestamp, packet_count, octet_count)
            return _packet(_SR, len(reports), info + _encode_reports(reports))
        case ReceiverReport(ssrc, reports):
            return _packet(_RR, len(reports), _WORD.pack(ssrc) + _encode_reports(reports))
        case SourceDescription(cnames):
            chunks = b"".join(_encode_chunk(ssrc, cname) for ssrc, cname in cnames)
            return _packet(_SDES, len(cnames), chunks)
        case Bye(ssrcs, reason):
            body = b"".join(map(_WORD.pack, ssrcs)) + (_text(reason) if reason else b"")
            return _packet(_BYE, len(ssrcs), body)
        case GenericNack(sender_ssrc, media_ssrc, lost):
            body = _FEEDBACK.pack(sender_ssrc, media_ssrc) + _encode_lost(lost)
            return _packet(_RTPFB, _GENERIC_NACK, body)
        case PictureLossIndication(sender_ssrc, media_ssrc):
            return _packet(_PSFB, _PLI, _FEEDBACK.pack(sender_ssrc, media_ssrc))
        case UnknownRtcp(packet_type, count, body):
            return _packet(packet_type, count, body)
        case _ as unreachable:
            assert_never(unreachable)


def _packet(kind: int, count: int, body: bytes) -> bytes:
    if not 0 <= count <= MAX_ITEMS:
        raise LocalProtocolError("an RTCP packet holds at most 31 items")
    words = (len(body) + 3) // 4
    return _COMMON.pack(0x80 | count, kind, words) + body.ljust(4 * words, b"\0")


def _encode_reports(reports: Iterable[ReportBlock]) -> bytes:
    return b"".join(
        _REPORT_BLOCK.pack(
            report.ssrc,
            report.fraction_lost << 24 | report.cumulative_lost & 0xFFFFFF,
            report.highest_sequence,
            report.jitter,
            report.last_sr,
            report.delay_since_last_sr,
        )
        for report in reports
    )


def _encode_chunk(ssrc: int, cname: str) -> bytes:
    items = bytes((_CNAME,)) + _text(cname) if cname else b""
    chunk = _WORD.pack(ssrc) + items + b"\0"
    return chunk.ljust((len(chunk) + 3) & ~3, b"\0")


def _text(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise LocalProtocolError("an RTCP text has at most 255 bytes")
    return bytes((len(data),)) + data


def _encode_lost(lost: Iterable[int]) -> bytes:
    pairs: list[list[int]] = []
    for sequence in lost:
        distance = (sequence - pairs[-1][0]) & 0xFFFF if pairs else 17
        if distance > 16:
            pairs.append([sequence, 0])
        elif distance:
            pairs[-1][1] |= 1 << (distance - 1)
    if not 1 <= len(pairs) <= MAX_NACKS:
        raise LocalProtocolError(f"a NACK names 1 to {MAX_NACKS} ranges of sequence numbers")
    return b"".join(_NACK.pack(first, following) for first, following in pairs)
