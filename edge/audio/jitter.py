"""The jitter buffer: packets come when they may, audio leaves in order and at an even pace.

It is a playhead on the client's timeline. Each pull gives what stands at the playhead and moves it
on: the next packet, a piece of a hole (``Lost``) or of a pause that the client made (``Silence``).
How far the playhead runs behind the fastest packets is the delay, and ``target`` is what it should
be (see arrivals.py). Nothing is measured in packets, so packets of any duration, holes and pauses
are alike.

Two rules keep the delay at its target. Where it is too short, the playhead waits in holes, pauses
and quiet audio, and made-up audio goes in. Where it is too long, whole frames are left out: of
holes and pauses what there is to spare, of quiet audio at once, of speech one in ``CATCH_UP``. A
client's clock that differs by 200 ppm costs one such frame in 100 s.

While nothing is there, the playhead runs on, but only what was played is over (``_floor``): a
packet that was held up by up to ``max_delay`` is still played, the playhead steps back to it. A
hole is over as soon as audio behind it was needed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from edge.audio.arrivals import Arrivals
from edge.audio.pulled import Frame, Lost, Pulled, Silence

FRAME: Final = 0.020  # seconds
MAX_PACKETS: Final = 128  # 2.5 s of usual packets; the longest delay in the shortest ones
MAX_DROPOUT: Final = 3000  # a longer jump of sequence numbers is another stream; RFC 3550, A.1
MAX_MISORDER: Final = 1000  # packets: 20 s, longer than any network keeps one
MAX_EARLY: Final = 1.0  # seconds; what arrives so much before its time has another timeline
WAIT_SLACK: Final = 0.001  # seconds that may be missing without that the playhead waits in a hole
GROW_SLACK: Final = 0.005  # and without that quiet audio is stretched
SHRINK_SLACK: Final = 0.010  # seconds that stay after a frame was left out: no swinging
CATCH_UP: Final = 4  # one of so many packets of speech is left out; NetEq accelerates as much
FAST_CATCH_UP: Final = 2  # the same when more than MUCH is too much
MUCH: Final = 0.1  # seconds
REPAIR_SLACK: Final = 0.005  # seconds that the packet after a lost one, its repair, may take more
LOSS_MEMORY: Final = 5.0  # seconds after a loss that we go on to wait for what repairs one

_HISTORY: Final = (1 << 64) - 1


class _Packet(msgspec.Struct, gc=False):
    payload: bytes
    timestamp: int
    samples: int
    copied: bool

    def __repr__(self) -> str:
        return f"_Packet({len(self.payload)} bytes)"


class JitterBuffer:
    """One stream's buffer. Delays in seconds; a packet of at most ``pause_bytes`` opens a pause.

    ``repair_seconds`` tells how long after a gap is seen what it lacks comes, sent again; 0: never.
    While packets get lost the delay covers it, where ``max_delay`` lets it.

    The caller pulls first ``start_delay`` after the first packet, and then whenever what it pulled
    is played out. All counters are of packets, but for ``stretched``, which counts made-up frames.
    """

    def __init__(
        self,
        clock_rate: int,
        *,
        min_delay: float,
        max_delay: float,
        pause_bytes: int = 0,
        repair_seconds: Callable[[], float] = float,
    ) -> None:
        self.received = self.late = self.duplicates = self.overflown = 0
        self.lost = self.copied = self.skipped = self.stretched = self.restarts = 0
        self.delay = 0.0
        self.start_delay = min(max(min_delay, FRAME), max_delay)
        self._rate = clock_rate
        self._min_delay = min_delay
        self._max_delay = max_delay
        self._pause_bytes = pause_bytes
        self._repair_seconds = repair_seconds
        self._frame = round(FRAME * clock_rate)
        self._arrivals = Arrivals()
        self._packets: dict[int, _Packet] = {}
        self._started = False
        self._fresh = True  # nothing was played of this stream
        self._newest = 0  # sequence number and
        self._newest_timestamp = 0  # timestamp of what came last, without roll-over
        self._sequence = 0  # of what was played last
        self._played = 0  # bit n: sequence - n was played
        self._next = 0  # the playhead
        self._floor = 0  # nothing before it is played any more
        self._paused = False
        self._since_skipped = 0
        self._lost_at = -inf
        self._repair_delay = 0.0
        self._now = 0.0

    @property
    def target(self) -> float:
        """The delay that is aimed at, in seconds."""
        needed = self._arrivals.spread
        if self._now < self._lost_at + LOSS_MEMORY:
            needed += self._repair_delay
        return min(max(needed, self._min_delay), self._max_delay)

    def lacks(self, sequence: int) -> bool:
        """Whether a redundant copy of this packet is worth a ``fill``."""
        return self._started and sequence > self._sequence and sequence not in self._packets

    def put(
        self, sequence: int, timestamp: int, payload: bytes, samples: int, *, now: float
    ) -> None:
        """Take a packet: extended sequence number, 32-bit timestamp, duration in clock units."""
        self.received += 1
        timestamp = self._unroll(timestamp)
        transit = now - timestamp / self._rate
        if not self._started or self._is_another_stream(sequence, timestamp, transit):
            self._start(sequence, timestamp)
        self._newest_timestamp = timestamp
        repaired = sequence < self._newest and self._repair_seconds() > 0
        self._newest = max(self._newest, sequence)
        if self._fresh:
            self._sequence = min(self._sequence, sequence - 1)
        if self._is_duplicate(sequence):
            self.duplicates += 1
            return
        if repaired:
            self._lost_at = now  # it took its own way, which says nothing of the others'
        else:
            self._arrivals.note(transit, now)
        if sequence <= self._sequence or timestamp < self._floor:
            self.late += 1
        else:
            self._packets[sequence] = _Packet(payload, timestamp, samples, copied=False)
            self._bound()

    def fill(self, sequence: int, timestamp: int, payload: bytes, samples: int) -> None:
        """Take a redundant copy where the packet itself is not there; says nothing of delays."""
        timestamp = self._unroll(timestamp)
        if self.lacks(sequence) and timestamp >= self._floor:
            self._packets[sequence] = _Packet(payload, timestamp, samples, copied=True)
            self._bound()

    def pull(self, *, now: float, quiet: Callable[[], bool] = lambda: False) -> Pulled:
        """What is to be played at ``now``; ``quiet`` tells if what was played last is no speech."""
        self._now = now
        sequence = self._find_next(now)
        self.delay = now - self._next / self._rate - self._arrivals.base
        behind = self.delay - self.target
        if sequence is None:
            return self._run_on(behind)
        packet = self._packets[sequence]
        if packet.timestamp > self._next:
            made_up = self._bridge(sequence, packet, behind)
            if made_up is not None:
                return made_up
        return self._play(sequence, packet, behind, quiet)

    def _unroll(self, timestamp: int) -> int:
        if not self._started:
            return timestamp
        ahead = timestamp - self._newest_timestamp & 0xFFFFFFFF
        return self._newest_timestamp + (ahead ^ 0x80000000) - 0x80000000

    def _is_another_stream(self, sequence: int, timestamp: int, transit: float) -> bool:
        return (
            not -MAX_MISORDER < sequence - self._newest < MAX_DROPOUT
            or transit < self._arrivals.base - MAX_EARLY
            or (sequence > self._newest and timestamp < self._floor)
        )

    def _start(self, sequence: int, timestamp: int) -> None:
        self.restarts += self._started
        self._started = self._fresh = True
        self._packets.clear()
        self._arrivals.forget()
        self._newest = sequence
        self._sequence = sequence - 1
        self._played = 0
        self._next = timestamp
        self._floor = timestamp - round(self._max_delay * self._rate)
        self._paused = False

    def _is_duplicate(self, sequence: int) -> bool:
        age = self._sequence - sequence
        if age >= 0:
            return bool(self._played >> age & 1)
        known = self._packets.get(sequence)
        return known is not None and not known.copied

    def _bound(self) -> None:
        if len(self._packets) > MAX_PACKETS:
            del self._packets[min(self._packets)]
            self.overflown += 1

    def _find_next(self, now: float) -> int | None:
        """The next packet that is not too late; moves the playhead into what may be played."""
        latest = self._max_delay + FRAME + SHRINK_SLACK
        oldest = int((now - self._arrivals.base - latest) * self._rate)
        self._next = max(self._next, oldest)
        while self._packets:
            sequence = min(self._packets)
            timestamp = self._packets[sequence].timestamp
            if timestamp >= oldest:
                self._next = min(self._next, timestamp)
                return sequence
            del self._packets[sequence]
            self._pass(sequence)
            self.late += 1
        return None

    def _run_on(self, behind: float) -> Pulled:
        if behind >= -WAIT_SLACK:  # else the playhead waits
            self._next += self._frame
        return self._make_up(self._paused)

    def _make_up(self, pause: bool) -> Lost | Silence:
        return Silence(self._frame) if pause else Lost(self._frame)

    def _bridge(self, sequence: int, packet: _Packet, behind: float) -> Pulled | None:
        """A piece of what lies between playhead and packet; None when all of it was left out."""
        pause = sequence == self._sequence + 1
        if behind < -WAIT_SLACK:
            return self._make_up(pause)
        gap = packet.timestamp - self._next
        piece = self._cut(gap if pause else gap - packet.samples, behind)
        gap = packet.timestamp - self._next
        if gap == 0:
            return None
        self._next += piece or gap
        self._floor = self._next
        if pause:
            return Silence(piece or gap)
        return Lost(piece) if piece else Lost(gap, packet.payload)

    def _cut(self, spare: int, behind: float) -> int:
        """Leave out whole frames of ``spare``; returns the next piece of what is left of it."""
        excess = int((behind - SHRINK_SLACK) * self._rate)
        frames = max(0, min(spare, excess)) // self._frame
        self._next += frames * self._frame
        return max(0, min(spare - frames * self._frame, self._frame))

    def _is_surplus(self, excess: float, quiet: Callable[[], bool]) -> bool:
        """Whether to leave out a packet; ``excess`` would still be too much without it."""
        every = CATCH_UP if excess < MUCH else FAST_CATCH_UP
        self._since_skipped += 1
        if excess < SHRINK_SLACK or (self._since_skipped < every and not quiet()):
            return False
        self._since_skipped = 0
        return True

    def _play(
        self, sequence: int, packet: _Packet, behind: float, quiet: Callable[[], bool]
    ) -> Pulled:
        if behind < -GROW_SLACK and quiet():
            self.stretched += 1
            return Lost(self._frame)
        surplus = self._is_surplus(behind - packet.samples / self._rate, quiet)
        del self._packets[sequence]
        if packet.copied or sequence > self._sequence + 1:
            self._lost_at = self._now
            self._repair_delay = self._measure_repair(packet.samples / self._rate)
        self._pass(sequence)
        self._fresh = False
        self._played |= 1
        self._next = self._floor = packet.timestamp + packet.samples
        self._paused = len(packet.payload) <= self._pause_bytes
        self.copied += packet.copied
        self.skipped += surplus
        timestamp = packet.timestamp & 0xFFFFFFFF
        return Frame(packet.payload, timestamp, packet.samples, surplus, packet.copied)

    def _measure_repair(self, packet: float) -> float:
        """By how much later than a packet of so many seconds its repair comes."""
        again = packet + self._repair_seconds()
        fits = self._arrivals.spread + again <= self._max_delay
        return max(again if fits else 0.0, packet + REPAIR_SLACK)

    def _pass(self, sequence: int) -> None:
        """Everything up to this packet is over; what was not there by now is lost."""
        ahead = sequence - self._sequence
        self.lost += ahead - 1
        self._played = self._played << min(ahead, 64) & _HISTORY
        self._sequence = sequence
