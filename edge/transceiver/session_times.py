"""When what of a session happened."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf


@dataclass(slots=True)
class SessionTimes:
    """When a session's steps happened, on the service's clock; ``math.inf`` is not yet."""

    opened: float
    first_check: float = field(default=inf)
    connected: float = field(default=inf)
    first_audio: float = field(default=inf)

    def adopt(self, *, opened: float, connected: float) -> None:
        """Take over those of a session that another process has connected."""
        self.opened = opened
        self.first_check = self.connected = self.first_audio = connected
