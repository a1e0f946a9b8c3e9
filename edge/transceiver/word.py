"""What one transceiver tells another of a session that moves: framed with one of its paths.

    kind (1 byte) | epoch (4, big-endian) | session (ASCII)

The first byte is none of those that clients' datagrams begin with (RFC 7983). But a client can have
its transceiver pass on what it likes, so no word is believed: the registry knows who was left what,
and who was told too early that a session is taken goes on with the next one.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from edge.registry.sessions import MAX_EPOCH, is_session

_HEAD: Final = Struct(">BI")


class Kind(IntEnum):
    """What is told."""

    LEFT = 0xE0
    """The session was claimed for you under this epoch: take it up."""
    TAKEN = 0xE1
    """What was left under this epoch was taken up, or can not be."""


class Word(NamedTuple):
    """See the kinds."""

    kind: Kind
    session: str
    epoch: int


_KINDS: Final = {int(kind): kind for kind in Kind}


def encode_word(word: Word) -> bytes:
    """Write a word."""
    return _HEAD.pack(word.kind, word.epoch) + word.session.encode()


def decode_word(payload: bytes) -> Word | None:
    """Read a word; None for what is none."""
    kind = _KINDS.get(payload[0]) if len(payload) > _HEAD.size else None
    session = payload[_HEAD.size :].decode("ascii", "replace")
    if kind is None or not is_session(session):
        return None
    epoch: int = _HEAD.unpack_from(payload)[1]
    return Word(kind, session, epoch) if 0 < epoch < MAX_EPOCH else None
