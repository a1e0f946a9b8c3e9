"""A session's event channel: JSON events between its backend and whoever speaks for the client.

The backend's side is ``EventSink``. The other side is *held* by a data channel, a sideband
connection, or nobody: then what the backend says is counted and gone, as nobody asked for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from edge.errors import Drop

MAX_EVENT_BYTES: Final = 65_536
MAX_HOLDERS: Final = 4

Take = Callable[[bytes], bool]
"""Takes an event for the client; False when there is no room for it now."""


class EventChannel:
    """The events of one session."""

    def __init__(self) -> None:
        self.drops: Counter[Drop] = Counter()
        self._holders: list[Take] = []

    @property
    def is_held(self) -> bool:
        """Whether anybody takes events for the client."""
        return bool(self._holders)

    @contextmanager
    def held(self, take: Take) -> Iterator[None]:
        """Have every event of the backend's for as long as the block; must not block.

        Raises RuntimeError when there are MAX_HOLDERS already.
        """
        if len(self._holders) >= MAX_HOLDERS:
            raise RuntimeError("too many hold this session's events")
        self._holders.append(take)
        try:
            yield
        finally:
            self._holders.remove(take)

    def send_event(self, event: bytes) -> bool:
        """See ``EventSink``: True when somebody took it."""
        if len(event) > MAX_EVENT_BYTES:
            self.drops[Drop.MALFORMED] += 1
            return False
        if not self._holders:
            self.drops[Drop.NOT_READY] += 1
            return False
        taken = [take(event) for take in self._holders]
        self.drops[Drop.QUEUE_FULL] += taken.count(False)
        return any(taken)
