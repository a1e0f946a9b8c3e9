"""Round trips of a setup, counted by what answers what rather than by a clock.

On a short way all is at once, and time does not tell a turn of the conversation from computing. So
each question is noted with the round trips that lay before it, and its answer counts one more. The
first check is sent at 0. What is asked in parallel counts once, and repetitions count nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(slots=True)
class SetupTrips:
    """Round trips from the first datagram to the end of each step; None for what has not been."""

    checked: int | None = None
    secured: int | None = None
    """DTLS is done, and audio may flow."""
    first_echo: int | None = None
    opened: int | None = None
    """The data channel, where there is one."""


class Question(Enum):
    """What waits for an answer of the server's."""

    CHECK = auto()
    HANDSHAKE = auto()
    """A flight of DTLS; the server's first one answers the check."""
    CHANNEL = auto()
    """Each state that SCTP, and then the channel, has to go through."""
    AUDIO = auto()


class Turns:
    """The count of one call."""

    def __init__(self) -> None:
        self.count = 0
        self._asked = dict.fromkeys(Question, 0)

    def ask(self, question: Question) -> None:
        """Note that it was sent now."""
        self._asked[question] = self.count

    def answered(self, question: Question) -> int:
        """Note that it was answered; gives the round trips from the first datagram to this."""
        trips = self._asked[question] + 1
        self.count = max(self.count, trips)
        return trips
