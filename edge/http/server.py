"""HTTP/1.1 connections: accepted, bounded and ended by us, spoken by hypercorn.

hypercorn's own Trio server lets exceptions out that end the whole server, and waits without bound
for clients that do not read. So only its protocol object is used, and a connection is ours: one
reader task, one cancel scope with one deadline. The deadline moves twice a request: at the first
byte of it (the request must be read, served and answered ``request_timeout_seconds`` later) and at
the end of its response (the next one must start within the same time). Nothing is shielded, so the
deadline holds whatever the client does. HTTP/2 and protocol upgrades are not spoken.

To end a connection, our side is shut first and what still arrives is thrown away for a moment:
closing a socket with unread bytes resets it, and the client would lose the response that says why.
"""

from __future__ import annotations

import math
import ssl
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, cast

import h11
import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.types import ASGIApp

from edge.config import HttpConfig
from edge.http.listen import HttpListener

log = structlog.get_logger()

MAX_HEADER_BYTES: Final = 16_384
MAX_QUEUED_CHUNKS: Final = 1_024
"""Of a body, between reader and application."""
MAX_DISCARD_BYTES: Final = 1_048_576
CLOSE_SECONDS: Final = 1.0
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
    """Cut in the middle of a request, a handshake or a response."""
    BUG = "bug"
    """An exception was contained; the log has the traceback."""


class HttpServer:
    """Serves an ASGI application on listeners; ``events`` counts, ``connections`` are open."""

    def __init__(self, app: ASGIApp, *, http: HttpConfig) -> None:
        self.events: Counter[HttpEvent] = Counter()
        self.timeout: Final = http.request_timeout_seconds
        self.app: Final = ASGIWrapper(cast(ASGIFramework, app))
        self.config: Final = _hypercorn_config()
        self.context: Final = WorkerContext(None)
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
            await self.context.terminated.set()
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
    """One client's connection: its reader, and the one deadline it is under."""

    def __init__(
        self, server: HttpServer, socket_stream: trio.SocketStream, tls: ssl.SSLContext | None
    ) -> None:
        self._server = server
        self._socket = socket_stream.socket
        self._stream: _Stream = socket_stream
        if tls is not None:
            self._stream = trio.SSLStream(
                socket_stream, tls, server_side=True, https_compatible=True
            )
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._idle = True
        self._closing = False

    async def run(self) -> None:
        """Serve requests until either side is done or the deadline passes."""
        self._set_deadline()
        with self._scope:
            try:
                await self._serve()
            except* h11.LocalProtocolError:
                # hypercorn tries to finish a response that was cancelled half-way.
                if trio.current_effective_deadline() > -math.inf:
                    raise
        if self._scope.cancelled_caught and not (self._idle or self._closing):
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
        async with TaskGroup() as tasks:
            server = self._server
            self._protocol = _Http1(
                server.app,
                server.config,
                server.context,
                tasks,
                ConnectionState({}),
                isinstance(self._stream, trio.SSLStream),
                _host_and_port(self._socket.getpeername()),
                _host_and_port(self._socket.getsockname()),
                self._handle_event,
            )
            await self._read()

    async def _read(self) -> None:
        discarded = 0
        while discarded <= MAX_DISCARD_BYTES:
            data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            if not data:
                break
            if self._closing:
                discarded += len(data)
                continue
            self._begin_request()
            await self._protocol.handle(RawData(data))
        await self._protocol.handle(Closed())

    async def _handle_event(self, event: Event) -> None:
        try:
            match event:
                case RawData(data=data):
                    async with self._sending:
                        await self._stream.send_all(data)
                case Updated(idle=True):
                    self._idle = True
                    self._set_deadline()
                case Updated():
                    self._begin_request()
                case Closed():
                    await self._shut()
                case _:
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client went away: the application need not know more than that it is cancelled.
            self._closing = True
            self._scope.cancel()

    def _begin_request(self) -> None:
        if self._idle:
            self._idle = False
            self._set_deadline()

    async def _shut(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_SECONDS)
        if isinstance(self._stream, trio.SocketStream):
            async with self._sending:
                await self._stream.send_eof()

    def _set_deadline(self) -> None:
        if not self._closing:
            self._scope.deadline = trio.current_time() + self._server.timeout


class _Http1(H11Protocol):
    """hypercorn's HTTP/1.1 that answers a request for an upgrade as if it had not asked.

    A server may ignore Upgrade (RFC 9110, section 7.8); hypercorn's upgrade paths raise on
    malformed requests.
    """

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _create_stream(self, request: h11.Request) -> None:
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            await self._refuse_framing()
            return
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        await super()._create_stream(
            h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        )

    async def _refuse_framing(self) -> None:
        """A body with two lengths: a proxy before us may see another request (RFC 9112, 6.1)."""
        await self._send_error_response(400)
        await self.send(Closed())


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.errorlog = None
    config.h11_max_incomplete_size = MAX_HEADER_BYTES
    config.max_app_queue_size = MAX_QUEUED_CHUNKS
    config.include_server_header = False
    return config


def _host_and_port(address: tuple[str, int]) -> tuple[str, int]:
    return address[0], address[1]
