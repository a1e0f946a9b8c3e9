"""A virtual network whose conditions follow from where its hosts stand.

A datagram's fate depends on (seed, source, destination, client, index) alone. Relays and
transceivers share one flow for all their clients, hence the client, which is the SPP header. So
the order in which Trio runs tasks that are ready at the same time changes no outcome.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Final

import trio

from edge.address import Address
from edge.geo import Point
from edge.wire.spp import HEADER_BYTES
from planet_sim.geography import Access, backbone, internet
from tests.support.net import Link, VirtualNetwork

TICK: Final = 0.001
"""Arrivals are rounded to this many seconds: one wake of a socket then serves several."""

_CHANCES: Final = Struct("!II")

Stream = tuple[Address, Address, bytes]
"""Source, destination and, between hosts of ours, the SPP header."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a host stands: a client has a last mile, a machine of ours a region."""

    point: Point
    access: Access | None = None
    region: str = ""


class PlanetNetwork(VirtualNetwork):
    """Give every host a site with ``settle`` before it sends or is sent to."""

    def __init__(self, *, seed: int) -> None:
        super().__init__(seed=seed)
        self.first_hop: dict[tuple[str, str], float] = {}
        """Seconds that the first datagram of a client (a host) took to a relay (likewise)."""
        self._sites: dict[str, Site] = {}
        self._ways: dict[tuple[str, str], Link] = {}
        self._indices: Counter[Stream] = Counter()
        self._due: dict[Stream, float] = {}
        self._dark: set[str] = set()

    def settle(self, host: str, site: Site) -> None:
        """Tell where a host stands."""
        self._sites[host] = site

    def darken(self, region: str) -> None:
        """Let nothing in or out of a region any more, datagrams on their way included."""
        self._dark.add(region)

    def is_dark(self, region: str) -> bool:
        """Tell whether nobody can reach this region."""
        return region in self._dark

    @property
    def datagrams(self) -> int:
        """How many were carried or lost."""
        return sum(self._indices.values())

    def transmit(self, data: bytes, source: Address, destination: Address) -> None:
        """Send a datagram as far as it gets."""
        if self._swallowed(source, destination):
            return
        way = self._way(source[0], destination[0])
        stream = self._stream(data, source, destination)
        lost, late = self._fate(stream)
        if lost < way.loss:
            return
        delay = way.latency + late * way.jitter
        if self._sites[source[0]].access is not None:
            self.first_hop.setdefault((source[0], destination[0]), delay)
        due = round((trio.current_time() + delay) / TICK) * TICK
        # Never before its forerunner: jitter is a queue's, and a queue keeps the order.
        due = self._due[stream] = max(due, self._due.get(stream, due))
        self._carry(due, data, (source, destination))

    def _deliver(self) -> None:
        _, _, _, source, destination = self._in_flight[0]
        if self._swallowed(source, destination):
            heapq.heappop(self._in_flight)
        else:
            super()._deliver()

    def _swallowed(self, source: Address, destination: Address) -> bool:
        return bool(self._dark) and any(
            self._sites[host].region in self._dark for host in (source[0], destination[0])
        )

    def _way(self, source: str, destination: str) -> Link:
        way = self._ways.get((source, destination))
        if way is None:
            way = self._ways[source, destination] = _conditions(
                self._sites[source], self._sites[destination]
            )
        return way

    def _stream(self, data: bytes, source: Address, destination: Address) -> Stream:
        ours = all(self._sites[host].access is None for host in (source[0], destination[0]))
        return source, destination, data[:HEADER_BYTES] if ours else b""

    def _fate(self, stream: Stream) -> tuple[float, float]:
        index = self._indices[stream]
        self._indices[stream] += 1
        digest = blake2b(f"{self._seed} {stream} {index}".encode(), digest_size=_CHANCES.size)
        lost, late = _CHANCES.unpack(digest.digest())
        return lost / 2**32, late / 2**32


def _conditions(source: Site, destination: Site) -> Link:
    if source.access is not None:
        return internet(source.point, source.access, destination.point)
    if destination.access is not None:
        return internet(destination.point, destination.access, source.point)
    return backbone(source.point, destination.point)
