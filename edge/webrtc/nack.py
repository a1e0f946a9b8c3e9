"""Audio NACK: asking for lost packets where that can pay, and sending ours again (RFC 4585, 6.2.1).

What is sent again is the same SRTP packet, byte for byte: no index is used twice, and to its
receiver it is a packet that was long under way. (RFC 4588 has retransmission in a stream of its
own; for one audio stream that is more than it takes.)

A missing packet is worth asking for while its jitter buffer waits for it. It should have come
between its neighbours, and from then on the buffer's patience runs. ``Asker`` lets reordered
packets come first (``REORDER_WAIT``), asks once there is a gap, again after each round trip, and
only while the answer can still be in time. So where nothing is held back, nothing is ever asked,
and no timer runs. ``Resender`` keeps the last second of what we sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import islice
from math import inf
from typing import Final

import msgspec

REORDER_WAIT: Final = 0.010  # seconds from a gap to the first request
MARGIN: Final = 0.005  # seconds that an answer may take longer than the last round trip did
MIN_INTERVAL: Final = 0.010  # seconds between two requests, or answers, however near the peer is
UNKNOWN_ROUND_TRIP: Final = 0.1  # seconds, until one was measured; as libwebrtc assumes
MAX_REQUESTS: Final = 3  # for one packet, and as many answers
MAX_MISSING: Final = 32  # packets; 0.6 s of usual ones, longer than buffers wait
PACKET: Final = 0.020  # seconds; the longest that we ask clients for (maxptime)
RING: Final = 64  # packets kept to be sent again; a power of two, as sequence numbers wrap
KEPT_SECONDS: Final = 1.0  # no buffer waits longer
SLACK: Final = 0.001  # seconds by which a timer may be early


class Repair(StrEnum):
    """What happens to lost packets; a metric label."""

    ASKED = "asked"
    """We asked for a packet, for the first time or again."""
    RECOVERED = "recovered"
    """A packet came after we had asked for it."""
    RESENT = "resent"
    """We sent a packet again."""
    GONE = "gone"
    """The peer asked for a packet that we do not keep, or no longer."""


class _Missing(msgspec.Struct, gc=False):
    expected: float
    due: float
    requests: int = 0


class Asker:
    """Which packets of the one source that is heard to ask for, and when; times in seconds.

    ``patience`` tells how long after its time a packet is still waited for, ``round_trip`` is the
    newest one. At most ``MAX_MISSING`` packets are followed, the oldest gives way.
    """

    def __init__(self, counts: Counter[Repair]) -> None:
        self.patience: Callable[[], float] = float  # that is 0.0: nothing is held back
        self.round_trip = UNKNOWN_ROUND_TRIP
        self.ssrc = 0
        self.missing: dict[int, _Missing] = {}
        self._counts = counts

    @property
    def deadline(self) -> float:
        """When ``ask`` wants to be called next."""
        return min([missing.due for missing in self.missing.values()], default=inf)

    def repair_seconds(self) -> float:
        """From when a gap is seen until what it lacks has come; buffers count in whole packets."""
        return REORDER_WAIT + self.round_trip + PACKET

    def miss(self, ssrc: int, last: int, index: int, *, since: float, now: float) -> None:
        """Note a packet that came ``since`` seconds after the ``last``, and none between them."""
        if ssrc != self.ssrc:
            self.missing.clear()
            self.ssrc = ssrc
        patience = self.patience()
        step = min(since / (index - last), PACKET)
        for number in range(max(last + 1, index - MAX_MISSING), index):
            missing = _Missing(now - (index - number) * step, now + REORDER_WAIT)
            if self._in_time(missing.due, missing.expected + patience):
                self.missing[number] = missing
        while len(self.missing) > MAX_MISSING:
            del self.missing[next(iter(self.missing))]

    def find(self, ssrc: int, index: int) -> None:
        """Note that a missing packet has come after all."""
        missing = self.missing.pop(index, None) if ssrc == self.ssrc else None
        if missing is not None and missing.requests:
            self._counts[Repair.RECOVERED] += 1

    def ask(self, *, now: float) -> list[int]:
        """The indexes to ask for at ``now``; forgets those that are not needed any more."""
        wanted: list[int] = []
        patience = self.patience()
        for index, missing in tuple(self.missing.items()):
            needed = missing.expected + patience
            if missing.due > now + SLACK:
                continue
            if missing.requests < MAX_REQUESTS and self._in_time(now, needed):
                missing.requests += 1
                missing.due = now + max(self.round_trip + MARGIN, MIN_INTERVAL)
                wanted.append(index)
            elif needed > now + SLACK:
                missing.due = needed  # an answer may be under way
            else:
                del self.missing[index]
        self._counts[Repair.ASKED] += len(wanted)
        return wanted

    def _in_time(self, asked: float, needed: float) -> bool:
        return asked + self.round_trip + MARGIN <= needed


class _Sent(msgspec.Struct, gc=False):
    sequence: int
    packet: bytes
    sent: float
    next_answer: float = 0.0
    answers: int = 0

    def __repr__(self) -> str:
        return f"_Sent({len(self.packet)} bytes)"


class Resender:
    """The last packets we sent, in a ring, for a peer that may ask for them; times in seconds.

    A packet is sent again once in a round trip at most, and ``MAX_REQUESTS`` times in all: a peer
    that asks without end gets four times our stream.
    """

    def __init__(self, counts: Counter[Repair]) -> None:
        self._ring: list[_Sent | None] = [None] * RING
        self._counts = counts

    def keep(self, index: int, packet: bytes, *, now: float) -> None:
        """Remember a packet that leaves."""
        self._ring[index % RING] = _Sent(index & 0xFFFF, packet, now)

    def answer(self, lost: Iterable[int], *, round_trip: float, now: float) -> list[bytes]:
        """What to send again of these sequence numbers, of which at most ``RING`` count."""
        interval = max(round_trip, MIN_INTERVAL)
        found = [self._answer(sequence, interval, now) for sequence in islice(lost, RING)]
        packets = [packet for packet in found if packet is not None]
        self._counts[Repair.RESENT] += len(packets)
        return packets

    def _answer(self, sequence: int, interval: float, now: float) -> bytes | None:
        sent = self._ring[sequence % RING]
        if sent is None or sent.sequence != sequence or now - sent.sent > KEPT_SECONDS:
            self._counts[Repair.GONE] += 1
            return None
        if sent.answers == MAX_REQUESTS or now < sent.next_answer:
            return None
        sent.answers += 1
        sent.next_answer = now + interval
        return sent.packet
