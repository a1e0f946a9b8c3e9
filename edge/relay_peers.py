"""The relays of other clusters, as hops of ours.

Any of them may send to us. Which one a client's datagrams go to follows from its path alone, so
that every relay of ours chooses the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from edge.address import format_address
from edge.forwarder.protocol import FIRST_PEER
from edge.registry.protocol import RelayListener, RelayRecord
from edge.rendezvous import weigh
from edge.wire.spp import Path


class Peers:
    """The relays of other clusters, each with the hop number that it keeps while we live."""

    def __init__(self, cluster: int) -> None:
        self._own_cluster = cluster
        self._numbers = count(FIRST_PEER)
        self._hops: dict[tuple[int, str], int] = {}
        self._clusters: dict[int, int] = {}
        self._living: dict[int, dict[int, RelayRecord]] = {}

    def meet(self, relays: Iterable[RelayRecord]) -> list[tuple[int, int, RelayListener]]:
        """Take note of the living relays; returns our peers' listeners: hop, cluster, listener.

        Any of them may send to us; we send new clients' datagrams to the first of a relay.
        """
        self._living = {}
        met: list[tuple[int, int, RelayListener]] = []
        for relay in relays:
            if relay.cluster == self._own_cluster:
                continue
            first = self._hop(relay.cluster, relay.name)
            self._living.setdefault(relay.cluster, {})[first] = relay
            met.append((first, relay.cluster, relay.listeners[0]))
            for listener in relay.more:
                hop = self._hop(relay.cluster, format_address(listener.internal))
                met.append((hop, relay.cluster, listener))
        return met

    def cluster_of(self, hop: int) -> int:
        """The cluster of a peer, living or gone."""
        return self._clusters[hop]

    def count(self, cluster: int) -> int:
        """How many relays of a cluster are there."""
        return len(self._living.get(cluster, ()))

    def choose(self, cluster: int, path: Path) -> int:
        """Choose the relay of a cluster for a client: rendezvous hashing; 0 if there is none.

        Every relay of ours chooses the same one, and when one goes only its clients move.
        """
        peers = self._living.get(cluster, {})
        return max(peers, key=lambda hop: weigh(peers[hop].name, path), default=0)

    def _hop(self, cluster: int, name: str) -> int:
        hop = self._hops.get((cluster, name))
        if hop is None:
            hop = self._hops[cluster, name] = next(self._numbers)
            self._clusters[hop] = cluster
        return hop
