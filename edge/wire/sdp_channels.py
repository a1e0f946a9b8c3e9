"""What SDP says of data channels: SCTP over DTLS (RFC 8841), and SNAP's INIT chunks.

With SNAP (draft-hancke-tsvwg-snap) each description carries its side's INIT chunk, and SCTP needs
no handshake of its own once DTLS is up: two round trips less until a channel is open.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edge.errors import RemoteProtocolError
from edge.wire.sctp_codec import decode_init

MAX_MESSAGE_BYTES: Final = 65_536
"""Of what we take; also what holds where an offer names no limit (RFC 8841, section 6.1)."""

PORT: Final = 5000
"""Ours; both sides choose freely, as DTLS goes to one SCTP stack only."""

FORMAT: Final = "webrtc-datachannel"
PROTOCOLS: Final = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"})  # RFC 8841, 4.1; ICE chooses


@dataclass(frozen=True, slots=True)
class SctpSide:
    """The client's SCTP: its port, the longest message it takes (bytes; 0: any), maybe its INIT."""

    port: int
    max_message_bytes: int = MAX_MESSAGE_BYTES
    init: bytes | None = field(default=None, repr=False)


def decode_sctp(first: Callable[[str], str]) -> SctpSide | None:
    """Read a section's attributes, ``first`` giving the first value of each name or nothing.

    None where there is no port, without which the section is of no use. An ``a=sctp-init`` that can
    not be read is passed over: then the sides shake hands. RemoteProtocolError for other values.
    """
    port = first("sctp-port")
    if not port:
        return None
    limit = first("max-message-size")
    return SctpSide(
        _number(port, "a=sctp-port", lowest=1, highest=65_535),
        _number(limit, "a=max-message-size", highest=2**63) if limit else MAX_MESSAGE_BYTES,
        decode_sctp_init(first("sctp-init")),
    )


def encode_sctp(init: bytes | None) -> list[str]:
    """The lines of our side; ``init`` is our INIT chunk where the offer has one."""
    lines = [f"a=sctp-port:{PORT}", f"a=max-message-size:{MAX_MESSAGE_BYTES}"]
    return [*lines, f"a=sctp-init:{b64encode(init).decode()}"] if init is not None else lines


def decode_sctp_init(text: str) -> bytes | None:
    """Read the value of an ``a=sctp-init``: an INIT chunk, or None if it is not."""
    try:
        chunk = binascii.a2b_base64(text, strict_mode=True)
        decode_init(chunk)
    except (ValueError, RemoteProtocolError):
        return None
    return chunk


def _number(text: str, name: str, *, lowest: int = 0, highest: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 19 and lowest <= int(text) <= highest:
        return int(text)
    raise RemoteProtocolError(f"an {name} is not a number from {lowest} to {highest}")
