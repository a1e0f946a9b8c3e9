"""Events on both sides of a transceiver's death: none is lost, none is taken twice by a backend.

Both ends count a call's events in each direction, over all of its transceivers. The counts that a
transceiver leaves behind are as old as its last checkpoint; the next one opens the session with
them. What the backend has sent since may never have reached the client: ``SentEvents`` keeps it, to
be sent again. What the backend has received since the client repeats, as SCTP acknowledges what a
checkpoint holds: ``ReceivedEvents`` knows it again, by its bytes, since somebody else's events (a
sideband's, which nobody repeats) may come in between.

From then on both ends count from what the transceiver said.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import inf
from typing import Final

MAX_EVENTS: Final = 512
"""The last of each direction that are known; in four seconds so many may be sent."""
MAX_BYTES: Final = 262_144
"""Of those that can be sent again."""
REPEAT_SECONDS: Final = 10.0
"""In which a client has repeated what was not acknowledged; later the same bytes are new."""


class SentEvents:
    """What a backend has sent."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        """Since the call began."""
        self.lost = 0
        """Those that should have been sent again and were not kept."""
        self._last: deque[bytes] = deque()
        self._bytes = 0

    def add(self, event: bytes) -> None:
        """Count and keep one; over the bounds the oldest is forgotten."""
        self.count += 1
        self._last.append(event)
        self._bytes += len(event)
        while len(self._last) > MAX_EVENTS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._last.popleft())

    def resume(self, taken: int) -> list[bytes]:
        """Go on where the transceiver has ``taken`` so many; returns those to be sent again."""
        missing = max(self.count - taken, 0)
        again = list(self._last)[-missing:] if missing else []
        self.lost += missing - len(again)
        self.count = taken + len(again)
        return again


class ReceivedEvents:
    """What a backend has received."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        """Since the call began."""
        self.doubled = 0
        """Those that were dropped as they had come already."""
        self.owed = 0
        """Those that the former transceiver has passed on, which are still under way from it."""
        self._last: deque[int] = deque(maxlen=MAX_EVENTS)
        self._awaited: deque[int] = deque(maxlen=MAX_EVENTS)
        self._awaited_until = -inf

    def take(self, event: bytes, *, now: float) -> bool:
        """Count one; False when it is one that came already."""
        digest = hash(event)  # of 64 bits, keyed, of this process
        self.count += 1
        self._last.append(digest)
        if now > self._awaited_until or digest not in self._awaited:
            return True
        self._awaited.remove(digest)
        self.doubled += 1
        return False

    def take_owed(self) -> bool:
        """Take one that the former transceiver sent; False when it is none of those owed."""
        if not self.owed:
            return False
        self.owed -= 1
        return True

    def resume(self, passed: int, *, now: float) -> None:
        """Go on where the transceiver knows of so many that were ``passed`` on."""
        if now > self._awaited_until:
            self._awaited.clear()
        unknown = min(max(self.count - passed, 0), len(self._last))
        self._awaited.extend(islice(self._last, len(self._last) - unknown, None))
        for _ in range(unknown):
            self._last.pop()
        self.owed = max(passed - self.count, 0)
        self.count, self._awaited_until = passed, now + REPEAT_SECONDS
