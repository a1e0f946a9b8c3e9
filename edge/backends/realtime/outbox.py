"""What waits to be sent to the server: audio and events in one order, both bounded.

Audio over its bound loses its oldest part, since a late word is worth less than the next one. An
event over its bound is refused, since events build on each other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from edge.backends.realtime.events import make_append
from edge.errors import Drop

MAX_EVENTS: Final = 256
MAX_EVENT_BYTES: Final = 1_048_576
"""Of all events that wait."""


class Outbox:
    """A queue of messages; ``bytes`` are audio, ``str`` are whole events."""

    def __init__(
        self,
        drops: Counter[Drop],
        *,
        chunk_bytes: int,
        max_append_bytes: int,
        max_audio_bytes: int,
    ) -> None:
        self._drops = drops
        self._opening: deque[str] = deque()
        self._entries: deque[bytearray | str] = deque()
        self._chunk_bytes = chunk_bytes
        self._max_append_bytes = max_append_bytes
        self._max_audio_bytes = max_audio_bytes
        self._audio_bytes = 0
        self._event_bytes = 0
        self._events = 0

    @property
    def is_ready(self) -> bool:
        """Whether ``take`` has a message: an event, or at least a chunk of audio."""
        if self._opening:
            return True
        if len(self._entries) == 1 and isinstance(audio := self._entries[0], bytearray):
            return len(audio) >= self._chunk_bytes
        return bool(self._entries)

    def put_audio(self, audio: bytes) -> None:
        """Queue audio behind all else."""
        last = self._entries[-1] if self._entries else None
        if isinstance(last, bytearray) and len(last) < self._max_append_bytes:
            last += audio
        else:
            self._entries.append(bytearray(audio))
        self._audio_bytes += len(audio)
        while self._audio_bytes > self._max_audio_bytes:
            self._drop_oldest(len(audio))

    def put_event(self, event: bytes) -> bool:
        """Queue an event behind all else; False, and counted, when it does not fit."""
        if self._events >= MAX_EVENTS or self._event_bytes + len(event) > MAX_EVENT_BYTES:
            self._drops[Drop.QUEUE_FULL] += 1
            return False
        self._entries.append(event.decode())
        self._count_event(1, len(event))
        return True

    def begin(self, opening: Iterable[bytes]) -> None:
        """Have a connection's first events sent before all else, whatever the bounds.

        What is left of an earlier connection's is forgotten.
        """
        self._opening = deque(event.decode() for event in opening)

    def take(self) -> str | None:
        """Give the next message, if there is one."""
        if self._opening:
            return self._opening.popleft()
        if not self.is_ready:
            return None
        first = self._entries.popleft()
        if isinstance(first, str):
            self._count_event(-1, -len(first.encode()))
            return first
        self._audio_bytes -= len(first)
        return make_append(bytes(first))

    def _drop_oldest(self, size: int) -> None:
        oldest = next(entry for entry in self._entries if isinstance(entry, bytearray))
        if len(oldest) <= size:
            self._entries.remove(oldest)
        self._audio_bytes -= min(size, len(oldest))
        del oldest[:size]
        self._drops[Drop.QUEUE_FULL] += 1

    def _count_event(self, events: int, size: int) -> None:
        self._events += events
        self._event_bytes += size
