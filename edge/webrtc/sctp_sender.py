"""The sending half: outbox, flight, window and timer together (RFC 9260, sections 6 and 7).

After a crash the heir goes on past the numbers that the dead owner may have used: they are put in
flight as abandoned, so that a FORWARD TSN carries the peer over them. A stream of which the
snapshot knows nothing may have been used as well: its first message here is preceded by a stand-in
that takes the peer over the stream's numbers.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from edge.errors import RemoteProtocolError
from edge.webrtc.sctp_congestion import CongestionControl, RoundTrip
from edge.webrtc.sctp_flight import Flight, Sent
from edge.webrtc.sctp_hold import Hold
from edge.webrtc.sctp_outbox import Outbox, OutMessage
from edge.webrtc.sctp_outputs import MAX_PACKET, unwrap32
from edge.webrtc.sctp_sender_snapshot import (
    SenderSnapshot,
    move_message,
    read_sent,
    write_sent,
)
from edge.wire.sctp_chunks import DATA_OVERHEAD, ForwardTsn, Sack

MAX_RETRANSMISSIONS: Final = 16  # timeouts in a row; ICE consent ends a dead path before


class Sender:
    """Numbers, sends and repeats the chunks of our messages, beginning with ``tsn``."""

    def __init__(self, tsn: int, *, outbox_limit: int, holds: bool = False) -> None:
        self.outbox = Outbox(outbox_limit)
        self.flight = Flight(tsn)
        self.hold = Hold(active=holds)
        self.peer_window = 0
        """Bytes that the peer has room for, beyond what is in flight."""
        self.deadline = math.inf
        self.limit = math.inf
        """The first TSN that no chunk may have; an abandoned rest may."""
        self.congestion = CongestionControl()
        self.round_trip = RoundTrip()
        self._errors = 0
        self._forward_due = False
        self._free_packet = False
        """One packet may exceed the window: a fast retransmission (RFC 9260, 7.2.4)."""

    @property
    def idle(self) -> bool:
        """Whether everything was sent and acknowledged."""
        return not self.flight.sent and not self.outbox.queue

    @property
    def failed(self) -> bool:
        """Whether the peer has been silent for too many timeouts."""
        return self._errors > MAX_RETRANSMISSIONS

    @property
    def waits(self) -> bool:
        """Whether a message waits for a snapshot to be stored."""
        lost = self.flight.first_lost()
        return self.unstaged or (lost is not None and self.hold.bars(lost.tsn))

    @property
    def unstaged(self) -> bool:
        """Whether one waits that the next snapshot would hold, and the last one does not."""
        return self._is_held() and not self.flight.full

    def is_waiting(self, stream: int) -> bool:
        """Whether anything of this stream was not sent yet."""
        return bool(self.outbox.buffered(stream)) or self.flight.is_staged(stream)

    def stage(self, chunks: int, *, now: float) -> None:
        """Number what waits, up to so many chunks, for a snapshot to hold it as it will leave."""
        outbox, flight = self.outbox, self.flight
        end = flight.next_tsn + chunks
        while outbox.queue and outbox.queue[0].reliable and flight.next_tsn < end:
            if flight.full:
                break
            self._stand_in(now)
            flight.stage(*outbox.cut(flight.next_tsn))

    def acknowledge(self, sack: Sack, *, now: float) -> None:
        """Take a SACK; RemoteProtocolError if it acknowledges what was never sent."""
        flight = self.flight
        cumulative = unwrap32(sack.tsn, flight.acked)
        if cumulative >= flight.next_tsn:
            raise RemoteProtocolError("SACK of what was never sent")
        if cumulative < flight.acked:
            return
        full = flight.bytes + MAX_PACKET > self.congestion.window
        if cumulative > flight.acked:
            size, sent_at = flight.acknowledge(cumulative)
            if sent_at is not None:
                self.round_trip.measured(now - sent_at)
            self.congestion.acknowledged(size, cumulative, full=full)
            self.deadline = now + self.round_trip.timeout
        self._lose(flight.read_gaps(sack.gaps), now)
        if not flight.outstanding:
            self.deadline = math.inf
        self._errors = 0
        self.peer_window = max(0, sack.window - flight.bytes)
        self._forward_due = flight.forward_tsn

    def acknowledge_cumulative(self, tsn: int, *, now: float) -> None:
        """Take the cumulative TSN of a SHUTDOWN, which says nothing of gaps or the window."""
        if unwrap32(tsn, self.flight.acked) > self.flight.acked:
            self.acknowledge(Sack(tsn, self.peer_window + self.flight.bytes), now=now)

    def next_chunk(self, room: int, *, now: float) -> bytes | None:
        """The next DATA chunk that may be sent now and fits into ``room`` bytes."""
        lost = self.flight.first_lost()
        if lost is None:
            chunk = self._send_new(room, now)
        else:
            chunk = None if self.hold.bars(lost.tsn) else self._repeat(lost, room, now)
        if chunk is not None and self.deadline == math.inf:
            self.deadline = now + self.round_trip.timeout
        return chunk

    def next_forward(self, *, now: float) -> ForwardTsn | None:
        """The FORWARD TSN that is due, if any; a message half sent may just be too old now."""
        if self.outbox.drop_expired(now) and self.flight.forward_tsn:
            self.outbox.queue[0].abandoned = self._forward_due = True
            self.flight.sweep()
            self._drop_rest(now)
        if not self._forward_due:
            return None
        self._forward_due = False
        return self.flight.build_forward()

    def packet_sent(self) -> None:
        """A packet is full: a fast retransmission has had its free one."""
        self._free_packet = False

    def expire(self, *, now: float) -> None:
        """The retransmission timer has expired (RFC 9260, 6.3.3)."""
        self._errors += 1
        self.round_trip.back_off()
        self.congestion.timed_out()
        self.flight.lose_all(now=now)
        self._drop_rest(now)
        self._forward_due = self.flight.forward_tsn
        self.deadline = now + self.round_trip.timeout if self.flight.outstanding else math.inf

    def snapshot(self, *, now: float) -> SenderSnapshot:
        """The whole state; a reserve is the owner's and does not travel."""
        flight, messages, index = self.flight, list[OutMessage](), dict[int, int]()
        for message in (*(sent.message for sent in flight.sent), *self.outbox.queue):
            if id(message) not in index:
                index[id(message)] = len(messages)
                messages.append(move_message(message, -now))
        return SenderSnapshot(
            next_tsn=flight.next_tsn,
            acked=flight.acked,
            peer_window=self.peer_window,
            forward_tsn=flight.forward_tsn,
            messages=tuple(messages),
            sent=tuple(write_sent(sent, index[id(sent.message)], now) for sent in flight.sent),
            queue=tuple(index[id(message)] for message in self.outbox.queue),
            ssns=dict(self.outbox.ssns),
            ssn_base=self.outbox.base,
            jumped=dict(flight.jumped),
            jump_end=flight.jump_end,
            congestion=msgspec.structs.replace(self.congestion),
            round_trip=msgspec.structs.replace(self.round_trip),
            deadline=self.deadline - now,
            errors=self._errors,
            forward_due=self._forward_due,
            free_packet=self._free_packet,
        )

    @classmethod
    def restore(
        cls,
        snapshot: SenderSnapshot,
        *,
        outbox_limit: int,
        now: float,
        age: float = 0.0,
        skip: int = 0,
        holds: bool = False,
    ) -> Sender:
        """Go on from a snapshot, ``skip`` TSNs and SSNs later: 0 only for the exact state.

        Raises LocalProtocolError where the peer can not be told to skip them.
        """
        then = now - age
        sender = cls(snapshot.next_tsn, outbox_limit=outbox_limit)
        sender.peer_window, sender._errors = snapshot.peer_window, snapshot.errors
        sender.congestion = msgspec.structs.replace(snapshot.congestion)
        sender.round_trip = msgspec.structs.replace(snapshot.round_trip)
        sender.deadline = snapshot.deadline + then
        sender._forward_due, sender._free_packet = snapshot.forward_due, snapshot.free_packet
        sender.outbox.ssns, sender.outbox.base = dict(snapshot.ssns), snapshot.ssn_base
        messages = [move_message(message, then) for message in snapshot.messages]
        for number in snapshot.queue:
            sender.outbox.requeue(messages[number])
        flight = sender.flight
        flight.acked, flight.forward_tsn = snapshot.acked, snapshot.forward_tsn
        flight.jumped, flight.jump_end = dict(snapshot.jumped), snapshot.jump_end
        flight.restore(read_sent(each, messages[each.message], then) for each in snapshot.sent)
        if skip:
            sender._skip(skip, now)
        if holds:
            sender.hold.stored(flight.next_tsn)
        return sender

    def _skip(self, numbers: int, now: float) -> None:
        """Step over the reserve, and send at once what may never have arrived."""
        self.outbox.begin_again()
        self.flight.sweep()
        self.flight.lose_all(now=now)
        self.flight.doubt()
        self.flight.skip(numbers, self.outbox.ssns, now=now)
        self.outbox.base += numbers
        self._forward_due = True
        self.deadline = now + self.round_trip.timeout

    def _lose(self, missing: list[Sent], now: float) -> None:
        if not missing:
            return
        self.congestion.lost(self.flight.next_tsn - 1)
        self.flight.lose(missing, now=now)
        self._drop_rest(now)
        self._free_packet = True

    def _drop_rest(self, now: float) -> None:
        message = self.outbox.drop_abandoned()
        if message is not None:
            self.flight.add_abandoned(message, now=now)
            self.deadline = min(self.deadline, now + self.round_trip.timeout)

    def _repeat(self, sent: Sent, room: int, now: float) -> bytes | None:
        flight, staged = self.flight, not sent.transmissions
        if flight.bytes >= self.congestion.window and (staged or not self._free_packet):
            return None
        if len(sent.chunk) > room or (staged and not self._fits(sent.size)):
            return None
        if staged:
            self.peer_window = max(0, self.peer_window - sent.size)
        flight.resend(sent, now=now)
        return sent.chunk

    def _send_new(self, room: int, now: float) -> bytes | None:
        outbox, flight = self.outbox, self.flight
        outbox.drop_expired(now)
        size = outbox.next_size()
        if not size or self._is_held() or (size + DATA_OVERHEAD + 3 & ~3) > room:
            return None
        if flight.bytes >= self.congestion.window or flight.full or flight.next_tsn >= self.limit:
            return None
        if not self._fits(size):
            return None
        if self._stand_in(now) and flight.next_tsn >= self.limit:
            return None
        message, chunk, size = outbox.cut(flight.next_tsn)
        flight.add(message, chunk, size, now=now)
        self.peer_window = max(0, self.peer_window - size)
        return chunk

    def _is_held(self) -> bool:
        queue = self.outbox.queue
        return self.hold.active and bool(queue) and queue[0].reliable

    def _fits(self, size: int) -> bool:
        """Whether the peer has room for so much; with nothing in flight it is a probe."""
        return size <= self.peer_window or not self.flight.bytes

    def _stand_in(self, now: float) -> bool:
        """Take the peer over what a dead owner may have sent on the next message's stream."""
        stand_in = self.outbox.take_base() if self.outbox.base else None
        if stand_in is None:
            return False
        self.flight.add_abandoned(stand_in, now=now)
        self._forward_due = True
        return True
