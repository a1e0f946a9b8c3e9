"""What one session leaves to whoever connects to the server next: here, or in another process."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

import msgspec

from edge.backends.protocol import MAX_TOKEN_BYTES
from edge.backends.realtime.history import Held, History
from edge.errors import RemoteProtocolError
from edge.session_config import MAX_SESSION_BYTES, check_depth, merge

MAX_TEXT: Final = 65_536
"""Characters of all items in a token; the oldest are left out beyond it."""
MAX_UNPACKED: Final = 1_048_576
"""Bytes of a token, unpacked."""


class _Token(msgspec.Struct):
    session: dict[str, object]
    items: list[Held]
    playing: list[str]


@dataclass(slots=True)
class Memory:
    """What the client asked the session to be, what was said, and what is being played."""

    session: dict[str, object] = field(default_factory=dict)
    """The client's ``session.update`` events, laid over each other."""
    history: History = field(default_factory=History)
    playing: list[str] = field(default_factory=list)
    """The responses that the former process was playing."""

    def update(self, session: Mapping[str, object]) -> bool:
        """Lay a ``session.update`` over the former ones; False when that becomes too much."""
        try:
            merged = merge(self.session, session)
            check_depth(merged)
        except RemoteProtocolError:
            return False
        if len(msgspec.json.encode(merged)) > MAX_SESSION_BYTES:
            return False
        self.session = merged
        return True

    def pack(self, unheard: Mapping[str, float], playing: list[str]) -> bytes:
        """Write it in MAX_TOKEN_BYTES; where that is too little, the oldest items are left out.

        ``unheard`` are items of which the client was played only a part, 0 to 1, until now.
        """
        items = _last([_heard(item, unheard) for item in self.history.items])
        while True:
            token = _Token(self.session, items, playing)
            packed = zlib.compress(msgspec.json.encode(token), 1)
            if len(packed) <= MAX_TOKEN_BYTES:
                return packed
            if not items:
                return b""
            items = items[len(items) // 2 + 1 :]

    @classmethod
    def unpack(cls, packed: bytes) -> Memory:
        """Read what ``pack`` wrote; nothing of what is no such thing, or of another version."""
        unpacker = zlib.decompressobj()
        try:
            text = unpacker.decompress(packed, MAX_UNPACKED)
            token = msgspec.json.decode(text, type=_Token)
        except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return cls()
        return cls(token.session, History(token.items), token.playing)


def _heard(item: Held, unheard: Mapping[str, float]) -> Held:
    return msgspec.structs.replace(item, heard=min(item.heard, unheard.get(item.id, 1.0)))


def _last(items: list[Held]) -> list[Held]:
    rests = list(accumulate(len(item.text) for item in reversed(items)))
    return items[len(items) - bisect_right(rests, MAX_TEXT) :]
