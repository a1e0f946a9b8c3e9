"""Playout: backends may speak faster than real time, the client hears 20 ms every 20 ms.

One ``Pacer`` a process serves every session. It is a wheel of 5 ms ticks: a ``Playout`` with
something to say stands in the bucket of its next frame's tick, so a tick costs only the frames that
are due, and an idle process has no ticks at all.

Inside a talk spurt RTP timestamps advance by the frames' durations; a new spurt takes its timestamp
from the clock, so that silence is silence for the listener too (RFC 3550, section 5.1; the marker
bit as in RFC 3551, section 4.1). A frame that is late by less than ``SPURT_GAP``, or only because
this process was, is still part of its spurt: it goes out at once, the listener's jitter buffer
levels it, and no delay stays behind.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from math import ceil, inf
from typing import Final

import trio

from edge.backends.protocol import AudioFrame
from edge.errors import Drop

TICK: Final = 0.005  # seconds
SPURT_GAP: Final = 0.060  # seconds; three usual frames

SendFrame = Callable[[bytes, int, bool, float], None]
"""``(payload, timestamp, marker, now)``: hands one due frame to the session's peer."""

MediaTime = Callable[[float], int]
"""Clock units of the codec from the start of the media to ``now``."""


class Playout:
    """One session's queue of frames to be heard; the ``Speaker`` of its conversation."""

    def __init__(
        self,
        pacer: Pacer,
        send: SendFrame,
        *,
        clock_rate: int,
        media_time: MediaTime,
        queue_seconds: float,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self._pacer = pacer
        self._send = send
        self._clock_rate = clock_rate
        self._frames: deque[tuple[bytes, int]] = deque()
        # Payloads with their samples: floats would drift.
        self._queue_limit = round(queue_seconds * clock_rate)
        self._queued = 0
        self._played = 0
        self._media_time = media_time
        self._timestamp = 0
        self._next_due = -inf
        self._scheduled = False
        self._starved = True
        self._closed = False

    @property
    def queued(self) -> float:
        """Seconds of audio that wait to be played."""
        return self._queued / self._clock_rate

    @property
    def played(self) -> float:
        """Seconds of audio that were sent so far."""
        return self._played / self._clock_rate

    def play(self, frame: AudioFrame) -> None:
        """Queue a frame; over the bound the oldest is dropped and counted."""
        if self._closed:
            self.drops[Drop.NOT_READY] += 1
            return
        samples = round(frame.duration * self._clock_rate)
        self._frames.append((frame.payload, samples))
        self._queued += samples
        while self._queued > self._queue_limit and len(self._frames) > 1:
            self._queued -= self._frames.popleft()[1]
            self.drops[Drop.QUEUE_FULL] += 1
        if not self._scheduled:
            self._scheduled = self._starved = True
            self._pacer.schedule(self, self._next_due)

    def flush(self) -> float:
        """Drop what is queued; return the seconds of audio that were sent so far."""
        self._frames.clear()
        self._queued = 0
        self._starved = True
        return self.played

    def close(self) -> None:
        """Forget the queue and take nothing more."""
        self.flush()
        self._closed = True

    def emit(self, now: float) -> float:
        """Send what is due; return when the next frame is, ``math.inf`` when the queue is empty."""
        while self._frames and self._next_due <= now + TICK / 2:
            payload, samples = self._frames.popleft()
            self._queued -= samples
            self._played += samples
            marker = self._starved and now - self._next_due > SPURT_GAP
            self._starved = False
            if marker:
                self._start_spurt(now)
            self._send(payload, self._timestamp, marker, now)
            self._timestamp += samples
            self._next_due += samples / self._clock_rate
        self._scheduled = bool(self._frames)
        return self._next_due if self._frames else inf

    def _start_spurt(self, now: float) -> None:
        self._timestamp = max(self._timestamp, self._media_time(now))
        self._next_due = now


class Pacer:
    """The one clock of all playouts of a process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wheel: dict[int, list[Playout]] = {}
        self._next_tick = inf
        self._earlier = trio.Event()

    def schedule(self, playout: Playout, due: float) -> None:
        """Call ``playout.emit`` at the first tick that is not before ``due`` or now."""
        tick = ceil(max(due, self._clock()) / TICK)
        self._wheel.setdefault(tick, []).append(playout)
        if tick < self._next_tick:
            self._earlier.set()

    async def run(self) -> None:
        """Turn the wheel until cancelled; sleeps without ticks while nobody speaks."""
        while True:
            self._next_tick = min(self._wheel, default=inf)
            self._earlier = trio.Event()
            with trio.move_on_at(self._next_tick * TICK):
                await self._earlier.wait()
            self.turn(self._clock())

    def turn(self, now: float) -> None:
        """Serve every bucket that is due at ``now``."""
        current = int(now / TICK + 1e-6)
        for tick in sorted(tick for tick in self._wheel if tick <= current):
            for playout in self._wheel.pop(tick):
                due = playout.emit(now)
                if due != inf:
                    self._wheel.setdefault(max(ceil(due / TICK - 1e-6), current + 1), []).append(
                        playout
                    )
