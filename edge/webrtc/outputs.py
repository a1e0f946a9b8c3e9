"""What the machines of this package hand back: one closed set of frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.errors import EndReason
from edge.wire.spp import Path


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this datagram to the client on this path."""

    path: Path = field(repr=False)
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PathSelected:
    """Media goes to this path from now on (first selection, or the client moved)."""

    path: Path = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connected:
    """DTLS is done and SRTP keys are in place: media may flow both ways."""


@dataclass(frozen=True, slots=True)
class AudioReceived:
    """One RTP packet of the negotiated audio stream.

    ``timestamp`` counts in units of the codec's clock; ``sequence`` is the extended
    (roll-over counted) sequence number.
    """

    payload: bytes = field(repr=False)
    sequence: int
    timestamp: int
    marker: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer is over; nothing but the outputs beside this one will come."""

    reason: EndReason


PeerOutput = Transmit | PathSelected | Connected | AudioReceived | Ended
