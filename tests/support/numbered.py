"""Numbered audio and messages, and what was heard of them at the far end of one direction.

Who speaks gives each frame a ``mark`` (whose words), a number that counts up by one, and its
``stream``: who lost count begins another one. All times are ``time.monotonic()``, which processes
of one machine share.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from itertools import pairwise
from typing import Final

from edge.client.journal import FRAME_SECONDS, MARK_BYTES, PAYLOAD_BYTES, TOCS

_STAMP: Final = struct.Struct(f"!B{MARK_BYTES}sQ{MARK_BYTES}s")
_PADDING: Final = bytes(PAYLOAD_BYTES - _STAMP.size)


def encode_numbered(mark: bytes, number: int, stream: bytes) -> bytes:
    """Make the payload of a frame: it looks like an Opus packet of 20 ms, as the caller's do."""
    return _STAMP.pack(TOCS[FRAME_SECONDS], mark, number, stream) + _PADDING


def decode_numbered(payload: bytes) -> tuple[bytes, int, bytes] | None:
    """Read ``(mark, number, stream)``; None for what is no numbered frame."""
    if len(payload) != PAYLOAD_BYTES:
        return None
    _, mark, number, stream = _STAMP.unpack_from(payload)
    return mark, number, stream


class Heard:
    """The numbers that came, and when."""

    def __init__(self) -> None:
        self.doubled = 0
        self.reordered = 0
        self.restarts = 0
        """How often the far end has begun another stream."""
        self._stream: bytes | None = None
        self._first = 0
        self._flags = bytearray()
        self._arrivals = array("d")

    @property
    def next(self) -> int:
        """The number after the highest that came."""
        return self._first + len(self._flags)

    @property
    def count(self) -> int:
        """Different numbers that came so far, of all streams."""
        return len(self._arrivals)

    def note(self, number: int, stream: bytes, at: float) -> None:
        """Take a number; the first one of a stream is where its count begins."""
        if stream != self._stream:
            self.restarts += self._stream is not None
            self._stream, self._first, self._flags = stream, number, bytearray()
        index = number - self._first
        if index < 0 or (index < len(self._flags) and self._flags[index]):
            self.doubled += 1
            return
        self.reordered += index < len(self._flags)
        self._flags.extend(bytes(max(0, index + 1 - len(self._flags))))
        self._flags[index] = 1
        self._arrivals.append(at)

    def lost(self, since: int) -> int:
        """How many from number ``since`` to the highest never came."""
        return self._flags.count(0, max(0, since - self._first))

    def longest_hole(self, since: float, until: float, *, frame: float = FRAME_SECONDS) -> float:
        """Longest time without anything new beyond the ``frame`` seconds that are usual."""
        start, end = bisect_right(self._arrivals, since), bisect_right(self._arrivals, until)
        times = [since, *self._arrivals[start:end], until]
        return max(0.0, max(after - before for before, after in pairwise(times)) - frame)

    def came_after(self, at: float) -> int:
        """How many new ones came since."""
        return len(self._arrivals) - bisect_right(self._arrivals, at)
