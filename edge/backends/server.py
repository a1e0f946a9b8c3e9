"""For those who write a backend in Python: the other side of the ``frames`` protocol.

    async def parrot(session: BackendSession) -> None:
        async for heard in session:
            if isinstance(heard, bytes):
                await session.say(heard)

    async with serve_backend("unix:/run/parrot.sock", parrot):
        await trio.sleep_forever()

The handler runs once for each session, and is cancelled when the session ends on the other side.
Returning finishes the conversation, raising fails it; others go on. Writing takes turns by a lock
that is fair, so that sessions need no queue here. What a handler does not take in time is bounded
by its window; of a transceiver that does not keep to it the oldest audio is dropped.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final

import structlog
import trio

from edge.address import format_address, parse_stream_address
from edge.backends.frames.session import BackendSession, Event
from edge.backends.frames.wire import (
    CONNECTION,
    CloseReason,
    Frame,
    FrameDecoder,
    Kind,
    decode_open,
    encode_close,
    encode_frame,
)
from edge.errors import RemoteProtocolError

__all__ = ["BackendSession", "Event", "Handler", "serve_backend", "serve_stream"]

SILENCE_SECONDS: Final = 60.0
"""Without a frame a connection is closed: transceivers send a ``ping`` every few seconds."""
WRITE_SECONDS: Final = 5.0
"""For one frame; a transceiver that takes longer is gone."""
READ_BYTES: Final = 32_768

log = structlog.get_logger()

Handler = Callable[[BackendSession], Awaitable[None]]


@asynccontextmanager
async def serve_backend(
    address: str, handler: Handler, *, max_sessions: int = 1_000
) -> AsyncIterator[str]:
    """Serve on ``unix:/PATH`` or ``HOST:PORT`` (port 0 takes a free one) for as long as the block.

    Yields the address. Over ``max_sessions`` on one connection sessions are refused. Raises OSError
    when it can not listen, ValueError for what is no address.
    """
    serve = partial(serve_stream, handler, max_sessions)
    with _unix_path(address):
        listeners = await _listen(address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            yield _bound(address, listeners[0])
            nursery.cancel_scope.cancel()


async def serve_stream(handler: Handler, max_sessions: int, stream: trio.abc.Stream) -> None:
    """Serve one transceiver until it leaves; raises nothing but what cancels us."""
    try:
        await _Served(stream, handler, max_sessions).run()
    finally:
        await trio.aclose_forcefully(stream)


class _Served:
    """One connection; the sessions on it are tasks of its nursery."""

    def __init__(self, stream: trio.abc.Stream, handler: Handler, max_sessions: int) -> None:
        self._stream = stream
        self._handler = handler
        self._max_sessions = max_sessions
        self._sessions: dict[int, tuple[BackendSession, trio.CancelScope]] = {}
        self._lock = trio.Lock()
        self._scope = trio.CancelScope()
        self._cut = False  # the last frame was not written whole: nothing may follow it

    async def run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                try:
                    await self._read(nursery)
                except (trio.BrokenResourceError, RemoteProtocolError, trio.TooSlowError) as error:
                    log.warning("transceiver lost", error=type(error).__name__)
                nursery.cancel_scope.cancel()

    async def send(self, frame: bytes, before: Callable[[], None] = lambda: None) -> None:
        """Write a frame; once begun it is written whole, whoever is cancelled meanwhile."""
        async with self._lock:
            if self._cut:
                return
            before()
            self._cut = True
            deadline = trio.current_time() + WRITE_SECONDS
            with (
                trio.CancelScope(shield=True, deadline=deadline),
                suppress(trio.BrokenResourceError),
            ):
                await self._stream.send_all(frame)
                self._cut = False
        if self._cut:
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

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
                await self.send(encode_frame(Kind.PONG, CONNECTION, frame.payload))
        elif frame.kind == Kind.OPEN:
            await self._open(frame, nursery)
        elif frame.session in self._sessions:
            session, scope = self._sessions[frame.session]
            if frame.kind == Kind.CLOSE:
                del self._sessions[frame.session]
                scope.cancel()
                return
            try:
                session.receive(frame)
            except RemoteProtocolError:
                session.dropped += 1

    async def _open(self, frame: Frame, nursery: trio.Nursery) -> None:
        try:
            session = BackendSession(decode_open(frame.payload), frame.session, self)
        except RemoteProtocolError:
            await self._close(frame.session, CloseReason.VERSION)
            return
        if len(self._sessions) >= self._max_sessions:
            await self._close(frame.session, CloseReason.OVERLOADED)
            return
        scope = trio.CancelScope()
        self._sessions[frame.session] = session, scope
        nursery.start_soon(self._handle, session, frame.session, scope)

    async def _handle(self, session: BackendSession, number: int, scope: trio.CancelScope) -> None:
        reason = CloseReason.FAILED
        try:
            with scope:
                await session.send_window()
                await self._handler(session)
                reason = CloseReason.DONE
        except Exception:
            log.exception("backend handler failed", session=session.call)
        finally:
            if self._sessions.pop(number, None) is not None:
                with trio.move_on_after(WRITE_SECONDS, shield=True):
                    await self._close(number, reason)

    async def _close(self, number: int, reason: CloseReason) -> None:
        await self.send(encode_frame(Kind.CLOSE, number, encode_close(reason)))


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
