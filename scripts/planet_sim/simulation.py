"""One run: a deployment, the calls, and the outage in the middle of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Final

import trio

from edge.webrtc.certificate import DtlsCertificate
from planet_sim.calls import PlannedCall, Times
from planet_sim.deployment import Deployment
from planet_sim.network import PlanetNetwork, Site
from planet_sim.phone import Phone
from planet_sim.results import Row, Summary, make_row, summarize
from planet_sim.signaling import Desk, post_offer
from planet_sim.world import World, region_of
from tests.support.clock import VirtualClock
from tests.support.net import open_network

CLIENT_PORT: Final = 50_000


@dataclass(slots=True)
class Ringing:
    """One call while it lasts."""

    planned: PlannedCall
    phone: Phone
    desk: Desk | None = None


@dataclass(slots=True)
class Simulation:
    """What runs; ``dark`` is the region of the outage."""

    world: World
    times: Times
    dark: str
    certificate: DtlsCertificate
    ringing: list[Ringing] = field(default_factory=list)

    async def call(self, planned: PlannedCall) -> None:
        """Make one call from its start to its end."""
        await trio.sleep_until(planned.start)
        network = self.world.network
        network.settle(planned.host, Site(planned.city.point, access=planned.access))
        socket = network.socket((planned.host, CLIENT_PORT))
        one = Ringing(planned, Phone(socket, self.certificate, self.times))
        self.ringing.append(one)
        posted = await post_offer(network, self.world.desks, planned, one.phone.offer)
        if posted is not None:
            one.desk = posted.desk
            await one.phone.talk(posted.answer)
        socket.close()

    async def go_dark(self) -> None:
        """Let the outage come."""
        await trio.sleep_until(self.times.outage)
        self.world.network.darken(self.dark)
        for one in self.ringing:
            one.phone.note_outage()

    def rows(self) -> list[Row]:
        """Judge every call, in the order of their numbers."""
        ordered = sorted(self.ringing, key=lambda one: one.planned.number)
        return [self._row(one) for one in ordered]

    def _row(self, one: Ringing) -> Row:
        seen = one.phone.experience
        hops = self.world.network.first_hop
        return make_row(
            one.planned,
            seen,
            self.times,
            first_hop=hops.get((one.planned.host, seen.relay), nan),
            region_of=region_of,
            through_peer=self._is_through_peer(one.desk, seen.relay),
            session_region="" if one.desk is None else one.desk.region,
            dark=self.dark,
        )

    def _is_through_peer(self, desk: Desk | None, relay: str) -> bool:
        return desk is not None and bool(relay) and self.world.cluster_of(relay) != desk.cluster


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run."""

    deployment: Deployment
    dark: str
    rows: list[Row]
    summary: Summary


def simulate(
    deployment: Deployment, *, calls: Sequence[PlannedCall], times: Times, dark: str, seed: int
) -> Outcome:
    """Run it on a clock of its own, which jumps to whatever is next."""
    return trio.run(_simulate, deployment, calls, times, dark, seed, clock=VirtualClock())


async def _simulate(
    deployment: Deployment, calls: Sequence[PlannedCall], times: Times, dark: str, seed: int
) -> Outcome:
    network = PlanetNetwork(seed=seed)
    certificate = DtlsCertificate.generate()
    world = World(network, certificate)
    simulation = Simulation(world, times, dark, certificate)
    async with open_network(network=network), trio.open_nursery() as fleet:
        await world.build(deployment, fleet)
        fleet.start_soon(simulation.go_dark)
        async with trio.open_nursery() as callers:
            for planned in calls:
                callers.start_soon(simulation.call, planned)
        fleet.cancel_scope.cancel()
    rows = simulation.rows()
    summary = summarize(deployment.name, rows, datagrams=network.datagrams, drops=world.drops())
    return Outcome(deployment, dark, rows, summary)
