"""How long a session may take to connect, last and be silent: a value that is asked, no task."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from edge.errors import EndReason

IDLE_CHECKS: Final = 8
"""How often in its limit a session looks whether anybody has spoken."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How long a session may take to connect, may last and may be silent; its playout bound.

    All in seconds.
    """

    setup_seconds: float
    session_seconds: float
    idle_seconds: float
    playout_seconds: float


class Leash:
    """What ends a session that goes on too long. Times are in seconds, on the service's clock."""

    def __init__(self, limits: SessionLimits) -> None:
        self.deadline = inf
        """When ``check`` has something to say."""
        self._limits = limits
        self._last = inf
        self._spoken = 0, 0
        self._since = inf

    def start(self, *, now: float) -> None:
        """Begin to wait for the client, unless it was quicker."""
        if self._last == inf:
            self.deadline = now + self._limits.setup_seconds

    def connect(self, *, now: float) -> None:
        """Note that the client is connected: from now on its time runs."""
        self._last = now + self._limits.session_seconds
        self._since = now
        self._look_again(now)

    def check(self, spoken: tuple[int, int], *, now: float) -> EndReason | None:
        """Return why the session must end, if it must; ``spoken`` counts what both sides say."""
        if now < self.deadline:
            return None
        if self._last == inf:
            return EndReason.NEVER_CONNECTED
        if now >= self._last:
            return EndReason.MAX_DURATION
        if spoken != self._spoken:
            self._spoken, self._since = spoken, now
        elif now - self._since >= self._limits.idle_seconds:
            return EndReason.IDLE
        self._look_again(now)
        return None

    def _look_again(self, now: float) -> None:
        self.deadline = min(self._last, now + self._limits.idle_seconds / IDLE_CHECKS)
