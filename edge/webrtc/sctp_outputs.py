"""What an SCTP association hands back, and small things that its parts share.

Inside, transmission and stream sequence numbers are plain integers that never wrap; only on the
wire are they cut to 32 and 16 bits (RFC 9260, section 1.6).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from edge.errors import LocalProtocolError

WORD: Final = 0xFFFFFFFF
HALF: Final = 0xFFFF

MAX_PACKET: Final = 1152
"""Bytes of an SCTP packet. With DTLS (37), SPP (38), UDP and IPv6 (48) around it 1,275 <= 1,280."""
MAX_CHUNK: Final = 1120
"""Bytes of a DATA chunk: a SACK without gaps fits beside it."""


def unwrap32(number: int, near: int) -> int:
    """The integer with these low 32 bits that is nearest to ``near``."""
    return near + ((number - near + 0x80000000) & WORD) - 0x80000000


def unwrap16(number: int, near: int) -> int:
    """The integer with these low 16 bits that is nearest to ``near``."""
    return near + ((number - near + 0x8000) & HALF) - 0x8000


class SctpEnd(StrEnum):
    """Why an association is over."""

    SHUTDOWN = "shutdown"
    """Both sides agreed."""
    ABORTED = "aborted"
    """The peer aborted it."""
    CLOSED = "closed"
    """We aborted it."""
    UNANSWERED = "unanswered"
    """The peer did not answer, however often we asked."""
    EXHAUSTED = "exhausted"
    """The peer filled our buffers in a way that no honest sender does."""


class OutboxFull(LocalProtocolError):
    """The bounded queue of unsent messages has no room; try again after a ``Drained``."""


class SctpTransmit(msgspec.Struct, frozen=True, gc=False):
    """Send this packet to the peer as one DTLS record."""

    data: bytes

    def __repr__(self) -> str:
        return f"SctpTransmit({len(self.data)} bytes)"


class SctpEstablished(msgspec.Struct, frozen=True):
    """The association is up."""


class SctpRestarted(msgspec.Struct, frozen=True):
    """The peer began anew: what was queued or in flight is lost, sequence numbers start again."""


class SctpMessage(msgspec.Struct, frozen=True, gc=False):
    """One whole message of the peer."""

    stream: int
    ppid: int
    data: bytes

    def __repr__(self) -> str:
        return f"SctpMessage(stream={self.stream}, {len(self.data)} bytes)"


class SctpTooLong(msgspec.Struct, frozen=True):
    """A message of the peer exceeds our limit; nothing of this stream comes until its reset."""

    stream: int


class StreamsReset(msgspec.Struct, frozen=True):
    """These streams begin anew: the peer's (``incoming``) or ours; no streams: all of them."""

    streams: tuple[int, ...]
    incoming: bool


class CheckpointWanted(msgspec.Struct, frozen=True):
    """An acknowledgement waits until a snapshot is stored; see ``Association.stored``."""


class SctpClosed(msgspec.Struct, frozen=True):
    """The association is over; every later input returns nothing."""

    reason: SctpEnd


SctpOutput = (
    SctpTransmit
    | SctpEstablished
    | SctpRestarted
    | SctpMessage
    | SctpTooLong
    | StreamsReset
    | CheckpointWanted
    | SctpClosed
)
