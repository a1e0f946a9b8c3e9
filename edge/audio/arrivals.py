"""How long packets take: what a jitter buffer has to hold back, by what it saw of late.

A packet's transit is its arrival on our clock minus its timestamp: the way's delay plus an unknown
constant. The least transit of a short window is the undisturbed way (``base``); a high quantile of
the window lies above it by the delay that lets nearly all packets be in time (NetEq's relative
delay does the same with a histogram). Because the window slides, a client whose clock runs fast or
slow only moves the base, as does another route: the skew needs no estimate.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import Final

WINDOW: Final = 1.0  # seconds; what a burst did to the delay is forgotten after it
QUANTILE: Final = 0.95
MAX_ARRIVALS: Final = 128
STALL: Final = 0.020  # seconds beyond the spread; when such a packet is forgotten, it falls
MEASURE_EVERY: Final = 8  # packets, when nothing unusual comes: sorting them takes 3 us


class Arrivals:
    """The transits of the last ``WINDOW`` seconds, at most ``MAX_ARRIVALS``."""

    def __init__(self) -> None:
        self.base = 0.0
        """The least transit, in seconds; 0 before the first arrival."""
        self.spread = 0.0
        """By how many seconds more than ``base`` all but the slowest few took."""
        self._transits: deque[tuple[float, float]] = deque(maxlen=MAX_ARRIVALS)
        self._unmeasured = 0

    def note(self, transit: float, now: float) -> None:
        """Take one packet's transit."""
        transits = self._transits
        transits.append((now, transit))
        usual = 0.0 <= transit - self.base <= self.spread
        while transits[0][0] < now - WINDOW:
            _, past = transits.popleft()
            usual = usual and past - self.base <= self.spread + STALL
        self._unmeasured += 1
        if not usual or self._unmeasured >= MEASURE_EVERY:
            self._measure()

    def forget(self) -> None:
        """The stream started anew: what was seen says nothing any more."""
        self._transits.clear()
        self._unmeasured = MEASURE_EVERY

    def _measure(self) -> None:
        ordered = sorted([transit for _, transit in self._transits])
        self.base = ordered[0]
        self.spread = ordered[ceil(QUANTILE * len(ordered)) - 1] - ordered[0]
        self._unmeasured = 0
