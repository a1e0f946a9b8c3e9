"""Look-ups of what a datagram tells of its client, by who finds nobody for it.

A relay that has just been started asks for flows so, a transceiver for sessions that are not its
own. The datagrams of such a client wait until the registry has been asked, and then go on in order.
Anybody can send from any number of forged sources, so everything here has a bound: look-ups a
second, clients that wait, datagrams that wait for one, and look-ups under way (one for each task
in ``serve``). A client that is not found is not looked up again for a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from enum import Enum
from typing import Final, Generic, TypeVar

import structlog
import trio

from edge.errors import Drop
from edge.limits import TokenBucket

MAX_CLIENTS: Final = 512
"""Clients that may wait at once."""
MAX_DATAGRAMS: Final = 8
"""Datagrams that may wait for one client; the oldest goes."""
MAX_ABSENT: Final = 4_096

log = structlog.get_logger()

Retry = Callable[[float], None]
"""Handles a datagram again, at the given time; the client may still be unknown."""


class Outcome(Enum):
    """What came of a look-up; the values are seconds for which there is no other one."""

    FOUND = 0.0
    """The client has a flow now."""
    WAITS = 0.1
    """It has a record, and who shall serve it is not there: perhaps soon."""
    ABSENT = 1.0
    """Nobody knows it."""


Client = TypeVar("Client", bound=Hashable)
"""What a client is known by: a path, a lead."""


class Lookups(Generic[Client]):
    """Runs ``resolve`` for unknown clients."""

    def __init__(
        self,
        resolve: Callable[[Client], Awaitable[Outcome]],
        *,
        per_second: float,
        clock: Callable[[], float],
        max_datagrams: int = MAX_DATAGRAMS,
    ) -> None:
        """``max_datagrams`` is how many may wait for one client."""
        self._resolve = resolve
        self._clock = clock
        self._max_datagrams = max_datagrams
        self._bucket = TokenBucket(per_second, now=clock())
        self._waiting: dict[Client, deque[Retry]] = {}
        self._asked: deque[Client] = deque()
        self._unserved = trio.Semaphore(0)
        self._absent: dict[Client, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, client: Client, retry: Retry, *, now: float) -> Drop | None:
        """Keep a datagram until its client has been looked up, or return what was dropped."""
        held = self._waiting.get(client)
        if held is not None:
            full = len(held) == self._max_datagrams
            held.append(retry)
            return Drop.QUEUE_FULL if full else None
        if now < self._absent.get(client, -math.inf):
            return Drop.UNKNOWN_FLOW
        if len(self._waiting) >= MAX_CLIENTS:
            return Drop.TABLE_FULL
        if self._bucket.take(now=now):
            return Drop.RATE_LIMIT
        self._waiting[client] = deque([retry], maxlen=self._max_datagrams)
        self._asked.append(client)
        self._unserved.release()
        return None

    async def serve(self) -> None:
        """Look clients up, one after the other, until cancelled."""
        while True:
            await self._unserved.acquire()
            client = self._asked.popleft()
            try:
                outcome = await self._resolve(client)
            except Exception:
                outcome = Outcome.ABSENT
                log.exception("bug in a flow look-up")
            now = self._clock()
            if outcome is not Outcome.FOUND:
                self._remember_absent(client, now + outcome.value)
            for retry in self._waiting.pop(client):
                retry(now)

    def clear(self) -> None:
        """Forget all that waits."""
        self._waiting.clear()
        self._asked.clear()
        self._unserved = trio.Semaphore(0)

    def _remember_absent(self, client: Client, until: float) -> None:
        self._absent.pop(client, None)
        if len(self._absent) >= MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        self._absent[client] = until
