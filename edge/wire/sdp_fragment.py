"""SDP fragments: what a client says after its offer, for trickle and for ICE restarts (RFC 8840).

Of what a fragment may hold, the credentials matter to us. Candidates are counted and not read: we
learn a client's addresses from its checks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from edge.address import Address
from edge.errors import RemoteProtocolError
from edge.wire.sdp_answer import candidate_lines

MAX_BYTES: Final = 16_384
MAX_LINES: Final = 256
MAX_LINE_BYTES: Final = 1_024

_ICE_CHARS: Final = re.compile(r"[A-Za-z0-9+/]+", re.ASCII)  # RFC 8839, section 5.4


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a fragment says; empty credentials are not said."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)
    candidates: int


def decode_fragment(body: bytes) -> Fragment:
    """Read a fragment; raises RemoteProtocolError with a sentence."""
    lines = _lines(body)
    ufrags, passwords = _values(lines, "a=ice-ufrag:"), _values(lines, "a=ice-pwd:")
    if len(ufrags) > 1 or len(passwords) > 1:
        raise RemoteProtocolError("the fragment names more than one ICE session")
    ufrag, password = "".join(ufrags), "".join(passwords)
    if (ufrag or password) and not _is_valid(ufrag, password):
        raise RemoteProtocolError("a=ice-ufrag or a=ice-pwd is missing or malformed")
    return Fragment(ufrag, password, sum(line.startswith("a=candidate:") for line in lines))


def encode_fragment(
    ufrag: str,
    password: str,
    *,
    mid: str,
    candidates: Sequence[Address],
    tcp: Sequence[Address] = (),
) -> str:
    """Write our side of a restart; the addresses are those of ``encode_answer``."""
    lines = [
        "a=ice-lite",
        "a=ice-options:ice2",
        f"a=ice-ufrag:{ufrag}",
        f"a=ice-pwd:{password}",
        "m=audio 9 UDP/TLS/RTP/SAVPF 0",
        f"a=mid:{mid}",
        *candidate_lines(candidates, tcp),
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _lines(body: bytes) -> list[str]:
    try:
        lines = body.decode().splitlines() if len(body) <= MAX_BYTES else []
    except UnicodeDecodeError:
        raise RemoteProtocolError("the fragment is not UTF-8") from None
    if not 0 < len(lines) <= MAX_LINES or any(len(line) > MAX_LINE_BYTES for line in lines):
        raise RemoteProtocolError("the fragment is empty or too long")
    if not all(line[:2] in ("a=", "m=") or not line for line in lines):
        raise RemoteProtocolError("the fragment has a line that is neither a= nor m=")
    return lines


def _values(lines: Sequence[str], prefix: str) -> set[str]:
    return {line.removeprefix(prefix) for line in lines if line.startswith(prefix)}


def _is_valid(ufrag: str, password: str) -> bool:
    return (
        4 <= len(ufrag) <= 256
        and 22 <= len(password) <= 256
        and _ICE_CHARS.fullmatch(ufrag + password) is not None
    )
