"""A clock for a virtual world: where everybody waits, the time they wait for has come.

It does what Trio's ``MockClock(autojump_threshold=0)`` does, which asks the kernel twice and takes
statistics before each jump, for less: a scene of 20 ms packets is little else than such jumps. And
it carries what is ``Timed``, such as a virtual network, without a task that sleeps and wakes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Final, Protocol

from trio._core._run import GLOBAL_RUN_CONTEXT
from trio.abc import Clock

FOREVER: Final = 1e9
"""Seconds that Trio may wait where nothing is to come by the clock."""


class Timed(Protocol):
    """What happens by the clock alone."""

    @property
    def due(self) -> float:
        """When something is next to happen, ``math.inf`` for never."""

    def happen(self) -> None:
        """Let happen what is due; called outside of every task, while all of them wait."""


class VirtualClock(Clock):
    """Time stands still while a task can run, or waits for all others to be blocked."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timed: list[Timed] = []

    @contextmanager
    def carrying(self, timed: Timed) -> Iterator[None]:
        """Let something happen by this clock for a while."""
        self._timed.append(timed)
        try:
            yield
        finally:
            self._timed.remove(timed)

    def start_clock(self) -> None:
        """See ``trio.abc.Clock``."""

    def jump(self, seconds: float) -> None:
        """Let time pass in which nobody could do anything."""
        self._now += seconds

    def current_time(self) -> float:
        """See ``trio.abc.Clock``."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See ``trio.abc.Clock``; Trio asks when no task can run."""
        for timed in self._timed:
            deadline = min(deadline, timed.due)
        if deadline > self._now:
            if deadline == inf or GLOBAL_RUN_CONTEXT.runner.waiting_for_idle:
                return FOREVER
            self._now = deadline
        for timed in self._timed:
            if timed.due <= self._now:
                timed.happen()
        return 0.0
