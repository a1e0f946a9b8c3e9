"""The numbering of one outgoing stream, and the log of one incoming one (RFC 3550, appendix A).

``SendStream`` counts a 48-bit packet index whose low 16 bits are the sequence number, so the SRTP
roll-over counter follows from it and can never step on its own. ``ReceiveLog`` keeps what a report
says of one remote source; its extended sequence number is the index that SRTP authenticated, so
appendix A.1 needs no probation.

A stream taken up elsewhere from an old snapshot jumps past whatever may have been sent since:
receivers follow a jump of 50 up to 2^15 as a restart and count nothing lost, a smaller one is
loss, a longer one desynchronises SRTP for good.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.errors import LocalProtocolError
from edge.webrtc.nack import Asker
from edge.wire.rtcp import ReportBlock
from edge.wire.rtp import build_header, encode_mid_extension

MIN_SKIP: Final = 50  # packets; a shorter jump counts as loss
MAX_JUMP: Final = 2**15  # exclusive; RFC 3711, 3.3.1
MAX_INDEX: Final = 2**48 - 1
MAX_DROPOUT: Final = 3000  # a longer gap is a restart, not loss; RFC 3550, A.1

_REORDER_WINDOW: Final = 64  # packets; its bits fit a 64-bit integer
_REORDER_MASK: Final = (1 << _REORDER_WINDOW) - 1


class SendStreamSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``SendStream``."""

    ssrc: int
    payload_type: int
    clock_rate: int
    first_timestamp: int
    extension: bytes
    next_index: int
    last_sent: int
    last_timestamp: int
    packets: int
    octets: int


class SendStream:
    """Numbers the packets of one SSRC.

    ``first_index`` must be below 2^15, so that a loss of the first packets cannot hide a
    roll-over. ``first_timestamp`` is the RTP timestamp of media time 0.
    """

    def __init__(
        self,
        ssrc: int,
        payload_type: int,
        clock_rate: int,
        *,
        first_index: int,
        first_timestamp: int,
        mid_extension: tuple[int, str] | None = None,
    ) -> None:
        if not 0 <= first_index < MAX_JUMP:
            raise LocalProtocolError("the first index must be below 2^15")
        self.ssrc = ssrc
        self.payload_type = payload_type
        self.clock_rate = clock_rate
        self.first_timestamp = first_timestamp
        self.extension = encode_mid_extension(*mid_extension) if mid_extension else b""
        self.next_index = first_index
        self.last_sent = first_index - 1
        self.last_timestamp = first_timestamp
        self.packets = 0
        self.octets = 0
        self._limit = MAX_INDEX + 1

    def next(self, payload_length: int, timestamp: int, marker: bool) -> tuple[bytes, int]:
        """The next packet's header and 48-bit index; ``timestamp`` is its media time.

        Raises LocalProtocolError at the end of the reserve.
        """
        index = self.next_index
        if index >= self._limit:
            raise LocalProtocolError("the reserved packet indexes are used up")
        self.next_index = index + 1
        self.last_sent = index
        self.packets += 1
        self.octets += payload_length
        self.last_timestamp = rtp_timestamp = (self.first_timestamp + timestamp) & 0xFFFFFFFF
        header = build_header(
            self.payload_type, marker, index & 0xFFFF, rtp_timestamp, self.ssrc, self.extension
        )
        return header, index

    def lease(self) -> tuple[bytes, int, int, int, int]:
        """What another hand needs to go on: header, SSRC, first timestamp, next index, limit."""
        header = build_header(self.payload_type, False, 0, 0, self.ssrc, self.extension)
        return header, self.ssrc, self.first_timestamp, self.next_index, self._limit

    def advance(self, next_index: int, packets: int, octets: int, timestamp: int) -> None:
        """Note what was sent under a lease; an index may have been used for nothing."""
        if next_index == self.next_index:
            return
        self.next_index = next_index
        self.last_sent = next_index - 1
        self.packets += packets
        self.octets += octets
        self.last_timestamp = timestamp

    def reserve(self, packets: int) -> None:
        """Allow this many more packets: as many as a stored snapshot's heir will skip.

        Not while the stream is lent: the loan has the former limit.
        """
        self._limit = min(self.next_index + packets, MAX_INDEX + 1)

    @property
    def left(self) -> int:
        """Packets that may be sent before the reserve is used up."""
        return self._limit - self.next_index

    def snapshot(self) -> SendStreamSnapshot:
        """The whole state; a reserve is the owner's and does not travel."""
        return msgspec.convert(self, SendStreamSnapshot, from_attributes=True)

    @classmethod
    def restore(cls, snapshot: SendStreamSnapshot, *, skip: int = 0) -> SendStream:
        """Go on ``skip`` indexes later: 0 for the exact state, else the reserve (50 to 2^15 - 1).

        Raises LocalProtocolError for another ``skip``, or where take-overs in a row without a
        packet between them add up to a jump that no receiver follows.
        """
        next_index = snapshot.next_index + skip
        jump = next_index - snapshot.last_sent - 1
        if (skip and skip < MIN_SKIP) or jump >= MAX_JUMP:
            raise LocalProtocolError("receivers do not follow such a jump")
        stream = cls(
            snapshot.ssrc,
            snapshot.payload_type,
            snapshot.clock_rate,
            first_index=0,
            first_timestamp=0,
        )
        load_state(stream, snapshot)
        stream.next_index = next_index
        return stream


class ReceiveLogSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``ReceiveLog``; times are Unix seconds, ``jitter`` is in clock units."""

    ssrc: int
    clock_rate: int
    base: int
    highest: int
    seen: int
    received: int
    octets: int
    duplicates: int
    late: int
    reordered: int
    heard_at: float
    last_timestamp: int | None
    jitter: float
    expected_prior: int
    received_prior: int
    last_sr: int
    last_sr_at: float


class ReceiveLog:
    """What we heard of one remote source; ``time`` is in Unix seconds.

    An ``asker`` is told of gaps. It is the media's and does not travel in a snapshot.
    """

    def __init__(
        self, ssrc: int, clock_rate: int, first_index: int, *, asker: Asker | None = None
    ) -> None:
        self.ssrc = ssrc
        self.clock_rate = clock_rate
        self.base = first_index
        self.highest = first_index - 1
        self.seen = 0  # bit n: highest - n was received
        self.received = self.octets = 0
        self.duplicates = self.late = self.reordered = 0
        self.heard_at = 0.0
        self.last_timestamp: int | None = None
        self.jitter = 0.0
        self.expected_prior = self.received_prior = 0
        self.last_sr = 0
        self.last_sr_at = 0.0
        self.asker = asker
        self._max_dropout = MAX_DROPOUT

    @property
    def lost(self) -> int:
        """Packets expected but not received; negative where some came twice (RFC 3550, A.3)."""
        return self.highest - self.base + 1 - self.received

    def receive(self, index: int, timestamp: int | None, size: int, *, time: float) -> None:
        """Note a packet; without a timestamp (another clock) it does not touch the jitter."""
        if index == self.highest + 1:  # as is usual
            self.seen = (self.seen << 1 | 1) & _REORDER_MASK
            self.highest = index
        else:
            self._note_index(index, time)
        self.received += 1
        self.octets += size
        if timestamp is not None:
            if self.last_timestamp is not None:
                self._note_jitter(timestamp - self.last_timestamp, time - self.heard_at)
            self.last_timestamp = timestamp
        self.heard_at = time

    def advance(
        self, next_index: int, octets: int, timestamp: int, jitter: float, *, time: float
    ) -> bool:
        """Note packets up to ``next_index``, in order and without a gap; False if there are none.

        ``time`` is when the last of them came, ``jitter`` what it was then.
        """
        packets = next_index - 1 - self.highest
        if not packets:
            return False
        self.seen = (self.seen << packets | (1 << packets) - 1) & _REORDER_MASK
        self.highest += packets
        self.received += packets
        self.octets += octets
        self.last_timestamp, self.jitter, self.heard_at = timestamp, jitter, time
        return True

    def _note_index(self, index: int, time: float) -> None:
        ahead = index - self.highest
        if ahead > 0:
            if ahead > self._max_dropout:
                self.base += ahead - 1
                self._max_dropout = MAX_DROPOUT
            elif self.asker is not None:
                since = time - self.heard_at
                self.asker.miss(self.ssrc, self.highest, index, since=since, now=time)
            self.seen = (self.seen << ahead | 1) & _REORDER_MASK if ahead < _REORDER_WINDOW else 1
            self.highest = index
        elif -ahead >= _REORDER_WINDOW:
            self.late += 1
        elif self.seen >> -ahead & 1:
            self.duplicates += 1
        else:
            self.seen |= 1 << -ahead
            self.reordered += 1
            if self.asker is not None:
                self.asker.find(self.ssrc, index)

    def _note_jitter(self, timestamps: int, seconds: float) -> None:
        signed = (timestamps + 0x80000000 & 0xFFFFFFFF) - 0x80000000
        transit = abs(seconds * self.clock_rate - signed)
        self.jitter += (transit - self.jitter) / 16  # RFC 3550, A.8

    def receive_sender_report(self, ntp: int, *, time: float) -> None:
        """Note when which SR came, for the next report block."""
        self.last_sr = ntp >> 16 & 0xFFFFFFFF
        self.last_sr_at = time

    def report(self, *, time: float) -> ReportBlock | None:
        """A block on the interval since the last call; None if nothing was heard in it."""
        expected = self.highest - self.base + 1
        expected_now, self.expected_prior = expected - self.expected_prior, expected
        received_now, self.received_prior = self.received - self.received_prior, self.received
        if not received_now:
            return None
        lost_now = max(0, expected_now - received_now)
        delay = int((time - self.last_sr_at) * 65536) if self.last_sr else 0
        return ReportBlock(
            ssrc=self.ssrc,
            fraction_lost=min(255, (lost_now << 8) // expected_now) if lost_now else 0,
            cumulative_lost=max(-0x800000, min(self.lost, 0x7FFFFF)),
            highest_sequence=self.highest & 0xFFFFFFFF,
            jitter=min(int(self.jitter), 0xFFFFFFFF),
            last_sr=self.last_sr,
            delay_since_last_sr=max(0, min(delay, 0xFFFFFFFF)),
        )

    def snapshot(self) -> ReceiveLogSnapshot:
        """The whole state."""
        return msgspec.convert(self, ReceiveLogSnapshot, from_attributes=True)

    @classmethod
    def restore(
        cls, snapshot: ReceiveLogSnapshot, *, asker: Asker | None = None, stale: bool = False
    ) -> ReceiveLog:
        """Go on from a snapshot.

        After a ``stale`` one the first gap is no loss: the former owner has heard most of it.
        """
        log = cls(snapshot.ssrc, snapshot.clock_rate, snapshot.base, asker=asker)
        load_state(log, snapshot)
        if stale:
            log._max_dropout = 1
        return log


def load_state(target: object, snapshot: msgspec.Struct) -> None:
    """Set the attributes that a snapshot holds; both sides name them alike."""
    for name in snapshot.__struct_fields__:
        setattr(target, name, getattr(snapshot, name))
