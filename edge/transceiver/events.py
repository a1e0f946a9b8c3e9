"""A session's event channel: JSON events between its backend and whoever speaks for the client.

The backend's side is ``EventSink``. The other side is *held* by the client's data channel, by
sideband connections of the customer's servers, by several of them, or by nobody: then what the
backend says is counted and gone, as nobody asked for it. All holders hear the same, and what any of
them says goes to the backend. What the session's events must tell a client, whatever the backend,
is the ``Dialect``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from edge.errors import Drop, RemoteProtocolError
from edge.transceiver.dialect import Dialect, DialectSnapshot

MAX_EVENT_BYTES: Final = 65_536
MAX_HOLDERS: Final = 4

Take = Callable[[bytes], bool]
"""Takes an event for the client; False when there is no room for it now."""


class TooManyHolders(RuntimeError):
    """As many as may hold a session's events do."""


class Holder(Protocol):
    """Who speaks for the client; neither method may block."""

    def take(self, event: bytes) -> bool:
        """Take an event; False when there is no room for it now."""

    def close(self) -> None:
        """The session is over: no event will come any more."""


class EventChannel:
    """The events of one session."""

    def __init__(self, dialect: Dialect | None = None) -> None:
        self.drops: Counter[Drop] = Counter()
        self._dialect = dialect
        self._holders: list[Holder] = []

    @property
    def is_held(self) -> bool:
        """Whether anybody takes events for the client."""
        return bool(self._holders)

    def snapshot(self) -> DialectSnapshot:
        """What the client has been told of the session."""
        return DialectSnapshot() if self._dialect is None else self._dialect.snapshot()

    @contextmanager
    def joined(
        self, holder: Holder, *, always: bool = False, greeted: bool = True
    ) -> Iterator[None]:
        """Have every event of the backend's for as long as the block, ``session.created`` first.

        Who speaks another dialect is not ``greeted``. Raises TooManyHolders when there are
        MAX_HOLDERS already, but not for who must ``always`` find room: the client itself.
        """
        with self._hold(holder, always=always):
            for event in self._dialect.greet() if self._dialect and greeted else ():
                self.drops[Drop.QUEUE_FULL] += not holder.take(event)
            yield

    @contextmanager
    def held(self, take: Take) -> Iterator[None]:
        """Have every event from now on, for who is neither greeted nor told of the end."""
        with self._hold(_Function(take)):
            yield

    @contextmanager
    def _hold(self, holder: Holder, *, always: bool = False) -> Iterator[None]:
        if len(self._holders) >= MAX_HOLDERS and not always:
            raise TooManyHolders("too many hold this session's events")
        self._holders.append(holder)
        try:
            yield
        finally:
            self._holders.remove(holder)

    def send_event(self, event: bytes) -> bool:
        """See ``EventSink``: True when somebody took it."""
        if len(event) > MAX_EVENT_BYTES:
            self.drops[Drop.MALFORMED] += 1
            return False
        if self._dialect is not None:
            self._dialect.note(event)
        if not self._holders:
            self.drops[Drop.NOT_READY] += 1
            return False
        taken = [holder.take(event) for holder in tuple(self._holders)]
        self.drops[Drop.QUEUE_FULL] += taken.count(False)
        return any(taken)

    def receive(self, event: bytes) -> bool:
        """Take an event of a holder's; True when it is fit for the backend."""
        if self._dialect is None:
            return True
        try:
            answers = self._dialect.receive(event)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            self.send_event(self._dialect.refuse(event, str(error)))
            return False
        for answer in answers:
            self.send_event(answer)
        return True

    def close(self) -> None:
        """Let every holder know that the session is over."""
        for holder in tuple(self._holders):
            holder.close()


class _Function:
    """A holder that is a function."""

    def __init__(self, take: Take) -> None:
        self.take = take

    def close(self) -> None:
        """Nothing to do."""
