"""The one clock of everything in a process that has something to do every 20 ms.

A wheel of 5 ms ticks: whoever has something to do stands in the bucket of its next tick, so a tick
costs only those that are due, and an idle process has no ticks at all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, inf
from typing import Final, Protocol

import structlog
import trio

TICK: Final = 0.005  # seconds

log = structlog.get_logger()


class Paced(Protocol):
    """What the pacer calls: a playout, a jitter buffer."""

    def emit(self, now: float) -> float:
        """Do what is due; return when the next is due, ``math.inf`` for never.

        It must not raise: the pacer serves all sessions. What escapes is logged, and is never.
        """


class Pacer:
    """The wheel; ``clock`` is the one by which due times are given, in seconds.

    ``hold`` and ``flush`` are called around a turn, so that what it sends may leave together.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        hold: Callable[[], None] = lambda: None,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self.now: Final = clock
        self._hold = hold
        self._flush = flush
        self._wheel: dict[int, list[Paced]] = {}
        self._next_tick = inf
        self._earlier = trio.Event()

    def schedule(self, paced: Paced, due: float) -> None:
        """Call ``paced.emit`` at the first tick that is not before ``due`` or now."""
        tick = ceil(max(due, self.now()) / TICK)
        self._wheel.setdefault(tick, []).append(paced)
        if tick < self._next_tick:
            self._earlier.set()

    async def run(self) -> None:
        """Turn the wheel until cancelled; sleeps without ticks while nothing is due."""
        while True:
            self._next_tick = min(self._wheel, default=inf)
            self._earlier = trio.Event()
            with trio.move_on_at(self._next_tick * TICK):
                await self._earlier.wait()
            self.turn(self.now())

    def turn(self, now: float) -> None:
        """Serve every bucket that is due at ``now``."""
        current = int(now / TICK + 1e-6)
        self._hold()
        self._serve(current, now)
        self._flush()

    def _serve(self, current: int, now: float) -> None:
        for tick in sorted(tick for tick in self._wheel if tick <= current):
            for paced in self._wheel.pop(tick):
                try:
                    due = paced.emit(now)
                except Exception:
                    log.exception("bug in what is paced")
                    continue
                if due != inf:
                    later = max(ceil(due / TICK - 1e-6), current + 1)
                    self._wheel.setdefault(later, []).append(paced)
