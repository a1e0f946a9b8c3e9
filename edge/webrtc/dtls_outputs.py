"""What a DTLS machine is, and what it hands back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from edge.errors import EndReason
from edge.webrtc.keys import SrtpKeys


class DtlsState(Enum):
    """Where a machine is; it only ever moves down this list."""

    NEW = "new"
    HANDSHAKING = "handshaking"
    ESTABLISHED = "established"
    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DtlsTransmit:
    """Send this datagram to the peer."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DtlsEstablished:
    """The handshake is done and the peer is who the SDP says."""

    keys: SrtpKeys


@dataclass(frozen=True, slots=True)
class DtlsData:
    """Application data: one record's content."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DtlsClosed:
    """The peer sent close_notify."""


@dataclass(frozen=True, slots=True)
class DtlsFailed:
    """The association is over; ``detail`` is for a log line and names no secret."""

    reason: EndReason
    detail: str


DtlsOutput = DtlsTransmit | DtlsEstablished | DtlsData | DtlsClosed | DtlsFailed


def transmits(datagrams: Sequence[bytes]) -> list[DtlsOutput]:
    """One output each."""
    return [DtlsTransmit(datagram) for datagram in datagrams]
