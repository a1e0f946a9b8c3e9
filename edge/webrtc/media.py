"""One audio stream each way and the RTCP reports on both (RFC 3550, section 6).

``Media`` composes one ``SendStream`` with a bounded set of ``ReceiveLog``s. All times inside are
Unix seconds (``now + ntp_offset``), which two hosts share: a session that is taken up elsewhere
goes on with its timestamps, its reports and its media clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from edge.webrtc.nack import SLACK, UNKNOWN_ROUND_TRIP, Asker, Repair, Resender
from edge.webrtc.streams import (
    ReceiveLog,
    ReceiveLogSnapshot,
    SendStream,
    SendStreamSnapshot,
    load_state,
)
from edge.wire.rtcp import (
    Bye,
    GenericNack,
    ReceiverReport,
    ReportBlock,
    RtcpPacket,
    SenderReport,
    SourceDescription,
    encode_rtcp,
)

MAX_REMOTE_SOURCES: Final = 8
REPORT_INTERVAL: Final = 5.0  # seconds; RFC 3550, 6.2
FIRST_REPORT: Final = 1.0  # seconds
MAX_ROUND_TRIP: Final = 60.0  # seconds; more is nonsense from the peer

_NTP_EPOCH: Final = 2_208_988_800  # seconds from 1900 to 1970


@dataclass(frozen=True, slots=True)
class MediaStatistics:
    """Counts since the start, of receiving only for sources still known; times in seconds.

    What the peer reports of our stream is None until it has.
    """

    packets_sent: int
    octets_sent: int
    packets_received: int
    octets_received: int
    lost: int
    duplicates: int
    late: int
    reordered: int
    jitter: float
    round_trip_time: float | None
    remote_jitter: float | None
    remote_fraction_lost: float | None
    remote_lost: int | None
    repairs: Mapping[Repair, int]


class MediaSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Media``; times are Unix seconds."""

    stream: SendStreamSnapshot
    logs: dict[int, ReceiveLogSnapshot]
    cname: str
    started: float
    sent_at: float
    next_report: float
    heard_ssrc: int | None
    round_trip_time: float | None
    remote_report: tuple[float, float, int] | None
    red_payload_type: int | None = None
    nack: bool = False
    repairs: dict[Repair, int] = {}


class Media:
    """One outgoing stream, what is heard of the remote ones, and the reports on both.

    ``ntp_offset`` is Unix time minus ``now``; ``red_payload_type`` that of redundant audio, which
    only the peer sends; with ``nack`` both sides repair what was lost.
    """

    def __init__(
        self,
        stream: SendStream,
        *,
        cname: str,
        now: float,
        ntp_offset: float,
        red_payload_type: int | None = None,
        nack: bool = False,
    ) -> None:
        self.stream = stream
        self.red_payload_type = red_payload_type
        self.nack = nack
        self.repairs: Counter[Repair] = Counter()
        self.asker = Asker(self.repairs)
        self.resender = Resender(self.repairs) if nack else None
        self.cname = cname
        self.ntp_offset = ntp_offset
        self.logs: dict[int, ReceiveLog] = {}
        self.started = now + ntp_offset
        self.sent_at = 0.0
        self.next_report = self.started + FIRST_REPORT
        self.heard_ssrc: int | None = None
        self.round_trip_time: float | None = None
        self.remote_report: tuple[float, float, int] | None = None
        # A fixed period of 3.75 to 6.25 s, so that sessions do not report in step.
        self._interval = REPORT_INTERVAL * (0.75 + (stream.ssrc & 0xFFFF) / 0x20000)

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next."""
        return min(self.next_report, self.asker.deadline) - self.ntp_offset

    def media_time(self, *, now: float) -> int:
        """Clock units since the start, which a take-over does not interrupt."""
        return round((now + self.ntp_offset - self.started) * self.stream.clock_rate)

    def send_rtp(
        self, payload_length: int, timestamp: int, marker: bool, *, now: float
    ) -> tuple[bytes, int]:
        """The header and index of the next packet; see ``SendStream.next``."""
        self.sent_at = now + self.ntp_offset
        return self.stream.next(payload_length, timestamp, marker)

    def receive_rtp(
        self, index: int, timestamp: int, payload_type: int, ssrc: int, size: int, *, now: float
    ) -> None:
        """Note an authentic packet with ``size`` payload bytes."""
        log = self.logs.get(ssrc) or self._new_log(ssrc, index)
        same_clock = payload_type in (self.stream.payload_type, self.red_payload_type)
        log.receive(index, timestamp if same_clock else None, size, time=now + self.ntp_offset)
        self.heard_ssrc = ssrc

    def _new_log(self, ssrc: int, index: int) -> ReceiveLog:
        if len(self.logs) >= MAX_REMOTE_SOURCES:
            oldest = min(self.logs.values(), key=lambda log: log.heard_at)
            del self.logs[oldest.ssrc]
        asker = self.asker if self.nack else None
        log = self.logs[ssrc] = ReceiveLog(ssrc, self.stream.clock_rate, index, asker=asker)
        return log

    def receive_rtcp(self, packets: Iterable[RtcpPacket], *, now: float) -> float | None:
        """Note reports; returns the round-trip time that they measure, in seconds."""
        time = now + self.ntp_offset
        measured: float | None = None
        for packet in packets:
            if isinstance(packet, SenderReport) and packet.ssrc in self.logs:
                self.logs[packet.ssrc].receive_sender_report(packet.ntp, time=time)
            if isinstance(packet, SenderReport | ReceiverReport):
                for report in packet.reports:
                    if report.ssrc == self.stream.ssrc:
                        measured = self._receive_report(report, time)
        if measured is not None:
            self.round_trip_time = self.asker.round_trip = measured
        return measured

    def repair_seconds(self) -> float:
        """From when a gap is seen until what it lacks has been sent again; 0 without ``nack``."""
        return self.asker.repair_seconds() if self.nack else 0.0

    def answer_nacks(self, packets: Iterable[RtcpPacket], *, now: float) -> list[bytes]:
        """The SRTP packets that the peer asks for and may have once more."""
        if self.resender is None:
            return []
        ssrc = self.stream.ssrc
        nacks = (p for p in packets if isinstance(p, GenericNack) and p.media_ssrc == ssrc)
        lost = (sequence for nack in nacks for sequence in nack.lost)
        return self.resender.answer(lost, round_trip=self.asker.round_trip, now=now)

    def _receive_report(self, report: ReportBlock, time: float) -> float | None:
        jitter = report.jitter / self.stream.clock_rate
        self.remote_report = jitter, report.fraction_lost / 256, report.cumulative_lost
        if not report.last_sr:
            return None
        return _round_trip(report.last_sr + report.delay_since_last_sr, time)

    def tick(self, *, now: float) -> list[bytes]:
        """The compounds that are due at ``now``: a report, a request for what is missing."""
        time = now + self.ntp_offset
        compounds = [self.report(now=now)] if self.next_report <= time + SLACK else []
        lost = self.asker.ask(now=time)
        return [*compounds, self._nack(lost)] if lost else compounds

    def _nack(self, lost: Iterable[int]) -> bytes:
        """The smallest compound that may hold a NACK, with a report on nothing; RFC 4585, 3.1."""
        ssrc = self.stream.ssrc
        sequences = tuple(index & 0xFFFF for index in lost)
        nack = GenericNack(ssrc, self.asker.ssrc, sequences)
        return encode_rtcp((ReceiverReport(ssrc), SourceDescription(((ssrc, self.cname),)), nack))

    def report(self, *, now: float) -> bytes:
        """The compound of SR or RR and SDES; sets the next deadline."""
        return encode_rtcp(self._report(now + self.ntp_offset))

    def bye(self, *, now: float) -> bytes:
        """The last compound, with a BYE for our stream. Not for a hand-over."""
        return encode_rtcp((*self._report(now + self.ntp_offset), Bye((self.stream.ssrc,))))

    def _report(self, time: float) -> tuple[RtcpPacket, ...]:
        self.next_report = time + self._interval
        stream = self.stream
        blocks = tuple(filter(None, (log.report(time=time) for log in self.logs.values())))
        description = SourceDescription(((stream.ssrc, self.cname),))
        silence = time - self.sent_at
        if silence > 2 * self._interval:  # RFC 3550, 6.4: an SR is for those who sent lately
            return ReceiverReport(stream.ssrc, blocks), description
        timestamp = stream.last_timestamp + round(silence * stream.clock_rate)
        report = SenderReport(
            ssrc=stream.ssrc,
            ntp=_ntp(time),
            timestamp=timestamp & 0xFFFFFFFF,
            packet_count=stream.packets & 0xFFFFFFFF,
            octet_count=stream.octets & 0xFFFFFFFF,
            reports=blocks,
        )
        return report, description

    def statistics(self) -> MediaStatistics:
        """Counts and the newest measurements."""
        logs = self.logs.values()
        heard = self.logs.get(self.heard_ssrc) if self.heard_ssrc is not None else None
        jitter, fraction_lost, lost = self.remote_report or (None, None, None)
        return MediaStatistics(
            packets_sent=self.stream.packets,
            octets_sent=self.stream.octets,
            packets_received=sum(log.received for log in logs),
            octets_received=sum(log.octets for log in logs),
            lost=sum(log.lost for log in logs),
            duplicates=sum(log.duplicates for log in logs),
            late=sum(log.late for log in logs),
            reordered=sum(log.reordered for log in logs),
            jitter=heard.jitter / heard.clock_rate if heard else 0.0,
            round_trip_time=self.round_trip_time,
            remote_jitter=jitter,
            remote_fraction_lost=fraction_lost,
            remote_lost=lost,
            repairs=self.repairs.copy(),
        )

    def snapshot(self) -> MediaSnapshot:
        """The whole state, without the packets that were sent or are missing: they soon are old."""
        return msgspec.convert(self, MediaSnapshot, from_attributes=True)

    @classmethod
    def restore(
        cls, snapshot: MediaSnapshot, *, now: float, ntp_offset: float, skip: int = 0
    ) -> Media:
        """Go on from a snapshot, ``skip`` packet indexes later; see ``SendStream.restore``."""
        stream = SendStream.restore(snapshot.stream, skip=skip)
        media = cls(
            stream, cname=snapshot.cname, now=now, ntp_offset=ntp_offset, nack=snapshot.nack
        )
        repairs = media.repairs
        load_state(media, snapshot)
        media.stream = stream
        media.repairs = repairs
        repairs.update(snapshot.repairs)
        asker = media.asker if media.nack else None
        media.asker.round_trip = media.round_trip_time or UNKNOWN_ROUND_TRIP
        media.logs = {
            ssrc: ReceiveLog.restore(log, asker=asker, stale=skip > 0)
            for ssrc, log in snapshot.logs.items()
        }
        media.next_report = min(snapshot.next_report, now + ntp_offset + media._interval)
        return media


def _round_trip(answered: int, time: float) -> float | None:
    """RFC 3550, 6.4.1, in 1/65536 s modulo 2^32; signed, as a coarse clock may give -1."""
    difference = (_ntp(time) >> 16) - answered
    seconds = ((difference + 0x80000000 & 0xFFFFFFFF) - 0x80000000) / 65536
    return max(0.0, seconds) if abs(seconds) <= MAX_ROUND_TRIP else None


def _ntp(time: float) -> int:
    """A 64-bit NTP timestamp; RFC 3550, section 4."""
    return int((time + _NTP_EPOCH) * 2**32) & 0xFFFFFFFFFFFFFFFF
