"""A fleet on the planet's network: the real relays and transceivers of a deployment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from edge.address import Address
from edge.backends.echo import Echo
from edge.config import RelayConfig, TransceiverConfig
from edge.errors import Drop
from edge.forwarder.pure import PureForwarder
from edge.registry.directory import Directory
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RelayRecord, TransceiverRecord
from edge.relay import Relay
from edge.routing import FlowTable
from edge.token import TokenKey, TokenSealer
from edge.transceiver.environment import Environment
from edge.transceiver.service import Transceiver
from edge.webrtc.certificate import DtlsCertificate
from planet_sim.deployment import Cluster, Deployment
from planet_sim.geography import REGIONS
from planet_sim.network import PlanetNetwork, Site
from planet_sim.signaling import Desk

UNIX_OFFSET: Final = 1_800_000_000.0
HEARTBEAT_SECONDS: Final = 0.5
PUBLIC_PORT: Final = 3478
INTERNAL_PORT: Final = 7000
RELAY_NET: Final = "198.18"
TRANSCEIVER_NET: Final = "198.19"

_REGION_NAMES: Final = tuple(REGIONS)


def region_of(host: str) -> str:
    """Tell in which region a relay or transceiver stands."""
    return _REGION_NAMES[int(host.split(".")[2])]


def _unix() -> float:
    return trio.current_time() + UNIX_OFFSET


class World:
    """All clusters of a deployment. ``build`` starts them in the caller's nursery."""

    def __init__(self, network: PlanetNetwork, certificate: DtlsCertificate) -> None:
        self.network = network
        self.desks: list[Desk] = []
        self._relays: list[Relay] = []
        self._cluster_of_region: dict[str, int] = {}
        self._certificate = certificate
        self._sealer = TokenSealer(TokenKey.derive("every relay of the planet knows this"))

    async def build(self, deployment: Deployment, nursery: trio.Nursery) -> None:
        """Start everything; it runs until the nursery is cancelled."""
        first = MemoryRegistry(cluster=deployment.clusters[0].number, clock=trio.current_time)
        for cluster in deployment.clusters:
            alone = cluster is deployment.clusters[0]
            registry = first if alone else first.beside(cluster.number)
            await _Builder(self, cluster, registry, nursery).build(deployment.transceivers)

    def cluster_of(self, relay_host: str) -> int:
        """Tell to which cluster a relay belongs."""
        return self._cluster_of_region[region_of(relay_host)]

    def drops(self) -> dict[str, int]:
        """Count what all relays have dropped."""
        total: Counter[Drop] = Counter()
        for relay in self._relays:
            total.update(relay.statistics().drops)
        return {drop.value: count for drop, count in sorted(total.items())}


class _Builder:
    """Starts one cluster."""

    def __init__(
        self, world: World, cluster: Cluster, registry: MemoryRegistry, nursery: trio.Nursery
    ) -> None:
        self._world = world
        self._cluster = cluster
        self._registry = registry
        self._nursery = nursery
        self._directory = Directory(registry, cluster=cluster.number)

    async def build(self, transceivers: int) -> None:
        await self._nursery.start(self._directory.run)
        for region in self._cluster.relays:
            self._world._cluster_of_region[region] = self._cluster.number
            self._world._relays.append(await self._start_relay(region))
        for region in self._cluster.transceivers:
            desk = [await self._start_transceiver(region, number) for number in range(transceivers)]
            self._world.desks.append(Desk(region, self._cluster.number, desk))

    async def _start_relay(self, region: str) -> Relay:
        host = self._settle(RELAY_NET, region, 0)
        network, settings = self._world.network, RelayConfig()
        public, internal = (host, PUBLIC_PORT), (host, INTERNAL_PORT)
        forwarder = PureForwarder(
            network.packets(public),
            network.packets(internal),
            advertised=public,
            stale=self._directory.hint_stale,
            strangers_per_second=settings.strangers_per_second,
            max_flows=settings.max_flows,
            clock=trio.current_time,
        )
        relay = Relay(
            forwarder,
            public=public,
            flows=FlowTable.configured(forwarder.flows, settings),
            sealer=self._world._sealer,
            cluster=self._cluster.number,
            fleet=self._directory,
            registry=self._registry,
            unix=_unix,
        )
        record = self._relay_record(region, public, internal)
        await self._keep(region, partial(self._registry.put_relay, record))
        await self._nursery.start(relay.run)
        return relay

    def _relay_record(self, region: str, public: Address, internal: Address) -> RelayRecord:
        return RelayRecord(
            name=region,
            cluster=self._cluster.number,
            public=public,
            internal=internal,
            region=region,
            latitude=REGIONS[region].latitude,
            longitude=REGIONS[region].longitude,
        )

    async def _start_transceiver(self, region: str, number: int) -> Transceiver:
        address = self._settle(TRANSCEIVER_NET, region, number), INTERNAL_PORT
        slot = await self._registry.claim_slot()
        service = Transceiver(
            self._world.network.socket(address),
            slot=slot,
            cluster=self._cluster.number,
            sealer=self._world._sealer,
            directory=self._directory,
            backend=Echo(),
            certificate=self._world._certificate,
            config=TransceiverConfig(max_sessions=100_000),
            environment=Environment(clock=trio.current_time, unix=_unix, entropy=os.urandom),
        )
        record = TransceiverRecord(
            slot=slot, cluster=self._cluster.number, address=address, http_url=""
        )
        await self._keep(region, partial(self._registry.put_transceiver, record))
        await self._nursery.start(service.run)
        return service

    def _settle(self, net: str, region: str, number: int) -> str:
        host = f"{net}.{_REGION_NAMES.index(region)}.{number + 1}"
        self._world.network.settle(host, Site(REGIONS[region], region=region))
        return host

    async def _keep(self, region: str, put: Callable[[], Awaitable[None]]) -> None:
        """Renew a lease for as long as the registry can be reached from the region."""
        await put()

        async def renew() -> None:
            while not self._world.network.is_dark(region):
                await trio.sleep(HEARTBEAT_SECONDS)
                await put()

        self._nursery.start_soon(renew)
