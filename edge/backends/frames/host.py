"""The sessions of a backend, whatever connection they are on; see ``edge.backends.server``.

A session that leaves its connection without having ended is kept for a while: its handler goes on,
and waits where it would speak. Of those who open it again the one of the higher epoch has it, of
one epoch the later attempt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf

import structlog
import trio

from edge.backends.frames.frame_writer import WRITE_SECONDS
from edge.backends.frames.session import BackendSession, Wire
from edge.backends.frames.wire import CloseReason, Kind, Open, Place, encode_close, encode_frame

log = structlog.get_logger()

Handler = Callable[[BackendSession], Awaitable[None]]


class Hosted:
    """One session, its handler's scope, and where it is."""

    def __init__(self, opened: Open, number: int, wire: Wire) -> None:
        self.session = BackendSession(opened, number, wire)
        self.scope = trio.CancelScope()
        self.joining = trio.CancelScope()
        self.rank = rank_of(opened)
        self.number = number
        self.wire: Wire | None = wire
        self.former: Wire | None = None
        """Where it was before, which may still bring events that were passed on there."""
        self.done = False

    def expects(self, wire: Wire) -> bool:
        """Whether anything that comes there is its own."""
        owed = self.session.received_events.owed
        return self.wire is wire or (self.former is wire and owed > 0)

    def end(self) -> None:
        """It is over on the other side: nothing is to be said there."""
        self.wire = None
        self.joining.cancel()
        self.session.leave()
        self.scope.cancel()


class Refused(Exception):
    """The session can not be opened; ``reason`` is for its ``close``."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Host:
    """All sessions; ``keep_seconds`` is how long one waits for a transceiver, 0: not at all."""

    def __init__(self, handler: Handler, *, max_sessions: int, keep_seconds: float) -> None:
        self._handler = handler
        self._max_sessions = max_sessions
        self._keep_seconds = keep_seconds
        self.sessions = 0
        """Those that there are, with or without a connection."""
        self._by_call: dict[str, Hosted] = {}

    def open(self, opened: Open, number: int, wire: Wire, nursery: trio.Nursery) -> Hosted:
        """Begin a session or go on with it, as tasks of the nursery; raises Refused."""
        place = opened.resumed
        found = self._by_call.get(opened.call) if isinstance(place, Place) else None
        if found is not None and isinstance(place, Place):
            if rank_of(opened) <= found.rank:
                raise Refused(CloseReason.FENCED)
            if opened.audio == found.session.audio:
                self._take_up(found, opened, place, number, wire)
                nursery.start_soon(self._join, found.joining, found.session, place, wire)
                return found
            found.end()
        if self.sessions >= self._max_sessions:
            raise Refused(CloseReason.OVERLOADED)
        hosted = Hosted(opened, number, wire)
        self.sessions += 1
        self._by_call[opened.call] = hosted
        nursery.start_soon(self._serve, hosted)
        return hosted

    def leave(self, hosted: Hosted) -> None:
        """Keep it: its connection is lost, or its transceiver says that another takes it up."""
        hosted.joining.cancel()
        hosted.session.leave()
        hosted.former, hosted.wire = hosted.wire or hosted.former, None
        hosted.scope.deadline = trio.current_time() + self._keep_seconds

    def _take_up(self, hosted: Hosted, opened: Open, place: Place, number: int, wire: Wire) -> None:
        if hosted.wire is not None and not place.exact:
            hosted.wire.give_up()
        self.leave(hosted)
        hosted.session.take_up(opened, place, number)
        hosted.rank, hosted.number, hosted.wire = rank_of(opened), number, wire
        hosted.joining, hosted.scope.deadline = trio.CancelScope(), inf

    async def _join(
        self, scope: trio.CancelScope, session: BackendSession, place: Place, wire: Wire
    ) -> None:
        with scope:  # cancelled when it leaves again
            await session.join(place, wire)

    async def _serve(self, hosted: Hosted) -> None:
        reason = CloseReason.FAILED
        try:
            with hosted.scope:
                reason = await self._handle(hosted.session)
        except Exception:
            log.exception("backend handler failed", session=hosted.session.call)
        finally:
            self.sessions -= 1
            if self._by_call.get(hosted.session.call) is hosted:
                del self._by_call[hosted.session.call]
            await self._close(hosted, reason)

    async def _handle(self, session: BackendSession) -> CloseReason:
        await session.send_window()
        async with trio.open_nursery() as nursery:
            if self._keep_seconds:
                nursery.start_soon(session.report)
            await self._handler(session)
            nursery.cancel_scope.cancel()
        return CloseReason.DONE

    async def _close(self, hosted: Hosted, reason: CloseReason) -> None:
        hosted.done = True
        hosted.joining.cancel()
        if hosted.wire is not None:
            with trio.move_on_after(WRITE_SECONDS, shield=True):
                closing = encode_frame(Kind.CLOSE, hosted.number, encode_close(reason))
                await hosted.wire.send(closing)


def rank_of(opened: Open) -> tuple[int, int]:
    """Who of several that opened a call has it: the highest."""
    epoch = opened.resumed.epoch if isinstance(opened.resumed, Place) else 1
    return epoch, opened.attempt
