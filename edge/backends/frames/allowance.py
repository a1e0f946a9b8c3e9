"""How far a backend may speak ahead: its window, so many milliseconds in total since ``open``.

It is what was spoken and is not queued any more, played or flushed, and ``seconds``; it is due to
be widened when half of it is used up.
"""

from __future__ import annotations

import trio


class Allowance:
    """The window of one session's backend; counts samples at ``rate``."""

    def __init__(self, *, rate: int, seconds: float) -> None:
        self.due = trio.Event()
        """Set when half of it is used up."""
        self.spoken = 0
        """Samples since ``open``."""
        self._rate = rate
        self._ahead = round(seconds * rate)
        self._granted = 0

    @property
    def half(self) -> float:
        """Seconds that may be queued when it is widened."""
        return self._ahead / 2 / self._rate

    def begin(self, *, queued: float) -> int:
        """Start with an ``open``, of which this is the window; ``queued`` seconds still wait."""
        self.due, self.spoken = trio.Event(), 0
        self._granted = max(self._ahead - round(queued * self._rate), 0)
        return self._milliseconds()

    def spend(self, samples: int) -> bool:
        """Count what the backend said; False when it was more than it might."""
        self.spoken += samples
        if self._granted - self.spoken < self._ahead // 2:
            self.due.set()
        return self.spoken <= self._granted

    def widen(self, *, queued: float) -> int:
        """Return the next window."""
        self.due = trio.Event()
        ahead = self.spoken - round(queued * self._rate) + self._ahead
        self._granted = max(ahead, self._granted)
        return self._milliseconds()

    def _milliseconds(self) -> int:
        return self._granted * 1000 // self._rate
