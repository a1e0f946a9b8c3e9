"""What ``Channels`` hands back, and how one channel is written down."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    SctpEnd,
    SctpEstablished,
    SctpRestarted,
    SctpTransmit,
)
from edge.webrtc.sctp_state import AssociationSnapshot
from edge.wire.dcep import ChannelOpen


class ChannelState(StrEnum):
    """Where a channel stands."""

    CONNECTING = "connecting"
    """We have opened it, the peer has not answered; sending is allowed."""
    OPEN = "open"
    CLOSING = "closing"
    """One side has reset its stream or will."""


class ChannelEnd(StrEnum):
    """Why a channel is closed."""

    LOCAL = "local"
    """We closed it."""
    REMOTE = "remote"
    """The peer closed it."""
    TOO_LONG = "too_long"
    """The peer sent a message beyond our limit."""
    ASSOCIATION = "association"
    """The association under it is over."""


class Channel(msgspec.Struct):
    """One data channel."""

    id: int
    settings: ChannelOpen
    state: ChannelState
    negotiated: bool = False
    announced: bool = False
    """Whether a ``ChannelOpened`` told of it."""
    ended: bool = False
    """Whether a ``ChannelClosed`` told of it."""
    incoming_reset: bool = False
    outgoing_reset: bool = False


class ChannelOpened(msgspec.Struct, frozen=True):
    """A channel is open both ways; ``remote``: the peer has opened it."""

    channel: int
    settings: ChannelOpen
    remote: bool


class ChannelMessage(msgspec.Struct, frozen=True, gc=False):
    """A whole message: text as ``str``, binary as ``bytes``."""

    channel: int
    data: str | bytes

    def __repr__(self) -> str:
        return f"ChannelMessage(channel={self.channel}, {len(self.data)} long)"


class ChannelDrained(msgspec.Struct, frozen=True):
    """The outbox, which was full when something was sent here, is half empty."""

    channel: int


class ChannelClosed(msgspec.Struct, frozen=True):
    """Nothing more comes from this channel, and nothing can be sent."""

    channel: int
    reason: ChannelEnd


class AssociationFailed(msgspec.Struct, frozen=True):
    """SCTP is over, by agreement or not; every channel was closed before."""

    reason: SctpEnd


ChannelOutput = (
    SctpTransmit
    | SctpEstablished
    | SctpRestarted
    | CheckpointWanted
    | ChannelOpened
    | ChannelMessage
    | ChannelDrained
    | ChannelClosed
    | AssociationFailed
)


class ChannelsSnapshot(msgspec.Struct, frozen=True):
    """All channels and their association written down."""

    association: AssociationSnapshot
    channels: tuple[Channel, ...]
    dtls_client: bool
    remote_max_message_size: int
    max_channels: int
    starved: tuple[int, ...]
