"""A session's one timer, on the pacer's wheel: to move it costs no system call and no task.

A task that sleeps costs 30 to 90 us a wake and as much to start and to cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from edge.audio.pacer import TICK, Pacer


class Alarm:
    """Calls ``ring`` with the time at the first tick that is not before the time set.

    ``ring`` must not raise; it returns when it wants to be called next.
    """

    def __init__(self, pacer: Pacer, ring: Callable[[float], float]) -> None:
        self._pacer = pacer
        self._ring: Callable[[float], float] | None = ring
        self._at = inf

    def set(self, at: float) -> None:
        """Ring at this time as well; it is never put off, as ``ring`` may find nothing to do."""
        if at < self._at and self._ring is not None:
            self._at = at
            self._pacer.schedule(self, at)

    def close(self) -> None:
        """Ring no more, and hold on to nothing: the wheel has us until the tick comes."""
        self._ring = None

    def emit(self, now: float) -> float:
        """Ring, if that is still wanted now; for the pacer."""
        if self._ring is None or now + TICK / 2 < self._at:
            return inf  # there is a later place on the wheel
        self._at = inf
        due = self._ring(now)
        if due >= self._at:
            return inf  # it was set while it rang
        self._at = due
        return due
