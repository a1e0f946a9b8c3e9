"""Voice activity: where speech starts, where it ends, and what was said in between.

WebRTC's detector judges frames of 20 ms one by one; this decides over a few of them, because a
single frame is wrong now and then. Speech starts when most of the last ``START_FRAMES`` are
voiced, which a cough may do as well; it is sure when ``SURE_SECONDS`` of it were, and ends after
``END_SECONDS`` of almost none. What lies before the start is kept: the first consonant is quiet,
and recognition needs it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Protocol

import webrtcvad  # type: ignore[import-untyped]

RATE: Final = 16_000  # Hz; PCM16, one channel, everywhere in this package
FRAME_SECONDS: Final = 0.020
FRAME_BYTES: Final = int(RATE * FRAME_SECONDS) * 2
START_FRAMES: Final = 6
START_VOICED: Final = 5
SURE_SECONDS: Final = 0.26
"""The detector itself goes on for up to 100 ms after a sound."""
END_SECONDS: Final = 0.4
END_VOICED: Final = 2
"""A click in the pause does not prolong it."""
LEAD_SECONDS: Final = 0.3
"""Kept from before the start of speech; also the silence that is left after it."""
MAX_SECONDS: Final = 12.0
"""Who talks on for longer is answered all the same."""
AGGRESSIVENESS: Final = 3  # of 0 to 3: how readily the detector takes sound for noise

_SURE_FRAMES: Final = round(SURE_SECONDS / FRAME_SECONDS)
_END_FRAMES: Final = round(END_SECONDS / FRAME_SECONDS)
_LEAD_FRAMES: Final = round(LEAD_SECONDS / FRAME_SECONDS)
_MAX_FRAMES: Final = round(MAX_SECONDS / FRAME_SECONDS)


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody seems to have begun to speak."""


@dataclass(frozen=True, slots=True)
class SpeechConfirmed:
    """It is speech, and goes on."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """Somebody has stopped; ``pcm`` is what was said, empty when it was not sure to be speech."""

    pcm: bytes = field(repr=False)


SpeechEvent = SpeechStarted | SpeechConfirmed | SpeechEnded


class _Vad(Protocol):
    def is_speech(self, buf: bytes, sample_rate: int) -> bool:
        """Judge one frame."""


class SpeechDetector:
    """One listener's detector; PCM16 of any length goes in."""

    def __init__(self) -> None:
        self._vad: _Vad = webrtcvad.Vad(AGGRESSIVENESS)
        self._rest = bytearray()
        self._frames: deque[bytes] = deque(maxlen=_MAX_FRAMES)
        self._votes: deque[bool] = deque(maxlen=_END_FRAMES)
        self._voiced = 0
        self._speaking = False

    def hear(self, pcm: bytes) -> list[SpeechEvent]:
        """Take the next sound; returns what it shows, in order."""
        self._rest += pcm
        events: list[SpeechEvent] = []
        while len(self._rest) >= FRAME_BYTES:
            frame = bytes(self._rest[:FRAME_BYTES])
            del self._rest[:FRAME_BYTES]
            event = self._judge(frame)
            if event is not None:
                events.append(event)
        return events

    def _judge(self, frame: bytes) -> SpeechEvent | None:
        voiced = self._vad.is_speech(frame, RATE)
        self._frames.append(frame)
        self._votes.append(voiced)
        if not self._speaking:
            return self._await_start()
        self._voiced += voiced
        quiet = len(self._votes) == _END_FRAMES and sum(self._votes) <= END_VOICED
        if quiet or len(self._frames) == _MAX_FRAMES:
            return self._end(silent_frames=_END_FRAMES if quiet else 0)
        if voiced and self._voiced == _SURE_FRAMES:
            return SpeechConfirmed()
        return None

    def _await_start(self) -> SpeechStarted | None:
        while len(self._frames) > _LEAD_FRAMES:
            self._frames.popleft()
        recent = list(self._votes)[-START_FRAMES:]
        if sum(recent) < START_VOICED:
            return None
        self._speaking = True
        self._voiced = sum(recent)
        return SpeechStarted()

    def _end(self, *, silent_frames: int) -> SpeechEnded:
        kept = len(self._frames) - max(0, silent_frames - _LEAD_FRAMES)
        said = b"".join(list(self._frames)[:kept]) if self._voiced >= _SURE_FRAMES else b""
        self._speaking = False
        self._frames.clear()
        self._votes.clear()
        return SpeechEnded(said)
