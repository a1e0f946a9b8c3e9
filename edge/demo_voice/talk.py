"""The conversation as a state machine: who speaks, and what comes next.

    LISTENING --- speech has ended ---> THINKING --- first sound ---> SPEAKING
        ^  ^                               |                             |
        |  +---- nothing was understood ---+                             |
        +------- all was said, or the listener interrupts (barge-in) ----+

It does nothing itself: every input returns what there is to do, as values. Recognition and
synthesis come back later with the number of their turn; a turn ends when the listener speaks, and
what still arrives for it is dropped. The first sign of speech pauses the voice, what proves to be
speech ends its turn, and after a cough it goes on. Sound leaves at most ``AHEAD_SECONDS`` before
it is heard, and a sentence is made when the one before it is nearly out: who is interrupted in the
first sentence of a story has not made the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, assert_never

from edge.demo_voice.reply import sentences
from edge.demo_voice.vad import (
    RATE,
    SpeechConfirmed,
    SpeechDetector,
    SpeechEnded,
    SpeechStarted,
)

AHEAD_SECONDS: Final = 1.0
CHUNK_SECONDS: Final = 0.1


class State(Enum):
    """Whose turn it is."""

    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"


@dataclass(frozen=True, slots=True)
class Recognise:
    """Find the words in ``pcm``; then call ``understand``."""

    turn: int
    pcm: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """Choose an answer to ``text``; then call ``answer``."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True)
class Synthesise:
    """Make sound of one sentence; then call ``speak``."""

    turn: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Play:
    """Let the listener hear this."""

    pcm: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pause:
    """Hold back what the listener has not heard yet."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the listener hear again."""


@dataclass(frozen=True, slots=True)
class Flush:
    """Drop what the listener has not heard yet; a pause ends with it."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an event to whoever holds the session's event channel."""

    kind: str
    fields: Mapping[str, str] = field(default_factory=dict)


Outward = Play | Pause | Resume | Flush | Tell
"""What goes to the listener, in this order."""
Action = Recognise | Answer | Synthesise | Outward


class Talk:
    """One conversation. ``now`` is in seconds on any clock that does not go back."""

    def __init__(self) -> None:
        self.state = State.LISTENING
        self.turn = 0
        self._detector = SpeechDetector()
        self._sentences: deque[str] = deque()
        self._synthesising = False
        self._sound = bytearray()
        self._heard_until = -inf
        self._paused_at: float | None = None

    @property
    def deadline(self) -> float:
        """When ``tick`` has something to do."""
        if self.state is not State.SPEAKING or self._paused_at is not None:
            return inf
        if self._sound:
            return self._heard_until - AHEAD_SECONDS
        return inf if self._synthesising else self._heard_until

    def hear(self, pcm: bytes, *, now: float) -> list[Action]:
        """Take what the listener said, of any length."""
        actions: list[Action] = []
        for event in self._detector.hear(pcm):
            match event:
                case SpeechStarted():
                    actions += self._pause(now)
                case SpeechConfirmed():
                    actions += self._interrupt()
                case SpeechEnded(said):
                    actions += self._consider(said) if said else self._resume(now)
                case _:
                    assert_never(event)
        return actions

    def understand(self, turn: int, text: str) -> list[Action]:
        """Take the words of a turn; none were found when it is empty."""
        if turn != self.turn:
            return []
        if not text:
            self.state = State.LISTENING
            return []
        heard = Tell("conversation.item.input_audio_transcription.completed", {"transcript": text})
        return [heard, Answer(turn, text)]

    def answer(self, turn: int, text: str) -> list[Action]:
        """Take what shall be said, at any time of its turn."""
        if turn != self.turn:
            return []
        self._sentences.extend(sentences(text))
        if not self._sentences:
            self.state = State.LISTENING
            return []
        return [
            Tell("response.output_audio_transcript.done", {"transcript": text}),
            *self._prepare(),
        ]

    def speak(self, turn: int, pcm: bytes, *, now: float) -> list[Action]:
        """Take the sound of a sentence."""
        if turn != self.turn:
            return []
        self._synthesising = False
        self._sound += pcm
        actions: list[Action] = []
        if self.state is State.THINKING:
            self.state = State.SPEAKING
            self._heard_until = now
            actions.append(Tell("output_audio_buffer.started"))
        return actions + self.tick(now=now)

    def tick(self, *, now: float) -> list[Action]:
        """Play on; the answer is over when all of it has been heard."""
        if self.state is not State.SPEAKING or self._paused_at is not None:
            return []
        actions = self._release(now) + self._prepare()
        if not self._sound and not self._synthesising and now >= self._heard_until:
            self.state = State.LISTENING
            actions.append(Tell("output_audio_buffer.stopped"))
        return actions

    def _pause(self, now: float) -> list[Action]:
        if self.state is not State.SPEAKING:
            return []
        self._paused_at = now
        return [Pause()]

    def _resume(self, now: float) -> list[Action]:
        if self._paused_at is None:
            return []
        self._heard_until += now - self._paused_at
        self._paused_at = None
        return [Resume(), *self.tick(now=now)]

    def _interrupt(self) -> list[Action]:
        interrupted = self.state is State.SPEAKING
        self.turn += 1
        self.state = State.LISTENING
        self._sentences.clear()
        self._sound.clear()
        self._synthesising = False
        self._paused_at = None
        started = Tell("input_audio_buffer.speech_started")
        if not interrupted:
            return [started]
        return [Flush(), started, Tell("output_audio_buffer.cleared")]

    def _consider(self, said: bytes) -> list[Action]:
        self.state = State.THINKING
        return [Tell("input_audio_buffer.speech_stopped"), Recognise(self.turn, said)]

    def _prepare(self) -> list[Action]:
        enough = len(self._sound) >= _bytes(AHEAD_SECONDS)
        if self._synthesising or enough or not self._sentences:
            return []
        self._synthesising = True
        return [Synthesise(self.turn, self._sentences.popleft())]

    def _release(self, now: float) -> list[Action]:
        actions: list[Action] = []
        self._heard_until = max(self._heard_until, now)
        while self._sound and now >= self._heard_until - AHEAD_SECONDS:
            chunk = bytes(self._sound[: _bytes(CHUNK_SECONDS)])
            del self._sound[: len(chunk)]
            self._heard_until += len(chunk) / 2 / RATE
            actions.append(Play(chunk))
        return actions


def _bytes(seconds: float) -> int:
    return int(seconds * RATE) * 2
