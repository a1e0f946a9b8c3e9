"""Data channels over an SCTP association: opened by DCEP, closed by stream resets (RFC 8831, 8832).

A channel is a pair of streams with one number: even where the DTLS client opened it, odd where the
server did, any that both sides agreed on beforehand. Until the peer has answered an OPEN, messages
go ordered, so that none overtakes it (RFC 8832, section 6). Either side closes a channel by a reset
of its stream; the other answers with its own, and then the number is free again.
"""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from edge.errors import Drop, LocalProtocolError
from edge.webrtc.channel_outputs import (
    Channel,
    ChannelOpened,
    ChannelOutput,
    ChannelsSnapshot,
    ChannelState,
)
from edge.webrtc.channels_incoming import IncomingChannels
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_handshake import Entropy
from edge.webrtc.sctp_outputs import OutboxFull
from edge.webrtc.sctp_state import SctpConfig
from edge.wire.dcep import ChannelOpen, encode_dcep, encode_user_data


class Channels(IncomingChannels):
    """Every data channel of one peer. After ``AssociationFailed`` inputs return nothing."""

    @property
    def deadline(self) -> float:
        """When ``tick`` wants to be called next."""
        return self.association.deadline

    @property
    def drops(self) -> Counter[Drop]:
        """What was dropped here and below, by name."""
        return self._drops + self.association.drops

    def buffered(self, channel: int) -> int:
        """Bytes that wait to be sent on a channel, 64 a message included."""
        return self.association.buffered(channel)

    # Inputs.

    def connect(self, *, now: float) -> list[ChannelOutput]:
        """Begin the SCTP handshake, once DTLS is up."""
        return self._follow(self.association.connect(now=now), now)

    def start_with(self, remote_init: bytes, *, now: float) -> list[ChannelOutput]:
        """Go without one, once DTLS is up; see ``Association.start_with``."""
        return self._follow(self.association.start_with(remote_init, now=now), now)

    def receive(self, packet: bytes, *, now: float) -> list[ChannelOutput]:
        """Take the content of one DTLS record; never raises for what it holds."""
        return self._follow(self.association.receive(packet, now=now), now)

    def tick(self, *, now: float) -> list[ChannelOutput]:
        """Do what is due at ``now``."""
        return self._follow(self.association.tick(now=now), now)

    def stored(self, serial: int, *, now: float) -> list[ChannelOutput]:
        """The snapshot whose association has this serial number is safe."""
        return self._follow(self.association.stored(serial, now=now), now)

    def unstored(self, *, now: float) -> list[ChannelOutput]:
        """No snapshot could be stored; see ``Association.unstored``."""
        return self._follow(self.association.unstored(now=now), now)

    def open(
        self, settings: ChannelOpen, *, now: float, negotiated: int | None = None
    ) -> tuple[int, list[ChannelOutput]]:
        """Open a channel: its number, which can be sent on at once, and what to do.

        ``ChannelOpened`` follows when the peer has answered, or when the association is up for a
        ``negotiated`` number. Raises LocalProtocolError where no number is free, or not this one.
        """
        number = self._free_number() if negotiated is None else negotiated
        if number in self._channels or not self.association.can_send(number):
            raise LocalProtocolError("no such channel number is free")
        message = encode_dcep(settings)
        channel = Channel(number, settings, ChannelState.CONNECTING, negotiated is not None)
        outputs: list[ChannelOutput] = []
        if negotiated is None:
            outputs += self._send_dcep(number, message, now)
        self._channels[number] = channel
        if negotiated is not None and self.association.remote is not None:
            outputs += self._announce(channel)
        return number, outputs

    def send(self, channel: int, data: str | bytes, *, now: float) -> list[ChannelOutput]:
        """Queue a message. Raises OutboxFull where the bound is reached: go on at ``Drained``.

        Raises LocalProtocolError for a channel that is not open, or a message that the peer does
        not take.
        """
        found = self._channels.get(channel)
        if found is None or found.state is ChannelState.CLOSING:
            raise LocalProtocolError("the channel is not open")
        ppid, payload = encode_user_data(data)
        if self._remote_limit and len(payload) > self._remote_limit:
            raise LocalProtocolError("the message is longer than the peer takes")
        settings = found.settings
        lifetime = math.inf if settings.lifetime is None else settings.lifetime / 1000
        try:
            outputs = self.association.send(
                channel,
                ppid,
                payload,
                now=now,
                unordered=not settings.ordered and found.state is ChannelState.OPEN,
                max_retransmits=settings.max_retransmits,
                lifetime=lifetime,
            )
        except OutboxFull:
            self._starved.add(channel)
            raise
        return self._follow(outputs, now)

    def close_channel(self, channel: int, *, now: float) -> list[ChannelOutput]:
        """Close a channel when what is queued on it was sent; nothing if it is closing already."""
        found = self._channels.get(channel)
        if found is None or found.state is ChannelState.CLOSING:
            return []
        found.state = ChannelState.CLOSING
        return self._reset([channel], now)

    def close(self, *, now: float) -> list[ChannelOutput]:
        """End the association at once. Not for an owner whose heir goes on."""
        return self._follow(self.association.abort(now=now), now)

    # Moving.

    def reopened(self) -> list[ChannelOpened]:
        """What was told of the channels that are open, once more: for an heir."""
        return [
            ChannelOpened(each.id, each.settings, remote=each.id % 2 == self._dtls_client)
            for each in self._channels.values()
            if each.state is ChannelState.OPEN and each.announced
        ]

    def snapshot(self, *, now: float) -> ChannelsSnapshot:
        """Write everything down; see ``Association.snapshot``."""
        return ChannelsSnapshot(
            association=self.association.snapshot(now=now),
            channels=tuple(msgspec.structs.replace(each) for each in self._channels.values()),
            dtls_client=self._dtls_client,
            remote_max_message_size=self._remote_limit,
            max_channels=self._max_channels,
            starved=tuple(self._starved),
        )

    @classmethod
    def restore(
        cls,
        snapshot: ChannelsSnapshot,
        *,
        entropy: Entropy,
        config: SctpConfig,
        now: float,
        age: float = 0.0,
        skip: int = 0,
    ) -> Channels:
        """Go on from a snapshot; see ``Association.restore``."""
        channels = cls(
            Association.restore(
                snapshot.association, entropy=entropy, config=config, now=now, age=age, skip=skip
            ),
            dtls_client=snapshot.dtls_client,
            remote_max_message_size=snapshot.remote_max_message_size,
            max_channels=snapshot.max_channels,
        )
        channels._channels = {each.id: msgspec.structs.replace(each) for each in snapshot.channels}
        channels._starved = set(snapshot.starved)
        return channels

    # Helpers.

    def _free_number(self) -> int:
        first = 0 if self._dtls_client else 1
        for number in range(first, min(2 * self._max_channels, self.association.streams), 2):
            if number not in self._channels and self.association.can_send(number):
                return number
        raise LocalProtocolError("too many channels")
