"""How much may be in flight, and how long to wait for an answer (RFC 9260, sections 6.3 and 7).

Two numbers differ from the RFC, for conversations: the first window is 10 packets (as RFC 6928
has it for TCP), and the retransmission timeout lies between 0.25 and 3 s instead of 1 and 60 s. It
is at least 220 ms above the round trip: a peer may sit on an acknowledgement for 200 ms.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.webrtc.sctp_outputs import MAX_PACKET

INITIAL_WINDOW: Final = 10 * MAX_PACKET  # bytes
MIN_WINDOW: Final = 4 * MAX_PACKET  # after a loss; RFC 9260, 7.2.3
MAX_WINDOW: Final = 1_000_000  # bytes
RTO_INITIAL: Final = 0.5  # seconds
RTO_MIN: Final = 0.25
RTO_MAX: Final = 3.0
ACK_DELAY: Final = 0.22
"""Seconds that an acknowledgement may take besides the round trip."""


class CongestionControl(msgspec.Struct):
    """The congestion window in bytes; its plain fields are its snapshot."""

    window: int = INITIAL_WINDOW
    threshold: int = MAX_WINDOW
    partial: int = 0
    recovery_until: int | None = None
    """The TSN whose acknowledgement ends fast recovery."""

    def acknowledged(self, size: int, cumulative: int, *, full: bool) -> None:
        """The cumulative TSN has advanced by ``size`` bytes; ``full``: the window was used up."""
        if self.recovery_until is not None:
            if cumulative < self.recovery_until:
                return
            self.recovery_until = None
        if not full:
            return
        if self.window <= self.threshold:
            self.window = min(MAX_WINDOW, self.window + min(size, MAX_PACKET))
            return
        self.partial += size
        if self.partial >= self.window:
            self.partial -= self.window
            self.window = min(MAX_WINDOW, self.window + MAX_PACKET)

    def lost(self, until: int) -> None:
        """Chunks were reported missing; ``until`` is the highest TSN in flight."""
        if self.recovery_until is None:
            self.threshold = self.window = max(self.window // 2, MIN_WINDOW)
            self.partial, self.recovery_until = 0, until

    def timed_out(self) -> None:
        """The retransmission timer has expired."""
        self.threshold = max(self.window // 2, MIN_WINDOW)
        self.window = MAX_PACKET
        self.partial, self.recovery_until = 0, None


class RoundTrip(msgspec.Struct):
    """The retransmission timeout in seconds; its plain fields are its snapshot."""

    timeout: float = RTO_INITIAL
    smoothed: float | None = None
    variation: float = 0.0

    def measured(self, seconds: float) -> None:
        """Note one round trip of a chunk that was sent once (RFC 9260, 6.3.1)."""
        seconds = max(seconds, 0.0)
        if self.smoothed is None:
            self.smoothed, self.variation = seconds, seconds / 2
        else:
            self.variation += (abs(self.smoothed - seconds) - self.variation) / 4
            self.smoothed += (seconds - self.smoothed) / 8
        timeout = self.smoothed + max(4 * self.variation, ACK_DELAY)
        self.timeout = min(max(timeout, RTO_MIN), RTO_MAX)

    def back_off(self) -> None:
        """Wait twice as long next time."""
        self.timeout = min(2 * self.timeout, RTO_MAX)
