"""The JSON events we look into and those we make; all others pass unread.

Shapes: the OpenAI Realtime API's GA events. Every field that a compatible server may leave out has
a default, because servers do.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from edge.errors import EndReason, RemoteProtocolError

AUDIO_DELTA: Final = "response.output_audio.delta"
OWN_PREFIX: Final = "edge_"
"""Of the ids of events that we make, so that errors about them are known."""

T = TypeVar("T")


class Head(msgspec.Struct, frozen=True):
    """Of any event."""

    type: str


class AudioDelta(msgspec.Struct, frozen=True):
    """``response.output_audio.delta``."""

    delta: str
    response_id: str = ""
    item_id: str = ""
    content_index: int = 0

    def __repr__(self) -> str:
        return f"AudioDelta({len(self.delta)} characters)"


class AudioDone(msgspec.Struct, frozen=True):
    """``response.output_audio.done``."""

    response_id: str = ""
    item_id: str = ""
    content_index: int = 0


class ResponseName(msgspec.Struct, frozen=True):
    """What we read of a response."""

    id: str | None = None


class ResponseEvent(msgspec.Struct, frozen=True):
    """``response.created`` and ``response.done``."""

    response: ResponseName


class SessionEnded(msgspec.Struct, frozen=True):
    """``session.ended``, the edge's own."""

    reason: EndReason


class ErrorBody(msgspec.Struct, frozen=True):
    """What we read of an error."""

    code: str | None = None
    type: str | None = None
    event_id: str | None = None


class ErrorEvent(msgspec.Struct, frozen=True):
    """``error``."""

    error: ErrorBody


def decode_event(message: bytes | str, kind: type[T]) -> T:
    """Read an event as ``kind``; raises RemoteProtocolError."""
    try:
        return msgspec.json.decode(message, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("not such an event") from None


def decode_audio(delta: str) -> bytes:
    """Read base64; raises RemoteProtocolError."""
    try:
        return a2b_base64(delta, strict_mode=True)
    except (Base64Error, ValueError):
        raise RemoteProtocolError("not base64") from None


def find(message: bytes | str, path: str) -> object:
    """Give the value at a dotted path, None where there is none."""
    value: object = decode_event(message, dict[str, object])
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def without(message: bytes, paths: Iterable[str]) -> bytes:
    """Take what is at these dotted paths out of an event; raises RemoteProtocolError."""
    event: object = decode_event(message, dict[str, object])
    for path in paths:
        *parents, last = path.split(".")
        place = event
        for name in parents:
            place = place.get(name) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return msgspec.json.encode(event)


def renamed(message: bytes | str, name: str) -> bytes:
    """Give an event another ``type``; raises RemoteProtocolError."""
    event = decode_event(message, dict[str, msgspec.Raw])
    return msgspec.json.encode(event | {"type": msgspec.Raw(msgspec.json.encode(name))})


def make_append(audio: bytes) -> str:
    """Write ``input_audio_buffer.append``; by hand, because it is most of what is sent."""
    encoded = b2a_base64(audio, newline=False).decode("ascii")
    return f'{{"type":"input_audio_buffer.append","audio":"{encoded}"}}'


def make_event(kind: str, event_id: str, **fields: object) -> bytes:
    """Write an event of our own."""
    return msgspec.json.encode({"type": kind, "event_id": event_id, **fields})
