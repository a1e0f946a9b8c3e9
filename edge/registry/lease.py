"""A process's lease: for how long others must take it for alive. No I/O.

A record in the registry counts for ``seconds`` from the moment it was written, and we count from
the earlier moment at which we asked for that: so we never believe in a lease longer than others do.
Who looks at the registry every ``LOOK_SECONDS`` knows of a death within ``DETECTION_SECONDS``.

Who was taken for dead and is not asks whose its sessions are before it says so: relays send to it
again as soon as they know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

LEASE_SECONDS: Final = 0.5
RENEW_SECONDS: Final = 0.125
"""A quarter of a lease: three renewals may be lost or late."""
LOOK_SECONDS: Final = 0.2
RELAY_LEASE_SECONDS: Final = 3.0
"""A relay's: nobody takes its place, and one that is missed costs its clients' datagrams."""
RELAY_RENEW_SECONDS: Final = 0.5
DETECTION_SECONDS: Final = 0.75
"""The budget of DESIGN 7 for a death to be noticed: a lease and a look, and some to spare."""


class Lease:
    """Times are monotonic seconds of the process; ``deadline`` is when to renew next."""

    def __init__(
        self, *, now: float, seconds: float = LEASE_SECONDS, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self.until = -inf
        """Nobody may take us for dead before."""
        self.since = inf
        """From when on it has been unbroken; ``math.inf`` before the first renewal."""
        self.breaks = 0
        """How often it had lapsed when it was renewed."""
        self.returning: Callable[[], Awaitable[None]] | None = None
        """Done before a broken lease is renewed; RegistryUnavailable puts that off."""
        self._seconds = seconds
        self._renew_seconds = renew_seconds
        self._next = now
        self._asked: float | None = None

    @property
    def deadline(self) -> float:
        """When ``ask`` is due; ``math.inf`` while an answer is waited for."""
        return self._next if self._asked is None else inf

    def ask(self, *, now: float) -> None:
        """Note that the record is being written."""
        self._asked = now
        self._next = now + self._renew_seconds

    def answer(self, *, renewed: bool, now: float) -> None:
        """Note whether it was; a failure is tried again at once, at the usual pace."""
        asked, self._asked = self._asked, None
        self._next = max(self._next, now)
        if renewed and asked is not None:
            if self.lapsed(now=asked):
                self.breaks += self.since != inf
                self.since = asked
            self.until = max(self.until, asked + self._seconds)

    def is_broken(self, *, now: float) -> bool:
        """Whether we had it, and others may have taken us for dead since."""
        return self.since != inf and self.lapsed(now=now)

    def lapsed(self, *, now: float) -> bool:
        """Whether others may have taken us for dead."""
        return now >= self.until
