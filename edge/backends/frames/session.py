"""One session as a backend written in Python sees it; see ``edge.backends.server``.

It outlives its connection for a while: another transceiver, or the same one on another connection,
may take it up again. What the client has not heard yet is then said again, and what was asked is
asked again; whoever waits for either waits on. Events are told and taken once, see ``tally``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from typing import Final, Protocol

import msgspec
import trio
from msgspec import UNSET

from edge.backends.frames.questions import Question, Questions
from edge.backends.frames.tally import ReceivedEvents, SentEvents
from edge.backends.frames.unplayed import REPORT_SECONDS, Piece, Unplayed
from edge.backends.frames.wire import (
    FORMATS,
    Frame,
    Kind,
    Open,
    Place,
    audio_samples,
    decode_event,
    decode_milliseconds,
    decode_quality,
    encode_frame,
    encode_milliseconds,
)
from edge.backends.protocol import MAX_TOKEN_BYTES, AudioFormat, CallQuality
from edge.errors import RemoteProtocolError

MAX_EVENTS: Final = 64
"""Events of one session that may wait for its handler; the oldest is dropped."""
HEAR_SECONDS: Final = 1.0
"""Audio of one session that may wait for its handler."""
SAY_SECONDS: Final = 0.1
"""What ``say`` sends in one frame."""

Event = dict[str, object]


class Wire(Protocol):
    """The connection."""

    async def send(self, frame: bytes, before: Callable[[], None] = lambda: None) -> None:
        """Write a frame whole; ``before`` is called when its turn has come.

        On a connection that is lost neither happens.
        """

    def give_up(self) -> None:
        """Wait no more for what is being written: the far end has lost a session, as if dead."""


class BackendSession:
    """One session: iterate to hear (``bytes``) and to receive events (``dict``)."""

    def __init__(self, opened: Open, number: int, wire: Wire) -> None:
        self.call = opened.call
        """The public id of the call."""
        self.audio = opened.audio
        """How audio is written in both directions, such as ``pcm16/24000``."""
        self.config: Mapping[str, object] = (
            opened.session if isinstance(opened.session, dict) else {}
        )
        """What the call was opened with, as in OpenAI's ``session.update``; empty: nothing."""
        self.resumed: Place | None = opened.resumed if isinstance(opened.resumed, Place) else None
        """The call was open before, and this handler knows nothing of it but this; None: not."""
        self.attempt = opened.attempt
        """Over 1 when the transceiver had the call open on a connection that was lost."""
        self.dropped = 0
        """Frames that could not be used, or came faster than they were taken."""
        heard_events, said_events = _event_counts(self.resumed) or (0, 0)
        self.received_events = ReceivedEvents(heard_events)
        self.sent_events = SentEvents(said_events)
        self._number = number
        self._wire: Wire | None = wire
        self._joined = trio.Event()
        self._joined.set()
        self._format = FORMATS[opened.audio]
        self._audio: deque[Piece] = deque()
        self._events: deque[Event] = deque()
        self._arrived = trio.Event()
        self._ahead = round(HEAR_SECONDS * self.rate)  # samples, as all counts here
        self._waiting = self._heard = 0
        self._window = self._ahead
        self._said = 0
        self._may_say = self._samples(opened.window_ms)
        self._wider = trio.Event()
        self._flushes = 0
        self._paused = False
        self._token = self.resumed.token if self.resumed else b""
        self._unplayed = Unplayed(self._format, self._samples(_next_ms(self.resumed)))
        self._behind = 0
        """Samples by which the transceiver counts less as played than was: an heir after a crash
        begins to count from the last checkpoint."""
        self._again: deque[Piece] = deque()  # to be said before anything else
        self._again_events: list[bytes] = []
        self._questions = Questions()

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self._format.clock_rate

    def __aiter__(self) -> AsyncIterator[bytes | Event]:
        """Hear: audio as ``bytes``, in the order it came, and events as ``dict``."""
        return self

    async def __anext__(self) -> bytes | Event:
        """Wait for the next event or frame of audio."""
        await trio.lowlevel.checkpoint()
        while not (self._events or self._audio):
            self._arrived = trio.Event()
            await self._arrived.wait()
        if self._events:
            return self._events.popleft()
        if self._window - self._heard <= self._ahead // 2:
            self._window = self._heard + self._ahead
            await self.send_window()
        return self._drop_oldest()

    async def say(self, audio: bytes) -> bool:
        """Speak: whole samples of any length, or one Opus packet.

        Waits while the client's side has enough to play. False when a ``flush`` came meanwhile and
        the rest was not said. Raises ValueError when it is no audio of this session's kind.
        """
        flushes = self._flushes
        for piece in _cut(self._format, audio):
            while self._flushes == flushes and (self._again or not self._may_send(piece)):
                await self._wait_until_wider()
            if self._flushes != flushes:
                return False
            self._unplayed.add(*piece, now=trio.current_time())
            await self._say(piece)
        return True

    async def flush(self) -> int:
        """Barge-in: silence at once. Returns the milliseconds the client has heard in all."""
        self._flushes += 1
        self._unplayed.flush()
        self._again.clear()
        self._set_paused(False)
        self._wider.set()
        return await self._ask_played(Kind.FLUSH)

    async def pause(self) -> int:
        """Hold back what is not played yet; returns as ``flush`` does."""
        self._set_paused(True)
        return await self._ask_played(Kind.PAUSE)

    async def resume(self) -> None:
        """Go on where ``pause`` stopped."""
        self._set_paused(False)
        await trio.lowlevel.checkpoint()
        if self._wire is not None:  # another transceiver will not even know of the pause
            await self._wire.send(self._frame(Kind.RESUME))

    async def played(self) -> int:
        """Milliseconds that the client has heard in all."""
        return await self._ask_played(Kind.PLAYED)

    async def quality(self) -> CallQuality:
        """How the network treats the call now."""
        return decode_quality(await self._ask(Kind.QUALITY))

    async def send_event(self, event: Mapping[str, object]) -> None:
        """Send a JSON event to the client.

        Where the session moves without a plan the client may get it twice: the same bytes.
        """
        payload = msgspec.json.encode(event)
        while not await self._send_event(payload):
            pass

    async def keep(self, token: bytes) -> None:
        """Leave something, MAX_TOKEN_BYTES at most, to a backend that must start again.

        It is given back as ``resumed.token`` where this session is not found any more. Raises
        ValueError when it is too long.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise ValueError(f"a token is no longer than {MAX_TOKEN_BYTES} bytes")
        self._token = token
        await self._send(Kind.TOKEN, token)

    async def send_window(self) -> None:
        """Say how much may come; without a connection ``join`` will."""
        if self._wire is not None:
            await self._wire.send(self._window_frame())

    async def report(self) -> None:
        """Keep an eye on what was played, for whoever takes the session up; until cancelled."""
        while True:
            await trio.sleep(REPORT_SECONDS)
            if self._unplayed and not self._paused:
                await self._ask(Kind.PLAYED)

    def receive(self, frame: Frame) -> None:
        """Take a frame of this session. Raises RemoteProtocolError for a malformed one."""
        match frame.kind:
            case Kind.AUDIO:
                self._add(frame.payload, audio_samples(self._format, frame.payload))
            case Kind.EVENT:
                if self.received_events.take(frame.payload, now=trio.current_time()):
                    self._add_event(frame.payload)
            case Kind.WINDOW:
                self._may_say = self._samples(decode_milliseconds(frame.payload))
                self._wider.set()
            case Kind.PLAYED:
                position = self._samples(decode_milliseconds(frame.payload)) + self._behind
                answer = encode_milliseconds(position * 1000 // self.rate)
                self._note(self._questions.answer(Kind.PLAYED, answer), position)
            case Kind.QUALITY:
                self.dropped += self._questions.answer(Kind.QUALITY, frame.payload) is None
            case _:
                self.dropped += 1

    # From one connection to the next

    def receive_owed(self, frame: Frame) -> None:
        """Take a frame that comes from the former transceiver: an event the present one counts.

        Raises RemoteProtocolError for a malformed one.
        """
        if frame.kind == Kind.EVENT and self.received_events.take_owed():
            self._add_event(frame.payload)

    def leave(self) -> None:
        """The connection is lost, or the transceiver waits for another to take the session up."""
        if self._wire is not None:
            self._wire = None
            self._joined = trio.Event()
            self._unplayed.stop(now=trio.current_time())

    def take_up(self, opened: Open, place: Place, number: int) -> None:
        """Another connection has it: count from its ``open`` on, and know what was not heard."""
        self.leave()
        self.attempt = opened.attempt
        self._number = number
        self._said, self._may_say = 0, self._samples(opened.window_ms)
        self._heard, self._window = -self._waiting, self._ahead - self._waiting
        now = trio.current_time()
        self._again_events = self._recount(place, now)
        told = self._samples(_next_ms(place)) + self._behind
        position = told if place.exact else max(told, self._unplayed.guess(now=now))
        self._behind += position - told
        self._unplayed.begin_at(position)
        self._again = deque(self._unplayed.pieces())
        if not self._paused:
            self._unplayed.go_on(now=now)

    async def join(self, place: Place, wire: Wire) -> None:
        """Go on there: say so before all else, and say again what was not heard.

        To be cancelled when the session leaves before that is done.
        """
        told = self._window
        await self._introduce(place, wire)
        self._wire = wire
        self._joined.set()
        if self._window != told:  # the handler has heard on while we waited for our turn
            await self.send_window()
        await self._say_again()

    def _recount(self, place: Place, now: float) -> list[bytes]:
        """Count events as the transceiver does; returns those to be sent again."""
        counts = _event_counts(place)
        if counts is None:
            self.received_events, self.sent_events = ReceivedEvents(), SentEvents()
            return []
        heard, said = counts
        self.received_events.resume(heard, now=now)
        return self.sent_events.resume(said)

    async def _introduce(self, place: Place, wire: Wire) -> None:
        if self._paused and Kind.PAUSE not in self._questions:
            self._questions.add(Question(Kind.PAUSE), None)
        frames = [self._frame(Kind.RESUMED), self._window_frame()]
        if self._token != place.token:
            frames.append(self._frame(Kind.TOKEN, self._token))
        frames += [self._frame(Kind.EVENT, event) for event in self._again_events]
        for frame in frames:
            await wire.send(frame)
        while (question := self._questions.next_not_asked_on(wire)) is not None:
            question.asked_on = wire
            await wire.send(self._frame(question.kind))

    async def _say_again(self) -> None:
        while self._again:
            if self._may_send(self._again[0]):
                await self._say(self._again.popleft())
            else:
                await self._wait_until_wider()
        self._wider.set()

    # Within one

    def _may_send(self, piece: Piece) -> bool:
        return self._wire is not None and self._said + piece[1] <= self._may_say

    async def _wait_until_wider(self) -> None:
        if self._wider.is_set():
            self._wider = trio.Event()
        await self._wider.wait()

    async def _say(self, piece: Piece) -> None:
        wire = self._wire
        assert wire is not None
        self._said += piece[1]
        await wire.send(self._frame(Kind.AUDIO, piece[0]))

    def _set_paused(self, paused: bool) -> None:
        now = trio.current_time()
        if paused:
            self._unplayed.stop(now=now)
        elif self._paused and self._wire is not None:
            self._unplayed.go_on(now=now)
        self._paused = paused

    def _note(self, question: Question | None, position: int) -> None:
        now = trio.current_time()
        if question is None:
            self.dropped += 1
        elif question.kind is Kind.FLUSH:
            self._unplayed.flushed(position, now=now)
        else:
            self._unplayed.note(position, now=now)

    def _add_event(self, payload: bytes) -> None:
        self._events.append(msgspec.json.decode(decode_event(payload), type=Event))
        if len(self._events) > MAX_EVENTS:
            self._events.popleft()
            self.dropped += 1
        self._arrived.set()

    def _add(self, audio: bytes, samples: int) -> None:
        self._audio.append((audio, samples))
        self._waiting += samples
        while self._waiting > self._ahead and len(self._audio) > 1:
            self._drop_oldest()
            self.dropped += 1
        self._arrived.set()

    def _drop_oldest(self) -> bytes:
        audio, samples = self._audio.popleft()
        self._waiting -= samples
        self._heard += samples
        return audio

    def _window_frame(self) -> bytes:
        window = max(self._window, 0) * 1000 // self.rate
        return self._frame(Kind.WINDOW, encode_milliseconds(window))

    def _frame(self, kind: Kind, payload: bytes = b"") -> bytes:
        return encode_frame(kind, self._number, payload)

    async def _send(self, kind: Kind, payload: bytes = b"") -> None:
        while self._wire is None:
            await self._joined.wait()
        await self._wire.send(self._frame(kind, payload))

    async def _send_event(self, event: bytes) -> bool:
        """Send it; False when the session has gone on elsewhere before its turn came."""
        while (wire := self._wire) is None:
            await self._joined.wait()
        sent: list[bytes] = []

        def note() -> None:
            if wire is self._wire:
                self.sent_events.add(event)
                sent.append(event)

        await wire.send(self._frame(Kind.EVENT, event), before=note)
        if not sent:  # the connection is lost, or the session has left it
            note()
        return bool(sent)

    async def _ask_played(self, kind: Kind) -> int:
        return decode_milliseconds(await self._ask(kind))

    async def _ask(self, kind: Kind) -> bytes:
        question = Question(kind)
        while question.asked_on is None and question.answer is None:
            wire = self._wire
            if wire is not None:
                frame = self._frame(kind)
                await wire.send(frame, before=partial(self._note_asked, question, wire))
            if wire is self._wire and question.asked_on is None:
                self._questions.add(question, None)  # is asked when the session is taken up
                break
        return await question.wait()

    def _note_asked(self, question: Question, wire: Wire) -> None:
        if wire is self._wire:  # otherwise nobody will hear the answer
            self._questions.add(question, wire)

    def _samples(self, milliseconds: int) -> int:
        return milliseconds * self.rate // 1000


def _event_counts(place: Place | None) -> tuple[int, int] | None:
    """Events that the transceiver knows of: those it passed on to us, and those it took."""
    if place is None or place.heard_events is UNSET or place.said_events is UNSET:
        return None
    return place.heard_events, place.said_events


def _next_ms(place: Place | None) -> int:
    """Where in the call what is said next will be played."""
    return place.played_ms + place.queued_ms if place else 0


def _cut(audio: AudioFormat, payload: bytes) -> Iterator[Piece]:
    try:
        samples = audio_samples(audio, payload)
    except RemoteProtocolError as error:
        raise ValueError(f"no audio of this session: {error}") from None
    if audio.name == "opus":
        yield payload, samples
        return
    width = len(payload) // samples
    size = round(SAY_SECONDS * audio.clock_rate) * width
    for at in range(0, len(payload), size):
        piece = payload[at : at + size]
        yield piece, len(piece) // width
