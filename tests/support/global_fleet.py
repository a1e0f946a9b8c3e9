"""Two regions as processes over one Redis: each a cluster with two relays and two transceivers.

A member has fixed UDP ports and is kept by us as a supervisor would: killed, and started again with
the same command line. Calls go from every region to every other: half of them enter at a relay of
their own cluster, half at one of the other, which hands them on to a relay of theirs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from typing import Final

import trio

from edge.address import Address, parse_address
from edge.client import Load, LoadClient
from edge.registry.records import RecordKeys
from tests.support.edges import FLEET_ENV, free_udp_port, metric, wait_ready
from tests.support.processes import FLEET_SECRET, Edge, edge

CLUSTERS: Final = (1, 2)
PLACES: Final = {1: ("paris", 48.9, 2.4), 2: ("sydney", -33.9, 151.2)}
"""Region, latitude and longitude of each cluster's relays."""
KNOWN_SECONDS: Final = 10.0
KEYS: Final = RecordKeys(FLEET_SECRET)


class Member:
    """A process that can be killed and started again."""

    def __init__(self, nursery: trio.Nursery, flags: Sequence[str], env: Mapping[str, str]) -> None:
        self._nursery = nursery
        self._flags = flags
        self._env = env
        self._edge: Edge | None = None
        self._ended = trio.Event()

    @property
    def http(self) -> str:
        """Base URL of its signaling, another one after each start."""
        assert self._edge is not None
        return self._edge.http

    @property
    def udp(self) -> Address:
        """Its UDP address: of a relay the public one."""
        assert self._edge is not None
        return parse_address(self._edge.udp)

    async def start(self) -> None:
        """Start it and wait for its ready line."""
        await self._nursery.start(self._live)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._edge is not None
        await self._edge.child.kill()
        self._ended.set()

    async def restart(self) -> float:
        """Kill it and start it at once; gives the seconds until it was ready again."""
        killed_at = trio.current_time()
        await self.kill()
        await self.start()
        return trio.current_time() - killed_at

    async def _live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        ended = self._ended = trio.Event()
        async with edge(*self._flags, env=self._env) as self._edge:
            task_status.started()
            await ended.wait()

    def end(self) -> None:
        """Ask it to leave, as a supervisor that stops does."""
        self._ended.set()


@dataclass(frozen=True, slots=True)
class Region:
    """One cluster."""

    cluster: int
    relays: tuple[Member, ...]
    transceivers: tuple[Member, ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """All processes."""
        return self.relays + self.transceivers


@dataclass(frozen=True, slots=True)
class GlobalFleet:
    """All regions."""

    regions: tuple[Region, ...]

    @property
    def relays(self) -> tuple[Member, ...]:
        """The relays of all regions."""
        return tuple(relay for region in self.regions for relay in region.relays)

    @property
    def members(self) -> tuple[Member, ...]:
        """All processes."""
        return tuple(member for region in self.regions for member in region.members)

    async def wait_known(self, *, seconds: float = KNOWN_SECONDS) -> None:
        """Wait until every member knows all relays."""
        with trio.fail_after(seconds):
            for member in self.members:
                while await metric(member.http, "edge_directory_relays") != len(self.relays):
                    await trio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Way:
    """A transceiver of one region, and a relay of the same or another one to reach it by."""

    home: Region
    transceiver: Member
    entered: Region
    entry: Member

    @property
    def crosses(self) -> bool:
        """True when it leads through two relays."""
        return self.home is not self.entered


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its way."""

    client: LoadClient
    way: Way

    @property
    def records(self) -> list[str]:
        """Names of its flow records: of the relay that it enters at, and of the inner one if any.

        These two may be in different clusters; both know the call by its outer addresses.
        """
        client = "127.0.0.1", self.client.port
        name, *_ = KEYS.flow_names(self.way.entry.udp, client)
        clusters = {self.way.entered.cluster, self.way.home.cluster}
        return [f"edge:{cluster}:flow:{name}" for cluster in clusters]


@asynccontextmanager
async def global_fleet(
    registry_url: str, *, size: int = 2, env: Mapping[str, str] | None = None
) -> AsyncGenerator[GlobalFleet]:
    """Run two regions with ``size`` relays and as many transceivers each, which know each other.

    ``env`` is added to the environment of all.
    """
    async with trio.open_nursery() as nursery:
        regions = [_region(nursery, registry_url, cluster, size, env or {}) for cluster in CLUSTERS]
        fleet = GlobalFleet(tuple(regions))
        try:
            async with trio.open_nursery() as starting:
                for member in fleet.members:
                    starting.start_soon(member.start)
            for region in regions:
                for transceiver in region.transceivers:
                    await wait_ready(transceiver.http)
            await fleet.wait_known()
            yield fleet
        finally:
            for member in fleet.members:
                member.end()


def _region(
    nursery: trio.Nursery, registry_url: str, cluster: int, size: int, env: Mapping[str, str]
) -> Region:
    name, latitude, longitude = PLACES[cluster]
    common = {**FLEET_ENV, "EDGE_REGISTRY_CLUSTER": str(cluster), **env}
    place = {
        "EDGE_RELAY_REGION": name,
        "EDGE_RELAY_LATITUDE": str(latitude),
        "EDGE_RELAY_LONGITUDE": str(longitude),
    }
    flags = ("--registry", registry_url, "--http", "127.0.0.1:0")
    return Region(
        cluster,
        tuple(
            Member(nursery, ("relay", *flags, *_ports()), {**common, **place}) for _ in range(size)
        ),
        tuple(Member(nursery, ("transceiver", *flags), common) for _ in range(size)),
    )


def _ports() -> tuple[str, ...]:
    """Fixed ports, so that a relay can be started again on them."""
    public, internal = free_udp_port(), free_udp_port()
    return "--udp", f"127.0.0.1:{public}", "--internal", f"127.0.0.1:{internal}"


async def open_call(load: Load, way: Way) -> Call:
    """Open a call; gives it when ICE and DTLS are done."""
    return Call(await load.open_call(way.transceiver.http, enter=way.entry.udp), way)


async def open_calls(load: Load, fleet: GlobalFleet, count: int) -> list[Call]:
    """Open calls at all transceivers through all relays in turn."""
    ways = _ways(fleet)
    return [await open_call(load, ways[number % len(ways)]) for number in range(count)]


def _ways(fleet: GlobalFleet) -> list[Way]:
    """All ways; the first four are those between all regions."""
    size = range(len(fleet.regions[0].relays))
    return [
        Way(home, home.transceivers[transceiver], entered, entered.relays[relay])
        for transceiver, relay in product(size, size)
        for home, entered in product(fleet.regions, fleet.regions)
    ]
