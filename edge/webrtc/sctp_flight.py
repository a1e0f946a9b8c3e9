"""The chunks in flight: acknowledged, missing, lost, given up (RFC 9260, 7.2.4; RFC 3758, 3.5).

They stand in TSN order without a hole, so a gap report is one walk along them. A chunk that was
reported missing three times, or was in flight when the timer expired, is lost: it is sent again,
or, where its message may be lost, the whole message is abandoned and a FORWARD TSN tells the peer
not to wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from edge.errors import LocalProtocolError
from edge.webrtc.sctp_outbox import OutMessage
from edge.webrtc.sctp_outputs import HALF, WORD
from edge.wire.sctp_chunks import ForwardTsn

MAX_IN_FLIGHT: Final = 1024  # chunks
MAX_SKIPPED: Final = 250  # streams named in a FORWARD TSN: 1,000 bytes
MAX_SKIP: Final = 2**14  # numbers; far below half the range of a stream sequence number
MISSING_REPORTS: Final = 3  # RFC 9260, 7.2.4

_IN_FLIGHT, _ACKED, _LOST, _ABANDONED = range(4)


class Sent(msgspec.Struct):
    """One chunk that has a TSN; ``message`` tells which fragments go down together."""

    tsn: int
    chunk: bytes
    size: int
    message: OutMessage
    sent_at: float
    state: int = _IN_FLIGHT
    transmissions: int = 1
    missing: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether its message may not be sent once more."""
        most = self.message.max_retransmits
        return most is not None and self.transmissions > most

    def __repr__(self) -> str:
        return f"Sent(tsn={self.tsn}, {self.size} bytes)"


class Flight:
    """Everything between the cumulative acknowledgement and ``next_tsn``."""

    def __init__(self, tsn: int) -> None:
        self.next_tsn = tsn
        self.acked = tsn - 1
        self.bytes = 0
        self.forward_tsn = False
        """Whether the peer takes FORWARD TSN; without it nothing that was sent is given up."""
        self.jumped: dict[int, int] = {}
        """The last SSN to be skipped on each stream, after a crash."""
        self.jump_end = tsn - 1
        self.sent: deque[Sent] = deque()
        self._lost: deque[Sent] = deque()
        self._gap_acked = False

    @property
    def outstanding(self) -> bool:
        """Whether an acknowledgement is to come: not for what is only staged, which comes last."""
        return bool(self.sent) and (self.sent[0].transmissions > 0 or self.sent[0].state != _LOST)

    @property
    def full(self) -> bool:
        """Whether so much is in flight that no new chunk may be added."""
        return len(self.sent) >= MAX_IN_FLIGHT and not self.jumped

    def add(self, message: OutMessage, chunk: bytes, size: int, *, now: float) -> None:
        """A new chunk is sent under ``next_tsn``."""
        self.sent.append(Sent(self.next_tsn, chunk, size, message, now))
        self.next_tsn += 1
        self.bytes += size

    def stage(self, message: OutMessage, chunk: bytes, size: int) -> None:
        """Give a new chunk ``next_tsn``; it is sent as what is lost is sent again."""
        staged = Sent(self.next_tsn, chunk, size, message, 0.0, _LOST, transmissions=0)
        self.sent.append(staged)
        self._lost.append(staged)
        self.next_tsn += 1

    def add_abandoned(self, message: OutMessage, *, now: float) -> None:
        """Give a TSN to the unsent rest of an abandoned message, so that the peer skips it.

        Without it a message whose first fragments were acknowledged would be waited for forever.
        """
        self.sent.append(Sent(self.next_tsn, b"", 0, message, now, _ABANDONED))
        self.next_tsn += 1

    def acknowledge(self, cumulative: int) -> tuple[int, float | None]:
        """All up to here has arrived: bytes, and when the last one that was sent once was sent."""
        size, sent_at = 0, None
        while self.acked < cumulative:
            sent = self.sent.popleft()
            self.acked += 1
            if sent.state == _IN_FLIGHT:
                self.bytes -= sent.size
                sent_at = sent.sent_at if sent.transmissions == 1 else None
            if sent.state in (_IN_FLIGHT, _LOST):
                size += sent.size
            sent.state = _ACKED
        if self.acked >= self.jump_end:
            self.jumped = {}
        return size, sent_at

    def read_gaps(self, gaps: Iterable[tuple[int, int]]) -> list[Sent]:
        """Take the gap blocks, as distances; gives the chunks that are missing for good."""
        if not gaps and not self._gap_acked:
            return []
        highest = self._acknowledge_gaps(gaps)
        missing = []
        for sent in self.sent:
            if sent.tsn >= highest:
                break
            if sent.state == _IN_FLIGHT and sent.transmissions == 1:
                sent.missing += 1
                if sent.missing >= MISSING_REPORTS:
                    missing.append(sent)
        return missing

    def lose(self, chunks: Iterable[Sent], *, now: float) -> None:
        """These are to be sent again, or given up with their message."""
        abandoned = False
        for sent in chunks:
            if sent.state == _IN_FLIGHT:
                self.bytes -= sent.size
            sent.state, sent.missing = _LOST, 0
            if self.forward_tsn and (sent.exhausted or sent.message.expires <= now):
                sent.message.abandoned = abandoned = True
        if abandoned:
            self.sweep()
        self._lost = deque(sent for sent in self.sent if sent.state == _LOST)

    def lose_all(self, *, now: float) -> None:
        """Everything in flight is lost."""
        self.lose([sent for sent in self.sent if sent.state == _IN_FLIGHT], now=now)

    def sweep(self) -> None:
        """Give up every chunk of an abandoned message."""
        for sent in self.sent:
            if sent.message.abandoned and sent.state != _ABANDONED:
                if sent.state == _IN_FLIGHT:
                    self.bytes -= sent.size
                sent.state, sent.chunk = _ABANDONED, b""

    def first_lost(self) -> Sent | None:
        """The first chunk that is to be sent again."""
        while self._lost and self._lost[0].state != _LOST:
            self._lost.popleft()
        return self._lost[0] if self._lost else None

    def is_staged(self, stream: int) -> bool:
        """Whether a chunk of this stream was never sent."""
        return any(not sent.transmissions and sent.message.stream == stream for sent in self._lost)

    def resend(self, sent: Sent, *, now: float) -> None:
        """The first lost chunk is sent, again unless it was only staged."""
        self._lost.popleft()
        sent.state, sent.sent_at = _IN_FLIGHT, now
        sent.transmissions += 1
        self.bytes += sent.size

    def unacknowledged(self, room: int) -> list[bytes]:
        """The chunks that have not arrived for sure, the oldest first, as far as they fit."""
        chunks = []
        for sent in self.sent:
            if sent.state in (_IN_FLIGHT, _LOST):
                room -= len(sent.chunk)
                if room < 0:
                    break
                chunks.append(sent.chunk)
        return chunks

    def build_forward(self) -> ForwardTsn | None:
        """The FORWARD TSN over what is abandoned at the front, if anything is."""
        end, skipped, passed = self.acked, dict[int, int](), dict[int, int]()
        for sent in self.sent:
            if sent.state == _ABANDONED:
                end = sent.tsn
                if not sent.message.unordered:
                    passed[sent.message.stream] = sent.message.ssn
                skipped.update(passed)
            elif sent.state != _ACKED:
                break
        if end == self.acked:
            return None
        if end >= self.jump_end:
            skipped.update(
                (stream, max(ssn, skipped.get(stream, ssn))) for stream, ssn in self.jumped.items()
            )
        pairs = tuple((stream, ssn & HALF) for stream, ssn in skipped.items())[:MAX_SKIPPED]
        return ForwardTsn(end & WORD, pairs)

    def doubt(self) -> None:
        """What is staged may have been sent by another."""
        for sent in self._lost:
            sent.transmissions = max(1, sent.transmissions)

    def skip(self, numbers: int, ssns: dict[int, int], *, now: float) -> None:
        """Step over numbers that another may have used; ``ssns`` are moved on as well."""
        if not self.forward_tsn or not 0 < numbers <= MAX_SKIP:
            raise LocalProtocolError("the peer can not be told to skip so many numbers")
        nothing = OutMessage(0, 0, b"", unordered=True, abandoned=True)
        for tsn in range(self.next_tsn, self.next_tsn + numbers):
            self.sent.append(Sent(tsn, b"", 0, nothing, now, _ABANDONED))
        self.next_tsn += numbers
        self.jump_end = self.next_tsn - 1
        for stream in ssns:
            ssns[stream] += numbers
            self.jumped[stream] = ssns[stream] - 1

    def restore(self, sent: Iterable[Sent]) -> None:
        """Put chunks back in flight as they were."""
        self.sent = deque(sent)
        self.bytes = sum(each.size for each in self.sent if each.state == _IN_FLIGHT)
        self._lost = deque(each for each in self.sent if each.state == _LOST)
        self._gap_acked = any(each.state == _ACKED for each in self.sent)

    def _acknowledge_gaps(self, gaps: Iterable[tuple[int, int]]) -> int:
        """Mark what the blocks cover; gives the highest TSN that is new among it."""
        highest, self._gap_acked = 0, False
        blocks = iter(gaps)
        first, last = next(blocks, (self.next_tsn, self.next_tsn))
        for distance, sent in enumerate(self.sent, 1):
            while distance > last:
                first, last = next(blocks, (len(self.sent) + 1, len(self.sent) + 1))
            if distance >= first:
                self._gap_acked = True
                highest = max(highest, self._acknowledge_one(sent))
            elif sent.state == _ACKED:  # the peer has thought better of it; RFC 9260, 6.2.1
                sent.state = _IN_FLIGHT
                self.bytes += sent.size
        return highest

    def _acknowledge_one(self, sent: Sent) -> int:
        if sent.state == _IN_FLIGHT:
            self.bytes -= sent.size
        elif sent.state != _LOST:
            return 0
        sent.state = _ACKED
        return sent.tsn
