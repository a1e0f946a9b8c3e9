"""When a loop that ticks many times a second should rest, and a timer for it.

The timer is a file descriptor (timerfd_create(2)). ``trio.sleep`` makes a cancel scope, lets it
expire and unwinds the task by an exception; a wait for a descriptor does not: 50 us of CPU a tick
instead of 110 us on a machine with 2 busy cores. And epoll alone counts in whole milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TICK: Final = 0.001
"""Seconds from one batch to the next under load. A wake-up costs as much as some packets."""
BUSY: Final = 2_000
"""Datagrams a second from which there are ticks: two each; below it, each is taken at once."""
LOOK: Final = 0.02
"""Seconds over which datagrams are counted."""

_CLOCK_MONOTONIC: Final = 1
_NO_WAIT: Final = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC are these
_ITIMERSPEC: Final = struct.Struct("=4q")  # interval and value, each seconds and nanoseconds


class Load:
    """Whether so much comes that waiting a moment pays."""

    def __init__(self) -> None:
        self.busy = False
        self._count = 0
        self._counting_until = 0.0
        self._next_batch = 0.0

    def note(self, datagrams: int, now: float) -> None:
        """Note a batch that was taken."""
        self._next_batch = now + TICK
        self._count += datagrams
        if now >= self._counting_until:
            late = now - self._counting_until
            self.busy = late < LOOK and self._count >= BUSY * (LOOK + late)
            self._count, self._counting_until = 0, now + LOOK

    def rest(self, now: float) -> float:
        """Return how many seconds to wait for the next batch, 0 to take what comes at once."""
        if not self.busy or now >= self._counting_until + LOOK:
            self.busy = False
            return 0.0
        return max(self._next_batch - now, 0.0)


class Timer:
    """Becomes readable a while after it was set."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def set(self, seconds: float) -> None:
        """Start again; it is not readable until the time, more than 0, is over."""
        value = _ITIMERSPEC.pack(0, 0, *divmod(int(seconds * 1e9), 1_000_000_000))
        if _settime(self._descriptor, 0, value, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")


@contextmanager
def open_timer() -> Iterator[Timer]:
    """Make a timer; it is closed at the end. Raises OSError."""
    descriptor = _create(_CLOCK_MONOTONIC, _NO_WAIT)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    try:
        yield Timer(descriptor)
    finally:
        os.close(descriptor)


_libc: Final = ctypes.PyDLL(None, use_errno=True)  # these calls never wait
_create = _libc.timerfd_create
_create.argtypes = [ctypes.c_int, ctypes.c_int]
_settime = _libc.timerfd_settime
_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
