"""What a backend has asked its transceiver: answers come in the order of the questions.

A transceiver that takes the session up is asked again whatever the former one left unanswered.
"""

from __future__ import annotations

from collections import deque

import trio

from edge.backends.frames.wire import Kind


class Question:
    """One; ``asked_on`` is the connection (any object) that it was last written to."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.asked_on: object = None
        self.answer: bytes | None = None
        self._came = trio.Event()

    @property
    def answered_by(self) -> Kind:
        """The kind of the answer."""
        return Kind.QUALITY if self.kind is Kind.QUALITY else Kind.PLAYED

    def take(self, answer: bytes) -> None:
        """Wake whoever asks."""
        self.answer = answer
        self._came.set()

    async def wait(self) -> bytes:
        """Wait for the payload of the answer."""
        await self._came.wait()
        return self.answer or b""


class Questions:
    """Those of one session that are not answered."""

    def __init__(self) -> None:
        self._open: dict[Kind, deque[Question]] = {Kind.PLAYED: deque(), Kind.QUALITY: deque()}

    def __contains__(self, kind: Kind) -> bool:
        """Whether a question of this kind is open."""
        return any(question.kind is kind for each in self._open.values() for question in each)

    def add(self, question: Question, asked_on: object) -> None:
        """Note that it was asked; None: not yet."""
        question.asked_on = asked_on
        self._open[question.answered_by].append(question)

    def answer(self, kind: Kind, payload: bytes) -> Question | None:
        """Take the oldest that a frame answers, None where nothing was asked."""
        waiting = self._open[kind]
        if not waiting:
            return None
        question = waiting.popleft()
        question.take(payload)
        return question

    def next_not_asked_on(self, wire: object) -> Question | None:
        """The oldest that was not asked on this connection."""
        for each in self._open.values():
            for question in each:
                if question.asked_on is not wire:
                    return question
        return None
