"""The repetition of SHUTDOWN or SHUTDOWN ACK until it is answered (RFC 9260, section 9.2)."""

from __future__ import annotations

import math
from typing import Final

import msgspec

from edge.webrtc.sctp_congestion import RTO_MAX

MAX_ATTEMPTS: Final = 8


class ShutdownSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``ShutdownTimer``; ``deadline`` in seconds from the moment of writing."""

    attempts: int
    deadline: float


class ShutdownTimer:
    """T2-shutdown."""

    def __init__(self) -> None:
        self.attempts = 0
        self.deadline = math.inf

    @property
    def failed(self) -> bool:
        """Whether the peer was told too often."""
        return self.attempts > MAX_ATTEMPTS

    def sent(self, timeout: float, *, now: float) -> None:
        """It was sent; each time without an answer the wait is twice as long."""
        self.deadline = now + min(timeout * 2**self.attempts, RTO_MAX)
        self.attempts += 1

    def snapshot(self, *, now: float) -> ShutdownSnapshot:
        """The whole state."""
        return ShutdownSnapshot(self.attempts, self.deadline - now)

    def load(self, snapshot: ShutdownSnapshot, *, now: float) -> None:
        """Take a snapshot's state."""
        self.attempts, self.deadline = snapshot.attempts, snapshot.deadline + now
