"""What surrounds a realtime conversation in a test: a speaker under control, a client's ear, and
the official client's types as judges of every event.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from pydantic import BaseModel, TypeAdapter

from edge.backends.protocol import AudioFrame, CallQuality

Event = dict[str, object]

CLIENT_EVENTS: Final[TypeAdapter[object]] = TypeAdapter(RealtimeClientEvent)
SERVER_EVENTS: Final[TypeAdapter[object]] = TypeAdapter(RealtimeServerEvent)
SECOND: Final = 48_000
"""Bytes of a second of PCM16 at 24 kHz."""
TONE: Final = b"\x10\x20"
"""A sample that is not silence."""


def check_client_event(event: bytes | str) -> Event:
    """Read an event for a server; the official types must know it, and every field of it."""
    assert not list(_unknown(CLIENT_EVENTS.validate_json(event)))
    return decode(event)


def check_server_event(event: bytes | str) -> Event:
    """Read an event of a server's; the official types must know it."""
    SERVER_EVENTS.validate_json(event)
    return decode(event)


def _unknown(value: object) -> Iterator[str]:
    """Every field at any depth that the types do not have."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name))


def decode(event: bytes | str) -> Event:
    """Read any event."""
    return msgspec.json.decode(event, type=Event)


def encode(kind: str, **fields: object) -> bytes:
    """Write any event."""
    return msgspec.json.encode({"type": kind, **fields})


def delta(
    audio: bytes, *, response: str = "resp_1", item: str = "item_1", content_index: int = 0
) -> bytes:
    """Write an audio delta of a server's."""
    return encode(
        "response.output_audio.delta",
        event_id="event_1",
        response_id=response,
        item_id=item,
        output_index=0,
        content_index=content_index,
        delta=b64encode(audio).decode(),
    )


class HandSpeaker:
    """A ``Speaker`` whose time is turned by hand; ``fade`` seconds are still played in a flush."""

    def __init__(
        self,
        *,
        rate: int = 24_000,
        sample_bytes: int = 2,
        fade: float = 0.0,
        played: float = 0.0,
    ) -> None:
        self.frames: list[bytes] = []
        self.flushes = 0
        self._rate = rate
        self._sample_bytes = sample_bytes
        self._fade = round(fade * rate)
        self._queued = 0
        self._played = round(played * rate)

    def pass_time(self, seconds: float) -> None:
        """Play so much, or what there is."""
        samples = min(round(seconds * self._rate), self._queued)
        self._queued -= samples
        self._played += samples

    @property
    def audio(self) -> bytes:
        """All that was handed over."""
        return b"".join(self.frames)

    @property
    def queued(self) -> float:
        return self._queued / self._rate

    @property
    def played(self) -> float:
        return self._played / self._rate

    @property
    def quality(self) -> CallQuality:
        return CallQuality(None, 0.0, 0, 0.0, 0.0, None, None)

    def play(self, frame: AudioFrame) -> None:
        assert len(frame.payload) == round(frame.duration * self._rate) * self._sample_bytes
        self.frames.append(frame.payload)
        self._queued += len(frame.payload) // self._sample_bytes

    async def wait_queued_below(self, seconds: float) -> None:
        raise NotImplementedError

    def flush(self) -> float:
        self.flushes += 1
        self._played += min(self._fade, self._queued)
        self._queued = 0
        return self._played / self._rate

    def pause(self) -> float:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


class ClockSpeaker(HandSpeaker):
    """A ``Speaker`` that plays by Trio's clock."""

    def __init__(self, *, played: float = 0.0) -> None:
        super().__init__(played=played)
        self._heard_at = 0.0

    @property
    def queued(self) -> float:
        self._catch_up()
        return super().queued

    @property
    def played(self) -> float:
        self._catch_up()
        return super().played

    async def wait_queued_below(self, seconds: float) -> None:
        await trio.lowlevel.checkpoint()
        while (queued := self.queued) > seconds:
            await trio.sleep(queued - seconds + 1e-4)

    def flush(self) -> float:
        self._catch_up()
        return super().flush()

    def _catch_up(self) -> None:
        now, waiting = trio.current_time(), super().queued
        passed = min(int((now - self._heard_at) * 24_000 + 1e-6) / 24_000, waiting)
        self.pass_time(passed)
        # Less than a sample is kept; what passes while nothing waits is silence.
        self._heard_at = self._heard_at + passed if passed < waiting else now


@dataclass
class Ear:
    """An ``EventSink`` that keeps what the client is told."""

    events: list[Event] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)
    takes: bool = True

    def send_event(self, event: bytes) -> bool:
        if self.takes:
            self.events.append(decode(event))
            self.changed.set()
        return self.takes

    @property
    def kinds(self) -> list[str]:
        """The types, in order."""
        return [str(event["type"]) for event in self.events]

    def find(self, kind: str) -> Event:
        """The first event of a type."""
        return next(event for event in self.events if event["type"] == kind)

    async def wait_for(self, kind: str, *, times: int = 1) -> Event:
        """Wait for the last of so many events of a type."""
        while self.kinds.count(kind) < times:
            self.changed = trio.Event()
            await self.changed.wait()
        return [event for event in self.events if event["type"] == kind][times - 1]
