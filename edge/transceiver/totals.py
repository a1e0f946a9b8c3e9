"""What a transceiver's sessions did in all, those that have ended included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from edge.errors import Drop, EndReason
from edge.transceiver.client_channels import ChannelCounts
from edge.transceiver.losses import Losses, LossTally
from edge.transceiver.roster import Roster
from edge.transceiver.session import Session
from edge.webrtc.nack import Repair


class Totals:
    """Since the start of the process; none of them ever falls but ``longest_delay``."""

    def __init__(self, roster: Roster) -> None:
        self.opened = 0
        self.ended: Counter[EndReason] = Counter()
        self.dropped: Counter[Drop] = Counter()
        """By the transceiver itself, and by sessions that have ended."""
        self._roster = roster
        self._losses = LossTally()
        self._repairs: Counter[Repair] = Counter()
        self._channels = ChannelCounts()

    def end(self, session: Session) -> None:
        """Keep what a session has counted, which is about to be forgotten."""
        self.dropped.update(session.drops())
        self._losses.end(session.quality())
        self._repairs.update(session.peer.media.repairs)
        self._channels.add(session.channels.counts)
        self.ended[session.reason or EndReason.INTERNAL_ERROR] += 1

    def drops(self) -> Counter[Drop]:
        """What the transceiver and its sessions discarded, by cause."""
        return sum((session.drops() for session in self._running()), self.dropped.copy())

    def losses(self) -> Losses:
        """What clients said and was not heard."""
        return self._losses.read(session.quality() for session in self._running())

    def repairs(self) -> Counter[Repair]:
        """What was asked for again and sent again."""
        running = (session.peer.media.repairs for session in self._running())
        return sum(running, self._repairs.copy())

    def channels(self) -> ChannelCounts:
        """What went over clients' data channels."""
        counts = ChannelCounts()
        counts.add(self._channels)
        for session in self._running():
            counts.add(session.channels.counts)
        return counts

    def longest_delay(self) -> tuple[float, float]:
        """Of the session whose jitter buffer holds back the most: that and its target, seconds."""
        return max((session.delays() for session in self._running()), default=(0.0, 0.0))

    def _running(self) -> Iterable[Session]:
        return self._roster.by_call.values()
