"""HTTP/1.1 and WebSockets as hypercorn speaks them, for one connection.

hypercorn's own Trio server lets exceptions out that end the whole server, and waits without bound
for clients that do not read. So only its protocol object is used; sockets and deadlines are the
connection's (``server``). hypercorn means the application to be a task beside the one that reads,
with a nursery and a channel between them. Here it runs in the task that reads, and what it waits
for is read when it asks: that is cheaper, and whoever sends too much meets TCP's flow control.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol, cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response, StreamClosed
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    Scope,
)
from starlette.types import ASGIApp
from wsproto.connection import ConnectionState as FramesState
from wsproto.events import Message

from edge.address import Address
from edge.http.handshake import has_two_lengths, without_surprises

MAX_HEADER_BYTES: Final = 16_384
MAX_PIPELINED_BYTES: Final = 16_384
"""Of further requests, kept while the application waits for the client to go away."""
MAX_MESSAGE_SIZE: Final = 131_072
"""Of a WebSocket's message: characters or bytes, and fragments. A longer one ends it with 1009."""
PING_SECONDS: Final = 20.0

_SWITCHING: Final = 101

_Send = Callable[[ASGISendEvent | None], Awaitable[None]]


class Wire(Protocol):
    """The connection, as far as its protocol needs it."""

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""

    async def receive(self) -> bytes:
        """Read what comes next; nothing when the client has ended its side or is gone."""

    async def send(self, data: bytes) -> None:
        """Write all of it; when the client went away or does not read, cancel the task."""

    async def shut(self) -> None:
        """Send no more, and end soon."""

    def begin_request(self) -> None:
        """A request has begun."""

    def end_request(self, *, is_next_here: bool) -> None:
        """A request was answered."""

    def begin_websocket(self) -> None:
        """A WebSocket was accepted: there are no more requests."""


class Service:
    """An application and how to serve it, for all connections."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = ASGIWrapper(cast(ASGIFramework, app))
        self.context: Final = WorkerContext(None)
        self.config: Final = Config()
        self.config.errorlog = None
        self.config.h11_max_incomplete_size = MAX_HEADER_BYTES
        self.config.include_server_header = False
        self.config.keep_alive_max_requests = sys.maxsize
        self.config.websocket_max_message_size = MAX_MESSAGE_SIZE
        self.config.websocket_ping_interval = PING_SECONDS

    async def stop(self) -> None:
        """End every connection after its next response."""
        await self.context.terminated.set()


class Http1(H11Protocol):
    """One connection's protocol, and the application that it calls."""

    def __init__(
        self, service: Service, wire: Wire, *, is_secure: bool, client: Address, server: Address
    ) -> None:
        self._wire = wire
        self._tasks = _Tasks()
        self._held = b""
        self._is_holding = False
        super().__init__(
            service.app,
            service.config,
            service.context,
            self._tasks,
            ConnectionState({}),
            is_secure,
            client,
            server,
            self._take_event,
        )
        self.can_read = _Impatient()

    async def receive_data(self, data: bytes) -> None:
        """Take what was read, and serve the requests in it."""
        self.connection.receive_data(data)
        await self._advance()

    async def _advance(self) -> None:
        with suppress(_WouldWaitError):
            await self._handle_events()

    # What hypercorn does

    async def _check_protocol(self, event: h11.Request) -> None:
        """Leave upgrades to us."""

    async def _create_stream(self, request: h11.Request) -> None:
        if has_two_lengths(request):
            await self._send_error_response(400)
            await self.send(Closed())
            return
        await super()._create_stream(without_surprises(request))
        if isinstance(self.stream, WSStream):
            self.stream.buffer = _MessageBuffer(MAX_MESSAGE_SIZE)
            await self._run_websocket()
        else:
            await self._tasks.call.run(self._receive)

    async def _run_websocket(self) -> None:
        with trio.CancelScope() as pings:
            async with self._tasks:
                await self._tasks.call.run(self._receive)
                pings.cancel()
        await self._wire.shut()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a response's head together with the first of its body."""
        if isinstance(event, StreamClosed) and self.connection.their_state is h11.SEND_BODY:
            await self._advance()  # over what came of a body that nobody wanted
        self._is_holding = isinstance(event, Response) and event.status_code != _SWITCHING
        await super().stream_send(event)
        if isinstance(event, Response) and event.status_code == _SWITCHING:
            self._wire.begin_websocket()

    async def _take_event(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._send(data)
            case Updated(idle=True):
                self._wire.end_request(is_next_here=bool(self.connection.trailing_data[0]))
            case Updated():
                self._wire.begin_request()
            case Closed():
                await self._wire.shut()

    async def _send(self, data: bytes) -> None:
        data = self._held + data
        self._held = data if self._is_holding else b""
        if data and not self._is_holding:
            await self._wire.send(data)

    # What the application waits for

    async def _receive(self) -> ASGIReceiveEvent:
        messages = self._tasks.call.messages
        while not messages:
            await self._seek_message(messages)
        return messages.popleft()

    async def _seek_message(self, messages: deque[ASGIReceiveEvent]) -> None:
        if self.stream is None:
            await trio.sleep_forever()  # it was told that this is the end
        if self._expects_more():
            await self._advance()
        if messages:
            return
        if self._wire.is_closing or self._has_closed_websocket():
            await self.handle(Closed())
        elif self._unread_bytes() < MAX_PIPELINED_BYTES:
            await self._read()
        else:
            await trio.sleep_forever()

    def _expects_more(self) -> bool:
        if isinstance(self.stream, WSStream):
            return self.stream.handshake.accepted
        return self.connection.their_state is h11.SEND_BODY

    def _has_closed_websocket(self) -> bool:
        """Whether the client's message was too long, or the application has ended it."""
        if not (isinstance(self.stream, WSStream) and self.stream.handshake.accepted):
            return False
        return self.stream.connection.state is not FramesState.OPEN

    def _unread_bytes(self) -> int:
        if isinstance(self.connection, H11WSConnection):
            return len(self.connection.buffer)
        return len(self.connection.trailing_data[0])

    async def _read(self) -> None:
        data = await self._wire.receive()
        self.connection.receive_data(data)
        if not data:
            await self._advance()
            await self.handle(Closed())


class _Call:
    """An application, called for one request."""

    def __init__(self, app: AppWrapper, scope: Scope, send: _Send) -> None:
        self.messages: deque[ASGIReceiveEvent] = deque()
        """What hypercorn made of one read, as long as the application did not ask for it."""
        self._app = app
        self._scope = scope
        self._send = send

    async def put(self, message: ASGIReceiveEvent) -> None:
        self.messages.append(message)

    async def run(self, receive: Callable[[], Awaitable[ASGIReceiveEvent]]) -> None:
        try:
            await self._app(
                self._scope, receive, self._send, trio.to_thread.run_sync, trio.from_thread.run
            )
        except Exception:
            await self._send(None)
            raise
        await self._send(None)


class _Tasks(TaskGroup):
    """hypercorn's task group, which only notes the application's call."""

    call: _Call

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: _Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        self.call = _Call(app, scope, send)
        return self.call.put


class _WouldWaitError(Exception):
    """hypercorn would wait for the application to end, in the task that runs it."""


class _Impatient(EventWrapper):
    async def wait(self) -> None:
        raise _WouldWaitError


class _MessageBuffer(WebsocketBuffer):
    """A message's parts, of which empty ones are few as well."""

    def extend(self, event: Message[bytes | bytearray] | Message[str]) -> None:
        self.length += 1
        super().extend(event)
