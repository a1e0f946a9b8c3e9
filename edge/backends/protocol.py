"""What a backend is: the model side of a session, as plain audio frames.

A ``Backend`` is made once a process. For each session it is asked what it ``wants`` to hear and
speak, and ``open`` makes its ``Conversation``. Audio flows by plain synchronous calls in both
directions, because a call is cheaper than a task switch and a voice packet can not wait: the
session calls ``hear`` for what the client said, the conversation calls ``Speaker.play`` for what
the client shall hear. Whatever needs to wait does so in ``run``, which the session's nursery owns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

import msgspec

from edge.errors import Drop

PCM_RATES: Final = (8_000, 16_000, 24_000, 48_000)  # Hz
MAX_TOKEN_BYTES: Final = 16_384
"""Of what a backend leaves to whoever goes on with a conversation."""

MAX_RESUME_BYTES: Final = MAX_TOKEN_BYTES + 64
"""The same with what the conversation adds for itself."""

BACKEND_RESTARTED: Final = "session.backend_restarted"
"""The ``type`` of the client's event: another stream to the model that may not know all of it."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How audio is written: ``name`` is ``opus``, ``PCMU``, ``PCMA`` or ``pcm16``; clock in Hz.

    ``pcm16`` is signed, little-endian, one channel, at one of PCM_RATES.
    """

    name: str
    clock_rate: int


class AudioFrame(msgspec.Struct, frozen=True, gc=False):
    """One frame: ``duration`` in seconds, ``timestamp`` in units of the format's clock.

    One is made for every packet: 0.06 us, where a frozen dataclass takes 0.4.
    """

    payload: bytes
    duration: float
    timestamp: int = 0

    def __repr__(self) -> str:
        return f"AudioFrame({len(self.payload)} bytes, {self.duration} s)"


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """Where a call goes on that another process served before; from its last checkpoint."""

    epoch: int
    """Which owner of the call this is: 2 and more."""
    played: int
    """Samples of the backend's that the client was played; what ``Speaker.played`` begins with."""
    heard: int
    """Samples that the former conversation was given."""
    exact: bool = False
    """It was a planned move: nothing was played or heard since."""
    token: bytes = b""
    """What the former conversation's ``resume_token`` gave; empty: nothing."""

    def __repr__(self) -> str:
        return f"Resumed(epoch={self.epoch}, played={self.played}, heard={self.heard})"


@dataclass(frozen=True, slots=True)
class Call:
    """What a backend may know of the session it serves."""

    session: str
    """The public call id, ``rtc_...``."""
    audio: AudioFormat
    """What the conversation hears and speaks."""
    session_config: bytes | None = field(default=None, repr=False)
    """What the session was opened with, a JSON object in OpenAI's dialect; None: nothing."""
    resumed: Resumed | None = None
    """None: the call begins here."""


@dataclass(frozen=True, slots=True)
class CallQuality:
    """How the network treats the session now. Times in seconds; None is not known yet."""

    round_trip: float | None
    jitter: float
    """Of what the client sends, as it arrives."""
    lost: int
    """Packets of the client's that never came."""
    concealed: float
    """Seconds of what was heard that were made up in the place of lost audio."""
    delay: float
    """What the jitter buffer holds back."""
    remote_jitter: float | None
    """Of what we send, as the client's reports tell."""
    remote_fraction_lost: float | None
    target: float = 0.0
    """What the jitter buffer aims to hold back: ``delay`` is at most a frame and 10 ms more."""
    recovered_red: int = 0
    """Lost packets whose audio came as a redundant copy (RFC 2198)."""
    recovered_fec: int = 0
    """Lost packets whose audio came out of in-band FEC; RTP counts them as lost."""


class Speaker(Protocol):
    """The way back to the client, paced in real time by the transceiver."""

    @property
    def queued(self) -> float:
        """Seconds of audio that wait to be played."""

    @property
    def played(self) -> float:
        """Seconds of audio that were played since the session began."""

    @property
    def quality(self) -> CallQuality:
        """How the call goes."""

    def play(self, frame: AudioFrame) -> None:
        """Queue a frame; over the queue's bound the oldest is dropped and counted."""

    async def wait_queued_below(self, seconds: float) -> None:
        """Wait until ``queued`` is this much or less, or until the session has ended."""

    def flush(self) -> float:
        """Barge-in: drop what is queued but for a short fade, so that nothing clicks.

        Returns the seconds that will have been played when the fade is over, since the session
        began: of the dropped frames none is part of it.
        """

    def pause(self) -> float:
        """Hold back what is queued, after a fade; returns ``played`` as ``flush`` does."""

    def resume(self) -> None:
        """Go on where ``pause`` stopped; nothing is lost. Also after ``flush``: then it is new."""


class Conversation(Protocol):
    """One session's stream to and from the model."""

    drops: Counter[Drop]
    """What it discarded; read when the session ends."""

    def hear(self, frame: AudioFrame) -> None:
        """Take what the client said, in order. Must not block."""

    def receive_event(self, event: bytes) -> None:
        """Take a JSON event from whoever holds the session's event channel. Must not block."""

    async def run(self) -> None:
        """Serve the stream until the model is done; cancelled when the session ends.

        Returning ends the session with ``BACKEND_CLOSED``, raising with ``BACKEND_FAILED``.
        """


@runtime_checkable
class Resumable(Protocol):
    """A conversation with which another process can go on: its token becomes ``Call.resumed``'s.

    When the model may have forgotten some of the call, the client is told BACKEND_RESTARTED.
    """

    def watch(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called whenever a checkpoint should hold another token than before.

        It comes out of any of our methods and must not block; once, before ``run``. The token
        may change without it: what a little later checkpoint holds is good enough then.
        """

    def resume_token(self) -> bytes:
        """Give what the next conversation needs as of now, MAX_RESUME_BYTES at most; cheap."""

    def move(self) -> None:
        """The call goes on elsewhere, or does already: part from the model without ending it.

        To be called before the last ``resume_token`` of a planned move, and before ``run`` is
        cancelled because another owns the call. Nothing is heard, said or told any more.
        """


class EventSink(Protocol):
    """The other end of a session's event channel: the client's data channel, a sideband, a log."""

    def send_event(self, event: bytes) -> bool:
        """Pass a JSON event on to the client; False, and counted, when nobody can take it now."""


class Backend(Protocol):
    """A kind of model side, chosen by configuration."""

    def wants(self, codec: AudioFormat) -> AudioFormat:
        """Choose what a conversation hears and speaks, if ``codec`` is what the client speaks.

        The client's own codec passes through untouched; ``pcm16`` is decoded and encoded.
        """

    def open(self, call: Call, speaker: Speaker, events: EventSink) -> Conversation:
        """Make the conversation of one session; must not block."""


@runtime_checkable
class AnswersSession(Protocol):
    """A backend that says whether ``session.created`` and ``session.updated`` are its to send.

    For all others the transceiver sends them.
    """

    answers_session: bool


@runtime_checkable
class EchoesMessages(Protocol):
    """A backend that has clients' messages sent back, on channels that are not the events'."""

    echoes_messages: bool
