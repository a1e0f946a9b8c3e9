"""Whom a relay can send to: the transceivers of its cluster, and the relays of others.

The forwarder is told of each. A hop that is gone leaves its flows to heirs, chosen by path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, NamedTuple, Protocol

import trio

from edge.address import Address
from edge.forwarder.protocol import FIRST_PEER, Forwarder
from edge.registry.heirs import able, heir
from edge.registry.protocol import RelayRecord, Slot, TransceiverRecord
from edge.relay_peers import Peers
from edge.routing import FlowTable, Heir
from edge.wire.spp import Path

HASHES_A_STEP: Final = 1_024
"""Of a walk over the flows of a hop that is gone, each a microsecond or two."""


class Fleet(Protocol):
    """What a relay must know of the others, at once and without asking anybody."""

    @property
    def transceivers(self) -> Sequence[TransceiverRecord]:
        """The living transceivers of our cluster."""

    @property
    def relays(self) -> Sequence[RelayRecord]:
        """The living relays of all clusters."""

    def watch(self, changed: Callable[[], None]) -> AbstractContextManager[None]:
        """Have ``changed`` called now and whenever somebody has come, moved or gone."""

    def hint_stale(self) -> None:
        """Ask for an early refresh."""


class Hop(NamedTuple):
    """What the forwarder is told of a hop."""

    address: Address
    group: int
    public: Address | None


class Hops:
    """The living hops of a relay by number, and the gone whose flows have no heir yet."""

    def __init__(self, forwarder: Forwarder, fleet: Fleet, cluster: int) -> None:
        self.known: dict[int, Hop] = {}
        self.peers = Peers(cluster)
        self._forwarder = forwarder
        self._fleet = fleet
        self._heirs: tuple[Slot, ...] = ()
        self._gone: set[int] = set()
        self._met = trio.Event()

    def meet(self) -> None:
        """Tell the forwarder who has come, moved or gone."""
        hops = {int(one.slot): Hop(one.address, one.slot, None) for one in self._fleet.transceivers}
        for hop, cluster, peer in self.peers.meet(self._fleet.relays):
            hops[hop] = Hop(peer.internal, FIRST_PEER + cluster, peer.proxy)
        for hop in self.known.keys() - hops.keys():
            self._forwarder.remove_hop(hop)
        for hop, (address, group, public) in hops.items() - self.known.items():
            self._forwarder.set_hop(hop, address, group=group, public=public)
        self._gone = (self._gone | self.known.keys()) - hops.keys()
        self.known = hops
        self._heirs = able(self._fleet.transceivers)
        self._met.set()

    def heir(self, path: Path) -> int:
        """Choose who is asked for a client whose transceiver is gone; 0 if nobody is there.

        Rendezvous hashing by path: the relay does not know the session. Who is asked finds it.
        """
        return heir(path, self._heirs) or 0

    async def bury(self, flows: FlowTable) -> None:
        """Give the flows of the gone to their heirs, whenever somebody has come or gone."""
        while True:
            await self._met.wait()
            self._met = trio.Event()
            for hop in tuple(self._gone):
                await self._bury(hop, flows)

    async def _bury(self, hop: int, flows: FlowTable) -> None:
        """Do so for one hop, at once but in bounded steps.

        Where nobody is left to inherit they wait for one to come: a relay of that cluster, or a
        transceiver.
        """
        choose, candidates = self._heirs_of(hop)
        if not candidates:
            return
        self._gone.discard(hop)
        places = max(1, HASHES_A_STEP // candidates)
        cursor = flows.drop_hop(hop, choose, places=places)
        while cursor:
            await trio.lowlevel.checkpoint()
            cursor = flows.drop_hop(hop, choose, cursor=cursor, places=places)

    def _heirs_of(self, hop: int) -> tuple[Heir, int]:
        """Who inherits from a hop, by path, and among how many he is chosen."""
        if hop < FIRST_PEER:
            return self.heir, len(self._heirs)
        cluster = self.peers.cluster_of(hop)
        return partial(self.peers.choose, cluster), self.peers.count(cluster)
