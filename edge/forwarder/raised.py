"""What a pure forwarder leaves to Python: two bounded queues, and a rate limit for strangers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from edge.errors import Drop
from edge.forwarder.protocol import KNOWN_QUEUE, RAISED_BATCH, STRANGER_QUEUE, Raised
from edge.limits import TokenBucket


class RaisedQueues:
    """``strangers_per_second`` may be put in the long run, and one second's worth at once."""

    def __init__(self, strangers_per_second: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = TokenBucket(strangers_per_second, now=clock())
        self._known: deque[Raised] = deque()
        self._strangers: deque[Raised] = deque()
        self._filled = trio.Event()

    def put(self, raised: Raised, *, known: bool) -> Drop | None:
        """Leave a datagram, or say why not."""
        if not known and self._limit.take(now=self._clock()):
            return Drop.RATE_LIMIT
        queue, room = (self._known, KNOWN_QUEUE) if known else (self._strangers, STRANGER_QUEUE)
        if len(queue) >= room:
            return Drop.QUEUE_FULL
        queue.append(raised)
        self._filled.set()
        return None

    async def get(self) -> list[Raised]:
        """Wait for datagrams; returns up to RAISED_BATCH of each queue. Cancelling loses none."""
        await trio.lowlevel.checkpoint()
        while not self._known and not self._strangers:
            self._filled = trio.Event()
            await self._filled.wait()
        return _take(self._known) + _take(self._strangers)


def _take(queue: deque[Raised]) -> list[Raised]:
    return [queue.popleft() for _ in range(min(RAISED_BATCH, len(queue)))]
