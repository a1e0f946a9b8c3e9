"""Session configurations: JSON objects as OpenAI's Realtime API has them, laid over each other.

What is in them concerns the backend alone. Here they are bounded, so that nothing that comes later
has to fear their length or depth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from edge.errors import RemoteProtocolError

MAX_SESSION_BYTES: Final = 32_768
MAX_DEPTH: Final = 32

Json = dict[str, object]


def decode_session(text: bytes) -> Json:
    """Read a configuration; raises RemoteProtocolError."""
    if len(text) > MAX_SESSION_BYTES:
        raise RemoteProtocolError(f"the session is longer than {MAX_SESSION_BYTES} bytes")
    try:
        session = msgspec.json.decode(text, type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RemoteProtocolError("the session is not a JSON object") from None
    check_depth(session)
    return session


def check_depth(value: object) -> None:
    """Raise RemoteProtocolError for JSON of more than MAX_DEPTH levels."""
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise RemoteProtocolError(f"the session is nested deeper than {MAX_DEPTH} levels")


def merge(base: Mapping[str, object], changes: Mapping[str, object]) -> Json:
    """Lay ``changes`` over ``base``: objects are merged at every depth, all else is replaced."""
    return {**base, **{key: _merged(base.get(key), value) for key, value in changes.items()}}


def _merged(base: object, changes: object) -> object:
    if isinstance(base, dict) and isinstance(changes, dict):
        return merge(base, changes)
    return changes


def _inside(value: object) -> Iterable[object]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
        case _:
            return ()
