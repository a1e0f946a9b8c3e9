"""What the ``open`` frames of one session say: the first, and those that take the call up again.

And what is left to the transceiver after this one, so that it can open the session: the backend's
token, and how many events went in each direction. They are counted here, and not in the frames:
the backend counts them as well.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from edge.backends.frames.wire import VERSION, Open, Place, encode_open
from edge.backends.protocol import MAX_TOKEN_BYTES, Call, Resumed, Speaker

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Left(msgspec.Struct, frozen=True, array_like=True):
    """What the former conversation left; the counts are None when it knew of none."""

    token: Annotated[bytes, msgspec.Meta(max_length=MAX_TOKEN_BYTES)] = b""
    heard_events: _Count | None = None
    said_events: _Count | None = None

    @classmethod
    def unpack(cls, packed: bytes) -> Left:
        """Read what ``pack`` wrote; anything else is a token without counts."""
        try:
            return msgspec.msgpack.decode(packed, type=cls)
        except msgspec.MsgspecError:
            return cls(packed[:MAX_TOKEN_BYTES])

    def pack(self) -> bytes:
        """Write it in MAX_RESUME_BYTES."""
        return msgspec.msgpack.encode(self)


class Openings:
    """One session's; counts how often it was opened here and how far audio and events are."""

    def __init__(self, call: Call, audio_name: str) -> None:
        former = call.resumed or Resumed(epoch=1, played=0, heard=0)
        left = Left.unpack(former.token) if former.token else Left()
        self.token = left.token
        """What the backend wants to be kept for it."""
        self.heard = former.heard
        """Samples that the client said, since the call began."""
        self.heard_events = left.heard_events or 0
        """Events that the backend was sent or will be, likewise."""
        self.said_events = left.said_events or 0
        """Events that the backend has sent, likewise."""
        self._counts = call.resumed is None or left.said_events is not None
        self._call = call
        self._audio_name = audio_name
        self._epoch = former.epoch
        self._attempts = 0

    @property
    def again(self) -> bool:
        """Whether the last one took the call up again."""
        return self._attempts > 1 or self._call.resumed is not None

    def next(self, speaker: Speaker, window_ms: int, *, waiting: int = 0) -> bytes:
        """Write the payload of the next ``open``, behind which so many events are ``waiting``."""
        self._attempts += 1
        opened = Open(
            version=VERSION,
            call=self._call.session,
            audio=self._audio_name,
            window_ms=window_ms,
            attempt=self._attempts,
            resumed=self._place(speaker, waiting) if self.again else msgspec.UNSET,
        )
        self._counts = True  # the backend counts from this one on as we do
        return encode_open(opened, self._call.session_config)

    def left(self) -> bytes:
        """Write what the next conversation needs."""
        return Left(self.token, self.heard_events, self.said_events).pack()

    def _place(self, speaker: Speaker, waiting: int) -> Place:
        former = self._call.resumed
        return Place(
            epoch=self._epoch,
            played_ms=round(speaker.played * 1000),
            queued_ms=round(speaker.queued * 1000),
            heard_ms=self.heard * 1000 // self._call.audio.clock_rate,
            exact=self._attempts > 1 or (former is not None and former.exact),
            token=self.token,
            heard_events=self.heard_events - waiting if self._counts else msgspec.UNSET,
            said_events=self.said_events if self._counts else msgspec.UNSET,
        )
