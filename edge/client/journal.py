"""What a caller writes down: one flag a packet, round-trip times, and when each step was done."""

from __future__ import annotations

import secrets
import struct
from array import array
from dataclasses import dataclass, field
from math import nan
from typing import Final

from edge.client.turns import SetupTrips

FRAME_SECONDS: Final = 0.02
PAYLOAD_BYTES: Final = 100
GRACE_SECONDS: Final = 0.5
"""A packet younger than this may still come back, and is not missed yet."""

TOCS: Final = {0.01: 0xF4, 0.02: 0xFC, 0.04: 0x54, 0.06: 0x5C}
"""The first byte of an Opus packet of one stereo frame of so many seconds (RFC 6716, 3.1)."""
MARK_BYTES: Final = 8

_STAMP: Final = struct.Struct(f"!B{MARK_BYTES}sQ{MARK_BYTES}s")
_PADDING: Final = bytes(PAYLOAD_BYTES - _STAMP.size)


@dataclass(slots=True)
class SetupTimes:
    """Seconds from the POST to the end of each step; NaN for what has not happened."""

    answered: float = nan
    checked: float = nan
    secured: float = nan
    first_sent: float = nan
    first_echo: float = nan
    opened: float = nan
    """The data channel, where there is one."""


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """One call as its caller saw it."""

    setup: SetupTimes
    trips: SetupTrips
    sent: int
    received: int
    """Different packets that came back."""
    duplicates: int
    foreign: int
    """Echoes of what another call has said."""
    reordered: int
    """Echoes that came after one with a higher number."""
    missing: int
    """Packets that had the time to come back and did not."""
    skipped: int
    """Those of the missing that reached the server, which left them out.

    That they did its reports tell, every 5 s: what is newer than the last counts as lost. That
    they did not get lost on the way back either, its own numbers, which then have no gap.
    """
    holes: int
    """Runs of numbers that never came back."""
    longest_hole: float
    """Seconds of audio in the longest of them."""
    hole_at: int
    """Number of its first packet."""
    longest_silence: float
    """Longest time between two echoes, in seconds."""
    round_trips: tuple[float, ...] = field(repr=False)
    """Seconds, in order of arrival."""
    rejected: int
    """Datagrams that could not be read or authenticated."""
    stale: int
    """Datagrams that came to a port we have moved away from."""


@dataclass(slots=True)
class Journal:
    """Numbers what is sent and checks off what comes back.

    ``mark`` is in every payload, so that an echo tells whose words it repeats; ``seal``, which only
    the caller and its server have seen, that it is no forgery. One packet holds ``frame_seconds``
    of audio, a key of ``TOCS``.
    """

    frame_seconds: float = FRAME_SECONDS
    mark: bytes = field(default_factory=lambda: secrets.token_bytes(MARK_BYTES), repr=False)
    seal: bytes = field(default_factory=lambda: secrets.token_bytes(MARK_BYTES), repr=False)
    setup: SetupTimes = field(default_factory=SetupTimes)
    trips: SetupTrips = field(default_factory=SetupTrips)
    duplicates: int = 0
    foreign: int = 0
    reordered: int = 0
    rejected: int = 0
    stale: int = 0
    longest_silence: float = 0.0
    _reported: int = 0
    _lost_there: int = 0
    _numbers: range = range(0)
    _numbered: int = 0
    _returned: bytearray = field(default_factory=bytearray)
    _sent_at: array[float] = field(default_factory=lambda: array("d"))
    _round_trips: array[float] = field(default_factory=lambda: array("d"))
    _last_echo: float = nan
    _highest: int = -1

    @property
    def sent(self) -> int:
        """How many were numbered."""
        return len(self._sent_at)

    @property
    def received(self) -> int:
        """How many different ones came back."""
        return len(self._round_trips)

    def payload(self, number: int) -> bytes:
        """Make the payload of one packet."""
        return _STAMP.pack(TOCS[self.frame_seconds], self.mark, number, self.seal) + _PADDING

    def note_sent(self, now: float) -> None:
        """Note that the packet whose number is ``sent`` leaves."""
        self._sent_at.append(now)
        self._returned.append(0)

    def next_payload(self, now: float) -> bytes:
        """Make the payload of the next packet, which leaves now."""
        payload = self.payload(self.sent)
        self.note_sent(now)
        return payload

    def check_off(self, payload: bytes, now: float) -> None:
        """Note an echo; what was never sent counts as rejected, or as another call's."""
        if len(payload) != PAYLOAD_BYTES:
            self.rejected += 1
            return
        _, mark, number, seal = _STAMP.unpack_from(payload)
        if mark != self.mark:
            self.foreign += 1
        elif number >= self.sent or seal != self.seal:
            self.rejected += 1
        elif self._returned[number]:
            self.duplicates += 1
        else:
            self._note_echo(number, now)

    def note_number(self, index: int) -> None:
        """Note the number that the server gave to a packet of its own; none comes twice."""
        known = self._numbers or range(index, index)
        self._numbers = range(min(index, known.start), max(index + 1, known.stop))
        self._numbered += 1

    def note_report(self, number: int, *, lost: int) -> None:
        """Note that, of our packets up to this number, the server misses so many."""
        self._reported, self._lost_there = number + 1, max(lost, 0)

    def _note_echo(self, number: int, now: float) -> None:
        self._returned[number] = 1
        self._round_trips.append(now - self._sent_at[number])
        self.reordered += number < self._highest
        self._highest = max(self._highest, number)
        if now - self._last_echo > self.longest_silence:
            self.longest_silence = now - self._last_echo
        self._last_echo = now

    def longest_hole(self, *, since: int = 0) -> float:
        """Seconds of audio in the longest run that was lost from ``since`` to the last echo."""
        length, _ = longest_run_of_zeros(self._returned[since : self._highest + 1])
        return length * self.frame_seconds

    def statistics(self, *, now: float, since: int = 0) -> CallStatistics:
        """Sum up; what is missing counts only from number ``since`` on."""
        settled = self.sent
        while settled > since and self._sent_at[settled - 1] > now - GRACE_SECONDS:
            settled -= 1
        flags = self._returned[since:settled]
        length, at = longest_run_of_zeros(flags)
        lost_back = len(self._numbers) - self._numbered
        settled_there = flags[: max(self._reported - since, 0)].count(0)
        return CallStatistics(
            setup=self.setup,
            trips=self.trips,
            sent=self.sent,
            received=self.received,
            duplicates=self.duplicates,
            foreign=self.foreign,
            reordered=self.reordered,
            missing=flags.count(0),
            skipped=max(settled_there - self._lost_there - lost_back, 0),
            holes=count_runs_of_zeros(flags),
            longest_hole=length * self.frame_seconds,
            hole_at=since + at,
            longest_silence=self.longest_silence,
            round_trips=tuple(self._round_trips),
            rejected=self.rejected,
            stale=self.stale,
        )


def longest_run_of_zeros(flags: bytes | bytearray) -> tuple[int, int]:
    """Length and start of the longest run of zero bytes."""
    length = max(map(len, flags.split(b"\1")))
    return length, bytes(flags).find(bytes(length))


def count_runs_of_zeros(flags: bytes | bytearray) -> int:
    """How many runs of zero bytes there are."""
    return flags.count(b"\1\0") + flags.startswith(b"\0")
