"""What an association hands back for the channels on it (RFC 8831, 8832): see ``channels``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.channel_outputs import (
    AssociationFailed,
    Channel,
    ChannelClosed,
    ChannelDrained,
    ChannelEnd,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
    ChannelState,
)
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    SctpClosed,
    SctpEstablished,
    SctpMessage,
    SctpOutput,
    SctpRestarted,
    SctpTooLong,
    SctpTransmit,
    StreamsReset,
)
from edge.wire.dcep import (
    PPID_DCEP,
    ChannelAck,
    decode_dcep,
    decode_user_data,
    encode_dcep,
)

MAX_CHANNELS: Final = 64
DEFAULT_REMOTE_LIMIT: Final = 65_536  # bytes, where SDP names none; RFC 8841, 6.1


class IncomingChannels:
    """The channels, and what the peer does to them."""

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
