"""SCTP chunks as values (RFC 9260, section 3.3; RFC 3758, 3.2; RFC 6525, section 3).

A chunk type that we do not know becomes an ``UnknownChunk``; what is to be done with it stands in
the two top bits of its type. As bytes they are read and written in ``sctp_codec``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from edge.wire.sctp_parameters import InitParameters, ReconfigParameter

RECONFIG: Final = 130
FORWARD_TSN: Final = 192
"""Types of chunks that INIT names as supported."""

END, BEGIN, UNORDERED, IMMEDIATE = 1, 2, 4, 8
"""Flags of a DATA chunk; RFC 9260, 3.3.1."""

DATA_OVERHEAD: Final = 16  # bytes before the payload of a DATA chunk


class Data(msgspec.Struct, frozen=True, gc=False):
    """DATA: one fragment of a message (``flags``: BEGIN, END, UNORDERED, IMMEDIATE)."""

    tsn: int
    stream: int
    ssn: int
    ppid: int
    flags: int
    payload: bytes

    def __repr__(self) -> str:
        return f"Data(tsn={self.tsn}, stream={self.stream}, {len(self.payload)} bytes)"


class Init(msgspec.Struct, frozen=True):
    """INIT, or INIT ACK where it has a cookie; ``window`` in bytes."""

    tag: int
    window: int
    outbound_streams: int
    inbound_streams: int
    tsn: int
    parameters: InitParameters = InitParameters()

    def __repr__(self) -> str:
        return f"Init(acknowledges={self.parameters.cookie is not None})"


class Sack(msgspec.Struct, frozen=True, gc=False):
    """SACK: everything up to ``tsn``, and the ``gaps`` (first, last), as distances from it."""

    tsn: int
    window: int
    gaps: tuple[tuple[int, int], ...] = ()
    duplicates: tuple[int, ...] = ()


class Heartbeat(msgspec.Struct, frozen=True):
    """HEARTBEAT or its acknowledgement; ``information`` is its sender's own business."""

    information: bytes
    acknowledges: bool = False


class Abort(msgspec.Struct, frozen=True):
    """ABORT, or ERROR where it is not ``fatal``: codes and details of causes (RFC 9260, 3.3.10)."""

    causes: tuple[tuple[int, bytes], ...] = ()
    fatal: bool = True
    reflected: bool = False
    """The packet bears its receiver's peer's tag: the T bit."""

    def __repr__(self) -> str:
        return f"Abort(codes={[code for code, _ in self.causes]}, fatal={self.fatal})"


class Shutdown(msgspec.Struct, frozen=True):
    """SHUTDOWN: no more data will come, and all up to ``tsn`` was received."""

    tsn: int


class ShutdownAck(msgspec.Struct, frozen=True):
    """SHUTDOWN ACK."""


class ShutdownComplete(msgspec.Struct, frozen=True):
    """SHUTDOWN COMPLETE."""

    reflected: bool = False


class CookieEcho(msgspec.Struct, frozen=True):
    """COOKIE ECHO."""

    cookie: bytes

    def __repr__(self) -> str:
        return "CookieEcho()"


class CookieAck(msgspec.Struct, frozen=True):
    """COOKIE ACK."""


class Reconfig(msgspec.Struct, frozen=True):
    """RE-CONFIG with one or two parameters (RFC 6525, 3.1)."""

    parameters: tuple[ReconfigParameter, ...]


class ForwardTsn(msgspec.Struct, frozen=True):
    """FORWARD TSN: up to ``tsn`` nothing will come; ``skipped``: (stream, its last SSN)."""

    tsn: int
    skipped: tuple[tuple[int, int], ...] = ()


class UnknownChunk(msgspec.Struct, frozen=True):
    """A chunk of a type we do not serve."""

    kind: int
    flags: int
    body: bytes

    @property
    def stops(self) -> bool:
        """Nothing behind it may be processed; RFC 9260, 3.2."""
        return not self.kind & 0x80

    @property
    def reported(self) -> bool:
        """The sender wants to be told."""
        return bool(self.kind & 0x40)

    def __repr__(self) -> str:
        return f"UnknownChunk(kind={self.kind}, {len(self.body)} bytes)"


Chunk = (
    Data
    | Init
    | Sack
    | Heartbeat
    | Abort
    | Shutdown
    | ShutdownAck
    | ShutdownComplete
    | CookieEcho
    | CookieAck
    | Reconfig
    | ForwardTsn
    | UnknownChunk
)
