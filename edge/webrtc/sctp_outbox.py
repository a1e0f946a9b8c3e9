"""Messages that wait to be sent, and how they are cut into DATA chunks (RFC 9260, section 6.9).

The queue is bounded in bytes, each message counting a little more than its payload. Messages leave
in the order in which they came: without I-DATA (RFC 8260) the fragments of one can not be mixed
with another's.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import msgspec

from edge.webrtc.sctp_outputs import HALF, MAX_CHUNK, WORD, OutboxFull
from edge.wire.sctp_chunks import BEGIN, DATA_OVERHEAD, END, UNORDERED
from edge.wire.sctp_codec import encode_data

MAX_PAYLOAD: Final = MAX_CHUNK - DATA_OVERHEAD
MESSAGE_COST: Final = 64  # bytes that a queued message counts besides its payload


class OutMessage(msgspec.Struct):
    """One message on its way; ``expires`` on the clock, ``ssn`` once its first fragment is cut."""

    stream: int
    ppid: int
    data: bytes
    unordered: bool = False
    max_retransmits: int | None = None
    expires: float = math.inf
    ssn: int = -1
    offset: int = 0
    abandoned: bool = False

    @property
    def reliable(self) -> bool:
        """Whether it is repeated until it has arrived."""
        return self.max_retransmits is None and self.expires == math.inf

    @property
    def cost(self) -> int:
        """What is left of it, as the bound counts it."""
        return len(self.data) - self.offset + MESSAGE_COST

    def __repr__(self) -> str:
        return f"OutMessage(stream={self.stream}, {len(self.data)} bytes)"


class Outbox:
    """The bounded queue; ``ssns`` holds the next stream sequence number of each stream."""

    def __init__(self, limit: int) -> None:
        self.queue: deque[OutMessage] = deque()
        self.ssns: dict[int, int] = {}
        self.base = 0
        """The first SSN of a stream not in ``ssns``: above 0 where a dead owner may have sent."""
        self.bytes = 0
        self._limit = limit
        self._buffered: dict[int, int] = {}

    def put(self, message: OutMessage, *, urgent: bool = False) -> None:
        """Queue a message; OutboxFull where it does not fit, unless alone or ``urgent``."""
        if self.queue and not urgent and self.bytes + message.cost > self._limit:
            raise OutboxFull("the outbox is full")
        self.requeue(message)

    def requeue(self, message: OutMessage) -> None:
        """Queue a message that was queued before."""
        self.queue.append(message)
        self._count(message.stream, message.cost)

    def buffered(self, stream: int) -> int:
        """What waits on this stream, in bytes as the bound counts them."""
        return self._buffered.get(stream, 0)

    def next_size(self) -> int:
        """Payload bytes of the next fragment; 0 when nothing waits."""
        if not self.queue:
            return 0
        message = self.queue[0]
        return min(len(message.data) - message.offset, MAX_PAYLOAD)

    def cut(self, tsn: int) -> tuple[OutMessage, bytes, int]:
        """The next fragment under this TSN: its message, the chunk, and its payload's size."""
        message = self.queue[0]
        start, size = message.offset, len(message.data)
        take = min(size - start, MAX_PAYLOAD)
        flags = UNORDERED if message.unordered else 0
        if start == 0:
            flags |= BEGIN
            self._number(message)
        payload = message.data if take == size else message.data[start : start + take]
        if start + take == size:
            flags |= END
            self.drop()
        else:
            message.offset += take
            self._count(message.stream, -take)
        ssn = message.ssn & HALF
        chunk = encode_data(tsn & WORD, message.stream, ssn, message.ppid, flags, payload)
        return message, chunk, take

    def drop(self) -> OutMessage:
        """Take what is left of the first message away."""
        message = self.queue.popleft()
        self._count(message.stream, -message.cost)
        message.data, message.offset = b"", 0
        return message

    def drop_abandoned(self) -> OutMessage | None:
        """Take the rest of a message away whose first fragments were given up."""
        return self.drop() if self.queue and self.queue[0].abandoned else None

    def drop_expired(self, now: float) -> bool:
        """Take away what is too old and was not begun; True if the first one is too old now."""
        while self.queue and self.queue[0].expires <= now:
            if self.queue[0].offset:
                return True
            self.drop()
        return False

    def begin_again(self) -> None:
        """Send a message of which only a part has left from its start; that part is abandoned."""
        if self.queue and self.queue[0].offset:
            message = self.queue.popleft()
            self._count(message.stream, -message.cost)
            fresh = msgspec.structs.replace(message, offset=0, ssn=-1)
            message.abandoned, message.data = True, b""
            self.queue.appendleft(fresh)
            self._count(fresh.stream, fresh.cost)

    def take_base(self) -> OutMessage | None:
        """If the next message is the first of its stream here: a stand-in for those before."""
        message = self.queue[0]
        if not self.base or message.unordered or message.stream in self.ssns:
            return None
        self.ssns[message.stream] = self.base
        return OutMessage(message.stream, 0, b"", ssn=self.base - 1, abandoned=True)

    def restart_stream(self, stream: int) -> None:
        """Number this stream's messages from 0 again."""
        self.ssns[stream] = 0

    def _number(self, message: OutMessage) -> None:
        if message.unordered:
            message.ssn = 0
            return
        message.ssn = self.ssns.get(message.stream, self.base)
        self.ssns[message.stream] = message.ssn + 1

    def _count(self, stream: int, cost: int) -> None:
        self.bytes += cost
        left = self._buffered.get(stream, 0) + cost
        if left:
            self._buffered[stream] = left
        else:
            self._buffered.pop(stream, None)
