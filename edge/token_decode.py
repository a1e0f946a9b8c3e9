"""Reads routing tokens for a person: what is open in one, and what the fleet's secret opens.

A token may come as it is or inside of what one finds it in: a line ``a=ice-ufrag:`` of an SDP, a
whole SDP, or the USERNAME of a STUN request. Without a secret only version and key id are known.
An expired token is read like any other. The layout is in docs/token.md.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from edge.errors import RemoteProtocolError
from edge.token import TOKEN_CHARS, Token, TokenKey, TokenSealer

MAX_TEXT_CHARS: Final = 65_536
"""Of an SDP; as ``http.max_body_bytes``."""

_ICE_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_UFRAG_LINE: Final = re.compile(r"^\s*(?:a=)?ice-ufrag:\s*(\S*)", re.MULTILINE)
_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60))
_NEVER: Final = -1.0
"""A moment at which no token has expired."""


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one token; all of ``Token`` is None unless a secret opened it."""

    token: str
    """Its first four characters: enough to tell it from the others."""
    version: int
    key_id: int
    opened_by: str | None = None
    """``current`` or ``previous``: the secret that opens it."""
    cluster: int | None = None
    slot: int | None = None
    expiry: str | None = None
    """ISO 8601, UTC."""
    expires_in_seconds: int | None = None
    """Negative once it has expired."""
    nonce: int | None = None


class Undecodable(Exception):
    """This is no token, or no secret given opens it; the message is for a person."""


def find_tokens(text: str) -> list[str]:
    """Return the ufrags in a token, a USERNAME, an ``ice-ufrag`` line or a whole SDP, each once.

    Raises Undecodable when the text is an SDP without one, or too long.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise Undecodable(f"longer than {MAX_TEXT_CHARS} characters")
    ufrags = dict.fromkeys(_UFRAG_LINE.findall(text))
    if ufrags:
        return list(ufrags)
    words = text.split()
    if len(words) != 1:
        raise Undecodable("there is no ice-ufrag in it" if words else "there is nothing in it")
    return [_server_part(words[0])]


def _server_part(username: str) -> str:
    """Choose the half of a USERNAME that is a token; the receiver's half comes first."""
    halves = username.split(":")
    return next((half for half in halves if len(half) == TOKEN_CHARS), halves[0])


class TokenReader:
    """Reads tokens by the fleet's secrets, either of which may be empty."""

    def __init__(self, secret: str = "", previous_secret: str = "") -> None:
        named = (("current", secret), ("previous", previous_secret))
        self._sealers = {name: TokenSealer(TokenKey.derive(one)) for name, one in named if one}

    def read(self, token: str, *, unix_now: float) -> Decoded:
        """Read one token. Raises Undecodable with what is wrong."""
        decoded = _read_open_part(token)
        if not self._sealers:
            return decoded
        for name, sealer in self._sealers.items():
            try:
                opened = sealer.open(token, unix_now=_NEVER)
            except RemoteProtocolError:
                continue
            return _with_content(decoded, name, opened, unix_now)
        raise Undecodable(
            "no given secret opens it: mistyped, another fleet's, or sealed with another secret "
            f"(its key id is {decoded.key_id})"
        )


def _read_open_part(token: str) -> Decoded:
    if len(token) != TOKEN_CHARS:
        raise Undecodable(f"not a token: it has {len(token)} characters, a token {TOKEN_CHARS}")
    if not set(token) <= set(_ICE_CHARS):
        raise Undecodable("not a token: not all of its characters are ice-chars (A-Z a-z 0-9 + /)")
    version, key_id = divmod(_ICE_CHARS.index(token[0]), 8)
    if version:
        raise Undecodable(f"not a token that this edge reads: its version is {version}, not 0")
    if _ICE_CHARS.index(token[-1]) & 15:
        raise Undecodable("not a token: its spare bits are not zero")
    return Decoded(token=token[:4], version=version, key_id=key_id)


def _with_content(decoded: Decoded, name: str, token: Token, unix_now: float) -> Decoded:
    return msgspec.structs.replace(
        decoded,
        opened_by=name,
        cluster=token.cluster,
        slot=token.slot,
        expiry=datetime.fromtimestamp(token.expiry, UTC).isoformat(),
        expires_in_seconds=int(token.expiry - unix_now),
        nonce=token.nonce,
    )


def describe(decoded: Decoded) -> str:
    """Write one token for a person, on some lines."""
    head = f"{decoded.token}...  version {decoded.version}, key id {decoded.key_id}"
    if decoded.opened_by is None:
        return f"{head}; no secret given, so there is no more to tell"
    assert decoded.expiry is not None
    assert decoded.expires_in_seconds is not None
    when = f"{decoded.expiry[:10]} {decoded.expiry[11:19]} UTC"
    rows = (
        ("cluster", str(decoded.cluster)),
        ("slot", str(decoded.slot)),
        ("expiry", f"{when} ({relative(decoded.expires_in_seconds)})"),
        ("nonce", str(decoded.nonce)),
    )
    lines = [f"{head}, opened by the {decoded.opened_by} secret"]
    return "\n".join(lines + [f"  {name:<8} {value}" for name, value in rows])


def relative(seconds: int) -> str:
    """Write a distance in time, in the largest unit of which there are two: ``in 90 min``."""
    distance = abs(seconds)
    unit, size = next((each for each in _UNITS if distance >= 2 * each[1]), ("s", 1))
    text = f"{distance // size} {unit}"
    return f"in {text}" if seconds > 0 else f"expired {text} ago"
