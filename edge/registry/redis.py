"""The registry of a fleet, in Redis. Keys, records, lifetimes and failures: docs/registry.md.

Redis is a cache and a claim book that others may also write to and that may be emptied at any time:

- Only sealed records count (``records``). What is forged, old, too long, of another version or of
  another Redis type is counted and passed over; our own writes replace it.
- Who is not found there is not gone yet (``listing``).
- Of any key at most ``MAX_SEALED_BYTES`` + 1 bytes are read.

A cluster has keys of its own, but for its relays: they stand beside those of every other cluster
that uses the same Redis. Clusters with a Redis of their own are ``peers``.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from edge.address import Address
from edge.errors import Drop
from edge.registry.listing import Listing, Store
from edge.registry.peers import RELAYS, PeerRelays, merge_relays
from edge.registry.protocol import (
    MAX_SLOT,
    FlowRecord,
    RegistryStatistics,
    RegistryUnavailable,
    RelayRecord,
    Slot,
    TransceiverRecord,
)
from edge.registry.records import RecordKeys
from edge.registry.redis_sessions import RedisSessions
from edge.registry.redis_worker import Command, RedisWorker

PEER_READS: Final = 6
"""How often another cluster's relays are read in one lease time."""

_CLAIM_TRIES: Final = 100


@asynccontextmanager
async def open_redis_registry(
    url: str,
    *,
    secret: str,
    previous_secret: str = "",
    cluster: int = 0,
    lease_seconds: float = 3.0,
    relay_lease_seconds: float | None = None,
    max_waiting_flows: int = 20_000,
    peer_urls: Sequence[str] = (),
) -> AsyncIterator[RedisRegistry]:
    """Hold a registry whose threads live as long as the block; leaving takes at most 3 s.

    ``peer_urls`` name the Redis of other clusters; ``relay_lease_seconds`` is ``lease_seconds``
    where it is None. Does not wait for any Redis. Raises ConfigError
    for a bad URL or secret.
    """
    keys = RecordKeys(secret, previous_secret)
    relay_lease = lease_seconds if relay_lease_seconds is None else relay_lease_seconds
    peers = [
        PeerRelays(each, keys, lease_seconds=relay_lease, interval_seconds=relay_lease / PEER_READS)
        for each in peer_urls
    ]
    worker = RedisWorker(url, max_waiting_writes=max_waiting_flows)
    registry = RedisRegistry(
        worker,
        keys,
        cluster=cluster,
        lease_seconds=lease_seconds,
        relay_lease_seconds=relay_lease,
        peers=peers,
    )
    workers = [worker, *(peer.worker for peer in peers)]
    async with trio.open_nursery() as stopping, trio.open_nursery() as reading:
        for each in workers:
            each.start()
        for peer in peers:
            reading.start_soon(peer.run)
        try:
            yield registry
        finally:
            reading.cancel_scope.cancel()
            for each in workers:
                stopping.start_soon(each.stop)


class RedisRegistry:
    """A ``Registry`` over a running ``RedisWorker``; made by ``open_redis_registry``."""

    def __init__(
        self,
        worker: RedisWorker,
        keys: RecordKeys,
        *,
        cluster: int = 0,
        lease_seconds: float = 3.0,
        relay_lease_seconds: float = 3.0,
        peers: Sequence[PeerRelays] = (),
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.drops: Counter[Drop] = Counter()
        self._cluster = cluster
        self._peers = peers
        self._worker = worker
        self._keys = keys
        self._entropy = entropy
        self._prefix = f"edge:{cluster}"
        self._store = store = Store(worker, keys, self.drops)
        self._transceivers = Listing(
            store, f"{self._prefix}:transceiver", TransceiverRecord, lease_seconds
        )
        self._relays = Listing(store, RELAYS, RelayRecord, relay_lease_seconds)
        self.sessions = RedisSessions(store, self._prefix, keys.lead_names)

    async def claim_slot(self) -> Slot:
        """Take the next number of a counter, modulo 2**24 - 1, that no living transceiver has.

        In an empty Redis the count starts at random: a count from 1 would meet the living again.
        """
        counter = f"{self._prefix}:slot"
        start = int.from_bytes(self._entropy(3), "big")
        for _ in range(_CLAIM_TRIES):
            _, count = await self._worker.call(("SET", counter, start, "NX"), ("INCR", counter))
            if not isinstance(count, int):
                self.drops[Drop.MALFORMED] += 1
                await self._worker.call(("UNLINK", counter))
                continue
            slot = Slot((count - 1) % MAX_SLOT + 1)
            (taken,) = await self._worker.call(("EXISTS", self._transceivers.name(str(slot))))
            if not taken:
                return slot
        raise RegistryUnavailable("no slot could be claimed")

    async def put_transceiver(self, record: TransceiverRecord) -> None:
        """Write or renew a transceiver."""
        await self._transceivers.put(str(record.slot), record)

    async def remove_transceiver(self, slot: Slot) -> None:
        """Put a tombstone in a transceiver's place."""
        await self._transceivers.put(str(slot), None)

    async def transceivers(self) -> Sequence[TransceiverRecord]:
        """All with a lease; RegistryUnavailable as well where nobody can renew one.

        A Redis that is full, or has become a replica, answers and takes no write: all leases run
        out together then, which proves nothing.
        """
        (reply,) = await self._worker.call(("SET", f"{self._prefix}:writable", 1, "PX", 1_000))
        if isinstance(reply, Exception):
            raise RegistryUnavailable("Redis refuses to write")
        return await self._transceivers.living()

    def next_end(self) -> float:
        """Seconds until the first transceiver's lease ends, of those that were last listed."""
        return self._transceivers.next_end()

    async def put_relay(self, record: RelayRecord) -> None:
        """Write or renew a relay; its name has at most 120 bytes."""
        await self._relays.put(f"{record.cluster}:{record.name}", record)

    async def remove_relay(self, name: str) -> None:
        """Put a tombstone in a relay's place."""
        await self._relays.put(f"{self._cluster}:{name}", None)

    async def relays(self) -> Sequence[RelayRecord]:
        """All with a lease here, and those that peers were last known to have."""
        own = await self._relays.living()
        return merge_relays(own, *(peer.relays for peer in self._peers))

    async def claim_once(self, name: str, seconds: float) -> bool:
        """Claim a name, unless somebody has; what is in the way is as good as a claim."""
        milliseconds = max(int(seconds * 1000), 1)
        command = ("SET", self._claim_name(name), 1, "NX", "PX", milliseconds)
        (reply,) = await self._worker.call(command)
        if isinstance(reply, Exception):
            raise RegistryUnavailable("Redis refuses to write")
        return reply is not None

    async def release_claim(self, name: str) -> None:
        """Give a claim back."""
        await self._worker.call(("UNLINK", self._claim_name(name)))

    def save_flow(self, record: FlowRecord, *, seconds: float) -> None:
        """Queue a flow; it is written when Redis answers, if that is before its time is over."""
        write = partial(self._flow_writes, record, time.monotonic() + seconds)
        self._worker.post((record.public, record.client), write)

    def remove_flow(self, public: Address, client: Address) -> None:
        """Queue a flow's removal."""
        self._worker.post((public, client), partial(self._flow_removal, public, client))

    async def find_flow(self, public: Address, client: Address) -> FlowRecord | None:
        """Look a flow up, by the current secret and by the previous."""
        for lease in await self._store.read(self._flow_names(public, client), FlowRecord):
            if lease is not None and lease.record is not None:
                return lease.record
        return None

    def statistics(self) -> RegistryStatistics:
        """Count; operations and failures are those of our own Redis."""
        peers = [peer.statistics() for peer in self._peers]
        drops = sum((Counter(one.drops) for one in peers), self.drops.copy())
        return replace(
            self._worker.statistics(drops),
            peers=len(peers),
            peers_up=sum(one.up for one in peers),
        )

    def _claim_name(self, name: str) -> str:
        return f"{self._prefix}:claim:{name}"

    def _flow_names(self, public: Address, client: Address) -> list[str]:
        return [f"{self._prefix}:flow:{name}" for name in self._keys.flow_names(public, client)]

    def _flow_writes(self, record: FlowRecord, until: float) -> Sequence[Command]:
        # Runs in the worker's thread.
        seconds = until - time.monotonic()
        if seconds < 0.001:
            return ()
        name = self._flow_names(record.public, record.client)[0]
        return (self._store.write(name, record, seconds),)

    def _flow_removal(self, public: Address, client: Address) -> Sequence[Command]:
        return (("UNLINK", *self._flow_names(public, client)),)
