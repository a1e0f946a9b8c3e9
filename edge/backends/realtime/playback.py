"""The model's answers on their way to the speaker, one at a time.

The speaker is fed little by little. That keeps a barge-in cheap, leaves what the user will never
hear out of the codec, and lets each answer begin and end by an event of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from edge.backends.protocol import AudioFrame, Speaker
from edge.backends.realtime.answer import FRAME_SECONDS, Answer, Item, Layout

MAX_WAITING_SECONDS: Final = 240.0
"""Audio that waits for the speaker: more than one OpenAI response can hold."""
AHEAD_SECONDS: Final = 0.5
"""What the speaker is given ahead."""
REFILL_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Heard:
    """The client's ear: an answer began, ended by itself or was cut off."""

    event: Literal["started", "stopped", "cleared"]
    response: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """The server sent more of an item than was played."""

    item: str
    content_index: int
    played_ms: int
    share: float
    """The played part of what came of it, 0 to 1."""


class Playback:
    """The answers of one session; whoever calls carries the returned events out."""

    def __init__(self, layout: Layout, speaker: Speaker) -> None:
        self._layout = layout
        self._speaker = speaker
        self._max_waiting = layout.bytes_of(MAX_WAITING_SECONDS)
        self._answers: deque[Answer] = deque()
        self._position = 0  # samples handed to the speaker, but for those it flushed

    @property
    def feed_below(self) -> float | None:
        """Call ``feed`` when the speaker holds no more seconds than this; None: not now."""
        if not self._answers:
            return None
        if self._answers[0].can_give(self._layout):
            return REFILL_SECONDS
        return 0.0 if self._is_over(self._answers[0]) else None

    def add(self, response: str, item: str, content_index: int, audio: bytes) -> bool:
        """Queue audio of a response; False when too much waits already."""
        waiting = sum(answer.waiting_bytes for answer in self._answers)
        if waiting + len(audio) > self._max_waiting:
            return False
        answer = self._find(response)
        if answer is None:
            answer = Answer(response)
            self._answers.append(answer)
        answer.add(item, content_index, audio)
        return True

    def end_item(self, response: str) -> None:
        """The server has sent all audio of the response's last item."""
        if answer := self._find(response):
            answer.finish_item()

    def end(self, response: str | None = None) -> None:
        """The server has ended a response; None: all of them."""
        for answer in self._answers:
            if response in (None, answer.response):
                answer.finish()

    def feed(self) -> list[Heard]:
        """Hand the speaker what it is due."""
        heard: list[Heard] = []
        while self._answers:
            answer = self._answers[0]
            if self._hand_over(answer):
                heard.append(Heard("started", answer.response))
            over = self._is_over(answer) and not answer.can_give(self._layout)
            if not over or self._speaker.queued > 0:
                break
            self._answers.popleft()
            if answer.started:
                heard.append(Heard("stopped", answer.response))
        return heard

    def interrupt(self) -> list[Truncated | Heard]:
        """Silence the speaker and forget all answers; tells what of them was not heard."""
        if not self._answers:
            return []
        self._position = round(self._speaker.flush() * self._layout.rate)
        cut: list[Truncated | Heard] = []
        for answer in self._answers:
            cut += self._unheard(answer, self._position)
            if answer.started:
                cut.append(Heard("cleared", answer.response))
        self._answers.clear()
        return cut

    def begin(self) -> None:
        """Count from where the speaker is: a call may have been another process's before."""
        if not self._answers:
            self._position = round(self._speaker.played * self._layout.rate)

    def unheard(self) -> list[Truncated]:
        """What is not played yet."""
        position = round(self._speaker.played * self._layout.rate)
        return [item for answer in self._answers for item in self._unheard(answer, position)]

    @property
    def playing(self) -> list[str]:
        """The responses that have begun to be played and are not over."""
        return [answer.response for answer in self._answers if answer.started]

    def _is_over(self, answer: Answer) -> bool:
        # A server that never ends a response may still begin another.
        return answer.done or len(self._answers) > 1

    def _find(self, response: str) -> Answer | None:
        return next((each for each in self._answers if each.response == response), None)

    def _hand_over(self, answer: Answer) -> bool:
        """Return whether the answer begins with this."""
        begins = False
        while self._speaker.queued < AHEAD_SECONDS:
            frame = answer.take(self._layout, self._position)
            if frame is None:
                break
            begins = begins or not answer.started
            answer.started = True
            self._speaker.play(AudioFrame(frame, FRAME_SECONDS))
            self._position += self._layout.frame_samples
        return begins

    def _unheard(self, answer: Answer, position: int) -> list[Truncated]:
        return [
            Truncated(
                item.id,
                item.content_index,
                item.played(position) * 1_000 // self._layout.rate,
                item.played(position) / max(self._samples(item), 1),
            )
            for item in answer.items
            if not item.is_heard_out(position)
        ]

    def _samples(self, item: Item) -> int:
        return item.handed + len(item.waiting) // self._layout.sample_bytes
