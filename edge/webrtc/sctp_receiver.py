"""The receiving half: duplicates, the window, reassembly and when to acknowledge (RFC 9260, 6.2).

Memory is bounded: what can not be delivered yet counts against the window with an overhead a
fragment. Beyond the window only the next expected TSN is taken, because it may be what sets the
rest free; who still fills a whole message size more than the window is no honest sender.

An acknowledgement goes out for every second packet, 200 ms after a single one, and at once where
something is missing, came twice, or the sender asks for it.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.sctp_outputs import WORD, unwrap32
from edge.webrtc.sctp_reassembly import OVERHEAD, Delivered, Reassembly, ReassemblySnapshot
from edge.webrtc.sctp_tsns import TsnMap
from edge.wire.sctp_chunks import IMMEDIATE, Data, ForwardTsn, Sack

SACK_DELAY: Final = 0.2  # seconds; RFC 9260, 6.2
SACK_EVERY: Final = 2  # packets
MAX_DUPLICATES: Final = 16  # named in one SACK
MAX_STREAMS: Final = 1024  # as in libwebrtc


class ReceiverSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Receiver``; ``deadline`` in seconds from the moment of writing."""

    cumulative: int
    blocks: tuple[tuple[int, int], ...]
    reassembly: ReassemblySnapshot
    packets: int
    urgent: bool
    deadline: float


class Receiver:
    """What came from the peer since ``tsn`` (its initial TSN)."""

    def __init__(self, tsn: int, *, window: int, max_message_size: int) -> None:
        self.tsns = TsnMap(tsn - 1)
        self.reassembly = Reassembly(max_message_size)
        self.deadline = math.inf
        """When an acknowledgement is due."""
        self._window = window
        self._hard_limit = window + max_message_size
        self._max_message_size = max_message_size
        self._duplicates: list[int] = []
        self._packets = 0
        self._heard = False
        self._urgent = False

    @property
    def exhausted(self) -> bool:
        """Whether the peer has filled what no honest peer fills."""
        return self.reassembly.buffered > self._hard_limit

    def receive(self, data: Data) -> list[Delivered]:
        """Take one DATA chunk; RemoteProtocolError with the cause if it is dropped."""
        self._heard = True
        if data.flags & IMMEDIATE:
            self._urgent = True
        tsns = self.tsns
        tsn = unwrap32(data.tsn, tsns.cumulative)
        if tsn in tsns:
            self._duplicates = [*self._duplicates, data.tsn][-MAX_DUPLICATES:]
            raise RemoteProtocolError("DATA came twice", Drop.REPLAY)
        if not self._has_room(tsn, len(data.payload)):
            self._urgent = True
            raise RemoteProtocolError("DATA beyond the receive window", Drop.QUEUE_FULL)
        tsns.add(tsn)
        if data.stream >= MAX_STREAMS:
            raise RemoteProtocolError("DATA on a stream that was not offered", Drop.TABLE_FULL)
        return self.reassembly.add(tsn, data, seen=tsns.__contains__)

    def forward(self, chunk: ForwardTsn) -> list[Delivered]:
        """Take a FORWARD TSN; an old one is only acknowledged (RFC 3758, 3.6)."""
        self._urgent = True
        tsn = unwrap32(chunk.tsn, self.tsns.cumulative)
        if tsn <= self.tsns.cumulative:
            return []
        self.tsns.forward(tsn)
        skipped = (each for each in chunk.skipped if each[0] < MAX_STREAMS)
        return self.reassembly.forward(tsn, skipped)

    def finish_packet(self, *, now: float) -> None:
        """A packet is read: decide when to acknowledge what was in it."""
        if self._heard:
            self._heard = False
            self._packets += 1
            if self._packets >= SACK_EVERY or self.tsns.has_gaps or self._duplicates:
                self._urgent = True
            self.deadline = min(self.deadline, now + SACK_DELAY)
        if self._urgent:
            self.deadline = now

    def sack(self) -> Sack:
        """The acknowledgement as of now; none is due afterwards."""
        self.deadline = math.inf
        self._packets, self._urgent = 0, False
        duplicates, self._duplicates = tuple(self._duplicates), []
        window = max(0, self._window - self.reassembly.buffered)
        return Sack(self.tsns.cumulative & WORD, window, self.tsns.gaps(), duplicates)

    def snapshot(self, *, now: float) -> ReceiverSnapshot:
        """The whole state."""
        return ReceiverSnapshot(
            cumulative=self.tsns.cumulative,
            blocks=self.tsns.blocks,
            reassembly=self.reassembly.snapshot(),
            packets=self._packets,
            urgent=self._urgent,
            deadline=self.deadline - now,
        )

    @classmethod
    def restore(
        cls, snapshot: ReceiverSnapshot, *, window: int, max_message_size: int, now: float
    ) -> Receiver:
        """Go on from a snapshot."""
        receiver = cls(snapshot.cumulative + 1, window=window, max_message_size=max_message_size)
        receiver.tsns = TsnMap(snapshot.cumulative, snapshot.blocks)
        receiver.reassembly = Reassembly.restore(snapshot.reassembly, max_message_size)
        receiver._packets, receiver._urgent = snapshot.packets, snapshot.urgent
        receiver.deadline = snapshot.deadline + now
        return receiver

    def _has_room(self, tsn: int, size: int) -> bool:
        if not self.tsns.fits(tsn):
            return False
        room = self._window - self.reassembly.buffered
        return tsn == self.tsns.cumulative + 1 or size + OVERHEAD <= room
