"""Datagrams on a TCP connection: each behind two bytes with its length (RFC 4571, section 2).

A reader and a writer for one connection, without a socket. ICE-TCP frames everything so, STUN and
DTLS as well as media (RFC 6544, section 3).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from edge.errors import LocalProtocolError, RemoteProtocolError

MAX_FRAME: Final = 1_500
"""The longest datagram, in bytes; what WebRTC sends fits one Ethernet frame."""
MIN_FRAME: Final = 8
"""The shortest: no packet of RFC 7983's protocols is shorter. An empty one means nothing."""

_LENGTH_BYTES: Final = 2


def encode_frame(datagram: bytes) -> bytes:
    """Frame a datagram; raises LocalProtocolError over MAX_FRAME."""
    if len(datagram) > MAX_FRAME:
        raise LocalProtocolError(f"a frame holds at most {MAX_FRAME} bytes")
    return len(datagram).to_bytes(_LENGTH_BYTES, "big") + datagram


class FrameReader:
    """Puts datagrams together again; holds less than one frame in between."""

    def __init__(self) -> None:
        self._rest = b""

    def __len__(self) -> int:
        return len(self._rest)

    def receive(self, data: bytes) -> list[bytes]:
        """Take what has come and return the datagrams that are whole now.

        Raises RemoteProtocolError for a length that no datagram has; nothing after it can be
        read, so the connection is to be closed.
        """
        data = self._rest + data
        datagrams: list[bytes] = []
        start, end = _LENGTH_BYTES, len(data)
        while start <= end:
            length = data[start - 2] << 8 | data[start - 1]
            if length and not MIN_FRAME <= length <= MAX_FRAME:
                raise RemoteProtocolError(f"a frame of {length} bytes")
            if start + length > end:
                break
            if length:  # RFC 4571, section 2 knows of null packets
                datagrams.append(data[start : start + length])
            start += length + _LENGTH_BYTES
        self._rest = data[start - _LENGTH_BYTES :]
        return datagrams


class FrameQueue:
    """Frames that wait to be written, at most ``limit`` (2 or more); the oldest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[bytes] = deque()
        self._begun = False

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes) -> bool:
        """Append a frame; False when the oldest that has not begun had to go for it."""
        full = len(self._frames) >= self._limit
        if full:
            del self._frames[self._begun]
        self._frames.append(frame)
        return not full

    def waiting(self) -> bytes:
        """All that is to be written."""
        return self._frames[0] if len(self._frames) == 1 else b"".join(self._frames)

    def written(self, count: int) -> None:
        """Forget the first bytes; what is left of a frame stays, since it has begun."""
        while count:
            head = self._frames[0]
            self._begun = count < len(head)
            if self._begun:
                self._frames[0] = head[count:]
                return
            self._frames.popleft()
            count -= len(head)
