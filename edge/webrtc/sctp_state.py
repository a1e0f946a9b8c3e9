"""The states of an association, its limits, and the value it is written down as."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from edge.webrtc.sctp_handshake import HandshakeSnapshot, Remote
from edge.webrtc.sctp_receiver import ReceiverSnapshot
from edge.webrtc.sctp_resets import ResetsSnapshot
from edge.webrtc.sctp_sender_snapshot import SenderSnapshot
from edge.webrtc.sctp_shutdown import ShutdownSnapshot
from edge.wire.sctp_parameters import ResetResponse


class SctpState(StrEnum):
    """RFC 9260, section 4."""

    CLOSED = "closed"
    COOKIE_WAIT = "cookie-wait"
    COOKIE_ECHOED = "cookie-echoed"
    ESTABLISHED = "established"
    SHUTDOWN_PENDING = "shutdown-pending"
    SHUTDOWN_SENT = "shutdown-sent"
    SHUTDOWN_RECEIVED = "shutdown-received"
    SHUTDOWN_ACK_SENT = "shutdown-ack-sent"
    ENDED = "ended"


OPENING: Final = frozenset({SctpState.CLOSED, SctpState.COOKIE_WAIT, SctpState.COOKIE_ECHOED})
SENDING: Final = frozenset(
    {SctpState.ESTABLISHED, SctpState.SHUTDOWN_PENDING, SctpState.SHUTDOWN_RECEIVED}
)
RECEIVING: Final = frozenset(
    {SctpState.ESTABLISHED, SctpState.SHUTDOWN_PENDING, SctpState.SHUTDOWN_SENT}
)


class SctpConfig(msgspec.Struct, frozen=True):
    """Limits and options; sizes in bytes."""

    port: int = 5000
    remote_port: int = 5000
    max_message_size: int = 65_536
    """Of the peer's messages; longer ones are dropped by name."""
    window: int = 262_144
    """What may wait to be delivered."""
    outbox: int = 1_048_576
    """What may wait to be sent."""
    zero_checksum: bool = True
    """Offer to do without checksums, which DTLS makes superfluous (RFC 9653)."""
    hold_acks: bool = False
    """Acknowledge only what is in a stored snapshot."""
    hold_messages: bool = False
    """Send a reliable message when it is in a stored snapshot; needs a ``reserve``."""
    reserve: int = 0
    """TSNs that may be used beyond a stored snapshot, which an heir skips; 0: no limit."""


class AssociationSnapshot(msgspec.Struct, frozen=True):
    """An association written down; times are relative to the moment of writing, maybe infinite."""

    serial: int
    state: SctpState
    remote: Remote | None
    handshake: HandshakeSnapshot
    sender: SenderSnapshot
    receiver: ReceiverSnapshot | None
    resets: ResetsSnapshot | None
    shutdown: ShutdownSnapshot
    held: tuple[ResetResponse, ...]
    waits: bool = False
    """Whether something would leave but for a pause."""
