"""The echo: what the client says comes back, frame for frame and undecoded.

It is the default backend because it needs nothing and exercises the whole way. The frames get
their own sequence numbers, timestamps and SSRC from the transceiver like any other backend's.

What a stalled network hands over at once would leave an echo late for ever: it comes no faster
than it is played. What stood before every frame for ``WATCH`` seconds is no jitter, so as many
frames are left out (CoDel, RFC 8289, tells bad queues from good ones in the same way).
"""

from __future__ import annotations

from collections import Counter, deque
from math import inf
from typing import Final

import trio

from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.errors import Drop

BACKLOG: Final = 0.1
"""Seconds beyond which an echo skips frames at once."""
WATCH: Final = 0.5
"""Seconds of audio over which the shortest queue is what may be left out."""


class Echo:
    """The backend; ``delay`` in seconds lies between hearing and speaking."""

    echoes_messages = True

    def __init__(self, *, delay: float = 0.0) -> None:
        self._delay = delay

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """Hear and speak what the client does."""
        return codec

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> EchoConversation:
        """Make one session's echo."""
        return EchoConversation(speaker, delay=self._delay)


class EchoConversation:
    """One session's echo."""

    def __init__(self, speaker: Speaker, *, delay: float) -> None:
        self.drops: Counter[Drop] = Counter()
        self._speaker = speaker
        self._delay = delay
        self._shortest = inf  # queue that a frame found, in seconds,
        self._watched = 0.0  # in so many seconds of audio
        self._surplus = 0.0
        # Twice the frames that can be under way, at the shortest Opus frame of 2.5 ms.
        self._capacity = int(delay / 0.0025) * 2
        self._delayed: deque[tuple[float, AudioFrame]] = deque()
        self._more = trio.Event()

    def hear(self, frame: AudioFrame) -> None:
        """Play the frame now, or have ``run`` play it later."""
        if not self._delay:
            self._play(frame)
            return
        if len(self._delayed) > self._capacity:
            self.drops[Drop.QUEUE_FULL] += 1
            return
        self._delayed.append((trio.current_time() + self._delay, frame))
        self._more.set()

    def receive_event(self, event: bytes) -> None:
        """An echo has nothing to say to events."""

    async def run(self) -> None:
        """Play delayed frames when their time has come; an echo is never done by itself."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._delayed:
                due, frame = self._delayed.popleft()
                await trio.sleep_until(due)
                self._play(frame)

    def _play(self, frame: AudioFrame) -> None:
        queued = self._speaker.queued
        if queued or self._watched:
            self._watch(queued, frame.duration)
        if queued > BACKLOG:
            self.drops[Drop.LATE] += 1
        elif self._surplus > frame.duration / 2:  # to the nearest frame
            self._surplus -= frame.duration
            self.drops[Drop.LATE] += 1
        else:
            self._speaker.play(frame)

    def _watch(self, queued: float, duration: float) -> None:
        self._shortest = min(self._shortest, queued)
        self._watched += duration
        if self._watched >= WATCH or not queued:  # then there is no surplus
            self._surplus = self._shortest
            self._shortest, self._watched = inf, 0.0
