"""HTTP/1.1 connections: accepted, bounded and ended by us, spoken by hypercorn (``http1``).

A connection is one task, which runs the application as well, and one cancel scope with one
deadline. The deadline moves twice a request: at the first byte of it (the request must be read,
served and answered ``request_timeout_seconds`` later) and at the end of its response (the next one
must start within the same time). A WebSocket that was accepted lasts as long as its client answers
pings and reads. Nothing is shielded, so the deadline holds whatever the client does. HTTP/2 is not
spoken, and upgrades to anything but WebSocket are ignored.

To end a connection, our side is shut first and what still arrives is thrown away for a moment:
closing a socket with unread bytes resets it, and the client would lose the response that says why.
"""

from __future__ import annotations

import math
import ssl
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Final

import structlog
import trio
from starlette.types import ASGIApp

from edge.address import Address
from edge.config import HttpConfig
from edge.http.http1 import Http1, Service
from edge.http.listen import HttpListener

log = structlog.get_logger()

MAX_DISCARD_BYTES: Final = 1_048_576
CLOSE_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 60.0
"""A WebSocket is cut when its client is not heard for this time; it must answer pings."""
RECEIVE_BYTES: Final = 8_192
"""Small, because h11 holds a head to its limit only between two receives."""
LOG_SECONDS: Final = 10.0
"""At most one log line for a contained exception in this time."""

_Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class HttpEvent(StrEnum):
    """What happened to connections; a metric label."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """Closed at once: too many connections."""
    TIMED_OUT = "timed_out"
    """Cut in the middle of a request, a handshake or a response, or as a silent WebSocket."""
    BUG = "bug"
    """An exception was contained; the log has the traceback."""


class HttpServer:
    """Serves an ASGI application on listeners; ``events`` counts, ``connections`` are open."""

    def __init__(self, app: ASGIApp, *, http: HttpConfig) -> None:
        self.events: Counter[HttpEvent] = Counter()
        self.timeout: Final = http.request_timeout_seconds
        self.service: Final = Service(app)
        self._max_connections = http.max_connections
        self._open: set[_Connection] = set()
        self._next_log = -math.inf

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    async def serve(
        self,
        listeners: Sequence[HttpListener],
        *,
        stop: trio.Event,
        grace_seconds: float = 5.0,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop``, then give running requests ``grace_seconds``; close listeners."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, connections)
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            connections.cancel_scope.deadline = trio.current_time() + grace_seconds
            await self.service.stop()
            for connection in tuple(self._open):
                connection.stop()

    async def _accept(self, listener: HttpListener, nursery: trio.Nursery) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            await self._handle(stream, listener.tls)

        await trio.serve_listeners(handle, [listener.listener], handler_nursery=nursery)

    async def _handle(self, socket_stream: trio.SocketStream, tls: ssl.SSLContext | None) -> None:
        """Serve one connection, which ``trio.serve_listeners`` closes when this returns."""
        if len(self._open) >= self._max_connections:
            self.events[HttpEvent.REFUSED] += 1
            return
        self.events[HttpEvent.ACCEPTED] += 1
        connection = _Connection(self, socket_stream, tls)
        self._open.add(connection)
        try:
            await connection.run()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away
        except* Exception as group:
            self._contain(group)
        finally:
            self._open.discard(connection)

    def _contain(self, error: BaseException) -> None:
        self.events[HttpEvent.BUG] += 1
        if trio.current_time() >= self._next_log:
            self._next_log = trio.current_time() + LOG_SECONDS
            log.error("http_connection_failed", exc_info=error, total=self.events[HttpEvent.BUG])


class _Connection:
    """One client's connection, and the one deadline it is under."""

    def __init__(
        self, server: HttpServer, socket_stream: trio.SocketStream, tls: ssl.SSLContext | None
    ) -> None:
        self.is_closing = False
        self._server = server
        self._socket = socket_stream.socket
        self._stream: _Stream = socket_stream
        if tls is not None:
            self._stream = trio.SSLStream(
                socket_stream, tls, server_side=True, https_compatible=True
            )
        self._scope = trio.CancelScope(deadline=trio.current_time() + server.timeout)
        self._sending = trio.Lock()
        self._idle = True
        self._at_eof = False
        self._is_websocket = False
        self._send_seconds = math.inf  # beyond the deadline of a request

    async def run(self) -> None:
        """Serve requests until either side is done or the deadline passes."""
        with self._scope:
            await self._serve()
        if self._scope.cancelled_caught and not (self._idle or self.is_closing):
            self._server.events[HttpEvent.TIMED_OUT] += 1

    def stop(self) -> None:
        """Close now when no request is running, else after its response."""
        if self._idle:
            self._scope.cancel()

    async def _serve(self) -> None:
        if isinstance(self._stream, trio.SSLStream):
            self._idle = False
            await self._stream.do_handshake()
            self._idle = True
        protocol = Http1(
            self._server.service,
            self,
            is_secure=isinstance(self._stream, trio.SSLStream),
            client=_host_and_port(self._socket.getpeername()),
            server=_host_and_port(self._socket.getsockname()),
        )
        while not self.is_closing and (data := await self.receive()):
            await protocol.receive_data(data)
        await self._discard()

    async def _discard(self) -> None:
        discarded = 0
        while not self._at_eof and discarded <= MAX_DISCARD_BYTES:
            discarded += len(await self.receive())

    def _set_deadline(self) -> None:
        if not self.is_closing:
            seconds = SILENCE_SECONDS if self._is_websocket else self._server.timeout
            self._scope.deadline = trio.current_time() + seconds

    # What the protocol needs; see ``Wire``

    async def receive(self) -> bytes:
        """Read what comes next; nothing when the client has ended its side or is gone."""
        data = b""
        if not self._at_eof:
            with suppress(trio.BrokenResourceError):
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
        self._at_eof = not data
        if self._is_websocket:
            self._set_deadline()
        elif data:
            self.begin_request()
        return data

    async def send(self, data: bytes) -> None:
        """Write all of it; when the client went away or does not read, cancel the task."""
        try:
            async with self._sending:
                with trio.fail_after(self._send_seconds):
                    await self._stream.send_all(data)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The application need not know more than that it is cancelled.
            self.is_closing = not isinstance(error, trio.TooSlowError)
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

    async def shut(self) -> None:
        """Send no more, and give the client a moment to read what there is."""
        if self.is_closing:
            return
        self.is_closing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)
        if isinstance(self._stream, trio.SocketStream):
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async with self._sending:
                    await self._stream.send_eof()

    def begin_request(self) -> None:
        """A request has begun: its time runs."""
        if self._idle:
            self._idle = False
            self._set_deadline()

    def end_request(self, *, is_next_here: bool) -> None:
        """A request was answered: the time for the next one runs."""
        self._idle = not is_next_here
        self._set_deadline()

    def begin_websocket(self) -> None:
        """A WebSocket was accepted: there are no more requests."""
        self._is_websocket = True
        self._send_seconds = self._server.timeout
        self._set_deadline()


def _host_and_port(address: tuple[str, int]) -> Address:
    return address[0], address[1]
