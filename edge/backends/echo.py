"""The echo: what the client says comes back, frame for frame and undecoded.

It is the default backend because it needs nothing and exercises the whole way. The frames get
their own sequence numbers, timestamps and SSRC from the transceiver like any other backend's.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import trio

from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.errors import Drop

BACKLOG: Final = 0.1
"""Seconds beyond which an echo skips frames: after a network stall it would stay late for ever."""


class Echo:
    """The backend; ``delay`` in seconds lies between hearing and speaking."""

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
        # Twice the frames that can be under way, at the shortest Opus frame of 2.5 ms.
        capacity = int(delay / 0.0025) * 2 + 1
        self._send, self._receive = trio.open_memory_channel[tuple[float, AudioFrame]](capacity)

    def hear(self, frame: AudioFrame) -> None:
        """Play the frame now, or have ``run`` play it later."""
        if not self._delay:
            self._play(frame)
            return
        try:
            self._send.send_nowait((trio.current_time() + self._delay, frame))
        except trio.WouldBlock:
            self.drops[Drop.QUEUE_FULL] += 1

    def receive_event(self, event: bytes) -> None:
        """An echo has nothing to say to events."""

    async def run(self) -> None:
        """Play delayed frames when their time has come; an echo is never done by itself."""
        async for due, frame in self._receive:
            await trio.sleep_until(due)
            self._play(frame)

    def _play(self, frame: AudioFrame) -> None:
        if self._speaker.queued > BACKLOG:
            self.drops[Drop.LATE] += 1
            return
        self._speaker.play(frame)
