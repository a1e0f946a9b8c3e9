"""The frames protocol's bytes: header, kinds, payloads; docs/backend-protocol.md.

A frame is nine bytes of header and its payload: ``length`` of the payload (u32), ``kind`` (u8),
``session`` (u32), all big-endian. Only ``open``, ``event``, ``close`` and ``quality`` hold JSON.
Amounts of audio are milliseconds in a u32. ``token`` is the backend's own.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum
from typing import Annotated, Final, TypeVar

import msgspec

from edge.backends.protocol import MAX_TOKEN_BYTES, PCM_RATES, AudioFormat, CallQuality
from edge.errors import RemoteProtocolError
from edge.wire.opus import CLOCK_RATE, opus_samples

VERSION: Final = 1
MAX_PAYLOAD: Final = 65_536
"""Bytes of the longest payload; a longer frame ends the connection."""
MAX_OPUS_BYTES: Final = 1_200
"""Of one packet: what fits into a datagram to the client."""
CONNECTION: Final = 0
"""The session number of what concerns the connection itself."""
MAX_SESSION: Final = 2**32 - 1

_HEADER: Final = struct.Struct("!IBI")
_U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_MILLISECONDS: Final = struct.Struct("!I")

FORMATS: Final = {
    "opus": AudioFormat("opus", CLOCK_RATE),
    "pcmu": AudioFormat("PCMU", 8_000),
    "pcma": AudioFormat("PCMA", 8_000),
    **{f"pcm16/{rate}": AudioFormat("pcm16", rate) for rate in PCM_RATES},
}
"""Every way to write audio, by its name in ``open``."""


class Kind(IntEnum):
    """What a frame is."""

    OPEN = 1
    AUDIO = 2
    EVENT = 3
    FLUSH = 4
    PAUSE = 5
    RESUME = 6
    PLAYED = 7
    WINDOW = 8
    CLOSE = 9
    PING = 10
    PONG = 11
    QUALITY = 12
    RESUMED = 13
    TOKEN = 14


class CloseReason(StrEnum):
    """Why a session or a connection is over, in the words of ``close``."""

    DONE = "done"
    """The backend has finished the conversation."""
    FAILED = "failed"
    """The backend can not go on."""
    OVERLOADED = "overloaded"
    """The backend has no room for the session."""
    ENDED = "ended"
    """The session is over on the transceiver's side."""
    MOVED = "moved"
    """The session goes on, and another transceiver will open it."""
    FENCED = "fenced"
    """A later owner of the call has its session."""
    VERSION = "version"
    """The backend does not speak this version, or not this way to write audio."""
    PROTOCOL_ERROR = "protocol_error"
    """The other side broke a rule of this protocol."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame as it came; ``kind`` may be one that we do not know."""

    kind: int
    session: int
    payload: bytes

    def __repr__(self) -> str:
        return f"Frame(kind={self.kind}, session={self.session}, {len(self.payload)} bytes)"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """``resumed`` in ``open``: how far the call was; see ``edge.backends.protocol.Resumed``."""

    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
    """Which transceiver of the call this is; 1: the one that opened it."""
    played_ms: _U32
    """What the client was played, as ``played`` has it."""
    heard_ms: _U32
    """What the client said, as far as it was sent."""
    queued_ms: _U32 = 0
    """What still waits at the transceiver and will be played."""
    exact: bool = False
    """Nothing was played or heard since; otherwise the counts may be some seconds old."""
    token: Annotated[bytes, msgspec.Meta(max_length=MAX_TOKEN_BYTES)] = b""
    """The payload of the session's last ``token`` frame; base64 in JSON."""
    heard_events: _Count | msgspec.UnsetType = msgspec.UNSET
    """Events that were passed to the backend since the call began; not there: not known."""
    said_events: _Count | msgspec.UnsetType = msgspec.UNSET
    """Events that the backend sent."""

    def __repr__(self) -> str:
        return f"Place(epoch={self.epoch}, played_ms={self.played_ms}, exact={self.exact})"


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``open``."""

    version: int
    call: str
    """The public id of the call, ``rtc_...``."""
    audio: str
    """One of FORMATS, for both directions."""
    window_ms: _U32
    """How much audio the backend may send before the first ``window`` frame."""
    attempt: _U32 = 1
    """2 and more: this transceiver had the call open on another connection, which was lost."""
    resumed: Place | msgspec.UnsetType = msgspec.UNSET
    """The call was open before, here or at another transceiver."""
    session: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    """The session configuration that the call was opened with, in OpenAI's dialect."""


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of ``close``; an empty payload says ``done``."""

    reason: str = "done"
    message: str = ""


class FrameDecoder:
    """Cuts a stream of bytes into frames; holds at most one frame that is not whole yet."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def decode(self, data: bytes | bytearray) -> list[Frame]:
        """Take what was read, return the frames that are whole now.

        Raises RemoteProtocolError for a frame that is too long; nothing can be read after it.
        """
        buffer, frames, start = self._buffer, [], 0
        buffer += data
        while len(buffer) - start >= _HEADER.size:
            length, kind, session = _HEADER.unpack_from(buffer, start)
            if length > MAX_PAYLOAD:
                raise RemoteProtocolError("frame too long")
            begin = start + _HEADER.size
            if len(buffer) < begin + length:
                break
            start = begin + length
            frames.append(Frame(kind, session, bytes(buffer[begin:start])))
        del buffer[:start]
        return frames


def encode_frame(kind: Kind, session: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return _HEADER.pack(len(payload), kind, session) + payload


def encode_open(opened: Open, session: bytes | None = None) -> bytes:
    """Write the payload of ``open``, with the configuration (a JSON object) as it was given.

    Written anew it might be longer, and too long for a frame.
    """
    if session is None:
        return msgspec.json.encode(opened)
    fields = {name: getattr(opened, name) for name in opened.__struct_fields__}
    given = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    return msgspec.json.encode({**given, "session": msgspec.Raw(session)})


def encode_close(reason: CloseReason) -> bytes:
    """Write the payload of ``close``."""
    return msgspec.json.encode(Close(reason=reason))


def encode_milliseconds(value: int) -> bytes:
    """Write the payload of ``window`` and ``played``; stops at 2**32 - 1, which is 49 days."""
    return _MILLISECONDS.pack(min(value, 2**32 - 1))


def decode_milliseconds(payload: bytes) -> int:
    """Read the payload of ``window`` or ``played``."""
    if len(payload) != _MILLISECONDS.size:
        raise RemoteProtocolError("not four bytes of milliseconds")
    return int.from_bytes(payload, "big")


def decode_open(payload: bytes) -> Open:
    """Read the payload of ``open``; of another version or format it is refused."""
    opened = _decode_json(payload, Open)
    if opened.version != VERSION or opened.audio not in FORMATS:
        raise RemoteProtocolError("open of another version or format")
    return opened


def decode_close(payload: bytes) -> Close:
    """Read the payload of ``close``."""
    return _decode_json(payload, Close) if payload else Close()


def encode_quality(quality: CallQuality) -> bytes:
    """Write the payload of the answer to ``quality``."""
    return msgspec.json.encode(quality)


def decode_quality(payload: bytes) -> CallQuality:
    """Read it."""
    return _decode_json(payload, CallQuality)


def decode_event(payload: bytes) -> bytes:
    """Check that an event is one JSON object in UTF-8, and return it as it is."""
    _decode_json(payload, dict[str, object])
    return payload


def decode_token(payload: bytes) -> bytes:
    """Check the payload of ``token``."""
    if len(payload) > MAX_TOKEN_BYTES:
        raise RemoteProtocolError("token too long")
    return payload


def audio_samples(audio: AudioFormat, payload: bytes) -> int:
    """How long audio plays, in units of its clock; RemoteProtocolError when it is none."""
    match audio.name:
        case "opus":
            if len(payload) > MAX_OPUS_BYTES:
                raise RemoteProtocolError("Opus packet too long")
            return opus_samples(payload)
        case "pcm16":
            samples, rest = divmod(len(payload), 2)
        case _:
            samples, rest = len(payload), 0
    if rest or not samples:
        raise RemoteProtocolError("no whole samples")
    return samples


_T = TypeVar("_T")


def _decode_json(payload: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(payload.decode(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("not the JSON that belongs here") from None
