"""One session as a backend written in Python sees it; see ``edge.backends.server``."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final, Protocol

import msgspec
import trio

from edge.backends.frames.wire import (
    FORMATS,
    Frame,
    Kind,
    Open,
    audio_samples,
    decode_event,
    decode_milliseconds,
    decode_quality,
    encode_frame,
    encode_milliseconds,
)
from edge.backends.protocol import AudioFormat, CallQuality
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
        """Write a frame whole; ``before`` is called when its turn has come."""


class _Answer:
    """What a ``played`` or ``quality`` frame will say."""

    def __init__(self) -> None:
        self.came = trio.Event()
        self.payload = b""


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
        self.attempt = opened.attempt
        """Over 1 when the call was open on a connection before that was lost."""
        self.dropped = 0
        """Frames that could not be used, or came faster than they were taken."""
        self._number = number
        self._wire = wire
        self._format = FORMATS[opened.audio]
        self._audio: deque[tuple[bytes, int]] = deque()
        self._events: deque[Event] = deque()
        self._arrived = trio.Event()
        self._ahead = round(HEAR_SECONDS * self.rate)  # samples, as all counts here
        self._waiting = self._heard = 0
        self._window = self._ahead
        self._said = 0
        self._may_say = opened.window_ms * self.rate // 1000
        self._wider = trio.Event()
        self._flushes = 0
        self._asked: dict[int, deque[_Answer]] = {Kind.PLAYED: deque(), Kind.QUALITY: deque()}

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
        for piece, samples in _cut(self._format, audio):
            while self._flushes == flushes and self._said + samples > self._may_say:
                self._wider = trio.Event()
                await self._wider.wait()
            if self._flushes != flushes:
                return False
            self._said += samples
            await self._send(Kind.AUDIO, piece)
        return True

    async def flush(self) -> int:
        """Barge-in: silence at once. Returns the milliseconds the client has heard in all."""
        self._flushes += 1
        self._wider.set()
        return await self._ask_played(Kind.FLUSH)

    async def pause(self) -> int:
        """Hold back what is not played yet; returns as ``flush`` does."""
        return await self._ask_played(Kind.PAUSE)

    async def resume(self) -> None:
        """Go on where ``pause`` stopped."""
        await self._send(Kind.RESUME)

    async def played(self) -> int:
        """Milliseconds that the client has heard in all."""
        return await self._ask_played(Kind.PLAYED)

    async def quality(self) -> CallQuality:
        """How the network treats the call now."""
        return decode_quality(await self._ask(Kind.QUALITY, Kind.QUALITY))

    async def send_event(self, event: Mapping[str, object]) -> None:
        """Send a JSON event to the client."""
        await self._send(Kind.EVENT, msgspec.json.encode(event))

    async def send_window(self) -> None:
        """Say how much may come."""
        await self._send(Kind.WINDOW, encode_milliseconds(self._window * 1000 // self.rate))

    def receive(self, frame: Frame) -> None:
        """Take a frame of this session. Raises RemoteProtocolError for a malformed one."""
        match frame.kind:
            case Kind.AUDIO:
                self._add(frame.payload, audio_samples(self._format, frame.payload))
            case Kind.EVENT:
                self._events.append(msgspec.json.decode(decode_event(frame.payload), type=Event))
                if len(self._events) > MAX_EVENTS:
                    self._events.popleft()
                    self.dropped += 1
                self._arrived.set()
            case Kind.WINDOW:
                self._may_say = decode_milliseconds(frame.payload) * self.rate // 1000
                self._wider.set()
            case Kind.PLAYED | Kind.QUALITY if self._asked[frame.kind]:
                answer = self._asked[frame.kind].popleft()
                answer.payload = frame.payload
                answer.came.set()
            case _:
                self.dropped += 1

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

    async def _send(self, kind: Kind, payload: bytes = b"") -> None:
        await self._wire.send(encode_frame(kind, self._number, payload))

    async def _ask_played(self, kind: Kind) -> int:
        return decode_milliseconds(await self._ask(kind, Kind.PLAYED))

    async def _ask(self, kind: Kind, answered_by: Kind) -> bytes:
        answer = _Answer()
        frame = encode_frame(kind, self._number)
        await self._wire.send(frame, before=lambda: self._asked[answered_by].append(answer))
        await answer.came.wait()
        return answer.payload


def _cut(audio: AudioFormat, payload: bytes) -> Iterator[tuple[bytes, int]]:
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
