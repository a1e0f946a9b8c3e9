"""Simple Proxy Protocol for UDP: the 38-byte header between relay and transceiver.

Cloudflare's published format, big-endian: magic 0x56EC, client address (16), proxy address (16),
client port, proxy port; IPv4 as v4-mapped IPv6 (RFC 4291, 2.5.5.2). The same header goes in both
directions. It proves nothing by itself: who may send it is decided by who the sender is.

A transceiver says two things about a path to its relay in place of a datagram for the client:

    nothing after the header                    the flow is given back: nobody is served there
    0x00 | slot (3 bytes, big-endian)           the flow is given to another transceiver

Neither can be taken for a datagram: STUN, which begins like the second, is longer (RFC 8489, 5).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NewType

from edge.address import Address
from edge.errors import LocalProtocolError, RemoteProtocolError

Path = NewType("Path", bytes)
"""The header that leads to a client. Hot paths use it as an opaque key and never decode it."""

HEADER_BYTES: Final = 38

MAGIC: Final = b"\x56\xec"
GIVE_BYTES: Final = 4

_V4_MAPPED: Final = bytes(10) + b"\xff\xff"
_HEADER: Final = struct.Struct("!2s16s16sHH")


def encode_path(client: Address, proxy: Address) -> Path:
    """Build the header for ``client`` as seen by ``proxy``.

    Raises LocalProtocolError when a host is not numeric or a port is out of range.
    """
    try:
        return Path(
            _HEADER.pack(MAGIC, _pack_host(client[0]), _pack_host(proxy[0]), client[1], proxy[1])
        )
    except (ValueError, struct.error):
        raise LocalProtocolError("an SPP address is a numeric host and a 16-bit port") from None


def decode_path(path: bytes) -> tuple[Address, Address]:
    """Return (client, proxy); a v4-mapped host becomes plain IPv4.

    Raises RemoteProtocolError on a wrong length or magic.
    """
    if len(path) != HEADER_BYTES or not path.startswith(MAGIC):
        raise RemoteProtocolError("not an SPP header")
    _, client, proxy, client_port, proxy_port = _HEADER.unpack(path)
    return (_unpack_host(client), client_port), (_unpack_host(proxy), proxy_port)


def split(datagram: bytes) -> tuple[Path, bytes]:
    """Cut a datagram into its path and payload, which may be empty.

    Raises RemoteProtocolError when it does not start with an SPP header.
    """
    if len(datagram) < HEADER_BYTES or not datagram.startswith(MAGIC):
        raise RemoteProtocolError("not an SPP datagram")
    return Path(datagram[:HEADER_BYTES]), datagram[HEADER_BYTES:]


def encode_give(slot: int) -> bytes:
    """Say to whom a path's flow goes: a transceiver of the relay's own cluster.

    Raises LocalProtocolError when that is no slot.
    """
    if not 0 < slot < 1 << 24:
        raise LocalProtocolError("a slot is a number from 1 to 2**24 - 1")
    return slot.to_bytes(GIVE_BYTES)


def decode_give(payload: bytes) -> int | None:
    """Return the slot that a flow is given to; None for what says no such thing."""
    if len(payload) != GIVE_BYTES or payload[0]:
        return None
    return int.from_bytes(payload) or None


@lru_cache(maxsize=4096)
def _pack_host(host: str) -> bytes:
    packed = ip_address(host).packed
    return packed if len(packed) == 16 else _V4_MAPPED + packed


def _unpack_host(packed: bytes) -> str:
    if packed.startswith(_V4_MAPPED):
        return ".".join(map(str, packed[12:]))
    return str(IPv6Address(packed))
