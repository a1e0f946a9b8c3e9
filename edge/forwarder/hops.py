"""The addresses on the inside of a pure forwarder: transceivers and relays of other clusters."""

from __future__ import annotations

from dataclasses import dataclass

from edge.address import Address
from edge.mmsg import Endpoint, to_endpoint
from edge.wire.spp import Path, encode_path


@dataclass(frozen=True, slots=True, repr=False)
class Hop:
    """Where a hop is, and for whose flows it may answer."""

    number: int
    endpoint: Endpoint
    group: int
    proxy: bytes
    """A peer's public address as in ``proxy_of``; of a transceiver empty."""


class Hops:
    """All hops, found by number, by their internal address, and peers by their public one."""

    def __init__(self) -> None:
        self.by_number: dict[int, Hop] = {}
        self.by_endpoint: dict[bytes, Hop] = {}
        self.by_proxy: dict[bytes, Hop] = {}

    def set(self, number: int, address: Address, *, group: int, public: Address | None) -> None:
        """Add or move a hop; an address that another one had is now this one's."""
        self.remove(number)
        proxy = b"" if public is None else proxy_of(encode_path(public, public))
        hop = Hop(number, to_endpoint(address), group, proxy)
        self.by_number[number] = self.by_endpoint[hop.endpoint] = hop
        if proxy:
            self.by_proxy[proxy] = hop

    def remove(self, number: int) -> None:
        """Take a hop out; no error when there is none."""
        hop = self.by_number.pop(number, None)
        if hop is None:
            return
        if self.by_endpoint.get(hop.endpoint) is hop:
            del self.by_endpoint[hop.endpoint]
        if self.by_proxy.get(hop.proxy) is hop:
            del self.by_proxy[hop.proxy]


def proxy_of(path: Path) -> bytes:
    """Return host and port of a path's proxy address, as bytes to compare."""
    return path[18:34] + path[36:38]


def client_of(path: Path) -> bytes:
    """Return host and port of a path's client address, likewise."""
    return path[2:18] + path[34:36]
