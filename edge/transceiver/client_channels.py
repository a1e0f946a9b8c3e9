"""A client's data channels: one carries the session's events, others are of no use here.

The events' channel is one holder of the session's ``EventChannel`` beside the sidebands, and what
does not fit into its outbox is gone and counted. ``oai-events`` is greeted when it opens, and every
text or binary message on it is an event. ``chat`` is Pipecat's: nobody there waits for a greeting,
its messages are events where they are objects of JSON, and its ``ping: ...`` of every second is
none. What comes on other channels is counted; where the backend is the echo, it and all of ``chat``
is sent back. What comes faster than MESSAGES_PER_SECOND is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, assert_never

from edge.errors import Drop, LocalProtocolError
from edge.limits import TokenBucket
from edge.transceiver.events import EventChannel
from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelDrained,
    ChannelMessage,
    ChannelOpened,
)
from edge.webrtc.sctp_outputs import OutboxFull

EVENTS_LABEL: Final = "oai-events"
CHAT_LABEL: Final = "chat"
MESSAGES_PER_SECOND: Final = 500.0
"""Of one client, as of a sideband; that many may come at once."""

ChannelEvent = ChannelOpened | ChannelMessage | ChannelDrained | ChannelClosed

SendMessage = Callable[[int, str | bytes], None]
"""``(channel, data)``: raises as ``Peer.send_message`` does."""


@dataclass(slots=True)
class ChannelCounts:
    """Since the session or the process began; bytes are those of messages, as UTF-8."""

    opened: int = 0
    closed: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    bytes_sent: int = 0

    def add(self, other: ChannelCounts) -> None:
        """Add what another has counted."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ClientChannels:
    """The data channels of one session: a ``Holder`` of its events."""

    def __init__(
        self,
        events: EventChannel,
        *,
        receive_event: Callable[[bytes], None],
        send: SendMessage,
        now: float,
        echo: bool = False,
    ) -> None:
        self.counts = ChannelCounts()
        self.drops: Counter[Drop] = Counter()
        self._events = events
        self._receive_event = receive_event
        self._send = send
        self._echo = echo
        self._bucket = TokenBucket(MESSAGES_PER_SECOND, now=now)
        self._open: set[int] = set()
        self._holder: int | None = None
        """The channel that holds the session's events."""
        self._chats = False
        self._held = ExitStack()

    def follow(self, event: ChannelEvent, *, now: float) -> None:
        """Take what the peer says of a channel."""
        match event:
            case ChannelOpened(channel, settings):
                self._opened(channel, settings.label, greeted=True)
            case ChannelMessage(channel, data):
                self._received(channel, data, now)
            case ChannelClosed(channel):
                self._closed(channel)
            case ChannelDrained():
                pass  # what found no room is gone; what comes now does
            case _:
                assert_never(event)

    def adopt(self, channels: Iterable[ChannelOpened]) -> None:
        """Go on with channels that a former owner of the session had open: nobody is greeted."""
        for opened in channels:
            self._opened(opened.channel, opened.settings.label, greeted=False)

    def close(self) -> None:
        """Take and send nothing any more: the session or its peer is over."""
        for channel in tuple(self._open):
            self._closed(channel)

    def take(self, event: bytes) -> bool:
        """Send an event, as text; False while the outbox is full."""
        if self._holder is None:
            return False
        try:
            self._transmit(self._holder, event.decode(errors="replace"))
        except OutboxFull:
            return False
        except LocalProtocolError:  # as the channel is open, it is longer than the client takes
            self.drops[Drop.TOO_LONG] += 1
        return True

    def _opened(self, channel: int, label: str, *, greeted: bool) -> None:
        self.counts.opened += 1
        self._open.add(channel)
        labels = (EVENTS_LABEL,) if self._echo else (EVENTS_LABEL, CHAT_LABEL)
        if label in labels and self._holder is None:
            self._holder, self._chats = channel, label == CHAT_LABEL
            greeted = greeted and not self._chats
            joined = self._events.joined(self, always=True, greeted=greeted)
            self._held.enter_context(joined)

    def _received(self, channel: int, data: str | bytes, now: float) -> None:
        payload = data.encode() if isinstance(data, str) else data
        self.counts.messages_received += 1
        self.counts.bytes_received += len(payload)
        if self._bucket.take(now=now):
            self.drops[Drop.RATE_LIMIT] += 1
        elif channel == self._holder and (not self._chats or payload.startswith(b"{")):
            self._receive_event(payload)
        elif self._echo:
            self._return(channel, data)
        else:
            self.drops[Drop.UNKNOWN_CHANNEL] += 1

    def _return(self, channel: int, data: str | bytes) -> None:
        try:
            self._transmit(channel, data)
        except LocalProtocolError:
            self.drops[Drop.QUEUE_FULL] += 1

    def _closed(self, channel: int) -> None:
        if channel not in self._open:
            return
        self.counts.closed += 1
        self._open.remove(channel)
        if channel == self._holder:
            self._holder = None
            self._held.close()

    def _transmit(self, channel: int, data: str | bytes) -> None:
        self._send(channel, data)
        self.counts.messages_sent += 1
        self.counts.bytes_sent += len(data.encode()) if isinstance(data, str) else len(data)
