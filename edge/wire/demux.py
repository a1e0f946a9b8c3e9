"""Which protocol a datagram on the one shared port belongs to.

The first byte decides (RFC 7983, 7); RTP and RTCP share 128..191 and are told apart by the second
byte, which in RTCP is a packet type from 192 to 223 (RFC 5761, 4). Every datagram has exactly one
kind, and a kind is no promise that the rest of it is well formed.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """The sink of a datagram."""

    STUN = "stun"
    DTLS = "dtls"
    RTP = "rtp"
    RTCP = "rtcp"
    UNKNOWN = "unknown"
    """Empty, ZRTP, TURN channel data, QUIC or noise: nothing that we serve."""


def _kind_of_first_byte(first: int) -> Kind:
    if first <= 3:
        return Kind.STUN
    if 20 <= first <= 63:
        return Kind.DTLS
    if 128 <= first <= 191:
        return Kind.RTP
    return Kind.UNKNOWN


_KINDS: Final = tuple(_kind_of_first_byte(first) for first in range(256))


def is_rtp(datagram: bytes) -> bool:
    """Whether ``classify`` says RTP."""
    return len(datagram) > 1 and 128 <= datagram[0] <= 191 and not 192 <= datagram[1] <= 223


def classify(datagram: bytes) -> Kind:
    """Return the kind of a datagram; never raises."""
    if not datagram:
        return Kind.UNKNOWN
    kind = _KINDS[datagram[0]]
    if kind is Kind.RTP and len(datagram) > 1 and 192 <= datagram[1] <= 223:
        return Kind.RTCP
    return kind
