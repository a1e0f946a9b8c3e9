"""A connection to a backend on Trio: one task reads, one writes, one keeps the deadlines.

Whatever ends the connection ends all three, and every session that is still on it is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
import trio

from edge.backends.frames.connection import Connection, Outgoing
from edge.backends.frames.wire import Frame
from edge.errors import Drop, RemoteProtocolError

READ_BYTES: Final = 8_192
"""Worked through before others have their turn: 900 of the smallest frames, some 3 ms."""
WRITE_BYTES: Final = 65_536
"""Of one batch."""
GOODBYE_SECONDS: Final = 1.0
"""For the last frames when the process stops."""

log = structlog.get_logger()


class Taker(Protocol):
    """A session on the link."""

    def receive(self, frame: Frame) -> None:
        """Take a frame of this session; never raises."""

    def lose(self) -> None:
        """The connection is lost."""


class Link:
    """One connection and the sessions on it; times in seconds."""

    def __init__(self, stream: trio.abc.Stream, *, stall_seconds: float) -> None:
        self.unusable = trio.Event()
        """Set when no new session may come here: the connection is lost, or the backend leaves."""
        self.cause = ""
        """Why the connection was lost."""
        self._stream = stream
        self._stall = stall_seconds
        self._work = trio.Event()
        self._connection = Connection(
            stall_seconds=stall_seconds, now=trio.current_time(), on_work=lambda: self._work.set()
        )
        self._sessions: dict[int, Taker] = {}
        self._scope = trio.CancelScope()
        self._writing = trio.CancelScope(shield=True)
        self._leaving = False

    @property
    def sessions(self) -> int:
        """Sessions that are open here."""
        return len(self._sessions)

    @property
    def drops(self) -> Counter[Drop]:
        """What was discarded that belongs to no session."""
        return self._connection.drops

    @property
    def answered(self) -> bool:
        """Whether the backend ever sent a whole frame."""
        return self._connection.heard

    def open(self, taker: Taker, outgoing: Outgoing, opening: bytes) -> int:
        """Open a session; ``forget`` it when it is over."""
        session = self._connection.next_session()
        self._sessions[session] = taker
        outgoing.attach(self._connection, session, opening)
        self._see_whether_draining()
        return session

    def forget(self, session: int) -> None:
        """Frames of this session concern nobody any more."""
        self._sessions.pop(session, None)

    async def serve(self) -> None:
        """Serve until the connection is lost; cancelled, what waits to be sent still goes."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._guard, self._write)
                try:
                    with self._scope:
                        async with trio.open_nursery() as reading:
                            reading.start_soon(self._guard, self._keep_deadlines)
                            await self._guard(self._read)
                finally:
                    self._leave()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except RemoteProtocolError as error:
            self._end(str(error))
        except trio.BrokenResourceError:
            self._end("the connection was reset")
        except trio.TooSlowError:
            self._end("the backend does not read")
        except Exception:
            log.exception("bug in a backend's connection")
            self.drops[Drop.BUG] += 1
            self._end("a bug")

    def _end(self, cause: str) -> None:
        self.cause = self.cause or cause
        self._scope.cancel()

    def _leave(self) -> None:
        """Tell the sessions; the writer ends when nothing waits, or soon."""
        self._leaving = True
        self.unusable.set()
        for taker in tuple(self._sessions.values()):
            taker.lose()
        self._work.set()
        self._writing.deadline = trio.current_time() + (0.0 if self.cause else GOODBYE_SECONDS)

    async def _read(self) -> None:
        while data := await self._stream.receive_some(READ_BYTES):
            for frame in self._connection.receive(data, now=trio.current_time()):
                taker = self._sessions.get(frame.session)
                if taker is None:
                    self.drops[Drop.UNKNOWN_SESSION] += 1
                else:
                    taker.receive(frame)
            self._see_whether_draining()
        raise RemoteProtocolError("the backend closed the connection")

    async def _write(self) -> None:
        # Shielded, as a frame that was cut off half way would spoil all that follows.
        with self._writing:
            while True:
                self._work = trio.Event()
                if batch := self._connection.take(WRITE_BYTES):
                    with trio.fail_after(self._stall):
                        await self._stream.send_all(batch)
                elif self._leaving:
                    return
                else:
                    await self._work.wait()

    async def _keep_deadlines(self) -> None:
        while True:
            await trio.sleep_until(self._connection.deadline)
            self._connection.tick(now=trio.current_time())

    def _see_whether_draining(self) -> None:
        if self._connection.draining:
            self.unusable.set()
