"""The session events of OpenAI's dialect, for backends that do not speak it. No I/O.

Clients wait for ``session.created`` when their channel opens, and for ``session.updated`` after
their ``session.update``: some give up after five seconds. A backend that is a realtime server says
all this itself; in front of any other one the edge does, at once. Either way the session is
remembered, so that a holder who joins later (a sideband) is greeted with what it is by then, also
where another process goes on with the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from edge.errors import RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES, Json, check_depth, decode_session, merge

MAX_CLIENT_EVENT_BYTES: Final = 262_144
"""As browsers' data channels send them."""

_MARK: Final = b'"session.'


class _Event(msgspec.Struct):
    """What is read of any event."""

    type: str
    event_id: str | None = None
    session: msgspec.Raw = msgspec.Raw()  # empty: there is none


class DialectSnapshot(msgspec.Struct, frozen=True):
    """The state of a ``Dialect``."""

    made: Annotated[int, Meta(ge=0)] = 0
    """Events so far: no id comes twice."""
    session: Annotated[bytes, Meta(max_length=MAX_SESSION_BYTES)] = b""
    """JSON; empty: as the call was opened."""


class Dialect:
    """The session of one call, as its clients know it."""

    def __init__(
        self, call: str, configured: Mapping[str, object], *, backend_answers: bool = False
    ) -> None:
        """``configured`` is what the call was opened with."""
        self._backend_answers = backend_answers
        self._made = 0
        self._changed = b""
        """The session as JSON, once it is another than at the beginning."""
        self._session: Json | None = None
        if not backend_answers:
            head: Json = {"type": "realtime", "object": "realtime.session"}
            self._session = merge({**head, "id": _session_id(call)}, configured)

    def greet(self) -> list[bytes]:
        """What a holder is told who joins now; nothing where the backend will tell it."""
        return [] if self._session is None else [self._event("session.created", self._session)]

    def receive(self, event: bytes) -> list[bytes]:
        """Take an event of the client's and return the answers to it.

        Raises RemoteProtocolError for what is no event.
        """
        if len(event) > MAX_CLIENT_EVENT_BYTES:
            raise RemoteProtocolError("the event is too long")
        head = _decode(event)
        if head.type != "session.update" or self._session is None or self._backend_answers:
            return []
        self._session, self._changed = self._updated(self._session, head.session)
        return [self._event("session.updated", self._session)]

    def note(self, event: bytes) -> None:
        """Look at an event of the backend's: it may say what the session is."""
        if not self._backend_answers or _MARK not in event:
            return
        try:
            head = _decode(event)
            if head.type in ("session.created", "session.updated") and head.session:
                self._session = _decode_object(head.session)
                told = bytes(head.session)
                self._changed = told if len(told) <= MAX_SESSION_BYTES else b""
        except RemoteProtocolError:
            pass  # the client may make more of it

    def refuse(self, event: bytes, sentence: str) -> bytes:
        """Make the ``error`` event that answers an event which is not acceptable."""
        try:
            event_id = _decode(event).event_id
        except RemoteProtocolError:
            event_id = None
        error = {
            "type": "invalid_request_error",
            "code": "invalid_event",
            "message": sentence,
            "param": None,
            "event_id": event_id,
        }
        return msgspec.json.encode({"type": "error", "event_id": self._id(), "error": error})

    def snapshot(self) -> DialectSnapshot:
        """Write down what differs from the beginning; a session that is too long is not kept."""
        return DialectSnapshot(self._made, self._changed)

    def load(self, snapshot: DialectSnapshot) -> None:
        """Take a snapshot's state. Raises RemoteProtocolError for a session that is none."""
        self._made, self._changed = snapshot.made, snapshot.session
        if snapshot.session:
            self._session = decode_session(snapshot.session)

    def _updated(self, session: Json, changes: msgspec.Raw) -> tuple[Json, bytes]:
        if not changes:
            raise RemoteProtocolError("session.update has no session")
        updated = merge(session, _decode_object(changes))
        encoded = msgspec.json.encode(updated)
        if len(encoded) > MAX_SESSION_BYTES:
            raise RemoteProtocolError(f"the session is longer than {MAX_SESSION_BYTES} bytes")
        return updated, encoded

    def _event(self, kind: str, session: Json) -> bytes:
        return msgspec.json.encode({"type": kind, "event_id": self._id(), "session": session})

    def _id(self) -> str:
        self._made += 1
        return f"event_edge_{self._made}"


def _session_id(call: str) -> str:
    return "sess_" + call.removeprefix("rtc_")


def _decode(event: bytes) -> _Event:
    try:
        return msgspec.json.decode(event, type=_Event)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("an event is a JSON object with a type") from None


def _decode_object(raw: msgspec.Raw) -> Json:
    try:
        value = msgspec.json.decode(raw, type=Json)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("the session is not a JSON object") from None
    check_depth(value)
    return value
