"""What a backend has said and the client may not have heard, so that it can be said again.

A transceiver that dies takes its queue along. Where in it the client was is known from its last
``played``, and from then on by the clock, since it plays in real time. The clock counts no longer
than reports are apart: a transceiver that does not answer may have stood still.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edge.backends.protocol import AudioFormat

REPORT_SECONDS: Final = 0.25
"""From one ``played`` to the next, while there is something to play."""

Piece = tuple[bytes, int]
"""Audio, and how many samples it is."""


class Unplayed:
    """One session's; positions are samples since the call began, as ``played`` counts them."""

    def __init__(self, audio: AudioFormat, start: int) -> None:
        self._audio = audio
        self._pieces: deque[Piece] = deque()
        self._start = self._noted = start
        self._noted_at = 0.0
        self._stopped_at: float | None = None
        self._flushes = 0  # that are not answered

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._pieces)

    def pieces(self) -> list[Piece]:
        """All of it, in order."""
        return list(self._pieces)

    def add(self, piece: bytes, samples: int, *, now: float) -> None:
        """Take what is being said; it is played at once where nothing waits."""
        if not self._pieces:
            self._noted, self._noted_at = self._start, now
        self._pieces.append((piece, samples))

    def flush(self) -> None:
        """Forget it: the transceiver is asked to, and tells ``flushed`` what was played."""
        self._pieces.clear()
        self._flushes += 1

    def flushed(self, position: int, *, now: float) -> None:
        """Take the answer: what was said since the flush begins there."""
        self._flushes -= 1
        self._start = self._noted = position
        self._noted_at = now

    def note(self, position: int, *, now: float) -> None:
        """Take what the transceiver says was played."""
        if self._flushes:  # it is of before
            return
        self._noted, self._noted_at = position, now
        while self._pieces and self._start + self._pieces[0][1] <= position:
            self._start += self._pieces.popleft()[1]

    def stop(self, *, now: float) -> None:
        """Nothing more is played: a pause, or the transceiver is gone."""
        if self._stopped_at is None:
            self._stopped_at = now

    def go_on(self, *, now: float) -> None:
        """It is played on."""
        self._stopped_at, self._noted_at = None, now

    def guess(self, *, now: float) -> int:
        """What may have been played by now."""
        until = now if self._stopped_at is None else self._stopped_at
        since = min(max(until - self._noted_at, 0.0), REPORT_SECONDS)
        return self._noted + round(since * self._audio.clock_rate)

    def begin_at(self, position: int) -> None:
        """Forget what lies before ``position``: to the sample, of Opus to the nearest packet."""
        if self._flushes:
            return
        while self._pieces and self._start + self._least(self._pieces[0]) <= position:
            self._start += self._pieces.popleft()[1]
        rest = position - self._start
        if self._pieces and rest > 0 and self._audio.name != "opus":
            piece, samples = self._pieces.popleft()
            width = len(piece) // samples
            self._pieces.appendleft((piece[rest * width :], samples - rest))
        self._start = self._noted = max(self._start, position)

    def _least(self, piece: Piece) -> int:
        return piece[1] // 2 if self._audio.name == "opus" else piece[1]
