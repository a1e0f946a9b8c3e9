"""How much of what a session would send may leave, as its claim and its checkpoint allow."""

from __future__ import annotations

from enum import Enum
from typing import Final, Protocol

from edge.errors import EndReason

SILENT_ENDS: Final = frozenset({EndReason.MOVED, EndReason.FENCED})
"""The session goes on elsewhere: no BYE, no close_notify, no ABORT and no event leaves here."""


class Voice(Enum):
    """``allows`` is asked for what is not ``FULL``, which is most of a session's life."""

    FULL = "full"
    CHECKS = "checks"
    """Answers to checks alone, which use up no number: an heir that has stored nothing yet."""
    NONE = "none"
    """Nothing: it may be another's, or has been handed over."""

    def allows(self, datagram: bytes) -> bool:
        """Whether this may leave."""
        return self is Voice.FULL or (self is Voice.CHECKS and datagram[:1] < b"\x04")


class Custodian(Protocol):
    """Who writes a session down, so that another process could go on with it."""

    def connected(self) -> None:
        """There is something to write down from now on."""

    def changed(self, *, at_once: bool = False) -> None:
        """Something matters that was not written yet; ``at_once``: somebody waits for it."""
