"""How a session's audio falls silent: a fade of the very next audio in the place of the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

from edge.audio.pieces import WARM_UP, Cutter, Piece, fade_encoded
from edge.backends.protocol import AudioFormat


class Fades:
    """Makes one fade after another, and knows what of the last is still to be sent."""

    def __init__(self, codec: AudioFormat, cutter: Cutter | None, samples: int) -> None:
        """Without a ``cutter`` audio passes through. ``samples`` may be 0: then it breaks off."""
        self.sent: Final[deque[bytes]] = deque(maxlen=WARM_UP)
        """The last packets that passed through."""
        self.repeats = False
        """Whether the fade is of audio that is kept, and so can be taken back."""
        self._codec = codec
        self._cutter = cutter
        self._samples = samples
        self._last: list[Piece] = []
        self._quiet_at = 0  # what is played when the last fade is over

    def begin(self, frames: Collection[Piece], *, played: int, in_spurt: bool) -> list[Piece]:
        """The fade that is under way at the head of ``frames``, or a new one if any was heard."""
        if unsent := self.unsent(frames):
            self.repeats = False
            return unsent
        audible = in_spurt and played != self._quiet_at
        self._last = self._make(frames) if audible and self._samples else []
        self.repeats = True
        self._quiet_at = played + count_samples(self._last)
        return self._last

    def unsent(self, frames: Collection[Piece]) -> list[Piece]:
        """What is still to be sent of the last fade."""
        return [piece for piece in frames if any(piece is part for part in self._last)]

    def take_back(self, unsent: Collection[Piece], *, played: int) -> int:
        """How many samples were faded already, and are to be heard again from where it began."""
        heard = count_samples(self._last) - count_samples(unsent)
        if self._last:
            self._quiet_at = played - heard if len(unsent) < len(self._last) else -1
        return heard

    def _make(self, frames: Collection[Piece]) -> list[Piece]:
        if self._cutter is not None:
            return self._cutter.fade(frames, self._samples)
        return fade_encoded(self._codec, self.sent, frames, self._samples)


def count_samples(pieces: Collection[Piece]) -> int:
    """The backend's samples in all of them."""
    return sum(samples for _, _, samples in pieces)
