"""Who opens calls, and saying no before quality falls."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Final

ANONYMOUS: Final = "anonymous"
"""The key id of those who need no key."""
SETTLE_SECONDS: Final = 2.0
"""Time constant of the means: a garbage collection is no overload, a neighbour's build is."""
RESUME: Final = 0.85
"""Part of a limit under which calls are taken again: less coming and going at the limit."""
MOST_LATE: Final = 0.3  # seconds
RETRY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Opener:
    """Whose call it is; all of it may stand in a log."""

    key_id: str = ANONYMOUS
    """The id of the API key, never the key."""
    secret_id: str = ""
    """The id of the client secret it was opened with; empty: with the key itself."""
    address: str = ""
    """The masked address that the offer came from."""

    def may_touch(self, other: Opener) -> bool:
        """Whether this one may end, change or watch a call of the other's.

        Who has the key may touch all of its calls, who has a client secret those opened with it.
        """
        return self.key_id == other.key_id and self.secret_id in ("", other.secret_id)


class Overloaded(Exception):
    """No call can be taken now, for a reason that the caller may read; try again later."""

    def __init__(
        self, retry_after_seconds: float, reason: str = "no room for another call"
    ) -> None:
        super().__init__(f"{reason}, try again in {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds
        self.reason = reason


class TooManySessions(Overloaded):
    """This key has as many calls as it may have; others may open more."""


@dataclass(frozen=True, slots=True)
class LoopReading:
    """How busy the loop was, and how late it came."""

    at: float
    """Monotonic time, in seconds."""
    busy_seconds: float
    """Time since any fixed moment in which the loop had something to do."""
    late_seconds: float
    """By how much the reading itself comes after it was due."""


class Admission:
    """Says whether a transceiver has room for another call: a machine without clock and loop.

    One loop carries all media, so its time is what gets short. Of two kinds: it is busy all the
    time, or it comes late by fits and starts. Its CPU time would tell less: on a machine that
    others use as well, or under a container's CPU limit, a loop is full at 0.8 of a processor.
    Sessions are counted beside them. Each is measured by its limit, and the largest part is the
    load. Refusing begins at 1, while what is there still goes well, and ends at ``RESUME``.
    """

    def __init__(self, *, max_sessions: int, max_load: float, max_lag_seconds: float) -> None:
        self.max_sessions = max_sessions
        self.busy = 0.0
        """Part of the time that the loop does not wait, a mean over some ``SETTLE_SECONDS``."""
        self.lag_seconds = 0.0
        """How late the loop runs, a mean as well."""
        self.overloaded = False
        """Whether the loop is short of time; sessions do not count here."""
        self._max_load = max_load
        self._max_lag = max_lag_seconds
        self._last: LoopReading | None = None

    def observe(self, reading: LoopReading) -> None:
        """Take a reading; they may come at any distance, a late one counts for longer.

        But no single one is more than MOST_LATE: a process that was stopped, or whose machine was,
        can take calls when it goes on.
        """
        last, self._last = self._last, reading
        if last is None or reading.at <= last.at:
            return
        elapsed = reading.at - last.at
        late = min(reading.late_seconds, MOST_LATE)
        weight = 1.0 - exp(-min(elapsed, MOST_LATE) / SETTLE_SECONDS)
        self.busy += weight * ((reading.busy_seconds - last.busy_seconds) / elapsed - self.busy)
        self.lag_seconds += weight * (late - self.lag_seconds)
        self.overloaded = self._strain() >= (RESUME if self.overloaded else 1.0)

    def check(self, sessions: int, *, draining: bool) -> None:
        """Raise Overloaded unless there is room for one more than ``sessions``."""
        if draining:
            raise Overloaded(RETRY_SECONDS, "this server is about to stop")
        if self.overloaded or sessions >= self.max_sessions:
            raise Overloaded(RETRY_SECONDS)

    def load(self, sessions: int) -> float:
        """How much of what it takes is in use, 0 to 1; from 1 on calls are refused."""
        return min(1.0, max(self._strain(), sessions / self.max_sessions))

    def _strain(self) -> float:
        return max(self.busy / self._max_load, self.lag_seconds / self._max_lag)
