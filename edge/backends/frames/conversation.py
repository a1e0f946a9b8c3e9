"""One session of the ``frames`` backend: what it hears goes out, what comes is spoken.

A session that was open before, at another transceiver or on a connection that was lost, is opened
again with its ``Place``. A backend that still has it says ``resumed`` before all else; with any
other it is a new stream, and the client is told so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog
import trio

from edge.backends.frames.allowance import Allowance
from edge.backends.frames.connection import Outgoing
from edge.backends.frames.link import Link
from edge.backends.frames.opening import Openings
from edge.backends.frames.wire import (
    MAX_PAYLOAD,
    CloseReason,
    Frame,
    Kind,
    audio_samples,
    decode_close,
    decode_event,
    decode_milliseconds,
    decode_token,
    encode_close,
    encode_milliseconds,
    encode_quality,
)
from edge.backends.protocol import (
    BACKEND_RESTARTED,
    AudioFormat,
    AudioFrame,
    Call,
    EventSink,
    Speaker,
)
from edge.errors import BackendError, BackendFenced, Drop, RemoteProtocolError

QUEUE_SECONDS: Final = 1.0
"""Audio that may wait for a backend that does not take it; the oldest is dropped beyond it."""
PIECE_SECONDS: Final = 0.02
"""What comes in longer pieces is played in these; Opus packets stay whole."""
ANSWER_SECONDS: Final = 2.0
"""A backend that has said nothing for so long does not go on with a session."""

EVENTS_SECONDS: Final = 1.0
"""An event of the backend's is in a checkpoint so much later, and not sent twice from then on."""

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
    """See ``Conversation`` and ``Resumable``; made by ``FramesBackend.open``."""

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
        self._patience = patience
        self._find_link = find_link
        self._rate = call.audio.clock_rate
        self._outgoing = Outgoing(
            clock_rate=self._rate, queue_seconds=QUEUE_SECONDS, drops=self.drops
        )
        self._allowance = Allowance(rate=self._rate, seconds=patience.ahead_seconds)
        self._openings = Openings(call, audio_name)
        self._awaits_answer = False
        self._answered = trio.Event()
        self._moved = False
        self._changed: Callable[[], None] = lambda: None
        self._untold = trio.Event()  # set when events were said that no token tells of
        self._over = trio.CancelScope()
        self._reason: CloseReason | None = None

    def hear(self, frame: AudioFrame) -> None:
        """Send what the client said, as soon as the backend takes it."""
        if self._moved:
            self.drops[Drop.NOT_READY] += 1
            return
        samples = round(frame.duration * self._rate)
        self._openings.heard += samples
        self._outgoing.add_audio(frame.payload, samples)

    def receive_event(self, event: bytes) -> None:
        """Send an event."""
        if len(event) > MAX_PAYLOAD:
            self.drops[Drop.MALFORMED] += 1
        elif self._moved:
            self.drops[Drop.NOT_READY] += 1
        elif self._outgoing.add_control(Kind.EVENT, event):
            self._openings.heard_events += 1

    def watch(self, changed: Callable[[], None]) -> None:
        """See ``Resumable``."""
        self._changed = changed

    def resume_token(self) -> bytes:
        """Give what the backend wants to be kept for it, and how many events there were."""
        if self._untold.is_set():
            self._untold = trio.Event()
        return self._openings.left()

    def move(self) -> None:
        """Have the backend wait for another transceiver; ``run`` only waits to be cancelled."""
        self._moved = True
        self._over.cancel()

    async def run(self) -> None:
        """Open the session and serve it until it is closed.

        Raises BackendFenced when another transceiver has the session there, BackendError when the
        backend can not be reached, fails, or is lost.
        """
        try:
            reason = await self._serve()
        except BackendError:
            if not self._moved:
                raise
        if self._moved:
            await trio.sleep_forever()
        if reason is CloseReason.FENCED:
            raise BackendFenced("another transceiver serves this session there")
        if reason is not CloseReason.DONE:
            raise BackendError(f"the backend closed the session: {reason}")

    def receive(self, frame: Frame) -> None:
        """Take a frame of this session; never raises."""
        if self._moved:
            return
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

    async def _serve(self) -> CloseReason | None:
        """Serve the session on one link after the other; return why it was closed."""
        reason, seconds = None, self._patience.connect_seconds
        while reason is None and not self._moved:
            if not seconds:
                raise BackendError("the connection to the backend was lost")
            link, seconds = await self._link(seconds), self._patience.reopen_seconds
            reason = None if self._moved else await self._converse(link)
        return reason

    async def _link(self, seconds: float) -> Link:
        with trio.move_on_after(seconds):
            return await self._find_link()
        raise BackendError("the backend can not be reached")

    async def _converse(self, link: Link) -> CloseReason | None:
        """Serve the session on a link; return why it was closed, None when the link was lost."""
        with trio.CancelScope() as self._over:
            session = link.open(self, self._outgoing, self._opening())
            try:
                await self._await_answer()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._tell_of_events)
                    await self._grant_windows()
            finally:
                link.forget(session)
                if self._reason is None and self._outgoing.attached:  # the session is over here
                    reason = CloseReason.MOVED if self._moved else CloseReason.ENDED
                    self._outgoing.close(encode_close(reason))
        return self._reason

    def _opening(self) -> bytes:
        window_ms = self._allowance.begin(queued=self._speaker.queued)
        waiting = self._outgoing.waiting(Kind.EVENT)
        opening = self._openings.next(self._speaker, window_ms, waiting=waiting)
        self._awaits_answer = self._openings.again
        self._answered = trio.Event()
        return opening

    async def _await_answer(self) -> None:
        if self._awaits_answer:
            with trio.move_on_after(ANSWER_SECONDS):
                await self._answered.wait()
        if self._awaits_answer:
            self._take_answer(None)

    def _take_answer(self, first: int | None) -> None:
        """Learn from the kind of the first frame, None: there is none, what the backend knows."""
        self._awaits_answer = False
        self._answered.set()
        if first not in (Kind.RESUMED, Kind.CLOSE):
            self._events.send_event(msgspec.json.encode({"type": BACKEND_RESTARTED}))

    async def _grant_windows(self) -> None:
        while True:
            await self._allowance.due.wait()
            await self._speaker.wait_queued_below(self._allowance.half)
            self._outgoing.grant(self._allowance.widen(queued=self._speaker.queued))

    async def _tell_of_events(self) -> None:
        """Have those that the backend sent written down a little later, if nothing else does."""
        while True:
            await self._untold.wait()
            await trio.sleep(EVENTS_SECONDS)
            if self._untold.is_set():
                self._untold = trio.Event()
                self._changed()

    def _receive(self, frame: Frame) -> None:
        if self._awaits_answer:
            self._take_answer(frame.kind)
        payload = frame.payload
        match frame.kind:
            case Kind.AUDIO:
                self._speak(payload)
            case Kind.EVENT:
                self._events.send_event(decode_event(payload))
                self._openings.said_events += 1
                self._untold.set()
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
            case Kind.TOKEN:
                self._keep(decode_token(payload))
            case Kind.CLOSE:
                reason = _known(decode_close(payload).reason)
                self._outgoing.detach()
                self._finish(reason)
            case Kind.RESUMED:
                pass
            case _:
                self.drops[Drop.UNKNOWN_KIND] += 1

    def _keep(self, token: bytes) -> None:
        if token != self._openings.token:
            self._openings.token = token
            self._changed()

    def _speak(self, payload: bytes) -> None:
        try:
            samples = audio_samples(self._call.audio, payload)
        except RemoteProtocolError as error:
            self.drops[error.drop] += 1
            return
        start = self._allowance.spoken
        if not self._allowance.spend(samples):
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
