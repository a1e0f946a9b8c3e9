"""One session of the demo: carries out what its ``Talk`` decides.

Recognition and synthesis run in worker threads, one job at a time. A new job takes the place of the
old one, because ``Talk`` asks for one at a time within a turn, and what belongs to an older turn is
of no use to anybody. What goes to the listener leaves in order, by one task.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, assert_never

import structlog
import trio

from edge.demo_voice.ears import Ears
from edge.demo_voice.mouth import Mouth
from edge.demo_voice.reply import reply
from edge.demo_voice.talk import (
    Action,
    Answer,
    Flush,
    Outward,
    Pause,
    Play,
    Recognise,
    Resume,
    Synthesise,
    Talk,
    Tell,
)

MAX_OUTWARD: Final = 256
"""Actions that may wait to be sent: 20 s of sound. Beyond it the session fails."""

log = structlog.get_logger()


class Line(Protocol):
    """The way to one listener: the part of ``BackendSession`` that is used here."""

    async def say(self, audio: bytes) -> bool:
        """Let the listener hear PCM16, 16 kHz, after what is queued."""

    async def pause(self) -> int:
        """Hold back what is queued."""

    async def resume(self) -> None:
        """Go on with it."""

    async def flush(self) -> int:
        """Drop what is queued, end a pause; returns the milliseconds that were heard in all."""

    async def send_event(self, event: Mapping[str, object]) -> None:
        """Pass an event to the listener's event channel."""


class Conversation:
    """One session; ``run`` must run beside the calls of ``hear``."""

    def __init__(self, line: Line, ears: Ears, mouth: Mouth) -> None:
        self._line = line
        self._ears = ears
        self._mouth = mouth
        self._talk = Talk()
        self._job: Recognise | Synthesise | None = None
        self._job_came = trio.Event()
        self._working = trio.CancelScope()
        self._timer = trio.CancelScope()
        self._send, self._outbox = trio.open_memory_channel[Outward](MAX_OUTWARD)

    def hear(self, pcm: bytes) -> None:
        """Take what the listener said; PCM16, 16 kHz. Raises WouldBlock when nobody reads us."""
        self._carry_out(self._talk.hear(pcm, now=trio.current_time()))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work)
            nursery.start_soon(self._write)
            while True:
                with trio.CancelScope(deadline=self._talk.deadline) as self._timer:
                    await trio.sleep_forever()
                self._carry_out(self._talk.tick(now=trio.current_time()))

    async def _work(self) -> None:
        while True:
            await self._job_came.wait()
            self._job_came = trio.Event()
            with trio.CancelScope() as self._working:
                match self._job:
                    case Recognise(turn, pcm):
                        await self._recognise(turn, pcm)
                    case Synthesise(turn, sentence):
                        sound = await self._mouth.speak(sentence)
                        self._carry_out(self._talk.speak(turn, sound, now=trio.current_time()))
                    case None:
                        pass

    async def _recognise(self, turn: int, pcm: bytes) -> None:
        began = time.perf_counter()
        text = await self._ears.listen(pcm)
        # What was said stays between the two: a log has no business with it.
        log.info("understood", words=len(text.split()), ms=_milliseconds_since(began))
        self._carry_out(self._talk.understand(turn, text))

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Recognise() | Synthesise():
                    self._begin(action)
                case Answer(turn, text):
                    self._carry_out(self._talk.answer(turn, reply(text, now=datetime.now())))
                case _:
                    self._send.send_nowait(action)
        self._timer.deadline = self._talk.deadline

    def _begin(self, job: Recognise | Synthesise) -> None:
        self._working.cancel()
        self._job = job
        self._job_came.set()

    async def _write(self) -> None:
        async for action in self._outbox:
            match action:
                case Play(pcm):
                    await self._line.say(pcm)
                case Pause():
                    await self._line.pause()
                case Resume():
                    await self._line.resume()
                case Flush():
                    log.info("interrupted", heard_ms=await self._line.flush())
                case Tell(kind, fields):
                    await self._line.send_event({"type": kind, **fields})
                case _:
                    assert_never(action)


def _milliseconds_since(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)
