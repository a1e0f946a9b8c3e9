"""For those who write a backend in Python: the other side of the ``frames`` protocol.

    async def parrot(session: BackendSession) -> None:
        async for heard in session:
            if isinstance(heard, bytes):
                await session.say(heard)

    async with serve_backend("unix:/run/parrot.sock", parrot):
        await trio.sleep_forever()

The handler runs once for each session, and is cancelled when the session ends on the other side.
Returning finishes the conversation, raising fails it; others go on. What they all send at one time
is written together, and waits while a transceiver does not read. What a handler does not take in
time is bounded by its window; where a transceiver does not keep to it the oldest audio is dropped.

A handler does not notice when its session goes on at another transceiver, but for a wait. Where
the session was not kept (``keep_seconds``) or was another process's, it begins anew, and
``session.resumed`` says so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final

import structlog
import trio

from edge.address import format_address, parse_stream_address
from edge.backends.frames.frame_writer import FrameWriter
from edge.backends.frames.host import Handler, Host, Hosted, Refused
from edge.backends.frames.session import BackendSession, Event
from edge.backends.frames.wire import (
    CONNECTION,
    CloseReason,
    Frame,
    FrameDecoder,
    Kind,
    decode_close,
    decode_open,
    encode_close,
    encode_frame,
)
from edge.errors import RemoteProtocolError

__all__ = [
    "BackendSession",
    "Event",
    "Handler",
    "Host",
    "serve_backend",
    "serve_connection",
    "serve_stream",
]

KEEP_SECONDS: Final = 10.0
"""For which a session without a transceiver waits for the next one."""
SILENCE_SECONDS: Final = 60.0
"""Without a frame a connection is closed: transceivers send a ``ping`` every few seconds."""
READ_BYTES: Final = 32_768

log = structlog.get_logger()


@asynccontextmanager
async def serve_backend(
    address: str, handler: Handler, *, max_sessions: int = 1_000, keep_seconds: float = KEEP_SECONDS
) -> AsyncIterator[str]:
    """Serve on ``unix:/PATH`` or ``HOST:PORT`` (port 0 takes a free one) for as long as the block.

    Yields the address. Over ``max_sessions`` in all sessions are refused. One whose connection is
    lost is kept for ``keep_seconds``. Raises OSError when it can not listen, ValueError for what
    is no address.
    """
    host = Host(handler, max_sessions=max_sessions, keep_seconds=keep_seconds)
    with _unix_path(address):
        listeners = await _listen(address)
        async with trio.open_nursery() as nursery:
            serve = partial(serve_connection, host, nursery)
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            yield _bound(address, listeners[0])
            nursery.cancel_scope.cancel()


async def serve_stream(handler: Handler, max_sessions: int, stream: trio.abc.Stream) -> None:
    """Serve one transceiver and keep nothing when it has left; raises only what cancels us."""
    host = Host(handler, max_sessions=max_sessions, keep_seconds=0.0)
    async with trio.open_nursery() as nursery:
        await serve_connection(host, nursery, stream)
        nursery.cancel_scope.cancel()


async def serve_connection(host: Host, nursery: trio.Nursery, stream: trio.abc.Stream) -> None:
    """Serve one of several transceivers until it leaves; handlers are tasks of the nursery."""
    try:
        await _Served(stream, host).run(nursery)
    finally:
        await trio.aclose_forcefully(stream)


class _Served:
    """One connection, and the sessions that are on it now."""

    def __init__(self, stream: trio.abc.Stream, host: Host) -> None:
        self._stream = stream
        self._host = host
        self._writer = FrameWriter(stream)
        self._sessions: dict[int, Hosted] = {}

    async def run(self, nursery: trio.Nursery) -> None:
        try:
            async with trio.open_nursery() as both:
                both.start_soon(self._write, both.cancel_scope)
                await self._read(nursery)
                both.cancel_scope.cancel()
        except* (trio.BrokenResourceError, RemoteProtocolError, trio.TooSlowError) as errors:
            log.warning("transceiver lost", error=type(errors.exceptions[0]).__name__)
        finally:
            for hosted in self._here():
                self._host.leave(hosted)

    async def _write(self, connection: trio.CancelScope) -> None:
        await self._writer.run()
        connection.cancel()

    async def _read(self, nursery: trio.Nursery) -> None:
        decoder = FrameDecoder()
        while True:
            with trio.fail_after(SILENCE_SECONDS):
                data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return
            for frame in decoder.decode(data):
                await self._take(frame, nursery)

    async def _take(self, frame: Frame, nursery: trio.Nursery) -> None:
        if frame.session == CONNECTION:
            if frame.kind == Kind.PING:
                await self._writer.send(encode_frame(Kind.PONG, CONNECTION, frame.payload))
        elif frame.kind == Kind.OPEN:
            await self._open(frame, nursery)
        elif (hosted := self._find(frame.session)) is not None:
            try:
                self._receive(hosted, frame)
            except RemoteProtocolError:
                hosted.session.dropped += 1

    def _receive(self, hosted: Hosted, frame: Frame) -> None:
        if hosted.wire is not self._writer:
            hosted.session.receive_owed(frame)
            return
        if frame.kind != Kind.CLOSE:
            hosted.session.receive(frame)
            return
        del self._sessions[frame.session]
        if decode_close(frame.payload).reason == CloseReason.MOVED:
            self._host.leave(hosted)
        else:
            hosted.end()

    async def _open(self, frame: Frame, nursery: trio.Nursery) -> None:
        try:
            opened = decode_open(frame.payload)
            hosted = self._host.open(opened, frame.session, self._writer, nursery)
            self._sessions[frame.session] = hosted
        except RemoteProtocolError:
            await self._close(frame.session, CloseReason.VERSION)
        except Refused as refused:
            await self._close(frame.session, refused.reason)

    def _find(self, number: int) -> Hosted | None:
        """The session of this number, unless it is over or for good somewhere else."""
        hosted = self._sessions.get(number)
        if hosted is not None and (hosted.done or not hosted.expects(self._writer)):
            del self._sessions[number]
            return None
        return hosted

    def _here(self) -> list[Hosted]:
        found = [self._find(number) for number in tuple(self._sessions)]
        return [hosted for hosted in found if hosted is not None and hosted.wire is self._writer]

    async def _close(self, number: int, reason: CloseReason) -> None:
        await self._writer.send(encode_frame(Kind.CLOSE, number, encode_close(reason)))


async def _listen(address: str) -> list[trio.SocketListener]:
    match parse_stream_address(address):
        case str(path):
            sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
            try:
                await sock.bind(path)
                sock.listen(64)
            except OSError:
                sock.close()
                raise
            return [trio.SocketListener(sock)]
        case host, port:
            return await trio.open_tcp_listeners(port, host=host)


def _bound(address: str, listener: trio.SocketListener) -> str:
    name = listener.socket.getsockname()
    return address if isinstance(name, str) else format_address(name[:2])


@contextmanager
def _unix_path(address: str) -> Iterator[None]:
    """Take away the socket that an earlier process left behind, and ours at the end."""
    path = parse_stream_address(address)
    if not isinstance(path, str):
        yield
        return
    _remove_socket(path)
    try:
        yield
    finally:
        _remove_socket(path)


def _remove_socket(path: str) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
