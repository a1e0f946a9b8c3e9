"""What the ``open`` frames of one session say: the first, and those that take the call up again."""

from __future__ import annotations

import msgspec

from edge.backends.frames.wire import VERSION, Open, Place, encode_open
from edge.backends.protocol import Call, Resumed, Speaker


class Openings:
    """One session's; counts how often it was opened here and how far its audio is."""

    def __init__(self, call: Call, audio_name: str) -> None:
        former = call.resumed or Resumed(epoch=1, played=0, heard=0)
        self.token = former.token
        """What the backend wants to be kept for it."""
        self.heard = former.heard
        """Samples that the client said, since the call began."""
        self._call = call
        self._audio_name = audio_name
        self._epoch = former.epoch
        self._attempts = 0

    @property
    def again(self) -> bool:
        """Whether the last one took the call up again."""
        return self._attempts > 1 or self._call.resumed is not None

    def next(self, speaker: Speaker, window_ms: int) -> bytes:
        """Write the payload of the next ``open``."""
        self._attempts += 1
        opened = Open(
            version=VERSION,
            call=self._call.session,
            audio=self._audio_name,
            window_ms=window_ms,
            attempt=self._attempts,
            resumed=self._place(speaker) if self.again else msgspec.UNSET,
        )
        return encode_open(opened, self._call.session_config)

    def _place(self, speaker: Speaker) -> Place:
        former = self._call.resumed
        return Place(
            epoch=self._epoch,
            played_ms=round(speaker.played * 1000),
            queued_ms=round(speaker.queued * 1000),
            heard_ms=self.heard * 1000 // self._call.audio.clock_rate,
            exact=self._attempts > 1 or (former is not None and former.exact),
            token=self.token,
        )
