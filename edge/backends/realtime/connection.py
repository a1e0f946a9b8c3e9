"""One WebSocket connection to a realtime server (RFC 6455), over TLS or not.

trio-websocket waits for ever for a handshake whose stream has ended, collects a refusal's body
without a bound, leaves a stream open that the server has closed, and lets errors of the parsers
below it escape; so the stream is ours, watched, and closed by us.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import h11
import trio
import wsproto.utilities
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)

from edge.errors import BackendError

MAX_MESSAGE: Final = 8_388_608
"""Characters of one message of the server's: two minutes of PCM at 24 kHz in one event."""
MAX_HANDSHAKE: Final = 65_536
"""Bytes of the server's answer to the handshake, a refusal's body included."""
GOODBYE_SECONDS: Final = 0.05
"""To send a close frame; nobody waits for the answer."""
RETRY_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # RFC 9110 and 6585
DONE_CODES: Final = frozenset({1000, 1005})
RETRY_CODES: Final = frozenset({1001, 1006, 1011, 1012, 1013, 1014})  # RFC 6455, 7.4, and IANA's


PROTOCOL_ERRORS: Final = (wsproto.utilities.ProtocolError, h11.ProtocolError)


class ConnectionLost(BackendError):
    """There is no connection, or no longer.

    ``again`` tells whether another try makes sense, ``orderly`` that the server was done.
    """

    def __init__(self, message: str, *, again: bool = True, orderly: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.orderly = orderly


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect; ``tls`` is None for ``ws:``. The headers hold the key."""

    host: str
    port: int
    resource: str = field(repr=False)
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, headers: list[tuple[bytes, bytes]], *, ca_file: str = "") -> Target:
        """Take a ``ws:`` or ``wss:`` URL apart; raises ValueError, and OSError for the file."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError("not a ws: or wss: URL")
        secure = parts.scheme == "wss"
        resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            parts.hostname,
            parts.port or (443 if secure else 80),
            resource,
            headers,
            ssl.create_default_context(cafile=ca_file or None) if secure else None,
        )

    @property
    def authority(self) -> str:
        """The ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in (80, 443) else f"{host}:{self.port}"


OpenStream = Callable[[Target], Awaitable[trio.abc.Stream]]


async def open_stream(target: Target) -> trio.abc.Stream:
    """Connect by TCP, and TLS where the target says so; raises OSError or BrokenResourceError."""
    stream = await trio.open_tcp_stream(target.host, target.port)
    if target.tls is None:
        return stream
    secured = trio.SSLStream(stream, target.tls, server_hostname=target.host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


@asynccontextmanager
async def connected(
    target: Target,
    *,
    seconds: float,
    open_stream: OpenStream = open_stream,
    farewell: Callable[[], str] = lambda: "",
) -> AsyncGenerator[WebSocketConnection]:
    """Hold a connection; what fails inside the block or below is raised as ConnectionLost.

    ``seconds`` bound the way to the open WebSocket; ``farewell`` gives the text of our close frame.
    """
    deadline = trio.current_time() + seconds
    stream = _Watched(await _open(target, deadline, open_stream))
    lost: ConnectionLost | None = None
    try:
        async with trio.open_nursery() as nursery:
            socket = await _shake_hands(nursery, stream, target, deadline)
            try:
                yield socket
            finally:
                with trio.move_on_after(GOODBYE_SECONDS, shield=True):
                    await socket.aclose(reason=farewell())
            nursery.cancel_scope.cancel()
    except* (ConnectionLost, ConnectionRejected, ConnectionClosed, *PROTOCOL_ERRORS) as group:
        lost = _as_lost(group)
    finally:
        await trio.aclose_forcefully(stream)
    if lost is not None:
        raise lost


class _Watched(trio.abc.Stream):
    """A stream that tells when it has ended, and ends when a handshake's answer is too long."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.ended = trio.Event()
        self.limit: int | None = MAX_HANDSHAKE
        self._stream = stream
        self._sending = trio.Lock()  # its reader answers pings and closes while we send
        self._torn = False  # a part of a message was sent: nothing may follow it

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        except BaseException:
            self.ended.set()
            raise
        if self.limit is not None:
            self.limit -= len(data)
        if not data or (self.limit is not None and self.limit < 0):
            self.ended.set()
            return b""
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._sending:
            if self._torn:
                raise trio.BrokenResourceError("a message was cut off")
            self._torn = True
            await self._stream.send_all(data)
            self._torn = False

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


async def _open(target: Target, deadline: float, open_stream: OpenStream) -> trio.abc.Stream:
    try:
        with trio.fail_at(deadline):
            return await open_stream(target)
    except trio.TooSlowError:
        raise ConnectionLost("it did not answer in time") from None
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise ConnectionLost(f"can not connect: {cause.lower()}") from None
    except trio.BrokenResourceError:
        raise ConnectionLost("the TLS handshake failed") from None


async def _shake_hands(
    nursery: trio.Nursery, stream: _Watched, target: Target, deadline: float
) -> WebSocketConnection:
    async with trio.open_nursery() as watching:
        watching.cancel_scope.deadline = deadline
        watching.start_soon(_cancel_at_end, stream, watching.cancel_scope)
        socket = await wrap_client_stream(
            nursery,
            cast("trio.SocketStream", stream),  # any stream will do
            target.authority,
            target.resource,
            extra_headers=target.headers,
            max_message_size=MAX_MESSAGE,
        )
        stream.limit = None
        watching.cancel_scope.cancel()
        return socket
    raise ConnectionLost("it ended or stalled in the handshake")


async def _cancel_at_end(stream: _Watched, scope: trio.CancelScope) -> None:
    await stream.ended.wait()
    scope.cancel()


def _as_lost(error: BaseException) -> ConnectionLost:
    match error:
        case BaseExceptionGroup():
            return _as_lost(error.exceptions[0])
        case ConnectionRejected(status_code=status):
            return ConnectionLost(f"it refuses with HTTP {status}", again=status in RETRY_STATUS)
        case ConnectionClosed(reason=reason):
            code = int(reason.code) if reason else 1006
            return ConnectionLost(
                f"it closed with code {code}", again=code in RETRY_CODES, orderly=code in DONE_CODES
            )
        case ConnectionLost():
            return error
        case _:
            return ConnectionLost("it speaks no WebSocket")
