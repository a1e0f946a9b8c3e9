"""Data channels over an SCTP association: opened by DCEP, closed by stream resets (RFC 8831, 8832).

A channel is a pair of streams with one number: even where the DTLS client opened it, odd where the
server did, any that both sides agreed on beforehand. Until the peer has answered an OPEN, messages
go ordered, so that none overtakes it (RFC 8832, section 6). Either side closes a channel by a reset
of its stream; the other answers with its own, and then the number is free again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

import msgspec

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.channel_outputs import (
    AssociationFailed,
    Channel,
    ChannelClosed,
    ChannelDrained,
    ChannelEnd,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
    ChannelsSnapshot,
    ChannelState,
)
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_handshake import Entropy
from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    OutboxFull,
    SctpClosed,
    SctpEstablished,
    SctpMessage,
    SctpOutput,
    SctpRestarted,
    SctpTooLong,
    SctpTransmit,
    StreamsReset,
)
from edge.webrtc.sctp_state import SctpConfig
from edge.wire.dcep import (
    PPID_DCEP,
    ChannelAck,
    ChannelOpen,
    decode_dcep,
    decode_user_data,
    encode_dcep,
    encode_user_data,
)

MAX_CHANNELS: Final = 64
DEFAULT_REMOTE_LIMIT: Final = 65_536  # bytes, where SDP names none; RFC 8841, 6.1


class Channels:
    """Every data channel of one peer. After ``AssociationFailed`` inputs return nothing."""

    def __init__(
        self,
        association: Association,
        *,
        dtls_client: bool,
        remote_max_message_size: int = DEFAULT_REMOTE_LIMIT,
        max_channels: int = MAX_CHANNELS,
    ) -> None:
        self.association = association
        self._dtls_client = dtls_client
        self._remote_limit = remote_max_message_size
        self._max_channels = max_channels
        self._channels: dict[int, Channel] = {}
        self._starved: set[int] = set()
        self._drops: Counter[Drop] = Counter()

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

    def close(self) -> list[ChannelOutput]:
        """End the association at once. Not for an owner whose heir goes on."""
        return self._follow(self.association.abort(), 0.0)

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

    # What the association hands back.

    def _follow(self, outputs: Sequence[SctpOutput], now: float) -> list[ChannelOutput]:
        followed: list[ChannelOutput] = []
        for output in outputs:
            match output:
                case SctpTransmit() | CheckpointWanted():
                    followed.append(output)
                case SctpRestarted():
                    followed.append(output)
                    followed += self._begin_again(now)
                case SctpMessage():
                    followed += self._take_message(output, now)
                case SctpEstablished():
                    followed.append(output)
                    followed += self._begin(now)
                case SctpTooLong(stream):
                    self._drops[Drop.TOO_LONG] += 1
                    followed += self._end(self._channels.get(stream), ChannelEnd.TOO_LONG, now)
                case StreamsReset(streams, incoming):
                    followed += self._take_reset(streams or tuple(self._channels), incoming, now)
                case SctpClosed(reason):
                    followed += self._fail()
                    followed.append(AssociationFailed(reason))
                case _:
                    assert_never(output)
        return followed + self._feed() if self._starved else followed

    def _take_message(self, message: SctpMessage, now: float) -> list[ChannelOutput]:
        try:
            if message.ppid == PPID_DCEP:
                return self._take_dcep(message, now)
            data = decode_user_data(message.ppid, message.data)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
            return []
        channel = self._channels.get(message.stream)
        if channel is None or channel.ended:
            self._drops[Drop.UNKNOWN_CHANNEL] += 1
            return []
        outputs = self._announce(channel)  # what comes before an ACK is as good as one
        outputs.append(ChannelMessage(message.stream, data))
        return outputs

    def _take_dcep(self, message: SctpMessage, now: float) -> list[ChannelOutput]:
        number = message.stream
        channel = self._channels.get(number)
        try:
            settings = decode_dcep(message.data)
            if isinstance(settings, ChannelAck):
                return self._announce(channel) if channel is not None else []
            self._check_number(number)
        except RemoteProtocolError as error:
            self._drops[error.drop] += 1
            return self._reset([number], now) if channel is None else []
        self._channels[number] = Channel(number, settings, ChannelState.OPEN, announced=True)
        outputs: list[ChannelOutput] = [ChannelOpened(number, settings, remote=True)]
        return outputs + self._send_dcep(number, encode_dcep(ChannelAck()), now)

    def _check_number(self, number: int) -> None:
        """RFC 8832, section 6: the opener's DTLS role decides whether it is even or odd."""
        if number in self._channels or number % 2 != self._dtls_client:
            raise RemoteProtocolError("a channel under a number that is not the peer's")
        if not self.association.can_send(number):
            raise RemoteProtocolError("a channel under a number that is still closing")
        if len(self._channels) >= self._max_channels:
            raise RemoteProtocolError("too many channels", Drop.TABLE_FULL)

    def _take_reset(
        self, streams: Iterable[int], incoming: bool, now: float
    ) -> list[ChannelOutput]:
        outputs: list[ChannelOutput] = []
        for number in streams:
            channel = self._channels.get(number)
            if channel is None:
                continue
            if incoming:
                channel.incoming_reset = True
                outputs += self._end(channel, ChannelEnd.REMOTE, now)
            else:
                channel.outgoing_reset = True
                outputs += self._end(channel, ChannelEnd.LOCAL, now)
            if channel.incoming_reset and channel.outgoing_reset:
                self._channels.pop(number, None)
        return outputs

    # Helpers.

    def _begin(self, now: float) -> list[ChannelOutput]:
        """The association is up: tell of negotiated channels, close what was closed before."""
        outputs: list[ChannelOutput] = []
        for channel in list(self._channels.values()):
            if channel.negotiated:
                outputs += self._announce(channel)
        closing = [
            each.id for each in self._channels.values() if each.state is ChannelState.CLOSING
        ]
        return outputs + (self._reset(closing, now) if closing else [])

    def _begin_again(self, now: float) -> list[ChannelOutput]:
        """The peer has restarted the association: open channels stay, the rest is done again."""
        outputs: list[ChannelOutput] = []
        for channel in list(self._channels.values()):
            if channel.state is ChannelState.CLOSING or not self.association.can_send(channel.id):
                channel.state = ChannelState.CLOSING
                outputs += self._end(self._channels.pop(channel.id), ChannelEnd.LOCAL, now)
            elif channel.state is ChannelState.CONNECTING and not channel.negotiated:
                outputs += self._send_dcep(channel.id, encode_dcep(channel.settings), now)
        return outputs

    def _announce(self, channel: Channel) -> list[ChannelOutput]:
        if channel.announced or channel.state is not ChannelState.CONNECTING:
            return []
        channel.announced, channel.state = True, ChannelState.OPEN
        return [ChannelOpened(channel.id, channel.settings, remote=False)]

    def _end(self, channel: Channel | None, reason: ChannelEnd, now: float) -> list[ChannelOutput]:
        """Tell that a channel is over, once, and see to it that our side is reset as well."""
        if channel is None:
            return []
        outputs: list[ChannelOutput] = []
        if not channel.ended:
            channel.ended = True
            closing = channel.state is ChannelState.CLOSING  # we were first
            outputs.append(ChannelClosed(channel.id, ChannelEnd.LOCAL if closing else reason))
        self._starved.discard(channel.id)
        if channel.state is not ChannelState.CLOSING:
            channel.state = ChannelState.CLOSING
            outputs += self._reset([channel.id], now)
        return outputs

    def _reset(self, streams: list[int], now: float) -> list[ChannelOutput]:
        if self.association.remote is None:
            return []  # it comes with ``_begin``
        if self.association.can_reset:
            return self._follow(self.association.reset_streams(streams, now=now), now)
        outputs: list[ChannelOutput] = []
        for number in streams:
            outputs += self._end(self._channels.pop(number, None), ChannelEnd.LOCAL, now)
        return outputs

    def _send_dcep(self, number: int, message: bytes, now: float) -> list[ChannelOutput]:
        sent = self.association.send(number, PPID_DCEP, message, now=now, urgent=True)
        return self._follow(sent, now)

    def _free_number(self) -> int:
        first = 0 if self._dtls_client else 1
        for number in range(first, min(2 * self._max_channels, self.association.streams), 2):
            if number not in self._channels and self.association.can_send(number):
                return number
        raise LocalProtocolError("too many channels")

    def _feed(self) -> list[ChannelOutput]:
        if self.association.outbox_bytes > self.association.config.outbox / 2:
            return []
        starved, self._starved = sorted(self._starved), set()
        return [ChannelDrained(number) for number in starved]

    def _fail(self) -> list[ChannelOutput]:
        channels, self._channels, self._starved = self._channels, {}, set()
        return [
            ChannelClosed(number, ChannelEnd.ASSOCIATION)
            for number, channel in channels.items()
            if not channel.ended
        ]
