"""What time it is at Redis, by readings over a line that may be slow at times. No I/O.

Redis has looked at its clock after we asked and before its answer came, so each reading bounds how
far its clock is ahead of ours. The bounds only ever narrow, but for the drift of clocks: a slow
answer makes nothing worse. Bounds that do not meet tell of a clock that was set, or of another
Redis, and the new ones count.
"""

from __future__ import annotations

from math import inf
from typing import Final

CLOCK_SECONDS: Final = 5.0
"""How often the clock is read at least."""
SHARP_SECONDS: Final = 0.02
"""Bounds that are wider are narrowed by the next round trip."""
DRIFT: Final = 0.001
"""Seconds a second; twice what NTP may slew a clock by."""


class RedisClock:
    """All times are seconds: ``asked``, ``answered`` and ``now`` monotonic ones, Redis's unix."""

    def __init__(self, *, offset: float) -> None:
        """``offset`` is what unix time is taken to be ahead by before the first reading."""
        self.offset = offset
        """How far Redis's clock is ahead."""
        self.next_read = -inf
        """When it is to be read again, however idle the line is."""
        self._low, self._high = -inf, inf
        self._read_at = -inf

    def is_due(self, *, now: float) -> bool:
        """Whether the next round trip is to read it."""
        return now >= self.next_read or self._high - self._low > SHARP_SECONDS

    def read(self, unix: float, *, asked: float, answered: float) -> None:
        """Take a reading."""
        low, high = unix - answered, unix - asked
        drifted = DRIFT * (answered - self._read_at)
        narrowed = max(low, self._low - drifted), min(high, self._high + drifted)
        self._low, self._high = narrowed if narrowed[0] <= narrowed[1] else (low, high)
        self.offset = (self._low + self._high) / 2
        self._read_at = answered
        self.next_read = answered + CLOCK_SECONDS

    def doubt(self) -> None:
        """Read it again soon: who answers next may be another Redis."""
        self.next_read = -inf
