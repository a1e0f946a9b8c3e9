"""Calls whose audio and messages are numbered in both directions, counted one by one."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec
import trio

from edge.address import Address
from edge.client.journal import FRAME_SECONDS, Journal
from edge.client.load import Load, LoadClient
from edge.errors import LocalProtocolError
from tests.support.numbered import Heard, decode_numbered
from tests.support.numbered_backend import MESSAGE, MESSAGE_TYPE, RECORD

MESSAGE_SECONDS: Final = 0.1
READ_BYTES: Final = 65_536


class NumberedMessage(msgspec.Struct):
    """A message on the channel; the dialect's own are of other types."""

    type: str
    number: int = 0
    stream: str = ""


class NumberedJournal(Journal):
    """What comes is no echo but the far end's own count."""

    def __init__(self) -> None:
        super().__init__(FRAME_SECONDS)
        self.heard = Heard()

    @property
    def received(self) -> int:
        """How many different ones came."""
        return self.heard.count

    def check_off(self, payload: bytes, now: float) -> None:
        """Take a frame of the backend's."""
        numbered = decode_numbered(payload)
        if numbered is None:
            self.rejected += 1
        elif numbered[0] != self.mark:
            self.foreign += 1
        else:
            self.heard.note(numbered[1], numbered[2], time.monotonic())


@dataclass(frozen=True, slots=True)
class Direction:
    """What was heard of one side."""

    audio: Heard
    messages: Heard


class NumberedCall:
    """One call; ``up`` is what the backend heard, ``down`` what the client did."""

    def __init__(self) -> None:
        self.journal = NumberedJournal()
        self.up = Direction(Heard(), Heard())
        self.down = Direction(self.journal.heard, Heard())
        self.told: list[str] = []
        """Types of the other events that the client was sent."""
        self.ports: set[int] = set()
        self._client: LoadClient | None = None
        self._messages = 0

    @property
    def client(self) -> LoadClient:
        """The client, once it is connected."""
        assert self._client is not None
        return self._client

    async def open(self, load: Load, http: str, enter: Address | None = None) -> None:
        """Connect."""
        self._client = await load.open_call(http, enter=enter, journal=self.journal)
        self.ports.add(self.client.port)

    def rebind(self) -> None:
        """Go on from another port, as a client does that moves to another network."""
        self.client.rebind()
        self.ports.add(self.client.port)

    def exchange_messages(self) -> None:
        """Send the next message, and take what came."""
        channel = self.client.channel
        if channel is None or not channel.opened or self.client.closed:
            return
        while channel.received:
            self._take(channel.received.popleft())
        message = {"type": MESSAGE_TYPE, "number": self._messages, "mark": self.journal.mark.hex()}
        try:
            self.client.send_message(msgspec.json.encode(message).decode())
        except LocalProtocolError:  # the outbox is full
            return
        self._messages += 1

    def _take(self, data: str | bytes) -> None:
        message = msgspec.json.decode(data, type=NumberedMessage)
        if message.type != MESSAGE_TYPE:
            self.told.append(message.type)
            return
        self.down.messages.note(message.number, bytes.fromhex(message.stream), time.monotonic())


class Conversations:
    """All calls, and the backend's reports of them."""

    def __init__(self, load: Load, *, message_seconds: float) -> None:
        self.message_seconds = message_seconds
        self.calls: list[NumberedCall] = []
        self.load = load
        self._by_mark: dict[bytes, NumberedCall] = {}

    async def open_call(self, http: str, enter: Address | None = None) -> NumberedCall:
        """Open one more."""
        call = NumberedCall()
        self._by_mark[call.journal.mark] = call
        await call.open(self.load, http, enter)
        self.calls.append(call)
        return call

    def close(self, call: NumberedCall) -> None:
        """Say goodbye and forget it."""
        call.client.close()
        self.calls.remove(call)
        del self._by_mark[call.journal.mark]

    async def read_reports(self, stream: trio.abc.ReceiveStream) -> None:
        """Read what a backend reports until it ends."""
        rest = b""
        async with stream:
            while data := await stream.receive_some(READ_BYTES):
                data = rest + data
                whole = len(data) - len(data) % RECORD.size
                rest = data[whole:]
                for kind, mark, number, source, at in RECORD.iter_unpack(data[:whole]):
                    self._note(kind, mark, number, source, at)

    def _note(self, kind: int, mark: bytes, number: int, source: bytes, at: float) -> None:
        call = self._by_mark.get(mark)
        if call is not None:
            heard = call.up.messages if kind == MESSAGE else call.up.audio
            heard.note(number, source, at)

    async def exchange_messages(self) -> None:
        """Send messages for ever."""
        while True:
            for call in tuple(self.calls):
                call.exchange_messages()
            await trio.sleep(self.message_seconds)


@asynccontextmanager
async def open_conversations(
    load: Load, *, message_seconds: float = MESSAGE_SECONDS
) -> AsyncGenerator[Conversations]:
    """Let calls exchange messages, one each way every so many seconds, while the block runs."""
    conversations = Conversations(load, message_seconds=message_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(conversations.exchange_messages)
        yield conversations
        nursery.cancel_scope.cancel()
