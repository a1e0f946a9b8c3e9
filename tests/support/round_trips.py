"""Round trips until something happens, counted from a capture at a client.

On loopback all is at once, and turns of a conversation can not be told from what merely crosses.
So the proxy holds every datagram for half of ``ROUND_TRIP_SECONDS``, which is long beside all
computing: the time since the client's first datagram then counts the round trips, those that a
timer costs included.
"""

from __future__ import annotations

import time
from typing import Final

from edge.wire.demux import Kind, classify
from tests.support.lossy import Direction, LossyProxy

ROUND_TRIP_SECONDS: Final = 0.2


class RoundTrips:
    """Watches what one client sends and gets through a proxy."""

    def __init__(self, proxy: LossyProxy) -> None:
        self._began: float | None = None
        self._media: float | None = None
        proxy.loses = self._note
        proxy.delays = lambda direction, now: ROUND_TRIP_SECONDS / 2

    @property
    def to_media(self) -> float:
        """Round trips until the first RTP packet leaves the client or reaches it."""
        assert self._media is not None, "no media yet"
        return self.until(self._media)

    def until(self, unix: float) -> float:
        """Round trips until a time of the wall clock, by which processes can compare."""
        assert self._began is not None, "no datagram yet"
        return (unix - self._began) / ROUND_TRIP_SECONDS

    def _note(self, direction: Direction, datagram: bytes) -> bool:
        """Look at a datagram before the proxy holds it; nothing is lost."""
        now = time.time()
        if direction == "up" and self._began is None:
            self._began = now
        if self._media is None and classify(datagram) is Kind.RTP:
            self._media = now if direction == "up" else now + ROUND_TRIP_SECONDS / 2
        return False
