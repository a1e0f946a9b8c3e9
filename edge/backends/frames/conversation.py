"""One session of the ``frames`` backend: what it hears goes out, what comes is spoken.

How far the backend may speak ahead is its window: so many milliseconds in total since ``open``.
It is what was spoken and is not queued any more, played or flushed, and ``ahead_seconds``; the next
``window`` frame is due when half of it is used up and no more than half is still queued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
import trio

from edge.backends.frames.connection import Outgoing
from edge.backends.frames.link import Link
from edge.backends.frames.wire import (
    MAX_PAYLOAD,
    VERSION,
    CloseReason,
    Frame,
    Kind,
    Open,
    audio_samples,
    decode_close,
    decode_event,
    decode_milliseconds,
    encode_close,
    encode_milliseconds,
    encode_quality,
)
from edge.backends.protocol import AudioFormat, AudioFrame, Call, EventSink, Speaker
from edge.errors import BackendError, Drop, RemoteProtocolError
from edge.session_config import decode_session

QUEUE_SECONDS: Final = 1.0
"""Audio that may wait for a backend that does not take it; the oldest is dropped beyond it."""
PIECE_SECONDS: Final = 0.02
"""What comes in longer pieces is played in these; Opus packets stay whole."""

log = structlog.get_logger()

FindLink = Callable[[], Awaitable[Link]]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a session waits for a connection and how far its backend may speak; seconds."""

    connect_seconds: float = 5.0
    reopen_seconds: float = 0.0
    """For another connection when one is lost; 0: the session ends."""
    ahead_seconds: float = 30.0


class FramesConversation:
    """See ``Conversation``; made by ``FramesBackend.open``."""

    def __init__(
        self,
        call: Call,
        speaker: Speaker,
        events: EventSink,
        *,
        audio_name: str,
        patience: Patience,
        find_link: FindLink,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self._call = call
        self._speaker = speaker
        self._events = events
        self._audio_name = audio_name
        self._patience = patience
        self._find_link = find_link
        self._rate = call.audio.clock_rate
        self._outgoing = Outgoing(
            clock_rate=self._rate, queue_seconds=QUEUE_SECONDS, drops=self.drops
        )
        self._ahead = round(patience.ahead_seconds * self._rate)
        self._spoken = self._granted = 0  # samples since ``open``
        self._spent = trio.Event()
        self._over = trio.CancelScope()
        self._reason: CloseReason | None = None

    def hear(self, frame: AudioFrame) -> None:
        """Send what the client said, as soon as the backend takes it."""
        self._outgoing.add_audio(frame.payload, round(frame.duration * self._rate))

    def receive_event(self, event: bytes) -> None:
        """Send an event."""
        if len(event) > MAX_PAYLOAD:
            self.drops[Drop.MALFORMED] += 1
            return
        self._outgoing.add_control(Kind.EVENT, event)

    async def run(self) -> None:
        """Open the session and serve it until it is closed.

        Raises BackendError when the backend can not be reached, fails, or is lost.
        """
        attempt, seconds = 1, self._patience.connect_seconds
        while (reason := await self._converse(await self._link(seconds), attempt)) is None:
            attempt, seconds = attempt + 1, self._patience.reopen_seconds
            if not seconds:
                raise BackendError("the connection to the backend was lost")
        if reason is not CloseReason.DONE:
            raise BackendError(f"the backend closed the session: {reason}")

    def receive(self, frame: Frame) -> None:
        """Take a frame of this session; never raises."""
        try:
            self._receive(frame)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            self._break_off()
        except Exception:
            log.exception("bug in a session", session=self._call.session)
            self.drops[Drop.BUG] += 1
            self._break_off()

    def lose(self) -> None:
        """The connection is lost."""
        self._outgoing.detach()
        self._over.cancel()

    async def _link(self, seconds: float) -> Link:
        with trio.move_on_after(seconds):
            return await self._find_link()
        raise BackendError("the backend can not be reached")

    async def _converse(self, link: Link, attempt: int) -> CloseReason | None:
        """Serve the session on a link; return why it was closed, None when the link was lost."""
        window = max(self._ahead - round(self._speaker.queued * self._rate), 0)
        self._spoken, self._granted = 0, window
        self._spent = trio.Event()
        config = self._call.session_config
        opening = Open(
            version=VERSION,
            call=self._call.session,
            audio=self._audio_name,
            window_ms=self._milliseconds(window),
            attempt=attempt,
            session=decode_session(config) if config else msgspec.UNSET,
        )
        with trio.CancelScope() as self._over:
            session = link.open(self, self._outgoing, msgspec.json.encode(opening))
            try:
                await self._grant_windows()
            finally:
                link.forget(session)
                if self._reason is None and self._outgoing.attached:  # the session is over
                    self._outgoing.close(encode_close(CloseReason.ENDED))
        return self._reason

    async def _grant_windows(self) -> None:
        while True:
            await self._spent.wait()
            await self._speaker.wait_queued_below(self._ahead / 2 / self._rate)
            self._spent = trio.Event()
            queued = round(self._speaker.queued * self._rate)
            self._granted = max(self._spoken - queued + self._ahead, self._granted)
            self._outgoing.grant(self._milliseconds(self._granted))

    def _receive(self, frame: Frame) -> None:
        payload = frame.payload
        match frame.kind:
            case Kind.AUDIO:
                self._speak(payload)
            case Kind.EVENT:
                self._events.send_event(decode_event(payload))
            case Kind.FLUSH:
                self._answer(self._speaker.flush())
            case Kind.PAUSE:
                self._answer(self._speaker.pause())
            case Kind.RESUME:
                self._speaker.resume()
            case Kind.PLAYED:
                self._answer(self._speaker.played)
            case Kind.QUALITY:
                self._outgoing.add_control(Kind.QUALITY, encode_quality(self._speaker.quality))
            case Kind.WINDOW:
                self._outgoing.widen(decode_milliseconds(payload))
            case Kind.CLOSE:
                reason = _known(decode_close(payload).reason)
                self._outgoing.detach()
                self._finish(reason)
            case _:
                self.drops[Drop.UNKNOWN_KIND] += 1

    def _speak(self, payload: bytes) -> None:
        try:
            samples = audio_samples(self._call.audio, payload)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return
        start, self._spoken = self._spoken, self._spoken + samples
        if self._granted - self._spoken < self._ahead // 2:
            self._spent.set()
        if self._spoken > self._granted:
            self.drops[Drop.QUEUE_FULL] += 1
            return
        for frame in _cut(self._call.audio, payload, samples, start):
            self._speaker.play(frame)

    def _answer(self, played: float) -> None:
        self._outgoing.add_control(Kind.PLAYED, encode_milliseconds(round(played * 1000)))

    def _break_off(self) -> None:
        self._outgoing.close(encode_close(CloseReason.PROTOCOL_ERROR))
        self._finish(CloseReason.PROTOCOL_ERROR)

    def _finish(self, reason: CloseReason) -> None:
        self._reason = self._reason or reason
        self._over.cancel()

    def _milliseconds(self, samples: int) -> int:
        return samples * 1000 // self._rate


def _known(reason: str) -> CloseReason:
    """Nothing of a backend's own text gets any further."""
    try:
        return CloseReason(reason)
    except ValueError:
        return CloseReason.FAILED


def _cut(audio: AudioFormat, payload: bytes, samples: int, start: int) -> Iterator[AudioFrame]:
    """Cut audio into pieces; ``start`` is the first one's timestamp."""
    piece = round(PIECE_SECONDS * audio.clock_rate)
    if audio.name == "opus" or samples <= piece:
        yield AudioFrame(payload, samples / audio.clock_rate, start)
        return
    size = len(payload) // samples
    for at in range(0, samples, piece):
        part = payload[at * size : (at + piece) * size]
        yield AudioFrame(part, len(part) / size / audio.clock_rate, start + at)
