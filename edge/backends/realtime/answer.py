"""An answer on its way to the ear: which milliseconds of which item were really played.

A model speaks faster than real time. What the speaker does not hold yet waits here and leaves in
whole frames, so the place of each item in all that was played is known to the sample: an item that
began when ``begin`` samples had been handed over has played ``position - begin`` of its own when
the speaker has played ``position``. An item's last frame is filled up with silence, which is not
counted as the item's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from edge.backends.protocol import AudioFormat

FRAME_SECONDS: Final = 0.02

_SILENCE: Final = {"pcm16": b"\0", "PCMU": b"\xff", "PCMA": b"\xd5"}
_SAMPLE_BYTES: Final = {"pcm16": 2, "PCMU": 1, "PCMA": 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """How a format lies in bytes."""

    rate: int
    sample_bytes: int
    silence: bytes

    @classmethod
    def of(cls, audio: AudioFormat) -> Layout:
        """The layout of ``pcm16``, ``PCMU`` or ``PCMA``."""
        return cls(audio.clock_rate, _SAMPLE_BYTES[audio.name], _SILENCE[audio.name])

    @property
    def frame_samples(self) -> int:
        """Of 20 ms."""
        return round(self.rate * FRAME_SECONDS)

    @property
    def frame_bytes(self) -> int:
        """Of 20 ms."""
        return self.frame_samples * self.sample_bytes

    def bytes_of(self, seconds: float) -> int:
        """The size of so much audio, in whole samples."""
        return round(seconds * self.rate) * self.sample_bytes


@dataclass(slots=True)
class Item:
    """One content part of one conversation item."""

    id: str
    content_index: int
    waiting: bytearray = field(default_factory=bytearray, repr=False)
    begin: int = -1
    """Samples that had been handed over when this began; -1: nothing of it was."""
    handed: int = 0
    """Samples of its own that the speaker got."""
    finished: bool = False
    """The server has sent all of it."""

    def take(self, layout: Layout, position: int) -> bytes | None:
        """Give the next frame, if there is a whole one or no more comes."""
        frame = bytes(self.waiting[: layout.frame_bytes])
        if not frame or (len(frame) < layout.frame_bytes and not self.finished):
            return None
        del self.waiting[: layout.frame_bytes]
        if self.begin < 0:
            self.begin = position
        self.handed += len(frame) // layout.sample_bytes
        padding = layout.frame_bytes - len(frame)
        return frame + layout.silence * padding if padding else frame

    def played(self, position: int) -> int:
        """Samples of its own that are played when the speaker has played ``position``."""
        return min(max(position - self.begin, 0), self.handed) if self.begin >= 0 else 0

    def is_heard_out(self, position: int) -> bool:
        """Whether all of it will have been played, and the server knows no more of it."""
        return self.finished and not self.waiting and self.played(position) == self.handed


@dataclass(slots=True)
class Answer:
    """The audio of one response, item after item."""

    response: str
    items: list[Item] = field(default_factory=list)
    started: bool = False
    done: bool = False
    """The server has ended the response."""

    def add(self, item: str, content_index: int, audio: bytes) -> None:
        """Queue audio; a new item finishes the one before it."""
        last = self.items[-1] if self.items else None
        if last is None or (last.id, last.content_index) != (item, content_index):
            self.finish_item()
            last = Item(item, content_index)
            self.items.append(last)
        last.waiting += audio

    def finish_item(self) -> None:
        """No more comes of the last item."""
        if self.items:
            self.items[-1].finished = True

    def finish(self) -> None:
        """No more comes at all."""
        self.finish_item()
        self.done = True

    def take(self, layout: Layout, position: int) -> bytes | None:
        """Give the next frame, in the items' order."""
        for item in self.items:
            if frame := item.take(layout, position):
                return frame
        return None

    def can_give(self, layout: Layout) -> bool:
        """Whether ``take`` has a frame."""
        return any(
            item.waiting and (item.finished or len(item.waiting) >= layout.frame_bytes)
            for item in self.items
        )

    @property
    def waiting_bytes(self) -> int:
        """What the speaker does not have yet."""
        return sum(len(item.waiting) for item in self.items)
