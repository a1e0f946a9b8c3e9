"""A session's backend: its conversation, and what the end of the one means for the other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from edge.backends.protocol import Backend, Call, Resumable
from edge.errors import BackendError, BackendFenced, EndReason
from edge.transceiver.events import EventChannel
from edge.transceiver.playout import Playout

log = structlog.get_logger()


class BackendSide:
    """One session's conversation with the model, out of which no failure comes."""

    def __init__(
        self,
        call: Call,
        backend: Backend,
        playout: Playout,
        events: EventChannel,
        *,
        changed: Callable[[], None],
    ) -> None:
        """``changed`` is called when the resume token would be another than before."""
        self.conversation = backend.open(call, playout, events)
        self._session = call.session
        self._events = events
        self._moved = False
        if isinstance(self.conversation, Resumable):
            self.conversation.watch(changed)

    async def run(self, end: Callable[[EndReason], None]) -> None:
        """Converse; ``end`` is told why the session is over, unless this is cancelled."""
        try:
            await self.conversation.run()
        except* BackendFenced:  # it heard of our heir before we did
            end(EndReason.FENCED)
        except* BackendError as group:
            log.warning("backend failed", session=self._session, error=str(group.exceptions[0]))
            end(EndReason.BACKEND_FAILED)
        except* Exception:
            log.exception("backend failed", session=self._session)
            end(EndReason.BACKEND_FAILED)
        else:
            end(EndReason.BACKEND_CLOSED)

    def move(self) -> None:
        """Part from the model without ending the call, once: it goes on elsewhere."""
        if isinstance(self.conversation, Resumable) and not self._moved:
            self.conversation.move()
        self._moved = True

    def resume_token(self) -> bytes:
        """What the backend's next conversation needs."""
        conversation = self.conversation
        return conversation.resume_token() if isinstance(conversation, Resumable) else b""

    def tell_end(self, reason: EndReason) -> None:
        """Tell the end of the session to the backend, and to whoever holds its events."""
        event = msgspec.json.encode({"type": "session.ended", "reason": reason.value})
        try:
            if self._events.is_held:
                self._events.send_event(event)
        except Exception:
            log.exception("goodbye failed", session=self._session)
        try:
            self.conversation.receive_event(event)
        except Exception:
            log.exception("backend failed", session=self._session)
