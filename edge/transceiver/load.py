"""Reads how busy and how late the loop is, some times a second, for ``admission``.

Busy is all the time that the loop does not wait for input: its own work, and what others make it
wait for (a processor, the interpreter's lock). What is late for this task is late for the 20 ms of
every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from edge.transceiver.admission import Admission, LoopReading

INTERVAL_SECONDS: Final = 0.1

log = structlog.get_logger()


class LoopMeter(trio.abc.Instrument):
    """Adds up the time that Trio's loop spends waiting.

    ``rested`` tells how much of the other time one of its tasks has slept, in seconds.
    """

    def __init__(self, clock: Callable[[], float], rested: Callable[[], float] = float) -> None:
        self._clock = clock
        self._rested = rested
        self._since = clock()
        self._waited = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """Note when a wait begins (Trio's hook)."""
        self._since = self._clock()

    def after_io_wait(self, timeout: float) -> None:
        """Note when it ends (Trio's hook)."""
        self._waited += self._clock() - self._since

    def busy_seconds(self) -> float:
        """Time that was not spent waiting, since any fixed moment."""
        return self._clock() - self._waited - self._rested()


async def watch_loop(
    admission: Admission,
    *,
    rested: Callable[[], float] = float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep ``admission`` informed about the loop that we run in, until cancelled."""
    meter = LoopMeter(trio.current_time, rested)
    trio.lowlevel.add_instrument(meter)
    try:
        task_status.started()
        await watch_load(admission, meter.busy_seconds)
    finally:
        trio.lowlevel.remove_instrument(meter)


async def watch_load(admission: Admission, busy_seconds: Callable[[], float]) -> None:
    """Take a reading every ``INTERVAL_SECONDS``."""
    due = trio.current_time()
    while True:
        now = trio.current_time()
        was = admission.overloaded
        admission.observe(LoopReading(now, busy_seconds(), now - due))
        if admission.overloaded != was:
            _tell(admission)
        due = now + INTERVAL_SECONDS
        await trio.sleep_until(due)


def _tell(admission: Admission) -> None:
    told = log.bind(busy=round(admission.busy, 3), lag_ms=round(admission.lag_seconds * 1000, 1))
    if admission.overloaded:
        told.warning("overloaded")
    else:
        told.info("room again")
