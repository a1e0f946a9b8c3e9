"""The sending half of an association as a value; see ``sctp_sender``."""

from __future__ import annotations

import msgspec

from edge.webrtc.sctp_congestion import CongestionControl, RoundTrip
from edge.webrtc.sctp_flight import Sent
from edge.webrtc.sctp_outbox import OutMessage


class SentSnapshot(msgspec.Struct, frozen=True, array_like=True):
    """A ``Sent``; ``message`` is an index, ``age`` in seconds."""

    tsn: int
    chunk: bytes
    size: int
    message: int
    age: float
    state: int
    transmissions: int
    missing: int


class SenderSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Sender``; times (also ``expires``) in seconds from the moment of writing."""

    next_tsn: int
    acked: int
    peer_window: int
    forward_tsn: bool
    messages: tuple[OutMessage, ...]
    sent: tuple[SentSnapshot, ...]
    queue: tuple[int, ...]
    ssns: dict[int, int]
    ssn_base: int
    jumped: dict[int, int]
    jump_end: int
    congestion: CongestionControl
    round_trip: RoundTrip
    deadline: float
    errors: int
    forward_due: bool
    free_packet: bool


def move_message(message: OutMessage, seconds: float) -> OutMessage:
    """A copy whose time is told by another clock, which shows so many seconds more."""
    return msgspec.structs.replace(message, expires=message.expires + seconds)


def write_sent(sent: Sent, message: int, now: float) -> SentSnapshot:
    """Write a chunk down; ``message`` is the index of its message."""
    return SentSnapshot(
        sent.tsn,
        sent.chunk,
        sent.size,
        message,
        now - sent.sent_at,
        sent.state,
        sent.transmissions,
        sent.missing,
    )


def read_sent(sent: SentSnapshot, message: OutMessage, now: float) -> Sent:
    """Read a chunk of this message."""
    return Sent(
        sent.tsn,
        sent.chunk,
        sent.size,
        message,
        now - sent.age,
        sent.state,
        sent.transmissions,
        sent.missing,
    )
