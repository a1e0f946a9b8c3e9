"""What a backend is: the model side of a session, as plain audio frames.

A ``Backend`` is made once a process; ``open`` makes one ``Conversation`` a session. Audio flows by
plain synchronous calls in both directions, because a call is cheaper than a task switch and a
voice packet can not wait: the session calls ``hear`` for what the client said, the conversation
calls ``Speaker.play`` for what the client shall hear. Whatever needs to wait does so in ``run``,
which the session's nursery owns.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edge.errors import Drop


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """A negotiated codec: ``name`` is ``opus``, ``PCMU`` or ``PCMA``; the clock in Hz."""

    name: str
    clock_rate: int


class AudioFrame(msgspec.Struct, frozen=True, gc=False):
    """One encoded frame: ``duration`` in seconds, ``timestamp`` in units of the codec's clock.

    One is made for every packet: 0.06 us, where a frozen dataclass takes 0.4.
    """

    payload: bytes
    duration: float
    timestamp: int = 0

    def __repr__(self) -> str:
        return f"AudioFrame({len(self.payload)} bytes, {self.duration} s)"


@dataclass(frozen=True, slots=True)
class Call:
    """What a backend may know of the session it serves."""

    session: str
    """The public call id, ``rtc_...``."""
    audio: AudioFormat


class Speaker(Protocol):
    """The way back to the client, paced in real time by the transceiver."""

    @property
    def queued(self) -> float:
        """Seconds of audio that wait to be played."""

    def play(self, frame: AudioFrame) -> None:
        """Queue a frame; over the queue's bound the oldest is dropped and counted."""

    def flush(self) -> float:
        """Drop what is queued; return the seconds of audio that were played so far."""


class Conversation(Protocol):
    """One session's stream to and from the model."""

    drops: Counter[Drop]
    """What it discarded; read when the session ends."""

    def hear(self, frame: AudioFrame) -> None:
        """Take what the client said. Must not block; called for every packet, in arrival order."""

    async def run(self) -> None:
        """Serve the stream until the model is done; cancelled when the session ends.

        Returning ends the session with ``BACKEND_CLOSED``, raising with ``BACKEND_FAILED``.
        """


class Backend(Protocol):
    """A kind of model side, chosen by configuration."""

    def open(self, call: Call, speaker: Speaker) -> Conversation:
        """Make the conversation of one session; must not block."""
