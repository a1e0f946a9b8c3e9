"""From the endpoints of our own clients to their paths and back, on every packet's way.

Within a family both are fixed rows of bytes, so each is one call of ``struct``:

    endpoint    family, port, host (see ``mmsg``)
    path        prefix, host, proxy's host, port, proxy's port (see ``wire.spp``)
"""

from __future__ import annotations

import socket
import sys
from struct import Struct
from typing import Final

from edge.address import Address
from edge.mmsg import Endpoint, to_endpoint
from edge.wire.spp import MAGIC, Path, decode_path, encode_path

_V4_PATH: Final = Struct("14s4s16s2s2s")
_V6_PATH: Final = Struct("2s16s16s2s2s")
_V4_ENDPOINT: Final = Struct("2s2s4s8x")
_V6_ENDPOINT: Final = Struct("2s2s4x16s4x")
_V4_MAPPED: Final = bytes(10) + b"\xff\xff"


class ClientCodec:
    """For clients of one family that see us at ``public``."""

    def __init__(self, public: Address, *, ipv6: bool) -> None:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        own = encode_path(public, public)
        self.own = to_endpoint(public)
        self.family = family.to_bytes(2, sys.byteorder)
        self.prefix = MAGIC if ipv6 else MAGIC + _V4_MAPPED
        self.proxy, self.proxy_port = own[18:34], own[36:38]
        self.paths = _V6_PATH if ipv6 else _V4_PATH
        self.endpoints = _V6_ENDPOINT if ipv6 else _V4_ENDPOINT

    def endpoint(self, path: Path) -> Endpoint:
        """Return the client of a path, whatever its family."""
        prefix, host, _, port, _ = self.paths.unpack(path)
        if prefix != self.prefix:
            return to_endpoint(decode_path(path)[0])
        return Endpoint(self.endpoints.pack(self.family, port, host))
