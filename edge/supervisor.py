"""Keeps a worker process alive, on sockets that outlive it.

The supervisor is the process that was started. It binds the sockets, forks the worker before any
thread or event loop runs in it, and then only waits. A worker that dies, or stands still, is
replaced by another fork: nothing is imported again, no address, port or place in a SO_REUSEPORT
group changes, and what clients sent meanwhile waits in the sockets' queues.

SIGTERM and SIGINT are passed on. Once the worker ends because of them, or by itself with exit code
0, or because it could not start, its exit code is ours. A worker does not outlive its supervisor.

The signals that matter are blocked and waited for, so none can come at a wrong moment. Worker and
supervisor share a page of memory, in which the worker says that it serves, and that it lives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Final, NoReturn

import structlog

SERVED_SECONDS: Final = 2.0
"""Who served for so long is no part of a crash loop, and is replaced at once: that costs calls less
than any pause, even where something kills a worker again and again."""
PAUSES: Final = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds before each try in a crash loop, after which the supervisor gives up."""
LOOK_SECONDS: Final = 1.0
MAX_SILENT_LOOKS: Final = 10
"""A worker without a sign of life for so many looks is killed; a stopped machine has no looks."""
BEAT_SECONDS: Final = 0.5

_ASKED: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

log = structlog.get_logger()


def is_usable() -> bool:
    """Whether the system has what this needs."""
    return sys.platform == "linux"


class Restarts:
    """How soon a dead worker is replaced, and when no more; without a clock."""

    def __init__(self) -> None:
        self.total = 0
        """Workers that were replaced."""
        self.ever_served = False
        self._tries = 0

    def pause(self, served: float | None) -> float | None:
        """Seconds to wait after a death; None: give up.

        ``served`` is for how long the dead worker did, None when it never came so far.
        """
        self.ever_served |= served is not None
        if served is not None and served >= SERVED_SECONDS:
            self._tries = 0
        if self._tries == len(PAUSES):
            return None
        self._tries += 1
        self.total += 1
        return PAUSES[self._tries - 1]


class Pulse:
    """What a worker tells its supervisor, in memory that both see."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")

    @property
    def beats(self) -> float:
        """Signs of life so far."""
        return self._words[0]

    def beat(self) -> None:
        """Give a sign of life."""
        self._words[0] += 1.0

    def serve(self, *, now: float) -> None:
        """Say that all is open."""
        self._words[1] = now

    def served(self, *, now: float) -> float | None:
        """For how long it has served; None: not yet."""
        return now - self._words[1] if self._words[1] else None


class Silence:
    """Tells when a worker has not been heard for too long; a look a time, without a clock."""

    def __init__(self) -> None:
        self._beats = -inf
        self._looks = 0

    def is_too_long(self, beats: float) -> bool:
        """Note what is heard at a look."""
        self._looks = self._looks + 1 if beats == self._beats else 0
        self._beats = beats
        return self._looks >= MAX_SILENT_LOOKS


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker knows of itself."""

    supervisor: int
    """The pid of the process that others see."""
    restarts: int
    """How many workers there were before it."""
    is_first: bool
    """Whether none before it has served."""
    pulse: Pulse

    def serve(self) -> None:
        """Say that all is open."""
        self.pulse.serve(now=time.monotonic())


def supervise(prepare: Callable[[], None]) -> Worker:
    """Fork a worker, and another one for each that dies; returns in the workers only.

    Once the first one has had a moment to itself, ``prepare`` is called for those to come. The
    supervisor itself ends in here. No other thread may run.
    """
    watched = {*_ASKED, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    restarts, idle = Restarts(), cache(prepare)
    while True:
        worker = Worker(os.getpid(), restarts.total, not restarts.ever_served, Pulse())
        pid = os.fork()
        if pid == 0:
            _settle_in(worker.supervisor)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return worker
        _replace_or_leave(restarts, worker.pulse, *_attend(pid, worker.pulse, idle))


def _settle_in(supervisor: int) -> None:
    """Die with the supervisor, and be told by it alone what a terminal sends to all of a group."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it has died before it could matter to us
        os._exit(1)
    os.setpgid(0, 0)


def _attend(pid: int, pulse: Pulse, idle: Callable[[], None]) -> tuple[int, bool]:
    """Wait for the end of a worker; returns its exit code, and whether it was asked to stop."""
    asked, silence = False, Silence()
    while True:
        received = signal.sigtimedwait({*_ASKED, signal.SIGCHLD}, LOOK_SECONDS)
        if received is None:
            idle()
            if silence.is_too_long(pulse.beats):
                log.warning("worker stands still", seconds=MAX_SILENT_LOOKS * LOOK_SECONDS)
                os.kill(pid, signal.SIGKILL)
        elif received.si_signo in _ASKED:
            asked = True
            os.kill(pid, received.si_signo)
        elif (code := _reap(pid)) is not None:
            return code, asked


def _reap(pid: int) -> int | None:
    """Take the exit codes of who has died, as an init process must; None: the worker has not."""
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if found == pid:
            return os.waitstatus_to_exitcode(status)
        if not found:
            return None


def _replace_or_leave(restarts: Restarts, pulse: Pulse, code: int, asked: bool) -> None:
    served = pulse.served(now=time.monotonic())
    failed_to_start = code > 0 and served is None and not restarts.ever_served
    if asked or code == 0 or failed_to_start:
        _leave(code)
    pause = restarts.pause(served)
    cause = {"signal": signal.strsignal(-code)} if code < 0 else {"code": code}
    if pause is None:
        log.error("worker given up", **cause)
        _leave(code)
    log.warning("worker died", **cause, served=round(served or 0.0, 3), pause=pause)
    if signal.sigtimedwait(_ASKED, pause) is not None:
        _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once, since somebody may wait for our ports; 128 and the signal's number for one."""
    os._exit(code if code >= 0 else 128 - code)
