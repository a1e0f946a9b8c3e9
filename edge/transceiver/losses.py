"""What all clients of a process said and was not heard, sessions that are over included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.backends.protocol import CallQuality


@dataclass(frozen=True, slots=True)
class Losses:
    """Since the start of the process."""

    packets: int = 0
    """That never came."""
    concealed_seconds: float = 0.0
    """That were made up in their place."""
    recovered_red: int = 0
    """Packets that never came, whose audio came as a redundant copy."""
    recovered_fec: int = 0
    """The same, out of the FEC in the packet behind."""

    def plus(self, quality: CallQuality) -> Losses:
        """Add what one session has lost."""
        packets = self.packets + max(quality.lost, 0)  # negative where some came twice
        return Losses(
            packets,
            self.concealed_seconds + quality.concealed,
            self.recovered_red + quality.recovered_red,
            self.recovered_fec + quality.recovered_fec,
        )


class LossTally:
    """Adds sessions up; what it says never falls, though a late packet is lost no more."""

    def __init__(self) -> None:
        self._ended = Losses()
        self._told = Losses()

    def end(self, quality: CallQuality) -> None:
        """Take the last words of a session."""
        self._ended = self._ended.plus(quality)

    def read(self, running: Iterable[CallQuality]) -> Losses:
        """Add the sessions that run to those that have ended."""
        now = self._ended
        for quality in running:
            now = now.plus(quality)
        self._told = Losses(
            max(now.packets, self._told.packets),
            max(now.concealed_seconds, self._told.concealed_seconds),
            max(now.recovered_red, self._told.recovered_red),
            max(now.recovered_fec, self._told.recovered_fec),
        )
        return self._told
